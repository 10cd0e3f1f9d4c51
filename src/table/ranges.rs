//! Ranges of addresses, side by side: what prefixes that lie in each other come to, compiled for the data path.
//!
//! Where ranges begin stands in a tree of nodes that are a cache line or two (a static B-tree, as in Khuong and Morin, "Array layouts for
//! comparison-based searching", 2017, section 6): a look-up among 400,000 is six nodes, however long the prefixes are.
//! `src/bpf/ranges.h` is the twin: it reads these words.

use crate::model::Prefix;
use std::net::IpAddr;
use std::sync::Arc;

/// Keys of a node.
pub const NODE: usize = 8;

/// Ranges of addresses, of keys of `W` words.
#[derive(Debug)]
pub struct Tree<const W: usize> {
    /// Where ranges begin, a node after the other, the root first: of each key the upper word first.
    keys: Arc<[u64]>,
    /// By key: the value of its range.
    values: Arc<[u32]>,
}

impl<const W: usize> Tree<W> {
    /// What fills the last nodes: behind every address, or nearly.
    const NO_KEY: u64 = if W == 1 { 1 << 32 } else { u64::MAX };

    /// Of ranges by their first addresses, in order; of values that are not 0 where something is there.
    pub fn new(ranges: &[([u64; W], u32)]) -> Tree<W> {
        let nodes = ranges.len().div_ceil(NODE);
        let mut keys = vec![Self::NO_KEY; nodes * NODE * W];
        // The last address of all is not before what fills: that is of the last range, too.
        let mut values = vec![ranges.last().map_or(0, |(_, value)| *value); nodes * NODE];
        let mut rest = ranges.iter();
        fill(0, nodes, &mut |at| {
            if let Some((key, value)) = rest.next() {
                keys[at * W..][..W].copy_from_slice(key);
                values[at] = *value;
            }
        });
        Tree { keys: keys.into(), values: values.into() }
    }

    /// The value of the range that has an address; 0: there is none.
    #[inline(always)]
    pub fn find(&self, address: [u64; W]) -> u32 {
        // Behind the key that the range begins with.
        let (mut node, mut found) = (0, 0);
        while let Some(keys) = self.keys.get(node * NODE * W..(node + 1) * NODE * W) {
            let before: usize = keys.chunks_exact(W).map(|key| usize::from(is_at_most(key, address))).sum();
            found = if before > 0 { node * NODE + before } else { found };
            node = node * (NODE + 1) + before + 1;
        }
        if found == 0 { 0 } else { self.values[found - 1] }
    }

    pub fn keys(&self) -> &Arc<[u64]> {
        &self.keys
    }

    pub fn values(&self) -> &Arc<[u32]> {
        &self.values
    }

    pub fn nodes(&self) -> usize {
        self.values.len() / NODE
    }
}

/// Without a branch, which the processor could not foretell: a node's keys are compared at once.
#[inline(always)]
fn is_at_most<const W: usize>(key: &[u64], address: [u64; W]) -> bool {
    match W {
        1 => key[0] <= address[0],
        _ => (key[0] < address[0]) | ((key[0] == address[0]) & (key[1] <= address[1])),
    }
}

/// Visits the places of the keys of a tree in the order of the keys.
fn fill(node: usize, nodes: usize, place: &mut impl FnMut(usize)) {
    if node >= nodes {
        return;
    }
    for key in 0..NODE {
        fill(node * (NODE + 1) + key + 1, nodes, place);
        place(node * NODE + key);
    }
    fill(node * (NODE + 1) + NODE + 1, nodes, place);
}

/// The ranges of prefixes of one family, by their first addresses. `inside` says what a range comes to: by what lies around it, `nothing` where nothing
/// does, and by the equal prefixes that begin there.
pub fn side_by_side<const W: usize, T, V: Copy + PartialEq>(
    mut prefixes: Vec<(Prefix, T)>,
    nothing: V,
    inside: impl Fn(V, &[(Prefix, T)]) -> V,
) -> Vec<([u64; W], V)> {
    // A prefix stands before those that lie in it.
    prefixes.sort_unstable_by_key(|(prefix, _)| (first(prefix), prefix.length));
    let bits = if W == 1 { 32 } else { 128 };
    let mut ranges: Vec<(u128, V)> = Vec::new();
    let mut begin = |at: u128, value: V| {
        if ranges.last().is_some_and(|(last, _)| *last == at) {
            ranges.pop();
        }
        if ranges.last().map_or(nothing, |(_, value)| *value) != value {
            ranges.push((at, value));
        }
    };
    // Those that lie around the present place: the last address of each, and its value.
    let mut around: Vec<(u128, V)> = Vec::new();
    let innermost = |around: &[(u128, V)]| around.last().map_or(nothing, |(_, value)| *value);
    for alike in prefixes.chunk_by(|(one, _), (next, _)| one == next) {
        let (prefix, _) = &alike[0];
        let first = first(prefix);
        while let Some((last, _)) = around.pop_if(|(last, _)| *last < first) {
            begin(last + 1, innermost(&around));
        }
        let value = inside(innermost(&around), alike);
        begin(first, value);
        around.push((first | all_ones(bits - u32::from(prefix.length)), value));
    }
    let end = all_ones(bits);
    while let Some((last, _)) = around.pop() {
        if last < end {
            begin(last + 1, innermost(&around));
        }
    }
    let words = |first: u128| std::array::from_fn(|at| (first >> (64 * (W - 1 - at))) as u64);
    ranges.into_iter().map(|(first, value)| (words(first), value)).collect()
}

fn first(prefix: &Prefix) -> u128 {
    match prefix.address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn all_ones(bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - bits).unwrap_or(0)
}
