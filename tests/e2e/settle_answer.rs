//! Limits that settle by the body of the answer: the real Envoy shows the answer to the response phase, carries what was seen of it
//! to its access log, and the access log settles.

use super::harness::authz::{Grant, Settings, token};
use super::harness::hand::{Client, Hand};
use super::harness::http1::{Request, Response};
use super::harness::message;
use super::harness::stack::{Options, Stack};
use super::harness::until;

/// Only what a policy asks for is looked at.
const CONFIG: &str = "response: {record: policy}\n";
const POLICY: &str = r#"
version: "2"
default: deny
counters:
  public_ingest: {window: {lifetime: {idle: 30m}}, scope: grant}
tools:
  plain: {limits: [{counter: plain, window: day, scope: grant, max: 9}]}
  tokens: {limits: [{counter: tokens, window: day, scope: grant, max: 100000, increment_from: result._meta.usage.total_tokens, hold: 400}]}
  booking: {limits: [{counter: bookings, window: day, scope: grant, max: 100, refund_on: [protocol_error, is_error]}]}
  read: {limits: [{counter: public_ingest, mode: track, increment_from: response.bytes, hold: 51200}]}
  post: {limits: [{counter: public_ingest, mode: gate, max: 51200}]}
"#;

const JSON: &str = "content-type: application/json\r\nconnection: close\r\n";
const STREAMS: &str = "cluster.mcp_authz_responses.upstream_rq_total";

async fn stack(hand: &Hand, retry: Option<&'static str>) -> Stack {
    let authz = Settings {
        config: CONFIG.to_owned(),
        policies: vec![("main.yaml".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    Stack::start(&Options { authz, upstream: Some(hand.address), retry, ..Options::default() }).await
}

fn call(tool: &str) -> Request {
    Request::post("/mcp", message::call(tool, "{}")).bearer(&token("agent"))
}

fn result(inside: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{inside}}}}}"#)
}

fn error(code: i32) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"no"}}}}"#)
}

fn used(tokens: &str) -> String {
    result(&format!(r#""content":[],"_meta":{{"usage":{{"total_tokens":{tokens}}}}}"#))
}

/// A call, and the server's answer to it.
async fn ask(stack: &Stack, hand: &mut Hand, tool: &str, status: &str, body: &str) -> Response {
    let request = call(tool);
    let (response, ()) = tokio::join!(stack.send(&request), async {
        hand.next().await.answer(status, JSON, body).await;
    });
    response
}

async fn value(stack: &Stack, series: &str) -> u64 {
    let page = stack.authz.admin("/metrics").await.text();
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
}

/// Units that were charged and did not come back.
async fn spent(stack: &Stack, counter: &str) -> u64 {
    let of = |outcome: &str| {
        format!("mcp_authz_quota_units_total{{policy=\"main\",counter=\"{counter}\",outcome=\"{outcome}\"}} ")
    };
    value(stack, &of("held")).await.saturating_sub(value(stack, &of("refunded")).await)
}

/// Waits until Envoy's access log has ended so many calls.
async fn ended(stack: &Stack, calls: u64) {
    until(&format!("{calls} calls have ended"), async || {
        let page = stack.authz.admin("/metrics").await.text();
        let of = |line: &str| {
            let (outcome, n) = line.strip_prefix("mcp_authz_settlements_total{outcome=\"")?.split_once("\"} ")?;
            (outcome != "renewed").then(|| n.parse::<u64>().expect("a count"))
        };
        (page.lines().filter_map(of).sum::<u64>() == calls).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_settles_what_was_held() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, None).await;
    let mut calls = 0;
    let mut total = 0;
    for (status, body, cost) in [
        ("200 OK", used("7"), 7),
        ("200 OK", used("7.5"), 8),
        ("200 OK", used("0"), 0),
        ("200 OK", used("1500"), 1_500),
        // Nothing that could be read.
        ("200 OK", used("-5"), 400),
        ("200 OK", used("\"5\""), 400),
        ("200 OK", result(""), 400),
        ("200 OK", error(-32603), 400),
        // A server that fails cannot lower what was held, but raise it.
        ("500 Internal Server Error", used("7"), 400),
        ("503 Service Unavailable", used("900"), 900),
    ] {
        let response = ask(&stack, &mut hand, "tokens", status, &body).await;
        assert_eq!(response.text(), body, "nothing is changed");
        (calls, total) = (calls + 1, total + cost);
        ended(&stack, calls).await;
        assert_eq!(spent(&stack, "tokens").await, total, "{status} {body}");
    }
    assert_eq!(value(&stack, "mcp_authz_answers_unseen_total ").await, 0);
    let streams = stack.envoy.stat(STREAMS).await;
    assert_eq!(streams, calls, "each of them was looked at");
    ask(&stack, &mut hand, "plain", "200 OK", &result("")).await;
    ended(&stack, calls + 1).await;
    assert_eq!((stack.envoy.stat(STREAMS).await, spent(&stack, "plain").await), (streams, 1), "and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_failed_cost_nothing_where_the_limit_says_so() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, None).await;
    let (mut calls, mut total) = (0, 0);
    for (status, body, cost) in [
        ("200 OK", result(r#""isError":true,"content":[]"#), 0),
        ("200 OK", error(-32602), 0),
        ("200 OK", error(-32601), 0),
        ("400 Bad Request", error(-32600), 0),
        ("404 Not Found", error(-32601), 0),
        ("200 OK", error(-32603), 1),
        ("200 OK", error(-32000), 1),
        ("200 OK", result(r#""isError":false,"content":[]"#), 1),
        ("500 Internal Server Error", error(-32602), 1),
        ("502 Bad Gateway", result(r#""isError":true"#), 1),
    ] {
        ask(&stack, &mut hand, "booking", status, &body).await;
        (calls, total) = (calls + 1, total + cost);
        ended(&stack, calls).await;
        assert_eq!(spent(&stack, "bookings").await, total, "{status} {body}");
    }
    let audit = stack.everything_said(&token("agent")).await;
    let records =
        |part: &str| audit.lines().filter(|line| line.contains("\"settlement\"") && line.contains(part)).count();
    assert_eq!((records(r#""answer":"tool_error""#), records(r#""answer":"protocol_error""#)), (1, 4), "{audit}");
}

/// What was seen of a stream counts once the answer has been in it, whatever becomes of the rest; before that nothing does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_settles_by_the_answer_in_it() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, None).await;
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#;
    let request = call("tokens");
    let (response, ()) = tokio::join!(stack.send(&request), async {
        let mut asked = hand.next().await;
        asked.begin("200 OK", "text/event-stream").await;
        asked.chunk(format!("data: {progress}\n\n")).await;
        asked.chunk(format!("data: {}\n\n", used("31"))).await;
        asked.end().await;
    });
    assert_eq!(response.status, 200);
    ended(&stack, 1).await;
    assert_eq!(spent(&stack, "tokens").await, 31);
    // The caller leaves before the answer.
    let mut client = Client::send(&request, stack.envoy.address).await;
    let mut asked = hand.next().await;
    asked.begin("200 OK", "text/event-stream").await;
    asked.chunk(format!("data: {progress}\n\n")).await;
    client.until("notifications/progress").await;
    drop(client);
    ended(&stack, 2).await;
    assert_eq!(spent(&stack, "tokens").await, 31 + 400, "it may have run");
    assert_eq!(value(&stack, "mcp_authz_answers_unseen_total ").await, 1);
    // The caller leaves after it, while the stream goes on.
    let mut client = Client::send(&request, stack.envoy.address).await;
    let mut asked = hand.next().await;
    asked.begin("200 OK", "text/event-stream").await;
    asked.chunk(format!("data: {}\n\n", used("5"))).await;
    client.until("total_tokens").await;
    drop(client);
    ended(&stack, 3).await;
    assert_eq!(spent(&stack, "tokens").await, 31 + 400 + 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_attempts_each_but_the_last_costs_the_hold() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, Some("{retry_on: 5xx, num_retries: 2}")).await;
    for (tool, counter, last, cost) in
        [("tokens", "tokens", used("30"), 400 + 30), ("booking", "bookings", error(-32602), 1)]
    {
        let request = call(tool);
        let (response, ()) = tokio::join!(stack.send(&request), async {
            hand.next().await.answer("500 Internal Server Error", JSON, used("1")).await;
            hand.next().await.answer("200 OK", JSON, &last).await;
        });
        assert_eq!((response.status, response.text()), (200, last));
        until("it is settled", async || (spent(&stack, counter).await == cost).then_some(())).await;
    }
    ended(&stack, 2).await;
    assert_eq!((spent(&stack, "tokens").await, spent(&stack, "bookings").await), (430, 1));
}

/// Seed of the limit: whoever has pulled 50 KB of public text does not post, also not while it is being pulled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_public_text_closes_the_way_out() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, None).await;
    let denied = async |stack: &Stack| {
        let text = stack.send(&call("post")).await.text();
        assert!(text.contains("[POLICY DENIED]") && text.contains("quota_exhausted"), "{text}");
    };
    let page = |bytes: usize| {
        let frame = result(r#""content":[{"type":"text","text":""}]"#);
        frame.replace(r#""text":"""#, &format!(r#""text":"{}""#, "x".repeat(bytes - frame.len())))
    };
    ask(&stack, &mut hand, "post", "200 OK", &result("")).await;
    // Two pages at once, and an attempt to post beside each of them.
    let mut first = Client::send(&call("read"), stack.envoy.address).await;
    let mut one = hand.next().await;
    let mut second = Client::send(&call("read"), stack.envoy.address).await;
    let mut other = hand.next().await;
    denied(&stack).await;
    one.answer("200 OK", JSON, page(1_000)).await;
    first.until("xxx").await;
    until("one page has come back", async || (spent(&stack, "public_ingest").await == 52_200).then_some(())).await;
    denied(&stack).await;
    other.answer("200 OK", JSON, page(50_199)).await;
    second.until("xxx").await;
    until("both have", async || (spent(&stack, "public_ingest").await == 51_199).then_some(())).await;
    ask(&stack, &mut hand, "post", "200 OK", &result("")).await;
    ask(&stack, &mut hand, "read", "200 OK", &page(100)).await;
    until("so has the third", async || (spent(&stack, "public_ingest").await == 51_299).then_some(())).await;
    denied(&stack).await;
}
