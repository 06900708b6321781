//! The pages for operators: links lead somewhere, queries name what there is, commands are understood, settings load.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use mcp_authz::config::Config;
use mcp_authz_core::document::Format;

use super::{
    alerts::{alerts, known_with_records, names_what_there_is},
    files, root, succeeds, text,
};

/// The pages whose blocks are checked here.
const PAGES: &[&str] = &["CAPACITY", "FAILURES", "HARDENING", "INSTALL", "RUNBOOKS", "THREAT_MODEL", "UPGRADE"];
/// The anchors of a page, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut anchors = BTreeSet::new();
    for line in page.lines() {
        is_code ^= line.starts_with("```");
        if !is_code && line.starts_with('#') {
            let kept = line.trim_start_matches('#').trim().chars();
            let kept = kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            anchors.insert(kept.collect::<String>().to_lowercase().replace(' ', "-"));
        }
    }
    anchors
}

/// `a/../b` as `b`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            assert!(plain.pop(), "{} leads out of the repository", path.display());
        } else {
            plain.push(part);
        }
    }
    plain
}

#[test]
fn links_of_every_page_lead_somewhere() {
    let mut pages = files("deploy", ".md");
    pages.push("README.md".to_owned());
    let mut checked = 0;
    for page in pages {
        let text = text(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { PathBuf::from(&page) } else { plain(&Path::new(&page).with_file_name(file)) };
            let is_there = root().join(&target).exists();
            assert!(is_there, "{page}: nothing at {link}");
            if is_there && !fragment.is_empty() {
                let linked = super::text(target.to_str().unwrap());
                assert!(anchors(&linked).contains(fragment), "{page}: no heading for {link}");
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} links were found");
}

/// Language, name and text of every fenced block of the pages.
fn blocks() -> Vec<(String, String, String)> {
    let mut blocks = Vec::new();
    for page in PAGES {
        let path = format!("deploy/{page}.md");
        let text = text(&path);
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(fence) = line.strip_prefix("```") else { continue };
            let Some((language, name)) = fence.split_once(' ') else {
                panic!("{path}: a block without a name: {line}")
            };
            let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language.to_owned(), format!("{path}: {name}"), inside.join("\n") + "\n"));
        }
    }
    blocks
}

#[test]
fn every_block_is_of_a_kind_that_is_checked() {
    let mut seen = BTreeSet::new();
    for (language, name, text) in blocks() {
        assert!(["promql", "sh", "text", "yaml"].contains(&&*language), "no test checks {language} {name}");
        assert!(seen.insert(name.clone()), "two blocks {name}");
        assert!(text.trim() != "" && language != "text" || text.lines().count() > 1, "{name}");
    }
}

#[test]
fn queries_name_what_there_is() {
    let known = known_with_records();
    let mut checked = 0;
    for (language, name, text) in blocks() {
        if language == "promql" {
            names_what_there_is(&name, &text, &known);
            checked += 1;
        }
    }
    // And those in the text: whatever between backticks calls something.
    for page in PAGES {
        let text = text(&format!("deploy/{page}.md"));
        for (number, line) in text.lines().enumerate() {
            for span in
                line.split('`').skip(1).step_by(2).filter(|span| span.contains("mcp_authz_") && span.contains('('))
            {
                names_what_there_is(&format!("{page}.md:{}", number + 1), span, &known);
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "only {checked} queries were found");
}

#[test]
fn metrics_alerts_and_settings_that_pages_name_are_there() {
    let known = known_with_records();
    let readme = text("README.md");
    let alerts: BTreeSet<String> = alerts().iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect();
    let sections = ["admin", "audit", "envoy", "ledger", "limits", "log", "paths", "response", "timeouts"];
    for page in PAGES {
        let text = text(&format!("deploy/{page}.md"));
        for span in text.split('`').skip(1).step_by(2) {
            let is_plain = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '.');
            // The one cluster of Envoy that is called like a metric.
            if span.starts_with("mcp_authz_") && span != "mcp_authz_responses" && span.chars().all(is_plain) {
                assert!(
                    known.contains_key(span) || known.contains_key(&format!("{span}_count")),
                    "{page}: no metric `{span}`"
                );
            }
            let is_setting = span.split_once('.').is_some_and(|(section, _)| sections.contains(&section));
            if is_setting && span.chars().all(is_plain) && !span.ends_with(".yaml") {
                assert!(readme.contains(&format!("`{span}`")), "{page}: no setting `{span}`");
            }
        }
        for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.starts_with("McpAuthz")) {
            assert!(alerts.contains(word), "{page}: no alert {word}");
        }
    }
}

#[test]
fn tests_that_the_threat_model_names_are_there() {
    let page = text("deploy/THREAT_MODEL.md");
    let mut checked = 0;
    for (file, name) in page.split('`').skip(1).step_by(2).filter_map(|span| span.split_once(".rs::")) {
        assert!(text(&format!("{file}.rs")).contains(&format!("fn {name}(")), "{file}.rs has no test {name}");
        checked += 1;
    }
    assert!(checked > 30, "only {checked} tests were found");
}

#[test]
fn settings_load() {
    for (language, name, text) in blocks() {
        if language == "yaml" && text.contains("listen:") {
            let parsed = Config::parse("config.yaml", text.as_bytes(), Format::Yaml, Path::new("/etc/mcp-authz"));
            let config = parsed.unwrap_or_else(|defects| panic!("{name}: {defects:?}"));
            assert_eq!(config.warnings, [], "{name}");
        }
    }
}

/// The arguments of every call of the binary in a text of shell.
fn calls(shell: &str) -> Vec<Vec<String>> {
    let joined = shell.replace("\\\n", " ");
    let mut calls = Vec::new();
    for line in joined.lines() {
        for command in line.split([';', '|', '&', '>']) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let is_call = |at: &usize| {
                let before = at.checked_sub(1).map(|at| words[at]);
                words[*at].rsplit('/').next() == Some("mcp-authz")
                    && before.is_none_or(|before| ["--", "sudo"].contains(&before))
            };
            if let Some(at) = (0..words.len()).find(is_call) {
                calls.push(words[at + 1..].iter().map(|word| (*word).to_owned()).collect());
            }
        }
    }
    calls
}

#[test]
fn commands_are_understood() {
    let mut checked = 0;
    for (_, name, text) in blocks().into_iter().filter(|(language, ..)| language == "sh") {
        for call in calls(&text) {
            let words: Vec<&str> = call.iter().map(String::as_str).collect();
            let spoken = words.join(" ");
            let named = words
                .iter()
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'));
            let named: Vec<&str> = named.copied().collect();
            let help = succeeds(Command::new(env!("CARGO_BIN_EXE_mcp-authz")).args(&named).arg("--help"));
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{name}: `{spoken}`: there is no {option}");
            }
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} commands were found");
}

#[test]
fn calls_of_the_binary_are_found() {
    let shell = "mcp-authz check a \\\n  b | cat\nkubectl exec x -- mcp-authz quota show --grant g > f\nls mcp-authz\n";
    assert_eq!(calls(shell), [vec!["check", "a", "b"], vec!["quota", "show", "--grant", "g"]]);
}
