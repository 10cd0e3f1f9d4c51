//! A port per queue of a device that DPDK drives (feature `dpdk`): the kernel never sees its frames, unless by way of us.
//!
//! In the order in which a device is taken into service:
//!
//! - `eal`: DPDK itself, started once a process
//! - `device`: the device, found or made, set up and started, by the thread that will close it; `ethdev`: DPDK's calls for that
//! - `frames`: the mbufs and the queues; `port`: a queue as the worker sees it; `clock`: when
//! - `kernel`: the way to the kernel and back for what is not for a cluster address; `tap`: its other end
//! - `error`: what can be in the way, and what to do about it; `sys`: what bindgen made of DPDK's headers
//!
//! A device stops when its last port has gone, and can be taken into service again, in this process or another. DPDK itself
//! stays until the process ends.

mod clock;
mod device;
mod eal;
mod error;
mod ethdev;
mod frames;
mod kernel;
mod port;
mod sys;
mod tap;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use error::DpdkError;
pub use frames::Frame;
pub use port::Dpdk;

use self::device::PreviousOwner;
use self::kernel::Way;
use self::port::Passing;
use crate::model::{self, Exception, Mac};
use crate::xdp::core_list;

/// A running device whose frames all go to the kernel, and the kernel's to it, until a worker comes. Closed when dropped.
pub struct Device {
    /// The kernel's, that has the dispatcher's addresses.
    pub interface: String,
    /// There is one; without it the dispatcher has no way to the kernel.
    pub has_interface: bool,
    /// As DPDK calls it.
    pub port: String,
    pub driver: String,
    pub mac: Mac,
    /// In bytes, without the Ethernet header.
    pub mtu: u16,
    pub queues: u16,
    /// The cores of its NUMA node; empty where it has no place.
    pub near_cores: Vec<usize>,
    /// What it does for us, in words.
    pub offloads: String,
    // In the order in which they end.
    relay: Relay,
    way: Option<Way>,
    previous_owner: PreviousOwner,
}

/// A device in service.
///
/// To stop, drop the ports first, and then the rest: that waits until the device is closed.
pub struct Attached {
    /// One a queue, in the order of the queues.
    pub ports: Vec<Dpdk>,
    pub statistics: Statistics,
    pub service: InService,
}

/// What stays in the background while the ports are in use.
pub struct InService {
    _way: Option<Way>,
    _keeper: PreviousOwner,
}

/// `DPDK 22.11.11`
pub fn version() -> String {
    ethdev::version()
}

/// Starts DPDK and the device, with `cores` for DPDK's own threads, and opens the way to the kernel's `interface`.
///
/// # Errors
///
/// Whatever is in the way. Nothing is left behind then, but DPDK itself, if it was not the one that refused.
pub fn open(settings: &model::Dpdk, interface: &str, cores: &[usize]) -> Result<Device, DpdkError> {
    let (description, queues, previous_owner) = device::open(settings, cores)?;
    let (port, mtu, mac) = (settings.port.clone(), settings.mtu, description.mac);
    let count = queues.len();
    let (way, passing): (_, Vec<Passing>) = match settings.exception {
        Exception::Tap => {
            let tap = tap::Tap::open(interface, mac, &port, mtu)?;
            if let Err(reason) = queues[0].port().receive_groups() {
                tracing::warn!(
                    "{port} cannot be told to receive what is sent to groups ({reason}): unless it does so anyway, IPv6 \
                     neighbours do not find this host"
                );
            }
            let (way, ends) = Way::open((queues[0].port(), tap), count, device::longest(mtu))?;
            (Some(way), ends.into_iter().map(Passing::Tap).collect())
        }
        Exception::Kernel => {
            kernel::check_shared(interface, &port, mac)?;
            (None, (0..count).map(|_| Passing::Seen).collect())
        }
        Exception::None => (None, (0..count).map(|_| Passing::Nowhere).collect()),
    };
    let ports = queues.into_iter().zip(passing).map(|(queue, passing)| Dpdk::new(queue, mac, passing)).collect();
    let near_cores = near_cores(&port);
    Ok(Device {
        interface: interface.to_owned(),
        has_interface: settings.exception != Exception::None,
        port,
        driver: description.driver,
        mac,
        mtu,
        queues: count as u16,
        near_cores,
        offloads: description.offloads,
        relay: Relay::start(ports)?,
        way,
        previous_owner,
    })
}

/// The cores of a PCI device's NUMA node; empty for any other.
pub fn near_cores(port: &str) -> Vec<usize> {
    let list = device::pci_address(port)
        .map(|address| fs::read_to_string(format!("/sys/bus/pci/devices/{}/local_cpulist", address.to_lowercase())));
    list.and_then(Result::ok).map(|list| core_list(list.trim())).unwrap_or_default()
}

/// What DPDK would make of the settings, as far as can be known without starting it, in lines of text.
pub fn outlook(settings: &model::Dpdk, interface: &str) -> String {
    let model::Dpdk { port, queues, descriptors, mbufs, mtu, exception, .. } = settings;
    let driver = match device::check_pci(port) {
        Some(Ok(kernel)) => format!("PCI, left to it by {kernel}; its driver is chosen by the device at the start"),
        Some(Err(error)) => format!("not possible on this machine: {error}"),
        None => {
            format!("driver {}", port.split(',').next().unwrap_or(port).trim_end_matches(|c: char| c.is_ascii_digit()))
        }
    };
    let in_rings = 2 * u32::from(*descriptors);
    let mbufs = mbufs.unwrap_or_else(|| model::Dpdk::default_mbufs(in_rings));
    let spread = if *queues > 1 { "RSS over the queues" } else { "no RSS, with one queue" };
    let exception = match exception {
        Exception::Tap => format!("through the tap {interface}"),
        Exception::Kernel => format!("seen by the kernel on {interface} anyway"),
        Exception::None => "dropped".to_owned(),
    };
    format!(
        "  port       {port}: {driver}\n  queues     {queues}, rings of {descriptors}, {mbufs} mbufs each, MTU {mtu}\n  \
         offloads   fast free where the device has it; {spread}\n  other frames: {exception}\n"
    )
}

impl Device {
    /// Takes the ports from the kernel, for workers. What is counted begins here.
    pub fn attach(self) -> Attached {
        let ports = self.relay.stop();
        let port = ports[0].device();
        let statistics = Statistics {
            port,
            before: port.statistics().unwrap_or_default(),
            missed: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            received: ports.iter().map(|port| port.received()).collect(),
            refused: self.way.as_ref().map(Way::refused),
        };
        let begin = statistics.refused.iter().chain(&statistics.received);
        begin.for_each(|count| count.store(0, Ordering::Relaxed));
        Attached { ports, statistics, service: InService { _way: self.way, _keeper: self.previous_owner } }
    }
}

/// What the device counts besides what the workers see.
pub struct Statistics {
    port: ethdev::Port,
    before: ethdev::Statistics,
    missed: AtomicU64,
    warned: AtomicBool,
    received: Vec<Arc<AtomicU64>>,
    /// `None`: nothing is handed to the kernel.
    refused: Option<Arc<AtomicU64>>,
}

impl Statistics {
    /// Frames that the workers have been given.
    pub fn received(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Frames that the workers passed, and the kernel did not take.
    pub fn refused(&self) -> u64 {
        self.refused.as_ref().map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Frames that the device dropped because its ring was full, as far as its driver counts them (`imissed`).
    ///
    /// `rx_nombuf` is not among them: most drivers leave a frame in the ring when there is no mbuf to put in its place, so that
    /// what is lost by it shows as missed. As the pool is larger than what rings, caches and workers can hold, it stays 0.
    pub fn lost(&self) -> u64 {
        if let Some(now) = self.port.statistics() {
            self.missed.fetch_max(now.missed.saturating_sub(self.before.missed), Ordering::Relaxed);
            if now.no_mbuf > self.before.no_mbuf && !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!("the device finds no mbuf to receive into: raise `mbufs` in [dpdk]");
            }
        }
        self.missed.load(Ordering::Relaxed)
    }
}

/// A thread that does for the ports what their workers will.
struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Dpdk>>>,
}

impl Relay {
    fn start(mut ports: Vec<Dpdk>) -> Result<Relay, DpdkError> {
        /// Between looks at rings in which there was nothing.
        const PAUSE: Duration = Duration::from_micros(200);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let relay = move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut any = false;
                ports.iter_mut().for_each(|port| any |= port.relay());
                if !any {
                    thread::sleep(PAUSE);
                }
            }
            ports
        };
        let thread = thread::Builder::new().name("oneip-relay".into()).spawn(relay).map_err(DpdkError::Thread)?;
        Ok(Relay { stop, thread: Some(thread) })
    }

    fn stop(mut self) -> Vec<Dpdk> {
        self.end().expect("the relay has not been stopped before")
    }

    fn end(&mut self) -> Option<Vec<Dpdk>> {
        self.stop.store(true, Ordering::Relaxed);
        Some(self.thread.take()?.join().expect("the relay does not panic"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.end());
    }
}
