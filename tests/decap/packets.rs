//! Packets, and what a dispatcher puts in front of them, by etherparse.

use super::OWN;
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpHeader};
use std::net::IpAddr;

pub const CLIENTS: [&str; 2] = ["198.51.100.7", "2001:db8:1::7"];
pub const ENDS: [&str; 2] = ["192.0.2.11", "2001:db8:2::11"];
pub const DISPATCHERS: [&str; 2] = ["192.0.2.2", "2001:db8:2::2"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Ipip,
    Gue,
    Gre,
}

pub const FORMS: [Form; 3] = [Form::Ipip, Form::Gue, Form::Gre];

/// The nth cluster address of a family.
pub fn cluster(n: u8, family: usize) -> IpAddr {
    [format!("203.0.113.{n}"), format!("2001:db8:80::{n}")][family].parse().unwrap()
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a client sends to a cluster address: a SYN, a segment, a datagram, an echo request, an ICMP error, a later fragment. IPv4 with
/// options among them, IPv6 with an extension header.
pub fn packets(to: IpAddr) -> Vec<Vec<u8>> {
    let from = address(CLIENTS[usize::from(to.is_ipv6())]);
    let mut all = Vec::new();
    let mut syn = TcpHeader::new(4321, 80, 77, 65_000);
    syn.syn = true;
    let mut segment = TcpHeader::new(4321, 80, 78, 65_000);
    segment.ack = true;
    for (tcp, payload) in [(syn, &[][..]), (segment, &[0x5a; 333][..])] {
        all.push(ip(from, to, IpNumber::TCP, &{
            let mut bytes = tcp.to_bytes().to_vec();
            bytes.extend(payload);
            sum_upper(from, to, 6, 16, &mut bytes);
            bytes
        }));
    }
    let mut datagram = vec![0x10, 0xe1, 0, 53, 0, 20, 0, 0];
    datagram.extend([7; 12]);
    sum_upper(from, to, 17, 6, &mut datagram);
    all.push(ip(from, to, IpNumber::UDP, &datagram));
    let builder = |payload: &[u8]| {
        let mut bytes = Vec::new();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let icmp = PacketBuilder::ipv4(from.octets(), to.octets(), 61).icmpv4_echo_request(1, 2);
                icmp.write(&mut bytes, payload).unwrap();
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let icmp = PacketBuilder::ipv6(from.octets(), to.octets(), 61).icmpv6_echo_request(1, 2);
                icmp.write(&mut bytes, payload).unwrap();
            }
            _ => unreachable!(),
        }
        bytes
    };
    all.push(builder(&[9; 56]));
    // Fragmentation needed, of a packet that the cluster address sent.
    let quoted = ip(to, from, IpNumber::TCP, &[0, 80, 0x10, 0xe1, 0, 0, 0, 1]);
    let (kind, number) = if to.is_ipv4() { ([3, 4], IpNumber::ICMP) } else { ([2, 0], IpNumber::IPV6_ICMP) };
    let mut error = [&kind[..], &[0, 0, 0, 0, 5, 0], &quoted].concat();
    if to.is_ipv6() {
        sum_upper(from, to, 58, 2, &mut error);
    }
    all.push(ip(from, to, number, &error));
    let mut later = ip(from, to, IpNumber::UDP, &[0x33; 64]);
    match to {
        IpAddr::V4(_) => {
            later[6..8].copy_from_slice(&[0, 25]);
            sum_header(&mut later);
            // Two options that do nothing.
            let mut options = ip(from, to, IpNumber::UDP, &datagram);
            options.splice(20..20, [1, 1, 1, 0]);
            options[0] = 0x46;
            let len = (options.len() as u16).to_be_bytes();
            options[2..4].copy_from_slice(&len);
            sum_header(&mut options);
            all.push(options);
        }
        IpAddr::V6(_) => {
            later.splice(40..40, [17, 0, 0, 0xc8, 0, 0, 0, 9]);
            later[6] = 44;
            later[5] += 8;
            let mut extended = ip(from, to, IpNumber::UDP, &datagram);
            extended.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
            extended[6] = 60;
            extended[5] += 8;
            all.push(extended);
        }
    }
    all.push(later);
    all
}

/// An IP packet with that behind its header; traffic class 0, but that of IPv4 has ECT(0).
pub fn ip(from: IpAddr, to: IpAddr, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(payload.len() as u16, 61, protocol, from.octets(), to.octets()).unwrap();
            header.ecn = etherparse::IpEcn::Ect0;
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut bytes).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::try_new(0x1_2345).unwrap(),
                payload_length: payload.len() as u16,
                next_header: protocol,
                hop_limit: 61,
                source: from.octets(),
                destination: to.octets(),
            };
            header.write(&mut bytes).unwrap();
        }
        _ => unreachable!("of one family"),
    }
    bytes.extend(payload);
    bytes
}

/// RFC 1071.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn sum_header(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = !sum(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// What is summed besides what is behind the IP header.
pub fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    [octets(from), octets(to), vec![0, protocol], (len as u16).to_be_bytes().to_vec()].concat()
}

fn sum_upper(from: IpAddr, to: IpAddr, protocol: u8, at: usize, bytes: &mut [u8]) {
    bytes[at..at + 2].fill(0);
    let sum = !sum(&[&pseudo_header(from, to, protocol, bytes.len())[..], bytes].concat());
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The packet in a tunnel between addresses of a family.
pub fn wrapped(form: Form, from: IpAddr, to: IpAddr, packet: &[u8]) -> Vec<u8> {
    let is_v4 = packet[0] >> 4 == 4;
    match form {
        Form::Ipip => ip(from, to, if is_v4 { IpNumber::IPV4 } else { IpNumber::IPV6 }, packet),
        Form::Gre => {
            let gre = if is_v4 { [0, 0, 0x08, 0x00] } else { [0, 0, 0x86, 0xdd] };
            ip(from, to, IpNumber::GRE, &[&gre[..], packet].concat())
        }
        Form::Gue => {
            let mut udp = Vec::new();
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64)
                    .udp(50_000, 6080)
                    .write(&mut udp, packet)
                    .unwrap(),
                (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64)
                    .udp(50_000, 6080)
                    .write(&mut udp, packet)
                    .unwrap(),
                _ => unreachable!("of one family"),
            }
            udp
        }
    }
}

/// A frame to this server, with so many VLAN tags.
pub fn frame(tags: usize, packet: &[u8]) -> Vec<u8> {
    let mut frame = [&OWN.0[..], &[2, 0, 0, 0, 0, 1]].concat();
    for tag in &[[0x88, 0xa8, 0, 7], [0x81, 0, 0xa0, 100]][2 - tags..] {
        frame.extend(tag);
    }
    frame.extend(if packet[0] >> 4 == 4 { [0x08, 0] } else { [0x86, 0xdd] });
    frame.extend(packet);
    frame
}
