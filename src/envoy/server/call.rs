//! One gRPC call: decoding, the deadline, panics. Everything but Check goes to the router of tonic.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::HeaderMap;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, UnaryService};
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tonic_prost::ProstCodec;

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

type Answer = Result<http::Response<Body>, Infallible>;

impl<C: Check> hyper::service::Service<http::Request<Incoming>> for Calls<C> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let received = Instant::now();
        if request.uri().path() == CHECK_PATH {
            let inner = Arc::clone(&self.inner);
            Box::pin(async move { Ok(check(&inner, request, received).await) })
        } else {
            Box::pin(self.others.clone().call(request))
        }
    }
}

async fn check<C, B>(inner: &Arc<Inner<C>>, request: http::Request<B>, received: Instant) -> http::Response<Body>
where
    C: Check,
    B: http_body::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    let meta = CallMeta { received, grpc_timeout: grpc_timeout(request.headers()) };
    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(inner.message_bytes_max);
    let answer = grpc.unary(Unary { inner, meta }, request);
    // The deadline covers the reading of the message too: a peer that stops in the middle does not hold memory.
    let deadline = meta.grpc_timeout.and_then(|timeout| received.checked_add(timeout));
    match deadline {
        None => answer.await,
        Some(deadline) => match timeout_at(deadline, answer).await {
            Ok(response) => response,
            Err(_) => tonic::Status::deadline_exceeded("the deadline of the call has passed").into_http(),
        },
    }
}

struct Unary<'a, C> {
    inner: &'a Arc<Inner<C>>,
    meta: CallMeta,
}

impl<C: Check> UnaryService<CheckRequest> for Unary<'_, C> {
    type Response = CheckResponse;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<CheckResponse>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let (inner, meta) = (Arc::clone(self.inner), self.meta);
        Box::pin(async move {
            let answer = unwind(inner.check.check(request.into_inner(), meta)).await.unwrap_or_else(|_| {
                (inner.observer)(Event::CheckPanicked);
                tracing::error!("the handler of a check panicked; the call was refused");
                inner.check.panicked()
            });
            Ok(tonic::Response::new(answer))
        })
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

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_kept_even_if_the_caller_does_not_cancel() {
        let observer: Observer = Arc::new(|_| {});
        let inner = Arc::new(Inner { check: Never, message_bytes_max: 100, observer });
        // The head of a gRPC message of no bytes: an empty CheckRequest.
        let message = Body::new("\0\0\0\0\0".to_owned());
        let request = http::Request::builder().header("grpc-timeout", "198m").body(message).unwrap();
        let received = Instant::now();
        let response = check(&inner, request, received).await;
        assert_eq!(received.elapsed(), Duration::from_millis(198));
        assert_eq!(response.headers()["grpc-status"], "4");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_covers_a_message_that_never_ends() {
        let observer: Observer = Arc::new(|_| {});
        let inner = Arc::new(Inner { check: Never, message_bytes_max: 100, observer });
        let request = http::Request::builder().header("grpc-timeout", "1S").body(Body::new(Endless)).unwrap();
        let response = check(&inner, request, Instant::now()).await;
        assert_eq!(response.headers()["grpc-status"], "4");
    }

    struct Endless;

    impl http_body::Body for Endless {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
            Poll::Pending
        }
    }
}
