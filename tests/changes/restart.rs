//! A process that begins in the middle of changes keeps connections where the one before it did.

use crate::law::{Event, apply, event};
use crate::world::{CLUSTER, World};
use oneip::hash;
use oneip::model::{HashInput, Selection};
use oneip::table::build::{Cluster, History};
use oneip::table::{Rule, ServiceTable};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::Ipv4Addr;

/// Who keeps connections, whether flows without a beginning are learned, and since when.
type Kept = (Option<u16>, bool, u64);

/// Who gets a client's new connections, and who keeps its others.
fn fate(table: &ServiceTable, client: Ipv4Addr) -> (Option<u16>, Option<Kept>) {
    let by = |rule: &Rule| match rule.flow {
        true => hash::flow(rule.key, client.into(), CLUSTER.into(), (4711, 80), 6),
        false => hash::source(rule.key, client.into()),
    };
    let number = client.to_bits().into();
    let owner = table.select(by(&table.rule), number).1;
    // Where the slot does not move, it does not matter what else stands there.
    let kept = table.kept().map(|kept| kept.keeper(owner, by, number)).filter(|keeper| keeper.server() != owner);
    (owner, kept.map(|keeper| (keeper.server(), keeper.is_learning(), keeper.since())))
}

/// Another process, which knows the plan, what each server is there for now, and what the one before has written down.
fn successor(world: &World, written: Option<&History>) -> Cluster {
    let mut cluster = Cluster::new(&world.plan);
    let standings: Vec<_> = (0..world.plan.services[0].servers.len()).map(|at| world.cluster.standing(0, at)).collect();
    cluster.set_standings(0, &standings, 0, 0);
    let text = serde_json::to_string(&written).unwrap();
    if let Some(written) = serde_json::from_str::<Option<History>>(&text).unwrap() {
        cluster.recall(0, &world.plan, &written, world.now);
    }
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_successor_keeps_connections_where_they_are(
        weights in prop::collection::vec(0u32..4, 2..6),
        kind in select(&[
            (Selection::Maglev, HashInput::Source), (Selection::Maglev, HashInput::Flow), (Selection::Modulo, HashInput::Source),
        ][..]),
        events in prop::collection::vec(event(), 1..24),
    ) {
        let mut world = World::new(&weights, 1009, kind.0, kind.1, 16);
        // Another key is a secret that is not written down.
        for event in events.iter().filter(|event| !matches!(event, Event::Rule(0, _))) {
            apply(&mut world, event);
            let successor = successor(&world, world.cluster.history(0));
            prop_assert_eq!(successor.due(), world.cluster.due());
            prop_assert_eq!(successor.moving(0), world.cluster.moving(0));
            let (here, there) = (world.cluster.service(0), successor.service(0));
            for client in (0..200u32).map(|n| Ipv4Addr::from_bits(0xc633_6400 + n * 7919)) {
                prop_assert_eq!(fate(&here, client), fate(&there, client), "{} at {}", client, world.now);
            }
        }
    }
}
