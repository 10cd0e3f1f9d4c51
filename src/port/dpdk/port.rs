//! A worker's queues, one of each device, as a `Port`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::clock::Clock;
use super::ethdev;
use super::frames::{Frame, Queues};
use super::kernel::End;
use crate::limits::{BURST, DRAIN, MAX_INTERFACES};
use crate::model::Mac;
use crate::port::{Burst, Ledger, Port};
use arrayvec::ArrayVec;

/// Where frames go that are not for a cluster address.
pub(super) enum Passing {
    /// Through a tap.
    Tap(End),
    /// The kernel has a copy of every frame.
    Seen,
    /// Nowhere: they are dropped.
    Nowhere,
}

/// A queue of each device. The devices are closed when all their queues have gone.
pub struct Dpdk {
    queues: Queues,
    links: ArrayVec<Link, MAX_INTERFACES>,
    /// The one that is asked for frames first: each has its turns.
    first: usize,
    clock: Clock,
    /// When the devices were last asked for frames, in ticks and in nanoseconds.
    asked: u64,
    asked_ns: u64,
    lent: usize,
    /// Frames that a device has taken to send them.
    left: u64,
    received: Arc<AtomicU64>,
}

/// What belongs to one of the devices.
pub(super) struct Link {
    /// The device's own, in the upper six bytes of a little-endian word.
    mac: u64,
    /// Frames to send that the device had no room for.
    pending: Burst<Frame>,
    passing: Passing,
}

impl Link {
    pub(super) fn new(mac: Mac, passing: Passing) -> Link {
        let [a, b, c, d, e, f] = mac.0;
        Link { mac: u64::from_le_bytes([0, 0, a, b, c, d, e, f]), pending: Burst::new(), passing }
    }
}

impl Dpdk {
    pub(super) fn new(queues: Queues, links: impl IntoIterator<Item = Link>) -> Dpdk {
        Dpdk {
            queues,
            links: links.into_iter().collect(),
            first: 0,
            clock: Clock::new(),
            asked: ethdev::ticks(),
            asked_ns: 0,
            lent: 0,
            left: 0,
            received: Arc::default(),
        }
    }

    /// The queues' number on each device.
    pub fn queue(&self) -> u16 {
        self.queues.number()
    }

    /// A count of the frames received, for any thread to read.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// A turn without a worker: all that is received goes the kernel's way. Whether there was anything.
    pub(super) fn relay(&mut self) -> bool {
        let mut burst = Burst::new();
        self.send_for_kernel();
        self.rx(&mut burst);
        let any = !burst.is_empty();
        let mut beyond: Burst<Frame> = burst.drain(self.pass_room().min(burst.len())..).collect();
        self.pass(&mut burst);
        self.free(&mut beyond);
        any
    }

    /// Sends what had no room before, and then what the kernel sends.
    #[inline]
    fn send_for_kernel(&mut self) {
        for at in 0..self.links.len() {
            if !self.links[at].pending.is_empty() {
                self.send_pending(at);
            }
            let Link { passing: Passing::Tap(end), pending, .. } = &mut self.links[at] else { continue };
            let before = pending.len();
            while !pending.is_full()
                && let Some(frame) = end.receive(|bytes| self.queues.make(bytes))
            {
                // Without an mbuf the frame is lost, as on a link that is overrun.
                pending.extend(frame);
            }
            if pending.len() > before {
                self.send_pending(at);
            }
        }
    }

    #[inline]
    fn send_pending(&mut self, link: usize) {
        let pending = &mut self.links[link].pending;
        let before = pending.len();
        self.queues.send(link, pending);
        self.left += (before - pending.len()) as u64;
    }
}

impl Drop for Dpdk {
    /// What waits to be sent is counted as forwarded: it gets the time that a stop has anyway.
    fn drop(&mut self) {
        let give_up = Instant::now() + DRAIN;
        while self.links.iter().any(|link| !link.pending.is_empty()) && Instant::now() < give_up {
            for (at, Link { pending, .. }) in self.links.iter_mut().enumerate().filter(|(_, it)| !it.pending.is_empty())
            {
                self.queues.send(at, pending);
            }
        }
        self.links.iter_mut().for_each(|link| self.queues.free(&mut link.pending));
        if self.lent > 0 {
            self.queues.leak();
        }
    }
}

impl Port for Dpdk {
    type Frame = Frame;

    const PASSES: bool = true;

    #[inline]
    fn service(&mut self) {
        self.queues.settle();
        self.clock.keep(self.asked);
        self.send_for_kernel();
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Frame>) {
        self.asked = ethdev::ticks();
        self.asked_ns = self.clock.at(self.asked);
        let (links, before) = (self.links.len(), burst.len());
        let mut link = self.first;
        for _ in 0..links {
            self.queues.receive(link, burst);
            link = if link + 1 == links { 0 } else { link + 1 };
        }
        self.first = if self.first + 1 == links { 0 } else { self.first + 1 };
        let received = burst.len() - before;
        self.lent += received;
        // The only writer: no read-modify-write.
        self.received.store(self.received.load(Relaxed) + received as u64, Relaxed);
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.queues.bytes(frame)
    }

    #[inline]
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.queues.bytes_mut(frame)
    }

    #[inline]
    fn reshape<'a>(&'a mut self, frame: &'a mut Frame, front: isize, len: usize) -> &'a mut [u8] {
        self.queues.reshape(frame, front, len);
        self.queues.bytes_mut(frame)
    }

    fn blank(&mut self, with: &Frame, len: usize) -> Option<Frame> {
        let mut frame = self.queues.blank(len)?;
        let link = self.queues.link(with);
        self.queues.set_link(&mut frame, link);
        self.lent += 1;
        Some(frame)
    }

    /// A device says nothing of each frame. The device does to all other frames what XDP's steer would: only what has its
    /// own MAC is for a worker.
    #[inline]
    fn is_ours(&self, frame: &Frame) -> bool {
        // Two bytes more than the address, in one word; what is shorter is no frame.
        let mac = self.links[self.queues.link(frame)].mac;
        self.queues.bytes(frame).first_chunk().is_some_and(|head| u64::from_le_bytes(*head) << 16 == mac)
    }

    /// When the device was asked for the burst. How long a frame had waited in its ring then, nobody knows.
    #[inline]
    fn arrival(&mut self, _frame: &mut Frame) -> u64 {
        self.asked_ns
    }

    /// CLOCK_MONOTONIC, by the time stamp counter.
    #[inline]
    fn now(&self) -> u64 {
        self.clock.now()
    }

    #[inline(always)]
    fn links(&self) -> usize {
        self.links.len()
    }

    #[inline(always)]
    fn link(&self, frame: &Frame) -> usize {
        self.queues.link(frame)
    }

    /// A ring's room cannot be asked for, but a burst's worth may always wait here.
    #[inline]
    fn room(&mut self, link: usize) -> usize {
        BURST - self.links[link].pending.len()
    }

    #[inline]
    fn tx(&mut self, link: usize, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        if self.links[link].pending.is_empty() {
            let before = burst.len();
            self.queues.send(link, burst);
            self.left += (before - burst.len()) as u64;
        }
        if !burst.is_empty() {
            self.links[link].pending.extend(burst.drain(..));
            self.send_pending(link);
        }
    }

    #[inline]
    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        self.queues.free(burst);
    }

    fn pass_room(&mut self) -> usize {
        let room = |link: &Link| match &link.passing {
            Passing::Tap(end) => end.room(),
            Passing::Seen => usize::MAX,
            Passing::Nowhere => 0,
        };
        // What finds no room on the way of its own link is counted there.
        self.links.iter().map(room).max().unwrap_or(0)
    }

    fn pass(&mut self, burst: &mut Burst<Frame>) {
        for frame in &*burst {
            if let Passing::Tap(end) = &self.links[self.queues.link(frame)].passing {
                end.send(self.queues.bytes(frame));
            }
        }
        for link in self.links.iter().filter(|_| !burst.is_empty()) {
            if let Passing::Tap(end) = &link.passing {
                end.ring();
            }
        }
        self.free(burst);
    }

    /// Idle is what the pool counts, and what is neither there nor lent must be in the device: a frame that went astray shows as one
    /// that never leaves it, and when the device is closed it is missed.
    fn ledger(&self) -> Ledger {
        let (total, idle) = (self.queues.total() as usize, self.queues.idle() as usize);
        let in_device = total.saturating_sub(idle + self.lent);
        let sending = self.links.iter().map(|link| link.pending.len()).sum();
        Ledger { total, idle, lent: self.lent, in_device, sending, left: self.left }
    }
}
