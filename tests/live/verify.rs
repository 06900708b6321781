//! `mcp-authz verify` against processes.

use std::{fs, path::Path};

use serde_json::Value;

use super::process::{GRANTS, Pod, SERVERS, policy, run};

fn verify(folder: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = run(folder, &[&["verify", "--path", "git/policies"], more].concat());
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_deployment_is_compared_with_the_working_tree() {
    let mut pod = Pod::new("");
    let root = pod.folder.path().to_owned();
    let write = |name: &str, text: &str| {
        let path = root.join("git").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("policies/p.yaml", &policy("first"));
    write("policies/p.test.yaml", "format: mcp-policy-cases/1\nsuites: []\n");
    write("servers.yaml", SERVERS);
    write("grants/grants.yaml", GRANTS);
    let (one, two) = (pod.start(), Pod::new(""));
    let two = two.start();
    let (url, other) = (format!("http://{}", one.admin), two.admin.to_string());
    let all = ["--live", &url, "--live", &other, "--servers", "git/servers.yaml", "--grants", "git/grants"];
    let (code, said) = verify(&root, &all);
    assert_eq!((code, said.lines().count()), (Some(0), 3), "{said}");
    let page = one.json("/policy");
    let revision = page.get("revision").and_then(Value::as_str).unwrap();
    assert!(said.starts_with(&format!("same     {url} revision {revision}\n")), "{said}");
    assert!(said.ends_with("2 of 2 processes serve these 3 files\n"), "{said}");

    // A change that only one replica has.
    write("policies/p.yaml", &policy("second"));
    write("policies/team/new.json", r#"{"version": "1", "default": "deny"}"#);
    let second = fs::read_to_string(root.join("git/policies/p.yaml")).unwrap();
    pod.policies.update(&[("p.yaml", &second), ("new.json", r#"{"version": "1", "default": "deny"}"#)]);
    let (code, said) = verify(&root, &["--live", &url, "--wait", "60"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = verify(&root, &all);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("\n  missing  policies/new.json here sha256:"), "{said}");
    assert!(said.contains("\n  changed  policies/p.yaml live sha256:"), "{said}");
    let (_, shown) = verify(&root, &["--live", &format!("http://{other}")]);
    assert_fits_the_page(&shown);
    let (code, said) = verify(&root, &["--live", &url, "--live", &other, "--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, json.get("same")), (Some(1), Some(&Value::Bool(false))));
    assert_eq!(json.pointer("/processes/0/differences"), Some(&Value::Array(Vec::new())));
    assert_eq!(json.pointer("/processes/1/differences/0/difference"), Some(&Value::from("missing")));

    // A file that is served and is in no working tree, and a reload that was refused.
    fs::remove_file(root.join("git/policies/team/new.json")).unwrap();
    pod.policies.update(&[("p.yaml", "nonsense: true\n")]);
    one.reloaded(1, 1);
    let (code, said) = verify(&root, &["--live", &url]);
    assert!(code == Some(1) && said.contains("\n  extra    policies/new.json live sha256:"), "{said}");
    assert!(said.contains("\n  refused  policies/p.yaml:1"), "{said}");
}

/// The sample of the page is what the command says; `…` stands for what differs from run to run.
fn assert_fits_the_page(said: &str) {
    let page = include_str!("../../deploy/POLICY_DELIVERY.md");
    let (_, sample) = page.split_once("```text verify\n").unwrap();
    let (sample, _) = sample.split_once("```").unwrap();
    assert_eq!(said.lines().count(), sample.lines().count(), "{said}");
    for (line, pattern) in said.lines().zip(sample.lines()) {
        let mut rest = line;
        for part in pattern.split('…') {
            rest = rest.split_once(part).unwrap_or_else(|| panic!("`{line}` is not `{pattern}`")).1;
        }
    }
}

#[test]
fn what_cannot_be_compared_is_neither_the_same_nor_different() {
    let pod = Pod::new("");
    let root = pod.folder.path();
    fs::create_dir_all(root.join("git/policies")).unwrap();
    let nobody = super::process::free_port().to_string();
    let (code, said) = verify(root, &["--live", &nobody]);
    assert!(code == Some(69) && said.contains("cannot be asked"), "{said}");
    let (code, said) = verify(root, &["--live", &nobody, "--servers", "nowhere.yaml"]);
    assert!(code == Some(64) && said.contains("nowhere.yaml: cannot be read"), "{said}");
}
