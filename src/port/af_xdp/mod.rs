//! Queues of network devices, over AF_XDP: frames to a cluster address go past the kernel, into memory that the
//! worker polls, and out again from there.
//!
//! In the order in which a device is taken into service:
//!
//! - `memory`: where the frames of a port lie; `ring`, `rings`: the socket of a queue; `port`: queues as the worker sees them
//!
//! The interface and the XDP program that decides which frames are ours are in `crate::xdp`.

mod memory;
mod port;
mod ring;
mod rings;

use crate::model::Prefix;
use std::slice;

pub use memory::Frame;
pub use port::{AfXdp, Losses};
pub use rings::Transfer;

use crate::xdp::{Device, Mode, Steer, XdpError, first_queues, privileges};

/// A device in service: from here on its frames to a cluster address come to the ports.
///
/// To stop, drop `steer` first, so that the kernel has all frames again, and then the ports.
pub struct Attached {
    pub steer: Steer,
    pub mode: Mode,
    /// One a queue, in the order of the queues.
    pub ports: Vec<AfXdp>,
}

/// Looks at an interface, and checks that it and this process are fit for AF_XDP. Changes nothing on the device; raises the
/// process's limit on locked memory.
///
/// # Errors
///
/// Missing privileges; or the interface does not exist, is not Ethernet, is down, or has too large an MTU.
pub fn open(interface: &str) -> Result<Device, XdpError> {
    privileges::check(interface, &privileges::SOCKETS)?;
    privileges::raise_memory_lock_limit();
    let device = Device::read(interface)?;
    device.check_for_sockets()?;
    Ok(device)
}

/// Whether the driver of an interface lends its own memory on every queue. Binds a socket to each, and closes it again.
///
/// # Errors
///
/// As `open`, or a socket cannot be bound.
pub fn has_zero_copy(interface: &str) -> Result<bool, XdpError> {
    let device = open(interface)?;
    for queue in 0..device.queues {
        if device.bind(queue)?.transfer() != Transfer::ZeroCopy {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Device {
    /// Takes one queue into service to send on, and leaves what is received to whoever has it.
    ///
    /// # Errors
    ///
    /// The memory cannot be locked, the queue is busy, or the kernel refuses for a reason of its own.
    pub fn bind(&self, queue: u32) -> Result<AfXdp, XdpError> {
        AfXdp::bind(slice::from_ref(self), &[(0, queue)])
    }

    /// Takes every queue of the device into service. The ports are ready before the first frame is taken from the kernel.
    ///
    /// # Errors
    ///
    /// The memory cannot be locked, a queue is busy, another XDP program is attached, or the kernel refuses for a reason of
    /// its own. Nothing is left behind then.
    pub fn attach(&self, addresses: &[Prefix]) -> Result<Attached, XdpError> {
        let (mut steer, ports) = self.prepare(Steer::load(self.mac, self.queues)?, addresses)?;
        let mode = steer.attach(self)?;
        Ok(Attached { steer, mode, ports })
    }

    /// Gives every queue its ring, of a program that is not attached yet.
    ///
    /// # Errors
    ///
    /// As `attach`.
    pub fn prepare(&self, steer: Steer, addresses: &[Prefix]) -> Result<(Steer, Vec<AfXdp>), XdpError> {
        let workers: Vec<_> = (0..self.queues).map(|queue| vec![(0, queue)]).collect();
        prepare(slice::from_ref(self), &workers, steer, addresses)
    }
}

/// As `Device::prepare`, for several interfaces. `workers` are the queues of each port, each of the interface at a position of `devices`; a
/// port has one of each interface at least.
///
/// # Errors
///
/// As `Device::attach`.
pub fn prepare(
    devices: &[Device],
    workers: &[Vec<(usize, u32)>],
    mut steer: Steer,
    addresses: &[Prefix],
) -> Result<(Steer, Vec<AfXdp>), XdpError> {
    steer.set_cluster_addresses(addresses)?;
    let firsts = first_queues(devices);
    let mut ports = Vec::with_capacity(workers.len());
    for queues in workers {
        let mut port = AfXdp::bind(devices, queues)?;
        port.set_heartbeats(queues.iter().map(|(at, queue)| steer.heartbeat(firsts[*at] + queue)));
        for (at, queue, socket) in port.sockets() {
            steer.add_socket(firsts[at] + queue, socket)?;
        }
        ports.push(port);
    }
    Ok((steer, ports))
}
