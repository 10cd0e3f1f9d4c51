//! Frames, the pool they come from and the queues they go through. The unsafe room of the data path.
//!
//! An mbuf is either DPDK's or ours. Ours are `Frame`s, which nobody can copy or make: a `Frame` is made only of what a
//! device or pool has just handed out, and is used up by what gives it back. A pool lives until every queue of its devices
//! has gone and the devices are closed (`device`).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CString, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::device::Lease;
use super::ethdev::{self, Port, Refusal};
use super::sys;
use crate::limits::{BURST, MAX_INTERFACES, MBUF_CACHE};
use crate::port::Burst;
use arrayvec::ArrayVec;

/// An mbuf of ours. Linear: dropping one leaks it, which the ledger shows.
#[repr(transparent)]
pub struct Frame(NonNull<sys::rte_mbuf>);

// SAFETY: whoever has the frame is the only one to touch the mbuf, on whatever thread that is.
unsafe impl Send for Frame {}

/// The frames of one worker.
pub(super) struct Pool(NonNull<sys::rte_mempool>);

// SAFETY: a mempool may be used by any thread; what belongs to one thread in it, its cache, DPDK finds by that thread.
unsafe impl Send for Pool {}

impl Pool {
    /// `count` frames of up to `room` bytes behind the headroom, on a NUMA node (-1: any).
    pub(super) fn new(name: &str, count: u32, room: u16, node: c_int) -> Result<Pool, Refusal> {
        let name = CString::new(name).expect("a name of ours");
        let room = room + sys::RTE_PKTMBUF_HEADROOM as u16;
        // SAFETY: a terminated text, which DPDK copies, and numbers.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), count, MBUF_CACHE, 0, room, node) };
        NonNull::new(pool).map(Pool).ok_or_else(ethdev::last_refusal)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.0.as_ptr()
    }

    /// Frames that are neither lent nor in a device.
    pub(super) fn idle(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { sys::rte_mempool_avail_count(self.0.as_ptr()) }
    }

    /// Only when nobody has a frame of it any more, or a queue.
    pub(super) fn free(self) {
        // SAFETY: `device` has closed the port, and with it went all that could name the pool.
        unsafe { sys::rte_mempool_free(self.0.as_ptr()) };
    }
}

/// A queue of each running device, in each direction, with one pool: what came by one can leave by another.
pub(super) struct Queues {
    /// By link.
    ports: ArrayVec<Port, MAX_INTERFACES>,
    /// Their number on each.
    number: u16,
    pool: NonNull<sys::rte_mempool>,
    total: u32,
    /// As long as this is there, so are the devices and the pool.
    lease: Lease,
    /// DPDK did not want to know a thread of ours.
    refused: bool,
    // Queues may wander from thread to thread, but belong to one at a time.
    one_thread: PhantomData<Cell<()>>,
}

// SAFETY: a queue may be used by any thread as long as it is one at a time, which `&mut self` sees to.
unsafe impl Send for Queues {}

impl Queues {
    /// The queue of this number of each port.
    pub(super) fn new(
        ports: impl IntoIterator<Item = Port>,
        number: u16,
        pool: &Pool,
        total: u32,
        lease: Lease,
    ) -> Queues {
        let ports = ports.into_iter().collect();
        Queues { ports, number, pool: pool.0, total, lease, refused: false, one_thread: PhantomData }
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    pub(super) fn idle(&self) -> u32 {
        // SAFETY: the pool is alive, by the lease.
        unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// Makes this thread known to DPDK, which then keeps a cache of the pool's frames for it. Without it all goes on, slower.
    #[inline]
    pub(super) fn settle(&mut self) {
        // SAFETY: nothing but this thread is concerned, by both calls.
        let refused = || unsafe { sys::oneip_is_known() == 0 && sys::rte_thread_register() != 0 };
        if !self.refused && refused() {
            tracing::debug!(reason = %ethdev::last_refusal(), "this thread has no cache of mbufs");
            self.refused = true;
        }
    }

    /// Appends frames received by a link until the burst is full or none is waiting; how many.
    #[inline]
    pub(super) fn receive(&mut self, link: usize, burst: &mut Burst<Frame>) -> usize {
        let (length, room) = (burst.len(), burst.remaining_capacity());
        // SAFETY: behind the burst's frames there is room for so many more, each a pointer, of which the call fills the first
        // `count` with frames that are ours from then on.
        let received = unsafe {
            let free = burst.as_mut_ptr().add(length).cast::<*mut sys::rte_mbuf>();
            let count = sys::oneip_rx_burst(self.ports[link].number(), self.number, free, room as u16) as usize;
            burst.set_len(length + count);
            count
        };
        if self.ports.len() > 1 {
            burst[length..].iter_mut().for_each(|frame| self.set_link(frame, link));
        }
        received
    }

    /// The link that a frame came by. An mbuf's field for its port has that, where there are several: not every driver fills it.
    #[inline(always)]
    pub(super) fn link(&self, frame: &Frame) -> usize {
        // SAFETY: the mbuf is ours, by the frame.
        if self.ports.len() == 1 { 0 } else { unsafe { frame.0.as_ref() }.port.into() }
    }

    #[inline(always)]
    pub(super) fn set_link(&mut self, frame: &mut Frame, link: usize) {
        // SAFETY: the mbuf is ours, by the frame. Nobody else reads the field of one that is.
        unsafe { frame.0.as_mut() }.port = link as u16;
    }

    /// Sends by a link from the front of the burst what the device takes; the rest stays.
    #[inline]
    pub(super) fn send(&mut self, link: usize, burst: &mut Burst<Frame>) {
        let count = burst.len();
        self.check(burst);
        // SAFETY: a burst is `count` pointers to frames of ours; the first `sent` are not ours any more, and leave the burst.
        let sent = unsafe {
            let frames = burst.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
            sys::oneip_tx_burst(self.ports[link].number(), self.number, frames, count as u16) as usize
        };
        if sent == count {
            burst.clear();
        } else {
            burst.drain(..sent);
        }
    }

    /// Gives the frames back to their pool.
    #[inline]
    pub(super) fn free(&mut self, burst: &mut Burst<Frame>) {
        self.check(burst);
        // SAFETY: as in `send`; none is ours afterwards.
        unsafe { sys::rte_pktmbuf_free_bulk(burst.as_mut_ptr().cast(), burst.len() as u32) };
        burst.clear();
    }

    /// A new frame of these bytes; `None` where no frame is left, or it holds fewer.
    pub(super) fn make(&mut self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.blank(bytes.len())?;
        self.bytes_mut(&mut frame).copy_from_slice(bytes);
        Some(frame)
    }

    /// A new frame of so many bytes, whatever is in them; `None` where no frame is left, or it holds fewer.
    pub(super) fn blank(&mut self, len: usize) -> Option<Frame> {
        // SAFETY: the pool is alive, by the lease; a frame that we get is ours.
        let mut frame = Frame(NonNull::new(unsafe { sys::oneip_alloc(self.pool.as_ptr()) })?);
        // SAFETY: as above.
        let mbuf = unsafe { frame.0.as_mut() };
        if len > (mbuf.buf_len - mbuf.data_off) as usize {
            let mut burst = Burst::new();
            burst.push(frame);
            self.free(&mut burst);
            return None;
        }
        mbuf.data_len = len as u16;
        mbuf.pkt_len = len as u32;
        Some(frame)
    }

    /// Moves where the frame begins, into its headroom or out of it, and where it ends.
    ///
    /// # Panics
    /// Its buffer does not hold that.
    #[inline]
    pub(super) fn reshape(&mut self, frame: &mut Frame, front: isize, len: usize) {
        // SAFETY: the mbuf is ours, by the frame.
        let mbuf = unsafe { frame.0.as_mut() };
        let (begin, room) = ((mbuf.data_off as usize).wrapping_add_signed(-front), mbuf.buf_len as usize);
        assert!(begin <= room && len <= room - begin, "a buffer holds the frame");
        (mbuf.data_off, mbuf.data_len, mbuf.pkt_len) = (begin as u16, len as u16, len as u32);
    }

    /// The frame; of one in several buffers, which `device` sees to that there are none of, the first.
    #[inline(always)]
    pub(super) fn bytes<'a>(&self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: whoever has a frame has its mbuf, by `check`, and the device has said that its bytes are there. Nobody writes to
        // them: `bytes_mut` would need the frame that is borrowed here.
        unsafe {
            let mbuf = frame.0.as_ref();
            std::slice::from_raw_parts(mbuf.buf_addr.cast::<u8>().add(mbuf.data_off.into()), mbuf.data_len.into())
        }
    }

    #[inline(always)]
    pub(super) fn bytes_mut<'a>(&mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `bytes`, and the frame is borrowed for us alone.
        unsafe {
            let mbuf = frame.0.as_ref();
            std::slice::from_raw_parts_mut(mbuf.buf_addr.cast::<u8>().add(mbuf.data_off.into()), mbuf.data_len.into())
        }
    }

    /// Frames go back where they came from: by that each port's count of those it has lent is exact, and a pool some of whose
    /// frames are out is never freed (`leak`). So a frame's mbuf is there as long as the frame.
    #[inline(always)]
    fn check(&self, burst: &Burst<Frame>) {
        // SAFETY: as above.
        let owns = |frame: &Frame| unsafe { frame.0.as_ref() }.pool == self.pool.as_ptr();
        assert!(burst.iter().all(owns), "a frame goes back to the port that lent it");
    }

    /// Some frame was not given back: the pool is never to be freed.
    pub(super) fn leak(&self) {
        self.lease.leak();
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        // SAFETY: nothing but this thread is concerned; one that DPDK does not know of is left as it is.
        unsafe { sys::rte_thread_unregister() };
    }
}

const _: () = assert!(size_of::<Frame>() == size_of::<*mut sys::rte_mbuf>() && BURST <= u16::MAX as usize);
