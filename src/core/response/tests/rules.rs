//! Rules for results, on every way that a value can come.

use super::*;

/// Masks addresses everywhere, and numbers of the tool `echo`; withholds what is marked.
const RULES: &str = r#"{"version":"2","default":"allow","hide":["rm"],"mask":[{"detect":"email"}],
    "block_if":[{"pattern":"TOP SECRET","on_block":"It is marked."}],
    "tools":{"echo":{"mask":[{"detect":"us_ssn"}],"inspect":{"result_bytes_max":400}},"other":{"mask":[{"detect":"iban"}]}}}"#;

fn call() -> Job {
    job(RULES, Asked::Call("echo".into()))
}

fn answer(text: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#)
}

fn notice(text: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":"{text}"}}}}"#)
}

fn event(data: &str) -> String {
    format!("id: 1\ndata: {data}\n\n")
}

/// A denial in the place of a call's result, in the policy's words.
fn is_blocked(text: &str) -> bool {
    let answer = json(text);
    let told = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
    answer["id"] == 1
        && answer["result"]["isError"] == true
        && answer["result"]["resultType"] == "complete"
        && answer["result"].get("structuredContent").is_none()
        && told.starts_with("[POLICY WITHHELD] It is marked. The tool may have run")
}

const SENT: &str = "a@b.cd 123-45-6789";

#[test]
fn values_are_masked_in_every_message_and_at_every_cut() {
    let whole = answer("[email] [us_ssn]");
    assert_eq!(text(call(), &JSON, &answer(SENT)).0, whole);
    let sent = [event(&notice(SENT)), event(&answer(SENT)), event(&notice("nothing"))].concat();
    let shown = [event(&notice("[email] [us_ssn]")), event(&whole), event(&notice("nothing"))].concat();
    let (out, report) = text(call(), &SSE, &sent);
    assert_eq!((out, report.withheld), (shown.clone(), None));
    let hits: Vec<(&str, u32)> = report.findings.hits.iter().map(|hit| (&*hit.rule, hit.count)).collect();
    assert_eq!(hits.len(), 2, "one entry for a rule: {hits:?}");
    assert!(hits.iter().all(|(_, count)| *count == 2), "{hits:?}");
    for cut in 0..sent.len() {
        let (a, b) = sent.as_bytes().split_at(cut);
        assert_eq!(run(call(), &SSE, &[a, b]), (shown.clone().into_bytes(), report.clone()), "cut at {cut}");
    }
    assert_eq!(report.sha256, Some(sha2::Sha256::digest(&whole).into()));
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no a@b.cd"}}"#;
    assert_eq!(text(call(), &JSON, error).0, error.replace("a@b.cd", "[email]"));
}

#[test]
fn other_requests_have_the_rules_of_the_root() {
    let sent = answer(&format!("{SENT} GB82WEST12345698765432"));
    for (asked, shown) in [
        (Asked::Call("unlisted".into()), "[email] 123-45-6789 GB82WEST12345698765432"),
        (Asked::Call("echo".into()), "[email] [us_ssn] GB82WEST12345698765432"),
        (Asked::Request(Method::PromptsGet), "[email] 123-45-6789 GB82WEST12345698765432"),
        (Asked::Request(Method::TasksResult), "[email] [us_ssn] [iban]"),
    ] {
        assert_eq!(text(job(RULES, asked.clone()), &JSON, &sent).0, answer(shown), "{asked:?}");
    }
    let (out, _) = text(job(RULES, Asked::Stream), &SSE, &event(&sent));
    assert_eq!(out, event(&answer("[email] [us_ssn] [iban]")), "on a stream nobody knows whose result it is");
}

#[test]
fn what_a_rule_blocks_is_withheld_in_its_words() {
    for body in [answer("TOP SECRET"), answer("TOP \\u0053ECRET")] {
        let (out, report) = text(call(), &JSON, &body);
        assert!(is_blocked(&out), "{out}");
        assert_eq!((report.withheld, report.came.map(|came| came.kind)), (Some(Withheld::Blocked), Some(Kind::Ok)));
        let (out, _) = text(call(), &SSE, &[event(&body), event(&notice("x"))].concat());
        let (first, rest) = out.split_once("\n\n").unwrap();
        assert!(is_blocked(first.strip_prefix("id: 1\ndata: ").unwrap()), "{out}");
        assert_eq!(rest, event(&notice("x")));
    }
    let stream = [event(&notice("TOP SECRET")), event(&answer("fine"))].concat();
    let (out, report) = text(call(), &SSE, &stream);
    assert_eq!(
        out,
        ["id: 1\n: withheld\n\n".to_owned(), event(&answer("fine"))].concat(),
        "no answer: the answer still comes"
    );
    assert_eq!((report.dropped, report.withheld), (1, Some(Withheld::Blocked)));
    let long = answer(&"x".repeat(400));
    assert_eq!(text(call(), &JSON, &long).1.withheld, Some(Withheld::Blocked));
    let fits = answer(&"x".repeat(400 - answer("").len()));
    assert_eq!(text(call(), &JSON, &fits).0, fits);
}

#[test]
fn broken_answers_to_calls_are_failed_results() {
    for (body, why) in BROKEN {
        let (out, report) = text(call(), &JSON, body);
        let answer = json(&out);
        assert_eq!(answer["result"]["isError"], true, "{body}: {out}");
        assert_eq!(answer["result"]["_meta"]["mcp-authz.dev/decision"]["reason"], why.name());
        assert_eq!(report.withheld, Some(*why));
    }
}

#[test]
fn words_of_an_http_error_are_judged_too() {
    let head = |types| Head { status: 500, content_types: types, ..JSON };
    let page = |body: &str| text(call(), &head(&[b"text/plain"]), body);
    assert_eq!(page("ask a@b.cd").0, "ask [email]");
    assert!(is_blocked(&page("TOP SECRET").0));
    let body = |body: &str| text(call(), &head(&[b"application/json"]), body);
    assert_eq!(body(r#"{"detail":"ask a@b.cd"}"#).0, r#"{"detail":"ask [email]"}"#);
    assert_eq!(body(r#"{"detail":"ask a\u0040b.cd"}"#).0, r#"{"detail":"ask [email]"}"#);
    let (out, report) = body(r#"["TOP SECRET"]"#);
    assert!(!out.contains("TOP") && report.withheld == Some(Withheld::Blocked), "{out}");
}

#[test]
fn lists_in_answers_to_calls_are_lists() {
    let body = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"tools":[{"name":"rm"},{"name":"echo"}]}}"#;
    assert_eq!(text(call(), &JSON, body).0, body.replace(r#"{"name":"rm"},"#, ""));
}

/// The rules for results say nothing of the list that was asked for, but of everything else that comes in its place.
#[test]
fn a_list_cannot_be_a_cover_for_a_result() {
    let asked = || job(RULES, Asked::Request(Method::ToolsList));
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo","description":"a@b.cd"}]}}"#;
    assert_eq!(text(asked(), &JSON, list).0, list);
    let masked = list.replace("a@b.cd", "[email]");
    assert_eq!(text(job(RULES, Asked::Stream), &SSE, &event(list)).0, event(&masked));
    assert_eq!(text(job(RULES, Asked::Request(Method::PromptsGet)), &JSON, list).0, masked);
    assert_eq!(text(asked(), &JSON, &answer(SENT)).0, answer("[email] 123-45-6789"), "no list");
}

#[test]
fn definitions_are_inspected() {
    let policy = |action: &str| {
        let text = format!(r#"{{"version":"2","default":"allow","inspect":{{"hidden_text":"{action}"}}}}"#);
        job(&text, Asked::Request(Method::ToolsList))
    };
    let list = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"a\",\"description\":\"x\u{200b}y\"},{\"name\":\"b\"}]}}";
    assert_eq!(text(policy("mask"), &JSON, list).0, list.replace('\u{200b}', ""));
    let (out, report) = text(policy("block"), &JSON, list);
    assert_eq!(json(&out)["result"]["tools"], serde_json::json!([{"name": "b"}]));
    assert_eq!((report.hidden, report.withheld), (1, None));
    let (out, report) = text(policy("report"), &JSON, list);
    assert_eq!((out.as_str(), report.findings.hits.len()), (list, 1));
}
