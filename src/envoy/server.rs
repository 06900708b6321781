//! The gRPC server towards Envoy: listeners, connections, health and shutdown. What a Check means is the [`Check`]'s.
//!
//! Connections are accepted on the caller's runtime and handed to worker threads, each with a runtime of its own: one
//! thread per core that shares nothing costs little more than half of the CPU time of a work-stealing runtime. Envoy
//! opens one HTTP/2 connection for each of its own workers, so a connection goes to the worker that has the fewest.

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use mcp_authz_core::trace::TraceContext;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use self::accept::Dispatcher;
pub use self::endpoint::{BindError, Endpoint, EndpointError};
use self::endpoint::{Bound, SocketFile};
use self::worker::{Pool, Shared};
use crate::envoy::tls::{Refusal, Tls};
use crate::envoy::wire::log::LogEntry;
use crate::envoy::wire::process::{ProcessingRequest, ProcessingResponse};
use crate::envoy::wire::{self, CheckRequest, CheckResponse};

mod accept;
mod call;
mod endpoint;
mod grpc;
mod messages;
mod process;
mod worker;

/// More worker threads than this are never useful to one sidecar.
const WORKERS_MAX: usize = 8;

/// What decides about requests, and judges their responses.
pub trait Check: Send + Sync + 'static {
    /// Decides. There is no error: what should not happen is a denial as well.
    ///
    /// The future is dropped, at any `.await`, when Envoy gives up, when the deadline of the call passes, and when
    /// draining takes too long; what must happen regardless belongs into a destructor. A task that must outlive the
    /// call needs a runtime of its own: the worker's ends with the server.
    fn check(&self, request: CheckRequest, meta: CallMeta) -> impl Future<Output = Answered> + Send;

    /// The answer when [`Check::check`] panicked; must be a denial.
    fn panicked(&self) -> CheckResponse {
        CheckResponse::refused(500)
    }

    /// Takes an entry of Envoy's access log; must not wait.
    fn logged(&self, entry: &LogEntry) {
        let _ = entry;
    }

    /// Told of entries that could not be read, or were more in one message than [`Settings::log_entries_max`].
    fn log_lost(&self, entries: u64) {
        let _ = entries;
    }

    /// Begins to judge one response. `trace` is the caller's place in its trace. Must not wait.
    fn process(&self, room: Room, trace: Option<TraceContext>) -> impl Process {
        let _ = (room, trace);
        Unjudged
    }

    /// Whether anybody wants to know the traces of calls; they are read only then.
    fn wants_traces(&self) -> bool {
        false
    }
}

/// Whether a response may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Given,
    /// No: there are [`Settings::process_streams_max`] already. It is to be withheld.
    None,
}

/// The judgment of one response, message by message.
///
/// It is dropped when the stream ends, whichever way; what must happen regardless belongs into a destructor.
pub trait Process: Send + 'static {
    /// Answers one message.
    ///
    /// # Errors
    /// The response must not go on: Envoy cuts it off, or answers by a status of its own if nothing of it has left.
    fn answer(
        &mut self,
        request: ProcessingRequest,
    ) -> impl Future<Output = Result<ProcessingResponse, tonic::Status>> + Send;
}

/// Judges nothing, and so lets nothing pass.
struct Unjudged;

impl Process for Unjudged {
    async fn answer(&mut self, _: ProcessingRequest) -> Result<ProcessingResponse, tonic::Status> {
        Err(tonic::Status::unimplemented("responses are not judged here"))
    }
}

/// An answer, and what has to be given up if it does not get as far as the connection.
#[derive(Debug)]
#[must_use = "whatever is owed is given up when this is dropped"]
pub struct Answered {
    pub(super) response: CheckResponse,
    pub(super) owed: Option<Box<dyn Owed>>,
}

impl Answered {
    /// An answer on whose way out something depends.
    pub fn owing(response: CheckResponse, owed: impl Owed) -> Self {
        Self { response, owed: Some(Box::new(owed)) }
    }

    /// The answer, as if the connection had taken it over.
    pub fn sent(self) -> CheckResponse {
        if let Some(owed) = self.owed {
            owed.sent();
        }
        self.response
    }
}

impl From<CheckResponse> for Answered {
    fn from(response: CheckResponse) -> Self {
        Self { response, owed: None }
    }
}

/// Work that must be undone if an answer does not leave. It is undone by `drop`: when the caller has reset the stream before
/// the first byte of the answer was written, no byte of it can have been read.
pub trait Owed: fmt::Debug + Send + 'static {
    /// The connection has taken the answer over. From now on nobody here can tell whether it arrives.
    fn sent(self: Box<Self>);
}

/// What the transport knows about one call.
#[derive(Clone, Copy, Debug)]
pub struct CallMeta {
    /// When the head of the call arrived.
    pub received: Instant,
    /// How long the caller will wait, counted from `received`; from the `grpc-timeout` header.
    pub grpc_timeout: Option<Duration>,
    /// The caller's place in its trace, from the `traceparent` of the call's metadata; `None` unless [`Check::wants_traces`].
    pub trace: Option<TraceContext>,
}

/// Limits and sizes of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that serve connections.
    pub workers: NonZeroUsize,
    /// Longest CheckRequest in bytes: the longest body plus room for headers and metadata.
    pub message_bytes_max: usize,
    /// Longest message of access logs in bytes. Envoy sends 16 KiB and what the last entry brings, unless told otherwise.
    pub log_message_bytes_max: usize,
    /// Entries of one message that are looked at.
    pub log_entries_max: usize,
    /// Streams of access logs at once; Envoy opens one for each of its workers.
    pub log_streams_max: usize,
    /// Longest message of a response in bytes. Envoy sends what it has read from a server at a time, at most what
    /// `per_connection_buffer_limit_bytes` allows, 1 MiB by default.
    pub process_message_bytes_max: usize,
    /// Responses that are judged at once; more are withheld.
    pub process_streams_max: usize,
    /// Longest list of gRPC metadata in bytes.
    pub metadata_bytes_max: u32,
    /// Open connections per listener; more are closed at once.
    pub connections_max: usize,
    /// Time for a TLS handshake, and again for the first bytes of HTTP/2.
    pub handshake_timeout: Duration,
    /// How long the server goes on as usual after it has reported NOT_SERVING, so that probes can see it.
    pub notice: Duration,
    /// How long calls in flight may take to end after that.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            workers: NonZeroUsize::new(cores.min(WORKERS_MAX)).unwrap_or(NonZeroUsize::MIN),
            message_bytes_max: 2 * 1024 * 1024,
            log_message_bytes_max: 512 * 1024,
            log_entries_max: 4096,
            log_streams_max: 128,
            process_message_bytes_max: 4 * 1024 * 1024,
            process_streams_max: 4096,
            metadata_bytes_max: 64 * 1024,
            connections_max: 1024,
            handshake_timeout: Duration::from_secs(5),
            notice: Duration::ZERO,
            drain: Duration::from_secs(10),
        }
    }
}

/// What happened on the transport, for counters. Nothing in it comes from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `accept` failed, for example because the process has no free file descriptor; it is tried again.
    AcceptFailed,
    /// A handler panicked; the call was refused.
    CheckPanicked,
    /// A connection ended.
    ConnectionClosed,
    /// A connection was accepted.
    ConnectionOpened,
    /// A connection was closed at once: there were too many.
    ConnectionRefused,
    /// The peer connected but did not begin HTTP/2 in time.
    ConnectionSilent,
    /// A TLS handshake was refused.
    HandshakeRefused(Refusal),
    /// There were too many streams of access logs.
    LogStreamRefused,
    /// The judgment of a response panicked; the response was cut off.
    ResponsePanicked,
}

/// Is told about every [`Event`]; must be quick.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every call in flight was answered.
    Clean,
    /// Some connections were cut after [`Settings::drain`].
    Cut,
}

/// The serving status that probes see, both as "" and under the name of the service. Starts as not serving.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
}

impl Health {
    const NAMES: [&'static str; 2] = ["", wire::SERVICE];

    async fn new() -> Self {
        let health = Self { reporter: HealthReporter::new() };
        health.not_serving().await;
        health
    }

    /// From now on probes see SERVING.
    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// From now on probes see NOT_SERVING; calls are answered all the same.
    pub async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for name in Self::NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// Ends the streams of watchers, which would otherwise hold their connections open while draining.
    async fn end_watches(mut self) {
        for name in Self::NAMES {
            self.reporter.clear_service_status(name).await;
        }
    }
}

/// A server whose listeners are open: connections queue from now on, [`Server::serve`] answers them.
pub struct Server {
    bound: Vec<Bound>,
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<Tls>>,
    settings: Settings,
    observer: Observer,
    health: Health,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens all listeners, or none. TLS applies to the TCP listeners.
    ///
    /// # Errors
    /// The first endpoint that cannot be opened; the operator must act.
    pub async fn bind(
        endpoints: &[Endpoint],
        tls: Option<Arc<Tls>>,
        settings: Settings,
        observer: Observer,
    ) -> Result<Self, BindError> {
        let bound = endpoints.iter().map(Bound::open).collect::<Result<Vec<_>, _>>()?;
        let endpoints = bound
            .iter()
            .zip(endpoints)
            .map(|(bound, asked)| bound.endpoint().unwrap_or_else(|_| asked.clone()))
            .collect();
        Ok(Self { bound, endpoints, tls, settings, observer, health: Health::new().await })
    }

    /// The endpoints in the order given, with the ports that the system chose.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The handle by which probes are told the truth.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Serves until `shutdown` is ready; then reports NOT_SERVING, gives [`Settings::notice`], closes the listeners,
    /// lets calls in flight end within [`Settings::drain`], and returns.
    ///
    /// # Errors
    /// A thread or a runtime could not be started, or a listener could not be registered.
    pub async fn serve<C: Check>(self, check: C, shutdown: impl Future<Output = ()>) -> io::Result<Drained> {
        let Self { bound, tls, settings, observer, health, .. } = self;
        let (draining, drain_signal) = watch::channel(false);
        let service = HealthService::from_health_reporter(health.reporter.clone());
        let shared = Shared::new(check, service, &settings, tls, Arc::clone(&observer), drain_signal);
        let pool = Pool::start(&settings, &Arc::new(shared))?;
        let mut accepting = JoinSet::new();
        for bound in bound {
            let dispatcher = Dispatcher::new(
                Arc::new(Semaphore::new(settings.connections_max.min(Semaphore::MAX_PERMITS))),
                pool.handle(),
                Arc::clone(&observer),
            );
            accept::spawn(&mut accepting, bound, dispatcher)?;
        }
        shutdown.await;
        health.not_serving().await;
        tokio::time::sleep(settings.notice).await;
        accepting.shutdown().await;
        health.end_watches().await;
        draining.send_replace(true);
        pool.join().await
    }
}

#[cfg(test)]
mod tests;
