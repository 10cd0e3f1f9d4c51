//! The message by which a filter tells the others how it is and how it sees them: one datagram, numbers little-endian.
//!
//! ```text
//! "oneip" | version | run 8 | count 8 | configuration 8 | orders 8 | and of what it has given up all for, 8 + 8 | name 1 + n
//!         | servers unheard 2 + 8 n | remarks 2 + 9 n | tag 8
//! ```
//!
//! The tag is SipHash over all before it, by a key that is made of the cluster's: who does not have that cannot speak. `run` is
//! when the process started, `count` goes up: an older message is not taken again. A message that was recorded can be taken only by a
//! filter that has started since, or heard nothing of the sender for `PEER_LEASE`.
//!
//! Servers, and servers of services, go by a hash of their names. What is not mentioned is as it should be: the server is heard, or
//! serves. So a message is small while all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::BitOr;

use super::digest::Digests;
use crate::hash::siphash::{self, Key};
use crate::limits::BEACON_BYTES;
use crate::model::HashKey;

const MAGIC: [u8; 5] = *b"oneip";
const VERSION: u8 = 2;

/// The labels that keys of different use are made with.
const FOR_TAGS: [&[u8]; 2] = [b"oneip filter beacon, k0", b"oneip filter beacon, k1"];

/// The number of a server, or of a server of a service.
pub type Id = u64;

/// Something that is not as it should be with a server of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remark(u8);

impl Remark {
    /// The sender of itself: it takes no new clients. Of another one: neither that nor a check of the sender's says that it serves.
    pub const RESTS: Remark = Remark(1);
    /// Of itself: it keeps no connection either. Of another one: the sender's checks have found it down.
    pub const FAILED: Remark = Remark(2);
    /// The sender counts it out, and has its part of that server's clients.
    pub const OUT: Remark = Remark(4);
    /// Somebody whom the sender hears counts it out without hearing it.
    pub const OUT_ELSEWHERE: Remark = Remark(8);

    pub fn has(self, one: Remark) -> bool {
        self.0 & one.0 != 0
    }

    /// This, where it applies.
    pub fn when(self, applies: bool) -> Remark {
        if applies { self } else { Remark::default() }
    }
}

impl BitOr for Remark {
    type Output = Remark;

    fn bitor(self, other: Remark) -> Remark {
        Remark(self.0 | other.0)
    }
}

/// What one filter says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub server: String,
    /// What it is to decide by.
    pub digests: Digests,
    /// What it has given up all for that it loses by it.
    pub gave_up: Digests,
    /// Servers whose messages do not come to the sender.
    pub unheard: BTreeSet<Id>,
    pub remarks: BTreeMap<Id, Remark>,
}

impl Report {
    pub fn remark(&self, of: Id) -> Remark {
        self.remarks.get(&of).copied().unwrap_or_default()
    }
}

/// Which message of which run of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    pub run: u64,
    pub count: u64,
}

/// Why a datagram is no message of a filter of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Of another version of oneip.
    Version,
    /// Made with another key.
    Key,
    /// Not what a filter sends.
    Nonsense,
}

/// What messages are made and read with.
#[derive(Clone, Copy)]
pub struct Cipher {
    tags: Key,
}

impl Cipher {
    pub fn new(key: HashKey) -> Cipher {
        let [k0, k1] = FOR_TAGS.map(|label| siphash::bytes(key.into(), label));
        Cipher { tags: Key::new(k0, k1) }
    }

    /// For digests, which tell nothing of the cluster's key.
    pub fn key(&self) -> Key {
        self.tags
    }

    pub fn server(&self, server: &str) -> Id {
        siphash::bytes(self.tags, server.as_bytes())
    }

    pub fn of_service(&self, service: &str, server: &str) -> Id {
        // No name has a line feed.
        siphash::bytes(self.tags, format!("{service}\n{server}").as_bytes())
    }

    /// What has no room is left out.
    pub fn seal(&self, report: &Report, number: Number) -> Vec<u8> {
        let Report { server, digests, gave_up, unheard, remarks } = report;
        let mut message: Vec<u8> = [&MAGIC[..], &[VERSION]].concat();
        let digests = [digests, gave_up].into_iter().flat_map(|of| [of.configuration, of.orders]);
        [number.run, number.count].into_iter().chain(digests).for_each(|word| message.extend(word.to_le_bytes()));
        message.push(server.len() as u8);
        message.extend(server.bytes().take(u8::MAX.into()));
        let room = |message: &Vec<u8>, each: usize| (BEACON_BYTES - 64 - message.len()) / each;
        let unheard: Vec<u8> = unheard.iter().take(room(&message, 8) / 2).flat_map(|id| id.to_le_bytes()).collect();
        message.extend((unheard.len() as u16 / 8).to_le_bytes());
        message.extend(unheard);
        let remarks = remarks.iter().take(room(&message, 9));
        let remarks: Vec<u8> =
            remarks.flat_map(|(id, remark)| id.to_le_bytes().into_iter().chain([remark.0])).collect();
        message.extend((remarks.len() as u16 / 9).to_le_bytes());
        message.extend(remarks);
        let tag = siphash::bytes(self.tags, &message);
        message.extend(tag.to_le_bytes());
        message
    }

    /// # Errors
    ///
    /// It is not of this cluster.
    pub fn open(&self, datagram: &[u8]) -> Result<(Report, Number), Stranger> {
        let (message, tag) = datagram.split_last_chunk::<8>().ok_or(Stranger::Nonsense)?;
        let rest = message.strip_prefix(&MAGIC).ok_or(Stranger::Nonsense)?;
        if rest.first() != Some(&VERSION) {
            return Err(Stranger::Version);
        }
        if siphash::bytes(self.tags, message) != u64::from_le_bytes(*tag) {
            return Err(Stranger::Key);
        }
        read(&rest[1..]).ok_or(Stranger::Nonsense)
    }
}

fn read(mut rest: &[u8]) -> Option<(Report, Number)> {
    let rest = &mut rest;
    let number = Number { run: word(rest)?, count: word(rest)? };
    let digests = Digests { configuration: word(rest)?, orders: word(rest)? };
    let gave_up = Digests { configuration: word(rest)?, orders: word(rest)? };
    let [len] = take(rest)?;
    let name = rest.split_off(..len.into())?;
    let server = String::from_utf8(name.to_vec()).ok()?;
    let unheard = (0..u16::from_le_bytes(take(rest)?)).map(|_| word(rest)).collect::<Option<_>>()?;

    let remarks = (0..u16::from_le_bytes(take(rest)?)).map(|_| Some((word(rest)?, Remark(take::<1>(rest)?[0]))));
    let remarks = remarks.collect::<Option<_>>()?;
    rest.is_empty().then_some((Report { server, digests, gave_up, unheard, remarks }, number))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(*first)
}

fn word(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever has the key may be another version.
        #[test]
        fn whatever_is_in_a_message_it_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
            let mut whole = bytes;
            if let Some(len) = whole.get_mut(48) {
                *len %= 8;
            }
            read(&whole);
        }
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let cipher = Cipher::new(HashKey([7; 16]));
        let report = Report {
            server: "s".repeat(63),
            unheard: (0..10_000).collect(),
            remarks: (0..10_000).map(|id| (id, Remark::OUT)).collect(),
            ..Report::default()
        };
        let message = cipher.seal(&report, Number { run: 1, count: 1 });
        assert!(message.len() <= BEACON_BYTES, "{}", message.len());
        let (read, _) = cipher.open(&message).expect("it is whole");
        assert!(read.unheard.len() > 3000 && read.remarks.len() > 3000 && read.server == report.server);
    }
}
