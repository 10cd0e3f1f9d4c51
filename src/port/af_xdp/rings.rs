//! The socket of one queue, and its four rings, <https://docs.kernel.org/networking/af_xdp.html>. The queues of a port share their memory,
//! whatever interfaces they are of (`XDP_SHARED_UMEM`, Linux 5.10): what is received from one is sent by another as it lies.
//!
//! The unsafe room of this port, with `memory`, which says why it is sound.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::xdp::XdpOptionsFlags;
use rustix::net::{SendFlags, send, sockopt};
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use super::memory::{Arena, Frame};
use crate::limits::{BURST, RING};
use crate::port::Burst;

/// Descriptors that one system call sends in copy mode, `TX_BATCH_SIZE` in net/xdp/xsk.c, unless told otherwise.
const COPY_MODE_KICK: usize = 32;

/// `XDP_MAX_TX_SKB_BUDGET`, include/uapi/linux/if_xdp.h since Linux 6.17.
const MAX_TX_SKB_BUDGET: libc::c_int = 9;

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

pub(super) struct Rings {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Its number among the port's.
    number: usize,
    transfer: Transfer,
    /// System calls that send a burst for certain, if the device takes it.
    kicks: usize,
    /// Frames received since the fill ring was last seen full.
    taken: usize,
    scratch: [FrameDesc; BURST],
}

impl Rings {
    /// Binds a socket to a queue, which is the port's queue of that number. Zero copy if the driver can, which the kernel finds out
    /// (xp_assign_dev, net/xdp/xsk_buff_pool.c), unless copies are wanted; queues of one memory all do as the first one of them.
    pub(super) fn bind(
        arena: &Arena,
        (interface, queue): (&str, u32),
        number: usize,
        copies: bool,
    ) -> io::Result<Rings> {
        let size = ring_size();
        let flags = if copies { BindFlags::XDP_COPY } else { BindFlags::empty() };
        let config = SocketConfig::builder()
            .rx_queue_size(size)
            .tx_queue_size(size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: the rings we get are this queue's only ones, since no other socket of this memory is bound to it, and the kernel
        // lets none of another memory bind to it.
        let socket = unsafe { Socket::new(config, arena.memory(), &name, queue) };
        let (tx, rx, pair) = socket.map_err(|error| cause(&error))?;
        let (fill, completion) = pair.expect("the first socket of a queue gets its fill and completion rings");
        let fd = socket_of(&rx);
        // libxdp does not ask for it (xsk.c): a process started by ours would keep the queue busy after us.
        fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        let transfer = match sockopt::xdp_options(fd) {
            Ok(flags) if flags.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY) => Transfer::ZeroCopy,
            _ => Transfer::Copy,
        };
        let whole_ring = transfer == Transfer::ZeroCopy || raise_budget(fd);
        let kicks = if whole_ring { 1 } else { BURST.div_ceil(COPY_MODE_KICK) };
        // The fill ring is empty.
        let (taken, scratch) = (RING, [FrameDesc::default(); BURST]);
        Ok(Rings { tx, rx, fill, completion, number, transfer, kicks, taken, scratch })
    }

    pub(super) fn transfer(&self) -> Transfer {
        self.transfer
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        socket_of(&self.rx)
    }

    /// Appends received frames until the burst is full or none is waiting; how many.
    #[inline]
    pub(super) fn receive(&mut self, arena: &Arena, burst: &mut Burst<Frame>) -> usize {
        let room = burst.remaining_capacity();
        // SAFETY: the descriptors are filled in by the call, with frames of this socket's memory.
        let count = unsafe { self.rx.consume(&mut self.scratch[..room]) };
        burst.extend(self.scratch[..count].iter().map(|desc| arena.own(*desc, self.number)));
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
    pub(super) fn send(&mut self, arena: &Arena, burst: &mut Burst<Frame>) {
        let count = burst.len();
        for (slot, frame) in self.scratch.iter_mut().zip(burst.drain(..)) {
            *slot = arena.disown(frame);
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
    pub(super) fn reap(&mut self, arena: &Arena, idle: &mut Vec<Frame>) -> usize {
        let mut reaped = 0;
        loop {
            // SAFETY: the descriptors are filled in by the call, with frames of this socket's memory.
            let count = unsafe { self.completion.consume(&mut self.scratch) };
            idle.extend(self.scratch[..count].iter().map(|desc| arena.own(*desc, self.number)));
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
    pub(super) fn refill(&mut self, arena: &Arena, idle: &mut Vec<Frame>) -> usize {
        let mut filled = 0;
        while self.taken >= BURST && idle.len() >= BURST {
            if (self.fill.nb_free(BURST as u32) as usize) < BURST {
                self.taken = 0;
                break;
            }
            for (slot, frame) in self.scratch.iter_mut().zip(idle.drain(idle.len() - BURST..)) {
                *slot = arena.disown(frame);
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
}

pub(super) fn ring_size() -> QueueSize {
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
pub(super) fn cause(error: &dyn std::error::Error) -> io::Error {
    let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match system.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}
