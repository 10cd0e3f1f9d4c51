//! Several senders over a cable with two queues: together they send what one would, to the frame and to the nanosecond.

use super::peer::{self, Account, Arrival, Deed};
use super::veth::{CLUSTER_V4, Cable};
use super::wire::{GENTLY, counts, endless, eventually, is_gone, pktgen, report};
use oneip::host::cores;
use oneip::pktgen::schedule::Schedule;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;

const METHODS: [&str; 2] = ["xdp", "af_xdp"];

/// A cable, and two cores as a list. `None` without root or without two cores, and it says so.
fn pair() -> Option<(Cable, String)> {
    let [first, second, ..] = cores::available()[..] else {
        eprintln!("SKIPPED: needs two cores");
        return None;
    };
    Some((Cable::lay(1500, 2)?, format!("{first},{second}")))
}

/// What becomes of a load from two cores, of which every frame comes back.
fn run(arguments: &str) -> Option<(Value, Account)> {
    let (cable, cores) = pair()?;
    let command = format!("--address {CLUSTER_V4} --core {cores} {arguments}");
    Some(peer::during(&cable, |_| Deed::Back, || report(&pktgen(&command).output().unwrap())))
}

/// Every frame of a load at `rate` was there once, each sender's on a queue of its own, and was due when the schedule says.
fn assert_whole(arrivals: &[Arrival], rate: u64) {
    let mut sorted: Vec<&Arrival> = arrivals.iter().collect();
    sorted.sort_by_key(|arrival| arrival.number);
    let (first, schedule) = (sorted[0], Schedule::new(rate));
    for (number, arrival) in (0..).zip(sorted) {
        assert_eq!(arrival.number, number);
        assert_eq!(arrival.stamp - first.stamp, schedule.due(number), "frame {number}");
        assert_eq!(arrival.queue, (first.queue + (number % 2) as u32) % 2, "frame {number}");
    }
}

#[test]
fn every_frame_is_sent_once_and_received_once() {
    for method in METHODS {
        // Not a multiple of two, nor is the interval a whole number.
        let Some((report, account)) = run(&format!("--rate 2100 --count 1201 --method {method}")) else { return };
        assert_eq!((&report["sent"], account.received), (&json!(1201), 1201), "{report}");
        assert_eq!(counts(&report), [1201, 0, 0, 0, 0], "{report}");
        assert!(report["method"].as_str().unwrap().starts_with(method));
        let seconds = report["seconds"].as_f64().unwrap();
        assert!((0.57..20.0).contains(&seconds), "{report}");
        assert_eq!((&report["offered_pps"], report["lag_ns"].is_object()), (&json!(2100), true), "{report}");
        assert_whole(&account.arrivals, 2100);
    }
}

#[test]
fn a_duration_is_the_schedules_number_of_frames() {
    for method in METHODS {
        let Some((report, account)) = run(&format!("--rate 2001 --duration 0.5 --method {method}")) else { return };
        assert_eq!((&report["sent"], account.received), (&json!(1001), 1001), "{report}");
        assert_eq!(counts(&report), [1001, 0, 0, 0, 0], "{report}");
        assert_whole(&account.arrivals, 2001);
    }
}

#[test]
fn fewer_frames_than_senders_are_sent_by_some() {
    for (method, rate) in METHODS.into_iter().flat_map(|method| [(method, "--rate 1000"), (method, "")]) {
        let Some((report, _)) = run(&format!("--count 1 --method {method} {rate}")) else { return };
        assert_eq!((&report["sent"], counts(&report)), (&json!(1), [1, 0, 0, 0, 0]), "{report}");
    }
}

/// Some are lost at the cable's rings then.
#[test]
fn a_count_without_a_rate_is_sent_to_the_frame() {
    for method in METHODS {
        let Some((report, _)) = run(&format!("--count 30001 --method {method}")) else { return };
        let [received, lost, duplicates, reordered, corrupt] = counts(&report);
        assert_eq!((&report["sent"], received + lost), (&json!(30_001), 30_001), "{report}");
        assert!(received > 0 && [duplicates, reordered, corrupt] == [0; 3], "{report}");
    }
}

#[test]
fn what_a_peer_does_to_frames_of_either_is_noticed_exactly() {
    let Some((cable, cores)) = pair() else { return };
    let command = format!("--address {CLUSTER_V4} {GENTLY} --core {cores}");
    let deed = |n| match n % 100 {
        1..=7 => Deed::Drop,
        10 | 21 | 30 => Deed::Twice,
        40 | 51 => Deed::Damage(-3),
        _ => Deed::Back,
    };
    let (report, account) = peer::during(&cable, deed, || report(&pktgen(&command).output().unwrap()));
    assert_eq!((counts(&report), account.received), ([1200 - 84 - 24, 84, 36, 0, 24], 1200), "{report}");
}

#[test]
fn a_signal_ends_them_all_with_figures() {
    let Some((cable, cores)) = pair() else { return };
    for (method, signal) in METHODS.into_iter().zip([Signal::INT, Signal::TERM]) {
        let (report, account) = peer::during(
            &cable,
            |_| Deed::Back,
            || {
                let mut child = endless(&cable, &format!("--rate 1000 --method {method} --core {cores}"));
                thread::sleep(Duration::from_millis(500));
                kill_process(Pid::from_child(&child), signal).unwrap();
                if !eventually(|| child.try_wait().unwrap().is_some()) {
                    child.kill().unwrap();
                    panic!("it goes on");
                }
                report(&child.wait_with_output().unwrap())
            },
        );
        let sent = report["sent"].as_u64().unwrap();
        assert!(sent < 60_000 && sent == account.received, "{report}");
        assert_eq!(counts(&report), [sent, 0, 0, 0, 0], "{report}");
        assert!(is_gone(&cable));
    }
}

#[test]
fn fewer_queues_than_senders_are_told_what_to_do() {
    let Some((_, cores)) = pair() else { return };
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let refused = cable.device_thread(scope, || {
            // Without an XDP program at the peer there is AF_XDP alone to choose.
            ["af_xdp", "auto"].map(|method| {
                let arguments = format!("--address {CLUSTER_V4} --core {cores} --count 1 --method {method}");
                let output = pktgen(&arguments).output().unwrap();
                assert_eq!(output.status.code(), Some(1));
                String::from_utf8_lossy(&output.stderr).into_owned()
            })
        });
        for said in refused.join().unwrap() {
            let expected = "error: d0 has 1 queue, and AF_XDP needs one for each of 2 senders: ethtool -L d0 combined 2, or \
                            name fewer cores with --core\n";
            assert_eq!(said, expected);
        }
    });
}
