//! The device that frames come to, as far as `run` sees it, whichever engine drives it.

use super::worker_pool::{self, FlowTables};
use crate::error::Failure;
use crate::hash::Key;
use crate::limits::FRAMES_TIMED;
use crate::metrics::collect::DeviceCounters;
use crate::model::{Dispatcher, Egress, Mac, Prefix, Xdp};
use crate::port::Port;
use crate::port::af_xdp::{self, AfXdp, Transfer};
use crate::table::Table;
use crate::xdp::dispatch::{self, Setup, Tables};
use crate::xdp::link::{self, Kept, LinkError, Place};
use crate::xdp::{self, MEND_VETH, Net, Steer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A device that can be taken into service.
pub trait Device: Sized {
    type Port: Port<Frame: Send> + Send + 'static;

    /// Everything that the device itself can object to is found out here.
    fn open(dispatcher: &Dispatcher, available_cores: &[usize]) -> Result<Self, Failure>;

    fn facts(&self) -> Facts;

    /// From here on the frames to a cluster address come to the ports.
    fn attach(
        self,
        settings: &Dispatcher,
        cluster_addresses: &[Prefix],
        table: &Table,
    ) -> Result<AttachedDevice<Self::Port>, Failure>;
}

pub struct Facts {
    /// The kernel's, that has the dispatcher's own addresses.
    pub interface: String,
    /// The kernel has that interface; without it the dispatcher has no way to the kernel.
    pub has_interface: bool,
    /// The address of that interface, if the frames come over it; a device that is DPDK's has them without.
    pub mac: Option<Mac>,
    /// In bytes, without the Ethernet header.
    pub mtu: u32,
    /// The device in a few words: driver, MAC, MTU.
    pub text: String,
    pub queues: usize,
    /// How many workers it takes; 0: none.
    pub workers: usize,
    /// Empty where the device has no place.
    pub near_cores: Vec<usize>,
    /// By which frames leave, in their order, where there are several interfaces.
    pub egresses: Vec<Egress>,
}

impl Facts {
    /// Of an interface of the kernel's, with a worker a queue.
    pub fn of(device: &xdp::Device) -> Facts {
        let xdp::Device { interface, driver, mac, mtu, queues, near_cores, .. } = device;
        Facts {
            interface: interface.clone(),
            has_interface: true,
            mac: Some(*mac),
            mtu: *mtu,
            text: format!("{interface} ({driver}), {mac}, MTU {mtu}"),
            queues: *queues as usize,
            workers: *queues as usize,
            near_cores: near_cores.clone(),
            egresses: Vec::new(),
        }
    }
}

/// Where a dispatcher's program is kept.
pub fn place(device: &xdp::Device, settings: &Dispatcher) -> Place {
    Place {
        kept: Kept::Dispatcher,
        interface: device.interface.clone(),
        index: device.index,
        pins: settings.pins.clone(),
    }
}

/// The folder of its pins. `None`: there is no BPF file system, and the program ends with this process.
///
/// # Errors
/// /proc or the folder cannot be used.
pub fn folder(place: &Place) -> Result<Option<PathBuf>, LinkError> {
    match link::folder(place) {
        Ok(folder) => Ok(Some(folder)),
        Err(LinkError::NoBpfFileSystem { path }) => {
            tracing::warn!(
                "there is no BPF file system at {}, so if this process is killed, nothing is dispatched any more: mount -t bpf bpf \
                 /sys/fs/bpf",
                path.display()
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Nothing holds the program on the interface any more but who has its link, and nobody finds its flow tables.
///
/// # Errors
/// A pin cannot be removed.
pub fn forget(place: &Place) -> Result<(), Failure> {
    link::unpin(place)?;
    Ok(dispatch::forget_flows(&place.pins.join(&place.interface))?)
}

/// A device in service.
pub struct AttachedDevice<P> {
    pub ports: Vec<P>,
    /// How frames come and go, in words.
    pub engine: String,
    /// The kernel copies each frame.
    pub copies: bool,
    /// What the device counts besides the workers.
    pub device_counters: Box<dyn Fn() -> DeviceCounters + Send>,
    pub attachment: Attachment,
}

/// What keeps a device in service. To be kept until the ports have gone.
pub enum Attachment {
    AfXdp {
        steer: Box<Steer>,
        queues: u32,
        /// Where the program is kept when the process is gone.
        place: Option<Place>,
    },
    #[cfg(feature = "dpdk")]
    Dpdk { _service: crate::port::dpdk::InService },
}

impl Attachment {
    /// As the configuration calls it.
    pub fn engine(&self) -> &'static str {
        match self {
            Attachment::AfXdp { .. } => "af_xdp",
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => "dpdk",
        }
    }

    /// From here on the ports get the frames to these addresses, and to no others.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_addresses(&mut self, cluster_addresses: &[Prefix]) -> Result<(), Failure> {
        match self {
            Attachment::AfXdp { steer, .. } => Ok(steer.set_cluster_addresses(cluster_addresses)?),
            // The workers see every frame; their tables tell them which are theirs.
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => Ok(()),
        }
    }

    /// The program's tables, by which it dispatches in the place of workers that are gone.
    pub fn net(&mut self) -> Option<&mut Tables> {
        match self {
            Attachment::AfXdp { steer, .. } => steer.net(),
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => None,
        }
    }

    /// The table as workers get it: frames that come through a program were judged by limits before their ring.
    pub fn for_workers(&mut self, table: Table) -> Table {
        if self.net().is_some() { table.without_limits() } else { table }
    }

    /// Has the program dispatch what comes from here on, and stay when this is dropped. Whether it can.
    pub fn leave(&mut self) -> bool {
        match self {
            Attachment::AfXdp { steer, queues, place: Some(_) } => {
                steer.take_sockets(*queues);
                true
            }
            _ => false,
        }
    }

    /// What remembers flows while slots move: of each worker, by its number. Each has room for so many. `key` is the cluster's.
    pub fn flow_tables(&mut self, flows: usize, key: Key) -> FlowTables {
        match self.net() {
            // Shared with the program, so that either goes on with the other's.
            Some(net) => {
                let flows = net.flows();
                Arc::new(move |worker| flows.of_queue(worker))
            }
            None => worker_pool::own_flow_tables(flows, key),
        }
    }

    /// Gives the kernel all frames again, where it shares the device. What is on its way to the ports comes yet.
    pub fn detach(&mut self) {
        match self {
            Attachment::AfXdp { steer, place, .. } => {
                if let Some(place) = place
                    && let Err(error) = forget(place)
                {
                    tracing::warn!(
                        "not all that {} keeps for {} is gone: {error}",
                        place.pins.display(),
                        place.interface
                    );
                }
                steer.detach();
            }
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => {}
        }
    }
}

/// How long a worker may be silent. `None`: for as long as it has a ring, since what the program sends in its place would not leave.
fn net_after(device: &xdp::Device, settings: &Dispatcher) -> Option<Duration> {
    let sends = settings.xdp == Some(Xdp::Generic) || device.transmits();
    if !sends {
        tracing::warn!(
            "if a worker is killed or hangs, {} does not send what its XDP program forwards: {MEND_VETH} (the other end of the veth), \
             and start again",
            device.interface
        );
    }
    sends.then_some(settings.heartbeat)
}

impl Device for xdp::Device {
    type Port = AfXdp;

    fn open(dispatcher: &Dispatcher, _available_cores: &[usize]) -> Result<Self, Failure> {
        Ok(af_xdp::open(&dispatcher.interface)?)
    }

    fn facts(&self) -> Facts {
        Facts::of(self)
    }

    fn attach(
        self,
        settings: &Dispatcher,
        cluster_addresses: &[Prefix],
        table: &Table,
    ) -> Result<AttachedDevice<AfXdp>, Failure> {
        let xdp::Device { mac, index, queues, .. } = self;
        let place = place(&self, settings);
        let folder = folder(&place)?;
        // A veth sends what is redirected to it, see `kernel::way_out`.
        let egress = if self.driver == "veth" { index } else { 0 };
        let setup = Setup {
            mac,
            egress,
            queues: self.receive_queues,
            flows: settings.flows,
            timed_of: FRAMES_TIMED,
            others: Default::default(),
        };
        let steer =
            Steer::load_with_net(Net { setup, table, after: net_after(&self, settings), folder: folder.as_deref() })?;
        let (mut steer, ports) = self.prepare(steer, cluster_addresses)?;
        let (mode, taken_over) = match folder {
            Some(_) => {
                steer.attach_kept(&place, settings.xdp).map(|attachment| (attachment.mode, attachment.taken_over))?
            }
            None => (steer.attach(&self)?, false),
        };
        let (counters, losses) = (steer.counters(), ports.iter().map(|port| port.losses()).collect::<Vec<_>>());
        let device_counters = move || {
            let lost = losses.iter().map(|losses| losses.total()).sum::<u64>();
            counters.read().map_or_else(
                |error| {
                    tracing::warn!(%error, "the device's counters cannot be read");
                    DeviceCounters::default()
                },
                |counts| DeviceCounters {
                    seen: counts.seen,
                    passed: counts.passed,
                    refused: 0,
                    lost: lost + counts.no_socket,
                },
            )
        };
        let pages = if ports.iter().all(AfXdp::in_huge_pages) { ", huge pages" } else { "" };
        let engine = format!("AF_XDP, {} mode{pages}, {mode}", ports[0].transfer());
        let engine = if taken_over { engine + ", taken over from the process before" } else { engine };
        Ok(AttachedDevice {
            copies: ports.iter().any(|port| port.transfer() == Transfer::Copy),
            ports,
            engine,
            device_counters: Box::new(device_counters),
            attachment: Attachment::AfXdp { steer: Box::new(steer), queues, place: folder.map(|_| place) },
        })
    }
}

#[cfg(feature = "dpdk")]
impl Device for crate::port::dpdk::Device {
    type Port = crate::port::dpdk::Dpdk;

    fn open(dispatcher: &Dispatcher, available_cores: &[usize]) -> Result<Self, Failure> {
        let settings = dispatcher.dpdk.as_ref().expect("the engine has its section");
        Ok(crate::port::dpdk::open(settings, &dispatcher.interface, available_cores)?)
    }

    fn facts(&self) -> Facts {
        let crate::port::dpdk::Device { interface, has_interface, port, driver, mac, mtu, queues, near_cores, .. } =
            self;
        Facts {
            interface: interface.clone(),
            has_interface: *has_interface,
            mac: None,
            mtu: u32::from(*mtu),
            text: format!("{interface}, for {port} ({driver}), {mac}, MTU {mtu}"),
            queues: usize::from(*queues),
            workers: usize::from(*queues),
            near_cores: near_cores.clone(),
            egresses: Vec::new(),
        }
    }

    fn attach(self, _: &Dispatcher, _: &[Prefix], _: &Table) -> Result<AttachedDevice<Self::Port>, Failure> {
        let engine = format!("{}, {}", crate::port::dpdk::version(), self.offloads);
        let crate::port::dpdk::Attached { ports, statistics, service } = crate::port::dpdk::Device::attach(self);
        // The workers count what they pass themselves.
        let device_counters = move || {
            let lost = statistics.lost();
            DeviceCounters { seen: statistics.received() + lost, passed: 0, refused: statistics.refused(), lost }
        };
        Ok(AttachedDevice {
            ports,
            engine,
            copies: false,
            device_counters: Box::new(device_counters),
            attachment: Attachment::Dpdk { _service: service },
        })
    }
}
