//! How this member stands to the others, by time alone: when it is with them, and since when it is not. Pure: the time is given.
//!
//! | what happens                                             | stance   |
//! |----------------------------------------------------------|----------|
//! | it starts                                                | waiting  |
//! | it is without the others for `GROUP_ALONE`               | alone    |
//! | it is with them for `GROUP_SETTLE`                       | together |
//! | it loses them                                            | waiting, if it was together |
//! | it is back before it was alone, and the store has gone on | together, at once |
//!
//! Who comes to a store after a while does not know whether what stands there is so still: all may have lost it, or it may have been
//! restored. Members that live have written anew by then, and what others have written goes with their leases.

use crate::control::agreement::Stance;
use crate::limits::{GROUP_ALONE, GROUP_SETTLE};
use tokio::time::Instant;

pub struct StanceClock {
    stance: Stance,
    since: Instant,
    /// When it was with the others last; since then it is not `Together`.
    left: Instant,
    /// Since when it is with them; `None`: it is not.
    joined: Option<Instant>,
    /// It was together, and is not alone yet.
    was_together: bool,
}

impl StanceClock {
    pub fn new(now: Instant) -> StanceClock {
        StanceClock { stance: Stance::Waiting, since: now, left: now, joined: None, was_together: false }
    }

    pub fn stance(&self) -> Stance {
        self.stance
    }

    /// Since when that is so.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether it is with the others now: it can ask the store, and belongs to the group. `continues`: the store is the one before,
    /// gone on.
    pub fn see(&mut self, is_with: bool, continues: bool, now: Instant) {
        match (is_with, self.joined) {
            (true, None) => {
                self.joined = Some(now);
                if self.was_together && continues {
                    self.turn(Stance::Together, now);
                }
            }
            (false, Some(_)) => {
                self.joined = None;
                if self.stance == Stance::Together {
                    self.left = now;
                    self.turn(Stance::Waiting, now);
                }
            }
            _ => {}
        }
        self.pass(now);
    }

    fn pass(&mut self, now: Instant) {
        match self.joined {
            Some(joined) if now >= joined + GROUP_SETTLE => self.turn(Stance::Together, now),
            None if now >= self.left + GROUP_ALONE => {
                self.was_together = false;
                self.turn(Stance::Alone, now);
            }
            _ => {}
        }
    }

    fn turn(&mut self, stance: Stance, now: Instant) {
        self.was_together |= stance == Stance::Together;
        if self.stance != stance {
            (self.stance, self.since) = (stance, now);
        }
    }

    /// When time alone changes it.
    pub fn due(&self) -> Option<Instant> {
        match (self.joined, self.stance) {
            (Some(joined), Stance::Waiting | Stance::Alone) => Some(joined + GROUP_SETTLE),
            (None, Stance::Waiting) => Some(self.left + GROUP_ALONE),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What it is after each of the events: `+` is with the others, `~` is with them, and the store went back, `-` is without, `.` a second.
    fn stances(events: &str) -> String {
        let mut now = Instant::now();
        let mut clock = StanceClock::new(now);
        let mut is_with = false;
        let mut shown = String::new();
        for event in events.chars() {
            if event == '.' {
                now += Duration::from_secs(1);
            } else {
                is_with = event != '-';
            }
            clock.see(is_with, event != '~', now);
            shown.push(match clock.stance() {
                Stance::Together => 'T',
                Stance::Waiting => 'w',
                Stance::Alone => 'a',
            });
            assert!(clock.due().is_none_or(|due| due > now), "{events} {shown}");
        }
        shown
    }

    #[test]
    fn who_comes_waits_and_who_is_away_for_long_is_alone() {
        for (events, expected) in [
            // A start with the store, and one without.
            ("+............", "wwwwwwwwwwwwT"),
            ("..........+............", "wwwwwwwwwaaaaaaaaaaaaaT"),
            // Away for a moment, and for long.
            ("+............-.........+", "wwwwwwwwwwwwTwwwwwwwwwwT"),
            ("+............-..........+............", "wwwwwwwwwwwwTwwwwwwwwwwaaaaaaaaaaaaaT"),
            // A store that went back is not trusted at once, however soon it is there.
            ("+............-.~............", "wwwwwwwwwwwwTwwwwwwwwwwwwwwT"),
            // A store that comes and goes is as one that is away.
            ("+............-.....~.....-.", "wwwwwwwwwwwwTwwwwwwwwwwwwaa"),
        ] {
            assert_eq!(stances(events), expected, "{events}");
        }
    }
}
