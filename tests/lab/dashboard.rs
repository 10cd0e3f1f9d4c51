//! The dashboard for Grafana and the rules for alerts: a Prometheus that scrapes oneip has data for each of their queries, and there are all
//! metrics and labels that they name. There is no Grafana in Debian to show it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::network::eventually;

const DASHBOARD: &str = include_str!("../../packaging/grafana/oneip.json");
const RULES: &str = include_str!("../../packaging/prometheus/oneip.rules.yml");

/// What filters have, and no dispatcher.
fn is_of_filters(metric: &str) -> bool {
    metric.starts_with("oneip_filter_peer_")
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// Those of panels.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.flat_map(|panel| panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default()).map(query).collect()
}

fn annotations() -> Vec<String> {
    dashboard()["annotations"]["list"].as_array().unwrap().iter().map(query).collect()
}

/// With what Grafana would put in the place of variables.
fn query(target: &Value) -> String {
    let variables = [("$instance", ".*"), ("$service", ".*"), ("$__rate_interval", "10s")];
    let plain = target["expr"].as_str().unwrap().to_owned();
    let query = variables.iter().fold(plain, |query, (name, value)| query.replace(name, value));
    assert!(!query.contains('$'), "{query}");
    query
}

/// Of each alert what is compared in its expression, and the labels that its texts name.
fn compared() -> Vec<(String, Vec<&'static str>)> {
    let mut all = Vec::new();
    for rule in RULES.split("- alert: ").skip(1) {
        let expression = rule.lines().find_map(|line| line.trim().strip_prefix("expr: ")).unwrap();
        let labels: Vec<&str> = rule.split("$labels.").skip(1).map(|rest| words(rest).next().unwrap()).collect();
        for part in expression.split(" or ") {
            let (compared, limit) = part.rsplit_once(" > ").or_else(|| part.rsplit_once(" == ")).unwrap();
            assert!(limit.parse::<f64>().is_ok(), "{part}");
            all.push((compared.to_owned(), labels.clone()));
        }
    }
    assert!(all.len() > 15, "{} are few: are they found?", all.len());
    all
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    words(text).filter(|word| word.starts_with("oneip_") || word.starts_with("process_")).collect()
}

/// Waits until there is a value at least, and returns the series.
fn answered(query: &str, ask: impl Fn(&str) -> Value) -> Vec<Value> {
    let mut series = Vec::new();
    eventually(&format!("there is an answer to {query}"), || {
        let answer = ask(query);
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        series.iter().any(|series| series["value"][1] != "NaN")
    });
    series
}

/// Of a dispatcher that announces, is a member of a group, and has forwarded and dropped frames in the last seconds: all but what is of
/// filters. `page`: what was scraped. `ask`: the answer of Prometheus to a query.
pub fn has_answers(page: &str, ask: impl Fn(&str) -> Value) {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<&str> = samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    let queries = queries();
    assert!(queries.len() > 30, "{} queries are few: are they found?", queries.len());
    let all = queries.join("\n") + &dashboard()["templating"].to_string();
    let missing: Vec<_> =
        named(&all).into_iter().filter(|name| !there.contains(name) && !is_of_filters(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "the dashboard names metrics that there are not");
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    // When checks were: the page of a service says that better.
    let left_out = |family: &str| family.starts_with("oneip_server_check_") && family.ends_with("_timestamp_seconds");
    let unused: Vec<&str> = families.filter(|family| !all.contains(family) && !left_out(family)).collect();
    assert_eq!(unused, Vec::<&str>::new(), "what the dashboard does not show");
    have_answers(false, queries, ask);
}

/// Of a filter: the rest.
pub fn has_answers_about_filters(ask: impl Fn(&str) -> Value) {
    let asked = have_answers(true, queries(), ask);
    assert!(asked >= 3, "two panels and an alert at least: {asked}");
}

/// Of a process that was started a second time while it was scraped.
pub fn has_annotations(ask: impl Fn(&str) -> Value) {
    annotations().iter().for_each(|query| drop(answered(query, &ask)));
}

/// How many were asked.
fn have_answers(of_filters: bool, queries: Vec<String>, ask: impl Fn(&str) -> Value) -> usize {
    let wanted = |query: &str| named(query).into_iter().any(is_of_filters) == of_filters;
    let queries = queries.into_iter().filter(|query| wanted(query)).map(|query| (query, Vec::new()));
    let alerts = compared().into_iter().filter(|(query, _)| wanted(query));
    let mut asked = 0;
    for (query, labels) in queries.chain(alerts) {
        asked += 1;
        for series in answered(&query, &ask) {
            for label in &labels {
                assert!(
                    series["metric"][label].is_string(),
                    "{query} has no label {label}, which an alert shows: {series}"
                );
            }
        }
    }
    asked
}

#[test]
fn the_dashboard_is_laid_out_without_overlaps() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each has an id of its own");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} lies on another panel", panel["title"]);
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}
