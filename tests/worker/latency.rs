//! Histograms on their way from the worker to the collector.

use crate::model::plans::query;
use crate::model::turn::table;
use crate::{queries, rig, three};
use oneip::metrics::buckets::MAX_NS;
use oneip::metrics::histogram::{self, Answer, Latencies};
use oneip::metrics::snapshot::WorkerReport;
use oneip::port::memory::Memory;
use oneip::verdict::{Reason, Verdict};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

const SERVICES: usize = 3;
/// Values that a histogram of two digits tells apart exactly.
const VALUES: usize = 200;
const RECORDED: usize = 10_000_000;

#[test]
fn every_value_is_harvested_once() {
    let (mut recorder, mut harvest) = histogram::channel(SERVICES);
    let (done, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut counts = vec![[0u64; VALUES]; SERVICES];
    let mut exchanges = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..RECORDED {
                recorder.record(i % SERVICES, (i / 7 % VALUES) as u64);
                if i % 64 == 0 {
                    recorder.exchange(WorkerReport::default);
                }
            }
            done.store(true, SeqCst);
            while !stop.load(SeqCst) {
                recorder.exchange(WorkerReport::default);
                thread::yield_now();
            }
        });
        let mut take = |set: &Latencies| {
            assert_eq!(set.services().len(), SERVICES);
            for (counts, timed) in counts.iter_mut().zip(set.services()) {
                timed.for_each(|(ns, count)| counts[ns as usize] += u64::from(count));
            }
        };
        // What is collected on a request that followed the last record has the rest.
        loop {
            let is_last = done.load(SeqCst);
            harvest.request();
            harvest.request();
            while harvest.collect(&mut take) == Answer::None {
                thread::yield_now();
            }
            exchanges += 1;
            if is_last {
                break;
            }
        }
        stop.store(true, SeqCst);
    });
    let mut recorded = vec![[0u64; VALUES]; SERVICES];
    (0..RECORDED).for_each(|i| recorded[i % SERVICES][i / 7 % VALUES] += 1);
    assert!(counts == recorded, "harvested {counts:?}, recorded {recorded:?}");
    assert!(exchanges > 2, "{exchanges} exchanges");
}

/// Of one service, after it was asked for.
fn harvested(rig: &mut crate::Rig<Memory>, service: usize) -> (u64, u64, u64) {
    rig.harvest.request();
    rig.turn();
    let mut seen = (0, 0, 0);
    let answer = rig.harvest.collect(|set| {
        let timed: Vec<(u64, u32)> = set.services().nth(service).expect("it has books").collect();
        let count = timed.iter().map(|(_, count)| u64::from(*count)).sum();
        seen = (count, timed.first().map_or(0, |first| first.0), timed.last().map_or(0, |last| last.0));
    });
    assert!(matches!(answer, Answer::Full(_)), "{answer:?}");
    seen
}

#[test]
fn a_frames_latency_is_from_its_arrival_to_the_hand_over() {
    let mut frames = queries(10);
    frames.push(query("2001:db8::1".parse().expect("an address"), 5353));
    for (arrival, now, recorded) in [
        (1_000, 1_150, Some(150)),
        // The clock of the device may be ahead of ours.
        (1_000, 990, Some(0)),
        // Unknown.
        (0, 1_000, None),
        (1, MAX_NS * 3, Some(MAX_NS)),
    ] {
        let mut rig = rig(Memory::new(&frames), table(&three(), &[]));
        rig.worker.port_mut().set_arrivals(arrival);
        rig.worker.port_mut().now = now;
        rig.turn();
        let (count, min, max) = harvested(&mut rig, 0);
        let Some(ns) = recorded else {
            assert_eq!(count, 0);
            continue;
        };
        assert_eq!(count, 10);
        let near = |value: u64| value.abs_diff(ns) * 100 <= ns;
        assert!(near(min) && near(max), "{min} to {max}, not {ns}");
        rig.worker.port_mut().rewind();
        assert_eq!(harvested(&mut rig, 1).0, 0, "the turn before was asked for by the first harvest");
        assert_eq!(harvested(&mut rig, 1).0, 1, "the IPv6 frame of the turn since");
    }
}

#[test]
fn only_forwarded_frames_have_a_latency() {
    let down = ["s0".to_string(), "s1".to_string(), "s2".to_string()];
    let mut dropping = rig(Memory::new(&queries(10)), table(&three(), &down));
    let mut full = rig(Memory::new(&queries(10)), table(&three(), &[]));
    full.worker.port_mut().tx_room = 4;
    for (rig, reason, count) in [(&mut dropping, Reason::NoServer, 0), (&mut full, Reason::TxFull, 4)] {
        rig.worker.port_mut().set_arrivals(1_000);
        rig.worker.port_mut().now = 2_000;
        let verdicts = rig.turn();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Drop(reason)).count(), 10 - count);
        assert_eq!(harvested(rig, 0).0, count as u64);
    }
}
