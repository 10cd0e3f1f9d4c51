//! What is left for the next instance: flow tables; and what it takes to load the program.

use super::model::plans::One;
use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oneip::hash::Key;
use oneip::model::Mac;
use oneip::table::build::Cluster;
use oneip::table::flow_table::{Flow, Position, Stage};
use oneip::xdp::dispatch::{Dispatch, Setup};
use oneip::xdp::{Net, Steer};
use rustix::process::geteuid;
use std::collections::HashSet;
use std::thread;
use std::time::Duration;

/// A BPF file system of our own.
struct Pins(tempfile::TempDir);

impl Pins {
    fn new() -> Pins {
        let folder = tempfile::tempdir().unwrap();
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Pins(folder)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn flows_last_from_one_instance_to_the_next() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let pins = Pins::new();
    let plan = One::weights(&[1, 1], 211).plan();
    let table = Cluster::new(&plan).compile();
    let setup = Setup {
        mac: Mac([2, 0, 0, 0, 0, 2]),
        egress: 0,
        queues: 3,
        flows: 1000,
        timed_of: 1,
        others: Default::default(),
    };
    let flow = Flow { server: 7, stage: Stage::Established, position: Position::of(1 << 20), disputed: false, seen: 5 };
    let first = Dispatch::load_kept(setup, &table, pins.0.path()).unwrap();
    let mut flows = first.flows().of_queue(2);
    let name = 0x1234_5678_9abc_def0;
    flows.remember(name, &flow, 0);
    let (key, report) = (flows.key().state(), flows.report());
    drop((first, flows));
    // By another key of the cluster the flows have the same names.
    let other = Cluster::new(&One::weights(&[1, 1], 211).keyed([9; 16]).plan()).compile();
    assert!(other.key != table.key && Key::from_state(key) != other.key);
    let next = Dispatch::load_kept(setup, &other, pins.0.path()).unwrap();
    let flows = next.flows().of_queue(2);
    assert_eq!((flows.key().state(), flows.report()), (key, report));
    assert_eq!(flows.find(name, 0, |_| true).map(|(flow, _)| flow), Some(flow));
    assert_eq!(next.flows().of_queue(1).report().held, 0);
    // With room for more, nothing of it is found.
    let larger = Dispatch::load_kept(Setup { flows: 2000, ..setup }, &table, pins.0.path()).unwrap();
    let flows = larger.flows().of_queue(2);
    assert!(flows.find(name, 0, |_| true).is_none() && flows.report().held == 0 && flows.report().capacity == 2000);
}

/// In a thread of its own, whose capabilities go with it.
#[test]
fn two_capabilities_are_enough_to_load_it() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let table = Cluster::new(&One::weights(&[1, 1], 211).plan()).compile();
    thread::spawn(move || {
        let few = HashSet::from([Capability::CAP_NET_ADMIN, Capability::CAP_BPF]);
        caps::set(None, CapSet::Effective, &few).unwrap();
        caps::set(None, CapSet::Permitted, &few).unwrap();
        let setup = Setup {
            mac: Mac([2, 0, 0, 0, 0, 2]),
            egress: 0,
            queues: 1,
            flows: 64,
            timed_of: 61,
            others: Default::default(),
        };
        Dispatch::load(setup, &table).unwrap();
        Steer::load_with_net(Net { setup, table: &table, after: Some(Duration::from_millis(100)), folder: None })
            .unwrap();
    })
    .join()
    .unwrap();
}
