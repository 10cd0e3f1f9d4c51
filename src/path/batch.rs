//! Frames of a burst whose hash inputs have the same shape, side by side, to be hashed as one vector.

use crate::hash::vector::Row;
use crate::limits::BURST;
use crate::table::{Place, ServiceId};

/// The positions of the bits that are set, from the lowest.
pub struct Bits(pub u64);

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let at = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (at < u64::BITS).then_some(at as usize)
    }
}

/// A frame's position in the burst, and its service: one word, one store.
#[derive(Clone, Copy)]
pub struct Sorted(u32);

impl Sorted {
    #[inline(always)]
    pub fn new(position: usize, service: ServiceId) -> Sorted {
        Sorted(position as u32 | (service as u32) << 16)
    }

    #[inline(always)]
    pub fn position(self) -> usize {
        self.0 as usize % BURST
    }

    #[inline(always)]
    pub fn service(self) -> ServiceId {
        (self.0 >> 16) as ServiceId
    }
}

/// Frames whose hash inputs have `B` blocks.
pub struct Batch<const B: usize> {
    pub len: usize,
    pub frames: [Sorted; BURST],
    pub blocks: [Row; B],
    /// What the blocks hash to, and where that leads.
    pub(super) hashes: Row,
    pub(super) places: [Place; BURST],
}

impl<const B: usize> Default for Batch<B> {
    fn default() -> Batch<B> {
        Batch {
            len: 0,
            frames: [Sorted(0); BURST],
            blocks: [[0; BURST]; B],
            hashes: [0; BURST],
            places: [Place::default(); BURST],
        }
    }
}

impl<const B: usize> Batch<B> {
    pub fn push(&mut self, position: usize, service: ServiceId, blocks: [u64; B]) {
        self.frames[self.len] = Sorted::new(position, service);
        for (row, block) in self.blocks.iter_mut().zip(blocks) {
            row[self.len] = block;
        }
        self.len += 1;
    }

    /// Takes out the frames of these bits, and returns their positions, a bit each.
    #[cold]
    pub fn remove(&mut self, out: u64) -> u64 {
        let len = std::mem::take(&mut self.len);
        let mut positions = 0;
        for at in 0..len {
            let frame = self.frames[at];
            if out >> at & 1 == 0 {
                self.push(frame.position(), frame.service(), self.blocks.map(|row| row[at]));
            } else {
                positions |= 1 << frame.position();
            }
        }
        positions
    }
}
