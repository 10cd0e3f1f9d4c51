//! `struct way` of `src/bpf/way.h`: what packets to a server get, as programs read it. The C side asserts the same size.

#![allow(unsafe_code)]

use std::mem::offset_of;
use std::net::IpAddr;

use crate::table::Way;
use crate::wire::checksum;
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

const _: () = assert!(size_of::<WayCell>() == 64 && offset_of!(WayCell, sum) == 48 && offset_of!(WayCell, kind) == 56);

// SAFETY: its fields fill the size that is asserted above.
unsafe impl Words for WayCell {}
