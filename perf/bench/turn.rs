//! The whole turn of a worker, beside its floor: what it costs to touch the same frames at all.
//!
//! 64-byte UDP frames of a million client addresses, 4,096 frames in 2-KiB chunks (so their headers come from L3), memory
//! port. The floor reads each frame's header line, reads a table entry at a known slot and writes the 12 MAC bytes, in
//! the same bursts. The two take turns, and the ratio is of neighbours, because the machine's speed drifts.
//!
//! `cargo bench --bench turn`; with `-- deliveries-only` or `-- odd-only` that part alone, with `-- only=NAME` those scenarios whose
//! names have that in them, with `-- counted=SCENARIO` a few frames for a tool that counts instructions.

#[path = "common/frames.rs"]
mod frames;
#[path = "common/odd.rs"]
mod odd;
#[path = "common/plans.rs"]
mod plans;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frames::{OURS, ROUTER, Random, client_v6, frame};
use oneip::limits::{BURST, CAPTURE_SNAP_DEFAULT, DEFAULT_FLOWS};
use oneip::metrics::{counters::Tally, worker};
use oneip::model::{Deliver, OddKind, OddLimit, Plan, Rate, Service};
use oneip::path::rewrite;
use oneip::path::select::Selection;
use oneip::port::memory::Memory;
use oneip::port::{Burst, Port};
use oneip::table::build::Cluster;
use oneip::table::flow_table::FlowTable;
use oneip::table::publish;
use oneip::table::trace::{Points, Watch};
use oneip::table::{Table, TunnelEnd};
use oneip::verdict::Reason;
use oneip::worker::Worker;
use plans::{PREFIXED, cluster_address, clustered, prefixed};
use std::hint::black_box;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FRAMES: usize = 4096;
const CLIENTS: u64 = 1_000_000;
const COUNTED: usize = 8 * FRAMES;

struct Scenario {
    name: &'static str,
    services: usize,
    v6: bool,
    vlan: bool,
    /// Whether frames carry an arrival time, so that each is recorded in a latency histogram.
    stamped: bool,
    deliver: Deliver,
    /// Whether frames are to prefixes (`plans::prefixed`), and not to addresses.
    prefixes: bool,
    captured: Captured,
}

/// What `ctl capture` writes meanwhile, as frames come and as they go.
#[derive(Clone, Copy)]
enum Captured {
    /// There is no capture.
    Off,
    /// Only frames of a client that sends none.
    Nothing,
    Everything,
}

const IPV4: Scenario = Scenario {
    name: "ipv4",
    services: 8,
    v6: false,
    vlan: false,
    stamped: false,
    deliver: Deliver::L2,
    prefixes: false,
    captured: Captured::Off,
};

const SCENARIOS: [Scenario; 5] = [
    IPV4,
    Scenario { name: "ipv4, latency recorded", stamped: true, ..IPV4 },
    Scenario { name: "ipv4, one service", services: 1, ..IPV4 },
    Scenario { name: "ipv4, VLAN", vlan: true, ..IPV4 },
    Scenario { name: "ipv6", v6: true, ..IPV4 },
];

/// Thousands of cluster addresses, and as many prefixes beside them.
const MANY: [Scenario; 4] = [
    Scenario { name: "ipv4, 4,080 addresses", services: PREFIXED, ..IPV4 },
    Scenario { name: "ipv4, 4,080 prefixes", services: PREFIXED, prefixes: true, ..IPV4 },
    Scenario { name: "ipv6, 4,080 addresses", services: PREFIXED, v6: true, ..IPV4 },
    Scenario { name: "ipv6, 4,080 prefixes", services: PREFIXED, v6: true, prefixes: true, ..IPV4 },
];

/// The same frames to servers that are reached in other ways.
const DELIVERIES: [Scenario; 4] = [
    Scenario { name: "ipv4, ipip", deliver: Deliver::Ipip, ..IPV4 },
    Scenario { name: "ipv4, gue", deliver: Deliver::Gue { port: 6080 }, ..IPV4 },
    Scenario { name: "ipv4, gre", deliver: Deliver::Gre, ..IPV4 },
    Scenario { name: "ipv4, l3dsr", deliver: Deliver::L3dsr { dscp: 10 }, ..IPV4 },
];

const CAPTURES: [Scenario; 2] = [
    Scenario { name: "ipv4, another client captured", captured: Captured::Nothing, ..IPV4 },
    Scenario { name: "ipv4, everything captured", captured: Captured::Everything, ..IPV4 },
];

fn all() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().chain(&MANY).chain(&DELIVERIES).chain(&CAPTURES)
}

impl Scenario {
    fn watch(&self) -> Option<Arc<Watch>> {
        let client = match self.captured {
            Captured::Off => return None,
            Captured::Nothing => Some(cluster_address(0, self.v6)),
            Captured::Everything => None,
        };
        Some(Arc::new(Watch::capture(client, Points::ALL, CAPTURE_SNAP_DEFAULT, 2 * FRAMES)))
    }

    fn plan(&self) -> Plan {
        let mut plan = if self.prefixes { prefixed(64, self.v6) } else { clustered(self.services, 64, self.v6) };
        plan.services.iter_mut().for_each(|service| service.deliver = self.deliver);
        plan
    }

    /// A cluster address of a random service, and which.
    fn destination(&self, random: &mut Random) -> (IpAddr, usize) {
        let (of, shift) = if self.prefixes { (4096, 1) } else { (self.services, 0) };
        let at = (random.next() % of as u64) as usize;
        (cluster_address(at, self.v6), at >> shift)
    }
}

/// The worker under test, and what the floor needs to do the same work with the decisions known beforehand.
struct Bench {
    worker: Worker<Memory>,
    tally: Arc<Tally>,
    random: Random,
    client_at: usize,
    scenario: &'static Scenario,
    /// Of the first services; others have the same.
    owners: Vec<Vec<u16>>,
    macs: Vec<[u8; 8]>,
    /// As they were received, where more of them changes than addresses.
    received: Vec<Vec<u8>>,
    /// Service and slot of each frame.
    known: Vec<(u16, u32)>,
    key: oneip::hash::Key,
    watch: Option<Arc<Watch>>,
}

impl Bench {
    fn new(scenario: &'static Scenario) -> Bench {
        let mut cluster = Cluster::new(&scenario.plan());
        cluster.set_tunnel_end(TunnelEnd::new(&[[192, 0, 2, 2].into()], TunnelEnd::MTU));
        let watch = scenario.watch();
        cluster.set_watch(watch.clone());
        let table = cluster.compile();
        let key = table.key;
        let owners = (0..scenario.services.min(8) as u16).map(|service| {
            // The least hash of each slot.
            let hash = |slot: u64| (slot << 32).div_ceil(65_537) << 32;
            (0..65_537).map(|slot| table.place(service, hash(slot)).owner).collect()
        });
        let macs = (0..table.destinations()).map(|d| {
            let [a, b, c, d, e, f] = table.next_hop(d).mac();
            [a, b, c, d, e, f, 0, 0]
        });
        let frames: Vec<Vec<u8>> =
            (0..FRAMES).map(|i| frame(0, cluster_address(i % scenario.services, scenario.v6), scenario.vlan)).collect();
        let mut port = Memory::new(&frames);
        if scenario.stamped {
            port.now = 1_000_000;
            port.set_arrivals(1_000_000 - 12_345);
        }
        let (owners, macs) = (owners.collect(), macs.collect());
        let flow_table = FlowTable::new(DEFAULT_FLOWS as usize, table.key);
        let (metrics, view) = worker::open(&table);
        let (_, mut readers) = publish::channel(table, vec![metrics]);
        let worker = Worker::new(port, readers.remove(0), flow_table);
        Bench {
            worker,
            tally: view.tally,
            random: Random(7),
            client_at: 14 + if scenario.vlan { 4 } else { 0 } + if scenario.v6 { 8 } else { 12 },
            scenario,
            owners,
            macs,
            received: if scenario.deliver == Deliver::L2 { Vec::new() } else { frames },
            known: vec![(0, 0); FRAMES],
            key,
            watch,
        }
    }

    /// As received: new clients, MACs as the router wrote them. Not timed.
    fn refill(&mut self) {
        let Scenario { v6, .. } = *self.scenario;
        if let Some(watch) = &self.watch {
            while watch.take(|_, _| ()).is_some() {}
        }
        let port = self.worker.port_mut();
        port.rewind();
        for i in 0..FRAMES {
            let client = 0x6440_0000 + (self.random.next() % CLIENTS) as u32;
            let (cluster, service) = self.scenario.destination(&mut self.random);
            let bytes = port.frame_mut(i);
            if let Some(received) = self.received.get(i) {
                bytes.copy_from_slice(received);
            }
            bytes[..6].copy_from_slice(&OURS);
            bytes[6..12].copy_from_slice(&ROUTER);
            let (client, hash) = if v6 {
                let client = client_v6(client);
                (client.to_vec(), oneip::hash::source(self.key, IpAddr::from(client)))
            } else {
                let client = client.to_be_bytes();
                (client.to_vec(), oneip::hash::source(self.key, IpAddr::from(client)))
            };
            bytes[self.client_at..][..client.len()].copy_from_slice(&client);
            let cluster = match cluster {
                IpAddr::V4(to) => to.octets().to_vec(),
                IpAddr::V6(to) => to.octets().to_vec(),
            };
            bytes[self.client_at + client.len()..][..cluster.len()].copy_from_slice(&cluster);
            self.known[i] = (service as u16, oneip::hash::slot(hash, 65_537));
        }
    }

    #[inline(never)]
    fn turns(&mut self) -> Duration {
        self.turns_of(BURST)
    }

    #[inline(always)]
    fn turns_of(&mut self, burst: usize) -> Duration {
        self.worker.port_mut().burst = burst;
        let start = Instant::now();
        for _ in 0..FRAMES / burst {
            black_box(self.worker.turn());
        }
        start.elapsed()
    }

    fn floor(&mut self) -> Duration {
        let Bench { worker, known, owners, macs, client_at, .. } = self;
        let port = worker.port_mut();
        let start = Instant::now();
        let mut sum = 0u8;
        for burst in 0..FRAMES / BURST {
            for (i, (service, slot)) in known[burst * BURST..][..BURST].iter().enumerate() {
                let server = owners[*service as usize % 8][*slot as usize];
                let mac = macs[*service as usize * 64 + server as usize];
                let bytes = port.frame_mut(burst * BURST + i);
                sum ^= bytes[*client_at];
                let head: &mut [u8; 12] = bytes.first_chunk_mut().expect("a frame");
                let ours: [u8; 6] = *head.first_chunk().expect("6 of 12");
                head[..6].copy_from_slice(&mac[..6]);
                head[6..].copy_from_slice(&ours);
            }
        }
        black_box(sum);
        start.elapsed()
    }

    /// The frames as the worker left them are the frames as the floor leaves them.
    fn assert_answers(&mut self) {
        self.refill();
        let seed = self.random.0;
        self.turns();
        let port = self.worker.port();
        let sent: Vec<Vec<u8>> = (0..FRAMES).map(|i| port.frame(i).to_vec()).collect();
        assert_eq!(port.sent().len(), FRAMES, "every frame was forwarded");
        for (frame, (service, slot)) in sent.iter().zip(&self.known) {
            let server = self.owners[*service as usize % 8][*slot as usize];
            assert_eq!(frame[..6], self.macs[*service as usize * 64 + server as usize][..6]);
            assert_eq!(frame[6..12], OURS);
        }
        assert_eq!(self.tally.received.get(), self.tally.forwarded());
        if let Some(watch) = &self.watch {
            let noted = iter::from_fn(|| watch.take(|_, bytes| bytes.len())).filter(|length| *length > 0).count();
            let expected = if matches!(self.scenario.captured, Captured::Everything) { 2 * FRAMES } else { 0 };
            assert_eq!((noted, watch.lost()), (expected, 0), "each frame as it came and as it went");
        }
        self.random.0 = seed;
    }
}

/// The steps of a turn, one by one. Each is a function of its own, which tools that count instructions find by name.
struct Steps {
    bench: Bench,
    table: Table,
    selection: Selection,
    burst: Burst<<Memory as Port>::Frame>,
}

impl Steps {
    const NAMES: [&str; 5] = ["receive", "parse and match", "hash and look up", "rewrite", "transmit"];
    const ALL: [fn(&mut Steps); 5] =
        [Steps::receive, Steps::parse_and_match, Steps::hash_and_look_up, Steps::rewrite, Steps::transmit];

    fn new(scenario: &'static Scenario) -> Steps {
        let table = Cluster::new(&scenario.plan()).compile();
        Steps { bench: Bench::new(scenario), table, selection: Selection::default(), burst: Burst::new() }
    }

    #[inline(never)]
    fn receive(&mut self) {
        self.bench.worker.port_mut().rx(&mut self.burst);
    }

    #[inline(never)]
    fn parse_and_match(&mut self) {
        let Steps { bench, table, selection, burst } = self;
        let port = bench.worker.port();
        selection.classify(burst.len(), table, |at| port.bytes(&burst[at]));
    }

    #[inline(never)]
    fn hash_and_look_up(&mut self) {
        self.selection.decide(&self.table);
    }

    #[inline(never)]
    fn rewrite(&mut self) {
        let port = self.bench.worker.port_mut();
        for (frame, outcome) in self.burst.iter_mut().zip(self.selection.outcomes()) {
            rewrite::to_next_hop(port.bytes_mut(frame), outcome.next_hop);
        }
    }

    #[inline(never)]
    fn transmit(&mut self) {
        self.bench.worker.port_mut().tx(0, &mut self.burst);
    }
}

/// Where a turn's time goes: the same frames through the same steps, with the clock read between them (about 0.3 ns a frame
/// each).
fn stages(scenario: &'static Scenario) {
    let mut steps = Steps::new(scenario);
    let mut retired = [Duration::ZERO; 5];
    const ROUNDS: usize = 500;
    for _ in 0..ROUNDS {
        steps.bench.refill();
        for _ in 0..FRAMES / BURST {
            let mut before = Instant::now();
            for (step, sum) in Steps::ALL.iter().zip(&mut retired) {
                step(&mut steps);
                let now = Instant::now();
                *sum += now - before;
                before = now;
            }
        }
    }
    let per_frame = retired.map(|sum| sum.as_nanos() as f64 / (ROUNDS * FRAMES) as f64);
    let listed: Vec<String> = Steps::NAMES.iter().zip(per_frame).map(|(name, ns)| format!("{name} {ns:.2}")).collect();
    println!("{:24} {} ns/frame", scenario.name, listed.join(", "));
}

/// What a tool that counts instructions is to see: each frame of `COUNTED` once through the steps, and once through a turn.
/// `scripts/bench/parts.sh` takes from what the tool says of all what it says of these functions, and divides.
fn counted(scenario: &'static Scenario) {
    let mut steps = Steps::new(scenario);
    for _ in 0..COUNTED / FRAMES {
        steps.bench.refill();
        for _ in 0..FRAMES / BURST {
            Steps::ALL.iter().for_each(|step| step(&mut steps));
        }
        steps.bench.refill();
        steps.bench.turns();
    }
    println!("{}: {COUNTED} frames", scenario.name);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Turn and floor by turns, so that both see the same machine.
fn ratio(scenario: &'static Scenario) {
    let mut bench = Bench::new(scenario);
    bench.assert_answers();
    let (mut turns, mut floors, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..600 {
        bench.refill();
        let turn = bench.turns().as_nanos() as f64 / FRAMES as f64;
        bench.refill();
        let floor = bench.floor().as_nanos() as f64 / FRAMES as f64;
        if round >= 50 {
            turns.push(turn);
            floors.push(floor);
            ratios.push(turn / floor);
        }
    }
    println!(
        "{:24} turn {:5.2} ns/frame, floor {:5.2}, ratio {:4.2} (medians of {} pairs); fastest {:5.2} and {:5.2}",
        scenario.name,
        median(turns.clone()),
        median(floors.clone()),
        median(ratios.clone()),
        ratios.len(),
        turns.into_iter().fold(f64::MAX, f64::min),
        floors.into_iter().fold(f64::MAX, f64::min)
    );
}

/// The ways to a server beside the plain one: all take turns, and the ratio is of neighbours.
fn deliveries() {
    let mut benches: Vec<Bench> = iter::once(&IPV4).chain(&DELIVERIES).map(Bench::new).collect();
    let mut times = vec![Vec::new(); benches.len()];
    for round in 0..600 {
        for (bench, times) in benches.iter_mut().zip(&mut times) {
            bench.refill();
            let time = bench.turns().as_nanos() as f64 / FRAMES as f64;
            if round >= 50 {
                times.push(time);
            }
        }
    }
    for (bench, own) in benches.iter().zip(&times) {
        let ratios = own.iter().zip(&times[0]).map(|(own, plain)| own / plain).collect();
        println!(
            "{:24} {:5.2} ns/frame, {:4.2} x the plain one; fastest {:5.2}",
            bench.scenario.name,
            median(own.clone()),
            median(ratios),
            own.iter().copied().fold(f64::MAX, f64::min)
        );
    }
}

/// Frames that are dear to read: what they cost as they are dispatched, and beyond `[limit.odd]`, beside the plain frame of the family. All
/// take turns.
fn odd_frames() {
    const ROUNDS: usize = 300;
    let (cluster, cluster_v6) = (cluster_address(0, false), cluster_address(0, true));
    let (IpAddr::V4(to), IpAddr::V6(to_v6)) = (cluster, cluster_v6) else { unreachable!("one of each") };
    let talk = |client: u32| odd::Talk {
        v4: (Ipv4Addr::from_bits(0x6440_0000 + client), to),
        v6: (client_v6(0x6440_0000 + client).into(), to_v6),
    };
    let worker = |limited: bool| {
        let mut plan = clustered(1, 64, false);
        plan.services.extend(clustered(1, 64, true).services.into_iter().map(|of| Service { name: "v6".into(), ..of }));
        let none_passes = [Some(Rate { per_second: 1, burst: 1 }); OddKind::COUNT];
        plan.odd_limit = limited.then_some(OddLimit { rates: none_passes, only_counts: false });
        let table = Cluster::new(&plan).compile();
        let flow_table = FlowTable::new(16, table.key);
        let (metrics, view) = worker::open(&table);
        let (_, mut readers) = publish::channel(table, vec![metrics]);
        let none: [&[u8]; 0] = [];
        (Worker::new(Memory::new(&none), readers.remove(0), flow_table), view.tally)
    };
    let (mut open, mut limited) = (worker(false), worker(true));
    let mut random = Random(7);
    let named = odd::all(&talk(0));
    let frames: Vec<Vec<Vec<u8>>> = (0..named.len())
        .map(|at| (0..FRAMES).map(|_| odd::all(&talk((random.next() % CLIENTS) as u32)).swap_remove(at).2).collect())
        .collect();
    let mut times = vec![[Vec::new(), Vec::new()]; named.len()];
    for _ in 0..ROUNDS {
        for (frames, times) in frames.iter().zip(&mut times) {
            for ((worker, _), times) in [&mut open, &mut limited].into_iter().zip(times) {
                *worker.port_mut() = Memory::new(frames);
                let start = Instant::now();
                for _ in 0..FRAMES / BURST {
                    black_box(worker.turn());
                }
                times.push(start.elapsed().as_nanos() as f64 / FRAMES as f64);
            }
        }
    }
    assert_eq!(open.1.forwarded(), open.1.received.get(), "every frame was forwarded");
    let kept =
        open.1.received.get() / named.len() as u64 * named.iter().filter(|(_, is_odd, _)| *is_odd).count() as u64;
    assert!(limited.1.dropped(Reason::Limited).get() + 16 > kept, "all but the bursts");
    let medians: Vec<[f64; 2]> = times.into_iter().map(|both| both.map(median)).collect();
    for ((name, is_odd, _), [open, limited]) in named.iter().zip(&medians) {
        let plain = medians[usize::from(name.starts_with("ipv6"))][0];
        let beyond = if *is_odd {
            format!("; beyond [limit.odd] {limited:.1}, {:.1} x", limited / plain)
        } else {
            format!("; beside [limit.odd] {limited:.1}")
        };
        println!("{name:42} {open:5.1} ns/frame, {:4.1} x the plain one{beyond}", open / plain);
    }
}

/// What a turn costs by itself, with none to 16 frames in it: what a frame that comes alone waits for.
fn small_bursts(scenario: &'static Scenario) {
    const ROUNDS: usize = 100;
    let mut bench = Bench::new(scenario);
    let times = [0, 1, 2, 4, 8, 16, BURST].map(|burst| {
        let rounds = (0..ROUNDS).map(|_| {
            bench.refill();
            if burst > 0 {
                return bench.turns_of(burst).as_nanos() as f64 / (FRAMES / burst) as f64;
            }
            bench.turns();
            bench.turns().as_nanos() as f64 / (FRAMES / BURST) as f64
        });
        (burst, median(rounds.collect()))
    });
    let listed: Vec<String> = times.iter().map(|(burst, ns)| format!("{burst}: {ns:.0}")).collect();
    println!("{:24} ns a turn with so many frames: {}", scenario.name, listed.join(", "));
}

fn turn(c: &mut Criterion) {
    if let Some(name) = std::env::args().find_map(|argument| argument.strip_prefix("counted=").map(str::to_owned)) {
        return counted(all().find(|scenario| scenario.name == name).expect("a scenario of this bench"));
    }
    if std::env::args().any(|argument| argument == "odd-only") {
        return odd_frames();
    }
    if std::env::args().any(|argument| argument == "deliveries-only") {
        return deliveries();
    }
    if let Some(name) = std::env::args().find_map(|argument| argument.strip_prefix("only=").map(str::to_owned)) {
        return all().filter(|scenario| scenario.name.contains(&name)).for_each(ratio);
    }
    println!("interleaved, bursts of {BURST}:");
    all().for_each(ratio);
    println!("deliveries, interleaved:");
    deliveries();
    println!("stage by stage:");
    SCENARIOS.iter().for_each(stages);
    println!("dear frames:");
    odd_frames();
    println!("small bursts:");
    SCENARIOS.iter().for_each(small_bursts);
    let mut group = c.benchmark_group("turn");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for scenario in &SCENARIOS {
        let mut bench = Bench::new(scenario);
        let mut timed = |round: fn(&mut Bench) -> Duration, name: &str| {
            group.bench_function(format!("{name}/{}", scenario.name), |b| {
                b.iter_custom(|rounds| {
                    (0..rounds)
                        .map(|_| {
                            bench.refill();
                            round(&mut bench)
                        })
                        .sum()
                });
            });
        };
        timed(Bench::turns, "turn");
        timed(Bench::floor, "floor");
    }
}

criterion_group!(benches, turn);
criterion_main!(benches);
