//! XDP programs: loading them, attaching them to an interface, and what the interface must be like for that. One place for all
//! programs of `src/bpf`.
//!
//! - `device`: is there such an interface, and what is it like? (`ethtool`: what only its driver knows; `features`: what
//!   the kernel says of XDP there)
//! - `privileges`: may we?
//! - `attach`: how a program gets onto an interface
//! - `link`: how it stays there when the process is gone
//! - `program`: a program of a server, with its table and counters (`interface`: what it is on)
//! - `steer`: the program that decides which frames leave the kernel
//! - `dispatch`: the program that dispatches inside the kernel
//! - `memory`: a map's memory in this process (`ranges`: what of it is free)
//! - `probes`: the program that puts health checks into tunnels, where packets leave
//! - `cell`: of what tables for programs are made (`directory`: the part of them that finds services, with
//!   `prefixes`; `quic`: servers by connection IDs; `way`: the part
//!   that says what is put in front of packets)
//! - `error`: what can be in the way, and what to do about it

mod attach;
pub mod cell;
mod device;
pub mod directory;
pub mod dispatch;
mod error;
pub mod ethtool;
mod features;
pub mod interface;
pub mod link;
mod memory;
pub mod prefixes;
pub mod privileges;
pub mod probes;
pub mod program;
pub mod quic;
mod ranges;
mod steer;
mod way;

pub use attach::{Mode, attach, load, program, program_mut};
pub use device::{Device, FRAME_OFFSET, MEND_VETH, STAMP_ROOM, check_alike, cores as core_list, first_queues};
pub use error::XdpError;
pub(crate) use error::{os_error, with_causes};
pub use ethtool::driver;
pub use features::Features;
pub use steer::{Action, Heartbeat, Net, Steer, SteerCounters, SteerCounts};

use crate::limits::KERNEL_RELEASE;
use std::thread;
use std::time::{Duration, Instant};

/// Tries again for `KERNEL_RELEASE` what a socket or program stands in the way of: those of a process that has just ended, our own
/// predecessor for one, go a moment after it.
pub fn when_released<T, E>(mut attempt: impl FnMut() -> Result<T, E>, is_taken: impl Fn(&E) -> bool) -> Result<T, E> {
    const PAUSE: Duration = Duration::from_millis(10);
    let give_up = Instant::now() + KERNEL_RELEASE;
    loop {
        match attempt() {
            Err(error) if is_taken(&error) && Instant::now() < give_up => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}
