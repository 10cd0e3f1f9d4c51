//! A worker on DPDK's net_null beside `dpdk-testpmd` in macswap mode on net_null: the same bursts of frames of 60 bytes, on the same
//! core, by turns.
//!
//! net_null hands out whatever is in its buffers, so that a port in between writes a client's UDP packet into each frame that
//! comes; what that costs is measured by itself. testpmd needs Debian's `dpdk-dev`.
//!
//! Both keep their frames in huge pages, as who has a NIC does: `sysctl vm.nr_hugepages=200` first. Without, or with fewer,
//! both keep them in pages of 4 KiB, where each frame costs a miss of the TLB: then there is less between the two, and that
//! says less of them.
//!
//! `cargo bench --features dpdk --bench dpdk`

#[path = "common/frames.rs"]
#[allow(dead_code)]
mod frames;
#[path = "common/plans.rs"]
mod plans;

use frames::Random;
use oneip::limits::BURST;
use oneip::metrics::worker::{self, View};
use oneip::model;
use oneip::port::dpdk::{self, Dpdk, Frame};
use oneip::port::{Burst, Ledger, Port};
use oneip::table::build::Cluster;
use oneip::table::flow_table::FlowTable;
use oneip::table::publish;
use oneip::worker::Worker;
use plans::{cluster_address, plan};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SERVICES: usize = 8;
const CLIENTS: u64 = 1_000_000;
const LENGTH: usize = 60;
const CORE: usize = 1;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);

/// The port, with clients' packets in its frames.
struct Filled {
    inner: Dpdk,
    /// One to each service.
    packets: [[u8; LENGTH]; SERVICES],
    random: Random,
    /// Whether packets are written at all.
    fills: bool,
    /// Whether frames have an arrival time, so that each is recorded in a histogram.
    stamped: bool,
}

impl Filled {
    fn new(inner: Dpdk, mac: [u8; 6], stamped: bool) -> Filled {
        let packets = std::array::from_fn(|service| {
            let mut packet = frames::frame(0, cluster_address(service, false), false);
            packet[..6].copy_from_slice(&mac);
            packet.try_into().expect("a packet of that length")
        });
        Filled { inner, packets, random: Random(7), fills: true, stamped }
    }
}

impl Port for Filled {
    type Frame = Frame;
    const PASSES: bool = true;

    fn service(&mut self) {
        self.inner.service();
    }

    fn rx(&mut self, burst: &mut Burst<Frame>) {
        self.inner.rx(burst);
        if !self.fills {
            return;
        }
        for frame in burst {
            let random = self.random.next();
            let client = 0x6440_0000 + (((random >> 32) * CLIENTS) >> 32) as u32;
            let bytes: &mut [u8; LENGTH] = self.inner.bytes_mut(frame).try_into().expect("frames of that length");
            *bytes = self.packets[random as usize % SERVICES];
            bytes[26..30].copy_from_slice(&client.to_be_bytes());
        }
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.inner.bytes(frame)
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.inner.bytes_mut(frame)
    }

    fn is_ours(&self, frame: &Frame) -> bool {
        self.inner.is_ours(frame)
    }

    fn reshape<'a>(&'a mut self, frame: &'a mut Frame, front: isize, len: usize) -> &'a mut [u8] {
        self.inner.reshape(frame, front, len)
    }

    fn blank(&mut self, with: &Frame, len: usize) -> Option<Frame> {
        self.inner.blank(with, len)
    }

    fn arrival(&mut self, frame: &mut Frame) -> u64 {
        if self.stamped { self.inner.arrival(frame) } else { 0 }
    }

    fn now(&self) -> u64 {
        self.inner.now()
    }

    fn room(&mut self, link: usize) -> usize {
        self.inner.room(link)
    }

    fn tx(&mut self, link: usize, burst: &mut Burst<Frame>) {
        self.inner.tx(link, burst);
    }

    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.inner.free(burst);
    }

    fn ledger(&self) -> Ledger {
        self.inner.ledger()
    }
}

/// Where the frames are.
#[derive(Clone, Copy, Debug)]
enum Pages {
    Huge,
    Small,
}

impl Pages {
    /// Huge ones if there are enough for both, of 2 MiB.
    fn of_this_machine() -> Pages {
        let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        let free: usize = free.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if free >= 128 { Pages::Huge } else { Pages::Small }
    }

    fn eal(self) -> &'static [&'static str] {
        match self {
            Pages::Huge => &["--in-memory", "-m", "128"],
            Pages::Small => &["--no-huge", "-m", "256"],
        }
    }
}

/// Runs `turn`, which returns a number of frames, for a round; millions of frames a second.
fn rate(mut turn: impl FnMut() -> usize) -> f64 {
    let (start, mut frames) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        for _ in 0..1000 {
            frames += turn();
        }
    }
    frames as f64 / start.elapsed().as_micros() as f64
}

/// A worker's turns; the same port with nothing between receiving and sending; and without packets in its frames.
fn ours(port: Filled) -> ([f64; 3], Filled) {
    let table = Cluster::new(&plan(SERVICES, 64, false)).compile();
    let flow_table = FlowTable::new(0, table.key);
    let (metrics, View { tally, harvest: _harvest }) = worker::open(&table);
    let (_publisher, mut readers) = publish::channel(table, vec![metrics]);
    let mut worker = Worker::new(port, readers.remove(0), flow_table);
    let turns = rate(|| worker.turn().len());
    assert_eq!(tally.received.get(), tally.forwarded(), "every frame was forwarded");
    let mut port = worker.into_port();
    let filled = rate(|| pass_on(&mut port));
    port.fills = false;
    let bare = rate(|| pass_on(&mut port));
    port.fills = true;
    ([turns, filled, bare], port)
}

fn pass_on(port: &mut Filled) -> usize {
    let mut burst = Burst::new();
    port.service();
    port.rx(&mut burst);
    let count = burst.len();
    port.tx(0, &mut burst);
    count
}

/// What testpmd says of itself, in millions a second; `None` where it is not installed.
fn testpmd(pages: Pages) -> Option<f64> {
    let burst = format!("--burst={BURST}");
    let mut child = Command::new("dpdk-testpmd")
        .args(pages.eal())
        .args(["--no-pci", "--no-telemetry", "--no-shconf", "-l", "0,1"])
        .arg(format!("--vdev=net_null0,size={LENGTH}"))
        .args(["--", "--forward-mode=macswap", "--auto-start", "--stats-period=1", "--total-num-mbufs=4095", &burst])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // The first line counts from before it began.
    thread::sleep(3 * ROUND + ROUND / 2);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .expect("it runs");
    let mut said = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut()?, &mut said).expect("text");
    child.wait().expect("it ends");
    let figures = said.lines().filter_map(|line| line.trim().strip_prefix("Rx-pps:"));
    let rates: Vec<f64> = figures.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect();
    Some(rates.last()? / 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let pages = Pages::of_this_machine();
    println!("frames in {pages:?} pages");
    let settings = model::Dpdk {
        ports: vec![format!("net_null0,size={LENGTH}")],
        eal: pages.eal().iter().map(|argument| argument.to_string()).collect(),
        queues: 1,
        descriptors: 1024,
        mbufs: None,
        mtu: 1500,
        exception: model::Exception::None,
    };
    let device = dpdk::open(&settings, &["lo"], &[0, 1]).unwrap_or_else(|error| panic!("{error}"));
    let mac = device.devices[0].mac.0;
    let dpdk::Attached { mut ports, service, .. } = device.attach();
    let mut port = Filled::new(ports.remove(0), mac, true);
    let mut all: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let round = thread::spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: CORE });
            let ([turn, filled, bare], mut port) = ours(port);
            port.stamped = false;
            let ([unstamped, ..], mut port) = ours(port);
            port.stamped = true;
            ([turn, unstamped, filled, bare], port)
        });
        let ([turn, unstamped, filled, bare], back) = round.join().expect("it does not panic");
        port = back;
        let theirs = testpmd(pages).unwrap_or(f64::NAN);
        // A NIC does not take the time of a worker to put packets into frames.
        let unfilled = 1.0 / (1.0 / turn - (1.0 / filled - 1.0 / bare));
        let row = [turn, unstamped, bare, theirs, turn / theirs, unfilled / theirs];
        println!(
            "turn {turn:.1}, without latency {unstamped:.1}, filled {filled:.1}, bare {bare:.1}, testpmd {theirs:.1} Mpps"
        );
        row.into_iter().zip(&mut all).for_each(|(value, all)| all.push(value));
    }
    let [turn, unstamped, bare, theirs, ratio, unfilled] = all.map(median);
    println!("medians: turn {turn:.1}, without latency {unstamped:.1}, port alone {bare:.1}, testpmd {theirs:.1} Mpps");
    println!(
        "of testpmd's rate: {ratio:.2}; less the time to put packets into the frames {unfilled:.2} (of neighbours)"
    );
    drop(port);
    drop(service);
}
