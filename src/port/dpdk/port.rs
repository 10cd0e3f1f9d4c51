//! One queue as a `Port`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::clock::Clock;
use super::ethdev;
use super::frames::{Frame, Queue};
use super::kernel::End;
use crate::limits::{BURST, DRAIN};
use crate::model::Mac;
use crate::port::{Burst, Ledger, Port};

/// Where frames go that are not for a cluster address.
pub(super) enum Passing {
    /// Through a tap.
    Tap(End),
    /// The kernel has a copy of every frame.
    Seen,
    /// Nowhere: they are dropped.
    Nowhere,
}

/// A queue of a device. The device is closed when all its queues have gone.
pub struct Dpdk {
    queue: Queue,
    /// The device's own, in the upper six bytes of a little-endian word.
    mac: u64,
    clock: Clock,
    /// When the device was last asked for frames, in ticks and in nanoseconds.
    asked: u64,
    asked_ns: u64,
    /// Frames to send that the device had no room for.
    pending: Burst<Frame>,
    lent: usize,
    /// Frames that the device has taken to send them.
    left: u64,
    passing: Passing,
    received: Arc<AtomicU64>,
}

impl Dpdk {
    pub(super) fn new(queue: Queue, mac: Mac, passing: Passing) -> Dpdk {
        Dpdk {
            queue,
            mac: upper(mac.0),
            clock: Clock::new(),
            asked: ethdev::ticks(),
            asked_ns: 0,
            pending: Burst::new(),
            lent: 0,
            left: 0,
            passing,
            received: Arc::default(),
        }
    }

    /// The queue's number on the device.
    pub fn queue(&self) -> u16 {
        self.queue.number()
    }

    pub(super) fn device(&self) -> ethdev::Port {
        self.queue.port()
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
        if !self.pending.is_empty() {
            self.send_pending();
        }
        let Passing::Tap(end) = &self.passing else { return };
        let before = self.pending.len();
        while !self.pending.is_full()
            && let Some(frame) = end.receive(|bytes| self.queue.make(bytes))
        {
            // Without an mbuf the frame is lost, as on a link that is overrun.
            self.pending.extend(frame);
        }
        if self.pending.len() > before {
            self.send_pending();
        }
    }

    #[inline]
    fn send_pending(&mut self) {
        let before = self.pending.len();
        self.queue.send(&mut self.pending);
        self.left += (before - self.pending.len()) as u64;
    }
}

fn upper(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([0, 0, a, b, c, d, e, f])
}

impl Drop for Dpdk {
    /// What waits to be sent is counted as forwarded: it gets the time that a stop has anyway.
    fn drop(&mut self) {
        let give_up = Instant::now() + DRAIN;
        while !self.pending.is_empty() && Instant::now() < give_up {
            self.queue.send(&mut self.pending);
        }
        self.queue.free(&mut self.pending);
        if self.lent > 0 {
            self.queue.leak();
        }
    }
}

impl Port for Dpdk {
    type Frame = Frame;

    const PASSES: bool = true;

    #[inline]
    fn service(&mut self) {
        self.queue.settle();
        self.clock.keep(self.asked);
        self.send_for_kernel();
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Frame>) {
        self.asked = ethdev::ticks();
        self.asked_ns = self.clock.at(self.asked);
        let received = self.queue.receive(burst);
        self.lent += received;
        // The only writer: no read-modify-write.
        self.received.store(self.received.load(Relaxed) + received as u64, Relaxed);
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.queue.bytes(frame)
    }

    #[inline]
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.queue.bytes_mut(frame)
    }

    #[inline]
    fn prepend(&mut self, frame: &mut Frame, len: usize) {
        self.queue.prepend(frame, len);
    }

    #[inline]
    fn strip(&mut self, frame: &mut Frame, len: usize) {
        self.queue.strip(frame, len);
    }

    #[inline]
    fn resize(&mut self, frame: &mut Frame, len: usize) {
        self.queue.resize(frame, len);
    }

    fn blank(&mut self, _with: &Frame, len: usize) -> Option<Frame> {
        let frame = self.queue.blank(len)?;
        self.lent += 1;
        Some(frame)
    }

    /// A device says nothing of each frame. The device does to all other frames what XDP's steer would: only what has its
    /// own MAC is for a worker.
    #[inline]
    fn is_ours(&self, frame: &Frame) -> bool {
        // Two bytes more than the address, in one word; what is shorter is no frame.
        self.queue.bytes(frame).first_chunk().is_some_and(|head| u64::from_le_bytes(*head) << 16 == self.mac)
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

    /// A ring's room cannot be asked for, but a burst's worth may always wait here.
    #[inline]
    fn room(&mut self, _link: usize) -> usize {
        BURST - self.pending.len()
    }

    #[inline]
    fn tx(&mut self, _link: usize, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        if self.pending.is_empty() {
            let before = burst.len();
            self.queue.send(burst);
            self.left += (before - burst.len()) as u64;
        }
        if !burst.is_empty() {
            self.pending.extend(burst.drain(..));
            self.send_pending();
        }
    }

    #[inline]
    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        self.queue.free(burst);
    }

    fn pass_room(&mut self) -> usize {
        match &self.passing {
            Passing::Tap(end) => end.room(),
            Passing::Seen => usize::MAX,
            Passing::Nowhere => 0,
        }
    }

    fn pass(&mut self, burst: &mut Burst<Frame>) {
        if let Passing::Tap(end) = &self.passing
            && !burst.is_empty()
        {
            burst.iter().for_each(|frame| end.send(self.queue.bytes(frame)));
            end.ring();
        }
        self.free(burst);
    }

    /// Idle is what the pool counts, and what is neither there nor lent must be in the device: a frame that went astray shows as one
    /// that never leaves it, and when the device is closed it is missed.
    fn ledger(&self) -> Ledger {
        let (total, idle) = (self.queue.total() as usize, self.queue.idle() as usize);
        let (in_device, sending) = (total.saturating_sub(idle + self.lent), self.pending.len());
        Ledger { total, idle, lent: self.lent, in_device, sending, left: self.left }
    }
}
