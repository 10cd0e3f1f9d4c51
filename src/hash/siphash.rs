//! SipHash-1-3, scalar: one compression round a block, three finalisation rounds.

use crate::model::HashKey;

/// The four words of the state before the first block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub(super) state: [u64; 4],
}

impl Key {
    pub const fn new(k0: u64, k1: u64) -> Key {
        Key {
            state: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// Of what `state` has said.
    pub fn from_state(state: [u64; 4]) -> Key {
        Key { state }
    }

    /// The four words, for a program that hashes by itself.
    pub fn state(&self) -> [u64; 4] {
        self.state
    }
}

impl From<HashKey> for Key {
    fn from(key: HashKey) -> Key {
        let (k0, k1) = key.halves();
        Key::new(k0, k1)
    }
}

#[inline(always)]
fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

/// The hash of an input that was cut into blocks, the last of which carries the length.
#[inline(always)]
pub fn blocks<const B: usize>(key: Key, blocks: [u64; B]) -> u64 {
    let mut v = key.state;
    for block in blocks {
        v = absorb(v, block);
    }
    finish(v)
}

#[inline(always)]
fn absorb(mut v: [u64; 4], block: u64) -> [u64; 4] {
    v[3] ^= block;
    v = round(v);
    v[0] ^= block;
    v
}

#[inline(always)]
fn finish(mut v: [u64; 4]) -> u64 {
    v[2] ^= 0xff;
    let [v0, v1, v2, v3] = round(round(round(v)));
    v0 ^ v1 ^ v2 ^ v3
}

/// The hash of any bytes.
pub fn bytes(key: Key, bytes: &[u8]) -> u64 {
    let mut v = key.state;
    let (whole, rest) = bytes.as_chunks::<8>();
    for chunk in whole {
        v = absorb(v, u64::from_le_bytes(*chunk));
    }
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    tail[7] = bytes.len() as u8;
    finish(absorb(v, u64::from_le_bytes(tail)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;
    use std::hash::Hasher;

    fn reference(key: [u8; 16], bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&key);
        hasher.write(bytes);
        hasher.finish()
    }

    /// The vectors of the reference implementation for SipHash-1-3: key 00..0f, inputs of 0 to 63 bytes 00 01 02 ..
    #[test]
    fn published_vectors() {
        let key = Key::from(HashKey(std::array::from_fn(|i| i as u8)));
        let vectors: [u64; 64] = [
            0xabac_0158_050f_c4dc,
            0xc9f4_9bf3_7d57_ca93,
            0x82cb_9b02_4dc7_d44d,
            0x8bf8_0ab8_e7dd_f7fb,
            0xcf75_5760_88d3_8328,
            0xdef9_d52f_4953_3b67,
            0xc50d_2b50_c59f_22a7,
            0xd392_7d98_9bb1_1140,
            0x3690_9511_8d29_9a8e,
            0x25a4_8eb3_6c06_3de4,
            0x79de_85ee_92ff_097f,
            0x70c1_18c1_f94d_c352,
            0x78a3_84b1_57b4_d9a2,
            0x306f_760c_1229_ffa7,
            0x605a_a111_c0f9_5d34,
            0xd320_d86d_2a51_9956,
            0xcc4f_dd1a_7d90_8b66,
            0x9cf2_6890_63db_d80c,
            0x8ffc_389c_b473_e63e,
            0xf21f_9de5_8d29_7d1c,
            0xc0dc_2f46_a6cc_e040,
            0xb992_abfe_2b45_f844,
            0x7ffe_7b9b_a320_872e,
            0x525a_0e7f_dae6_c123,
            0xf464_aeb2_6734_9c8c,
            0x45cd_5928_705b_0979,
            0x3a3e_35e3_ca99_13a5,
            0xa91d_c74e_4ade_3b35,
            0xfb0b_ed02_ef6c_d00d,
            0x88d9_3cb4_4ab1_e1f4,
            0x540f_11d6_43c5_e663,
            0x2370_dd1f_8c21_d1bc,
            0x8115_7b6c_16a7_b60d,
            0x4d54_b9e5_7a8f_f9bf,
            0x759f_1278_1f2a_753e,
            0xcea1_a3be_bf18_6b91,
            0x2cf5_08d3_ada2_6206,
            0xb610_1c2d_a3c3_3057,
            0xb3f4_7496_ae3a_36a1,
            0x626b_5754_7b10_8392,
            0xc1d2_3632_99e4_1531,
            0x667c_c192_3f1a_d944,
            0x6570_4ffe_c813_8825,
            0x24f2_80d1_c289_49a6,
            0xc2ca_1ced_faf8_876b,
            0xc216_4bfc_9f04_2196,
            0xa16e_9c93_68b1_d623,
            0x49fb_169c_8b51_14fd,
            0x9f31_43f8_df07_4c46,
            0xc6fd_af24_12cc_86b3,
            0x7eaf_49d1_0a52_098f,
            0x1cf3_1355_9d29_2f9a,
            0xc44a_30dd_a2f4_1f12,
            0x36fa_e989_43a7_1ed0,
            0x318f_b34c_73f0_bce6,
            0xa27a_bf36_70a7_e980,
            0xb4bc_c0db_243c_6d75,
            0x23f8_d852_fdb7_1513,
            0x8f03_5f4d_a67d_8a08,
            0xd89c_d0e5_b7e8_f148,
            0xf6f4_e6bc_f7a6_44ee,
            0xaec5_9ad8_0f18_37f2,
            0xc3b2_f615_4b66_94e0,
            0x9d19_9062_b7bb_b3a8,
        ];
        for (len, vector) in vectors.iter().enumerate() {
            let input: Vec<u8> = (0..len as u8).collect();
            assert_eq!(bytes(key, &input), *vector, "input of {len} bytes");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_siphasher_crate(key: [u8; 16], input in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(bytes(Key::from(HashKey(key)), &input), reference(key, &input));
        }

        #[test]
        fn blocks_are_the_bytes(
            key: [u8; 16], s4: [u8; 4], d4: [u8; 4], s6: [u8; 16], d6: [u8; 16], sport: u16, dport: u16, protocol: u8
        ) {
            let k = Key::from(HashKey(key));
            let tail = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[protocol]].concat();
            prop_assert_eq!(blocks(k, hash::source_v4(s4)), reference(key, &s4));
            prop_assert_eq!(blocks(k, hash::source_v6(s6)), reference(key, &s6));
            let flow4 = [&s4[..], &d4, &tail].concat();
            prop_assert_eq!(blocks(k, hash::flow_v4(s4, d4, (sport, dport), protocol)), reference(key, &flow4));
            let flow6 = [&s6[..], &d6, &tail].concat();
            prop_assert_eq!(blocks(k, hash::flow_v6(s6, d6, (sport, dport), protocol)), reference(key, &flow6));
        }
    }
}
