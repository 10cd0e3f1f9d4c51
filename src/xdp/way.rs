//! `struct way` of `src/bpf/way.h`: what packets to a server get, as programs read it. The C side asserts the same size.

#![allow(unsafe_code)]

use std::mem::offset_of;
use std::net::IpAddr;

use crate::model::Tags;
use crate::table::Way;
use crate::xdp::cell::Words;

/// `struct way`; it has no gaps.
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
    pub vlan: u16,
    pub tags: u8,
    pub unused: u8,
}

impl WayCell {
    const TUNNEL_V4: u8 = 1;
    const TUNNEL_V6: u8 = 2;
    const READDRESS: u8 = 3;

    const UNTAGGED: u8 = 1;
    const TAGGED: u8 = 2;

    /// `mtu`: bytes that a packet may have with its headers.
    pub fn new(way: &Way, tags: Tags, mtu: usize) -> WayCell {
        let (tags, vlan) = match tags {
            Tags::AsReceived => (0, 0),
            Tags::Untagged => (Self::UNTAGGED, 0),
            Tags::Vlan(id) => (Self::TAGGED, id),
        };
        let (sum, inner_mtu, kind, len, is_udp, dscp, unused) = (0, 0, 0, 0, 0, 0, 0);
        let mut cell = WayCell { header: [0; 48], sum, inner_mtu, kind, len, is_udp, dscp, vlan, tags, unused };
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
                (cell.kind, cell.dscp, cell.sum) = (Self::READDRESS, readdress.dscp(), readdress.sum());
            }
        }
        cell
    }
}

const _: () = assert!(
    size_of::<WayCell>() == 64
        && offset_of!(WayCell, sum) == 48
        && offset_of!(WayCell, kind) == 56
        && offset_of!(WayCell, vlan) == 60
);

// SAFETY: its fields fill the size that is asserted above.
unsafe impl Words for WayCell {}
