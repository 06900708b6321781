//! The servers that are compared.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use envoy_types::ext_authz::v3::CheckResponseExt as _;
use envoy_types::ext_authz::v3::pb::{Authorization, AuthorizationServer, CheckRequest, CheckResponse};
use mcp_authz::envoy::server::{Answered, CallMeta, Check, Endpoint, Server, Settings};
use mcp_authz::envoy::wire;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// tonic and envoy-types on a runtime for each core, sizes as ours: the yardstick.
pub(crate) const NULL: &str = "null";
/// tonic and envoy-types as they come: the multi-threaded runtime and the default sizes.
pub(crate) const NULL_DEFAULT: &str = "null-default";
/// Our server with a handler that always answers OK: the plumbing alone.
pub(crate) const PLUMBING: &str = "plumbing";

/// A collector of telemetry that reads everything and keeps nothing.
pub(crate) const COLLECTOR: &str = "collector";

/// Runs a server until the input ends, with its endpoints written to the output.
pub(crate) fn run(kind: &str, endpoints: &[&str]) -> anyhow::Result<()> {
    let endpoints = endpoints.iter().map(|text| Ok(text.parse()?)).collect::<anyhow::Result<Vec<Endpoint>>>()?;
    std::thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(0);
    });
    match kind {
        NULL => null_per_core(&endpoints),
        NULL_DEFAULT => Builder::new_multi_thread().enable_all().build()?.block_on(null_default(&endpoints)),
        COLLECTOR => Builder::new_current_thread().enable_all().build()?.block_on(collector(&endpoints)),
        PLUMBING => Builder::new_current_thread().enable_all().build()?.block_on(plumbing(&endpoints)),
        _ => bail!("unknown server `{kind}`"),
    }
}

fn announce(endpoints: &[Endpoint]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    endpoints.iter().try_for_each(|endpoint| writeln!(out, "{endpoint}"))
}

struct AlwaysOk;

#[tonic::async_trait]
impl Authorization for AlwaysOk {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse::with_status(Status::ok(""))))
    }
}

impl Check for AlwaysOk {
    async fn check(&self, _: wire::CheckRequest, _: CallMeta) -> Answered {
        let status = Some(wire::Status { code: 0, message: String::new() });
        wire::CheckResponse { status, http_response: None, dynamic_metadata: None }.into()
    }
}

async fn plumbing(endpoints: &[Endpoint]) -> anyhow::Result<()> {
    let server = Server::bind(endpoints, None, Settings::default(), Arc::new(|_| {})).await?;
    announce(server.endpoints())?;
    server.serve(AlwaysOk, std::future::pending()).await?;
    Ok(())
}

/// Both listeners, and the endpoints as bound.
async fn listen(endpoints: &[Endpoint]) -> anyhow::Result<(TcpListener, UnixListener)> {
    let [Endpoint::Tcp(address), Endpoint::Unix(path)] = endpoints else { bail!("one TCP and one Unix endpoint") };
    let (tcp, unix) = (TcpListener::bind(address).await?, UnixListener::bind(path)?);
    announce(&[Endpoint::Tcp(tcp.local_addr()?), Endpoint::Unix(path.clone())])?;
    Ok((tcp, unix))
}

async fn null_default(endpoints: &[Endpoint]) -> anyhow::Result<()> {
    let (tcp, unix) = listen(endpoints).await?;
    let server = || tonic::transport::Server::builder().add_service(AuthorizationServer::new(AlwaysOk));
    tokio::try_join!(
        server().serve_with_incoming(TcpIncoming::from(tcp).with_nodelay(Some(true))),
        server().serve_with_incoming(UnixListenerStream::new(unix)),
    )?;
    Ok(())
}

/// The same arrangement as ours: one accepting thread, connections dealt out to single-threaded runtimes.
fn null_per_core(endpoints: &[Endpoint]) -> anyhow::Result<()> {
    let workers = Settings::default().workers.get();
    let (tcp, unix): (Vec<_>, Vec<_>) = (0..workers).map(|_| null_worker()).unzip();
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (tcp_listener, unix_listener) = listen(endpoints).await?;
        let accept_tcp = async {
            for worker in tcp.iter().cycle() {
                let (stream, _) = tcp_listener.accept().await?;
                stream.set_nodelay(true)?;
                worker.send(stream.into_std()?).ok().context("a worker has ended")?;
            }
            anyhow::Ok(())
        };
        let accept_unix = async {
            for worker in unix.iter().cycle() {
                let (stream, _) = unix_listener.accept().await?;
                worker.send(stream.into_std()?).ok().context("a worker has ended")?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(accept_tcp, accept_unix)?;
        Ok(())
    })
}

type Handover<T> = mpsc::UnboundedSender<T>;

/// Starts a thread that serves what it is handed.
fn null_worker() -> (Handover<std::net::TcpStream>, Handover<std::os::unix::net::UnixStream>) {
    use tokio_stream::StreamExt as _;
    let (tcp, tcp_incoming) = mpsc::unbounded_channel();
    let (unix, unix_incoming) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let tcp = UnboundedReceiverStream::new(tcp_incoming).map(TcpStream::from_std);
            let unix = UnboundedReceiverStream::new(unix_incoming).map(UnixStream::from_std);
            tokio::try_join!(null_serve(tcp), null_serve(unix)).map(|_| ()).map_err(std::io::Error::other)
        })
    });
    (tcp, unix)
}

fn null_serve<IO>(
    incoming: impl tokio_stream::Stream<Item = std::io::Result<IO>>,
) -> impl Future<Output = Result<(), tonic::transport::Error>>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static,
{
    let service = AuthorizationServer::new(AlwaysOk).max_decoding_message_size(2 * 1024 * 1024);
    tonic::transport::Server::builder()
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_frame_size(128 * 1024)
        .max_concurrent_streams(8192)
        .add_service(service)
        .serve_with_incoming(incoming)
}

/// Takes every export over gRPC.
async fn collector(endpoints: &[Endpoint]) -> anyhow::Result<()> {
    let Some(Endpoint::Tcp(address)) = endpoints.first() else { bail!("the collector listens on TCP") };
    let listener = TcpListener::bind(address).await?;
    let bound = Endpoint::Tcp(listener.local_addr()?);
    announce(&[bound.clone(), bound])?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await?;
            while let Some(export) = connection.accept().await {
                let (request, respond) = export?;
                tokio::spawn(take_export(request, respond));
            }
            anyhow::Ok(())
        });
    }
}

async fn take_export(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
) -> anyhow::Result<()> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut out = respond.send_response(head, false)?;
    // A message of no bytes.
    out.send_data(bytes::Bytes::from_static(&[0; 5]), false)?;
    let trailers = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))];
    out.send_trailers(trailers.into_iter().collect())?;
    Ok(())
}
