//! Frames into a pcap file, which appears all at once or not at all.

use super::{CaptureError, Frame};
use crate::limits::MAX_CAPTURED;
use pcap_file::pcap::{PcapHeader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

pub struct Writer {
    file: PathBuf,
    pcap: PcapWriter<BufWriter<Sink>>,
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
        let pcap = Sink::open(file)
            .map_err(PcapError::IoError)
            .and_then(|sink| PcapWriter::with_header(BufWriter::with_capacity(1 << 20, sink), header))
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
        let sink = self.pcap.into_writer().into_inner().map_err(|e| e.into_error());
        sink.and_then(Sink::finish).map_err(|source| CaptureError::Write { file: self.file, source })
    }
}

fn failed(file: &Path, error: PcapError) -> CaptureError {
    let source = match error {
        PcapError::IoError(source) => source,
        other => io::Error::other(other),
    };
    CaptureError::Write { file: file.to_owned(), source }
}

enum Sink {
    /// A file beside its destination, which it replaces in the end.
    Beside(NamedTempFile, PathBuf),
    /// A pipe or device, which cannot be replaced and has no content to be kept.
    Straight(File),
}

impl Sink {
    fn open(file: &Path) -> io::Result<Sink> {
        // The process's umask is taken off the permissions of a new file.
        let (destination, permissions) = match fs::metadata(file) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => {
                return Ok(Sink::Straight(OpenOptions::new().write(true).open(file)?));
            }
            Ok(metadata) => (fs::canonicalize(file)?, metadata.permissions()),
            Err(_) => (file.to_owned(), Permissions::from_mode(0o666)),
        };
        let directory = match destination.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let temporary = tempfile::Builder::new().permissions(permissions).tempfile_in(directory);
        // The error's text names the temporary file, which the user does not know.
        Ok(Sink::Beside(temporary.map_err(|e| e.kind())?, destination))
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Sink::Beside(temporary, destination) => temporary.persist(destination).map(drop).map_err(|e| e.error),
            Sink::Straight(_) => Ok(()),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Beside(file, _) => file.write(bytes),
            Sink::Straight(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Beside(file, _) => file.flush(),
            Sink::Straight(file) => file.flush(),
        }
    }
}
