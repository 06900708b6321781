//! One gRPC call: decoding, the deadline, panics. Everything but Check, access logs and responses goes to the router of tonic.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use hyper::body::Incoming;
use mcp_authz_core::trace::TraceContext;
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use super::grpc::{Reply, read_message, reply, respond};
use super::messages::Messages;
use super::process::{Stream, Streams, Traffic};
use super::{Answered, CallMeta, Check, Event, Observer, Settings};
use crate::envoy::wire::log::{LOG_PATH, LogEntries, LogEntry, LogMessage, LogReply};
use crate::envoy::wire::process::PROCESS_PATH;
use crate::envoy::wire::{CHECK_PATH, CheckRequest};

/// Dispatches the calls of all connections; a clone for each.
pub(super) struct Calls<C> {
    inner: Arc<Inner<C>>,
    others: Routes,
    traffic: Arc<Traffic>,
}

struct Inner<C> {
    check: C,
    message_bytes_max: usize,
    log_message_bytes_max: usize,
    log_entries_max: usize,
    log_places: Semaphore,
    streams: Streams,
    observer: Observer,
    draining: watch::Receiver<bool>,
}

impl<C> Clone for Calls<C> {
    fn clone(&self) -> Self {
        let (inner, others) = (Arc::clone(&self.inner), self.others.clone());
        Self { inner, others, traffic: Arc::clone(&self.traffic) }
    }
}

impl<C: Check> Calls<C> {
    pub(super) fn new(
        check: C,
        health: HealthService,
        settings: &Settings,
        observer: Observer,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let others = Routes::new(HealthServer::new(health)).prepare();
        Self { inner: Arc::new(Inner::new(check, settings, observer, draining)), others, traffic: Arc::default() }
    }

    /// The calls of another connection, and what is known of them.
    pub(super) fn of_connection(&self) -> (Self, Arc<Traffic>) {
        let traffic = Arc::default();
        (Self { traffic: Arc::clone(&traffic), ..self.clone() }, traffic)
    }
}

type Answer = Result<http::Response<Reply>, Infallible>;

impl<C: Check> hyper::service::Service<http::Request<Incoming>> for Calls<C> {
    type Response = http::Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let received = Instant::now();
        if request.uri().path() == CHECK_PATH {
            let inner = Arc::clone(&self.inner);
            self.traffic.check();
            let grpc_timeout = grpc_timeout(request.headers());
            let meta = CallMeta { received, grpc_timeout, trace: inner.trace(request.headers()) };
            let body = request.into_body();
            Box::pin(async move { Ok(inner.call(body, meta).await) })
        } else if request.uri().path() == LOG_PATH {
            let inner = Arc::clone(&self.inner);
            let body = request.into_body();
            Box::pin(async move { Ok(inner.log(body).await) })
        } else if request.uri().path() == PROCESS_PATH {
            let inner = Arc::clone(&self.inner);
            let trace = inner.trace(request.headers());
            let body = request.into_body();
            // The head of the answer leaves at once; the work goes on as its body is read.
            let open = self.traffic.response();
            let work = move |sender| async move {
                let _open = open;
                inner.streams.run(&inner.check, body, sender, trace).await
            };
            Box::pin(async move { Ok(respond(Reply::Stream(Stream::new(work)))) })
        } else {
            let answer = self.others.clone().call(request);
            Box::pin(async move { answer.await.map(|response| response.map(Reply::Other)) })
        }
    }
}

impl<C: Check> Inner<C> {
    fn new(check: C, settings: &Settings, observer: Observer, draining: watch::Receiver<bool>) -> Self {
        Self {
            check,
            message_bytes_max: settings.message_bytes_max,
            log_message_bytes_max: settings.log_message_bytes_max,
            log_entries_max: settings.log_entries_max,
            log_places: Semaphore::new(settings.log_streams_max.min(Semaphore::MAX_PERMITS)),
            streams: Streams::new(settings, Arc::clone(&observer), draining.clone()),
            observer,
            draining,
        }
    }

    /// The caller's place in its trace. A second `traceparent` leaves open which of them counts, and so neither does.
    fn trace(&self, headers: &HeaderMap) -> Option<TraceContext> {
        if !self.check.wants_traces() {
            return None;
        }
        let mut values = headers.get_all("traceparent").iter();
        let context = TraceContext::parse(values.next()?.as_bytes());
        if values.next().is_some() { None } else { context }
    }

    /// Takes what Envoy logs until it ends the stream, or until we stop: Envoy then opens another elsewhere.
    async fn log(&self, body: impl Body<Data = Bytes>) -> http::Response<Reply> {
        let Ok(_place) = self.log_places.try_acquire() else {
            (self.observer)(Event::LogStreamRefused);
            return Status::resource_exhausted("too many streams of access logs").into_http();
        };
        let mut messages = Messages::of(body, self.log_message_bytes_max);
        let mut draining = self.draining.clone();
        loop {
            let message = tokio::select! {
                biased;
                _ = draining.wait_for(|draining| *draining) => break,
                message = messages.next() => message,
            };
            match message {
                Ok(Some(message)) => {
                    let taken = catch_unwind(AssertUnwindSafe(|| self.take(message)));
                    if taken.is_err() {
                        (self.observer)(Event::CheckPanicked);
                    }
                }
                Ok(None) => break,
                Err(status) => return status.into_http(),
            }
            // Checks of the same thread come first, however much is logged.
            tokio::task::yield_now().await;
        }
        reply(&LogReply {}, None)
    }

    fn take(&self, message: Bytes) {
        let logs = LogMessage::decode(message).and_then(|message| LogEntries::decode(message.http_logs));
        let Ok(LogEntries { log_entry }) = logs else { return self.check.log_lost(1) };
        let too_many = log_entry.len().saturating_sub(self.log_entries_max);
        let mut lost = too_many;
        for entry in log_entry.into_iter().take(self.log_entries_max) {
            match LogEntry::decode(entry) {
                Ok(entry) => self.check.logged(&entry),
                Err(_) => lost = lost.saturating_add(1),
            }
        }
        if lost > 0 {
            self.check.log_lost(u64::try_from(lost).unwrap_or(u64::MAX));
        }
    }

    async fn call(&self, body: impl Body<Data = Bytes>, meta: CallMeta) -> http::Response<Reply> {
        // The deadline covers the reading of the message too: a peer that stops in the middle does not hold memory.
        let answer = match meta.grpc_timeout.and_then(|timeout| meta.received.checked_add(timeout)) {
            None => self.answer(body, meta).await,
            Some(deadline) => match timeout_at(deadline, self.answer(body, meta)).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded("the deadline of the call has passed")),
            },
        };
        match answer {
            Ok(Answered { response, owed }) => reply(&response, owed),
            Err(status) => status.into_http(),
        }
    }

    async fn answer(&self, body: impl Body<Data = Bytes>, meta: CallMeta) -> Result<Answered, Status> {
        let message = read_message(body, self.message_bytes_max).await?;
        let request = CheckRequest::decode(message).map_err(|_| Status::internal("the message is no CheckRequest"))?;
        let answer = unwind(self.check.check(request, meta)).await;
        Ok(answer.unwrap_or_else(|_| {
            (self.observer)(Event::CheckPanicked);
            self.check.panicked().into()
        }))
    }
}

/// Turns a panic of the future into an error. The future is not polled again afterwards.
pub(super) async fn unwind<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Reads `grpc-timeout`: up to eight digits and a unit. Anything else counts as absent, as in tonic.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => count.checked_mul(3600).map(Duration::from_secs),
        "M" => count.checked_mul(60).map(Duration::from_secs),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_the_deadline_header_is_read_and_nonsense_is_none() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&headers)
        };
        for (text, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("198m", Duration::from_millis(198)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "1x", "+1S", "-1S", "1.5S", "123456789S", " 1S"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    struct Never;

    impl Check for Never {
        async fn check(&self, _: CheckRequest, _: CallMeta) -> Answered {
            std::future::pending().await
        }
    }

    #[test]
    fn the_context_of_a_call_is_left_alone_where_nobody_wants_it() {
        let inner = Inner::new(Never, &Settings::default(), Arc::new(|_| {}), watch::channel(false).1);
        let mut headers = HeaderMap::new();
        let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert("traceparent", value.parse().unwrap());
        assert!(TraceContext::parse(value.as_bytes()).is_some());
        assert_eq!(inner.trace(&headers), None);
    }

    async fn call(body: impl Body<Data = Bytes>, timeout: Duration) -> (http::Response<Reply>, Duration) {
        let settings = Settings { message_bytes_max: 100, ..Settings::default() };
        let inner = Inner::new(Never, &settings, Arc::new(|_| {}), watch::channel(false).1);
        let received = Instant::now();
        let response = inner.call(body, CallMeta { received, grpc_timeout: Some(timeout), trace: None }).await;
        (response, received.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_kept_even_if_the_caller_does_not_cancel() {
        let timeout = Duration::from_millis(198);
        // The head of a gRPC message of no bytes: an empty CheckRequest.
        let (response, elapsed) = call(Reply::Message(Bytes::from_static(b"\0\0\0\0\0"), None), timeout).await;
        assert_eq!((&response.headers()["grpc-status"], elapsed), (&"4".parse().unwrap(), timeout));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_covers_a_message_that_never_ends() {
        let timeout = Duration::from_secs(1);
        let (response, elapsed) = call(Endless, timeout).await;
        assert_eq!((&response.headers()["grpc-status"], elapsed), (&"4".parse().unwrap(), timeout));
    }

    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
            Poll::Pending
        }
    }
}
