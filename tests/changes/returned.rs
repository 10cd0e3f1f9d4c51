//! A dispatcher that has not seen a connection begin finds its server: those that have it not send its segments back.

use crate::cases::{HOUR, drained, goes};
use crate::fixture::{Fixture, Kind, Packet, frame};
use oneip::limits::MAX_CHANGES;
use oneip::model::{HashInput, Selection, Service};
use oneip::table::build::{Cluster, State};
use oneip::verdict::{Reason, Verdict};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::Ipv4Addr;

/// Where a segment ends, after servers have sent it back that have no connection for it. `has`: who has it; and how many were asked.
fn found(fixture: &mut Fixture, client: Ipv4Addr, port: u16, has: &str) -> (String, usize) {
    let segment = Packet::Tcp(Kind::Ack, 1, 9);
    let mut server = fixture.deliver(segment, client, port).expect("some are up");
    let (mut is_last, mut asked) = (false, 1);
    while server != has && !is_last {
        let (verdict, last) = fixture.send_back(segment, client, port, &server);
        let Verdict::Forward { server: next, .. } = verdict else { panic!("{verdict:?}") };
        (server, is_last, asked) = (fixture.name(next.into()), last, asked + 1);
        assert!(asked <= MAX_CHANGES + 3, "it goes round and round");
    }
    (server, asked)
}

#[test]
fn a_connection_that_began_elsewhere_during_a_drain_is_found_and_remembered() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    assert_eq!(fixture.send_back(Packet::Ack, client, 1, "s0"), (Verdict::Forward { service: 0, server: 1 }, true));
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
    goes(&mut fixture, Packet::Ack, client, 2, "s0");
    // What has ended finds its server too, and takes no memory.
    let held = fixture.report().held;
    for end in [Packet::Fin, Packet::Rst] {
        assert_eq!(fixture.send_back(end, client, 3, "s0"), (Verdict::Forward { service: 0, server: 1 }, true));
    }
    assert_eq!(fixture.report().held, held);
}

/// Each frame of a burst for itself.
#[test]
fn in_a_burst_the_last_chance_is_of_those_that_have_no_other() {
    let (mut fixture, client, _) = drained();
    let (first, back) = (frame(Packet::Ack, client, 1), fixture.sent_back(Packet::Ack, client, 2, "s0"));
    let decided = fixture.judge_all(&[&first, &back, &first, &back]);
    let [first, back] = [(0, false), (1, true)].map(|(server, last)| (Verdict::Forward { service: 0, server }, last));
    assert_eq!(decided, [first, back, first, back]);
}

/// The second of two, and only its slots move.
#[test]
fn a_segment_that_is_sent_back_is_of_its_own_service() {
    let (mut fixture, client, _) = drained();
    let (back, web) = (fixture.sent_back(Packet::Ack, client, 1, "s0"), fixture.plan.services[0].clone());
    let other = Service { name: "other".into(), address: Ipv4Addr::new(203, 0, 113, 81).into(), ..web };
    fixture.plan.services.insert(0, other);
    fixture.cluster = Cluster::new(&fixture.plan);
    let until = fixture.now + HOUR.as_nanos() as u64;
    fixture.cluster.set_states(1, &[State::Draining, State::Active], fixture.now, until);
    fixture.table = fixture.cluster.compile();
    let goes = |server, is_last| (Verdict::Forward { service: 1, server }, is_last);
    assert_eq!(fixture.judge_all(&[&frame(Packet::Ack, client, 1), &back]), [goes(0, false), goes(1, true)]);
}

#[test]
fn what_nobody_has_goes_back_to_its_own_server_which_answers() {
    let (mut fixture, client, other) = drained();
    let back = |server| (Verdict::Forward { service: 0, server }, true);
    assert_eq!(fixture.send_back(Packet::Ack, client, 1, "s1"), back(1));
    // Its slot does not move.
    assert_eq!(fixture.send_back(Packet::Ack, other, 1, "s1"), back(1));
    fixture.wait(HOUR);
    assert_eq!(fixture.send_back(Packet::Ack, client, 1, "s1"), back(1));
    assert_eq!(fixture.report().held, 0);
}

#[test]
fn what_no_server_sends_back_is_a_loop_as_before() {
    let (mut fixture, client, other) = drained();
    let refused = (Verdict::Drop(Reason::Loop), false);
    for packet in [Packet::Syn, Packet::Udp, Packet::Echo, Packet::Error, Packet::Fragment] {
        assert_eq!(fixture.send_back(packet, client, 1, "s0"), refused);
    }
    assert_eq!(fixture.send_back(Packet::Ack, other, 1, "s0"), refused, "it has never had that client");
    fixture.plan.services[0].second_chance = false;
    fixture.reload(HOUR);
    assert_eq!(fixture.send_back(Packet::Ack, client, 1, "s0"), refused);
}

/// A slot goes from one server to a second, to a third.
#[test]
fn a_connection_of_a_server_in_between_is_found() {
    let mut fixture = Fixture::plain(4);
    let client = Ipv4Addr::new(198, 51, 100, 7);
    let mut had = Vec::new();
    for port in 1..=3 {
        let owner = fixture.owner(client, port).expect("some are up");
        goes(&mut fixture, Packet::Syn, client, port, &owner);
        let at = fixture.position(&owner).expect("it is there");
        had.push(owner);
        fixture.set(at, State::Draining, HOUR);
    }
    fixture.be_another();
    for (port, server) in (1..).zip(&had) {
        let (end, asked) = found(&mut fixture, client, port, server);
        assert_eq!((&end, asked), (server, port as usize));
        goes(&mut fixture, Packet::Ack, client, port, server);
    }
    assert_eq!(found(&mut fixture, client, 9, "nobody").1, 4, "four may have it");
}

#[derive(Clone, Debug)]
enum Event {
    Set(usize, State),
    Add(u32),
    Remove(usize),
    Flow(bool),
    Begin(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0usize..8, select(&[State::Draining, State::Active][..])).prop_map(|(at, state)| Event::Set(at, state)),
        1 => (1u32..4).prop_map(Event::Add),
        1 => (0usize..8).prop_map(Event::Remove),
        1 => any::<bool>().prop_map(Event::Flow),
        4 => (1u8..30).prop_map(Event::Begin),
    ]
}

fn run(mut fixture: Fixture, events: &[Event]) -> Result<(), TestCaseError> {
    let mut connections = Vec::new();
    let mut changes = 0;
    for event in events {
        let is_change = !matches!(event, Event::Begin(_));
        changes += usize::from(is_change);
        // Beyond that, changes are put together, and who was in between is forgotten.
        if is_change && changes > MAX_CHANGES / 2 {
            continue;
        }
        match *event {
            Event::Set(at, state) => fixture.set(fixture.staying(at), state, HOUR),
            Event::Add(weight) => fixture.add(weight, HOUR),
            Event::Remove(at) => {
                let service = &fixture.plan.services[0];
                if service.servers.len() - service.leaving > 1 {
                    fixture.remove(fixture.staying(at), HOUR);
                }
            }
            Event::Flow(by_flow) => {
                fixture.plan.services[0].hash = if by_flow { HashInput::Flow } else { HashInput::Source };
                fixture.reload(HOUR);
            }
            Event::Begin(count) => {
                for _ in 0..count {
                    let number = connections.len() as u32;
                    let (client, port) = (Ipv4Addr::from_bits(0xc633_6400 + number * 7), 1000 + number as u16);
                    if let Some(server) = fixture.deliver(Packet::Syn, client, port) {
                        connections.push((client, port, server));
                    }
                }
            }
        }
    }
    fixture.be_another();
    for (client, port, server) in connections {
        if fixture.owner(client, port).is_none() {
            continue;
        }
        let (end, _) = found(&mut fixture, client, port, &server);
        prop_assert_eq!(&end, &server);
        prop_assert_eq!(fixture.deliver(Packet::Ack, client, port), Some(server));
        found(&mut fixture, client, port + 10_000, "nobody");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::CASES))]

    #[test]
    fn every_connection_is_found_by_a_dispatcher_that_has_not_seen_it_begin(
        weights in prop::collection::vec(1u32..4, 2..7), events in prop::collection::vec(event(), 1..24),
    ) {
        run(Fixture::new(&weights, 1009, Selection::Maglev, HashInput::Source, 1 << 13), &events)?;
    }

    #[test]
    fn by_remainder_too(weights in prop::collection::vec(Just(1u32), 2..7), events in prop::collection::vec(event(), 1..24)) {
        let events: Vec<Event> = events.into_iter().filter(|event| !matches!(event, Event::Flow(_))).collect();
        run(Fixture::new(&weights, 1009, Selection::Modulo, HashInput::Source, 1 << 13), &events)?;
    }
}
