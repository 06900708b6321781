use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use mcp_authz_core::grant::TokenDigest;
use tempfile::TempDir;

use super::*;

const SERVERS: &str = "servers:
  a: {policy: p, credential: {kind: header, name: authorization, format: 'Bearer {secret}', secret: up/token}, match: [{host: h, path: /mcp}]}
  b: {credential: {kind: none}}
";
const POLICY: &str = "version: '1'\ndefault: deny\ntools: {echo: {}}\n";

fn digest(token: &str) -> String {
    TokenDigest::of(token.as_bytes()).hex()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A folder with good documents.
struct Documents(TempDir);

impl Documents {
    fn new() -> Self {
        let documents = Self(tempfile::tempdir().unwrap());
        documents.write("servers.yaml", SERVERS);
        documents.write("policies/p.yaml", POLICY);
        documents.write("policies/q.json", "{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"echo\": {}}}");
        documents.write("policies/q.test.json", "not even JSON");
        documents.write(
            "grants/g.yaml",
            &format!(
                "grants:\n- {{label: one, sha256: '{}', servers: [a, b], policy: q}}\n- {{label: two, sha256: '{}', servers: [a]}}\n",
                digest("1"),
                digest("2")
            ),
        );
        documents.write("credentials/up/token", "hunter2\n");
        documents
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        write(&self.0.path().join(name), text);
        self
    }

    fn paths(&self) -> Paths {
        let root = self.0.path();
        Paths {
            policies: root.join("policies"),
            servers: root.join("servers.yaml"),
            grants: root.join("grants"),
            credentials: root.join("credentials"),
            response_phase: true,
        }
    }

    fn load(&self) -> Loaded {
        Snapshot::load(&self.paths()).unwrap_or_else(|defects| panic!("{defects:#?}"))
    }

    /// Defects without the name of the folder.
    fn defects(&self) -> Vec<String> {
        self.texts(&Snapshot::load(&self.paths()).expect_err("should be refused"))
    }

    fn warnings(&self) -> Vec<String> {
        self.texts(&self.load().warnings)
    }

    fn texts(&self, list: &[Defect]) -> Vec<String> {
        let root = format!("{}/", self.0.path().display());
        list.iter().map(|defect| defect.to_string().replace(&root, "")).collect()
    }
}

#[test]
fn a_caller_gets_the_policy_of_the_grant_else_of_the_server() {
    let loaded = Documents::new().load();
    assert_eq!(loaded.warnings, []);
    let snapshot = loaded.snapshot;
    let policy = |token: &str, server: &str| {
        let server = snapshot.server(server).unwrap();
        snapshot
            .resolve(token.as_bytes(), server, 0)
            .map(|caller| (caller.principal.grant.to_string(), caller.policy.map(|policy| policy.id().to_string())))
    };
    assert_eq!(policy("1", "a"), Ok(("one".into(), Some("q".into()))));
    assert_eq!(policy("1", "b"), Ok(("one".into(), Some("q".into()))));
    assert_eq!(policy("2", "a"), Ok(("two".into(), Some("p".into()))));
    assert_eq!(policy("2", "b"), Err(Reason::GrantWrongServer));
    assert_eq!(policy("3", "a"), Err(Reason::TokenUnknown));
    assert!(snapshot.server("c").is_none());
    assert_eq!(snapshot.server_by_route("H", "/mcp").unwrap().server.name().as_ref(), "a");
    assert_eq!(snapshot.server("a").unwrap().credential.expose_header(), Some(("authorization", "Bearer hunter2")));
    assert_eq!(snapshot.policies().map(|policy| policy.id().to_string()).collect::<Vec<_>>(), ["p", "q"]);
    assert_eq!((snapshot.servers().count(), snapshot.grants().len()), (2, 2));
    assert_eq!(snapshot.server_names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(snapshot.credential_headers().hold("authorization") && !snapshot.credential_headers().hold("cookie"));
    assert!(snapshot.policy("p").is_some() && snapshot.policy("q.test").is_none());
}

#[test]
fn a_policy_of_nobody_is_no_policy() {
    let documents = Documents::new();
    documents.write("grants/h.yaml", &format!("grants: [{{label: three, sha256: '{}', servers: [b]}}]", digest("3")));
    let loaded = documents.load();
    assert_eq!(
        documents.texts(&loaded.warnings),
        [
            "grants/h.yaml:1: /grants/0/label: no policy holds for this grant at the server `b` (every call will be denied: name a `policy` in one of them)"
        ]
    );
    let server = loaded.snapshot.server("b").unwrap();
    assert!(loaded.snapshot.resolve(b"3", server, 0).unwrap().policy.is_none());
}

#[test]
fn every_defect_of_every_file_is_told_and_every_reference_checked() {
    let documents = Documents::new();
    documents
        .write(
            "servers.yaml",
            &SERVERS
                .replace("policy: p", "policy: pp")
                .replace("up/token", "up/tokn")
                .replace("kind: none", "knd: none"),
        )
        .write("policies/q.json", "{\"version\": \"1\", \"default\": \"deny\",\n \"toolz\": 1}")
        .write("policies/p.json", "{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"echo\": {}}}")
        .write("policies/Bad Name.yaml", POLICY)
        .write(
            "grants/h.yaml",
            &format!(
                "grants:\n- {{label: x, sha256: '{}', servers: [a, bb, nowhere], policy: q2}}\n- 5\n",
                digest("9")
            ),
        );
    assert_eq!(
        documents.defects(),
        [
            "servers.yaml:2: /servers/a/credential/secret: the secret file cannot be read: no such file or directory (the path starts at credentials)",
            "servers.yaml:2: /servers/a/policy: there is no policy `pp` (did you mean `p`?)",
            "servers.yaml:3: /servers/b/credential: unknown key `knd` (did you mean `kind`?)",
            "servers.yaml:3: /servers/b/credential: missing key `kind`",
            "policies/Bad Name.yaml: the file name `Bad Name` gives no policy id: 1 to 63 of a-z, 0-9, `_`, `.`, `-`",
            "policies/p.yaml: the policy id `p` is taken by policies/p.json",
            "policies/q.json:2: unknown key `toolz` (did you mean `tools`?)",
            "grants/h.yaml:2: /grants/0/policy: there is no policy `q2` (did you mean `q`?)",
            "grants/h.yaml:2: /grants/0/servers/1: there is no server `bb` (did you mean `b`?)",
            "grants/h.yaml:2: /grants/0/servers/2: there is no server `nowhere`",
            "grants/h.yaml:3: /grants/1: expected a map, found a number",
        ]
    );
}

#[test]
fn a_folder_that_is_missing_is_one_defect() {
    let documents = Documents::new();
    for folder in ["policies", "grants", "credentials"] {
        fs::remove_dir_all(documents.0.path().join(folder)).unwrap();
    }
    fs::remove_file(documents.0.path().join("servers.yaml")).unwrap();
    assert_eq!(
        documents.defects(),
        [
            "servers.yaml: cannot be read: no such file or directory",
            "policies: cannot be read: no such file or directory",
            "grants: cannot be read: no such file or directory",
        ]
    );
}

#[test]
fn what_is_no_plain_file_of_fair_size_is_a_defect() {
    let documents = Documents::new();
    documents.write("policies/big.yaml", &" ".repeat(1_048_577)).write("credentials/up/token", &"x".repeat(16_385));
    fs::create_dir(documents.0.path().join("policies/folder.yaml")).unwrap();
    fs::create_dir(documents.0.path().join("policies/folder")).unwrap();
    symlink("nowhere", documents.0.path().join("grants/dangling.yaml")).unwrap();
    documents.write("policies/.hidden.yaml", "x").write("policies/README.md", "x");
    assert_eq!(
        documents.defects(),
        [
            "policies/big.yaml: is larger than 1048576 bytes",
            "policies/folder.yaml: is not a regular file",
            "grants/dangling.yaml: cannot be read: no such file or directory",
            "servers.yaml:2: /servers/a/credential/secret: the secret file is larger than 16384 bytes (the path starts at credentials)",
        ]
    );
}

#[test]
fn a_secret_that_cannot_be_sent_is_a_defect_that_does_not_show_it() {
    for (text, problem) in [
        ("", "the secret is empty"),
        (
            "hunter2\nhunter3",
            "the secret holds a byte that no header may carry: printable ASCII only, one line, no spaces at its ends",
        ),
    ] {
        let documents = Documents::new();
        documents.write("credentials/up/token", text);
        assert_eq!(documents.defects(), [format!("servers.yaml:2: /servers/a/credential/secret: {problem}")]);
    }
}

#[test]
fn files_that_others_may_read_are_a_warning() {
    let documents = Documents::new();
    for name in ["grants/g.yaml", "credentials/up/token", "policies/p.yaml"] {
        fs::set_permissions(documents.0.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    assert_eq!(
        documents.warnings(),
        [
            "grants/g.yaml: can be read by others than its owner (chmod 600, or `defaultMode: 0400` on the volume)",
            "servers.yaml:2: /servers/a/credential/secret: the secret file can be read by others than its owner (chmod 600, or `defaultMode: 0400` on the volume)",
        ]
    );
}

#[test]
fn grants_and_secrets_are_not_read_through_links_out_of_their_folders() {
    let documents = Documents::new();
    let root = documents.0.path();
    documents.write("elsewhere/token", "x").write("elsewhere/g.yaml", "grants: []").write("elsewhere/r.yaml", POLICY);
    fs::remove_file(root.join("credentials/up/token")).unwrap();
    symlink("../../elsewhere/token", root.join("credentials/up/token")).unwrap();
    symlink("../elsewhere/g.yaml", root.join("grants/h.yaml")).unwrap();
    symlink("../elsewhere/r.yaml", root.join("policies/r.yaml")).unwrap();
    assert_eq!(
        documents.defects(),
        [
            "grants/h.yaml: leads out of its folder by a symbolic link",
            "servers.yaml:2: /servers/a/credential/secret: the secret file leads out of its folder by a symbolic link (the path starts at credentials)",
        ]
    );
}

#[test]
fn mounted_volumes_are_read_through_their_links() {
    let documents = Documents::new();
    let root = documents.0.path();
    for (folder, name) in
        [("policies", "p.yaml"), ("policies", "q.json"), ("grants", "g.yaml"), ("credentials/up", "token")]
    {
        let folder = root.join(folder);
        fs::create_dir_all(folder.join("..2026_01_01")).unwrap();
        fs::rename(folder.join(name), folder.join("..2026_01_01").join(name)).unwrap();
        if !folder.join("..data").exists() {
            symlink("..2026_01_01", folder.join("..data")).unwrap();
        }
        symlink(format!("..data/{name}"), folder.join(name)).unwrap();
    }
    let snapshot = documents.load().snapshot;
    assert_eq!((snapshot.policies().len(), snapshot.grants().len()), (2, 2));
    assert_eq!(snapshot.revision(), Documents::new().load().snapshot.revision());
}

#[test]
fn the_revision_follows_every_document_and_no_secret() {
    let revision = |name: &str, text: &str| {
        let documents = Documents::new();
        documents.write(name, text);
        documents.load().snapshot
    };
    let base = Documents::new().load().snapshot;
    assert!(base.revision().starts_with("sha256:") && base.revision().len() == 71);
    assert_eq!(base.revision(), Documents::new().load().snapshot.revision());
    for (name, text) in [
        ("servers.yaml", format!("{SERVERS}\n")),
        ("policies/p.yaml", format!("{POLICY}\n")),
        ("policies/r.yaml", POLICY.to_owned()),
        ("grants/h.yaml", "grants: []".to_owned()),
    ] {
        assert_ne!(revision(name, &text).revision(), base.revision(), "{name}");
    }
    let rotated = revision("credentials/up/token", "other");
    assert_eq!(rotated.revision(), base.revision());
    assert!(!rotated.is_same(&base) && base.is_same(&Documents::new().load().snapshot));
}

#[test]
fn no_grant_at_all_is_a_warning() {
    let documents = Documents::new();
    documents.write("grants/g.yaml", "grants: []");
    assert_eq!(documents.warnings(), ["grants: holds no grant: every call will be refused"]);
}

#[test]
fn secrets_and_digests_stay_out_of_debug() {
    let snapshot = Documents::new().load().snapshot;
    let shown = format!("{snapshot:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(digest("1").split_at(10).0));
}

#[test]
fn no_load_mixes_two_versions_of_a_volume() {
    let documents = Documents::new();
    let root = documents.0.path().join("policies");
    fs::remove_dir_all(&root).unwrap();
    for version in ["..1", "..2"] {
        for name in ["p", "q"] {
            let text = format!("# {version}\n{POLICY}");
            documents.write(&format!("policies/{version}/{name}.yaml"), &text);
        }
    }
    let point_at = |version: &str| {
        symlink(version, root.join("..next")).unwrap();
        fs::rename(root.join("..next"), root.join("..data")).unwrap();
    };
    point_at("..1");
    let paths = documents.paths();
    std::thread::scope(|scope| {
        let swaps = scope.spawn(|| (0..2_000).for_each(|n| point_at(if n % 2 == 0 { "..2" } else { "..1" })));
        let mut left = 50;
        while left > 0 || !swaps.is_finished() {
            left -= i32::from(left > 0);
            match Snapshot::load(&paths) {
                Ok(Loaded { snapshot, .. }) => {
                    let digest = |id: &str| snapshot.policy(id).unwrap().digest();
                    assert_eq!(digest("p"), digest("q"));
                }
                Err(defects) => assert!(defects[0].message.starts_with("changes faster"), "{defects:?}"),
            }
        }
    });
    assert!(Snapshot::load(&paths).is_ok());
}

#[test]
fn a_policy_that_asks_for_schemas_where_none_are_pinned_is_a_warning() {
    let documents = Documents::new();
    documents.write("policies/p.yaml", "{version: \"2\", default: deny, tools: {t: {schema_from: server}}}");
    let warnings = documents.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("the policy has `schema_from`, and the tools of `a` are not pinned"), "{warnings:?}");
    assert!(warnings[0].contains("servers.yaml:2: /servers/a/policy"), "{warnings:?}");
}

#[test]
fn what_is_promised_of_responses_is_refused_where_envoy_shows_none() {
    let documents = Documents::new();
    documents
        .write("servers.yaml", &SERVERS.replacen("a: {policy: p,", "a: {policy: p, tools: {trust: first_use},", 1));
    documents.write("policies/r.yaml", "version: '2'\ndefault: deny\nmask: [{detect: email}]\n");
    documents.write("policies/s.yaml", "version: '2'\ndefault: deny\ninspect: {hidden_text: report}\n");
    documents.load();
    let paths = Paths { response_phase: false, ..documents.paths() };
    let defects = documents.texts(&Snapshot::load(&paths).unwrap_err());
    let hint = "(give Envoy the ext_proc filter of deploy/envoy.yaml, then set `envoy.response_phase: true`)";
    let unseen = "and the settings do not say that Envoy shows responses";
    assert_eq!(
        defects,
        [
            format!("policies/r.yaml: has rules for results, {unseen} {hint}"),
            format!("policies/s.yaml: has rules for results, {unseen} {hint}"),
            format!("servers.yaml: the tools of `a` are pinned, {unseen} {hint}"),
        ]
    );
}

#[test]
fn every_document_is_listed_with_the_digest_of_its_bytes() {
    let documents = Documents::new();
    let snapshot = documents.load().snapshot;
    let of = |name: &str| PolicyDigest::of(&fs::read(documents.0.path().join(name)).unwrap()).as_str().to_owned();
    let listed: Vec<_> = snapshot.files().iter().map(|f| (f.kind.path_of(&f.name), f.digest.to_string())).collect();
    let names = ["servers.yaml", "policies/p.yaml", "policies/q.json", "grants/g.yaml"];
    assert_eq!(listed, names.map(|name| (name.to_owned(), of(name))));
    assert_eq!(snapshot.policy("p").unwrap().digest().to_string(), of("policies/p.yaml"));
}

#[test]
fn a_policy_that_did_not_change_is_not_compiled_again() {
    let documents = Documents::new();
    documents.write("policies/q.json", "{\"version\": \"1\", \"default\": \"allow\", \"tools\": {\"t\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.a\", \"op\": \"gt\", \"value\": 1}]}]}}}");
    let before = documents.load();
    assert_ne!(before.warnings, [], "an argument that may be left out");
    documents.write("policies/p.yaml", "version: '1'\ndefault: deny\n");
    let after = before.snapshot.load_next(&documents.paths()).unwrap();
    let same = |id: &str| Arc::ptr_eq(before.snapshot.policy(id).unwrap(), after.snapshot.policy(id).unwrap());
    assert!(same("q") && !same("p"));
    assert_eq!(after.warnings, before.warnings, "its warnings are told all the same");
    assert_eq!(after.snapshot.revision(), documents.load().snapshot.revision());
    // The same bytes under another name are another syntax.
    fs::rename(documents.0.path().join("policies/q.json"), documents.0.path().join("policies/q.yaml")).unwrap();
    let renamed = after.snapshot.load_next(&documents.paths()).unwrap().snapshot;
    assert!(!Arc::ptr_eq(renamed.policy("q").unwrap(), after.snapshot.policy("q").unwrap()));
}

#[test]
fn patterns_of_all_policies_together_are_bounded() {
    // Each compiles to 4 MiB, as one policy may; sixteen are as many as all together may have.
    let rule = r#"{"conditions":[{"path":"args.a","op":"regex","value":"[^a]{1000}"}],"on_deny":"no"}"#;
    let text = format!(r#"{{"version":"1","default":"deny","tools":{{"t":{{"deny_if":[{}]}}}}}}"#, [rule; 4].join(","));
    for (count, expected) in [(16, 0), (17, 1)] {
        let mut loader = super::load::Loader::default();
        let files = (0..count).map(|n| (format!("p{n:02}.json"), text.clone().into_bytes())).collect();
        loader.given(FileKind::Policy, &files, true);
        let defects = loader.into_findings().0;
        assert_eq!(defects.len(), expected, "{count}: {defects:?}");
    }
}
