//! The structures of `src/bpf/arena.h` and `src/bpf/flows.h`, field by field. The C side asserts the same sizes.

#![allow(unsafe_code)]

use std::mem::offset_of;
use std::net::IpAddr;

use crate::table::{Rule, Way};
use crate::wire::checksum;
use crate::xdp::cell::CELL_WORDS;
use crate::xdp::directory::Directory;

pub const HEADS: usize = 8;

/// `struct control`: the word that says which head counts, the time for tests, and the heads.
pub const PRESENT: usize = 0;
pub const CLOCK: usize = 1;
pub const FIRST_HEAD: usize = 2;
pub const HEAD_WORDS: usize = size_of::<Head>() / 8;
pub const CONTROL_WORDS: usize = FIRST_HEAD + HEADS * HEAD_WORDS;

/// Flags of a head, and of a service or a rule.
pub const WATCHED: u32 = 1;
pub const BY_FLOW: u16 = 1;

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
    pub unused: [u32; 12],
}

/// `struct way`
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct WayCell {
    pub header: [u8; 48],
    pub sum: u32,
    pub inner_mtu: u32,
    pub kind: u8,
    pub len: u8,
    pub is_udp: u8,
    pub dscp: u8,
    pub unused: u32,
}

impl WayCell {
    const TUNNEL_V4: u8 = 1;
    const TUNNEL_V6: u8 = 2;
    const READDRESS: u8 = 3;

    /// `mtu`: bytes that a packet may have with its headers.
    pub fn new(way: &Way, mtu: usize) -> WayCell {
        let mut cell =
            WayCell { header: [0; 48], sum: 0, inner_mtu: 0, kind: 0, len: 0, is_udp: 0, dscp: 0, unused: 0 };
        match way {
            Way::Direct | Way::Closed => {}
            Way::Tunnel(template) => {
                cell.header = *template.bytes();
                (cell.sum, cell.inner_mtu) = (template.sum(), template.inner_mtu(mtu) as u32);
                cell.kind = if template.is_v4() { Self::TUNNEL_V4 } else { Self::TUNNEL_V6 };
                (cell.len, cell.is_udp) = (template.header_len() as u8, template.has_port().into());
            }
            Way::Readdressed(readdress) => {
                match readdress.destination() {
                    IpAddr::V4(address) => cell.header[..4].copy_from_slice(&address.octets()),
                    IpAddr::V6(address) => cell.header[..16].copy_from_slice(&address.octets()),
                }
                cell.sum = checksum::sum(&cell.header);
                (cell.kind, cell.dscp) = (Self::READDRESS, readdress.dscp());
            }
        }
        cell
    }
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
}

const _: () = {
    assert!(size_of::<Head>() == 256 && offset_of!(Head, ports) == 64 && offset_of!(Head, horizon) == 144);
    assert!(offset_of!(Head, services) == 168 && offset_of!(Head, watched_is_v6) == 196);
    assert!(size_of::<WayCell>() == 64 && offset_of!(WayCell, sum) == 48 && offset_of!(WayCell, kind) == 56);
    assert!(offset_of!(Head, ways) == 200);
    assert!(size_of::<Service>() == 32 && offset_of!(Service, base) == 16 && offset_of!(Service, flags) == 24);
    assert!(size_of::<Owners>() == 56 && offset_of!(Owners, first) == 40);
    assert!(size_of::<Moves>() == 520 && offset_of!(Moves, horizon) == 56 && offset_of!(Moves, chain) == 72);
    assert!(size_of::<Moves>() <= CELL_WORDS * 8);
    assert!(CHANGES >= crate::limits::MAX_CHANGES);
};

/// What is laid out in words, without gaps.
///
/// # Safety
///
/// `repr(C)`, and no byte of it is padding.
pub unsafe trait Words: Sized {
    fn words(&self) -> &[u64] {
        const { assert!(size_of::<Self>().is_multiple_of(8) && align_of::<Self>() == 8) };
        // SAFETY: it is so many aligned words, all of whose bytes are initialised, as the trait demands.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>() / 8) }
    }
}

// SAFETY: their fields fill the sizes that are asserted above.
unsafe impl Words for Head {}
// SAFETY: as above.
unsafe impl Words for Service {}
// SAFETY: as above.
unsafe impl Words for Moves {}
// SAFETY: as above.
unsafe impl Words for WayCell {}
