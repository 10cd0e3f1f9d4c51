//! Frames into a pcap file, which appears all at once or not at all.

use super::{CaptureError, Frame, Output};
use crate::limits::MAX_CAPTURED;
use pcap_file::pcap::{PcapHeader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use std::borrow::Cow;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

pub struct Writer {
    file: PathBuf,
    pcap: PcapWriter<BufWriter<Output>>,
}

impl Writer {
    pub fn create(file: &Path, resolution: TsResolution) -> Result<Writer, CaptureError> {
        let header = PcapHeader {
            snaplen: MAX_CAPTURED as u32,
            datalink: DataLink::ETHERNET,
            ts_resolution: resolution,
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        let pcap = Output::open(file)
            .map_err(PcapError::IoError)
            .and_then(|output| PcapWriter::with_header(BufWriter::with_capacity(1 << 20, output), header))
            .map_err(|error| failed(file, error))?;
        Ok(Writer { file: file.to_owned(), pcap })
    }

    pub fn write(&mut self, frame: &Frame) -> Result<(), CaptureError> {
        let packet = RawPcapPacket {
            ts_sec: frame.seconds,
            ts_frac: frame.fraction,
            incl_len: frame.bytes.len() as u32,
            orig_len: frame.original,
            data: Cow::Borrowed(&frame.bytes),
        };
        self.pcap.write_raw_packet(&packet).map(drop).map_err(|error| failed(&self.file, error))
    }

    pub fn finish(self) -> Result<(), CaptureError> {
        let output = self.pcap.into_writer().into_inner().map_err(|e| e.into_error());
        output.and_then(Output::finish).map_err(|source| CaptureError::Write { file: self.file, source })
    }
}

fn failed(file: &Path, error: PcapError) -> CaptureError {
    let source = match error {
        PcapError::IoError(source) => source,
        other => io::Error::other(other),
    };
    CaptureError::Write { file: file.to_owned(), source }
}
