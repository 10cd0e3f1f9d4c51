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
            if is_asleep {
                eventually("it sleeps while nothing comes", || sleeps(&dispatcher) > before + 10);
            } else {
                thread::sleep(Duration::from_secs(1));
                let slept = sleeps(&dispatcher) - before;
                assert!(slept <= 10, "it slept {slept} times in a second in which nothing came");
            }
        }
        let counts = || -> [u64; 2] {
            let status: Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
            [&status["forwarded"], &status["workers"][0]["received"]].map(|count| count.as_u64().unwrap())
        };
        // Where this host stands still for longer than `heartbeat_ms`, the program dispatches: then it is asked again.
        let mut before = counts();
        eventually("asleep it is not taken for gone: it dispatches every frame", || {
            lab.fetch(0, clients);
            thread::sleep(Duration::from_millis(1500));
            let now = counts();
            let [forwarded, received] = [0, 1].map(|at| now[at] - std::mem::replace(&mut before[at], now[at]));
            forwarded > 60 && received == forwarded
        });
        assert_eq!(dispatcher.stop().dropped_total(), 0);
    }
}
