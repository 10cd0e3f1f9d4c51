//! Drops packets that are dear to read beyond a limit of their own, before they are read: `[limit.odd]`.

use super::select::Outcome;
use crate::model::OddKind;
use crate::table::Table;
use crate::table::limits::odd::Within;
use crate::verdict::{Reason, Verdict};

/// What these limits say of a burst.
#[derive(Default)]
pub struct Odd {
    /// Of the frame at hand: what it is to be charged for, and when.
    due: Option<(OddKind, u64)>,
    /// Frames that would be dropped if the limit did more than count, by kind.
    counted: [u64; OddKind::COUNT],
}

impl Odd {
    pub(super) fn clear(&mut self) {
        self.counted = [0; OddKind::COUNT];
    }

    /// Judges a packet to a cluster address. `Err`: it is beyond.
    #[inline]
    pub(super) fn judge(
        &mut self,
        table: &Table,
        kind: impl FnOnce() -> Option<OddKind>,
        now: impl FnOnce() -> Option<u64>,
    ) -> Result<(), Outcome> {
        let Some(limits) = table.odd_limits() else { return Ok(()) };
        let Some(kind) = kind() else { return Ok(()) };
        let Some(now) = now() else { return Ok(()) };
        match limits.judge(kind, now) {
            Within::Free => {}
            Within::Yes => self.due = Some((kind, now)),
            Within::Counted => self.counted[kind as usize] += 1,
            Within::Dropped => return Err(Outcome::odd(kind)),
        }
        Ok(())
    }

    /// Takes what the frame at hand costs, now that it was read.
    #[inline]
    pub(super) fn charge(&mut self, table: &Table, sorted: &Result<(), Outcome>) {
        let Some((kind, now)) = self.due.take() else { return };
        let is_denied = |outcome: &Outcome| outcome.verdict() == Verdict::Drop(Reason::Denied);
        if let Some(limits) = table.odd_limits()
            && !sorted.as_ref().is_err_and(is_denied)
        {
            limits.charge(kind, now);
        }
    }

    /// Frames that would be dropped if the limit did more than count, by kind.
    pub(super) fn counted(&self) -> &[u64; OddKind::COUNT] {
        &self.counted
    }
}
