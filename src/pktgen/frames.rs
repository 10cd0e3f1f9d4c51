//! The frames: which is which client's, and every byte of them. The specification of what `src/bpf/pktgen.h` does in the kernel.
//!
//! A frame is known by its number, 0 for the first of a run. From that follow its client, its template (address, port and size)
//! and thereby all bytes but the stamp, so that a receiver can tell whether any of them changed.
//!
//! The last 18 bytes are the trailer, in network byte order, of TCP and UDP, IPv4 and IPv6 alike:
//!
//! | bytes | |
//! |---|---|
//! | 4 | the run, a random number by which a frame is recognised |
//! | 6 | the frame's number |
//! | 8 | the stamp: CLOCK_MONOTONIC, in nanoseconds, when the frame was due, or was made if there is no schedule |
//!
//! That is what a 64-byte frame of UDP over IPv4 has room for. Over IPv6 the smallest frame is 84 bytes, with TCP 76 and 96.
//! What is between the headers and the trailer is filled with the low byte of its offset.

use crate::hash::splitmix;
use crate::limits::{PKTGEN_FRAME, PKTGEN_TEMPLATES};
use crate::model::{Mac, Port, Transport};
use crate::wire::{ethernet, ipv4, ipv6, transport};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes that a frame's size counts and its memory does not hold.
pub const FCS: usize = 4;

/// Ethernet's smallest frame, with FCS.
pub const LEAST: usize = 64;

/// RFC 791; a lower one on arrival means a router.
const TTL: u8 = 64;

/// The first of the dynamic ports (RFC 6335 section 6).
const SOURCE_PORT: u16 = 49_152;

const RUN: usize = 4;
const NUMBER_END: usize = 10;
const TRAILER: usize = 18;

const HEAD_WORDS: usize = 10;

/// A `struct template` of pktgen.h.
pub type Words = [u64; 2 * HEAD_WORDS + 7];

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Traffic {
    pub source: Mac,
    pub destination: Mac,
    /// The cluster addresses; at least one.
    pub addresses: Vec<IpAddr>,
    /// UDP and TCP; at least one.
    pub ports: Vec<Port>,
    /// Sizes of frames, with FCS. Empty: each as small as it can be.
    pub sizes: Vec<Size>,
    pub clients: u64,
    pub first_v4: Ipv4Addr,
    pub first_v6: Ipv6Addr,
    pub order: Order,
    pub seed: u64,
    /// TCP segments begin connections, and are not in the middle of some.
    pub syn: bool,
}

/// The size of a frame, with FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Bytes(usize),
    /// Or as small as the headers and the trailer allow.
    AtLeast(usize),
}

/// In which order the clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each frame is of any of them, all alike probable.
    Random,
    /// One after the other.
    Sequential,
}

/// Why there are no such frames.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    #[error(
        "a frame of {size} bytes cannot hold {transport} over {family} and the 18 bytes by which frames are recognised: --size \
         {least} is the smallest"
    )]
    TooSmall { size: usize, transport: &'static str, family: &'static str, least: usize },
    #[error("a frame of {size} bytes is too large: --size {} is the largest", PKTGEN_FRAME + FCS)]
    TooLarge { size: usize },
    #[error("{count} combinations of address, port and size are too many: {PKTGEN_TEMPLATES} is the most")]
    TooMany { count: usize },
    #[error("{clients} client addresses from {first} on go beyond the last address there is")]
    Clients { clients: u64, first: IpAddr },
    #[error("{port} cannot be generated; there is udp and tcp")]
    Transport { port: Port },
}

/// A run's frames.
#[derive(Clone, Debug)]
pub struct Frames {
    templates: Vec<Template>,
    clients: u64,
    order: Order,
    seed: u64,
    run: u32,
}

#[derive(Clone, Debug)]
struct Template {
    /// What varies is 0.
    bytes: Vec<u8>,
    v6: bool,
    tcp: bool,
    ip_sum: u16,
    transport_sum: u16,
    /// The first client's address as a number.
    first: u128,
}

impl Frames {
    /// # Errors
    /// A size does not fit, there are too many combinations, or too many clients for the addresses.
    ///
    /// # Panics
    /// There is no address, no port, or no client.
    pub fn new(traffic: &Traffic, run: u32) -> Result<Frames, TrafficError> {
        let Traffic { addresses, ports, sizes, clients, order, seed, .. } = traffic;
        assert!(!addresses.is_empty() && !ports.is_empty() && *clients > 0, "{traffic:?}");
        let sizes = if sizes.is_empty() { &[Size::AtLeast(LEAST)] } else { sizes.as_slice() };
        let count = addresses.len() * ports.len() * sizes.len();
        if count > PKTGEN_TEMPLATES {
            return Err(TrafficError::TooMany { count });
        }
        let mut templates = Vec::with_capacity(count);
        for size in sizes {
            for port in ports {
                for address in addresses {
                    templates.push(Template::new(traffic, *address, *port, *size, run)?);
                }
            }
        }
        Ok(Frames { templates, clients: *clients, order: *order, seed: *seed, run })
    }

    pub fn run(&self) -> u32 {
        self.run
    }

    pub fn clients(&self) -> u64 {
        self.clients
    }

    pub fn in_order(&self) -> bool {
        self.order == Order::Sequential
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// In bytes, without FCS.
    pub fn largest(&self) -> usize {
        self.templates.iter().map(|template| template.bytes.len()).max().expect("there is a template")
    }

    /// With FCS, each once, from the smallest on.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.templates.iter().map(|template| template.bytes.len() + FCS).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Which of the clients a frame is of, from 0. At random: by the
    /// frame's number alone, so that a receiver knows the client too.
    #[inline]
    pub fn client_of(&self, number: u64) -> u64 {
        if self.order == Order::Sequential {
            return number % self.clients;
        }
        let state = self.seed.wrapping_add(number.wrapping_add(1).wrapping_mul(splitmix::STEP));
        splitmix::scale(splitmix::mix(state), self.clients)
    }

    /// Templates take turns, and with each round of the clients they move on by one, so that each client gets each.
    #[inline]
    fn template_of(&self, number: u64) -> &Template {
        match self.templates.as_slice() {
            [only] => only,
            templates => &templates[((number + number / self.clients) % templates.len() as u64) as usize],
        }
    }

    /// In bytes, without FCS.
    #[inline]
    pub fn size_of(&self, number: u64) -> usize {
        self.template_of(number).bytes.len()
    }

    /// Writes the frame with that number, whose bytes are all of `frame`.
    #[inline]
    pub fn write(&self, number: u64, stamp: u64, frame: &mut [u8]) {
        self.template_of(number).write(self.client_of(number), number, stamp, frame);
    }

    /// The templates, as the programs in the kernel have them.
    pub fn words(&self) -> impl Iterator<Item = Words> {
        self.templates.iter().map(Template::words)
    }

    /// What is between the headers and the trailer, at the same place.
    pub fn filler() -> [u64; PKTGEN_FRAME / 8] {
        std::array::from_fn(|word| u64::from_ne_bytes(std::array::from_fn(|byte| filler(word * 8 + byte))))
    }
}

fn filler(offset: usize) -> u8 {
    offset as u8
}

/// The one's complement sum of 16-bit words as they are in memory (RFC 1071: it comes out in that order too); an odd last byte is
/// followed by 0.
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Template {
    fn new(traffic: &Traffic, address: IpAddr, port: Port, size: Size, run: u32) -> Result<Template, TrafficError> {
        let (v6, tcp) = (address.is_ipv6(), port.transport == Transport::Tcp);
        if port.transport == Transport::Sctp {
            return Err(TrafficError::Transport { port });
        }
        let first = first_client(traffic, v6)?;
        let (ip_len, transport_len) = (
            if v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN },
            if tcp { transport::TCP_HEADER_LEN } else { transport::UDP_HEADER_LEN },
        );
        let headers = ethernet::HEADER_LEN + ip_len + transport_len;
        let least = (headers + TRAILER + FCS).max(LEAST);
        let size = match size {
            Size::Bytes(size) if size < least => {
                let family = if v6 { "IPv6" } else { "IPv4" };
                return Err(TrafficError::TooSmall { size, transport: port.transport.name(), family, least });
            }
            Size::Bytes(size) => size,
            Size::AtLeast(size) => size.max(least),
        };
        if size > PKTGEN_FRAME + FCS {
            return Err(TrafficError::TooLarge { size });
        }
        let mut bytes: Vec<u8> = (0..size - FCS).map(filler).collect();
        bytes[..6].copy_from_slice(&traffic.destination.0);
        bytes[6..12].copy_from_slice(&traffic.source.0);
        let (l3, trailer) = (ethernet::HEADER_LEN, bytes.len() - TRAILER);
        let l4 = l3 + ip_len;
        let payload_len = (bytes.len() - l4) as u16;
        let protocol = port.transport.protocol();
        match address {
            IpAddr::V4(address) => write_ipv4(&mut bytes[12..l4], address, payload_len, protocol),
            IpAddr::V6(address) => write_ipv6(&mut bytes[12..l4], address, payload_len, protocol),
        }
        let header = &mut bytes[l4..l4 + transport_len];
        if tcp {
            write_tcp(header, port.number, traffic.syn)
        } else {
            write_udp(header, port.number, payload_len)
        }
        bytes[trailer..].fill(0);
        bytes[trailer..trailer + RUN].copy_from_slice(&run.to_be_bytes());
        // The pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1): both addresses, protocol, length.
        let addresses = if v6 { l3 + 8..l4 } else { l3 + 12..l4 };
        let pseudo = sum(&bytes[addresses]) + sum(&[0, protocol]) + sum(&payload_len.to_be_bytes());
        let transport_sum = fold(pseudo + sum(&bytes[l4..]));
        let ip_sum = if v6 { 0 } else { fold(sum(&bytes[l3..l4])) };
        Ok(Template { bytes, v6, tcp, ip_sum, transport_sum, first })
    }

    fn source_at(&self) -> usize {
        ethernet::HEADER_LEN + if self.v6 { 8 } else { 12 }
    }

    fn source_len(&self) -> usize {
        if self.v6 { 16 } else { 4 }
    }

    fn checksum_at(&self) -> usize {
        let ip = if self.v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN };
        ethernet::HEADER_LEN + ip + if self.tcp { 16 } else { 6 }
    }

    /// Bytes of the head, of which the programs in the kernel copy and compare the words one by one.
    fn head_len(&self) -> usize {
        if self.v6 { 80 } else { 56 }
    }

    #[inline]
    fn write(&self, client: u64, number: u64, stamp: u64, frame: &mut [u8]) {
        frame.copy_from_slice(&self.bytes);
        let address = (self.first + u128::from(client)).to_be_bytes();
        let (at, len) = (self.source_at(), self.source_len());
        frame[at..at + len].copy_from_slice(&address[16 - len..]);
        let source = sum(&frame[at..at + len]);
        if !self.v6 {
            let checksum = !fold(u64::from(self.ip_sum) + source);
            frame[24..26].copy_from_slice(&checksum.to_ne_bytes());
        }
        let trailer = frame.len() - TRAILER;
        frame[trailer + RUN..trailer + NUMBER_END].copy_from_slice(&number.to_be_bytes()[2..]);
        frame[trailer + NUMBER_END..].copy_from_slice(&stamp.to_be_bytes());
        let mut varying = fold(sum(&frame[trailer + RUN..]));
        // Words that begin at an odd place have their bytes the other way round.
        if trailer % 2 == 1 {
            varying = varying.swap_bytes();
        }
        let checksum = !fold(u64::from(self.transport_sum) + source + u64::from(varying));
        // UDP writes 0 as its other form, since 0 is "none" (RFC 768); TCP need not, and does here.
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        let at = self.checksum_at();
        frame[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    }

    fn words(&self) -> Words {
        let mut head = [0; 8 * HEAD_WORDS];
        let mut mask = [0; 8 * HEAD_WORDS];
        let len = self.head_len();
        head[..len].copy_from_slice(&self.bytes[..len]);
        // From the EtherType on, but for what varies and what a router changes.
        mask[12..len].fill(0xff);
        let (source, checksum, trailer) = (self.source_at(), self.checksum_at(), self.bytes.len() - TRAILER);
        mask[source..source + self.source_len()].fill(0);
        mask[checksum..checksum + 2].fill(0);
        mask[trailer.min(len)..].fill(0);
        if self.v6 {
            mask[21] = 0;
        } else {
            mask[22] = 0;
            mask[24..26].fill(0);
        }
        let mut words = [0; 2 * HEAD_WORDS + 7];
        for (word, bytes) in words.iter_mut().zip(head.chunks_exact(8).chain(mask.chunks_exact(8))) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
        }
        words[2 * HEAD_WORDS..].copy_from_slice(&[
            self.bytes.len() as u64,
            u64::from(self.v6),
            u64::from(self.tcp),
            u64::from(self.ip_sum),
            u64::from(self.transport_sum),
            (self.first >> 64) as u64,
            self.first as u64,
        ]);
        words
    }
}

/// The first client of the family as a number, if all are addresses; of an IPv6 address only the lower half counts up.
fn first_client(traffic: &Traffic, v6: bool) -> Result<u128, TrafficError> {
    let Traffic { clients, first_v4, first_v6, .. } = traffic;
    let (first, number, counting) = match v6 {
        true => (IpAddr::V6(*first_v6), first_v6.to_bits(), first_v6.to_bits() & u128::from(u64::MAX)),
        false => (IpAddr::V4(*first_v4), u128::from(first_v4.to_bits()), u128::from(first_v4.to_bits())),
    };
    let most = if v6 { u128::from(u64::MAX) } else { u128::from(u32::MAX) };
    let last = counting + u128::from(*clients) - 1;
    // The choice at random is of 32 bits.
    if last > most || *clients > u64::from(u32::MAX) {
        return Err(TrafficError::Clients { clients: *clients, first });
    }
    Ok(number)
}

/// From the EtherType on.
fn write_ipv4(bytes: &mut [u8], destination: Ipv4Addr, payload_len: u16, protocol: u8) {
    bytes.fill(0);
    bytes[..2].copy_from_slice(&ethernet::IPV4.to_be_bytes());
    let header = &mut bytes[2..];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(payload_len + ipv4::HEADER_LEN as u16).to_be_bytes());
    // Don't fragment, and so no identification (RFC 6864 section 4.1).
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = protocol;
    header[16..20].copy_from_slice(&destination.octets());
}

/// From the EtherType on.
fn write_ipv6(bytes: &mut [u8], destination: Ipv6Addr, payload_len: u16, protocol: u8) {
    bytes.fill(0);
    bytes[..2].copy_from_slice(&ethernet::IPV6.to_be_bytes());
    let header = &mut bytes[2..];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload_len.to_be_bytes());
    header[6] = protocol;
    header[7] = TTL;
    header[24..40].copy_from_slice(&destination.octets());
}

fn write_udp(header: &mut [u8], port: u16, len: u16) {
    header[..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header[6..8].fill(0);
}

/// A segment in the middle of a connection, or one that begins it.
fn write_tcp(header: &mut [u8], port: u16, syn: bool) {
    header.fill(0);
    header[..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header[4..8].copy_from_slice(&1u32.to_be_bytes());
    header[8..12].copy_from_slice(&u32::from(!syn).to_be_bytes());
    header[12] = (transport::TCP_HEADER_LEN as u8 / 4) << 4;
    header[13] = if syn { transport::SYN } else { transport::ACK };
    header[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
}
