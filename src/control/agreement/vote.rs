//! What becomes of what members find of one server. Pure: the same votes make the same verdict, in whatever order they came.
//!
//! Findings have an order, `Down < Held < Up`, and what counts is the middle one: what more than half find, or find at least. Where an
//! even number leaves two of them in the middle, what counted before stays if it lies between them; else the nearer one counts.
//!
//! | members find        | before  | counts             |
//! |---------------------|---------|--------------------|
//! | nothing             | any     | as before          |
//! | up, up, down        | any     | up                 |
//! | up, down, down      | any     | down               |
//! | up, held, down      | any     | held               |
//! | up, down            | any     | as before (a tie)  |
//! | held, down          | up      | held               |

use crate::control::health::Verdict;

/// What a member finds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    Down,
    Held,
    Up,
}

impl Finding {
    pub const ALL: [Finding; 3] = [Finding::Down, Finding::Held, Finding::Up];

    /// `None`: nothing is known yet.
    pub fn of(verdict: Verdict) -> Option<Finding> {
        match verdict {
            Verdict::Unknown => None,
            Verdict::Up => Some(Finding::Up),
            Verdict::Held => Some(Finding::Held),
            Verdict::Down => Some(Finding::Down),
        }
    }
}

impl From<Finding> for Verdict {
    fn from(finding: Finding) -> Verdict {
        match finding {
            Finding::Down => Verdict::Down,
            Finding::Held => Verdict::Held,
            Finding::Up => Verdict::Up,
        }
    }
}

/// How many members find what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Votes([u16; 3]);

impl Votes {
    pub fn add(&mut self, finding: Option<Finding>) {
        finding.into_iter().for_each(|finding| self.0[finding as usize] += 1);
    }

    pub fn take_back(&mut self, finding: Option<Finding>) {
        finding.into_iter().for_each(|finding| self.0[finding as usize] -= 1);
    }

    pub fn with(mut self, finding: Option<Finding>) -> Votes {
        self.add(finding);
        self
    }

    pub fn of(self, finding: Finding) -> usize {
        self.0[finding as usize].into()
    }

    pub fn all(self) -> usize {
        self.0.into_iter().map(usize::from).sum()
    }

    /// In order, counted from 0.
    fn at(self, place: usize) -> Finding {
        let [down, held, _] = self.0.map(usize::from);
        match place {
            place if place < down => Finding::Down,
            place if place < down + held => Finding::Held,
            _ => Finding::Up,
        }
    }

    /// What counts, given what counted before. A server that nothing is known of counts as up.
    pub fn verdict(self, before: Verdict) -> Verdict {
        let Some(last) = self.all().checked_sub(1) else { return before };
        let (lower, upper) = (self.at(last / 2), self.at(last.div_ceil(2)));
        let known = Finding::of(before).unwrap_or(Finding::Up);
        match lower < upper && (lower..=upper).contains(&known) {
            true => before,
            false => known.clamp(lower, upper).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn votes(findings: &[Finding]) -> Votes {
        findings.iter().fold(Votes::default(), |votes, finding| votes.with(Some(*finding)))
    }

    /// By the book: the highest and the lowest go, until one or two are left.
    fn naive(findings: &[Finding], before: Verdict) -> Verdict {
        let mut left = findings.to_vec();
        while left.len() > 2 {
            let (lowest, highest) = (*left.iter().min().expect("some"), *left.iter().max().expect("some"));
            for gone in [lowest, highest] {
                left.swap_remove(left.iter().position(|it| *it == gone).expect("it is there"));
            }
        }
        left.sort_unstable();
        match (&left[..], before) {
            ([], before) => before,
            ([only], _) => (*only).into(),
            ([one, other], _) if one == other => (*one).into(),
            ([_, Finding::Up], Verdict::Unknown) => before,
            ([_, highest], Verdict::Unknown) => (*highest).into(),
            ([lowest, highest], before) => match Finding::of(before).expect("known") {
                known if known < *lowest => (*lowest).into(),
                known if known > *highest => (*highest).into(),
                _ => before,
            },
            _ => unreachable!("two at most are left"),
        }
    }

    fn findings() -> impl Strategy<Value = Vec<Finding>> {
        prop::collection::vec(select(&Finding::ALL[..]), 0..12)
    }

    fn before() -> impl Strategy<Value = Verdict> {
        select(&[Verdict::Unknown, Verdict::Up, Verdict::Held, Verdict::Down][..])
    }

    proptest! {
        #[test]
        fn what_counts_is_the_middle_one_whatever_the_order(
            (there, shuffled) in findings().prop_flat_map(|there| (Just(there.clone()), Just(there).prop_shuffle())),
            before in before(),
        ) {
            let counts = votes(&there).verdict(before);
            prop_assert_eq!(counts, naive(&there, before));
            prop_assert_eq!(counts, votes(&shuffled).verdict(before));
            // Once it counts, it stays.
            prop_assert_eq!(votes(&there).verdict(counts), counts);
        }

        #[test]
        fn what_more_than_half_find_counts(there in findings(), before in before()) {
            let votes = votes(&there);
            for finding in Finding::ALL {
                if 2 * votes.of(finding) > votes.all() {
                    prop_assert_eq!(votes.verdict(before), Verdict::from(finding));
                }
            }
            // No more than half: it is neither taken out nor back for them.
            let (up, all) = (votes.of(Finding::Up), votes.all());
            if 2 * up >= all && matches!(before, Verdict::Up | Verdict::Unknown) {
                prop_assert!(matches!(votes.verdict(before), Verdict::Up | Verdict::Unknown));
            }
            if 2 * up <= all && all > 0 && matches!(before, Verdict::Down | Verdict::Held) {
                prop_assert!(matches!(votes.verdict(before), Verdict::Down | Verdict::Held));
            }
        }

        #[test]
        fn one_alone_changes_nothing_and_neither_does_the_loss_of_members_that_agree(
            all in 2u16..200, agreed in select(&Finding::ALL[..]), other in select(&Finding::ALL[..]), gone in 0u16..200,
        ) {
            let mut votes = Votes::default();
            (0..all).for_each(|_| votes.add(Some(agreed)));
            let counts = votes.verdict(Verdict::Unknown);
            prop_assert_eq!(counts, Verdict::from(agreed));
            votes.add(Some(other));
            prop_assert_eq!(votes.verdict(counts), counts);
            // All but one of them may go: a tie is left.
            (0..gone.min(all - 1)).for_each(|_| votes.take_back(Some(agreed)));
            prop_assert_eq!(votes.verdict(counts), counts);
            votes.take_back(Some(other));
            prop_assert_eq!(votes.verdict(counts), counts);
        }
    }

    #[test]
    fn the_table_of_the_header_holds() {
        use Finding::{Down, Held, Up};
        for (there, before, counts) in [
            (&[][..], Verdict::Down, Verdict::Down),
            (&[][..], Verdict::Unknown, Verdict::Unknown),
            (&[Up, Up, Down], Verdict::Down, Verdict::Up),
            (&[Up, Down, Down], Verdict::Up, Verdict::Down),
            (&[Up, Held, Down], Verdict::Up, Verdict::Held),
            (&[Up, Down], Verdict::Up, Verdict::Up),
            (&[Up, Down], Verdict::Down, Verdict::Down),
            (&[Up, Down], Verdict::Unknown, Verdict::Unknown),
            (&[Held, Down], Verdict::Up, Verdict::Held),
            (&[Up], Verdict::Unknown, Verdict::Up),
        ] {
            assert_eq!(votes(there).verdict(before), counts, "{there:?}, before {before:?}");
        }
    }
}
