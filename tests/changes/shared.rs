//! Services with the same servers share what comes of the same steps. Each goes as it would alone, whoever went before it.

use crate::fixture::{Fixture, SECOND};
use crate::restart::fate;
use oneip::model::{HashInput, Plan, Selection};
use oneip::table::build::{Cluster, State};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const SERVICES: u32 = 3;

#[derive(Clone, Debug)]
enum Event {
    /// In these services, by bit: a server's state, and for how long connections stay.
    Set(u8, usize, State, u64),
    Wait(u64),
    /// In all of them: one server less at a place, or one more at the end.
    Remove(usize),
    Add(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let states = select(&[State::Down, State::Draining, State::Active, State::Active][..]);
    prop_oneof![
        6 => (1u8..8, 0usize..8, states, prop_oneof![Just(0u64), 1u64..100])
            .prop_map(|(of, at, state, keep)| Event::Set(of, at, state, keep)),
        2 => (1u64..60).prop_map(Event::Wait),
        1 => (0usize..8).prop_map(Event::Remove),
        1 => (1u32..4).prop_map(Event::Add),
    ]
}

/// The plan of one service, as one of several.
fn of(plan: &Plan, services: impl Iterator<Item = u32>) -> Plan {
    let service = |number: u32| {
        let mut service = plan.services[0].clone();
        (service.name, service.address) = (format!("s{number}"), IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7101 + number)));
        service
    };
    Plan { services: services.map(service).collect(), ..plan.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn who_shares_goes_as_alone(
        weights in prop::collection::vec(0u32..4, 2..6),
        hash in select(&[HashInput::Source, HashInput::Flow][..]),
        until_closed: bool,
        events in prop::collection::vec(event(), 1..24),
    ) {
        let Fixture { mut plan, mut now, .. } = Fixture::of(&weights, 1009, (Selection::Maglev, hash), 16, until_closed);
        plan.services[0].drain = Duration::from_secs(50);
        let mut together = Cluster::new(&of(&plan, 0..SERVICES));
        let mut alone: Vec<Cluster> = (0..SERVICES).map(|number| Cluster::new(&of(&plan, number..=number))).collect();
        let mut made = weights.len();
        for event in events {
            let servers = plan.services[0].servers.len();
            match event {
                Event::Set(of, at, state, keep) => {
                    for number in (0..SERVICES).filter(|number| of >> number & 1 == 1) {
                        let mut states: Vec<State> = (0..servers).map(|at| together.state(number as u16, at)).collect();
                        states[at % servers] = state;
                        let until = now + keep * SECOND;
                        let changed = together.set_states(number as u16, &states, now, until);
                        prop_assert_eq!(alone[number as usize].set_states(0, &states, now, until), changed);
                    }
                }
                Event::Wait(seconds) => {
                    now += seconds * SECOND;
                    let passed = alone.iter_mut().fold(false, |passed, cluster| cluster.expire(now) | passed);
                    prop_assert_eq!(together.expire(now), passed);
                }
                Event::Remove(_) if servers == 1 => {}
                Event::Remove(_) | Event::Add(_) => {
                    if let Event::Remove(at) = event {
                        plan.services[0].servers.remove(at % servers);
                    } else if let Event::Add(weight) = event {
                        made += 1;
                        let mut new = plan.services[0].servers[0].clone();
                        (new.name, new.weight) = (format!("new{made}"), weight);
                        new.address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + made as u32));
                        plan.services[0].servers.push(new);
                    }
                    together.renew(&of(&plan, 0..SERVICES), now);
                    for (number, cluster) in (0..).zip(&mut alone) {
                        cluster.renew(&of(&plan, number..=number), now);
                    }
                }
            }
            prop_assert_eq!(together.due(), alone.iter().filter_map(Cluster::due).min());
            for (number, alone) in (0..).zip(&alone) {
                prop_assert_eq!(together.shares(number), alone.shares(0));
                prop_assert_eq!(together.moving(number), alone.moving(0));
                let (here, there) = (together.service(number), alone.service(0));
                for client in (0..100u32).map(|n| Ipv4Addr::from_bits(0xc633_6400 + n * 7919)) {
                    prop_assert_eq!(fate(&here, client), fate(&there, client), "{} of {}", client, number);
                }
            }
        }
    }
}

/// It is one table, and not many that are the same.
#[test]
fn what_is_alike_is_there_once() {
    let Fixture { plan, now, .. } = Fixture::plain(4);
    let mut cluster = Cluster::new(&of(&plan, 0..SERVICES));
    let one = |cluster: &Cluster| {
        let shares: Vec<_> = (0..SERVICES as u16).map(|number| cluster.shares(number)).collect();
        let kept: Vec<_> = (0..SERVICES as u16)
            .filter_map(|number| Some(Arc::clone(cluster.service(number).kept()?.shared_previous_owners()?.1)))
            .collect();
        assert!(kept.iter().all(|other| Arc::ptr_eq(other, &kept[0])));
        assert!(shares.iter().all(|other| Arc::ptr_eq(other, &shares[0])));
        kept.len()
    };
    assert_eq!(one(&cluster), 0);
    for state in [State::Draining, State::Down] {
        for number in 0..SERVICES as u16 {
            cluster.set_states(number, &[State::Active, state, State::Active, State::Active], now, now + 50 * SECOND);
        }
        assert_eq!(one(&cluster), SERVICES as usize, "{state:?}");
    }
    cluster.expire(now + 50 * SECOND);
    assert_eq!(one(&cluster), 0);
}
