//! What the page says of two hosts, as it stands there: the dispatcher, and the host that generates and counts, which ssh reaches.

use crate::pages::{fences, root};
use crate::{bench_env, build_report, built, figures, is_root, texts, tools};
use std::process::Command;

#[test]
fn a_run_over_a_peer_that_ssh_reaches_writes_a_report() {
    if !is_root() || !["ssh", "dropbear"].iter().all(|program| tools::installed(program)) {
        return;
    }
    build_report();
    let mut fences = fences("docs/measuring.md").into_iter().filter(|fence| fence.info == "sh two-hosts");
    let (Some(fence), None) = (fences.next(), fences.next()) else { panic!("one block is for two hosts") };
    let (out, oneip) = (tempfile::tempdir().expect("a folder"), built().join("oneip"));
    let for_seconds = "--smoke --no-build --duts oneip,oneip-xdp --parts latency";
    let line =
        format!("{} {for_seconds} --peer-oneip {} --out {}", fence.body.trim(), oneip.display(), out.path().display());
    let mut hosts = Command::new("tests/pages/two-hosts.sh");
    hosts.current_dir(root()).args(["gen1", ":", &line]);
    bench_env(&mut hosts, &built(), "benchhosts");
    let (code, said, err) = texts(&hosts.output().expect("bash is there"));
    assert_eq!(code, Some(0), "{said}{err}");
    let report = out.path().read_dir().expect("a folder").next().expect("a report").expect("an entry").path();
    let figures = figures::Snapshot::read(&report).expect("figures");
    assert_eq!(figures.duts(), ["oneip", "oneip-xdp"]);
    assert!(figures.fact("interface").contains("eth1"), "{:?}", figures.facts);
    assert!(figures.latency.iter().all(|row| row.p50.is_some() && row.sent > 0.0), "frames came back: {err}");
    assert_eq!(figures.histograms.len(), figures.latency.len(), "they were fetched: {err}");
}
