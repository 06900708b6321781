//! Lists: what goes, that nothing else does, and what the pins are told.

use proptest::prelude::*;

use super::*;

fn shown(policy: &str, method: Method, result: &str) -> String {
    let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{result}}}");
    let (out, report) = text(job(policy, Asked::Request(method)), &JSON, &body);
    assert_eq!(report.withheld, None, "{out}");
    let end = out.len() - 1;
    out[r#"{"jsonrpc":"2.0","id":1,"result":"#.len()..end].to_owned()
}

#[test]
fn each_element_goes_with_one_comma() {
    for (before, after) in [
        ("[]", "[]"),
        ("[ ]", "[ ]"),
        (r#"[{"name":"rm"}]"#, "[]"),
        (r#"[ {"name":"rm"} , {"name":"rm2"} ]"#, "[  ]"),
        (r#"[{"name":"echo"}]"#, r#"[{"name":"echo"}]"#),
        (r#"[ {"name":"rm"} , {"name":"echo"} ]"#, r#"[ {"name":"echo"} ]"#),
        (r#"[ {"name":"echo"} , {"name":"rm"} ]"#, r#"[ {"name":"echo"} ]"#),
        (
            r#"[{"name":"a"},{"name":"b"},{"name":"echo"},{"name":"c"},{"name":"add"},{"name":"d"}]"#,
            r#"[{"name":"echo"},{"name":"add"}]"#,
        ),
    ] {
        assert_eq!(
            shown(POLICY, Method::ToolsList, &format!("{{\"tools\":{before}}}")),
            format!("{{\"tools\":{after}}}")
        );
    }
}

#[test]
fn what_no_call_could_name_is_hidden() {
    let open = r#"{"version":"1","default":"allow","hide":["rm"],"tools":{"né":{}}}"#;
    for odd in [
        "null",
        "\"echo\"",
        "[\"echo\"]",
        "{}",
        r#"{"name":null}"#,
        r#"{"name":7}"#,
        r#"{"name":["echo"]}"#,
        r#"{"name":""}"#,
        r#"{"name":"echo\u0000"}"#,
        r#"{"name":"echo\n"}"#,
        r#"{"name":" echo"}"#,
        r#"{"name":"ech\u043e"}"#,
        r#"{"name":"rm"}"#,
        r#"{"name":"r\u006d"}"#,
        r#"{"Name":"echo"}"#,
        r#"{"name":"echo","Name":"rm"}"#,
        r#"{"name":"echo","na_me":"rm"}"#,
    ] {
        let list = format!("{{\"tools\":[{odd},{{\"name\":\"echo\"}}]}}");
        assert_eq!(shown(open, Method::ToolsList, &list), r#"{"tools":[{"name":"echo"}]}"#, "{odd}");
    }
    let named = r#"{"tools":[{"name":"né"},{"n\u0061me":"add"}]}"#;
    assert_eq!(shown(open, Method::ToolsList, named), named, "a policy that spells a name out may show it");
    let twice = r#"{"tools":[{"name":"echo"},{"name":"add"},{"name":"\u0065cho"}]}"#;
    assert_eq!(
        shown(open, Method::ToolsList, twice),
        r#"{"tools":[{"name":"add"}]}"#,
        "nobody knows which one is meant"
    );
}

#[test]
fn other_lists_show_what_their_methods_may_use() {
    let open = r#"{"version":"1","default":"allow","hide":["rm"]}"#;
    for (method, member, name) in [
        (Method::PromptsList, "prompts", "name"),
        (Method::ResourcesList, "resources", "uri"),
        (Method::ResourcesTemplatesList, "resourceTemplates", "uriTemplate"),
    ] {
        let list = format!(
            "{{\"{member}\":[{{\"{name}\":\"a\"}},{{\"{name}\":\"a\"}},{{\"x\":1}},{{\"{name}\":\"\\n\"}}],\"nextCursor\":\"\"}}"
        );
        let sound = format!("{{\"{member}\":[{{\"{name}\":\"a\"}},{{\"{name}\":\"a\"}}],\"nextCursor\":\"\"}}");
        assert_eq!(shown(open, method, &list), sound);
        assert_eq!(shown(POLICY, method, &list), format!("{{\"{member}\":[],\"nextCursor\":\"\"}}"));
    }
}

/// Whatever the answer is an answer to: where lists are looked at, a list is one.
#[test]
fn a_list_in_another_answer_is_a_list() {
    let all = r#"{"prompts":[{"name":"p"}],"tools":[{"name":"rm"},{"name":"echo"}],"resources":[{"uri":"u"}],"resourceTemplates":[{"uriTemplate":"t"}]}"#;
    let none = r#"{"prompts":[],"tools":[{"name":"echo"}],"resources":[],"resourceTemplates":[]}"#;
    for method in [Method::ToolsList, Method::PromptsList, Method::ResourcesList, Method::ResourcesTemplatesList] {
        assert_eq!(shown(POLICY, method, all), none);
    }
}

#[test]
fn nobody_else_may_keep_the_list_and_not_for_long() {
    for (before, after) in [
        (r#""cacheScope":"public","ttlMs":60000"#, r#""cacheScope":"private","ttlMs":60000"#),
        (r#""cacheScope":"private","ttlMs":60001"#, r#""cacheScope":"private","ttlMs":60000"#),
        (r#""cacheScope":"PRIVATE","ttlMs":0"#, r#""cacheScope":"private","ttlMs":0"#),
        (r#""cacheScope":null,"ttlMs":-5"#, r#""cacheScope":"private","ttlMs":-5"#),
        (r#""ttlMs":6e4"#, r#""ttlMs":6e4"#),
        (r#""ttlMs":60000.5"#, r#""ttlMs":60000"#),
        (r#""ttlMs":1e999"#, r#""ttlMs":60000"#),
        (r#""ttlMs":"99999999""#, r#""ttlMs":0"#),
        (r#""ttlMs":null"#, r#""ttlMs":0"#),
        (r#""x":{"cacheScope":"public","ttlMs":1e9}"#, r#""x":{"cacheScope":"public","ttlMs":1e9}"#),
    ] {
        let list = |rest: &str| format!("{{\"tools\":[],{rest}}}");
        assert_eq!(shown(POLICY, Method::ToolsList, &list(before)), list(after));
    }
}

#[test]
fn a_policy_that_hides_nothing_costs_nothing() {
    let may_hide = |text: &str| policy(text).may_hide();
    for text in [
        r#"{"version":"1","default":"allow"}"#,
        r#"{"version":"1","default":"allow","tools":{"a":{"deny_if":[{"conditions":[{"path":"args.x","op":"eq","value":1}]}]}}}"#,
        r#"{"version":"1","default":"allow","tools":{"a":{"limits":[{"counter":"c","window":"day","scope":"grant","max":1}]}}}"#,
    ] {
        assert!(!may_hide(text), "{text}");
    }
    for text in [
        POLICY,
        r#"{"version":"1","default":"allow","hide":["a"]}"#,
        r#"{"version":"1","default":"allow","hide":["*"]}"#,
        r#"{"version":"1","default":"allow","tools":{"a":{"limits":[{"counter":"c","window":"day","scope":"grant","max":0}]}}}"#,
        r#"{"version":"2","default":"allow","tools":{"a":{"limits":[{"counter":"c","window":"day","scope":"group","max":1}]}}}"#,
        r#"{"version":"2","default":"allow","all_tools":{"limits":[{"counter":"c","window":"day","scope":"group","max":1}]}}"#,
    ] {
        assert!(may_hide(text), "{text}");
    }
}

proptest! {
    /// Against a second way: the elements that a reading by serde_json keeps, in their order, with everything else as it was.
    #[test]
    fn what_is_left_is_the_list_without_the_hidden_ones(
        names in proptest::collection::vec(0..5_usize, 0..12),
        spaces in proptest::collection::vec("[ \\t]{0,2}", 30),
    ) {
        let known = ["echo", "add", "rm", "né", "drop_table"];
        let mut space = spaces.iter().cycle();
        let mut gap = || space.next().unwrap().as_str();
        let mut list = String::new();
        for (at, name) in names.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            list.push_str(&format!("{comma}{}{{\"x\":[1,{}2],\"name\":\"{}\"}}{}", gap(), gap(), known[*name], gap()));
        }
        let body = format!("{{{}\"a\":[],\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"tools\":[{list}]{},\"nextCursor\":\"c\"}}}}", gap(), gap());
        let (out, report) = text(super::list(), &JSON, &body);
        let mut expected = json(&body);
        let kept = expected["result"]["tools"].as_array_mut().unwrap();
        let all = kept.len();
        let counts = |name: &serde_json::Value, list: &[serde_json::Value]| list.iter().filter(|one| one["name"] == *name).count();
        let before = kept.clone();
        kept.retain(|tool| ["echo", "add"].iter().any(|name| tool["name"] == *name) && counts(&tool["name"], &before) == 1);
        prop_assert_eq!(usize::try_from(report.hidden).unwrap(), all - kept.len());
        prop_assert_eq!(json(&out), expected);
        // Nothing was put in: the output is the input with pieces gone.
        let mut rest = body.bytes();
        prop_assert!(out.bytes().all(|byte| rest.any(|other| other == byte)));
        let unchanged = report.hidden == 0;
        prop_assert_eq!(out == body, unchanged);
    }
}

#[test]
fn a_list_that_a_task_brings_is_filtered_too() {
    for method in [Method::TasksGet, Method::TasksResult] {
        let asked = Asked::Request(method);
        assert!(Concern::of(&policy(POLICY), &asked, false).lists, "{method:?}");
        assert_eq!(text(job(POLICY, asked), &JSON, LIST).0, SHOWN);
    }
}
