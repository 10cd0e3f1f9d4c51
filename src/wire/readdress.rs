//! A packet that goes to another address than it came for (L3DSR): the destination and the DSCP (RFC 2474) change, and with them the
//! checksum of the IPv4 header and those of TCP, UDP and ICMPv6, whose pseudo-header has the destination (RFC 1624).

use super::ipv4::{Fragment, Ipv4};
use super::ipv6::Ipv6;
use super::{array, be16, checksum, icmp, ipv4, ipv6};
use crate::model::Transport;
use std::net::IpAddr;

/// What packets to one server get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readdress {
    destination: IpAddr,
    dscp: u8,
    /// See `sum`.
    sum: u32,
}

impl Readdress {
    pub fn new(destination: IpAddr, dscp: u8) -> Readdress {
        let sum = match destination {
            IpAddr::V4(address) => checksum::sum(&address.octets()),
            IpAddr::V6(address) => checksum::sum(&address.octets()),
        };
        Readdress { destination, dscp, sum }
    }

    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    pub fn dscp(&self) -> u8 {
        self.dscp
    }

    /// Of the destination (`checksum::sum`).
    pub fn sum(&self) -> u32 {
        self.sum
    }

    /// Changes a packet that is whole, from its version field on. A fragment without a transport header has no checksum to mend.
    #[inline(always)]
    pub fn apply(&self, packet: &mut [u8]) {
        match self.destination {
            IpAddr::V4(destination) => self.apply_v4(packet, destination.octets()),
            IpAddr::V6(destination) => self.apply_v6(packet, destination.octets()),
        }
    }

    #[inline(always)]
    fn apply_v4(&self, packet: &mut [u8], destination: [u8; 4]) {
        let Some(header) = packet.first_chunk_mut::<{ ipv4::HEADER_LEN }>() else { return };
        let view = Ipv4::new(header).expect("it is as long as a header");
        let (protocol, fragment) = (view.protocol(), view.fragment());
        let payload = (header[0] & 0xf) as usize * 4..be16(header, 2) as usize;
        let old = u32::from(be16(header, 16)) + u32::from(be16(header, 18));
        let (before, class) = (header[1], self.dscp << 2 | header[1] & 3);
        header[1] = class;
        header[16..].copy_from_slice(&destination);
        mend(header, 10, old + u32::from(before), self.sum + u32::from(class));
        if fragment != Fragment::Later && protocol != icmp::PROTOCOL_V6 {
            mend_upper(&mut packet[payload], protocol, old, self.sum);
        }
    }

    #[inline(never)]
    fn apply_v6(&self, packet: &mut [u8], destination: [u8; 16]) {
        let Some(view) = Ipv6::new(packet) else { return };
        let old = checksum::sum(&array::<16>(packet, 24));
        let end = ipv6::HEADER_LEN + be16(packet, 4) as usize;
        let upper = view.upper().ok().filter(|upper| upper.fragment != Fragment::Later);
        let upper = upper.and_then(|upper| Some((upper.protocol?, end - upper.payload.len())));
        let class = (be16(packet, 0) >> 4) as u8 & 3 | self.dscp << 2;
        let first = 0x6000 | u16::from(class) << 4 | be16(packet, 0) & 0xf;
        packet[..2].copy_from_slice(&first.to_be_bytes());
        packet[24..40].copy_from_slice(&destination);
        if let Some((protocol, at)) = upper {
            mend_upper(&mut packet[at..end], protocol, old, self.sum);
        }
    }
}

const TCP: u8 = Transport::Tcp.protocol();
const UDP: u8 = Transport::Udp.protocol();

/// Mends the checksum at `at`.
#[inline(always)]
fn mend(bytes: &mut [u8], at: usize, old: u32, new: u32) {
    let mended = checksum::mended(be16(bytes, at), old, new);
    bytes[at..at + 2].copy_from_slice(&mended.to_be_bytes());
}

/// Where a transport header is, and long enough.
#[inline(always)]
fn mend_upper(upper: &mut [u8], protocol: u8, old: u32, new: u32) {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        icmp::PROTOCOL_V6 => 2,
        _ => return,
    };
    if upper.len() < at + 2 || (protocol == UDP && be16(upper, at) == 0) {
        return;
    }
    mend(upper, at, old, new);
    // Of UDP, 0 says that there is none (RFC 768).
    if protocol == UDP && be16(upper, at) == 0 {
        upper[at..at + 2].fill(0xff);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: [u8; 4] = [192, 0, 2, 11];

    /// A packet of a client to 203.0.113.80, in its transport header `checksum` at `at`; as it leaves: that checksum.
    fn mended(protocol: u8, checksum: u16, at: usize, upper_len: usize) -> (u16, Vec<u8>) {
        let total = 20 + upper_len as u8;
        let mut packet = vec![0x45, 0, 0, total, 0, 7, 0x20, 0, 9, protocol, 0, 0, 198, 51, 100, 7, 203, 0, 113, 80];
        packet.resize(total.into(), 0);
        if upper_len >= at + 2 {
            packet[20 + at..22 + at].copy_from_slice(&checksum.to_be_bytes());
        }
        let before = packet.clone();
        Readdress::new(SERVER.into(), 0).apply(&mut packet);
        assert_eq!((&packet[..2], &packet[16..20]), (&before[..2], &SERVER[..]));
        let mended = packet.get(20 + at..22 + at).map_or(0, |bytes| be16(bytes, 0));
        (mended, packet[20..].to_vec())
    }

    /// One's complement has two zeros, and in UDP the one of them says that there is no checksum.
    #[test]
    fn a_checksum_that_becomes_zero_does_not_become_none() {
        let [old, new] = [[203, 0, 113, 80], SERVER].map(|address| checksum::sum(&address));
        // That which the change makes zero.
        let becomes_zero = (1..=u16::MAX).find(|checksum| checksum::mended(*checksum, old, new) == 0).unwrap();
        assert_eq!(mended(UDP, becomes_zero, 6, 20).1, [[0; 6].as_slice(), &[0xff; 2], &[0; 12]].concat());
        assert_eq!(mended(TCP, becomes_zero, 16, 20).0, 0);
        assert_eq!(mended(UDP, 0, 6, 20).0, 0, "there was none");
        assert_ne!(mended(TCP, 0, 16, 20).0, 0);
        assert_eq!(mended(UDP, 0x1234, 6, 20).0, checksum::mended(0x1234, old, new));
    }

    /// A first fragment may end before the checksum, or within it.
    #[test]
    fn what_is_too_short_for_its_checksum_stays_as_it_is() {
        for len in 4..18 {
            assert_eq!(mended(TCP, 0, 16, len).1, vec![0; len]);
        }
        assert_ne!(mended(TCP, 0, 16, 18).1, [0; 18]);
    }
}
