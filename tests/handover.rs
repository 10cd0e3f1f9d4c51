//! A table goes from thread to thread while flows are remembered: in threads of its own, for Miri (scripts/miri.sh) too, which sees what a
//! test does not. Every interleaving of it is in `tests/loom`.

use oneip::hash::Key;
use oneip::model::{Admin, Decap, Deliver, HashInput, HashKey, Plan, Selection, Server, Service, Tags};
use oneip::table::Table;
use oneip::table::build::Cluster;
use oneip::table::flow_table::{Flow, FlowTable, Position, Stage};
use oneip::table::publish::channel;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

/// Few slots: Miri is slow.
const SLOTS: u32 = 131;

fn cluster() -> Cluster {
    let server = |at: u8| Server {
        name: format!("web{at}"),
        address: IpAddr::from([192, 0, 2, at]),
        mac: None,
        weight: 1,
        tags: Tags::AsReceived,
        quic_ids: Vec::new(),
    };
    let service = Service {
        name: "web".into(),
        address: IpAddr::from([203, 0, 113, 80]),
        prefixes: Vec::new(),
        ports: Vec::new(),
        hash: HashInput::Source,
        deliver: Deliver::L2,
        selection: Selection::Maglev,
        slots: SLOTS,
        servers: (1..=2).map(server).collect(),
        until_closed: false,
        second_chance: true,
        limit: None,
        quic: Vec::new(),
        leaving: 0,
        withdrawn: false,
        drain: Duration::ZERO,
        health: None,
    };
    Cluster::new(&Plan {
        hash_key: HashKey([7; 16]),
        dispatcher: None,
        filter: None,
        decap: Decap::default(),
        admin: Admin::default(),
        announce: None,
        group: None,
        lists: Vec::new(),
        odd_limit: None,
        services: vec![service],
    })
}

#[test]
fn workers_see_tables_in_order_and_free_none() {
    let mut cluster = cluster();
    let mut tables: Vec<Table> = Vec::new();
    for turn in 0..6 {
        cluster.set_up("web1", turn % 2 == 0);
        tables.push(cluster.compile());
    }
    let last = tables.last().expect("six").generation;
    let (mut publisher, readers) = channel(tables.remove(0), vec![(); 2]);
    let retired = publisher.retired();
    thread::scope(|scope| {
        for mut reader in readers {
            scope.spawn(move || {
                let mut seen = 0;
                while seen < last {
                    reader.renew();
                    assert!(reader.table().generation >= seen);
                    seen = reader.table().generation;
                    thread::yield_now();
                }
            });
        }
        for table in tables {
            publisher.publish(table);
            retired.clear();
        }
    });
}

#[test]
fn flows_are_remembered_and_displaced() {
    let mut flows = FlowTable::new(64, Key::new(1, 2));
    let flow = |server| Flow { server, stage: Stage::Established, position: Position::of(7), disputed: false, seen: 9 };
    let name = |number: u64| oneip::hash::siphash::blocks(Key::new(3, 4), [number]);
    for number in 0..200 {
        flows.remember(name(number), &flow(1 + number as u32 % 7), 0);
    }
    let there = (0..200).filter(|number| flows.find(name(*number), 0, |_| true).is_some()).count();
    assert!((30..=128).contains(&there), "{there}");
    let (known, at) = flows.find(name(199), 0, |_| true).expect("the last one");
    assert_eq!(known.server, 1 + 199 % 7);
    flows.forget(at);
    assert!(flows.find(name(199), 0, |_| true).is_none());
}
