//! A process that begins in the middle of changes keeps connections where the one before it did.

use crate::fixture::{CLUSTER, Fixture, successor};
use crate::law::{Event, apply, event};
use oneip::hash;
use oneip::model::{HashInput, Selection};
use oneip::table::{Rule, ServiceTable};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::Ipv4Addr;

/// Who keeps connections, whether flows without a beginning are learned, and since when.
pub type Kept = (Option<u16>, bool, u64);

/// Who gets a client's new connections, and who keeps its others.
pub fn fate(table: &ServiceTable, client: Ipv4Addr) -> (Option<u16>, Option<Kept>) {
    let by = |rule: &Rule| match rule.flow {
        true => hash::flow(rule.key, client.into(), CLUSTER.into(), (4711, 80), 6),
        false => hash::source(rule.key, client.into()),
    };
    let number = client.to_bits().into();
    let owner = table.select(by(&table.rule), number).1;
    // Where the slot does not move, it does not matter what else stands there.
    let kept = table
        .kept()
        .map(|kept| kept.previous_owner(owner, by, number))
        .filter(|previous_owner| previous_owner.server() != owner);
    (owner, kept.map(|previous_owner| (previous_owner.server(), previous_owner.is_learning(), previous_owner.since())))
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
        let mut fixture = Fixture::new(&weights, 1009, kind.0, kind.1, 16);
        // Another key is a secret that is not written down.
        for event in events.iter().filter(|event| !matches!(event, Event::Rule(0, _))) {
            apply(&mut fixture, event);
            let successor = successor(&fixture, fixture.cluster.history(0));
            prop_assert_eq!(successor.due(), fixture.cluster.due());
            prop_assert_eq!(successor.moving(0), fixture.cluster.moving(0));
            let (here, there) = (fixture.cluster.service(0), successor.service(0));
            for client in (0..200u32).map(|n| Ipv4Addr::from_bits(0xc633_6400 + n * 7919)) {
                prop_assert_eq!(fate(&here, client), fate(&there, client), "{} at {}", client, fixture.now);
            }
        }
    }
}
