//! Under `hidden_as: unknown` nobody learns by trying which tools there are.

use super::harness::authz::{Grant, Settings, token};
use super::harness::http1::{Request, Response};
use super::harness::message;
use super::harness::stack::{Options, Stack};
use super::harness::until;

const POLICY: &str = r#"
version: "2"
default: deny
hidden_as: unknown
hide: [hidden]
tools:
  open: {}
  closed: {limits: [{counter: c, window: day, scope: grant, max: 0}]}
  groups: {limits: [{counter: c, window: day, scope: group, max: 5}]}
  guarded: {require: [{conditions: [{path: args.a, op: exists, value: true}], on_deny: It needs an a.}]}
"#;

/// The answer without what differs from one request to the next.
fn plain(mut response: Response, tool: &str) -> Response {
    response.headers.retain(|(name, _)| name != "date");
    let text = response.text();
    assert_eq!(text.matches(tool).count(), 1, "{text}");
    response.body = text.replace(tool, "NAME").into_bytes();
    response.headers.iter_mut().filter(|(name, _)| name == "content-length").for_each(|(_, value)| {
        let length: usize = value.parse().expect("a length");
        *value = (length - tool.len() + "NAME".len()).to_string();
    });
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_nobody_sees_is_answered_like_one_that_does_not_exist() {
    let authz = Settings {
        policies: vec![("main.yaml".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    let stack = Stack::start(&Options { authz, ..Options::default() }).await;
    let bearer = token("agent");
    let call = |modern: bool, tool: &str| {
        let request = if modern {
            message::modern_call("/mcp", tool, "{}")
        } else {
            Request::post("/mcp", message::call(tool, "{}"))
        };
        request.bearer(&bearer)
    };
    for modern in [false, true] {
        let unknown = plain(stack.send(&call(modern, "no_such_tool")).await, "no_such_tool");
        assert_eq!(unknown.status, 200);
        assert_eq!(
            unknown.text(),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: NAME"}}"#
        );
        // An odd name is one too.
        for tool in ["hidden", "closed", "groups", "hidden tool"] {
            assert_eq!(plain(stack.send(&call(modern, tool)).await, tool), unknown, "{tool}");
        }
        let guarded = stack.send(&call(modern, "guarded")).await.text();
        assert!(guarded.contains("It needs an a.") && guarded.contains("policy_digest"), "{guarded}");
        assert_eq!(stack.upstream.take().len(), 0, "nothing reached the server");
    }
    let said = stack.everything_said(&bearer).await;
    for (reason, tool) in [
        ("hidden", "hidden"),
        ("default_deny", "no_such_tool"),
        ("never_fits", "closed"),
        ("limit_subject_missing", "groups"),
        ("default_deny", "hidden tool"),
    ] {
        let recorded = |line: &&str| {
            line.contains(&format!(r#""reason":"{reason}""#)) && line.contains(&format!(r#""tool_name":"{tool}""#))
        };
        assert_eq!(said.lines().filter(recorded).count(), 2, "the audit has {reason} of {tool}: {said}");
    }
    until("Envoy's log has it too", async || {
        let log = stack.envoy.process.output();
        (log.contains(r#""reason":"hidden""#) && log.contains(r#""rule":"(hidden)""#)).then_some(())
    })
    .await;
}
