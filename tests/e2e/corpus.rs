//! What two parsers could read differently must not pass, and what all parsers read alike must pass unchanged.
//!
//! Every case has a tool of its own with a limit of one call. After the case that one call must still be there, or, where
//! the case was sound, be used up: so nothing that was refused was charged, and nothing that ran escaped the policy.

use std::fmt::Write as _;

use base64::Engine as _;

use super::corpus_cases::{Body, Case, Expect, TABLES};
use super::harness::authz::{Grant, Settings};
use super::harness::http1::{self, Framing, Request, Response};
use super::harness::message::{self, Said};
use super::harness::stack::{Options, Stack};
use super::harness::upstream::Hit;

/// Marks every argument value; it must not come out anywhere.
const CANARY: &str = "canary-9c1f";

fn replace(template: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn fill(template: &[u8], tool: &str, canary: &str) -> Vec<u8> {
    let base64 = base64::engine::general_purpose::STANDARD.encode(tool);
    let filled = replace(&replace(template, b"@T", tool.as_bytes()), b"@C", canary.as_bytes());
    replace(&filled, b"@B", base64.as_bytes())
}

/// The bytes of the case's request, and those of its body.
fn build(case: &Case, tool: &str, canary: &str, token: &str) -> (Vec<u8>, Vec<u8>) {
    let body = match case.body {
        Body::Text(template) => fill(template, tool, canary),
        Body::Made(make) => make(tool, canary),
    };
    let mut request = Request::post(case.target, body.clone()).method(case.method).bearer(token);
    for (name, _) in case.headers {
        request = request.without(name);
    }
    for (name, value) in case.headers {
        if let Some(value) = value {
            request = request.header(name, fill(value, tool, canary));
        }
    }
    let framing = if case.framing == Framing::Length && body.is_empty() && case.method != "POST" {
        Framing::Unsaid
    } else {
        case.framing
    };
    (request.framed(framing).bytes(), body)
}

/// One policy for all cases: each has its tool, nothing else may run.
fn policy(cases: usize) -> String {
    let mut tools = String::new();
    for at in 0..cases {
        let comma = if at == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        write!(
            tools,
            r#"{comma}"case_{at}":{{"limits":[{{"counter":"case_{at}","window":"day","scope":"grant","max":1}}]}}"#
        )
        .expect("memory");
    }
    format!(r#"{{"version":"1","default":"deny","tools":{{{tools}}}}}"#)
}

fn check(case: &Case, tool: &str, body: &[u8], response: Option<&Response>, hits: &[Hit]) -> Result<(), String> {
    let said = response.map(message::said);
    // Some sound bodies hold numbers that the recorder's parser cannot; then equal bytes have to do.
    let is_unchanged = |hit: &Hit| {
        let is_ours = hit.target.split('?').next() == Some("/mcp") && hit.method == case.method;
        let is_clean = hit.headers.iter().all(|(_, value)| value.iter().all(|byte| *byte >= b' '));
        is_ours && is_clean && hit.body == body && hit.tool().is_none_or(|ran| ran == tool)
    };
    let ran = matches!(said, Some(Said::Result | Said::Accepted)) && hits.len() == 1 && is_unchanged(&hits[0]);
    let expected = match case.expect {
        Expect::Envoy(statuses) => {
            hits.is_empty() && response.is_none_or(|response| statuses.contains(&response.status))
        }
        Expect::Ran => ran,
        Expect::RanOrRefused => {
            let refused = response.is_none_or(|response| (400..500).contains(&response.status)) && hits.is_empty();
            refused || ran
        }
        Expect::Refused { status, code, reason } => {
            let want = Said::Error { status, code, reason: reason.to_owned() };
            said == Some(want) && hits.is_empty() && response.is_some_and(|r| r.json().get("id").is_none_or(is_sound))
        }
    };
    if expected {
        return Ok(());
    }
    let text = response.map(Response::text).unwrap_or_default();
    Err(format!("{}: wanted {:?}, got {said:?} and {} hits: {text}", case.name, case.expect, hits.len()))
}

fn is_sound(id: &serde_json::Value) -> bool {
    id.is_string() || id.is_i64()
}

/// Whether the one call that the case's tool has is still there.
async fn is_unspent(stack: &Stack, tool: &str, canary: &str, token: &str) -> Result<bool, String> {
    let body = message::call(tool, &format!(r#"{{"x":"{canary}"}}"#));
    let response = stack.send(&Request::post("/mcp", body).bearer(token)).await;
    let hits = stack.upstream.take().len();
    match message::said(&response) {
        Said::Result if hits == 1 => Ok(true),
        Said::Denied { reason, .. } if reason == "quota_exhausted" && hits == 0 => Ok(false),
        other @ (Said::Accepted | Said::Denied { .. } | Said::Error { .. } | Said::Plain(_) | Said::Result) => {
            Err(format!("{tool}: the sound call after the case got {other:?} and {hits} hits"))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_parsers_read_differently_is_refused_and_what_they_read_alike_runs() {
    let cases: Vec<&Case> = TABLES.iter().copied().flatten().collect();
    let grant = Grant::new("corpus", "corpus");
    let token = grant.token();
    let settings = Settings {
        policies: vec![("corpus.json".to_owned(), policy(cases.len()))],
        grants: vec![grant],
        ..Settings::default()
    };
    let stack = Stack::start(&Options { authz: settings, ..Options::default() }).await;
    let mut wrong: Vec<String> = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let (tool, canary) = (format!("case_{at}"), format!("{CANARY}-{at}"));
        let (request, body) = build(case, &tool, &canary, &token);
        let response = http1::try_exchange(stack.envoy.address, &request).await.ok();
        let hits = stack.upstream.take();
        wrong.extend(check(case, &tool, &body, response.as_ref(), &hits).err());
        let ran = !hits.is_empty() && case.method == "POST";
        match is_unspent(&stack, &tool, &canary, &token).await {
            Err(problem) => wrong.push(format!("{}: {problem}", case.name)),
            Ok(unspent) if unspent == ran => wrong.push(format!("{}: ran is {ran}, unspent is {unspent}", case.name)),
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let said = stack.everything_said(&token).await;
    for secret in [CANARY, &token, super::harness::authz::ALPHA_SECRET] {
        let line = said.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a value of the wire or a secret came out");
    }
    for case in &cases {
        if let Expect::Refused { reason, .. } = case.expect {
            assert!(said.contains(&format!("\"reason\":\"{reason}\"")), "no audit record says {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_checked_one_by_one() {
    let grant = Grant::new("pipeline", "corpus");
    let token = grant.token();
    let settings =
        Settings { policies: vec![("corpus.json".to_owned(), policy(1))], grants: vec![grant], ..Settings::default() };
    let stack = Stack::start(&Options { authz: settings, ..Options::default() }).await;
    let first = Request::post("/mcp", message::call("case_0", "{}")).bearer(&token).header("connection", "keep-alive");
    let second = Request::post("/mcp", message::call("forbidden", "{}")).bearer(&token);
    let bytes = [first.bytes(), second.bytes()].concat();
    let answers = http1::exchange_all(stack.envoy.address, &bytes, 2).await;
    let said: Vec<Said> = answers.iter().map(message::said).collect();
    assert_eq!(said[0], Said::Result);
    assert!(matches!(&said[1], Said::Denied { reason, .. } if reason == "default_deny"), "{said:?}");
    let hits = stack.upstream.take();
    assert_eq!(hits.iter().filter_map(Hit::tool).collect::<Vec<_>>(), ["case_0"]);
}
