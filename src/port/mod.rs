//! Where frames come from and go to. The worker knows this trait and nothing else of a device.
//!
//! A port lends frames; each comes back exactly once, by `tx` or by `free`. No method blocks or allocates.
//!
//! Frames come from one queue or several, and leave by one interface or several, its links: whichever a frame came by, it can leave by
//! any, and nothing is copied.

pub mod af_xdp;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod faulty;
pub mod memory;
pub mod pcap;

/// What to say where the DPDK port is asked for.
#[cfg(not(feature = "dpdk"))]
pub const NO_DPDK: &str = "this build has no DPDK port; apt-get install libdpdk-dev && cargo build --release --features dpdk makes one that \
    does, or use engine = \"af_xdp\"";

use crate::limits::BURST;
use arrayvec::ArrayVec;
use std::os::fd::BorrowedFd;

/// Frames on loan, oldest first.
pub type Burst<F> = ArrayVec<F, BURST>;

pub trait Port {
    /// A frame on loan. Linear by convention: not `Copy`, not `Clone`; whoever drops one without giving it back leaks it,
    /// which the ledger shows.
    type Frame;

    /// Whether a frame with the verdict "pass" can still reach its destination, by `pass`, or is gone (the kernel handed it
    /// over and takes none back).
    const PASSES: bool;

    /// Reaps completed transmissions, refills the receive side, wakes the device. Once a turn.
    fn service(&mut self);

    /// Appends received frames to `burst`, until it is full or none is waiting.
    fn rx(&mut self, burst: &mut Burst<Self::Frame>);

    /// The frame from its Ethernet header on, without FCS.
    fn bytes<'a>(&'a self, frame: &'a Self::Frame) -> &'a [u8];

    /// The same, to be changed in place.
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Self::Frame) -> &'a mut [u8];

    /// Has the frame begin `front` bytes earlier, or later where that is negative, and be `len` bytes long, whatever is in those that it did not
    /// have. It is no longer than the device's longest. Lends it to be written.
    fn reshape<'a>(&'a mut self, frame: &'a mut Self::Frame, front: isize, len: usize) -> &'a mut [u8];

    /// Lends a frame of `len` bytes, whatever is in them, to be sent with another; `None`: there is none left.
    fn blank(&mut self, with: &Self::Frame, len: usize) -> Option<Self::Frame>;

    /// When the frame reached the driver, in nanoseconds on the scale of `now`; 0 where that is not known.
    /// Asked at most once a frame.
    fn arrival(&mut self, frame: &mut Self::Frame) -> u64;

    /// The clock that arrivals are measured on, in nanoseconds. Read once a burst.
    fn now(&self) -> u64;

    /// Whether the frame is addressed to the device itself. Others are never dispatched: they pass.
    #[inline(always)]
    fn is_ours(&self, _frame: &Self::Frame) -> bool {
        true
    }

    /// How many interfaces frames leave by, numbered from 0 in the order of the table's egresses; at most `MAX_INTERFACES`.
    #[inline(always)]
    fn links(&self) -> usize {
        1
    }

    /// The one that the frame came by.
    #[inline(always)]
    fn link(&self, _frame: &Self::Frame) -> usize {
        0
    }

    /// Which of the port's queues the frame came by, numbered from 0. Whoever remembers flows does so by queue.
    #[inline(always)]
    fn queue(&self, _frame: &Self::Frame) -> usize {
        0
    }

    /// How many frames `tx` takes now for a link.
    fn room(&mut self, link: usize) -> usize;

    /// Transmits the whole burst by a link. It is no longer than `room` said.
    fn tx(&mut self, link: usize, burst: &mut Burst<Self::Frame>);

    /// Transmits what is not forwarded: answers to frames that were dropped. As `tx`.
    fn answer(&mut self, link: usize, burst: &mut Burst<Self::Frame>) {
        self.tx(link, burst);
    }

    /// Takes the whole burst back unsent.
    fn free(&mut self, burst: &mut Burst<Self::Frame>);

    /// How many frames `pass` takes now.
    fn pass_room(&mut self) -> usize {
        usize::MAX
    }

    /// Hands the whole burst, which is no longer than `pass_room` said, on to where it would have gone without us.
    fn pass(&mut self, burst: &mut Burst<Self::Frame>) {
        self.free(burst);
    }

    /// What becomes readable when frames come; empty: nothing says that they do.
    fn events(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Where every frame of the port is at this moment.
    fn ledger(&self) -> Ledger;
}

/// Every frame of a port is in exactly one place: `total == idle + lent + in_device`, at any turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub total: usize,
    /// Waiting to be given to the device.
    pub idle: usize,
    /// Lent to the worker.
    pub lent: usize,
    /// In a ring of the device: to be received into, received, to be sent, or sent and not reaped.
    pub in_device: usize,
    /// Of those in the device, the ones that were handed over to be sent, can be, and are not known to have left.
    pub sending: usize,
    /// Frames that have left since the port was made.
    pub left: u64,
}

impl Ledger {
    pub fn balanced(&self) -> bool {
        self.total == self.idle + self.lent + self.in_device && self.sending <= self.in_device
    }
}
