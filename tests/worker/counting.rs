//! The system's allocator, counting by thread: calls, and bytes.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

pub struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

/// How often this thread has allocated, reallocated or freed.
pub fn calls() -> u64 {
    CALLS.get()
}

/// Bytes that this thread has allocated, less those that it has freed.
pub fn bytes() -> i64 {
    BYTES.get()
}

fn count(freed: usize, allocated: usize) {
    CALLS.set(CALLS.get() + 1);
    BYTES.set(BYTES.get() + allocated as i64 - freed as i64);
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller's promise about `layout` is the system's requirement.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), size);
        // SAFETY: `block` came from the system's allocator with `layout`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
