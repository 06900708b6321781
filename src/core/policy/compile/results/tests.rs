use crate::document::{Defect, Format};
use crate::policy::{HOSTS_MAX, MASK_TEXT_CHARS_MAX, Policy, RESULT_RULES_MAX, REVEALED_MAX, RULES_MAX, Source};

fn told(version: &str, text: &str) -> Vec<String> {
    let text = format!("version: \"{version}\"\ndefault: allow\n{text}");
    let source = Source { id: "p", file: "p", bytes: text.as_bytes(), format: Format::Yaml };
    let defects: Vec<Defect> = Policy::compile(&source).map(|_| Vec::new()).unwrap_or_else(|defects| defects);
    defects.iter().map(ToString::to_string).collect()
}

fn compiles(text: &str) -> bool {
    told("2", text).is_empty()
}

#[test]
fn version_1_has_no_rules_for_results() {
    for (key, value) in
        [("mask", "[]"), ("reveal", "[]"), ("report_new_fields", "true"), ("block_if", "[]"), ("inspect", "{}")]
    {
        let expected = |pointer: &str, line: u32| {
            let message = format!("`{key}` is not part of version 1 of the policy language");
            vec![format!("p:{line}: {pointer}/{key}: {message} (write `version: \"2\"`)")]
        };
        assert_eq!(told("1", &format!("{key}: {value}")), expected("", 3));
        assert_eq!(told("1", &format!("tools:\n  t: {{{key}: {value}}}")), expected("/tools/t", 4));
        assert!(compiles(&format!("{key}: {value}\ntools:\n  t: {{{key}: {value}}}")));
    }
}

#[test]
fn every_defect_is_told_at_once() {
    let text = r#"mask:
  - detect: [emial, iban]
  - {pattern: '(', name: x}
  - {pattern: 'a*'}
  - {detect: email, pattern: 'a'}
  - {name: x}
  - {detect: email, name: x}
  - {path: 'structuredContent.a'}
  - {detect: email, with: stars}
  - {detect: email, with: {fixed: "a\u202e"}}
  - {detect: []}
block_if:
  - {on_block: x}
  - {detect: email, conditions: [{path: result.a, op: eq, value: 1}]}
  - {conditions: []}
  - {conditions: [{path: args.a, op: eqq, value: 1}]}
reveal: [result.a..b]
report_new_fields: 1
inspect:
  hidden_text: clean
  links: {hosts: ["https://a.example", "a.example:80", "*"]}
  result_bytes_max: 0
  more: 1
"#;
    let told = told("2", text);
    let expected = [
        "p:4: /mask/0/detect/0: expected one of",
        "p:5: /mask/1/pattern: invalid pattern: missing `)`",
        "p:6: /mask/2/pattern: the pattern matches the empty text",
        "p:7: /mask/3/pattern: a rule has `detect` or `pattern`, not both",
        "p:8: /mask/4: needs `detect`, `pattern` or `path`",
        "p:9: /mask/5/name: detectors have names of their own",
        "p:10: /mask/6/path: `structuredContent.a`: a path starts with",
        "p:11: /mask/7/with: expected one of",
        "p:12: /mask/8/with/fixed: must not hold control characters",
        "p:13: /mask/9/detect: needs at least one detector",
        "p:15: /block_if/0: needs `detect`, `pattern` or `conditions`",
        "p:16: /block_if/1/conditions: a rule has",
        "p:17: /block_if/2/conditions: needs at least one condition",
        "p:18: /block_if/3/conditions/0/path: `args.a`: a path starts with",
        "p:18: /block_if/3/conditions/0/op: expected one of",
        "p:19: /reveal/0: `result.a..b`: a name in the path is empty",
        "p:20: /report_new_fields: expected `true` or a list of paths",
        "p:22: /inspect/hidden_text: expected one of",
        "p:23: /inspect/links: missing key `action`",
        "p:23: /inspect/links/hosts/0: `https://a.example` is no host",
        "p:23: /inspect/links/hosts/1: `a.example:80` is no host",
        "p:23: /inspect/links/hosts/2: `*` is no host",
        "p:24: /inspect/result_bytes_max: expected a whole number",
        "p:25: /inspect: unknown key `more`",
    ];
    for start in expected {
        assert!(told.iter().any(|defect| defect.starts_with(start)), "{start} is not in {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn bounds_hold() {
    let rules = |count: usize| format!("mask: [{}]", vec!["{detect: email}"; count].join(", "));
    assert!(compiles(&rules(RULES_MAX)) && !compiles(&rules(RULES_MAX + 1)));
    let in_tools = |count: usize| {
        let tools: String = (0..count).map(|n| format!("  t{n}: {{mask: [{{detect: email}}]}}\n")).collect();
        format!("tools:\n{tools}")
    };
    assert!(compiles(&in_tools(RESULT_RULES_MAX)) && !compiles(&in_tools(RESULT_RULES_MAX + 1)));
    let reveal = |count: usize| format!("reveal: [{}]", vec!["result.a"; count].join(", "));
    assert!(compiles(&reveal(REVEALED_MAX)) && !compiles(&reveal(REVEALED_MAX + 1)));
    let hosts =
        |count: usize| format!("inspect: {{links: {{action: mask, hosts: [{}]}}}}", vec!["a.b"; count].join(", "));
    assert!(compiles(&hosts(HOSTS_MAX)) && !compiles(&hosts(HOSTS_MAX + 1)));
    let name = |chars: usize| format!("mask: [{{pattern: a, name: {}}}]", "é".repeat(chars));
    assert!(compiles(&name(MASK_TEXT_CHARS_MAX)) && !compiles(&name(MASK_TEXT_CHARS_MAX + 1)));
    let fixed = |chars: usize| format!("mask: [{{pattern: a, with: {{fixed: {}}}}}]", "é".repeat(chars));
    assert!(compiles(&fixed(MASK_TEXT_CHARS_MAX)) && !compiles(&fixed(MASK_TEXT_CHARS_MAX + 1)));
    let pattern = |chars: usize| format!("mask: [{{pattern: {}}}]", "a".repeat(chars));
    assert!(compiles(&pattern(1024)) && !compiles(&pattern(1025)));
    let size = |bytes: u64| format!("inspect: {{result_bytes_max: {bytes}}}");
    assert!(compiles(&size(u64::from(u32::MAX))) && !compiles(&size(u64::from(u32::MAX) + 1)));
}
