//! Workers over the queues of a device: the engines `af_xdp` and `dpdk`.

use super::device::{AttachedDevice, Attachment, Device, Facts};
use super::worker_pool::WorkerPool;
use super::{Attached, Dispatching, Engine, HostCheck, Opened, Start};
use crate::admin::status::{Status, WorkerStatus};
use crate::control::membership::{Membership, Update};
use crate::error::Failure;
use crate::host::{self, privileges};
use crate::limits::DRAIN;
use crate::metrics::collect::Stats;
use crate::metrics::summary::Summary;
use crate::model::Dispatcher;
use crate::port::Port;
use crate::table::Table;
use caps::Capability;
use std::net::IpAddr;
use std::thread;

/// The device for workers of that kind.
pub fn open<D: Device + 'static>(
    dispatcher: &Dispatcher,
    available_cores: &[usize],
) -> Result<Box<dyn Opened>, Failure> {
    Ok(Box::new(OpenedDevice(D::open(dispatcher, available_cores)?)))
}

struct OpenedDevice<D>(D);

impl<D: Device + 'static> Opened for OpenedDevice<D> {
    fn facts(&self) -> Facts {
        self.0.facts()
    }

    fn attach(self: Box<Self>, cluster_addresses: &[IpAddr], table: Table) -> Result<Box<dyn Attached>, Failure> {
        Ok(Box::new(WithTable { device: self.0.attach(cluster_addresses)?, table }))
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

    fn start(self: Box<Self>, start: Start) -> Result<Box<dyn Dispatching>, Failure> {
        let WithTable { device: AttachedDevice { ports, device_counters, hold, .. }, table } = *self;
        let Start { plan, cores, flows, reports } = start;
        let pool = WorkerPool::start(plan, table, ports, (&cores, flows), device_counters, reports)?;
        Ok(Box::new(Workers { pool, name: hold.engine(), hold, cores }))
    }
}

struct Workers {
    pool: WorkerPool,
    hold: Attachment,
    name: &'static str,
    cores: Vec<usize>,
}

impl Dispatching for Workers {
    fn stats(&self) -> Stats {
        self.pool.stats()
    }

    fn needs(&self) -> &'static [Capability] {
        &privileges::CONTROL
    }

    fn stop(self: Box<Self>) -> Result<Summary, Failure> {
        let Workers { pool, mut hold, .. } = *self;
        hold.detach();
        // Frames that were redirected a moment ago are on their way into the rings still.
        thread::sleep(DRAIN);
        pool.stop()
    }

    /// Workers dispatch nothing without their process.
    fn leave(self: Box<Self>) -> Result<Summary, Failure> {
        self.stop()
    }
}

impl Engine for Workers {
    fn publish(&mut self, membership: &mut Membership, update: Update) {
        let table = membership.table();
        match update {
            Update::Table => self.pool.publish(table),
            Update::Layout => self.pool.publish_layout(membership.plan(), table),
        }
    }

    fn take_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Failure> {
        self.hold.take_addresses(addresses)
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

    fn can_watch(&self) -> Result<(), String> {
        Ok(())
    }
}
