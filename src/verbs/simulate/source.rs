//! What the clients are read from, and what it is by its first bytes.

use crate::error::Failure;
use crate::port::pcap::Reader;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

/// The first bytes of compressed files, and what unpacks them.
const COMPRESSED: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "zcat"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstdcat"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xzcat"),
    (b"BZh", "bzcat"),
];

const HEAD: u64 = 8;

pub struct Source {
    /// For messages.
    pub name: PathBuf,
    pub is_capture: bool,
    pub bytes: Box<dyn Read + Send>,
}

/// Opens a file, or standard input as `-`.
///
/// # Errors
/// It cannot be read, or is compressed.
pub fn open(file: &Path) -> Result<Source, Failure> {
    let (name, mut bytes): (PathBuf, Box<dyn Read + Send>) = match file.as_os_str() == "-" {
        true => ("standard input".into(), Box::new(io::stdin())),
        false => {
            let opened = File::open(file).map_err(|error| format!("{}: cannot be opened: {error}", file.display()))?;
            (file.to_owned(), Box::new(opened))
        }
    };
    let mut head = Vec::new();
    bytes.by_ref().take(HEAD).read_to_end(&mut head).map_err(|error| unreadable(&name, &error))?;
    if let Some((_, unpack)) = COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        let shown = name.display();
        return Err(
            format!("{shown}: it is compressed; unpack it: {unpack} FILE | oneip simulate --clients - ...").into()
        );
    }
    Ok(Source { is_capture: Reader::knows(&head), name, bytes: Box::new(Cursor::new(head).chain(bytes)) })
}

pub fn unreadable(name: &Path, error: &io::Error) -> Failure {
    format!("{}: cannot be read: {error}", name.display()).into()
}
