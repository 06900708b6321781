//! The rules for Prometheus: each names what there is, has a runbook, and is tested to fire and not to fire.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use mcp_authz_core::{
    decision::{Class, Reason},
    pattern::Pattern,
};
use serde_json::Value;

use super::{
    promql, root,
    series::{Known, OF_THE_SCRAPE, known},
    succeeds, text, tool, yaml,
};

pub(crate) const RULES: &str = "deploy/alerts/mcp-authz.yaml";
const TESTS: &str = "deploy/alerts/mcp-authz.test.yaml";
const RUNBOOKS: &str = "deploy/RUNBOOKS.md";
/// Where a runbook is read.
pub(crate) const PAGE: &str = "https://github.com/mcp-authz/mcp-authz/blob/main/deploy/RUNBOOKS.md";
/// A metric of Prometheus itself, and one that other processes have too.
const OF_OTHERS: &[&str] = &["up"];

/// Every rule of the file.
fn rules() -> Vec<Value> {
    let file = yaml(RULES);
    file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The alerts in the order of the file.
pub(crate) fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule["alert"].is_string()).collect()
}

/// Fails unless the expression names metrics, labels and values that there are.
pub(crate) fn names_what_there_is(place: &str, expr: &str, known: &Known) {
    let (selectors, groups) = promql::read(expr);
    assert!(!selectors.is_empty(), "{place}: `{expr}` asks for nothing");
    let mut labels: BTreeSet<&str> = OF_THE_SCRAPE.iter().copied().collect();
    for selector in selectors.iter().filter(|selector| !OF_OTHERS.contains(&&*selector.name)) {
        let Some(of_name) = known.get(&selector.name) else {
            panic!("{place}: there is no metric `{}`", selector.name)
        };
        labels.extend(of_name.keys().map(String::as_str));
        for (label, op, value) in selector.matchers.iter().filter(|(label, ..)| !OF_THE_SCRAPE.contains(&&**label)) {
            let Some(values) = of_name.get(label) else {
                panic!("{place}: `{}` has no label `{label}`", selector.name)
            };
            let alternatives: Vec<&str> = if op.ends_with('~') { value.split('|').collect() } else { vec![value] };
            for alternative in alternatives {
                let pattern = Pattern::compile(&format!("^(?:{alternative})$")).unwrap();
                let hits = values
                    .iter()
                    .any(|value| value == alternative || op.ends_with('~') && pattern.is_match(value) == Some(true));
                assert!(hits, "{place}: `{}` never has {label}=`{alternative}`", selector.name);
            }
        }
    }
    for label in &groups {
        assert!(labels.contains(label.as_str()), "{place}: no metric of `{expr}` has the label `{label}`");
    }
}

/// What the metrics and the recording rules show.
pub(crate) fn known_with_records() -> Known {
    let mut known = known();
    for rule in rules() {
        if let Some(name) = rule["record"].as_str() {
            known.insert(name.to_owned(), BTreeMap::new());
        }
    }
    known
}

#[test]
fn every_rule_names_what_there_is() {
    let known = known_with_records();
    for rule in rules() {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap().to_owned();
        names_what_there_is(&name, rule["expr"].as_str().unwrap(), &known);
    }
}

#[test]
fn what_could_not_be_decided_is_what_the_code_calls_so() {
    let unavailable = Reason::ALL.iter().filter(|reason| reason.class() == Class::Unavailable);
    let names: BTreeSet<&str> = unavailable.map(|reason| reason.name()).collect();
    let reasons = format!("reason=~\"{}\"", names.into_iter().collect::<Vec<_>>().join("|"));
    for path in [RULES, "deploy/dashboards/decisions.json"] {
        let text = text(path).replace("\\\"", "\"");
        let lists = text.matches("|ledger_unavailable|").count();
        assert!(lists > 1 && text.replace("!~", "=~").matches(&reasons).count() == lists, "{path} has another list");
    }
}

#[test]
fn every_alert_says_what_a_person_needs() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "info", "warning"].contains(&severity), "{name}: {severity}");
        let annotations = &alert["annotations"];
        for member in ["summary", "description"] {
            let text = annotations[member].as_str().unwrap();
            assert!((10..220).contains(&text.len()), "{name}: {member}");
        }
        assert!(!annotations["summary"].as_str().unwrap().ends_with('.'), "{name}: a summary is no sentence");
        assert!(annotations["description"].as_str().unwrap().ends_with('.'), "{name}: a description is a sentence");
        assert_eq!(annotations["runbook_url"], format!("{PAGE}#{}", name.to_lowercase()));
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let names: BTreeSet<String> = alerts().iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect();
    let page = text(RUNBOOKS);
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    for section in page.split("\n## ").skip(1) {
        let (heading, body) = section.split_once('\n').unwrap();
        if heading.starts_with("McpAuthz") {
            sections.insert(heading.to_owned(), body.to_owned());
        }
    }
    assert_eq!(sections.keys().cloned().collect::<BTreeSet<_>>(), names);
    for (name, body) in sections {
        for part in ["**Means:**", "**Impact:**", "**First look:**", "**Causes and fixes:**", "**Verify:**"] {
            assert_eq!(body.matches(part).count(), 1, "{name} has no {part}");
        }
    }
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to_fire() {
    let mut fires: BTreeSet<String> = BTreeSet::new();
    let mut is_quiet: BTreeSet<String> = BTreeSet::new();
    for test in yaml(TESTS)["tests"].as_array().unwrap() {
        for case in test["alert_rule_test"].as_array().unwrap() {
            let name = case["alertname"].as_str().unwrap().to_owned();
            let expected = case["exp_alerts"].as_array().map_or(0, Vec::len);
            if expected == 0 { &mut is_quiet } else { &mut fires }.insert(name);
        }
    }
    let names = alerts().iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(fires, names);
    assert_eq!(is_quiet, names);
}

#[test]
fn prometheus_takes_the_rules_and_they_do_as_the_tests_say() {
    let promtool = tool("promtool");
    succeeds(Command::new(&promtool).args(["check", "rules", "--lint-fatal"]).arg(root().join(RULES)));
    succeeds(Command::new(&promtool).args(["test", "rules"]).arg(root().join(TESTS)));
}
