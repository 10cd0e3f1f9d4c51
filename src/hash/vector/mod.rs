//! Hot loops, many lanes at a time; those of selection stand here: SipHash-1-3 of a burst, and the strongest of many candidates.
//!
//! Each loop is written once and compiled three times: for AVX-512, AVX2 and the baseline. SipHash is generic over a register
//! of words (`lanes`), because compilers found no vectors in plain loops over arrays; the search for the strongest candidate
//! is plain Rust, which they do vectorise. The unsafe blocks vouch that the processor has what a loop was compiled for.
#![allow(unsafe_code)]

mod lanes;

use super::siphash::Key;
use crate::limits::BURST;
pub use lanes::Lanes;

/// The widest register has eight words.
const _: () = assert!(BURST.is_multiple_of(8));

/// One word of every input of a burst.
pub type Row = [u64; BURST];

/// The instruction set that the loops run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best that this processor has. Ask once, at start.
    pub fn detect() -> Level {
        Self::available().pop().expect("the baseline is always there")
    }

    /// Every level that this processor has, slowest first.
    pub fn available() -> Vec<Level> {
        let mut levels = vec![Level(Set::Baseline)];
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt");
            if has_avx2 {
                levels.push(Level(Set::Avx2));
            }
            if has_avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                levels.push(Level(Set::Avx512));
            }
        }
        levels
    }

    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "AVX-512",
        }
    }

    /// Runs a loop, compiled for this level.
    #[inline]
    pub fn run<L: Loop>(self, work: L) -> L::Output {
        match self.0 {
            Set::Baseline => work.run::<u64>(),
            // SAFETY: `available` makes this level only where the processor has what `run_avx2` is compiled for.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(work) },
            // SAFETY: the same of `run_avx512`.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx512(work) },
        }
    }

    /// SipHash-1-3 of the first `n` inputs, given block by block. `out` beyond `n` is unspecified.
    #[inline]
    pub fn siphash<const B: usize>(self, key: Key, blocks: &[Row; B], n: usize, out: &mut Row) {
        self.run(SipHash { key, blocks, n, out });
    }

    /// The index of the candidate whose `strength` for `salt` is greatest, the first of equals, and that strength.
    /// `strengths` is scratch space of the candidates' length. `None`: there is no candidate.
    #[inline]
    pub fn strongest(self, seeds: &[Seed], salt: u32, strengths: &mut [u32]) -> Option<(usize, u32)> {
        self.run(Strongest { seeds, salt, strengths })
    }
}

/// A loop over vectors of `V`, or one in plain Rust, such as compilers make vectors of.
pub trait Loop {
    type Output;

    /// To be `#[inline(always)]`: only what is inlined is compiled for the level.
    fn run<V: Lanes>(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn run_avx2<L: Loop>(work: L) -> L::Output {
    work.run::<std::arch::x86_64::__m256i>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,popcnt")]
fn run_avx512<L: Loop>(work: L) -> L::Output {
    work.run::<std::arch::x86_64::__m512i>()
}

struct SipHash<'a, const B: usize> {
    key: Key,
    blocks: &'a [Row; B],
    n: usize,
    out: &'a mut Row,
}

impl<const B: usize> Loop for SipHash<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let mut at = 0;
        while at < self.n.min(BURST) {
            let mut v = self.key.state.map(V::splat);
            for row in self.blocks {
                let block = V::load(&row[at..]);
                v[3] = v[3].xor(block);
                v = round(v);
                v[0] = v[0].xor(block);
            }
            v[2] = v[2].xor(V::splat(0xff));
            let [v0, v1, v2, v3] = round(round(round(v)));
            v0.xor(v1).xor(v2.xor(v3)).store(&mut self.out[at..]);
            at += V::COUNT;
        }
    }
}

/// One SipRound in every lane; `siphash::round` is its scalar twin.
#[inline(always)]
fn round<V: Lanes>([mut v0, mut v1, mut v2, mut v3]: [V; 4]) -> [V; 4] {
    v0 = v0.add(v1);
    v1 = v1.rotate::<13, 51>().xor(v0);
    v0 = v0.rotate::<32, 32>();
    v2 = v2.add(v3);
    v3 = v3.rotate::<16, 48>().xor(v2);
    v0 = v0.add(v3);
    v3 = v3.rotate::<21, 43>().xor(v0);
    v2 = v2.add(v1);
    v1 = v1.rotate::<17, 47>().xor(v2);
    v2 = v2.rotate::<32, 32>();
    [v0, v1, v2, v3]
}

/// What a candidate brings to `strength`: drawn from its identity, independent of every other's.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    pub offset: u32,
    /// Odd.
    pub factor: u32,
}

/// A pseudo-random 32-bit number of a candidate and a salt: two multiply-and-shift rounds, the first with a factor of the
/// candidate's own, so that two candidates agree on all salts only if they agree in 63 bits.
#[inline(always)]
pub fn strength(seed: Seed, salt: u32) -> u32 {
    let mut x = seed.offset ^ salt;
    x = (x ^ x >> 16).wrapping_mul(seed.factor);
    x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

struct Strongest<'a> {
    seeds: &'a [Seed],
    salt: u32,
    strengths: &'a mut [u32],
}

impl Loop for Strongest<'_> {
    type Output = Option<(usize, u32)>;

    #[inline(always)]
    fn run<V: Lanes>(self) -> Self::Output {
        let strengths = &mut self.strengths[..self.seeds.len()];
        let mut best = 0;
        for (out, seed) in strengths.iter_mut().zip(self.seeds) {
            *out = strength(*seed, self.salt);
            best = best.max(*out);
        }
        strengths.iter().position(|s| *s == best).map(|at| (at, best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::siphash;
    use proptest::prelude::*;

    fn agree<const B: usize>(key: Key, rows: &[[u64; B]]) {
        let mut blocks = [[0; BURST]; B];
        for (i, row) in rows.iter().enumerate() {
            for (b, block) in blocks.iter_mut().enumerate() {
                block[i] = row[b];
            }
        }
        for level in Level::available() {
            let mut out = [0; BURST];
            level.siphash(key, &blocks, rows.len(), &mut out);
            for (i, row) in rows.iter().enumerate() {
                assert_eq!(out[i], siphash::blocks(key, *row), "{} lane {i} of {}", level.name(), rows.len());
            }
        }
    }

    proptest! {
        #[test]
        fn every_level_is_the_scalar_hash(
            k0: u64, k1: u64,
            one in prop::collection::vec(any::<[u64; 1]>(), 0..=BURST),
            two in prop::collection::vec(any::<[u64; 2]>(), 0..=BURST),
            three in prop::collection::vec(any::<[u64; 3]>(), 0..=BURST),
            five in prop::collection::vec(any::<[u64; 5]>(), 0..=BURST),
        ) {
            let key = Key::new(k0, k1);
            agree(key, &one);
            agree(key, &two);
            agree(key, &three);
            agree(key, &five);
        }

        #[test]
        fn every_level_finds_the_first_strongest(
            seeds in prop::collection::vec((any::<u32>(), any::<u32>()), 0..300), salt: u32
        ) {
            let seeds: Vec<Seed> = seeds.iter().map(|s| Seed { offset: s.0, factor: s.1 | 1 }).collect();
            let mut naive: Option<(usize, u32)> = None;
            for (i, seed) in seeds.iter().enumerate() {
                let s = strength(*seed, salt);
                if naive.is_none_or(|(_, best)| s > best) {
                    naive = Some((i, s));
                }
            }
            for level in Level::available() {
                prop_assert_eq!(level.strongest(&seeds, salt, &mut vec![0; seeds.len()]), naive);
            }
        }
    }
}
