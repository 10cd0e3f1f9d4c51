//! One queue as a `Port`: keeps account of where the frames are, and moves them between the rings.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rustix::io::{Errno, pread};
use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};

use super::privileges;
use super::rings::{BindFailure, Frame, Rings, Transfer};
use crate::limits::{BEAT_TURNS, QUEUE_FRAMES};
use crate::port::{Burst, Ledger, Port};
use crate::xdp::Device;
use crate::xdp::Heartbeat;
use crate::xdp::XdpError;
use crate::xdp::when_released;

/// A queue of a device. Dropping it gives the queue back to the kernel, a moment later.
pub struct AfXdp {
    queue: u32,
    rings: Rings,
    idle: Vec<Frame>,
    lent: usize,
    receiving: usize,
    sending: usize,
    left: u64,
    /// Says whether the device has a carrier, if the kernel does.
    carrier: Option<File>,
    /// It has none, and would lose what it is given: until it has one again, nothing is.
    link_down: bool,
    socket: Arc<OwnedFd>,
    lost: Arc<AtomicU64>,
    /// Says that the queue's worker turns, if somebody wants to know.
    heartbeat: Option<Heartbeat>,
    turns: u32,
}

impl AfXdp {
    /// Binds the queue and gives the kernel frames to receive into.
    pub(super) fn bind(device: &Device, queue: u32) -> Result<AfXdp, XdpError> {
        let chunk = device.chunk().expect("`open` has asked");
        let attempt = || Rings::bind(&device.interface, queue, chunk);
        // The memory of a socket that went counts as locked until the kernel has come round to releasing it.
        let is_taken = |failure: &BindFailure| match failure {
            BindFailure::Memory(reason) => is(reason, Errno::NOBUFS),
            BindFailure::Socket(reason) => is(reason, Errno::BUSY),
        };
        let (rings, idle) = when_released(attempt, is_taken).map_err(|failure| explain(failure, device, queue))?;
        let socket = rings.socket().try_clone_to_owned();
        let socket = socket.map_err(|reason| XdpError::Bind { interface: device.interface.clone(), queue, reason })?;
        let mut port = AfXdp {
            queue,
            rings,
            idle,
            lent: 0,
            receiving: 0,
            sending: 0,
            left: 0,
            carrier: device.carrier(),
            link_down: false,
            socket: Arc::new(socket),
            lost: Arc::new(AtomicU64::new(0)),
            heartbeat: None,
            turns: 0,
        };
        port.service();
        Ok(port)
    }

    /// The queue's number on the device.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Lends a frame of `len` bytes to be written and sent, with what it last held in it; `None`: all are under way.
    ///
    /// # Panics
    ///
    /// A frame at the device's MTU is shorter.
    pub fn blank(&mut self, len: usize) -> Option<Frame> {
        let mut frame = self.idle.pop()?;
        self.lent += 1;
        self.rings.set_len(&mut frame, len);
        Some(frame)
    }

    pub fn transfer(&self) -> Transfer {
        self.rings.transfer()
    }

    /// Whether its frames are in huge pages: where the host has some reserved (`vm.nr_hugepages`) that nobody has.
    pub fn in_huge_pages(&self) -> bool {
        self.rings.in_huge_pages()
    }

    /// A reader of the frames that this queue loses.
    pub fn losses(&self) -> Losses {
        Losses { socket: Arc::downgrade(&self.socket), lost: Arc::clone(&self.lost) }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// From here on each `BEAT_TURNS`th call of `service` is told there.
    pub(super) fn set_heartbeat(&mut self, heartbeat: Heartbeat) {
        self.heartbeat = Some(heartbeat);
    }

    /// By the coarse clock, which costs a few nanoseconds, and stands still for milliseconds: so the program, which reads this for every
    /// frame, mostly finds the cache line as it was.
    fn beat(&mut self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat(nanoseconds(ClockId::MonotonicCoarse));
        }
    }

    #[inline]
    fn kick(&mut self) {
        if self.rings.kick() {
            self.link_down = !self.has_carrier();
        }
    }

    /// By a system call: only where a frame was lost already, or nothing can be sent.
    #[cold]
    fn has_carrier(&self) -> bool {
        let mut said = [0];
        let read = self.carrier.as_ref().map(|carrier| pread(carrier, &mut said, 0));
        // Of a device that is down the kernel does not say, and loses nothing.
        !matches!(read, Some(Ok(1))) || said != *b"0"
    }
}

impl Drop for AfXdp {
    fn drop(&mut self) {
        self.losses().total();
    }
}

impl Port for AfXdp {
    type Frame = Frame;

    const PASSES: bool = false;

    #[inline]
    fn service(&mut self) {
        let reaped = self.rings.reap(&mut self.idle);
        self.sending -= reaped;
        self.left += reaped as u64;
        self.receiving += self.rings.refill(&mut self.idle);
        if self.link_down {
            self.link_down = !self.has_carrier();
        }
        if self.sending > 0 && !self.link_down {
            self.kick();
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(BEAT_TURNS) {
            self.beat();
        }
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Frame>) {
        let received = self.rings.receive(burst);
        self.receiving -= received;
        self.lent += received;
        if let Some(heartbeat) = self.heartbeat.as_mut().filter(|_| received > 0) {
            heartbeat.take();
        }
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.rings.bytes(frame)
    }

    #[inline]
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.rings.bytes_mut(frame)
    }

    /// A descriptor of xsk-rs keeps the address that it has, so the frame moves back within its chunk. There is room: with the headers it is
    /// no longer than the device's MTU allows, and a chunk holds that.
    #[inline]
    fn prepend(&mut self, frame: &mut Frame, len: usize) {
        let end = self.rings.bytes(frame).len();
        self.rings.set_len(frame, end + len);
        self.rings.bytes_mut(frame).copy_within(..end, len);
    }

    /// As `prepend`.
    #[inline]
    fn strip(&mut self, frame: &mut Frame, len: usize) {
        let bytes = self.rings.bytes_mut(frame);
        let end = bytes.len();
        bytes.copy_within(len.., 0);
        self.rings.set_len(frame, end - len);
    }

    #[inline]
    fn resize(&mut self, frame: &mut Frame, len: usize) {
        self.rings.set_len(frame, len);
    }

    fn blank(&mut self, _with: &Frame, len: usize) -> Option<Frame> {
        AfXdp::blank(self, len)
    }

    /// The time that steer stamped: CLOCK_MONOTONIC when the driver's receive loop came to the frame.
    #[inline]
    fn arrival(&mut self, frame: &mut Frame) -> u64 {
        self.rings.take_stamp(frame)
    }

    /// CLOCK_MONOTONIC, which is what `bpf_ktime_get_ns` reads.
    #[inline]
    fn now(&self) -> u64 {
        nanoseconds(ClockId::Monotonic)
    }

    #[inline]
    fn room(&mut self) -> usize {
        if self.link_down { 0 } else { self.rings.room() }
    }

    #[inline]
    fn tx(&mut self, burst: &mut Burst<Frame>) {
        if burst.is_empty() {
            return;
        }
        self.lent -= burst.len();
        self.sending += burst.len();
        self.rings.send(burst);
        self.kick();
    }

    #[inline]
    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        self.idle.extend(burst.drain(..));
    }

    fn ledger(&self) -> Ledger {
        Ledger {
            total: QUEUE_FRAMES,
            idle: self.idle.len(),
            lent: self.lent,
            in_device: self.receiving + self.sending,
            // While the link is down nothing can leave, and nothing is stuck.
            sending: if self.link_down { 0 } else { self.sending },
            left: self.left,
        }
    }
}

/// Frames that steer redirected to a queue and that the queue had no room for (drop reason `rx_full`). Readable from any
/// thread, and after the port is gone too.
#[derive(Clone)]
pub struct Losses {
    // Weak: a reader does not keep the queue busy.
    socket: Weak<OwnedFd>,
    lost: Arc<AtomicU64>,
}

impl Losses {
    /// Since the port was bound. Every frame redirected is received by the port, waits for it in the ring, or is counted here.
    ///
    /// `rx_dropped` is frames for which the fill ring had nothing, or that were larger than a chunk; `rx_ring_full` is
    /// frames that were copied already (xsk_rcv and __xsk_rcv, net/xdp/xsk.c). `rx_fill_ring_empty_descs` counts some of the
    /// first kind again and is left out.
    pub fn total(&self) -> u64 {
        if let Some(Ok(counts)) = self.socket.upgrade().map(sockopt::xdp_statistics) {
            let lost = counts.rx_dropped + counts.rx_ring_full.unwrap_or(0);
            self.lost.fetch_max(lost, Ordering::Relaxed);
        }
        self.lost.load(Ordering::Relaxed)
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn is(reason: &io::Error, code: Errno) -> bool {
    Errno::from_io_error(reason) == Some(code)
}

fn explain(failure: BindFailure, device: &Device, queue: u32) -> XdpError {
    let interface = device.interface.clone();
    match failure {
        BindFailure::Memory(reason) | BindFailure::Socket(reason) if is(&reason, Errno::AFNOSUPPORT) => {
            XdpError::NoAfXdp
        }
        BindFailure::Memory(reason) | BindFailure::Socket(reason) if is(&reason, Errno::PERM) => {
            privileges::refused(interface, &reason)
        }
        BindFailure::Memory(reason) => {
            let kib = QUEUE_FRAMES * device.chunk().unwrap_or_default() as usize / 1024;
            XdpError::MemoryLock { interface, queue, kib, reason }
        }
        BindFailure::Socket(reason) if is(&reason, Errno::BUSY) => XdpError::QueueBusy { interface, queue },
        BindFailure::Socket(reason) if is(&reason, Errno::NETDOWN) => XdpError::Down { interface },
        BindFailure::Socket(reason) => XdpError::Bind { interface, queue, reason },
    }
}
