//! The device that frames come to, as far as `run` sees it, whichever engine drives it.

use crate::error::Failure;
use crate::metrics::collect::DeviceCounters;
use crate::model::{Dispatcher, Mac};
use crate::port::Port;
use crate::port::af_xdp::{self, AfXdp};
use crate::xdp::{self, Steer};
use std::net::IpAddr;

/// A device that can be taken into service.
pub trait Device: Sized {
    type Port: Port<Frame: Send> + Send + 'static;

    /// Everything that the device itself can object to is found out here.
    fn open(dispatcher: &Dispatcher, available_cores: &[usize]) -> Result<Self, Failure>;

    fn facts(&self) -> Facts;

    /// From here on the frames to a cluster address come to the ports.
    fn attach(self, cluster_addresses: &[IpAddr]) -> Result<AttachedDevice<Self::Port>, Failure>;
}

pub struct Facts {
    /// The kernel's, that has the dispatcher's own addresses.
    pub interface: String,
    /// The address of that interface, if the frames come over it; a device that is DPDK's has them without.
    pub mac: Option<Mac>,
    /// The device in a few words: driver, MAC, MTU.
    pub text: String,
    pub queues: usize,
    /// How many workers it takes, each on a core of its own; 0: none.
    pub workers: usize,
    /// Empty where the device has no place.
    pub near_cores: Vec<usize>,
}

impl Facts {
    /// Of an interface of the kernel's, with a worker a queue.
    pub fn of(device: &xdp::Device) -> Facts {
        let xdp::Device { interface, driver, mac, mtu, queues, near_cores, .. } = device;
        Facts {
            interface: interface.clone(),
            mac: Some(*mac),
            text: format!("{interface} ({driver}), {mac}, MTU {mtu}"),
            queues: *queues as usize,
            workers: *queues as usize,
            near_cores: near_cores.clone(),
        }
    }
}

/// A device in service.
pub struct AttachedDevice<P> {
    pub ports: Vec<P>,
    /// How frames come and go, in words.
    pub engine: String,
    /// What the device counts besides the workers.
    pub device_counters: Box<dyn Fn() -> DeviceCounters + Send>,
    pub hold: Attachment,
}

/// What keeps a device in service. To be kept until the ports have gone.
pub enum Attachment {
    AfXdp(Box<Steer>),
    #[cfg(feature = "dpdk")]
    Dpdk {
        _service: crate::port::dpdk::InService,
    },
}

impl Attachment {
    /// As the configuration calls it.
    pub fn engine(&self) -> &'static str {
        match self {
            Attachment::AfXdp(_) => "af_xdp",
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => "dpdk",
        }
    }

    /// From here on the ports get the frames to these addresses, and to no others.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_addresses(&mut self, cluster_addresses: &[IpAddr]) -> Result<(), Failure> {
        match self {
            Attachment::AfXdp(steer) => Ok(steer.set_cluster_addresses(cluster_addresses)?),
            // The workers see every frame; their tables tell them which are theirs.
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => Ok(()),
        }
    }

    /// Gives the kernel all frames again, where it shares the device. What is on its way to the ports comes yet.
    pub fn detach(&mut self) {
        match self {
            Attachment::AfXdp(steer) => steer.detach(),
            #[cfg(feature = "dpdk")]
            Attachment::Dpdk { .. } => {}
        }
    }
}

impl Device for xdp::Device {
    type Port = AfXdp;

    fn open(dispatcher: &Dispatcher, _available_cores: &[usize]) -> Result<Self, Failure> {
        Ok(af_xdp::open(&dispatcher.interface)?)
    }

    fn facts(&self) -> Facts {
        Facts::of(self)
    }

    fn attach(self, cluster_addresses: &[IpAddr]) -> Result<AttachedDevice<AfXdp>, Failure> {
        let af_xdp::Attached { steer, mode, ports } = xdp::Device::attach(&self, cluster_addresses)?;
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
        Ok(AttachedDevice {
            ports,
            engine,
            device_counters: Box::new(device_counters),
            hold: Attachment::AfXdp(Box::new(steer)),
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
        let crate::port::dpdk::Device { interface, port, driver, mac, mtu, queues, near_cores, .. } = self;
        Facts {
            interface: interface.clone(),
            mac: None,
            text: format!("{interface}, for {port} ({driver}), {mac}, MTU {mtu}"),
            queues: usize::from(*queues),
            workers: usize::from(*queues),
            near_cores: near_cores.clone(),
        }
    }

    fn attach(self, _cluster_addresses: &[IpAddr]) -> Result<AttachedDevice<Self::Port>, Failure> {
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
            device_counters: Box::new(device_counters),
            hold: Attachment::Dpdk { _service: service },
        })
    }
}
