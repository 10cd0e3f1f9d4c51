//! Prefixes in BPF tables: `struct prefixes` of `src/bpf/prefixes.h`.

use super::cell::{CELL_WORDS, Cell};
use super::directory;
use crate::table::ranges::Tree;
use crate::table::{self, ranges};
use std::convert::Infallible;

/// `PREFIX_LEVELS` of src/bpf/prefixes.h, and the ranges that so many levels hold.
const LEVELS: u32 = 5;
const _: () = assert!(2 * crate::limits::MAX_ADDRESSES < ranges::NODE * (ranges::NODE + 1).pow(LEVELS - 1));

/// `struct tree`
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Ranges {
    pub keys: u32,
    pub values: u32,
    pub inner: u32,
    pub last: u32,
}

impl Ranges {
    /// Of a tree, with the cells that its keys and its values begin in.
    pub fn of<const W: usize>(tree: &Tree<W>, keys: u32, values: u32) -> Ranges {
        Ranges { keys, values, inner: tree.inner() as u32, last: tree.last() as u32 }
    }
}

/// `struct prefixes`
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Prefixes {
    pub v4: Ranges,
    pub v6: Ranges,
    pub entries: u32,
}

/// A part of what prefixes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    KeysV4,
    ValuesV4,
    KeysV6,
    ValuesV6,
    Entries,
}

impl Prefixes {
    /// Of a directory. `place` puts words where a cell begins, and says in which.
    ///
    /// # Errors
    /// Those of `place`.
    pub fn place<E>(
        directory: &table::Directory,
        mut place: impl FnMut(Part, Vec<u64>) -> Result<u32, E>,
    ) -> Result<Prefixes, E> {
        let ranges = directory.ranges();
        if ranges.is_empty() {
            return Ok(Prefixes::default());
        }
        Ok(Prefixes {
            v4: of_tree(ranges.v4(), (Part::KeysV4, Part::ValuesV4), &mut place)?,
            v6: of_tree(ranges.v6(), (Part::KeysV6, Part::ValuesV6), &mut place)?,
            entries: place(Part::Entries, directory.prefixes().flat_map(directory::of_address).collect())?,
        })
    }

    /// Of a directory, in cells behind others.
    pub fn append(directory: &table::Directory, cells: &mut Vec<Cell>) -> Prefixes {
        let placed = Prefixes::place(directory, |_, words| {
            let first = cells.len() as u32;
            cells.extend(words.chunks(CELL_WORDS).map(|words| {
                let mut cell = [0; CELL_WORDS];
                cell[..words.len()].copy_from_slice(words);
                cell
            }));
            Ok::<u32, Infallible>(first)
        });
        placed.unwrap_or_else(|never| match never {})
    }

    /// Two fields a word; the last word has one.
    pub fn words(&self) -> [u64; 5] {
        let Prefixes { v4, v6, entries } = *self;
        [[v4.keys, v4.values], [v4.inner, v4.last], [v6.keys, v6.values], [v6.inner, v6.last], [entries, 0]]
            .map(|[low, high]| u64::from(low) | u64::from(high) << 32)
    }
}

fn of_tree<const W: usize, E>(
    tree: &Tree<W>,
    (keys, values): (Part, Part),
    place: &mut impl FnMut(Part, Vec<u64>) -> Result<u32, E>,
) -> Result<Ranges, E> {
    Ok(Ranges::of(tree, place(keys, tree.keys().to_vec())?, place(values, value_words(tree))?))
}

/// The values of a tree, two a word.
pub fn value_words<const W: usize>(tree: &Tree<W>) -> Vec<u64> {
    let word = |two: &[u32]| u64::from(two[0]) | u64::from(two.get(1).copied().unwrap_or_default()) << 32;
    tree.values().chunks(2).map(word).collect()
}
