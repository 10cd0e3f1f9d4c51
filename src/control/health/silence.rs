//! Whether most servers are silent, of those that are not known to be down; over IPv4, and over IPv6. Counted as it changes: when
//! thousands fail at once, nobody goes through all of them at each failure.

use super::check::Check;
use super::observer::Evidence;
use super::state::Verdict;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    silent: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    ipv4: Count,
    ipv6: Count,
}

/// What one check is counted as.
#[derive(Clone, Copy)]
pub(super) struct Part {
    ipv4: bool,
    all: bool,
    silent: bool,
}

impl Part {
    pub fn of(check: &Check) -> Part {
        let all = check.is_on && check.state.verdict != Verdict::Down;
        Part { ipv4: check.is_of(true), all, silent: all && check.stalled == Some(Evidence::Silence) }
    }
}

impl Silence {
    pub fn of<'c>(checks: impl Iterator<Item = &'c Check>) -> Silence {
        let mut silence = Silence::default();
        checks.map(Part::of).for_each(|part| silence.add(part));
        silence
    }

    fn count(&mut self, ipv4: bool) -> &mut Count {
        if ipv4 { &mut self.ipv4 } else { &mut self.ipv6 }
    }

    fn add(&mut self, part: Part) {
        let count = self.count(part.ipv4);
        count.all += usize::from(part.all);
        count.silent += usize::from(part.silent);
    }

    /// A check that was one thing is another now.
    pub fn change(&mut self, before: Part, after: Part) {
        let count = self.count(before.ipv4);
        count.all -= usize::from(before.all);
        count.silent -= usize::from(before.silent);
        self.add(after);
    }

    pub fn is_with_most(&self, ipv4: bool) -> bool {
        let Count { all, silent } = if ipv4 { self.ipv4 } else { self.ipv6 };
        all > 2 && 2 * silent > all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Server, Tags};
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::{Duration, Instant};

    fn check(ipv4: bool) -> Check {
        let address = if ipv4 { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
        let server =
            Server { name: "a".into(), address, mac: None, weight: 1, tags: Tags::AsReceived, quic_ids: Vec::new() };
        Check::new(server, address, Instant::now(), Duration::from_secs(1))
    }

    proptest! {
        #[test]
        fn what_is_counted_as_it_changes_is_what_is_there(
            families in prop::collection::vec(any::<bool>(), 1..8),
            changes in prop::collection::vec((
                any::<prop::sample::Index>(),
                select(&[Verdict::Unknown, Verdict::Up, Verdict::Held, Verdict::Down][..]),
                select(&[None, Some(Evidence::Stalls), Some(Evidence::Silence)][..]),
            ), 0..40),
        ) {
            let mut checks: Vec<Check> = families.into_iter().map(check).collect();
            let mut silence = Silence::of(checks.iter());
            for (at, verdict, stalled) in changes {
                let check = at.get_mut(&mut checks);
                let before = Part::of(check);
                (check.state.verdict, check.stalled) = (verdict, stalled);
                silence.change(before, Part::of(check));
                prop_assert_eq!(&silence, &Silence::of(checks.iter()));
            }
            for ipv4 in [true, false] {
                let counted = || checks.iter().filter(|check| check.is_of(ipv4) && check.state.verdict != Verdict::Down);
                let silent = counted().filter(|check| check.stalled == Some(Evidence::Silence)).count();
                prop_assert_eq!(silence.is_with_most(ipv4), counted().count() > 2 && 2 * silent > counted().count());
            }
        }
    }
}
