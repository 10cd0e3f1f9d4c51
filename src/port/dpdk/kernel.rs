//! The way to the kernel and back, for what is not for a cluster address: ARP, neighbour discovery, ssh, health checks.
//!
//! A thread of its own stands between the workers and a tap, so that no worker makes a system call for a frame of the
//! kernel's, and a flood of such frames costs clients no more than a copy each. Frames cross in packets that are copied into and out of, so that
//! every mbuf stays with its worker. Each lane has a fixed number of them; when all are on their way, frames to the kernel are dropped
//! and counted, and frames from the kernel wait in the tap's own queue.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use caps::CapSet;
use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::error::DpdkError;
use super::ethdev;
use super::tap::{Tap, mac_of};
use crate::limits::{INTERFACE_LOOK, KERNEL_LANE};
use crate::model::Mac;

/// The bytes of a frame, in memory that is allocated once.
struct Packet {
    bytes: Box<[u8]>,
    length: usize,
}

/// Packets in one direction between two threads: empty ones one way, full ones the other.
struct Lane {
    empty: ArrayQueue<Packet>,
    full: ArrayQueue<Packet>,
}

impl Lane {
    fn new(room: usize) -> Lane {
        let (empty, full) = (ArrayQueue::new(KERNEL_LANE), ArrayQueue::new(KERNEL_LANE));
        for _ in 0..KERNEL_LANE {
            let _ = empty.push(Packet { bytes: vec![0; room].into(), length: 0 });
        }
        Lane { empty, full }
    }

    /// Sends what `fill` writes, which returns its length; `false` where no packet is left, or it wrote none.
    fn send(&self, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let Some(mut packet) = self.empty.pop() else { return false };
        let length = fill(&mut packet.bytes);
        packet.length = length.unwrap_or(0);
        let lane = if length.is_some() { &self.full } else { &self.empty };
        let _ = lane.push(packet);
        length.is_some()
    }

    /// Lends the next frame, if there is one.
    fn receive<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let packet = self.full.pop()?;
        let out = read(&packet.bytes[..packet.length]);
        let _ = self.empty.push(packet);
        Some(out)
    }
}

/// Wakes the thread, by a system call only if it sleeps.
struct Bell {
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Bell {
    fn ring(&self) {
        // Whoever sleeps has announced it before it looked for work for the last time (`Between::sleep`).
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}

/// A worker's end.
pub(super) struct End {
    to_kernel: Arc<Lane>,
    from_kernel: Option<Arc<Lane>>,
    bell: Arc<Bell>,
    refused: Arc<AtomicU64>,
}

impl End {
    /// How many frames it takes now.
    pub(super) fn room(&self) -> usize {
        self.to_kernel.empty.len()
    }

    /// A frame for the kernel; refused if it is longer than the tap's MTU allows or there is no room.
    pub(super) fn send(&self, frame: &[u8]) {
        let sent = self.to_kernel.send(|room| {
            room.get_mut(..frame.len())?.copy_from_slice(frame);
            Some(frame.len())
        });
        if !sent {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// After some frames.
    pub(super) fn ring(&self) {
        self.bell.ring();
    }

    /// The next frame that the kernel sends.
    #[inline]
    pub(super) fn receive<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let lane = self.from_kernel.as_ref()?;
        // One load, in the turns in which there is nothing.
        if lane.full.is_empty() { None } else { lane.receive(read) }
    }
}

/// The thread between. Ends when dropped.
pub(super) struct Way {
    refused: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Way {
    /// Between a port and the tap, which has a carrier while the port has a link; with an end for each of so many workers, the first of which gets
    /// what the kernel sends.
    pub(super) fn open(
        (port, tap): (ethdev::Port, Tap),
        workers: usize,
        room: usize,
    ) -> Result<(Way, Vec<End>), DpdkError> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let event = event.map_err(|reason| DpdkError::Thread(reason.into()))?;
        let bell = Arc::new(Bell { asleep: AtomicBool::new(false), event });
        let from_kernel = Arc::new(Lane::new(room));
        let refused = Arc::new(AtomicU64::new(0));
        let lanes: Vec<Arc<Lane>> = (0..workers).map(|_| Arc::new(Lane::new(room))).collect();
        let ends = lanes.iter().enumerate().map(|(worker, lane)| End {
            to_kernel: Arc::clone(lane),
            from_kernel: (worker == 0).then(|| Arc::clone(&from_kernel)),
            bell: Arc::clone(&bell),
            refused: Arc::clone(&refused),
        });
        let ends = ends.collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (bell_of, refused_by, stopped) = (Arc::clone(&bell), Arc::clone(&refused), Arc::clone(&stop));
        let (bell_, refused_, link) = (bell_of, refused_by, (true, Instant::now()));
        let between = Between { tap, port, link, lanes, from_kernel, bell: bell_, refused: refused_, stop: stopped };
        let thread = thread::Builder::new().name("oneip-kernel".into()).spawn(move || between.run());
        let thread = thread.map_err(DpdkError::Thread)?;
        Ok((Way { refused, stop, bell, thread: Some(thread) }, ends))
    }

    /// A count of the frames from the workers that did not reach the kernel, for any thread to read.
    pub(super) fn refused(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.refused)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.bell.event, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Between {
    tap: Tap,
    port: ethdev::Port,
    /// Whether the port had a link when it was looked last, and when that was.
    link: (bool, Instant),
    lanes: Vec<Arc<Lane>>,
    from_kernel: Arc<Lane>,
    bell: Arc<Bell>,
    refused: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Between {
    fn run(mut self) {
        // The tap is open: what follows takes no privilege.
        for set in [CapSet::Effective, CapSet::Permitted] {
            if let Err(error) = caps::clear(None, set) {
                tracing::warn!(%error, "a thread keeps privileges that it does not need");
            }
        }
        while !self.stop.load(Ordering::SeqCst) {
            if self.link.1.elapsed() >= INTERFACE_LOOK {
                self.follow_link();
            }
            if !self.carry() {
                self.sleep();
            }
        }
    }

    /// The kernel sees a carrier where the port has one, so that this host's own trouble is known for what it is.
    fn follow_link(&mut self) {
        let is_up = self.port.has_link().unwrap_or(true);
        if is_up != self.link.0
            && let Err(error) = self.tap.set_carrier(is_up)
        {
            let state = if is_up { "up again" } else { "down" };
            tracing::warn!("the link is {state}, which the tap cannot be told: {error}");
        }
        self.link = (is_up, Instant::now());
    }

    /// Whether there was anything to carry. A lane's worth each way at most, so that neither waits for the other for long.
    fn carry(&self) -> bool {
        let mut any = false;
        for lane in &self.lanes {
            for _ in 0..KERNEL_LANE {
                let Some(written) = lane.receive(|frame| self.tap.write(frame)) else { break };
                any = true;
                if let Err(error) = written {
                    // It is down (EIO), for one.
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%error, "the kernel does not accept a frame");
                }
            }
        }
        for _ in 0..KERNEL_LANE {
            if !self.from_kernel.send(|room| self.tap.read(room)) {
                break;
            }
            any = true;
        }
        any
    }

    /// Until there is something to carry.
    fn sleep(&self) {
        self.bell.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.lanes.iter().all(|lane| lane.full.is_empty()) && !self.stop.load(Ordering::SeqCst) {
            let mut waited = vec![PollFd::new(&self.bell.event, PollFlags::IN)];
            // While the worker has all packets, what the tap has can only wait, and so do we, for a moment.
            let crowded = self.from_kernel.empty.is_empty();
            if !crowded {
                waited.push(PollFd::from_borrowed_fd(self.tap.as_fd(), PollFlags::IN));
            }
            let most = if crowded { Duration::from_millis(1) } else { INTERFACE_LOOK };
            let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
            let _: Result<usize, _> = poll(&mut waited, Some(&most));
            // The interface was deleted, which poll does not wait for.
            if waited.get(1).is_some_and(|tap| tap.revents().contains(PollFlags::ERR)) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.bell.asleep.store(false, Ordering::SeqCst);
        let _: Result<usize, rustix::io::Errno> = rustix::io::read(&self.bell.event, &mut [0u8; 8]);
    }
}

/// Whether the kernel's own forwarding is off on an interface whose frames it sees too, and the interface is the port's.
pub(super) fn check_shared(interface: &str, port: &str, mac: Mac) -> Result<(), DpdkError> {
    let found = mac_of(interface);
    if found != Some(mac) {
        return Err(DpdkError::OtherInterface { interface: interface.into(), port: port.into(), mac, found });
    }
    for (family, key) in [("IPv4", "ipv4"), ("IPv6", "ipv6")] {
        let path = format!("/proc/sys/net/{key}/conf/{interface}/forwarding");
        let on = fs::read_to_string(path).map(|value| value.trim() != "0");
        if on.is_ok_and(|on| on) {
            let sysctl = format!("net.{key}.conf.{interface}.forwarding");
            return Err(DpdkError::Forwards { interface: interface.into(), family, sysctl });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_carries_in_order_what_fits_and_no_more_than_it_has_packets() {
        let lane = Lane::new(4);
        for n in 0..KERNEL_LANE {
            assert!(lane.send(|room| {
                room[0] = n as u8;
                Some(1)
            }));
        }
        assert!(!lane.send(|_| Some(1)), "no packet is left");
        for n in 0..KERNEL_LANE {
            assert_eq!(lane.receive(|frame| frame.to_vec()), Some(vec![n as u8]));
        }
        assert!(lane.receive(|_| ()).is_none() && !lane.send(|_| None) && lane.empty.len() == KERNEL_LANE);
    }
}
