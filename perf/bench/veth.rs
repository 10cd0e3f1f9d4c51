//! Three ways to send frames on over the same veth: a worker on our AF_XDP port, a worker on DPDK's net_af_xdp, and
//! `dpdk-testpmd` in macswap mode on net_af_xdp. By turns, on core 1, with a flood from core 0.
//!
//! Needs root, and Debian's `dpdk-dev` for testpmd. `cargo bench --features dpdk --bench veth`

#[path = "../../tests/veth/mod.rs"]
#[allow(dead_code)]
mod veth;

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use oneip::plan::{
    Dpdk, Exception, HashInput, HashKey, Plan, Port as PortOfService, Selection, Server, Service, Transport,
};
use oneip::port::{Port, af_xdp, dpdk};
use oneip::stats::{latency, tally::Tally};
use oneip::table::cluster::Cluster;
use oneip::table::publish;
use oneip::worker::Worker;
use std::io::Read;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use veth::{CLIENT_MAC, CLUSTER_V4, Cable, DEVICE};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const EAL: [&str; 3] = ["--no-huge", "-m", "256"];

/// One service, whose one server is the client itself: what it is sent, its kernel drops.
fn plan() -> Plan {
    let server = Server {
        name: "back".into(),
        address: "192.0.2.1".parse().expect("an address"),
        mac: Some(CLIENT_MAC),
        weight: 1,
    };
    let service = Service {
        name: "web".into(),
        address: CLUSTER_V4.parse().expect("an address"),
        ports: vec![PortOfService { transport: Transport::Udp, number: 9 }],
        hash: HashInput::Source,
        selection: Selection::Maglev,
        slots: 65_537,
        servers: vec![server],
        health: None,
    };
    Plan { hash_key: HashKey(std::array::from_fn(|i| i as u8)), dispatcher: None, services: vec![service] }
}

/// Frames that a worker forwards in a round, in millions a second.
fn forwarded(port: impl Port) -> f64 {
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    let table = Cluster::new(&plan()).compile();
    let tally = Arc::new(Tally::new(&table));
    let (recorder, _harvest) = latency::channel(1);
    let (_publisher, mut readers) = publish::channel(table, 1);
    let mut worker = Worker::new(port, readers.remove(0), Arc::clone(&tally), recorder);
    let start = Instant::now();
    while start.elapsed() < ROUND {
        (0..100).for_each(|_| _ = worker.turn());
    }
    tally.forwarded() as f64 / start.elapsed().as_micros() as f64
}

fn by_af_xdp() -> f64 {
    let device = af_xdp::open(DEVICE).unwrap_or_else(|error| panic!("{error}"));
    let attached = device.attach(&[CLUSTER_V4.parse().expect("an address")]).unwrap_or_else(|error| panic!("{error}"));
    let af_xdp::Attached { steer, mut ports, .. } = attached;
    let rate = forwarded(ports.remove(0));
    drop(steer);
    rate
}

fn by_dpdk() -> f64 {
    let settings = Dpdk {
        port: format!("net_af_xdp0,iface={DEVICE}"),
        eal: EAL.map(str::to_owned).into(),
        queues: 1,
        descriptors: 2048,
        mbufs: None,
        mtu: 1500,
        exception: Exception::None,
    };
    let device = dpdk::open(&settings, DEVICE, &[0, 1]).unwrap_or_else(|error| panic!("{error}"));
    let dpdk::Attached { mut ports, service, .. } = device.attach();
    let rate = forwarded(ports.remove(0));
    drop(service);
    rate
}

/// What testpmd says that it sent.
fn by_testpmd(cable: &Cable) -> Option<f64> {
    let mut command = cable.device_command("", Path::new("dpdk-testpmd"));
    command.args(EAL).args(["--no-pci", "--no-telemetry", "--no-shconf", "-l", "0,1"]);
    command.arg(format!("--vdev=net_af_xdp0,iface={DEVICE}"));
    command.args([
        "--",
        "--forward-mode=macswap",
        "--auto-start",
        "--stats-period=1",
        "--burst=64",
        "--total-num-mbufs=8191",
    ]);
    command.args(["--rxd=2048", "--txd=2048"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    thread::sleep(2 * ROUND);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).ok()?;
    let mut said = String::new();
    child.stdout.as_mut()?.read_to_string(&mut said).ok()?;
    child.wait().ok()?;
    let figures = said.lines().filter_map(|line| line.trim().strip_prefix("Tx-pps:"));
    let rates: Vec<f64> = figures.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect();
    Some(rates.last()? / 1e6)
}

/// Datagrams of 18 bytes, 64 a system call.
fn flood(stop: &AtomicBool) {
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect((CLUSTER_V4, 9)).expect("a route");
    setsockopt(&socket, UdpGsoSegment, &18).expect("UDP segmentation");
    while !stop.load(Relaxed) {
        let _ = socket.send(&[0x5a; 18 * 64]);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let Some(cable) = &Cable::lay(1500, 1) else { return };
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        cable.client_thread(scope, move || flood(stop));
        let (mut all, mut ratios): ([Vec<f64>; 3], [Vec<f64>; 2]) = Default::default();
        for _ in 0..ROUNDS {
            let in_device = |work: fn() -> f64| cable.device_thread(scope, work).join().expect("it does not panic");
            let rates = [in_device(by_af_xdp), in_device(by_dpdk), by_testpmd(cable).unwrap_or(f64::NAN)];
            println!("AF_XDP {:.3}, net_af_xdp {:.3}, testpmd {:.3} Mpps", rates[0], rates[1], rates[2]);
            rates.into_iter().zip(&mut all).for_each(|(rate, all)| all.push(rate));
            [rates[1] / rates[0], rates[1] / rates[2]]
                .into_iter()
                .zip(&mut ratios)
                .for_each(|(ratio, all)| all.push(ratio));
        }
        stop.store(true, Relaxed);
        let ([xdp, dpdk, theirs], [to_xdp, to_theirs]) = (all.map(median), ratios.map(median));
        println!("medians: AF_XDP {xdp:.3}, net_af_xdp {dpdk:.3}, testpmd {theirs:.3} Mpps");
        println!("net_af_xdp to AF_XDP {to_xdp:.2}, to testpmd {to_theirs:.2} (medians of neighbours)");
    });
}
