use std::fs;

use super::*;

const A: &str = "version: '1'\ndefault: deny\n";

fn args(folder: &Path) -> Args {
    Args {
        live: Vec::new(),
        path: folder.join("policies"),
        servers: None,
        grants: None,
        ca: None,
        wait: 0,
        json: false,
    }
}

fn folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, A).unwrap();
    }
    folder
}

#[test]
fn a_file_is_known_by_its_name_wherever_it_lies() {
    let folder = folder(&[
        "policies/a.yaml",
        "policies/team/b.json",
        "policies/team/b.test.json",
        "policies/README.md",
        "policies/.git/c.yaml",
        "servers.yaml",
        "grants/agents.yaml",
    ]);
    let mut args = args(folder.path());
    let paths = |args: &Args| tree(args).ok().map(|tree| tree.digests.into_keys().collect::<Vec<_>>());
    assert_eq!(paths(&args).unwrap(), ["policies/a.yaml", "policies/b.json"]);
    args.servers = Some(folder.path().join("servers.yaml"));
    args.grants = Some(folder.path().join("grants"));
    assert_eq!(
        paths(&args).unwrap(),
        ["grants/agents.yaml", "policies/a.yaml", "policies/b.json", "servers.yaml"],
        "whatever the file is called here"
    );
}

#[test]
fn two_files_of_one_name_cannot_both_be_served() {
    let folder = folder(&["policies/a.yaml", "policies/team/a.yaml"]);
    let defects = tree(&args(folder.path())).err().unwrap();
    assert!(defects[0].to_string().contains("team/a.yaml: has the name of "), "{defects:?}");
    let nowhere = Args { path: "/nowhere".into(), ..args(folder.path()) };
    assert!(tree(&nowhere).err().unwrap()[0].to_string().contains("no such file or directory"));
}

#[test]
fn missing_extra_and_changed_files_are_told_apart() {
    let of = |pairs: &[(&str, &str)]| -> Digests {
        pairs.iter().map(|(path, digest)| ((*path).to_owned(), (*digest).to_owned())).collect()
    };
    let (live, here) = (of(&[("a", "1"), ("b", "1"), ("c", "1")]), of(&[("a", "1"), ("b", "2"), ("d", "1")]));
    let found = compare(&live, &here);
    let words: Vec<_> = found.iter().map(|found| (found.word(), &*found.path)).collect();
    assert_eq!(words, [("changed", "b"), ("extra", "c"), ("missing", "d")]);
    assert!(compare(&here, &here).is_empty());
}

#[test]
fn an_address_is_a_url_as_well() {
    for text in ["10.0.0.7:9192", "http://10.0.0.7:9192", "http://10.0.0.7:9192/", "http://10.0.0.7:9192/policy"] {
        assert_eq!(base(text), "http://10.0.0.7:9192", "{text}");
    }
    assert_eq!(base("https://a/b"), "https://a/b");
}

#[test]
fn what_a_process_says_steers_no_terminal() {
    let difference = Difference { path: "p\u{1b}[2J".to_owned(), live: Some("\u{202e}".to_owned()), here: None };
    let served =
        Served { revision: "\u{9b}".to_owned(), differences: vec![difference], defects: vec!["a\nb".to_owned()] };
    let mut out = Vec::new();
    print(&[Replica { url: "http://a".to_owned(), outcome: Ok(served) }], 1, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.contains("p\\u{1b}[2J live \\u{202e}") && out.contains("revision \\u{9b}") && out.contains("a\\u{a}b"),
        "{out}"
    );
}
