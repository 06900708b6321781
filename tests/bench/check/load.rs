//! A closed loop of Checks over a few HTTP/2 connections, as cheap as can be: the sender must not be the bottleneck.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use mcp_authz::envoy::server::Endpoint;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Envoy opens one connection for each of its workers.
const CONNECTIONS: usize = 2;

/// A call is in a trace that Envoy records, one of so many; 0 for none, and then Envoy traces nothing.
pub(crate) type SampledOf = usize;

/// Open connections to one server.
pub(crate) struct Load {
    senders: Vec<SendRequest<Bytes>>,
    sampled_of: SampledOf,
    /// Ends the connections with this value.
    _connections: JoinSet<()>,
}

impl Load {
    pub(crate) async fn connect(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let (mut senders, mut connections) = (Vec::new(), JoinSet::new());
        for _ in 0..CONNECTIONS {
            senders.push(match endpoint {
                Endpoint::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    open(stream, &mut connections).await?
                }
                Endpoint::Unix(path) => open(UnixStream::connect(path).await?, &mut connections).await?,
            });
        }
        Ok(Self { senders, sampled_of: 0, _connections: connections })
    }

    /// As an Envoy that traces, and records one call of so many.
    pub(crate) fn traced(self, sampled_of: SampledOf) -> Self {
        Self { sampled_of, ..self }
    }

    /// Sends `count` Checks with `in_flight` of them open at any time, and returns how long each took, sorted.
    pub(crate) async fn run(&self, message: &Bytes, count: usize, in_flight: usize) -> anyhow::Result<Vec<Duration>> {
        let left = Arc::new(AtomicUsize::new(count));
        let (mut tasks, sampled_of) = (JoinSet::new(), self.sampled_of);
        for (number, sender) in (0..in_flight).zip(self.senders.iter().cycle()) {
            let (left, sender, message) = (Arc::clone(&left), sender.clone(), message.clone());
            tasks.spawn(async move {
                let mut times = Vec::with_capacity(count / in_flight * 2);
                let next = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                while let Ok(this) = next() {
                    let begun = Instant::now();
                    let answer = call(sender.clone(), message.clone(), traceparent(this, sampled_of)).await?;
                    times.push(begun.elapsed());
                    if number == 0 {
                        ensure!(is_ok(&answer), "the answer is not OK");
                    }
                }
                anyhow::Ok(times)
            });
        }
        let mut times = Vec::with_capacity(count);
        while let Some(finished) = tasks.join_next().await {
            times.extend(finished??);
        }
        times.sort_unstable();
        Ok(times)
    }
}

/// Whether a CheckResponse lets the request pass.
fn is_ok(message: &Bytes) -> bool {
    use prost::Message as _;
    let answer = message.get(5..).and_then(|message| mcp_authz::envoy::wire::CheckResponse::decode(message).ok());
    answer.and_then(|answer| answer.status).is_some_and(|status| status.code == 0)
}

async fn open<S>(stream: S, connections: &mut JoinSet<()>) -> anyhow::Result<SendRequest<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .handshake(stream)
        .await?;
    connections.spawn(async move { drop(connection.await) });
    Ok(sender.ready().await?)
}

/// A gRPC message: a flag, the length, the bytes.
pub(crate) fn frame(message: &[u8]) -> anyhow::Result<Bytes> {
    let length = u32::try_from(message.len()).context("too long for gRPC")?;
    Ok([&[0][..], &length.to_be_bytes(), message].concat().into())
}

/// What Envoy puts into the metadata of the call with this number.
fn traceparent(number: usize, sampled_of: SampledOf) -> Option<String> {
    let sampled = number.checked_rem(sampled_of)? == 0;
    Some(format!("00-{:032x}-{:016x}-0{}", number + 1, number + 1, u8::from(sampled)))
}

async fn call(mut sender: SendRequest<Bytes>, message: Bytes, traceparent: Option<String>) -> anyhow::Result<Bytes> {
    let mut request = http::Request::post("http://authz/envoy.service.auth.v3.Authorization/Check")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "10000m")
        .header("x-envoy-internal", "true")
        .header("x-forwarded-for", "10.1.2.3")
        .header("x-envoy-expected-rq-timeout-ms", "10000")
        .body(())?;
    if let Some(traceparent) = traceparent {
        request.headers_mut().insert("traceparent", traceparent.parse()?);
    }
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    stream.send_data(message, true)?;
    let mut body = response.await?.into_body();
    let mut answer = Bytes::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        answer = data;
    }
    let trailers = body.trailers().await?.context("no trailers")?;
    if trailers.get("grpc-status").is_none_or(|status| status != "0") {
        bail!("gRPC status {:?}", trailers.get("grpc-status"));
    }
    Ok(answer)
}
