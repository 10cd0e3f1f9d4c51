//! The unit of which tables for BPF programs are made: an array map's element, found by its number.

/// `CELL` of src/bpf/table.h, in words.
pub const CELL_WORDS: usize = 512;

pub type Cell = [u64; CELL_WORDS];
