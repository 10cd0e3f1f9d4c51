//! What nearly every frame is, read a burst at a time: a whole TCP or UDP packet, IPv4 without options or IPv6 without
//! extension headers, behind at most one tag, with nothing wrong in it, in a frame that an Ethernet could carry.
//!
//! Two passes. The first copies a few words of each header into rows (`take`); the second judges all of them at once, in
//! vector registers, without a branch (`judge`). It makes every test that `parse` makes. Where one fails, or the packet is
//! another, the frame gets a key that no service has, and `parse` says what it is. A test holds the two together.

use super::batch::{Batch, Bits, Sorted};
use super::classify::is_syn;
use crate::hash;
use crate::hash::vector::{Lanes, Level, Loop, Row};
use crate::limits::BURST;
use crate::model::Transport;
use crate::table::{PackedMac, Ports, ServiceId};
use crate::wire::{ethernet, ipv4, ipv6, transport};
use std::ops::Range;

/// Shortest frame that is tried: as far as `take` reads without asking, and no longer than Ethernet's shortest (60 bytes
/// without FCS).
pub const HEAD_LEN: usize = 60;

pub type Head = [u8; HEAD_LEN];

/// A 32-bit word of every header.
type HalfRow = [u32; BURST];

const TCP: u32 = Transport::Tcp.protocol() as u32;
const UDP: u32 = Transport::Udp.protocol() as u32;

/// EtherTypes as they lie in a little-endian word.
const IPV4: u16 = ethernet::IPV4.to_be();
const IPV6: u16 = ethernet::IPV6.to_be();
const VLAN: u16 = ethernet::VLAN.to_be();

const UNTAGGED: usize = ethernet::HEADER_LEN;
const TAGGED: usize = ethernet::HEADER_LEN + ethernet::VLAN_TAG_LEN;

/// So many headers are judged at once: a multiple of them, whatever the last are.
const VECTOR: usize = 8;

#[inline(always)]
fn word(head: &Head, at: usize) -> u64 {
    u64::from_le_bytes(*head[at..].first_chunk().expect("an offset within HEAD_LEN"))
}

#[inline(always)]
fn half(head: &Head, at: usize) -> u32 {
    u32::from_le_bytes(*head[at..].first_chunk().expect("an offset within HEAD_LEN"))
}

/// The big-endian number in the low 16 bits of a little-endian word.
#[inline(always)]
fn be16(low: u32) -> u32 {
    low << 8 & 0xff00 | low >> 8 & 0xff
}

/// What stands in front of an IP header. Most bursts come from one router, so that all their frames look alike.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    /// The source MAC and the EtherType behind it.
    outer: u64,
    /// The EtherType behind the tag; 0 where there is none.
    inner: u16,
}

impl Look {
    #[inline(always)]
    fn of<const L3: usize>(head: &Head) -> Look {
        Look { outer: word(head, 6), inner: if L3 == TAGGED { half(head, TAGGED - 2) as u16 } else { 0 } }
    }
}

/// The plain frames of a burst, by IP version.
#[derive(Default)]
pub struct FastPath {
    pub v4: Side<HeadersV4, { hash::SOURCE_V4 }>,
    pub v6: Side<HeadersV6, { hash::SOURCE_V6 }>,
}

impl FastPath {
    /// Copies the headers of the first few of `frames`, as many as look alike, and says how many. 0: the first one is not
    /// plain, or comes from a server.
    #[inline(always)]
    pub fn take<'a>(&mut self, frames: Range<usize>, bytes: impl Fn(usize) -> &'a [u8], ports: Ports) -> usize {
        let Some(head) = bytes(frames.start).first_chunk() else { return 0 };
        let (untagged, tagged) = (Look::of::<UNTAGGED>(head), Look::of::<TAGGED>(head));
        if ports.is_server(PackedMac::from_low_word(untagged.outer)) {
            return 0;
        }
        match ((untagged.outer >> 48) as u16, tagged.inner) {
            (IPV4, _) => self.v4.take::<UNTAGGED>(untagged, frames, bytes),
            (IPV6, _) => self.v6.take::<UNTAGGED>(untagged, frames, bytes),
            (VLAN, IPV4) => self.v4.take::<TAGGED>(tagged, frames, bytes),
            (VLAN, IPV6) => self.v6.take::<TAGGED>(tagged, frames, bytes),
            _ => 0,
        }
    }
}

/// The plain frames of one IP version: what their servers are found by, and the rest of what is judged.
#[derive(Default)]
pub struct Side<V, const B: usize> {
    pub batch: Batch<B>,
    headers: V,
}

/// What `Side::judge` says of frames, by position in the burst, a bit each.
pub struct Judged {
    /// They begin a TCP connection.
    pub begins: u64,
    /// They are not plain, or for a service that does not select by maglev over the source.
    pub slow: u64,
}

impl<V: Version<B>, const B: usize> Side<V, B> {
    /// As `FastPath::take`, with the header at `L3`.
    #[inline(always)]
    fn take<'a, const L3: usize>(
        &mut self,
        look: Look,
        frames: Range<usize>,
        bytes: impl Fn(usize) -> &'a [u8],
    ) -> usize {
        let Side { batch, headers } = self;
        let mut at = batch.len;
        for position in frames {
            let frame = bytes(position);
            let Some(head) = frame.first_chunk() else { break };
            if Look::of::<L3>(head) != look || !headers.copy::<L3>(at % BURST, head, frame, &mut batch.blocks) {
                break;
            }
            batch.frames[at % BURST] = Sorted::new(position, 0);
            at += 1;
        }
        std::mem::replace(&mut batch.len, at).abs_diff(at)
    }

    /// Judges what was taken, and finds the services. What is slow leaves the batch.
    #[inline(never)]
    pub fn judge(&mut self, level: Level, ports: Ports) -> Judged {
        let len = self.batch.len.min(BURST);
        if len == 0 {
            return Judged { begins: 0, slow: 0 };
        }
        let begins = level.run(Judge { headers: &mut self.headers, len, blocks: &mut self.batch.blocks });
        // Without the headers of bursts before.
        let begins = begins & u64::MAX >> (u64::BITS as usize - len);
        let begins = Bits(begins).fold(0, |begins, at| begins | 1 << self.batch.frames[at].position());
        let mut out = u64::MAX >> (u64::BITS as usize - len);
        self.headers.services(level, len, ports, |at, service| {
            let frame = &mut self.batch.frames[at];
            *frame = Sorted::new(frame.position(), service);
            out &= !(1 << at);
        });
        let slow = if out == 0 { 0 } else { self.batch.remove(out) };
        Judged { begins, slow }
    }
}

struct Judge<'a, V, const B: usize> {
    headers: &'a mut V,
    len: usize,
    blocks: &'a mut [Row; B],
}

impl<V: Version<B>, const B: usize> Loop for Judge<'_, V, B> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self) -> u64 {
        // Whole vectors: behind the last header lie those of bursts before.
        self.headers.judge(self.len.next_multiple_of(VECTOR).min(BURST), self.blocks)
    }
}

/// The headers of one IP version, a row for each word of them.
pub trait Version<const B: usize> {
    /// Copies the header at `L3` of a frame; it becomes the one `at`. `false`: it is cut off.
    fn copy<const L3: usize>(&mut self, at: usize, head: &Head, frame: &[u8], blocks: &mut [Row; B]) -> bool;

    /// Judges `len` headers, completes the hash inputs, and returns, a bit each, which begin a TCP connection.
    fn judge(&mut self, len: usize, blocks: &mut [Row; B]) -> u64;

    /// Tells `found` of the services of the first `len` headers: of those that were judged plain, are to a cluster address or a prefix,
    /// and whose service selects by maglev over the source.
    fn services(&self, level: Level, len: usize, ports: Ports, found: impl FnMut(usize, ServiceId));
}

/// IPv4 headers, in little-endian words. The batch's block is at first TTL, protocol, .., source.
pub struct HeadersV4 {
    /// Version and header length, .., total length, .., flags and fragment offset.
    first: Row,
    /// Destination, source port, destination port. Judged: `table::port_key_v4`, or 0, which no service has.
    key: Row,
    transports: Transports,
    /// Bytes of the frame from the header on.
    room: HalfRow,
}

impl Default for HeadersV4 {
    fn default() -> HeadersV4 {
        HeadersV4 { first: [0; BURST], key: [0; BURST], transports: Transports::default(), room: [0; BURST] }
    }
}

impl Version<{ hash::SOURCE_V4 }> for HeadersV4 {
    #[inline(always)]
    fn copy<const L3: usize>(&mut self, at: usize, head: &Head, frame: &[u8], [second]: &mut [Row; 1]) -> bool {
        self.first[at] = word(head, L3);
        second[at] = word(head, L3 + 8);
        self.key[at] = word(head, L3 + 16);
        self.transports.udp[at] = half(head, L3 + 24);
        self.transports.tcp[at] = half(head, L3 + 32);
        self.room[at] = (frame.len() - L3) as u32;
        true
    }

    #[inline(always)]
    fn judge(&mut self, len: usize, [second]: &mut [Row; 1]) -> u64 {
        let HeadersV4 { first, key, transports, room } = self;
        let mut begins = 0;
        for at in 0..len {
            let total = be16((first[at] >> 16) as u32);
            let protocol = (second[at] >> 8) as u32 & 0xff;
            // Of the flags and the offset, "don't fragment" may be set.
            let plain = (first[at] & 0xff3f_0000_0000_00ff == 0x45)
                & (total <= room[at])
                & (second[at] & 0xff != 0)
                & transports.is_whole(at, protocol, ipv4::HEADER_LEN as u32, total);
            let port_key = key[at] & 0xffff_0000_ffff_ffff | (protocol as u64) << 32;
            key[at] = if plain { port_key } else { 0 };
            let client = (second[at] >> 32) as u32;
            [second[at]] = hash::source_v4(client.to_le_bytes());
            begins |= ((plain & transports.begins(at, protocol)) as u64) << at;
        }
        begins
    }

    #[inline(always)]
    fn services(&self, level: Level, len: usize, ports: Ports, mut found: impl FnMut(usize, ServiceId)) {
        let keys = self.key[..len].iter().copied().enumerate();
        match ports.prefixes {
            None => keys.for_each(|(at, key)| ports.plain_v4(key).into_iter().for_each(|service| found(at, service))),
            Some(directory) => directory.plain_v4(level, keys, found),
        }
    }
}

/// As `HeadersV4`.
pub struct HeadersV6 {
    /// Version, .., payload length, next header, hop limit.
    first: Row,
    destination: [Row; 2],
    /// Source port, destination port. Judged: `table::port_key`, or 0.
    key: HalfRow,
    transports: Transports,
    room: HalfRow,
}

impl Default for HeadersV6 {
    fn default() -> HeadersV6 {
        let (first, destination, transports) = ([0; BURST], [[0; BURST]; 2], Transports::default());
        HeadersV6 { first, destination, key: [0; BURST], transports, room: [0; BURST] }
    }
}

impl Version<{ hash::SOURCE_V6 }> for HeadersV6 {
    /// A TCP header's data offset lies beyond `HEAD_LEN`, where a UDP frame may end.
    #[inline(always)]
    fn copy<const L3: usize>(&mut self, at: usize, head: &Head, frame: &[u8], blocks: &mut [Row; 3]) -> bool {
        let upper = |from: usize| frame.get(L3 + ipv6::HEADER_LEN + from..)?.first_chunk();
        let Some(udp) = upper(0) else { return false };
        let udp = u64::from_le_bytes(*udp);
        self.first[at] = word(head, L3);
        [blocks[0][at], blocks[1][at]] = [8, 16].map(|from| word(head, L3 + from));
        [self.destination[0][at], self.destination[1][at]] = [24, 32].map(|from| word(head, L3 + from));
        self.key[at] = udp as u32;
        self.transports.udp[at] = (udp >> 32) as u32;
        self.transports.tcp[at] = upper(8).map_or(0, |tcp| (u64::from_le_bytes(*tcp) >> 32) as u32);
        self.room[at] = (frame.len() - L3) as u32;
        true
    }

    #[inline(always)]
    fn judge(&mut self, len: usize, [_, _, last]: &mut [Row; 3]) -> u64 {
        let HeadersV6 { first, key, transports, room, .. } = self;
        let mut begins = 0;
        for at in 0..len {
            let length = be16((first[at] >> 32) as u32);
            let protocol = (first[at] >> 48) as u32 & 0xff;
            let plain = (first[at] & 0xf0 == 0x60)
                & (length + ipv6::HEADER_LEN as u32 <= room[at])
                & (first[at] >> 56 != 0)
                & transports.is_whole(at, protocol, 0, length);
            let port_key = key[at] & 0xffff_0000 | protocol;
            key[at] = if plain { port_key } else { 0 };
            last[at] = hash::SOURCE_V6_LAST;
            begins |= ((plain & transports.begins(at, protocol)) as u64) << at;
        }
        begins
    }

    #[inline(always)]
    fn services(&self, level: Level, len: usize, ports: Ports, mut found: impl FnMut(usize, ServiceId)) {
        // Under 0 stands the service that has everything.
        let is_plain = |at: &usize| self.key[*at] != 0;
        let keys = (0..len).filter(is_plain).map(|at| (at, self.destination(at), self.key[at]));
        match ports.prefixes {
            None => keys.for_each(|(at, address, port)| {
                ports.plain_v6(address, port).into_iter().for_each(|service| found(at, service));
            }),
            Some(directory) => directory.plain_v6(level, keys, found),
        }
    }
}

impl HeadersV6 {
    /// As a little-endian number.
    #[inline(always)]
    fn destination(&self, at: usize) -> u128 {
        let [low, high] = [self.destination[0][at], self.destination[1][at]];
        low as u128 | (high as u128) << 64
    }
}

/// What the transport headers say of their lengths, and TCP's flags.
struct Transports {
    /// UDP's length, ..
    udp: HalfRow,
    /// TCP's data offset, flags, ..
    tcp: HalfRow,
}

impl Default for Transports {
    fn default() -> Transports {
        Transports { udp: [0; BURST], tcp: [0; BURST] }
    }
}

impl Transports {
    /// Whether the protocol is TCP or UDP and its header is whole: TCP's data offset, or UDP's length, is at least a header's,
    /// and `total` bytes, of which `before` stand before it, hold that much.
    #[inline(always)]
    fn is_whole(&self, at: usize, protocol: u32, before: u32, total: u32) -> bool {
        let is_udp = protocol == UDP;
        let len = if is_udp { be16(self.udp[at]) } else { (self.tcp[at] & 0xf0) >> 2 };
        let least = if is_udp { transport::UDP_HEADER_LEN } else { transport::TCP_HEADER_LEN } as u32;
        (is_udp | (protocol == TCP)) & (len >= least) & (before + len <= total)
    }

    /// Whether it begins a TCP connection.
    #[inline(always)]
    fn begins(&self, at: usize, protocol: u32) -> bool {
        (protocol == TCP) & is_syn((self.tcp[at] >> 8) as u8)
    }
}
