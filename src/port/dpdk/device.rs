//! A device in DPDK's hands: found or made, set up, started, and closed again.
//!
//! One thread does all of this and sleeps in between. DPDK binds the thread that starts it to cores and counts it as its own,
//! so it must not be one of ours; and to close some devices takes the privileges that it took to open them, which all other
//! threads give up.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use crossbeam::channel::{Receiver, Sender, bounded};

use super::eal;
use super::error::DpdkError;
use super::ethdev::{Facts, Port, Refusal, Setup};
use super::frames::{Pool, Queues};
use crate::limits::{DRAIN, MAX_VLAN_TAGS, RELEASE};
use crate::model::{Dpdk, Mac};
use crate::wire::ethernet::{HEADER_LEN, VLAN_TAG_LEN};

/// The least buffer that all devices receive into.
const LEAST_ROOM: u16 = 2048;
/// Some devices round a buffer's size down to a multiple of this (82599 datasheet, 8.2.3.8.7).
const ROOM_STEP: u16 = 1024;

/// Kernel drivers that leave a device to programs like this one; and mlx4 and mlx5, with which kernel and DPDK share it.
const FIT_DRIVERS: [&str; 5] = ["vfio-pci", "igb_uio", "uio_pci_generic", "mlx5_core", "mlx4_core"];

/// A device in service, with what DPDK knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub port: Port,
    pub driver: String,
    pub mac: Mac,
    /// What the device does for us, in words.
    pub offloads: String,
}

/// A share in running devices: they are closed when all have gone.
#[derive(Clone)]
pub(super) struct Lease {
    _open: Sender<Infallible>,
    leaked: Arc<AtomicBool>,
}

impl Lease {
    /// Some frame was not given back: its memory must stay.
    pub(super) fn leak(&self) {
        self.leaked.store(true, Ordering::Relaxed);
    }
}

/// The thread that has the devices. Waits for its end when dropped, for some time: drop what holds `Queues` first.
pub(super) struct PreviousOwner {
    lease: Option<Lease>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for PreviousOwner {
    fn drop(&mut self) {
        drop(self.lease.take());
        let Some(thread) = self.thread.take() else { return };
        let give_up = Instant::now() + RELEASE;
        while !thread.is_finished() && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(1));
        }
        // Not finished: a start was refused so late that workers turn already, and the process is about to end.
        if thread.is_finished() && thread.join().is_err() {
            tracing::warn!("the thread that closes the devices ended in a panic");
        }
    }
}

/// What the writer's thread has to tell at the start.
type Opened = Result<(Vec<Description>, Vec<Queues>), DpdkError>;

/// Starts DPDK and the devices; what each worker gets. The thread that closes them comes first, to be dropped last.
pub(super) fn open(
    settings: &Dpdk,
    cores: &[usize],
) -> Result<(PreviousOwner, Vec<Description>, Vec<Queues>), DpdkError> {
    for port in &settings.ports {
        check_pci(port).transpose()?;
    }
    let arguments = eal::arguments(&settings.eal, &settings.ports, cores);
    let (lease, all_returned) = lease();
    let (tell, told) = bounded::<Opened>(1);
    let (settings, share) = (settings.clone(), lease.clone());
    let life = move || live(arguments, &settings, share, &tell, &all_returned);
    let thread = thread::Builder::new().name("oneip-dpdk".into()).spawn(life).map_err(DpdkError::Thread)?;
    let previous_owner = PreviousOwner { lease: Some(lease), thread: Some(thread) };
    let (descriptions, queues) = told.recv().expect("the thread answers before it ends")?;
    Ok((previous_owner, descriptions, queues))
}

fn lease() -> (Lease, Receiver<Infallible>) {
    let (open, all_returned) = bounded(0);
    (Lease { _open: open, leaked: Arc::new(AtomicBool::new(false)) }, all_returned)
}

/// The life of the writer's thread.
fn live(
    arguments: Vec<String>,
    settings: &Dpdk,
    lease: Lease,
    tell: &Sender<Opened>,
    all_returned: &Receiver<Infallible>,
) {
    let leaked = Arc::clone(&lease.leaked);
    let started = eal::start(arguments).and_then(|()| Running::start(settings, lease));
    match started {
        Ok((mut running, descriptions, queues)) => {
            running.leaked = leaked;
            // Nobody listens only if the other side is in a panic.
            let _ = tell.send(Ok((descriptions, queues)));
            let _ = all_returned.recv();
        }
        Err(error) => _ = tell.send(Err(error)),
    }
}

/// Started devices. Closed when dropped.
struct Running {
    devices: Vec<Started>,
    /// By worker: what it has to receive into, from all devices, and how many mbufs these are.
    pools: Vec<(Pool, u32)>,
    leaked: Arc<AtomicBool>,
}

/// One of them.
struct Started {
    name: String,
    port: Port,
}

impl Running {
    fn start(settings: &Dpdk, lease: Lease) -> Result<(Running, Vec<Description>, Vec<Queues>), DpdkError> {
        let mut running = Running { devices: Vec::new(), pools: Vec::new(), leaked: Arc::clone(&lease.leaked) };
        for name in &settings.ports {
            running.devices.push(Started { name: name.clone(), port: find(name)? });
        }
        let facts = |device: &Started| device.port.facts().map_err(|reason| device.failed("describe", reason));
        let facts = running.devices.iter().map(facts).collect::<Result<Vec<_>, _>>()?;
        let queues = running.set_up(settings, &facts, &lease)?;
        for device in &running.devices {
            device.port.start().map_err(|reason| device.failed("start", reason))?;
        }
        let described = running.devices.iter().zip(facts).map(|(device, facts)| {
            let offloads = offloads(&facts, settings.queues);
            Description { port: device.port, driver: facts.driver, mac: facts.mac, offloads }
        });
        let described = described.collect();
        Ok((running, described, queues))
    }

    fn set_up(&mut self, settings: &Dpdk, facts: &[Facts], lease: &Lease) -> Result<Vec<Queues>, DpdkError> {
        let mut rings = Vec::with_capacity(facts.len());
        for (device, facts) in self.devices.iter().zip(facts) {
            rings.push(device.configure(settings, facts)?);
        }
        let in_rings = rings.iter().map(|(receive, transmit)| u32::from(*receive) + u32::from(*transmit)).sum();
        let least = Dpdk::least_mbufs(in_rings, facts.len());
        let mbufs = settings.mbufs.unwrap_or_else(|| Dpdk::default_mbufs(in_rings, facts.len()));
        let names = || settings.ports.join(" and ");
        if mbufs < least {
            return Err(DpdkError::FewMbufs { port: names(), mbufs, rings: in_rings, least });
        }
        let room = room_for(settings.mtu);
        for queue in 0..settings.queues {
            // A name is taken once, and ports of DPDK are numbered anew when one has gone.
            let name = format!("oneip-{}-{queue}", self.devices[0].port.number());
            let pool = Pool::new(&name, mbufs, room, facts[0].node);
            self.pools.push((pool.map_err(|reason| no_memory(names(), queue, mbufs, room, reason))?, mbufs));
            let (pool, _) = &self.pools[usize::from(queue)];
            for ((device, facts), rings) in self.devices.iter().zip(facts).zip(&rings) {
                let done = device.port.set_up_queue(queue, *rings, facts.node, pool);
                done.map_err(|reason| device.failed("set up a queue of", reason))?;
            }
        }
        let of_worker = |(number, (pool, total)): (usize, &(Pool, u32))| {
            let ports = self.devices.iter().map(|device| device.port);
            Queues::new(ports, number as u16, pool, *total, lease.clone())
        };
        Ok(self.pools.iter().enumerate().map(of_worker).collect())
    }
}

impl Started {
    /// Descriptors of a receive and of a transmit ring.
    fn configure(&self, settings: &Dpdk, facts: &Facts) -> Result<(u16, u16), DpdkError> {
        let (port, queues, mtu) = (self.name.clone(), settings.queues, settings.mtu);
        let Facts { spread, fast_free, .. } = *facts;
        if queues > facts.most_queues {
            return Err(DpdkError::FewQueues { port, queues, most: facts.most_queues });
        }
        let (least, most) = facts.mtus;
        if !(least..=most).contains(&mtu) {
            return Err(DpdkError::Mtu { port, mtu, least, most });
        }
        if queues > 1 && spread == 0 {
            tracing::warn!(
                "{port} does not report how it spreads frames over its queues: check that all of them receive frames"
            );
        }
        let setup = Setup { queues, mtu, spread, fast_free };
        self.port.configure(&setup).map_err(|reason| self.failed("configure", reason))?;
        let rings = self.port.descriptors(settings.descriptors, settings.descriptors);
        rings.map_err(|reason| self.failed("choose the rings of", reason))
    }

    fn failed(&self, step: &'static str, reason: Refusal) -> DpdkError {
        let port = self.name.clone();
        match reason.is_permission() {
            true => DpdkError::NotPermitted { what: format!("{step} {port}"), reason: reason.to_string() },
            false => DpdkError::Setup { port, step, reason: reason.to_string(), log: eal::said() },
        }
    }
}

fn offloads(facts: &Facts, queues: u16) -> String {
    let spread = match queues {
        1 => None,
        _ if facts.spread != 0 => Some("RSS"),
        _ => Some("no RSS that could be chosen"),
    };
    let offloads: Vec<&str> = facts.fast_free.then_some("fast free").into_iter().chain(spread).collect();
    if offloads.is_empty() { "no offloads".to_owned() } else { offloads.join(", ") }
}

fn no_memory(port: String, queue: u16, count: u32, room: u16, reason: Refusal) -> DpdkError {
    // What DPDK puts around a frame: the mbuf's own 128 bytes, the headroom, the pool's header.
    let kib = u64::from(count) * (u64::from(room) + 384) / 1024;
    let reason = if reason.is_out_of_memory() { "it is used up".to_owned() } else { reason.to_string() };
    DpdkError::NoMemory { port, queue, count, kib, reason }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What is in the rings to be sent goes out yet.
        thread::sleep(DRAIN);
        let close = |Started { name, port }: &Started| {
            port.close().inspect_err(|reason| tracing::warn!("{name} cannot be closed: {reason}; {}", eal::said()))
        };
        // A device that is not closed may hold frames still.
        if self.devices.iter().map(close).filter(Result::is_err).count() > 0 {
            return;
        }
        for (pool, total) in self.pools.drain(..) {
            let idle = pool.idle();
            if self.leaked.load(Ordering::Relaxed) || idle != total {
                let names: Vec<&str> = self.devices.iter().map(|device| &*device.name).collect();
                tracing::error!("{}: {} frames were not given back", names.join(" and "), total - idle);
                continue;
            }
            pool.free();
        }
    }
}

/// The port of this description: there since DPDK started, or made now.
fn find(description: &str) -> Result<Port, DpdkError> {
    let name = description.split(',').next().unwrap_or(description);
    if let Some(port) = Port::find(name) {
        return Ok(port);
    }
    eal::forget_said();
    let port = description.to_owned();
    match Port::probe(description) {
        Ok(()) => {}
        Err(_) if pci_address(name).is_none() && eal::said().contains("failed to parse device") => {
            return Err(DpdkError::NoVdevDriver { port, log: eal::said() });
        }
        // Drivers say what they like when the kernel refuses them.
        Err(reason) if reason.is_permission() || !is_privileged() => {
            let reason = format!("{reason}; {}", eal::said());
            return Err(DpdkError::NotPermitted { what: format!("open {port}"), reason });
        }
        Err(reason) => return Err(DpdkError::Probe { port, reason: reason.to_string(), log: eal::said() }),
    }
    Port::find(name).ok_or_else(|| DpdkError::Probe { port, reason: "no driver took it".into(), log: eal::said() })
}

fn is_privileged() -> bool {
    let needed = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];
    needed.into_iter().all(|needed| caps::has_cap(None, CapSet::Effective, needed).unwrap_or(false))
}

/// A buffer that every frame of the MTU fits in, so that none comes in several.
fn room_for(mtu: u16) -> u16 {
    (longest(mtu) as u16).next_multiple_of(ROOM_STEP).max(LEAST_ROOM)
}

/// Bytes of the longest frame.
pub(super) fn longest(mtu: u16) -> usize {
    usize::from(mtu) + HEADER_LEN + MAX_VLAN_TAGS * VLAN_TAG_LEN
}

/// The address that a description begins with, if it is that of a PCI device and not the name of a virtual one: `0000:03:00.0`.
pub(super) fn pci_address(description: &str) -> Option<&str> {
    let address = description.split(',').next()?;
    let mut parts = address.split([':', '.']);
    let hex = |part: Option<&str>, digits: usize| {
        part.is_some_and(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let is_address = hex(parts.next(), 4) && hex(parts.next(), 2) && hex(parts.next(), 2) && hex(parts.next(), 1);
    (is_address && parts.next().is_none()).then_some(address)
}

/// Whether the kernel has left a PCI device to us, and by which driver of its own; `None` for any other.
pub(super) fn check_pci(port: &str) -> Option<Result<String, DpdkError>> {
    let address = pci_address(port)?;
    let folder = Path::new("/sys/bus/pci/devices").join(address.to_lowercase());
    if !folder.exists() {
        return Some(Err(DpdkError::NoPciDevice { address: address.into() }));
    }
    let driver = fs::read_link(folder.join("driver")).unwrap_or_default();
    let driver = driver.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if FIT_DRIVERS.contains(&driver.as_str()) {
        return Some(Ok(driver));
    }
    let driver = if driver.is_empty() { "bound to no driver".into() } else { format!("bound to {driver}") };
    Some(Err(DpdkError::NotBound { address: address.into(), id: pci_id(&folder), driver }))
}

/// `8086:1572`
fn pci_id(folder: &Path) -> String {
    let number = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let [vendor, device] = ["vendor", "device"].map(|name| number(name).trim().trim_start_matches("0x").to_owned());
    format!("{vendor}:{device}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_is_told_from_a_virtual_device() {
        assert_eq!(pci_address("0000:03:00.0"), Some("0000:03:00.0"));
        assert_eq!(pci_address("0000:AF:00.1,representor=0"), Some("0000:AF:00.1"));
        for other in ["net_null0", "net_af_packet0,iface=eth1", "03:00.0", "0000:03:00", "0000:03:00.0.1", ""] {
            assert_eq!(pci_address(other), None, "{other}");
        }
    }

    #[test]
    fn a_buffer_holds_a_frame_with_its_tags() {
        assert_eq!([1500, 2026, 2027, 9000].map(room_for), [2048, 2048, 3072, 9216]);
    }

    #[test]
    fn a_device_that_is_not_there_or_not_ours_says_what_to_do() {
        let missing = check_pci("ffff:1f:1f.7").expect("an address").unwrap_err().to_string();
        assert!(missing.contains("no PCI device ffff:1f:1f.7") && missing.contains("lspci"), "{missing}");
        let error = DpdkError::NotBound {
            address: "0000:03:00.0".into(),
            id: "8086:1572".into(),
            driver: "bound to i40e".into(),
        };
        let text = error.to_string();
        assert!(
            text.contains("(8086:1572) is bound to i40e") && text.contains("--bind=vfio-pci 0000:03:00.0"),
            "{text}"
        );
    }
}
