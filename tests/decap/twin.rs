//! What decap does with a frame, a second time: from the design alone, in the plainest way.

use super::OWN;
use super::model::packet::{Packet, Refusal};
use super::packets::sum;
use oneip::model::{Deliver, Plan, Prefix, Service};
use oneip::verdict::Reason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As it came.
    Passed,
    /// Handed to the host like this, on the account of a service.
    Kept(Vec<u8>, String),
    Dropped(Reason),
}

pub struct Twin {
    services: Vec<Service>,
    ends: Vec<IpAddr>,
    sources: Vec<Prefix>,
}

/// The outer packet.
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    class: u8,
    ttl: u8,
    protocol: u8,
    is_fragment: bool,
    is_summed: bool,
    payload: std::ops::Range<usize>,
}

struct Found {
    form: fn(Deliver) -> bool,
    start: usize,
    end: usize,
    is_v4: bool,
    wrong: Option<Reason>,
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

fn v4(bytes: &[u8]) -> IpAddr {
    Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into()
}

/// `None`: not whole.
fn outer(packet: &[u8], is_v4: bool) -> Option<Outer> {
    if is_v4 {
        let (header, total) = (usize::from(packet[0] & 15) * 4, word(packet, 2));
        if packet[0] >> 4 != 4 || header < 20 || total < header || packet.len() < total {
            return None;
        }
        return Some(Outer {
            source: v4(&packet[12..16]),
            destination: v4(&packet[16..20]),
            class: packet[1],
            ttl: packet[8],
            protocol: packet[9],
            is_fragment: word(packet, 6) & 0x3fff != 0,
            is_summed: header != 20 || sum(&packet[..20]) == 0xffff,
            payload: header..total,
        });
    }
    let end = 40 + word(packet, 4);
    if packet[0] >> 4 != 6 || packet.len() < end {
        return None;
    }
    let mut outer = Outer {
        source: v6(&packet[8..24]),
        destination: v6(&packet[24..40]),
        class: (word(packet, 0) >> 4) as u8,
        ttl: packet[7],
        protocol: packet[6],
        is_fragment: false,
        is_summed: true,
        payload: 40..end,
    };
    if outer.protocol == 60 && end >= 48 && end >= 48 + 8 * usize::from(packet[41]) {
        outer.protocol = packet[40];
        outer.payload.start = 48 + 8 * usize::from(packet[41]);
    }
    Some(outer)
}

impl Twin {
    pub fn new(plan: &Plan, server: &str) -> Twin {
        let mine =
            |service: &&Service| service.deliver != Deliver::L2 && service.servers.iter().any(|it| it.name == server);
        let services: Vec<Service> = plan.services.iter().filter(mine).cloned().collect();
        let servers = services.iter().flat_map(|service| &service.servers).filter(|it| it.name == server);
        Twin { ends: servers.map(|it| it.address).collect(), sources: plan.tunnel_sources(), services }
    }

    pub fn judge(&self, frame: &[u8]) -> Fate {
        let mut at = 12;
        while at < 20 && frame.len() >= at + 6 && matches!(word(frame, at), 0x8100 | 0x88a8) {
            at += 4;
        }
        let (front, packet) = frame.split_at(at + 2);
        let is_v4 = word(front, at) == 0x0800;
        if front[..6] != OWN.0 || !(is_v4 || word(front, at) == 0x86dd) || packet.len() < if is_v4 { 20 } else { 40 } {
            return Fate::Passed;
        }
        let Some(outer) = outer(packet, is_v4).filter(|outer| self.ends.contains(&outer.destination)) else {
            return Fate::Passed;
        };
        if let Some((restored, service)) = self.restored(packet, &outer) {
            return Fate::Kept([front, &restored].concat(), service);
        }
        if outer.is_fragment {
            return Fate::Passed;
        }
        let payload = &packet[outer.payload.clone()];
        let Some(Found { form, start, end, is_v4: is_inner_v4, mut wrong }) = self.form(payload, &outer) else {
            return Fate::Passed;
        };
        let inner = &payload[start..end];
        let destination = match is_inner_v4 {
            true if inner.len() >= 20 => v4(&inner[16..20]),
            false if inner.len() >= 40 => v6(&inner[24..40]),
            _ => return Fate::Passed,
        };
        let of_address: Vec<&Service> = self.services.iter().filter(|it| it.address == destination).collect();
        if !of_address.iter().any(|service| form(service.deliver)) {
            return Fate::Passed;
        }
        if !self.sources.is_empty() && !self.sources.iter().any(|source| source.contains(outer.source)) {
            return Fate::Dropped(Reason::Untrusted);
        }
        if !outer.is_summed {
            wrong = Some(Reason::Malformed);
        } else if outer.ttl == 0 {
            wrong = Some(Reason::Ttl);
        }
        if let Some(wrong) = wrong {
            return Fate::Dropped(wrong);
        }
        match (Packet { bytes: inner, source: destination, destination }).facts() {
            Err(Refusal::Malformed) => return Fate::Dropped(Reason::Malformed),
            Err(Refusal::Ttl) => return Fate::Dropped(Reason::Ttl),
            Ok(_) => {}
        }
        let mut kept = front[..at].to_vec();
        kept.extend(if is_inner_v4 { [0x08, 0] } else { [0x86, 0xdd] });
        kept.extend(&packet[outer.payload.start + start..]);
        // Here an address has one service only.
        Fate::Kept(kept, of_address[0].name.clone())
    }

    /// By which delivery the payload may have come, and where in it the packet is.
    fn form(&self, payload: &[u8], outer: &Outer) -> Option<Found> {
        let mut ports = self.services.iter().filter_map(|service| match service.deliver {
            Deliver::Gue { port } => Some(usize::from(port)),
            _ => None,
        });
        let found = Found { form: |it| it == Deliver::Ipip, start: 0, end: payload.len(), is_v4: false, wrong: None };
        match outer.protocol {
            4 | 41 => Some(Found { is_v4: outer.protocol == 4, ..found }),
            47 if payload.len() >= 4 && payload[..2] == [0, 0] && matches!(word(payload, 2), 0x0800 | 0x86dd) => {
                Some(Found { form: |it| it == Deliver::Gre, start: 4, is_v4: word(payload, 2) == 0x0800, ..found })
            }
            17 if payload.len() >= 12 && ports.any(|port| port == word(payload, 2)) && payload[8] >> 6 == 1 => {
                let (len, version) = (word(payload, 4), payload[8] >> 4);
                let is_wrong = len > payload.len() || len < 8 || !matches!(version, 4 | 6);
                let (end, wrong) = if is_wrong { (payload.len(), Some(Reason::Malformed)) } else { (len, None) };
                Some(Found { form: |it| matches!(it, Deliver::Gue { .. }), start: 8, end, is_v4: version != 6, wrong })
            }
            _ => None,
        }
    }

    /// What came by L3DSR, as it was; for a service that has its port.
    fn restored(&self, packet: &[u8], outer: &Outer) -> Option<(Vec<u8>, String)> {
        let marks = |it: &&Service| {
            it.deliver == Deliver::L3dsr { dscp: outer.class >> 2 }
                && it.servers.iter().any(|server| server.address == outer.destination)
        };
        let service = self.services.iter().find(marks)?;
        let mut bytes = packet.to_vec();
        let (was, at) = (packet, if outer.destination.is_ipv4() { 16 } else { 24 });
        match service.address {
            IpAddr::V4(address) => {
                bytes[1] &= 3;
                bytes[16..20].copy_from_slice(&address.octets());
                let now = bytes.clone();
                mend(&mut bytes, 10, [&was[..2], &was[16..20]].concat(), [&now[..2], &now[16..20]].concat());
            }
            IpAddr::V6(address) => {
                let first = word(&bytes, 0) as u16 & !0x0fc0;
                bytes[..2].copy_from_slice(&first.to_be_bytes());
                bytes[24..40].copy_from_slice(&address.octets());
            }
        }
        // Which service has it is told by the model; it knows ports, fragments and ICMP.
        use super::model::packet::Topic;
        let facts = (Packet { bytes: &bytes, source: service.address, destination: service.address }).facts().ok()?;
        let is_ours = match facts.topic {
            Topic::Ports { protocol, destination, .. } => {
                service.ports.iter().any(|port| (port.transport.protocol(), port.number) == (protocol, destination))
            }
            Topic::Portless(protocol) => service.ports.iter().any(|port| port.transport.protocol() == protocol),
            Topic::Address => true,
            Topic::OtherProtocol | Topic::NotOurs => false,
        };
        if let Some(sum) = upper_sum(&bytes).filter(|_| is_ours) {
            let (from, to) = (
                was[at..at + if at == 16 { 4 } else { 16 }].to_vec(),
                bytes[at..at + if at == 16 { 4 } else { 16 }].to_vec(),
            );
            mend(&mut bytes, sum, from, to);
            if protocol_of(&bytes).0 == 17 && bytes[sum..sum + 2] == [0, 0] {
                bytes[sum..sum + 2].fill(0xff);
            }
        }
        is_ours.then(|| (bytes, service.name.clone()))
    }
}

/// RFC 1624: what is summed was `from`, and is `to`.
fn mend(bytes: &mut [u8], at: usize, from: Vec<u8>, to: Vec<u8>) {
    let from: Vec<u8> = from.iter().map(|byte| !byte).collect();
    let check = [!bytes[at], !bytes[at + 1]];
    let mended = !sum(&[&check[..], &from, &to].concat());
    bytes[at..at + 2].copy_from_slice(&mended.to_be_bytes());
}

/// Which protocol is behind the headers of a packet that is whole, where it begins and ends; no protocol of a later fragment.
fn protocol_of(packet: &[u8]) -> (u8, usize, usize) {
    if packet[0] >> 4 == 4 {
        let is_later = word(packet, 6) & 0x1fff != 0;
        return (if is_later { 255 } else { packet[9] }, usize::from(packet[0] & 15) * 4, word(packet, 2));
    }
    let (mut protocol, mut at) = (packet[6], 40);
    for _ in 0..8 {
        let len = match protocol {
            0 | 43 | 60 | 135 | 139 | 140 => 8 + 8 * usize::from(packet[at + 1]),
            51 => 8 + 4 * usize::from(packet[at + 1]),
            44 if word(packet, at + 2) & 0xfff8 != 0 => return (255, at, at),
            44 => 8,
            _ => break,
        };
        protocol = packet[at];
        at += len;
    }
    (protocol, at, 40 + word(packet, 4))
}

/// Where the checksum is that counts the addresses, if there is one.
fn upper_sum(packet: &[u8]) -> Option<usize> {
    let (protocol, at, end) = protocol_of(packet);
    let sum = match protocol {
        6 => at + 16,
        17 => at + 6,
        58 if packet[0] >> 4 == 6 => at + 2,
        _ => return None,
    };
    (sum + 2 <= end && !(protocol == 17 && packet[sum..sum + 2] == [0, 0])).then_some(sum)
}
