//! Worker threads: each has its own single-threaded runtime and serves whole connections.

use std::io;
use std::pin::{self, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{net, os, thread};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic_health::server::HealthService;

use super::call::Calls;
use super::process::patience;
use super::{Check, Drained, Event, Observer, Settings};
use crate::envoy::tls::{Refusal, Tls};

/// Connections that may wait for a worker to take them over; accepting waits when it is full.
const HANDOVER_MAX: usize = 64;

/// Bytes that the peer may send on one stream before we have read them: a body of 64 KiB never waits for us.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes that the peer may send on all streams of a connection before we have read them.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// A message of 64 KiB arrives in one frame.
const FRAME_BYTES_MAX: u32 = 128 * 1024;

/// Streams on one connection, beside those of responses. Far above Envoy's circuit breaker (1024 by default): a refused stream would be a Check
/// that failed without a word, while the engine answers overload with a readable denial.
const STREAMS_MAX: u32 = 8192;

/// Streams that the peer may reset before we looked at them. Envoy resets every Check that timed out while we were
/// starved of CPU; closing its connection for that would fail the living ones too.
const RESET_STREAMS_MAX: usize = 8192;

/// An idle connection is asked for a sign of life so often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// And is closed if it gives none for so long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connected socket that no runtime knows yet.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(net::TcpStream),
    Unix(os::unix::net::UnixStream),
}

/// A connection on its way to a worker, with its place among the connections allowed.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) place: OwnedSemaphorePermit,
}

/// What all connections share.
pub(super) struct Shared<C> {
    calls: Calls<C>,
    http2: http2::Builder<TokioExecutor>,
    tls: Option<Arc<Tls>>,
    handshake_timeout: Duration,
    observer: Observer,
    draining: watch::Receiver<bool>,
    /// How long a connection that carries responses alone may stay open after draining has begun.
    patience: Duration,
}

/// Responses above the limit are refused by an answer, so the transport has room for as many again.
fn streams_max(settings: &Settings) -> u32 {
    let responses = u32::try_from(settings.process_streams_max).unwrap_or(u32::MAX);
    responses.saturating_mul(2).saturating_add(STREAMS_MAX)
}

impl<C: Check> Shared<C> {
    pub(super) fn new(
        check: C,
        health: HealthService,
        settings: &Settings,
        tls: Option<Arc<Tls>>,
        observer: Observer,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(streams_max(settings))
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_header_list_size(settings.metadata_bytes_max)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let calls = Calls::new(check, health, settings, Arc::clone(&observer), draining.clone());
        let (handshake_timeout, patience) = (settings.handshake_timeout, patience(settings));
        Self { calls, http2, tls, handshake_timeout, observer, draining, patience }
    }

    async fn serve(&self, connection: Connection) {
        let Connection { socket, place } = connection;
        match self.open(socket).await {
            Ok(Some(Stream::Tcp(stream))) => self.serve_http2(stream).await,
            Ok(Some(Stream::Tls(stream))) => self.serve_http2(*stream).await,
            Ok(Some(Stream::Unix(stream))) => self.serve_http2(stream).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a connection could not be taken over"),
        }
        drop(place);
        (self.observer)(Event::ConnectionClosed);
    }

    /// Registers the socket with this thread's runtime and does the TLS handshake; `None` if it was refused.
    async fn open(&self, socket: Socket) -> io::Result<Option<Stream>> {
        let stream = match socket {
            Socket::Unix(stream) => return UnixStream::from_std(stream).map(Stream::Unix).map(Some),
            Socket::Tcp(stream) => TcpStream::from_std(stream)?,
        };
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Some(Stream::Tcp(stream))) };
        let handshake = TlsAcceptor::from(tls.config()).accept(stream);
        let refusal = match timeout(self.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => return Ok(Some(Stream::Tls(Box::new(stream)))),
            Ok(Err(error)) => Refusal::of(&error),
            Err(_) => Refusal::Timeout,
        };
        (self.observer)(Event::HandshakeRefused(refusal));
        Ok(None)
    }

    async fn serve_http2(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let begun = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Watched { stream, missing: OPENING_BYTES, begun: Arc::clone(&begun) });
        let (calls, traffic) = self.calls.of_connection();
        let mut connection = pin!(self.http2.serve_connection(io, calls));
        let mut draining = self.draining.clone();
        let mut last_call = pin!(async {
            if draining.wait_for(|draining| *draining).await.is_ok() {
                traffic.is_done(self.patience).await;
            }
        });
        let mut patience = pin!(sleep(self.handshake_timeout));
        let (mut watching, mut stopping) = (true, false);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended by an error");
                    }
                    return;
                }
                () = last_call.as_mut(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = patience.as_mut(), if watching => {
                    watching = false;
                    if !begun.load(Ordering::Relaxed) {
                        (self.observer)(Event::ConnectionSilent);
                        return;
                    }
                }
            }
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// The HTTP/2 preface and the head of the first frame.
const OPENING_BYTES: usize = 24 + 9;

/// Notices whether the peer has sent the opening of HTTP/2: one that connects and is silent, or sends byte after byte,
/// holds a place that Envoy may need.
struct Watched<S> {
    stream: S,
    missing: usize,
    begun: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: pin::Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buffer.filled().len();
        let polled = pin::Pin::new(&mut me.stream).poll_read(cx, buffer);
        if me.missing > 0 {
            me.missing = me.missing.saturating_sub(buffer.filled().len().saturating_sub(before));
            me.begun.store(me.missing == 0, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: pin::Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        pin::Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin::Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin::Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        pin::Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Hands connections to the worker threads.
#[derive(Clone, Default)]
pub(super) struct PoolHandle {
    workers: Arc<[Worker]>,
}

struct Worker {
    connections: mpsc::Sender<Connection>,
    /// Connections it has or is about to get.
    load: Arc<AtomicUsize>,
}

impl PoolHandle {
    /// Gives the connection to the worker with the fewest.
    pub(super) async fn send(&self, connection: Connection) {
        let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
        worker.load.fetch_add(1, Ordering::Relaxed);
        if worker.connections.send(connection).await.is_err() {
            tracing::error!("a worker thread has ended; its connection is closed");
        }
    }
}

/// The worker threads.
pub(super) struct Pool {
    handle: PoolHandle,
    threads: Vec<JoinHandle<io::Result<Drained>>>,
}

impl Pool {
    /// Starts the threads.
    pub(super) fn start<C: Check>(settings: &Settings, shared: &Arc<Shared<C>>) -> io::Result<Self> {
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for number in 0..settings.workers.get() {
            let (connections, incoming) = mpsc::channel(HANDOVER_MAX);
            let load = Arc::new(AtomicUsize::new(0));
            workers.push(Worker { connections, load: Arc::clone(&load) });
            let (shared, drain) = (Arc::clone(shared), settings.drain);
            let thread = thread::Builder::new().name(format!("check-{number}"));
            threads.push(thread.spawn(move || work(&shared, incoming, &load, drain))?);
        }
        Ok(Self { handle: PoolHandle { workers: workers.into() }, threads })
    }

    pub(super) fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    /// Waits for the threads. They end once every handle is gone and their connections have ended or were cut.
    pub(super) async fn join(self) -> io::Result<Drained> {
        let Self { handle, threads } = self;
        drop(handle);
        let join = move || {
            let mut drained = Drained::Clean;
            for thread in threads {
                match thread.join() {
                    Ok(Ok(Drained::Clean)) => {}
                    Ok(Ok(Drained::Cut)) => drained = Drained::Cut,
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(io::Error::other("a worker thread panicked")),
                }
            }
            Ok(drained)
        };
        tokio::task::spawn_blocking(join).await?
    }
}

/// The life of one worker thread.
fn work<C: Check>(
    shared: &Arc<Shared<C>>,
    mut incoming: mpsc::Receiver<Connection>,
    load: &Arc<AtomicUsize>,
    drain: Duration,
) -> io::Result<Drained> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let drained = runtime.block_on(async {
        let mut open = JoinSet::new();
        while let Some(connection) = incoming.recv().await {
            let (shared, load) = (Arc::clone(shared), Arc::clone(load));
            open.spawn(async move {
                let _placed = Load(load);
                shared.serve(connection).await;
            });
            while open.try_join_next().is_some() {}
        }
        let all_closed = async { while open.join_next().await.is_some() {} };
        timeout(drain, all_closed).await.map_or(Drained::Cut, |()| Drained::Clean)
    });
    // Dropping the runtime drops what was cut: destructors of calls run here.
    drop(runtime);
    Ok(drained)
}

/// One connection in the count of a worker.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
