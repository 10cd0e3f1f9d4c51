//! Over a cable: what the program reports of a peer that drops, repeats, delays and damages frames, and how it starts and ends.

use super::peer::{self, Deed};
use super::veth::{CLIENT_MAC, CLUSTER_V4, CLUSTER_V6, Cable, DEVICE, DEVICE_MAC};
use oneip::xdp::Features;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../hlog/mod.rs"]
mod hlog;

const PATIENCE: Duration = Duration::from_secs(20);

/// `oneip pktgen` on this thread's network, to the client of the cable.
pub fn pktgen(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
    command.args(["pktgen", "--json", "--interface", DEVICE, "--to", &CLIENT_MAC.to_string()]);
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("one JSON document: {error}: {said}"))
}

/// Few enough and slow enough for the cable's rings, whatever else the machine does.
pub const GENTLY: &str = "--rate 2000 --count 1200";

/// What becomes of `GENTLY` when the peer does its deeds; `rest` besides.
fn run(rest: &str, deed: impl Fn(u64) -> Deed + Send) -> Option<Value> {
    let cable = Cable::lay(1500, 1)?;
    let command = format!("--address {CLUSTER_V4} {GENTLY} {rest}");
    let (report, account) = peer::during(&cable, deed, || report(&pktgen(&command).output().unwrap()));
    assert!(is_gone(&cable), "the program is detached");
    assert_eq!((&report["sent"], account.received), (&json!(1200), 1200));
    Some(report)
}

/// Received, lost, duplicates, reordered, corrupt.
pub fn counts(report: &Value) -> [u64; 5] {
    ["received", "lost", "duplicates", "reordered", "corrupt"].map(|key| report[key].as_u64().unwrap())
}

#[test]
fn every_frame_of_an_unloaded_run_is_received() {
    for method in ["xdp", "af_xdp"] {
        let rest =
            format!("--address {CLUSTER_V6} --port udp/80 --port tcp/443 --size imix --size 333 --method {method}");
        let Some(report) = run(&rest, |_| Deed::Back) else { return };
        assert_eq!(counts(&report), [1200, 0, 0, 0, 0], "{report}");
        assert_eq!(report["by_mac"], json!({DEVICE_MAC.to_string(): 1200}));
        assert_eq!((&report["offered_pps"], &report["routed"]), (&json!(2000), &json!(0)));
        assert!(report["method"].as_str().unwrap().starts_with(method));
        assert_eq!(report["frame_sizes"], json!([64, 76, 84, 96, 333, 594, 1518]));
        let seconds = report["seconds"].as_f64().unwrap();
        assert!((0.59..20.0).contains(&seconds), "{report}");
        let latency = &report["latency_ns"];
        assert_eq!(latency["count"], 1200);
        let rising = ["min", "p50", "p90", "p99", "p999", "p9999", "max"].map(|key| latency[key].as_u64().unwrap());
        assert!(rising.is_sorted() && rising[0] > 0, "{report}");
        // A frame is late before it is under way.
        assert!(report["lag_ns"]["max"].as_u64().unwrap() < rising[6], "{report}");
        // Frames of this mix have 300 bytes or so.
        let bits = report["received_bps"].as_f64().unwrap() / report["received_pps"].as_f64().unwrap();
        assert!((1000.0..5000.0).contains(&bits), "{report}");
    }
}

#[test]
fn what_a_peer_does_to_frames_is_noticed_exactly() {
    type Deeds = fn(u64) -> Deed;
    let cases: [(Deeds, [u64; 5]); 5] = [
        (|n| if n % 10 == 3 { Deed::Drop } else { Deed::Back }, [1080, 120, 0, 0, 0]),
        (|n| if n % 10 == 3 { Deed::Twice } else { Deed::Back }, [1200, 0, 120, 0, 0]),
        (|n| if n % 10 == 3 { Deed::Later } else { Deed::Back }, [1200, 0, 0, 120, 0]),
        (|n| if n % 10 == 3 { Deed::Damage(26 + (n % 4) as isize) } else { Deed::Back }, [1080, 0, 0, 0, 120]),
        (
            |n| match n % 100 {
                1..=7 => Deed::Drop,
                10 | 20 | 30 => Deed::Twice,
                40 | 50 => Deed::Later,
                // The stamp; the run's number, so that nobody knows whose frame it is.
                60 => Deed::Damage(-3),
                70 => Deed::Damage(-18),
                _ => Deed::Back,
            },
            [1200 - 84 - 24, 84 + 12, 36, 24, 12],
        ),
    ];
    for (method, (deed, expected)) in ["xdp", "af_xdp"].into_iter().cycle().zip(cases) {
        let Some(report) = run(&format!("--method {method}"), deed) else { return };
        assert_eq!(counts(&report), expected, "{report}");
    }
}

#[test]
fn the_latency_is_logged_by_the_second() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Some(report) = run(&format!("--hlog {}", file.path().display()), |_| Deed::Back) else { return };
    let intervals = hlog::intervals(&fs::read(file.path()).unwrap());
    let logged: u64 = intervals.iter().map(|(_, histogram)| histogram.len()).sum();
    assert_eq!((logged, counts(&report)[0]), (1200, 1200));
    assert!(intervals.iter().all(|(tag, _)| tag == "pktgen"));
}

fn is_attached(cable: &Cable) -> bool {
    cable.at_device(&format!("link show {DEVICE}")).contains("xdp")
}

pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + PATIENCE;
    while !holds() && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(1));
    }
    holds()
}

/// A child that another test is just starting holds our descriptors until its exec, and so may put off the end a little.
pub fn is_gone(cable: &Cable) -> bool {
    eventually(|| !is_attached(cable))
}

/// A run without an end, once its program is attached.
pub fn endless(cable: &Cable, rest: &str) -> Child {
    let mut command = cable.device_command("", Path::new(env!("CARGO_BIN_EXE_oneip")));
    let to = CLIENT_MAC.to_string();
    command.args([
        "pktgen",
        "--json",
        "--interface",
        DEVICE,
        "--address",
        CLUSTER_V4,
        "--duration",
        "600",
        "--to",
        &to,
    ]);
    let child = command.args(rest.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(eventually(|| is_attached(cable)));
    child
}

#[test]
fn a_signal_ends_it_with_figures_and_a_kill_leaves_nothing_behind() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    for (method, signal) in [("xdp", Signal::INT), ("af_xdp", Signal::TERM)] {
        let ((output, sent), account) = peer::during(
            &cable,
            |_| Deed::Back,
            || {
                let child = endless(&cable, &format!("--rate 1000 --method {method}"));
                // The sender's own start takes no longer.
                thread::sleep(Duration::from_millis(500));
                kill_process(Pid::from_child(&child), signal).unwrap();
                let output = child.wait_with_output().unwrap();
                let sent = report(&output)["sent"].as_u64().unwrap();
                (output, sent)
            },
        );
        let report = report(&output);
        assert!(sent < 60_000 && sent == account.received, "{report}");
        assert_eq!(counts(&report)[..2], [sent, 0], "{report}");
        assert!(is_gone(&cable));
    }
    let mut child = endless(&cable, "--rate 1000");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_gone(&cable));
}

#[test]
fn a_peer_that_takes_no_xdp_frames_is_told_and_gone_around() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let output = |rest: &str| pktgen(&format!("--address {CLUSTER_V4} --count 10 {rest}")).output().unwrap();
        let device = cable.device_thread(scope, move || {
            let index: u32 =
                fs::read_to_string(format!("/sys/class/net/{DEVICE}/ifindex")).unwrap().trim().parse().unwrap();
            assert!(!Features::of(index).transmits());
            let refused = output("--method xdp");
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1));
            assert!(
                said.starts_with("error: d0 takes no frames from an XDP program") && said.contains("--method af_xdp"),
                "{said}"
            );
            let report = report(&output(""));
            assert_eq!((&report["method"], &report["sent"]), (&json!("af_xdp, copy"), &json!(10)));
            assert_eq!(
                (&report["lost"], &report["latency_ns"], &report["lag_ns"]),
                (&json!(10), &Value::Null, &Value::Null)
            );
        });
        device.join().unwrap();
    });
    let (report, _) = peer::during(
        &cable,
        |_| Deed::Back,
        || {
            let index: u32 =
                fs::read_to_string(format!("/sys/class/net/{DEVICE}/ifindex")).unwrap().trim().parse().unwrap();
            let features = Features::of(index);
            assert!(features.transmits() && !features.zero_copies(), "a veth copies");
            report(&pktgen(&format!("--address {CLUSTER_V4} --count 10")).output().unwrap())
        },
    );
    assert_eq!(report["method"], "xdp");
}

#[test]
fn what_is_in_the_way_is_said_with_what_to_do() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let device = cable.device_thread(scope, || {
            let refused = |arguments: &str| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
                let output =
                    command.args(["pktgen", "--to", "02:00:00:00:00:c1"]).args(arguments.split_whitespace()).output();
                let output = output.unwrap();
                assert!(!output.status.success());
                (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
            };
            let to = format!("--address {CLUSTER_V4} --count 1");
            for (arguments, code, words) in [
                (format!("--interface lo {to}"), 1, "interface lo is not an Ethernet interface"),
                (format!("--interface nonesuch {to}"), 1, "interface nonesuch does not exist; there are: d0, lo"),
                (format!("--interface d0 --receive nonesuch {to}"), 1, "interface nonesuch does not exist"),
                (format!("--interface d0 --size 63 {to}"), 1, "--size 64 is the smallest"),
                (format!("--interface d0 --size 1519 {to}"), 1, "d0's MTU of 1500: --size 1518 is the largest"),
                (format!("--interface d0 --core 4095 {to}"), 1, "may not use that core; it may use 0"),
                (format!("--interface d0 --core 0,4095 {to}"), 1, "--core 4095: this process may not use that core"),
                (
                    format!("--interface d0 --core 0,1,0 {to}"),
                    2,
                    "core 0 is named twice; a core can have one sender only",
                ),
                (format!("--interface d0 --core= {to}"), 2, "write cores, like 2 or 2,3,5 or 2-5"),
                (format!("--interface d0 --core 5-2 {to}"), 2, "write cores, like 2 or 2,3,5 or 2-5"),
                (format!("--interface d0 --first-client ::1 {to}"), 1, "no --address is of that family"),
                (
                    format!("--interface d0 --first-client 1.1.1.1 --first-client 1.1.1.2 {to}"),
                    1,
                    "twice for one family",
                ),
                (format!("--interface d0 --hlog /nonesuch/log {to}"), 1, "--hlog /nonesuch/log: cannot be written"),
                (format!("--interface d0 --rate 0 {to}"), 2, "invalid value '0' for '--rate"),
                (format!("--interface d0 --size huge {to}"), 2, "write a number of bytes, like 64, or imix"),
                (format!("--interface d0 --duration 1 {to}"), 2, "cannot be used with"),
                ("--interface d0".into(), 2, "--address <ADDR>"),
            ] {
                let (was, said) = refused(&arguments);
                assert!(
                    was == code && said.starts_with("error: ") && said.contains(words),
                    "{arguments}: {was}, {said}"
                );
            }
            let attached = oneip::port::af_xdp::open(DEVICE).unwrap().attach(&[]).unwrap();
            let (_, said) = refused(&format!("--interface d0 {to}"));
            assert!(said.contains("another XDP program is attached to d0"), "{said}");
            drop(attached);
            // A program that root starts gets what this thread's bounding set has.
            for capability in [caps::Capability::CAP_NET_ADMIN, caps::Capability::CAP_BPF] {
                caps::drop(None, caps::CapSet::Bounding, capability).unwrap();
            }
            let (_, said) = refused(&format!("--interface d0 {to}"));
            assert!(said.contains("needs CAP_NET_ADMIN, CAP_BPF: run as root"), "{said}");
        });
        device.join().unwrap();
    });
}
