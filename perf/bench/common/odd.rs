//! Frames that are dear to read, beside plain ones.

use super::frames::{OURS, ROUTER};
use std::net::{Ipv4Addr, Ipv6Addr};

const UDP: u8 = 17;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// Of a client, to a cluster address of either family.
pub struct Talk {
    pub v4: (Ipv4Addr, Ipv4Addr),
    pub v6: (Ipv6Addr, Ipv6Addr),
}

/// What is measured, plain frames first: (name, whether `[limit.odd]` knows it, frame).
pub fn all(talk: &Talk) -> Vec<(&'static str, bool, Vec<u8>)> {
    let (client, cluster) = talk.v4;
    let (client_v6, cluster_v6) = talk.v6;
    let udp = datagram(40_000, 53);
    let answer = datagram(53, 40_000);
    let v4 = |protocol, options, part, payload: &[u8]| ipv4((client, cluster), protocol, (options, part), payload);
    let quoted = ipv4((cluster, client), UDP, (0, 0x2000), &answer);
    let quoted_v6 = {
        let (next, headers) = chained(7, FRAGMENT, &[&[UDP, 0, 0, 1, 0, 0, 0, 7][..], &answer].concat());
        ipv6((cluster_v6, client_v6), next, &headers)
    };
    let error = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &quoted].concat();
    let error_v6 = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &quoted_v6].concat();
    let v6 = |headers, protocol, payload: &[u8]| {
        let (next, bytes) = chained(headers, protocol, payload);
        ipv6((client_v6, cluster_v6), next, &bytes)
    };
    vec![
        ("ipv4, plain", false, ethernet(0, 0x0800, &v4(UDP, 0, 0, &udp))),
        ("ipv6, plain", false, ethernet(0, 0x86dd, &v6(0, UDP, &udp))),
        ("ipv4, two VLAN tags", false, ethernet(2, 0x0800, &v4(UDP, 0, 0, &udp))),
        ("ipv4, 40 bytes of options", true, ethernet(0, 0x0800, &v4(UDP, 10, 0, &udp))),
        ("ipv4, a later fragment", true, ethernet(0, 0x0800, &v4(UDP, 0, 5, &udp))),
        ("ipv4, an echo request", true, ethernet(0, 0x0800, &v4(1, 0, 0, &[8, 0, 0, 0, 0, 1, 0, 1]))),
        ("ipv4, an error about a fragment", true, ethernet(0, 0x0800, &v4(1, 0, 0, &error))),
        ("ipv6, 8 extension headers", true, ethernet(0, 0x86dd, &v6(8, UDP, &udp))),
        ("ipv6, an error about a fragment", true, ethernet(0, 0x86dd, &v6(0, 58, &error_v6))),
        ("ipv6, two tags, 8 headers, and that error", true, ethernet(2, 0x86dd, &v6(8, 58, &error_v6))),
    ]
}

fn ethernet(tags: usize, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [OURS, ROUTER].concat();
    (0..tags).for_each(|tag| frame.extend([if tag == 0 { [0x88, 0xa8] } else { [0x81, 0] }, [0, 100]].concat()));
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// `options`: words of them; `part`: flags and fragment offset.
fn ipv4((from, to): (Ipv4Addr, Ipv4Addr), protocol: u8, (options, part): (u8, u16), payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let total = ((header + payload.len()) as u16).to_be_bytes();
    let part = part.to_be_bytes();
    let fixed = [0x45 + options, 0, total[0], total[1], 0, 7, part[0], part[1], 64, protocol, 0, 0];
    // No operation (RFC 791).
    [&fixed[..], &from.octets(), &to.octets(), &vec![1; header - 20], payload].concat()
}

fn ipv6((from, to): (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, len[0], len[1], next, 64][..], &from.octets(), &to.octets(), payload].concat()
}

/// Behind so many extension headers: the first's number, and all bytes.
fn chained(headers: usize, protocol: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    (0..headers).fold((protocol, payload.to_vec()), |(next, rest), _| {
        (DESTINATION_OPTIONS, [&[next, 0, 1, 4, 0, 0, 0, 0][..], &rest].concat())
    })
}

fn datagram(from: u16, to: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    vec![a, b, c, d, 0, 8, 0, 0]
}
