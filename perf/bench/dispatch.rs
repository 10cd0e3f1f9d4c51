//! What the dispatcher inside the kernel costs a frame, by BPF_PROG_TEST_RUN: the kernel runs a program a million times in a
//! row which makes the frame one of a random client out of a million, to a random one of the services, and dispatches it. The
//! floor is a program that makes the frame in the same way and sends it back: a swap of MAC addresses. What stands in the last
//! column is net of it.
//!
//! 64-byte UDP frames (62 bytes with IPv6), 65,537 slots a service. The rows take turns, because the machine's speed drifts.
//! Needs root: `cargo bench --bench dispatch`

#[path = "common/frames.rs"]
mod frames;
#[path = "common/plans.rs"]
mod plans;

use frames::{OURS, Random, frame};
use oneip::model::{Mac, Plan};
use oneip::table::build::Cluster;
use oneip::xdp::dispatch::{Dispatch, Measured, Setup};
use plans::{PREFIXED, cluster_address, clustered, plan, prefixed};
use std::time::Instant;

const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 9;

/// `enum xdp_action`
const XDP_TX: u32 = 3;

/// As `xdp::engine` has it, unless a row says otherwise.
const TIMED_OF: u32 = 61;

struct Row {
    name: String,
    dispatch: Dispatch,
    frame: Vec<u8>,
    net: Vec<u128>,
    floor: Vec<u128>,
}

/// Beyond eight services tables of their own would be some hundred MiB.
fn row(services: usize, servers: usize, v6: bool, timed_of: u32) -> Row {
    row_of(&clustered(services, servers, v6), &format!("{services} services of {servers}"), v6, timed_of)
}

fn row_of(plan: &Plan, what: &str, v6: bool, timed_of: u32) -> Row {
    let table = Cluster::new(plan).compile();
    let setup = Setup { mac: Mac(OURS), egress: 0, queues: 1, flows: 0, timed_of, others: Default::default() };
    let dispatch = Dispatch::load(setup, &table).expect("root may load it");
    let family = if v6 { "ipv6" } else { "ipv4" };
    let timed = match timed_of {
        TIMED_OF => String::new(),
        1 => ", every frame timed".into(),
        _ => ", none timed".into(),
    };
    let name = format!("{family}, {what}{timed}");
    Row {
        name,
        dispatch,
        frame: frame(Random(1).next() as u32, cluster_address(0, v6), false),
        net: Vec::new(),
        floor: Vec::new(),
    }
}

/// How long it takes to lay a table out and to publish it.
fn change(services: usize, servers: usize) {
    let mut cluster = Cluster::new(&plan(services, servers, false));
    let setup =
        Setup { mac: Mac(OURS), egress: 0, queues: 1, flows: 0, timed_of: TIMED_OF, others: Default::default() };
    let mut dispatch = Dispatch::load(setup, &cluster.compile()).expect("root may load it");
    let mut times: Vec<_> = (0..2 * ROUNDS)
        .map(|round| {
            cluster.set_up("server0-0", round % 2 == 1);
            let table = cluster.compile();
            let start = Instant::now();
            dispatch.publish(&table).expect("there is room");
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, most) = (times[ROUNDS], times[2 * ROUNDS - 1]);
    println!(
        "{services} services of {servers}: one server down or up is published in {median:.1?}, at most {most:.1?}"
    );
}

fn main() {
    change(8, 64);
    change(512, 64);
    let mut rows = Vec::new();
    for v6 in [false, true] {
        for (services, servers) in [(8, 64), (1, 64), (4096, 64), (4096, 3), (8, 3), (8, 1000)] {
            rows.push(row(services, servers, v6, TIMED_OF));
        }
        rows.push(row_of(&prefixed(64, v6), &format!("{PREFIXED} prefixes, services of 64"), v6, TIMED_OF));
    }
    rows.push(row(8, 64, false, u32::MAX));
    rows.push(row(8, 64, false, 1));
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let mut run = |what| {
                let (action, each) = row.dispatch.measure(what, &row.frame, REPEAT).expect("it runs");
                assert_eq!(action, XDP_TX, "{}", row.name);
                each.as_nanos()
            };
            let (floor, all) = (run(Measured::Floor), run(Measured::Dispatch));
            row.floor.push(floor);
            row.net.push(all.saturating_sub(floor));
        }
    }
    for Row { name, net, floor, .. } in &mut rows {
        net.sort_unstable();
        floor.sort_unstable();
        let (median, least) = (net[ROUNDS / 2], net[0]);
        println!(
            "{name:42} floor {:2} ns, net {median:3} ns/frame (median of {ROUNDS}), least {least:3}",
            floor[ROUNDS / 2]
        );
    }
}
