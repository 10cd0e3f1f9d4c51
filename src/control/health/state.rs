//! What a server is taken to be, from the results of its probes. Pure: the time is given.
//!
//! | from          | on                                     | to      |
//! |---------------|----------------------------------------|---------|
//! | Unknown       | a success                              | Up      |
//! | Unknown or Up | `fall` failures in a row               | Down    |
//! | Down          | `rise` successes in a row              | Up      |
//! | Down          | the same, but it flaps                 | Held    |
//! | Held          | no failure for as long as it must hold | Up      |
//! | Held          | a failure                              | Down    |
//!
//! **Before the first verdict** a server counts as up, so that a dispatcher that starts sends nobody elsewhere without a
//! reason. One success is a verdict then; it takes `fall` failures as ever to say that it is down, so that a packet lost
//! at the wrong moment moves nobody.
//!
//! **A server that flaps** moves its clients away and back each time. One that falls more than `FLAP_FALLS` times within
//! the window (`FLAP_WINDOW`, or `FLAP_CYCLES` times the time in which it could fall and rise once, if that is longer)
//! is flapping: to come up it must then go without a single failure for `FLAP_HOLD_FIRST`, twice as long after each
//! further fall, at most `FLAP_HOLD_LAST`. It is no longer flapping when it has been up for the whole window. While no
//! server of its service is up, a held one serves all the same (see [`serving`]).

use crate::limits::{FLAP_CYCLES, FLAP_FALLS, FLAP_HOLD_FIRST, FLAP_HOLD_LAST, FLAP_WINDOW};
use crate::model::{AllDown, Health};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not known yet; counts as up.
    Unknown,
    Up,
    /// It answers, but has flapped: down until it has answered for long enough.
    Held,
    Down,
}

/// How results become verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub rise: u32,
    pub fall: u32,
    /// In which falls are counted.
    pub window: Duration,
}

impl From<&Health> for Rules {
    fn from(health: &Health) -> Rules {
        let cycle = health.interval * (health.rise + health.fall);
        Rules { rise: health.rise, fall: health.fall, window: FLAP_WINDOW.max(cycle * FLAP_CYCLES) }
    }
}

/// One server of one service.
#[derive(Clone, Debug)]
pub struct State {
    pub verdict: Verdict,
    /// Since when it is the verdict.
    pub since: Instant,
    /// Results in a row that speak against the verdict.
    streak: u32,
    /// The falls in the window, while it does not flap.
    falls: Vec<Instant>,
    /// Set while it flaps: how long it must go without a failure.
    hold: Option<Duration>,
    /// The first success after the last failure, while it is down.
    good_since: Option<Instant>,
}

impl State {
    pub fn new(now: Instant) -> State {
        State { verdict: Verdict::Unknown, since: now, streak: 0, falls: Vec::new(), hold: None, good_since: None }
    }

    /// As a process before this one has found it.
    pub fn recalled(verdict: Verdict, hold: Option<Duration>, since: Instant, now: Instant) -> State {
        let good_since = (verdict == Verdict::Held).then_some(now);
        State { verdict, since, hold, good_since, ..State::new(now) }
    }

    /// How long a flapping server must go without a failure to come up; `None`: it does not flap.
    pub fn hold(&self) -> Option<Duration> {
        self.hold
    }

    /// Failures in a row begin anew.
    pub fn forget_failures(&mut self) {
        if matches!(self.verdict, Verdict::Unknown | Verdict::Up) {
            self.streak = 0;
        }
    }

    /// Takes in the result of a probe. Whether the verdict changed.
    pub fn judge(&mut self, success: bool, rules: &Rules, now: Instant) -> bool {
        let verdict = match (self.verdict, success) {
            (Verdict::Unknown | Verdict::Up, true) => {
                self.streak = 0;
                Verdict::Up
            }
            (Verdict::Unknown | Verdict::Up, false) => self.fail(rules, now),
            (Verdict::Held | Verdict::Down, true) => self.recover(rules, now),
            (Verdict::Held | Verdict::Down, false) => {
                (self.streak, self.good_since) = (0, None);
                Verdict::Down
            }
        };
        if verdict == self.verdict {
            self.calm(rules, now);
            return false;
        }
        (self.verdict, self.since) = (verdict, now);
        true
    }

    fn fail(&mut self, rules: &Rules, now: Instant) -> Verdict {
        self.streak += 1;
        if self.streak < rules.fall {
            return self.verdict;
        }
        (self.streak, self.good_since) = (0, None);
        if self.verdict == Verdict::Up {
            self.count_fall(rules, now);
        }
        Verdict::Down
    }

    fn count_fall(&mut self, rules: &Rules, now: Instant) {
        if let Some(hold) = self.hold {
            self.hold = Some((2 * hold).min(FLAP_HOLD_LAST));
            return;
        }
        self.falls.retain(|fall| now.duration_since(*fall) < rules.window);
        self.falls.push(now);
        if self.falls.len() > FLAP_FALLS {
            self.hold = Some(FLAP_HOLD_FIRST);
            self.falls.clear();
        }
    }

    fn recover(&mut self, rules: &Rules, now: Instant) -> Verdict {
        let good_since = *self.good_since.get_or_insert(now);
        self.streak = (self.streak + 1).min(rules.rise);
        match self.hold {
            _ if self.streak < rules.rise => Verdict::Down,
            Some(hold) if now.duration_since(good_since) < hold => Verdict::Held,
            _ => {
                self.streak = 0;
                Verdict::Up
            }
        }
    }

    /// Up for the whole window, it does not flap any more.
    fn calm(&mut self, rules: &Rules, now: Instant) {
        if self.verdict == Verdict::Up && now.duration_since(self.since) >= rules.window {
            self.hold = None;
        }
    }
}

/// Which servers of a service take clients, given each server's verdict and whether it may take any at all (weight above
/// 0, not taken out by hand). Those that are up; if none is, those that are only held; if none is either, none or all, by
/// `all_down`.
pub fn serving(servers: &[(Verdict, bool)], all_down: AllDown) -> Vec<bool> {
    let those =
        |which: fn(Verdict) -> bool| -> Vec<bool> { servers.iter().map(|(v, may)| *may && which(*v)).collect() };
    let up = those(|verdict| matches!(verdict, Verdict::Up | Verdict::Unknown));
    let held = those(|verdict| verdict == Verdict::Held);
    let any = |set: &[bool]| set.iter().any(|serves| *serves);
    match all_down {
        _ if any(&up) => up,
        _ if any(&held) => held,
        AllDown::Drop => up,
        AllDown::Serve => those(|_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules(rise: u32, fall: u32) -> Rules {
        Rules { rise, fall, window: FLAP_WINDOW }
    }

    /// The verdicts after each of the results, written `+` for a success and `-` for a failure, one a second.
    fn verdicts(rise: u32, fall: u32, results: &str) -> String {
        let mut now = Instant::now();
        let mut state = State::new(now);
        let letter = |verdict| match verdict {
            Verdict::Unknown => '?',
            Verdict::Up => 'U',
            Verdict::Held => 'H',
            Verdict::Down => 'D',
        };
        let mut verdicts = String::new();
        for result in results.chars() {
            now += SECOND;
            let before = state.verdict;
            assert_eq!(state.judge(result == '+', &rules(rise, fall), now), state.verdict != before);
            assert_eq!(state.since == now, state.verdict != before, "since when");
            verdicts.push(letter(state.verdict));
        }
        verdicts
    }

    #[test]
    fn rise_and_fall() {
        for (rise, fall, results, expected) in [
            (1, 1, "+-+-", "UDUD"),
            (1, 1, "-+", "DU"),
            (1, 1, "--++", "DDUU"),
            (1, 3, "+--+--+---+", "UUUUUUUUUDU"),
            (1, 3, "--+---", "??UUUD"),
            (1, 3, "---", "??D"),
            (3, 1, "+-++-+++", "UDDDDDDU"),
            (3, 1, "-++-+++-", "DDDDDDUD"),
            (3, 3, "+--+---++-+++--", "UUUUUUDDDDDDUUU"),
            (3, 3, "---+++---", "??DDDUUUD"),
            (2, 3, "+---++", "UUUDDU"),
        ] {
            assert_eq!(verdicts(rise, fall, results), expected, "rise {rise}, fall {fall}: {results}");
        }
    }

    #[test]
    fn a_flapping_server_is_held_until_it_has_answered_for_long_enough() {
        // The fourth fall within a minute, and then ten seconds without a failure: the first success is the 9th result.
        assert_eq!(verdicts(1, 1, "+-+-+-+-++++++++++++"), "UDUDUDUDHHHHHHHHHHUU");
        // A failure in between, and the ten seconds begin again.
        assert_eq!(verdicts(1, 1, "+-+-+-+-+++-+++++++++++"), "UDUDUDUDHHHDHHHHHHHHHHU");
        // Seen down for `rise` successes first.
        assert_eq!(verdicts(3, 1, "+-+++-+++-+++-+++++++++++"), "UDDDUDDDUDDDUDDDHHHHHHHHU");
    }

    #[test]
    fn the_hold_doubles_with_each_fall_and_ends_after_a_quiet_window() {
        let (mut now, rules) = (Instant::now(), rules(1, 1));
        let mut state = State::new(now);
        let mut step = |state: &mut State, seconds: u32, success| {
            now += seconds * SECOND;
            state.judge(success, &rules, now);
            state.hold().map(|hold| hold.as_secs())
        };
        step(&mut state, 1, true);
        let mut holds = Vec::new();
        for _ in 0..10 {
            holds.push(step(&mut state, 1, false));
            step(&mut state, 1, true);
            // Long enough to come up, if that takes a hold.
            if let Some(hold) = state.hold() {
                step(&mut state, hold.as_secs() as u32, true);
            }
            assert_eq!(state.verdict, Verdict::Up);
        }
        let some = |seconds: [u64; 7]| seconds.map(Some);
        assert_eq!(holds[..3], [None; 3]);
        assert_eq!(holds[3..], some([10, 20, 40, 80, 160, 160, 160]));
        assert_eq!(step(&mut state, 59, true), Some(160));
        assert_eq!(step(&mut state, 1, true), None, "up for a minute");
        assert_eq!(step(&mut state, 1, false), None, "one fall is no flapping");
    }

    #[test]
    fn falls_far_apart_are_no_flapping() {
        let (mut now, rules) = (Instant::now(), rules(1, 1));
        let mut state = State::new(now);
        for i in 0..40 {
            now += 16 * SECOND;
            state.judge(i % 2 == 0, &rules, now);
            assert_eq!(state.hold(), None, "two falls a minute");
        }
    }

    #[test]
    fn who_serves() {
        use Verdict::{Down, Held, Unknown, Up};
        let all = |verdicts: &[Verdict]| verdicts.iter().map(|verdict| (*verdict, true)).collect::<Vec<_>>();
        for (servers, dropping, serving_all) in [
            (all(&[Up, Down, Held, Unknown]), vec![true, false, false, true], None),
            (all(&[Down, Held]), vec![false, true], None),
            (all(&[Down, Down]), vec![false, false], Some(vec![true, true])),
            (vec![(Down, true), (Up, false)], vec![false, false], Some(vec![true, false])),
            (vec![(Up, true), (Up, false)], vec![true, false], None),
        ] {
            assert_eq!(serving(&servers, AllDown::Drop), dropping, "{servers:?}");
            assert_eq!(serving(&servers, AllDown::Serve), serving_all.unwrap_or(dropping), "{servers:?}");
        }
    }

    proptest! {
        /// Without damping the verdict is what the runs of equal results say.
        #[test]
        fn the_verdict_changes_exactly_after_a_full_run(
            rise in 1u32..5, fall in 1u32..5, results in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let (mut now, rules) = (Instant::now(), rules(rise, fall));
            let mut state = State::new(now);
            let (mut expected, mut run) = (Verdict::Unknown, 0);
            let mut last = None;
            for success in results {
                // Far enough apart that nothing flaps.
                now += FLAP_WINDOW;
                run = if last == Some(success) { run + 1 } else { 1 };
                last = Some(success);
                expected = match (expected, success) {
                    (Verdict::Unknown, true) => Verdict::Up,
                    (Verdict::Down, true) if run >= rise => Verdict::Up,
                    (Verdict::Unknown | Verdict::Up, false) if run >= fall => Verdict::Down,
                    (same, _) => same,
                };
                state.judge(success, &rules, now);
                prop_assert_eq!(state.verdict, expected);
            }
        }

        /// Whatever happens and when: nobody who is held comes up before the hold is over, counted from the last
        /// failure; and the hold is within its bounds.
        #[test]
        fn nobody_comes_up_before_the_hold_is_over(
            rise in 1u32..4, fall in 1u32..4, results in prop::collection::vec((any::<bool>(), 1u64..5_000), 0..400),
        ) {
            let (mut now, rules) = (Instant::now(), rules(rise, fall));
            let mut state = State::new(now);
            let mut failed = now;
            for (success, millis) in results {
                now += Duration::from_millis(millis);
                let before = state.verdict;
                state.judge(success, &rules, now);
                if !success {
                    failed = now;
                    prop_assert!(state.verdict != Verdict::Held);
                }
                if let Some(hold) = state.hold() {
                    prop_assert!((FLAP_HOLD_FIRST..=FLAP_HOLD_LAST).contains(&hold));
                    let rose = before != Verdict::Up && state.verdict == Verdict::Up;
                    prop_assert!(!rose || before == Verdict::Unknown || now - failed >= hold);
                }
            }
        }
    }
}
