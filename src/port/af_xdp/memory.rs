//! The memory that the frames of a port lie in, which all its queues share. The unsafe room of this port, with `rings`.
//!
//! A frame is either the kernel's or ours. Ours are `Frame`s, which nobody can copy or make; the kernel's are nothing but
//! numbers in a ring. What makes every block below sound is that the two never overlap: a `Frame` is made only of what the
//! kernel has just given back, and is used up by what hands it over.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use xsk_rs::config::{FrameSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use super::rings::{cause, ring_size};
use crate::limits::{MAX_PORT_QUEUES, QUEUE_FRAMES};
use crate::xdp::{FRAME_OFFSET, STAMP_ROOM};

/// A frame of ours. Linear: dropping one leaks it, which the ledger shows.
pub struct Frame {
    // `options` belongs to the kernel only while a descriptor is in a ring; here it says of which memory this frame is, and in its low
    // bits by which of the port's queues it came.
    desc: FrameDesc,
}

/// The bits of `options` that say the queue.
const QUEUE_BITS: u32 = MAX_PORT_QUEUES as u32 - 1;

impl Frame {
    /// Which of the port's queues it came by.
    #[inline]
    pub(super) fn queue(&self) -> usize {
        (self.desc.options() & QUEUE_BITS) as usize
    }

    fn memory(&self) -> u32 {
        self.desc.options() & !QUEUE_BITS
    }
}

/// The frames' memory.
pub(super) struct Arena {
    /// Where it begins. A number, since xsk-rs owns the mapping; `at` makes pointers of it.
    base: usize,
    size: usize,
    total: usize,
    /// Tells one port's frames from another's: above the bits of the queue.
    id: u32,
    memory: Umem,
    in_huge_pages: bool,
}

impl Arena {
    /// With `QUEUE_FRAMES` frames of `chunk` bytes for each of so many queues, all of them ours as yet.
    pub(super) fn new(chunk: u32, queues: usize) -> io::Result<(Arena, Vec<Frame>)> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let count = QUEUE_FRAMES * queues;
        let frames = NonZeroU32::new(count as u32).expect("there is a queue");
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(chunk).expect("a chunk is large enough"))
            .frame_headroom(STAMP_ROOM)
            .fill_queue_size(ring_size())
            .comp_queue_size(ring_size())
            .build()
            .expect("a chunk is a power of two, with room for a frame");
        let size = count * chunk as usize;
        // A frame comes into memory that was last touched thousands of frames ago: in small pages its first byte misses the TLB.
        let huge =
            huge_page().filter(|page| size.is_multiple_of(*page)).and_then(|_| Umem::new(config, frames, true).ok());
        let in_huge_pages = huge.is_some();
        let (memory, mut descs) =
            huge.map_or_else(|| Umem::new(config, frames, false), Ok).map_err(|error| cause(&error))?;
        let first = &mut descs[0];
        assert_eq!(first.addr(), FRAME_OFFSET as usize, "xsk-rs and the kernel begin a frame at the same place");
        // SAFETY: a descriptor of this memory, which nobody but us has as yet.
        let data = unsafe { memory.data_mut(first) }.contents_mut().as_mut_ptr();
        let base = data.expose_provenance() - FRAME_OFFSET as usize;
        let id = NEXT.fetch_add(1, Ordering::Relaxed) * MAX_PORT_QUEUES as u32;
        let arena = Arena { base, size, total: count, id, memory, in_huge_pages };
        let frames = descs.into_iter().map(|desc| arena.own(desc, 0)).collect();
        Ok((arena, frames))
    }

    /// The memory, for a socket to use.
    pub(super) fn memory(&self) -> &Umem {
        &self.memory
    }

    /// How many frames there are.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Whether the host had huge pages to spare for the frames.
    pub(super) fn in_huge_pages(&self) -> bool {
        self.in_huge_pages
    }

    /// A descriptor that the kernel has given back by one of the port's queues becomes a frame of ours.
    #[inline]
    pub(super) fn own(&self, mut desc: FrameDesc, queue: usize) -> Frame {
        let end = desc.addr() + desc.lengths().data();
        debug_assert!(desc.addr() >= FRAME_OFFSET as usize && end <= self.size, "{desc:?} is not in the memory");
        debug_assert!(queue < MAX_PORT_QUEUES);
        desc.set_options(self.id | queue as u32);
        Frame { desc }
    }

    /// A frame of ours becomes a descriptor for the kernel.
    #[inline]
    pub(super) fn disown(&self, frame: Frame) -> FrameDesc {
        assert_eq!(frame.memory(), self.id, "a frame goes back to the port that lent it");
        let mut desc = frame.desc;
        desc.set_options(0);
        desc
    }

    #[inline]
    pub(super) fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: `place` says where the frame is. Nobody writes there: the frame is ours and not the kernel's, `bytes_mut`
        // would need the token that is borrowed here, and chunks do not overlap.
        unsafe { std::slice::from_raw_parts(self.place(frame), frame.desc.lengths().data()) }
    }

    #[inline]
    pub(super) fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `bytes`, and the token is borrowed for us alone.
        unsafe { std::slice::from_raw_parts_mut(self.place(frame), frame.desc.lengths().data()) }
    }

    #[inline]
    pub(super) fn set_len(&mut self, frame: &mut Frame, len: usize) {
        assert_eq!(frame.memory(), self.id, "a frame is written through the port that lent it");
        // SAFETY: the frame is of this memory and ours, and the token is borrowed for us alone.
        let mut data = unsafe { self.memory.data_mut(&mut frame.desc) };
        let mut cursor = data.cursor();
        cursor.set_pos(len);
        assert_eq!(cursor.pos(), len, "a chunk holds the frame");
    }

    /// Where a frame begins: `own` has seen that all its bytes are in the memory, which lives as long as `self`.
    #[inline]
    fn place(&self, frame: &Frame) -> *mut u8 {
        assert_eq!(frame.memory(), self.id, "a frame is read through the port that lent it");
        self.at(frame.desc.addr())
    }

    /// The 8 bytes in front of a frame; 0 is left there, for a next frame that gets no stamp.
    #[inline]
    pub(super) fn take_stamp(&mut self, frame: &mut Frame) -> u64 {
        assert_eq!(frame.memory(), self.id, "a frame is read through the port that lent it");
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
