//! The flow table: what it finds, and what goes first when it is full.

use crate::cases::{HOUR, drained};
use crate::fixture::{Fixture, Packet, frame};
use oneip::hash::{Key, siphash};
use oneip::limits::{FLOW_CENSUS, FLOW_CLOSED, FLOW_HALF_OPEN, FLOW_IDLE};
use oneip::model::{HashInput, Limit, Rate, Selection, Service};
use oneip::table::build::{Cluster, State};
use oneip::table::flow_table::{Flow, FlowTable, FlowTableReport, Position, Stage, ticks};
use oneip::verdict::{Reason, Verdict};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::HashMap;
use std::net::Ipv4Addr;

fn table(flows: usize) -> FlowTable {
    FlowTable::new(flows, Key::new(1, 2))
}

/// Flows are known by a keyed hash.
fn name(number: u64) -> u64 {
    siphash::blocks(Key::new(3, 4), [number])
}

fn flow(server: u32, stage: Stage, seen: u64) -> Flow {
    Flow { server, stage, position: Position::of(0), disputed: false, seen }
}

fn is_there(flows: &FlowTable, number: u64) -> bool {
    flows.find(name(number), 0, |_| true).is_some()
}

const DAY: u64 = 86_400_000_000_000;

proptest! {
    /// Against a map that knows everything in full; days and years pass, of which 32 bits of any tick would turn over many times.
    #[test]
    fn is_a_map_as_long_as_there_is_room(
        steps in prop::collection::vec(
            (0u64..200, 1u32..1000, 0usize..4, select(&[0, 1_000_000_000, DAY, 26 * DAY, 52 * DAY, 4000 * DAY][..]), any::<(u32, bool)>()),
            1..400,
        ),
        start in 0..1u64 << 62,
    ) {
        let mut flows = table(4096);
        let mut naive: HashMap<u64, (Flow, u64)> = HashMap::new();
        let (mut ns, mut since) = (start, start);
        for (number, server, what, passes, (sequence, disputed)) in steps {
            ns = (ns + passes).min(i64::MAX as u64);
            if passes == 26 * DAY {
                since = ns;
            }
            let (hash, now) = (name(number), ticks(ns));
            let expected = naive.get(&number).filter(|(_, at)| ticks(*at) >= ticks(since)).map(|(flow, _)| *flow);
            let found = flows.find(hash, ticks(since), |_| true);
            prop_assert_eq!(found.map(|(flow, _)| flow), expected);
            let position = Position::of(sequence);
            match (what, found) {
                (0, Some((_, at))) => {
                    flows.forget(at);
                    naive.remove(&number);
                }
                (1, Some((known, at))) => {
                    let next = Flow { stage: Stage::Closing, position, disputed, seen: now, ..known };
                    flows.update(at, &next);
                    naive.insert(number, (next, ns));
                }
                _ => {
                    let new = Flow { position, disputed, ..flow(server, Stage::Established, now) };
                    flows.remember(hash, &new, ticks(since));
                    naive.insert(number, (new, ns));
                }
            }
            prop_assert_eq!(flows.report().held as usize, naive.len());
        }
        prop_assert_eq!(flows.report().evicted, 0);
    }

    #[test]
    fn positions_turn_over(sequence: u32, by in 0u32..0x7fff_0000) {
        let (from, to) = (Position::of(sequence), Position::of(sequence.wrapping_add(by)));
        prop_assert!(from.is_near(from) && from.is_followed_by(from));
        // In steps of 4 KiB.
        let (within, beyond) = (by <= 0xf000, by >= 0x1_2000);
        prop_assert!(from.is_near(to) || !within);
        prop_assert!(!(from.is_near(to) || to.is_near(from) || from.is_followed_by(to)) || !beyond);
        prop_assert!(!to.is_followed_by(from) || by < 0x1000);
        prop_assert_eq!(from.furthest(to), to);
        prop_assert_eq!(to.furthest(from), to);
    }
}

#[test]
fn a_flood_of_beginnings_displaces_beginnings() {
    let mut flows = table(4096);
    (0..1000).for_each(|number| flows.remember(name(number), &flow(1, Stage::Established, 10), 0));
    for number in 0..100_000 {
        flows.remember(name(1_000_000 + number), &flow(2, Stage::Begun, 11 + number / 100), 0);
    }
    let kept = (0..1000).filter(|number| is_there(&flows, *number)).count();
    assert_eq!(kept, 1000);
    assert_eq!(flows.report().held, flows.report().capacity, "the flood fills what is left");
    // The newest beginnings are there: a client has time to answer.
    let newest = (99_500..100_000).filter(|number| is_there(&flows, 1_000_000 + number)).count();
    assert!(newest > 490, "{newest} of 500");
}

/// SYNs have a quarter of the room for themselves.
#[test]
fn noted_syns_displace_syns_alone() {
    let mut flows = table(4096);
    (0..8192).for_each(|number| flows.remember(name(number), &flow(1, Stage::Spare, 10), 0));
    let before = flows.report();
    (100_000..101_000).for_each(|number| flows.note(name(number), &flow(2, Stage::Begun, 11), 0));
    (0..20_000).for_each(|at| flows.note(name(200_000 + at), &flow(2, Stage::Begun, 12 + at / 100), 0));
    let after = flows.report();
    assert_eq!((after.held, after.remembered, after.evicted), (before.held, before.remembered, 0));
    assert_eq!(after.displaced, 21_000 - 1024);
    let newest = (219_500..220_000).filter(|number| is_there(&flows, *number)).count();
    assert!(newest > 490, "{newest} of 500");
    let (syn, at) = flows.find(name(219_999), 0, |_| true).unwrap();
    assert!(flows.is_noted(at));
    flows.confirm(at, name(219_999), &Flow { stage: Stage::Established, ..syn }, 0);
    let (known, at) = flows.find(name(219_999), 0, |_| true).unwrap();
    assert!(known.stage == Stage::Established && !flows.is_noted(at));
    assert_eq!(flows.report().remembered, before.remembered + 1);
}

/// What is remembered for safety alone is lost to anything else, and is no loss.
#[test]
fn spare_entries_go_first() {
    let mut flows = table(4096);
    (0..8192).for_each(|number| flows.remember(name(number), &flow(1, Stage::Spare, 10), 0));
    for stage in [Stage::Shown, Stage::Begun, Stage::Closing] {
        let first = 10_000 * (stage as u64 + 1);
        (first..first + 200).for_each(|number| flows.remember(name(number), &flow(2, stage, 5), 0));
        assert!((first..first + 200).all(|number| is_there(&flows, number)), "{stage:?}");
    }
    assert_eq!(flows.report().evicted, 0);
}

#[test]
fn of_established_flows_the_most_silent_goes_first() {
    let mut flows = table(1024);
    for number in 0..3 * 1024 {
        flows.remember(name(number), &flow(1, Stage::Established, number), 0);
    }
    let held = |round: u64| (0..1024).filter(|number| is_there(&flows, number + round * 1024)).count();
    assert!(held(0) < 20 && held(2) > 800, "{} {} {}", held(0), held(1), held(2));
    let report = flows.report();
    assert_eq!((report.remembered - report.evicted, report.held), (report.held, report.capacity));
}

/// Two choices: of a table that is three quarters full, next to nothing has been displaced.
#[test]
fn it_fills_evenly() {
    let mut flows = table(1 << 16);
    (0..3 << 14).for_each(|number| flows.remember(name(number), &flow(1, Stage::Begun, 1), 0));
    let report = flows.report();
    assert!(report.evicted < report.remembered / 100, "{report:?}");
}

#[test]
fn what_is_over_gives_way() {
    let over = |stage, seen: u64, now: u64, horizon| {
        let mut flows = table(4);
        (0..4).for_each(|number| flows.remember(name(number), &flow(1, stage, seen), 0));
        flows.remember(name(9), &flow(1, Stage::Established, now), horizon);
        assert!(flows.report().held == 4 && flows.find(name(9), horizon, |_| true).is_some());
        flows.report().evicted == 0
    };
    let after = |time: std::time::Duration| ticks(time.as_nanos() as u64) + 2;
    assert!(over(Stage::Established, 100, 200, 150), "before the horizon");
    assert!(!over(Stage::Established, 100, 200, 100));
    assert!(over(Stage::Begun, 0, after(FLOW_HALF_OPEN), 0) && !over(Stage::Begun, 10, after(FLOW_HALF_OPEN), 0));
    assert!(over(Stage::Closing, 0, after(FLOW_CLOSED), 0) && !over(Stage::Closing, 10, after(FLOW_CLOSED), 0));
}

#[test]
fn without_room_nothing_is_remembered() {
    let mut flows = table(0);
    flows.remember(name(1), &flow(1, Stage::Begun, 1), 0);
    assert_eq!((flows.find(name(1), 0, |_| true), flows.report().capacity), (None, 0));
}

/// Where the address decides, a frame is known to be of a migrating slot before limits are asked.
#[test]
fn what_is_beyond_a_limit_is_dropped_and_not_remembered() {
    let mut fixture = Fixture::new(&[1, 1], 1009, Selection::Modulo, HashInput::Source, 4096);
    let mut clients = (0..).map(Ipv4Addr::from_bits);
    let client = clients.find(|client| fixture.owner(*client, 1).as_deref() == Some("s0")).expect("each has some");
    fixture.plan.services[0].limit = Some(Limit {
        packets: Some(Rate { per_second: 1, burst: 1 }),
        bits: None,
        syn: None,
        per_source: None,
        only_counts: false,
    });
    fixture.reload(HOUR);
    fixture.set(0, State::Draining, HOUR);
    let frames = [1, 2, 3].map(|port| frame(Packet::Ack, client, port));
    let [first, second, third] = &frames;
    let verdicts = fixture.judge_all(&[first, second, third]).into_iter().map(|(verdict, _)| verdict);
    let limited = Verdict::Drop(Reason::Limited);
    assert_eq!(verdicts.collect::<Vec<_>>(), [Verdict::Forward { service: 0, server: 0 }, limited, limited]);
    assert_eq!(fixture.report().remembered, 1);
}

/// A bucket of four. Times are compared in full, and a time is over after it, not with it.
#[test]
fn of_flows_alike_the_oldest_goes_first() {
    let mut flows = table(4);
    let times = [65_535, 65_537, 65_538, 65_539];
    for seen in times {
        flows.remember(name(seen), &flow(1, Stage::Established, seen), 0);
    }
    flows.remember(name(1), &flow(1, Stage::Established, 65_540), 0);
    assert_eq!(times.map(|seen| is_there(&flows, seen)), [false, true, true, true]);
    let begun = flow(1, Stage::Begun, 0);
    let last = ticks(FLOW_HALF_OPEN.as_nanos() as u64);
    assert_eq!([last, last + 1].map(|now| begun.is_over(now)), [false, true]);
}

/// What several workers say.
#[test]
fn reports_add_up() {
    let report = |first: u64| FlowTableReport {
        capacity: first,
        held: first + 1,
        remembered: first + 2,
        evicted: first + 3,
        displaced: first + 4,
    };
    let sum = FlowTableReport { capacity: 110, held: 112, remembered: 114, evicted: 116, displaced: 118 };
    assert_eq!([report(10), report(100)].into_iter().sum::<FlowTableReport>(), sum);
}

/// The flow is of the second service, whose servers stand behind the first one's.
#[test]
fn what_stays_until_it_is_closed_is_known_of_each_service() {
    let mut fixture = Fixture::of(&[1, 1], 1009, (Selection::Maglev, HashInput::Source), 4096, true);
    let web = fixture.plan.services[0].clone();
    let other = Service { name: "other".into(), address: Ipv4Addr::new(203, 0, 113, 81).into(), ..web };
    fixture.plan.services.insert(0, other);
    fixture.cluster = Cluster::new(&fixture.plan);
    fixture.table = fixture.cluster.compile();
    let mut clients = (0..).map(Ipv4Addr::from_bits);
    let client = clients.find(|client| fixture.owner(*client, 1).as_deref() == Some("s0")).expect("each has some");
    let until = fixture.now + HOUR.as_nanos() as u64;
    for service in 0..2 {
        fixture.cluster.set_states(service, &[State::Draining, State::Active], fixture.now, until);
    }
    fixture.table = fixture.cluster.compile();
    let segment = frame(Packet::Ack, client, 1);
    let stays = [(Verdict::Forward { service: 1, server: 0 }, false)];
    assert_eq!(fixture.judge_all(&[&segment]), stays);
    for time in [HOUR, FLOW_CENSUS * 2, FLOW_CENSUS * 2, FLOW_CENSUS * 2] {
        fixture.wait(time);
        assert_eq!(fixture.judge_all(&[&segment]), stays);
    }
    let remembers = |service: &str, server: &str| fixture.cluster.remembers(service, server);
    assert_eq!([remembers("web", "s0"), remembers("web", "s1"), remembers("other", "s0")], [true, false, false]);
    assert!(fixture.cluster.moving(0) == 0 && fixture.cluster.moving(1) > 0);
}

/// First it is learned which flows are old, then they stay.
#[test]
fn what_is_due_is_known_and_what_it_changes() {
    let (mut fixture, ..) = drained();
    for due in [fixture.now + FLOW_IDLE.as_nanos() as u64, fixture.now + HOUR.as_nanos() as u64] {
        assert_eq!(fixture.cluster.due(), Some(due));
        assert!(!fixture.cluster.expire(due - 1));
        assert!(fixture.cluster.expire(due));
    }
    assert_eq!(fixture.cluster.due(), None);
}
