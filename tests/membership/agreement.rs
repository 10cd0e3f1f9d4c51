//! What dispatchers find, and what counts for all of them.

use oneip::config;
use oneip::control::agreement::{Agreement, Finding, Reason, Stance, View, Votes, count};
use oneip::control::health::Verdict;
use oneip::model::{Plan, Server, Tags};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;

const SERVERS: usize = 5;

/// Two services that are checked, one with a server that is leaving, and one that is not checked.
fn plan(reversed: bool) -> Plan {
    let servers = |count: usize| {
        let names =
            (0..count).map(|at| format!("[[service.server]]\nname = \"s{at}\"\naddress = \"192.0.2.{}\"\n", at + 1));
        let names: Vec<String> = if reversed { names.rev().collect() } else { names.collect() };
        names.concat()
    };
    let health = "[service.health]\ntype = \"icmp\"\n";
    let service = |name: &str, host: usize, health: &str| {
        format!("[[service]]\nname = \"{name}\"\naddress = \"203.0.113.{host}\"\n{}{health}", servers(SERVERS))
    };
    let text = format!(
        "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n[dispatcher]\ninterface = \"eth1\"\n{}{}{}",
        service("mail", 1, health),
        service("plain", 2, ""),
        service("web", 3, health)
    );
    let mut plan = config::parse(&text, "t.toml").expect("a configuration").plan;
    let (name, address) = ("gone".into(), [192, 0, 2, 99].into());
    let gone = Server { name, address, mac: None, weight: 0, tags: Tags::AsReceived, quic_ids: Vec::new() };
    plan.services[2].servers.push(gone);
    plan.services[2].leaving = 1;
    plan
}

fn view(agreement: &Agreement) -> View {
    View { finds: agreement.finds(), ..View::default() }
}

/// The services of which something else counts.
fn settled(member: &mut Agreement) -> Vec<usize> {
    member.settle().into_iter().filter_map(|(service, is_other)| is_other.then_some(service)).collect()
}

fn together(member: &str, check_by: Option<usize>) -> Agreement {
    let mut agreement = Agreement::new(&plan(false), member, check_by);
    agreement.set_stance(Stance::Together);
    agreement
}

const UP: Option<Finding> = Some(Finding::Up);
const DOWN: Option<Finding> = Some(Finding::Down);
/// The service `web`, and its second server.
const S1: (usize, usize) = (2, 1);

fn counts(agreement: &Agreement) -> Verdict {
    agreement.counts(S1.0, S1.1).expect("it is checked")
}

proptest! {
    /// Against all findings, counted by the book. Each member hears of the others in an order of its own.
    #[test]
    fn all_that_know_the_same_say_the_same_whatever_the_order(
        found in prop::collection::vec(
            prop::collection::vec(select(&[None, UP, Some(Finding::Held), DOWN][..]), 2 * SERVERS), 1..6),
        orders in prop::collection::vec(any::<prop::sample::Index>(), 36), gone in any::<prop::sample::Index>(),
    ) {
        let names: Vec<String> = (0..found.len()).map(|at| format!("d{at}")).collect();
        let mut members: Vec<Agreement> = names.iter().map(|name| together(name, None)).collect();
        for (member, found) in members.iter_mut().zip(&found) {
            for (at, finding) in found.iter().enumerate() {
                member.find(([0, 2][at / SERVERS], at % SERVERS), *finding);
            }
        }
        let views: Vec<View> = members.iter().map(view).collect();
        for (at, member) in members.iter_mut().enumerate() {
            let mut others: Vec<usize> = (0..found.len()).filter(|other| *other != at).collect();
            for other in 0..others.len() {
                let with = orders[at * 6 + other].index(others.len());
                others.swap(other, with);
            }
            for other in others {
                member.hear(&names[other], Some(views[other].clone())).expect("it fits");
            }
            member.settle();
        }
        let agree = |members: &[Agreement], found: &[Vec<Option<Finding>>]| {
            for at in 0..2 * SERVERS {
                let votes = found.iter().fold(Votes::default(), |votes, found| votes.with(found[at]));
                for member in members {
                    let counted = member.counts([0, 2][at / SERVERS], at % SERVERS).expect("it is checked");
                    // Once more changes nothing: it is what counts by these votes.
                    prop_assert_eq!(counted, votes.verdict(counted));
                    if votes.all() % 2 == 1 {
                        prop_assert_eq!(counted, votes.verdict(Verdict::Up));
                    }
                }
            }
            Ok(())
        };
        agree(&members, &found)?;
        // One goes: its votes are gone, with all that remains.
        let gone = gone.index(found.len());
        let mut left = found.clone();
        left.remove(gone);
        members.remove(gone);
        for member in &mut members {
            member.hear(&names[gone], None).expect("nothing has to fit");
            member.settle();
        }
        agree(&members, &left)?;
    }
}

#[test]
fn one_alone_changes_nothing_and_two_of_three_do() {
    let mut member = together("d1", None);
    let say = |member: &mut Agreement, name: &str, found: Option<Finding>| {
        let mut other = together(name, None);
        (0..SERVERS).for_each(|at| other.find((2, at), UP));
        other.find(S1, found);
        member.hear(name, Some(view(&other))).expect("it fits");
        settled(member)
    };
    member.find(S1, UP);
    say(&mut member, "d2", UP);
    say(&mut member, "d3", UP);
    assert_eq!(counts(&member), Verdict::Up);
    member.find(S1, DOWN);
    assert_eq!((settled(&mut member), counts(&member)), (vec![], Verdict::Up), "alone");
    assert_eq!(member.tally(), (2 * SERVERS + 1, 2 * SERVERS + 1, 1));
    assert_eq!((say(&mut member, "d2", DOWN), counts(&member)), (vec![2], Verdict::Down), "two of three");
    // A tie: it stays.
    member.hear("d2", None).expect("nothing has to fit");
    assert_eq!((settled(&mut member), counts(&member)), (vec![], Verdict::Down));
    assert_eq!((say(&mut member, "d4", UP), counts(&member)), (vec![2], Verdict::Up), "two of three again");
    // Who judges nothing has no vote.
    member.find(S1, None);
    say(&mut member, "d4", None);
    assert_eq!((say(&mut member, "d3", DOWN), counts(&member)), (vec![2], Verdict::Down));
    say(&mut member, "d3", None);
    assert_eq!(counts(&member), Verdict::Down, "nobody says anything: it stays");
}

#[test]
fn who_is_found_down_without_the_others_keeps_its_connections_until_they_say_so_too() {
    for (others_find, after) in [(UP, Verdict::Up), (DOWN, Verdict::Down)] {
        let mut member = together("d1", None);
        let say = |member: &mut Agreement, found: Option<Finding>| {
            for name in ["d2", "d3"] {
                let mut other = together(name, None);
                other.find(S1, found);
                member.hear(name, Some(view(&other))).expect("it fits");
            }
        };
        let in_doubt = |member: &Agreement| member.is_in_doubt(S1.0, S1.1);
        member.find(S1, UP);
        say(&mut member, UP);
        settled(&mut member);
        member.set_stance(Stance::Waiting);
        assert_eq!((settled(&mut member), in_doubt(&member)), (vec![], false));
        member.find(S1, DOWN);
        assert_eq!((settled(&mut member), counts(&member), in_doubt(&member)), (vec![2], Verdict::Down, true));
        member.set_stance(Stance::Alone);
        assert_eq!((settled(&mut member), counts(&member), in_doubt(&member)), (vec![], Verdict::Down, true));
        // Its connections are another matter from then on, whatever counts.
        say(&mut member, others_find);
        member.set_stance(Stance::Together);
        assert_eq!((settled(&mut member), counts(&member), in_doubt(&member)), (vec![2], after, false));
        // Who was down for all is not in doubt.
        member.set_stance(Stance::Alone);
        let goes_by_itself = if after == Verdict::Up { vec![2] } else { vec![] };
        assert_eq!((settled(&mut member), counts(&member)), (goes_by_itself, Verdict::Down));
        assert_eq!(in_doubt(&member), after == Verdict::Up);
    }
}

/// Of two, neither is the majority: what they had agreed on stays, and not what one found alone.
#[test]
fn what_a_member_found_alone_is_no_more_than_its_vote() {
    let mut member = together("d1", None);
    let mut other = together("d2", None);
    other.find(S1, UP);
    member.find(S1, UP);
    member.hear("d2", Some(view(&other))).expect("it fits");
    settled(&mut member);
    member.set_stance(Stance::Alone);
    member.find(S1, DOWN);
    assert_eq!((settled(&mut member), counts(&member)), (vec![2], Verdict::Down));
    member.set_stance(Stance::Together);
    assert_eq!((settled(&mut member), counts(&member)), (vec![2], Verdict::Up), "a tie");
    assert!(!member.is_in_doubt(S1.0, S1.1));
}

#[test]
fn without_the_others_what_counts_stays_until_a_check_here_changes_or_it_is_alone() {
    let mut other = together("d2", None);
    other.find(S1, UP);
    let mut member = together("d1", None);
    member.find(S1, DOWN);
    ["d2", "d3"].into_iter().for_each(|name| member.hear(name, Some(view(&other))).expect("it fits"));
    member.settle();
    assert_eq!(counts(&member), Verdict::Up, "it is outvoted");
    member.set_stance(Stance::Waiting);
    ["d2", "d3"].into_iter().for_each(|name| member.hear(name, None).expect("nothing has to fit"));
    assert_eq!((settled(&mut member), counts(&member)), (vec![], Verdict::Up), "that the store is away moves nobody");
    // What it cannot say for a moment is no change.
    member.find(S1, None);
    member.settle();
    member.find(S1, DOWN);
    assert_eq!((settled(&mut member), counts(&member)), (vec![], Verdict::Up));
    let s2 = (2, 2);
    member.find(s2, UP);
    assert_eq!((settled(&mut member), member.counts(2, 2)), (vec![2], Some(Verdict::Up)), "a first verdict");
    member.find(s2, DOWN);
    assert_eq!(
        (settled(&mut member), member.counts(2, 2)),
        (vec![2], Some(Verdict::Down)),
        "a server that dies meanwhile"
    );
    member.set_stance(Stance::Alone);
    assert_eq!((settled(&mut member), counts(&member)), (vec![2], Verdict::Down), "by its own checks");
    member.find(S1, None);
    assert_eq!((settled(&mut member), counts(&member)), (vec![], Verdict::Down), "its own trouble moves nobody");
}

#[test]
fn what_a_process_before_knew_is_gone_on_with() {
    let mut member = Agreement::new(&plan(false), "d1", None);
    member.recall(S1, Some(Verdict::Down), Verdict::Up);
    member.find(S1, DOWN);
    assert_eq!(
        (settled(&mut member), counts(&member)),
        (vec![], Verdict::Up),
        "it was outvoted, and finds nothing new"
    );
    member.find(S1, UP);
    member.settle();
    member.find(S1, DOWN);
    assert_eq!((settled(&mut member), counts(&member)), (vec![2], Verdict::Down), "now it does");
}

#[test]
fn a_view_of_other_servers_counts_for_nothing_and_the_order_in_the_file_does_not_matter() {
    let mut member = together("d1", None);
    for (finds, said) in [
        (("web", "u4"), "it is of 4 servers of service web, which has 5"),
        (("plain", "u5"), "there is no service \"plain\" that is checked"),
        (("web", "u5x"), "'x' is not a finding"),
    ] {
        let view = View { finds: [finds].map(|(name, text)| (name.into(), text.into())).into(), ..View::default() };
        let error = member.hear("d2", Some(view)).expect_err("it does not fit");
        assert!(error.starts_with(said), "{error}");
        assert_eq!(member.others().count(), 0);
    }
    let mut other = Agreement::new(&plan(true), "d2", None);
    let s1 = plan(true).services[2].servers.iter().position(|server| server.name == "s1").expect("a server");
    other.find((2, s1), DOWN);
    assert_eq!(view(&other).finds, BTreeMap::from([("web".to_owned(), "-d-3".to_owned())]));
    member.hear("d2", Some(view(&other))).expect("it fits");
    member.settle();
    assert_eq!(counts(&member), Verdict::Down);
    // The same by another order.
    let (before, after) = (plan(false), plan(true));
    member.follow(&before, &after);
    member.settle();
    let found: Vec<Verdict> = (0..SERVERS).filter_map(|at| member.counts(2, at)).collect();
    assert_eq!(found.iter().position(|verdict| *verdict == Verdict::Down), Some(s1));
    assert_eq!(member.votes(2, s1).map(|(votes, _)| votes.of(Finding::Down)), Some(1));
}

#[test]
fn each_server_is_checked_by_as_many_as_wanted_and_alone_by_this_one() {
    let names = ["d1", "d2", "d3", "d4"];
    let mut members: Vec<Agreement> = names.iter().map(|name| together(name, Some(2))).collect();
    let hear = |members: &mut [Agreement], name: &str, view: Option<View>| {
        for (member, own) in members.iter_mut().zip(names) {
            if own != name {
                member.hear(name, view.clone()).expect("it fits");
            }
            member.assign();
        }
    };
    let checkers =
        |members: &[Agreement], server: usize| members.iter().filter(|member| member.is_mine(2, server)).count();
    names.iter().for_each(|name| hear(&mut members, name, Some(View::default())));
    (0..SERVERS).for_each(|server| assert_eq!(checkers(&members, server), 2));
    assert!(members.iter().all(|member| member.is_mine(2, SERVERS)), "a server that is leaving is each one's own");
    // One that is cut off goes on looking, and the others do without it.
    hear(&mut members, "d2", Some(View { cut_off: true, ..View::default() }));
    for server in 0..SERVERS {
        let others =
            members.iter().zip(names).filter(|(member, name)| *name != "d2" && member.is_mine(2, server)).count();
        assert_eq!(others, 2);
    }
    let before = members[0].tally().0;
    members[0].set_stance(Stance::Waiting);
    assert!(!members[0].assign() && members[0].tally().0 == before, "for a moment nothing changes");
    members[0].set_stance(Stance::Alone);
    assert!(members[0].assign());
    assert_eq!(members[0].tally().0, 2 * SERVERS + 1);
}

#[test]
fn why_another_finds_it_down_is_known() {
    let mut member = together("d1", None);
    let mut other = together("d2", None);
    other.find(S1, DOWN);
    let reason =
        Reason { service: "web".into(), server: "s1".into(), since: 1 << 60, why: "connection refused".into() };
    member.hear("d2", Some(View { reasons: vec![reason.clone()], ..view(&other) })).expect("it fits");
    assert_eq!(member.reason(S1, Finding::Down), Some(("d2", &reason)));
    assert_eq!(member.reason(S1, Finding::Held), None);
    assert_eq!(member.reason((2, 0), Finding::Down), None);
    assert_eq!(count(&view(&other)), (1, 1));
}
