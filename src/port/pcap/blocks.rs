//! Writes frames as a pcapng that is read while it grows, piece by piece: draft-ietf-opsawg-pcapng.

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness};
use std::borrow::Cow;
use std::time::Duration;

/// Nanoseconds: 10 to the power of minus this.
const RESOLUTION: u8 = 9;

/// Bits of `epb_flags`: the direction.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A pcapng of one Ethernet interface, in the making.
pub struct Blocks {
    writer: PcapNgWriter<Vec<u8>>,
    frames: u64,
}

/// A frame, and what is said of it.
pub struct Packet<'a> {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Length on the wire in bytes; `bytes` may be fewer.
    pub original: u32,
    pub bytes: &'a [u8],
    pub is_sent: bool,
    pub comment: String,
}

impl Blocks {
    /// Begins with the head. `snap`: most bytes of a frame that are kept.
    pub fn new(interface: &str, snap: u32) -> Blocks {
        let application = format!("oneip {}", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication(Cow::Owned(application))],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(Vec::new(), section).expect("memory takes everything");
        let mut blocks = Blocks { writer, frames: 0 };
        let name = InterfaceDescriptionOption::IfName(Cow::Owned(interface.to_owned()));
        let options = vec![name, InterfaceDescriptionOption::IfTsResol(RESOLUTION)];
        blocks.write(InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: snap, options });
        blocks
    }

    /// Frames since the beginning.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    pub fn add(&mut self, packet: Packet) {
        let Packet { at, original, bytes, is_sent, comment } = packet;
        let direction = if is_sent { OUTBOUND } else { INBOUND };
        self.frames += 1;
        self.write(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(at),
            original_len: original,
            data: Cow::Borrowed(bytes),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment)), EnhancedPacketOption::Flags(direction)],
        });
    }

    /// Says how many frames there are, and how many were lost, since the beginning. The latest of these counts.
    pub fn tell(&mut self, at: u64, lost: u64) {
        let options =
            vec![InterfaceStatisticsOption::IsbIfRecv(self.frames + lost), InterfaceStatisticsOption::IsbIfDrop(lost)];
        // The upper half of a time comes first, whatever the byte order.
        self.write(InterfaceStatisticsBlock { interface_id: 0, timestamp: at.rotate_left(32), options });
    }

    /// What was written since this was called last: whole blocks.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }

    fn write<'a>(&mut self, block: impl PcapNgBlock<'a>) {
        self.writer.write_pcapng_block(block).expect("memory takes everything, and the interface was described");
    }
}
