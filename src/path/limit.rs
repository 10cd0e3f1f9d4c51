//! Takes those frames out of a burst that are beyond a limit of their service, before they are hashed: in the order in which they came,
//! whichever way they were read.

use super::batch::{Batch, Bits, Sorted};
use super::select::{Outcome, Selection};
use crate::limits::BURST;
use crate::model::LimitKind;
use crate::table::ServiceId;
use crate::table::limits::{Charges, Limited, Limits, Source, Subject};
use arrayvec::ArrayVec;

/// What limits are asked of the frames of a burst, by position.
pub(super) struct Limiting {
    subjects: [Subject; BURST],
    /// Those of which anything is asked, a bit each.
    asked: u64,
    charges: Charges,
    /// Frames that a limit would drop if it did more than count.
    counted: ArrayVec<(usize, ServiceId, LimitKind), BURST>,
}

impl Default for Limiting {
    fn default() -> Limiting {
        Limiting {
            subjects: [Subject::default(); BURST],
            asked: 0,
            charges: Charges::default(),
            counted: ArrayVec::new(),
        }
    }
}

impl Limiting {
    pub(super) fn clear(&mut self) {
        self.asked = 0;
        self.counted.clear();
    }

    /// A frame for a service, from a source.
    #[inline(always)]
    pub(super) fn ask(&mut self, at: usize, service: ServiceId, source: Source) {
        let subject = &mut self.subjects[at];
        (subject.service, subject.source) = (service, source);
        self.asked |= 1 << at;
    }
}

impl Selection {
    /// Judges the frames that `classify` has found a service for, at this time in nanoseconds. `len` says how long a frame is; `None`: it was not
    /// sent to us, and passes.
    #[inline(never)]
    pub fn limit(&mut self, limits: &Limits, now: u64, len: impl Fn(usize) -> Option<usize>) {
        let Selection { plain, limiting, begins, outcomes, .. } = self;
        plain.v4.batch.ask(limiting, |[source]| Source { words: [source & u64::from(u32::MAX), 0], is_v6: false });
        plain.v6.batch.ask(limiting, |[low, high, _]| Source { words: [low, high], is_v6: true });
        let Limiting { subjects, asked, charges, counted } = limiting;
        let mut out = 0;
        for at in Bits(*asked) {
            let Some(len) = len(at) else { continue };
            let subject = Subject { begins: *begins >> at & 1 == 1, len: len as u32, ..subjects[at] };
            match limits.judge(&subject, now, charges) {
                Limited::No => {}
                Limited::Counted(kind) => counted.push((at, subject.service, kind)),
                Limited::Dropped(kind) => {
                    outcomes[at] = Outcome::limited(subject.service, kind);
                    out |= 1 << at;
                }
            }
        }
        limits.charge(now, charges);
        if out != 0 {
            self.take_out(out);
        }
    }

    /// Frames that a limit would drop if it did more than count: their positions, services and the limit.
    #[inline]
    pub fn would_limit(&self) -> &[(usize, ServiceId, LimitKind)] {
        &self.limiting.counted
    }

    #[cold]
    fn take_out(&mut self, out: u64) {
        let Selection { plain, flow_v4, flow_v6, migrating, .. } = self;
        *migrating &= !out;
        plain.v4.batch.remove_positions(out);
        plain.v6.batch.remove_positions(out);
        flow_v4.remove_positions(out);
        flow_v6.remove_positions(out);
    }
}

impl<const B: usize> Batch<B> {
    /// Asks of all its frames. Of those that are plain, client and source are the same; others have been asked of already.
    fn ask(&self, limiting: &mut Limiting, source: impl Fn([u64; B]) -> Source) {
        for (at, frame) in self.frames[..self.len.min(BURST)].iter().enumerate() {
            if limiting.asked >> frame.position() & 1 == 0 {
                limiting.ask(frame.position(), frame.service(), source(self.blocks.map(|row| row[at])));
            }
        }
    }

    /// Takes out the frames at these positions of the burst.
    fn remove_positions(&mut self, positions: u64) {
        let of = |(at, frame): (usize, &Sorted)| (positions >> frame.position() & 1) << at;
        let out = self.frames[..self.len.min(BURST)].iter().enumerate().map(of).fold(0, |out, bit| out | bit);
        if out != 0 {
            self.remove(out);
        }
    }
}
