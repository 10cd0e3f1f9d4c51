//! Ethernet II with 802.1Q and 802.1ad tags (IEEE 802.3-2018 3.2, 802.1Q-2018 9.6).
//!
//! A frame begins with its destination MAC and ends without FCS. What follows the tags is the payload; its kind is in the
//! last EtherType.

use super::be16;
use crate::limits::MAX_VLAN_TAGS;
use crate::model::Tags;

pub const HEADER_LEN: usize = 14;
pub const VLAN_TAG_LEN: usize = 4;
/// With as many tags as are read.
pub const MAX_HEADER_LEN: usize = HEADER_LEN + MAX_VLAN_TAGS * VLAN_TAG_LEN;

pub const MAC_LEN: usize = 6;
/// Both addresses.
const MACS: usize = 2 * MAC_LEN;
/// Of a tag: priority and drop eligibility (802.1Q-2018, 9.6).
const PRIORITY: u16 = 0xf000;

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const SERVICE_VLAN: u16 = 0x88a8;

/// A frame with at least an Ethernet header.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    frame: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// `None`: shorter than an Ethernet header.
    #[inline]
    pub fn new(frame: &'a [u8]) -> Option<Ethernet<'a>> {
        (frame.len() >= HEADER_LEN).then_some(Ethernet { frame })
    }

    /// EtherType behind at most `MAX_VLAN_TAGS` tags, and what follows it. A frame that ends inside a tag, and one with
    /// more tags, shows the tag's own EtherType.
    #[inline]
    pub fn payload(&self) -> (u16, &'a [u8]) {
        let mut at = HEADER_LEN;
        for _ in 0..MAX_VLAN_TAGS {
            let ethertype = be16(self.frame, at - 2);
            if !matches!(ethertype, VLAN | SERVICE_VLAN) || self.frame.len() < at + VLAN_TAG_LEN {
                break;
            }
            at += VLAN_TAG_LEN;
        }
        (be16(self.frame, at - 2), &self.frame[at..])
    }
}

/// The header of a frame that is sent on, apart from the frame.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl Link {
    /// Of a frame whose header has `len` bytes, with other tags.
    #[inline]
    pub fn new(frame: &[u8], len: usize, tags: Tags) -> Link {
        let mut bytes = [0; MAX_HEADER_LEN];
        bytes[..len].copy_from_slice(&frame[..len]);
        let ethertype = [frame[len - 2], frame[len - 1]];
        let len = match tags {
            Tags::AsReceived => len,
            Tags::Untagged => HEADER_LEN,
            Tags::Vlan(id) => {
                let priority = if len > HEADER_LEN { be16(frame, HEADER_LEN) & PRIORITY } else { 0 };
                bytes[MACS..][..2].copy_from_slice(&VLAN.to_be_bytes());
                bytes[HEADER_LEN..][..2].copy_from_slice(&(priority | id).to_be_bytes());
                HEADER_LEN + VLAN_TAG_LEN
            }
        };
        bytes[len - 2..len].copy_from_slice(&ethertype);
        Link { bytes, len: len as u8 }
    }

    /// Another payload.
    #[inline]
    pub fn set_ethertype(&mut self, ethertype: [u8; 2]) {
        let end = self.len as usize;
        self.bytes[end - 2..end].copy_from_slice(&ethertype);
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    /// MACs, and behind them.
    fn header(rest: &[u8]) -> Vec<u8> {
        [&MAC, rest].concat()
    }

    #[test]
    fn a_header_gets_the_tags_that_a_server_wants() {
        let untagged = header(&[0x08, 0]);
        let tagged = header(&[0x81, 0, 0xb0, 7, 0x08, 0]);
        let double = header(&[0x88, 0xa8, 0x60, 9, 0x81, 0, 0xb0, 7, 0x86, 0xdd]);
        for (frame, tags, wanted) in [
            (&untagged, Tags::AsReceived, untagged.clone()),
            (&double, Tags::AsReceived, double.clone()),
            (&untagged, Tags::Untagged, untagged.clone()),
            (&tagged, Tags::Untagged, header(&[0x08, 0])),
            (&double, Tags::Untagged, header(&[0x86, 0xdd])),
            (&untagged, Tags::Vlan(100), header(&[0x81, 0, 0, 100, 0x08, 0])),
            (&tagged, Tags::Vlan(4094), header(&[0x81, 0, 0xbf, 0xfe, 0x08, 0])),
            (&double, Tags::Vlan(7), header(&[0x81, 0, 0x60, 7, 0x86, 0xdd])),
        ] {
            assert_eq!(Link::new(frame, frame.len(), tags).bytes(), wanted, "{frame:02x?} {tags:?}");
        }
        let mut link = Link::new(&tagged, tagged.len(), Tags::Vlan(5));
        link.set_ethertype([0x86, 0xdd]);
        assert_eq!(link.bytes(), header(&[0x81, 0, 0xb0, 5, 0x86, 0xdd]));
    }
}
