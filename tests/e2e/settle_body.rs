//! Limits that settle by the body of the answer, where the access log says what the body said: entries made here, beside tokens
//! that the authorizer gave.

use std::collections::HashMap;

use envoy_types::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, HttpResponseProperties, ResponseFlags};
use envoy_types::pb::google::protobuf::{Duration, Struct, UInt32Value, Value, value::Kind};

use super::als::{Rig, start_with, unsent};
use super::harness::until;

const POLICY: &str = r#"
version: "2"
default: deny
hidden_as: unknown
hide: [secret]
counters:
  public_ingest: {window: {lifetime: {idle: 30m}}, scope: grant}
tools:
  read: {limits: [{counter: public_ingest, mode: track, increment_from: response.bytes, hold: 51200}]}
  post: {limits: [{counter: public_ingest, mode: gate, max: 51200}]}
  tokens: {limits: [{counter: tokens, window: day, scope: grant, max: 1000, increment_from: result._meta.usage.total_tokens, hold: 400}]}
  booking: {limits: [{counter: bookings, window: day, scope: grant, max: 1, refund_on: [protocol_error, is_error]}]}
"#;

async fn start() -> Rig {
    start_with(POLICY).await
}

/// An entry of a call that the server answered with that status, and what was seen of the answer.
fn answered(token: &str, status: u32, seen: &[(&str, &str)]) -> HttpAccessLogEntry {
    let mut entry = unsent(token);
    let common = entry.common_properties.as_mut().expect("properties");
    common.time_to_first_upstream_tx_byte = Some(Duration::default());
    common.time_to_last_upstream_tx_byte = Some(Duration::default());
    common.time_to_first_upstream_rx_byte = Some(Duration::default());
    common.upstream_wire_bytes_sent = 100;
    common.upstream_request_attempt_count = 1;
    if !seen.is_empty() {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields: HashMap<String, Value> =
            seen.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        common.metadata.as_mut().expect("metadata").filter_metadata.insert("mcp_authz".to_owned(), Struct { fields });
    }
    entry.response = Some(HttpResponseProperties {
        response_code: Some(UInt32Value { value: status }),
        response_code_details: "via_upstream".to_owned(),
        ..HttpResponseProperties::default()
    });
    entry
}

fn ok(token: &str, bytes: &str, usage: &str) -> HttpAccessLogEntry {
    let mut seen = vec![("kind", "ok"), ("bytes", bytes)];
    if !usage.is_empty() {
        seen.push(("usage", usage));
    }
    answered(token, 200, &seen)
}

/// Whoever has pulled 50 KB of public text does not post, also not while it is being pulled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_that_was_read_closes_the_way_out() {
    let mut rig = start().await;
    rig.hold("post", "1").await;
    let slow = rig.hold("read", "2").await;
    assert!(rig.is_denied("post", "3").await, "a page is being read");
    rig.log(vec![ok(&slow, "10", "")]).await;
    rig.settled("refunded", 1).await;
    rig.hold("post", "4").await;
    let (first, second) = (rig.hold("read", "5").await, rig.hold("read", "6").await);
    rig.log(vec![ok(&first, "40000", ""), ok(&first, "1", "")]).await;
    rig.settled("refunded", 2).await;
    rig.settled("repeated", 1).await;
    assert!(rig.is_denied("post", "7").await, "another page is still being read");
    rig.log(vec![ok(&second, "11190", "")]).await;
    rig.settled("refunded", 3).await;
    assert!(rig.is_denied("post", "8").await, "51,200 bytes were read");
    let large = rig.hold("read", "9").await;
    rig.log(vec![ok(&large, "900000", "")]).await;
    rig.settled("surplus", 1).await;
    assert!(rig.is_denied("post", "10").await);
}

/// Readers and writers at once: whenever a post is let through, no page is being read and fewer than 50 KB were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_writers_at_once_never_post_beside_an_unfinished_page() {
    let mut rig = start().await;
    let mut settled = 0;
    for round in 0..5_u64 {
        let mut tokens = Vec::new();
        for reader in 0..8 {
            tokens.push(rig.hold("read", &format!("r{round}-{reader}")).await);
        }
        for (index, token) in tokens.iter().enumerate() {
            assert!(rig.is_denied("post", &format!("p{round}-{index}")).await, "{} pages are open", 8 - index);
            rig.log(vec![ok(token, "1000", "")]).await;
            settled += 1;
            rig.settled("refunded", settled).await;
        }
        rig.hold("post", &format!("p{round}")).await;
    }
    // 40,000 bytes by now.
    for reader in 0..11 {
        let token = rig.hold("read", &format!("last-{reader}")).await;
        rig.log(vec![ok(&token, "1000", "")]).await;
        settled += 1;
        rig.settled("refunded", settled).await;
    }
    rig.hold("post", "below").await;
    let token = rig.hold("read", "over").await;
    rig.log(vec![ok(&token, "200", "")]).await;
    rig.settled("refunded", settled + 1).await;
    assert!(rig.is_denied("post", "above").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_charged_as_the_result_says() {
    let mut rig = start().await;
    let (first, second) = (rig.hold("tokens", "1").await, rig.hold("tokens", "2").await);
    assert!(rig.is_denied("tokens", "3").await, "800 of 1000 are held");
    rig.log(vec![ok(&first, "99", "tokens=7")]).await;
    rig.settled("refunded", 1).await;
    rig.hold("tokens", "4").await;
    rig.log(vec![ok(&second, "99", "tokens=1500")]).await;
    rig.settled("surplus", 1).await;
    assert!(rig.is_denied("tokens", "5").await, "more was used than there is");
    assert_eq!(rig.units("tokens", "held").await - rig.units("tokens", "refunded").await, 7 + 1_500 + 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_failed_cost_nothing_and_all_others_do() {
    let mut rig = start().await;
    for (n, kind) in ["protocol_error", "tool_error"].into_iter().enumerate() {
        let token = rig.hold("booking", kind).await;
        rig.log(vec![answered(&token, 200, &[("kind", kind), ("bytes", "90")])]).await;
        rig.settled("refunded", u64::try_from(n + 1).expect("small")).await;
    }
    // A server of the newer protocol refuses with 400 or 404.
    let token = rig.hold("booking", "404").await;
    rig.log(vec![answered(&token, 404, &[("kind", "protocol_error"), ("bytes", "90")])]).await;
    rig.settled("refunded", 3).await;
    let token = rig.hold("booking", "500").await;
    rig.log(vec![answered(&token, 500, &[("kind", "protocol_error"), ("bytes", "90")])]).await;
    rig.settled("confirmed", 1).await;
    assert!(rig.is_denied("booking", "after").await);
    let said = rig.authz.everything_said().await;
    let members =
        ["\"settled\":\"refunded\"", "\"fate\":\"answered\"", "\"attempts\":\"1\"", "\"answer\":\"tool_error\""];
    assert!(said.lines().any(|line| members.iter().all(|member| line.contains(member))), "{said}");
}

/// Entries that claim too much, too little or nonsense.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_word_beside_a_token_gives_back_more_than_was_held() {
    let mut rig = start().await;
    let garbled: [&[(&str, &str)]; 8] = [
        &[("kind", "protocol-error"), ("bytes", "1")],
        &[("kind", "tool_error")],
        &[("bytes", "0")],
        &[("kind", "ok"), ("bytes", "-51200")],
        &[("kind", "ok"), ("bytes", "1"), ("usage", "tokens=-4503599627370496")],
        &[("kind", "ok"), ("bytes", "1"), ("usage", "tokens=0,tokens=0")],
        &[("kind", "ok"), ("bytes", "1"), ("usage", "tokens")],
        &[("kind", "\u{0}"), ("bytes", "\u{202e}"), ("usage", "=")],
    ];
    let tokens = [rig.hold("tokens", "1").await, rig.hold("tokens", "2").await];
    for seen in garbled {
        rig.log(vec![answered(&tokens[0], 200, seen)]).await;
    }
    rig.settled("confirmed", 8).await;
    assert!(rig.is_denied("tokens", "3").await, "nothing came back");
    // The client left, the server failed, Envoy sent it twice: whatever the body said, no less is owed than was held.
    let mut gone = answered(&tokens[0], 0, &[("kind", "ok"), ("bytes", "1"), ("usage", "tokens=0")]);
    gone.common_properties.as_mut().expect("properties").response_flags =
        Some(ResponseFlags { downstream_connection_termination: true, ..ResponseFlags::default() });
    let failed = answered(&tokens[0], 503, &[("kind", "ok"), ("bytes", "1"), ("usage", "tokens=0")]);
    let mut twice = answered(&tokens[0], 200, &[("kind", "ok"), ("bytes", "1"), ("usage", "tokens=0")]);
    twice.common_properties.as_mut().expect("properties").upstream_request_attempt_count = 2;
    rig.log(vec![gone, failed, twice]).await;
    rig.settled("unknown", 1).await;
    rig.settled("confirmed", 10).await;
    assert!(rig.is_denied("tokens", "4").await, "nothing came back");
    // What is true settles, once; a larger word for another counter says nothing of this one.
    rig.log(vec![ok(&tokens[0], "1", "other=4503599627370496,tokens=0"), ok(&tokens[0], "1", "tokens=0")]).await;
    rig.settled("refunded", 1).await;
    rig.settled("repeated", 1).await;
    assert_eq!(rig.units("tokens", "refunded").await, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_shows_no_answers_is_noticed() {
    let mut rig = start().await;
    for n in 0..3 {
        let token = rig.hold("read", &n.to_string()).await;
        rig.log(vec![answered(&token, 200, &[])]).await;
    }
    rig.settled("confirmed", 3).await;
    let page = rig.authz.admin("/metrics").await.text();
    assert!(page.contains("mcp_authz_answers_unseen_total 3\n"), "{page}");
    let said = until("it is said", async || {
        let said = rig.authz.everything_said().await;
        said.contains("settle by the body of the answer").then_some(said)
    })
    .await;
    assert_eq!(said.matches("settle by the body of the answer").count(), 1, "said once: {said}");
}
