//! One wanted address: what is known of it, what the caller was told, and when the kernel is to be asked next.
//!
//! Pure: events go in with the time they happened; nothing here speaks to the kernel.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use super::Upkeep;
use super::change::{Detour, What, Why};
use super::kernel::{Seen, Standing};
use crate::limits::{NEIGHBOUR_FAILURE_SETTLES, NEIGHBOUR_REFRESH, NEIGHBOUR_RETRY_FIRST, NEIGHBOUR_RETRY_LAST};
use crate::plan::Mac;

#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    /// The device the address is on: the interface or a VLAN on it.
    pub device: Option<u32>,
    /// When to ask the kernel next. `None`: only when something happens.
    pub due: Option<Instant>,
    pub asking: bool,
    mac: Option<Mac>,
    why: Option<Why>,
    told: (Option<Mac>, Option<Why>),
    /// The entry failed or was deleted: the MAC stays until then, and is then lost for that reason.
    lapses: Option<(Instant, Why)>,
    asked: Option<Instant>,
    /// How long to wait after the next question before the one after it.
    wait: Duration,
}

impl Entry {
    pub fn new(name: String, now: Instant) -> Entry {
        Entry {
            name,
            device: None,
            due: Some(now),
            asking: false,
            mac: None,
            why: None,
            told: (None, None),
            lapses: None,
            asked: None,
            wait: NEIGHBOUR_RETRY_FIRST,
        }
    }

    pub fn mac(&self) -> Option<Mac> {
        self.mac
    }

    pub fn detour(&self) -> Option<&Detour> {
        match &self.why {
            Some(Why::OffLink(detour)) => Some(detour),
            _ => None,
        }
    }

    /// The kernel is being asked now. Asks again after a wait, doubled each time, unless something is heard.
    pub fn ask(&mut self, now: Instant) {
        if let Some((_, why)) = self.lapses.take_if(|(at, _)| *at <= now) {
            self.lose(why);
        }
        self.asking = true;
        self.asked = Some(now);
        self.due = Some(now + self.wait);
        if let Some((at, _)) = self.lapses {
            self.due = self.due.min(Some(at));
        }
        self.wait = (self.wait * 2).min(NEIGHBOUR_RETRY_LAST);
    }

    fn lose(&mut self, why: Why) {
        self.mac = None;
        self.why = Some(why);
        self.lapses = None;
    }

    /// The kernel's entry is, or has become, this.
    pub fn hear(&mut self, seen: &Seen, upkeep: Upkeep, now: Instant) {
        match seen.standing {
            Standing::Usable(mac) => {
                self.mac = Some(mac);
                self.why = None;
                self.lapses = None;
                self.wait = NEIGHBOUR_RETRY_FIRST;
                self.due = match upkeep {
                    _ if seen.foreign => None,
                    Upkeep::Kernel if seen.managed => None,
                    Upkeep::Kernel => Some(self.soonest(now)),
                    Upkeep::Ours => Some(now + refresh()),
                };
            }
            // A deletion by the operator comes as a failure and then, at once, a deletion (`neigh_delete`): tell them apart.
            Standing::Failed if self.mac.is_some() => {
                let at = now + NEIGHBOUR_FAILURE_SETTLES;
                if self.lapses.is_none() {
                    self.lapses = Some((at, Why::Unanswered));
                    self.due = Some(at);
                }
            }
            Standing::Failed => {
                self.why = Some(Why::Unanswered);
                self.due.get_or_insert(now + self.wait);
            }
            Standing::Asking => {
                self.due.get_or_insert(now + self.wait);
            }
        }
    }

    /// The kernel's entry is gone: it is asked for again at once.
    pub fn vanish(&mut self, now: Instant) {
        if self.mac.is_some() && !matches!(self.lapses, Some((_, Why::Deleted))) {
            self.lapses = Some((now + NEIGHBOUR_RETRY_FIRST, Why::Deleted));
        }
        self.wait = NEIGHBOUR_RETRY_FIRST;
        self.hasten(now);
    }

    /// The kernel would not take the question. What is known stays, as long as there was no reason to ask.
    pub fn refuse(&mut self, why: Why) {
        if self.mac.is_none() || self.lapses.is_some() {
            self.lose(why);
        }
    }

    /// The address is not on the link. The route is looked up again now and then.
    pub fn detach(&mut self, detour: Detour) {
        self.device = None;
        self.lose(Why::OffLink(detour));
    }

    /// The device went down or away. Nothing is asked until `hasten`.
    pub fn cut(&mut self, why: Why) {
        self.lose(why);
        self.due = None;
        self.wait = NEIGHBOUR_RETRY_FIRST;
    }

    /// Ask as soon as the pace allows.
    pub fn hasten(&mut self, now: Instant) {
        self.due = Some(self.soonest(now));
    }

    fn soonest(&self, now: Instant) -> Instant {
        self.asked.map_or(now, |asked| now.max(asked + NEIGHBOUR_RETRY_FIRST))
    }

    /// What has changed since the last call, if anything.
    pub fn tell(&mut self) -> Option<What> {
        let told = std::mem::replace(&mut self.told, (self.mac, self.why.clone()));
        match (told, (self.mac, &self.why)) {
            ((None, _), (Some(mac), _)) => Some(What::Resolved(mac)),
            ((Some(from), _), (Some(to), _)) if from != to => Some(What::Changed { from, to }),
            ((Some(was), _), (None, Some(why))) => Some(What::Lost { was, why: why.clone() }),
            ((None, before), (None, Some(why))) if before.as_ref() != Some(why) => Some(What::Unresolved(why.clone())),
            _ => None,
        }
    }
}

/// `NEIGHBOUR_REFRESH`, up to a quarter more or less, so that many neighbours do not fall due together.
fn refresh() -> Duration {
    let share = RandomState::new().hash_one(0) as u32 as f64 / f64::from(u32::MAX);
    NEIGHBOUR_REFRESH.mul_f64(0.75 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const SECOND: Duration = Duration::from_secs(1);

    fn usable(mac: Mac) -> Seen {
        Seen { standing: Standing::Usable(mac), managed: true, ours: true, foreign: false }
    }

    const FAILED: Seen = Seen { standing: Standing::Failed, managed: true, ours: true, foreign: false };
    const ASKING: Seen = Seen { standing: Standing::Asking, managed: true, ours: true, foreign: false };

    fn resolved(now: Instant) -> Entry {
        let mut entry = Entry::new("web1".into(), now);
        entry.ask(now);
        entry.hear(&usable(A), Upkeep::Kernel, now);
        assert_eq!(entry.tell(), Some(What::Resolved(A)));
        entry
    }

    #[test]
    fn one_that_does_not_answer_is_asked_after_1_2_4_8_8_seconds() {
        let mut now = Instant::now();
        let mut entry = Entry::new("web1".into(), now);
        let mut waits = Vec::new();
        for _ in 0..5 {
            entry.ask(now);
            entry.hear(&ASKING, Upkeep::Kernel, now);
            entry.hear(&FAILED, Upkeep::Kernel, now);
            let due = entry.due.unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 8]);
        assert_eq!(entry.tell(), Some(What::Unresolved(Why::Unanswered)));
        assert_eq!(entry.tell(), None, "said once");
    }

    #[test]
    fn a_failure_is_lost_a_moment_later_and_asked_again_at_once() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.hear(&FAILED, Upkeep::Kernel, now);
        assert_eq!((entry.tell(), entry.mac()), (None, Some(A)));
        let due = entry.due.unwrap();
        assert_eq!(due, now + NEIGHBOUR_FAILURE_SETTLES);
        entry.ask(due);
        assert_eq!(entry.tell(), Some(What::Lost { was: A, why: Why::Unanswered }));
        assert_eq!(entry.due, Some(due + SECOND));
    }

    #[test]
    fn a_deleted_entry_keeps_its_mac_for_the_time_of_one_retry() {
        let asked = Instant::now();
        let now = asked + 10 * SECOND;
        for failure_first in [false, true] {
            let mut entry = resolved(asked);
            if failure_first {
                entry.hear(&FAILED, Upkeep::Kernel, now);
            }
            entry.vanish(now);
            assert_eq!(entry.due, Some(now), "asked at once");
            entry.ask(now);
            entry.hear(&ASKING, Upkeep::Kernel, now);
            assert_eq!((entry.tell(), entry.mac()), (None, Some(A)));
            let mut answered = resolved(asked);
            answered.vanish(now);
            answered.ask(now);
            answered.hear(&usable(B), Upkeep::Kernel, now);
            assert_eq!(answered.tell(), Some(What::Changed { from: A, to: B }));

            entry.ask(now + SECOND);
            assert_eq!(entry.tell(), Some(What::Lost { was: A, why: Why::Deleted }));
        }
    }

    #[test]
    fn an_entry_deleted_over_and_over_is_not_asked_for_more_than_once_a_second() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.vanish(now);
        assert_eq!(entry.due, Some(now + SECOND));
    }

    #[test]
    fn what_the_kernel_or_the_operator_keeps_is_not_asked_for_and_the_rest_is() {
        let now = Instant::now();
        let mut entry = resolved(now);
        assert_eq!(entry.due, None);
        entry.hear(&Seen { managed: false, foreign: true, ..usable(B) }, Upkeep::Kernel, now);
        assert_eq!(entry.due, None);
        entry.hear(&Seen { managed: false, ..usable(A) }, Upkeep::Kernel, now);
        assert_eq!(entry.due, Some(now + SECOND), "somebody took the flag off");
        entry.hear(&Seen { managed: false, ..usable(A) }, Upkeep::Ours, now);
        let refresh = entry.due.unwrap() - now;
        assert!(refresh >= NEIGHBOUR_REFRESH * 3 / 4 && refresh <= NEIGHBOUR_REFRESH * 5 / 4, "{refresh:?}");
    }

    #[test]
    fn a_refusal_takes_no_mac_that_is_known_to_be_good() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.refuse(Why::TableFull { ipv6: false });
        assert_eq!(entry.tell(), None);
        entry.vanish(now);
        entry.refuse(Why::TableFull { ipv6: false });
        let Some(What::Lost { why, .. }) = entry.tell() else { panic!() };
        assert!(why.to_string().contains("net.ipv4.neigh.default.gc_thresh3"), "{why}");
    }

    #[test]
    fn what_comes_and_goes_between_two_tellings_is_not_told() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.cut(Why::LinkDown { device: "lan0".into() });
        assert_eq!(entry.due, None);
        entry.hear(&usable(A), Upkeep::Kernel, now);
        assert_eq!(entry.tell(), None);
    }
}
