//! The data path and its twins: the short way against the long one, vectors against scalars, a burst against one frame
//! alone, and all of them against the model, on golden frames with damage.

mod model;

use model::mutate::Mutator;
use model::records::Golden;
use model::turn::{self, Bench};
use oneip::hash::vector::Level;
use oneip::limits::BURST;
use oneip::path::parse;
use oneip::path::select::Selection as Select;
use oneip::plan::{HashInput, Plan, Selection, Transport};
use oneip::table::{port_key, port_key_v4};
use oneip::verdict::{Reason, Verdict};
use oneip::wire::ipv4::Ipv4;
use oneip::wire::ipv6::Ipv6;
use std::collections::HashSet;

/// Frames for each kind of selection.
const FRAMES: usize = 2_000_000;

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

/// Every instruction set, and every length of a burst.
#[test]
fn every_level_and_burst_decides_alike() {
    let golden = Golden::read();
    for hash in [HashInput::Source, HashInput::Flow] {
        let plan = golden.plan_with(Selection::Maglev, hash);
        let table = turn::table(&plan, &golden.down);
        let (seeds, macs) = (golden.frames(), macs(&plan));
        let mut mutator = Mutator::new(4, &seeds, &macs);
        let frames: Vec<Vec<u8>> = (0..40_000).map(|_| mutator.frame()).collect();
        let decided = |level: Level, burst: &dyn Fn(usize) -> usize| {
            let mut select = Select::new(level);
            let mut verdicts = Vec::new();
            while verdicts.len() < frames.len() {
                let frames = &frames[verdicts.len()..];
                let frames = &frames[..burst(verdicts.len()).min(frames.len())];
                select.admit(frames.len(), &table, |at| &frames[at]);
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

/// The short way reads what the long way reads, and takes all that `parse::Plain` says it takes.
#[test]
fn plain_frames_are_read_alike() {
    let golden = Golden::read();
    let (seeds, macs) = (golden.frames(), macs(&golden.plan));
    let mut mutator = Mutator::new(5, &seeds, &macs);
    let (mut v4, mut v6) = (0, 0);
    for _ in 0..1_000_000 {
        let frame = mutator.frame();
        let Some(head) = frame.first_chunk() else { continue };
        for (l3, plain_v4, plain_v6) in [
            (14, parse::plain_v4::<14>(head, frame.len()), parse::plain_v6::<14>(head, &frame)),
            (18, parse::plain_v4::<18>(head, frame.len()), parse::plain_v6::<18>(head, &frame)),
        ] {
            let packet = &frame[l3..];
            let flow = Ipv4::new(packet).and_then(|packet| parse::flow_v4(&packet).ok());
            let flow = flow
                .filter(|_| packet[0] == 0x45 && [6, 17].contains(&packet[9]))
                .and_then(|flow| Some((flow.client, flow.cluster, key(flow.upper)?)));
            let expected = flow.map(|(client, cluster, key)| (client, port_key_v4(cluster, key)));
            assert_eq!(plain_v4.map(|plain| (plain.client, plain.key)), expected, "{}", turn::hex(&frame));
            v4 += plain_v4.is_some() as u32;
            let flow = Ipv6::new(packet).and_then(|packet| parse::flow_v6(&packet).ok());
            let flow = flow.filter(|_| [6, 17].contains(&packet[6]));
            let expected = flow.and_then(|flow| Some((flow.client, (flow.cluster, key(flow.upper)?))));
            assert_eq!(plain_v6.map(|plain| (plain.client, plain.key)), expected, "{}", turn::hex(&frame));
            v6 += plain_v6.is_some() as u32;
        }
    }
    assert!(v4 > 20_000 && v6 > 20_000, "plain frames among them: {v4} and {v6}");
}

/// Of a whole TCP or UDP packet.
fn key(upper: parse::Upper) -> Option<u32> {
    match upper {
        parse::Upper::Ports(Transport::Sctp, _) => None,
        parse::Upper::Ports(transport, ports) => Some(port_key(transport.protocol(), ports.destination.to_be_bytes())),
        _ => None,
    }
}
