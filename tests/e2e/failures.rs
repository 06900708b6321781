//! What happens when a part fails: no call runs without a decision, and service comes back by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::harness::authz::{Grant, Settings, token};
use super::harness::http1::{Request, Response};
use super::harness::message::{self, Said};
use super::harness::stack::{Options, Stack};
use super::harness::{PATIENCE, until};

const POLICY: &str = r#"{"version": "1", "default": "deny", "tools": {"open": {}}}"#;

fn settings() -> Settings {
    Settings {
        policies: vec![("main.json".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    }
}

async fn start(authz: Settings) -> Stack {
    Stack::start(&Options { authz, ..Options::default() }).await
}

fn call(tool: &str) -> Request {
    Request::post("/mcp", message::call(tool, "{}")).bearer(&token("agent"))
}

async fn says(stack: &Stack, tool: &str) -> Said {
    message::said(&stack.send(&call(tool)).await)
}

/// Waits until a call runs; every answer before that has to be Envoy's own refusal.
async fn until_it_runs(stack: &Stack) {
    until("a call runs again", async || match says(stack, "open").await {
        Said::Result => Some(()),
        Said::Plain(503) => None,
        other @ (Said::Accepted | Said::Denied { .. } | Said::Error { .. } | Said::Plain(_)) => {
            panic!("neither served nor refused by Envoy: {other:?}")
        }
    })
    .await;
}

async fn killed_and_started_again(tcp: bool) {
    let mut stack = start(Settings { tcp, ..settings() }).await;
    assert_eq!(says(&stack, "open").await, Said::Result);
    stack.authz.process.signal("KILL").await;
    stack.authz.process.ended().await;
    stack.upstream.take();
    assert_eq!(says(&stack, "open").await, Said::Plain(503));
    assert_eq!(stack.upstream.count(), 0, "nothing runs without a decision");
    if !tcp {
        assert!(stack.authz.socket().exists(), "a killed process leaves its socket behind");
    }
    stack.authz.restart().await;
    until_it_runs(&stack).await;
    assert!(matches!(says(&stack, "closed").await, Said::Denied { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_over_tcp_it_fails_closed_and_recovers() {
    killed_and_started_again(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_over_a_unix_socket_it_fails_closed_and_replaces_the_stale_socket() {
    killed_and_started_again(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_costs_one_timeout_and_runs_nothing() {
    let options = Options { authz: settings(), check_timeout: "0.4s", ..Options::default() };
    let stack = Stack::start(&options).await;
    assert_eq!(says(&stack, "open").await, Said::Result);
    stack.upstream.take();
    stack.authz.process.signal("STOP").await;
    let asked = Instant::now();
    assert_eq!(says(&stack, "open").await, Said::Plain(503));
    assert!(asked.elapsed() < Duration::from_secs(5), "Envoy gives up by itself");
    stack.authz.process.signal("CONT").await;
    until_it_runs(&stack).await;
    let ran = stack.upstream.take().len();
    // Only the last call of the wait was answered, so only that one may have run.
    assert_eq!(ran, 1, "an abandoned call never runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_process_answers_what_it_has_and_ends_well() {
    let mut stack = start(Settings { config: "timeouts: {drain_ms: 3000}\n".to_owned(), ..settings() }).await;
    assert_eq!(says(&stack, "open").await, Said::Result);
    let (address, done) = (stack.envoy.address, Arc::new(AtomicBool::new(false)));
    let agents: Vec<_> = (0..4)
        .map(|_| {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                let (mut served, mut refused) = (0_usize, 0_usize);
                while !done.load(Ordering::SeqCst) {
                    match message::said(&call("open").send(address).await) {
                        // The order matters: once Envoy refused, the process is gone for good.
                        Said::Result => served += 1,
                        Said::Plain(503) => refused += 1,
                        other @ (Said::Accepted | Said::Denied { .. } | Said::Error { .. } | Said::Plain(_)) => {
                            panic!("neither served nor refused by Envoy: {other:?}")
                        }
                    }
                }
                (served, refused)
            })
        })
        .collect();
    until("the load runs", async || (stack.upstream.count() > 50).then_some(())).await;
    stack.authz.process.signal("TERM").await;
    let status = stack.authz.process.ended().await;
    until("Envoy refuses", async || (says(&stack, "open").await == Said::Plain(503)).then_some(())).await;
    done.store(true, Ordering::SeqCst);
    let mut served_all = 1;
    for agent in agents {
        served_all += agent.await.expect("no agent saw anything else").0;
    }
    assert!(status.success(), "{status}\n{}", stack.authz.process.output());
    assert_eq!(stack.upstream.count(), served_all, "every call that ran was answered");
    assert!(!stack.authz.socket().exists(), "a process that ends in order takes its socket away");
}

/// A tool whose judgement takes long enough that two of them overlap: no literal and no anchor in the patterns, so that
/// each of them has to read the whole argument.
fn heavy_policy() -> String {
    let rule = |at: usize| {
        let pattern = format!(r"\\w{{3}}\\W{{{}}}", at + 1);
        format!(r#"{{"conditions": [{{"path": "args.x", "op": "regex", "value": "{pattern}"}}], "on_deny": "No."}}"#)
    };
    let rules: Vec<String> = (0..60).map(rule).collect();
    format!(
        r#"{{"version": "1", "default": "deny", "tools": {{"open": {{}}, "heavy": {{"deny_if": [{}]}}}}}}"#,
        rules.join(",")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_told_to_the_agent_and_never_waves_a_call_through() {
    let authz = Settings {
        config: "limits: {checks_in_flight_max: 1}\ntimeouts: {check_ms: 20000}\n".to_owned(),
        policies: vec![("main.json".to_owned(), heavy_policy())],
        ..settings()
    };
    let stack = Stack::start(&Options { authz, check_timeout: "20s", workers: 2, ..Options::default() }).await;
    let body = message::call("heavy", &format!(r#"{{"x":"{}"}}"#, "ab".repeat(30_000)));
    let mut refused = 0;
    // While the process stands still its socket fills up, so that the Checks come all at once.
    for _ in 0..10 {
        stack.authz.process.signal("STOP").await;
        let request = Request::post("/mcp", body.clone()).bearer(&token("agent"));
        let address = stack.envoy.address;
        let calls: Vec<_> = (0..16).map(|_| tokio::spawn(send(request.clone(), address))).collect();
        // Envoy holds a Check for each of them before the process goes on.
        until("every Check is on its way", async || (active_checks(&stack).await == calls.len()).then_some(())).await;
        stack.authz.process.signal("CONT").await;
        let mut served = 0;
        for call in calls {
            match message::said(&call.await.expect("sending works")) {
                Said::Result => served += 1,
                Said::Denied { text, reason } => {
                    assert!(text.starts_with("[POLICY UNAVAILABLE] "), "{text}");
                    assert_eq!(reason, "overload");
                    refused += 1;
                }
                other @ (Said::Accepted | Said::Error { .. } | Said::Plain(_)) => {
                    panic!("neither served nor told: {other:?}")
                }
            }
        }
        assert_eq!(stack.upstream.take().len(), served, "only what was allowed runs");
        if refused > 0 {
            break;
        }
    }
    assert!(refused > 0, "one Check at a time cannot serve them all at once");
    assert_eq!(says(&stack, "open").await, Said::Result);
}

async fn send(request: Request, address: std::net::SocketAddr) -> Response {
    request.send(address).await
}

/// Checks that Envoy waits for.
async fn active_checks(stack: &Stack) -> usize {
    const NAME: &str = "cluster.mcp_authz.upstream_rq_active: ";
    let stats = Request::new("GET", "/stats?filter=cluster.mcp_authz.upstream_rq_active").send(stack.envoy.admin).await;
    let text = stats.text();
    text.lines().find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_reload_keeps_the_last_good_policy_and_a_good_one_takes_over() {
    let stack = start(settings()).await;
    stack.authz.write_policy("main.json", r#"{"version": "1", "default": "allowed", "tools": {"closed": {}}}"#);
    stack.authz.process.signal("HUP").await;
    until("the bad file is named", async || stack.authz.process.output().contains("main.json").then_some(())).await;
    assert_eq!(says(&stack, "open").await, Said::Result);
    assert!(matches!(says(&stack, "closed").await, Said::Denied { .. }));
    assert_eq!(stack.authz.admin("/readyz").await.status, 200, "a bad reload does not end service");
    stack.authz.write_policy("main.json", r#"{"version": "1", "default": "deny", "tools": {"closed": {}}}"#);
    stack.authz.process.signal("HUP").await;
    until("the new policy serves", async || (says(&stack, "closed").await == Said::Result).then_some(())).await;
    assert!(matches!(says(&stack, "open").await, Said::Denied { .. }));
}

/// Two policies that must not be mixed: under each of them one tool runs and the other is denied in its words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_decision_comes_from_one_whole_policy_while_policies_change() {
    let policy = |open: &str, closed: &str| {
        let deny = format!(
            r#"{{"deny_if": [{{"conditions": [{{"path": "args.x", "op": "exists", "value": true}}], "on_deny": "{open} is on."}}]}}"#
        );
        format!(r#"{{"version": "1", "default": "deny", "tools": {{"{open}": {{}}, "{closed}": {deny}}}}}"#)
    };
    let stack = start(Settings { policies: vec![("main.json".to_owned(), policy("a", "b"))], ..settings() }).await;
    let (address, done) = (stack.envoy.address, Arc::new(AtomicBool::new(false)));
    let agents: Vec<_> = [("a", "b"), ("b", "a")]
        .into_iter()
        .map(|(tool, other)| {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                let mut answers = 0_usize;
                while !done.load(Ordering::SeqCst) {
                    let call = Request::post("/mcp", message::call(tool, r#"{"x":1}"#)).bearer(&token("agent"));
                    let said = message::said(&call.send(address).await);
                    if said != Said::Result {
                        let text = format!("[POLICY DENIED] {other} is on.");
                        assert_eq!(said, Said::Denied { text, reason: "condition".to_owned() });
                    }
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for round in 0..20 {
        let (open, closed) = if round % 2 == 0 { ("b", "a") } else { ("a", "b") };
        stack.authz.write_policy("main.json", &policy(open, closed));
        stack.authz.process.signal("HUP").await;
        let call = || Request::post("/mcp", message::call(open, r#"{"x":1}"#)).bearer(&token("agent"));
        until("the new policy serves", async || {
            (message::said(&stack.send(&call()).await) == Said::Result).then_some(())
        })
        .await;
    }
    done.store(true, Ordering::SeqCst);
    for agent in agents {
        assert!(agent.await.expect("no answer was mixed") > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_grant_and_a_new_secret_take_effect_without_a_restart() {
    let stack = start(settings()).await;
    assert_eq!(says(&stack, "open").await, Said::Result);
    stack.authz.write_alpha_secret("rotated-secret");
    stack.authz.process.signal("HUP").await;
    until("the upstream sees the new secret", async || {
        assert_eq!(says(&stack, "open").await, Said::Result);
        let hit = stack.upstream.take().pop()?;
        (hit.values("authorization") == ["Bearer rotated-secret"]).then_some(())
    })
    .await;
    stack.authz.write_grants(&[Grant::with("agent", "servers: [alpha], policy: main, revoked: true")]);
    stack.authz.process.signal("HUP").await;
    let revoked = Said::Error { status: 401, code: -31401, reason: "identity".to_owned() };
    until("the grant is gone", async || (says(&stack, "open").await == revoked).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_does_not_take_the_socket_of_a_living_one() {
    let stack = start(settings()).await;
    let mut second = stack.authz.second();
    let status = second.ended().await;
    assert_eq!(status.code(), Some(64), "{}", second.output());
    assert!(second.output().contains("Cannot start: a gRPC listener."), "{}", second.output());
    assert_eq!(says(&stack, "open").await, Said::Result, "the first one still serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_audit_nothing_runs_where_the_operator_says_so() {
    let config = "audit: {sink: /dev/full, fail_closed: true}\n".to_owned();
    let stack = start(Settings { config, ..settings() }).await;
    // The first records are lost before anybody can know.
    until("the loss is noticed", async || {
        let Said::Denied { text, reason } = says(&stack, "open").await else { return None };
        assert_eq!(reason, "audit_unavailable");
        assert!(text.starts_with("[POLICY UNAVAILABLE] "), "{text}");
        Some(())
    })
    .await;
    stack.upstream.take();
    assert!(matches!(says(&stack, "open").await, Said::Denied { .. }));
    assert_eq!(stack.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_gone_is_no_denial() {
    let closed = super::harness::free_address();
    let options = Options { authz: settings(), upstream: Some(closed), ..Options::default() };
    let stack = Stack::start(&options).await;
    let asked = Instant::now();
    assert_eq!(says(&stack, "open").await, Said::Plain(503));
    assert!(asked.elapsed() < PATIENCE);
    assert!(matches!(says(&stack, "closed").await, Said::Denied { .. }), "denials need no upstream");
}
