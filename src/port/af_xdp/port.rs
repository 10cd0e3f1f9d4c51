//! Queues of one interface or several as a `Port`: keeps account of where the frames are, and moves them between the rings.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rustix::io::{Errno, pread};
use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};

use super::memory::{Arena, Frame};
use super::privileges;
use super::rings::{self, Rings, Transfer};
use crate::limits::{BEAT_TURNS, MAX_PORT_QUEUES, QUEUE_FRAMES};
use crate::port::{Burst, Ledger, Port};
use crate::xdp::Device;
use crate::xdp::Heartbeat;
use crate::xdp::XdpError;
use crate::xdp::when_released;

/// Queues of interfaces, with one memory. Dropping it gives the queues back to the kernel, a moment later.
pub struct AfXdp {
    arena: Arena,
    queues: Vec<Queue>,
    /// By link: the queue by which frames leave there.
    ways_out: Vec<usize>,
    /// The queue that is asked for frames first in this turn: each has its turns.
    first: usize,
    idle: Vec<Frame>,
    lent: usize,
    turns: u32,
}

/// One of them.
struct Queue {
    /// The position of its interface among the dispatcher's.
    link: usize,
    /// Its number on that.
    number: u32,
    rings: Rings,
    receiving: usize,
    sending: usize,
    left: u64,
    /// Says whether the interface has a carrier, if the kernel does.
    carrier: Option<File>,
    /// It has none, and would lose what it is given: until it has one again, nothing is.
    link_down: bool,
    lost: Arc<AtomicU64>,
    /// Says that the queue's worker turns, if somebody wants to know.
    heartbeat: Option<Heartbeat>,
}

/// Why there are no rings.
enum BindFailure {
    /// The kernel does not let us have the memory.
    Memory(io::Error),
    /// Nor a socket on the queue at this position.
    Socket(usize, io::Error),
}

type Bound = (Arena, Vec<Rings>, Vec<Frame>);

impl AfXdp {
    /// Binds queues, each of the interface at a position of `devices`, and gives the kernel frames to receive into. There is one of each
    /// interface at least.
    pub(super) fn bind(devices: &[Device], queues: &[(usize, u32)]) -> Result<AfXdp, XdpError> {
        assert!(queues.len() <= MAX_PORT_QUEUES, "whoever shares queues out sees to that");
        // The memory of a socket that went counts as locked until the kernel has come round to releasing it.
        let is_taken = |failure: &BindFailure| match failure {
            BindFailure::Memory(reason) => is(reason, Errno::NOBUFS),
            BindFailure::Socket(_, reason) => is(reason, Errno::BUSY),
        };
        let bound = when_released(|| bind(devices, queues), is_taken);
        let (arena, rings, idle) = bound.map_err(|failure| explain(failure, devices, queues))?;
        let mut port = AfXdp {
            arena,
            queues: Vec::with_capacity(queues.len()),
            ways_out: Vec::new(),
            first: 0,
            idle,
            lent: 0,
            turns: 0,
        };
        for (rings, (link, number)) in rings.into_iter().zip(queues) {
            port.queues.push(Queue::new(rings, *link, *number, &devices[*link]));
        }
        let way_out = |link| queues.iter().position(|(of, _)| *of == link).expect("a queue of each interface");
        port.ways_out = (0..devices.len()).map(way_out).collect();
        port.service();
        Ok(port)
    }

    /// Lends a frame of `len` bytes to be written and sent, with what it last held in it; `None`: all are under way.
    ///
    /// # Panics
    ///
    /// A frame at the device's MTU is shorter.
    pub fn blank(&mut self, len: usize) -> Option<Frame> {
        let mut frame = self.idle.pop()?;
        self.lent += 1;
        self.arena.reshape(&mut frame, 0, len);
        Some(frame)
    }

    pub fn transfer(&self) -> Transfer {
        self.queues[0].rings.transfer()
    }

    /// Whether its frames are in huge pages: where the host has some reserved (`vm.nr_hugepages`) that nobody has.
    pub fn in_huge_pages(&self) -> bool {
        self.arena.in_huge_pages()
    }

    /// A reader of the frames that its queues lose.
    pub fn losses(&self) -> Losses {
        Losses(self.queues.iter().map(Queue::losses).collect())
    }

    /// Its queues' sockets, with the positions of their interfaces, and the queues' numbers there.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (usize, u32, &OwnedFd)> {
        self.queues.iter().map(|queue| (queue.link, queue.number, &**queue.rings.socket()))
    }

    /// From here on each `BEAT_TURNS`th call of `service` is told there, for each of the queues in their order.
    pub(super) fn set_heartbeats(&mut self, heartbeats: impl IntoIterator<Item = Heartbeat>) {
        for (queue, heartbeat) in self.queues.iter_mut().zip(heartbeats) {
            queue.heartbeat = Some(heartbeat);
        }
    }

    /// By the coarse clock, which costs a few nanoseconds, and stands still for milliseconds: so the program, which reads this for every
    /// frame, mostly finds the cache line as it was.
    fn beat(&mut self) {
        let now = nanoseconds(ClockId::MonotonicCoarse);
        self.queues.iter().filter_map(|queue| queue.heartbeat.as_ref()).for_each(|heartbeat| heartbeat.beat(now));
    }
}

/// All sockets, of one memory. Where the first interface has zero copy and another one has not, all copy.
fn bind(devices: &[Device], queues: &[(usize, u32)]) -> Result<Bound, BindFailure> {
    match bind_all(devices, queues, false) {
        Err(BindFailure::Socket(at, reason)) if at > 0 && is(&reason, Errno::OPNOTSUPP) => {
            let name = |at: usize| &devices[queues[at].0].interface;
            tracing::warn!(
                "{} has AF_XDP zero copy, and {} has none: frames are copied on all interfaces",
                name(0),
                name(at)
            );
            bind_all(devices, queues, true)
        }
        bound => bound,
    }
}

fn bind_all(devices: &[Device], queues: &[(usize, u32)], copies: bool) -> Result<Bound, BindFailure> {
    let chunk = devices.iter().map(|device| device.chunk().expect("`open` has asked")).max().expect("an interface");
    let (arena, frames) = Arena::new(chunk, queues.len()).map_err(BindFailure::Memory)?;
    let mut rings: Vec<Rings> = Vec::with_capacity(queues.len());
    for (at, (link, queue)) in queues.iter().enumerate() {
        let refused = |reason| BindFailure::Socket(at, reason);
        let socket = rings::open().map_err(refused)?;
        let first = rings.first().map(|first| first.socket().as_fd());
        if first.is_none() {
            arena.register(socket.as_fd()).map_err(BindFailure::Memory)?;
        }
        let to = (devices[*link].index, *queue);
        rings.push(Rings::bind(socket, first, to, at, copies).map_err(refused)?);
    }
    Ok((arena, rings, frames))
}

impl Queue {
    fn new(rings: Rings, link: usize, number: u32, device: &Device) -> Queue {
        Queue {
            link,
            number,
            rings,
            receiving: 0,
            sending: 0,
            left: 0,
            carrier: device.carrier(),
            link_down: false,
            lost: Arc::new(AtomicU64::new(0)),
            heartbeat: None,
        }
    }

    fn losses(&self) -> QueueLosses {
        QueueLosses { socket: Arc::downgrade(self.rings.socket()), lost: Arc::clone(&self.lost) }
    }

    #[inline]
    fn service(&mut self, arena: &mut Arena, idle: &mut Vec<Frame>) {
        let reaped = self.rings.reap(arena, idle);
        self.sending -= reaped;
        self.left += reaped as u64;
        self.receiving += self.rings.refill(arena, idle);
        if self.link_down {
            self.link_down = !self.has_carrier();
        }
        if self.sending > 0 && !self.link_down {
            self.kick();
        }
    }

    /// How many frames were received.
    #[inline]
    fn rx(&mut self, arena: &Arena, burst: &mut Burst<Frame>) -> usize {
        let received = self.rings.receive(arena, burst);
        self.receiving -= received;
        if let Some(heartbeat) = self.heartbeat.as_mut().filter(|_| received > 0) {
            heartbeat.take();
        }
        received
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
        for queue in &mut self.queues {
            queue.service(&mut self.arena, &mut self.idle);
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(BEAT_TURNS) {
            self.beat();
        }
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Frame>) {
        let (before, from) = self.queues.split_at_mut(self.first);
        for queue in from.iter_mut().chain(before) {
            self.lent += queue.rx(&self.arena, burst);
        }
        self.first = if self.first + 1 < self.queues.len() { self.first + 1 } else { 0 };
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.arena.bytes(frame)
    }

    #[inline]
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.arena.bytes_mut(frame)
    }

    /// In front it has headroom, where XDP programs put headers too.
    #[inline]
    fn reshape<'a>(&'a mut self, frame: &'a mut Frame, front: isize, len: usize) -> &'a mut [u8] {
        self.arena.reshape(frame, front, len);
        self.arena.bytes_mut(frame)
    }

    fn blank(&mut self, _with: &Frame, len: usize) -> Option<Frame> {
        AfXdp::blank(self, len)
    }

    /// The time that steer stamped: CLOCK_MONOTONIC when the driver's receive loop came to the frame.
    #[inline]
    fn arrival(&mut self, frame: &mut Frame) -> u64 {
        self.arena.take_stamp(frame)
    }

    /// CLOCK_MONOTONIC, which is what `bpf_ktime_get_ns` reads.
    #[inline]
    fn now(&self) -> u64 {
        nanoseconds(ClockId::Monotonic)
    }

    #[inline]
    fn links(&self) -> usize {
        self.ways_out.len()
    }

    #[inline]
    fn link(&self, frame: &Frame) -> usize {
        self.queues[frame.queue()].link
    }

    #[inline]
    fn queue(&self, frame: &Frame) -> usize {
        frame.queue()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.queues.iter().map(|queue| queue.rings.socket().as_fd()).collect()
    }

    #[inline]
    fn room(&mut self, link: usize) -> usize {
        let queue = &mut self.queues[self.ways_out[link]];
        if queue.link_down { 0 } else { queue.rings.room() }
    }

    #[inline]
    fn tx(&mut self, link: usize, burst: &mut Burst<Frame>) {
        if burst.is_empty() {
            return;
        }
        let queue = &mut self.queues[self.ways_out[link]];
        self.lent -= burst.len();
        queue.sending += burst.len();
        queue.rings.send(&self.arena, burst);
        queue.kick();
    }

    #[inline]
    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        self.idle.extend(burst.drain(..));
    }

    fn ledger(&self) -> Ledger {
        let sum = |of: fn(&Queue) -> usize| self.queues.iter().map(of).sum::<usize>();
        Ledger {
            total: self.arena.total(),
            idle: self.idle.len(),
            lent: self.lent,
            in_device: sum(|queue| queue.receiving + queue.sending),
            // While the link is down nothing can leave, and nothing is stuck.
            sending: sum(|queue| if queue.link_down { 0 } else { queue.sending }),
            left: self.queues.iter().map(|queue| queue.left).sum(),
        }
    }
}

/// Frames that steer redirected to queues and that these had no room for (drop reason `rx_full`). Readable from any
/// thread, and after the port is gone too.
#[derive(Clone)]
pub struct Losses(Vec<QueueLosses>);

#[derive(Clone)]
struct QueueLosses {
    // Weak: a reader does not keep the queue busy.
    socket: Weak<OwnedFd>,
    lost: Arc<AtomicU64>,
}

impl Losses {
    /// Since the port was bound. Every frame redirected is received by the port, waits for it in the ring, or is counted here.
    pub fn total(&self) -> u64 {
        self.0.iter().map(QueueLosses::total).sum()
    }
}

impl QueueLosses {
    /// `rx_dropped` is frames for which the fill ring had nothing, or that were larger than a chunk; `rx_ring_full` is
    /// frames that were copied already (xsk_rcv and __xsk_rcv, net/xdp/xsk.c). `rx_fill_ring_empty_descs` counts some of the
    /// first kind again and is left out.
    fn total(&self) -> u64 {
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

fn explain(failure: BindFailure, devices: &[Device], queues: &[(usize, u32)]) -> XdpError {
    let at = match &failure {
        BindFailure::Memory(_) => 0,
        BindFailure::Socket(at, _) => *at,
    };
    let (link, queue) = queues[at];
    let Device { interface, .. } = devices[link].clone();
    match failure {
        BindFailure::Memory(reason) | BindFailure::Socket(_, reason) if is(&reason, Errno::AFNOSUPPORT) => {
            XdpError::NoAfXdp
        }
        BindFailure::Memory(reason) | BindFailure::Socket(_, reason) if is(&reason, Errno::PERM) => {
            privileges::refused(interface, &reason)
        }
        BindFailure::Memory(reason) => {
            let chunk = devices.iter().filter_map(Device::chunk).max().unwrap_or_default();
            let kib = queues.len() * QUEUE_FRAMES * chunk as usize / 1024;
            XdpError::MemoryLock { interface, queue, kib, reason }
        }
        BindFailure::Socket(_, reason) if is(&reason, Errno::BUSY) => XdpError::QueueBusy { interface, queue },
        BindFailure::Socket(_, reason) if is(&reason, Errno::NETDOWN) => XdpError::Down { interface },
        BindFailure::Socket(_, reason) => XdpError::Bind { interface, queue, reason },
    }
}
