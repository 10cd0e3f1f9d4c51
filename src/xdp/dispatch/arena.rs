//! The cells that tables are laid out in, and which of them are free.
//!
//! What stands in a cell that a published head leads to never changes. What no head leads to any more is retired: frames that were
//! under way may still be decided by it. After a grace period, which nobody waits for until cells are wanted, it is free.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::table::MIGRATING;
use crate::table::build::maglev::NOBODY;
use crate::table::build::migration::PreviousOwner;
use crate::xdp::cell::CELL_WORDS;
use crate::xdp::memory::Memory;
use crate::xdp::ranges::{Free, Range};

/// What is written into a range.
#[derive(Clone)]
pub enum Content {
    Words(Arc<[u64]>),
    /// Of a service with more servers than a byte has room for.
    Slots(Arc<[u16]>),
    /// Of any other service: what stands in slots, in a byte each.
    NarrowSlots(Arc<[u16]>),
    PreviousOwners(Arc<[PreviousOwner]>),
}

impl Content {
    pub fn cells(&self) -> u32 {
        let words = match self {
            Content::Words(words) => words.len(),
            Content::Slots(slots) => slots.len().div_ceil(4),
            Content::NarrowSlots(slots) => slots.len().div_ceil(8),
            Content::PreviousOwners(owners) => owners.len(),
        };
        u32::try_from(words.div_ceil(CELL_WORDS)).expect("a table is no larger than memory")
    }

    /// As `cells`, were its slots wide.
    pub fn wide_cells(&self) -> u32 {
        match self {
            Content::NarrowSlots(slots) => Content::Slots(Arc::clone(slots)).cells(),
            content => content.cells(),
        }
    }

    fn for_each(&self, mut with: impl FnMut(usize, u64)) {
        match self {
            Content::Words(words) => words.iter().enumerate().for_each(|(at, word)| with(at, *word)),
            Content::Slots(slots) => {
                let word = |four: &[u16]| four.iter().rev().fold(0, |word, slot| word << 16 | u64::from(*slot));
                slots.chunks(4).enumerate().for_each(|(at, four)| with(at, word(four)));
            }
            Content::NarrowSlots(slots) => {
                let word =
                    |eight: &[u16]| eight.iter().rev().fold(0, |word, slot| word << 8 | u64::from(narrow(*slot)));
                slots.chunks(8).enumerate().for_each(|(at, eight)| with(at, word(eight)));
            }
            Content::PreviousOwners(owners) => owners.iter().enumerate().for_each(|(at, owner)| with(at, owner.word())),
        }
    }
}

/// Servers that a byte has room for, beside `NOBODY` and the mark `MIGRATING`.
pub const NARROW_SERVERS: usize = 0x7f;

/// What stands at a slot, in a byte: `widened` of src/bpf/dispatch.h is the way back.
fn narrow(owner: u16) -> u8 {
    let mark = if owner & MIGRATING == 0 { 0 } else { 0x80 };
    match owner & !MIGRATING {
        NOBODY => mark | 0x7f,
        server => {
            debug_assert!(usize::from(server) < NARROW_SERVERS);
            mark | server as u8
        }
    }
}

pub struct Arena {
    memory: Memory,
    free: Free,
    retired: Vec<Range>,
}

impl Arena {
    /// Of memory that is all zeroes. The first cell stays so.
    pub fn new(memory: Memory) -> Arena {
        let cells = (memory.words().len() / CELL_WORDS) as u32;
        Arena { memory, free: Free::new(Range { first: 1, count: cells - 1 }), retired: Vec::new() }
    }

    pub fn take(&mut self, cells: u32) -> Option<Range> {
        self.free.take(cells)
    }

    /// No head has led to these.
    pub fn give_back(&mut self, range: Range) {
        self.free.give_back(range);
    }

    /// No head leads to these any more.
    pub fn retire(&mut self, range: Range) {
        self.retired.push(range);
    }

    /// Whether anything would be free after a grace period.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// All frames have gone by that were under way when the last of the retired was.
    pub fn free_retired(&mut self) {
        std::mem::take(&mut self.retired).into_iter().for_each(|range| self.give_back(range));
    }

    pub fn write(&self, range: Range, content: &Content) {
        let words = &self.memory.words()[range.first as usize * CELL_WORDS..][..range.count as usize * CELL_WORDS];
        content.for_each(|at, word| words[at].store(word, Relaxed));
    }

    /// Whether that stands there already.
    pub fn holds(&self, range: Range, words: &[u64]) -> bool {
        let there = &self.memory.words()[range.first as usize * CELL_WORDS..][..words.len()];
        there.iter().zip(words).all(|(there, word)| there.load(Relaxed) == *word)
    }
}
