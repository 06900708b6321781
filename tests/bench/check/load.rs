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

/// Open connections to one server.
pub(crate) struct Load {
    senders: Vec<SendRequest<Bytes>>,
    /// Of so many Checks one is sampled; `None` sends no trace context at all.
    sampled: Option<usize>,
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
        Ok(Self { senders, sampled: None, _connections: connections })
    }

    /// With a trace context on each Check, of which one in `sampled` is recorded.
    pub(crate) fn with_traces(self, sampled: usize) -> Self {
        Self { sampled: Some(sampled), ..self }
    }

    /// Sends `count` Checks with `in_flight` of them open at any time, and returns how long each took, sorted.
    pub(crate) async fn run(&self, message: &Bytes, count: usize, in_flight: usize) -> anyhow::Result<Vec<Duration>> {
        let left = Arc::new(AtomicUsize::new(count));
        let mut tasks = JoinSet::new();
        for (number, sender) in (0..in_flight).zip(self.senders.iter().cycle()) {
            let (left, sender, message) = (Arc::clone(&left), sender.clone(), message.clone());
            let sampled = self.sampled;
            tasks.spawn(async move {
                let mut times = Vec::with_capacity(count / in_flight * 2);
                while let Ok(turn) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                {
                    let begun = Instant::now();
                    let trace = sampled.map(|sampled| if turn % sampled == 0 { SAMPLED } else { UNSAMPLED });
                    let answer = call(sender.clone(), message.clone(), trace).await?;
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

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

async fn call(mut sender: SendRequest<Bytes>, message: Bytes, trace: Option<&'static str>) -> anyhow::Result<Bytes> {
    let mut request = http::Request::post("http://authz/envoy.service.auth.v3.Authorization/Check")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "10000m")
        .header("x-envoy-internal", "true")
        .header("x-forwarded-for", "10.1.2.3")
        .header("x-envoy-expected-rq-timeout-ms", "10000")
        .body(())?;
    if let Some(trace) = trace {
        request.headers_mut().insert("traceparent", http::HeaderValue::from_static(trace));
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
