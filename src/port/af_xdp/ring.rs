//! A ring that this process shares with the kernel, <https://docs.kernel.org/networking/af_xdp.html#rings>: one side writes entries and
//! says how many there are by the producer's number, the other reads them and says how far by the consumer's (`struct xsk_queue`,
//! net/xdp/xsk_queue.h). Numbers only rise, and turn over.
//!
//! The unsafe room of the rings. What makes it sound: an entry is written only where `Producer::room` has said that the kernel is done
//! with it, and read only where `Consumer::take` has seen that the kernel has written it, and each side's number is stored after what it
//! speaks of (release), and read before (acquire).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::{XdpRingFlags, XdpRingOffset};

use crate::limits::RING;

/// `RING` entries, and the numbers of both sides.
struct Shared<T> {
    at: NonNull<u8>,
    len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
}

// SAFETY: a mapping belongs to no thread, and what lies in it has no owner but this.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    fn map(socket: BorrowedFd<'_>, page: u64, offsets: XdpRingOffset) -> io::Result<Shared<T>> {
        let flags = offsets.flags.ok_or(io::ErrorKind::Unsupported)?;
        let len = offsets.desc as usize + RING * size_of::<T>();
        let (protection, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at a place that the kernel chooses, of the ring that lies there in the socket.
        let at = unsafe { mmap(ptr::null_mut(), len, protection, kind, socket, page) }?;
        let at = NonNull::new(at.cast::<u8>()).expect("a mapping is not at 0");
        // SAFETY: the kernel says where in the ring its parts lie, each aligned for what it is.
        let part = |offset: u64| unsafe { at.add(offset as usize) };
        Ok(Shared {
            at,
            len,
            producer: part(offsets.producer).cast(),
            consumer: part(offsets.consumer).cast(),
            flags: part(flags).cast(),
            entries: part(offsets.desc).cast(),
        })
    }

    #[inline(always)]
    fn number(&self, of: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: one of ours, which the mapping holds for as long as `self` lives; who else writes it does so as a whole.
        unsafe { of.as_ref() }
    }

    #[inline(always)]
    fn entry(&self, number: u32) -> *mut T {
        // SAFETY: an entry of the ring.
        unsafe { self.entries.as_ptr().add(number as usize % RING) }
    }

    #[inline(always)]
    fn needs_wakeup(&self) -> bool {
        self.number(self.flags).load(Ordering::Relaxed) & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` has made, of which nobody has a reference any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// A ring that this side fills.
pub(super) struct Producer<T> {
    shared: Shared<T>,
    next: u32,
    /// How far the kernel was when it was last looked at.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    /// Of a socket whose ring at that page of it has `RING` entries.
    ///
    /// # Errors
    /// It has none, or the kernel has no room for it in the address space.
    pub(super) fn map(socket: BorrowedFd<'_>, page: u64, offsets: XdpRingOffset) -> io::Result<Producer<T>> {
        let shared = Shared::map(socket, page, offsets)?;
        let [next, consumed] = [shared.producer, shared.consumer].map(|of| shared.number(of).load(Ordering::Acquire));
        Ok(Producer { shared, next, consumed })
    }

    /// How many entries it takes now: exact up to `wanted`, for which the kernel's number is looked at only where it matters.
    #[inline(always)]
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        let room = RING - self.next.wrapping_sub(self.consumed) as usize;
        if room >= wanted {
            return room;
        }
        self.consumed = self.shared.number(self.shared.consumer).load(Ordering::Acquire);
        RING - self.next.wrapping_sub(self.consumed) as usize
    }

    /// Whether the kernel has taken all of it.
    #[inline(always)]
    pub(super) fn is_empty(&mut self) -> bool {
        self.room(RING) == RING
    }

    /// # Panics
    /// If there is no room for them.
    #[inline(always)]
    pub(super) fn extend(&mut self, entries: impl ExactSizeIterator<Item = T>) {
        assert!(entries.len() <= self.room(entries.len()), "a ring has the room that it said it has");
        // No more than were counted.
        let last = self.next.wrapping_add(entries.len() as u32);
        for entry in entries {
            if self.next == last {
                break;
            }
            // SAFETY: the kernel is done with the entry.
            unsafe { self.shared.entry(self.next).write(entry) };
            self.next = self.next.wrapping_add(1);
        }
        self.shared.number(self.shared.producer).store(self.next, Ordering::Release);
    }

    /// Whether the kernel waits to be told.
    #[inline(always)]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }
}

/// A ring that the kernel fills.
pub(super) struct Consumer<T> {
    shared: Shared<T>,
    next: u32,
    /// How far the kernel was when it was last looked at.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    /// As `Producer::map`.
    ///
    /// # Errors
    /// As `Producer::map`.
    pub(super) fn map(socket: BorrowedFd<'_>, page: u64, offsets: XdpRingOffset) -> io::Result<Consumer<T>> {
        let shared = Shared::map(socket, page, offsets)?;
        let [next, produced] = [shared.consumer, shared.producer].map(|of| shared.number(of).load(Ordering::Acquire));
        Ok(Consumer { shared, next, produced })
    }

    /// Hands over the entries that are there, the oldest first and at most so many; how many.
    #[inline(always)]
    pub(super) fn take(&mut self, most: usize, mut each: impl FnMut(T)) -> usize {
        if self.produced == self.next {
            self.produced = self.shared.number(self.shared.producer).load(Ordering::Acquire);
        }
        let count = (self.produced.wrapping_sub(self.next) as usize).min(most);
        for at in 0..count as u32 {
            // SAFETY: the kernel has written the entry, and leaves it as it is until it is told.
            each(unsafe { self.shared.entry(self.next.wrapping_add(at)).read() });
        }
        if count > 0 {
            self.next = self.next.wrapping_add(count as u32);
            self.shared.number(self.shared.consumer).store(self.next, Ordering::Release);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::io::pwrite;
    use std::collections::VecDeque;
    use std::os::fd::AsFd;

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, flags: Some(128), desc: 192 };

    /// Both ends of a ring, in a file instead of a socket, as they are after so many entries.
    fn ends(number: u32) -> (Producer<u64>, Consumer<u64>) {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 192 + 8 * RING as u64).unwrap();
        assert!([0, 64].into_iter().all(|at| pwrite(&file, &number.to_ne_bytes(), at) == Ok(4)));
        (Producer::map(file.as_fd(), 0, OFFSETS).unwrap(), Consumer::map(file.as_fd(), 0, OFFSETS).unwrap())
    }

    proptest! {
        #[test]
        fn is_a_queue(
            number in prop_oneof![Just(0), Just(u32::MAX - 1000), any::<u32>()],
            steps in prop::collection::vec((any::<bool>(), 0..700usize), 0..60),
        ) {
            let ((mut producer, mut consumer), mut naive, mut entries) = (ends(number), VecDeque::new(), 0u64..);
            for (fills, count) in steps {
                if fills {
                    let room = producer.room(count);
                    prop_assert!(room <= RING - naive.len() && (room == RING - naive.len() || room >= count));
                    let new: Vec<u64> = entries.by_ref().take(count.min(room)).collect();
                    naive.extend(&new);
                    producer.extend(new.into_iter());
                } else {
                    let mut taken = Vec::new();
                    // What it has seen it hands over before it looks again.
                    while taken.len() < count && consumer.take(count - taken.len(), |entry| taken.push(entry)) > 0 {}
                    let expected: Vec<u64> = naive.drain(..count.min(naive.len())).collect();
                    prop_assert_eq!(taken, expected);
                }
                prop_assert_eq!(producer.is_empty(), naive.is_empty());
            }
        }
    }

    #[test]
    #[should_panic(expected = "a ring has the room that it said it has")]
    fn no_entry_is_written_over() {
        ends(7).0.extend(vec![0; RING + 1].into_iter());
    }

    #[test]
    fn a_waiting_kernel_is_heard() {
        let (producer, _) = ends(0);
        assert!(!producer.needs_wakeup());
        producer.shared.number(producer.shared.flags).store(1, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }
}
