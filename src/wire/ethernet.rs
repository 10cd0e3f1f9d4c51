//! Ethernet II with 802.1Q and 802.1ad tags (IEEE 802.3-2018 3.2, 802.1Q-2018 9.6).
//!
//! A frame begins with its destination MAC and ends without FCS. What follows the tags is the payload; its kind is in the
//! last EtherType.

use super::be16;
use crate::limits::MAX_VLAN_TAGS;

pub const HEADER_LEN: usize = 14;
pub const VLAN_TAG_LEN: usize = 4;

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
