//! What the dispatcher inside the kernel costs a frame, by BPF_PROG_TEST_RUN: the kernel runs a program a million times in a
//! row which makes the frame one of a random client out of a million, to a random one of the services, and dispatches it. The
//! floor is a program that makes the frame in the same way and sends it back: a swap of MAC addresses. What stands in the last
//! column is net of it.
//!
//! 64-byte UDP frames (62 bytes with IPv6), 65,537 slots a service. The rows take turns, because the machine's speed drifts.
//! Needs root: `cargo bench --bench dispatch`, or `-- growth-only`, `drop-only`, `odd-only`: that alone

#[path = "common/frames.rs"]
mod frames;
#[path = "common/odd.rs"]
mod odd;
#[path = "common/plans.rs"]
mod plans;

use frames::{OURS, Random, client_v6, frame};
use oneip::model::{Limit, List, ListKind, Mac, OddKind, OddLimit, PerSource, Plan, Prefix, Rate};
use oneip::table::build::Cluster;
use oneip::xdp::dispatch::{Dispatch, Measured, Setup};
use plans::{PREFIXED, cluster_address, clustered, plan, prefixed};
use std::net::IpAddr;
use std::time::Instant;

const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 9;

/// `enum xdp_action`
const XDP_TX: u32 = 3;
const XDP_DROP: u32 = 1;

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

/// Frames that are dear to read: as they are dispatched, beyond `[limit.odd]`, and dropped by a program that does nothing else.
fn odd_frames() {
    let (cluster, cluster_v6) = (cluster_address(0, false), cluster_address(0, true));
    let (IpAddr::V4(to), IpAddr::V6(to_v6)) = (cluster, cluster_v6) else { unreachable!("one of each") };
    let talk = odd::Talk { v4: ([10, 0, 0, 1].into(), to), v6: (client_v6(1).into(), to_v6) };
    let program = |v6: bool, limited: bool| {
        let mut plan = clustered(1, 64, v6);
        let none_passes = [Some(Rate { per_second: 1, burst: 1 }); OddKind::COUNT];
        plan.odd_limit = limited.then_some(OddLimit { rates: none_passes, only_counts: false });
        let setup =
            Setup { mac: Mac(OURS), egress: 0, queues: 1, flows: 0, timed_of: TIMED_OF, others: Default::default() };
        Dispatch::load(setup, &Cluster::new(&plan).compile()).expect("root may load it")
    };
    let mut programs = [false, true].map(|v6| [false, true].map(|limited| program(v6, limited)));
    let frames = odd::all(&talk);
    let mut times = vec![[Vec::new(), Vec::new()]; frames.len()];
    for _ in 0..ROUNDS {
        for ((name, _, frame), times) in frames.iter().zip(&mut times) {
            for (dispatch, times) in programs[usize::from(name.starts_with("ipv6"))].iter_mut().zip(times) {
                let mut run = |what| dispatch.measure(what, frame, REPEAT / 4).expect("it runs");
                let ((_, floor), (action, all)) = (run(Measured::Floor), run(Measured::Dispatch));
                assert!([XDP_TX, XDP_DROP].contains(&action), "{name}: {action}");
                times.push(all.as_nanos().saturating_sub(floor.as_nanos()));
            }
        }
    }
    let medians: Vec<[u128; 2]> = times
        .into_iter()
        .map(|both| {
            both.map(|mut times| {
                times.sort_unstable();
                times[ROUNDS / 2]
            })
        })
        .collect();
    for ((name, is_odd, _), [open, limited]) in frames.iter().zip(&medians) {
        let plain = medians[usize::from(name.starts_with("ipv6"))][0] as f64;
        let what = if *is_odd { "beyond" } else { "beside" };
        println!(
            "{name:42} net {open:3} ns/frame, {:.1} x the plain one; {what} [limit.odd] {limited:3}, {:.1} x",
            *open as f64 / plain,
            *limited as f64 / plain
        );
    }
}

/// Frames that are dropped, for each reason that a flood meets.
fn dropped_frames() {
    const NONE: Rate = Rate { per_second: 1, burst: 1 };
    let limit = Limit { packets: None, bits: None, syn: None, per_source: None, only_counts: false };
    // All clients are one source.
    let one_source = PerSource { prefix_v4: 8, prefix_v6: 64, packets: Some(NONE), syn: None };
    let denied = |v6: bool| List {
        kind: ListKind::Deny,
        services: Vec::new(),
        prefixes: vec![match v6 {
            true => Prefix { address: IpAddr::from(client_v6(0)), length: 64 },
            false => Prefix { address: [10, 0, 0, 0].into(), length: 8 },
        }],
        files: Vec::new(),
    };
    type Change<'c> = &'c dyn Fn(&mut Plan, bool);
    let rows: [(&str, Change); 4] = [
        ("from a denied prefix", &|plan, v6| plan.lists = vec![denied(v6)]),
        ("to a port that no service has", &|plan, _| {
            plan.services.iter_mut().for_each(|service| service.ports[0].number = 54)
        }),
        ("beyond the packets of a service", &|plan, _| {
            plan.services
                .iter_mut()
                .for_each(|service| service.limit = Some(Limit { packets: Some(NONE), ..limit.clone() }))
        }),
        ("beyond the packets of a source", &|plan, _| {
            plan.services.iter_mut().for_each(|service| {
                service.limit = Some(Limit { per_source: Some(one_source.clone()), ..limit.clone() })
            })
        }),
    ];
    let mut rows: Vec<Row> = [false, true]
        .into_iter()
        .flat_map(|v6| {
            rows.map(|(name, change)| {
                let mut plan = clustered(8, 64, v6);
                change(&mut plan, v6);
                row_of(&plan, name, v6, TIMED_OF)
            })
        })
        .collect();
    measure(&mut rows, XDP_DROP);
}

fn main() {
    if std::env::args().any(|argument| argument == "odd-only") {
        return odd_frames();
    }
    if std::env::args().any(|argument| argument == "drop-only") {
        return dropped_frames();
    }
    let mut rows = Vec::new();
    if std::env::args().any(|argument| argument == "growth-only") {
        for v6 in [false, true] {
            for (services, servers) in [(1, 3), (1, 64), (8, 64), (8, 1000), (4096, 3), (4096, 64)] {
                rows.push(row(services, servers, v6, TIMED_OF));
            }
        }
        return measure(&mut rows, XDP_TX);
    }
    change(8, 64);
    change(512, 64);
    for v6 in [false, true] {
        for (services, servers) in [(8, 64), (1, 64), (4096, 64), (4096, 3), (8, 3), (8, 1000)] {
            rows.push(row(services, servers, v6, TIMED_OF));
        }
        rows.push(row_of(&prefixed(64, v6), &format!("{PREFIXED} prefixes, services of 64"), v6, TIMED_OF));
    }
    odd_frames();
    dropped_frames();
    rows.push(row(8, 64, false, u32::MAX));
    rows.push(row(8, 64, false, 1));
    measure(&mut rows, XDP_TX);
}

/// Runs the rows by turns, and prints them. Each does this with the last frame.
fn measure(rows: &mut [Row], action: u32) {
    for _ in 0..ROUNDS {
        for row in &mut *rows {
            let mut run = |what, expected| {
                let (action, each) = row.dispatch.measure(what, &row.frame, REPEAT).expect("it runs");
                assert_eq!(action, expected, "{}", row.name);
                each.as_nanos()
            };
            let (floor, all) = (run(Measured::Floor, XDP_TX), run(Measured::Dispatch, action));
            row.floor.push(floor);
            row.net.push(all.saturating_sub(floor));
        }
    }
    for Row { name, net, floor, .. } in rows {
        net.sort_unstable();
        floor.sort_unstable();
        let (median, least) = (net[ROUNDS / 2], net[0]);
        println!(
            "{name:42} floor {:2} ns, net {median:3} ns/frame (median of {ROUNDS}), least {least:3}",
            floor[ROUNDS / 2]
        );
    }
}
