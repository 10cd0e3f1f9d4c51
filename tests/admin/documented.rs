//! docs/metrics.md has each metric of the page with its type and labels, and no other.

use crate::fake::{Fake, Script};
use crate::http::tcp;
use crate::sample;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Of a page with everything on it: the type of each metric and the labels of its samples.
fn exported() -> Metrics {
    let script = Script::default();
    {
        let mut status = script.status.lock().unwrap();
        status.peers = sample::peers();
        status.group = Some(sample::group());
        status.services[0].servers[0].check.as_mut().unwrap().failure_age_s = Some(1.0);
    }
    let fake = Fake::with(script);
    let page = tcp(&fake, "GET", "/metrics").body;
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut metrics: Metrics =
        types.map(|(name, kind)| (name.to_owned(), (kind.to_owned(), BTreeSet::new()))).collect();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (sample, labels) = line.split_once('{').unwrap_or((line.split(' ').next().unwrap(), ""));
        let of = |name: &&str| metrics.contains_key(*name);
        let name =
            [sample].into_iter().chain(["_bucket", "_sum", "_count"].iter().filter_map(|end| sample.strip_suffix(end)));
        let name = name.into_iter().find(of).unwrap_or_else(|| panic!("{line} has no type")).to_owned();
        let labels = labels.split("=\"").map(|before| before.rsplit([',', '"']).next().unwrap().to_owned());
        let labels: BTreeSet<String> = labels.filter(|label| !label.is_empty() && !label.contains('}')).collect();
        metrics.get_mut(&name).unwrap().1.extend(labels);
    }
    metrics
}

fn pages() -> BTreeMap<PathBuf, String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The rows of tables that begin with a metric: `name{label,label}`.
fn documented() -> Metrics {
    let page = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let mut metrics = Metrics::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, name, kind @ ("counter" | "gauge" | "histogram"), meaning, _] = cells[..] {
            assert!(meaning.ends_with('.'), "{name}: a sentence: {meaning}");
            let name = name.trim_matches('`').trim_end_matches('}');
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let labels = labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
            let twice = metrics.insert(name.to_owned(), (kind.to_owned(), labels));
            assert_eq!(twice, None, "{name} is there twice");
        }
    }
    metrics
}

#[test]
fn every_metric_is_documented_with_its_type_and_labels_and_no_other() {
    let mut exported = exported();
    // A bucket's bound is a matter of histograms.
    exported.values_mut().for_each(|(_, labels)| _ = labels.remove("le"));
    let documented = documented();
    let missing: Vec<_> = exported.iter().filter(|(name, what)| documented.get(*name) != Some(*what)).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks, or has otherwise: {missing:#?}");
    let surplus: Vec<_> = documented.keys().filter(|name| !exported.contains_key(*name)).collect();
    assert!(surplus.is_empty(), "docs/metrics.md has what is not exported: {surplus:#?}");
}

#[test]
fn no_page_speaks_of_a_metric_that_there_is_not() {
    let exported = exported();
    let mut seen = 0;
    for (path, text) in pages() {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        // Behind the name of the package there is its version.
        let is_metric = |word: &&str| {
            word.strip_prefix("oneip_").is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        for word in words.filter(is_metric) {
            seen += 1;
            assert!(exported.contains_key(word), "{}: there is no metric {word}", path.display());
        }
    }
    assert!(seen > 30, "{seen} are few: are they found?");
}
