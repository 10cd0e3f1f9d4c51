//! Two runs side by side.

use crate::figures::{Failure, Snapshot, median};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Facts that make two runs comparable, if they agree.
const GROUND: [&str; 7] = ["host", "cpu", "cores", "kernel", "interface", "generator", "tolerance"];

/// As Markdown.
///
/// # Errors
/// They have nothing in common.
pub fn compare(a: &Snapshot, b: &Snapshot) -> Result<String, Failure> {
    let mut text = format!("A: {}, B: {}\n\n", a.name, b.name);
    let differing: Vec<&str> = GROUND.into_iter().filter(|name| a.fact(name) != b.fact(name)).collect();
    for name in &differing {
        let _ = writeln!(text, "{name}: A {}, B {}", a.fact(name), b.fact(name));
    }
    if !differing.is_empty() {
        text += "So the two reports were not measured under the same conditions: compare ratios within each report, not one \
                 report with the other.\n\n";
    }
    let rows = rows(a, b);
    if rows.is_empty() {
        return Err(format!("{} and {} have no measurement in common", a.name, b.name).into());
    }
    text += "| | A | B | B to A |\n|---|--:|--:|--:|\n";
    for (name, a, b) in rows {
        let ratio = if a > 0.0 { format!("{:.2}", b / a) } else { "-".to_owned() };
        let _ = writeln!(text, "| {name} | {} | {} | {ratio} |", short(a), short(b));
    }
    text += "\nEach value is from one run. A difference that is smaller than the spread between the rounds of a run \
             means nothing: see the tables of the reports.\n";
    Ok(text)
}

fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// What both have.
fn rows(a: &Snapshot, b: &Snapshot) -> Vec<(String, f64, f64)> {
    let mut rows = Vec::new();
    let mut both = |name: String, values: [Option<f64>; 2], scale: f64| {
        if let [Some(a), Some(b)] = values {
            rows.push((name, a / scale, b / scale));
        }
    };
    let mut seen = BTreeSet::new();
    for row in &a.throughput {
        if seen.insert((&row.dut, row.family, &row.size)) {
            let rate = |figures: &Snapshot| median(figures.rounds(&row.dut, row.family, &row.size));
            both(format!("{}, IPv{}, {} bytes: kpps", row.dut, row.family, row.size), [rate(a), rate(b)], 1e3);
        }
    }
    for dut in a.duts().into_iter().filter(|dut| *dut != "oneip") {
        both(format!("oneip to {dut}, throughput"), [a, b].map(|figures| figures.ratio("oneip", dut)), 1.0);
    }
    for row in &a.latency {
        let of = |figures: &Snapshot, at: usize| figures.latency(&row.dut, &row.load)?.percentiles()[at];
        for (name, at) in [("p50", 0), ("p99", 2)] {
            both(format!("{}, load {}: {name}, us", row.dut, row.load), [of(a, at), of(b, at)], 1e3);
        }
    }
    for row in &a.cost {
        let of = |figures: &Snapshot| {
            figures
                .cost
                .iter()
                .find(|other| other.scenario == row.scenario && other.stage == row.stage)
                .map(|row| row.value)
        };
        both(format!("{}, {}: ns or instructions per frame", row.scenario, row.stage), [of(a), of(b)], 1.0);
    }
    for row in &a.memory {
        let of = |figures: &Snapshot| {
            figures
                .memory
                .iter()
                .find(|other| (other.services, other.servers) == (row.services, row.servers))
                .map(|row| row.rss_kib)
        };
        both(format!("{} services of {} servers: resident MiB", row.services, row.servers), [of(a), of(b)], 1024.0);
    }
    rows
}
