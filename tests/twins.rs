//! The data path and its twins: the short way against the long one, vectors against scalars, a burst against one frame
//! alone, and all of them against the model, on golden frames with damage.

mod model;

use model::limits::{Naive, with_limits};
use model::mutate::Mutator;
use model::records::Golden;
use model::turn::{self, Bench};
use model::{Model, Random};
use oneip::hash;
use oneip::hash::vector::Level;
use oneip::limits::BURST;
use oneip::metrics::counters::Listed;
use oneip::model::{HashInput, LimitKind, OddKind, Plan, Selection, Transport};
use oneip::path::classify;
use oneip::path::fast_path::{self, FastPath};
use oneip::path::select::Selection as Select;
use oneip::port::memory::Memory;
use oneip::table::{PackedMac, Table, port_key};
use oneip::verdict::{Reason, Verdict};
use oneip::wire::ipv4::Ipv4;
use oneip::wire::ipv6::Ipv6;
use std::collections::HashSet;

/// Frames for each kind of selection. They are the same in each run; the fuzz target `turn` goes on with others.
const FRAMES: usize = 120_000;

fn macs(plan: &Plan) -> Vec<[u8; 6]> {
    plan.services.iter().flat_map(|service| &service.servers).filter_map(|server| server.mac).map(|mac| mac.0).collect()
}

fn agree(plan: &Plan, golden: &Golden, seed: u64) {
    let (seeds, macs) = (golden.frames(), macs(plan));
    let mut mutator = Mutator::new(seed, &seeds, &macs);
    let mut bench = Bench::new(plan, &golden.down);
    let mut seen = HashSet::new();
    for _ in 0..FRAMES / 4000 {
        let frames: Vec<Vec<u8>> = (0..4000).map(|_| mutator.frame()).collect();
        seen.extend(bench.check(&frames).into_iter().map(|verdict| match verdict {
            Verdict::Forward { service, .. } => format!("forward {service}"),
            other => format!("{other:?}"),
        }));
    }
    let here = [Reason::NoService, Reason::Malformed, Reason::Loop, Reason::Ttl, Reason::NoServer, Reason::Unresolved];
    for verdict in here.map(Verdict::Drop).into_iter().chain([Verdict::Pass]) {
        assert!(seen.contains(&format!("{verdict:?}")), "no frame was met by {verdict:?}");
    }
}

#[test]
fn damaged_frames_have_the_models_verdict() {
    let golden = Golden::read();
    agree(&golden.plan, &golden, 1);
}

/// Every service has plain frames here: this is the short way through `path::select`.
#[test]
fn damaged_frames_have_the_models_verdict_by_source() {
    let golden = Golden::read();
    agree(&golden.plan_with(Selection::Maglev, HashInput::Source), &golden, 2);
}

#[test]
fn damaged_frames_have_the_models_verdict_by_flow() {
    let golden = Golden::read();
    agree(&golden.plan_with(Selection::Maglev, HashInput::Flow), &golden, 3);
}

/// Lists of every kind, for the short way and the long one.
#[test]
fn denied_and_counted_frames_are_the_models() {
    let golden = Golden::read();
    for (seed, plan) in [(6, golden.plan.clone()), (7, golden.plan_with(Selection::Maglev, HashInput::Source))] {
        let plan = golden.with_lists(plan);
        let (seeds, macs) = (golden.frames(), macs(&plan));
        let mut mutator = Mutator::new(seed, &seeds, &macs);
        let mut bench = Bench::new(&plan, &golden.down);
        let model = Model::new(&plan, &golden.down);
        let (mut denied, mut would_deny) = (vec![0; plan.services.len()], 0);
        for _ in 0..8 {
            let frames: Vec<Vec<u8>> = (0..4000).map(|_| mutator.frame()).collect();
            let verdicts = bench.check(&frames);
            for (frame, verdict) in frames.iter().zip(verdicts) {
                if verdict == Verdict::Drop(Reason::Denied) {
                    denied[model.service_of(frame).expect("a list is asked of a service's frames")] += 1;
                }
            }
            would_deny += frames.iter().filter(|frame| model.would_deny(frame)).count() as u64;
        }
        let listed = |of: fn(&Listed) -> u64| -> Vec<u64> {
            (0..plan.services.len()).map(|at| of(bench.tally.listed(at))).collect()
        };
        assert_eq!(listed(|of| of.denied.get()), denied, "each counts its own");
        let denied: u64 = denied.iter().sum();
        assert!(denied > 4_000 && would_deny > 2_000, "{denied} denied, {would_deny} counted");
        assert_eq!(listed(|of| of.would_deny.get()).iter().sum::<u64>(), would_deny);
        assert_eq!(bench.tally.dropped(Reason::Denied).get(), denied);
    }
}

/// Limits of every kind, for the short way and the long one, while time goes by from burst to burst.
#[test]
fn limited_frames_are_those_of_a_naive_twin() {
    let golden = Golden::read();
    let plans = [golden.plan.clone(), golden.plan_with(Selection::Maglev, HashInput::Source)];
    let (mut seen, mut seen_odd) = ([0; LimitKind::COUNT], [0; OddKind::COUNT]);
    for (turn, plan) in (0..8).zip(plans.iter().cycle()) {
        let (plan, seed) = (with_limits(golden.with_lists(plan.clone()), turn), 8 + turn as u64);
        let (seeds, macs) = (golden.frames(), macs(&plan));
        let mut mutator = Mutator::new(seed, &seeds, &macs);
        let mut random = Random(seed);
        let (mut bench, model) = (Bench::new(&plan, &golden.down), Model::new(&plan, &golden.down));
        let (mut naive, mut now) = (Naive::new(&plan), 5_000_000_000_000);
        for _ in 0..1000 {
            let frames: Vec<Vec<u8>> = (0..1 + random.below(BURST)).map(|_| mutator.frame()).collect();
            // 64 us on average, and a long silence now and then.
            let most = if random.below(50) == 0 { 100_000_000 } else { 128_000 };
            now += random.below(most) as u64;
            *bench.worker.port_mut() = Memory::new(&frames);
            bench.worker.port_mut().now = now;
            let outcomes = bench.worker.turn();
            for (frame, outcome) in frames.iter().zip(outcomes) {
                assert_eq!(outcome.verdict(), naive.verdict(&model, frame, now), "{}", turn::hex(frame));
            }
        }
        let mut dropped = 0;
        for (service, of) in plan.services.iter().enumerate() {
            for kind in LimitKind::ALL {
                let counted = bench.tally.limited(service, kind);
                let beyond = naive.beyond.get(&(service, kind)).copied().unwrap_or(0);
                let only_counts = of.limit.as_ref().is_some_and(|limit| limit.only_counts);
                let expected = if only_counts { (0, beyond) } else { (beyond, 0) };
                assert_eq!((counted.limited.get(), counted.would_limit.get()), expected, "{} {kind:?}", of.name);
                dropped += counted.limited.get();
                seen[kind as usize] += beyond;
            }
        }
        let odd = OddKind::ALL.map(|kind| bench.tally.odd(kind));
        let counted = [odd.map(|of| of.limited.get()), odd.map(|of| of.would_limit.get())];
        assert_eq!(counted, naive.odd());
        dropped += counted[0].iter().sum::<u64>();
        counted.iter().for_each(|of| seen_odd.iter_mut().zip(of).for_each(|(sum, beyond)| *sum += beyond));
        assert_eq!(bench.tally.dropped(Reason::Limited).get(), dropped);
    }
    assert!(seen.iter().all(|beyond| *beyond > 20), "{seen:?}");
    assert!(seen_odd.iter().all(|beyond| *beyond > 20), "{seen_odd:?}");
}

/// Every instruction set, and every length of a burst.
#[test]
fn every_level_and_burst_decides_alike() {
    let golden = Golden::read();
    for hash in [HashInput::Source, HashInput::Flow] {
        let plan = golden.plan_with(Selection::Maglev, hash);
        let table = turn::table(&plan, &golden.down);
        let (seeds, macs) = (golden.frames(), macs(&plan));
        let mut mutator = Mutator::new(4, &seeds, &macs);
        let frames: Vec<Vec<u8>> = (0..15_000).map(|_| mutator.frame()).collect();
        let decided = |level: Level, burst: &dyn Fn(usize) -> usize| {
            let mut select = Select::new(level);
            let mut verdicts = Vec::new();
            while verdicts.len() < frames.len() {
                let frames = &frames[verdicts.len()..];
                let frames = &frames[..burst(verdicts.len()).min(frames.len())];
                select.classify(frames.len(), &table, |at| &frames[at]);
                let outcomes = select.decide(&table);
                assert_eq!(outcomes.len(), frames.len());
                verdicts.extend(outcomes.iter().map(|outcome| outcome.verdict()));
            }
            verdicts
        };
        let alone = decided(Level::detect(), &|_| 1);
        for level in Level::available() {
            assert_eq!(decided(level, &|_| BURST), alone, "{}", level.name());
            assert_eq!(decided(level, &|at| 1 + at * 7 % BURST), alone, "{}", level.name());
        }
    }
}

/// The short way reads what the long way reads, and takes all that `path::plain` says it takes; at every level, in bursts of
/// every length.
#[test]
fn plain_frames_are_read_alike() {
    let golden = Golden::read();
    let mut plan = golden.plan_with(Selection::Maglev, HashInput::Source);
    // Their datagrams are not plain.
    plan.services.iter_mut().for_each(|service| service.quic.clear());
    let table = turn::table(&plan, &golden.down);
    let ports = table.ports();
    let (seeds, macs) = (golden.frames(), macs(&plan));
    let mut mutator = Mutator::new(5, &seeds, &macs);
    let levels = Level::available();
    let mut plain = FastPath::default();
    let (mut v4, mut v6, mut begun) = (0, 0, 0);
    for round in 0..10_000 {
        let mut frames: Vec<Vec<u8>> = (0..1 + round % BURST).map(|_| mutator.frame()).collect();
        if round % 2 == 0 {
            // Frames that look alike are taken in one go.
            frames.sort_by_key(|frame| frame.get(6..14).map(<[u8]>::to_vec));
        }
        let mut read = vec![None; frames.len()];
        let (mut slow, mut at) = (0, 0);
        while at < frames.len() {
            let taken = plain.take(at..frames.len(), |at| &frames[at], ports);
            slow |= u64::from(taken == 0) << at;
            at += taken.max(1);
        }
        let level = levels[round % levels.len()];
        let (judged_v4, judged_v6) = (plain.v4.judge(level, ports), plain.v6.judge(level, ports));
        let begins = judged_v4.begins | judged_v6.begins;
        for at in 0..std::mem::take(&mut plain.v4.batch.len) {
            let frame = plain.v4.batch.frames[at];
            read[frame.position()] = Some((frame.service(), plain.v4.batch.blocks.map(|row| row[at]).to_vec()));
            v4 += 1;
        }
        for at in 0..std::mem::take(&mut plain.v6.batch.len) {
            let frame = plain.v6.batch.frames[at];
            read[frame.position()] = Some((frame.service(), plain.v6.batch.blocks.map(|row| row[at]).to_vec()));
            v6 += 1;
        }
        slow |= judged_v4.slow | judged_v6.slow;
        for (at, (frame, read)) in frames.iter().zip(read).enumerate() {
            let what = || format!("{} at {}, {at} of {}", turn::hex(frame), level.name(), frames.len());
            assert_eq!(read, long(frame, &table), "{}", what());
            assert_eq!(slow >> at & 1 == 1, read.is_none(), "{}", what());
            if read.is_some() {
                assert_eq!(begins >> at & 1 == 1, classify::begins(frame), "{}", what());
                begun += u32::from(classify::begins(frame));
            }
        }
    }
    assert!(v4 > 1_500 && v6 > 1_500 && begun > 1_500, "plain frames among them: {v4}, {v6} and {begun} SYNs");
}

/// Service and hash input of a frame that the short way is for, read the long way.
fn long(frame: &[u8], table: &Table) -> Option<(u16, Vec<u64>)> {
    let ports = table.ports();
    let source = PackedMac::from_bytes(*frame.get(6..)?.first_chunk()?);
    let tagged = frame[12..].starts_with(&[0x81, 0]);
    let packet = &frame[if tagged { 18 } else { 14 }.min(frame.len())..];
    let ethertype = &frame[if tagged { 16 } else { 12 }.min(frame.len())..];
    if frame.len() < fast_path::HEAD_LEN || ports.is_server(source) {
        return None;
    }
    if ethertype.starts_with(&[8, 0]) && packet[0] == 0x45 {
        let flow = classify::flow_v4(&Ipv4::new(packet)?).ok().filter(|_| [6, 17].contains(&packet[9]))?;
        let service = ports.v4(table.address_v4(flow.cluster)?.1, key(flow.upper)?)?;
        return Some((service.id(), hash::source_v4(flow.client).to_vec()));
    }
    if ethertype.starts_with(&[0x86, 0xdd]) {
        let flow = classify::flow_v6(&Ipv6::new(packet)?).ok().filter(|_| [6, 17].contains(&packet[6]))?;
        let service = ports.v6(table.address_v6(flow.cluster)?.1, key(flow.upper)?)?;
        return Some((service.id(), hash::source_v6(flow.client).to_vec()));
    }
    None
}

/// Of a whole TCP or UDP packet.
fn key(upper: classify::Upper) -> Option<u32> {
    match upper {
        classify::Upper::Ports(Transport::Sctp, _) => None,
        classify::Upper::Ports(transport, ports) => {
            Some(port_key(transport.protocol(), ports.destination.to_be_bytes()))
        }
        _ => None,
    }
}
