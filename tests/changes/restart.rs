//! A process that begins in the middle of changes keeps connections where the one before it did.

use crate::law::{Event, apply, event};
use crate::world::{CLUSTER, World};
use oneip::hash;
use oneip::plan::{HashInput, Selection};
use oneip::table::cluster::{Cluster, Past, Standing};
use oneip::table::{Rule, ServiceTable};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::Ipv4Addr;

/// Who gets a client's new connections, and who keeps its others.
fn fate(table: &ServiceTable, client: Ipv4Addr) -> (Option<u16>, Option<(Option<u16>, bool, u64)>) {
    let by = |rule: &Rule| match rule.flow {
        true => hash::flow(rule.key, client.into(), CLUSTER.into(), (4711, 80), 6),
        false => hash::source(rule.key, client.into()),
    };
    let number = client.to_bits().into();
    let owner = table.select(by(&table.rule), number).1;
    let kept = table.kept().map(|kept| kept.keeper(owner, by, number));
    (owner, kept.map(|keeper| (keeper.server(), keeper.is_learning(), keeper.since())))
}

/// Another process, which knows the plan, what each server is there for now, and what the one before has written down.
fn successor(world: &World, written: &[Past]) -> Cluster {
    let mut cluster = Cluster::new(&world.plan);
    let standings: Vec<_> = (0..world.plan.services[0].servers.len()).map(|at| world.cluster.standing(0, at)).collect();
    cluster.set_standings(0, &standings, 0, 0);
    cluster.reopen(0, written, world.now);
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
        events in prop::collection::vec(event(), 1..10),
    ) {
        let mut world = World::new(&weights, 1009, kind.0, kind.1, 16);
        let mut has_failure = false;
        // Another key is a secret that is not written down.
        for event in events.iter().filter(|event| !matches!(event, Event::Rule(0, _))) {
            apply(&mut world, event);
            has_failure |= matches!(event, Event::Set(_, Standing::Out, _));
            let written = world.cluster.open_changes(0);
            let successor = successor(&world, &written);
            prop_assert!(successor.due().is_none_or(|due| written.iter().any(|past| due <= past.until)));
            let (here, there) = (world.cluster.service(0), successor.service(0));
            for client in (0..200u32).map(|n| Ipv4Addr::from_bits(0xc633_6400 + n * 7919)) {
                let (before, after) = (fate(&here, client), fate(&there, client));
                prop_assert_eq!(before.0, after.0, "{} at {}", client, world.now);
                let keeper = after.1.and_then(|(server, ..)| server);
                let failed = |at| world.cluster.standing(0, usize::from(at)) == Standing::Out;
                prop_assert!(!keeper.is_some_and(failed), "one that is gone keeps nothing");
                if has_failure {
                    // Of connections whose keeper is gone only memory knows where they were begun since.
                    continue;
                }
                // Where a client's slot does not move, it does not matter what stands there.
                let keeper = |(owner, kept): (Option<u16>, Option<(Option<u16>, bool, u64)>)| {
                    let (server, learning, since) = kept.unwrap_or((owner, false, 0));
                    (owner, server, learning && server != owner, if server == owner { 0 } else { since })
                };
                prop_assert_eq!(keeper(before), keeper(after), "{} at {}: {:?}", client, world.now, written);
            }
        }
    }
}
