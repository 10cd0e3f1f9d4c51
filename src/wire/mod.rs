//! Views of the headers that dispatching reads, one file a header; builders of those that it writes: `tunnel`, `too_big`, `readdress`,
//! with `checksum`; and `connection_id`, which both reads and makes.
//!
//! Every view borrows the bytes from its header's first one on. `check` (or `new`) says whether the header is whole and
//! consistent; after it, no accessor can panic. Nothing is copied.

pub mod checksum;
pub mod connection_id;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod quic;
pub mod readdress;
pub mod too_big;
pub mod transport;
pub mod tunnel;

/// The header is truncated, or one of its fields contradicts the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Big-endian 16-bit word at `at`.
#[inline(always)]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The `N` bytes at `at`.
#[inline(always)]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the view was checked")
}
