//! The socket of one queue, and its four rings, <https://docs.kernel.org/networking/af_xdp.html>. The queues of a port share their memory,
//! whatever interfaces they are of (`XDP_SHARED_UMEM`, Linux 5.10): what is received from one is sent by another as it lies.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpOptionsFlags,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with, sockopt};

use super::memory::{Arena, Frame};
use super::ring::{Consumer, Producer};
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
    rx: Consumer<XdpDesc>,
    tx: Producer<XdpDesc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    socket: Arc<OwnedFd>,
    /// Its number among the port's.
    number: usize,
    transfer: Transfer,
    /// System calls that send a burst for certain, if the device takes it.
    kicks: usize,
    /// Frames received since the fill ring was last seen full.
    taken: usize,
}

/// A socket that is bound to nothing yet.
pub(super) fn open() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

impl Rings {
    /// Binds a socket to a queue of an interface, by their numbers, with the memory that it has or another one shares; it is the port's queue
    /// `number`. Zero copy if the driver can, which the kernel finds out (xp_assign_dev, net/xdp/xsk_buff_pool.c), unless copies are wanted;
    /// queues of one memory all do as the first one of them.
    pub(super) fn bind(
        socket: OwnedFd,
        shared: Option<BorrowedFd<'_>>,
        (interface, queue): (u32, u32),
        number: usize,
        copies: bool,
    ) -> io::Result<Rings> {
        let size = RING as u32;
        sockopt::set_xdp_umem_fill_ring_size(&socket, size)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, size)?;
        sockopt::set_xdp_rx_ring_size(&socket, size)?;
        sockopt::set_xdp_tx_ring_size(&socket, size)?;
        let (fd, offsets) = (socket.as_fd(), sockopt::xdp_mmap_offsets(&socket)?);
        let rx = Consumer::map(fd, XDP_PGOFF_RX_RING, offsets.rx)?;
        let tx = Producer::map(fd, XDP_PGOFF_TX_RING, offsets.tx)?;
        let fill = Producer::map(fd, XDP_UMEM_PGOFF_FILL_RING, offsets.fr)?;
        let completion = Consumer::map(fd, XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr)?;
        let to = |flags| SocketAddrXdp::new(flags, interface, queue);
        match shared {
            None => {
                let flags = if copies { SocketAddrXdpFlags::XDP_COPY } else { SocketAddrXdpFlags::empty() };
                bind(&socket, &to(flags | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP))?;
            }
            Some(shared_umem_fd) => {
                let addr = to(SocketAddrXdpFlags::XDP_SHARED_UMEM);
                bind(&socket, &SocketAddrXdpWithSharedUmem { addr, shared_umem_fd })?;
            }
        }
        let transfer = match sockopt::xdp_options(&socket) {
            Ok(flags) if flags.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY) => Transfer::ZeroCopy,
            _ => Transfer::Copy,
        };
        let whole_ring = transfer == Transfer::ZeroCopy || raise_budget(fd);
        let kicks = if whole_ring { 1 } else { BURST.div_ceil(COPY_MODE_KICK) };
        // The fill ring is empty.
        let (taken, socket) = (RING, Arc::new(socket));
        Ok(Rings { rx, tx, fill, completion, socket, number, transfer, kicks, taken })
    }

    pub(super) fn transfer(&self) -> Transfer {
        self.transfer
    }

    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Appends received frames until the burst is full or none is waiting; how many.
    #[inline]
    pub(super) fn receive(&mut self, arena: &Arena, burst: &mut Burst<Frame>) -> usize {
        let count = self.rx.take(burst.remaining_capacity(), |desc| burst.push(arena.own(desc, self.number)));
        self.taken += count;
        count
    }

    /// Frames that the transmit ring takes now: exact up to a burst's number.
    #[inline]
    pub(super) fn room(&mut self) -> usize {
        self.tx.room(BURST)
    }

    /// Puts the burst into the transmit ring, which has room for it.
    #[inline]
    pub(super) fn send(&mut self, arena: &Arena, burst: &mut Burst<Frame>) {
        self.tx.extend(burst.drain(..).map(|frame| arena.disown(frame)));
    }

    /// Has the kernel send what is in the transmit ring. What it cannot take now (EAGAIN, ENOBUFS) stays in the ring for the next
    /// kick, and so does everything when the device is down (ENETDOWN) or gone.
    ///
    /// Whether the kernel took a frame, dropped it, and let the rest wait: in copy mode that is EBUSY (`NET_XMIT_DROP` in
    /// `__xsk_generic_xmit`, net/xdp/xsk.c). The device has no carrier then (`__dev_direct_xmit`, net/core/dev.c), or had no room.
    #[inline]
    pub(super) fn kick(&mut self) -> bool {
        for _ in 0..self.kicks {
            if !self.tx.needs_wakeup() || self.tx.is_empty() {
                return false;
            }
            let sent = send(&*self.socket, &[], SendFlags::DONTWAIT);
            if sent == Err(Errno::BUSY) && self.transfer == Transfer::Copy {
                return true;
            }
        }
        false
    }

    /// Takes back what was sent; how many.
    #[inline]
    pub(super) fn reap(&mut self, arena: &mut Arena, idle: &mut Vec<Frame>) -> usize {
        let mut reaped = 0;
        loop {
            let count = self.completion.take(BURST, |addr| idle.push(arena.own_sent(addr)));
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
            if self.fill.room(BURST) < BURST {
                self.taken = 0;
                break;
            }
            self.fill.extend(idle.drain(idle.len() - BURST..).map(|frame| arena.give_back(frame)));
            filled += BURST;
        }
        if self.fill.needs_wakeup() {
            // It waits for nothing. It fails when the device is gone, and then nothing is received either.
            let _ = poll(&mut [PollFd::new(&*self.socket, PollFlags::IN)], Some(&Timespec::default()));
        }
        filled
    }
}

/// Whether the kernel lets one system call send a whole ring in copy mode.
#[allow(unsafe_code)]
fn raise_budget(socket: BorrowedFd<'_>) -> bool {
    let budget = RING as u32;
    let length = size_of_val(&budget) as libc::socklen_t;
    let value = std::ptr::from_ref(&budget).cast();
    // SAFETY: the option's value is one `u32` that outlives the call (xsk_setsockopt, net/xdp/xsk.c).
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, MAX_TX_SKB_BUDGET, value, length) == 0 }
}
