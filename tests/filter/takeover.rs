//! When a server takes over clients: never before another one has given them up.

use super::model::Random;
use super::model::plans::{CLUSTER_V4, CLUSTER_V6, One, query};
use super::model::turn::cluster;
use super::{OWN, filter};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader, VlanId};
use oneip::engine::filter::Filter;
use oneip::engine::filter::digest::Digests;
use oneip::engine::filter::takeover::{Others, Takeover};
use oneip::model::{Plan, Selection, Transport};
use oneip::table::build::Cluster;
use oneip::verdict::Reason;
use oneip::xdp::program::Action;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

const HOLD: Duration = Duration::from_millis(100);

/// Nobody else is heard, and nothing is ordered.
const ALONE: Others = Others { decides: Digests { configuration: 0, orders: 0 }, know: true, gave_up: true };

/// What one server sees of the cluster, and its filter.
struct Sight {
    cluster: Cluster,
    takeover: Takeover,
    filter: Filter,
}

impl Sight {
    fn look(&mut self, plan: &Plan, now: Instant) {
        let generation = self.takeover.next((plan, &self.cluster), now, HOLD, ALONE, &|_| 0);
        self.filter.publish(&generation).unwrap();
    }
}

/// Servers that see others fail and return, each a little later than the other but within the hold. Whatever comes, no client
/// is kept by two; and when all have seen the same for long enough, each is kept by one.
fn never_two(selection: Selection, seed: u64) {
    const SERVERS: usize = 4;
    let plan = One::weights(&[1; SERVERS], 503).selecting(selection).plan();
    let start = Instant::now();
    let mut random = Random(seed);
    let mut sights = Vec::new();
    for at in 0..SERVERS {
        let name = format!("s{at}");
        let cluster = cluster(&plan, &[]);
        let Some(filter) = filter(OWN, &cluster, &name) else { return };
        let mut sight = Sight { takeover: Takeover::new(&name, start), cluster, filter };
        sight.look(&plan, start);
        sights.push(sight);
    }
    let clients: Vec<Vec<u8>> =
        (0..48).map(|_| query(IpAddr::from((random.word() as u32).to_be_bytes()), 4000)).collect();
    let previous_owners = |sights: &[Sight], frame: &[u8]| {
        sights.iter().filter(|sight| sight.filter.measure(frame, 1).unwrap().0 == Action::Pass).count()
    };
    assert!(clients.iter().all(|frame| previous_owners(&sights, frame) == 0), "nobody knows yet what others have");

    let mut up = [true; SERVERS];
    let mut now = start;
    for round in 0..16 {
        now += HOLD.mul_f64(1.1);
        sights.iter_mut().for_each(|sight| sight.look(&plan, now));
        assert!(clients.iter().all(|frame| previous_owners(&sights, frame) <= 1), "round {round}, before");
        let changed = random.word() as usize % SERVERS;
        up[changed] = !up[changed];
        // Everybody learns of it at a time of its own.
        let mut learning: Vec<(Duration, usize)> =
            (0..SERVERS).map(|at| (HOLD.mul_f64((random.word() % 900) as f64 / 1000.0), at)).collect();
        learning.sort_unstable();
        for (after, at) in learning {
            sights[at].cluster.set_up(&format!("s{changed}"), up[changed]);
            sights[at].look(&plan, now + after);
            assert!(clients.iter().all(|frame| previous_owners(&sights, frame) <= 1), "round {round}, after {after:?}");
        }
        now += HOLD;
    }
    now += HOLD;
    sights.iter_mut().for_each(|sight| sight.look(&plan, now));
    let expected = usize::from(up.contains(&true));
    // A server that the others hold for down has no clients, though its own filter runs.
    assert!(clients.iter().all(|frame| previous_owners(&sights, frame) == expected), "each has one in the end");
    assert_eq!(sights[0].takeover.due(), Some(start + plan.services[0].drain), "only connections are scattered yet");
}

#[test]
fn no_client_is_ever_kept_by_two() {
    (1..=3).for_each(|seed| never_two(Selection::Maglev, seed));
    (4..=5).for_each(|seed| never_two(Selection::Modulo, seed));
}

/// One server that gets orders, by their numbers, and what it says to the others: which it knows of, and for which it has given up.
struct Ordered {
    sight: Sight,
    known: usize,
    gave_up: usize,
    /// When what it says comes to the others.
    told: Vec<(Instant, usize, usize)>,
}

fn others(servers: &[Ordered], at: usize, now: Instant) -> Others {
    let (know, gave_up) = servers.iter().enumerate().filter(|(other, _)| *other != at).fold(
        (true, true),
        |(know, gave_up), (_, other)| {
            let heard = other.told.iter().rfind(|(when, ..)| *when <= now).expect("it said so at first");
            (know && heard.1 == servers[at].known, gave_up && heard.2 == servers[at].known)
        },
    );
    Others { decides: Digests { configuration: 0, orders: servers[at].known as u64 }, know, gave_up }
}

/// As `Keeping` does it.
fn turn(servers: &mut [Ordered], at: usize, plans: &[Plan], is_new: bool, (now, delay): (Instant, Duration)) {
    let others = others(servers, at, now);
    let Ordered { sight, known, gave_up, told } = &mut servers[at];
    let is_due = sight.takeover.due().is_some_and(|due| due <= now);
    if is_new || is_due || sight.takeover.is_answered(others) {
        let generation = sight.takeover.next((&plans[*known], &sight.cluster), now, HOLD, others, &|_| 0);
        sight.filter.publish(&generation).unwrap();
    }
    if sight.takeover.gave_up() {
        *gave_up = *known;
    }
    told.push((now + delay, *known, *gave_up));
}

/// Other weights, which servers learn of one after the other, many holds apart, some of them not before the next ones come. If they may
/// `fail`, servers go down and come up meanwhile. No client is ever kept by two.
fn orders_come_apart(selection: Selection, seed: u64, fail: bool) {
    const SERVERS: usize = 4;
    const ORDERS: usize = 8;
    let mut random = Random(seed);
    let mut weights = || match selection {
        Selection::Maglev => std::array::from_fn::<u32, SERVERS, _>(|_| 1 + (random.word() % 5) as u32),
        // By remainder a weight says only whether.
        Selection::Modulo => std::array::from_fn(|at| u32::from(at == 0 || random.word().is_multiple_of(2))),
    };
    let plans: Vec<Plan> = (0..ORDERS).map(|_| One::weights(&weights(), 503).selecting(selection).plan()).collect();
    let start = Instant::now();
    let mut servers: Vec<Ordered> = Vec::new();
    for at in 0..SERVERS {
        let (name, cluster) = (format!("s{at}"), cluster(&plans[0], &[]));
        let Some(filter) = filter(OWN, &cluster, &name) else { return };
        let sight = Sight { takeover: Takeover::new(&name, start), cluster, filter };
        servers.push(Ordered { sight, known: 0, gave_up: 0, told: vec![(start, 0, 0)] });
    }
    let clients: Vec<Vec<u8>> =
        (0..32).map(|_| query(IpAddr::from((random.word() as u32).to_be_bytes()), 4000)).collect();
    let keepers = |servers: &[Ordered], frame: &[u8]| {
        servers.iter().filter(|one| one.sight.filter.measure(frame, 1).unwrap().0 == Action::Pass).count()
    };
    let (mut now, mut up) = (start, [true; SERVERS]);
    let settle = |servers: &mut [Ordered], now: &mut Instant| {
        for _ in 0..8 {
            *now += HOLD.mul_f64(0.6);
            (0..SERVERS).for_each(|at| turn(servers, at, &plans, false, (*now, Duration::ZERO)));
        }
    };
    (0..SERVERS).for_each(|at| turn(&mut servers, at, &plans, true, (now, Duration::ZERO)));
    settle(&mut servers, &mut now);
    assert!(clients.iter().all(|frame| keepers(&servers, frame) == 1), "each has its own at first");
    let mut newest = 0;
    for step in 0..240 {
        now += HOLD.mul_f64((random.word() % 900) as f64 / 1000.0);
        let at = random.word() as usize % SERVERS;
        if random.word().is_multiple_of(10) {
            newest = (newest + 1).min(ORDERS - 1);
        }
        let mut is_new = false;
        if random.word().is_multiple_of(4) && servers[at].known != newest {
            is_new = true;
            servers[at].known = newest;
            let Ordered { sight, .. } = &mut servers[at];
            sight.cluster.renew(&plans[newest], now.duration_since(start).as_nanos() as u64);
            (0..SERVERS)
                .filter(|other| !up[*other])
                .for_each(|other| _ = sight.cluster.set_up(&format!("s{other}"), false));
        }
        // Messages come within the hold.
        let delay = HOLD.mul_f64((random.word() % 300) as f64 / 1000.0);
        turn(&mut servers, at, &plans, is_new, (now, delay));
        if fail && random.word().is_multiple_of(12) {
            let other = random.word() as usize % SERVERS;
            up[other] = !up[other];
            for at in 0..SERVERS {
                servers[at].sight.cluster.set_up(&format!("s{other}"), up[other]);
                turn(&mut servers, at, &plans, true, (now, delay));
            }
        }
        let kept: Vec<usize> = clients.iter().map(|frame| keepers(&servers, frame)).collect();
        assert!(kept.iter().all(|keepers| *keepers <= 1), "seed {seed}, step {step}");
    }
    for at in 0..SERVERS {
        servers[at].known = newest;
        servers[at].sight.cluster.renew(&plans[newest], now.duration_since(start).as_nanos() as u64);
        (0..SERVERS).for_each(|other| _ = servers[at].sight.cluster.set_up(&format!("s{other}"), true));
        turn(&mut servers, at, &plans, true, (now, Duration::ZERO));
    }
    settle(&mut servers, &mut now);
    assert!(clients.iter().all(|frame| keepers(&servers, frame) == 1), "seed {seed}: each has one in the end");
}

#[test]
fn orders_may_come_to_servers_any_time_apart() {
    (1..=6).for_each(|seed| orders_come_apart(Selection::Maglev, seed, seed % 2 == 0));
    (7..=10).for_each(|seed| orders_come_apart(Selection::Modulo, seed, seed % 2 == 0));
}

#[test]
fn a_change_that_one_server_does_not_know_moves_nobody_until_it_does() {
    let plans = [[1, 1, 1], [5, 1, 1]].map(|weights| One::weights(&weights, 503).plan());
    let (start, mut servers) = (Instant::now(), Vec::new());
    for at in 0..3 {
        let (name, cluster) = (format!("s{at}"), cluster(&plans[0], &[]));
        let Some(filter) = filter(OWN, &cluster, &name) else { return };
        let sight = Sight { takeover: Takeover::new(&name, start), cluster, filter };
        servers.push(Ordered { sight, known: 0, gave_up: 0, told: vec![(start, 0, 0)] });
    }
    let clients: Vec<Vec<u8>> =
        (0..100u32).map(|at| query(IpAddr::from((0xc633_6400 + at).to_be_bytes()), 4000)).collect();
    let who = |servers: &[Ordered]| -> Vec<Vec<usize>> {
        let keeps = |at: &usize, frame: &[u8]| servers[*at].sight.filter.measure(frame, 1).unwrap().0 == Action::Pass;
        clients.iter().map(|frame| (0..3).filter(|at| keeps(at, frame)).collect()).collect()
    };
    let mut now = start;
    let mut all = |servers: &mut [Ordered], is_new: bool| {
        now += HOLD.mul_f64(0.6);
        (0..3).for_each(|at| turn(servers, at, &plans, is_new, (now, Duration::ZERO)));
    };
    all(&mut servers, true);
    (0..3).for_each(|_| all(&mut servers, false));
    let before = who(&servers);
    assert!(before.iter().all(|keepers| keepers.len() == 1));
    for told in [0, 1] {
        servers[told].known = 1;
        servers[told].sight.cluster.renew(&plans[1], 1);
        all(&mut servers, true);
        for _ in 0..20 {
            all(&mut servers, false);
            assert_eq!(who(&servers), before, "the third does not know yet");
        }
    }
    // One that fails keeps nothing.
    servers[1].sight.cluster.set_up("s1", false);
    all(&mut servers, true);
    assert!(who(&servers).iter().all(|keepers| !keepers.contains(&1)));
    servers[1].sight.cluster.set_up("s1", true);
    servers[2].known = 1;
    servers[2].sight.cluster.renew(&plans[1], 1);
    all(&mut servers, true);
    (0..6).for_each(|_| all(&mut servers, false));
    let after = who(&servers);
    let of_first = |who: &[Vec<usize>]| who.iter().filter(|keepers| **keepers == [0]).count();
    assert!(after.iter().all(|keepers| keepers.len() == 1));
    assert!(of_first(&after) > of_first(&before) + 20, "{} {}", of_first(&before), of_first(&after));
}

#[test]
fn with_more_holds_than_there_may_be_nothing_is_taken_too_early() {
    let plan = One::weights(&[1, 1, 1], 503).plan();
    let start = Instant::now();
    let Some(filter) = filter(OWN, &cluster(&plan, &[]), "s0") else { return };
    let mut sight = Sight { takeover: Takeover::new("s0", start), filter, cluster: Cluster::new(&plan) };
    let kept = |sight: &Sight| {
        let clients = (0..300u32).map(|at| query(IpAddr::from((0xc633_6400 + at).to_be_bytes()), 4000));
        clients.filter(|frame| sight.filter.measure(frame, 1).unwrap().0 == Action::Pass).count()
    };
    sight.look(&plan, start);
    let settled = start + 2 * HOLD;
    sight.look(&plan, settled);
    let own = kept(&sight);
    assert!(own > 50);
    // Another one comes and goes many times within the hold: its clients are never taken.
    for at in 0..40 {
        sight.cluster.set_up("s1", at % 2 == 1);
        sight.look(&plan, settled + HOLD.mul_f64(f64::from(at) / 50.0));
        assert_eq!(kept(&sight), own);
    }
    sight.cluster.set_up("s1", false);
    sight.look(&plan, settled + HOLD);
    assert_eq!(kept(&sight), own);
    sight.look(&plan, settled + 2 * HOLD);
    assert!(kept(&sight) > own + 20);
    // What is lost is lost at once.
    sight.cluster.set_up("s0", false);
    sight.look(&plan, settled + 2 * HOLD);
    assert_eq!(kept(&sight), 0);
}

#[test]
fn frames_are_counted_by_service_and_what_is_anothers_as_other_server() {
    let plan = One::weights(&[1, 1], 503).plan();
    let cluster = cluster(&plan, &[]);
    let Some(filter) = filter(OWN, &cluster, "s0") else { return };
    let mut takeover = Takeover::new("s0", Instant::now());
    let generation = takeover.next((&plan, &cluster), Instant::now(), Duration::ZERO, ALONE, &|_| 7);
    filter.publish(&generation).unwrap();
    let frames: Vec<Vec<u8>> =
        (0..200u32).map(|at| query(IpAddr::from((0xc633_6400 + at).to_be_bytes()), 4000)).collect();
    let kept: Vec<&Vec<u8>> = frames.iter().filter(|frame| filter.judge(frame).unwrap().0 == Action::Pass).collect();
    let account = filter.kept(7).unwrap();
    assert_eq!((account.frames, account.flows), (kept.len() as u64, 0));
    assert_eq!(account.bytes, kept.iter().map(|frame| frame.len() as u64).sum::<u64>());
    assert_eq!(filter.kept(0).unwrap().frames, 0);
    let counts = filter.counts().unwrap();
    assert_eq!(counts.dropped(Reason::OtherServer), (frames.len() - kept.len()) as u64);
    assert!(counts.dropped(Reason::OtherServer) > 50);
}

/// Frames that are tagged or padded too; a SYN begins a connection, and what has an ACK does not.
#[test]
fn what_begins_is_counted_and_every_byte() {
    let mut plan = One::weights(&[1], 503).both();
    plan.services.iter_mut().for_each(|service| service.ports[0].transport = Transport::Tcp);
    let Some(filter) = filter(OWN, &cluster(&plan, &[]), "s0") else { return };
    let (mut frames, mut bytes, mut flows) = (0, 0, 0);
    for (syn, ack) in [(true, false), (true, true), (false, true), (true, false)] {
        for (tags, padding) in [(0, 0), (1, 0), (2, 6), (0, 6)] {
            for is_v6 in [false, true] {
                let tcp = TcpHeader { syn, ack, ..TcpHeader::new(4000, 53, 1, 1000) };
                let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], OWN.0);
                let id = VlanId::try_new(7).unwrap();
                let ip = if is_v6 {
                    IpHeaders::Ipv6(
                        Ipv6Header {
                            hop_limit: 64,
                            source: [0x20; 16],
                            destination: CLUSTER_V6.octets(),
                            ..Default::default()
                        },
                        Default::default(),
                    )
                } else {
                    IpHeaders::Ipv4(
                        Ipv4Header::new(0, 64, IpNumber::TCP, [198, 51, 100, 7], CLUSTER_V4.octets()).unwrap(),
                        Default::default(),
                    )
                };
                let packet = match tags {
                    0 => link.ip(ip),
                    1 => link.single_vlan(id).ip(ip),
                    _ => link.double_vlan(id, id).ip(ip),
                };
                let mut frame = Vec::new();
                packet.tcp_header(tcp).write(&mut frame, b"hello").unwrap();
                frame.resize(frame.len() + padding, 0);
                assert_eq!(filter.judge(&frame).unwrap().0, Action::Pass, "{frame:02x?}");
                frames += 1;
                bytes += frame.len() as u64;
                flows += u64::from(syn && !ack);
            }
        }
    }
    let account = filter.kept(0).unwrap();
    assert_eq!((account.frames, account.bytes, account.flows), (frames, bytes, flows));
}
