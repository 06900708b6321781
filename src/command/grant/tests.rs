use std::os::unix::fs::{MetadataExt as _, symlink};

use mcp_authz_core::grant::GrantState;
use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_800_000_000_000;

/// Runs a command; gives its status, standard output and standard error.
fn run_in(folder: &TempDir, words: &[&str]) -> (bool, String, String) {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let root = folder.path().display().to_string();
    let words = words.iter().map(|word| word.replace("@", &root));
    let args = <Cli as clap::Parser>::try_parse_from(std::iter::once("grant".to_owned()).chain(words)).unwrap().args;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(args, &mut out, &mut err);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&root, "@");
    (code == ExitCode::SUCCESS, text(out), text(err))
}

fn grants(folder: &TempDir) -> GrantsFiles {
    read_folder(folder.path()).unwrap()
}

#[test]
fn a_new_grant_is_stored_and_its_token_works() {
    let folder = tempfile::tempdir().unwrap();
    let (done, token, told) = run_in(
        &folder,
        &[
            "new",
            "--label",
            "bot",
            "--server",
            "s",
            "--server",
            "t",
            "--policy",
            "p",
            "--subject",
            "agent: \"x\"",
            "--expires",
            "90d",
            "--file",
            "@/g.yaml",
        ],
    );
    assert!(done, "{told}");
    let token = token.strip_suffix('\n').unwrap();
    assert_eq!(token.len(), 48);
    assert!(token.starts_with("mcpa_"));
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')));
    assert!(told.contains("shown once") && !told.contains(token), "{told}");
    let files = grants(&folder);
    let now_ms = SystemClock::new().now_ms();
    let grant = files.grants.resolve(token.as_bytes(), "t", now_ms).unwrap();
    assert_eq!((grant.label().as_ref(), grant.principal().subject.as_ref()), ("bot", "agent: \"x\""));
    assert_eq!(grant.policy().unwrap().as_ref(), "p");
    let lives = grant.expires_ms().unwrap().abs_diff(now_ms + 90 * DAY_MS);
    assert!(lives < 60_000, "{lives}");
    let path = folder.path().join("g.yaml");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&path).unwrap().contains(token));
}

#[test]
fn a_second_grant_joins_the_first_and_leaves_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    fs::write(&path, "# bots\ngrants: []\n").unwrap();
    for label in ["a", "b"] {
        let (done, _, told) = run_in(&folder, &["new", "--label", label, "--server", "s", "--file", "@/g.yaml"]);
        assert!(done && told.contains("never expires"), "{told}");
    }
    assert!(fs::read_to_string(&path).unwrap().starts_with("# bots\ngrants:\n  - label: \"a\"\n"));
    assert_eq!(grants(&folder).grants.len(), 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_label_that_is_taken_anywhere_in_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run_in(&folder, &["new", "--label", "a", "--server", "s", "--file", "@/g.yaml"]).0);
    let (done, token, told) = run_in(&folder, &["new", "--label", "a", "--server", "s", "--file", "@/h.yaml"]);
    assert_eq!((done, token.as_str()), (false, ""));
    assert_eq!(told, "mcp-authz: the label `a` is taken by the grant at @/g.yaml:2\n");
    assert!(!folder.path().join("h.yaml").exists());
}

#[test]
fn bad_usage_is_told_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let time = "--expires takes a number with m, h, d or w, such as 90d, or a time such as 2027-01-01T00:00:00Z";
    for (words, problem) in [
        (
            ["--label", "a b", "--server", "s", "--file", "@/g.yaml"].as_slice(),
            "--label takes 1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`, `@`, `:`, `/`, `+`",
        ),
        (
            &["--label", "a", "--server", "S", "--file", "@/g.yaml"],
            "--server and --policy take 1 to 63 of a-z, 0-9, `_`, `.`, `-`",
        ),
        (&["--label", "a", "--server", "s", "--server", "s", "--file", "@/g.yaml"], "--server names one server twice"),
        (&["--label", "a", "--server", "s", "--file", "@/g.json"], "--file must end in .yaml or .yml"),
        (
            &["--label", "a", "--server", "s", "--file", "@/.g.yaml"],
            "--file must not start with a dot: such files are not read",
        ),
        (
            &["--label", "a", "--server", "s", "--file", "@/g.yaml", "--subject", " x"],
            "--subject takes 1 to 256 bytes without control characters or spaces at its ends",
        ),
        (
            &["--label", "a", "--server", "s", "--file", "@/g.yaml", "--group", "a b"],
            "--group takes 1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`, `@`, `:`, `/`, `+`",
        ),
        (
            &["--label", "a", "--server", "s", "--file", "@/g.yaml", "--group", "a", "--group", "a"],
            "--group names one group twice",
        ),
        (&["--label", "a", "--server", "s", "--file", "@/g.yaml", "--expires", "90"], time),
        (&["--label", "a", "--server", "s", "--file", "@/g.yaml", "--expires", "d"], time),
        (&["--label", "a", "--server", "s", "--file", "@/g.yaml", "--expires", "-1d"], time),
        (&["--label", "a", "--server", "s", "--file", "@/g.yaml", "--expires", "99999999999999999999d"], time),
        (&["--label", "a", "--server", "s", "--file", "@/g.yaml", "--expires", "0d"], "--expires is in the past"),
        (
            &["--label", "a", "--server", "s", "--file", "@/g.yaml", "--expires", "1999-01-01T00:00:00Z"],
            "--expires is in the past",
        ),
        (
            &["--label", "a", "--server", "s", "--file", "@/none/g.yaml"],
            "@/none: cannot be read: no such file or directory",
        ),
    ] {
        let words: Vec<&str> =
            ["new"].iter().chain(words).copied().map(|w| if w == "-1d" { "--expires=-1d" } else { w }).collect();
        let words: Vec<&str> = words
            .iter()
            .enumerate()
            .filter(|(n, w)| !(**w == "--expires" && words.get(n + 1) == Some(&"--expires=-1d")))
            .map(|(_, w)| *w)
            .collect();
        assert_eq!(run_in(&folder, &words), (false, String::new(), format!("mcp-authz: {problem}\n")));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_with_defects_or_of_another_layout_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    let flow = format!("grants: [{{label: x, sha256: '{}', servers: [s]}}]\n", TokenDigest::of(b"x").hex());
    for (text, problem) in [
        (
            "grants:\n- 5\n",
            "mcp-authz: 1 defects stand in the way:\n  @/g.yaml:2: /grants/0: expected a map, found a number\n",
        ),
        (
            flow.as_str(),
            "mcp-authz: @/g.yaml: its grants are not written as a list of `- ` lines: name another --file\n",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let (done, token, told) = run_in(&folder, &["new", "--label", "a", "--server", "s", "--file", "@/g.yaml"]);
        assert_eq!((done, token.as_str(), told.as_str()), (false, "", problem));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_full_file_is_not_made_larger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    for (bytes, fits) in [(1_048_576 - 8_192, true), (1_048_577 - 8_192, false)] {
        let text = "grants: []\n#";
        fs::write(&path, format!("{text}{}", "x".repeat(bytes - text.len()))).unwrap();
        let (done, _, told) = run_in(&folder, &["new", "--label", "a", "--server", "s", "--file", "@/g.yaml"]);
        assert_eq!(done, fits, "{told}");
        assert!(fits || told == "mcp-authz: @/g.yaml: is full: name another --file\n", "{told}");
    }
}

#[test]
fn a_list_shows_everything_but_digests() {
    let folder = tempfile::tempdir().unwrap();
    let digest = |token: &str| TokenDigest::of(token.as_bytes()).hex();
    fs::write(
        folder.path().join("g.yaml"),
        format!(
            "grants:\n- {{label: zed, sha256: '{}', servers: [b, a], policy: p, expires: 2020-01-01T00:00:00Z}}\n- {{label: bot, sha256: '{}', servers: [a]}}\n- {{label: c, sha256: '{}', servers: [a], revoked: true}}\n- {{label: d, sha256: '{}', servers: [a], not_before: 2999-01-01T00:00:00Z}}\n",
            digest("1"), digest("2"), digest("3"), digest("4")
        ),
    )
    .unwrap();
    let (done, shown, told) = run_in(&folder, &["list", "--dir", "@"]);
    assert!(done && told.is_empty());
    assert_eq!(
        shown,
        "LABEL  SERVERS  POLICY      EXPIRES               STATE
bot    a        (server's)  never                 active
c      a        (server's)  never                 revoked
d      a        (server's)  never                 not yet valid
zed    a,b      p           2020-01-01T00:00:00Z  expired
"
    );
}

#[test]
fn a_revoked_grant_is_refused_and_its_file_keeps_its_comments() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    let text =
        format!("# bots\ngrants:\n- label: a # mine\n  sha256: '{}'\n  servers: [s]\n", TokenDigest::of(b"t").hex());
    fs::write(&path, &text).unwrap();
    fs::write(folder.path().join("broken.yaml"), "grants: [").unwrap();
    let (done, out, told) = run_in(&folder, &["revoke", "--label", "a", "--dir", "@"]);
    assert_eq!(
        (done, out.as_str(), told.as_str()),
        (true, "", "grant `a` in @/g.yaml is revoked; a running server refuses it after its next reload\n")
    );
    fs::remove_file(folder.path().join("broken.yaml")).unwrap();
    let expected = text.replace("# mine\n", "# mine\n  revoked: true\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    let files = grants(&folder);
    assert_eq!(files.grants.iter().next().unwrap().state(NOW), GrantState::Revoked);
    let (done, _, told) = run_in(&folder, &["revoke", "--label", "a", "--dir", "@"]);
    assert_eq!((done, told.as_str()), (true, "grant `a` in @/g.yaml is revoked already\n"));
    let (done, _, told) = run_in(&folder, &["revoke", "--label", "b", "--dir", "@"]);
    assert_eq!((done, told.as_str()), (false, "mcp-authz: there is no grant `b` in @\n"));
}

#[test]
fn a_file_that_somebody_else_changed_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    fs::write(&path, "theirs").unwrap();
    let error = replace(&path, Some("mine"), "new").unwrap_err();
    assert!(error.to_string().ends_with("cannot be written: somebody else changed it meanwhile; try again"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_link_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("real")).unwrap();
    fs::write(folder.path().join("real/g.yaml"), "old").unwrap();
    symlink("real/g.yaml", folder.path().join("g.yaml")).unwrap();
    replace(&folder.path().join("g.yaml"), Some("old"), "new").unwrap();
    assert!(fs::symlink_metadata(folder.path().join("g.yaml")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(folder.path().join("real/g.yaml")).unwrap(), "new");
}
