//! The memory that the frames of a port lie in, which all its queues share (`UMEM`), in chunks. The unsafe room of this port, with `ring`.
//!
//! A frame is either the kernel's or ours. Ours are `Frame`s, which nobody can copy or make; the kernel's are nothing but
//! numbers in a ring. What makes every block below sound is that the two never overlap: a `Frame` is made only of what the
//! kernel has just given back, and is used up by what hands it over.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::net::sockopt;
use rustix::net::xdp::{XdpDesc, XdpDescOptions, XdpUmemReg, XdpUmemRegFlags};

use crate::limits::{MAX_PORT_QUEUES, QUEUE_FRAMES};
use crate::xdp::{FRAME_OFFSET, STAMP_ROOM};

/// A frame of ours. Linear: dropping one leaks it, which the ledger shows.
pub struct Frame {
    /// Where it begins in the memory: as it was received, `FRAME_OFFSET` bytes into its chunk.
    at: u64,
    len: u32,
    /// Of which memory it is, and in the low bits by which of the port's queues it came.
    whose: u32,
}

/// The bits of `whose` that say the queue.
const QUEUE_BITS: u32 = MAX_PORT_QUEUES as u32 - 1;

impl Frame {
    /// Which of the port's queues it came by.
    #[inline(always)]
    pub(super) fn queue(&self) -> usize {
        (self.whose & QUEUE_BITS) as usize
    }

    #[inline(always)]
    fn memory(&self) -> u32 {
        self.whose & !QUEUE_BITS
    }
}

/// The frames' memory.
pub(super) struct Arena {
    at: NonNull<u8>,
    size: usize,
    /// Bytes, a power of two.
    chunk: u64,
    /// Tells one port's frames from another's: above the bits of the queue.
    id: u32,
    in_huge_pages: bool,
}

// SAFETY: a mapping belongs to no thread; who has a frame, and this by reference, is the only one to touch its chunk.
unsafe impl Send for Arena {}

impl Arena {
    /// With `QUEUE_FRAMES` frames of `chunk` bytes for each of so many queues, all of them ours as yet.
    pub(super) fn new(chunk: u32, queues: usize) -> io::Result<(Arena, Vec<Frame>)> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let count = QUEUE_FRAMES * queues;
        let size = count * chunk as usize;
        // A frame comes into memory that was last touched thousands of frames ago: in small pages its first byte misses the TLB.
        let huge =
            huge_page().filter(|page| size.is_multiple_of(*page)).and_then(|_| map(size, MapFlags::HUGETLB).ok());
        let in_huge_pages = huge.is_some();
        let at = huge.map_or_else(|| map(size, MapFlags::empty()), Ok)?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed) * MAX_PORT_QUEUES as u32;
        assert!(chunk.is_power_of_two(), "the kernel takes no others");
        let chunk = u64::from(chunk);
        let arena = Arena { at, size, chunk, id, in_huge_pages };
        let begin = |number: usize| number as u64 * chunk + u64::from(FRAME_OFFSET);
        let frames = (0..count).map(|number| Frame { at: begin(number), len: 0, whose: id }).collect();
        Ok((arena, frames))
    }

    /// Has a socket take frames from here, and those that share with it.
    ///
    /// # Errors
    /// The memory cannot be locked.
    pub(super) fn register(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let memory = XdpUmemReg {
            addr: self.at.as_ptr().expose_provenance() as u64,
            len: self.size as u64,
            chunk_size: self.chunk as u32,
            headroom: STAMP_ROOM,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        Ok(sockopt::set_xdp_umem_reg(socket, memory)?)
    }

    /// How many frames there are.
    pub(super) fn total(&self) -> usize {
        self.size / self.chunk as usize
    }

    /// Whether the host had huge pages to spare for the frames.
    pub(super) fn in_huge_pages(&self) -> bool {
        self.in_huge_pages
    }

    /// What the kernel has received, by one of the port's queues, becomes a frame of ours.
    #[inline(always)]
    pub(super) fn own(&self, XdpDesc { addr, len, .. }: XdpDesc, queue: usize) -> Frame {
        let end = addr as usize + len as usize;
        debug_assert!(addr >= u64::from(FRAME_OFFSET) && end <= self.size, "{addr} is not in the memory");
        debug_assert!(queue < MAX_PORT_QUEUES);
        Frame { at: addr, len, whose: self.id | queue as u32 }
    }

    /// What the kernel has sent is ours again, to be received into.
    #[inline(always)]
    pub(super) fn own_sent(&mut self, addr: u64) -> Frame {
        let begin = self.chunk_of(addr) + u64::from(FRAME_OFFSET);
        let mut frame = Frame { at: begin, len: 0, whose: self.id };
        if addr < begin {
            // A header lay where the next stamp may be missing.
            self.take_stamp(&mut frame);
        }
        frame
    }

    /// A frame of ours becomes the kernel's, to be sent.
    #[inline(always)]
    pub(super) fn disown(&self, Frame { at, len, whose }: Frame) -> XdpDesc {
        assert_eq!(whose & !QUEUE_BITS, self.id, "a frame goes back to the port that lent it");
        XdpDesc { addr: at, len, options: XdpDescOptions::empty() }
    }

    /// As `disown`, to be received into: the kernel looks only at which chunk it is.
    #[inline(always)]
    pub(super) fn give_back(&self, frame: Frame) -> u64 {
        self.disown(frame).addr
    }

    #[inline(always)]
    pub(super) fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: `place` says where the frame is. Nobody writes there: the frame is ours and not the kernel's, `bytes_mut`
        // would need the token that is borrowed here, and chunks do not overlap.
        unsafe { std::slice::from_raw_parts(self.place(frame), frame.len as usize) }
    }

    #[inline(always)]
    pub(super) fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `bytes`, and the token is borrowed for us alone.
        unsafe { std::slice::from_raw_parts_mut(self.place(frame), frame.len as usize) }
    }

    /// Moves where a frame begins, by so many bytes to the front, or to the back, and where it ends.
    ///
    /// # Panics
    /// A chunk does not hold that.
    #[inline(always)]
    pub(super) fn reshape(&self, frame: &mut Frame, front: isize, len: usize) {
        let at = frame.at.wrapping_add_signed(-(front as i64));
        let chunk = self.chunk_of(at);
        assert!(chunk == self.chunk_of(frame.at) && at - chunk + len as u64 <= self.chunk, "a chunk holds the frame");
        (frame.at, frame.len) = (at, len as u32);
    }

    /// Where the chunk begins that a place is in.
    #[inline(always)]
    fn chunk_of(&self, at: u64) -> u64 {
        at & !(self.chunk - 1)
    }

    /// Where a frame begins: it is in its chunk, of the memory that lives as long as `self`.
    #[inline(always)]
    fn place(&self, frame: &Frame) -> *mut u8 {
        assert_eq!(frame.memory(), self.id, "a frame is read through the port that lent it");
        // SAFETY: an offset within the mapping.
        unsafe { self.at.as_ptr().add(frame.at as usize) }
    }

    /// The 8 bytes in front of a frame as it was received; 0 is left there, for a next frame that gets no stamp.
    #[inline(always)]
    pub(super) fn take_stamp(&mut self, frame: &mut Frame) -> u64 {
        // SAFETY: a frame is received `FRAME_OFFSET` bytes into its chunk, so that the bytes before it are of the same chunk and, like
        // the frame, nobody else's; any 8 bytes are a number, and need no alignment here.
        unsafe {
            let stamp = self.place(frame).sub(STAMP_ROOM as usize).cast::<u64>();
            let arrival = stamp.read_unaligned();
            stamp.write_unaligned(0);
            arrival
        }
    }
}

impl Drop for Arena {
    /// The kernel holds the pages that sockets still use.
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` has made; frames are read and written only through `self`.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.size) };
    }
}

fn map(size: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE | flags);
    // SAFETY: a new mapping at a place that the kernel chooses.
    let at = unsafe { mmap_anonymous(ptr::null_mut(), size, protection, flags) }?;
    Ok(NonNull::new(at.cast()).expect("a mapping is not at 0"))
}

/// The size of the huge pages that mmap(2) takes, in bytes; whether there are any, it says itself.
fn huge_page() -> Option<usize> {
    let facts = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = facts.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_was_moved_and_sent_begins_anew_without_a_stamp() {
        let (mut arena, mut frames) = Arena::new(2048, 1).unwrap();
        let mut frame = frames.swap_remove(3);
        let begin = frame.at;
        assert_eq!(begin, 3 * 2048 + u64::from(FRAME_OFFSET));
        arena.reshape(&mut frame, 0, 60);
        arena.bytes_mut(&mut frame).copy_from_slice(&[1; 60]);
        arena.reshape(&mut frame, 48, 108);
        arena.bytes_mut(&mut frame)[..48].copy_from_slice(&[2; 48]);
        assert_eq!(arena.bytes(&frame), [&[2; 48][..], &[1; 60]].concat());
        let sent = arena.disown(frame);
        assert_eq!((sent.addr, sent.len), (begin - 48, 108));
        let mut frame = arena.own_sent(sent.addr);
        assert_eq!((frame.at, arena.take_stamp(&mut frame)), (begin, 0));
        arena.reshape(&mut frame, -14, 46);
        let sent = arena.disown(frame);
        assert_eq!(arena.own_sent(sent.addr).at, begin);
    }

    #[test]
    fn a_frame_does_not_leave_its_chunk() {
        let (arena, mut frames) = Arena::new(2048, 1).unwrap();
        for (front, len) in [(FRAME_OFFSET as isize + 1, 60), (0, 2049 - FRAME_OFFSET as usize), (-2048, 60)] {
            let mut frame = frames.pop().unwrap();
            let moved =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| arena.reshape(&mut frame, front, len)));
            assert!(moved.is_err(), "{front} {len}");
        }
    }
}
