//! Notes where the frames of a client go that an operator watches.

use super::classify::{self, Outer};
use super::select::Selection;
use crate::table::trace::{Fate, Seen, Watch};
use crate::verdict::Verdict;
use std::net::IpAddr;

impl Selection {
    /// Notes the burst's frames of the watched client, after all verdicts are final. An ICMP error counts as the client's
    /// whose packet it is about.
    #[cold]
    #[inline(never)]
    pub fn note<'a>(&self, watch: &Watch, worker: usize, now: u64, bytes: impl Fn(usize) -> &'a [u8]) {
        for (at, outcome) in self.outcomes().iter().enumerate() {
            let frame = bytes(at);
            let whole = classify::whole(frame);
            let client = whole.map(|whole| whole.flow.client).or_else(|| source(frame));
            if client != Some(watch.client) {
                continue;
            }
            let fate = match outcome.verdict() {
                Verdict::Forward { service, server } => Fate::Forward(service, server),
                Verdict::Drop(reason) => Fate::Drop(reason.name()),
                Verdict::Pass => Fate::Pass,
            };
            let protocol = whole.map_or(0, |whole| whole.protocol);
            let _ = watch.seen.push(Seen { at: now, worker, bytes: frame.len() as u32, protocol, fate });
        }
    }
}

/// Of a frame that holds no flow.
fn source(frame: &[u8]) -> Option<IpAddr> {
    match classify::outer(frame) {
        Outer::V4(packet) => Some(IpAddr::from(packet.source())),
        Outer::V6(packet) => Some(IpAddr::from(packet.source())),
        Outer::Truncated | Outer::Other => None,
    }
}
