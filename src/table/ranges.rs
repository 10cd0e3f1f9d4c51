//! Ranges of addresses, side by side: what prefixes that lie in each other come to, compiled for the data path.
//!
//! Where ranges begin stands in a tree of nodes that are a cache line or two (a static B+-tree: the layout of Khuong and Morin, "Array layouts
//! for comparison-based searching", 2017, section 6, with all keys in the leaves): a look-up among 400,000 is six nodes, however long the
//! prefixes are. `src/bpf/ranges.h` is the twin: it reads these words.

use crate::hash::vector::{Lanes, Level, Loop};
use crate::limits::BURST;
use crate::model::Prefix;
use std::array;
use std::iter;
use std::net::IpAddr;
use std::sync::Arc;

/// Keys of a node.
pub const NODE: usize = 8;

/// Ranges of addresses, of keys of `W` words.
#[derive(Debug)]
pub struct Tree<const W: usize> {
    /// Nodes, of each first the upper words of all keys: level by level from the root, then the leaves, which have every key.
    /// The levels above the leaves are complete, so that node n has the nodes 9 n + 1 to 9 n + 9 beneath it.
    keys: Arc<[u64]>,
    /// So many nodes are no leaves, on so many levels.
    inner: usize,
    levels: usize,
    /// How many keys are not behind an address says the value of its range; behind none there is nothing, 0.
    values: Arc<[u32]>,
}

impl<const W: usize> Tree<W> {
    /// What stands where there is no key: behind every address, or nearly.
    const NO_KEY: [u64; W] = [if W == 1 { 1 << 32 } else { u64::MAX }; W];

    /// Of ranges by their first addresses, in order; of values that are not 0 where something is there.
    pub fn new(ranges: &[([u64; W], u32)]) -> Tree<W> {
        let leaves = ranges.len().div_ceil(NODE).max(1);
        let width = |level: usize| (NODE + 1).pow(level as u32);
        let levels = (0..).find(|levels| width(*levels) >= leaves).expect("a tree has a height");
        let inner = (0..levels).map(width).sum();
        let mut keys = Vec::with_capacity((inner + leaves) * NODE * W);
        let mut add = |node: [[u64; W]; NODE]| (0..W).for_each(|word| keys.extend(node.map(|key| key[word])));
        let key = |at: usize| ranges.get(at).map_or(Self::NO_KEY, |(key, _)| *key);
        for level in 0..levels {
            // Keys in all that is beneath one child.
            let beneath = NODE * width(levels - level - 1);
            for node in 0..width(level) {
                let first = node * (NODE + 1) * beneath;
                add(array::from_fn(|child| key(first + (child + 1) * beneath)));
            }
        }
        (0..leaves).for_each(|leaf| add(array::from_fn(|at| key(leaf * NODE + at))));
        let mut values: Vec<u32> = iter::once(0).chain(ranges.iter().map(|(_, value)| *value)).collect();
        // The last address of all is not before what stands for no key: that is of the last range, too.
        values.resize(leaves * NODE + 1, values[ranges.len()]);
        Tree { keys: keys.into(), inner, levels, values: values.into() }
    }

    /// The value of the range that has an address; 0: there is none.
    #[inline(always)]
    pub fn find(&self, address: [u64; W]) -> u32 {
        let node = (0..self.levels).fold(0, |node, _| self.beneath::<u64>(node, address));
        self.value::<u64>(node, address)
    }

    /// As `find`, of a burst: on each level all of them, so that they wait for the caches together. `values` has room for them.
    #[inline(always)]
    pub fn find_all(&self, level: Level, addresses: &[[u64; W]], values: &mut [u32; BURST]) {
        level.run(FindAll { tree: self, addresses, values });
    }

    /// How many keys of a node are not behind an address.
    #[inline(always)]
    fn before<V: Lanes>(&self, node: usize, address: [u64; W]) -> usize {
        let keys = &self.keys[node * NODE * W..][..NODE * W];
        let (upper, lower) = (V::splat(address[0]), V::splat(address[W - 1]));
        // Closures would not be compiled for a level.
        let (mut at, mut behind) = (0, 0);
        while at < NODE {
            let key = V::load(&keys[at..]);
            let mut lanes = upper.is_below(key);
            if W > 1 {
                lanes |= upper.is(key) & lower.is_below(V::load(&keys[(W - 1) * NODE + at..]));
            }
            behind += lanes.count_ones() as usize;
            at += V::COUNT;
        }
        NODE - behind
    }

    /// The node beneath another that an address leads to.
    #[inline(always)]
    fn beneath<V: Lanes>(&self, node: usize, address: [u64; W]) -> usize {
        node * (NODE + 1) + self.before::<V>(node, address) + 1
    }

    /// What a leaf says of an address.
    #[inline(always)]
    fn value<V: Lanes>(&self, leaf: usize, address: [u64; W]) -> u32 {
        // The last address of all leads behind the last leaf.
        let leaf = leaf.min(self.last());
        self.values[(leaf - self.inner) * NODE + self.before::<V>(leaf, address)]
    }

    pub fn keys(&self) -> &Arc<[u64]> {
        &self.keys
    }

    pub fn values(&self) -> &Arc<[u32]> {
        &self.values
    }

    /// How many nodes are no leaves.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// The last leaf, among all nodes.
    #[inline(always)]
    pub fn last(&self) -> usize {
        self.keys.len() / (NODE * W) - 1
    }
}

struct FindAll<'a, const W: usize> {
    tree: &'a Tree<W>,
    addresses: &'a [[u64; W]],
    values: &'a mut [u32; BURST],
}

impl<const W: usize> Loop for FindAll<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let FindAll { tree, addresses, values } = self;
        let mut nodes = [0u32; BURST];
        for _ in 0..tree.levels {
            for (node, address) in nodes.iter_mut().zip(addresses) {
                *node = tree.beneath::<V>(*node as usize, *address) as u32;
            }
        }
        for ((value, leaf), address) in values.iter_mut().zip(nodes).zip(addresses) {
            *value = tree.value::<V>(leaf as usize, *address);
        }
    }
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
    let words = |first: u128| array::from_fn(|at| (first >> (64 * (W - 1 - at))) as u64);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ranges that begin at these addresses: every look-up beside a search from the front.
    fn finds<const W: usize>(firsts: &[u128], last: u128) {
        let words = |number: u128| array::from_fn(|at| (number >> (64 * (W - 1 - at))) as u64);
        let ranges: Vec<_> = firsts.iter().zip(1..).map(|(first, value)| (words(*first), value)).collect();
        let tree = Tree::<W>::new(&ranges);
        let around = |first: &u128| [first.saturating_sub(1), *first, (first + u128::from(*first < last)).min(last)];
        let asked: Vec<u128> = firsts.iter().flat_map(around).chain([0, last]).collect();
        for asked in asked.chunks(BURST) {
            let addresses: Vec<[u64; W]> = asked.iter().map(|number| words(*number)).collect();
            let naive = |number: &u128| firsts.iter().take_while(|first| *first <= number).count() as u32;
            let naive: Vec<u32> = asked.iter().map(naive).collect();
            assert_eq!(addresses.iter().map(|address| tree.find(*address)).collect::<Vec<_>>(), naive);
            for level in Level::available() {
                let mut values = [0; BURST];
                tree.find_all(level, &addresses, &mut values);
                assert_eq!(values[..asked.len()], naive, "{} of {}", level.name(), firsts.len());
            }
        }
    }

    /// Leaves and levels that are full, and those that have one key more or less.
    #[test]
    fn finds_what_a_search_from_the_front_finds() {
        let counts = [0, 1, 2, 7, 8, 9, 71, 72, 73, 80, 81, 647, 648, 649, 1000];
        for count in counts {
            let spread = |last: u128| (1..=count).map(move |at| last / (count + 1) * at);
            finds::<1>(&spread(all_ones(32)).collect::<Vec<_>>(), all_ones(32));
            finds::<2>(&spread(all_ones(128)).collect::<Vec<_>>(), all_ones(128));
            // In the upper word all the same; and the last range is the last address of all.
            let low: Vec<u128> = (1..count).map(|at| (7 << 64) + at * 3).chain([all_ones(128)]).collect();
            finds::<2>(&low, all_ones(128));
            let close: Vec<u128> = (1..count).map(|at| at * 3).chain([all_ones(32)]).collect();
            finds::<1>(&close, all_ones(32));
        }
    }
}
