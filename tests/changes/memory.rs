//! The memory of flows: what it finds, and what goes first when it is full.

use oneip::hash::{Key, siphash};
use oneip::table::pins::{Pins, Stage};
use proptest::prelude::*;
use std::collections::HashMap;

fn pins(flows: usize) -> Pins {
    Pins::new(flows, Key::new(1, 2))
}

/// Flows are known by a keyed hash.
fn flow(number: u64) -> u64 {
    siphash::blocks(Key::new(3, 4), [number])
}

proptest! {
    #[test]
    fn is_a_map_as_long_as_there_is_room(
        steps in prop::collection::vec((0u64..200, 1u32..1000, 0usize..4), 1..600), start: u32,
    ) {
        let mut pins = pins(4096);
        let mut naive = HashMap::new();
        for (step, (number, server, what)) in steps.into_iter().enumerate() {
            let (flow, now) = (flow(number), start.wrapping_add(step as u32));
            let found = pins.find(flow, start).map(|pin| (pin.server, pin.stage, pin.seen));
            prop_assert_eq!(found, naive.get(&number).copied());
            match (what, pins.find(flow, start)) {
                (0, Some(pin)) => {
                    pins.forget(&pin);
                    naive.remove(&number);
                }
                (1, Some(pin)) => {
                    pins.touch(&pin, Stage::Closing, now);
                    naive.insert(number, (pin.server, Stage::Closing, now));
                }
                _ => {
                    pins.remember(flow, server, Stage::Begun, now, start);
                    naive.insert(number, (server, Stage::Begun, now));
                }
            }
            prop_assert_eq!(pins.report().held as usize, naive.len());
        }
        prop_assert_eq!(pins.report().evicted, 0);
    }
}

#[test]
fn a_flood_of_beginnings_displaces_beginnings() {
    let mut pins = pins(4096);
    let established: Vec<u64> = (0..1000).map(flow).collect();
    for flow in &established {
        pins.remember(*flow, 1, Stage::Begun, 10, 0);
        let pin = pins.find(*flow, 0).expect("just remembered");
        pins.touch(&pin, Stage::Established, 10);
    }
    for number in 0..100_000 {
        pins.remember(flow(1_000_000 + number), 2, Stage::Begun, 11 + number as u32, 0);
    }
    let kept = established.iter().filter(|flow| pins.find(**flow, 0).is_some()).count();
    assert_eq!(kept, established.len());
    assert_eq!(pins.report().held, pins.report().capacity, "the flood fills what is left");
    // The newest beginnings are there: a client has time to answer.
    let newest = (99_500..100_000).filter(|number| pins.find(flow(1_000_000 + number), 0).is_some()).count();
    assert!(newest > 490, "{newest} of 500");
}

#[test]
fn of_established_flows_the_most_silent_goes_first() {
    let mut pins = pins(1024);
    for round in 0..3 {
        for number in 0..1024 {
            let flow = flow(number + round * 1024);
            let now = (round * 1024 + number) as u32;
            pins.remember(flow, 1, Stage::Begun, now, 0);
            let pin = pins.find(flow, 0).expect("just remembered");
            pins.touch(&pin, Stage::Established, now);
        }
    }
    let held = |round: u64| (0..1024).filter(|number| pins.find(flow(number + round * 1024), 0).is_some()).count();
    assert!(held(0) < 20 && held(2) > 800, "{} {} {}", held(0), held(1), held(2));
    let report = pins.report();
    assert_eq!((report.remembered - report.evicted, report.held), (report.held, report.capacity));
}

/// Two choices: of a memory that is three quarters full, next to nothing has been displaced.
#[test]
fn it_fills_evenly() {
    let mut pins = pins(1 << 16);
    (0..3 << 14).for_each(|number| pins.remember(flow(number), 1, Stage::Begun, 1, 0));
    let report = pins.report();
    assert!(report.evicted < report.remembered / 100, "{report:?}");
}

#[test]
fn what_is_over_gives_way() {
    let mut pins = pins(4);
    for number in 0..4 {
        pins.remember(flow(number), 1, Stage::Established, 100, 0);
    }
    // Before the horizon: no loss.
    pins.remember(flow(9), 1, Stage::Begun, 200, 150);
    assert_eq!((pins.report().evicted, pins.report().held), (0, 4));
    assert!(pins.find(flow(9), 150).is_some() && pins.find(flow(0), 150).is_none());
}

#[test]
fn without_room_nothing_is_remembered() {
    let mut pins = pins(0);
    pins.remember(flow(1), 1, Stage::Begun, 1, 0);
    assert_eq!(pins.find(flow(1), 0), None);
    assert_eq!(pins.report().capacity, 0);
}

#[test]
fn ticks_turn_over() {
    let mut pins = pins(64);
    pins.remember(flow(1), 1, Stage::Begun, u32::MAX, u32::MAX - 5);
    assert!(pins.find(flow(1), u32::MAX - 5).is_some());
    assert!(pins.find(flow(1), 3).is_none(), "3 is after the turn");
    pins.remember(flow(2), 1, Stage::Begun, 4, u32::MAX - 5);
    assert!(pins.find(flow(2), u32::MAX - 5).is_some());
}
