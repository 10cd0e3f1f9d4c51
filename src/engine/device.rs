//! The device that frames come to, as far as `run` sees it, whichever engine drives it.

use super::worker_pool::{self, FlowTables};
use crate::error::Failure;
use crate::hash::Key;
use crate::host::share::Share;
use crate::metrics::collect::DeviceCounters;
use crate::model::{Dispatcher, Egress, Mac, Prefix};
use crate::port::Port;
use crate::table::Table;
use crate::xdp::dispatch::{self, Tables};
use crate::xdp::link::{self, Kept, LinkError, Place};
use crate::xdp::{self, Steer};
use std::path::PathBuf;
use std::sync::Arc;

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
    /// Those that frames come by, of each interface.
    pub queues: Vec<usize>,
    /// In which flows are remembered while slots move.
    pub flow_tables: usize,
    /// What each worker serves; `None`: there are none.
    pub share: Option<Share>,
    /// Empty where the device has no place.
    pub near_cores: Vec<usize>,
    /// By which frames leave, in their order, where there are several interfaces.
    pub egresses: Vec<Egress>,
}

/// Between devices in the text of the start.
const NEXT_DEVICE: &str = "\n             ";

impl Facts {
    /// Of interfaces of the kernel's, the first one first.
    pub fn of(devices: &[xdp::Device]) -> Facts {
        let xdp::Device { interface, mac, mtu, near_cores, .. } = &devices[0];
        let text = |device: &xdp::Device| {
            let xdp::Device { interface, driver, mac, mtu, .. } = device;
            format!("{interface} ({driver}), {mac}, MTU {mtu}")
        };
        let egress = |device: &xdp::Device| Egress { index: device.index, source: device.mac };
        Facts {
            interface: interface.clone(),
            has_interface: true,
            mac: Some(*mac),
            mtu: *mtu,
            text: devices.iter().map(text).collect::<Vec<_>>().join(NEXT_DEVICE),
            queues: devices.iter().map(|device| device.queues as usize).collect(),
            flow_tables: devices.iter().map(|device| device.receive_queues as usize).sum(),
            share: None,
            near_cores: near_cores.clone(),
            egresses: if devices.len() > 1 { devices.iter().map(egress).collect() } else { Vec::new() },
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
        // What that means is said by doctor, at the start too.
        Err(LinkError::NoBpfFileSystem { .. }) => Ok(None),
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

/// Has a program attached everywhere, or, where that fails, nowhere that it was not before. What comes of the first place is what counts, but
/// whether any was taken over.
///
/// # Errors
/// As `attach`.
pub fn attach_all(
    places: &[Place],
    mut attach: impl FnMut(&Place) -> Result<link::Attachment, LinkError>,
) -> Result<link::Attachment, Failure> {
    let mut attachment: Option<link::Attachment> = None;
    // The first one last: where frames come from, mostly. By then they can go out by the others.
    for (count, place) in places.iter().rev().enumerate() {
        let before = attachment.is_some_and(|attachment| attachment.taken_over);
        match attach(place) {
            Ok(now) => attachment = Some(link::Attachment { taken_over: now.taken_over || before, ..now }),
            Err(error) => {
                // What was kept before this start stays as it was.
                if !before {
                    places.iter().rev().take(count).for_each(|place| _ = forget(place));
                }
                return Err(error.into());
            }
        }
    }
    Ok(attachment.expect("there is an interface"))
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
        /// By worker: the numbers of the queues whose flow tables are its, among those of all interfaces.
        flow_tables: Vec<Vec<usize>>,
        /// Where the program is kept when the process is gone, by interface; empty: it is not.
        places: Vec<Place>,
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

    /// By which the kernel tells the program from others. `None`: there is none, or it does not say.
    pub fn program(&self) -> Option<u32> {
        match self {
            Attachment::AfXdp { steer, .. } => steer.number(),
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => None,
        }
    }

    /// Frames that the program has seen.
    pub fn seen(&self) -> Option<u64> {
        match self {
            Attachment::AfXdp { steer, .. } => steer.counters().read().ok().map(|counts| counts.seen),
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => None,
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
            Attachment::AfXdp { steer, flow_tables, places } if !places.is_empty() => {
                steer.take_sockets(flow_tables.iter().flatten().map(|queue| *queue as u32));
                true
            }
            _ => false,
        }
    }

    /// What remembers flows while slots move: of each worker, by its number. Each has room for so many. `key` is the cluster's.
    pub fn flow_tables(&mut self, flows: usize, key: Key) -> FlowTables {
        let queues = match self {
            Attachment::AfXdp { flow_tables, .. } => flow_tables.clone(),
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => Vec::new(),
        };
        match self.net() {
            // Shared with the program, so that either goes on with the other's.
            Some(net) => {
                let flows = net.flows();
                Arc::new(move |worker| {
                    let first = queues[..worker].iter().map(Vec::len).sum();
                    (first, queues[worker].iter().map(|queue| flows.of_queue(*queue)).collect())
                })
            }
            None => worker_pool::own_flow_tables(flows, key),
        }
    }

    /// Gives the kernel all frames again, where it shares the device. What is on its way to the ports comes yet.
    pub fn detach(&mut self) {
        match self {
            Attachment::AfXdp { steer, places, .. } => {
                for place in places {
                    if let Err(error) = forget(place) {
                        tracing::warn!(
                            "not everything in {} for {} could be removed: {error}",
                            place.pins.display(),
                            place.interface
                        );
                    }
                }
                steer.detach();
            }
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => {}
        }
    }
}

#[cfg(feature = "dpdk")]
impl Device for crate::port::dpdk::Devices {
    type Port = crate::port::dpdk::Dpdk;

    fn open(dispatcher: &Dispatcher, available_cores: &[usize]) -> Result<Self, Failure> {
        let settings = dispatcher.dpdk.as_ref().expect("the engine has its section");
        let interfaces: Vec<&str> = dispatcher.interfaces().collect();
        Ok(crate::port::dpdk::open(settings, &interfaces, available_cores)?)
    }

    fn facts(&self) -> Facts {
        let crate::port::dpdk::Devices { devices, has_interfaces, mtu, queues, near_cores, .. } = self;
        let text = |device: &crate::port::dpdk::Device| {
            let crate::port::dpdk::Device { interface, port, driver, mac } = device;
            format!("{interface}, for {port} ({driver}), {mac}, MTU {mtu}")
        };
        let names: Vec<&str> = devices.iter().map(|device| &*device.interface).collect();
        let egress = |device: &crate::port::dpdk::Device| Egress {
            // The workers send by its position; no program in the kernel by its number there.
            index: 0,
            source: device.mac,
        };
        Facts {
            interface: names[0].to_owned(),
            has_interface: *has_interfaces,
            mac: None,
            mtu: u32::from(*mtu),
            text: devices.iter().map(text).collect::<Vec<_>>().join(NEXT_DEVICE),
            queues: vec![usize::from(*queues); devices.len()],
            flow_tables: usize::from(*queues),
            share: Some(Share::alike(&names, u32::from(*queues))),
            near_cores: near_cores.clone(),
            egresses: if devices.len() > 1 { devices.iter().map(egress).collect() } else { Vec::new() },
        }
    }

    fn attach(self, _: &Dispatcher, _: &[Prefix], _: &Table) -> Result<AttachedDevice<Self::Port>, Failure> {
        let engine = format!("{}, {}", crate::port::dpdk::version(), self.offloads);
        let crate::port::dpdk::Attached { ports, statistics, service } = crate::port::dpdk::Devices::attach(self);
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
