//! The dashboard for Grafana: a Prometheus that has scraped a dispatcher answers each of its queries, and there are all metrics that it
//! names. There is no Grafana in Debian to show it.

use std::collections::BTreeSet;

use serde_json::Value;

const DASHBOARD: &str = include_str!("../../packaging/grafana/oneip.json");

/// What a dispatcher without `[announce]` and `[group]` does not have: its queries are right, and have no answer.
fn is_absent(metric: &str) -> bool {
    ["oneip_announced", "oneip_filter_peer_", "oneip_group_"].iter().any(|begin| metric.starts_with(begin))
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// Every query, with what Grafana would put in the place of variables.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default());
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let all = targets.chain(annotations).map(|target| target["expr"].as_str().unwrap());
    all.map(|query| {
        let query = ["instance", "service"]
            .iter()
            .fold(query.to_owned(), |query, name| query.replace(&format!("${name}"), ".*"));
        let query = query.replace("$__rate_interval", "10s");
        assert!(!query.contains('$'), "{query}");
        query
    })
    .collect()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("oneip_") || word.starts_with("process_")).collect()
}

/// `page`: what was scraped. `ask`: the answer of Prometheus to a query.
pub fn has_answers(page: &str, ask: impl Fn(&str) -> Value) {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<&str> = samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    let queries = queries();
    assert!(queries.len() > 30, "{} queries are few: are they found?", queries.len());
    let variables = dashboard()["templating"].to_string();
    let all = queries.join("\n") + &variables;
    let missing: Vec<_> = named(&all).into_iter().filter(|name| !there.contains(name) && !is_absent(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "the dashboard names metrics that there are not");
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    // When checks were: the page of a service says that better.
    let left_out = |family: &str| family.starts_with("oneip_server_check_") && family.ends_with("_timestamp_seconds");
    let unused: Vec<&str> = families.filter(|family| !all.contains(family) && !left_out(family)).collect();
    assert_eq!(unused, Vec::<&str>::new(), "what the dashboard does not show");
    for query in queries {
        let answer = ask(&query);
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().unwrap();
        // What is left out while it is 0.
        let may_be_empty = query.ends_with(" > 0");
        let is_absent = named(&query).into_iter().any(is_absent);
        assert!(may_be_empty || result.is_empty() == is_absent, "{query}: {answer}");
    }
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
