//! The DPDK port, on virtual devices, without a NIC or huge pages.
//!
//! - `null`: net_null, one device and two: no frame goes astray, stop and start again
//! - `lab`: the network of `scripts/lab.sh`, dispatched by `oneip run` over net_af_packet and net_af_xdp, one device and two
//! - `golden`: the golden frames through net_pcap come out as `oneip replay` has them
//! - `refusals`: why it does not start, and what to do about it
//!
//! DPDK starts once a process: all tests here use one set of arguments, and those that want others run `oneip` as a process.

#[path = "../guest/capture.rs"]
mod capture;
#[path = "../lab/captured.rs"]
mod captured;
// What the lab's tests have and these do not need.
#[allow(dead_code)]
#[path = "../lab/dispatcher.rs"]
mod dispatcher;
#[path = "../lab/echo.rs"]
mod echo;
mod golden;
mod lab;
#[path = "../model/mod.rs"]
mod model;
#[allow(dead_code)]
#[path = "../lab/network.rs"]
mod network;
mod null;
mod refusals;
#[path = "../lab/second_lan.rs"]
mod second_lan;

use oneip::model::{Dpdk, Exception};
use oneip::port::dpdk::{self, Attached};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// DPDK's arguments in every test: no huge pages, as much memory as the largest needs.
pub const EAL: [&str; 3] = ["--no-huge", "-m", "256"];

/// One device at a time: they would share the memory.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn settings(port: &str) -> Dpdk {
    Dpdk {
        ports: vec![port.to_owned()],
        eal: EAL.map(str::to_owned).into(),
        queues: 1,
        descriptors: 512,
        mbufs: None,
        mtu: 1500,
        exception: Exception::None,
    }
}

/// Devices in service, without a kernel behind them; and the MAC of the first.
pub fn attach(settings: &Dpdk) -> (Attached, oneip::model::Mac) {
    let interfaces = vec!["lo"; settings.ports.len()];
    let devices = dpdk::open(settings, &interfaces, &[0, 1]).unwrap_or_else(|error| panic!("{error}"));
    let mac = devices.devices[0].mac;
    (devices.attach(), mac)
}
