//! What dispatches: workers over a port (AF_XDP, DPDK), or the filter of a server. Which of them a configuration asks for is
//! decided here, and nowhere else.
//!
//! - `workers`: each on its core, over any port (`worker_pool`: their threads; `device`: what a port belongs to; `af_xdp`: the
//!   kernel's interfaces)
//! - `kernel`: a program in the kernel (`kernel_metrics`: what it counts)
//! - `on_interfaces`: whether a dispatcher's program is still where it was attached
//! - `filter`: broadcast-based dispatch, by a program on the server
//! - `decap`: the servers' end of tunnels, by a program there (`on_server`: what the two have in common)

mod af_xdp;
pub mod decap;
mod device;
pub mod filter;
mod kernel;
mod kernel_metrics;
mod on_interfaces;
pub mod on_server;
pub mod worker_pool;
mod workers;

pub use device::{Facts, forget};

use crate::admin::status::Status;
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Update};
use crate::error::Failure;
use crate::host::supervisor::Progress;
use crate::metrics::collect::{Reports, Stats};
use crate::metrics::summary::Summary;
use crate::model::{self, Dispatcher, Plan, Prefix};
use crate::table::Table;
use crate::xdp::Device;
use crate::xdp::link::Place;
use caps::Capability;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// What is wrong with this host for new cluster addresses. Outside of any runtime.
pub type HostCheck = fn(&[Prefix]) -> Result<(), Failure>;

/// What decides frames, as the control thread sees it.
pub trait Engine {
    /// Has frames decided by what the membership says now.
    fn publish(&mut self, membership: &mut Membership, update: Update);

    /// When it wants to be called again though nothing has happened.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// How many frames its program has seen on the interfaces, or another number that grows with them. `None`: it has none, or it cannot be read.
    fn seen(&self) -> Option<u64> {
        None
    }

    /// Takes note of how the interface is.
    fn see(&mut self, _interface: &InterfaceWatch) {}

    /// Whether there is something to be done that is not for the membership to tell. As a future is polled.
    fn poll_work(&mut self, _context: &mut Context) -> Poll<()> {
        Poll::Pending
    }

    /// Does it.
    fn work(&mut self, _membership: &mut Membership) {}

    /// Takes the frames to these cluster addresses, and to no others.
    ///
    /// # Errors
    /// The kernel refuses.
    fn take_addresses(&mut self, addresses: &[Prefix]) -> Result<(), Failure>;

    /// Says whether this host is fit for new cluster addresses, on another thread.
    fn host_check(&self) -> HostCheck;

    /// What it is called in the status, and its workers.
    fn describe(&self, status: &mut Status);

    /// How far its threads have come; `None`: it dispatches without any.
    fn progress(&self) -> Option<Progress> {
        None
    }

    /// Whether frames can be watched.
    ///
    /// # Errors
    /// What to do instead.
    fn can_watch(&self) -> Result<(), String>;

    /// Puts what was seen of watched frames into the watch, where it does not come there by itself.
    fn read_watched(&mut self) {}

    /// Whether another process can take the place of this one while frames are dispatched.
    ///
    /// # Errors
    /// What to do instead.
    fn can_hand_over(&self) -> Result<(), String> {
        Ok(())
    }

    /// What to tell an operator whose order was carried out.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// The device of a dispatcher: fit for its engine, and not in service yet.
pub trait Opened {
    fn facts(&self) -> Facts;

    /// From here on the frames to a cluster address come to the engine. `table` is of the services and servers of the plan that it starts
    /// with.
    ///
    /// # Errors
    /// The kernel or the driver refuses. Nothing is left behind then.
    fn attach(self: Box<Self>, cluster_addresses: &[Prefix], table: Table) -> Result<Box<dyn Attached>, Failure>;
}

/// A device in service, whose frames nobody decides yet.
pub trait Attached {
    /// How frames come and go, in words.
    fn text(&self) -> String;

    /// What would be better here.
    fn advice(&self) -> Option<String> {
        None
    }

    /// Begins to dispatch.
    ///
    /// # Errors
    /// A thread cannot be started.
    fn start(self: Box<Self>, start: Start) -> Result<Box<dyn Dispatching>, Failure>;
}

/// What an engine begins with.
pub struct Start<'a> {
    pub plan: &'a Arc<Plan>,
    /// The core of each worker.
    pub cores: Vec<usize>,
    /// How many flows a worker remembers while slots move.
    pub flows: usize,
    pub reports: Reports,
}

/// The engine of a dispatcher, at work.
pub trait Dispatching: Engine {
    /// The way to what it counts, for any thread and any time.
    fn stats(&self) -> Stats;

    /// The privileges that the control thread needs for it.
    fn needs(&self) -> &'static [Capability];

    /// Gives the kernel all frames again, and finishes those that are on their way. Returns what the run came to.
    ///
    /// # Errors
    /// A thread ended in a panic.
    fn stop(self: Box<Self>) -> Result<Summary, Failure>;

    /// As `stop`, but leaves to another process what dispatches without this one.
    ///
    /// # Errors
    /// As `stop`.
    fn leave(self: Box<Self>) -> Result<Summary, Failure>;
}

/// Where the programs of a dispatcher are kept.
///
/// # Errors
/// An interface is not there.
pub fn places(dispatcher: &Dispatcher) -> Result<Vec<Place>, Failure> {
    let place = |name| Device::look(name).map(|(device, _)| device::place(&device, dispatcher));
    Ok(dispatcher.interfaces().map(place).collect::<Result<Vec<_>, _>>()?)
}

/// Whether all interfaces lend their memory to AF_XDP sockets.
fn has_zero_copy(dispatcher: &Dispatcher) -> Result<bool, Failure> {
    for interface in dispatcher.interfaces() {
        if !crate::port::af_xdp::has_zero_copy(interface)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The device that a configuration names, for the engine that it asks for.
///
/// # Errors
/// Whatever the device, or this build, is not fit for.
pub fn open(dispatcher: &Dispatcher, available_cores: &[usize]) -> Result<Box<dyn Opened>, Failure> {
    match dispatcher.engine {
        model::Engine::AfXdp => workers::open::<af_xdp::Interfaces>(dispatcher, available_cores),
        model::Engine::Xdp => kernel::open(dispatcher),
        model::Engine::Auto if has_zero_copy(dispatcher)? => {
            workers::open::<af_xdp::Interfaces>(dispatcher, available_cores)
        }
        model::Engine::Auto => kernel::open(dispatcher),
        #[cfg(feature = "dpdk")]
        model::Engine::Dpdk => workers::open::<crate::port::dpdk::Devices>(dispatcher, available_cores),
        #[cfg(not(feature = "dpdk"))]
        model::Engine::Dpdk => Err(format!("engine = \"dpdk\": {}", crate::port::NO_DPDK).into()),
    }
}
