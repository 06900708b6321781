use mcp_authz_core::grant::TokenDigest;
use tempfile::TempDir;

use super::*;

const POLICY: &str = "version: '1'\ndefault: deny\ntools: {echo: {}}\n";

fn write(folder: &TempDir, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A folder with a good configuration.
fn good() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "config.yaml", "listen: {grpc: ['tcp://127.0.0.1:0'], admin: '127.0.0.1:0'}\n");
    write(&folder, "servers.yaml", "servers: {s: {policy: p, credential: {kind: none}}}\n");
    write(&folder, "policies/p.yaml", POLICY);
    write(&folder, "policies/p.test.json", "{}");
    let digest = TokenDigest::of(b"t").hex();
    write(&folder, "grants/g.yaml", &format!("grants: [{{label: a, sha256: '{digest}', servers: [s]}}]\n"));
    folder
}

/// Checks paths below the folder; gives the status, standard output and standard error.
fn check_in(folder: &TempDir, names: &[&str]) -> (ExitCode, String, String) {
    let paths = names.iter().map(|name| folder.path().join(name)).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(Args { paths }, &mut out, &mut err);
    let root = folder.path().display().to_string();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&root, "@");
    (code, text(out), text(err))
}

#[test]
fn a_good_configuration_is_good_however_it_is_named() {
    let folder = good();
    for (name, shown) in [("config.yaml", "@/config.yaml"), ("", "@/")] {
        let (code, out, err) = check_in(&folder, &[name]);
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""));
        assert_eq!(
            out,
            format!(
                "checked {shown}: settings and all that they name with 1 server, 1 policy, 1 grant; 0 defects, 0 warnings\n0 defects, 0 warnings\n"
            )
        );
    }
}

#[test]
fn what_a_path_is_is_told_by_its_content() {
    let folder = good();
    write(&folder, "odd/x.yaml", "servers: {}\n");
    write(&folder, "odd/y.yaml", "grants: []\n");
    write(&folder, "odd/z.json", "{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {}}}");
    for (name, shown) in [
        ("policies", "policies with 1 policy; 0 defects, 0 warnings"),
        ("policies/p.yaml", "a policy file with 1 policy; 0 defects, 0 warnings"),
        ("servers.yaml", "a servers file with 1 server; 0 defects, 0 warnings"),
        ("grants", "grants with 1 grant; 0 defects, 0 warnings"),
        ("grants/g.yaml", "a grants file with 1 grant; 0 defects, 0 warnings"),
        ("odd", "documents of several kinds with 0 servers, 1 policy, 0 grants; 0 defects, 1 warning"),
    ] {
        let (code, out, err) = check_in(&folder, &[name]);
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""), "{out}");
        assert!(out.contains(&format!("checked @/{name}: {shown}\n")), "{out}");
    }
}

#[test]
fn every_defect_of_every_path_is_printed() {
    let folder = good();
    write(&folder, "config.yaml", "listen: {grpc: []}\nlimts: {}\n");
    write(&folder, "servers.yaml", "servers: {s: {policy: q, credential: {kind: none}}, t: {}}\n");
    let (code, out, err) = check_in(&folder, &["config.yaml", "policies"]);
    assert_eq!((code, err.as_str()), (ExitCode::from(FAILED), ""));
    assert_eq!(
        out,
        "error: @/config.yaml:1: /listen: missing key `admin`
error: @/config.yaml:1: /listen/grpc: must not be empty: Envoy could not ask anything
error: @/config.yaml:2: unknown key `limts` (did you mean `limits`?)
error: @/servers.yaml:1: /servers/s/policy: there is no policy `q` (did you mean `p`?)
error: @/servers.yaml:1: /servers/t: missing key `credential`
checked @/config.yaml: settings and all that they name with 2 servers, 1 policy, 1 grant; 5 defects, 0 warnings
checked @/policies: policies with 1 policy; 0 defects, 0 warnings
5 defects, 0 warnings
"
    );
}

#[test]
fn settings_with_defects_still_say_where_the_documents_are() {
    let folder = good();
    fs::rename(folder.path().join("policies"), folder.path().join("rules")).unwrap();
    write(&folder, "config.yaml", "listne: 1\npaths: {policies: rules}\n");
    let (_, out, _) = check_in(&folder, &["config.yaml"]);
    assert!(out.ends_with("1 server, 1 policy, 1 grant; 2 defects, 0 warnings\n2 defects, 0 warnings\n"), "{out}");
    write(&folder, "config.yaml", "listne: [\n");
    let (code, out, _) = check_in(&folder, &["config.yaml"]);
    assert_eq!(code, ExitCode::from(FAILED));
    assert!(out.contains("checked @/config.yaml: settings only; 1 defect, 0 warnings"), "{out}");
}

#[test]
fn a_document_that_cannot_be_parsed_is_a_defect() {
    let folder = good();
    write(&folder, "policies/p.yaml", "version: [\n");
    write(&folder, "grants/g.yaml", "grants: [");
    for (name, kind) in [("policies/p.yaml", "a policy file"), ("grants/g.yaml", "a grants file")] {
        let (code, out, _) = check_in(&folder, &[name]);
        assert_eq!(code, ExitCode::from(FAILED));
        assert!(
            out.contains(&format!("error: @/{name}:")) && out.contains(&format!("checked @/{name}: {kind}")),
            "{out}"
        );
    }
}

#[test]
fn a_path_that_cannot_be_read_is_bad_usage() {
    let folder = good();
    fs::create_dir(folder.path().join("empty")).unwrap();
    write(&folder, "notes.txt", "x");
    for (name, problem) in [
        ("none.yaml", "cannot be read: no such file or directory"),
        ("notes.txt", "is no document: its name ends in neither .yaml, .yml nor .json"),
        ("policies/p.test.json", "holds test cases: run `mcp-authz test`"),
        (
            "empty",
            "holds no document to check (documents end in .yaml, .yml or .json; folders in it are not looked into)",
        ),
    ] {
        let (code, out, err) = check_in(&folder, &[name, "policies"]);
        assert_eq!(code, ExitCode::from(USAGE));
        assert_eq!(err, format!("mcp-authz: @/{name}: {problem}\n"));
        assert!(out.contains("checked @/policies"), "{out}");
    }
}

#[test]
fn the_admin_token_is_checked_with_the_settings() {
    let folder = good();
    let settings = "listen: {grpc: ['tcp://127.0.0.1:0'], admin: '127.0.0.1:0'}\nadmin: {token_file: token}\n";
    write(&folder, "config.yaml", settings);
    let (code, out, _) = check_in(&folder, &["config.yaml"]);
    assert_eq!(code, ExitCode::from(FAILED));
    assert!(out.starts_with("error: @/token: cannot be read: no such file or directory\n"), "{out}");
    write(&folder, "token", "short\n");
    let (_, out, _) = check_in(&folder, &["config.yaml"]);
    assert!(out.starts_with("error: @/token: an admin token is one line of at least 16"), "{out}");
    assert!(!out.contains("short"));
    write(&folder, "token", "0123456789abcdef\n");
    assert_eq!(check_in(&folder, &["config.yaml"]).0, ExitCode::SUCCESS);
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder.path().join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, out, _) = check_in(&folder, &["config.yaml"]);
    assert_eq!(code, ExitCode::SUCCESS);
    assert!(out.starts_with("warning: @/token: can be read by others than its owner"), "{out}");
}

#[test]
fn settings_of_a_webhook_need_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "config.yaml", "webhook: {listen: '0.0.0.0:9443', certificate: tls.crt, key: tls.key}\n");
    let (code, out, _) = check_in(&folder, &["config.yaml"]);
    assert_eq!(code, ExitCode::SUCCESS);
    assert!(out.starts_with("checked @/config.yaml: settings of a webhook; 0 defects"), "{out}");
    write(&folder, "config.yaml", "webhook: {listen: '0.0.0.0:9443', certificate: tls.crt}\n");
    let (code, out, _) = check_in(&folder, &[""]);
    assert!(code == ExitCode::from(FAILED) && out.contains("/webhook: missing key `key`"), "{out}");
}
