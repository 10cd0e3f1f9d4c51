//! A port per worker, with a queue of each device that DPDK drives (feature `dpdk`): the kernel never sees their frames, unless by way of us.
//!
//! In the order in which devices are taken into service:
//!
//! - `eal`: DPDK itself, started once a process
//! - `device`: the devices, found or made, set up and started, by the thread that will close them; `ethdev`: DPDK's calls for that
//! - `frames`: the mbufs and the queues; `port`: queues as the worker sees them; `clock`: when
//! - `kernel`: the way to the kernel and back for what is not for a cluster address; `tap`: its other end
//! - `error`: what can be in the way, and what to do about it; `sys`: what bindgen made of DPDK's headers
//!
//! The devices stop when the last port has gone, and can be taken into service again, in this process or another. DPDK itself
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

use self::device::{Description, PreviousOwner};
use self::kernel::Way;
use self::port::{Link, Passing};
use crate::model::{self, Exception, Mac};
use crate::xdp::core_list;

/// Running devices whose frames all go to the kernel, and the kernel's to them, until workers come. Closed when dropped.
pub struct Devices {
    /// In the order of the dispatcher's interfaces.
    pub devices: Vec<Device>,
    /// The kernel has their interfaces; without them the dispatcher has no way to the kernel.
    pub has_interfaces: bool,
    /// In bytes, without the Ethernet header.
    pub mtu: u16,
    /// Of each.
    pub queues: u16,
    /// The cores of the first one's NUMA node; empty where it has no place.
    pub near_cores: Vec<usize>,
    /// What they do for us, in words.
    pub offloads: String,
    numbers: Vec<ethdev::Port>,
    // In the order in which they end.
    relay: Relay,
    ways: Vec<Way>,
    previous_owner: PreviousOwner,
}

/// One of them.
pub struct Device {
    /// The kernel's, that has the dispatcher's addresses.
    pub interface: String,
    /// As DPDK calls it.
    pub port: String,
    pub driver: String,
    pub mac: Mac,
}

/// Devices in service.
///
/// To stop, drop the ports first, and then the rest: that waits until the devices are closed.
pub struct Attached {
    /// One a worker, in the order of the queues.
    pub ports: Vec<Dpdk>,
    pub statistics: Statistics,
    pub service: InService,
}

/// What stays in the background while the ports are in use.
pub struct InService {
    _ways: Vec<Way>,
    _keeper: PreviousOwner,
}

/// `DPDK 22.11.11`
pub fn version() -> String {
    ethdev::version()
}

/// Starts DPDK and the devices, with `cores` for DPDK's own threads, and opens the ways to the kernel's interfaces, one for each device.
///
/// # Errors
///
/// Whatever is in the way. Nothing is left behind then, but DPDK itself, if it was not the one that refused.
///
/// # Panics
///
/// There are more or fewer interfaces than devices.
pub fn open(settings: &model::Dpdk, interfaces: &[&str], cores: &[usize]) -> Result<Devices, DpdkError> {
    let (names, mtu, queues) = (&settings.ports, settings.mtu, settings.queues);
    assert_eq!(names.len(), interfaces.len(), "the configuration has one for each");
    let (previous_owner, found, of_workers) = device::open(settings, cores)?;
    let mut ways = Vec::new();
    let mut links: Vec<Vec<Link>> = of_workers.iter().map(|_| Vec::new()).collect();
    for ((description, name), interface) in found.iter().zip(names).zip(interfaces) {
        let (way, passing) = passing(settings, description, name, interface)?;
        ways.extend(way);
        links.iter_mut().zip(passing).for_each(|(links, passing)| links.push(Link::new(description.mac, passing)));
    }
    let ports = of_workers.into_iter().zip(links).map(|(queues, links)| Dpdk::new(queues, links)).collect();
    let mut offloads: Vec<&str> = found.iter().map(|device| &*device.offloads).collect();
    offloads.dedup();
    let device = |((found, port), interface): ((&Description, &String), &&str)| Device {
        interface: (*interface).to_owned(),
        port: port.clone(),
        driver: found.driver.clone(),
        mac: found.mac,
    };
    Ok(Devices {
        devices: found.iter().zip(names).zip(interfaces).map(device).collect(),
        has_interfaces: settings.exception != Exception::None,
        mtu,
        queues,
        near_cores: near_cores(&names[0]),
        offloads: offloads.join("; "),
        numbers: found.iter().map(|device| device.port).collect(),
        relay: Relay::start(ports)?,
        ways,
        previous_owner,
    })
}

/// Where each worker's frames go that are not for a cluster address, of those that come by one device; and the thread that takes them there.
fn passing(
    settings: &model::Dpdk,
    device: &Description,
    name: &str,
    interface: &str,
) -> Result<(Option<Way>, Vec<Passing>), DpdkError> {
    let workers = usize::from(settings.queues);
    Ok(match settings.exception {
        Exception::Tap => {
            let tap = tap::Tap::open(interface, device.mac, name, settings.mtu)?;
            if let Err(reason) = device.port.receive_groups() {
                tracing::warn!(
                    "{name} cannot be told to receive what is sent to groups ({reason}): unless it does so anyway, IPv6 \
                     neighbours do not find this host"
                );
            }
            let (way, ends) = Way::open((device.port, tap), workers, device::longest(settings.mtu))?;
            (Some(way), ends.into_iter().map(Passing::Tap).collect())
        }
        Exception::Kernel => {
            kernel::check_shared(interface, name, device.mac)?;
            (None, (0..workers).map(|_| Passing::Seen).collect())
        }
        Exception::None => (None, (0..workers).map(|_| Passing::Nowhere).collect()),
    })
}

/// The cores of a PCI device's NUMA node; empty for any other.
pub fn near_cores(port: &str) -> Vec<usize> {
    let list = device::pci_address(port)
        .map(|address| fs::read_to_string(format!("/sys/bus/pci/devices/{}/local_cpulist", address.to_lowercase())));
    list.and_then(Result::ok).map(|list| core_list(list.trim())).unwrap_or_default()
}

/// What DPDK would make of the settings, as far as can be known without starting it, in lines of text.
pub fn outlook(settings: &model::Dpdk, interfaces: &[&str]) -> String {
    let model::Dpdk { ports, queues, descriptors, mbufs, mtu, exception, .. } = settings;
    let ports_text: String =
        ports.iter().map(|port| format!("  port       {port}: {}\n", driver_outlook(port))).collect();
    let in_rings = 2 * u32::from(*descriptors) * ports.len() as u32;
    let mbufs = mbufs.unwrap_or_else(|| model::Dpdk::default_mbufs(in_rings, ports.len()));
    let spread = if *queues > 1 { "RSS over the queues" } else { "no RSS, with one queue" };
    let each = if ports.len() > 1 { " of each port" } else { "" };
    let (interfaces, s) = (interfaces.join(", "), if ports.len() > 1 { "s" } else { "" });
    let exception = match exception {
        Exception::Tap => format!("through the tap{s} {interfaces}"),
        Exception::Kernel => format!("seen by the kernel on {interfaces} anyway"),
        Exception::None => "dropped".to_owned(),
    };
    format!(
        "{ports_text}  queues     {queues}{each}, rings of {descriptors}, {mbufs} mbufs each, MTU {mtu}\n  \
         offloads   fast free where the device has it; {spread}\n  other frames: {exception}\n"
    )
}

fn driver_outlook(port: &str) -> String {
    match device::check_pci(port) {
        Some(Ok(kernel)) => format!("PCI, left to it by {kernel}; its driver is chosen by the device at the start"),
        Some(Err(error)) => format!("not possible on this machine: {error}"),
        None => {
            format!("driver {}", port.split(',').next().unwrap_or(port).trim_end_matches(|c: char| c.is_ascii_digit()))
        }
    }
}

impl Devices {
    /// Takes the ports from the kernel, for workers. What is counted begins here.
    pub fn attach(self) -> Attached {
        let ports = self.relay.stop();
        let device = |port: &ethdev::Port| Counted {
            port: *port,
            before: port.statistics().unwrap_or_default(),
            missed: AtomicU64::new(0),
        };
        let statistics = Statistics {
            devices: self.numbers.iter().map(device).collect(),
            warned: AtomicBool::new(false),
            received: ports.iter().map(|port| port.received()).collect(),
            refused: self.ways.iter().map(Way::refused).collect(),
        };
        let begin = statistics.refused.iter().chain(&statistics.received);
        begin.for_each(|count| count.store(0, Ordering::Relaxed));
        Attached { ports, statistics, service: InService { _ways: self.ways, _keeper: self.previous_owner } }
    }
}

/// What the devices count besides what the workers see.
pub struct Statistics {
    devices: Vec<Counted>,
    warned: AtomicBool,
    received: Vec<Arc<AtomicU64>>,
    /// Empty: nothing is handed to the kernel.
    refused: Vec<Arc<AtomicU64>>,
}

/// Of one of them.
struct Counted {
    port: ethdev::Port,
    before: ethdev::Statistics,
    missed: AtomicU64,
}

impl Statistics {
    /// Frames that the workers have been given.
    pub fn received(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Frames that the workers passed, and the kernel did not take.
    pub fn refused(&self) -> u64 {
        self.refused.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Frames that the devices dropped because a ring was full, as far as their drivers count them (`imissed`).
    ///
    /// `rx_nombuf` is not among them: most drivers leave a frame in the ring when there is no mbuf to put in its place, so that
    /// what is lost by it shows as missed. As the pool is larger than what rings, caches and workers can hold, it stays 0.
    pub fn lost(&self) -> u64 {
        self.devices.iter().map(|device| self.missed(device)).sum()
    }

    fn missed(&self, Counted { port, before, missed }: &Counted) -> u64 {
        if let Some(now) = port.statistics() {
            missed.fetch_max(now.missed.saturating_sub(before.missed), Ordering::Relaxed);
            if now.no_mbuf > before.no_mbuf && !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!("a device finds no mbuf to receive into: raise `mbufs` in [dpdk]");
            }
        }
        missed.load(Ordering::Relaxed)
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
