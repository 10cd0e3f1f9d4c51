//! A port over plain memory: what tests and benchmarks run the worker on.
//!
//! Frames lie in chunks of `STRIDE` bytes, behind `HEADROOM`, as in a UMEM. Each is received once, in order, until `rewind`.

use super::{Burst, Ledger, Port};
use crate::limits::{BURST, MAX_INTERFACES};
use std::ops::Range;

/// Bytes from one frame's start to the next one's.
pub const STRIDE: usize = 2048;

/// Bytes in front of a frame as it is received: whole cache lines.
const HEADROOM: usize = 128;

/// Frames besides those that are received.
const SPARES: usize = BURST;

/// Begins at a cache line, wherever the allocator puts it: a header that lies across two costs a nanosecond.
#[derive(Clone)]
#[repr(align(64))]
struct Chunk([u8; STRIDE]);

pub struct Memory {
    arena: Box<[Chunk]>,
    lens: Box<[u16]>,
    /// Where they began when they were sent, and how long they were, of all frames.
    sent_as: Box<[(u16, u16)]>,
    /// Positions of frames that are not received, and not lent.
    spares: Vec<u32>,
    arrivals: Box<[u64]>,
    /// Clock, in nanoseconds: stands still unless a test moves it.
    pub now: u64,
    /// How many frames `rx` finds at a time.
    pub burst: usize,
    /// How many frames `tx` takes for a link before it is full; refilled by `service`.
    pub tx_room: usize,
    /// A link that takes none.
    pub full_link: Option<usize>,
    /// How many frames `pass` takes at a time.
    pub pass_room: usize,
    /// Interfaces. Frames come by them in turn.
    links: usize,
    room_left: [usize; MAX_INTERFACES],
    next: usize,
    lent: usize,
    left: u64,
    sent: Vec<u32>,
    sent_by: Vec<u8>,
    freed: Vec<u32>,
    passed: Vec<u32>,
}

/// A frame of a `Memory` port.
#[derive(Debug)]
pub struct Frame {
    index: u32,
    begin: u16,
    len: u16,
}

const BEGIN: u16 = HEADROOM as u16;

impl Frame {
    #[inline(always)]
    fn range(&self) -> Range<usize> {
        self.begin as usize..self.begin as usize + self.len as usize
    }
}

impl Memory {
    /// # Panics
    /// If a chunk has no room for a frame.
    pub fn new<F: AsRef<[u8]>>(frames: &[F]) -> Memory {
        Memory::with_spares(frames, SPARES)
    }

    /// As `new`, with so many frames besides, to be lent blank.
    pub fn with_spares<F: AsRef<[u8]>>(frames: &[F], spares: usize) -> Memory {
        let total = frames.len() + spares;
        let mut arena = vec![Chunk([0; STRIDE]); total].into_boxed_slice();
        for (chunk, frame) in arena.iter_mut().zip(frames) {
            chunk.0[HEADROOM..][..frame.as_ref().len()].copy_from_slice(frame.as_ref());
        }
        Memory {
            arena,
            lens: frames.iter().map(|f| f.as_ref().len() as u16).collect(),
            sent_as: frames.iter().map(|f| (BEGIN, f.as_ref().len() as u16)).chain(vec![(BEGIN, 0); spares]).collect(),
            spares: (frames.len() as u32..total as u32).rev().collect(),
            arrivals: vec![0; total].into(),
            now: 0,
            burst: usize::MAX,
            tx_room: usize::MAX,
            full_link: None,
            pass_room: usize::MAX,
            links: 1,
            room_left: [usize::MAX; MAX_INTERFACES],
            next: 0,
            lent: 0,
            left: 0,
            sent: Vec::with_capacity(total),
            sent_by: Vec::with_capacity(total),
            freed: Vec::with_capacity(total),
            passed: Vec::with_capacity(frames.len()),
        }
    }

    /// Has it frames of so many interfaces, with a queue each.
    pub fn with_links(self, links: usize) -> Memory {
        assert!((1..=MAX_INTERFACES).contains(&links));
        Memory { links, ..self }
    }

    /// Lets every frame be received again, as it lies.
    ///
    /// # Panics
    /// If a frame is still lent.
    pub fn rewind(&mut self) {
        assert_eq!(self.lent, 0, "a frame is still lent");
        self.next = 0;
        self.spares.clear();
        self.spares.extend((self.lens.len() as u32..self.arena.len() as u32).rev());
        self.sent_as.iter_mut().zip(&self.lens).for_each(|(sent, len)| *sent = (BEGIN, *len));
        self.sent.clear();
        self.sent_by.clear();
        self.freed.clear();
        self.passed.clear();
    }

    /// Says when every frame arrives, in nanoseconds on the scale of `now`.
    pub fn set_arrivals(&mut self, arrival: u64) {
        self.arrivals.fill(arrival);
    }

    /// Positions of the frames that were sent, in order; those beyond the received ones were lent blank.
    pub fn sent(&self) -> &[u32] {
        &self.sent
    }

    /// The link by which each of those was sent.
    pub fn sent_by(&self) -> &[u8] {
        &self.sent_by
    }

    /// Positions of the frames that were freed, in order.
    pub fn freed(&self) -> &[u32] {
        &self.freed
    }

    /// Positions of the frames that were passed, in order.
    pub fn passed(&self) -> &[u32] {
        &self.passed
    }

    #[inline(always)]
    pub fn frame(&self, position: usize) -> &[u8] {
        let (begin, len) = self.sent_as[position];
        &self.arena[position].0[begin as usize..][..len as usize]
    }

    #[inline(always)]
    pub fn frame_mut(&mut self, position: usize) -> &mut [u8] {
        &mut self.arena[position].0[HEADROOM..][..self.lens[position] as usize]
    }
}

impl Port for Memory {
    type Frame = Frame;

    const PASSES: bool = true;

    #[inline]
    fn service(&mut self) {
        self.room_left[..self.links].fill(self.tx_room);
        if let Some(link) = self.full_link {
            self.room_left[link] = 0;
        }
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Frame>) {
        let n = burst.remaining_capacity().min(self.burst).min(self.lens.len() - self.next);
        let lens = &self.lens[self.next..][..n];
        burst.extend(lens.iter().zip(self.next as u32..).map(|(len, index)| Frame { index, begin: BEGIN, len: *len }));
        self.next += n;
        self.lent += n;
    }

    #[inline(always)]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        &self.arena[frame.index as usize].0[frame.range()]
    }

    #[inline(always)]
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        &mut self.arena[frame.index as usize].0[frame.range()]
    }

    #[inline]
    fn reshape<'a>(&'a mut self, frame: &'a mut Frame, front: isize, len: usize) -> &'a mut [u8] {
        let begin = (frame.begin as usize).wrapping_add_signed(-front);
        assert!(begin <= STRIDE && len <= STRIDE - begin, "a chunk holds the frame");
        (frame.begin, frame.len) = (begin as u16, len as u16);
        &mut self.arena[frame.index as usize].0[begin..][..len]
    }

    fn blank(&mut self, _with: &Frame, len: usize) -> Option<Frame> {
        assert!(HEADROOM + len <= STRIDE, "a chunk holds the frame");
        let index = self.spares.pop()?;
        self.lent += 1;
        Some(Frame { index, begin: BEGIN, len: len as u16 })
    }

    #[inline(always)]
    fn arrival(&mut self, frame: &mut Frame) -> u64 {
        self.arrivals[frame.index as usize]
    }

    #[inline]
    fn now(&self) -> u64 {
        self.now
    }

    #[inline(always)]
    fn links(&self) -> usize {
        self.links
    }

    #[inline]
    fn link(&self, frame: &Frame) -> usize {
        // One is the common case, and a division costs as much as a frame's header.
        if self.links == 1 { 0 } else { frame.index as usize % self.links }
    }

    #[inline]
    fn queue(&self, frame: &Frame) -> usize {
        self.link(frame)
    }

    #[inline]
    fn room(&mut self, link: usize) -> usize {
        self.room_left[link]
    }

    #[inline]
    fn tx(&mut self, link: usize, burst: &mut Burst<Frame>) {
        self.room_left[link] -= burst.len();
        self.lent -= burst.len();
        self.left += burst.len() as u64;
        for frame in burst.iter() {
            self.sent_as[frame.index as usize] = (frame.begin, frame.len);
        }
        self.sent.extend(burst.drain(..).map(|frame| frame.index));
        self.sent_by.resize(self.sent.len(), link as u8);
    }

    #[inline]
    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        self.freed.extend(burst.drain(..).map(|frame| frame.index));
    }

    fn pass_room(&mut self) -> usize {
        self.pass_room
    }

    fn pass(&mut self, burst: &mut Burst<Frame>) {
        self.lent -= burst.len();
        self.passed.extend(burst.drain(..).map(|frame| frame.index));
    }

    fn ledger(&self) -> Ledger {
        let returned = self.sent.len() + self.freed.len() + self.passed.len();
        Ledger {
            // Spares are nobody's until they are lent.
            total: self.arena.len() - self.spares.len(),
            idle: 0,
            lent: self.lent,
            in_device: self.lens.len() - self.next + returned,
            sending: 0,
            left: self.left,
        }
    }
}
