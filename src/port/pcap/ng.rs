//! pcapng, see draft-ietf-opsawg-pcapng: blocks, those that hold a frame, and their timestamps.

use super::Frame;
use super::input::Input;
use super::read::{Stop, check_lengths};
use crate::limits::MAX_CAPTURE_BLOCK;
use pcap_file::pcapng::PcapNgParser;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::{ENHANCED_PACKET_BLOCK, PACKET_BLOCK, SECTION_HEADER_BLOCK, SIMPLE_PACKET_BLOCK};
use pcap_file::{DataLink, Endianness};

/// The first bytes of a pcapng: the type of its first block, the same in both byte orders.
pub const MAGIC: [u8; 4] = SECTION_HEADER_BLOCK.to_be_bytes();

/// Bytes of the smallest block: type, length, and the length again.
const MIN_BLOCK: usize = 12;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// What a block says of a frame.
struct Packet<'a> {
    interface: u32,
    /// In units of the interface since 1970.
    ticks: u64,
    original: u32,
    bytes: &'a [u8],
}

/// Reads the header of the first section.
pub fn open(input: &mut Input) -> Result<PcapNgParser, Stop> {
    let length = whole_block(input, Endianness::Little)?.ok_or(Stop::Cut)?;
    let block = &input.ahead(length)?[..length];
    let (_, parser) = PcapNgParser::new(block).map_err(|e| Stop::Corrupt(e.to_string()))?;
    input.consume(length);
    Ok(parser)
}

/// Reads blocks until one holds a frame. `false` at the end of the file.
pub fn next_packet(input: &mut Input, parser: &mut PcapNgParser, frame: &mut Frame) -> Result<bool, Stop> {
    while let Some(length) = whole_block(input, parser.section().endianness)? {
        let block = &input.ahead(length)?[..length];
        let (_, block) = parser.next_raw_block(block).map_err(|e| Stop::Corrupt(e.to_string()))?;
        let order = parser.section().endianness;
        let is_packet = match block.type_ {
            ENHANCED_PACKET_BLOCK | PACKET_BLOCK => {
                take(enhanced(&block.body, block.type_, order)?, parser, frame)?;
                true
            }
            SIMPLE_PACKET_BLOCK => {
                take(simple(&block.body, parser, order)?, parser, frame)?;
                true
            }
            _ => false,
        };
        input.consume(length);
        if is_packet {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The length of the next block, all of which is there; `None` at the end of the file.
fn whole_block(input: &mut Input, order: Endianness) -> Result<Option<usize>, Stop> {
    let head = input.ahead(MIN_BLOCK)?;
    if head.is_empty() {
        return Ok(None);
    }
    let order = match head.get(..MIN_BLOCK).ok_or(Stop::Cut)? {
        // A section says its own byte order.
        [0x0a, 0x0d, 0x0d, 0x0a, .., 0x1a, 0x2b, 0x3c, 0x4d] => Endianness::Big,
        [0x0a, 0x0d, 0x0d, 0x0a, .., 0x4d, 0x3c, 0x2b, 0x1a] => Endianness::Little,
        _ => order,
    };
    let length = word(head, 4, order).ok_or(Stop::Cut)? as usize;
    if !(MIN_BLOCK..=MAX_CAPTURE_BLOCK).contains(&length) {
        return Err(Stop::Corrupt(format!("a block has a length of {length} bytes")));
    }
    if input.ahead(length)?.len() < length { Err(Stop::Cut) } else { Ok(Some(length)) }
}

/// An Enhanced Packet Block, or the obsolete Packet Block, which has 16 bits of interface and 16 bits of drops instead.
fn enhanced(body: &[u8], kind: u32, order: Endianness) -> Result<Packet<'_>, Stop> {
    let field = |at| word(body, at, order).ok_or_else(|| too_short(body));
    let interface = match (kind, order, field(0)?) {
        (ENHANCED_PACKET_BLOCK, _, interface) => interface,
        (_, Endianness::Little, word) => word & 0xffff,
        (_, Endianness::Big, word) => word >> 16,
    };
    let ticks = u64::from(field(4)?) << 32 | u64::from(field(8)?);
    let (captured, original) = (field(12)? as usize, field(16)?);
    check_lengths(captured, original)?;
    let bytes = body.get(20..20 + captured).ok_or_else(|| too_short(body))?;
    Ok(Packet { interface, ticks, original, bytes })
}

/// A Simple Packet Block: of the first interface, without timestamp, and cut at the interface's snap length.
fn simple<'a>(body: &'a [u8], parser: &PcapNgParser, order: Endianness) -> Result<Packet<'a>, Stop> {
    let original = word(body, 0, order).ok_or_else(|| too_short(body))?;
    let limit = parser.interfaces().first().map(|interface| interface.snaplen).filter(|limit| *limit != 0);
    let captured = original.min(limit.unwrap_or(u32::MAX)) as usize;
    check_lengths(captured, original)?;
    let bytes = body.get(4..4 + captured).ok_or_else(|| too_short(body))?;
    Ok(Packet { interface: 0, ticks: 0, original, bytes })
}

fn too_short(body: &[u8]) -> Stop {
    Stop::Corrupt(format!("its block of {} bytes is too short for it", body.len()))
}

/// Copies a packet to the frame.
fn take(packet: Packet, parser: &PcapNgParser, frame: &mut Frame) -> Result<(), Stop> {
    let Some(interface) = parser.interfaces().get(packet.interface as usize) else {
        return Err(Stop::Corrupt(format!("it comes from interface {}, which is not described", packet.interface)));
    };
    if interface.linktype != DataLink::ETHERNET {
        return Err(Stop::LinkType(interface.linktype, Some(packet.interface)));
    }
    let Some((seconds, nanos)) = timestamp(packet.ticks, interface) else {
        return Err(Stop::Corrupt(
            "its timestamp is outside of 1970 to 2106, which is all that a pcap can hold".to_owned(),
        ));
    };
    frame.bytes.clear();
    frame.bytes.extend_from_slice(packet.bytes);
    (frame.seconds, frame.fraction, frame.original) = (seconds, nanos, packet.original);
    Ok(())
}

/// Seconds since 1970 and nanoseconds, of a timestamp in the interface's unit. What is finer than a nanosecond is cut.
fn timestamp(ticks: u64, interface: &InterfaceDescriptionBlock) -> Option<(u32, u32)> {
    let (mut resolution, mut offset) = (6, 0);
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(value) => resolution = *value,
            // Signed in the draft, unsigned in the crate.
            InterfaceDescriptionOption::IfTsOffset(value) => offset = i128::from(*value as i64),
            _ => {}
        }
    }
    let (ticks, exponent) = (u128::from(ticks), u32::from(resolution & 0x7f));
    let per_second = if resolution & 0x80 == 0 { 10u128.checked_pow(exponent) } else { 1u128.checked_shl(exponent) };
    // A unit too small to be counted: 2^64 of them are no nanosecond.
    let Some(per_second) = per_second else { return Some((u32::try_from(offset).ok()?, 0)) };
    let seconds = i128::try_from(ticks / per_second).ok()? + offset;
    let nanos = ticks % per_second * NANOS_PER_SECOND / per_second;
    Some((u32::try_from(seconds).ok()?, nanos as u32))
}

/// The 32 bits at a position.
pub fn word(bytes: &[u8], at: usize, order: Endianness) -> Option<u32> {
    let word = *bytes.get(at..)?.first_chunk()?;
    Some(if order.is_big() { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
}
