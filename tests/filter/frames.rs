//! Golden frames, and damaged ones: whatever a worker judges, the filter of each server judges likewise.

use super::model::mutate::Mutator;
use super::model::plans::{One, query};
use super::model::records::Golden;
use super::model::turn::{Bench, cluster};
use super::{OWN, filter};
use oneip::engine::filter::Filter;
use oneip::model::{HashInput, Mac, Plan, Selection};
use oneip::path::classify::{self, Outer};
use oneip::verdict::{Reason, Verdict};
use oneip::xdp::program::{Action, Counts};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const BROADCAST: [u8; 6] = [0xff; 6];
const MULTICAST: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x71, 0x50];
const MULTICAST_V6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x80];

/// What a filter does with a frame, by its counters.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Passed,
    Kept,
    Anothers,
    Dropped(Reason),
}

/// A server's filter, with the counts that it has by now.
struct Judge {
    filter: Filter,
    before: Counts,
}

impl Judge {
    /// Checks the action and the bytes too.
    fn judge(&mut self, own: [u8; 6], frame: &[u8]) -> Judgement {
        let (action, after) = self.filter.judge(frame).unwrap();
        let counts = self.filter.counts().unwrap();
        let before = std::mem::replace(&mut self.before, counts);
        let dropped = |reason| counts.dropped(reason) - before.dropped(reason);
        let reason = Reason::ALL.into_iter().find(|reason| dropped(*reason) == 1);
        let judgement =
            match (counts.passed - before.passed, counts.kept - before.kept, counts.anothers() - before.anothers()) {
                (1, 0, 0) => Judgement::Passed,
                (0, 1, 0) => Judgement::Kept,
                (0, 0, 1) => Judgement::Anothers,
                _ => Judgement::Dropped(reason.expect("every frame is counted")),
            };
        let passes = matches!(judgement, Judgement::Passed | Judgement::Kept);
        assert_eq!(action, if passes { Action::Pass } else { Action::Drop });
        let mut expected = frame.to_vec();
        if judgement == Judgement::Kept {
            expected[..6].copy_from_slice(&own);
        }
        assert_eq!(after, expected, "only the destination of what is kept is written");
        judgement
    }
}

/// Filters do not know the servers' MACs: with these no frame loops, and none is unresolved. Nor do they know connection IDs.
fn with_macs(mut plan: Plan) -> Plan {
    plan.services.iter_mut().for_each(|service| service.quic.clear());
    for (at, server) in plan.services.iter_mut().flat_map(|service| &mut service.servers).enumerate() {
        server.mac = Some(Mac([0x06, 0, 0, 0, (at >> 8) as u8, at as u8]));
    }
    plan
}

/// All frames through the filters of all servers, and through a worker. Returns how many of each judgement there were.
fn judged_alike(plan: &Plan, down: &[String], own: [u8; 6], frames: &[Vec<u8>]) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    let plan = with_macs(plan.clone());
    let verdicts = Bench::without_model(&plan, down).run(frames);
    let cluster = cluster(&plan, down);
    let names: BTreeSet<&str> =
        plan.services.iter().flat_map(|service| &service.servers).map(|s| s.name.as_str()).collect();
    for name in names {
        let Some(filter) = filter(Mac(own), &cluster, name) else { return seen };
        let mut judge = Judge { filter, before: Counts::default() };
        for (frame, verdict) in frames.iter().zip(&verdicts) {
            let for_us = frame.starts_with(&own) || frame[0] & 1 == 1;
            let expected = match *verdict {
                // Too short for a destination address: the kernel's.
                _ if !for_us || matches!(classify::outer(frame), Outer::Truncated) => Judgement::Passed,
                Verdict::Pass => Judgement::Passed,
                Verdict::Drop(reason) => Judgement::Dropped(reason),
                Verdict::Forward { service, server } => {
                    match plan.services[service as usize].servers[server as usize].name == name {
                        true => Judgement::Kept,
                        false => Judgement::Anothers,
                    }
                }
            };
            let judgement = judge.judge(own, frame);
            assert_eq!(judgement, expected, "{name}, {verdict:?}: {frame:02x?}");
            *seen.entry(format!("{judgement:?}")).or_default() += 1;
        }
    }
    seen
}

fn golden() -> (Golden, [u8; 6], Vec<Vec<u8>>) {
    let golden = Golden::read();
    let own = *golden.records[0].frame.first_chunk().expect("a destination");
    // A runt is no frame to the kernel's test run.
    let frames = golden.frames().into_iter().filter(|frame| frame.len() >= 14).collect();
    (golden, own, frames)
}

#[test]
fn golden_frames_are_judged_as_by_a_worker() {
    let (golden, own, frames) = golden();
    let to = |mac: [u8; 6]| frames.iter().map(move |frame| [&mac, &frame[6..]].concat());
    let broadcast: Vec<Vec<u8>> = frames.iter().cloned().chain(to(BROADCAST)).collect();
    let all: Vec<Vec<u8>> = broadcast.iter().cloned().chain(to(MULTICAST)).chain(to(MULTICAST_V6)).collect();
    let judge = |plan: &Plan, frames: &[Vec<u8>]| {
        let seen = judged_alike(plan, &golden.down, own, frames);
        assert!(seen.is_empty() || seen.len() == 7, "every judgement is seen: {seen:?}");
    };
    judge(&golden.plan, &all);
    for selection in [Selection::Maglev, Selection::Modulo] {
        for hash in [HashInput::Source, HashInput::Flow] {
            judge(&golden.plan_with(selection, hash), &broadcast);
        }
    }
}

#[test]
fn damaged_frames_are_judged_as_by_a_worker() {
    let (golden, own, frames) = golden();
    let mut mutator = Mutator::new(4, &frames, &[[0x06, 0, 0, 0xff, 0, 0]]);
    let damaged: Vec<Vec<u8>> = std::iter::repeat_with(|| mutator.frame())
        .filter(|frame| (14..1514).contains(&frame.len()))
        .take(4_000)
        .collect();
    for hash in [HashInput::Source, HashInput::Flow] {
        judged_alike(&golden.plan_with(Selection::Maglev, hash), &golden.down, own, &damaged);
    }
}

#[test]
fn a_frame_that_was_flooded_to_another_host_is_left_alone() {
    let (golden, own, frames) = golden();
    let other = [0x02, 0, 0, 0xee, 0, 0x01];
    assert_ne!(other, own);
    let frames: Vec<Vec<u8>> = frames.iter().map(|frame| [&other, &frame[6..]].concat()).collect();
    let seen = judged_alike(&golden.plan, &golden.down, own, &frames);
    assert!(seen.keys().all(|judgement| judgement == "Passed"), "{seen:?}");
}

#[test]
fn without_a_table_all_passes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let (_, own, frames) = golden();
    let mut judge = Judge { filter: Filter::load(Mac(own), None).unwrap(), before: Counts::default() };
    for frame in &frames {
        assert_eq!(judge.judge(own, frame), Judgement::Passed);
    }
}

/// A frame of several buffers, of which only the first is where the program can point to.
#[test]
fn a_jumbo_frame_is_judged_by_its_beginning() {
    let cluster = cluster(&One::weights(&[1, 1], 211).both(), &[]);
    let Some(filter) = filter(OWN, &cluster, "s0") else { return };
    let judge = |frame: &[u8]| filter.judge(frame).unwrap();
    let mut kept = 0;
    for client in 0..100u8 {
        let frame = query(IpAddr::from([198, 51, 100, client]), 4000);
        let jumbo = [&frame[..], &vec![0x5a; 9014 - frame.len()]].concat();
        let (action, after) = judge(&jumbo);
        assert_eq!(action, judge(&frame).0);
        assert_eq!(after, jumbo);
        kept += u32::from(action == Action::Pass);
    }
    assert!((20..80).contains(&kept), "{kept}");
}
