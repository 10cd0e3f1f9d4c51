//! One service whose servers come and go, the pipeline over it, and time that the test sets.

use etherparse::PacketBuilder;
use oneip::model::{Admin, Decap, Deliver, HashInput, HashKey, Mac, Plan, Selection, Server, Service, Tags};
use oneip::path::select::Selection as Pipeline;
use oneip::table::build::{Cluster, History, State};
use oneip::table::flow_table::{FlowTable, FlowTableReport};
use oneip::table::{Rule, Table};
use oneip::verdict::{Reason, Verdict};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub const CLUSTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
pub const SECOND: u64 = 1_000_000_000;

pub struct Fixture {
    pub plan: Plan,
    pub cluster: Cluster,
    pub table: Table,
    flow_table: FlowTable,
    pipeline: Pipeline,
    /// Nanoseconds.
    pub now: u64,
    /// Servers made so far.
    made: usize,
    /// What must decide alike.
    twin: Option<Box<dyn Twin>>,
}

/// Another that decides frames, with a flow table of its own.
pub trait Twin {
    fn publish(&mut self, table: &Table);

    /// And whether the frame is sent with a TTL of 1.
    fn judge(&mut self, frame: &[u8], now: u64) -> (Verdict, bool);

    fn report(&self) -> FlowTableReport;
}

#[derive(Clone, Copy)]
pub enum Packet {
    Syn,
    Ack,
    Fin,
    Rst,
    Udp,
    Echo,
    /// An ICMP error about a TCP segment to the client.
    Error,
    /// The second fragment of a TCP segment.
    Fragment,
    /// Sequence number and bytes of data.
    Tcp(Kind, u32, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Syn,
    Ack,
    Fin,
    Rst,
}

impl Packet {
    fn begins(self) -> bool {
        matches!(self, Packet::Syn | Packet::Tcp(Kind::Syn, ..))
    }
}

impl Fixture {
    pub fn new(weights: &[u32], slots: u32, selection: Selection, hash: HashInput, flows: usize) -> Fixture {
        Fixture::of(weights, slots, (selection, hash), flows, false)
    }

    pub fn of(
        weights: &[u32],
        slots: u32,
        (selection, hash): (Selection, HashInput),
        flows: usize,
        until_closed: bool,
    ) -> Fixture {
        let service = Service {
            name: "web".into(),
            address: IpAddr::V4(CLUSTER),
            prefixes: Vec::new(),
            ports: Vec::new(),
            hash,
            deliver: Deliver::L2,
            selection,
            slots,
            servers: weights.iter().enumerate().map(|(at, weight)| server(at, *weight)).collect(),
            until_closed,
            second_chance: true,
            limit: None,
            quic: Vec::new(),
            leaving: 0,
            withdrawn: false,
            drain: Duration::ZERO,
            health: None,
        };
        let plan = Plan {
            hash_key: HashKey(*b"sixteen bytes !!"),
            dispatcher: None,
            filter: None,
            decap: Decap::default(),
            admin: Admin::default(),
            announce: None,
            group: None,
            lists: Vec::new(),
            odd_limit: None,
            services: vec![service],
        };
        let mut cluster = Cluster::new(&plan);
        let table = cluster.compile();
        let flow_table = FlowTable::new(flows, table.key);
        let made = weights.len();
        let twin = crate::twin(&table, flows);
        Fixture { plan, cluster, table, flow_table, pipeline: Pipeline::default(), now: 1000 * SECOND, made, twin }
    }

    /// Plain: equal weights, maglev over the source.
    pub fn plain(servers: usize) -> Fixture {
        Fixture::new(&vec![1; servers], 1009, Selection::Maglev, HashInput::Source, 4096)
    }

    pub fn servers(&mut self) -> &mut Vec<Server> {
        &mut self.plan.services[0].servers
    }

    /// Of the servers that may be chosen, the position of the one that `at` is taken for.
    pub fn staying(&self, at: usize) -> usize {
        at % (self.plan.services[0].servers.len() - self.plan.services[0].leaving)
    }

    pub fn name(&self, at: usize) -> String {
        self.plan.services[0].servers[at].name.clone()
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.plan.services[0].servers.iter().position(|server| server.name == name)
    }

    pub fn state(&self, name: &str) -> Option<State> {
        self.position(name).map(|at| self.cluster.state(0, at))
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time.as_nanos() as u64;
        self.count();
        self.cluster.expire(self.now);
        self.publish();
    }

    /// A worker goes through its flow table.
    fn count(&mut self) {
        if self.table.wants_census() {
            (0..self.report().capacity / 2 + 1).for_each(|_| self.flow_table.count(&self.table, 0, self.now));
        }
    }

    pub fn set(&mut self, at: usize, state: State, keep: Duration) {
        let servers = self.plan.services[0].servers.len();
        let mut states: Vec<State> = (0..servers).map(|at| self.cluster.state(0, at)).collect();
        states[at] = state;
        self.cluster.set_states(0, &states, self.now, self.now + keep.as_nanos() as u64);
        self.publish();
    }

    /// Adds a server that takes clients at once.
    pub fn add(&mut self, weight: u32, keep: Duration) {
        let new = server(self.made, weight);
        self.made += 1;
        let service = &mut self.plan.services[0];
        let at = service.servers.len() - service.leaving;
        service.servers.insert(at, new);
        self.reload(keep);
        self.set(at, State::Active, keep);
    }

    /// Removes a server from the configuration. It keeps what it has.
    pub fn remove(&mut self, at: usize, keep: Duration) {
        let service = &mut self.plan.services[0];
        let gone = service.servers.remove(at);
        service.servers.push(Server { weight: 0, ..gone });
        service.leaving += 1;
        self.reload(keep);
        let last = self.plan.services[0].servers.len() - 1;
        if self.cluster.state(0, last) == State::Active {
            self.set(last, State::Draining, keep);
        }
    }

    /// Takes the plan over.
    pub fn reload(&mut self, keep: Duration) {
        self.plan.services[0].drain = keep;
        self.cluster.renew(&self.plan, self.now);
        self.publish();
    }

    /// Another process goes on. What was remembered of flows is lost.
    pub fn succeed(&mut self, successor: Cluster) {
        self.cluster = successor;
        self.flow_table = FlowTable::new(self.report().capacity as usize, self.table.key);
        self.twin = None;
        self.publish();
        self.twin = crate::twin(&self.table, self.report().capacity as usize);
    }

    /// Another process goes on, with what was remembered of flows. The twin has no memory that outlasts it here.
    pub fn take_over(&mut self, successor: Cluster) {
        self.cluster = successor;
        self.twin = None;
        self.publish();
    }

    fn publish(&mut self) {
        self.table = self.cluster.compile();
        if let Some(twin) = &mut self.twin {
            twin.publish(&self.table);
        }
    }

    pub fn send(&mut self, packet: Packet, client: Ipv4Addr, port: u16) -> Verdict {
        let frame = frame(packet, client, port);
        let (verdict, is_last) = self.judge(&frame);
        assert_eq!(self.pipeline.begins().count(), usize::from(packet.begins()));
        assert!(!is_last);
        verdict
    }

    /// The same, of a frame that a server sends back. And whether nobody else will be asked.
    pub fn send_back(&mut self, packet: Packet, client: Ipv4Addr, port: u16, server: &str) -> (Verdict, bool) {
        self.judge(&self.sent_back(packet, client, port, server))
    }

    /// As a server sends it back.
    pub fn sent_back(&self, packet: Packet, client: Ipv4Addr, port: u16, server: &str) -> Vec<u8> {
        let mut frame = frame(packet, client, port);
        let at = self.position(server).expect("it is there");
        frame[6..12].copy_from_slice(&self.table.next_hop(at).mac());
        frame
    }

    fn judge(&mut self, frame: &[u8]) -> (Verdict, bool) {
        let decided = self.judge_all(&[frame])[0];
        if let Some(twin) = &mut self.twin {
            assert_eq!(twin.judge(frame, self.now), decided, "{frame:02x?} at {}", self.now);
            assert_eq!(twin.report(), self.flow_table.report());
        }
        decided
    }

    /// Of a burst: the verdict on each, and whether nobody else will be asked. The twin does not see it.
    pub fn judge_all(&mut self, frames: &[&[u8]]) -> Vec<(Verdict, bool)> {
        self.pipeline.classify(frames.len(), &self.table, |at| frames[at]);
        if let Some(limits) = self.table.limits() {
            self.pipeline.limit(limits, self.now, |at| Some(frames[at].len()));
        }
        self.pipeline.decide(&self.table);
        if self.pipeline.is_migrating() {
            let flow_tables = std::slice::from_mut(&mut self.flow_table);
            self.pipeline.look_up_flows(&self.table, (flow_tables, |_| 0), self.now, |at| frames[at]);
        }
        assert!(!self.pipeline.is_migrating());
        let last: Vec<usize> = self.pipeline.last_chances().collect();
        let outcomes = self.pipeline.outcomes().iter().enumerate();
        outcomes.map(|(at, outcome)| (outcome.verdict(), last.contains(&at))).collect()
    }

    /// Another dispatcher, which has gone through the same and has seen no frame.
    pub fn be_another(&mut self) {
        let capacity = self.report().capacity as usize;
        self.flow_table = FlowTable::new(capacity, self.table.key);
        if self.twin.take().is_some() {
            self.twin = crate::twin(&self.table, capacity);
        }
    }

    pub fn report(&self) -> FlowTableReport {
        self.flow_table.report()
    }

    /// The server's name; `None`: none is up.
    pub fn deliver(&mut self, packet: Packet, client: Ipv4Addr, port: u16) -> Option<String> {
        match self.send(packet, client, port) {
            Verdict::Forward { service: 0, server } => Some(self.name(server as usize)),
            Verdict::Drop(Reason::NoServer) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Who gets the new connections of a flow.
    pub fn owner(&self, client: Ipv4Addr, port: u16) -> Option<String> {
        self.place(client, port).0
    }

    /// The same, and who gets what is not remembered of a flow.
    pub fn place(&self, client: Ipv4Addr, port: u16) -> (Option<String>, Option<String>) {
        let service = self.table.service(0);
        let hash = |rule: &Rule| match rule.flow {
            true => oneip::hash::flow(rule.key, client.into(), CLUSTER.into(), (port, 80), 6),
            false => oneip::hash::source(rule.key, client.into()),
        };
        let number = client.to_bits().into();
        let owner = service.select(hash(&service.rule), number).1;
        let previous = service.kept().and_then(|kept| kept.previous_owner(owner, hash, number).server());
        let name = |server: u16| self.name(server.into());
        (owner.map(name), previous.or(owner).map(name))
    }
}

fn server(at: usize, weight: u32) -> Server {
    Server {
        name: format!("s{at}"),
        address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + at as u32)),
        mac: Some(Mac([2, 0, 0, 1, (at >> 8) as u8, at as u8])),
        weight,
        tags: Tags::AsReceived,
        quic_ids: Vec::new(),
    }
}

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub fn frame(packet: Packet, client: Ipv4Addr, port: u16) -> Vec<u8> {
    let ip = |from: Ipv4Addr, to: Ipv4Addr| PacketBuilder::ipv4(from.octets(), to.octets(), 64);
    let ethernet = || PacketBuilder::ethernet2(ROUTER, OURS).ipv4(client.octets(), CLUSTER.octets(), 64);
    let mut frame = Vec::new();
    let tcp = || ethernet().tcp(port, 80, 1, 1000);
    let written = match packet {
        Packet::Syn => tcp().syn().write(&mut frame, &[]),
        Packet::Ack => tcp().ack(1).write(&mut frame, &[]),
        Packet::Fin => tcp().fin().ack(1).write(&mut frame, &[]),
        Packet::Rst => tcp().rst().write(&mut frame, &[]),
        Packet::Udp => ethernet().udp(port, 53).write(&mut frame, &[]),
        Packet::Echo => ethernet().icmpv4_echo_request(7, port).write(&mut frame, &[]),
        Packet::Error => {
            let mut quoted = Vec::new();
            ip(CLUSTER, client).tcp(80, port, 1, 1000).ack(1).write(&mut quoted, &[]).expect("a Vec takes all");
            let router = Ipv4Addr::new(198, 18, 0, 1);
            let ethernet = PacketBuilder::ethernet2(ROUTER, OURS).ipv4(router.octets(), CLUSTER.octets(), 64);
            // Destination unreachable, fragmentation needed.
            ethernet.icmpv4_raw(3, 4, [0, 0, 5, 0]).write(&mut frame, &quoted)
        }
        Packet::Tcp(kind, sequence, data) => {
            let segment = ethernet().tcp(port, 80, sequence, 1000);
            let segment = match kind {
                Kind::Syn => segment.syn(),
                Kind::Ack => segment.ack(1),
                Kind::Fin => segment.fin().ack(1),
                Kind::Rst => segment.rst(),
            };
            segment.write(&mut frame, &vec![0; data.into()])
        }
        Packet::Fragment => tcp().ack(1).write(&mut frame, &[0; 40]),
    };
    written.expect("a Vec takes all");
    if matches!(packet, Packet::Fragment) {
        frame[20..22].copy_from_slice(&[0, 5]);
    }
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Another process, which knows the plan, what each server is there for now, and what the one before has written down.
pub fn successor(fixture: &Fixture, written: Option<&History>) -> Cluster {
    let mut cluster = Cluster::new(&fixture.plan);
    let states: Vec<_> = (0..fixture.plan.services[0].servers.len()).map(|at| fixture.cluster.state(0, at)).collect();
    cluster.set_states(0, &states, 0, 0);
    let text = serde_json::to_string(&written).unwrap();
    if let Some(written) = serde_json::from_str::<Option<History>>(&text).unwrap() {
        cluster.recall(&fixture.plan, &[(0, &written)], fixture.now);
    }
    cluster
}
