//! Words in a vector register: what loops need of one, for each instruction set.
//!
//! Every method is a few instructions, inlined into a function that is compiled for the set. The unsafe blocks vouch
//! that it is: `super` calls such a function only where the processor has the set.

/// As many 64-bit words as a register holds.
pub trait Lanes: Copy {
    const COUNT: usize;

    fn splat(word: u64) -> Self;

    /// # Panics
    /// If there are not `COUNT` words.
    fn load(words: &[u64]) -> Self;

    /// # Panics
    /// As `load`.
    fn store(self, words: &mut [u64]);

    fn add(self, other: Self) -> Self;

    fn xor(self, other: Self) -> Self;

    /// In which lanes this is below the other, a bit each.
    fn is_below(self, other: Self) -> u32;

    /// In which lanes they are the same, a bit each.
    fn is(self, other: Self) -> u32;

    /// To the left by `LEFT` bits. `RIGHT` is 64 - `LEFT`.
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self;
}

impl Lanes for u64 {
    const COUNT: usize = 1;

    #[inline(always)]
    fn splat(word: u64) -> u64 {
        word
    }

    #[inline(always)]
    fn load(words: &[u64]) -> u64 {
        words[0]
    }

    #[inline(always)]
    fn store(self, words: &mut [u64]) {
        words[0] = self;
    }

    #[inline(always)]
    fn add(self, other: u64) -> u64 {
        self.wrapping_add(other)
    }

    #[inline(always)]
    fn xor(self, other: u64) -> u64 {
        self ^ other
    }

    #[inline(always)]
    fn is_below(self, other: u64) -> u32 {
        u32::from(self < other)
    }

    #[inline(always)]
    fn is(self, other: u64) -> u32 {
        u32::from(self == other)
    }

    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> u64 {
        self.rotate_left(LEFT as u32)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    impl Lanes for __m256i {
        const COUNT: usize = 4;

        #[inline(always)]
        fn splat(word: u64) -> __m256i {
            // SAFETY: the processor has AVX2; see the top of the file.
            unsafe { _mm256_set1_epi64x(word as i64) }
        }

        #[inline(always)]
        fn load(words: &[u64]) -> __m256i {
            let words: &[u64; 4] = words.first_chunk().expect("four words");
            // SAFETY: as in `splat`, and 32 bytes are there.
            unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
        }

        #[inline(always)]
        fn store(self, words: &mut [u64]) {
            let words: &mut [u64; 4] = words.first_chunk_mut().expect("four words");
            // SAFETY: as in `load`.
            unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), self) }
        }

        #[inline(always)]
        fn add(self, other: __m256i) -> __m256i {
            // SAFETY: as in `splat`.
            unsafe { _mm256_add_epi64(self, other) }
        }

        #[inline(always)]
        fn xor(self, other: __m256i) -> __m256i {
            // SAFETY: as in `splat`.
            unsafe { _mm256_xor_si256(self, other) }
        }

        #[inline(always)]
        fn is_below(self, other: __m256i) -> u32 {
            // There is a comparison of signed numbers only.
            let [signed, other] = [self, other].map(|words| words.xor(Self::splat(1 << 63)));
            // SAFETY: as in `splat`.
            unsafe { _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(other, signed))) as u32 }
        }

        #[inline(always)]
        fn is(self, other: __m256i) -> u32 {
            // SAFETY: as in `splat`.
            unsafe { _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(self, other))) as u32 }
        }

        #[inline(always)]
        fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> __m256i {
            // SAFETY: as in `splat`.
            unsafe {
                match LEFT {
                    // Exchanges the halves of each word: one instruction instead of three.
                    32 => _mm256_shuffle_epi32::<0b10_11_00_01>(self),
                    _ => _mm256_or_si256(_mm256_slli_epi64::<LEFT>(self), _mm256_srli_epi64::<RIGHT>(self)),
                }
            }
        }
    }

    impl Lanes for __m512i {
        const COUNT: usize = 8;

        #[inline(always)]
        fn splat(word: u64) -> __m512i {
            // SAFETY: the processor has AVX-512 F; see the top of the file.
            unsafe { _mm512_set1_epi64(word as i64) }
        }

        #[inline(always)]
        fn load(words: &[u64]) -> __m512i {
            let words: &[u64; 8] = words.first_chunk().expect("eight words");
            // SAFETY: as in `splat`, and 64 bytes are there.
            unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
        }

        #[inline(always)]
        fn store(self, words: &mut [u64]) {
            let words: &mut [u64; 8] = words.first_chunk_mut().expect("eight words");
            // SAFETY: as in `load`.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), self) }
        }

        #[inline(always)]
        fn add(self, other: __m512i) -> __m512i {
            // SAFETY: as in `splat`.
            unsafe { _mm512_add_epi64(self, other) }
        }

        #[inline(always)]
        fn xor(self, other: __m512i) -> __m512i {
            // SAFETY: as in `splat`.
            unsafe { _mm512_xor_si512(self, other) }
        }

        #[inline(always)]
        fn is_below(self, other: __m512i) -> u32 {
            // SAFETY: as in `splat`.
            unsafe { _mm512_cmplt_epu64_mask(self, other) }.into()
        }

        #[inline(always)]
        fn is(self, other: __m512i) -> u32 {
            // SAFETY: as in `splat`.
            unsafe { _mm512_cmpeq_epi64_mask(self, other) }.into()
        }

        #[inline(always)]
        fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> __m512i {
            // SAFETY: as in `splat`.
            unsafe { _mm512_rol_epi64::<LEFT>(self) }
        }
    }
}
