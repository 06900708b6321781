//! The dashboards: Grafana can take them, nothing overlaps, and every query names what there is.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    alerts::{PAGE, alerts, known_with_records, names_what_there_is},
    files, promql,
    series::family,
    text,
};

/// Metrics of the README that no dashboard shows, and why.
const UNUSED: &[(&str, &str)] = &[];

/// Units that Grafana has.
const UNITS: &[&str] = &["bytes", "cps", "percentunit", "reqps", "s", "short"];
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// Every dashboard with its path.
pub(crate) fn dashboards() -> Vec<(String, Value)> {
    let parsed = |path: String| {
        let dashboard = serde_json::from_str(&text(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        (path, dashboard)
    };
    files("deploy/dashboards", ".json").into_iter().map(parsed).collect()
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().unwrap()
}

/// Every query of every dashboard, as Grafana sends it, with its place.
pub(crate) fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for (path, dashboard) in dashboards() {
        let mut add = |place: &str, expr: &Value| {
            let expr = expr.as_str().unwrap();
            let expr = expr.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$namespace", ".*");
            let expr = expr.replace("$pod", ".*");
            assert!(!expr.contains('$'), "{path}: {place}: a variable that the dashboard has not");
            queries.push((format!("{path}: {place}"), expr));
        };
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                add(panel["title"].as_str().unwrap(), &target["expr"]);
            }
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            add(annotation["name"].as_str().unwrap(), &annotation["expr"]);
        }
    }
    queries
}

#[test]
fn every_query_names_what_there_is_and_every_metric_is_shown() {
    let known = known_with_records();
    let mut used = BTreeSet::new();
    for (place, expr) in queries() {
        names_what_there_is(&place, &expr, &known);
        used.extend(promql::read(&expr).0.into_iter().map(|selector| family(&selector.name).to_owned()));
    }
    let readme = text("README.md");
    let (_, table) = readme.split_once("### Metrics\n").unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
    assert!(documented.len() > 25);
    let unused: BTreeSet<String> = documented.difference(&used).cloned().collect();
    assert_eq!(unused, UNUSED.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn every_selector_keeps_to_the_chosen_replicas() {
    for (path, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                let expr = target["expr"].as_str().unwrap().replace("and on (job, instance) mcp_authz_build_info", "");
                for selector in promql::read(&expr).0 {
                    let has = |label: &str, value: &str| {
                        selector.matchers.contains(&(label.to_owned(), "=~".to_owned(), value.to_owned()))
                    };
                    assert!(has("namespace", "$namespace") && has("pod", "$pod"), "{path}: {}", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn every_dashboard_can_be_provisioned() {
    let mut seen = BTreeSet::new();
    for (path, dashboard) in dashboards() {
        let name = path.rsplit_once('/').unwrap().1.trim_end_matches(".json");
        assert_eq!(dashboard["uid"], format!("mcp-authz-{name}"), "{path}");
        assert!(seen.insert(dashboard["title"].as_str().unwrap().to_owned()), "{path}: two of one title");
        assert!(dashboard["uid"].as_str().unwrap().len() <= 40, "{path}: Grafana cuts longer ids");
        assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39, "{path}");
        // An id is of one Grafana; what is provisioned has none.
        assert!(dashboard.get("id").is_none() && dashboard["tags"] == json!(["mcp-authz"]), "{path}");
        let variables: Vec<&str> =
            dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
        assert_eq!(variables, ["datasource", "namespace", "pod"], "{path}");
        assert!(text(&path).len() < 100_000, "{path}: too large for a ConfigMap beside the others");
        let links = dashboard["links"].as_array().unwrap();
        assert!(links.iter().any(|link| link["url"] == PAGE), "{path}: no link to the runbooks");
    }
}

#[test]
fn every_panel_explains_itself() {
    let anchors: BTreeSet<String> =
        alerts().iter().map(|alert| format!("{PAGE}#{}", alert["alert"].as_str().unwrap().to_lowercase())).collect();
    for (path, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{path}: {title}: two of one id");
            assert!(["stat", "table", "timeseries"].contains(&panel["type"].as_str().unwrap()), "{path}: {title}");
            let description = panel["description"].as_str().unwrap();
            assert!(description.len() > 10 && description.ends_with('.'), "{path}: {title} does not explain itself");
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
            assert!(UNITS.contains(&unit), "{path}: {title}: unit {unit}");
            for source in panel["targets"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|target| target.get("datasource"))
                .chain([&panel["datasource"]])
            {
                assert_eq!(source, &json!({"type": "prometheus", "uid": "${datasource}"}), "{path}: {title}");
            }
            for link in panel["links"].as_array().into_iter().flatten() {
                assert!(anchors.contains(link["url"].as_str().unwrap()), "{path}: {title}: {}", link["url"]);
            }
        }
    }
}

#[test]
fn no_two_panels_overlap() {
    for (path, dashboard) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in panels(&dashboard) {
            let of = |member: &str| panel["gridPos"][member].as_u64().unwrap();
            assert!(of("x") + of("w") <= COLUMNS, "{path}: {} is too wide", panel["title"]);
            for x in of("x")..of("x") + of("w") {
                for y in of("y")..of("y") + of("h") {
                    assert!(taken.insert((x, y)), "{path}: {} lies on another", panel["title"]);
                }
            }
        }
        let height = taken.iter().map(|(_, y)| y + 1).max().unwrap();
        assert_eq!(u64::try_from(taken.len()).unwrap(), height * COLUMNS, "{path} has holes");
    }
}
