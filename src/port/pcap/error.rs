//! What can be wrong with a capture file.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a capture cannot be read or written. Frames count from 1, bytes from 0.
#[derive(Debug, Error)]
pub enum CaptureError {
    #[error("{}: cannot be opened: {source}; check the path and its permissions", file.display())]
    Open { file: PathBuf, source: io::Error },

    #[error("{}: cannot be read at {place}: {source}", file.display())]
    Read { file: PathBuf, place: String, source: io::Error },

    #[error("{}: the file is empty, without even a capture's header; capture again with `tcpdump -w`", file.display())]
    Empty { file: PathBuf },

    #[error("{}: not a capture, it begins with the bytes {magic}; {advice}", file.display())]
    NotACapture { file: PathBuf, magic: String, advice: &'static str },

    #[error(
        "{}: {what} of link type {name} ({number}), not Ethernet (1); capture on an Ethernet interface, such as \
         `tcpdump -i eth1 -w FILE`, not on `any` or a tunnel",
        file.display()
    )]
    LinkType { file: PathBuf, what: String, number: u32, name: String },

    #[error("{}: cut off in the middle of {place}, which begins at byte {offset}; capture or copy it again", file.display())]
    Cut { file: PathBuf, place: String, offset: u64 },

    #[error("{}: {place} at byte {offset} is corrupt: {what}; capture or copy it again", file.display())]
    Corrupt { file: PathBuf, place: String, offset: u64, what: String },

    #[error("{}: cannot be written: {source}; check that its directory exists, is writable and has space", file.display())]
    Write { file: PathBuf, source: io::Error },
}
