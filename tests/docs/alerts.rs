//! The alerts in docs/metrics.md are the rules in `packaging/`.

use crate::page::{read, rows, section, spans};

#[test]
fn every_alert_is_documented_with_its_expression() {
    let rules = read("packaging/prometheus/oneip.rules.yml");
    let of = |key: &str| -> Vec<String> {
        rules
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix(key))
            .map(|value| value.trim().to_owned())
            .collect()
    };
    let (names, expressions) = (of("- alert:"), of("expr:"));
    assert!(names.len() > 10, "{} rules are few: are they found?", names.len());
    let rows = rows(&section(&read("docs/metrics.md"), "What to alert on"));
    let documented = |cell: usize| -> Vec<String> { rows.iter().map(|row| spans(&row[cell]).concat()).collect() };
    assert_eq!((documented(0), documented(2)), (names, expressions));
}

#[test]
fn the_dashboard_and_the_rules_name_metrics_that_are_documented() {
    let known = read("docs/metrics.md");
    for file in ["packaging/prometheus/oneip.rules.yml", "packaging/grafana/oneip.json"] {
        let text = read(file);
        let names = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names: Vec<&str> = names.filter(|name| name.starts_with("oneip_")).collect();
        assert!(names.len() > 10, "{file}: {} names are few: are they found?", names.len());
        for name in names {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(known.contains(&format!("`{name}")), "{file}: {name} is not in docs/metrics.md");
        }
    }
}
