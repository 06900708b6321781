use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

const POLICY: &str = r#"
version: "1"
default: deny
tools:
  refund:
    require:
      - conditions: [{path: args.reason, op: exists, value: true}]
    deny_if:
      - conditions: [{path: args.amount, op: gt, value: 1000}]
        on_deny: "Too much."
    limits:
      - {counter: refunds, window: day, scope: grant, max: 5}
"#;

fn eval(arguments: &[&str], request: &str) -> (String, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("p.yaml"), POLICY).unwrap();
    fs::write(path("request.json"), request).unwrap();
    let policy = path("p.yaml");
    let mut line = vec!["eval", "--policy", policy.as_str()];
    let request = path("request.json");
    line.extend(arguments.iter().map(|word| if *word == "REQUEST" { request.as_str() } else { *word }));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(Line::try_parse_from(line).unwrap().args, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (format!("{code:?}"), text(out), text(err))
}

fn code(status: u8) -> String {
    format!("{:?}", ExitCode::from(status))
}

#[test]
fn a_denial_names_the_rule_and_every_condition() {
    let (status, out, _) = eval(&["--tool", "refund", "--args", r#"{"amount":1001,"reason":"x"}"#], "");
    assert_eq!(status, code(FAILED));
    let policy = out.lines().find(|line| line.starts_with("  policy")).unwrap().to_owned();
    assert_eq!(
        out,
        format!(
            "deny /tools/refund/deny_if/args.amount-gt
  exact    /tools/refund/deny_if/0/conditions/0
  reason   condition
  message  Too much.
{policy}
pass hide     the tool is not hidden
pass default  the policy names the tool
pass require  /tools/refund/require/0
       holds            args.reason exists true (found: string)
deny deny_if  /tools/refund/deny_if/0 [condition]
       holds            args.amount gt 1000 (found: number)
pass limit    /tools/refund/limits/0: counter `refunds`: at most 5 per day and grant; 1 unit; costs 1, if that much is left
"
        )
    );
}

#[test]
fn an_allowed_call_is_status_0_and_tells_its_charges() {
    let (status, out, err) =
        eval(&["--tool", "refund", "--args", r#"{"amount":1000,"reason":"x"}"#, "--output", "json"], "");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, code(0));
    assert_eq!(told["decision"], "allow");
    assert_eq!(told["charges"][0]["counter"], "1:p;6:refund;7:refunds;3:day;5:grant;4:eval;");
    assert_eq!(told["steps"][3]["conditions"][0]["truth"], "fails");
    assert!(err.contains("a call without `args.amount` passes"), "{err}");
}

#[test]
fn a_whole_message_is_judged_as_the_server_judges_it() {
    let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    let (status, out, _) = eval(&["--request", "REQUEST"], &call(r#"{"name":"refund","arguments":{"reason":"x"}}"#));
    assert_eq!(status, code(0), "{out}");
    let (status, out, _) = eval(&["--request", "REQUEST"], &call(r#"{"name":"refund","arguments":[]}"#));
    assert_eq!(status, code(FAILED));
    assert!(out.starts_with("deny (invalid request)\n"), "{out}");
    let (status, out, _) =
        eval(&["--request", "REQUEST"], r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x:y"}}"#);
    assert_eq!((status, out.lines().next()), (code(FAILED), Some("deny (default deny)")));
    let (status, _, _) = eval(&["--request", "REQUEST"], r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert_eq!(status, code(0));
}

#[test]
fn what_cannot_be_read_is_status_64() {
    for (arguments, message) in [
        (&["--tool", "refund", "--args", "{"][..], "--args: "),
        (&["--tool", "refund", "--args", "{}},{"], "--args: "),
        (&["--request", "/nowhere/none.json"], "/nowhere/none.json: "),
    ] {
        let (status, out, err) = eval(arguments, "");
        assert_eq!((status, out.as_str()), (code(USAGE), ""), "{arguments:?}");
        assert!(err.contains(message), "{err}");
    }
}

#[test]
fn a_tool_or_a_request_is_needed_and_not_both() {
    assert!(Line::try_parse_from(["eval", "--policy", "p"]).is_err());
    assert!(Line::try_parse_from(["eval", "--policy", "p", "--tool", "t", "--request", "-"]).is_err());
    assert!(Line::try_parse_from(["eval", "--policy", "p", "--args", "{}", "--request", "-"]).is_err());
}
