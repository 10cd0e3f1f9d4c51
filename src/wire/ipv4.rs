//! The IPv4 header (RFC 791 section 3.1).
//!
//! The header checksum is not verified: the router in front did, and the server behind will.

use super::{Malformed, array, be16};

pub const HEADER_LEN: usize = 20;
const DESTINATION_END: usize = 20;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// The bytes from the version field on: at least a header without options.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    bytes: &'a [u8],
}

/// A packet's place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram.
    Whole,
    /// The one that begins with the transport header.
    First,
    Later,
}

impl<'a> Ipv4<'a> {
    /// `None`: too short to hold both addresses. Says nothing else; see `check`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Ipv4<'a>> {
        (bytes.len() >= DESTINATION_END).then_some(Ipv4 { bytes })
    }

    /// Whether version, header length and total length agree with each other and, unless `cut` (a packet quoted in an
    /// ICMP error is cut short), with the bytes that are there.
    #[inline]
    pub fn check(&self, cut: bool) -> Result<(), Malformed> {
        let header = self.header_len();
        let total = be16(self.bytes, 2) as usize;
        let whole = self.version() == 4
            && header >= HEADER_LEN
            && header <= self.bytes.len()
            && total >= header
            && (cut || total <= self.bytes.len());
        if whole { Ok(()) } else { Err(Malformed) }
    }

    #[inline]
    pub fn version(&self) -> u8 {
        self.bytes[0] >> 4
    }

    /// Whether the header says that it is longer than without options.
    #[inline]
    pub fn has_options(&self) -> bool {
        self.header_len() > HEADER_LEN
    }

    #[inline]
    fn header_len(&self) -> usize {
        (self.bytes[0] & 0x0f) as usize * 4
    }

    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    #[inline]
    pub fn source(&self) -> [u8; 4] {
        array(self.bytes, 12)
    }

    #[inline]
    pub fn destination(&self) -> [u8; 4] {
        array(self.bytes, 16)
    }

    #[inline]
    pub fn fragment(&self) -> Fragment {
        let word = be16(self.bytes, 6);
        match (word & OFFSET_MASK, word & MORE_FRAGMENTS) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        }
    }

    /// What follows the options, without the padding of short frames. Only after `check`.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let total = (be16(self.bytes, 2) as usize).min(self.bytes.len());
        self.bytes.get(self.header_len()..total).unwrap_or_default()
    }
}
