//! Who checks what, where not everybody checks everything: of each server those members that score highest, by rendezvous hashing
//! (Thaler and Ravishankar, 1998). All that know the same members say the same; when one goes, only what it has checked goes to others.

use crate::hash::{Key, siphash, splitmix};

/// Of a member, or of a server of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    pub fn member(key: Key, name: &str) -> Mark {
        Mark(siphash::bytes(key, format!("member {name}").as_bytes()))
    }

    /// Names have no spaces.
    pub fn server(key: Key, service: &str, server: &str) -> Mark {
        Mark(siphash::bytes(key, format!("server {service} {server}").as_bytes()))
    }

    /// Both are hashes already, and only need to be mixed.
    fn score(self, server: Mark) -> u64 {
        splitmix::mix(self.0 ^ server.0)
    }
}

/// Whether a member is one of the `most` that check a server.
pub fn is_mine(own: Mark, others: &[Mark], server: Mark, most: usize) -> bool {
    let score = own.score(server);
    others.len() < most || others.iter().filter(|other| other.score(server) > score).take(most).count() < most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HashKey;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::from(HashKey([7; 16]))
    }

    fn members(count: usize) -> Vec<Mark> {
        (0..count).map(|at| Mark::member(key(), &format!("d{at}"))).collect()
    }

    /// Who checks it, each by itself.
    fn checkers(members: &[Mark], server: Mark, most: usize) -> Vec<Mark> {
        let others = |own: Mark| members.iter().copied().filter(|it| *it != own).collect::<Vec<_>>();
        members.iter().copied().filter(|own| is_mine(*own, &others(*own), server, most)).collect()
    }

    /// By sorting.
    fn naive(members: &[Mark], server: Mark, most: usize) -> Vec<Mark> {
        let mut sorted = members.to_vec();
        sorted.sort_by_key(|member| std::cmp::Reverse(member.score(server)));
        sorted.truncate(most);
        sorted
    }

    proptest! {
        #[test]
        fn as_many_as_wanted_check_a_server_and_who_stays_goes_on_when_one_goes(
            count in 1usize..12, most in 1usize..5, server in "[a-z]{1,6}", gone in any::<prop::sample::Index>(),
        ) {
            let (mut members, server) = (members(count), Mark::server(key(), "web", &server));
            let before = checkers(&members, server, most);
            prop_assert_eq!(before.len(), most.min(count));
            let named = naive(&members, server, most);
            prop_assert!(before.iter().all(|member| named.contains(member)));
            let gone = members.remove(gone.index(count));
            let after = checkers(&members, server, most);
            prop_assert!(before.iter().filter(|member| **member != gone).all(|member| after.contains(member)));
        }
    }

    #[test]
    fn everybody_has_its_share() {
        let members = members(20);
        let mut shares = vec![0usize; members.len()];
        for server in (0..4000).map(|at| Mark::server(key(), "web", &format!("web{at}"))) {
            for checker in naive(&members, server, 3) {
                shares[members.iter().position(|it| *it == checker).expect("a member")] += 1;
            }
        }
        let (least, most) = (shares.iter().min(), shares.iter().max());
        // 600 each on average; the standard deviation is 23.
        assert!(least > Some(&500) && most < Some(&700), "{shares:?}");
    }
}
