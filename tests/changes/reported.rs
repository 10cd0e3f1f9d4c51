//! What a cluster reports: to operators, to who asks what a plan will cost, and to a process that comes after this one.

use crate::cases::{HOUR, drained};
use crate::fixture::{Fixture, SECOND};
use oneip::limits::{MAX_HISTORY, MAX_SERVERS, MAX_SLOTS, MAX_WEIGHT};
use oneip::model::{HashInput, Mac, Plan, Selection, Service};
use oneip::table::ServiceTable;
use oneip::table::build::maglev::NOBODY;
use oneip::table::build::{Cluster, History, State};
use oneip::table::flow_table::MAX_IDENT;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// The fixture's service, and behind it another with the same servers the other way round.
fn two_services() -> Fixture {
    let mut fixture = Fixture::plain(3);
    let web = fixture.plan.services[0].clone();
    let servers = web.servers.iter().rev().cloned().collect();
    let address = Ipv4Addr::new(203, 0, 113, 81).into();
    fixture.plan.services.push(Service { name: "mail".into(), address, servers, ..web });
    fixture.cluster = Cluster::new(&fixture.plan);
    fixture
}

#[test]
fn services_and_servers_are_known_by_name_and_position() {
    let Fixture { mut cluster, plan, .. } = two_services();
    assert_eq!(cluster.services(), 2);
    assert_eq!([cluster.name(0), cluster.name(1)], ["web", "mail"]);
    let positions = |service| ["s0", "s1", "s2", "s3"].map(|name| cluster.position(service, name));
    assert_eq!(positions(0), [Some(0), Some(1), Some(2), None]);
    assert_eq!(positions(1), [Some(2), Some(1), Some(0), None]);
    assert_eq!(cluster.mac(1, 2), plan.services[0].servers[0].mac);
    cluster.set_next_hop(plan.services[0].servers[0].address, None);
    assert_eq!((cluster.mac(0, 0), cluster.mac(1, 2)), (None, None));
    cluster.set_states(1, &[State::Draining, State::Active, State::Down], 0, 0);
    let active = |service| cluster.active(service).collect::<Vec<_>>();
    assert_eq!((active(0), active(1)), (vec!["s0", "s1", "s2"], vec!["s1"]));
}

/// By slot.
fn owners(table: &ServiceTable) -> Vec<u16> {
    (0..table.rule.slots).map(|slot| table.owner(slot).unwrap_or(NOBODY)).collect()
}

#[test]
fn first_choices_are_the_owners_while_all_are_up() {
    let mut fixture = Fixture::new(&[1, 0, 2], 1009, Selection::Maglev, HashInput::Source, 16);
    let firsts = owners(&fixture.cluster.service(0));
    assert_eq!(fixture.cluster.first_choices(0), firsts);
    fixture.set(2, State::Down, HOUR);
    assert_eq!(fixture.cluster.first_choices(0), firsts, "whoever is up");
    assert!(owners(&fixture.cluster.service(0)).iter().all(|owner| *owner == 0));
    let nobody = Fixture::new(&[0, 0], 1009, Selection::Maglev, HashInput::Source, 16);
    assert_eq!(nobody.cluster.first_choices(0), [NOBODY; 1009]);
}

#[test]
fn each_table_is_a_generation_and_each_plan_a_layout() {
    let mut fixture = Fixture::plain(3);
    for generation in 2..5 {
        let table = fixture.cluster.compile();
        assert_eq!((table.generation, fixture.cluster.generation()), (generation, generation));
    }
    fixture.cluster.set_layout(7);
    assert_eq!((fixture.cluster.layout(), fixture.cluster.compile().layout), (7, 7));
    fixture.reload(HOUR);
    assert_eq!((fixture.cluster.layout(), fixture.table.layout), (8, 8));
}

/// Where its servers are does not count.
#[test]
fn a_services_version_rises_with_all_that_changes_in_it() {
    let mut fixture = two_services();
    let (now, until) = (fixture.now, fixture.now + 9 * SECOND);
    let address = fixture.plan.services[0].servers[0].address;
    let mut last = fixture.cluster.version(0);
    let mut rises = |cluster: &Cluster| cluster.version(0) > std::mem::replace(&mut last, cluster.version(0));
    fixture.cluster.set_next_hop(address, None);
    fixture.cluster.set_states(1, &[State::Down, State::Active, State::Active], now, now);
    assert!(!rises(&fixture.cluster), "it is another service's");
    fixture.cluster.set_states(0, &[State::Draining, State::Active, State::Active], now, until);
    assert!(rises(&fixture.cluster));
    fixture.cluster.prolong(0, until + SECOND, now);
    assert!(rises(&fixture.cluster));
    fixture.cluster.renew(&fixture.plan, now);
    assert!(rises(&fixture.cluster));
    assert!(fixture.cluster.expire(until + SECOND) && rises(&fixture.cluster));
}

#[test]
fn connections_stay_for_as_long_as_they_are_prolonged() {
    let (mut fixture, ..) = drained();
    let until = fixture.now + 3 * HOUR.as_nanos() as u64;
    fixture.cluster.prolong(0, until, fixture.now);
    // No less than was promised before.
    fixture.cluster.prolong(0, until - HOUR.as_nanos() as u64, fixture.now);
    for _ in 0..2 {
        fixture.wait(HOUR);
        assert!(fixture.cluster.moving(0) > 0);
    }
    assert_eq!(fixture.cluster.due(), Some(until));
    fixture.wait(HOUR);
    assert_eq!(fixture.cluster.moving(0), 0);
}

#[test]
fn what_a_plan_goes_on_with_is_known_of_each_service() {
    let Fixture { mut plan, cluster, now, .. } = two_services();
    let new =
        Service { name: "new".into(), address: Ipv4Addr::new(203, 0, 113, 82).into(), ..plan.services[0].clone() };
    plan.services.insert(0, new);
    plan.services.swap(1, 2);
    let renewal = cluster.renewal(&plan, now);
    assert_eq!([0, 1, 2].map(|service| renewal.continues(service)), [None, Some(1), Some(0)]);
    assert!(renewal.promised(0, &cluster).is_none(), "it has no clients yet");
}

/// What is promised of the fixture's service by another plan.
fn promised(fixture: &Fixture, change: impl FnOnce(&mut Plan)) -> (Plan, Option<ServiceTable>) {
    let mut plan = fixture.plan.clone();
    change(&mut plan);
    let promised = fixture.cluster.renewal(&plan, fixture.now).promised(0, &fixture.cluster);
    (plan, promised)
}

/// And who is down is not.
#[test]
fn a_plan_promises_slots_as_they_are_when_its_new_servers_are_up() {
    let mut fixture = Fixture::plain(3);
    fixture.set(1, State::Down, HOUR);
    let (plan, promised) = promised(&fixture, |plan| {
        let servers = &mut plan.services[0].servers;
        let mut new = servers[0].clone();
        (new.name, new.address) = ("s9".into(), Ipv4Addr::new(10, 0, 0, 9).into());
        servers.push(new);
    });
    fixture.cluster.renew(&plan, fixture.now);
    fixture.cluster.set_states(
        0,
        &[State::Active, State::Down, State::Active, State::Active],
        fixture.now,
        fixture.now,
    );
    let then = owners(&fixture.cluster.service(0));
    assert_eq!(owners(&promised.expect("slots are given to others")), then);
    assert!([0, 2, 3].iter().all(|server| then.contains(server)) && !then.contains(&1));
}

/// The slots are given by name.
#[test]
fn a_plan_promises_something_else_only_where_clients_get_another_server() {
    let fixture = Fixture::plain(3);
    assert!(promised(&fixture, |_| ()).1.is_none());
    let moved = |plan: &mut Plan| plan.services[0].servers[1].mac = Some(Mac([2, 9, 9, 9, 9, 9]));
    assert!(promised(&fixture, moved).1.is_none(), "it is the same server");
    let replaced = |plan: &mut Plan| plan.services[0].servers[1].address = Ipv4Addr::new(10, 0, 0, 9).into();
    let table = promised(&fixture, replaced).1.expect("clients of the old one get the new one");
    assert_eq!(owners(&table), owners(&fixture.cluster.service(0)));
    let by_flow = |plan: &mut Plan| plan.services[0].hash = HashInput::Flow;
    assert!(promised(&fixture, by_flow).1.is_some_and(|table| table.rule.flow));
    let heavier = |plan: &mut Plan| plan.services[0].servers[1].weight = 3;
    assert!(promised(&fixture, heavier).1.is_some_and(|table| owners(&table) != owners(&fixture.cluster.service(0))));
}

/// Of a service whose servers are changing, as it is written down.
fn written(servers: usize) -> Value {
    let candidate =
        |at: usize| json!({"name": format!("s{at}"), "address": Ipv4Addr::from_bits(at as u32), "weight": 1});
    let candidates: Vec<Value> = (0..servers).map(candidate).collect();
    let configuration = json!({"servers": candidates, "leaving": 0, "slots": 1009, "flow": false, "modulo": false});
    let step = json!({"configuration": 0, "states": "t".repeat(servers), "at": 0, "until": 0});
    json!({"configurations": [configuration], "steps": [step]})
}

/// Whether what was written can be gone through, after that has been changed in it.
fn is_right(servers: usize, changes: &[(&str, Value)]) -> bool {
    let mut written = written(servers);
    for (place, value) in changes {
        *written.pointer_mut(place).unwrap_or_else(|| panic!("no {place}")) = value.clone();
    }
    serde_json::from_value::<History>(written).expect("its form is right").check().is_ok()
}

#[test]
fn a_history_is_gone_through_up_to_every_bound_and_not_beyond() {
    assert!(is_right(MAX_SERVERS, &[]) && !is_right(MAX_SERVERS + 1, &[]) && !is_right(MAX_SERVERS + 2, &[]));
    for (place, most) in [("slots", MAX_SLOTS), ("servers/0/weight", MAX_WEIGHT)] {
        let with = |number: u32| is_right(2, &[(&format!("/configurations/0/{place}"), number.into())]);
        // The first two are the next primes, of the slots.
        assert!(with(most) && ![most + 46, most + 76, u32::MAX].into_iter().any(with), "{place}");
    }
    let steps = |count: usize| is_right(2, &[("/steps", vec![written(2)["steps"][0].clone(); count].into())]);
    assert!(steps(MAX_HISTORY) && !steps(MAX_HISTORY + 1) && !steps(MAX_HISTORY + 2) && !steps(0));
}

#[test]
fn a_history_has_no_configuration_without_a_step() {
    let configurations = |count: usize| vec![written(2)["configurations"][0].clone(); count].into();
    let steps = |of: &[usize]| -> Value {
        let step = |configuration: &usize| json!({"configuration": configuration, "states": "to", "at": 0, "until": 0});
        of.iter().map(step).collect()
    };
    for (count, of, expected) in [
        (1, &[0][..], true),
        (2, &[0], false),
        (3, &[0], false),
        (2, &[0, 1], true),
        (2, &[0, 0, 1, 1], true),
        (3, &[0, 1, 2], true),
        (3, &[0, 2, 2], false),
        (2, &[0, 1, 0], false),
        (2, &[1, 1], false),
        (1, &[0, 1], false),
    ] {
        let is = is_right(2, &[("/configurations", configurations(count)), ("/steps", steps(of))]);
        assert_eq!(is, expected, "{count} with {of:?}");
    }
}

#[test]
fn a_history_names_each_server_once_or_none() {
    let mut with = written(2);
    let mut idents = |idents: &[u32]| {
        with["configurations"][0]["idents"] = idents.into();
        serde_json::from_value::<History>(with.clone()).expect("its form is right").check().is_ok()
    };
    assert!(idents(&[]) && idents(&[1, 2]) && idents(&[MAX_IDENT, 1]));
    for wrong in [&[1][..], &[1, 2, 3], &[1, 1], &[0, 1], &[MAX_IDENT + 1, 1]] {
        assert!(!idents(wrong), "{wrong:?}");
    }
}

#[test]
fn a_history_is_of_a_service_that_there_can_be() {
    let flow = |flow: bool, modulo: bool| {
        is_right(2, &[("/configurations/0/flow", flow.into()), ("/configurations/0/modulo", modulo.into())])
    };
    assert!(flow(true, false) && flow(false, true) && !flow(true, true));
    let leaving = |leaving: u32| is_right(2, &[("/configurations/0/leaving", leaving.into())]);
    assert!(leaving(1) && !leaving(2) && !leaving(3));
    assert!(!is_right(2, &[("/configurations/0/slots", 1000.into())]), "it is no prime");
    assert!(!is_right(2, &[("/configurations/0/servers/1/address", "0.0.0.0".into())]), "another is there");
    assert!(!is_right(2, &[("/steps/0/states", "t".into())]), "one is without a state");
}

/// Among them when nothing had begun.
#[test]
fn a_history_tells_all_its_times_and_ends_with_the_change() {
    let (mut fixture, ..) = drained();
    let (began, until, later) = (fixture.now, fixture.now + HOUR.as_nanos() as u64, fixture.now + 100_000 * SECOND);
    let history = fixture.cluster.history(0).expect("connections stay");
    assert!(history.times().eq([0, 0, began, until]));
    fixture.cluster.prolong(0, later, began);
    let history = fixture.cluster.history(0).expect("connections stay for longer");
    assert!(history.times().eq([0, 0, began, until, began, began, later]));
    let on = history.clone().on_clock(|at| at + 5);
    assert!(on.times().eq(history.times().map(|at| at + 5)));
    fixture.wait(HOUR);
    assert!(fixture.cluster.history(0).is_some());
    fixture.wait(HOUR * 30);
    assert!(fixture.cluster.history(0).is_none());
}
