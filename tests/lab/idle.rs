//! Workers while nothing comes: those that may sleep do, and are woken by frames; others never give up their core.

use crate::dispatcher::Dispatcher;
use crate::network::{AF_XDP, Lab, WEB, clients, eventually, lookup, write_config};
use crate::supervisor::threads;
use serde_json::Value;
use std::fs;
use std::thread;
use std::time::Duration;

/// How often the first worker has gone to sleep by itself.
fn sleeps(dispatcher: &Dispatcher) -> u64 {
    let worker = threads(dispatcher.child(), "oneip-worker0").remove(0);
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.expect("proc_pid_status(5)").trim().parse().unwrap()
}

#[test]
fn a_worker_that_may_sleep_does_while_nothing_comes_and_frames_wake_it() {
    for (idle, is_asleep) in [("sleep", true), ("poll", false)] {
        let Some(lab) = &Lab::up(&AF_XDP) else { return };
        let text = fs::read_to_string(lab.config()).unwrap();
        write_config(&lab.config(), &text.replacen("idle = \"sleep\"", &format!("idle = \"{idle}\""), 1));
        let dispatcher = Dispatcher::start(lab, &[]);
        let greeting = dispatcher.said();
        assert_eq!(greeting.contains("asleep while nothing comes"), is_asleep, "{greeting}");
        let clients = &clients(0)[..20];
        let expected = lookup(&lab.config(), WEB[0], clients, &[]);
        for _ in 0..3 {
            assert_eq!(lab.fetch(0, clients), expected, "{idle}");
            let before = sleeps(&dispatcher);
            thread::sleep(Duration::from_secs(1));
            let slept = sleeps(&dispatcher) - before;
            assert_eq!(slept > 10, is_asleep, "{idle}: it slept {slept} times in a second in which nothing came");
        }
        eventually("asleep it is not taken for gone: it has dispatched every frame", || {
            let status: Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
            let forwarded = status["forwarded"].as_u64().unwrap();
            forwarded > 200 && status["workers"][0]["received"] == forwarded
        });
        assert_eq!(dispatcher.stop().dropped_total(), 0);
    }
}
