//! Responses through the real Envoy and the real authorizer: what is looked at, what goes out, and what happens when it cannot
//! be judged.

use super::harness::authz::{Grant, Settings, token};
use super::harness::hand::{Client, Hand};
use super::harness::http1::{Request, Response};
use super::harness::message;
use super::harness::stack::{Options, Stack};
use super::harness::until;

/// Nothing is hidden; nothing of a response concerns it.
const OPEN: &str = "version: '2'\ndefault: allow\n";
/// Lists are filtered.
const HIDING: &str = "version: '2'\ndefault: allow\nhide: [secret_tool]\n";

fn settings(config: &str) -> Settings {
    Settings {
        config: config.to_owned(),
        policies: vec![("open.yaml".to_owned(), OPEN.to_owned()), ("hiding.yaml".to_owned(), HIDING.to_owned())],
        grants: vec![Grant::new("open", "open"), Grant::new("hiding", "hiding")],
        ..Settings::default()
    }
}

/// Everything is looked at and recorded.
const ALL: &str = "response: {record: all}\n";

async fn stack(hand: &Hand, config: &str, edits: &'static [(&'static str, &'static str)]) -> Stack {
    let options = Options { authz: settings(config), upstream: Some(hand.address), edits, ..Options::default() };
    Stack::start(&options).await
}

fn call(who: &str) -> Request {
    Request::post("/mcp", message::call("tool", "{}")).bearer(&token(who))
}

async fn send(stack: &Stack, request: Request) -> Response {
    stack.send(&request).await
}

fn list(who: &str) -> Request {
    Request::post("/mcp", message::request("tools/list", "{}")).bearer(&token(who))
}

/// The stream of a session.
fn get(who: &str) -> Request {
    Request::new("GET", "/mcp").header("accept", "text/event-stream").header("mcp-session-id", "s").bearer(&token(who))
}

const STREAMS: &str = "cluster.mcp_authz_responses.upstream_rq_total";
const LIST: &str =
    r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}, {"name":"secret_tool"} ,{"name":"z"}]}}"#;
const RESULT: &str = r#"{"jsonrpc":"2.0", "id":1, "result":{"content":[{"type":"text","text":"caf\u00e9 é"}]} }"#;

/// Waits for the record of the response.
async fn recorded(stack: &Stack, fields: &[&str]) -> String {
    until(&format!("a record with {fields:?}"), async || {
        let out = stack.authz.process.stdout();
        let mut lines = out.lines().filter(|line| line.contains("\"event_type\":\"response\""));
        lines.find(|line| fields.iter().all(|field| line.contains(field))).map(str::to_owned)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_that_need_nothing_open_no_stream() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, "response: {record: policy}\n", &[]).await;
    let ask = async |hand: &mut Hand, request: Request| {
        let (response, ()) = tokio::join!(stack.send(&request), async {
            hand.next().await.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", LIST).await;
        });
        response
    };
    for request in [call("open"), list("open")] {
        let response = ask(&mut hand, request).await;
        assert_eq!((response.status, response.text().as_str()), (200, LIST));
        assert!(response.header("content-length").is_some(), "untouched");
    }
    assert_eq!(stack.envoy.stat(STREAMS).await, 0);
    let response = ask(&mut hand, list("hiding")).await;
    assert_eq!(response.text(), LIST.replace(r#", {"name":"secret_tool"}"#, ""));
    assert_eq!(stack.envoy.stat(STREAMS).await, 1);
    recorded(&stack, &[r#""answer":"ok""#, r#""hidden":"1""#, r#""method":"tools/list""#]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_and_events_pass_byte_for_byte_where_they_are_only_recorded() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, ALL, &[]).await;
    let (response, ()) = tokio::join!(send(&stack, call("open")), async {
        let mut asked = hand.next().await;
        assert!(!asked.head.contains("accept-encoding"), "{}", asked.head);
        asked.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", RESULT).await;
    });
    assert_eq!((response.status, response.text().as_str()), (200, RESULT));
    let record = recorded(&stack, &[r#""answer":"ok""#, r#""method":"tools/call""#]).await;
    let bytes = format!("\"bytes\":\"{}\",", RESULT.len());
    assert!(
        record.contains(&bytes) && record.contains("\"result_sha256\":\"") && record.contains("\"status\":\"200\"")
    );
    let events = format!(": hello\r\n\r\nid: 1\ndata: \n\nevent: message\ndata: {RESULT}\n\n: bye\n\n");
    for cut in [1, 7, 40, events.len()] {
        let (response, ()) = tokio::join!(send(&stack, call("open")), async {
            let mut asked = hand.next().await;
            asked.begin("200 OK", "text/event-stream").await;
            for piece in events.as_bytes().chunks(cut) {
                asked.chunk(piece).await;
            }
            asked.end().await;
        });
        assert_eq!((response.status, response.text()), (200, events.clone()), "in pieces of {cut}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_without_a_body_ends_the_stream_of_it_at_its_head() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, ALL, &[]).await;
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let request = Request::post("/mcp", notification).bearer(&token("open"));
    let (response, ()) = tokio::join!(stack.send(&request), async {
        hand.next().await.answer("202 Accepted", "connection: close\r\n", "").await;
    });
    assert_eq!((response.status, response.text().as_str()), (202, ""));
    recorded(&stack, &[r#""answer":"passed""#, r#""status":"202""#]).await;
    // A body that nobody may read, of an answer that is only recorded: the head says NONE, and the rest costs nothing.
    let (response, ()) = tokio::join!(send(&stack, call("open")), async {
        let mut asked = hand.next().await;
        asked.begin("200 OK", "application/octet-stream").await;
        recorded(&stack, &[r#""answer":"passed""#, r#""status":"200""#]).await;
        assert_eq!(stack.envoy.stat("cluster.mcp_authz_responses.upstream_rq_active").await, 0, "while it still runs");
        asked.chunk("unseen").await;
        asked.end().await;
    });
    assert_eq!((response.status, response.text().as_str()), (200, "unseen"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_and_answers_of_envoy_are_left_as_they_are() {
    // Without the matcher, as on Istio: every response is shown.
    const NO_MATCHER: &[(&str, &str)] =
        &[("path: [{key: response}]", "path: [{key: decision}]"), ("exact: \"1\"", "safe_regex: {regex: \".*\"}")];
    let mut hand = Hand::start().await;
    let stack = stack(&hand, "response: {record: all}\n", NO_MATCHER).await;
    let stranger = stack.send(&Request::post("/mcp", message::call("tool", "{}")).bearer(&token("nobody"))).await;
    assert_eq!(stranger.status, 401);
    assert!(stranger.header("www-authenticate").is_some() && stranger.json()["error"]["code"].is_i64());
    let hidden = Request::post("/mcp", message::call("secret_tool", "{}")).bearer(&token("hiding"));
    let denied = stack.send(&hidden).await;
    assert!(denied.status == 200 && denied.text().contains("[POLICY DENIED]"), "{}", denied.text());
    assert!(stack.envoy.stat(STREAMS).await >= 2, "they were shown");
    // The server is gone: Envoy answers by itself, and the one who asked is told.
    let (response, ()) = tokio::join!(send(&stack, call("open")), async { drop(hand.next().await) });
    assert_eq!(response.status, 503, "{}", response.text());
    until("they are counted", async || {
        let page = stack.authz.admin("/metrics").await.text();
        page.contains("mcp_authz_responses_total{outcome=\"left_alone\",server=\"_unknown\",method=\"_none\"} 2")
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_in_the_middle_is_never_sent_unfiltered() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, ALL, &[]).await;
    let mut client = Client::send(&list("hiding"), stack.envoy.address).await;
    let mut asked = hand.next().await;
    asked.begin("200 OK", "text/event-stream").await;
    asked
        .chunk("event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n")
        .await;
    client.until("notifications/progress").await;
    asked.chunk(format!("event: message\ndata: {}", LIST.get(..70).expect("ASCII"))).await;
    until("the authorizer holds some of it", async || {
        let page = stack.authz.admin("/metrics").await.text();
        let held = page.lines().find_map(|line| line.strip_prefix("mcp_authz_response_held_bytes "))?;
        (held != "0").then_some(())
    })
    .await;
    stack.authz.process.signal("KILL").await;
    let (seen, whole) = client.read_to_end().await;
    assert!(!whole && !seen.contains("\"tools\""), "{seen}");
    // Begun while nobody is there: not sent at all.
    let response = stack.send(&list("hiding")).await;
    assert_eq!(response.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_another_body_mode_everything_is_withheld_and_the_operator_told() {
    for edit in [
        &[("response_body_mode: STREAMED", "response_body_mode: NONE")][..],
        &[("response_body_mode: STREAMED", "response_body_mode: BUFFERED")],
        &[("response_body_mode: STREAMED", "response_body_mode: BUFFERED_PARTIAL")],
        &[("response_body_mode: STREAMED", "response_body_mode: FULL_DUPLEX_STREAMED")],
    ] {
        let mut hand = Hand::start().await;
        let stack = stack(&hand, ALL, edit).await;
        for request in [list("hiding"), call("open")] {
            let (response, ()) = tokio::join!(stack.send(&request), async {
                hand.next()
                    .await
                    .answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", LIST)
                    .await;
            });
            let text = response.text();
            assert!(response.status == 200 && text.contains("[POLICY WITHHELD]") && !text.contains("secret"), "{text}");
            assert_eq!(response.header("content-type"), Some("application/json"));
            assert_eq!(response.json()["id"], 1);
        }
        recorded(&stack, &[r#""answer":"withheld""#, r#""withheld":"mode""#]).await;
        until("the operator is told", async || {
            stack.authz.process.output().contains("response_body_mode: STREAMED").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_response_is_withheld_where_it_has_to_be_read() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, ALL, &[]).await;
    let zipped = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03secret_tool";
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\nconnection: close\r\n";
    let request = list("hiding").header("accept-encoding", "gzip");
    let (response, ()) = tokio::join!(send(&stack, request), async {
        let mut asked = hand.next().await;
        assert!(!asked.head.contains("accept-encoding"), "the server is not asked for it: {}", asked.head);
        asked.answer("200 OK", headers, zipped).await;
    });
    let text = response.text();
    assert!(response.status == 200 && text.contains("[POLICY WITHHELD]") && !text.contains("secret"), "{text}");
    assert_eq!(response.header("content-encoding"), None);
    recorded(&stack, &[r#""answer":"withheld""#, r#""withheld":"encoding""#]).await;
    // Where it is only recorded it passes, and the record says so by what it lacks.
    let (response, ()) = tokio::join!(send(&stack, call("open")), async {
        hand.next().await.answer("200 OK", headers, zipped).await;
    });
    assert_eq!(
        (response.status, &response.body[..], response.header("content-encoding")),
        (200, &zipped[..], Some("gzip"))
    );
}

/// A legacy client has to see that its session is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_server_keeps_its_status() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, ALL, &[]).await;
    for (status, headers, body, withheld) in [
        ("404 Not Found", "content-type: text/plain\r\n", "no such session", false),
        ("404 Not Found", "content-type: text/plain\r\ncontent-encoding: gzip\r\n", "secret_tool", true),
        ("500 Oops", "content-type: application/json\r\n", "{secret_tool", true),
    ] {
        let (response, ()) = tokio::join!(send(&stack, list("hiding")), async {
            hand.next().await.answer(status, &format!("{headers}connection: close\r\n"), body).await;
        });
        let text = response.text();
        assert_eq!(response.status.to_string(), status.get(..3).expect("a code"), "{text}");
        assert_eq!((text == body, text.contains("[POLICY WITHHELD]")), (!withheld, withheld), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_by_trailers_is_sent_or_cut_but_never_unfiltered() {
    let mut hand = Hand::start().await;
    let stack = stack(&hand, ALL, &[]).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut client = Client::send(&list("hiding"), stack.envoy.address).await;
    let mut asked = hand.next().await;
    asked.write(head).await;
    asked.chunk(LIST).await;
    asked.write("0\r\nx-end: yes\r\n\r\n").await;
    let (seen, _) = client.read_to_end().await;
    assert!(!seen.contains("secret_tool"), "{seen}");
}

/// A session's stream may stay open for hours. Each holds a place here, and none of them may hold up a decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_idle_streams_leave_decisions_alone() {
    const STREAMS_OPEN: usize = 400;
    let mut hand = Hand::start().await;
    let stack = stack(&hand, "response: {record: policy}\n", &[]).await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_OPEN {
        let mut client = Client::send(&get("hiding"), stack.envoy.address).await;
        let mut asked = hand.next().await;
        asked.begin("200 OK", "text/event-stream").await;
        asked.chunk(": open\n\n").await;
        client.until(": open").await;
        open.push((client, asked));
    }
    let gauge = format!("mcp_authz_response_streams {STREAMS_OPEN}");
    assert!(stack.authz.admin("/metrics").await.text().lines().any(|line| line == gauge));
    let mut slowest = std::time::Duration::ZERO;
    for _ in 0..50 {
        let began = tokio::time::Instant::now();
        let (response, ()) = tokio::join!(send(&stack, call("open")), async {
            hand.next().await.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", RESULT).await;
        });
        assert_eq!(response.status, 200);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < std::time::Duration::from_secs(1), "{slowest:?}");
    // Each of them still does what it is for.
    for (client, asked) in open.iter_mut().step_by(40) {
        asked.chunk(format!("data: {LIST}\n\n")).await;
        let seen = client.until("\"z\"").await;
        assert!(seen.contains("\"a\"") && !seen.contains("secret_tool"), "{seen}");
    }
    drop(open);
    until("every place is free again", async || {
        let page = stack.authz.admin("/metrics").await.text();
        page.lines().any(|line| line == "mcp_authz_response_streams 0").then_some(())
    })
    .await;
}

/// Had the authorizer ended its streams well, Envoy would let the rest of each response pass unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_cuts_streams_and_lets_nothing_pass() {
    let mut hand = Hand::start().await;
    let mut stack = stack(&hand, "timeouts: {drain_ms: 1000}\n", &[]).await;
    let mut client = Client::send(&get("hiding"), stack.envoy.address).await;
    let mut asked = hand.next().await;
    asked.begin("200 OK", "text/event-stream").await;
    asked.chunk(": open\n\n").await;
    client.until(": open").await;
    stack.authz.process.signal("TERM").await;
    assert!(stack.authz.process.ended().await.success());
    asked.chunk(format!("data: {LIST}\n\n")).await;
    let (seen, whole) = client.read_to_end().await;
    assert!(!whole && !seen.contains("\"tools\""), "{seen}");
    assert!(!stack.authz.process.output().contains("Some calls were cut off"), "within the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_answer_was_reaches_the_settlement() {
    let mut hand = Hand::start().await;
    let policy = "version: '2'\ndefault: deny\ntools:\n  tool: {limits: [{counter: c, window: day, scope: grant, max: 1, refund_on: [is_error]}]}\n";
    let mut settings = settings("response: {record: policy}\n");
    settings.policies.push(("limited.yaml".to_owned(), policy.to_owned()));
    settings.grants.push(Grant::new("limited", "limited"));
    let options = Options { authz: settings, upstream: Some(hand.address), ..Options::default() };
    let stack = Stack::start(&options).await;
    let failed = r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"content":[]}}"#;
    for n in 1..=2 {
        let (response, ()) = tokio::join!(send(&stack, call("limited")), async {
            hand.next().await.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", failed).await;
        });
        assert_eq!(response.text(), failed, "the limit of one a day is free again");
        let line = format!("mcp_authz_settlements_total{{outcome=\"refunded\"}} {n}");
        until(&line, async || {
            stack.authz.admin("/metrics").await.text().lines().any(|shown| shown == line).then_some(())
        })
        .await;
    }
    until("the access log says what it was", async || {
        stack.envoy.process.output().contains("\"answer\":\"tool_error\"").then_some(())
    })
    .await;
    recorded(&stack, &[r#""answer":"tool_error""#]).await;
}

/// What the counter of responses that nobody looked at says.
async fn unseen(stack: &Stack) -> u64 {
    let page = stack.authz.admin("/metrics").await.text();
    let mut lines = page.lines().filter_map(|line| line.strip_prefix("mcp_authz_responses_unseen_total "));
    lines.next().and_then(|value| value.parse().ok()).expect("the counter is there")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_shows_no_responses_is_noticed_and_one_that_does_is_not() {
    const SKIPPED: (&str, &str) =
        (r#"value: {string_match: {exact: "1"}}"#, r#"value: {string_match: {exact: "never"}}"#);
    for (edits, count) in [(&[SKIPPED][..], 1), (&[], 0)] {
        let mut hand = Hand::start().await;
        let stack = stack(&hand, "response: {record: policy}\n", edits).await;
        let (response, ()) = tokio::join!(send(&stack, list("hiding")), async {
            hand.next().await.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", LIST).await;
        });
        assert_eq!(response.text().contains("secret_tool"), count == 1, "{}", response.text());
        if count == 0 {
            // The record is written when the stream of the response ends: an entry of the log would have come as well.
            recorded(&stack, &[r#""method":"tools/list""#]).await;
            assert_eq!(stack.envoy.stat(STREAMS).await, 1);
        } else {
            until("the response is missed", async || (unseen(&stack).await == 1).then_some(())).await;
            let said = "A response was sent to its client although";
            until("it is said", async || stack.authz.process.output().contains(said).then_some(())).await;
        }
        assert_eq!(unseen(&stack).await, count);
    }
}
