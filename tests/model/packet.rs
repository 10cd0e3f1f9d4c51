//! What a frame says, as far as dispatching goes.

use oneip::model::OddKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// The IP packet of a frame, not judged yet.
pub struct Packet<'a> {
    pub bytes: &'a [u8],
    pub source: IpAddr,
    pub destination: IpAddr,
}

/// What the verdict follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub client: IpAddr,
    pub topic: Topic,
    /// A SYN without ACK.
    pub begins: bool,
}

/// What a packet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A flow with ports, as the client numbers them. `hashed`: they may take part in the hash.
    Ports { protocol: u8, source: u16, destination: u16, hashed: bool },
    /// A fragment without ports, of a protocol that has some.
    Portless(u8),
    /// The cluster address as a whole.
    Address,
    /// A protocol that only a service without ports has.
    OtherProtocol,
    /// A packet of somebody else, which an ICMP error came back for.
    NotOurs,
}

pub enum Refusal {
    Malformed,
    Ttl,
}
use Refusal::{Malformed, Ttl};

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(byte(bytes, at)? as u16 * 256 + byte(bytes, at + 1)? as u16)
}

fn v4_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn v6_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// `None`: not IP. `Err`: IP, but too short for its fixed header.
pub fn ip(frame: &[u8]) -> Option<Result<Packet<'_>, Refusal>> {
    let mut at = 12;
    for _tag in 0..2 {
        // A tag that is cut off is an EtherType like any unknown one.
        if matches!(word(frame, at)?, 0x8100 | 0x88a8) && frame.len() >= at + 6 {
            at += 4;
        }
    }
    let ethertype = word(frame, at)?;
    let bytes = &frame[at + 2..];
    let (source, destination, header) = match ethertype {
        0x0800 => (v4_at(bytes, 12), v4_at(bytes, 16), 20),
        0x86dd => (v6_at(bytes, 8), v6_at(bytes, 24), 40),
        _ => return None,
    };
    let ends = source.zip(destination).filter(|_| bytes.len() >= header).ok_or(Malformed);
    Some(ends.map(|(source, destination)| Packet { bytes, source, destination }))
}

impl Packet<'_> {
    /// Which limit of what is dear to read it is under.
    pub fn odd(&self) -> Option<OddKind> {
        let bytes = self.bytes;
        let (first, next) = match self.destination {
            IpAddr::V4(_) => (bytes[0], bytes[9]),
            IpAddr::V6(_) => (bytes[0], bytes[6]),
        };
        match self.destination {
            IpAddr::V4(_) if first / 16 == 4 && word(bytes, 6)? & 0x3fff > 0 => Some(OddKind::Fragments),
            IpAddr::V4(_) if first / 16 == 4 && next == 1 => Some(OddKind::Icmp),
            IpAddr::V4(_) if first / 16 == 4 && first % 16 > 5 => Some(OddKind::Options),
            IpAddr::V6(_) if first / 16 == 6 && next == 44 => Some(OddKind::Fragments),
            IpAddr::V6(_) if first / 16 == 6 && next == 58 => Some(OddKind::Icmp),
            IpAddr::V6(_) if first / 16 == 6 && [0, 43, 51, 60, 135, 139, 140].contains(&next) => {
                Some(OddKind::Options)
            }
            _ => None,
        }
    }

    /// What a whole UDP packet carries.
    pub fn datagram(&self) -> Option<&[u8]> {
        let mut inner = Inner::read(self.bytes, self.destination.is_ipv4(), false).ok()?;
        inner.walk().ok()?;
        if inner.protocol != Some(UDP) || inner.part != Part::Whole {
            return None;
        }
        inner.payload.get(8..word(inner.payload, 4)? as usize)
    }

    pub fn facts(&self) -> Result<Facts, Refusal> {
        let mut inner = Inner::read(self.bytes, self.destination.is_ipv4(), false)?;
        if inner.ttl == 0 {
            return Err(Ttl);
        }
        inner.walk()?;
        let client = inner.source;
        if inner.protocol != Some(inner.icmp()) {
            let begins = inner.protocol == Some(6) && inner.part == Part::Whole;
            let topic = inner.topic()?;
            let begins = begins && inner.payload[13] & 0x12 == 0x02;
            return Ok(Facts { client, topic, begins });
        }
        if inner.part != Part::Whole {
            return Ok(Facts { client, topic: Topic::Address, begins: false });
        }
        if inner.payload.len() < 8 {
            return Err(Malformed);
        }
        let quoted = &inner.payload[8..];
        let kind = inner.payload[0];
        let (echo, error) = match self.destination {
            IpAddr::V4(_) => (kind == 8, [3, 4, 5, 11, 12].contains(&kind)),
            IpAddr::V6(_) => (kind == 128, kind < 128),
        };
        if echo {
            return Ok(Facts { client, topic: Topic::Address, begins: false });
        }
        if !error {
            return Ok(Facts { client, topic: Topic::OtherProtocol, begins: false });
        }
        let mut quoted = Inner::read(quoted, self.destination.is_ipv4(), true)?;
        if quoted.source != self.destination {
            return Ok(Facts { client, topic: Topic::NotOurs, begins: false });
        }
        quoted.walk()?;
        Ok(Facts { client: quoted.destination, topic: quoted.topic_of_quoted()?, begins: false })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Later,
}

/// A packet, or as much as an ICMP error quotes of one.
struct Inner<'a> {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    /// `None`: cannot be known.
    protocol: Option<u8>,
    part: Part,
    payload: &'a [u8],
}

impl<'a> Inner<'a> {
    fn read(bytes: &'a [u8], is_v4: bool, quoted: bool) -> Result<Inner<'a>, Refusal> {
        if is_v4 { Self::v4(bytes, quoted) } else { Self::v6(bytes, quoted) }
    }

    /// RFC 791 section 3.1
    fn v4(bytes: &'a [u8], quoted: bool) -> Result<Inner<'a>, Refusal> {
        if bytes.len() < 20 {
            return Err(Malformed);
        }
        let version = bytes[0] / 16;
        let header = bytes[0] as usize % 16 * 4;
        let total = word(bytes, 2).ok_or(Malformed)? as usize;
        if version != 4 || header < 20 || header > bytes.len() || total < header {
            return Err(Malformed);
        }
        if total > bytes.len() && !quoted {
            return Err(Malformed);
        }
        let flags = word(bytes, 6).ok_or(Malformed)?;
        let (more, offset) = (flags & 0x2000 != 0, flags % 0x2000);
        Ok(Inner {
            source: v4_at(bytes, 12).ok_or(Malformed)?,
            destination: v4_at(bytes, 16).ok_or(Malformed)?,
            ttl: bytes[8],
            protocol: Some(bytes[9]),
            part: match (offset, more) {
                (0, false) => Part::Whole,
                (0, true) => Part::First,
                _ => Part::Later,
            },
            payload: &bytes[header..total.min(bytes.len())],
        })
    }

    /// RFC 8200 section 3
    fn v6(bytes: &'a [u8], quoted: bool) -> Result<Inner<'a>, Refusal> {
        if bytes.len() < 40 || bytes[0] / 16 != 6 {
            return Err(Malformed);
        }
        let end = 40 + word(bytes, 4).ok_or(Malformed)? as usize;
        if end > bytes.len() && !quoted {
            return Err(Malformed);
        }
        Ok(Inner {
            source: v6_at(bytes, 8).ok_or(Malformed)?,
            destination: v6_at(bytes, 24).ok_or(Malformed)?,
            ttl: bytes[7],
            protocol: Some(bytes[6]),
            part: Part::Whole,
            payload: &bytes[40..end.min(bytes.len())],
        })
    }

    /// Past the extension headers, of which IPv4 has none. RFC 8200 section 4
    fn walk(&mut self) -> Result<(), Refusal> {
        let mut walked = 0;
        while let Some(kind) = self.protocol.filter(|kind| self.source.is_ipv6() && is_extension(*kind)) {
            if walked == 8 {
                self.protocol = None;
                break;
            }
            walked += 1;
            let units = if kind == 44 { 0 } else { byte(self.payload, 1).ok_or(Malformed)? as usize };
            let length = if kind == 51 { (units + 2) * 4 } else { (units + 1) * 8 };
            if self.payload.len() < length {
                return Err(Malformed);
            }
            let next = self.payload[0];
            if kind == 44 {
                let field = word(self.payload, 2).ok_or(Malformed)?;
                if field / 8 != 0 {
                    self.part = Part::Later;
                    self.protocol = Some(next).filter(|next| !is_extension(*next));
                    break;
                }
                if field % 2 == 1 {
                    self.part = Part::First;
                }
            }
            self.payload = &self.payload[length..];
            self.protocol = Some(next);
        }
        Ok(())
    }

    fn icmp(&self) -> u8 {
        if self.source.is_ipv4() { 1 } else { 58 }
    }

    fn ports(&self) -> Option<(u16, u16)> {
        Some((word(self.payload, 0)?, word(self.payload, 2)?))
    }

    /// Of what a client sends, ICMP excepted.
    fn topic(&self) -> Result<Topic, Refusal> {
        let Some(protocol) = self.protocol else {
            return Ok(if self.part == Part::Later { Topic::Address } else { Topic::OtherProtocol });
        };
        if ![TCP, UDP, SCTP].contains(&protocol) {
            return Ok(Topic::OtherProtocol);
        }
        if self.part == Part::Whole && !self.transport_is_whole(protocol) {
            return Err(Malformed);
        }
        Ok(match self.ports() {
            Some((source, destination)) if self.part != Part::Later => {
                Topic::Ports { protocol, source, destination, hashed: self.part == Part::Whole }
            }
            _ => Topic::Portless(protocol),
        })
    }

    fn transport_is_whole(&self, protocol: u8) -> bool {
        let len = self.payload.len();
        match protocol {
            TCP => len >= 20 && (20..=len).contains(&(self.payload[12] as usize / 16 * 4)),
            UDP => len >= 8 && (8..=len).contains(&(word(self.payload, 4).unwrap_or(0) as usize)),
            _ => len >= 12,
        }
    }

    /// Of a packet that went from the cluster address to the client: the client's own packets have the ports the other way
    /// round. Were they fragmented? Nobody knows, but mostly not, so the ports are hashed wherever they are quoted.
    fn topic_of_quoted(&self) -> Result<Topic, Refusal> {
        let Some(protocol) = self.protocol else { return Ok(Topic::Address) };
        if protocol == self.icmp() {
            return Ok(Topic::Address);
        }
        if ![TCP, UDP, SCTP].contains(&protocol) {
            return Ok(Topic::OtherProtocol);
        }
        match (self.ports(), self.part) {
            (Some((source, destination)), Part::Whole | Part::First) => {
                Ok(Topic::Ports { protocol, source: destination, destination: source, hashed: true })
            }
            (None, Part::Whole) => Err(Malformed),
            _ => Ok(Topic::Portless(protocol)),
        }
    }
}

fn is_extension(kind: u8) -> bool {
    [0, 43, 44, 51, 60, 135, 139, 140].contains(&kind)
}
