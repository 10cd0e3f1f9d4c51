//! What becomes of a packet that does not go to its server as it is: it gets headers (`wire::tunnel`), in fragments where it must, another
//! address (`wire::readdress`), or other VLAN tags (`wire::ethernet::Link`). One that is too large is answered (`wire::too_big`).
//!
//! The frames are the caller's: here is said how long they must be, and written what is in them.

use crate::hash;
use crate::limits::{MAX_FRAME, TOO_BIG_ANSWERS, TOO_BIG_WINDOW};
use crate::model::Tags;
use crate::table::{Leaving, PackedMac, PackedNextHop, Table, Way};
use crate::wire::ethernet::{self, Ethernet, HEADER_LEN, Link};
use crate::wire::readdress::Readdress;
use crate::wire::too_big::{self, IPV6_MIN_MTU};
use crate::wire::tunnel::{Inner, Pieces, Template};
use crate::wire::{array, be16, ipv4, ipv6};

/// What becomes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes in one frame.
    Fits,
    /// It goes in so many.
    Fragments(usize),
    TooBig,
}

/// Where the packet begins in a frame that is forwarded, and what it says of itself: read once.
#[derive(Clone, Copy, Default)]
pub struct Packet {
    l2: usize,
    inner: Inner,
}

impl Packet {
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Packet {
        let l2 = l2(frame);
        Packet { l2, inner: Inner::read(&frame[l2..]) }
    }
}

/// A frame that goes into its tunnel as most do: untagged, in one piece, so that its header stays but for the addresses and what it says of its
/// payload.
pub struct Plain<'t> {
    template: &'t Template,
    inner: Inner,
    /// The address that it came for.
    own: PackedMac,
}

impl<'t> Plain<'t> {
    /// `None`: it needs more than that, or none of it.
    #[inline(always)]
    pub fn new(frame: &[u8], table: &'t Table, destination: u32) -> Option<Plain<'t>> {
        let Some(Leaving { way: Way::Tunnel(template), tags: Tags::AsReceived }) = table.leaving(destination) else {
            return None;
        };
        let head: &[u8; HEADER_LEN + ipv4::HEADER_LEN] = frame.first_chunk()?;
        if !matches!(be16(head, HEADER_LEN - 2), ethernet::IPV4 | ethernet::IPV6) {
            return None;
        }
        let inner = Inner::read(&head[HEADER_LEN..]);
        let own = PackedMac::from_low_word(u64::from_le_bytes(*head.first_chunk().expect("8 of 34")));
        (template.header_len() + inner.len <= table.tunnel_mtu()).then_some(Plain { template, inner, own })
    }

    /// How many bytes longer it is to be in front.
    #[inline(always)]
    pub fn more(&self) -> usize {
        self.template.header_len()
    }

    /// How long it is then, without its padding.
    #[inline(always)]
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.more() + self.inner.len
    }

    /// Makes a frame ready that is so long.
    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], table: &Table, next_hop: PackedNextHop) {
        let (link, packet) = frame.split_first_chunk_mut::<HEADER_LEN>().expect("it is longer than it was");
        super::rewrite::write_macs(link, next_hop, self.own, table);
        [link[HEADER_LEN - 2], link[HEADER_LEN - 1]] = self.template.ethertype();
        if self.template.is_v4() && !self.template.has_port() && self.inner.dont_fragment {
            self.template.write_v4(packet, &self.inner, None);
        } else {
            write_headers(packet, self.template, &self.inner, table);
        }
    }
}

/// A packet that gets another address: the frame stays as long as it is, with the tags that it has.
pub struct Readdressed<'t>(&'t Readdress);

impl<'t> Readdressed<'t> {
    /// `None`: it needs something else.
    #[inline(always)]
    pub fn new(table: &'t Table, destination: u32) -> Option<Readdressed<'t>> {
        match table.leaving(destination) {
            Some(Leaving { way: Way::Readdressed(readdress), tags: Tags::AsReceived }) => Some(Readdressed(readdress)),
            _ => None,
        }
    }

    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], table: &Table, next_hop: PackedNextHop) {
        let at = l2(frame);
        self.0.apply(&mut frame[at..]);
        super::rewrite::leave(frame, next_hop, table);
    }
}

/// Bytes of a frame's header, tags included.
#[inline(always)]
fn l2(frame: &[u8]) -> usize {
    let header: &[u8; HEADER_LEN] = frame.first_chunk().expect("a frame that is forwarded has a header");
    match be16(header, HEADER_LEN - 2) {
        ethernet::IPV4 | ethernet::IPV6 => HEADER_LEN,
        _ => frame.len() - Ethernet::new(frame).expect("it has a header").payload().1.len(),
    }
}

#[inline(always)]
fn write_headers(packet: &mut [u8], template: &Template, inner: &Inner, table: &Table) {
    let port = if template.has_port() { port(table, &packet[template.header_len()..]) } else { 0 };
    template.write(packet, inner, identification(template, inner, table), port);
}

/// Of a frame that is forwarded to that destination.
#[inline(always)]
pub fn fate(packet: &Packet, table: &Table, destination: u32) -> Fate {
    let Way::Tunnel(template) = table.way(destination) else { return Fate::Fits };
    let inner = &packet.inner;
    let mtu = table.tunnel_mtu();
    let total = template.header_len() + inner.len;
    if total <= mtu {
        return Fate::Fits;
    }
    // RFC 2003, section 3.1, and RFC 2473, section 7: what nobody may fragment is its sender's to make smaller. IPv6 has a size that
    // everything must carry.
    if inner.dont_fragment && (inner.is_v4 || inner.len > IPV6_MIN_MTU) {
        return Fate::TooBig;
    }
    Fate::Fragments(pieces(template, total, mtu).count())
}

fn pieces(template: &Template, total: usize, mtu: usize) -> Pieces {
    Pieces::new(template.is_v4(), total, mtu)
}

/// What a frame is made into before its bytes are written: it begins `front` bytes earlier, and has `len` bytes.
pub struct Room {
    pub front: isize,
    pub len: usize,
    link: Link,
}

/// Of a frame that fits. Without the padding: a buffer has room for the longest frame, and no more.
#[inline]
pub fn room(frame: &[u8], packet: &Packet, table: &Table, destination: u32) -> Room {
    let Packet { l2, inner } = packet;
    let l2 = *l2;
    let mut link = Link::new(frame, l2, table.tags(destination));
    let (keep, added) = match table.way(destination) {
        Way::Tunnel(template) => {
            link.set_ethertype(template.ethertype());
            (l2 + inner.len, template.header_len())
        }
        Way::Direct | Way::Readdressed(_) | Way::Closed => (frame.len(), 0),
    };
    let front = (link.bytes().len() + added) as isize - l2 as isize;
    Room { front, len: keep.strict_add_signed(front), link }
}

/// The source port by which servers spread tunnels over their queues: of the client's hash, so that it is the same for all fragments of a
/// packet, from the dynamic ports (draft-ietf-intarea-gue, section 5.11; RFC 6335, section 6).
fn port(table: &Table, packet: &[u8]) -> u16 {
    let hash = if packet[0] >> 4 == 4 {
        hash::siphash::blocks(table.key, hash::source_v4(array(packet, 12)))
    } else {
        hash::siphash::blocks(table.key, hash::source_v6(array(packet, 8)))
    };
    hash as u16 | 0xc000
}

/// The identification of an IPv4 packet that may be fragmented on its way. Where nobody may, it means nothing.
fn identification(template: &Template, inner: &Inner, table: &Table) -> Option<u16> {
    (template.is_v4() && !inner.dont_fragment).then(|| table.next_identification() as u16)
}

/// Sends a frame on that has been made so.
#[inline]
pub fn write(
    frame: &mut [u8],
    room: &Room,
    packet: &Packet,
    table: &Table,
    (destination, next_hop): (u32, PackedNextHop),
) {
    let link = room.link.bytes();
    frame[..link.len()].copy_from_slice(link);
    let rest = &mut frame[link.len()..];
    match table.way(destination) {
        Way::Tunnel(template) => write_headers(rest, template, &packet.inner, table),
        Way::Readdressed(readdress) => readdress.apply(rest),
        Way::Direct | Way::Closed => {}
    }
    super::rewrite::leave(frame, next_hop, table);
}

/// A packet with its headers, to be cut into fragments.
pub struct Whole {
    frame: Box<[u8]>,
    l2: usize,
    len: usize,
    identification: u32,
    pieces: Pieces,
}

/// Room for any frame.
impl Default for Whole {
    fn default() -> Whole {
        let frame = vec![0; MAX_FRAME].into_boxed_slice();
        let pieces = Pieces::new(true, ipv4::HEADER_LEN, ipv6::HEADER_LEN);
        Whole { frame, l2: 0, len: 0, identification: 0, pieces }
    }
}

impl Whole {
    /// Of a frame whose fate that is.
    pub fn fill(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        table: &Table,
        (destination, next_hop): (u32, PackedNextHop),
    ) {
        let Way::Tunnel(template) = table.way(destination) else { unreachable!("only tunnels are fragmented") };
        let Packet { l2, inner } = *packet;
        let mut link = Link::new(frame, l2, table.tags(destination));
        link.set_ethertype(template.ethertype());
        let link = link.bytes();
        self.l2 = link.len();
        self.frame[..self.l2].copy_from_slice(link);
        let total = template.header_len() + inner.len;
        self.len = self.l2 + total;
        self.identification = table.next_identification();
        let packet = &mut self.frame[self.l2..self.len];
        packet[template.header_len()..].copy_from_slice(&frame[l2..l2 + inner.len]);
        let port = if template.has_port() { port(table, &frame[l2..]) } else { 0 };
        template.write(packet, &inner, Some(self.identification as u16), port);
        super::rewrite::leave(&mut self.frame, next_hop, table);
        self.pieces = pieces(template, total, table.tunnel_mtu());
    }

    /// How long the frame of a fragment is.
    pub fn len(&self, at: usize) -> usize {
        self.l2 + self.pieces.len(at)
    }

    /// Writes a fragment into a frame of its length.
    pub fn write(&self, at: usize, frame: &mut [u8]) {
        let (link, packet) = frame.split_at_mut(self.l2);
        link.copy_from_slice(&self.frame[..self.l2]);
        self.pieces.write(at, &self.frame[self.l2..self.len], self.identification, packet);
    }
}

/// What is sent to who sends too large packets: at most `TOO_BIG_ANSWERS` in each `TOO_BIG_WINDOW`.
pub struct Answers {
    window: u64,
    sent: u32,
    /// The last one.
    packet: [u8; too_big::MAX_LEN],
}

impl Default for Answers {
    fn default() -> Answers {
        Answers { window: 0, sent: 0, packet: [0; too_big::MAX_LEN] }
    }
}

impl Answers {
    /// Whether a frame that is too large is answered, and by how long a frame.
    pub fn decide(&mut self, frame: &[u8], table: &Table, destination: u32, now: u64) -> Option<usize> {
        let window = now / TOO_BIG_WINDOW;
        if self.window != window {
            (self.window, self.sent) = (window, 0);
        }
        if self.sent == TOO_BIG_ANSWERS {
            return None;
        }
        let len = self.compose(frame, table, destination)?;
        self.sent += 1;
        Some(len)
    }

    /// Has the answer lie ready for `write`. How long its frame is.
    pub fn compose(&mut self, frame: &[u8], table: &Table, destination: u32) -> Option<usize> {
        let Way::Tunnel(template) = table.way(destination) else { return None };
        let Packet { l2, inner } = Packet::read(frame);
        let fits = template.inner_mtu(table.tunnel_mtu());
        let fits = if inner.is_v4 { fits } else { fits.max(IPV6_MIN_MTU) };
        Some(l2 + too_big::write(&frame[l2..], fits, &mut self.packet)?)
    }

    /// Writes it into the frame that it answers, which has that length now: it goes back where it came from.
    pub fn write(&self, frame: &mut [u8]) {
        let (_, packet) = Ethernet::new(frame).expect("it had a header").payload();
        let (l2, len) = (frame.len() - packet.len(), packet.len());
        let (link, packet) = frame.split_at_mut(l2);
        packet.copy_from_slice(&self.packet[..len]);
        let (to, from) = link.split_at_mut(6);
        to.swap_with_slice(&mut from[..6]);
    }
}
