//! `scripts/bench.sh`: its arguments, what it would do, a run of seconds; and the report on a run whose figures are known.

#[path = "../../perf/report/compare.rs"]
mod compare;
#[path = "../../perf/report/figures.rs"]
mod figures;
#[path = "../../perf/report/page.rs"]
mod page;
#[allow(dead_code, reason = "the hosts that other pages presume")]
#[path = "../pages/mod.rs"]
mod pages;
#[path = "../../perf/report/plots.rs"]
mod plots;
mod report;
#[path = "../tools/mod.rs"]
mod tools;
mod two_hosts;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tools::skip;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the binaries of this profile are.
fn built() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_oneip")).parent().expect("a folder").to_owned()
}

fn bench(arguments: &str) -> Output {
    bench_of(&built(), "benchtest", arguments)
}

/// With the binaries of a folder, in namespaces of that name.
fn bench_of(built: &Path, lab: &str, arguments: &str) -> Output {
    let mut command = Command::new("scripts/bench.sh");
    bench_env(command.current_dir(root()), built, lab);
    command.args(arguments.split_whitespace()).output().expect("bash is there")
}

fn bench_env(command: &mut Command, built: &Path, lab: &str) {
    command.env("ONEIP_BUILT", built).env("ONEIP_LAB", lab);
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id is there").stdout;
    if id != b"0\n" {
        skip("network namespaces need root");
    }
    id == b"0\n"
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn wrong_usage_exits_2_and_says_what_is_wrong() {
    for (arguments, word) in [
        ("--fly", "no such option: --fly"),
        ("--seconds", "--seconds needs a value"),
        ("--seconds soon", "want numbers"),
        ("--generator hping", "oneip, pktgen or dpdk"),
        ("--parts throughput,beauty", "no such part: beauty"),
        ("--duts oneip,katran", "no such device under test: katran"),
        ("--interface eth1", "--peer-interface go together"),
        ("--compare one", "two reports"),
    ] {
        let (code, out, err) = texts(&bench(arguments));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments}: {err}");
        assert!(err.starts_with("error: ") && err.contains(word), "{arguments}: {err}");
    }
    for script in [
        "audit.sh",
        "bench.sh",
        "core.sh",
        "fuzz.sh",
        "guest.sh",
        "miri.sh",
        "mutants.sh",
        "sanitize.sh",
        "setup.sh",
        "soak.sh",
        "test.sh",
    ] {
        let help = Command::new(root().join("scripts").join(script)).arg("--help").output().expect("bash is there");
        let (code, out, err) = texts(&help);
        assert!(code == Some(0) && out.contains("usage: scripts/") && err.is_empty(), "{script}: {out}{err}");
    }
}

#[test]
fn a_dry_run_prints_the_commands_and_runs_none() {
    let (code, out, err) = texts(&bench("--dry-run --no-build --out /nowhere"));
    assert_eq!(code, Some(0), "{err}");
    for command in [
        "    netns add benchtest-oneip\n",
        "ip netns exec benchtest-nftables nft -f -\n",
        "ip netns exec benchtest-macswap ip link set dut0 xdpdrv object ",
        " --takeover",
        "ip daddr 203.0.113.80 ether daddr set jhash ip saddr mod 16 seed",
        "oneip run -c ",
        "oneip pktgen --interface tester0 --to 02:00:00:00:00:02 --address 203.0.113.80",
        "oneip pktgen --interface tester0 --to 02:00:00:00:00:02 --address 2001:db8:80::80",
        "ctl --socket ",
    ] {
        assert!(out.contains(command), "{command} is not in:\n{out}");
    }
    assert!(!Path::new("/run/netns/benchtest-oneip").exists() && !Path::new("/nowhere").exists());
    let (code, out, err) = texts(&bench("--dry-run --no-build --parts flood --duts oneip --out /nowhere"));
    assert_eq!(code, Some(0), "{err}");
    for command in [
        "ONEIP_LAB=benchtest-flood",
        "scripts/lab.sh up --engine xdp",
        " --port udp/9 --clients 1000000",
        "dear.py lan0",
    ] {
        assert!(out.contains(command), "{command} is not in:\n{out}");
    }
    assert!(!Path::new("/run/netns/benchtest-flood-lan").exists());
}

#[test]
fn a_dry_run_of_a_real_box_asks_the_peer_by_ssh() {
    let arguments = "--dry-run --no-build --interface lo --peer gen1 --peer-interface eth3 --duts oneip";
    let (code, out, err) = texts(&bench(arguments));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ssh gen1 'oneip pktgen --interface eth3 --to 00:00:00:00:00:00 "), "{out}");
    assert!(!out.contains("netns"), "{out}");
}

#[test]
fn a_generator_that_fails_ends_the_run() {
    if !is_root() {
        return;
    }
    let (folder, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (oneip, real) = (folder.path().join("oneip"), built().join("oneip"));
    let arguments = format!("--smoke --no-build --duts oneip --out {}", out.path().display());
    // At once; or when it is asked whether a rate holds, after a trial that seems to have lost everything.
    for fails in ["*", "*' --rate '*"] {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n'pktgen '{fails}) echo no frames today >&2; exit 1 ;;\n\
             'pktgen '*) {0} \"$@\" | jq '.lost = .sent' ;;\n*) exec {0} \"$@\" ;;\nesac\n",
            real.display()
        );
        std::fs::write(&oneip, script).expect("a file");
        std::fs::set_permissions(&oneip, Permissions::from_mode(0o755)).expect("a program");
        let (code, _, err) = texts(&bench_of(folder.path(), "benchfail", &arguments));
        assert_eq!(code, Some(1), "{fails}: {err}");
        assert!(err.contains("error: the generator failed"), "{fails}: {err}");
        assert_eq!(err.matches("no frames today").count(), 1, "{fails}: {err}");
    }
}

/// The program that writes the report.
fn build_report() {
    // As `cargo test` has done, unless this test alone was asked for.
    let mut cargo = Command::new(env!("CARGO"));
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    // Of this package's, which a build script of a dependency would take for a change.
    let of_package =
        |name: &str| name == "OUT_DIR" || name.starts_with("CARGO_MANIFEST") || name.starts_with("CARGO_PKG");
    for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
        cargo.env_remove(name);
    }
    let made =
        cargo.current_dir(root()).args(["build", "--quiet", "--profile", profile, "--example", "report"]).status();
    assert!(made.expect("cargo is there").success());
}

#[test]
fn a_run_of_seconds_writes_a_report() {
    if !is_root() {
        return;
    }
    build_report();
    let out = tempfile::tempdir().expect("a folder");
    let arguments = format!("--smoke --no-build --duts oneip --parts latency --out {}", out.path().display());
    let run = bench_of(&built(), "benchsmoke", &arguments);
    let (code, _, err) = texts(&run);
    assert_eq!(code, Some(0), "{err}");
    let report = out.path().read_dir().expect("a folder").next().expect("a report").expect("an entry").path();
    let figures = figures::Snapshot::read(&report).expect("figures");
    assert_eq!(figures.duts(), ["oneip"]);
    assert_eq!((figures.latency.len(), figures.histograms.len()), (5, 5), "{err}");
    assert!(figures.fact("interface").contains("veth"), "{:?}", figures.facts);
    assert!(figures.throughput.iter().any(|row| row.size == "1518"), "{err}");
    assert!(figures.latency.iter().all(|row| row.p50.is_some() && row.sent > 0.0), "frames came back: {err}");
    let page = std::fs::read_to_string(report.join("report.md")).expect("a page");
    assert!(
        page.contains("## Findings") && page.contains("(latency-50.svg)") && report.join("latency-50.svg").exists()
    );
    assert!(!Path::new("/run/netns/benchsmoke-oneip").exists(), "nothing is left behind");
    assert_eq!(out.path().read_dir().expect("a folder").count(), 1, "nor of what was not finished");
    assert!(report.to_string_lossy().ends_with("-smoke"), "its figures mean nothing: {}", report.display());
}
