//! Access logs that no Envoy of ours would send: nothing comes back that was not held, and nothing twice.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, AccessLogType, HttpAccessLogEntry};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{HttpAccessLogEntries, LogEntries};
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use tonic::transport::Channel;

use super::grpc::{check, http};
use super::harness::authz::{Authz, Grant, Settings};
use super::harness::envoy::Authorizer;
use super::harness::until;

const POLICY: &str = r#"
version: "2"
default: deny
tools:
  twice: {limits: [{counter: twice, window: day, scope: grant, max: 2}]}
  flood: {limits: [{counter: flood, window: day, scope: grant, max: 1}]}
"#;

/// An authorizer on TCP, and clients of both its services.
pub(crate) struct Rig {
    pub(crate) authz: Authz,
    checks: AuthorizationClient<Channel>,
    logs: AccessLogServiceClient<Channel>,
    _dir: tempfile::TempDir,
}

async fn start() -> Rig {
    start_with(POLICY).await
}

pub(crate) async fn start_with(policy: &str) -> Rig {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let settings = Settings {
        tcp: true,
        policies: vec![("main.yaml".to_owned(), policy.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    let authz = Authz::start(dir.path(), &settings).await;
    let Authorizer::Tcp(address) = &authz.listener else { panic!("asked for TCP") };
    let checks = AuthorizationClient::connect(format!("http://{address}")).await.expect("it listens");
    let logs = AccessLogServiceClient::connect(format!("http://{address}")).await.expect("it listens");
    Rig { authz, checks, logs, _dir: dir }
}

impl Rig {
    async fn check(&mut self, tool: &str, id: &str) -> CheckResponse {
        self.checks.check(check(http(tool, id))).await.expect("an answer").into_inner()
    }

    /// Holds a unit, and gives the token of it.
    pub(crate) async fn hold(&mut self, tool: &str, id: &str) -> String {
        let answer = self.check(tool, id).await;
        assert_eq!(answer.status.expect("a status").code, 0, "{tool} {id} is let through");
        let fields = answer.dynamic_metadata.expect("metadata").fields;
        let Some(Kind::StringValue(token)) = fields.get("settle").and_then(|value| value.kind.clone()) else {
            panic!("no token")
        };
        token
    }

    pub(crate) async fn is_denied(&mut self, tool: &str, id: &str) -> bool {
        self.check(tool, id).await.status.expect("a status").code != 0
    }

    /// Sends the entries on a stream of their own, to its end.
    pub(crate) async fn log(&mut self, entries: Vec<HttpAccessLogEntry>) {
        let log_entries = Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: entries }));
        let message = StreamAccessLogsMessage { log_entries, ..StreamAccessLogsMessage::default() };
        let stream = tokio_stream::iter([message]);
        self.logs.stream_access_logs(stream).await.expect("the stream is taken");
    }

    /// Units of a counter by what became of them.
    pub(crate) async fn units(&self, counter: &str, outcome: &str) -> u64 {
        let page = self.authz.admin("/metrics").await.text();
        let series =
            format!("mcp_authz_quota_units_total{{policy=\"main\",counter=\"{counter}\",outcome=\"{outcome}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default()
    }

    pub(crate) async fn settled(&self, outcome: &str, n: u64) {
        let line = format!("mcp_authz_settlements_total{{outcome=\"{outcome}\"}} {n}");
        until(&line, async || {
            let page = self.authz.admin("/metrics").await.text();
            page.lines().any(|shown| shown == line).then_some(())
        })
        .await;
    }
}

/// An entry that claims that no byte was sent.
pub(crate) fn unsent(token: &str) -> HttpAccessLogEntry {
    let value = Value { kind: Some(Kind::StringValue(token.to_owned())) };
    let ours = Struct { fields: HashMap::from([("settle".to_owned(), value)]) };
    let filter_metadata = HashMap::from([("envoy.filters.http.ext_authz".to_owned(), ours)]);
    let common = AccessLogCommon {
        metadata: Some(Metadata { filter_metadata, ..Metadata::default() }),
        access_log_type: AccessLogType::DownstreamEnd.into(),
        ..AccessLogCommon::default()
    };
    HttpAccessLogEntry { common_properties: Some(common), ..HttpAccessLogEntry::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_ours_give_nothing_back_and_are_seen() {
    let mut rig = start().await;
    let token = rig.hold("flood", "1").await;
    // Another process has other keys.
    let mut stranger = start().await;
    let foreign = stranger.hold("flood", "1").await;
    let mut forged = token.clone().into_bytes();
    // The first characters hold the version and the digest of the policy; any will do.
    forged[9] = if forged[9] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("base64");
    let (shorter, longer) = (token.get(1..).expect("ASCII"), format!("{token}AAAA"));
    let tokens = ["nonsense", "", &forged, &foreign, shorter, &longer].map(unsent);
    rig.log(tokens.into_iter().chain([unsent(&"A".repeat(20_000))]).collect()).await;
    // An empty token is none at all.
    rig.settled("forged", 6).await;
    assert!(rig.is_denied("flood", "2").await, "nothing came back");
    // All but the one that is too long to be looked at.
    let recorded = r#""io.mcp-authz/settlement":{"settled":"forged"}}"#;
    until("they are recorded", async || (rig.authz.process.stdout().matches(recorded).count() == 5).then_some(()))
        .await;
    let said = rig.authz.everything_said().await;
    assert!(said.contains("a settle token that is not ours"), "{said}");
    for token in [&token, &forged, &foreign] {
        assert!(!said.contains(token.get(..40).expect("ASCII")), "no token in any output");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_comes_again_and_again_settles_once() {
    let mut rig = start().await;
    let first = rig.hold("twice", "1").await;
    rig.hold("twice", "2").await;
    assert!(rig.is_denied("twice", "3").await);
    rig.log(vec![unsent(&first); 50]).await;
    for _ in 0..5 {
        rig.log(vec![unsent(&first)]).await;
    }
    rig.settled("refunded", 1).await;
    rig.settled("repeated", 54).await;
    rig.hold("twice", "4").await;
    assert!(rig.is_denied("twice", "5").await, "one came back, not two");
}

/// Two Checks for one request: a single rollback speaks for both, because it speaks for the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_was_repeated_is_held_once_and_given_back_once() {
    let mut rig = start().await;
    let first = rig.hold("flood", "7").await;
    let second = rig.hold("flood", "7").await;
    assert_ne!(first, second, "each answer has a token of its own");
    rig.log(vec![unsent(&first), unsent(&second)]).await;
    rig.settled("refunded", 1).await;
    rig.settled("repeated", 1).await;
    rig.hold("flood", "8").await;
    assert!(rig.is_denied("flood", "9").await);
}

/// Far more entries than are looked at or fit into the queue: decisions go on, and what is lost is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_entries_harms_nothing() {
    let mut rig = start().await;
    let token = rig.hold("flood", "1").await;
    for _ in 0..5 {
        rig.log(vec![unsent("AAAA"); 8_000]).await;
    }
    rig.authz.process.assert_running();
    assert!(rig.is_denied("flood", "2").await, "decisions go on");
    let dropped = async |rig: &Rig| {
        let page = rig.authz.admin("/metrics").await.text();
        let value = |outcome: &str| -> u64 {
            let series = format!("mcp_authz_settlements_total{{outcome=\"{outcome}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).expect("a count")
        };
        (value("dropped"), value("forged"))
    };
    until("every entry is accounted for", async || {
        let (dropped, forged) = dropped(&rig).await;
        assert!(dropped >= 5 * (8_000 - 4_096), "above the limit of a message");
        (dropped + forged == 40_000).then_some(())
    })
    .await;
    rig.log(vec![unsent(&token)]).await;
    rig.settled("refunded", 1).await;
    rig.hold("flood", "3").await;
}
