//! Who owns a slot, as the Maglev paper's figure has it: every entry of every permutation, one slot a turn.

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

pub fn siphash(key: [u8; 16], bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(bytes);
    hasher.finish()
}

/// A hash scaled to a number below `bound`.
pub fn scaled(hash: u64, bound: u32) -> u32 {
    (((hash >> 32) as u128 * bound as u128) >> 32) as u32
}

/// Eisenbud et al., NSDI 2016, section 3.4, "Populate", for servers of equal weight, in turn by name. The permutation of a
/// server starts at the upper half of its name's hash and goes on in steps of the lower.
pub fn populate(key: [u8; 16], names: &[&str], slots: u32) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..names.len()).collect();
    turns.sort_by_key(|i| names[*i]);
    let permutation = |i: usize, j: u64| {
        let hash = siphash(key, names[i].as_bytes());
        let offset = scaled(hash, slots) as u64;
        let skip = scaled(hash << 32, slots - 1) as u64 + 1;
        ((offset + j * skip) % slots as u64) as usize
    };
    let mut next = vec![0; names.len()];
    let mut entry = vec![None; slots as usize];
    let mut n = 0;
    loop {
        for i in &turns {
            let mut c = permutation(*i, next[*i]);
            while entry[c].is_some() {
                next[*i] += 1;
                c = permutation(*i, next[*i]);
            }
            entry[c] = Some(*i);
            next[*i] += 1;
            n += 1;
            if n == slots {
                return entry.into_iter().map(|owner| owner.expect("every slot was taken")).collect();
            }
        }
    }
}
