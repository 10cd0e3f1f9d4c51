//! The kernel's interfaces for workers over AF_XDP, and which worker serves which of their queues.

use super::device::{AttachedDevice, Attachment, Device, Facts, attach_all, folder, place};
use crate::error::Failure;
use crate::host::share::Share;
use crate::metrics::collect::DeviceCounters;
use crate::model::{Dispatcher, Prefix, Xdp};
use crate::port::af_xdp::{self, AfXdp, Transfer};
use crate::table::Table;
use crate::xdp::dispatch::Setup;
use crate::xdp::link::{self, Place};
use crate::xdp::{self, MEND_VETH, Mode, Net, Steer, SteerCounters, first_queues};
use std::collections::HashSet;
use std::time::Duration;

pub struct Interfaces {
    /// The first one, and the others.
    devices: Vec<xdp::Device>,
    share: Share,
}

/// How long a worker may be silent. `None`: for as long as it has a ring, since what the program sends in its place would not leave.
fn net_after(devices: &[xdp::Device], settings: &Dispatcher) -> Option<Duration> {
    let silent = devices.iter().find(|device| settings.xdp != Some(Xdp::Generic) && !device.transmits());
    if let Some(xdp::Device { interface, .. }) = silent {
        tracing::warn!(
            "if a worker is killed or hangs, {interface} does not send what its XDP program forwards: {MEND_VETH} (the other end of the \
             veth), and start again"
        );
    }
    silent.is_none().then_some(settings.heartbeat)
}

/// The program in front of the workers, attached to all interfaces, and their ports.
struct InService {
    steer: Steer,
    ports: Vec<AfXdp>,
    /// On the first interface.
    mode: Mode,
    taken_over: bool,
    /// Empty where the program ends with this process.
    places: Vec<Place>,
}

impl Interfaces {
    fn attach(&self, settings: &Dispatcher, addresses: &[Prefix], table: &Table) -> Result<InService, Failure> {
        let Interfaces { devices, share } = self;
        let places: Vec<Place> = devices.iter().map(|device| place(device, settings)).collect();
        let folder = folder(&places[0])?;
        // A veth sends what is redirected to it, see `kernel::way_out`; and what goes from one interface to another is redirected anyway.
        let redirects = devices.len() > 1 || devices[0].driver == "veth";
        let egress = if redirects { devices[0].index } else { 0 };
        let setup = Setup::of(devices, egress, settings.flows);
        let net = Net { setup, table, after: net_after(devices, settings), folder: folder.as_deref() };
        let (mut steer, ports) = af_xdp::prepare(devices, &share.workers, Steer::load_with_net(net)?, addresses)?;
        if folder.is_some() {
            let link::Attachment { mode, taken_over, .. } =
                attach_all(&places, |place| steer.attach_kept(place, settings.xdp))?;
            return Ok(InService { steer, ports, mode, taken_over, places });
        }
        let mut mode = Mode::Native;
        for device in devices.iter().rev() {
            mode = steer.attach(device)?;
        }
        Ok(InService { steer, ports, mode, taken_over: false, places: Vec::new() })
    }
}

impl Device for Interfaces {
    type Port = AfXdp;

    fn open(dispatcher: &Dispatcher, _available_cores: &[usize]) -> Result<Self, Failure> {
        let devices = dispatcher.interfaces().map(af_xdp::open).collect::<Result<Vec<_>, _>>()?;
        xdp::check_alike(&devices)?;
        let queues: Vec<u32> = devices.iter().map(|device| device.queues).collect();
        Ok(Interfaces { share: Share::new(dispatcher, &queues)?, devices })
    }

    fn facts(&self) -> Facts {
        Facts { share: Some(self.share.clone()), ..Facts::of(&self.devices) }
    }

    fn attach(
        self,
        settings: &Dispatcher,
        cluster_addresses: &[Prefix],
        table: &Table,
    ) -> Result<AttachedDevice<AfXdp>, Failure> {
        let InService { steer, ports, mode, taken_over, places } =
            Interfaces::attach(&self, settings, cluster_addresses, table)?;
        let pages = if ports.iter().all(AfXdp::in_huge_pages) { ", huge pages" } else { "" };
        let engine = format!("AF_XDP, {} mode{pages}, {mode}", ports[0].transfer());
        let engine = if taken_over { engine + ", taken over from the process before" } else { engine };
        let flow_tables = flow_tables(&self.devices, &self.share.workers);
        Ok(AttachedDevice {
            copies: ports.iter().any(|port| port.transfer() == Transfer::Copy),
            device_counters: Box::new(device_counters(steer.counters(), &ports)),
            ports,
            engine,
            attachment: Attachment::AfXdp { steer: Box::new(steer), flow_tables, places },
        })
    }
}

/// By worker: the numbers of the queues whose flow tables are its, those of the queues that it serves first. Behind those of the first worker are
/// the ones that only the program writes to, for that worker to find out whose flows they hold.
fn flow_tables(devices: &[xdp::Device], workers: &[Vec<(usize, u32)>]) -> Vec<Vec<usize>> {
    let firsts = first_queues(devices);
    let number = |(at, queue): (usize, u32)| (firsts[at] + queue) as usize;
    let mut numbers: Vec<Vec<usize>> =
        workers.iter().map(|queues| queues.iter().copied().map(number).collect()).collect();
    let served: HashSet<usize> = numbers.iter().flatten().copied().collect();
    let all = devices.iter().map(|device| device.receive_queues as usize).sum();
    if let Some(first) = numbers.first_mut() {
        first.extend((0..all).filter(|queue| !served.contains(queue)));
    }
    numbers
}

fn device_counters(counters: SteerCounters, ports: &[AfXdp]) -> impl Fn() -> DeviceCounters + use<> {
    let losses: Vec<_> = ports.iter().map(AfXdp::losses).collect();
    move || {
        let lost = losses.iter().map(af_xdp::Losses::total).sum::<u64>();
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
    }
}
