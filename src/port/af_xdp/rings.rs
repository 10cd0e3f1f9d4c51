//! The memory and the four rings of one queue, <https://docs.kernel.org/networking/af_xdp.html>. The unsafe room of this port.
//!
//! A frame is either the kernel's or ours. Ours are `Frame`s, which nobody can copy or make; the kernel's are nothing but
//! numbers in a ring. What makes every block below sound is that the two never overlap: a `Frame` is made only of what the
//! kernel has just given back, and is used up by what hands it over.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::xdp::XdpOptionsFlags;
use rustix::net::{SendFlags, send, sockopt};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::limits::{BURST, QUEUE_FRAMES, RING};
use crate::port::Burst;
use crate::xdp::{FRAME_OFFSET, STAMP_ROOM};

/// Descriptors that one system call sends in copy mode, `TX_BATCH_SIZE` in net/xdp/xsk.c, unless told otherwise.
const COPY_MODE_KICK: usize = 32;

/// `XDP_MAX_TX_SKB_BUDGET`, include/uapi/linux/if_xdp.h since Linux 6.17.
const MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// A frame of ours. Linear: dropping one leaks it, which the ledger shows.
pub struct Frame {
    // `options` belongs to the kernel only while a descriptor is in a ring; here it says whose frame this is.
    desc: FrameDesc,
}

/// How frames get between the device and this memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The device writes and reads it.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transfer::ZeroCopy => "zero-copy",
            Transfer::Copy => "copy",
        })
    }
}

/// Why there are no rings.
pub(super) enum BindFailure {
    /// The kernel does not let us have the memory.
    Memory(io::Error),
    Socket(io::Error),
}

pub(super) struct Rings {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    arena: Arena,
    transfer: Transfer,
    /// System calls that send a burst for certain, if the device takes it.
    kicks: usize,
    /// Frames received since the fill ring was last seen full.
    taken: usize,
    scratch: [FrameDesc; BURST],
}

impl Rings {
    /// Binds a socket to the queue, with `QUEUE_FRAMES` frames of `chunk` bytes, all of them ours as yet. Zero copy if the
    /// driver can, which the kernel finds out (xp_assign_dev, net/xdp/xsk_buff_pool.c).
    pub(super) fn bind(interface: &str, queue: u32, chunk: u32) -> Result<(Rings, Vec<Frame>), BindFailure> {
        let (arena, frames) = Arena::new(chunk).map_err(BindFailure::Memory)?;
        let size = ring_size();
        let config = SocketConfig::builder()
            .rx_queue_size(size)
            .tx_queue_size(size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface.parse().map_err(|_| BindFailure::Socket(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: the memory is new, and so no other socket shares it; the rings we get are this queue's only ones, since
        // the kernel lets one socket bind to a queue.
        let socket = unsafe { Socket::new(config, &arena.memory, &name, queue) };
        let (tx, rx, pair) = socket.map_err(|error| BindFailure::Socket(cause(&error)))?;
        let (fill, completion) = pair.expect("the first socket of a memory gets its fill and completion rings");
        let fd = socket_of(&rx);
        // libxdp does not ask for it (xsk.c): a process started by ours would keep the queue busy after us.
        fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(|error| BindFailure::Socket(error.into()))?;
        let transfer = match sockopt::xdp_options(fd) {
            Ok(flags) if flags.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY) => Transfer::ZeroCopy,
            _ => Transfer::Copy,
        };
        let whole_ring = transfer == Transfer::ZeroCopy || raise_budget(fd);
        let kicks = if whole_ring { 1 } else { BURST.div_ceil(COPY_MODE_KICK) };
        // The fill ring is empty.
        let (taken, scratch) = (RING, [FrameDesc::default(); BURST]);
        Ok((Rings { tx, rx, fill, completion, arena, transfer, kicks, taken, scratch }, frames))
    }

    pub(super) fn transfer(&self) -> Transfer {
        self.transfer
    }

    /// Whether the host had huge pages to spare for the frames.
    pub(super) fn in_huge_pages(&self) -> bool {
        self.arena.in_huge_pages
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        socket_of(&self.rx)
    }

    /// Appends received frames until the burst is full or none is waiting; how many.
    #[inline]
    pub(super) fn receive(&mut self, burst: &mut Burst<Frame>) -> usize {
        let room = burst.remaining_capacity();
        // SAFETY: the descriptors are filled in by the call, with frames of this socket's memory.
        let count = unsafe { self.rx.consume(&mut self.scratch[..room]) };
        burst.extend(self.scratch[..count].iter().map(|desc| self.arena.own(*desc)));
        self.taken += count;
        count
    }

    /// Frames that the transmit ring takes now: exact up to a burst's number.
    #[inline]
    pub(super) fn room(&mut self) -> usize {
        self.tx.nb_free(BURST as u32) as usize
    }

    /// Puts the burst into the transmit ring, which has room for it.
    #[inline]
    pub(super) fn send(&mut self, burst: &mut Burst<Frame>) {
        let count = burst.len();
        for (slot, frame) in self.scratch.iter_mut().zip(burst.drain(..)) {
            *slot = self.arena.disown(frame);
        }
        // SAFETY: `disown` has seen that the frames are of this memory, and used up the tokens, so nobody else has them.
        let sent = unsafe { self.tx.produce(&self.scratch[..count]) };
        assert_eq!(sent, count, "a ring has the room that it said it has");
    }

    /// Has the kernel send what is in the transmit ring. What it cannot take now (EAGAIN, ENOBUFS) stays in the ring for the next
    /// kick, and so does everything when the device is down (ENETDOWN) or gone.
    ///
    /// Whether the kernel took a frame, dropped it, and let the rest wait: in copy mode that is EBUSY (`NET_XMIT_DROP` in
    /// `__xsk_generic_xmit`, net/xdp/xsk.c). The device has no carrier then (`__dev_direct_xmit`, net/core/dev.c), or had no room.
    #[inline]
    pub(super) fn kick(&mut self) -> bool {
        for _ in 0..self.kicks {
            if !self.tx.needs_wakeup() || self.tx.nb_free_exact() as usize == RING {
                return false;
            }
            // xsk-rs's own `wakeup` does not tell the errors apart.
            let sent = send(socket_of(&self.rx), &[], SendFlags::DONTWAIT);
            if sent == Err(Errno::BUSY) && self.transfer == Transfer::Copy {
                return true;
            }
        }
        false
    }

    /// Takes back what was sent; how many.
    #[inline]
    pub(super) fn reap(&mut self, idle: &mut Vec<Frame>) -> usize {
        let mut reaped = 0;
        loop {
            // SAFETY: the descriptors are filled in by the call, with frames of this socket's memory.
            let count = unsafe { self.completion.consume(&mut self.scratch) };
            idle.extend(self.scratch[..count].iter().map(|desc| self.arena.own(*desc)));
            reaped += count;
            if count < BURST {
                return reaped;
            }
        }
    }

    /// Gives the kernel frames to receive into, in whole bursts, the last used first since their lines are in the cache still;
    /// how many. Wakes the driver if it had none left.
    ///
    /// Not before a burst was received: how much room there is stands in a line that the driver's core writes for each frame, and
    /// has to be fetched from there.
    #[inline]
    pub(super) fn refill(&mut self, idle: &mut Vec<Frame>) -> usize {
        let mut filled = 0;
        while self.taken >= BURST && idle.len() >= BURST {
            if (self.fill.nb_free(BURST as u32) as usize) < BURST {
                self.taken = 0;
                break;
            }
            for (slot, frame) in self.scratch.iter_mut().zip(idle.drain(idle.len() - BURST..)) {
                *slot = self.arena.disown(frame);
            }
            // SAFETY: as in `send`.
            let count = unsafe { self.fill.produce(&self.scratch) };
            assert_eq!(count, BURST, "a ring has the room that it said it has");
            filled += count;
        }
        if self.fill.needs_wakeup() {
            // A poll that waits for nothing. It fails when the device is gone, and then nothing is received either.
            let _ = self.fill.wakeup(self.rx.fd_mut(), 0);
        }
        filled
    }

    #[inline]
    pub(super) fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.arena.bytes(frame)
    }

    #[inline]
    pub(super) fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.arena.bytes_mut(frame)
    }

    #[inline]
    pub(super) fn set_len(&mut self, frame: &mut Frame, len: usize) {
        self.arena.set_len(frame, len);
    }

    #[inline]
    pub(super) fn take_stamp(&mut self, frame: &mut Frame) -> u64 {
        self.arena.take_stamp(frame)
    }
}

/// The frames' memory.
struct Arena {
    /// Where it begins. A number, since xsk-rs owns the mapping; `at` makes pointers of it.
    base: usize,
    size: usize,
    /// Tells one queue's frames from another's.
    id: u32,
    memory: Umem,
    in_huge_pages: bool,
}

impl Arena {
    fn new(chunk: u32) -> io::Result<(Arena, Vec<Frame>)> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let count = NonZeroU32::new(QUEUE_FRAMES as u32).expect("the bound is not 0");
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(chunk).expect("a chunk is large enough"))
            .frame_headroom(STAMP_ROOM)
            .fill_queue_size(ring_size())
            .comp_queue_size(ring_size())
            .build()
            .expect("a chunk is a power of two, with room for a frame");
        let size = QUEUE_FRAMES * chunk as usize;
        // A frame comes into memory that was last touched thousands of frames ago: in small pages its first byte misses the TLB.
        let huge =
            huge_page().filter(|page| size.is_multiple_of(*page)).and_then(|_| Umem::new(config, count, true).ok());
        let in_huge_pages = huge.is_some();
        let (memory, mut descs) =
            huge.map_or_else(|| Umem::new(config, count, false), Ok).map_err(|error| cause(&error))?;
        let first = &mut descs[0];
        assert_eq!(first.addr(), FRAME_OFFSET as usize, "xsk-rs and the kernel begin a frame at the same place");
        // SAFETY: a descriptor of this memory, which nobody but us has as yet.
        let data = unsafe { memory.data_mut(first) }.contents_mut().as_mut_ptr();
        let base = data.expose_provenance() - FRAME_OFFSET as usize;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let arena = Arena { base, size, id, memory, in_huge_pages };
        let frames = descs.into_iter().map(|desc| arena.own(desc)).collect();
        Ok((arena, frames))
    }

    /// A descriptor that the kernel has given back becomes a frame of ours.
    #[inline]
    fn own(&self, mut desc: FrameDesc) -> Frame {
        let end = desc.addr() + desc.lengths().data();
        debug_assert!(desc.addr() >= FRAME_OFFSET as usize && end <= self.size, "{desc:?} is not in the memory");
        desc.set_options(self.id);
        Frame { desc }
    }

    /// A frame of ours becomes a descriptor for the kernel.
    #[inline]
    fn disown(&self, frame: Frame) -> FrameDesc {
        let mut desc = frame.desc;
        assert_eq!(desc.options(), self.id, "a frame goes back to the port that lent it");
        desc.set_options(0);
        desc
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: `place` says where the frame is. Nobody writes there: the frame is ours and not the kernel's, `bytes_mut`
        // would need the token that is borrowed here, and chunks do not overlap.
        unsafe { std::slice::from_raw_parts(self.place(frame), frame.desc.lengths().data()) }
    }

    #[inline]
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `bytes`, and the token is borrowed for us alone.
        unsafe { std::slice::from_raw_parts_mut(self.place(frame), frame.desc.lengths().data()) }
    }

    #[inline]
    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        assert_eq!(frame.desc.options(), self.id, "a frame is written through the port that lent it");
        // SAFETY: the frame is of this memory and ours, and the token is borrowed for us alone.
        let mut data = unsafe { self.memory.data_mut(&mut frame.desc) };
        let mut cursor = data.cursor();
        cursor.set_pos(len);
        assert_eq!(cursor.pos(), len, "a chunk holds the frame");
    }

    /// Where a frame begins: `own` has seen that all its bytes are in the memory, which lives as long as `self`.
    #[inline]
    fn place(&self, frame: &Frame) -> *mut u8 {
        assert_eq!(frame.desc.options(), self.id, "a frame is read through the port that lent it");
        self.at(frame.desc.addr())
    }

    /// The 8 bytes in front of a frame; 0 is left there, for a next frame that gets no stamp.
    #[inline]
    fn take_stamp(&mut self, frame: &mut Frame) -> u64 {
        assert_eq!(frame.desc.options(), self.id, "a frame is read through the port that lent it");
        let stamp = self.at(frame.desc.addr() - STAMP_ROOM as usize).cast::<u64>();
        // SAFETY: a frame begins `FRAME_OFFSET` bytes into its chunk, so that the bytes before it are of the same chunk and, like
        // the frame, nobody else's; any 8 bytes are a number, and need no alignment here.
        unsafe {
            let arrival = stamp.read_unaligned();
            stamp.write_unaligned(0);
            arrival
        }
    }

    /// The mapping comes from mmap(2) and its address was exposed in `new`, so a pointer to any byte of it may be made.
    #[inline]
    fn at(&self, offset: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.base + offset)
    }
}

/// The size of the huge pages that mmap(2) takes, in bytes; whether there are any, it says itself.
fn huge_page() -> Option<usize> {
    let facts = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = facts.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}

fn ring_size() -> QueueSize {
    QueueSize::new(RING as u32).expect("the bound is a power of two")
}

fn socket_of(rx: &RxQueue) -> BorrowedFd<'_> {
    // SAFETY: the ring holds the socket, and with it the descriptor, open for as long as it is borrowed here.
    unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) }
}

/// Whether the kernel lets one system call send a whole ring in copy mode.
fn raise_budget(socket: BorrowedFd<'_>) -> bool {
    let budget = RING as u32;
    let length = size_of_val(&budget) as libc::socklen_t;
    let value = std::ptr::from_ref(&budget).cast();
    // SAFETY: the option's value is one `u32` that outlives the call (xsk_setsockopt, net/xdp/xsk.c).
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, MAX_TX_SKB_BUDGET, value, length) == 0 }
}

/// The system's answer behind an error of xsk-rs.
fn cause(error: &dyn std::error::Error) -> io::Error {
    let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match system.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}
