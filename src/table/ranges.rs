//! Ranges of addresses, side by side: what prefixes that lie in each other come to, compiled for the data path.
//!
//! Where ranges begin stands in a tree of nodes that are a cache line or two (a static B-tree, as in Khuong and Morin, "Array layouts for
//! comparison-based searching", 2017, section 6): a look-up among 400,000 is six nodes, however long the prefixes are.
//! `src/bpf/ranges.h` is the twin: it reads these words.

use crate::limits::BURST;
use crate::model::Prefix;
use std::net::IpAddr;
use std::sync::Arc;

/// Keys of a node.
pub const NODE: usize = 8;

/// Ranges of addresses, of keys of `W` words.
#[derive(Debug)]
pub struct Tree<const W: usize> {
    /// Where ranges begin, a node after the other, the root first: of each key the upper word first. Behind them a node that has none.
    keys: Arc<[u64]>,
    levels: usize,
    /// By key: the value of its range.
    values: Arc<[u32]>,
}

/// How far a look-up has come.
#[derive(Clone, Copy, Default)]
struct Search {
    node: usize,
    /// Behind the key that the range begins with.
    found: usize,
}

impl<const W: usize> Tree<W> {
    /// What fills the last nodes: behind every address, or nearly.
    const NO_KEY: u64 = if W == 1 { 1 << 32 } else { u64::MAX };

    /// Of ranges by their first addresses, in order; of values that are not 0 where something is there.
    pub fn new(ranges: &[([u64; W], u32)]) -> Tree<W> {
        let nodes = ranges.len().div_ceil(NODE);
        let mut keys = vec![Self::NO_KEY; (nodes + 1) * NODE * W];
        // The last address of all is not before what fills: that is of the last range, too.
        let mut values = vec![ranges.last().map_or(0, |(_, value)| *value); nodes * NODE];
        let mut rest = ranges.iter();
        fill(0, nodes, &mut |at| {
            if let Some((key, value)) = rest.next() {
                keys[at * W..][..W].copy_from_slice(key);
                values[at] = *value;
            }
        });
        // How many nodes there are in so many levels.
        let room = |levels: usize| (0..levels).map(|level| (NODE + 1).pow(level as u32)).sum::<usize>();
        let levels = (0..).find(|levels| room(*levels) >= nodes).expect("a tree has a height");
        Tree { keys: keys.into(), levels, values: values.into() }
    }

    /// The value of the range that has an address; 0: there is none.
    #[inline(always)]
    pub fn find(&self, address: [u64; W]) -> u32 {
        let mut search = Search::default();
        (0..self.levels).for_each(|_| self.step(&mut search, address));
        self.value(search)
    }

    /// As `find`, of a burst: on each level all of them, so that they wait for the caches together. `values` has room for them.
    #[inline(always)]
    pub fn find_all(&self, addresses: &[[u64; W]], values: &mut [u32; BURST]) {
        let mut searches = [Search::default(); BURST];
        for _ in 0..self.levels {
            searches.iter_mut().zip(addresses).for_each(|(search, address)| self.step(search, *address));
        }
        values.iter_mut().zip(searches).take(addresses.len()).for_each(|(value, search)| *value = self.value(search));
    }

    /// A level down. All levels are gone through, though the last is not full: where a search ends, the processor could not foretell.
    #[inline(always)]
    fn step(&self, search: &mut Search, address: [u64; W]) {
        let (node, nodes) = (search.node, self.nodes());
        let before = before(&self.keys[node.min(nodes) * NODE * W..][..NODE * W], address);
        search.found = if (before > 0) & (node < nodes) { node * NODE + before } else { search.found };
        search.node = node * (NODE + 1) + before + 1;
    }

    #[inline(always)]
    fn value(&self, Search { found, .. }: Search) -> u32 {
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

/// How many keys of a node are not behind an address: by halves, without a branch, which the processor could not foretell.
#[inline(always)]
fn before<const W: usize>(keys: &[u64], address: [u64; W]) -> usize {
    let number = |words: &[u64]| u128::from(words[0]) << 64 | u128::from(words[W - 1]);
    let is_before = |at: usize| match W {
        1 => usize::from(keys[at] <= address[0]),
        _ => usize::from(number(&keys[at * W..][..W]) <= number(&address)),
    };
    let mut before = 4 * is_before(3);
    before += 2 * is_before(before + 1);
    before += is_before(before);
    before + is_before(before)
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
