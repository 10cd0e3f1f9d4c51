//! The data path a second time: written from the design alone, one frame at a time, in the plainest way, without a line of
//! `src/path`, `src/wire` or `src/hash`. Tests and the fuzz target hold the real one against it.
//!
//! `packet` reads a frame into the few facts that matter, `verdicts` judges them by the verdict table, `deliver` makes the frames that leave, `owners` populates
//! slots as the Maglev paper does, `limits` has a bucket for everything, `records` reads the golden frames, `mutate` damages them, `turn` runs frames through a
//! worker and compares, `plans` makes small configurations, `quic` reads connection IDs.
// Each test takes what it needs.
#![allow(dead_code)]

pub mod deliver;
pub mod limits;
pub mod mutate;
pub mod owners;
pub mod packet;
pub mod plans;
pub mod quic;
pub mod records;
pub mod turn;
pub mod verdicts;

pub use verdicts::Model;

/// Splitmix64 (Steele, Lea and Flood, OOPSLA 2014): reproducible inputs.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }
}
