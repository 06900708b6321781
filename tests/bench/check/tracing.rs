//! What recording traces adds to a Check: the same program without a collector, with 1 % and with every Check sampled, in turns.
//! The collector is a process of its own that throws away what it gets, and counts it.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::load::{self, Load};
use crate::process::Server;
use crate::report::median;
use crate::requests;

/// Rounds of every server; an odd number has a median.
const ROUNDS: usize = 15;
/// Checks of a round.
const COUNT: u32 = 4_000;
const IN_FLIGHT: usize = 64;
/// Bytes of a body.
const BODY_BYTES: usize = 300;

/// Takes what is sent, and tells how many bytes that were whenever somebody writes a line to it.
pub(crate) fn collect() -> anyhow::Result<()> {
    let bytes = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&bytes);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stdout(), "http://{}", listener.local_addr()?)?;
        std::thread::spawn(move || {
            for _ in std::io::stdin().lines() {
                drop(writeln!(std::io::stdout(), "{}", told.load(Ordering::Relaxed)));
            }
            std::process::exit(0);
        });
        loop {
            let (stream, _) = listener.accept().await?;
            let bytes = Arc::clone(&bytes);
            let service = service_fn(move |request| take(request, Arc::clone(&bytes)));
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    })
}

async fn take(
    request: Request<Incoming>,
    bytes: Arc<AtomicU64>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    bytes.fetch_add(u64::try_from(body.len()).unwrap_or(0), Ordering::Relaxed);
    let trailers: HeaderMap =
        [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))].into_iter().collect();
    Ok(Response::new(Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) })))
}

/// A collector that ends with this value.
struct Collector {
    child: Child,
    lines: BufReader<ChildStdout>,
    url: String,
}

impl Collector {
    fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("collect").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("the output is piped")?);
        let mut collector = Self { child, lines, url: String::new() };
        collector.url = collector.line()?;
        Ok(collector)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn bytes(&mut self) -> anyhow::Result<u64> {
        writeln!(self.child.stdin.as_mut().context("the input is piped")?)?;
        Ok(self.line()?.parse()?)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

struct Case {
    name: &'static str,
    server: Server,
    load: Load,
    collector: Collector,
    cpu_us: Vec<f64>,
    _folder: tempfile::TempDir,
}

impl Case {
    async fn start(name: &'static str, sampled: Option<usize>) -> anyhow::Result<Self> {
        let (folder, collector) = (tempfile::tempdir()?, Collector::start()?);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
            // What waits is to be counted in bytes that came, not dropped.
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ];
        let variables = if sampled.is_some() { &variables[..] } else { &[] };
        let server = Server::start_real_with(folder.path(), variables)?;
        let endpoint = server.endpoints.get(1).context("a Unix socket")?;
        // Envoy sends a context whether it samples or not.
        let load = Load::connect(endpoint).await?.with_traces(sampled.unwrap_or(usize::MAX));
        Ok(Self { name, server, load, collector, cpu_us: Vec::new(), _folder: folder })
    }
}

pub(crate) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let message = load::frame(&requests::check_request(&requests::body(BODY_BYTES)))?;
    let mut cases = runtime.block_on(async {
        let off = Case::start("no collector", None).await?;
        let few = Case::start("1 % sampled", Some(100)).await?;
        let all = Case::start("all sampled", Some(1)).await?;
        for case in [&off, &few, &all] {
            case.load.run(&message, usize::try_from(COUNT)?, IN_FLIGHT).await?;
        }
        anyhow::Ok([off, few, all])
    })?;
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let before = case.server.cpu()?;
            runtime.block_on(async {
                case.load.run(&message, usize::try_from(COUNT)?, IN_FLIGHT).await?;
                // The last batch is this round's as well.
                tokio::time::sleep(Duration::from_millis(300)).await;
                anyhow::Ok(())
            })?;
            let used = case.server.cpu()?.saturating_sub(before);
            case.cpu_us.push(used.as_secs_f64() * 1e6 / f64::from(COUNT));
        }
    }
    writeln!(
        out,
        "CPU time of the server for one Check of {BODY_BYTES} B over a Unix socket, median of {ROUNDS} rounds in turns\n"
    )?;
    writeln!(out, "| traces | CPU µs | ratio | bytes sent per Check |\n|---|---|---|---|")?;
    let mut yardstick = None;
    for case in &mut cases {
        let cpu = median(std::mem::take(&mut case.cpu_us));
        let ratio = cpu / *yardstick.get_or_insert(cpu);
        let checks = u64::from(COUNT) * u64::try_from(ROUNDS + 1)?;
        writeln!(out, "| {} | {cpu:.1} | {ratio:.3} | {} |", case.name, case.collector.bytes()? / checks)?;
    }
    Ok(())
}
