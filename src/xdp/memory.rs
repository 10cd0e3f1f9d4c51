//! The memory of an array map, mapped into this process: what is read and written here needs no system call, and the program
//! sees it.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::table::flow_table::Bucket;
use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A map's elements, one behind the other, in words. Each is whole whenever it is read; the program may be writing others.
pub struct Memory {
    at: NonNull<AtomicU64>,
    words: usize,
    /// Programs that are loaded later find the map by this.
    _map: MapData,
}

// SAFETY: it is shared memory of atomic words, which belongs to no thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Of a map with `BPF_F_MMAPABLE` that has so many words.
    ///
    /// # Errors
    ///
    /// The kernel has no room for it in the address space.
    pub fn new(map: MapData, words: usize) -> io::Result<Memory> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, at a place that the kernel chooses, of a map that has at least that many bytes.
        let at = unsafe { mmap(std::ptr::null_mut(), words * size_of::<u64>(), protection, flags, map.fd(), 0) }?;
        let at = NonNull::new(at.cast()).expect("a mapping is not at 0");
        Ok(Memory { at, words, _map: map })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is of that many words, page aligned, and lasts as long as `self`; the kernel too writes whole words.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.words) }
    }

    /// As buckets of a flow table.
    pub fn buckets(&self, first: usize, count: usize) -> &[Bucket] {
        const WORDS: usize = size_of::<Bucket>() / 8;
        let words = &self.words()[first * WORDS..][..count * WORDS];
        const { assert!(align_of::<Bucket>() == size_of::<Bucket>()) };
        // SAFETY: a bucket is an array of so many atomic words, and the mapping begins with a page.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), count) }
    }

    pub fn read(&self, at: usize) -> u64 {
        self.words()[at].load(Relaxed)
    }

    pub fn write(&self, at: usize, words: &[u64]) {
        self.words()[at..][..words.len()].iter().zip(words).for_each(|(to, word)| to.store(*word, Relaxed));
    }

    pub fn clear(&self, at: usize, words: usize) {
        self.words()[at..][..words].iter().for_each(|word| word.store(0, Relaxed));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it any more.
        let gone = unsafe { munmap(self.at.as_ptr().cast(), self.words * size_of::<u64>()) };
        debug_assert!(gone.is_ok());
    }
}
