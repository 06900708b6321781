use super::*;

const POLICY: &str = r#"{"version":"1","default":"deny","tools":{"t":{"limits":[
  {"counter":"c","window":"hour","scope":"grant","max":2,"increment_from":"args.n","on_deny":"no"}]}}}"#;

fn run_text(text: &str) -> Result<Results, Vec<String>> {
    let file = CaseFile { file: "x.test.json", bytes: text.as_bytes(), format: Format::Json };
    let mut load = |name: &str| match name {
        "../p.json" => Ok(Loaded { file: "p.json".into(), bytes: POLICY.into(), format: Format::Json }),
        _ => Err(format!("{name}: no such file")),
    };
    run(&file, Reading::AsWritten, &mut load).map_err(|defects| defects.iter().map(ToString::to_string).collect())
}

fn suite(body: &str) -> String {
    format!(r#"{{"format":"mcp-policy-cases/1","suites":[{{"suite":"s","policy":{POLICY},{body}}}]}}"#)
}

/// A case or step with this argument and these other members.
fn call(n: &str, rest: &str) -> String {
    let request =
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"t","arguments":{{"n":{n}}}}}}}"#);
    format!(r#"{{"request":{request},{rest}}}"#)
}

fn case(n: &str, expect: &str) -> Results {
    run_text(&suite(&format!(r#""cases":[{}]"#, call(n, &format!(r#""id":"s/c","expect":{expect}"#))))).unwrap()
}

fn failure(n: &str, expect: &str) -> String {
    let results = case(n, expect);
    assert_eq!((results.passed, results.failures.len()), (0, 1), "{results:?}");
    results.failures[0].to_string()
}

fn steps(steps: &[(&str, &str, &str)]) -> Vec<String> {
    let steps: Vec<String> = steps
        .iter()
        .map(|(n, rest, decision)| call(n, &format!(r#"{rest}"expect":{{"decision":"{decision}"}}"#)))
        .collect();
    let text = suite(&format!(r#""sequences":[{{"id":"s/q","steps":[{}]}}]"#, steps.join(",")));
    run_text(&text).unwrap().failures.iter().map(|failure| failure.id.clone()).collect()
}

#[test]
fn what_goes_as_expected_is_counted() {
    assert_eq!(case("2", r#"{"decision":"allow","rule":"","message":null}"#), Results { passed: 1, failures: vec![] });
    let denied = r#"{"decision":"deny","rule":"/tools/t/limits/c","message":"no","reason":"never_fits","exact":"/tools/t/limits/0"}"#;
    assert_eq!(case("3", denied).passed, 1);
}

#[test]
fn every_stated_part_of_an_expectation_counts() {
    let actual = "got deny /tools/t/limits/c with `no` at /tools/t/limits/0, reason never_fits";
    assert_eq!(failure("3", r#"{"decision":"allow"}"#), format!("s/c: expected allow, {actual}"));
    assert_eq!(failure("2", r#"{"decision":"deny"}"#), "s/c: expected deny, got allow");
    for (part, told) in [
        (r#""rule":"(hidden)""#, "(hidden)"),
        (r#""message":"other""#, "with `other`"),
        (r#""reason":"condition""#, "condition"),
        (r#""exact":"/x""#, "/x"),
    ] {
        let text = failure("3", &format!(r#"{{"decision":"deny",{part}}}"#));
        assert_eq!(text, format!("s/c: expected deny {told}, {actual}"));
    }
}

#[test]
fn responses_and_logs_are_compared_by_what_they_state() {
    let deny = |rest: &str| format!(r#"{{"decision":"deny",{rest}}}"#);
    for good in [
        r#""response":{"jsonrpc":"2.0","id":7,"result":{"isError":true,"content":[{"type":"text","text":"[POLICY DENIED] no"}]}}"#,
        r#""response_id":7"#,
        r#""log":{"decision":"deny","tool":"t","rule":"/tools/t/limits/c","reason":"no","args":["n"],"grant":"test"}"#,
    ] {
        assert_eq!(case("3", &deny(good)).passed, 1, "{good}");
    }
    for bad in [
        r#""response":{"result":{"isError":false}}"#,
        r#""response_id":"7""#,
        r#""response_id":7.0"#,
        r#""log":{"args":["n","m"]}"#,
        r#""log":{"grant":"other"}"#,
        r#""log":{"unheard_of":1}"#,
    ] {
        assert_eq!(case("3", &deny(bad)).passed, 0, "{bad}");
    }
}

#[test]
fn numbers_of_a_case_are_not_rounded() {
    assert!(failure("9007199254740993", r#"{"decision":"allow"}"#).contains("bad_increment"));
    assert_eq!(
        json_text(&crate::document::parse("f", b"[1e2, 9007199254740993, -0]", Format::Json).unwrap()),
        "[1e2,9007199254740993,-0]"
    );
}

#[test]
fn steps_share_counters_and_cases_do_not() {
    assert_eq!(steps(&[("2", "", "allow"), ("1", "", "deny"), ("0", "", "allow")]), [""; 0]);
    let one = call("2", r#""id":"s/c","expect":{"decision":"allow"}"#);
    assert_eq!(run_text(&suite(&format!(r#""cases":[{one},{one}]"#))).unwrap().passed, 2);
}

#[test]
fn counters_are_of_a_grant_and_of_a_window() {
    let at = |time: &str| format!(r#""at":"2026-06-16T{time}Z","#);
    let (end, next) = (at("10:59:59.999"), at("11:00:00"));
    assert_eq!(steps(&[("2", &end, "allow"), ("1", &end, "deny"), ("1", &next, "allow")]), [""; 0]);
    let other = r#""identity":{"grant":"g2"},"#;
    assert_eq!(steps(&[("2", "", "allow"), ("2", other, "allow"), ("1", other, "deny")]), [""; 0]);
}

#[test]
fn a_rollback_reaches_its_own_window_only() {
    let step = |time: &str, upstream: &str| format!(r#""at":"2026-06-16T{time}Z","upstream":"{upstream}","#);
    let failed = step("10:00:00", "failed");
    assert_eq!(
        steps(&[
            ("2", &failed, "allow"),
            ("2", &step("10:00:01", "ok"), "allow"),
            ("1", &step("10:00:02", "ok"), "deny")
        ]),
        [""; 0]
    );
    let later = step("10:59:00", "failed_at:2026-06-16T11:00:01Z");
    let (first, second) = (step("11:00:00", "ok"), step("11:00:02", "ok"));
    assert_eq!(steps(&[("2", &later, "allow"), ("2", &first, "allow"), ("1", &second, "deny")]), [""; 0]);
    let soon = step("10:00:00", "failed_at: 2026-06-16T10:00:05Z");
    let (before, after) = (step("10:00:04", "ok"), step("10:00:05", "ok"));
    assert_eq!(steps(&[("2", &soon, "allow"), ("1", &before, "deny"), ("2", &after, "allow")]), [""; 0]);
}

#[test]
fn a_failing_step_is_named_by_its_number() {
    assert_eq!(steps(&[("2", "", "allow"), ("1", "", "allow")]), ["s/q step 2"]);
}

#[test]
fn a_suite_may_name_a_policy_file() {
    let with = |policy: &str| {
        let case = call("2", r#""id":"c","expect":{"decision":"allow"}"#);
        run_text(&format!(r#"{{"format":"mcp-policy-cases/1","suites":[{{"suite":"s",{policy}"cases":[{case}]}}]}}"#))
    };
    assert_eq!(with(r#""policy_file":"../p.json","#).unwrap().passed, 1);
    assert_eq!(
        with(r#""policy_file":"x.json","#).unwrap_err(),
        ["x.test.json:1: /suites/0/policy_file: x.json: no such file"]
    );
    assert_eq!(with(r#""policy_file":"../p.json","policy":null,"#).unwrap_err().len(), 1);
    assert_eq!(with("").unwrap_err().len(), 1);
    let broken = with(r#""policy":{"version":"1"},"#).unwrap_err();
    assert_eq!(broken, ["x.test.json:1: /suites/0/policy: policy:1: missing key `default`"]);
}

#[test]
fn a_misspelled_key_anywhere_is_a_defect() {
    let good = call("2", r#""id":"c","expect":{"decision":"allow"}"#);
    for text in [
        r#"{"format":"mcp-policy-cases/1","suits":[]}"#.to_owned(),
        r#"{"format":"mcp-policy-cases/2"}"#.to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        suite(r#""case":[]"#),
        suite(&format!(r#""cases":[{}]"#, call("2", r#""id":"c","expects":{"decision":"allow"}"#))),
        suite(&format!(r#""cases":[{}]"#, call("2", r#""id":"c","expect":{"decisions":"allow"}"#))),
        suite(&format!(r#""cases":[{}]"#, call("2", r#""id":"c","expect":{"decision":"permit"}"#))),
        suite(&format!(r#""cases":[{}]"#, call("2", r#""id":"c","expect":{"decision":"allow","rule":"/x"}"#))),
        suite(&format!(
            r#""cases":[{}]"#,
            call("2", r#""id":"c","identity":{"grants":"g"},"expect":{"decision":"allow"}"#)
        )),
        suite(&format!(r#""cases":[{}]"#, call("2", r#""id":"c","at":"today","expect":{"decision":"allow"}"#))),
        suite(&format!(r#""cases":[{}]"#, call("2", r#""id":"c","state":"full","expect":{"decision":"allow"}"#))),
        suite(r#""cases":[{"id":"c","expect":{"decision":"allow"}}]"#),
        suite(&format!(
            r#""sequences":[{{"id":"q","steps":[{}]}}]"#,
            call("2", r#""upstream":"broken","expect":{"decision":"allow"}"#)
        )),
        suite(&format!(r#""sequences":[{{"id":"q","step":[{good}]}}]"#)),
        suite(r#""tools_list":[{"id":"l","upstream_tools":["t"]}]"#),
        suite(r#""results":[{"id":"r","expect":{"result":{}}}]"#),
        suite(r#""results":[{"id":"r","result":{},"message":{},"expect":{"result":{}}}]"#),
        suite(r#""results":[{"id":"r","result":{},"expect":{}}]"#),
        suite(r#""results":[{"id":"r","result":{},"expect":{"result":{},"withheld":true}}]"#),
        suite(r#""results":[{"id":"r","result":{},"expect":{"withheld":false}}]"#),
        suite(r#""results":[{"id":"r","result":{},"expect":{"result":{},"hits":{"/mask/0":0}}}]"#),
        suite(r#""results":[{"id":"r","result":{},"expect":{"result":{}},"tol":"t"}]"#),
        r#"{"format":"mcp-policy-cases/1","invalid_policies":[{"id":"i"}]}"#.to_owned(),
    ] {
        assert!(run_text(&text).is_err(), "{text}");
    }
    assert_eq!(run_text(&suite(&format!(r#""cases":[{good}]"#))).unwrap().passed, 1);
}

#[test]
fn an_invalid_policy_that_loads_is_a_failure() {
    let text = r#"{"format":"mcp-policy-cases/1","invalid_policies":[{"id":"i","policy":{"version":"1","default":"deny"},"expect":"refused"}]}"#;
    assert_eq!(
        run_text(text).unwrap().failures[0].to_string(),
        "i: expected a policy that is refused, got one that loads"
    );
}

#[test]
fn results_are_compared_as_json() {
    let run = |expect: &str| {
        let text = format!(
            r#"{{"format":"mcp-policy-cases/1","suites":[{{"suite":"s","policy":{{"version":"2","default":"allow",
            "mask":[{{"detect":"email"}}],"block_if":[{{"detect":"us_ssn","on_block":"No."}}]}},
            "results":[{{"id":"r","result":{{"a":"a@b.cd","n":1}},"expect":{expect}}}]}}]}}"#
        );
        run_text(&text).unwrap()
    };
    for met in [
        r#"{"result":{"n":1,"a":"[email]"}}"#,
        r#"{"result":{"a":"[email]","n":1},"hits":{"/mask/0":1},"new_fields":[]}"#,
    ] {
        assert_eq!(run(met), Results { passed: 1, failures: vec![] }, "{met}");
    }
    for unmet in [
        r#"{"result":{"a":"[email]"}}"#,
        r#"{"result":{"a":"[email]","n":1,"m":1}}"#,
        r#"{"result":{"a":"[email]","n":1},"hits":{}}"#,
        r#"{"result":{"a":"[email]","n":1},"new_fields":["result.a"]}"#,
        r#"{"withheld":true}"#,
        r#"{"withheld":"No."}"#,
    ] {
        assert_eq!((run(unmet).passed, run(unmet).failures.len()), (0, 1), "{unmet}");
    }
}

#[test]
fn lists_are_compared_in_order() {
    let list = |visible: &str| {
        run_text(&suite(&format!(
            r#""tools_list":[{{"id":"l","upstream_tools":["x","t"],"visible_tools":{visible}}}]"#
        )))
        .unwrap()
    };
    assert_eq!(list(r#"["t"]"#).passed, 1);
    assert_eq!(list(r#"["x","t"]"#).failures[0].to_string(), "l: expected [x, t], got [t]");
}

#[test]
fn a_modern_request_is_read_with_the_headers_of_a_true_client() {
    let meta =
        r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let request = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"n":1}},"_meta":{meta}}}}}"#
    );
    let text = suite(&format!(r#""cases":[{{"id":"c","request":{request},"expect":{{"decision":"allow"}}}}]"#));
    assert_eq!(run_text(&text).unwrap(), Results { passed: 1, failures: vec![] });
}

#[test]
fn a_call_stands_for_its_request_and_a_step_may_be_repeated() {
    let step = |more: &str, decision: &str| {
        format!(r#"{{"call":{{"name":"t","arguments":{{"n":1}}}},{more}"expect":{{"decision":"{decision}"}}}}"#)
    };
    let run =
        |steps: &[String]| run_text(&suite(&format!(r#""sequences":[{{"id":"q","steps":[{}]}}]"#, steps.join(","))));
    let passed = run(&[step(r#""times":2,"#, "allow"), step(r#""times":3,"#, "deny")]).unwrap();
    assert_eq!((passed.passed, passed.failures.len()), (5, 0));
    let failed = run(&[step(r#""times":3,"#, "allow")]).unwrap();
    assert_eq!((failed.passed, failed.failures.len(), &*failed.failures[0].id), (2, 1, "q step 1"));
    assert!(run(&[step(r#""times":1000,"#, "deny")]).is_ok());
    for more in [r#""times":0,"#, r#""times":1001,"#, r#""request":{},"#] {
        assert_eq!(run(&[step(more, "allow")]).unwrap_err().len(), 1, "{more}");
    }
    let nameless = suite(r#""cases":[{"id":"c","call":{"arguments":{}},"expect":{"decision":"allow"}}]"#);
    assert_eq!(run_text(&nameless).unwrap_err().len(), 1);
}

#[test]
fn a_step_may_say_what_the_server_answered() {
    let policy = r#"{"version":"2","default":"deny","tools":{
        "t":{"limits":[{"counter":"c","window":"day","scope":"grant","max":100,"hold":40,"increment_from":"result.n"}]},
        "b":{"limits":[{"counter":"c","window":"day","scope":"grant","max":100,"hold":40,"increment_from":"response.bytes"}]},
        "r":{"limits":[{"counter":"c","window":"day","scope":"grant","max":1,"refund_on":["protocol_error","is_error"]}]}}}"#;
    let failures = |tool: &str, steps: &[(&str, &str)]| -> Vec<String> {
        let step = |(rest, decision): &(&str, &str)| {
            format!(r#"{{"call":{{"name":"{tool}"}},{rest}"expect":{{"decision":"{decision}"}}}}"#)
        };
        let steps: Vec<String> = steps.iter().map(step).collect();
        let suite = format!(
            r#"{{"format":"mcp-policy-cases/1","suites":[{{"suite":"s","policy":{policy},"sequences":[{{"id":"q","steps":[{}]}}]}}]}}"#,
            steps.join(",")
        );
        run_text(&suite).unwrap().failures.iter().map(|failure| failure.id.clone()).collect()
    };
    let (more, less) = (r#""answer":{"result":{"n":61}},"#, r#""answer":{"result":{"n":60}},"#);
    assert_eq!(failures("t", &[(more, "allow"), ("", "deny")]), [""; 0]);
    assert_eq!(failures("t", &[(less, "allow"), ("", "allow"), ("", "deny")]), [""; 0]);
    // Without a word of it the hold stays.
    for silent in ["", r#""answer":{"result":{}},"#, r#""answer":{"error":-32602},"#, r#""answer":{},"#] {
        assert_eq!(failures("t", &[(silent, "allow"), ("", "allow"), ("", "deny")]), [""; 0], "{silent}");
    }
    let (at, later) =
        (r#""at":"2026-06-16T10:00:00Z","upstream":"ok_at:2026-06-16T10:00:05Z","#, r#""at":"2026-06-16T10:00:05Z","#);
    let slow = format!("{at}{more}");
    assert_eq!(failures("t", &[(&slow, "allow"), ("", "allow"), (later, "deny")]), [""; 0]);
    assert_eq!(failures("b", &[(r#""answer":{"bytes":61},"#, "allow"), ("", "deny")]), [""; 0]);
    // {"jsonrpc":"2.0","id":1,"result":{}} has 36 bytes.
    assert_eq!(failures("b", &[(r#""answer":{},"#, "allow"), ("", "allow"), ("", "deny")]), [""; 0]);
    for back in [r#""answer":{"result":{"isError":true}},"#, r#""answer":{"error":-32601},"#] {
        assert_eq!(failures("r", &[(back, "allow"), (back, "allow"), ("", "allow"), ("", "deny")]), [""; 0], "{back}");
    }
    for spent in ["", r#""answer":{},"#, r#""answer":{"error":-32603},"#] {
        assert_eq!(failures("r", &[(spent, "allow"), ("", "deny")]), [""; 0], "{spent}");
    }
}

#[test]
fn an_answer_is_read_as_strictly_as_the_rest() {
    let told = |rest: &str| {
        let step = call("1", &format!(r#"{rest},"expect":{{"decision":"allow"}}"#));
        let told = run_text(&suite(&format!(r#""sequences":[{{"id":"q","steps":[{step}]}}]"#))).unwrap_err().join("\n");
        told.rsplit_once("/answer").unwrap().1.to_owned()
    };
    for (rest, expected) in [
        (r#""answer":{"results":{}}"#, ": unknown key `results` (did you mean `result`?)"),
        (r#""answer":{"error":-32602,"result":{}}"#, "/error: an answer has `result` or `error`, not both"),
        (r#""answer":{"error":"no"}"#, "/error: expected a JSON-RPC code, such as -32602, found a string"),
        (r#""answer":{"bytes":-1}"#, "/bytes: expected a whole number of at least 0, found `-1`"),
        (
            r#""upstream":"failed","answer":{}"#,
            ": a call that failed never got there: `answer` is for `upstream: ok` and `ok_at`",
        ),
    ] {
        assert_eq!(told(rest), expected);
    }
}

#[test]
fn a_file_cannot_ask_for_work_without_end() {
    let many = |n: usize| {
        let step = call("1", r#""times":1000,"expect":{"decision":"deny"}"#);
        let steps = vec![step; n].join(",");
        run_text(&suite(&format!(r#""sequences":[{{"id":"q","steps":[{steps}]}}]"#)))
    };
    assert!(many(1).is_ok());
    let defects = many(200).unwrap_err();
    assert!(defects.len() == 1 && defects[0].contains("more work than one file may"), "{defects:?}");
    // A large policy that is compiled over and over.
    let large = format!("{POLICY}{}", " ".repeat(1_000_000));
    let compiled = |n: usize| {
        let text = suite(r#""cases":[]"#).replace(POLICY, "{}").replace("\"policy\":{}", "\"policy_file\":\"p.json\"");
        let (start, one) = text.split_once('[').unwrap();
        let one = one.strip_suffix("]}").unwrap();
        let text = format!("{start}[{}]}}", vec![one; n].join(","));
        let file = CaseFile { file: "x.test.json", bytes: text.as_bytes(), format: Format::Json };
        let mut load =
            |_: &str| Ok(Loaded { file: "p.json".into(), bytes: large.clone().into_bytes(), format: Format::Json });
        run(&file, Reading::AsWritten, &mut load).map_err(|defects| defects[0].to_string())
    };
    assert!(compiled(9).is_ok());
    assert!(compiled(10).unwrap_err().contains("more work"));
}
