//! A file, or what a pipe brings, read in large pieces, of which records are cut.

use std::io::{self, Read};

const PIECE: usize = 1 << 20;

pub struct Input {
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
}

impl Input {
    pub fn new(source: impl Read + Send + 'static) -> Input {
        Input { source: Box::new(source), buffer: vec![0; PIECE], start: 0, end: 0, offset: 0 }
    }

    /// How many bytes were consumed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes that follow: at least `wanted`, fewer only where the file ends.
    pub fn ahead(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.end - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.fill(wanted)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    pub fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }

    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.end < wanted {
            // By what there is, and not by what a damaged file says of itself.
            if self.end == self.buffer.len() {
                self.buffer.resize(2 * self.end, 0);
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
