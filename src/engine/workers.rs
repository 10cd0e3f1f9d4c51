//! Workers over the queues of a device: the engines `af_xdp` and `dpdk`.

use super::device::{AttachedDevice, Attachment, Device, Facts};
use super::kernel_metrics::NetMetrics;
use super::worker_pool::WorkerPool;
use super::{Attached, Dispatching, Engine, HostCheck, Opened, Start, on_interfaces};
use crate::admin::status::{Status, WorkerStatus};
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Update};
use crate::error::Failure;
use crate::host::supervisor::Progress;
use crate::host::{self, privileges};
use crate::limits::DRAIN;
use crate::metrics::collect::Stats;
use crate::metrics::source::Source;
use crate::metrics::summary::Summary;
use crate::model::{Dispatcher, Prefix};
use crate::port::Port;
use crate::table::Table;
use crate::xdp::dispatch::Reader;
use caps::Capability;
use std::thread;

/// The device for workers of that kind.
pub fn open<D: Device + 'static>(
    dispatcher: &Dispatcher,
    available_cores: &[usize],
) -> Result<Box<dyn Opened>, Failure> {
    Ok(Box::new(OpenedDevice(D::open(dispatcher, available_cores)?, dispatcher.clone())))
}

struct OpenedDevice<D>(D, Dispatcher);

impl<D: Device + 'static> Opened for OpenedDevice<D> {
    fn facts(&self) -> Facts {
        self.0.facts()
    }

    fn attach(self: Box<Self>, cluster_addresses: &[Prefix], table: Table) -> Result<Box<dyn Attached>, Failure> {
        let OpenedDevice(device, settings) = *self;
        Ok(Box::new(WithTable { device: device.attach(&settings, cluster_addresses, &table)?, table }))
    }
}

/// A device in service, and what its workers begin with.
struct WithTable<P> {
    device: AttachedDevice<P>,
    table: Table,
}

impl<P: Port<Frame: Send> + Send + 'static> Attached for WithTable<P> {
    fn text(&self) -> String {
        self.device.engine.clone()
    }

    fn advice(&self) -> Option<String> {
        let advice = "this NIC has no AF_XDP zero copy: engine = \"xdp\" in [dispatcher] is faster here";
        self.device.copies.then(|| advice.to_owned())
    }

    fn start(self: Box<Self>, start: Start) -> Result<Box<dyn Dispatching>, Failure> {
        let WithTable { device: AttachedDevice { ports, device_counters, mut attachment, .. }, table } = *self;
        let Start { plan, cores, flows, reports } = start;
        let net = net_source(&mut attachment, &table);
        let watched = attachment.net().map(Reader::new).transpose()?;
        let flow_tables = attachment.flow_tables(flows, table.key);
        let table = attachment.for_workers(table);
        let pool = WorkerPool::start(plan, table, ports, (&cores, flow_tables), (device_counters, net), reports)?;
        let program = attachment.program();
        Ok(Box::new(Workers { pool, name: attachment.engine(), attachment, program, watched, cores }))
    }
}

struct Workers {
    pool: WorkerPool,
    attachment: Attachment,
    /// The number of the program that gives them frames; `None`: there is none.
    program: Option<u32>,
    /// What is noted of frames that are dispatched without workers.
    watched: Option<Reader>,
    name: &'static str,
    cores: Vec<usize>,
}

/// What the program counts that dispatches in the workers' place.
fn net_source(attachment: &mut Attachment, table: &Table) -> Option<Box<dyn Source>> {
    Some(Box::new(match attachment.net()?.open_books(table) {
        Ok(books) => NetMetrics::new(&books),
        Err(error) => {
            tracing::warn!("frames that are dispatched without workers are not counted: {error}");
            NetMetrics::none(table.services(), table.destinations())
        }
    }))
}

impl Dispatching for Workers {
    fn stats(&self) -> Stats {
        self.pool.stats()
    }

    fn needs(&self) -> &'static [Capability] {
        if self.name == "af_xdp" { &privileges::KERNEL } else { &privileges::CONTROL }
    }

    fn stop(self: Box<Self>) -> Result<Summary, Failure> {
        let Workers { pool, mut attachment, .. } = *self;
        attachment.detach();
        // Frames that were redirected a moment ago are on their way into the rings still.
        thread::sleep(DRAIN);
        pool.stop()
    }

    fn leave(mut self: Box<Self>) -> Result<Summary, Failure> {
        if !self.attachment.leave() {
            return self.stop();
        }
        // What is in the rings is the workers' still.
        thread::sleep(DRAIN);
        self.pool.stop()
    }
}

impl Engine for Workers {
    fn publish(&mut self, membership: &mut Membership, update: Update) {
        let table = membership.table();
        let net = if update == Update::Layout { net_source(&mut self.attachment, &table) } else { None };
        self.read_watched();
        // Before the workers get it. The net decides only for a worker that is gone or hangs: so a worker's frames are decided by an
        // older table and then by a newer one, as at any change, and never the other way, by which the net would send to its old
        // owner what the worker had begun at a new one. A worker that turns again sees the newest table before it decides what
        // came after its heartbeat.
        if let Some(Err(error)) = self.attachment.net().map(|net| net.publish(&table)) {
            tracing::warn!(
                "if a worker stops, its frames are dispatched with an older table: {error}; if this continues after \
                 the current changes end, restart oneip"
            );
        }
        if let Some(watched) = &mut self.watched {
            watched.follow(&table);
        }
        let table = self.attachment.for_workers(table);
        match update {
            Update::Table => self.pool.publish(table),
            Update::Layout => self.pool.publish_layout(membership.plan(), table, net),
        }
    }

    fn seen(&self) -> Option<u64> {
        self.attachment.seen()
    }

    fn see(&mut self, interface: &InterfaceWatch) {
        if let Some(number) = self.program {
            on_interfaces::see(interface, number, &self.pool.troubles);
        }
    }

    fn take_addresses(&mut self, addresses: &[Prefix]) -> Result<(), Failure> {
        self.attachment.take_addresses(addresses)
    }

    fn host_check(&self) -> HostCheck {
        |new| Ok(host::check(new)?)
    }

    fn describe(&self, status: &mut Status) {
        status.mode = "dispatcher".to_owned();
        status.engine = Some(self.name.to_owned());
        let worker = |(worker, core): (usize, &usize)| WorkerStatus { worker, core: *core, ..WorkerStatus::default() };
        status.workers = self.cores.iter().enumerate().map(worker).collect();
    }

    fn progress(&self) -> Option<Progress> {
        let seen = self.pool.stats().latest();
        Some(seen.map_or_else(Progress::default, |(seen, _)| {
            let stuck = seen.workers.iter().enumerate().filter(|(_, worker)| !worker.turns);
            Progress { rounds: seen.rounds, stuck: stuck.map(|(worker, _)| worker).collect() }
        }))
    }

    fn can_watch(&self) -> Result<(), String> {
        Ok(())
    }

    fn read_watched(&mut self) {
        if let (Some(watched), Some(net)) = (&mut self.watched, self.attachment.net()) {
            watched.read(net);
        }
    }
}
