//! Streams of responses: for each message of Envoy's one answer, in order, for as long as the response lasts.
//!
//! A stream that ends well tells Envoy to let the rest of the response pass unseen. So it ends well only where Envoy has ended
//! it; every other end is an error, upon which Envoy cuts the response off.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use mcp_authz_core::trace::TraceContext;
use prost::Message as _;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::call::unwind;
use super::grpc::{GRPC_STATUS, OK, framed};
use super::messages::Messages;
use super::{Check, Event, Observer, Process, Room, Settings};
use crate::envoy::wire::process::ProcessingRequest;

/// What streams of all connections share.
pub(super) struct Streams {
    message_bytes_max: usize,
    places: Semaphore,
    /// How long a stream may go on after draining has begun.
    patience: Duration,
    observer: Observer,
    draining: watch::Receiver<bool>,
}

/// Long enough for most responses; what then still runs must not use up the time that Checks have to end.
pub(super) fn patience(settings: &Settings) -> Duration {
    settings.drain.checked_div(2).unwrap_or_default()
}

impl Streams {
    pub(super) fn new(settings: &Settings, observer: Observer, draining: watch::Receiver<bool>) -> Self {
        Self {
            message_bytes_max: settings.process_message_bytes_max,
            places: Semaphore::new(settings.process_streams_max.min(Semaphore::MAX_PERMITS)),
            patience: patience(settings),
            observer,
            draining,
        }
    }

    /// Answers until Envoy ends the stream.
    ///
    /// # Errors
    /// A message cannot be read, its handling failed, or draining takes too long.
    pub(super) async fn run<B>(
        &self,
        check: &impl Check,
        body: B,
        sender: Sender,
        trace: Option<TraceContext>,
    ) -> Result<(), Status>
    where
        B: Body<Data = Bytes>,
    {
        let place = self.places.try_acquire();
        let mut process = check.process(if place.is_ok() { Room::Given } else { Room::None }, trace);
        let mut messages = Messages::of(body, self.message_bytes_max);
        // One for the whole stream: patience that began anew with each message would never end.
        let mut over = std::pin::pin!(self.is_over());
        loop {
            let message = tokio::select! {
                biased;
                () = &mut over => return Err(Status::unavailable("mcp-authz stops")),
                message = messages.next() => message?,
            };
            let Some(message) = message else { return Ok(()) };
            let request = ProcessingRequest::decode(message);
            let request = request.map_err(|_| Status::internal("the message is no ProcessingRequest"))?;
            let Ok(answer) = unwind(process.answer(request)).await else {
                (self.observer)(Event::ResponsePanicked);
                return Err(Status::internal("the response could not be judged"));
            };
            let Some(frame) = framed(&answer?) else { return Err(Status::internal("cannot encode the answer")) };
            sender.send(frame).await;
            // Checks of the same thread come first, however much is streamed.
            tokio::task::yield_now().await;
        }
    }

    async fn is_over(&self) {
        let mut draining = self.draining.clone();
        if draining.wait_for(|draining| *draining).await.is_ok() {
            sleep(self.patience).await;
        }
    }
}

/// What one connection carries.
///
/// Calls that were let go may still run when we stop, and their responses are yet to come. So a connection that carries nothing
/// else stays open for a while; one for Checks does not, because every Check that it takes is another call.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    has_checks: AtomicBool,
    has_responses: AtomicBool,
    open: AtomicUsize,
}

impl Traffic {
    pub(super) fn check(&self) {
        self.has_checks.store(true, Ordering::Relaxed);
    }

    /// Counts a response as open until the answer is dropped.
    pub(super) fn response(self: &Arc<Self>) -> Open {
        self.has_responses.store(true, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Ready when the connection may end: at once, or once it has been without responses for a while, or after `patience`.
    pub(super) async fn is_done(&self, patience: Duration) {
        /// How long no response must come. Calls that take longer to answer are lost.
        const QUIET: Duration = Duration::from_secs(1);
        const STEP: Duration = Duration::from_millis(50);
        if self.has_checks.load(Ordering::Relaxed) || !self.has_responses.load(Ordering::Relaxed) {
            return;
        }
        let began = Instant::now();
        let mut last = began;
        while began.elapsed() < patience && last.elapsed() < QUIET {
            sleep(STEP).await;
            if self.open.load(Ordering::Relaxed) > 0 {
                last = Instant::now();
            }
        }
    }
}

/// A response that is open on a connection.
pub(super) struct Open(Arc<Traffic>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where the work on a stream puts each frame for the connection.
#[derive(Clone, Default)]
pub(super) struct Sender(Arc<Mutex<Option<Bytes>>>);

impl Sender {
    /// Waits until the frame is taken. Nobody needs to be woken: whoever takes it polls the work, too.
    async fn send(&self, frame: Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(frame);
        poll_fn(|_| if self.lock_is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn lock_is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type Work = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// The body of an answer that is made while it is read.
pub(super) struct Stream {
    frames: Sender,
    work: Work,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new<W>(work: impl FnOnce(Sender) -> W) -> Self
    where
        W: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let frames = Sender::default();
        let work = Box::pin(work(frames.clone()));
        Self { frames, work }
    }

    /// The next frame, or the trailers, after which there is nothing more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Frame<Bytes>> {
        let polled = self.work.as_mut().poll(cx);
        if let Some(frame) = self.frames.take() {
            // The work waits for this, or has ended; it is polled again at the next turn.
            return Poll::Ready(Frame::data(frame));
        }
        polled.map(|ended| Frame::trailers(trailers(ended.err())))
    }
}

fn trailers(failure: Option<Status>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    let written = failure.is_none_or(|status| status.add_header(&mut trailers).is_ok());
    if trailers.is_empty() {
        // A status that cannot be written must not pass for success.
        let code = if written { OK } else { http::HeaderValue::from_static("13") };
        trailers.insert(GRPC_STATUS, code);
    }
    trailers
}
