//! Notes the frames that an operator watches: as they came, and as they go.

use super::classify::{self, Outer};
use super::select::{self, Outcome};
use crate::hash::splitmix;
use crate::limits::BURST;
use crate::table::Table;
use crate::table::trace::{Fate, Note, Seen, Watch};
use crate::verdict::Verdict;
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// The watched frames of one burst.
#[derive(Default)]
pub struct Notes {
    watched: ArrayVec<Watched, BURST>,
    /// What chance is drawn from.
    random: u64,
}

struct Watched {
    /// Position in the burst.
    at: usize,
    protocol: u8,
    /// Of the frame as it came.
    bytes: u32,
    note: Option<Box<Note>>,
}

/// Who notes, and when.
#[derive(Clone, Copy)]
pub struct Noting<'a> {
    pub watch: &'a Watch,
    pub table: &'a Table,
    pub worker: usize,
    /// Nanoseconds, on the clock of the ports.
    pub now: u64,
}

impl Notes {
    /// Whether chance takes a frame, one in so many.
    fn takes(&mut self, one_in: u32) -> bool {
        self.random = self.random.wrapping_add(splitmix::STEP);
        splitmix::scale(splitmix::mix(self.random), u64::from(one_in)) == 0
    }

    /// Copies the watched frames of a burst, before any is rewritten. An ICMP error counts as the client's whose packet it is about.
    #[cold]
    #[inline(never)]
    pub fn receive<'a>(&mut self, watch: &Watch, len: usize, bytes: impl Fn(usize) -> &'a [u8]) {
        self.watched.clear();
        for at in 0..len {
            if !self.takes(watch.one_in) {
                continue;
            }
            let frame = bytes(at);
            let whole = classify::whole(frame);
            if watch.client.is_some() && watch.client != whole.map(|whole| whole.flow.client).or_else(|| source(frame))
            {
                continue;
            }
            let mut note = if watch.points.received { watch.room() } else { None };
            if let Some(note) = &mut note {
                note.copy(frame);
            }
            let protocol = whole.map_or(0, |whole| whole.protocol);
            self.watched.push(Watched { at, protocol, bytes: frame.len() as u32, note });
        }
    }

    /// Notes what became of them, after all verdicts are final. `original` lends frames that are not forwarded.
    #[cold]
    #[inline(never)]
    pub fn judge<'a>(&mut self, noting: Noting, outcomes: &[Outcome], original: impl Fn(usize) -> &'a [u8]) {
        let watch = noting.watch;
        if !watch.points.received {
            return;
        }
        for Watched { at, protocol, bytes, note } in &mut self.watched {
            let verdict = outcomes[*at].verdict();
            let is_wanted = !watch.points.only_dropped || matches!(verdict, Verdict::Drop(_));
            match note.take() {
                Some(note) if is_wanted => {
                    let service = match verdict {
                        Verdict::Drop(_) => select::service(original(*at), noting.table),
                        _ => None,
                    };
                    watch.put(note, Seen { service, ..seen(noting, *bytes, *protocol, verdict) });
                }
                Some(note) => watch.give_back(note),
                None => watch.lose(u64::from(is_wanted)),
            }
        }
    }

    /// Notes what of them is sent, when it is rewritten.
    #[cold]
    #[inline(never)]
    pub fn send<'a>(&mut self, noting: Noting, outcomes: &[Outcome], sent: impl Fn(usize) -> &'a [u8]) {
        if !noting.watch.points.sent {
            return;
        }
        for Watched { at, protocol, .. } in &self.watched {
            if outcomes[*at].is_forward() {
                put_sent(noting, *protocol, outcomes[*at].verdict(), sent(*at));
            }
        }
    }

    /// Notes a fragment that goes behind the frame at a position.
    #[cold]
    #[inline(never)]
    pub fn send_fragment(&self, noting: Noting, outcomes: &[Outcome], at: usize, fragment: &[u8]) {
        let watched = self.watched.iter().find(|watched| watched.at == at && noting.watch.points.sent);
        if let Some(Watched { protocol, .. }) = watched {
            put_sent(noting, *protocol, outcomes[at].verdict(), fragment);
        }
    }
}

fn put_sent(noting: Noting, protocol: u8, verdict: Verdict, frame: &[u8]) {
    let Some(mut note) = noting.watch.room() else { return noting.watch.lose(1) };
    note.copy(frame);
    noting.watch.put(note, Seen { is_sent: true, ..seen(noting, frame.len() as u32, protocol, verdict) });
}

fn seen(Noting { table, worker, now, .. }: Noting, bytes: u32, protocol: u8, verdict: Verdict) -> Seen {
    let fate = match verdict {
        Verdict::Forward { service, server } => Fate::Forward(service, server),
        Verdict::Drop(reason) => Fate::Drop(reason.name()),
        Verdict::Pass => Fate::Pass,
    };
    Seen { at: now, worker, bytes, protocol, is_sent: false, layout: table.layout, service: None, fate }
}

/// Who sent a frame, by its IP header; of an ICMP error, a router.
pub fn source(frame: &[u8]) -> Option<IpAddr> {
    match classify::outer(frame) {
        Outer::V4(packet) => Some(IpAddr::from(packet.source())),
        Outer::V6(packet) => Some(IpAddr::from(packet.source())),
        Outer::Truncated | Outer::Other => None,
    }
}
