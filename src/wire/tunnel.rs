//! The headers in front of a packet that goes to a server through a tunnel: IPv4 (RFC 2003) or IPv6 (RFC 2473), and for GUE variant 1 UDP
//! (draft-ietf-intarea-gue, section 4), for GRE its header without key, checksum or sequence number (RFC 2784).
//!
//! A `Template` has all that is the same for every packet to a server. `write` copies it and fills in what is not: lengths, traffic
//! class, IPv4 identification, source port, checksums.

use super::{be16, checksum, ethernet, ipv4, ipv6};
use crate::model::Deliver;
use std::net::IpAddr;

/// The longest: IPv6 and UDP.
pub const MAX_HEADER_LEN: usize = ipv6::HEADER_LEN + UDP_LEN;

const UDP_LEN: usize = 8;
const GRE_LEN: usize = 4;
const FRAGMENT_LEN: usize = 8;

const TTL: u8 = 64;

/// Protocol numbers.
const IPV4: u8 = 4;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const FRAGMENT: u8 = 44;
const GRE: u8 = 47;

/// IPv4's flags.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

/// What of the packet inside stands in the headers in front of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inner {
    /// By its own length field, in bytes.
    pub len: usize,
    /// Type of service, or traffic class, ECN included (RFC 6040, "normal mode").
    pub traffic_class: u8,
    /// Nobody may fragment it: IPv4 with DF, or IPv6.
    pub dont_fragment: bool,
    pub is_v4: bool,
}

impl Inner {
    /// Of a packet that is whole, from its version field on.
    #[inline(always)]
    pub fn read(packet: &[u8]) -> Inner {
        let packet: &[u8; ipv4::HEADER_LEN] = packet.first_chunk().expect("a packet that is whole has a header");
        if packet[0] >> 4 == 4 {
            Inner {
                len: be16(packet, 2) as usize,
                traffic_class: packet[1],
                dont_fragment: be16(packet, 6) & DONT_FRAGMENT != 0,
                is_v4: true,
            }
        } else {
            Inner {
                len: ipv6::HEADER_LEN + be16(packet, 4) as usize,
                traffic_class: (be16(packet, 0) >> 4) as u8,
                dont_fragment: true,
                is_v4: false,
            }
        }
    }
}

/// The headers to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
    is_v4: bool,
    is_udp: bool,
    /// Of what goes out.
    ethertype: [u8; 2],
    /// Of IPv4: the sum of its header. Of IPv6: that of the pseudo-header of UDP, without the length, and the destination port.
    sum: u32,
}

impl Template {
    /// For packets of one family. `None`: there is no tunnel, or the addresses are not of one family.
    pub fn new(deliver: Deliver, source: IpAddr, destination: IpAddr, inner_is_v4: bool) -> Option<Template> {
        let protocol = match deliver {
            Deliver::L2 | Deliver::L3dsr { .. } => return None,
            Deliver::Ipip => {
                if inner_is_v4 {
                    IPV4
                } else {
                    IPV6
                }
            }
            Deliver::Gue { .. } => UDP,
            Deliver::Gre => GRE,
        };
        let mut bytes = Vec::with_capacity(MAX_HEADER_LEN);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x45, 0, 0, 0, 0, 0, 0, 0, TTL, protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x60, 0, 0, 0, 0, 0, protocol, TTL]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            _ => return None,
        }
        let is_v4 = source.is_ipv4();
        let mut sum = if is_v4 { checksum::sum(&bytes) } else { checksum::sum(&bytes[8..]) + u32::from(UDP) };
        match deliver {
            Deliver::Gue { port } => {
                let [high, low] = port.to_be_bytes();
                bytes.extend([0, 0, high, low, 0, 0, 0, 0]);
                sum += if is_v4 { 0 } else { u32::from(port) };
            }
            Deliver::Gre => bytes.extend([0, 0].into_iter().chain(if inner_is_v4 { [8, 0] } else { [0x86, 0xdd] })),
            Deliver::Ipip | Deliver::L2 | Deliver::L3dsr { .. } => {}
        }
        let len = bytes.len() as u8;
        bytes.resize(MAX_HEADER_LEN, 0);
        let bytes = bytes.try_into().expect("it was made so long");
        let ethertype = if is_v4 { ethernet::IPV4 } else { ethernet::IPV6 }.to_be_bytes();
        Some(Template { bytes, len, is_v4, is_udp: protocol == UDP, ethertype, sum })
    }

    /// Bytes in front of the packet.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        self.len as usize
    }

    /// All bytes of the header, behind which are zeros.
    pub fn bytes(&self) -> &[u8; MAX_HEADER_LEN] {
        &self.bytes
    }

    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.is_v4
    }

    /// See the field.
    pub fn sum(&self) -> u32 {
        self.sum
    }

    /// Whether packets get a source port that spreads them.
    #[inline(always)]
    pub fn has_port(&self) -> bool {
        self.is_udp
    }

    /// The EtherType of what goes out, as it stands in a frame.
    #[inline(always)]
    pub fn ethertype(&self) -> [u8; 2] {
        self.ethertype
    }

    /// The largest packet that fits into `mtu` with the headers.
    #[inline(always)]
    pub fn inner_mtu(&self, mtu: usize) -> usize {
        mtu.saturating_sub(self.header_len())
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.bytes[at..].first_chunk().expect("an offset within the header"))
    }

    /// What there is behind the IP header: nothing, or GRE's or UDP's.
    #[inline(always)]
    fn copy_behind(&self, at: usize, rest: &mut [u8]) {
        match self.header_len() - at {
            0 => {}
            GRE_LEN => rest[..GRE_LEN].copy_from_slice(&self.bytes[at..at + GRE_LEN]),
            _ => rest[..UDP_LEN].copy_from_slice(&self.bytes[at..at + UDP_LEN]),
        }
    }

    /// Writes the headers of the packet `inner`, which lies behind them in `packet`. `identification`: of IPv4, and then routers on the
    /// way may fragment the packet (RFC 6864, section 4.1); `None`: nobody may.
    #[inline(always)]
    pub fn write(&self, packet: &mut [u8], inner: &Inner, identification: Option<u16>, port: u16) {
        let ip_len = if self.is_v4 {
            self.write_v4(packet, inner, identification);
            ipv4::HEADER_LEN
        } else {
            self.write_v6(packet, inner);
            ipv6::HEADER_LEN
        };
        if self.is_udp {
            let (header, payload) = packet.split_at_mut(self.header_len());
            let udp_len = (UDP_LEN + inner.len) as u16;
            let udp = &mut header[ip_len..];
            put(udp, 0, port);
            put(udp, 4, udp_len);
            if !self.is_v4 {
                // The length is in the header and in the pseudo-header.
                let sum = self.sum + u32::from(port) + 2 * u32::from(udp_len);
                let checksum = checksum::fold(u32::from(checksum::folded(sum)) + checksum::sum(&payload[..inner.len]));
                put(udp, 6, if checksum == 0 { 0xffff } else { checksum });
            }
        }
    }

    /// Of `write`, all but what UDP needs besides. The header of IPv4 in words, each stored once.
    #[inline(always)]
    pub fn write_v4(&self, packet: &mut [u8], inner: &Inner, identification: Option<u16>) {
        let id = identification.unwrap_or(0);
        let flags = if identification.is_some() { 0 } else { DONT_FRAGMENT };
        let (class, total) = (u64::from(inner.traffic_class), (self.header_len() + inner.len) as u16);
        let patched = class as u32 + u32::from(total) + u32::from(id) + u32::from(flags);
        let check = checksum::fold(self.sum + patched);
        let first = (0x4500 | class) << 48 | u64::from(total) << 32 | u64::from(id) << 16 | u64::from(flags);
        // In the template the checksum is zero.
        let second = self.word(8) | u64::from(check.to_be()) << 16;
        let (ip, rest) = packet.split_first_chunk_mut::<{ ipv4::HEADER_LEN }>().expect("it has an IPv4 header");
        ip[..8].copy_from_slice(&first.to_be_bytes());
        ip[8..16].copy_from_slice(&second.to_le_bytes());
        ip[16..].copy_from_slice(&self.bytes[16..ipv4::HEADER_LEN]);
        self.copy_behind(ipv4::HEADER_LEN, rest);
    }

    #[inline(always)]
    fn write_v6(&self, packet: &mut [u8], inner: &Inner) {
        let (ip, rest) = packet.split_first_chunk_mut().expect("it has an IPv6 header");
        let words: &[u8; ipv6::HEADER_LEN] = self.bytes.first_chunk().expect("it has an IPv6 header");
        *ip = *words;
        put(ip, 0, 0x6000 | u16::from(inner.traffic_class) << 4);
        put(ip, 4, (self.header_len() + inner.len - ipv6::HEADER_LEN) as u16);
        self.copy_behind(ipv6::HEADER_LEN, rest);
    }
}

#[inline(always)]
fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A packet cut into fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Bytes of the header in each, of a fragment's own header as well.
    header_len: usize,
    /// Bytes behind the header of the packet.
    payload: usize,
    /// As many of them in each, the last apart.
    each: usize,
    is_v4: bool,
}

impl Pieces {
    /// Of a packet of `total` bytes, each of at most `mtu`.
    pub fn new(is_v4: bool, total: usize, mtu: usize) -> Pieces {
        let (own, added) = if is_v4 { (ipv4::HEADER_LEN, 0) } else { (ipv6::HEADER_LEN, FRAGMENT_LEN) };
        // RFC 791, section 2.3, and RFC 8200, section 4.5: all but the last are multiples of 8 bytes.
        Pieces { header_len: own + added, payload: total - own, each: (mtu - own - added) & !7, is_v4 }
    }

    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.each)
    }

    fn range(&self, at: usize) -> std::ops::Range<usize> {
        at * self.each..((at + 1) * self.each).min(self.payload)
    }

    /// Bytes of a fragment.
    pub fn len(&self, at: usize) -> usize {
        self.header_len + self.range(at).len()
    }

    /// Writes a fragment of `whole`, from its version field on, into `piece`, which is of its length.
    pub fn write(&self, at: usize, whole: &[u8], identification: u32, piece: &mut [u8]) {
        let range = self.range(at);
        let is_last = range.end == self.payload;
        let own = if self.is_v4 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        let (header, payload) = piece.split_at_mut(self.header_len);
        payload.copy_from_slice(&whole[own..][range.clone()]);
        header[..own].copy_from_slice(&whole[..own]);
        if self.is_v4 {
            let more = if is_last { 0 } else { MORE_FRAGMENTS };
            put(header, 2, (own + range.len()) as u16);
            put(header, 4, identification as u16);
            put(header, 6, (range.start / 8) as u16 | more);
            put(header, 10, 0);
            let checksum = checksum::fold(checksum::sum(header));
            put(header, 10, checksum);
        } else {
            put(header, 4, (FRAGMENT_LEN + range.len()) as u16);
            let next = std::mem::replace(&mut header[6], FRAGMENT);
            let fragment = &mut header[own..];
            fragment[..2].copy_from_slice(&[next, 0]);
            put(fragment, 2, range.start as u16 | u16::from(!is_last));
            fragment[4..].copy_from_slice(&identification.to_be_bytes());
        }
    }
}
