//! Traffic without end for workers whose services and servers change under them, and the truth about where it went, read off
//! the frames themselves: the service from the port that they are for, the server from the MAC that they were sent to.

use crate::counting;
use crate::model::Random;
use crate::model::plans::{CLUSTER_V4, KEY, mac, query};
use oneip::metrics::summary::ServerSummary;
use oneip::model::{
    Admin, Decap, Deliver, HashInput, HashKey, Plan, Port as ServicePort, Selection, Server, Service, Tags, Transport,
};
use oneip::port::memory::{Frame, Memory};
use oneip::port::{Burst, Ledger, Port};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

const SERVICES: usize = 5;
const SERVERS: usize = 8;
/// The first service's port.
const PORT: u16 = 1000;

/// Some of the services, in any order, each with some of the servers, in any order. A server has the same MAC everywhere.
pub fn any_plan(random: &mut Random) -> Plan {
    let mut some = |all: usize| {
        let mut some: Vec<usize> = (0..all).collect();
        (0..all).rev().for_each(|at| some.swap(at, random.below(at + 1)));
        some.truncate(1 + random.below(all));
        some
    };
    let server = |i: usize| Server {
        name: format!("server{i}"),
        address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + i as u32)),
        mac: Some(mac(i)),
        weight: 1,
        tags: Tags::AsReceived,
        quic_ids: Vec::new(),
    };
    let services = some(SERVICES).into_iter().map(|i| Service {
        name: format!("service{i}"),
        address: IpAddr::V4(CLUSTER_V4),
        prefixes: Vec::new(),
        ports: vec![ServicePort { transport: Transport::Udp, number: PORT + i as u16 }],
        hash: HashInput::Source,
        deliver: Deliver::L2,
        selection: Selection::Maglev,
        slots: 1009,
        until_closed: false,
        second_chance: false,
        limit: None,
        quic: Vec::new(),
        leaving: 0,
        withdrawn: false,
        drain: Duration::ZERO,
        health: None,
        servers: some(SERVERS).into_iter().map(server).collect(),
    });
    Plan {
        hash_key: HashKey(KEY),
        dispatcher: None,
        filter: None,
        decap: Decap::default(),
        admin: Admin::default(),
        announce: None,
        group: None,
        lists: Vec::new(),
        odd_limit: None,
        services: services.collect(),
    }
}

/// Of many clients and sizes to all services, and some that are for none or are nothing.
fn frames() -> Vec<Vec<u8>> {
    let mut random = Random(5);
    let frame = |i: usize| {
        let mut frame = query(Ipv4Addr::from_bits(random.word() as u32).into(), 5353);
        let port = PORT + (i % (SERVICES + 1)) as u16;
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame.resize(60 + random.below(60), 0);
        match i % 50 {
            0 => frame.truncate(30),
            1 => frame[12] = 0x88,
            _ => {}
        }
        frame
    };
    (0..1500).map(frame).collect()
}

/// Whether a frame has an arrival time: by the last bit of the client's address.
fn is_timed(frame: &[u8]) -> bool {
    frame[29] & 1 == 1
}

#[derive(Default)]
struct Count {
    frames: AtomicU64,
    bytes: AtomicU64,
    timed: AtomicU64,
}

/// What became of the frames of all mills together.
#[derive(Default)]
pub struct Truth {
    pub received: AtomicU64,
    /// Workers that are receiving at the moment.
    pub inside: AtomicU64,
    /// Dropped or passed.
    pub freed: AtomicU64,
    sent: [[Count; SERVERS]; SERVICES],
    /// From when the mills stand still.
    pub end: AtomicBool,
}

impl Truth {
    fn sum(&self, of: impl Fn(&Count) -> &AtomicU64) -> u64 {
        self.sent.iter().flatten().map(|count| of(count).load(Relaxed)).sum()
    }

    pub fn forwarded(&self) -> u64 {
        self.sum(|count| &count.frames)
    }

    /// Whether every frame that was received is gone.
    pub fn is_settled(&self) -> bool {
        self.inside.load(SeqCst) == 0 && self.received.load(Relaxed) == self.forwarded() + self.freed.load(Relaxed)
    }

    /// Service, server, frames and bytes of all that got any, by name.
    pub fn servers(&self) -> Vec<(String, String, u64, u64)> {
        let counts = self.sent.iter().enumerate().flat_map(|(service, counts)| {
            counts.iter().enumerate().map(move |(server, count)| {
                let (frames, bytes) = (count.frames.load(Relaxed), count.bytes.load(Relaxed));
                (format!("service{service}"), format!("server{server}"), frames, bytes)
            })
        });
        counts.filter(|count| count.2 > 0).collect()
    }

    /// Frames sent that had an arrival time, by service.
    pub fn timed(&self) -> Vec<(String, u64)> {
        let timed = |counts: &[Count; SERVERS]| counts.iter().map(|count| count.timed.load(Relaxed)).sum();
        let counts = self.sent.iter().enumerate().map(|(i, counts)| (format!("service{i}"), timed(counts)));
        counts.filter(|count| count.1 > 0).collect()
    }
}

/// What a summary says, in the form of the truth.
pub fn told(servers: &[ServerSummary]) -> Vec<(String, String, u64, u64)> {
    let told = servers.iter().filter(|server| server.frames > 0);
    let mut told: Vec<_> =
        told.map(|told| (told.service.to_string(), told.server.to_string(), told.frames, told.bytes)).collect();
    told.sort();
    told
}

/// A port that receives the same frames again and again.
pub struct ReplayPort {
    memory: Memory,
    truth: Arc<Truth>,
    /// How often the worker's thread had called the allocator at its first turn.
    calls: Option<u64>,
    has_own_thread: bool,
}

impl ReplayPort {
    pub fn new(truth: &Arc<Truth>) -> ReplayPort {
        let mut memory = Memory::new(&frames());
        memory.now = 5_000;
        memory.set_arrivals(1_000);
        ReplayPort { memory, truth: Arc::clone(truth), calls: None, has_own_thread: false }
    }

    /// For a worker on a thread of its own: checks in every turn that there was no call to the allocator since the first.
    pub fn with_own_thread(self) -> ReplayPort {
        ReplayPort { has_own_thread: true, ..self }
    }
}

impl Port for ReplayPort {
    type Frame = Frame;

    const PASSES: bool = true;

    fn service(&mut self) {
        if self.has_own_thread {
            let calls = counting::calls();
            assert_eq!(*self.calls.get_or_insert(calls), calls, "the worker calls the allocator");
        }
        self.memory.service();
    }

    fn rx(&mut self, burst: &mut Burst<Frame>) {
        // Before the look at `end`: whoever sets that and then finds nobody in here has seen the last frame received.
        self.truth.inside.fetch_add(1, SeqCst);
        if self.truth.end.load(SeqCst) {
            self.truth.inside.fetch_sub(1, SeqCst);
            return;
        }
        let before = burst.len();
        self.memory.rx(burst);
        if burst.len() == before {
            self.memory.rewind();
            self.memory.rx(burst);
        }
        self.truth.received.fetch_add((burst.len() - before) as u64, Relaxed);
        self.truth.inside.fetch_sub(1, SeqCst);
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.memory.bytes(frame)
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.memory.bytes_mut(frame)
    }

    fn reshape<'a>(&'a mut self, frame: &'a mut Frame, front: isize, len: usize) -> &'a mut [u8] {
        self.memory.reshape(frame, front, len)
    }

    fn blank(&mut self, with: &Frame, len: usize) -> Option<Frame> {
        self.memory.blank(with, len)
    }

    fn arrival(&mut self, frame: &mut Frame) -> u64 {
        if is_timed(self.memory.bytes(frame)) { self.memory.arrival(frame) } else { 0 }
    }

    fn now(&self) -> u64 {
        self.memory.now()
    }

    fn room(&mut self, link: usize) -> usize {
        self.memory.room(link)
    }

    fn tx(&mut self, link: usize, burst: &mut Burst<Frame>) {
        for frame in burst.iter_mut() {
            let bytes = self.memory.bytes_mut(frame);
            let (service, server) = (u16::from_be_bytes([bytes[36], bytes[37]]) - PORT, bytes[5]);
            let count = &self.truth.sent[service as usize][server as usize];
            count.frames.fetch_add(1, Relaxed);
            count.bytes.fetch_add(bytes.len() as u64, Relaxed);
            count.timed.fetch_add(is_timed(bytes) as u64, Relaxed);
            // As it came, for the next time.
            bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        }
        self.memory.tx(link, burst);
    }

    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.truth.freed.fetch_add(burst.len() as u64, Relaxed);
        self.memory.free(burst);
    }

    fn ledger(&self) -> Ledger {
        self.memory.ledger()
    }
}
