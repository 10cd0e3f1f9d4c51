//! Golden frames, and damaged ones: whatever a worker does, the program in the kernel does likewise.

use super::dispatch;
use super::model::mutate::Mutator;
use super::model::records::Golden;
use super::model::turn::{self, Bench};
use oneip::model::{HashInput, Plan, Selection};
use oneip::path::classify::{self, Outer};
use oneip::verdict::{Reason, Verdict};
use oneip::xdp::dispatch::{Action, Books, Sent, Tally};

/// What all cores have counted.
pub fn sum(books: &Books) -> (Tally, Vec<Sent>) {
    let mut sum = Tally::default();
    let mut sent = vec![Sent::default(); books.destinations()];
    for core in 0..books.cores() {
        let tally = books.tally(core);
        sum.passed += tally.passed;
        sum.forwarded += tally.forwarded;
        sum.by_net += tally.by_net;
        sum.odd.iter_mut().flatten().zip(tally.odd.as_flattened()).for_each(|(sum, of_core)| *sum += of_core);
        sum.dropped.iter_mut().zip(tally.dropped).for_each(|(sum, of_core)| *sum += of_core);
        for (destination, sum) in sent.iter_mut().enumerate() {
            let of_core = books.sent(core, destination);
            (sum.frames, sum.bytes, sum.flows) =
                (sum.frames + of_core.frames, sum.bytes + of_core.bytes, sum.flows + of_core.flows);
        }
    }
    (sum, sent)
}

/// All frames through the program and through a worker: the same verdicts, bytes and counters.
fn judged_alike(plan: &Plan, down: &[String], own: [u8; 6], frames: &[Vec<u8>], mut bench: Bench) {
    let table = turn::table(plan, down);
    let Some((dispatch, books)) = dispatch(own, &table, 0) else { return };
    let ours: Vec<&Vec<u8>> = frames
        .iter()
        // A frame too short to hold a destination address is the kernel's.
        .filter(|frame| frame.starts_with(&own) && !matches!(classify::outer(frame), Outer::Truncated))
        .collect();
    let before = bench.tally.passed.get();
    let mut verdicts = bench.run(&ours).into_iter();
    let mut expected = Tally::default();
    for frame in frames {
        let is_ours = frame.starts_with(&own) && !matches!(classify::outer(frame), Outer::Truncated);
        let verdict = if is_ours { verdicts.next().expect("one a frame") } else { Verdict::Pass };
        let (action, after) = dispatch.judge(frame).unwrap();
        let what = || format!("{verdict:?} {}", turn::hex(frame));
        match verdict {
            Verdict::Pass => {
                assert_eq!(action, Action::Pass, "{}", what());
                assert_eq!(&after, frame);
                expected.passed += 1;
            }
            Verdict::Drop(reason) => {
                assert_eq!(action, Action::Drop, "{}", what());
                assert_eq!(&after, frame);
                expected.dropped[reason as usize] += 1;
            }
            Verdict::Forward { service, server } => {
                assert_eq!(action, Action::Send, "{}", what());
                let mac = plan.services[service as usize].servers[server as usize].mac.expect("it is resolved");
                assert_eq!(after, [&mac.0[..], &own, &frame[12..]].concat(), "{}", what());
                expected.forwarded += 1;
            }
        }
        assert_eq!(sum(&books).0, expected, "{}", what());
    }
    for service in 0..plan.services.len() {
        let of = bench.tally.listed(service);
        let by_core = (0..books.cores()).map(|core| books.listed(core, service));
        let listed = by_core.fold([0; 2], |sum, of_core| [sum[0] + of_core[0], sum[1] + of_core[1]]);
        assert_eq!(listed, [of.denied.get(), of.would_deny.get()], "service {service}");
    }
    let (tally, sent) = sum(&books);
    assert_eq!(tally.received(), frames.len() as u64);
    assert_eq!(tally.passed - (frames.len() - ours.len()) as u64, bench.tally.passed.get() - before);
    for (destination, sent) in sent.iter().enumerate() {
        let of = bench.tally.sent(destination);
        let expected = Sent { frames: of.frames.get(), bytes: of.bytes.get(), flows: of.flows.get() };
        assert_eq!(*sent, expected, "destination {destination}");
    }
}

fn golden() -> (Golden, [u8; 6], Vec<Vec<u8>>) {
    let golden = Golden::read();
    let own = *golden.records[0].frame.first_chunk().expect("a destination");
    // A runt is no frame to the kernel's test run.
    let frames = golden.frames().into_iter().filter(|frame| frame.len() >= 14).collect();
    (golden, own, frames)
}

fn plans(golden: &Golden) -> Vec<Plan> {
    let mut plans = vec![golden.plan.clone()];
    for selection in [Selection::Maglev, Selection::Modulo] {
        plans.extend([HashInput::Source, HashInput::Flow].map(|hash| golden.plan_with(selection, hash)));
    }
    plans.push(golden.with_lists(golden.plan.clone()));
    plans.push(golden.with_lists(golden.plan_with(Selection::Maglev, HashInput::Source)));
    plans
}

#[test]
fn golden_frames_are_dispatched_as_by_a_worker() {
    let (golden, own, frames) = golden();
    let other = frames.iter().map(|frame| [&[2, 0, 0, 0xee, 0, 1], &frame[6..]].concat());
    let all: Vec<Vec<u8>> = frames.iter().cloned().chain(other).collect();
    for plan in plans(&golden) {
        judged_alike(&plan, &golden.down, own, &all, Bench::new(&plan, &golden.down));
    }
    let here = [Reason::NoService, Reason::Malformed, Reason::Loop, Reason::Ttl, Reason::NoServer, Reason::Unresolved];
    let table = turn::table(&golden.plan, &golden.down);
    let Some((dispatch, books)) = dispatch(own, &table, 0) else { return };
    frames.iter().for_each(|frame| _ = dispatch.judge(frame).unwrap());
    assert!(here.iter().all(|reason| sum(&books).0.dropped[*reason as usize] > 0), "every reason is met");
}

#[test]
fn damaged_frames_are_dispatched_as_by_a_worker() {
    let (golden, own, frames) = golden();
    for (seed, plan) in (1..).zip(plans(&golden)) {
        let macs: Vec<[u8; 6]> =
            plan.services.iter().flat_map(|s| &s.servers).filter_map(|server| server.mac).map(|mac| mac.0).collect();
        let mut mutator = Mutator::new(seed, &frames, &macs);
        let damaged: Vec<Vec<u8>> = std::iter::repeat_with(|| mutator.frame())
            .filter(|frame| (14..1514).contains(&frame.len()))
            .take(6_000)
            .collect();
        judged_alike(&plan, &golden.down, own, &damaged, Bench::new(&plan, &golden.down));
    }
}
