//! `ctl capture`: writes the pcapng that a running process sends.

use super::client::{Client, Error};
use crate::admin::order::{Capture, Order};
use crate::error::Failure;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

/// Types of blocks, and the option that says how many frames were lost: draft-ietf-opsawg-pcapng.
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const LOST: u16 = 5;

/// Captures into a file, or with `-` to standard output, until it is over, interrupted, or nobody reads.
///
/// # Errors
/// The file cannot be written, there is nobody to ask, or it was refused.
pub fn run(client: &Client, capture: Capture, out: &Path) -> Result<(), Failure> {
    let is_pipe = out == Path::new("-");
    if is_pipe && io::stdout().is_terminal() {
        return Err("--out -: standard output is a terminal; pipe it into `tshark -r -` or `wireshark -k -i -`".into());
    }
    let mut file: Option<Box<dyn Write>> = None;
    let mut count = Count::default();
    let write = |piece: &[u8]| -> io::Result<()> {
        count.add(piece);
        // Not before there is something to write: a capture that is refused leaves the file alone.
        let file = match &mut file {
            Some(file) => file,
            None => {
                eprintln!("capturing; press Ctrl-C to stop");
                file.insert(if is_pipe { Box::new(io::stdout()) } else { Box::new(File::create(out)?) })
            }
        };
        file.write_all(piece)?;
        file.flush()
    };
    match client.stream(&Order::Capture(capture), write) {
        Ok(()) => {}
        Err(Error::Written(error)) if is_pipe && error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(Error::Written(error)) => return Err(format!("--out {}: {error}", out.display()).into()),
        Err(error) => return Err(error.into()),
    }
    eprintln!("{count}");
    Ok(())
}

/// What a pcapng holds, that comes in pieces.
#[derive(Default)]
struct Count {
    frames: u64,
    lost: u64,
    /// The beginning of a block whose end has not come yet.
    rest: Vec<u8>,
}

impl Count {
    fn add(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
        let mut at = 0;
        while let Some(length) = word(&self.rest, at + 4) {
            let Some(block) = self.rest.get(at..at + length.max(12) as usize) else { break };
            match word(block, 0) {
                Some(PACKET) => self.frames += 1,
                Some(STATISTICS) => self.lost = lost(block).unwrap_or(self.lost),
                _ => {}
            }
            at += block.len();
        }
        self.rest.drain(..at);
    }
}

/// Of a block of statistics: `isb_ifdrop`.
fn lost(block: &[u8]) -> Option<u64> {
    let mut at = 20;
    loop {
        let head = word(block, at)?;
        let (code, length) = (head as u16, (head >> 16) as usize);
        match code {
            0 => return None,
            LOST => return block.get(at + 4..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
            _ => at += 4 + length.next_multiple_of(4),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = if self.frames == 1 { "" } else { "s" };
        write!(f, "{} frame{s} captured, {} lost because the buffer was full", self.frames, self.lost)?;
        if self.lost > 0 {
            write!(f, "; to lose fewer, use --client, --where or a smaller --snap")?;
        }
        Ok(())
    }
}
