//! The structures of `src/bpf/arena.h` and `src/bpf/flows.h`, field by field. The C side asserts the same sizes.

#![allow(unsafe_code)]

use std::mem::offset_of;

use crate::table::Rule;
use crate::xdp::cell::{CELL_WORDS, Words};
use crate::xdp::directory::Directory;
use crate::xdp::prefixes::{Prefixes, Ranges};

pub const HEADS: usize = 8;

/// `struct control`: the word that says which head counts, the time for tests, watched frames without room, and the heads.
pub const PRESENT: usize = 0;
pub const CLOCK: usize = 1;
pub const UNSEEN: usize = 2;
pub const FIRST_HEAD: usize = 3;
pub const HEAD_WORDS: usize = size_of::<Head>() / 8;
pub const CONTROL_WORDS: usize = FIRST_HEAD + HEADS * HEAD_WORDS;

/// Flags of a head, and of a service or a rule.
pub const WATCHED: u32 = 1;
pub const WATCHED_ALL: u32 = 2;
pub const WATCHED_RECEIVED: u32 = 4;
pub const WATCHED_DROPPED: u32 = 8;
pub const WATCHED_SENT: u32 = 16;
pub const LISTED: u32 = 32;
pub const LIMITS: u32 = 64;
pub const ODD_LIMITS: u32 = 128;
pub const BY_FLOW: u16 = 1;
pub const QUIC: u16 = 2;
pub const SECOND_CHANCE: u16 = 4;

/// The lowest bit of a service's group in its flags.
pub const GROUP: u16 = 8;

/// In the first cell of slots, or of remainders: a byte each.
pub const NARROW: u32 = 1 << 31;

/// In a hop's `egress`.
pub const NOT_RESOLVED: u32 = 1 << 31;
pub const HAS_WAY: u32 = 1 << 30;

/// `struct directory`
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Place {
    factor: u64,
    shift: u32,
    /// 0: there is nothing in it.
    first: u32,
}

impl Place {
    pub fn of(directory: &Directory, first: u32) -> Place {
        Place { factor: directory.factor, shift: directory.shift, first }
    }
}

/// `struct head`
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Head {
    pub key: [u64; 4],
    pub flow_key: [u64; 4],
    pub ports: Place,
    pub addresses: Place,
    pub loops: Place,
    pub servers: Place,
    pub keeping: Place,
    pub horizon: u64,
    pub watched: [u64; 2],
    pub services: u32,
    pub hops: u32,
    pub idents: u32,
    pub tally: u32,
    pub accounts: u32,
    pub latencies: u32,
    pub flags: u32,
    pub watched_is_v6: u32,
    pub ways: u32,
    pub own_egress: u32,
    pub snap: u32,
    pub lists_v4: Ranges,
    pub lists_v6: Ranges,
    pub fates: u32,
    pub prefixes: Prefixes,
    pub limits: u32,
    pub watched_of: u32,
    pub unused: u32,
    pub quic: Place,
}

/// `struct service`
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
pub struct Service {
    pub slots: u32,
    pub owners: u32,
    pub servers: u32,
    pub remainders: u32,
    pub base: u32,
    pub moves: u32,
    pub flags: u16,
    pub count: u16,
    pub hops: u32,
}

/// `struct owners`
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Owners {
    key: [u64; 4],
    slots: u32,
    flags: u32,
    pub first: u32,
    pub servers: u32,
    pub remainders: u32,
    pub is_learning: u32,
}

impl Owners {
    pub fn of(rule: &Rule, first: u32) -> Owners {
        let flags = if rule.flow { BY_FLOW.into() } else { 0 };
        Owners { key: rule.key.state(), slots: rule.slots, flags, first, ..Owners::default() }
    }
}

/// `CHANGES` of src/bpf/flows.h
pub const CHANGES: usize = 8;

/// `struct moves`
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Moves {
    pub previous: Owners,
    pub horizon: u64,
    pub changes: u32,
    pub until_closed: u32,
    pub chain: [Owners; CHANGES],
    pub earlier_changes: u32,
    pub unused: u32,
    pub earlier: [Owners; CHANGES],
}

const _: () = {
    assert!(size_of::<Head>() == 312 && offset_of!(Head, ports) == 64 && offset_of!(Head, horizon) == 144);
    assert!(offset_of!(Head, services) == 168 && offset_of!(Head, watched_is_v6) == 196);
    assert!(offset_of!(Head, ways) == 200 && offset_of!(Head, lists_v6) == 228 && offset_of!(Head, fates) == 244);
    assert!(offset_of!(Head, prefixes) == 248 && offset_of!(Head, limits) == 284 && offset_of!(Head, quic) == 296);
    assert!(size_of::<Service>() == 32 && offset_of!(Service, base) == 16 && offset_of!(Service, flags) == 24);
    assert!(size_of::<Owners>() == 56 && offset_of!(Owners, first) == 40);
    assert!(size_of::<Moves>() == 976 && offset_of!(Moves, horizon) == 56 && offset_of!(Moves, chain) == 72);
    assert!(size_of::<Moves>() <= CELL_WORDS * 8);
    assert!(CHANGES >= crate::limits::MAX_CHANGES);
};

// SAFETY: their fields fill the sizes that are asserted above.
unsafe impl Words for Head {}
// SAFETY: as above.
unsafe impl Words for Service {}
// SAFETY: as above.
unsafe impl Words for Moves {}
