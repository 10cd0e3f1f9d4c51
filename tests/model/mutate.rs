//! Frames like real ones with something wrong, or something else right.

use super::Random;

/// Bytes that mean something somewhere: versions, protocols, extension headers, tags, flags.
const TELLING: [u8; 24] =
    [0, 1, 4, 5, 6, 8, 17, 20, 43, 44, 47, 51, 58, 59, 60, 80, 0x20, 0x45, 0x46, 0x4f, 0x60, 0x81, 132, 255];

pub struct Mutator<'f> {
    random: Random,
    seeds: &'f [Vec<u8>],
    /// Source MACs to try.
    macs: &'f [[u8; 6]],
}

impl<'f> Mutator<'f> {
    pub fn new(seed: u64, seeds: &'f [Vec<u8>], macs: &'f [[u8; 6]]) -> Mutator<'f> {
        Mutator { random: Random(seed), seeds, macs }
    }

    /// A seed with up to four changes.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.seed().clone();
        for _ in 0..self.random.below(5) {
            self.change(&mut frame);
        }
        frame
    }

    fn seed(&mut self) -> &'f Vec<u8> {
        &self.seeds[self.random.below(self.seeds.len())]
    }

    fn change(&mut self, frame: &mut Vec<u8>) {
        if frame.len() < 14 {
            return;
        }
        // Headers are where the decisions are.
        let at = 12 + self.random.below(frame.len().min(110) - 12);
        match self.random.below(11) {
            0 => frame[at] ^= 1 << self.random.below(8),
            1 => frame[at] = self.random.word() as u8,
            2 => frame[at] = TELLING[self.random.below(TELLING.len())],
            // A length one too long or too short.
            3 => frame[at] = frame[at].wrapping_add(1),
            4 => frame[at] = frame[at].wrapping_sub(1),
            5 => frame.truncate(self.random.below(frame.len() + 1)),
            6 => frame.truncate(at),
            7 => frame.extend((0..1 + self.random.below(70)).map(|i| i as u8)),
            8 => {
                let ethertype = if self.random.below(2) == 0 { [0x81, 0x00] } else { [0x88, 0xa8] };
                frame.splice(12..12, [ethertype, [0, 7]].concat());
            }
            9 => frame[6..12].copy_from_slice(&self.macs[self.random.below(self.macs.len())]),
            // Another frame's bytes from here on, or only a few.
            _ => {
                let other = self.seed();
                let end = if self.random.below(2) == 0 { other.len() } else { (at + 4).min(other.len()) };
                if at < end {
                    frame.resize(frame.len().max(end), 0);
                    frame[at..end].copy_from_slice(&other[at..end]);
                }
            }
        }
    }
}
