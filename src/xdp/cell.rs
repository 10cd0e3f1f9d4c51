//! The unit of which tables for BPF programs are made: an array map's element, found by its number.

#![allow(unsafe_code)]

/// `CELL` of src/bpf/table.h, in words.
pub const CELL_WORDS: usize = 512;

pub type Cell = [u64; CELL_WORDS];

/// What is laid out in words, without gaps.
///
/// # Safety
///
/// `repr(C)`, and no byte of it is padding.
pub unsafe trait Words: Sized {
    fn words(&self) -> &[u64] {
        const { assert!(size_of::<Self>().is_multiple_of(8) && align_of::<Self>() == 8) };
        // SAFETY: it is so many aligned words, all of whose bytes are initialised, as the trait demands.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>() / 8) }
    }
}
