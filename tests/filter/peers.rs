//! The rules by which filters that do not all hear each other decide who takes clients, in a cluster of which everything is drawn:
//! who hears whom, whose checks of whom succeed, which servers serve, which processes hang, and when all that changes.

use super::model::Random;
use super::model::plans::{One, query};
use super::{OWN, filter};
use oneip::control::membership::peers::{Hearsay, Seen};
use oneip::control::overrides::Overrides;
use oneip::engine::filter::Generation;
use oneip::engine::filter::beacon::{Cipher, Number, Report, Stranger};
use oneip::engine::filter::digest::Digests;
use oneip::engine::filter::peers::{Peers, Times};
use oneip::limits::{FILTER_LEASE, PEER_LEASE};
use oneip::model::{HashInput, HashKey, Plan, Selection};
use oneip::table::build::Cluster;
use oneip::xdp::program::Action;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

const STEP: Duration = Duration::from_millis(10);
const HOLD: Duration = Duration::from_millis(800);
/// Of a check that is not the same as before: interval and timeout, many times.
const CHECK: Duration = Duration::from_millis(1500);

fn name(server: usize) -> String {
    format!("s{server}")
}

/// One server and what is known to it.
struct Node {
    peers: Peers,
    count: u64,
    /// By its checks: whether each server serves, and since when that is not what is the case.
    checked: Vec<bool>,
    wrong: Vec<Option<Instant>>,
    /// Whom it counts in, by its table; and whom it counted in within the hold.
    takes: Vec<bool>,
    gave_up: Vec<Instant>,
    /// It took no clients itself until then.
    rested: Instant,
    next: Instant,
    hangs: bool,
    lease: Instant,
}

struct Fixture {
    nodes: Vec<Node>,
    hears: Vec<Vec<bool>>,
    reaches: Vec<Vec<bool>>,
    serves: Vec<bool>,
    times: Times,
    now: Instant,
    cipher: Cipher,
}

impl Fixture {
    fn new(servers: usize) -> Fixture {
        let now = Instant::now();
        let times = Times::new(HOLD, HOLD, servers);
        let cipher = Cipher::new(HashKey(*b"sixteen bytes !!"));
        let names: Vec<String> = (0..servers).map(name).collect();
        let node = |at: usize| {
            let mut peers = Peers::new(&name(at), cipher, false);
            peers.follow(cipher, Digests::default(), names.iter().map(String::as_str));
            Node {
                peers,
                count: 0,
                checked: vec![true; servers],
                wrong: vec![None; servers],
                takes: vec![true; servers],
                gave_up: vec![now; servers],
                rested: now,
                next: now + times.beacon.mul_f64(at as f64 / servers as f64),
                hangs: false,
                lease: now + FILTER_LEASE,
            }
        };
        let all = vec![vec![true; servers]; servers];
        let nodes = (0..servers).map(node).collect();
        Fixture { nodes, hears: all.clone(), reaches: all, serves: vec![true; servers], times, now, cipher }
    }

    fn servers(&self) -> usize {
        self.nodes.len()
    }

    /// Something else is the case from now on.
    fn change(&mut self, random: &mut Random) {
        let mut any = || random.word() as usize % self.nodes.len();
        let (from, to) = (any(), any());
        match random.word() % 8 {
            0 | 1 => self.hears[to][from] ^= true,
            2 => self.reaches[to][from] ^= true,
            3 => self.serves[to] ^= true,
            4 => self.nodes[to].hangs ^= true,
            // Cut off, with all that comes and goes.
            5 | 6 => (0..self.nodes.len()).filter(|other| *other != to).for_each(|other| {
                for matrix in [&mut self.hears, &mut self.reaches] {
                    (matrix[to][other], matrix[other][to]) = (false, false);
                }
            }),
            _ => {
                self.hears.iter_mut().chain(&mut self.reaches).for_each(|row| row.fill(true));
                self.serves.fill(true);
                self.nodes.iter_mut().for_each(|node| node.hangs = false);
            }
        }
    }

    fn step(&mut self, random: &mut Random) {
        self.now += STEP;
        for at in 0..self.servers() {
            self.check(at, random);
            if self.nodes[at].hangs {
                continue;
            }
            if self.now >= self.nodes[at].next {
                self.nodes[at].next = self.now + self.times.beacon;
                self.turn(at, true);
            }
        }
    }

    /// Checks come to what is the case after a while.
    fn check(&mut self, at: usize, random: &mut Random) {
        for other in 0..self.servers() {
            let is = self.serves[other] && (at == other || self.reaches[at][other] && self.reaches[other][at]);
            let node = &mut self.nodes[at];
            if node.checked[other] == is {
                node.wrong[other] = None;
                continue;
            }
            let since = *node.wrong[other].get_or_insert(self.now);
            if !node.hangs && self.now > since + CHECK.mul_f64((random.word() % 100) as f64 / 100.0) {
                node.checked[other] = is;
            }
        }
    }

    fn seen(&self, at: usize) -> Vec<Seen> {
        let node = &self.nodes[at];
        let seen = |other: usize| Seen {
            service: "web".to_owned(),
            server: name(other),
            may: true,
            serves: node.checked[other],
            failed: !node.checked[other],
            takes: node.takes[other],
        };
        (0..self.servers()).map(seen).collect()
    }

    /// As `supervise::peers` and `control::membership` do.
    fn turn(&mut self, at: usize, ticked: bool) {
        let seen = self.seen(at);
        let (now, times) = (self.now, self.times);
        let node = &mut self.nodes[at];
        if now >= node.lease {
            node.peers.come_again(now);
        }
        let said = node.peers.judge(&seen, &times, now);
        for (other, one) in seen.iter().enumerate() {
            let takes = match said.get(&("web".to_owned(), one.server.clone())) {
                Some(Hearsay::Serves(_)) => true,
                Some(_) => false,
                None => one.serves,
            };
            if node.takes[other] && !takes {
                node.gave_up[other] = now;
            }
            if other == at && !node.takes[at] && takes {
                node.rested = now;
            }
            node.takes[other] = takes;
        }
        node.lease = now + FILTER_LEASE;
        let report = self.nodes[at].peers.report(&self.seen(at), false, &times, now);
        if ticked {
            self.tell(at, report);
        }
    }

    fn tell(&mut self, from: usize, report: Report) {
        self.nodes[from].count += 1;
        let message = self.cipher.seal(&report, Number { run: 1, count: self.nodes[from].count });
        for to in (0..self.servers()).filter(|to| *to != from) {
            if self.hears[to][from] && !self.nodes[to].hangs {
                let (report, number) = self.cipher.open(&message).unwrap();
                if self.nodes[to].peers.take(report, number, self.now) {
                    self.turn(to, false);
                }
            }
        }
    }

    /// Whether a server answers clients of its own, and those that it has by counting another one out.
    fn answers(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.takes[at] && self.now >= node.rested + HOLD
    }

    fn has_of(&self, at: usize, other: usize) -> bool {
        let node = &self.nodes[at];
        let leased = self.now < node.lease;
        self.answers(at) && leased && !node.takes[other] && self.now >= node.gave_up[other] + HOLD
    }

    /// Whether one of two could know that both answer, as messages go from one to the other, or by one that hears both.
    fn may_know(&self, one: usize, other: usize) -> bool {
        let hears = |to: usize, from: usize| {
            let direct = self.hears[to][from] && !self.nodes[to].hangs && !self.nodes[from].hangs;
            let by = |third: usize| {
                let is_third = third != to && third != from && !self.nodes[third].hangs;
                is_third && self.hears[to][third] && self.hears[third][from]
            };
            direct || !self.nodes[to].hangs && !self.nodes[from].hangs && (0..self.servers()).any(by)
        };
        hears(one, other) || hears(other, one)
    }
}

/// Two that answer one client do so for no longer than the hold, where one of them can know.
fn never_two(servers: usize, seed: u64) -> (usize, usize) {
    let mut random = Random(seed);
    let mut fixture = Fixture::new(servers);
    let pairs: Vec<(usize, usize)> = (0..servers * servers)
        .map(|pair| (pair / servers, pair % servers))
        .filter(|(one, other)| one != other)
        .collect();
    let mut both = vec![Duration::ZERO; pairs.len()];
    let (mut taken, mut blind) = (0, 0);
    for _ in 0..60 {
        fixture.change(&mut random);
        for _ in 0..50 + random.word() % 400 {
            fixture.step(&mut random);
            for ((one, other), time) in pairs.iter().zip(&mut both) {
                let (has, may_know) = (fixture.has_of(*one, *other), fixture.may_know(*one, *other));
                let two = has && fixture.answers(*other);
                taken += usize::from(has);
                blind += usize::from(two && !may_know);
                *time = if two && may_know { *time + STEP } else { Duration::ZERO };
                assert!(*time <= HOLD, "seed {seed}: {one} has clients of {other}, which answers too, for {time:?}");
            }
        }
    }
    (taken, blind)
}

#[test]
fn two_never_answer_for_longer_than_it_takes_to_learn_of_it() {
    let sums = (0..60).map(|seed| never_two(2 + seed as usize % 4, seed + 1));
    let (taken, blind) = sums.fold((0, 0), |(taken, blind), (t, b)| (taken + t, blind + b));
    assert!(
        taken > 10_000 && blind > 100,
        "clients were taken over in {taken} steps; {blind} of which nobody could know"
    );
}

/// Steps until it comes true, and checks in each that nobody answers beside another one.
fn until(fixture: &mut Fixture, what: &str, holds: impl Fn(&Fixture) -> bool) {
    let begin = fixture.now;
    while !holds(fixture) {
        assert!(fixture.now < begin + 4 * PEER_LEASE, "{what}: never");
        fixture.step(&mut Random(1));
        for (one, other) in (0..fixture.servers()).flat_map(|one| (0..fixture.servers()).map(move |other| (one, other)))
        {
            let two = one != other && fixture.has_of(one, other) && fixture.answers(other);
            assert!(!two, "{what}: {one} has clients of {other}, which answers too");
        }
    }
}

fn all_answer(fixture: &Fixture) -> bool {
    (0..fixture.servers())
        .all(|at| fixture.answers(at) && (0..fixture.servers()).all(|other| fixture.nodes[at].takes[other]))
}

#[test]
fn a_server_that_another_one_knows_to_serve_is_not_taken_over() {
    let mut fixture = Fixture::new(3);
    until(&mut fixture, "all answer", all_answer);
    (fixture.hears[0][1], fixture.reaches[0][1]) = (false, false);
    until(&mut fixture, "its checks fail", |fixture| !fixture.nodes[0].checked[1]);
    let later = fixture.now + 2 * PEER_LEASE;
    until(&mut fixture, "time passes", |fixture| fixture.now > later || !all_answer(fixture));
    assert!(all_answer(&fixture));
    fixture.hears[2][1] = false;
    fixture.serves[1] = false;
    until(&mut fixture, "nobody knows it to serve", |fixture| fixture.has_of(0, 1) && fixture.has_of(2, 1));
}

#[test]
fn who_comes_back_waits_until_a_filter_that_hangs_has_let_go() {
    let mut fixture = Fixture::new(3);
    until(&mut fixture, "all answer", all_answer);
    fixture.serves[1] = false;
    until(&mut fixture, "it is taken over", |fixture| fixture.has_of(0, 1));
    fixture.nodes[0].hangs = true;
    fixture.serves[1] = true;
    until(&mut fixture, "it has its clients again", |fixture| fixture.answers(1));
    fixture.nodes[0].hangs = false;
    until(&mut fixture, "all answer", all_answer);
}

#[test]
fn who_fails_by_the_checks_of_most_rests_and_one_of_two_remains() {
    let mut fixture = Fixture::new(3);
    until(&mut fixture, "all answer", all_answer);
    for other in [0, 2] {
        fixture.reaches[1][other] = false;
    }
    until(&mut fixture, "most have found it down", |fixture| fixture.has_of(0, 1) && fixture.has_of(2, 1));
    assert!(fixture.nodes[1].checked[1], "it serves, by its own check");
    assert!(fixture.answers(0) && fixture.answers(2), "they serve, though its checks fail");

    let mut fixture = Fixture::new(2);
    until(&mut fixture, "all answer", all_answer);
    fixture.reaches[0][1] = false;
    until(&mut fixture, "the first remains", |fixture| fixture.has_of(0, 1));
    let later = fixture.now + PEER_LEASE;
    until(&mut fixture, "time passes", |fixture| fixture.now > later || !fixture.has_of(0, 1));
    assert!(fixture.has_of(0, 1));
}

/// As one of these itself sees it.
fn own(server: &str) -> [Seen; 1] {
    [Seen { service: "web".into(), server: server.into(), may: true, serves: true, failed: false, takes: true }]
}

/// One whose filter goes on by the old configuration has its clients as long as it is heard, or may only stand still.
#[test]
fn a_server_that_the_configuration_has_no_more_is_waited_for() {
    let (now, cipher, times) = (Instant::now(), Cipher::new(HashKey([7; 16])), Times::new(HOLD, HOLD, 3));
    let digests = |configuration| Digests { configuration, orders: 0 };
    let mut peers = Peers::new("s0", cipher, false);
    peers.follow(cipher, digests(1), ["s0", "s1", "s2"]);
    peers.judge(&own("s0"), &times, now);
    let say = |peers: &mut Peers, server: &str, of: u64, count: u64| {
        let report = Report { server: server.into(), digests: digests(of), gave_up: digests(of), ..Report::default() };
        assert!(peers.take(report, Number { run: 1, count }, now));
        let others = peers.others(|_| true, &times, now);
        (others.know, others.gave_up)
    };
    assert_eq!(say(&mut peers, "s1", 1, 1), (true, true));
    assert_eq!(say(&mut peers, "s2", 1, 1), (true, true));
    peers.follow(cipher, digests(2), ["s0", "s1"]);
    assert_eq!(say(&mut peers, "s1", 2, 2), (false, false), "s2 goes by the old one");
    assert!(!peers.names().any(|name| name == "s2"));
    let later = |after: Duration| peers.others(|_| false, &times, now + after);
    assert!(!later(times.silence).know, "its process may stand still");
    assert!(later(PEER_LEASE).know && later(PEER_LEASE).gave_up, "it has ended");
    assert_ne!(peers.report(&[], false, &times, now).gave_up, digests(2), "it has not said so yet");
    peers.give_up();
    assert_eq!(peers.report(&[], false, &times, now).gave_up, digests(2));
}

/// Its process stands still, and its program goes on by what was before.
#[test]
fn a_server_that_is_not_heard_is_waited_for_while_it_may_serve() {
    let (now, cipher, times) = (Instant::now(), Cipher::new(HashKey([7; 16])), Times::new(HOLD, HOLD, 3));
    let digests = |configuration| Digests { configuration, orders: 0 };
    let mut peers = Peers::new("s0", cipher, false);
    peers.follow(cipher, digests(1), ["s0", "s1"]);
    peers.judge(&own("s0"), &times, now);
    let report = Report { server: "s1".into(), digests: digests(1), gave_up: digests(1), ..Report::default() };
    assert!(peers.take(report, Number { run: 1, count: 1 }, now));
    peers.follow(cipher, digests(2), ["s0", "s1"]);
    let know = |takes: bool, after: Duration| peers.others(|_| takes, &times, now + after).know;
    assert_eq!([true, false].map(|takes| know(takes, Duration::ZERO)), [false, false]);
    assert_eq!([true, false].map(|takes| know(takes, times.silence)), [false, true]);
    assert_eq!([true, false].map(|takes| know(takes, PEER_LEASE)), [true, true]);
    // Taken out itself, it hears nobody any more.
    peers.follow(cipher, digests(2), ["s1"]);
    peers.judge(&own("s1"), &times, now);
    assert!(peers.others(|_| true, &times, now + times.silence).know);
}

/// While it was out, others have got its clients.
#[test]
fn a_server_that_is_put_back_into_a_service_comes_as_one_that_starts() {
    let (now, cipher, times) = (Instant::now(), Cipher::new(HashKey([7; 16])), Times::new(HOLD, HOLD, 3));
    let mut peers = Peers::new("s0", cipher, true);
    let both = [own("s0"), own("s1")].concat();
    peers.follow(cipher, Digests::default(), ["s0", "s1"]);
    let is_held_back = |peers: &mut Peers, seen: &[Seen]| {
        let said = peers.judge(seen, &times, now);
        matches!(said.get(&("web".to_owned(), "s0".to_owned())), Some(Hearsay::Joins(_)))
    };
    assert!(!is_held_back(&mut peers, &both), "its program has been there all the time");
    assert!(!is_held_back(&mut peers, &both[1..]), "it is out");
    assert!(is_held_back(&mut peers, &both));
}

/// The law that the rules rest on.
#[test]
fn two_that_count_each_other_in_never_have_the_same_client() {
    const SERVERS: usize = 5;
    let mut random = Random(7);
    for selection in [Selection::Maglev, Selection::Modulo] {
        let plan = One::weights(&[1, 2, 1, 3, 1], 503).selecting(selection).plan();
        for _ in 0..200 {
            let owners: Vec<(Vec<bool>, Vec<Option<u16>>)> = (0..2)
                .map(|_| {
                    let up: Vec<bool> = (0..SERVERS).map(|_| random.word().is_multiple_of(2)).collect();
                    let mut cluster = Cluster::new(&plan);
                    up.iter().enumerate().for_each(|(at, up)| _ = cluster.set_up(&name(at), *up));
                    let table = cluster.service(0);
                    let clients = (0..400u64).map(|client| table.select(client << 48 | client << 36, client.into()).1);
                    (up, clients.collect())
                })
                .collect();
            let [(up, owner), (other_up, other_owner)] = &owners[..] else { unreachable!() };
            for (one, other) in (0..SERVERS).flat_map(|one| (0..SERVERS).map(move |other| (one, other))) {
                let both = |up: &[bool]| up[one] && up[other];
                if one != other && both(up) && both(other_up) {
                    let same = |client: &usize| {
                        owner[*client] == Some(one as u16) && other_owner[*client] == Some(other as u16)
                    };
                    assert_eq!((0..400).find(same), None, "{up:?} {other_up:?}: {one} and {other}");
                }
            }
        }
    }
}

#[test]
fn what_is_others_by_first_choice_is_let_go_when_the_lease_is_over() {
    for selection in [Selection::Maglev, Selection::Modulo] {
        let plan = One::weights(&[1, 1, 1], 503).selecting(selection).plan();
        let mut cluster = Cluster::new(&plan);
        let Some(filter) = filter(OWN, &cluster, "s0") else { return };
        let kept = || {
            let frames = (0..300u32).map(|at| query(IpAddr::from((0xc633_6400 + at).to_be_bytes()), 4000));
            frames.filter(|frame| filter.measure(frame, 1).unwrap().0 == Action::Pass).count()
        };
        let own = kept();
        filter.lease(0).unwrap();
        assert_eq!(kept(), own, "its own clients are no others'");
        cluster.set_up("s1", false);
        filter.publish(&Generation::compile(&cluster, "s0")).unwrap();
        assert_eq!(kept(), own, "the lease is over");
        filter.lease(u64::MAX).unwrap();
        assert!(kept() > own + 20, "{own}, {}", kept());
    }
}

fn digests(plan: &Plan) -> Digests {
    Digests::new(Cipher::new(plan.hash_key).key(), plan, &Overrides::default(), &[])
}

#[test]
fn digests_tell_what_decides_and_nothing_else() {
    let one = || One::weights(&[1, 2], 503);
    let plan = one().plan();
    let mut same = plan.clone();
    same.services[0].servers.reverse();
    same.services[0].drain = Duration::from_secs(1);
    assert_eq!(digests(&same), digests(&plan), "the order of servers decides nothing");
    let mut by_place = one().selecting(Selection::Modulo).plan();
    let before = digests(&by_place);
    by_place.services[0].servers.reverse();
    assert_ne!(digests(&by_place), before, "but by remainder it does");
    let others: [fn(&mut Plan); 8] = [
        |plan| plan.services[0].slots = 211,
        |plan| plan.services[0].servers[0].weight = 3,
        |plan| plan.services[0].servers[1].name = "s9".to_owned(),
        |plan| drop(plan.services[0].servers.pop()),
        |plan| plan.services[0].ports.clear(),
        |plan| plan.services[0].address = "203.0.113.81".parse().unwrap(),
        |plan| plan.services[0].hash = HashInput::Flow,
        |plan| plan.services[0].selection = Selection::Modulo,
    ];
    for change in others {
        let mut other = plan.clone();
        change(&mut other);
        assert_ne!(digests(&other).configuration, digests(&plan).configuration);
        assert_eq!(digests(&other).orders, digests(&plan).orders);
    }
    assert_ne!(digests(&one().keyed([1; 16]).plan()), digests(&plan));
    let ordered = |service, server| {
        let mut orders = Overrides::default();
        orders.change(service, server, |one| one.disabled = true);
        Digests::new(Cipher::new(plan.hash_key).key(), &plan, &orders, &[]).orders
    };
    let all = [ordered(None, "s0"), ordered(Some("web"), "s0"), ordered(Some("web"), "s1"), digests(&plan).orders];
    assert_eq!(std::collections::HashSet::from(all).len(), 4, "orders of one service are others than those of all");
}

#[test]
fn a_message_is_read_by_those_who_have_the_key_and_once() {
    let cipher = Cipher::new(HashKey(*b"sixteen bytes !!"));
    let other = Cipher::new(HashKey(*b"sixteen bytes !?"));
    let mut sender = Peers::new("s1", cipher, false);
    sender.follow(cipher, Digests { configuration: 5, orders: 6 }, ["s0", "s1", "s2"]);
    let (now, times) = (Instant::now(), Times::new(HOLD, HOLD, 3));
    let report = sender.report(&[], true, &times, now);
    assert_eq!(report.unheard.len(), 2);
    let message = cipher.seal(&report, Number { run: 9, count: 4 });
    assert_eq!(cipher.open(&message), Ok((report.clone(), Number { run: 9, count: 4 })));
    assert_eq!(other.open(&message), Err(Stranger::Key));
    for at in 0..message.len() {
        let mut changed = message.clone();
        changed[at] ^= 1;
        assert!(cipher.open(&changed).is_err(), "byte {at}");
        assert!(cipher.open(&message[..at]).is_err(), "{at} bytes");
    }

    let mut receiver = Peers::new("s0", cipher, false);
    receiver.follow(cipher, Digests::default(), ["s0", "s1", "s2"]);
    let mut take = |run, count, now| receiver.take(report.clone(), Number { run, count }, now);
    assert!(take(9, 4, now));
    assert!(!take(9, 5, now), "it says nothing new");
    let changed = Report { unheard: Default::default(), ..report.clone() };
    let mut take = |run, count, now| receiver.take(changed.clone(), Number { run, count }, now);
    assert!(!take(9, 5, now) && !take(9, 3, now) && !take(8, 100, now), "it is an old one");
    assert!(take(10, 0, now), "of a new run");
    let mut take = |run, count, now| receiver.take(report.clone(), Number { run, count }, now);
    assert!(take(3, 0, now + PEER_LEASE), "a host whose clock was set back is heard after a while");
    let stranger = Report { server: "s7".to_owned(), ..report.clone() };
    assert!(!receiver.take(stranger, Number { run: 9, count: 9 }, now), "of no server of ours");
}
