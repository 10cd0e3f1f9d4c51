//! The Internet checksum (RFC 1071), and how it is mended when a field changes (RFC 1624).
//!
//! Sums are of 16-bit words in network byte order, not folded: `fold` makes a checksum of one.

/// The sum of bytes, an odd last one as the upper half of a word. `most` 65,535 bytes fit without overflow.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum::<u32>();
    sum + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

/// The one's complement sum in 16 bits.
#[inline(always)]
pub fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum of what has that sum.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    !folded(sum)
}

/// The checksum when `old`, the sum of some fields, becomes `new` (RFC 1624, section 3, equation 3).
#[inline(always)]
pub fn mended(checksum: u16, old: u32, new: u32) -> u16 {
    fold(u32::from(!checksum) + u32::from(fold(old)) + u32::from(folded(new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 3.
    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(folded(sum(&bytes)), 0xddf2);
        // RFC 1624, section 4.
        assert_eq!(mended(0xdd2f, 0x5555, 0x3285), 0x0000);
        assert_eq!(fold(sum(&[0xff])), 0x00ff);
    }

    proptest! {
        /// Whatever changes, the mended checksum is as good as a new one: all of it sums up to nothing.
        #[test]
        fn mended_is_right(mut bytes in prop::collection::vec(any::<u8>(), 2..80), new in any::<[u8; 4]>(), at in 0usize..18) {
            bytes.resize(80, 7);
            let at = 2 * at;
            let checksum = fold(sum(&bytes));
            let old: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
            bytes[at..at + 4].copy_from_slice(&new);
            let mended = mended(checksum, sum(&old), sum(&new));
            prop_assert_eq!(folded(sum(&bytes) + u32::from(mended)), 0xffff);
        }
    }
}
