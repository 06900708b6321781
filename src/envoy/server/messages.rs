//! The messages of one client-streaming call, one after the other.

use std::pin::Pin;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body;
use tonic::Status;

use super::grpc::{HEAD_BYTES, length, next_data};

/// Reads messages of at most so many bytes each. Holds at most one message and one frame.
pub(super) struct Messages<B> {
    body: Pin<Box<B>>,
    buffer: BytesMut,
    bytes_max: usize,
}

impl<B: Body<Data = Bytes>> Messages<B> {
    pub(super) fn of(body: B, bytes_max: usize) -> Self {
        Self { body: Box::pin(body), buffer: BytesMut::new(), bytes_max }
    }

    /// The next message; `None` at the end of the stream. May be dropped while it waits.
    ///
    /// # Errors
    /// A message is compressed, too long or cut, or the stream broke.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match next_data(self.body.as_mut()).await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("the call ended in the middle of a message")),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(length) = length(&self.buffer)? else { return Ok(None) };
        if length > self.bytes_max {
            let bytes_max = self.bytes_max;
            return Err(Status::out_of_range(format!("the message has {length} bytes, the limit is {bytes_max}")));
        }
        let whole = length.saturating_add(HEAD_BYTES);
        if self.buffer.len() < whole {
            self.buffer.reserve(whole.saturating_sub(self.buffer.len()));
            return Ok(None);
        }
        let mut message = self.buffer.split_to(whole);
        message.advance(HEAD_BYTES);
        Ok(Some(message.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use proptest::prelude::*;

    use super::*;

    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    fn read(frames: &[&[u8]], bytes_max: usize) -> (Vec<Bytes>, Option<tonic::Code>) {
        let frames = frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
        let mut messages = Messages::of(Frames(frames), bytes_max);
        let mut out = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        loop {
            match runtime.block_on(messages.next()) {
                Ok(Some(message)) => out.push(message),
                Ok(None) => return (out, None),
                Err(status) => return (out, Some(status.code())),
            }
        }
    }

    #[test]
    fn each_message_is_exact_and_limited() {
        let two = [&b"\0\0\0\0\x03abc\0\0\0\0\0"[..]];
        assert_eq!(read(&two, 3), (vec![Bytes::from_static(b"abc"), Bytes::new()], None));
        assert_eq!(read(&[], 3), (vec![], None));
        assert_eq!(read(&[b"\0\0\0\0\x04abcd"], 3), (vec![], Some(tonic::Code::OutOfRange)));
        assert_eq!(
            read(&[b"\0\xff\xff\xff\xff"], 3),
            (vec![], Some(tonic::Code::OutOfRange)),
            "before the rest has come"
        );
        assert_eq!(read(&[b"\0\0\0\0\x03ab"], 3), (vec![], Some(tonic::Code::Internal)));
        assert_eq!(read(&[b"\0\0"], 3), (vec![], Some(tonic::Code::Internal)));
        assert_eq!(read(&[b"\x01\0\0\0\x01a"], 3), (vec![], Some(tonic::Code::Unimplemented)), "compressed");
    }

    proptest! {
        #[test]
        fn frames_may_be_cut_anywhere(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut framed = Vec::new();
            for message in &messages {
                framed.push(0);
                framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                framed.extend(message);
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(framed.len().saturating_add(1))).collect();
            at.extend([0, framed.len()]);
            at.sort_unstable();
            let frames: Vec<&[u8]> = at.windows(2).map(|pair| &framed[pair[0]..pair[1]]).collect();
            let expected: Vec<Bytes> = messages.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(read(&frames, 40), (expected, None));
        }
    }
}
