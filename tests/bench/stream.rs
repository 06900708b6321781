//! What the response phase adds to the time of an event: `cargo bench --bench stream`.
//!
//! A server sends events down a stream through Envoy, each with the moment at which it was written; the client notes when it has
//! read it. Streams with and without the response phase take turns in one run, through two Envoys of the same configuration, so
//! that the difference is what counts. Also shown: how many ext_proc streams Envoy opened, by its own counters.

#![expect(clippy::arithmetic_side_effects, reason = "figures of a benchmark decide nothing")]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a benchmark that cannot run ends"
)]
#![expect(dead_code, reason = "the harness of the end-to-end tests has more than a benchmark needs")]

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

#[path = "../e2e/harness/mod.rs"]
mod harness;

use harness::authz::{Grant, Settings, token};
use harness::http1::{self, Request};
use harness::message;
use harness::stack::{Options, Stack};

const ROUNDS: usize = 15;
const EVENTS: usize = 40;
const PAUSE: Duration = Duration::from_millis(5);

/// Nothing needs a response.
const OPEN: &str = "version: \"2\"\ndefault: allow\n";
/// Every event is read, and searched for everything.
const MASKED: &str = r#"
version: "2"
default: allow
mask:
- detect: [email, payment_card, iban, us_ssn, phone, ip_address, jwt, private_key, aws_key, gcp_key, github_token, slack_token, stripe_key]
"#;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let upstream = serve().await;
    let stacks = [start(OPEN, upstream).await, start(MASKED, upstream).await];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (stack, times) in stacks.iter().zip(&mut times) {
            times.extend(measure(stack.envoy.address).await);
        }
    }
    let mut out = std::io::stdout().lock();
    let rows = stacks.iter().zip(&mut times).zip(["without", "with"]);
    for ((stack, times), name) in rows {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
        let streams = processed(stack.envoy.admin).await;
        writeln!(
            out,
            "{name:8} the response phase: p50 {:5} us, p99 {:5} us over {} events; ext_proc streams {streams} of {ROUNDS} calls",
            at(50),
            at(99),
            times.len()
        )
        .unwrap();
    }
}

async fn start(policy: &str, upstream: SocketAddr) -> Stack {
    let authz = Settings {
        config: "response:\n  record: policy".to_owned(),
        policies: vec![("main.yaml".to_owned(), policy.to_owned())],
        grants: vec![Grant::new("reader", "main")],
        ..Settings::default()
    };
    Stack::start(&Options { authz, upstream: Some(upstream), ..Options::default() }).await
}

/// A server whose every answer is a stream of progress, and then a result.
async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(|| async {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
        tokio::spawn(async move {
            for event in 0..EVENTS {
                tokio::time::sleep(PAUSE).await;
                let now = START.elapsed().as_nanos();
                let text = format!(
                    "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":1,\"progress\":{event},\"message\":\"at={now};\"}}}}\n\n"
                );
                if sender.send(Ok(Bytes::from(text))).await.is_err() {
                    return;
                }
            }
            let result = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n";
            drop(sender.send(Ok(Bytes::from_static(result.as_bytes()))).await);
        });
        let body = Body::from_stream(ReceiverStream::new(receiver));
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// One call; the time of each event from being written to being read.
async fn measure(envoy: SocketAddr) -> Vec<Duration> {
    let mut stream = TcpStream::connect(envoy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = Request::post("/mcp", message::call("report", "{}")).bearer(&token("reader"));
    stream.write_all(&request.bytes()).await.unwrap();
    let (mut text, mut read, mut times) = (String::new(), 0, Vec::new());
    let mut buffer = vec![0; 65_536];
    while times.len() < EVENTS {
        let count = stream.read(&mut buffer).await.unwrap();
        let now = START.elapsed();
        assert!(count > 0, "the stream ended early: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        while let Some((at, end)) = text[read..].find("at=").zip(text[read..].find(';')) {
            let written: u64 = text[read + at + 3..read + end].parse().unwrap();
            times.push(now.saturating_sub(Duration::from_nanos(written)));
            read += end + 1;
        }
    }
    times
}

/// How many streams Envoy has opened to the processor.
async fn processed(admin: SocketAddr) -> u64 {
    let request = Request::new("GET", "/stats?format=json&filter=ext_proc.streams_started").bytes();
    let stats = http1::try_exchange(admin, &request).await.expect("Envoy's admin interface").json();
    let values = stats["stats"].as_array().cloned().unwrap_or_default();
    values.iter().filter_map(|stat| stat["value"].as_u64()).sum()
}
