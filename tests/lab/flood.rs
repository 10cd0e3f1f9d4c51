//! Floods of SYNs, and a client beside them who notices nothing.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::dispatcher::Dispatcher;
use crate::network::{CLUSTER, Lab, clients, lookup, succeed, write_config};

/// SYNs a second of all sources, and of each /24.
const SYN: u64 = 4000;
const OF_SOURCE: u64 = 300;

#[test]
fn clients_beside_a_flood_are_served_over_af_xdp() {
    floods("af_xdp");
}

#[test]
fn clients_beside_a_flood_are_served_over_xdp() {
    floods("xdp");
}

fn floods(engine: &str) {
    let Some(lab) = &Lab::up(&["--engine", engine]) else { return };
    let limit = format!("[service.limit]\nsyn = {SYN}\nper_source = {{ prefix_v4 = 24, syn = {OF_SOURCE} }}\n");
    let config = std::fs::read_to_string(lab.config()).unwrap();
    write_config(&lab.config(), &config.replacen("[[service.server]]", &format!("{limit}[[service.server]]"), 1));
    let dispatcher = Dispatcher::start(lab, &[]);
    assert!(lab.ctl(&["status"]).contains(&format!("limit: at most {SYN} SYN/s (burst 400); of each /24")));
    let all = &clients(0)[..20];
    let expected = lookup(&lab.config(), "web", all, &[]);

    // One network, at more than twice what the servers may get in all.
    let began = Instant::now();
    let flood = flood(lab, 10_000, 256);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(lab.fetch(0, all), expected, "beside the flood of a /24");
    ended(flood);
    let most = OF_SOURCE as f64 * began.elapsed().as_secs_f64() + 30.0 + all.len() as f64;
    let (passed, refused) = (passed(lab), refused(lab, "source_syn"));
    assert!(passed as f64 <= most, "{passed} SYNs of at most {most}");
    assert!(refused > 5000 && refused_by_all(lab) == 0, "{refused}");

    // Any source: of SYNs, clients' too, passes what the limit lets by; and they try again.
    let flood = self::flood(lab, 8000, 1_000_000);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(lab.fetch(0, all), expected, "beside a flood of random sources");
    ended(flood);
    assert!(refused_by_all(lab) > 500, "{}", refused_by_all(lab));

    let account = dispatcher.stop();
    assert!(account.dropped("limited") > 5000, "{}", account.json);
}

/// SYNs, as the router would send them.
fn flood(lab: &Lab, rate: u64, clients: u64) -> Child {
    let mut pktgen = lab.command("router", env!("CARGO_BIN_EXE_oneip"));
    pktgen.args(["pktgen", "--interface", "lan0", "--to", "02:00:00:00:00:02", "--port", "tcp/80", "--syn", "--json"]);
    pktgen.args(["--method", "af_xdp", "--duration", "2", "--address", CLUSTER[0]]);
    pktgen.args(["--rate", &rate.to_string(), "--clients", &clients.to_string()]);
    pktgen.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(flood: Child) {
    let output = flood.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A sum of the metrics that begin with this.
fn metric(lab: &Lab, name: &str) -> u64 {
    let socket = lab.file("oneip.sock");
    let page = succeed(
        lab.command("dispatcher", "curl").args(["-sSf", "--unix-socket"]).arg(socket).arg("http://localhost/metrics"),
    );
    let lines = page.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// SYNs that went to servers.
fn passed(lab: &Lab) -> u64 {
    metric(lab, "oneip_new_flows_total{service=\"web\"")
}

fn refused(lab: &Lab, limit: &str) -> u64 {
    metric(lab, &format!("oneip_frames_limited_total{{service=\"web\",limit=\"{limit}\",mode=\"drop\"}}"))
}

fn refused_by_all(lab: &Lab) -> u64 {
    refused(lab, "syn")
}
