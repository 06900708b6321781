//! What becomes of the units of a call, by how it ended: with the real Envoy as the only witness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use test_redis::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::harness::authz::{Grant, Settings, token};
use super::harness::envoy::{self, Envoy};
use super::harness::http1::Request;
use super::harness::message::{self, Said};
use super::harness::rude::{Manner, Rude};
use super::harness::stack::{Options, Stack};
use super::harness::{free_address, until};

/// One unit a day for each tool, and what the name says.
const POLICY: &str = r#"
version: "2"
default: deny
tools:
  plain: {limits: [{counter: plain, window: day, scope: grant, max: 1}]}
  admitted: {limits: [{counter: admitted, window: day, scope: grant, max: 1, count_on: admitted}]}
  success: {limits: [{counter: success, window: day, scope: grant, max: 1, count_on: success}]}
  on_5xx: {limits: [{counter: on_5xx, window: day, scope: grant, max: 1, refund_on: [upstream_5xx]}]}
  on_reset: {limits: [{counter: on_reset, window: day, scope: grant, max: 1, refund_on: [reset]}]}
  on_timeout: {limits: [{counter: on_timeout, window: day, scope: grant, max: 1, refund_on: [timeout]}]}
  thrice: {limits: [{counter: thrice, window: day, scope: grant, max: 3}]}
  many: {limits: [{counter: many, window: lifetime, scope: grant, max: 500}]}
  storm: {limits: [{counter: storm, window: lifetime, scope: grant, max: 1500}]}
  slots: {limits: [{counter: slots, window: in_flight, scope: grant, max: 2}]}
  leased: {limits: [{counter: leased, window: {in_flight: {lease: 2s}}, scope: grant, max: 1}]}
  both:
    limits:
    - {counter: kept, window: day, scope: grant, max: 1, count_on: admitted}
    - {counter: given_back, window: day, scope: grant, max: 1}
"#;

fn settings() -> Settings {
    Settings {
        policies: vec![("main.yaml".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    }
}

fn options(upstream: std::net::SocketAddr) -> Options {
    Options { authz: settings(), upstream: Some(upstream), ..Options::default() }
}

fn call(tool: &str) -> Request {
    Request::post("/mcp", message::call(tool, "{}")).bearer(&token("agent"))
}

async fn says(stack: &Stack, tool: &str) -> Said {
    message::said(&stack.send(&call(tool)).await)
}

/// Sends a call on a connection of its own and does not wait for the answer.
async fn begin(stack: &Stack, tool: &str) -> TcpStream {
    let mut stream = TcpStream::connect(stack.envoy.address).await.expect("Envoy listens");
    stream.write_all(&call(tool).bytes()).await.expect("Envoy reads");
    stream
}

/// The values of a family, by the value of `outcome`; of several series the sum.
async fn outcomes(stack: &Stack, series: &str) -> BTreeMap<String, u64> {
    let page = stack.authz.admin("/metrics").await.text();
    let mut out = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with(series)) {
        let (labels, value) = line.rsplit_once(' ').expect("a value");
        let outcome = labels.split("outcome=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        *out.entry(outcome.to_owned()).or_default() += value.parse::<u64>().expect("a count");
    }
    out
}

async fn settlements(stack: &Stack) -> BTreeMap<String, u64> {
    let mut all = outcomes(stack, "mcp_authz_settlements_total").await;
    all.retain(|_, n| *n > 0);
    all
}

/// Waits until the settlements are these.
async fn settled(stack: &Stack, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> = expected.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    until(&format!("the settlements are {expected:?}"), async || (settlements(stack).await == expected).then_some(()))
        .await;
}

fn denied(said: &Said) -> bool {
    matches!(said, Said::Denied { reason, .. } if reason == "quota_exhausted")
}

/// One row of the table: what the upstream does to the first call, what is settled, and whether a second call may go.
async fn row(stack: &Stack, rude: &Rude, tool: &str, manner: Manner, outcome: &str, comes_back: bool) {
    let before = settlements(stack).await;
    rude.behave(manner);
    let said = says(stack, tool).await;
    assert!(!denied(&said), "{tool} {manner:?}: {said:?}");
    let mut expected = before.clone();
    *expected.entry(outcome.to_owned()).or_default() += 1;
    until(&format!("{tool} {manner:?} is {outcome}"), async || {
        let now = settlements(stack).await;
        (now != before).then(|| assert_eq!(now, expected, "{tool} {manner:?}"))
    })
    .await;
    rude.behave(Manner::Answer);
    assert_eq!(denied(&says(stack, tool).await), !comes_back, "{tool} {manner:?}");
    // The second call is settled too, where it was let go.
    if comes_back {
        *expected.entry("confirmed".to_owned()).or_default() += 1;
        until("the second call is settled", async || (settlements(stack).await == expected).then_some(())).await;
    }
}

/// Whether a record of a settlement has all of these members.
fn is_settled(audit: &str, members: &[&str]) -> bool {
    let mut lines = audit.lines().filter(|line| line.contains("\"event_type\":\"settlement\""));
    lines.any(|line| members.iter().all(|member| line.contains(member)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_stays_spent_unless_the_limit_says_otherwise() {
    let rude = Rude::start().await;
    let stack = Stack::start(&options(rude.address)).await;
    row(&stack, &rude, "plain", Manner::Close, "unknown", false).await;
    row(&stack, &rude, "on_reset", Manner::Close, "refunded", true).await;
    row(&stack, &rude, "on_5xx", Manner::Fail, "refunded", true).await;
    row(&stack, &rude, "on_timeout", Manner::Fail, "confirmed", false).await;
    row(&stack, &rude, "success", Manner::Fail, "refunded", true).await;
    row(&stack, &rude, "admitted", Manner::Answer, "confirmed", false).await;
    let audit = stack.everything_said(&token("agent")).await;
    for fate in ["reset", "answered"] {
        assert!(is_settled(&audit, &["\"settled\":\"refunded\"", &format!("\"fate\":\"{fate}\"")]), "{audit}");
    }
    let unknown = ["\"settled\":\"unknown\"", "\"fate\":\"reset\"", "\"attempts\":\"1\""];
    assert!(is_settled(&audit, &unknown), "{audit}");
    let log = stack.envoy.process.output();
    assert!(log.contains(r#""decision":"allow""#) && !log.contains("settle"), "no token in Envoy's own log: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_stays_spent_unless_the_limit_says_otherwise() {
    let rude = Rude::start().await;
    let stack = Stack::start(&Options { route_timeout: "0.3s", ..options(rude.address) }).await;
    row(&stack, &rude, "plain", Manner::Hang, "unknown", false).await;
    row(&stack, &rude, "on_timeout", Manner::Hang, "refunded", true).await;
    row(&stack, &rude, "success", Manner::Hang, "refunded", true).await;
    row(&stack, &rude, "on_reset", Manner::Hang, "unknown", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_sent_comes_back() {
    let stack = Stack::start(&options(free_address())).await;
    for n in 1..=5 {
        assert_eq!(says(&stack, "plain").await, Said::Plain(503), "Envoy's own answer, not a denial");
        settled(&stack, &[("refunded", n)]).await;
    }
    assert_eq!(says(&stack, "admitted").await, Said::Plain(503));
    settled(&stack, &[("refunded", 5), ("confirmed", 1)]).await;
    assert!(denied(&says(&stack, "admitted").await));
    // One call gives one counter back and keeps the other.
    assert_eq!(says(&stack, "both").await, Said::Plain(503));
    settled(&stack, &[("refunded", 6), ("confirmed", 1)]).await;
    let units = async |counter: &str| {
        let series = format!(r#"mcp_authz_quota_units_total{{policy="main",counter="{counter}""#);
        let units = outcomes(&stack, &series).await;
        units.get("held").copied().unwrap_or_default() - units.get("refunded").copied().unwrap_or_default()
    };
    assert_eq!((units("kept").await, units("given_back").await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_and_free_calls_settle_nothing() {
    let rude = Rude::start().await;
    let stack = Stack::start(&options(rude.address)).await;
    assert_eq!(says(&stack, "plain").await, Said::Result);
    settled(&stack, &[("confirmed", 1)]).await;
    for _ in 0..3 {
        assert!(denied(&says(&stack, "plain").await));
    }
    assert_eq!(says(&stack, "slots").await, Said::Result);
    // Entries come in order, so an entry of a denial would have come before this one.
    settled(&stack, &[("confirmed", 2)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_has_spent_its_call() {
    let rude = Rude::start().await;
    let stack = Stack::start(&options(rude.address)).await;
    rude.behave(Manner::Hang);
    let calls = [begin(&stack, "success").await, begin(&stack, "plain").await];
    until("both calls run", async || (rude.arrived() == 2).then_some(())).await;
    drop(calls);
    settled(&stack, &[("unknown", 2)]).await;
    for tool in ["success", "plain"] {
        assert!(denied(&says(&stack, tool).await), "{tool}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_hold_their_slots_and_free_them_however_they_end() {
    let rude = Rude::start().await;
    let stack = Stack::start(&options(rude.address)).await;
    rude.behave(Manner::Hang);
    let first = begin(&stack, "slots").await;
    until("the first call runs", async || (rude.arrived() == 1).then_some(())).await;
    rude.behave(Manner::Stream);
    let mut second = begin(&stack, "slots").await;
    let mut head = vec![0; 12];
    second.read_exact(&mut head).await.expect("the stream begins");
    assert_eq!(head, b"HTTP/1.1 200");
    assert!(denied(&says(&stack, "slots").await), "both slots are taken");
    assert!(denied(&says(&stack, "slots").await), "a denial takes none");
    drop(second);
    settled(&stack, &[("confirmed", 1)]).await;
    rude.behave(Manner::Answer);
    assert_eq!(says(&stack, "slots").await, Said::Result, "the slot of the stream is free");
    drop(first);
    settled(&stack, &[("confirmed", 2), ("unknown", 1)]).await;
    rude.behave(Manner::Hang);
    let before = rude.arrived();
    let _calls = [begin(&stack, "slots").await, begin(&stack, "slots").await];
    until("both slots are taken again", async || (rude.arrived() == before + 2).then_some(())).await;
}

/// Concurrent callers against a limit of two at a time: the upstream never sees three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_calls_run_at_once_than_the_limit_says() {
    let rude = Rude::start().await;
    let stack = Arc::new(Stack::start(&options(rude.address)).await);
    rude.behave(Manner::Hang);
    for round in 1..=3 {
        let refused = Arc::new(AtomicUsize::new(0));
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let (stack, refused) = (Arc::clone(&stack), Arc::clone(&refused));
                tokio::spawn(async move {
                    let mut stream = begin(&stack, "slots").await;
                    // A call that runs has no answer; it ends with this task.
                    if stream.read_exact(&mut [0; 12]).await.is_ok() {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        until("two calls run and all others are denied", async || {
            (rude.arrived() >= 2 * round && refused.load(Ordering::SeqCst) >= 18).then_some(())
        })
        .await;
        assert_eq!((rude.arrived(), refused.load(Ordering::SeqCst)), (2 * round, 18));
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        let ended = u64::try_from(2 * round).expect("small");
        settled(&stack, &[("unknown", ended)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_lasts_keeps_its_slot_beyond_the_lease() {
    let rude = Rude::start().await;
    let stack = Stack::start(&Options { log_interval: "0.5s", ..options(rude.address) }).await;
    rude.behave(Manner::Hang);
    let running = begin(&stack, "leased").await;
    until("it runs", async || (rude.arrived() == 1).then_some(())).await;
    // More renewals than fit into one lease.
    until("it was renewed again and again", async || {
        let renewed = settlements(&stack).await.get("renewed").copied().unwrap_or_default();
        assert!(denied(&says(&stack, "leased").await), "its slot is its own");
        (renewed >= 6).then_some(())
    })
    .await;
    drop(running);
    rude.behave(Manner::Answer);
    until("the slot is free", async || (says(&stack, "leased").await == Said::Result).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_envoy_leaves_units_spent_and_slots_to_their_lease() {
    let rude = Rude::start().await;
    let mut stack = Stack::start(&options(rude.address)).await;
    rude.behave(Manner::Hang);
    let calls = [begin(&stack, "plain").await, begin(&stack, "leased").await];
    until("both calls run", async || (rude.arrived() == 2).then_some(())).await;
    stack.envoy.process.signal("KILL").await;
    stack.envoy.process.ended().await;
    drop(calls);
    until("the upstream has noticed", async || (rude.left() == 2).then_some(())).await;
    rude.behave(Manner::Answer);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let settings = envoy::Settings {
        authorizer: stack.authz.listener.clone(),
        upstream: rude.address,
        ..envoy::Settings::shipped()
    };
    stack.envoy = Envoy::start(dir.path(), &settings).await;
    assert!(denied(&says(&stack, "plain").await), "nobody knows whether it ran");
    assert!(!settlements(&stack).await.contains_key("unknown"), "no entry ever came");
    until("the lease has ended", async || (says(&stack, "leased").await == Said::Result).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_during_the_decision_has_spent_nothing() {
    let rude = Rude::start().await;
    let stack = Stack::start(&Options { check_timeout: "20s", ..options(rude.address) }).await;
    stack.authz.process.signal("STOP").await;
    let calls: Vec<TcpStream> = futures(&stack, "many", 20).await;
    until("every Check is on its way", async || (active_checks(&stack).await == calls.len()).then_some(())).await;
    drop(calls);
    until("Envoy has given up", async || (active_checks(&stack).await == 0).then_some(())).await;
    stack.authz.process.signal("CONT").await;
    // All 500 are still there.
    let allowed = concurrent(&stack, "many", 501, |_| String::new()).await;
    assert_eq!((allowed, rude.arrived()), (500, 500));
}

async fn futures(stack: &Stack, tool: &str, count: usize) -> Vec<TcpStream> {
    let mut out = Vec::new();
    for _ in 0..count {
        out.push(begin(stack, tool).await);
    }
    out
}

/// Checks that Envoy waits for.
async fn active_checks(stack: &Stack) -> usize {
    const NAME: &str = "cluster.mcp_authz.upstream_rq_active: ";
    let stats = Request::new("GET", "/stats?filter=cluster.mcp_authz.upstream_rq_active").send(stack.envoy.admin).await;
    stats.text().lines().find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok()).unwrap_or_default()
}

/// Sends that many calls, 32 at a time; how many were let through.
async fn concurrent(stack: &Stack, tool: &str, count: usize, request_id: impl Fn(usize) -> String) -> usize {
    let (next, address) = (Arc::new(AtomicUsize::new(0)), stack.envoy.address);
    let requests: Arc<Vec<Request>> = Arc::new(
        (0..count)
            .map(|n| match request_id(n) {
                id if id.is_empty() => call(tool),
                id => call(tool).header("x-request-id", id),
            })
            .collect(),
    );
    let workers: Vec<_> = (0..32)
        .map(|_| {
            let (next, requests) = (Arc::clone(&next), Arc::clone(&requests));
            tokio::spawn(async move {
                let mut allowed = 0_usize;
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::SeqCst)) {
                    match message::said(&request.send(address).await) {
                        Said::Result => allowed += 1,
                        said @ (Said::Accepted | Said::Denied { .. } | Said::Error { .. } | Said::Plain(_)) => {
                            assert!(denied(&said), "{said:?}");
                        }
                    }
                }
                allowed
            })
        })
        .collect();
    let mut allowed = 0;
    for worker in workers {
        allowed += worker.await.expect("no panic");
    }
    allowed
}

/// Nothing that a caller chooses makes two calls one: neither `x-request-id` nor the id of the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_look_alike_are_charged_one_by_one() {
    let rude = Rude::start().await;
    let stack = Stack::start(&options(rude.address)).await;
    let allowed = concurrent(&stack, "many", 520, |_| "the-same-for-all".to_owned()).await;
    assert_eq!((allowed, rude.arrived()), (500, 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_cannot_make_envoy_send_its_call_again_or_give_up_on_it() {
    let rude = Rude::start().await;
    let stack = Stack::start(&options(rude.address)).await;
    rude.behave(Manner::Fail);
    let request = call("thrice").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "3");
    assert_eq!(stack.send(&request).await.status, 500);
    settled(&stack, &[("confirmed", 1)]).await;
    assert_eq!(rude.arrived(), 1, "sent once");
    rude.behave(Manner::Hang);
    let mut stream = TcpStream::connect(stack.envoy.address).await.expect("Envoy listens");
    let request = call("on_timeout").header("x-envoy-upstream-rq-timeout-ms", "1");
    stream.write_all(&request.bytes()).await.expect("Envoy reads");
    until("it runs", async || (rude.arrived() == 2).then_some(())).await;
    drop(stream);
    settled(&stack, &[("confirmed", 1), ("unknown", 1)]).await;
    assert!(denied(&says(&stack, "on_timeout").await), "no timeout of its own making, so nothing comes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_time_that_envoy_sends_a_call_again_is_charged() {
    let rude = Rude::start().await;
    let retry = Some("{retry_on: 5xx, num_retries: 2}");
    let stack = Stack::start(&Options { retry, ..options(rude.address) }).await;
    rude.behave(Manner::Fail);
    assert_eq!(stack.send(&call("thrice")).await.status, 500);
    settled(&stack, &[("surplus", 1)]).await;
    assert_eq!(rude.arrived(), 3);
    assert!(denied(&says(&stack, "thrice").await), "one call has cost all three");
    let audit = stack.everything_said(&token("agent")).await;
    let surplus = ["\"settled\":\"surplus\"", "\"fate\":\"answered\"", "\"attempts\":\"3\""];
    assert!(is_settled(&audit, &surplus), "{audit}");
}

/// The last attempt does not speak for those before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_failed_to_connect_does_not_hide_one_that_was_sent() {
    let rude = Rude::start().await;
    let retry = Some("{retry_on: \"reset,connect-failure\", num_retries: 2}");
    let stack = Stack::start(&Options { retry, ..options(rude.address) }).await;
    rude.behave(Manner::Vanish);
    assert_eq!(says(&stack, "thrice").await, Said::Plain(503));
    assert_eq!(rude.arrived(), 1);
    settled(&stack, &[("surplus", 1)]).await;
    assert!(denied(&says(&stack, "thrice").await), "each attempt may have run");
    // Nobody listens any more: every attempt fails to connect, and nothing is ever sent.
    for n in 1..=3 {
        assert_eq!(says(&stack, "plain").await, Said::Plain(503));
        settled(&stack, &[("surplus", 1), ("refunded", n)]).await;
    }
}

/// The same over a real Redis.
fn on_redis(upstream: std::net::SocketAddr, redis: &RedisServer) -> Options {
    let config = format!("\nledger: {{redis: {{url: \"redis://127.0.0.1:{}\", allow_unsafe: true}}}}\n", redis.port());
    Options { authz: Settings { config, ..settings() }, ..options(upstream) }
}

/// Starts it and waits until a store that nobody has seen before is trusted.
async fn trusted(options: &Options) -> Stack {
    let stack = Stack::start(options).await;
    until("calls are counted", async || (says(&stack, "many").await == Said::Result).then_some(())).await;
    settled(&stack, &[("confirmed", 1)]).await;
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_the_same_comes_back() {
    let (rude, redis) = (Rude::start().await, RedisServer::start(&[]));
    let stack = trusted(&on_redis(rude.address, &redis)).await;
    row(&stack, &rude, "plain", Manner::Close, "unknown", false).await;
    row(&stack, &rude, "on_reset", Manner::Close, "refunded", true).await;
    row(&stack, &rude, "success", Manner::Fail, "refunded", true).await;
    row(&stack, &rude, "admitted", Manner::Answer, "confirmed", false).await;
    rude.behave(Manner::Vanish);
    assert_eq!(says(&stack, "slots").await, Said::Plain(503));
    let before = settlements(&stack).await.get("refunded").copied().unwrap_or_default();
    assert_eq!(says(&stack, "on_timeout").await, Said::Plain(503), "nobody listens any more");
    until("it comes back", async || (settlements(&stack).await.get("refunded").copied() > Some(before)).then_some(()))
        .await;
    assert_eq!(says(&stack, "on_timeout").await, Said::Plain(503));
}

/// No process remembers a call: whichever is there when it ends can settle it.
async fn settled_by_the_next_process(options: &Options, rude: &Rude) {
    let mut stack = trusted(options).await;
    rude.behave(Manner::Hang);
    let calls = [begin(&stack, "slots").await, begin(&stack, "slots").await];
    until("both slots are taken", async || (rude.arrived() == 3).then_some(())).await;
    stack.authz.process.signal("KILL").await;
    stack.authz.process.ended().await;
    stack.authz.restart().await;
    until("Envoy has found the new process", async || denied(&says(&stack, "slots").await).then_some(())).await;
    assert_eq!(settlements(&stack).await, BTreeMap::new(), "it has settled nothing yet");
    drop(calls);
    settled(&stack, &[("unknown", 2)]).await;
    rude.behave(Manner::Answer);
    assert_eq!(says(&stack, "slots").await, Said::Result, "the slots are free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_outlives_the_process_with_redis() {
    let (rude, redis) = (Rude::start().await, RedisServer::start(&[]));
    settled_by_the_next_process(&on_redis(rude.address, &redis), &rude).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_outlives_the_process_with_the_embedded_ledger() {
    let rude = Rude::start().await;
    settled_by_the_next_process(&options(rude.address), &rude).await;
}

/// What Redis does not answer is asked again, and a refund that comes late is still one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_waits_for_a_redis_that_stands_still() {
    let (rude, redis) = (Rude::start().await, RedisServer::start(&[]));
    let stack = trusted(&Options { route_timeout: "1s", ..on_redis(rude.address, &redis) }).await;
    rude.behave(Manner::Hang);
    let call = begin(&stack, "on_timeout").await;
    until("it runs", async || (rude.arrived() == 2).then_some(())).await;
    redis.stop();
    until("Envoy has given up on it", async || (rude.left() == 1).then_some(())).await;
    redis.cont();
    settled(&stack, &[("confirmed", 1), ("refunded", 1)]).await;
    drop(call);
    rude.behave(Manner::Answer);
    until("Redis answers in time again", async || (says(&stack, "on_timeout").await == Said::Result).then_some(()))
        .await;
}

/// 2,000 callers, of which a third vanish at random moments, against a limit of 1,500: what ran was counted. What is counted
/// and did not run are calls whose caller left between the decision and the connection to the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_callers_that_vanish_no_more_runs_than_is_counted() {
    const CALLS: usize = 2_000;
    const MAX: usize = 1_500;
    let rude = Rude::start().await;
    let stack = Stack::start(&Options { workers: 2, ..options(rude.address) }).await;
    let (next, address) = (Arc::new(AtomicUsize::new(0)), stack.envoy.address);
    let vanished = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..24_u64)
        .map(|worker| {
            let (next, vanished) = (Arc::clone(&next), Arc::clone(&vanished));
            // Numbers that look random and are the same each time.
            let mut state = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x5bd1_e995);
            tokio::spawn(async move {
                while next.fetch_add(1, Ordering::SeqCst) < CALLS {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let random = state >> 33;
                    let mut stream = TcpStream::connect(address).await.expect("Envoy listens");
                    stream.write_all(&call("storm").bytes()).await.expect("Envoy reads");
                    if random % 3 == 0 {
                        // Vanishes while its call is being decided, sent or answered.
                        tokio::time::sleep(std::time::Duration::from_micros(random / 3 % 20_000)).await;
                        vanished.fetch_add(1, Ordering::SeqCst);
                    } else {
                        let mut answer = Vec::new();
                        drop(stream.read_to_end(&mut answer).await);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("no panic");
        assert!(rude.arrived() <= MAX);
    }
    // What is left is given out, so that the upstream's own count tells what was counted without having run.
    let last = concurrent(&stack, "storm", MAX, |_| String::new()).await;
    assert!(rude.arrived() <= MAX, "{} ran", rude.arrived());
    let mut everything = settlements(&stack).await;
    everything.retain(|name, _| name != "confirmed" && name != "unknown" && name != "refunded");
    assert!(everything.is_empty(), "{everything:?}");
    let (lost, vanished) = (MAX - rude.arrived(), vanished.load(Ordering::SeqCst));
    assert!(lost < vanished, "{lost} units lost to {vanished} callers that left; {last} calls came after the storm");
}
