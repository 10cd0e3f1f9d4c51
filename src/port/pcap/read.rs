//! Frames out of a pcap or pcapng file, one after the other.

use super::input::Input;
use super::{CaptureError, Frame, ng};
use crate::limits::MAX_CAPTURED;
use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::PcapNgParser;
use pcap_file::{DataLink, TsResolution};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The first bytes of a pcap: microseconds and nanoseconds, each in both byte orders.
const PCAP_MAGICS: [[u8; 4]; 4] =
    [[0xa1, 0xb2, 0xc3, 0xd4], [0xd4, 0xc3, 0xb2, 0xa1], [0xa1, 0xb2, 0x3c, 0x4d], [0x4d, 0x3c, 0xb2, 0xa1]];

/// Bytes of a pcap's header.
const PCAP_HEADER: usize = 24;

/// Bytes of the header of a pcap's record.
const RECORD_HEADER: usize = 16;

pub struct Reader {
    file: PathBuf,
    input: Input,
    format: Format,
    /// Frames read so far.
    frames: u64,
}

enum Format {
    Pcap(PcapParser),
    PcapNg(PcapNgParser),
}

/// Why there is no next frame.
pub enum Stop {
    Io(io::Error),
    /// The file ends in the middle.
    Cut,
    Corrupt(String),
    /// Not Ethernet: the capture as a whole, or the interface of that number.
    LinkType(DataLink, Option<u32>),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl Reader {
    /// Whether a file that begins so is a capture.
    pub fn knows(head: &[u8]) -> bool {
        head.first_chunk().is_some_and(|magic| *magic == ng::MAGIC || PCAP_MAGICS.contains(magic))
    }

    pub fn open(file: &Path) -> Result<Reader, CaptureError> {
        let opened = File::open(file).map_err(|source| CaptureError::Open { file: file.to_owned(), source })?;
        Reader::new(file, opened)
    }

    /// Of what is open already; `file` is its name in messages.
    pub fn new(file: &Path, source: impl Read + Send + 'static) -> Result<Reader, CaptureError> {
        let mut input = Input::new(source);
        let magic = match input.ahead(PCAP_HEADER) {
            Ok([]) => return Err(CaptureError::Empty { file: file.to_owned() }),
            Ok(head) => head[..head.len().min(4)].to_vec(),
            Err(error) => return Err(Stop::Io(error).into_error(file, None, 0)),
        };
        let format = if magic == ng::MAGIC {
            ng::open(&mut input).map(Format::PcapNg)
        } else if PCAP_MAGICS.iter().any(|known| magic == *known) {
            open_pcap(&mut input).map(Format::Pcap)
        } else {
            return Err(not_a_capture(file, &magic));
        };
        match format {
            Ok(format) => Ok(Reader { file: file.to_owned(), input, format, frames: 0 }),
            Err(stop) => Err(stop.into_error(file, None, 0)),
        }
    }

    /// When a frame was captured, in nanoseconds since 1970.
    pub fn time(&self, frame: &Frame) -> u64 {
        let unit = match self.resolution() {
            TsResolution::MicroSecond => 1000,
            TsResolution::NanoSecond => 1,
        };
        u64::from(frame.seconds) * 1_000_000_000 + u64::from(frame.fraction) * unit
    }

    /// The unit of a frame's `fraction`.
    pub fn resolution(&self) -> TsResolution {
        match &self.format {
            Format::Pcap(parser) => parser.header().ts_resolution,
            Format::PcapNg(_) => TsResolution::NanoSecond,
        }
    }

    /// Reads the next frame into `frame`, whose buffer is used again. `false` at the end of the capture.
    pub fn next(&mut self, frame: &mut Frame) -> Result<bool, CaptureError> {
        let found = match &mut self.format {
            Format::Pcap(parser) => next_record(&mut self.input, parser, frame),
            Format::PcapNg(parser) => ng::next_packet(&mut self.input, parser, frame),
        };
        match found {
            Ok(found) => {
                self.frames += u64::from(found);
                Ok(found)
            }
            Err(stop) => Err(stop.into_error(&self.file, Some(self.frames + 1), self.input.offset())),
        }
    }
}

impl Stop {
    /// `frame` is the one that could not be read, `None` for the capture's header; `offset` is where it begins.
    fn into_error(self, file: &Path, frame: Option<u64>, offset: u64) -> CaptureError {
        let file = file.to_owned();
        let place = frame.map_or("the capture's header".to_owned(), |frame| format!("frame {frame}"));
        match self {
            Stop::Io(source) => CaptureError::Read { file, place, source },
            Stop::Cut => CaptureError::Cut { file, place, offset },
            Stop::Corrupt(what) => CaptureError::Corrupt { file, place, offset, what },
            Stop::LinkType(link, interface) => {
                let what = match interface {
                    Some(interface) => format!("{place} comes from interface {interface}, which is"),
                    None => "it is a capture".to_owned(),
                };
                CaptureError::LinkType { file, what, name: format!("{link:?}"), number: link.into() }
            }
        }
    }
}

fn not_a_capture(file: &Path, magic: &[u8]) -> CaptureError {
    let advice = match magic {
        [0x1f, 0x8b, ..] => "it is compressed, unpack it first with `gunzip`",
        [0x28, 0xb5, 0x2f, 0xfd] => "it is compressed, unpack it first with `unzstd`",
        _ => "pass a pcap or pcapng file, as `tcpdump -w` writes it",
    };
    let magic = magic.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    CaptureError::NotACapture { file: file.to_owned(), magic, advice }
}

fn open_pcap(input: &mut Input) -> Result<PcapParser, Stop> {
    let head = input.ahead(PCAP_HEADER)?.get(..PCAP_HEADER).ok_or(Stop::Cut)?;
    let (_, parser) = PcapParser::new(head).map_err(|e| Stop::Corrupt(e.to_string()))?;
    // The upper bits tell the length of the frame check sequence, see draft-ietf-opsawg-pcap.
    let link = DataLink::from(u32::from(parser.header().datalink) & 0xffff);
    if link != DataLink::ETHERNET {
        return Err(Stop::LinkType(link, None));
    }
    input.consume(PCAP_HEADER);
    Ok(parser)
}

fn next_record(input: &mut Input, parser: &PcapParser, frame: &mut Frame) -> Result<bool, Stop> {
    let ahead = input.ahead(RECORD_HEADER)?;
    if ahead.is_empty() {
        return Ok(false);
    }
    let order = parser.header().endianness;
    let captured = ng::word(ahead, 8, order).ok_or(Stop::Cut)? as usize;
    let original = ng::word(ahead, 12, order).ok_or(Stop::Cut)?;
    check_lengths(captured, original)?;
    let length = RECORD_HEADER + captured;
    let record = input.ahead(length)?.get(..length).ok_or(Stop::Cut)?;
    let (_, packet) = parser.next_raw_packet(record).map_err(|e| Stop::Corrupt(e.to_string()))?;
    frame.bytes.clear();
    frame.bytes.extend_from_slice(&packet.data);
    (frame.seconds, frame.fraction, frame.original) = (packet.ts_sec, packet.ts_frac, packet.orig_len);
    input.consume(length);
    Ok(true)
}

/// A frame's lengths in bytes: as captured, and on the wire.
pub fn check_lengths(captured: usize, original: u32) -> Result<(), Stop> {
    if captured > MAX_CAPTURED {
        return Err(Stop::Corrupt(format!(
            "its length is {captured} bytes, and no capture has more than {MAX_CAPTURED}"
        )));
    }
    if captured > original as usize {
        return Err(Stop::Corrupt(format!("{captured} bytes are captured of {original} on the wire")));
    }
    Ok(())
}
