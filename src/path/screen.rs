//! Takes those frames out of a burst whose source a list denies, before they are hashed. The frames of the long way are judged there.

use super::batch::Batch;
use super::select::{Outcome, Selection};
use crate::limits::BURST;
use crate::table::ServiceId;
use crate::table::lists::{Listed, Lists};
use arrayvec::ArrayVec;

impl Selection {
    /// Judges the sources of the plain frames. Of them, client and source are the same.
    #[cold]
    #[inline(never)]
    pub(super) fn screen(&mut self, lists: &Lists) {
        let Selection { plain, outcomes, counted, .. } = self;
        plain.v4.batch.screen((outcomes, counted), |[source], service| {
            // Little-endian, as it lies in the packet.
            lists.listed_v4((source as u32).swap_bytes(), service)
        });
        plain.v6.batch.screen((outcomes, counted), |[low, high, _], service| {
            let source = u128::from(low.swap_bytes()) << 64 | u128::from(high.swap_bytes());
            lists.listed_v6(source, service)
        });
    }
}

/// What is said of frames.
type Said<'s> = (&'s mut [Outcome; BURST], &'s mut ArrayVec<(usize, ServiceId), BURST>);

impl<const B: usize> Batch<B> {
    /// Takes out the frames that are denied.
    fn screen(&mut self, (outcomes, counted): Said, listed: impl Fn([u64; B], ServiceId) -> Listed) {
        let len = self.len.min(BURST);
        let mut out = 0;
        for (at, frame) in self.frames[..len].iter().enumerate() {
            match listed(self.blocks.map(|row| row[at]), frame.service()) {
                Listed::No => {}
                Listed::Counted => counted.push((frame.position(), frame.service())),
                Listed::Denied => {
                    outcomes[frame.position()] = Outcome::denied(frame.service());
                    out |= 1 << at;
                }
            }
        }
        if out != 0 {
            self.remove(out);
        }
    }
}
