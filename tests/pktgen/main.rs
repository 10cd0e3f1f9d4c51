//! `oneip pktgen`: the frames it makes, what its receiving side notices, and both over a cable.

mod dispatch;
mod frames;
mod peer;
mod senders;
mod several;
mod sink;
#[path = "../stop/mod.rs"]
mod stop;
#[path = "../veth/mod.rs"]
mod veth;
mod wire;

use oneip::model::{Port, Transport};
use oneip::pktgen::frames::{Order, Size, Traffic};
use std::net::IpAddr;
use veth::{CLIENT_MAC, CLUSTER_V4, DEVICE_MAC};

const RUN: u32 = 0x1234_5678;

fn port(transport: Transport, number: u16) -> Port {
    Port { transport, number }
}

/// From the device of a cable to its client.
fn traffic(addresses: &[&str], ports: &[Port], sizes: &[usize]) -> Traffic {
    Traffic {
        source: DEVICE_MAC,
        destination: CLIENT_MAC,
        addresses: addresses.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect(),
        ports: ports.to_vec(),
        sizes: sizes.iter().map(|size| Size::Bytes(*size)).collect(),
        clients: 1_000_000,
        first_v4: [198, 18, 0, 0].into(),
        first_v6: "2001:2::".parse().unwrap(),
        order: Order::Random,
        seed: 1,
        syn: false,
    }
}

fn udp() -> Traffic {
    traffic(&[CLUSTER_V4], &[port(Transport::Udp, 80)], &[])
}

fn is_root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        eprintln!("SKIPPED: needs root");
    }
    is
}
