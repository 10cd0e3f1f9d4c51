//! What a client is told whose packet is larger than what carries it: ICMP "fragmentation needed" with the MTU (RFC 792, RFC 1191) and
//! ICMPv6 "packet too big" (RFC 4443, section 3.2). It comes from the address that the packet was for.

use super::ipv4::{Fragment, Ipv4};
use super::ipv6::Ipv6;
use super::{be16, checksum, icmp, ipv4, ipv6};

/// The least that every link carries: IPv6's (RFC 8200, section 5).
pub const IPV6_MIN_MTU: usize = 1280;

/// An error is no longer: RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4 (c).
const MOST_V4: usize = 576;
const MOST_V6: usize = IPV6_MIN_MTU;

const TTL: u8 = 64;
/// Internetwork control: RFC 1812, section 4.3.2.5.
const PRECEDENCE: u8 = 0xc0;

/// The longest answer.
pub const MAX_LEN: usize = MOST_V6;

/// Bytes in front of what is quoted.
pub const HEADER_LEN_V4: usize = ipv4::HEADER_LEN + icmp::HEADER_LEN;
pub const HEADER_LEN_V6: usize = ipv6::HEADER_LEN + icmp::HEADER_LEN;

/// Writes the answer to `packet`, which is whole, from its version field on; packets of `mtu` bytes fit. Returns its length. `None`: it
/// must not be answered (RFC 1812, section 4.3.2.7; RFC 4443, section 2.4 (e)).
pub fn write(packet: &[u8], mtu: usize, to: &mut [u8; MAX_LEN]) -> Option<usize> {
    if packet[0] >> 4 == 4 { write_v4(packet, mtu, to) } else { write_v6(packet, mtu, to) }
}

fn write_v4(packet: &[u8], mtu: usize, to: &mut [u8; MAX_LEN]) -> Option<usize> {
    let view = Ipv4::new(packet)?;
    let is_error = view.protocol() == icmp::PROTOCOL_V4
        && view.fragment() == Fragment::Whole
        && !matches!(icmp::v4(view.payload()), Ok(icmp::Message::EchoRequest | icmp::Message::Other));
    let [first, ..] = view.source();
    if is_error || view.fragment() == Fragment::Later || first == 0 || first == 127 || first >= 224 {
        return None;
    }
    let total = be16(packet, 2) as usize;
    let quoted = &packet[..total.min(MOST_V4 - HEADER_LEN_V4)];
    let len = HEADER_LEN_V4 + quoted.len();
    let message = &mut to[..len];
    message[..12].copy_from_slice(&[0x45, PRECEDENCE, 0, 0, 0, 0, 0x40, 0, TTL, icmp::PROTOCOL_V4, 0, 0]);
    message[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    message[12..16].copy_from_slice(&view.destination());
    message[16..20].copy_from_slice(&view.source());
    let checksum = checksum::fold(checksum::sum(&message[..ipv4::HEADER_LEN]));
    message[10..12].copy_from_slice(&checksum.to_be_bytes());
    let icmp = &mut message[ipv4::HEADER_LEN..];
    icmp[..8].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
    icmp[6..8].copy_from_slice(&(mtu as u16).to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    let checksum = checksum::fold(checksum::sum(icmp));
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

fn write_v6(packet: &[u8], mtu: usize, to: &mut [u8; MAX_LEN]) -> Option<usize> {
    let view = Ipv6::new(packet)?;
    let upper = view.upper().ok()?;
    let is_error = upper.protocol == Some(icmp::PROTOCOL_V6)
        && upper.fragment == Fragment::Whole
        && !matches!(icmp::v6(upper.payload), Ok(icmp::Message::EchoRequest | icmp::Message::Other));
    let source = view.source();
    let is_host = source[0] != 0xff && source[..15] != [0; 15];
    if is_error || !is_host {
        return None;
    }
    let total = ipv6::HEADER_LEN + be16(packet, 4) as usize;
    let quoted = &packet[..total.min(MOST_V6 - HEADER_LEN_V6)];
    let len = HEADER_LEN_V6 + quoted.len();
    let icmp_len = (len - ipv6::HEADER_LEN) as u16;
    let message = &mut to[..len];
    message[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, icmp::PROTOCOL_V6, TTL]);
    message[4..6].copy_from_slice(&icmp_len.to_be_bytes());
    message[8..24].copy_from_slice(&view.destination());
    message[24..40].copy_from_slice(&source);
    message[40..48].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    message[44..48].copy_from_slice(&(mtu as u32).to_be_bytes());
    message[48..].copy_from_slice(quoted);
    let sum = checksum::sum(&message[8..]) + u32::from(icmp_len) + u32::from(icmp::PROTOCOL_V6);
    message[42..44].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To 203.0.113.80.
    fn v4(source: [u8; 4], fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0, 0, 9, protocol, 0, 0];
        packet.extend(source.into_iter().chain([203, 0, 113, 80]).chain(payload.iter().copied()));
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet
    }

    /// To 2001:db8:80::80.
    fn v6(source: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next_header, 9];
        for address in [source, "2001:db8:80::80"] {
            packet.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        packet.extend(payload);
        packet
    }

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = [0; MAX_LEN];
        write(packet, 1400, &mut bytes).map(|len| bytes[..len].to_vec())
    }

    const CLIENT: [u8; 4] = [198, 51, 100, 7];
    const UDP: u8 = 17;
    const MORE: u16 = 0x2000;

    /// RFC 1812, section 4.3.2.7.
    #[test]
    fn icmp_errors_later_fragments_and_sources_that_are_no_host_get_no_answer() {
        let message = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &[1; 28]].concat();
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(answer(&v4(CLIENT, 0, icmp::PROTOCOL_V4, &message(kind))), None, "an error: {kind}");
            // The same bytes, where they are no ICMP message, or not known to be one.
            assert!(answer(&v4(CLIENT, 0, UDP, &message(kind))).is_some());
            assert!(answer(&v4(CLIENT, MORE, icmp::PROTOCOL_V4, &message(kind))).is_some());
        }
        for kind in [0, 8, 13] {
            assert!(answer(&v4(CLIENT, 0, icmp::PROTOCOL_V4, &message(kind))).is_some(), "no error: {kind}");
        }
        assert_eq!(answer(&v4(CLIENT, 5, UDP, &[1; 40])), None, "not the first fragment");
        assert!(answer(&v4(CLIENT, MORE, UDP, &[1; 40])).is_some());
        for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255; 4]] {
            assert_eq!(answer(&v4(source, 0, UDP, &[1; 40])), None, "{source:?}");
        }
        for source in [[1, 0, 0, 1], [126, 0, 0, 1], [128, 0, 0, 1], [223, 0, 0, 1]] {
            assert!(answer(&v4(source, 0, UDP, &[1; 40])).is_some(), "{source:?}");
        }
    }

    /// RFC 4443, section 2.4 (e).
    #[test]
    fn icmpv6_errors_and_sources_that_are_no_host_get_no_answer() {
        let message = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &[1; 48]].concat();
        for kind in [1, 2, 3, 4, 127] {
            assert_eq!(answer(&v6("2001:db8::7", icmp::PROTOCOL_V6, &message(kind))), None, "an error: {kind}");
            assert!(answer(&v6("2001:db8::7", UDP, &message(kind))).is_some());
            let fragment = [&[icmp::PROTOCOL_V6, 0, 0, 1, 0, 0, 0, 7], &message(kind)[..]].concat();
            assert!(answer(&v6("2001:db8::7", 44, &fragment)).is_some(), "a first fragment does not show all of it");
        }
        for kind in [128, 129, 135] {
            assert!(answer(&v6("2001:db8::7", icmp::PROTOCOL_V6, &message(kind))).is_some(), "no error: {kind}");
        }
        for source in ["::", "::1", "ff02::1", "ffff::"] {
            assert_eq!(answer(&v6(source, UDP, &[1; 40])), None, "{source}");
        }
        for source in ["::1:0", "fe80::1", "fe00::"] {
            assert!(answer(&v6(source, UDP, &[1; 40])).is_some(), "{source}");
        }
    }

    /// Of a short packet all is quoted, without the padding behind it.
    #[test]
    fn the_answer_quotes_the_packet() {
        for packet in [v4(CLIENT, 0, UDP, &[1; 40]), v6("2001:db8::7", UDP, &[1; 40])] {
            let header = if packet[0] >> 4 == 4 { HEADER_LEN_V4 } else { HEADER_LEN_V6 };
            let padded = [&packet[..], &[0xee; 6]].concat();
            assert_eq!(answer(&padded).expect("it is answered")[header..], packet);
        }
    }
}
