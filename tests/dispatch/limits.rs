//! Limits in the program: bit for bit those of the naive twin, by the clock that the test sets; and in steer once, before the ring.

use super::dispatch;
use super::frames::sum;
use super::model::limits::{Naive, with_limits};
use super::model::mutate::Mutator;
use super::model::records::Golden;
use super::model::{Model, Random, turn};
use oneip::model::{LimitKind, Mac, OddKind, OddLimit, Plan, Prefix, Rate};
use oneip::path::classify::{self, Outer};
use oneip::verdict::{Reason, Verdict};
use oneip::xdp::dispatch::{Action, Books, Setup};
use oneip::xdp::{self, Net, Steer};

const FRAMES: usize = 8_000;

/// The books are those of the twin.
fn counted_alike(plan: &Plan, books: &Books, naive: &Naive) {
    let mut dropped = 0;
    for (service, of) in plan.services.iter().enumerate() {
        let mut counts = [[0; LimitKind::COUNT]; 2];
        for core in 0..books.cores() {
            for (sum, of_core) in counts.iter_mut().flatten().zip(books.limited(core, service).as_flattened()) {
                *sum += of_core;
            }
        }
        let only_counts = of.limit.as_ref().is_some_and(|limit| limit.only_counts);
        let beyond = LimitKind::ALL.map(|kind| naive.beyond.get(&(service, kind)).copied().unwrap_or(0));
        let expected = if only_counts { [[0; 5], beyond] } else { [beyond, [0; 5]] };
        assert_eq!(counts, expected, "{}", of.name);
        dropped += counts[0].iter().sum::<u64>();
    }
    let tally = sum(books).0;
    assert_eq!(tally.odd, naive.odd());
    assert_eq!(tally.dropped[Reason::Limited as usize], dropped + tally.odd[0].iter().sum::<u64>());
}

#[test]
fn limits_are_those_of_a_naive_twin() {
    let golden = Golden::read();
    let (mut seen, mut seen_odd) = ([0; LimitKind::COUNT], [0; OddKind::COUNT]);
    for turn in 0..8 {
        let plan = with_limits(golden.with_lists(golden.plan.clone()), turn);
        let Some(naive) = limited_alike(&golden, &plan) else { return };
        naive.beyond.iter().for_each(|((_, kind), beyond)| seen[*kind as usize] += beyond);
        naive.beyond_odd.iter().for_each(|(kind, beyond)| seen_odd[*kind as usize] += beyond);
    }
    assert!(seen.iter().all(|beyond| *beyond > 20), "{seen:?}");
    assert!(seen_odd.iter().all(|beyond| *beyond > 20), "{seen_odd:?}");
}

/// What the twin has come to. Without root there is nothing to compare.
fn limited_alike(golden: &Golden, plan: &Plan) -> Option<Naive> {
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let table = turn::table(plan, &golden.down);
    let (program, books) = dispatch(own, &table, 0)?;
    let setup = Setup { mac: Mac(own), egress: 0, queues: 1, flows: 0, timed_of: 1, others: Default::default() };
    let mut steer = Steer::load_with_net(Net { setup, table: &table, after: None, folder: None }).unwrap();
    let addresses: Vec<Prefix> = plan.cluster_addresses().into_iter().collect();
    steer.set_cluster_addresses(&addresses).unwrap();
    let of_steer = steer.net().unwrap().open_books(&table).unwrap();
    let seeds: Vec<Vec<u8>> = golden.frames().into_iter().filter(|frame| frame.len() >= 14).collect();
    let servers = plan.services.iter().flat_map(|service| &service.servers);
    let macs: Vec<[u8; 6]> = servers.filter_map(|server| server.mac).map(|mac| mac.0).collect();
    let (mut mutator, mut random) = (Mutator::new(11, &seeds, &macs), Random(11));
    let (model, mut naive, mut now) = (Model::new(plan, &golden.down), Naive::new(plan), 7_000_000_000_000);
    let frames = std::iter::repeat_with(|| mutator.frame()).filter(|frame| (14..1514).contains(&frame.len()));
    for frame in frames.take(FRAMES) {
        let most = if random.below(1000) == 0 { 100_000_000 } else { 3_000 };
        now += random.below(most) as u64;
        let is_ours = frame.starts_with(&own) && !matches!(classify::outer(&frame), Outer::Truncated);
        let verdict = if is_ours { naive.verdict(&model, &frame, now) } else { Verdict::Pass };
        program.set_clock(now);
        steer.net().unwrap().set_clock(now);
        let (action, _) = program.judge(&frame).unwrap();
        let (of_ring, ..) = steer.judge(&frame).unwrap();
        let expected = match verdict {
            Verdict::Pass => (Action::Pass, xdp::Action::Pass),
            Verdict::Drop(_) => (Action::Drop, xdp::Action::Drop),
            Verdict::Forward { .. } => (Action::Send, xdp::Action::Send),
        };
        assert_eq!((action, of_ring), expected, "{verdict:?} {}", turn::hex(&frame));
    }
    counted_alike(plan, &books, &naive);
    // What goes on in the place of a worker has passed the limits, and is not charged again.
    counted_alike(plan, &of_steer, &naive);
    for service in 0..plan.services.len() {
        let listed = |of: &Books| {
            let of_cores = (0..of.cores()).map(|core| of.listed(core, service));
            of_cores.fold([0; 2], |sum, [denied, counted]| [sum[0] + denied, sum[1] + counted])
        };
        assert_eq!(listed(&of_steer), listed(&books), "what lists say of service {service}");
    }
    let counts = steer.counters().read().unwrap();
    let tally = sum(&of_steer).0;
    let refused = tally.dropped[Reason::Limited as usize] + tally.dropped[Reason::Denied as usize];
    assert_eq!((counts.refused, counts.by_net), (refused, tally.received() - refused));
    Some(naive)
}

/// Limits of what is dear to read are asked of what servers send back too, wherever that is found out.
#[test]
fn odd_limits_are_asked_of_what_servers_send_back() {
    let golden = Golden::read();
    let mut plan = golden.plan.clone();
    plan.services.iter_mut().for_each(|service| service.second_chance = true);
    let rate = Some(Rate { per_second: 1, burst: 1 });
    plan.odd_limit = Some(OddLimit { rates: [rate; OddKind::COUNT], only_counts: true });
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let table = turn::table(&plan, &golden.down);
    let Some((program, books)) = dispatch(own, &table, 0) else { return };
    let setup = Setup { mac: Mac(own), egress: 0, queues: 1, flows: 0, timed_of: 1, others: Default::default() };
    let mut steer = Steer::load_with_net(Net { setup, table: &table, after: None, folder: None }).unwrap();
    let addresses: Vec<Prefix> = plan.cluster_addresses().into_iter().collect();
    steer.set_cluster_addresses(&addresses).unwrap();
    let of_steer = steer.net().unwrap().open_books(&table).unwrap();
    let now = 7_000_000_000_000;
    program.set_clock(now);
    steer.net().unwrap().set_clock(now);
    let mac = plan.services.iter().flat_map(|service| &service.servers).find_map(|server| server.mac).expect("a MAC");
    let mut sent_back = 0;
    for frame in golden.frames().iter_mut().filter(|frame| frame.len() >= 14 && frame.starts_with(&own)) {
        frame[6..12].copy_from_slice(&mac.0);
        for _ in 0..2 {
            let (action, _) = program.judge(frame).unwrap();
            steer.judge(frame).unwrap();
            sent_back += u64::from(action == Action::Send);
        }
    }
    let [dropped, counted] = sum(&books).0.odd;
    assert!(sent_back > 0 && counted[OddKind::Options as usize] > 0, "{sent_back} {counted:?}");
    assert_eq!(sum(&of_steer).0.odd, [dropped, counted]);
}
