//! What a run prints, and its interval log.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dispatcher::{Dispatcher, run};
use crate::failover::checked;
use crate::hlog::intervals;
use crate::network::{Lab, WEB, clients, eventually, succeed, write_config};

#[test]
fn a_line_a_second_and_an_interval_log_that_standard_tools_read() {
    let Some(lab) = Lab::up(&[]) else { return };
    // Of a worker that stands still, the program in the kernel would dispatch, and time one frame in 61.
    let text = fs::read_to_string(lab.config()).unwrap();
    write_config(&lab.config(), &text.replacen("[dispatcher]\n", "[dispatcher]\nheartbeat_ms = 10000\n", 1));
    let hlog = lab.file("latency.hlog");
    let dispatcher = Dispatcher::start(&lab, &["--stats", "--hlog", hlog.to_str().unwrap()]);
    for _ in 0..2 {
        for family in [0, 1] {
            lab.fetch(family, &clients(family));
        }
        thread::sleep(Duration::from_millis(1000));
    }
    let account = dispatcher.stop();

    let lines: Vec<&str> = account.said.lines().filter(|line| line.contains(" s  in ")).collect();
    assert!(lines.len() >= 3, "{}", account.said);
    // The first second may end before the first frame comes.
    let line = lines.iter().find(|line| line.contains("p50")).expect("frames were timed");
    for word in ["forwarded", "dropped 0/s", "passed", "p99", "max"] {
        assert!(line.contains(word), "{word}: {line}");
    }

    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut all = Histogram::<u64>::new(3).unwrap();
    let intervals = intervals(&fs::read(&hlog).unwrap());
    assert!(intervals.len() >= 4, "two services in two intervals at least: {}", intervals.len());
    for (tag, histogram) in intervals {
        *counts.entry(tag).or_default() += histogram.len();
        all.add(&histogram).unwrap();
    }
    assert_eq!(counts.keys().collect::<Vec<_>>(), WEB, "tagged with the services that had frames");
    // Every frame has an arrival time here, and each that was forwarded is in the log.
    assert_eq!(counts.values().sum::<u64>(), account.number("forwarded"));
    let latency = &account.json["latency_ns"];
    assert_eq!(latency["count"].as_u64(), Some(account.number("forwarded")));
    let rises: Vec<u64> = ["p50", "p90", "p99", "p99.9", "max"].map(|key| latency[key].as_u64().unwrap()).into();
    assert!(rises.is_sorted() && rises[0] > 0, "{latency}");
    // Both are within a hundredth of what was measured.
    let p50 = all.value_at_quantile(0.5);
    assert!(p50.abs_diff(rises[0]) * 25 <= p50, "the log's p50 is {p50}: {latency}");
}

#[test]
fn for_people_it_says_what_it_does_and_at_the_end_what_came_of_it() {
    let Some(lab) = Lab::up(&[]) else { return };
    let plan = succeed(lab.command("dispatcher", env!("CARGO_BIN_EXE_oneip")).args(["check", "-c"]).arg(lab.config()));
    assert!(
        plan.contains(
            "\ninterface lan0, AF_XDP; a worker remembers 1048576 flows through a change\n  queue 0 -> core "
        )
    );
    let mut child = run(&lab, &lab.config()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut greeting = String::new();
    while !greeting.ends_with("ready\n") {
        assert!(stdout.read_line(&mut greeting).unwrap() > 0, "{greeting}");
    }
    for fact in [
        "interface  lan0 (veth), 02:00:00:00:00:02, MTU 1500",
        "AF_XDP, copy mode, ",
        " native XDP",
        "queues     1, on core",
        "service web: 203.0.113.80 tcp/80; maglev over the source, 65537 slots, 3 servers",
        "table      generation 1",
    ] {
        assert!(greeting.contains(fact), "{fact}: {greeting}");
    }
    assert_eq!(lab.ping(0, &clients(0)[..10], 56), 10);
    // UDP, but no such port: the reason is named, with its help.
    let nowhere = lab.inside("client", || std::net::UdpSocket::bind("198.51.100.10:0").unwrap());
    nowhere.send_to(b"?", "203.0.113.80:9").unwrap();
    thread::sleep(Duration::from_millis(100));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut end = String::new();
    stdout.read_to_string(&mut end).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for fact in [" = forwarded 10 + dropped 1 + passed ", "dropped no_service ", "latency, arrival to hand-over: p50 "]
    {
        assert!(end.contains(fact), "{fact}: {end}");
    }
}

#[test]
fn with_nobody_to_read_what_it_prints_it_dispatches_all_the_same() {
    let Some(lab) = Lab::up(&[]) else { return };
    let mut child =
        run(&lab, &lab.config()).arg("--stats").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut greeting = String::new();
    while !greeting.ends_with("ready\n") {
        assert!(stdout.read_line(&mut greeting).unwrap() > 0, "{greeting}");
    }
    drop((stdout, child.stderr.take()));
    // The time for two lines of figures; and a change to tell of.
    lab.sh("web1", "sysctl -qw net.ipv4.conf.lan0.arp_notify=1");
    lab.ip("web1", "link set lan0 address 02:00:00:00:00:99");
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(lab.ping(0, &clients(0)[..24], 56), 24);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_log_that_cannot_be_written_ends_and_the_figures_go_on() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &["--hlog", "/dev/full"]);
    assert_eq!(lab.ping(0, &clients(0)[..3], 56), 3);
    dispatcher.hear("the interval log cannot be written");
    assert!(dispatcher.stop().number("forwarded") >= 3);
}

#[test]
fn a_log_in_json_names_service_and_server() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start_with(lab, &checked(lab), &["--log", "json"]);
    lab.ip("web2", "address del 203.0.113.80/32 dev lo");
    let is_it = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let message = event["message"].as_str().unwrap_or_default();
        (&event["level"], &event["service"], &event["server"]) == (&"WARN".into(), &"web".into(), &"web2".into())
            && message.starts_with("server web2 of service web is down: ")
    };
    eventually("it is logged", || dispatcher.said().lines().any(is_it));
    dispatcher.stop();
}
