use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

const POLICY: &str = r#"
version: "2"
default: allow
mask: [{detect: email}]
tools:
  get: {block_if: [{detect: us_ssn, on_block: No numbers.}], report_new_fields: true}
"#;

fn mask(arguments: &[&str], input: &str) -> (ExitCode, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("p.yaml").display().to_string();
    fs::write(&policy, POLICY).unwrap();
    let line = Line::try_parse_from([&["mask", "--policy", &policy], arguments].concat()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(&line.args, &mut input.as_bytes(), &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn before_and_after_are_shown() {
    let (code, out, err) = mask(&[], "{\"content\": [{\"type\": \"text\",\n \"text\": \"to a@b.cd\"}]}\n");
    let expected = "before  {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\": [{\"type\": \"text\",  \"text\": \"to a@b.cd\"}]}}\n\
        after   {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\": [{\"type\": \"text\",  \"text\": \"to [email]\"}]}}\n\
        masked       1  /mask/0\n";
    assert_eq!((code, out.as_str(), err.as_str()), (ExitCode::SUCCESS, expected, ""));
}

#[test]
fn rules_of_the_tool_apply_where_it_is_named() {
    let message = r#"{"jsonrpc":"2.0","id":7,"result":{"structuredContent":{"ssn":"123-45-6789"}}}"#;
    let (code, out, _) = mask(&["--tool", "get"], message);
    assert_eq!(code, ExitCode::from(FAILED));
    assert!(out.ends_with("withheld: No numbers.\nblocked      1  /tools/get/block_if/0\n"), "{out}");
    let (code, out, _) = mask(&[], message);
    assert_eq!((code, out.lines().count()), (ExitCode::SUCCESS, 2));
    let (_, out, _) = mask(&["--tool", "get"], r#"{"structuredContent":{"a":1}}"#);
    assert!(out.contains("new field       result.structuredContent.a\n"), "{out}");
}

#[test]
fn what_cannot_be_read_is_told() {
    for input in ["{", "", "{\"a\":1,\"a\":2}"] {
        let (code, out, err) = mask(&[], input);
        assert_eq!((code, out.as_str()), (ExitCode::from(USAGE), ""));
        assert!(err.starts_with("the result: "), "{err}");
    }
    let (code, _, err) = mask(&["--result", "/nowhere/result.json"], "");
    assert!(code == ExitCode::from(USAGE) && err.starts_with("/nowhere/result.json: "), "{err}");
}
