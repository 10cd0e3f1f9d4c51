//! A port per queue of a network device, over AF_XDP: frames to a cluster address go past the kernel, into memory that the
//! worker polls, and out again from there.
//!
//! In the order in which a device is taken into service:
//!
//! - `privileges`: may we?
//! - `device`: is there such an interface, and what is it like? (`ethtool`: what only its driver knows)
//! - `steer`: the XDP program that decides which frames are ours; `attach`: how a program gets onto a device
//! - `rings`: the memory and the rings of a queue; `port`: the queue as the worker sees it
//! - `error`: what can be in the way, and what to do about it

mod attach;
mod device;
mod error;
mod ethtool;
mod port;
mod privileges;
mod rings;
mod steer;

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

pub use attach::{Mode, attach, load};
pub use device::Device;
#[cfg(feature = "dpdk")]
pub(super) use device::cores as core_list;
pub use error::AfXdpError;
pub(crate) use error::{os_error, with_causes};
pub use ethtool::driver;
pub use port::{AfXdp, Losses};
pub use rings::{Frame, Transfer};
pub use steer::{Action, Steer, SteerCounters, SteerCounts};

use crate::limits::RELEASE;

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
/// Missing privileges; or the interface does not exist, is not Ethernet, is down, lacks transmit queues, or has too large an
/// MTU.
pub fn open(interface: &str) -> Result<Device, AfXdpError> {
    privileges::check(interface)?;
    privileges::raise_memory_lock_limit();
    Device::read(interface)
}

impl Device {
    /// Takes one queue into service to send on, and leaves what is received to whoever has it.
    ///
    /// # Errors
    ///
    /// The memory cannot be locked, the queue is busy, or the kernel refuses for a reason of its own.
    pub fn bind(&self, queue: u32) -> Result<AfXdp, AfXdpError> {
        AfXdp::bind(self, queue)
    }

    /// Takes every queue of the device into service. The ports are ready before the first frame is taken from the kernel.
    ///
    /// # Errors
    ///
    /// The memory cannot be locked, a queue is busy, another XDP program is attached, or the kernel refuses for a reason of
    /// its own. Nothing is left behind then.
    pub fn attach(&self, addresses: &[IpAddr]) -> Result<Attached, AfXdpError> {
        if self.strips_vlan_tags == Some(true) {
            let interface = &self.interface;
            tracing::warn!(
                %interface,
                "VLAN tags are taken out of received frames: frames from a VLAN will be sent on without their tag; \
                 if there are VLANs here: ethtool -K {interface} rxvlan off"
            );
        }
        let mut steer = Steer::load(self.mac, self.queues)?;
        steer.set_cluster_addresses(addresses)?;
        let mut ports = Vec::with_capacity(self.queues as usize);
        for queue in 0..self.queues {
            let port = AfXdp::bind(self, queue)?;
            steer.add_socket(queue, port.socket())?;
            ports.push(port);
        }
        let mode = steer.attach(self)?;
        Ok(Attached { steer, mode, ports })
    }
}

/// Tries again for `RELEASE` what a socket or program stands in the way of: those of a process that has just ended, our own
/// predecessor for one, go a moment after it.
fn when_released<T, E>(mut attempt: impl FnMut() -> Result<T, E>, is_taken: impl Fn(&E) -> bool) -> Result<T, E> {
    const PAUSE: Duration = Duration::from_millis(10);
    let give_up = Instant::now() + RELEASE;
    loop {
        match attempt() {
            Err(error) if is_taken(&error) && Instant::now() < give_up => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}
