use super::*;

const POLICY: &str = r#"{"version":"1","default":"deny","tools":{"t":{"require":[
  {"conditions":[{"path":"args.a","op":"eq","value":5}]}]}}}"#;

/// Runs over a folder with these files; gives status, output and errors.
fn run_on(files: &[(&str, &str)], paths: &[&str], compat: bool) -> (String, String, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let paths = paths.iter().map(|path| folder.path().join(path)).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(Args { paths, compat }, &mut out, &mut err);
    let root = format!("{}/", folder.path().display());
    let clean = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&root, "");
    (format!("{code:?}"), clean(out), clean(err))
}

fn code(status: u8) -> String {
    format!("{:?}", ExitCode::from(status))
}

fn suite(policy: &str, value: &str, decision: &str) -> String {
    format!(
        r#"{{"format":"mcp-policy-cases/1","suites":[{{"suite":"s",{policy},"cases":[{{"id":"s/one",
        "request":{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"a":{value}}}}}}},
        "expect":{{"decision":"{decision}","rule":"{}"}},"expect_compat":{{"decision":"allow"}}}}]}}]}}"#,
        if decision == "allow" { "" } else { "/tools/t/require/args.a-eq" }
    )
}

#[test]
fn a_failing_case_is_one_line_and_status_1() {
    let inline = format!("\"policy\":{POLICY}");
    let (status, out, err) = run_on(&[("x.test.json", &suite(&inline, "6", "allow"))], &["x.test.json"], false);
    let expected = "FAIL x.test.json: s/one: expected allow, got deny /tools/t/require/args.a-eq with \
        `Call denied by policy rule /tools/t/require/args.a-eq` at /tools/t/require/0/conditions/0, reason requirement\n\
        0 passed, 1 failed\n";
    assert_eq!((status, out.as_str(), err.as_str()), (code(FAILED), expected, ""));
}

#[test]
fn a_folder_runs_its_case_files_and_their_policy_files() {
    let files = [
        ("cases/a.test.json", suite("\"policy_file\":\"../p.json\"", "5", "allow")),
        ("cases/deep/b.test.json", suite("\"policy_file\":\"../../p.json\"", "\"5\"", "deny")),
        ("cases/other.json", "no case file".to_owned()),
        ("cases/told.json", suite("\"policy_file\":\"../p.json\"", "5", "allow")),
        ("p.json", POLICY.to_owned()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    assert_eq!(run_on(&files, &["cases"], false), (code(0), "3 passed, 0 failed\n".into(), String::new()));
    assert_eq!(run_on(&files, &["cases"], true), (code(0), "3 passed, 0 failed\n".into(), String::new()));
}

#[test]
fn the_lenient_reading_counts_only_when_asked_for() {
    let inline = format!("\"policy\":{POLICY}");
    let files = [("x.test.json", suite(&inline, "\"5\"", "allow"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    assert_eq!(run_on(&files, &["x.test.json"], false).0, code(FAILED));
    assert_eq!(run_on(&files, &["x.test.json"], true).0, code(0));
}

#[test]
fn what_cannot_be_read_is_status_64() {
    let (status, out, err) = run_on(&[], &["none.test.json"], false);
    assert_eq!((status, out.as_str()), (code(USAGE), "0 passed, 0 failed\n"));
    assert!(err.starts_with("none.test.json: "), "{err}");
    assert_eq!(run_on(&[("e/x.json", "{}")], &["e"], false).0, code(USAGE));
    assert_eq!(run_on(&[("x.txt", "{}")], &["x.txt"], false).0, code(USAGE));
    let (status, _, err) =
        run_on(&[("x.test.json", "{\"format\":\"mcp-policy-cases/2\",\"suits\":[]}")], &["."], false);
    assert_eq!(status, code(USAGE));
    assert!(err.contains("did you mean `suites`?") && err.contains("mcp-policy-cases/1"), "{err}");
}

#[test]
fn a_path_that_is_not_there_is_said_to_be_missing() {
    let (status, out, err) = run_on(&[], &["nothere"], false);
    assert_eq!((status, err.as_str()), (code(USAGE), "nothere: no such file or folder\n"));
    assert_eq!(out, "0 passed, 0 failed\n");
}
