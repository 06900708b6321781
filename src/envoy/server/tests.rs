use std::collections::BTreeSet;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint as Remote};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::envoy::tls;
use crate::envoy::wire::{HttpResponse, OkHttpResponse, Status};

mod logs;
mod responses;

/// Decides by the path of the request, and lets tests see what became of the calls.
#[derive(Clone)]
struct Script {
    started: watch::Sender<usize>,
    dropped: watch::Sender<usize>,
    released: watch::Sender<bool>,
    threads: Arc<Mutex<BTreeSet<String>>>,
    last: Arc<Mutex<Option<(CheckRequest, CallMeta)>>>,
    logged: watch::Sender<usize>,
    lost: watch::Sender<u64>,
}

impl Script {
    fn new() -> Self {
        Self {
            started: watch::Sender::new(0),
            dropped: watch::Sender::new(0),
            released: watch::Sender::new(false),
            threads: Arc::default(),
            last: Arc::default(),
            logged: watch::Sender::new(0),
            lost: watch::Sender::new(0),
        }
    }
}

async fn reach(counter: &watch::Sender<usize>, count: usize) {
    counter.subscribe().wait_for(|&now| now >= count).await.unwrap();
}

/// Counts the end of a call, whether answered or cut off.
struct Ended(watch::Sender<usize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_add(1));
    }
}

impl Check for Script {
    async fn check(&self, request: CheckRequest, meta: CallMeta) -> Answered {
        let _ended = Ended(self.dropped.clone());
        let name = thread::current().name().unwrap_or_default().to_owned();
        self.threads.lock().unwrap().insert(name);
        let attributes = request.attributes.clone().unwrap_or_default();
        let path = attributes.request.and_then(|request| request.http).unwrap_or_default().path;
        *self.last.lock().unwrap() = Some((request, meta));
        self.started.send_modify(|count| *count = count.saturating_add(1));
        match &path[..] {
            b"/panic" => panic!("a bug"),
            b"/wait" => {
                self.released.subscribe().wait_for(|&released| released).await.unwrap();
            }
            _ => {}
        }
        let status = Some(Status { code: 0, message: String::new() });
        let http_response = Some(HttpResponse::Ok(OkHttpResponse::default()));
        CheckResponse { status, http_response, dynamic_metadata: None }.into()
    }

    fn logged(&self, entry: &LogEntry) {
        self.logged.send_modify(|count| *count = count.saturating_add(1));
        assert!(entry.response.is_none(), "a bug");
    }

    fn log_lost(&self, entries: u64) {
        self.lost.send_modify(|count| *count = count.saturating_add(entries));
    }

    fn process(&self, room: Room, trace: Option<TraceContext>) -> impl Process {
        responses::Echo::new(room, trace, Ended(self.dropped.clone()))
    }

    fn wants_traces(&self) -> bool {
        true
    }
}

struct Running {
    script: Script,
    endpoints: Vec<Endpoint>,
    health: Health,
    events: mpsc::UnboundedReceiver<Event>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<Drained>>,
}

impl Running {
    async fn start(endpoint: Endpoint, tls: Option<Tls>, settings: Settings) -> Self {
        let script = Script::new();
        let (sender, events) = mpsc::unbounded_channel();
        let observer: Observer = Arc::new(move |event| {
            // A test that has seen enough may be over.
            sender.send(event).unwrap_or_default();
        });
        let server = Server::bind(&[endpoint], tls.map(Arc::new), settings, observer).await.unwrap();
        let (endpoints, health) = (server.endpoints().to_vec(), server.health());
        let (stop, stopped) = oneshot::channel();
        let serve = server.serve(script.clone(), async move { drop(stopped.await) });
        Self { script, endpoints, health, events, stop, task: tokio::spawn(serve) }
    }

    async fn tcp(settings: Settings) -> Self {
        Self::start("tcp://127.0.0.1:0".parse().unwrap(), None, settings).await
    }

    fn address(&self) -> std::net::SocketAddr {
        let Endpoint::Tcp(address) = self.endpoints[0] else { panic!("not tcp") };
        address
    }

    async fn channel(&self) -> Channel {
        Remote::try_from(format!("http://{}", self.address())).unwrap().connect().await.unwrap()
    }

    async fn client(&self) -> AuthorizationClient<Channel> {
        AuthorizationClient::new(self.channel().await)
    }

    /// Waits until this event has come.
    async fn see(&mut self, expected: Event) {
        while self.events.recv().await.expect("the server runs") != expected {}
    }

    async fn stop(self) -> Drained {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap()
    }
}

fn settings() -> Settings {
    Settings { workers: NonZeroUsize::new(2).unwrap(), ..Settings::default() }
}

fn request(path: &str) -> auth::CheckRequest {
    let http = auth::attribute_context::HttpRequest { path: path.to_owned(), ..Default::default() };
    let request = auth::attribute_context::Request { http: Some(http), time: None };
    auth::CheckRequest { attributes: Some(auth::AttributeContext { request: Some(request), ..Default::default() }) }
}

async fn ask(client: &mut AuthorizationClient<Channel>, path: &str) -> Result<i32, Code> {
    let answer = client.check(request(path)).await.map_err(|status| status.code())?;
    Ok(answer.into_inner().status.expect("we always send a status").code)
}

async fn unix_channel(path: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Remote::from_static("http://envoy").connect_with_connector(connect).await.unwrap()
}

fn socket(folder: &tempfile::TempDir) -> (Endpoint, PathBuf) {
    let path = folder.path().join("authz.sock");
    (Endpoint::Unix(path.clone()), path)
}

#[tokio::test]
async fn a_check_is_answered_over_tcp() {
    let running = Running::tcp(settings()).await;
    let mut client = running.client().await;
    let mut sent = request("/mcp");
    let http = sent.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.raw_body = b"\xff\x00body".to_vec();
    let mut call = tonic::Request::new(sent);
    call.set_timeout(Duration::from_secs(20));
    let answer = client.check(call).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code, 0);
    let (seen, meta) = running.script.last.lock().unwrap().take().unwrap();
    let http = seen.attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!((&http.path[..], &http.raw_body[..]), (&b"/mcp"[..], &b"\xff\x00body"[..]));
    assert_eq!(meta.grpc_timeout, Some(Duration::from_secs(20)));
    assert_eq!(running.stop().await, Drained::Clean);
}

pub(super) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn the_callers_place_in_its_trace_is_read_from_its_metadata() {
    let running = Running::tcp(settings()).await;
    let mut client = running.client().await;
    let mut seen = Vec::new();
    for values in [&[][..], &[TRACEPARENT], &["nonsense"], &[TRACEPARENT, TRACEPARENT]] {
        let mut call = tonic::Request::new(request("/mcp"));
        for value in values {
            call.metadata_mut().append("traceparent", value.parse().unwrap());
        }
        client.check(call).await.unwrap();
        seen.push(running.script.last.lock().unwrap().take().unwrap().1.trace);
    }
    assert_eq!(seen, [None, TraceContext::parse(TRACEPARENT.as_bytes()), None, None], "of two neither counts");
}

#[tokio::test]
async fn a_check_is_answered_over_a_unix_socket_whose_file_goes_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, path) = socket(&folder);
    let running = Running::start(endpoint, None, settings()).await;
    let mut client = AuthorizationClient::new(unix_channel(path.clone()).await);
    assert_eq!(ask(&mut client, "/mcp").await, Ok(0));
    assert_eq!(running.stop().await, Drained::Clean);
    assert!(!path.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_killed_server_is_followed_by_one_on_the_same_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, path) = socket(&folder);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(StdUnixStream::connect(&path).is_err(), "the stale file is there and nobody answers");
    let running = Running::start(endpoint, None, settings()).await;
    let mut client = AuthorizationClient::new(unix_channel(path).await);
    assert_eq!(ask(&mut client, "/mcp").await, Ok(0));
    running.stop().await;
}

#[tokio::test]
async fn bytes_that_are_not_utf8_reach_the_handler() {
    let running = Running::tcp(settings()).await;
    let mut grpc = tonic::client::Grpc::new(running.channel().await);
    grpc.ready().await.unwrap();
    let mut sent = CheckRequest::default();
    let http = sent.attributes.get_or_insert_default().request.get_or_insert_default().http.get_or_insert_default();
    http.path = bytes::Bytes::from_static(b"/\xff");
    let codec = tonic_prost::ProstCodec::<CheckRequest, auth::CheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static(wire::CHECK_PATH);
    let answer = grpc.unary(tonic::Request::new(sent.clone()), path, codec).await.unwrap();
    assert_eq!(answer.into_inner().status.unwrap().code, 0);
    assert_eq!(running.script.last.lock().unwrap().take().unwrap().0, sent);
}

#[tokio::test]
async fn a_cancelled_call_drops_the_future() {
    let running = Running::tcp(settings()).await;
    let mut client = running.client().await;
    let call = tokio::spawn(async move { ask(&mut client, "/wait").await });
    reach(&running.script.started, 1).await;
    call.abort();
    reach(&running.script.dropped, 1).await;
    assert!(!*running.script.released.borrow(), "nobody let it finish");
}

#[tokio::test]
async fn a_deadline_drops_the_future() {
    let running = Running::tcp(settings()).await;
    let mut call = tonic::Request::new(request("/wait"));
    call.set_timeout(Duration::from_millis(50));
    let code = running.client().await.check(call).await.unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    reach(&running.script.dropped, 1).await;
}

#[tokio::test]
async fn a_client_that_gives_up_many_calls_keeps_its_connection() {
    let running = Running::tcp(settings()).await;
    let client = running.client().await;
    let calls: Vec<_> = (0..300)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { ask(&mut client, "/wait").await })
        })
        .collect();
    let mut neighbor = client.clone();
    let neighbor = tokio::spawn(async move { ask(&mut neighbor, "/wait").await });
    reach(&running.script.started, 301).await;
    for call in calls {
        call.abort();
    }
    reach(&running.script.dropped, 300).await;
    running.script.released.send_replace(true);
    assert_eq!(neighbor.await.unwrap(), Ok(0));
}

#[tokio::test]
async fn a_panic_is_refused_counted_and_hurts_nobody_else() {
    let mut running = Running::tcp(settings()).await;
    let mut client = running.client().await;
    let mut neighbor = client.clone();
    let waiting = tokio::spawn(async move { ask(&mut neighbor, "/wait").await });
    reach(&running.script.started, 1).await;
    let answer = client.check(request("/panic")).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code, i32::from(Code::PermissionDenied));
    assert!(matches!(answer.http_response, Some(auth::check_response::HttpResponse::DeniedResponse(_))));
    running.see(Event::CheckPanicked).await;
    running.script.released.send_replace(true);
    assert_eq!(waiting.await.unwrap(), Ok(0));
}

#[tokio::test]
async fn other_services_and_methods_are_unimplemented() {
    let running = Running::tcp(settings()).await;
    for path in ["/envoy.service.auth.v2.Authorization/Check", "/envoy.service.auth.v3.Authorization/Other", "/"] {
        let mut grpc = tonic::client::Grpc::new(running.channel().await);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<auth::CheckRequest, auth::CheckResponse>::default();
        let call = tonic::Request::new(request("/"));
        let status = grpc.unary(call, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    assert_eq!(*running.script.started.borrow(), 0);
}

#[tokio::test]
async fn a_message_at_the_limit_passes_and_one_above_is_refused() {
    use prost::Message as _;
    let mut sent = request("/mcp");
    sent.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap().raw_body = vec![b'x'; 100_000];
    let limit = sent.encoded_len();
    for (message_bytes_max, expected) in [(limit, Ok(())), (limit - 1, Err(Code::OutOfRange))] {
        let running = Running::tcp(Settings { message_bytes_max, ..settings() }).await;
        let mut client = running.client().await;
        let answer = client.check(sent.clone()).await.map(|_| ()).map_err(|status| status.code());
        assert_eq!(answer, expected);
        assert_eq!(ask(&mut client, "/mcp").await, Ok(0), "the connection goes on");
    }
}

#[tokio::test]
async fn a_message_that_is_no_check_request_is_an_error_and_never_reaches_the_handler() {
    let running = Running::tcp(settings()).await;
    let mut grpc = tonic::client::Grpc::new(running.channel().await);
    grpc.ready().await.unwrap();
    // A number where the attributes should be a message.
    let broken = Status { code: 7, message: String::new() };
    let codec = tonic_prost::ProstCodec::<Status, auth::CheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static(wire::CHECK_PATH);
    let outcome = grpc.unary(tonic::Request::new(broken), path, codec).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Internal);
    assert_eq!(*running.script.started.borrow(), 0);
}

#[tokio::test]
async fn metadata_over_the_limit_is_refused_and_the_connection_goes_on() {
    let running = Running::tcp(Settings { metadata_bytes_max: 16 * 1024, ..settings() }).await;
    let mut client = running.client().await;
    for (bytes, expected) in [(8 * 1024, true), (32 * 1024, false), (1024 * 1024, false)] {
        let mut call = tonic::Request::new(request("/mcp"));
        call.metadata_mut().insert("x-long", "x".repeat(bytes).parse().unwrap());
        assert_eq!(client.check(call).await.is_ok(), expected, "{bytes}");
    }
    assert_eq!(ask(&mut client, "/mcp").await, Ok(0));
    assert_eq!(*running.script.started.borrow(), 2);
}

#[tokio::test]
async fn four_hundred_calls_on_one_connection_run_at_once() {
    let running = Running::tcp(settings()).await;
    let client = running.client().await;
    let calls: Vec<_> = (0..400)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { ask(&mut client, "/wait").await })
        })
        .collect();
    reach(&running.script.started, 400).await;
    assert_eq!(*running.script.dropped.borrow(), 0, "all are in flight");
    running.script.released.send_replace(true);
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(0));
    }
}

#[tokio::test]
async fn connections_are_spread_over_the_workers() {
    let running = Running::tcp(settings()).await;
    let (mut first, mut second) = (running.client().await, running.client().await);
    assert_eq!((ask(&mut first, "/mcp").await, ask(&mut second, "/mcp").await), (Ok(0), Ok(0)));
    let threads: Vec<_> = running.script.threads.lock().unwrap().iter().cloned().collect();
    assert_eq!(threads, ["check-0", "check-1"]);
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_a_free_place_is_used_again() {
    let mut running = Running::tcp(Settings { connections_max: 1, ..settings() }).await;
    let first = running.client().await;
    running.see(Event::ConnectionOpened).await;
    let mut second = TcpStream::connect(running.address()).await.unwrap();
    running.see(Event::ConnectionRefused).await;
    assert!(matches!(second.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    drop(first);
    running.see(Event::ConnectionClosed).await;
    assert_eq!(ask(&mut running.client().await, "/mcp").await, Ok(0));
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_closed() {
    let handshake_timeout = Duration::from_millis(50);
    let mut running = Running::tcp(Settings { handshake_timeout, ..settings() }).await;
    let mut silent = TcpStream::connect(running.address()).await.unwrap();
    running.see(Event::ConnectionSilent).await;
    let mut settings_frame = Vec::new();
    assert!(silent.read_to_end(&mut settings_frame).await.is_ok_and(|length| length < 200), "closed");
    let mut lively = running.client().await;
    assert_eq!(ask(&mut lively, "/mcp").await, Ok(0));
}

async fn probe(channel: Channel, service: &str) -> Result<i32, Code> {
    let call = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(call).await;
    answer.map(|answer| answer.into_inner().status).map_err(|status| status.code())
}

#[tokio::test]
async fn probes_see_the_status_that_the_handle_set() {
    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;
    let running = Running::tcp(settings()).await;
    let channel = running.channel().await;
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        assert_eq!(probe(channel.clone(), service).await, Ok(NOT_SERVING), "nobody said that we are ready");
    }
    running.health.serving().await;
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        assert_eq!(probe(channel.clone(), service).await, Ok(SERVING));
    }
    running.health.not_serving().await;
    assert_eq!(probe(channel.clone(), "").await, Ok(NOT_SERVING));
    assert_eq!(probe(channel, "unknown").await, Err(Code::NotFound));
}

#[tokio::test]
async fn draining_finishes_calls_in_flight_and_accepts_no_new_connection() {
    let running = Running::tcp(settings()).await;
    running.health.serving().await;
    let (address, script, channel) = (running.address(), running.script.clone(), running.channel().await);
    let mut watching =
        HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 1);
    let mut client = AuthorizationClient::new(channel);
    let call = tokio::spawn(async move { ask(&mut client, "/wait").await });
    reach(&script.started, 1).await;
    let stopped = tokio::spawn(running.stop());
    // The watcher is told, and then let go: it would hold its connection open otherwise.
    assert_eq!(watching.message().await.unwrap().unwrap().status, 2);
    assert!(watching.message().await.unwrap_or(None).is_none());
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    assert_eq!(*script.dropped.borrow(), 0, "the call goes on");
    script.released.send_replace(true);
    assert_eq!(call.await.unwrap(), Ok(0));
    assert_eq!(stopped.await.unwrap(), Drained::Clean);
}

#[tokio::test]
async fn during_the_notice_probes_see_the_end_coming_and_checks_are_answered() {
    let running = Running::tcp(Settings { notice: Duration::from_secs(3600), ..settings() }).await;
    running.health.serving().await;
    let (address, channel) = (running.address(), running.channel().await);
    let mut watching =
        HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 1);
    running.stop.send(()).unwrap();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 2);
    assert_eq!(ask(&mut AuthorizationClient::new(channel), "/mcp").await, Ok(0));
    let late = Remote::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
    assert_eq!(ask(&mut AuthorizationClient::new(late), "/mcp").await, Ok(0), "a new connection too");
    running.task.abort();
}

#[tokio::test]
async fn draining_is_bounded_and_cuts_what_is_left() {
    let running = Running::tcp(Settings { drain: Duration::from_millis(50), ..settings() }).await;
    let script = running.script.clone();
    let mut client = running.client().await;
    let call = tokio::spawn(async move { ask(&mut client, "/wait").await });
    reach(&script.started, 1).await;
    assert_eq!(running.stop().await, Drained::Cut);
    assert_eq!(*script.dropped.borrow(), 1, "the destructor of the call has run");
    assert!(call.await.unwrap().is_err());
}

fn tls_channel(address: std::net::SocketAddr, connector: tokio_rustls::TlsConnector) -> Channel {
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            connector.connect(tls::tests::localhost(), stream).await.map(TokioIo::new)
        }
    });
    Remote::from_static("http://envoy").connect_with_connector_lazy(connect)
}

#[tokio::test]
async fn only_clients_with_an_allowed_name_are_served_over_mutual_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (own, clients) = (tls::tests::Authority::new(), tls::tests::Authority::new());
    let files = tls::tests::files(&folder, &own, Some(&clients), &["spiffe://mesh/envoy"]);
    let tls = Tls::load(&files).unwrap();
    let mut running = Running::start("tcp://127.0.0.1:0".parse().unwrap(), Some(tls), settings()).await;
    let address = running.address();
    let ask_as = |identity| async {
        let channel = tls_channel(address, tls::tests::connector(&own, identity));
        ask(&mut AuthorizationClient::new(channel), "/mcp").await
    };
    let named = |name| Some(clients.issue(vec![tls::tests::uri(name)]));
    assert_eq!(ask_as(named("spiffe://mesh/envoy")).await, Ok(0));
    assert!(ask_as(named("spiffe://mesh/other")).await.is_err());
    running.see(Event::HandshakeRefused(Refusal::Name)).await;
    assert!(ask_as(None).await.is_err());
    running.see(Event::HandshakeRefused(Refusal::NoCertificate)).await;
    assert_eq!(*running.script.started.borrow(), 1);
}

#[tokio::test]
async fn a_slow_handshake_ends_and_does_not_hold_up_others() {
    let folder = tempfile::tempdir().unwrap();
    let own = tls::tests::Authority::new();
    let tls = Tls::load(&tls::tests::files(&folder, &own, None, &[])).unwrap();
    let slow = Settings { workers: NonZeroUsize::MIN, handshake_timeout: Duration::from_millis(300), ..settings() };
    let mut running = Running::start("tcp://127.0.0.1:0".parse().unwrap(), Some(tls), slow).await;
    let _silent = TcpStream::connect(running.address()).await.unwrap();
    running.see(Event::ConnectionOpened).await;
    let channel = tls_channel(running.address(), tls::tests::connector(&own, None));
    assert_eq!(ask(&mut AuthorizationClient::new(channel), "/mcp").await, Ok(0), "while the other one is silent");
    running.see(Event::HandshakeRefused(Refusal::Timeout)).await;
}

#[tokio::test]
async fn the_first_endpoint_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (unix, path) = socket(&folder);
    let bad = Endpoint::Unix(Path::new("/nowhere/authz.sock").to_path_buf());
    let observer: Observer = Arc::new(|_| {});
    let error = Server::bind(&[unix, bad], None, settings(), observer).await.unwrap_err();
    assert!(error.to_string().contains("unix:///nowhere/authz.sock"), "{error}");
    assert!(!path.exists(), "what was opened before is closed");
}
