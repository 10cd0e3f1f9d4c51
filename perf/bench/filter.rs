//! What the server-side filter costs a frame, by BPF_PROG_TEST_RUN: the kernel runs the program on one frame 300,000 times
//! and says how long it took. 64-byte UDP frames (62 bytes with IPv6), one service of 64 servers and 65,537 slots, so that all
//! that is read stays in the caches. The floor is the same program with an empty table: it looks for the destination among no
//! addresses, and passes the frame. A frame for another host is passed at a glance: that is what the kernel's test run costs.
//!
//! The rows take turns, because the machine's speed drifts. Needs root: `cargo bench --bench filter`

#[path = "common/frames.rs"]
mod frames;
#[path = "common/plans.rs"]
mod plans;

use frames::{OURS, Random, frame};
use oneip::engine::filter::{Filter, Generation};
use oneip::model::{HashInput, Mac, Plan, Port, Selection, Transport};
use oneip::table::build::{Cluster, State};
use oneip::xdp::program::Action;
use plans::{cluster_address, plan};
use std::time::{Duration, Instant};

const REPEAT: u32 = 300_000;
const ROUNDS: usize = 15;
const SERVERS: usize = 64;
const SERVER: &str = "server0-0";

struct Row {
    name: String,
    filter: Filter,
    frame: Vec<u8>,
    expected: Action,
    ns: Vec<u128>,
}

fn filter(cluster: &Cluster, server: &str) -> Filter {
    let filter = Filter::load(Mac(OURS), None).expect("root may load it");
    filter.publish(&Generation::compile(cluster, server)).expect("there is memory");
    filter
}

/// A kept frame and a dropped one.
fn rows(what: &str, plan: &Plan, v6: bool) -> Vec<Row> {
    let cluster = Cluster::new(plan);
    let mut random = Random(1);
    [("kept", Action::Pass), ("dropped", Action::Drop)]
        .into_iter()
        .map(|(which, expected)| {
            let filter = filter(&cluster, SERVER);
            let frames = std::iter::repeat_with(|| frame(random.next() as u32, cluster_address(0, v6), false));
            let action = |frame: &Vec<u8>| filter.measure(frame, 1).expect("it runs").0;
            let frame = { frames }.find(|frame| action(frame) == expected).expect("there are clients of each kind");
            Row { name: format!("{what}, {which}"), filter, frame, expected, ns: Vec::new() }
        })
        .collect()
}

/// A segment whose client moves and that no socket here knows.
fn moving() -> Row {
    let mut plan = plan(1, 2, false);
    plan.services[0].ports = vec![Port { transport: Transport::Tcp, number: 53 }];
    let mut cluster = Cluster::new(&plan);
    cluster.set_states(0, &[State::Active, State::Draining], 0, u64::MAX);
    let filter = filter(&cluster, SERVER);
    let tcp = |client: u32| {
        let mut frame = frame(client, cluster_address(0, false), false);
        // TCP, and the offset of its data; the checksums are nobody's business here.
        frame[23] = 6;
        frame[46] = 0x50;
        frame
    };
    let action = |frame: &Vec<u8>| filter.measure(frame, 1).expect("it runs").0;
    let frame = (0..).map(tcp).find(|frame| action(frame) == Action::Drop).expect("half of the clients move");
    Row { name: "ipv4, moving: socket looked for".into(), filter, frame, expected: Action::Drop, ns: Vec::new() }
}

fn floor(v6: bool) -> Row {
    let filter = filter(&Cluster::new(&plan(0, 0, v6)), SERVER);
    let frame = frame(1, cluster_address(0, v6), false);
    let name = format!("floor: empty table, {}", if v6 { "ipv6" } else { "ipv4" });
    Row { name, filter, frame, expected: Action::Pass, ns: Vec::new() }
}

fn glance() -> Row {
    let row = floor(false);
    let mut frame = row.frame;
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0xee]);
    Row { name: "another host's, at a glance".into(), frame, ..row }
}

/// How long a change takes: to compile a table, and to put it in the place of another.
fn change(services: usize) {
    let cluster = Cluster::new(&plan(services, SERVERS, false));
    let filter = filter(&cluster, SERVER);
    let mut times: Vec<(Duration, Duration)> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let generation = Generation::compile(&cluster, SERVER);
            let compiled = start.elapsed();
            filter.publish(&generation).expect("there is memory");
            (compiled, start.elapsed() - compiled)
        })
        .collect();
    times.sort_unstable();
    let (compiled, published) = times[ROUNDS / 2];
    println!("{services} services, 65,537 slots each: compiled in {compiled:.1?}, published in {published:.1?}");
}

fn main() {
    [1, 512].into_iter().for_each(change);
    let with = |hash, selection, v6| {
        let mut plan = plan(1, SERVERS, v6);
        (plan.services[0].hash, plan.services[0].selection) = (hash, selection);
        plan
    };
    let mut all = vec![glance(), floor(false), floor(true)];
    for (v6, family) in [(false, "ipv4"), (true, "ipv6")] {
        all.extend(rows(family, &with(HashInput::Source, Selection::Maglev, v6), v6));
        all.extend(rows(&format!("{family} by flow"), &with(HashInput::Flow, Selection::Maglev, v6), v6));
        all.extend(rows(&format!("{family} by remainder"), &with(HashInput::Source, Selection::Modulo, v6), v6));
    }
    all.push(moving());
    for _ in 0..ROUNDS {
        for row in &mut all {
            let (action, each) = row.filter.measure(&row.frame, REPEAT).expect("it runs");
            assert_eq!(action, row.expected, "{}", row.name);
            row.ns.push(each.as_nanos());
        }
    }
    for Row { name, ns, .. } in &mut all {
        ns.sort_unstable();
        println!("{name:36} {:4} ns/frame (median of {ROUNDS}), least {:4}", ns[ROUNDS / 2], ns[0]);
    }
}
