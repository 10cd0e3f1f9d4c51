//! Lines of an access log or a list, one at a time and in bounded memory, and the client that a line tells of.

use arrayvec::ArrayVec;
use memchr::memchr;
use std::io::{self, BufRead};
use std::net::IpAddr;
use std::str;

/// Bytes of a line that are looked at: what tells the client stands in front.
const HEAD: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Empty, or a comment.
    Blank,
    /// Of an access log: the first of many fields is the client's address.
    Log(IpAddr),
    /// Of a list: an address, and how many requests it stands for.
    Listed(IpAddr, u32),
    /// Begins with no address.
    Other,
}

/// What a line says. In a list an address stands alone, before a number, or, as `uniq -c` prints it, behind one.
pub fn parse(line: &[u8]) -> Line {
    let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let Some(first) = fields.next() else { return Line::Blank };
    if first.starts_with(b"#") {
        return Line::Blank;
    }
    let (second, third) = (fields.next(), fields.next());
    match (address(first), second, third) {
        (Some(client), None, _) => Line::Listed(client, 1),
        (Some(client), Some(second), None) => match count(second) {
            Some(requests) => Line::Listed(client, requests),
            None => Line::Log(client),
        },
        (Some(client), _, Some(_)) => Line::Log(client),
        (None, Some(second), None) => match (count(first), address(second)) {
            (Some(requests), Some(client)) => Line::Listed(client, requests),
            _ => Line::Other,
        },
        (None, ..) => Line::Other,
    }
}

/// An IPv4 client that a socket of both families has accepted shows as `::ffff:198.51.100.7` in logs.
fn address(field: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = str::from_utf8(field).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

fn count(field: &[u8]) -> Option<u32> {
    str::from_utf8(field).ok()?.parse().ok().filter(|count| *count > 0)
}

/// The heads of the lines.
pub struct Lines<R> {
    input: R,
    head: ArrayVec<u8, HEAD>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Lines<R> {
        Lines { input, head: ArrayVec::new() }
    }

    /// The next line, without its end where it is longer than what is looked at. `None`: there is no other.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.head.clear();
        let mut begun = false;
        loop {
            let ahead = match self.input.fill_buf() {
                Ok(ahead) => ahead,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if ahead.is_empty() {
                return Ok(begun.then_some(&self.head));
            }
            begun = true;
            let end = memchr(b'\n', ahead);
            let line = &ahead[..end.unwrap_or(ahead.len())];
            let room = self.head.remaining_capacity().min(line.len());
            self.head.try_extend_from_slice(&line[..room]).expect("as much as there is room for");
            let taken = end.map_or(ahead.len(), |end| end + 1);
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(&self.head));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn what_lines_say() {
        let client: IpAddr = "198.51.100.7".parse().unwrap();
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        for (line, says) in [
            (r#"198.51.100.7 - - [25/Nov/2026:18:00:00 +0000] "GET / HTTP/1.1" 200 2"#, Line::Log(client)),
            (r#"2001:db8::7 - frank [25/Nov/2026:18:00:00 +0000] "GET /""#, Line::Log(v6)),
            ("::ffff:198.51.100.7 - -", Line::Log(client)),
            ("198.51.100.7 -", Line::Log(client)),
            ("198.51.100.7", Line::Listed(client, 1)),
            ("  2001:DB8:0::7\r", Line::Listed(v6, 1)),
            ("198.51.100.7\t12", Line::Listed(client, 12)),
            ("     12 198.51.100.7", Line::Listed(client, 12)),
            ("", Line::Blank),
            (" \r", Line::Blank),
            ("#Fields: date time c-ip", Line::Blank),
            ("198.51.100.7 0", Line::Log(client)),
            ("12 198.51.100.7 -", Line::Other),
            ("12 13", Line::Other),
            ("www.example.org - - [25/Nov/2026:18:00:00 +0000]", Line::Other),
            ("198.51.100.256 - -", Line::Other),
            ("\u{ff}", Line::Other),
        ] {
            assert_eq!(parse(line.as_bytes()), says, "{line}");
        }
    }

    #[test]
    fn lines_are_cut_whatever_the_pieces() {
        let long = "x".repeat(3 * HEAD);
        let text = format!("one\n\n{long}\r\nthree\nlast");
        for capacity in [1, 2, 7, HEAD, 4096] {
            let mut lines = Lines::new(BufReader::with_capacity(capacity, text.as_bytes()));
            let mut found = Vec::new();
            while let Some(line) = lines.next_line().unwrap() {
                found.push(str::from_utf8(line).unwrap().to_owned());
            }
            assert_eq!(found, ["one", "", &long[..HEAD], "three", "last"], "in pieces of {capacity}");
        }
    }
}
