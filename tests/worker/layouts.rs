//! Services and servers come, go and change places under workers that turn: every frame is counted once, under the names of
//! the service and the server that it went to, and timed once, and no worker calls the allocator.

use crate::counting;
use crate::hlog::intervals;
use crate::model::Random;
use crate::no_flows;
use crate::replay_port::{ReplayPort, Truth, any_plan, told};
use oneip::engine::worker_pool::{WorkerPool, own_flow_tables};
use oneip::metrics::aggregate::Aggregator;
use oneip::metrics::collect::{DeviceCounters, Reports};
use oneip::metrics::snapshot::{Snapshot, WorkerSnapshot};
use oneip::metrics::source::boxed;
use oneip::metrics::summary::Summary;
use oneip::metrics::worker::{self, View, WorkerMetrics};
use oneip::model::Plan;
use oneip::port::faulty::Faulty;
use oneip::table::Table;
use oneip::table::build::Cluster;
use oneip::table::publish::{self, Retired};
use oneip::worker::Worker;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Layouts one after the other, each with its tables.
struct Layouts {
    random: Random,
    number: u64,
    plan: Arc<Plan>,
    cluster: Cluster,
}

impl Layouts {
    fn new(seed: u64) -> Layouts {
        let mut random = Random(seed);
        let plan = any_plan(&mut random);
        Layouts { number: 0, cluster: Cluster::new(&plan), plan: Arc::new(plan), random }
    }

    fn next(&mut self) -> (Arc<Plan>, Table) {
        self.plan = Arc::new(any_plan(&mut self.random));
        self.cluster = Cluster::new(&self.plan);
        self.number += 1;
        self.cluster.set_layout(self.number);
        (Arc::clone(&self.plan), self.cluster.compile())
    }

    /// Another table of the same layout: some server is up or down.
    fn table(&mut self) -> Table {
        let servers = &self.plan.services[0].servers;
        let server = &servers[self.random.below(servers.len())].name;
        self.cluster.set_up(server, self.random.below(2) == 0);
        self.cluster.compile()
    }
}

/// The metrics of several workers, and the views of them.
fn open(table: &Table, workers: usize) -> (Vec<WorkerMetrics>, Vec<View>) {
    (0..workers).map(|_| worker::open(table)).unzip()
}

/// The counters, against the truth, with every frame gone.
fn check(summary: &Summary, truth: &Truth) {
    let received = truth.received.load(Relaxed);
    assert_eq!(summary.frames, received);
    assert_eq!(summary.forwarded, truth.forwarded());
    assert_eq!(summary.passed + summary.dropped_total(), truth.freed.load(Relaxed));
    assert_eq!(received, summary.forwarded + summary.passed + summary.dropped_total());
    assert_eq!(told(&summary.servers), truth.servers());
}

fn add_up<N: AsRef<str>>(sums: &mut BTreeMap<String, u64>, intervals: Vec<(N, hdrhistogram::Histogram<u64>)>) {
    intervals
        .into_iter()
        .for_each(|(service, timed)| *sums.entry(service.as_ref().to_owned()).or_default() += timed.len());
}

/// One worker, and the control and stats threads' work, on this thread, in any order: all is exact after every step.
#[test]
fn whatever_comes_between_every_frame_is_counted_and_timed_once() {
    let (mut changes, mut skipped) = (0, 0);
    for seed in 0..60 {
        let mut layouts = Layouts::new(seed);
        let mut random = Random(!seed);
        let truth = Arc::new(Truth::default());
        let table = layouts.cluster.compile();
        let mut accounts = Aggregator::new(1);
        let (metrics, views) = open(&table, 1);
        accounts.open(&layouts.plan, boxed(views));
        let (mut publisher, mut readers) = publish::channel(table, metrics);
        let (retired, mut worker) =
            (publisher.retired(), Worker::new(ReplayPort::new(&truth), readers.remove(0), no_flows()));
        let (mut sums, mut unseen) = (BTreeMap::new(), 0);
        let turn = |worker: &mut Worker<ReplayPort>| {
            let calls = counting::calls();
            worker.turn();
            assert_eq!(counting::calls(), calls, "allocator calls in a turn");
        };
        for _ in 0..400 {
            match random.below(8) {
                0 => publisher.publish(layouts.table()),
                1 | 2 => {
                    let (plan, table) = layouts.next();
                    let (metrics, views) = open(&table, 1);
                    accounts.open(&plan, boxed(views));
                    publisher.publish_layout(table, metrics);
                    (skipped, unseen) = (skipped + unseen, 1);
                }
                3 => retired.clear(),
                4 => accounts.ask(),
                5 => _ = accounts.gather(),
                6 => add_up(&mut sums, accounts.end_interval()),
                _ => {
                    (0..=random.below(4)).for_each(|_| turn(&mut worker));
                    (changes, unseen) = (changes + unseen, 0);
                }
            }
            check(&accounts.summary(), &truth);
        }
        drop(worker);
        drop((publisher, retired));
        assert!(accounts.gather(), "the worker has no metrics open");
        add_up(&mut sums, accounts.end_interval());
        check(&accounts.summary(), &truth);
        assert!(sums.into_iter().eq(truth.timed()));
        assert_eq!(accounts.workers()[0].received, truth.received.load(Relaxed));
    }
    assert!(changes > 1000 && skipped > 1000, "{changes} layouts reached the worker, {skipped} did not");
}

/// As the stats thread does it, but without a pause. Every counter only rises. Returns all that was timed.
fn keep_accounts(
    accounts: &mut Aggregator,
    opened: &mpsc::Receiver<(Arc<Plan>, Vec<View>)>,
    retired: &Retired<WorkerMetrics>,
    stop: &AtomicBool,
) -> BTreeMap<String, u64> {
    let (mut sums, mut before) = (BTreeMap::new(), BTreeMap::new());
    while !stop.load(Relaxed) {
        opened.try_iter().for_each(|(plan, views)| accounts.open(&plan, boxed(views)));
        accounts.ask();
        let give_up = Instant::now() + Duration::from_millis(5);
        while !accounts.gather() && Instant::now() < give_up {
            thread::yield_now();
            retired.clear();
        }
        add_up(&mut sums, accounts.end_interval());
        for (service, server, frames, _) in told(&accounts.summary().servers) {
            let before = before.insert((service, server), frames);
            assert!(before.is_none_or(|before| before <= frames), "{frames} after {before:?}");
        }
    }
    // What was opened since this thread, on a busy machine, last had its turn.
    opened.try_iter().for_each(|(plan, views)| accounts.open(&plan, boxed(views)));
    sums
}

/// Raises the flag at the latest when the test goes wrong, so that its threads end and it does too.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn hundreds_of_layouts_change_under_threads_that_turn() {
    const WORKERS: usize = 3;
    let (mut layouts, truth) = (Layouts::new(1), Arc::new(Truth::default()));
    let table = layouts.cluster.compile();
    let mut accounts = Aggregator::new(WORKERS);
    let (metrics, views) = open(&table, WORKERS);
    accounts.open(&layouts.plan, boxed(views));
    let (mut publisher, readers) = publish::channel(table, metrics);
    let (retired, (announce, opened)) = (publisher.retired(), mpsc::channel());
    let (stop, closed) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut sums = BTreeMap::new();
    thread::scope(|scope| {
        let (stop, closed, retired, accounts) = (&stop, &closed, &retired, &mut accounts);
        let _ends = (Raised(stop), Raised(closed));
        let workers: Vec<_> = (0..)
            .zip(readers)
            .map(|(seed, reader)| {
                let port = Faulty::<ReplayPort>::new(ReplayPort::new(&truth).with_own_thread(), seed);
                let mut worker = Worker::new(port, reader, no_flows());
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        worker.turn();
                    }
                })
            })
            .collect();
        let collecting = scope.spawn(move || keep_accounts(accounts, &opened, retired, closed));
        for i in 0..600 {
            let (plan, table) = layouts.next();
            let (metrics, views) = open(&table, WORKERS);
            announce.send((plan, views)).expect("somebody listens");
            publisher.publish_layout(table, metrics);
            if i % 2 == 0 {
                publisher.publish(layouts.table());
            }
            // Some layouts come before the workers can have come round.
            if i % 3 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        settle(&truth);
        stop.store(true, Relaxed);
        workers.into_iter().for_each(|worker| worker.join().expect("a worker ends well"));
        closed.store(true, Relaxed);
        sums = collecting.join().expect("the accounts are kept");
    });
    drop(publisher);
    retired.clear();
    assert!(accounts.gather(), "every book is closed");
    add_up(&mut sums, accounts.end_interval());
    check(&accounts.summary(), &truth);
    assert!(sums.into_iter().eq(truth.timed()));
    assert!(truth.servers().len() > 30, "{:?}", truth.servers());
}

/// Ends the traffic, and waits until what was received is gone.
fn settle(truth: &Truth) {
    truth.end.store(true, SeqCst);
    let give_up = Instant::now() + PATIENCE;
    while !truth.is_settled() {
        assert!(Instant::now() < give_up, "the workers stand still");
        thread::sleep(Duration::from_millis(1));
    }
}

fn ask(pool: &WorkerPool) -> Snapshot {
    let (reply, answer) = mpsc::channel();
    pool.stats().figures(move |figures| _ = reply.send(figures));
    answer.recv_timeout(PATIENCE).expect("the stats thread answers")
}

/// What the device counts.
fn device_counters(truth: &Arc<Truth>) -> Box<dyn Fn() -> DeviceCounters + Send> {
    let truth = Arc::clone(truth);
    Box::new(move || DeviceCounters { seen: truth.received.load(Relaxed), passed: 0, refused: 0, lost: 0 })
}

/// The threads of `oneip run`, with everything that they report.
#[test]
fn a_crew_goes_on_through_changes_of_the_layout() {
    let (mut layouts, truth) = (Layouts::new(2), Arc::new(Truth::default()));
    let hlog = tempfile::NamedTempFile::new().expect("a file");
    let reports = Reports { line: true, to_stderr: true, hlog: Some(hlog.reopen().expect("a file")) };
    let cores = core_affinity::get_core_ids().expect("cores");
    let cores = [cores[0].id, cores[cores.len() - 1].id];
    let ports =
        cores.map(|seed| Faulty::<ReplayPort>::new(ReplayPort::new(&truth).with_own_thread(), seed as u64)).into();
    let table = layouts.cluster.compile();
    let at = (&cores[..], own_flow_tables(64, table.key));
    let mut pool =
        WorkerPool::start(&layouts.plan, table, ports, at, (device_counters(&truth), None), reports).expect("threads");
    let stats = pool.stats();
    let mut last = Snapshot::default();
    // Over at least two harvests.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until || layouts.number <= 200 {
        let (plan, table) = layouts.next();
        pool.publish_layout(&plan, table, None);
        pool.publish(layouts.table());
        thread::sleep(Duration::from_millis(5));
        let figures = ask(&pool);
        assert!(figures.summary.frames >= last.summary.frames && figures.summary.forwarded >= last.summary.forwarded);
        let names = |plan: &Plan| {
            let names = |service: &oneip::model::Service| {
                let names = service.servers.iter().map(|server| (service.name.clone(), server.name.clone()));
                names.collect::<Vec<_>>()
            };
            plan.services.iter().flat_map(names).collect::<Vec<_>>()
        };
        let first = figures.summary.servers.iter().map(|of| (of.service.to_string(), of.server.to_string()));
        assert!(first.take(names(&plan).len()).eq(names(&plan)), "the present servers come first, in their order");
        last = figures;
    }
    let turns = |worker: &WorkerSnapshot| worker.turns && !worker.stuck && worker.received > 0;
    // A thread that the machine kept from running missed a harvest.
    let give_up = Instant::now() + PATIENCE;
    while !last.workers.iter().all(turns) {
        assert!(Instant::now() < give_up, "{:?}", last.workers);
        thread::sleep(Duration::from_millis(50));
        last = ask(&pool);
    }
    assert!(last.workers.iter().all(|worker| worker.report.ledger.balanced() && worker.report.ledger.left > 0));
    let timed: u64 = last.latency.iter().map(|(_, timed)| timed.len()).sum();
    assert!(timed > 0 && last.summary.latency.is_some_and(|latency| latency.count == timed));

    settle(&truth);
    let figures = ask(&pool);
    check(&figures.summary, &truth);
    assert_eq!(figures.workers.iter().map(|worker| worker.received).sum::<u64>(), figures.summary.frames);
    let summary = pool.stop().expect("all threads end well");
    check(&summary, &truth);
    let timed = truth.timed();
    assert_eq!(summary.latency.expect("frames were timed").count, timed.iter().map(|(_, count)| count).sum::<u64>());
    let log = std::fs::read(hlog.path()).expect("a log");
    let mut logged = BTreeMap::new();
    add_up(&mut logged, intervals(&log));
    assert!(logged.into_iter().eq(timed), "the interval log has every frame");

    let (reply, answer) = mpsc::channel();
    stats.figures(move |figures| _ = reply.send(figures));
    assert!(answer.recv().is_err(), "after the end, questions are dropped");
}

/// A device that is not detached goes on receiving while its workers end.
#[test]
fn a_crew_ends_while_more_comes_in() {
    let (mut layouts, truth) = (Layouts::new(3), Arc::new(Truth::default()));
    let _ends = Raised(&truth.end);
    let core = core_affinity::get_core_ids().expect("cores")[0].id;
    let (ports, table) = (vec![ReplayPort::new(&truth).with_own_thread()], layouts.cluster.compile());
    let device_counters = device_counters(&truth);
    let at = (&[core][..], own_flow_tables(64, table.key));
    let pool = WorkerPool::start(&layouts.plan, table, ports, at, (device_counters, None), Reports::default())
        .expect("threads");
    while truth.received.load(Relaxed) == 0 {
        thread::yield_now();
    }
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(pool.stop().expect("all threads end well")).expect("it is waited for"));
    let summary = end.recv_timeout(PATIENCE).expect("it ends");
    check(&summary, &truth);
}
