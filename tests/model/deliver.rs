//! What leaves for a server, by the RFCs alone: every header built anew, every checksum computed over all that it covers.

use super::owners::siphash;
use super::packet;
use oneip::model::{Deliver, Plan, Tags};
use std::net::IpAddr;

/// What has been sent before, as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Identifications used.
    pub identifications: u32,
    /// Answers in this window of time.
    pub answers: u32,
}

const ANSWERS: u32 = 64;

/// What becomes of a frame that a server gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    Frames(Vec<Vec<u8>>),
    /// It is too large, and this goes back.
    TooBig(Option<Vec<u8>>),
}

/// RFC 1071, one word at a time.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u16;
    for word in parts.concat().chunks(2) {
        let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
        let (wrapped, carry) = sum.overflowing_add(word);
        sum = wrapped + u16::from(carry);
    }
    !sum
}

fn word(bytes: &[u8], at: usize) -> usize {
    u16::from_be_bytes([bytes[at], bytes[at + 1]]) as usize
}

fn set(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// MACs, and the tags with the EtherType; the packet without padding; the padding.
fn split(frame: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let packet = packet::ip(frame).and_then(Result::ok).expect("an IP packet").bytes;
    let link = frame.len() - packet.len();
    let len = if packet[0] >> 4 == 4 { word(packet, 2) } else { 40 + word(packet, 4) };
    (frame[..link].to_vec(), packet[..len].to_vec(), packet[len..].to_vec())
}

/// RFC 791.
pub fn ipv4(class: u8, id: u16, part: u16, protocol: u8, source: &[u8], destination: &[u8], payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len() as u16).to_be_bytes();
    let [id, part] = [id.to_be_bytes(), part.to_be_bytes()];
    let mut header = vec![0x45, class, total[0], total[1], id[0], id[1], part[0], part[1], 64, protocol, 0, 0];
    header.extend(source);
    header.extend(destination);
    let sum = checksum(&[&header]);
    set(&mut header, 10, sum);
    [&header, payload].concat()
}

/// RFC 8200.
pub fn ipv6(class: u8, protocol: u8, source: &[u8], destination: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60 | class >> 4, class << 4, 0, 0, 0, 0, protocol, 64];
    set(&mut header, 4, payload.len() as u16);
    [&header[..], source, destination, payload].concat()
}

pub fn leave(plan: &Plan, frame: &[u8], service: u16, server: u16, sent: &mut Sent, now: &[u8; 6]) -> Leaving {
    let service = &plan.services[service as usize];
    let server = &service.servers[server as usize];
    let (mut link, mut packet, padding) = split(frame);
    let came_to = link[..6].to_vec();
    let came_from = link[6..12].to_vec();
    link[..6].copy_from_slice(now);
    link[6..12].copy_from_slice(&came_to);
    retag(&mut link, server.tags);
    let protocol = match service.deliver {
        Deliver::L2 => return Leaving::Frames(vec![[link, packet, padding].concat()]),
        Deliver::L3dsr { dscp } => {
            readdress(&mut packet, server.address, dscp);
            return Leaving::Frames(vec![[link, packet, padding].concat()]);
        }
        Deliver::Ipip => None,
        Deliver::Gue { .. } => Some(17),
        Deliver::Gre => Some(47),
    };
    let is_v4 = packet[0] >> 4 == 4;
    let protocol = protocol.unwrap_or(if is_v4 { 4 } else { 41 });
    let dispatcher = plan.dispatcher.as_ref().expect("tunnels come from somewhere");
    let mtu = dispatcher.mtu.unwrap_or(1500) as usize;
    let source = dispatcher.source.iter().find(|source| source.is_ipv4() == server.address.is_ipv4());
    let (source, destination) = (octets(*source.expect("of the family")), octets(server.address));
    let outer_is_v4 = server.address.is_ipv4();
    let class = if is_v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    let dont_fragment = !is_v4 || packet[6] & 0x40 != 0;
    let own = if outer_is_v4 { 20 } else { 40 };
    let mut payload = match service.deliver {
        Deliver::Gue { port } => {
            let client = if is_v4 { &packet[12..16] } else { &packet[8..24] };
            let from = siphash(plan.hash_key.0, client) as u16 | 0xc000;
            let len = 8 + packet.len() as u16;
            let mut udp = [from.to_be_bytes(), port.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
            if !outer_is_v4 {
                let pseudo = [&source[..], &destination, &[0, 0], &len.to_be_bytes(), &[0, 0, 0, 17]].concat();
                let sum = checksum(&[&[pseudo, udp.clone()].concat(), &packet]);
                set(&mut udp, 6, if sum == 0 { 0xffff } else { sum });
            }
            udp
        }
        Deliver::Gre => [[0, 0], if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] }].concat(),
        _ => Vec::new(),
    };
    let added = own + payload.len();
    payload.extend(&packet);
    let len = link.len();
    link[len - 2..].copy_from_slice(if outer_is_v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    if own + payload.len() <= mtu {
        let packet = match (outer_is_v4, dont_fragment) {
            (true, true) => ipv4(class, 0, 0x4000, protocol, &source, &destination, &payload),
            (true, false) => {
                let id = sent.identifications as u16;
                sent.identifications += 1;
                ipv4(class, id, 0, protocol, &source, &destination, &payload)
            }
            (false, _) => ipv6(class, protocol, &source, &destination, &payload),
        };
        return Leaving::Frames(vec![[link, packet].concat()]);
    }
    if dont_fragment && (is_v4 || packet.len() > 1280) {
        if sent.answers == ANSWERS {
            return Leaving::TooBig(None);
        }
        let mut back = split(frame).0;
        back[..6].copy_from_slice(&came_from);
        back[6..12].copy_from_slice(&came_to);
        let answer = answer(&packet, if is_v4 { mtu - added } else { (mtu - added).max(1280) });
        sent.answers += u32::from(answer.is_some());
        return Leaving::TooBig(answer.map(|answer| [back, answer].concat()));
    }
    let id = sent.identifications;
    sent.identifications += 1;
    let each = (mtu - own - if outer_is_v4 { 0 } else { 8 }) / 8 * 8;
    let count = payload.len().div_ceil(each);
    let pieces = payload.chunks(each).enumerate().map(|(at, chunk)| {
        let (offset, more) = (at * each, at + 1 < count);
        let packet = if outer_is_v4 {
            let part = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            ipv4(class, id as u16, part, protocol, &source, &destination, chunk)
        } else {
            let mut header = vec![protocol, 0, 0, 0];
            set(&mut header, 2, offset as u16 | u16::from(more));
            header.extend(id.to_be_bytes());
            header.extend(chunk);
            ipv6(class, 44, &source, &destination, &header)
        };
        [link.clone(), packet].concat()
    });
    Leaving::Frames(pieces.collect())
}

/// IEEE 802.1Q: everything between the addresses and the EtherType is tags; the first one has the priority.
fn retag(link: &mut Vec<u8>, tags: Tags) {
    let last = link.len() - 2;
    let new = match tags {
        Tags::AsReceived => return,
        Tags::Untagged => Vec::new(),
        Tags::Vlan(id) => {
            let priority = if last > 12 { link[14] & 0xf0 } else { 0 };
            vec![0x81, 0x00, priority | (id >> 8) as u8, id as u8]
        }
    };
    link.splice(12..last, new);
}

/// Where the transport header is, and its protocol; `None`: it is not in this packet.
fn upper(packet: &[u8]) -> Option<(u8, usize)> {
    if packet[0] >> 4 == 4 {
        let is_later = word(packet, 6) & 0x1fff != 0;
        return (!is_later).then_some((packet[9], (packet[0] & 15) as usize * 4));
    }
    let (mut protocol, mut at) = (packet[6], 40);
    for _ in 0..8 {
        let len = match protocol {
            0 | 43 | 60 | 135 | 139 | 140 => 8 + 8 * packet[at + 1] as usize,
            51 => 8 + 4 * packet[at + 1] as usize,
            44 => {
                if word(packet, at + 2) >> 3 != 0 {
                    return None;
                }
                8
            }
            _ => return Some((protocol, at)),
        };
        protocol = packet[at];
        at += len;
    }
    let is_extension = [0, 43, 44, 51, 60, 135, 139, 140].contains(&protocol);
    (!is_extension).then_some((protocol, at))
}

/// A checksum of `field` that covers `old` covers `new` afterwards, whether it was right or not: RFC 1624, word by word.
fn mend(field: u16, old: &[u8], new: &[u8]) -> u16 {
    old.chunks(2).zip(new.chunks(2)).fold(field, |field, (old, new)| {
        let [old, new] = [old, new].map(|word| u16::from_be_bytes([word[0], word[1]]));
        let mut sum = u32::from(!field) + u32::from(!old) + u32::from(new);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    })
}

fn readdress(packet: &mut [u8], server: IpAddr, dscp: u8) {
    let is_v4 = packet[0] >> 4 == 4;
    let place = if is_v4 { 16..20 } else { 24..40 };
    let (old, new) = (packet[place.clone()].to_vec(), octets(server));
    if let Some((protocol, at)) = upper(packet) {
        let field = match protocol {
            6 => Some(16),
            17 => Some(6),
            58 if !is_v4 => Some(2),
            _ => None,
        };
        let field = field.map(|field| at + field).filter(|field| field + 2 <= packet.len());
        if let Some(field) = field.filter(|field| protocol != 17 || word(packet, *field) != 0) {
            let mended = mend(word(packet, field) as u16, &old, &new);
            set(packet, field, if protocol == 17 && mended == 0 { 0xffff } else { mended });
        }
    }
    let before = packet[..2].to_vec();
    if is_v4 {
        packet[1] = dscp << 2 | packet[1] & 3;
        let field =
            mend(word(packet, 10) as u16, &[before, old].concat(), &[packet[..2].to_vec(), new.clone()].concat());
        set(packet, 10, field);
    } else {
        let class = dscp << 2 | packet[1] >> 4 & 3;
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | packet[1] & 15;
    }
    packet[place].copy_from_slice(&new);
}

/// RFC 792 and 1191, RFC 4443.
fn answer(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let is_v4 = packet[0] >> 4 == 4;
    if is_v4 {
        let part = word(packet, 6);
        let upper = &packet[(packet[0] & 15) as usize * 4..];
        let is_error = packet[9] == 1 && part & 0x3fff == 0 && [3, 4, 5, 11, 12].contains(&upper[0]);
        if is_error || part & 0x1fff != 0 || [0, 127].contains(&packet[12]) || packet[12] >= 224 {
            return None;
        }
        let quoted = &packet[..packet.len().min(548)];
        let mut icmp = [&[3, 4, 0, 0, 0, 0, 0, 0], quoted].concat();
        set(&mut icmp, 6, mtu as u16);
        let sum = checksum(&[&icmp]);
        set(&mut icmp, 2, sum);
        return Some(ipv4(0xc0, 0, 0x4000, 1, &packet[16..20], &packet[12..16], &icmp));
    }
    // A fragment does not show what it is of.
    let is_fragment = has_fragment_header(packet);
    let is_error = upper(packet).is_some_and(|(protocol, at)| protocol == 58 && packet[at] < 128) && !is_fragment;
    let source = &packet[8..24];
    if is_error || source[0] == 0xff || source[..15] == [0; 15] {
        return None;
    }
    let quoted = &packet[..packet.len().min(1232)];
    let mut icmp = [&[2, 0, 0, 0, 0, 0, 0, 0], quoted].concat();
    set(&mut icmp, 6, mtu as u16);
    let len = (icmp.len() as u32).to_be_bytes();
    let sum = checksum(&[&packet[24..40], source, &len, &[0, 0, 0, 58], &icmp]);
    set(&mut icmp, 2, sum);
    Some(ipv6(0, 58, &packet[24..40], source, &icmp))
}

/// Whether more fragments follow this one.
fn has_fragment_header(packet: &[u8]) -> bool {
    let (mut protocol, mut at) = (packet[6], 40);
    while at + 8 <= packet.len() {
        let len = match protocol {
            0 | 43 | 60 | 135 | 139 | 140 => 8 + 8 * packet[at + 1] as usize,
            51 => 8 + 4 * packet[at + 1] as usize,
            44 if word(packet, at + 2) & 0xfff9 != 0 => return true,
            44 => 8,
            _ => return false,
        };
        protocol = packet[at];
        at += len;
    }
    false
}
