//! One wanted address: what is known of it, what the caller was told, and when the kernel is to be asked next.
//!
//! Pure: events go in with the time they happened; nothing here speaks to the kernel.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use super::Upkeep;
use super::change::{Detour, What, Why};
use super::kernel::{Reachability, Seen};
use crate::limits::{NEIGHBOUR_FAILURE_SETTLES, NEIGHBOUR_REFRESH, NEIGHBOUR_RETRY_FIRST, NEIGHBOUR_RETRY_LAST};
use crate::model::Mac;

#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    /// The device the address is on: an interface or a VLAN on it.
    pub device: Option<u32>,
    /// The position of that interface, the last one that was known; and what of it was told.
    link: Option<usize>,
    told_link: Option<usize>,
    /// When to ask the kernel next. `None`: only when something happens.
    pub due: Option<Instant>,
    pub asking: bool,
    /// The last one that was heard of.
    mac: Option<Mac>,
    /// Why the kernel does not know the MAC, and since when.
    why: Option<(Why, Instant)>,
    told: (Option<Mac>, Option<Why>),
    /// The entry failed, was deleted, or is verified: the MAC is confirmed until then, and then not, for that reason.
    lapses: Option<(Instant, Why)>,
    /// The operator or another program maintains the kernel's entry.
    foreign: bool,
    /// The next question makes the kernel forget what it knows.
    doubted: bool,
    asked: Option<Instant>,
    /// How long to wait after the next question before the one after it.
    wait: Duration,
}

impl Entry {
    pub fn new(name: String, now: Instant) -> Entry {
        Entry {
            name,
            device: None,
            link: None,
            told_link: None,
            due: Some(now),
            asking: false,
            mac: None,
            why: None,
            told: (None, None),
            lapses: None,
            foreign: false,
            doubted: false,
            asked: None,
            wait: NEIGHBOUR_RETRY_FIRST,
        }
    }

    pub fn mac(&self) -> Option<Mac> {
        self.mac
    }

    pub fn link(&self) -> Option<usize> {
        self.link
    }

    /// The address is on that device, which leads to the interface at that position.
    pub fn attach(&mut self, device: u32, link: usize) {
        (self.device, self.link) = (Some(device), Some(link));
    }

    pub fn detour(&self) -> Option<&Detour> {
        match &self.why {
            Some((Why::OffLink(detour), _)) => Some(detour),
            _ => None,
        }
    }

    /// Why the kernel does not know its MAC, and since when.
    pub fn why(&self) -> Option<(&Why, Instant)> {
        self.why.as_ref().map(|(why, since)| (why, *since))
    }

    /// Whether the kernel is known to know its MAC.
    pub fn is_confirmed(&self) -> bool {
        self.mac.is_some() && self.why.is_none()
    }

    /// Somebody has reason to believe that the MAC is not right. The kernel is asked anew, unless it is asked already or the
    /// operator has said which it is.
    pub fn doubt(&mut self, now: Instant) {
        if self.is_confirmed() && self.lapses.is_none() && !self.foreign && self.device.is_some() {
            self.doubted = true;
            self.hasten(now);
        }
    }

    /// Whether the question that is put now shall make the kernel forget what it knows: its next question goes to everybody on
    /// the link, not to the MAC that is in doubt.
    pub fn take_doubt(&mut self, now: Instant) -> bool {
        let doubted = std::mem::take(&mut self.doubted) && self.is_confirmed() && !self.foreign;
        if doubted {
            self.wait = NEIGHBOUR_RETRY_FIRST;
            self.lapses = Some((now + NEIGHBOUR_RETRY_FIRST, Why::Unanswered));
            self.due = self.lapses.as_ref().map(|(at, _)| *at);
        }
        doubted
    }

    /// The kernel is being asked now. Asks again after a wait, doubled each time, unless something is heard.
    pub fn ask(&mut self, now: Instant) {
        if let Some((_, why)) = self.lapses.take_if(|(at, _)| *at <= now) {
            self.miss(why, now);
        }
        self.asking = true;
        self.asked = Some(now);
        self.due = Some(now + self.wait);
        if let Some((at, _)) = self.lapses {
            self.due = self.due.min(Some(at));
        }
        self.wait = (self.wait * 2).min(NEIGHBOUR_RETRY_LAST);
    }

    /// The kernel does not know the MAC. The last one stays: an entry fails for reasons that are not the server's, and frames
    /// to a MAC that is not there any more harm nobody.
    fn miss(&mut self, why: Why, now: Instant) {
        if self.why.as_ref().is_none_or(|(before, _)| *before != why) {
            self.why = Some((why, now));
        }
        self.lapses = None;
    }

    /// The kernel's entry is, or has become, this.
    pub fn hear(&mut self, seen: &Seen, upkeep: Upkeep, now: Instant) {
        self.foreign = seen.foreign;
        match seen.state {
            Reachability::Usable(mac) => {
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
            Reachability::Failed if self.is_confirmed() => {
                let at = now + NEIGHBOUR_FAILURE_SETTLES;
                if self.lapses.is_none() {
                    self.lapses = Some((at, Why::Unanswered));
                    self.due = Some(at);
                }
            }
            Reachability::Failed => {
                self.miss(Why::Unanswered, now);
                self.due.get_or_insert(now + self.wait);
            }
            Reachability::Asking => {
                self.due.get_or_insert(now + self.wait);
            }
        }
    }

    /// The kernel's entry is gone: it is asked for again at once.
    pub fn vanish(&mut self, now: Instant) {
        if self.is_confirmed() && !matches!(self.lapses, Some((_, Why::Deleted))) {
            self.lapses = Some((now + NEIGHBOUR_RETRY_FIRST, Why::Deleted));
        }
        self.foreign = false;
        self.wait = NEIGHBOUR_RETRY_FIRST;
        self.hasten(now);
    }

    /// The kernel would not take the question. What is known stays, as long as there was no reason to ask.
    pub fn refuse(&mut self, why: Why, now: Instant) {
        if !self.is_confirmed() || self.lapses.is_some() {
            self.miss(why, now);
        }
    }

    /// The address is not on the link. The route is looked up again now and then.
    pub fn detach(&mut self, detour: Detour, now: Instant) {
        self.device = None;
        self.miss(Why::OffLink(detour), now);
    }

    /// The device went down or away. Nothing is asked until `hasten`.
    pub fn cut(&mut self, why: Why, now: Instant) {
        self.miss(why, now);
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
        let why = self.why().map(|(why, _)| why.clone());
        let (mac_before, before) = std::mem::replace(&mut self.told, (self.mac, why.clone()));
        let has_moved = std::mem::replace(&mut self.told_link, self.link).is_some_and(|link| self.link != Some(link));
        match (mac_before, self.mac, why) {
            (Some(from), Some(to), _) if from != to || has_moved => Some(What::Changed { from, to }),
            (_, Some(mac), None) if mac_before.is_none() || before.is_some() => Some(What::Resolved(mac)),
            (_, Some(mac), Some(why)) if before.as_ref() != Some(&why) => Some(What::Unconfirmed { mac, why }),
            (_, None, Some(why)) if before.as_ref() != Some(&why) => Some(What::Unresolved(why)),
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
        Seen { state: Reachability::Usable(mac), managed: true, ours: true, foreign: false }
    }

    const FAILED: Seen = Seen { state: Reachability::Failed, managed: true, ours: true, foreign: false };
    const ASKING: Seen = Seen { state: Reachability::Asking, managed: true, ours: true, foreign: false };

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
    fn a_failure_is_told_a_moment_later_and_asked_again_at_once_and_the_mac_stays() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.hear(&FAILED, Upkeep::Kernel, now);
        assert_eq!((entry.tell(), entry.mac()), (None, Some(A)));
        let due = entry.due.unwrap();
        assert_eq!(due, now + NEIGHBOUR_FAILURE_SETTLES);
        entry.ask(due);
        assert_eq!(entry.tell(), Some(What::Unconfirmed { mac: A, why: Why::Unanswered }));
        assert_eq!(entry.due, Some(due + SECOND));
        entry.hear(&FAILED, Upkeep::Kernel, due + SECOND);
        assert_eq!((entry.tell(), entry.mac()), (None, Some(A)), "said once");
        assert_eq!(entry.why(), Some((&Why::Unanswered, due)), "since the first time");

        entry.hear(&usable(A), Upkeep::Kernel, due + 2 * SECOND);
        assert_eq!(entry.tell(), Some(What::Resolved(A)), "and so is its end");
        assert!(entry.is_confirmed());
    }

    #[test]
    fn a_doubted_mac_is_asked_for_anew_and_no_more_than_once_a_second() {
        let asked = Instant::now();
        let now = asked + 10 * SECOND;
        let mut entry = resolved(asked);
        entry.device = Some(1);
        assert!(!entry.take_doubt(now), "nobody doubts");
        entry.doubt(now);
        assert_eq!(entry.due, Some(now));
        entry.ask(now);
        assert!(entry.take_doubt(now));
        // What the kernel says while it forgets and asks is no news.
        entry.hear(&FAILED, Upkeep::Kernel, now);
        entry.hear(&ASKING, Upkeep::Kernel, now);
        assert_eq!((entry.tell(), entry.mac()), (None, Some(A)));
        let mut answered = resolved(asked);
        answered.hear(&usable(B), Upkeep::Kernel, now);
        assert_eq!(answered.tell(), Some(What::Changed { from: A, to: B }));

        entry.doubt(now);
        assert_eq!(entry.due, Some(now + SECOND), "it is asked already");
        entry.hear(&usable(A), Upkeep::Kernel, now);
        entry.doubt(now);
        assert_eq!((entry.tell(), entry.due), (None, Some(now + SECOND)));
    }

    #[test]
    fn a_doubt_that_nobody_answers_leaves_the_mac_unconfirmed() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.device = Some(1);
        entry.doubt(now);
        assert!(entry.take_doubt(now));
        entry.ask(now + SECOND);
        assert_eq!(entry.tell(), Some(What::Unconfirmed { mac: A, why: Why::Unanswered }));
        entry.doubt(now + 2 * SECOND);
        assert!(!entry.take_doubt(now + 2 * SECOND), "it is asked for now and then, as all that do not answer");
    }

    #[test]
    fn what_the_operator_made_permanent_is_not_doubted() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.device = Some(1);
        entry.hear(&Seen { managed: false, foreign: true, ..usable(A) }, Upkeep::Kernel, now);
        entry.doubt(now);
        assert_eq!((entry.due, entry.take_doubt(now)), (None, false));
    }

    #[test]
    fn a_deleted_entry_is_confirmed_for_the_time_of_one_retry() {
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
            assert_eq!(entry.tell(), Some(What::Unconfirmed { mac: A, why: Why::Deleted }));
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
        entry.refuse(Why::TableFull { ipv6: false }, now);
        assert_eq!(entry.tell(), None);
        entry.vanish(now);
        entry.refuse(Why::TableFull { ipv6: false }, now);
        let Some(What::Unconfirmed { mac: A, why }) = entry.tell() else { panic!() };
        assert!(why.to_string().contains("net.ipv4.neigh.default.gc_thresh3"), "{why}");
    }

    #[test]
    fn what_comes_and_goes_between_two_tellings_is_not_told() {
        let now = Instant::now();
        let mut entry = resolved(now);
        entry.cut(Why::LinkDown { device: "lan0".into() }, now);
        assert_eq!(entry.due, None);
        entry.hear(&usable(A), Upkeep::Kernel, now);
        assert_eq!(entry.tell(), None);
    }
}
