//! The only bytes that a dispatcher changes.

use crate::table::{PackedMac, PackedNextHop, Table};
use crate::wire::checksum;
use crate::wire::ethernet::{self, Ethernet, HEADER_LEN, MAC_LEN};

/// Sends the frame on to `next_hop`: destination MAC = that one's, source MAC = the one the frame was received for, which
/// is ours. The rest of the frame stays as it is. `frame` holds an Ethernet header.
#[inline(always)]
pub fn to_next_hop(frame: &mut [u8], next_hop: PackedNextHop) {
    let Some(macs) = frame.first_chunk_mut::<{ 2 * MAC_LEN }>() else {
        unreachable!("a frame without an Ethernet header is never forwarded")
    };
    let [a, b, c, d, e, f, ..] = *macs;
    put_macs(macs, next_hop, PackedMac::from_bytes([a, b, c, d, e, f]));
}

/// Two stores instead of four: the destination's six bytes with the source's first two behind them, then the source's last four.
#[inline(always)]
fn put_macs(macs: &mut [u8; 2 * MAC_LEN], next_hop: PackedNextHop, source: PackedMac) {
    let [head, tail] = [next_hop.mac_word() | source.word() << 48, source.word() >> 16];
    macs[..8].copy_from_slice(&head.to_le_bytes());
    macs[8..].copy_from_slice(&(tail as u32).to_le_bytes());
}

/// As `leave`, into a header that has nothing yet, of a frame that came for `own`.
#[inline(always)]
pub fn write_macs(header: &mut [u8; HEADER_LEN], next_hop: PackedNextHop, own: PackedMac, table: &Table) {
    let source = table.egress(next_hop).map_or(own, |egress| PackedMac::from_bytes(egress.source.0));
    put_macs(header.first_chunk_mut().expect("12 of 14"), next_hop, source);
}

/// As `to_next_hop`, but what leaves by an interface of its own comes from that one's address.
#[inline]
pub fn leave(frame: &mut [u8], next_hop: PackedNextHop, table: &Table) {
    to_next_hop(frame, next_hop);
    if let Some(egress) = table.egress(next_hop) {
        frame[6..12].copy_from_slice(&egress.source.0);
    }
}

/// Sets the TTL or hop limit to 1, and mends the checksum of IPv4 (RFC 1624, equation 3). A server does not send such a packet back.
/// `frame` was decided.
pub fn mark_last_chance(frame: &mut [u8]) {
    let Some((ethertype, len)) = Ethernet::new(frame).map(|it| it.payload()).map(|(kind, ip)| (kind, ip.len())) else {
        return;
    };
    let at = frame.len() - len;
    match (ethertype, &mut frame[at..]) {
        (ethernet::IPV4, [_, _, _, _, _, _, _, _, ttl, protocol, high, low, ..]) => {
            let (from, to) = (u16::from_be_bytes([*ttl, *protocol]), u16::from_be_bytes([1, *protocol]));
            let check = checksum::mended(u16::from_be_bytes([*high, *low]), from.into(), to.into());
            *ttl = 1;
            [*high, *low] = check.to_be_bytes();
        }
        (ethernet::IPV6, [_, _, _, _, _, _, _, hop_limit, ..]) => *hop_limit = 1,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mac, NextHop};

    #[test]
    fn only_the_macs_change() {
        let mut frame: Vec<u8> = (0..64).collect();
        let next_hop = NextHop::on_link(Mac([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5]));
        to_next_hop(&mut frame, Some(next_hop).into());
        assert_eq!(frame[..6], [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5]);
        assert_eq!(frame[6..12], [0, 1, 2, 3, 4, 5]);
        assert!(frame[12..].iter().enumerate().all(|(i, byte)| *byte == 12 + i as u8));
    }

    #[test]
    fn of_a_last_chance_the_ttl_is_1_and_the_rest_stays() {
        for (ttl, tags) in [(1u8, 0usize), (2, 0), (64, 0), (64, 1), (255, 2)] {
            let mut frame = Vec::new();
            let ip = etherparse::PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], ttl);
            ip.tcp(1, 2, 3, 4).write(&mut frame, b"data").expect("a Vec takes all");
            (0..tags).for_each(|_| drop(frame.splice(12..12, [0x81, 0, 0, 7])));
            let at = 14 + 4 * tags;
            let mut marked = frame.clone();
            mark_last_chance(&mut marked);
            let header = etherparse::Ipv4HeaderSlice::from_slice(&marked[at..]).expect("IPv4");
            assert_eq!(header.ttl(), 1);
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum(), "{ttl}");
            let differs: Vec<usize> =
                (0..frame.len()).filter(|at| frame[*at] != marked[*at]).map(|it| it - at).collect();
            assert!(differs.iter().all(|at| [8, 10, 11].contains(at)), "{differs:?}");
        }
        let mut frame = Vec::new();
        let ip = etherparse::PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6([1; 16], [2; 16], 64);
        ip.tcp(1, 2, 3, 4).write(&mut frame, b"data").expect("a Vec takes all");
        let mut expected = frame.clone();
        expected[14 + 7] = 1;
        mark_last_chance(&mut frame);
        assert_eq!(frame, expected);
    }
}
