//! Whether this host can be trusted to judge: its link, its process, and whether anybody answers it at all.
//!
//! A server that is silent and a host that hears nothing look the same from here. So silence counts as a failure only once
//! *another* server has answered a probe that began later; a silence that is followed by the next one before that counts for
//! nothing. An answer is anything that comes from the server, a refusal too. A server that takes the connection and then says
//! nothing is measured by the others of its service: what they all wait for may be one database. IPv4 and IPv6 are looked at each
//! by itself: a route or a rule that is wrong is of one of them.
//!
//! What a server on this host itself answers (in broadcast mode, the one of the filter) proves nothing.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Instant;

use crate::limits::{HEALTH_BEAT, HEALTH_LATE};

/// What came of a probe, as far as it says something of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The server serves.
    Serves,
    /// It answered, if only to refuse.
    Answers,
    /// It took the connection, and then said nothing.
    Stalls,
    /// Nothing came.
    Silence,
}

impl Evidence {
    /// Whether a failure of this kind counts only beside others who do better.
    pub fn needs_witness(self) -> bool {
        matches!(self, Evidence::Stalls | Evidence::Silence)
    }
}

/// What is seen over IPv4, or over IPv6.
#[derive(Clone, Copy, Default)]
struct View {
    /// The latest probes that were answered, by when they began: of two servers, so that each has another one's.
    answered: [Option<(IpAddr, Instant)>; 2],
    /// Since when nobody answers, or could.
    isolated: Option<Instant>,
}

pub(super) struct Observer {
    ipv4: View,
    ipv6: View,
    /// Addresses of this host.
    local: HashSet<IpAddr>,
    /// When this process was last seen to go on.
    alive: Instant,
    /// Until when it stood still, the last time.
    stood_still: Option<Instant>,
    /// Since when there was no link.
    without_link: Option<Instant>,
    /// When the link came the last time.
    linked: Option<Instant>,
}

impl Observer {
    pub fn new(now: Instant) -> Observer {
        Observer {
            ipv4: View::default(),
            ipv6: View::default(),
            local: HashSet::new(),
            alive: now,
            stood_still: None,
            without_link: None,
            linked: None,
        }
    }

    pub fn set_local(&mut self, local: HashSet<IpAddr>) {
        self.local = local;
    }

    pub fn is_local(&self, server: IpAddr) -> bool {
        self.local.contains(&server)
    }

    /// Notes that this process goes on, which it should have done by `planned` at the latest.
    pub fn go_on(&mut self, planned: Instant, now: Instant) {
        let since = planned.max(self.alive + HEALTH_BEAT);
        if now.saturating_duration_since(since) > HEALTH_LATE {
            self.stood_still = Some(now);
        }
        self.alive = now;
    }

    /// Whether the link has changed.
    pub fn set_link(&mut self, up: bool, now: Instant) -> bool {
        if up == self.without_link.is_none() {
            return false;
        }
        if up {
            (self.without_link, self.linked) = (None, Some(now));
        } else {
            self.without_link = Some(now);
            self.views().for_each(|view| _ = view.isolated.get_or_insert(now));
        }
        true
    }

    pub fn has_link(&self) -> bool {
        self.without_link.is_none()
    }

    /// Why nothing can be said of a probe that began then and was not answered; `None`: it was this host's to see.
    pub fn excuse(&self, began: Instant, interface: &str) -> Option<String> {
        if !self.has_link() || self.linked.is_some_and(|linked| began <= linked) {
            return Some(format!("{interface} is down or was a moment ago"));
        }
        let still = self.stood_still.is_some_and(|until| began <= until);
        still.then(|| "this process stood still for a while".to_owned())
    }

    fn views(&mut self) -> impl Iterator<Item = &mut View> {
        [&mut self.ipv4, &mut self.ipv6].into_iter()
    }

    fn view(&mut self, ipv4: bool) -> &mut View {
        if ipv4 { &mut self.ipv4 } else { &mut self.ipv6 }
    }

    /// A server answered a probe that began then. Whether that ends an isolation.
    pub fn hear(&mut self, server: IpAddr, ipv4: bool, began: Instant) -> bool {
        if self.is_local(server) {
            return false;
        }
        let has_link = self.has_link();
        let View { answered: [first, second], isolated } = self.view(ipv4);
        let newer = |than: &Option<(IpAddr, Instant)>| than.is_none_or(|(_, at)| began >= at);
        if first.is_none_or(|(address, _)| address == server) {
            if newer(first) {
                *first = Some((server, began));
            }
        } else if newer(first) {
            (*second, *first) = (*first, Some((server, began)));
        } else if newer(second) {
            *second = Some((server, began));
        }
        has_link && isolated.take().is_some()
    }

    /// Whether another server has answered a probe that began then or later.
    pub fn has_witness(&self, server: IpAddr, ipv4: bool, since: Instant) -> bool {
        let View { answered, .. } = if ipv4 { &self.ipv4 } else { &self.ipv6 };
        answered.iter().flatten().any(|(address, began)| *address != server && *began >= since)
    }

    /// Nobody answers. Whether that is new.
    pub fn isolate(&mut self, ipv4: bool, now: Instant) -> bool {
        let isolated = &mut self.view(ipv4).isolated;
        isolated.replace(isolated.unwrap_or(now)).is_none()
    }

    /// There is nobody who could answer.
    pub fn is_alone(&mut self, ipv4: bool) {
        if self.has_link() {
            self.view(ipv4).isolated = None;
        }
    }

    /// Whether nobody answers over that family.
    pub fn is_isolated(&self, ipv4: bool) -> bool {
        let view = if ipv4 { &self.ipv4 } else { &self.ipv6 };
        view.isolated.is_some()
    }

    /// Since when, over either of them.
    pub fn isolated(&self) -> Option<Instant> {
        self.ipv4.isolated.into_iter().chain(self.ipv6.isolated).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn server(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    #[test]
    fn a_process_that_stood_still_has_seen_nothing_meanwhile() {
        let begin = Instant::now();
        let mut observer = Observer::new(begin);
        let later = |ms| begin + Duration::from_millis(ms);
        observer.go_on(later(10), later(20));
        assert_eq!(observer.excuse(begin, "eth1"), None);
        // It slept as long as it meant to.
        observer.go_on(later(5000), later(5001));
        assert_eq!(observer.excuse(later(4900), "eth1"), None);
        observer.go_on(later(5010), later(5400));
        let why = observer.excuse(later(5100), "eth1");
        assert_eq!(why.as_deref(), Some("this process stood still for a while"));
        assert_eq!(observer.excuse(later(5401), "eth1"), None);
    }

    #[test]
    fn without_a_link_nothing_is_seen_until_it_is_back_and_somebody_answers() {
        let begin = Instant::now();
        let mut observer = Observer::new(begin);
        let later = |ms| begin + Duration::from_millis(ms);
        assert!(!observer.set_link(true, begin), "it is up already");
        assert!(observer.set_link(false, later(100)));
        let why = observer.excuse(later(50), "eth1");
        assert_eq!(why.as_deref(), Some("eth1 is down or was a moment ago"));
        assert!(observer.set_link(true, later(200)));
        assert!(observer.excuse(later(150), "eth1").is_some() && observer.excuse(later(201), "eth1").is_none());
        assert_eq!(observer.isolated(), Some(later(100)), "until somebody answers");
        observer.set_local(HashSet::from([server(9)]));
        assert!(!observer.hear(server(9), true, later(210)), "this host itself proves nothing");
        assert!(observer.hear(server(1), true, later(220)) && observer.isolated().is_some(), "over IPv6 still");
        observer.is_alone(false);
        assert!(observer.isolated().is_none(), "there is nobody to be asked");
        assert!(!observer.hear(server(2), true, later(230)), "once");
    }

    proptest! {
        /// Against all answers that there were.
        #[test]
        fn a_witness_is_another_server_that_answered_later(
            answers in prop::collection::vec((0u8..4, 0u64..50), 0..40), asker in 0u8..4, since in 0u64..50,
        ) {
            let begin = Instant::now();
            let later = |ms| begin + Duration::from_millis(ms);
            let mut observer = Observer::new(begin);
            let mut latest: HashMap<u8, u64> = HashMap::new();
            for (number, at) in answers {
                observer.hear(server(number), true, later(at));
                observer.hear(server(9), false, later(60));
                let known = latest.entry(number).or_insert(at);
                *known = at.max(*known);
            }
            let expected = latest.iter().any(|(number, at)| *number != asker && *at >= since);
            prop_assert_eq!(observer.has_witness(server(asker), true, later(since)), expected);
        }
    }
}
