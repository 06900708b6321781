//! One gRPC call: decoding, the deadline, panics. Everything but Check goes to the router of tonic.

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
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use super::grpc::{Reply, read_message, reply};
use super::{CallMeta, Check, Event, Observer};
use crate::envoy::wire::{CHECK_PATH, CheckRequest, CheckResponse};

/// Dispatches the calls of all connections.
pub(super) struct Calls<C> {
    inner: Arc<Inner<C>>,
    others: Routes,
}

struct Inner<C> {
    check: C,
    message_bytes_max: usize,
    observer: Observer,
}

impl<C> Clone for Calls<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), others: self.others.clone() }
    }
}

impl<C: Check> Calls<C> {
    pub(super) fn new(check: C, health: HealthService, message_bytes_max: usize, observer: Observer) -> Self {
        let others = Routes::new(HealthServer::new(health)).prepare();
        Self { inner: Arc::new(Inner { check, message_bytes_max, observer }), others }
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
            let timeout = grpc_timeout(request.headers());
            let body = request.into_body();
            Box::pin(async move { Ok(inner.call(body, CallMeta { received, grpc_timeout: timeout }).await) })
        } else {
            let answer = self.others.clone().call(request);
            Box::pin(async move { answer.await.map(|response| response.map(Reply::Other)) })
        }
    }
}

impl<C: Check> Inner<C> {
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
            Ok(response) => reply(&response),
            Err(status) => status.into_http(),
        }
    }

    async fn answer(&self, body: impl Body<Data = Bytes>, meta: CallMeta) -> Result<CheckResponse, Status> {
        let message = read_message(body, self.message_bytes_max).await?;
        let request = CheckRequest::decode(message).map_err(|_| Status::internal("the message is no CheckRequest"))?;
        let answer = unwind(self.check.check(request, meta)).await;
        Ok(answer.unwrap_or_else(|_| {
            (self.observer)(Event::CheckPanicked);
            self.check.panicked()
        }))
    }
}

/// Turns a panic of the future into an error. The future is not polled again afterwards.
async fn unwind<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
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
        async fn check(&self, _: CheckRequest, _: CallMeta) -> CheckResponse {
            std::future::pending().await
        }
    }

    async fn call(body: impl Body<Data = Bytes>, timeout: Duration) -> (http::Response<Reply>, Duration) {
        let inner = Inner { check: Never, message_bytes_max: 100, observer: Arc::new(|_| {}) };
        let received = Instant::now();
        let response = inner.call(body, CallMeta { received, grpc_timeout: Some(timeout) }).await;
        (response, received.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_kept_even_if_the_caller_does_not_cancel() {
        let timeout = Duration::from_millis(198);
        // The head of a gRPC message of no bytes: an empty CheckRequest.
        let (response, elapsed) = call(Reply::Message(Bytes::from_static(b"\0\0\0\0\0")), timeout).await;
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
