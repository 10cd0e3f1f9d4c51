//! From a frame's bytes to the flow it belongs to.
//!
//! Two steps, because most of the judging is only for frames to a cluster address: `outer` finds the IP header, and the
//! caller looks its destination up; only then `flow_v4` or `flow_v6` reads on.

use crate::model::{OddKind, Transport};
use crate::verdict::Reason;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp::{self, Message};
use crate::wire::ipv4::{Fragment, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::transport::{self, Ports};
use std::net::IpAddr;

/// The first that a frame shows.
#[derive(Clone, Copy, Debug)]
pub enum Outer<'a> {
    V4(Ipv4<'a>),
    V6(Ipv6<'a>),
    /// An IP EtherType, but not enough bytes to hold the addresses.
    Truncated,
    /// Not IP.
    Other,
}

/// Finds the IP header behind the VLAN tags. Nothing of it is judged yet but that both addresses are there.
#[inline]
pub fn outer(frame: &[u8]) -> Outer<'_> {
    let Some(frame) = Ethernet::new(frame) else { return Outer::Other };
    let (ethertype, payload) = frame.payload();
    match ethertype {
        ethernet::IPV4 => Ipv4::new(payload).map_or(Outer::Truncated, Outer::V4),
        ethernet::IPV6 => Ipv6::new(payload).map_or(Outer::Truncated, Outer::V6),
        _ => Outer::Other,
    }
}

/// Which limit of `[limit.odd]` a packet is under, by its IP header alone. What is wrong with it is not judged yet.
#[inline]
pub fn odd_v4(packet: &Ipv4) -> Option<OddKind> {
    match packet.protocol() {
        _ if packet.version() != 4 => None,
        _ if packet.fragment() != Fragment::Whole => Some(OddKind::Fragments),
        icmp::PROTOCOL_V4 => Some(OddKind::Icmp),
        _ => packet.has_options().then_some(OddKind::Options),
    }
}

/// As `odd_v4`.
#[inline]
pub fn odd_v6(packet: &Ipv6) -> Option<OddKind> {
    match packet.next_header() {
        _ if packet.version() != 6 => None,
        ipv6::FRAGMENT => Some(OddKind::Fragments),
        icmp::PROTOCOL_V6 => Some(OddKind::Icmp),
        other => ipv6::is_extension(other).then_some(OddKind::Options),
    }
}

/// Who talks to a cluster address, and about what. `A` is an address in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// The source of what a client sends; of an ICMP error, the client that the quoted packet was for.
    pub client: A,
    pub cluster: A,
    pub upper: Upper,
}

/// What a packet shows of its upper layer: how its service is found, and whether ports can take part in the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// A whole packet with ports (as the client sends them).
    Ports(Transport, Ports),
    /// The first fragment of a datagram with ports. The ports find the service, but later fragments lack them, so the hash
    /// does without.
    FirstFragment(Transport, Ports),
    /// A fragment without ports, of a transport that has some.
    LaterFragment(Transport),
    /// Belongs to the address as a whole: an echo request, an ICMP error about an echo reply, a fragment of ICMP, or a
    /// later fragment whose transport cannot be known.
    Address,
    /// A protocol without ports, or an ICMP message of another type: for services that have every protocol.
    Other,
    /// An ICMP error about a packet that the cluster address did not send: for no service.
    Foreign,
}

/// SYN without ACK.
#[inline(always)]
pub(super) fn is_syn(tcp_flags: u8) -> bool {
    tcp_flags & (transport::SYN | transport::ACK) == transport::SYN
}

/// What a packet does for the flow it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A SYN without ACK.
    Begin,
    /// Any other segment of a TCP connection.
    Go,
    /// A FIN: the client will send no more data, but answer to what it gets.
    Close,
    /// A RST.
    Abort,
    /// An ICMP error about a packet of it.
    Report,
    /// A fragment of TCP, which does not show of what connection it is.
    Fragment,
    /// A packet of a protocol that shows neither beginning nor end.
    Datagram,
}

/// All that tells a packet's flow from others, for those few that must be looked at one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    pub flow: Flow<IpAddr>,
    /// The protocol of the flow; 0 where that is not known.
    pub protocol: u8,
    pub act: Act,
    /// Where `act` says that it is one.
    pub segment: Segment,
}

/// What a segment says of the client's side of its TCP connection (RFC 9293, section 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number of its first byte.
    pub sequence: u32,
    /// That of what comes after it.
    pub next: u32,
    pub has_data: bool,
}

impl Segment {
    /// Of a TCP header that is whole, and what follows it.
    fn read(tcp: &[u8]) -> Option<Segment> {
        let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        let data = tcp.len().checked_sub((tcp.get(12)? >> 4) as usize * 4)? as u32;
        let marks = (tcp.get(13)? & (transport::SYN | transport::FIN)).count_ones();
        Some(Segment { sequence, next: sequence.wrapping_add(data + marks), has_data: data > 0 })
    }
}

/// Reads a frame to a cluster address in full. `None`: there is no flow in it.
pub fn whole(frame: &[u8]) -> Option<Whole> {
    let (flow, protocol, payload) = match outer(frame) {
        Outer::V4(packet) => {
            let Flow { client, cluster, upper } = flow_v4(&packet).ok()?;
            let flow = Flow { client: IpAddr::from(client), cluster: IpAddr::from(cluster), upper };
            (flow, packet.protocol(), packet.payload())
        }
        Outer::V6(packet) => {
            let Flow { client, cluster, upper } = flow_v6(&packet).ok()?;
            let flow = Flow { client: IpAddr::from(client), cluster: IpAddr::from(cluster), upper };
            let ipv6::Upper { protocol, payload, .. } = packet.upper().ok()?;
            (flow, protocol.unwrap_or(0), payload)
        }
        Outer::Truncated | Outer::Other => return None,
    };
    let is_icmp = matches!(protocol, icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6);
    let act = match flow.upper {
        Upper::Ports(..) | Upper::LaterFragment(_) if is_icmp => Act::Report,
        Upper::Ports(Transport::Tcp, _) => match *payload.get(13)? {
            flags if is_syn(flags) => Act::Begin,
            flags if flags & transport::RST != 0 => Act::Abort,
            flags if flags & transport::FIN != 0 => Act::Close,
            _ => Act::Go,
        },
        Upper::FirstFragment(Transport::Tcp, _) | Upper::LaterFragment(Transport::Tcp) => Act::Fragment,
        _ => Act::Datagram,
    };
    let segment = match act {
        Act::Begin | Act::Go | Act::Close | Act::Abort => Segment::read(payload)?,
        Act::Report | Act::Fragment | Act::Datagram => Segment::default(),
    };
    let transport = match flow.upper {
        Upper::Ports(transport, _) | Upper::FirstFragment(transport, _) | Upper::LaterFragment(transport) => {
            Some(transport.protocol())
        }
        Upper::Address | Upper::Other | Upper::Foreign => None,
    };
    Some(Whole { flow, protocol: transport.unwrap_or(protocol), act, segment })
}

/// Whether a frame begins a TCP connection, found the long way.
pub fn begins(frame: &[u8]) -> bool {
    whole(frame).is_some_and(|packet| packet.act == Act::Begin)
}

/// The flow of an IPv4 packet. `Err`: `Malformed` or `Ttl`.
pub fn flow_v4(packet: &Ipv4) -> Result<Flow<[u8; 4]>, Reason> {
    packet.check(false).map_err(malformed)?;
    if packet.ttl() == 0 {
        return Err(Reason::Ttl);
    }
    let (protocol, fragment, payload) = (packet.protocol(), packet.fragment(), packet.payload());
    let mut flow = Flow { client: packet.source(), cluster: packet.destination(), upper: Upper::Other };
    if protocol != icmp::PROTOCOL_V4 {
        flow.upper = upper(Some(protocol), fragment, payload)?;
    } else if fragment != Fragment::Whole {
        flow.upper = Upper::Address;
    } else {
        match icmp::v4(payload).map_err(malformed)? {
            Message::EchoRequest => flow.upper = Upper::Address,
            Message::Error(quoted) => return quoted_v4(quoted, flow),
            Message::Other => {}
        }
    }
    Ok(flow)
}

/// The flow of an IPv6 packet. As `flow_v4`.
pub fn flow_v6(packet: &Ipv6) -> Result<Flow<[u8; 16]>, Reason> {
    packet.check(false).map_err(malformed)?;
    if packet.hop_limit() == 0 {
        return Err(Reason::Ttl);
    }
    let ipv6::Upper { protocol, fragment, payload } = packet.upper().map_err(malformed)?;
    let mut flow = Flow { client: packet.source(), cluster: packet.destination(), upper: Upper::Other };
    if protocol != Some(icmp::PROTOCOL_V6) {
        flow.upper = upper(protocol, fragment, payload)?;
    } else if fragment != Fragment::Whole {
        flow.upper = Upper::Address;
    } else {
        match icmp::v6(payload).map_err(malformed)? {
            Message::EchoRequest => flow.upper = Upper::Address,
            Message::Error(quoted) => return quoted_v6(quoted, flow),
            Message::Other => {}
        }
    }
    Ok(flow)
}

fn malformed(_: crate::wire::Malformed) -> Reason {
    Reason::Malformed
}

/// Anything but ICMP. A fragment is never refused for what it lacks: only a whole packet's transport header is judged.
fn upper(protocol: Option<u8>, fragment: Fragment, payload: &[u8]) -> Result<Upper, Reason> {
    let Some(transport) = protocol.and_then(Transport::from_protocol) else {
        let unknown = fragment == Fragment::Later && protocol.is_none();
        return Ok(if unknown { Upper::Address } else { Upper::Other });
    };
    Ok(match fragment {
        Fragment::Whole => Upper::Ports(transport, transport::checked_ports(transport, payload).map_err(malformed)?),
        Fragment::First => match transport::ports(payload) {
            Some(ports) => Upper::FirstFragment(transport, ports),
            None => Upper::LaterFragment(transport),
        },
        Fragment::Later => Upper::LaterFragment(transport),
    })
}

/// The flow that an ICMP error is about. It quotes a packet *from* the cluster address *to* the client, perhaps cut after
/// 8 bytes of its transport header (RFC 792), so the flow is the quoted packet's with the sides exchanged.
fn quoted_v4(quoted: &[u8], error: Flow<[u8; 4]>) -> Result<Flow<[u8; 4]>, Reason> {
    let packet = Ipv4::new(quoted).ok_or(Reason::Malformed)?;
    packet.check(true).map_err(malformed)?;
    if packet.source() != error.cluster {
        return Ok(Flow { upper: Upper::Foreign, ..error });
    }
    let upper = quoted_upper(Some(packet.protocol()), icmp::PROTOCOL_V4, packet.fragment(), packet.payload())?;
    Ok(Flow { client: packet.destination(), upper, ..error })
}

/// As `quoted_v4`.
fn quoted_v6(quoted: &[u8], error: Flow<[u8; 16]>) -> Result<Flow<[u8; 16]>, Reason> {
    let packet = Ipv6::new(quoted).ok_or(Reason::Malformed)?;
    packet.check(true).map_err(malformed)?;
    if packet.source() != error.cluster {
        return Ok(Flow { upper: Upper::Foreign, ..error });
    }
    let ipv6::Upper { protocol, fragment, payload } = packet.upper().map_err(malformed)?;
    let upper = quoted_upper(protocol, icmp::PROTOCOL_V6, fragment, payload)?;
    Ok(Flow { client: packet.destination(), upper, ..error })
}

fn quoted_upper(protocol: Option<u8>, icmp: u8, fragment: Fragment, payload: &[u8]) -> Result<Upper, Reason> {
    let Some(protocol) = protocol.filter(|protocol| *protocol != icmp) else { return Ok(Upper::Address) };
    let Some(transport) = Transport::from_protocol(protocol) else { return Ok(Upper::Other) };
    let ports = transport::ports(payload).map(Ports::reversed);
    match (fragment, ports) {
        // A first fragment's too: it is the answer that was fragmented, mostly not what the client sent.
        (Fragment::Whole | Fragment::First, Some(ports)) => Ok(Upper::Ports(transport, ports)),
        (Fragment::Whole, None) => Err(Reason::Malformed),
        _ => Ok(Upper::LaterFragment(transport)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9293, section 3.4: SYN and FIN take a number each.
    #[test]
    fn a_segment_ends_behind_its_data_and_its_marks() {
        let segment = |flags: u8, data: usize| {
            let mut tcp = vec![0, 80, 0, 80, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x60, flags, 0, 0, 0, 0, 0, 0];
            tcp.resize(24 + data, 0xee);
            Segment::read(&tcp).map(|segment| (segment.sequence, segment.next, segment.has_data))
        };
        for (flags, data, next) in [
            (transport::ACK, 0, u32::MAX),
            (transport::SYN, 0, 0),
            (transport::FIN | transport::ACK, 0, 0),
            (transport::FIN | transport::ACK, 9, 9),
            (transport::RST, 0, u32::MAX),
            (transport::ACK, 1, 0),
        ] {
            assert_eq!(segment(flags, data), Some((u32::MAX, next, data > 0)), "{flags:02x} {data}");
        }
        assert_eq!(Segment::read(&[0; 13]), None);
    }
}
