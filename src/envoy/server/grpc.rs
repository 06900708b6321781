//! The framing of gRPC calls, by hand: one message in, one message and the trailers out. Streams are in
//! `messages.rs` and `process.rs`.
//!
//! tonic's own does the same for every kind of call; it copies each message into a growing buffer, boxes the answer and
//! moves large futures about, which together cost as much as decoding the request. Here a message that arrived in one
//! frame is decoded where it lies. Errors, health and everything else stay tonic's.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use prost::Message;
use tonic::Status;

use super::Owed;
use super::process::Stream;

/// Flag and length before a message.
pub(super) const HEAD_BYTES: usize = 5;

/// Room that most answers fit into.
const ANSWER_BYTES: usize = 1024;

const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const OK: HeaderValue = HeaderValue::from_static("0");

/// Reads the one message of a unary call, up to the end of the stream.
///
/// # Errors
/// The message is compressed, longer than `bytes_max`, cut, followed by another, or the stream broke.
pub(super) async fn read_message<B>(body: B, bytes_max: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut message = Bytes::new();
    // The usual case has one turn: the whole message lies in one frame and is not copied.
    let mut gathered = BytesMut::new();
    while let Some(data) = next_data(body.as_mut()).await? {
        if message.is_empty() && gathered.is_empty() {
            message = data;
        } else {
            gather(&mut gathered, &message, bytes_max)?;
            message = Bytes::new();
            gathered.put(data);
        }
        let seen: &[u8] = if gathered.is_empty() { &message } else { &gathered };
        check_length(seen, bytes_max)?;
        if body.is_end_stream() {
            break;
        }
    }
    if !gathered.is_empty() {
        message = gathered.freeze();
    }
    if length(&message)?.is_none_or(|length| length != message.len().saturating_sub(HEAD_BYTES)) {
        return Err(Status::internal("the call ended in the middle of its message"));
    }
    message.advance(HEAD_BYTES);
    Ok(message)
}

/// Moves what came first into the buffer, which is made large enough for the whole message at once.
fn gather(gathered: &mut BytesMut, first: &Bytes, bytes_max: usize) -> Result<(), Status> {
    if gathered.is_empty() {
        let room = length(first)?.unwrap_or_default().min(bytes_max).saturating_add(HEAD_BYTES);
        gathered.reserve(room.max(first.len()));
        gathered.put_slice(first);
    }
    Ok(())
}

/// The data of the next frame; trailers of a request mean nothing to us.
pub(super) async fn next_data<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) -> Result<Option<Bytes>, Status> {
    loop {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                Ok(_) | Err(_) => {}
            },
            Some(Err(_)) => return Err(Status::cancelled("the stream broke")),
        }
    }
}

/// The length that the head of a message tells, if the head is complete.
pub(super) fn length(seen: &[u8]) -> Result<Option<usize>, Status> {
    match seen {
        [0, a, b, c, d, ..] => {
            let length = u32::from_be_bytes([*a, *b, *c, *d]);
            Ok(Some(usize::try_from(length).unwrap_or(usize::MAX)))
        }
        [0, ..] | [] => Ok(None),
        _ => Err(Status::unimplemented("compressed messages are not supported")),
    }
}

/// Refuses before the rest has arrived.
fn check_length(seen: &[u8], bytes_max: usize) -> Result<(), Status> {
    let Some(length) = length(seen)? else { return Ok(()) };
    if length > bytes_max {
        return Err(Status::out_of_range(format!("the message has {length} bytes, the limit is {bytes_max}")));
    }
    if seen.len().saturating_sub(HEAD_BYTES) > length {
        return Err(Status::internal("more than one message in a unary call"));
    }
    Ok(())
}

/// The successful answer with this message. What is owed is told as soon as the connection takes the message over, and
/// dropped if it never does.
pub(super) fn reply(message: &impl Message, owed: Option<Box<dyn Owed>>) -> http::Response<Reply> {
    match framed(message) {
        Some(framed) => respond(Reply::Message(framed, owed)),
        None => Status::internal("cannot encode the answer").into_http(),
    }
}

/// The head of an answer of ours before its body.
pub(super) fn respond(body: Reply) -> http::Response<Reply> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, CONTENT);
    response
}

/// A message and what stands before it on the wire. `None` for one of 4 GiB, which is never made: encoding fails for want of
/// room only, and a vector grows.
pub(super) fn framed(message: &impl Message) -> Option<Bytes> {
    // A plain vector: pushing a byte to one is an instruction or two, to the other buffers a call. The length of the
    // message is filled in afterwards, because computing it takes another walk over all of it.
    let mut framed = Vec::with_capacity(ANSWER_BYTES);
    framed.extend_from_slice(&[0; HEAD_BYTES]);
    message.encode(&mut framed).ok()?;
    let length = u32::try_from(framed.len().checked_sub(HEAD_BYTES)?).ok()?;
    framed.get_mut(1..HEAD_BYTES)?.copy_from_slice(&length.to_be_bytes());
    Some(framed.into())
}

/// The body of an answer.
#[derive(Debug, Default)]
pub(super) enum Reply {
    /// Nothing more.
    #[default]
    End,
    /// A framed message, then the trailers.
    Message(Bytes, Option<Box<dyn Owed>>),
    /// An answer that tonic made.
    Other(tonic::body::Body),
    /// Messages that are made one after the other, then the trailers.
    Stream(Stream),
    /// The trailers of success.
    Trailers,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        match me {
            Self::End => Poll::Ready(None),
            Self::Message(bytes, owed) => {
                let frame = Frame::data(std::mem::take(bytes));
                if let Some(owed) = owed.take() {
                    owed.sent();
                }
                *me = Self::Trailers;
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Other(body) => Pin::new(body).poll_frame(cx),
            Self::Stream(stream) => {
                let polled = stream.poll(cx);
                if matches!(&polled, Poll::Ready(frame) if frame.is_trailers()) {
                    *me = Self::End;
                }
                polled.map(|frame| Some(Ok(frame)))
            }
            Self::Trailers => {
                *me = Self::End;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, OK);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::End => true,
            Self::Message(..) | Self::Stream(_) | Self::Trailers => false,
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // No exact size: a gRPC answer has no `content-length`.
            Self::End | Self::Message(..) | Self::Stream(_) | Self::Trailers => SizeHint::default(),
            Self::Other(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A body of these frames; the flag tells whether the end is known with the last one.
    struct Frames(VecDeque<Bytes>, bool);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }

        fn is_end_stream(&self) -> bool {
            self.1 && self.0.is_empty()
        }
    }

    fn read(frames: &[&[u8]], bytes_max: usize) -> Result<Bytes, tonic::Code> {
        let run = |known| {
            let body = Frames(frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect(), known);
            let mut future = pin!(read_message(body, bytes_max));
            match future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
                Poll::Ready(outcome) => outcome.map_err(|status| status.code()),
                Poll::Pending => panic!("the frames are all there"),
            }
        };
        let outcome = run(true);
        assert_eq!(outcome, run(false), "the end may be known early or late");
        outcome
    }

    #[test]
    fn a_message_in_one_frame_is_not_copied() {
        let frame = Bytes::from_static(b"\0\0\0\0\x03abc");
        let future = pin!(read_message(Frames([frame.clone()].into(), true), 3));
        let polled = future.poll(&mut Context::from_waker(std::task::Waker::noop()));
        let Poll::Ready(Ok(message)) = polled else { panic!("ready") };
        assert_eq!(message.as_ptr(), frame[5..].as_ptr());
    }

    #[test]
    fn the_length_is_exact_and_limited() {
        assert_eq!(read(&[b"\0\0\0\0\0"], 0), Ok(Bytes::new()));
        assert_eq!(read(&[b"\0\0\0\0\x03abc"], 3), Ok(Bytes::from_static(b"abc")));
        assert_eq!(read(&[b"\0\0\0\0\x04abcd"], 3), Err(tonic::Code::OutOfRange));
        assert_eq!(read(&[b"\0\xff\xff\xff\xff"], 3), Err(tonic::Code::OutOfRange), "before the rest has come");
        assert_eq!(read(&[b"\0\0\0\0\x03ab"], 3), Err(tonic::Code::Internal));
        assert_eq!(read(&[b"\0\0\0\0\x03abcd"], 9), Err(tonic::Code::Internal));
        assert_eq!(read(&[b"\0\0\0\0\x01a", b"\0\0\0\0\x01b"], 9), Err(tonic::Code::Internal), "two messages");
        assert_eq!(read(&[], 9), Err(tonic::Code::Internal));
        assert_eq!(read(&[b"\0\0\0"], 9), Err(tonic::Code::Internal));
        assert_eq!(read(&[b"\x01\0\0\0\x01a"], 9), Err(tonic::Code::Unimplemented), "compressed");
    }

    #[test]
    fn an_answer_reads_back_and_ends_with_trailers_of_success() {
        let sent = crate::envoy::wire::CheckResponse::refused(403);
        let mut response = reply(&sent, None);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.body().size_hint().exact(), None, "no content-length");
        let mut next = || {
            let polled = Pin::new(response.body_mut()).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
            let Poll::Ready(frame) = polled else { panic!("ready") };
            frame.map(Result::unwrap)
        };
        let data = next().unwrap().into_data().unwrap();
        assert_eq!(next().unwrap().into_trailers().unwrap()["grpc-status"], "0");
        assert!(next().is_none());
        assert_eq!(Message::decode(read(&[&data], 1000).unwrap()), Ok(sent));
    }

    /// Tells whether it was kept or given up.
    #[derive(Debug)]
    struct Debt(std::sync::Arc<std::sync::Mutex<Vec<&'static str>>>);

    impl Owed for Debt {
        fn sent(self: Box<Self>) {
            self.0.lock().unwrap().push("sent");
        }
    }

    impl Drop for Debt {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("dropped");
        }
    }

    #[test]
    fn what_is_owed_is_told_when_the_message_leaves_and_not_before() {
        let told = std::sync::Arc::default();
        let answer = || {
            reply(&crate::envoy::wire::CheckResponse::refused(403), Some(Box::new(Debt(std::sync::Arc::clone(&told)))))
        };
        drop(answer());
        assert_eq!(
            std::mem::take(&mut *told.lock().unwrap()),
            ["dropped"],
            "the stream was gone before the message left"
        );
        let mut response = answer();
        assert!(told.lock().unwrap().is_empty());
        let polled = Pin::new(response.body_mut()).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Some(Ok(_)))));
        assert_eq!(std::mem::take(&mut *told.lock().unwrap()), ["sent", "dropped"]);
        drop(response);
        assert!(told.lock().unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn frames_may_be_cut_anywhere(
            message in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut framed = vec![0];
            framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            framed.extend(&message);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(framed.len())).collect();
            at.extend([0, framed.len()]);
            at.sort_unstable();
            let frames: Vec<&[u8]> = at.windows(2).map(|pair| &framed[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&frames, message.len()), Ok(Bytes::from(message)));
        }

        #[test]
        fn no_frames_make_it_panic_or_exceed_the_limit(
            frames in proptest::collection::vec(proptest::collection::vec(0_u8..8, 0..12), 0..6),
        ) {
            let frames: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
            if let Ok(message) = read(&frames, 10) {
                prop_assert!(message.len() <= 10);
            }
        }
    }
}
