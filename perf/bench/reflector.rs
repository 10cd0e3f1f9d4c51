//! What the I/O itself allows: `oneip run` without its pipeline. The same XDP program, port, rings and bursts, one thread a
//! queue; each frame goes back with its MACs swapped, and nothing else is looked at or counted.
//!
//! `cargo run --release --example reflector -- INTERFACE [--core N] ADDRESS...`, until SIGINT. `scripts/bench.sh` puts it beside
//! the dispatcher.

use oneip::model::Prefix;
use oneip::port::af_xdp::{self, AfXdp, Attached};
use oneip::port::{Burst, Port};
use std::error::Error;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const USAGE: &str = "usage: reflector INTERFACE [--core N] ADDRESS...";

struct Arguments {
    interface: String,
    /// Of the first queue; the others have those behind it.
    core: usize,
    addresses: Vec<IpAddr>,
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut found = Arguments { interface: words.next()?, core: 0, addresses: Vec::new() };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--core" => found.core = words.next()?.parse().ok()?,
            address => found.addresses.push(address.parse().ok()?),
        }
    }
    (!found.addresses.is_empty()).then_some(found)
}

fn reflect(port: &mut AfXdp, core: usize, stop: &AtomicBool) {
    assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }), "there is a core {core}");
    let mut burst = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        port.service();
        port.rx(&mut burst);
        for frame in &mut burst {
            let (to, from) = port.bytes_mut(frame).split_at_mut(6);
            to.swap_with_slice(&mut from[..6]);
        }
        let room = port.room(0);
        if room < burst.len() {
            port.free(&mut burst.drain(room..).collect());
        }
        port.tx(0, &mut burst);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { interface, core, addresses } = arguments().ok_or(USAGE)?;
    let addresses: Vec<Prefix> = addresses.into_iter().map(Prefix::host).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Attached { steer, mode, mut ports } = af_xdp::open(&interface)?.attach(&addresses)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (at, port) in ports.iter_mut().enumerate() {
            let stop = &stop;
            scope.spawn(move || reflect(port, core + at, stop));
        }
        println!("ready: {interface}, {mode}");
        let stopped = runtime.block_on(tokio::signal::ctrl_c());
        drop(steer);
        stop.store(true, Ordering::Relaxed);
        stopped
    })?;
    Ok(())
}
