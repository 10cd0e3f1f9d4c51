//! When a server takes over clients: never before another one has given them up.

use super::model::Random;
use super::model::plans::{One, query};
use super::model::turn::cluster;
use super::{OWN, filter};
use oneip::engine::filter::Filter;
use oneip::engine::filter::takeover::Takeover;
use oneip::model::{Plan, Selection};
use oneip::table::build::Cluster;
use oneip::verdict::Reason;
use oneip::xdp::program::Action;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

const HOLD: Duration = Duration::from_millis(100);

/// What one server sees of the cluster, and its filter.
struct Sight {
    cluster: Cluster,
    takeover: Takeover,
    filter: Filter,
}

impl Sight {
    fn look(&mut self, plan: &Plan, now: Instant) {
        let generation = self.takeover.next((plan, &self.cluster), now, HOLD, &|_| 0);
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
    let generation = takeover.next((&plan, &cluster), Instant::now(), Duration::ZERO, &|_| 7);
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
