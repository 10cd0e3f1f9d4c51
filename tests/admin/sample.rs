//! Documents as a dispatcher of two services would give them.

use hdrhistogram::Histogram;
use oneip::admin::group::{self, BadValue, FindsStatus, GroupStatus, GroupSummary, HealthStatus, Living, MemberStatus};
use oneip::admin::order::{
    ClientCheck, ClientFlow, ClientService, Diff, ListVerdict, Listing, Recording, ServiceDiff, Talker, Talkers, Trace,
    TracedFrame, TracedService,
};
use oneip::admin::status::{
    AnnounceStatus, CheckStatus, PeerStatus, ServerStatus, ServiceStatus, State, Status, WorkerStatus,
};
use oneip::metrics::buckets::{DIGITS, MAX_NS};
use oneip::metrics::snapshot::{FlowTableReport, Snapshot, WorkerReport, WorkerSnapshot};
use oneip::metrics::source::{LimitedCounts, OddCounts};
use oneip::metrics::summary::{ServerSummary, ServiceSummary, Summary};
use oneip::port::Ledger;
use oneip::port::pcap::{Blocks, Packet};
use oneip::verdict::Reason;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// As control gives it: no counters.
pub fn status() -> Status {
    let web = ["web1", "web2", "web3"].into_iter().enumerate().map(|(i, name)| server(name, i)).collect();
    let mut dns: Vec<ServerStatus> =
        ["ns1", "ns2"].into_iter().enumerate().map(|(i, name)| server(name, 40 + i)).collect();
    dns[1].state = State::Draining;
    dns[1].why = "by `ctl drain`, its connections end in 312 s".to_owned();
    dns[1].weight = 3;
    dns[1].configured_weight = Some(1);
    dns.iter_mut().for_each(|server| server.check = None);
    let mut dns = service("dns", "203.0.113.53", dns, 1200);
    let why = "withdrawn by oneip ctl withdraw".to_owned();
    dns.announce = Some(AnnounceStatus { ready: true, withdrawn: true, announced: Some(false), why });
    Status {
        engine: Some("af_xdp".to_owned()),
        program: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: "dispatcher".to_owned(),
        server: None,
        pid: 812,
        uptime_s: 273_912.5,
        config: "/etc/oneip/cluster.toml".to_owned(),
        interface: "eth1".to_owned(),
        findings: Vec::new(),
        peers: Vec::new(),
        group: None,
        interface_up: Some(true),
        generation: 17,
        services: vec![service("web", "203.0.113.80", web, 0), dns],
        odd_limit: None,
        workers: (0..2).map(|worker| WorkerStatus { worker, core: worker + 2, ..WorkerStatus::default() }).collect(),
        counted_s: None,
        frames: 0,
        forwarded: 0,
        passed: 0,
        dropped: BTreeMap::new(),
    }
}

/// The filters of web2, which agrees, web3, which does not, and web4, which is not heard.
pub fn peers() -> Vec<PeerStatus> {
    let peer = |server: &str, heard_s: Option<f64>, differs: &[&str]| PeerStatus {
        server: server.into(),
        heard: heard_s.is_some_and(|age| age < 1.0),
        heard_s,
        differs: differs.iter().map(|what| (*what).to_owned()).collect(),
    };
    vec![
        peer("web2", Some(0.2), &[]),
        peer("web3", Some(0.1), &["configuration", "orders"]),
        peer("web4", Some(75.0), &[]),
        peer("web5", None, &["key"]),
    ]
}

fn service(name: &str, address: &str, servers: Vec<ServerStatus>, moving: u32) -> ServiceStatus {
    ServiceStatus {
        name: name.to_owned(),
        address: address.to_owned(),
        more_addresses: Vec::new(),
        ports: vec!["tcp/80".to_owned(), "tcp/443".to_owned()],
        hash: "source".to_owned(),
        selection: "maglev".to_owned(),
        slots: 65_537,
        moving,
        servers,
        announce: Some(AnnounceStatus { ready: true, withdrawn: false, announced: Some(true), why: String::new() }),
        limit: None,
        latency_ns: None,
    }
}

pub fn server(name: &str, at: usize) -> ServerStatus {
    ServerStatus {
        name: name.to_owned(),
        address: format!("192.0.2.{}", at + 11).parse().unwrap(),
        mac: Some(format!("02:00:00:00:00:{:02x}", at + 0x11)),
        state: State::Up,
        why: String::new(),
        since_s: 4242.0,
        weight: 1,
        configured_weight: None,
        slots: 21_845,
        share: 0.3333,
        frames: 0,
        bytes: 0,
        new_flows: 0,
        check: Some(CheckStatus {
            age_s: Some(0.25),
            latency_ms: Some(0.81),
            failing: false,
            failure: None,
            failure_age_s: None,
            unchecked: None,
            unchecked_s: None,
        }),
    }
}

/// Counters, the services' latencies, and a server that a reload has removed.
pub fn figures() -> Snapshot {
    let sent =
        [("web", "web1", 1000), ("web", "web2", 2000), ("web", "web3", 3000), ("dns", "ns1", 40), ("web", "web0", 7)];
    let servers = sent.map(|(service, server, frames)| ServerSummary {
        service: service.into(),
        server: server.into(),
        frames,
        bytes: 100 * frames,
        flows: frames / 10,
    });
    let mut dropped = [0; Reason::COUNT];
    dropped[Reason::NoService as usize] = 12;
    dropped[Reason::TxFull as usize] = 3;
    let worker = |received| WorkerSnapshot {
        received,
        turns: true,
        stuck: false,
        report: WorkerReport {
            ledger: Ledger { total: 4096, idle: 1000, lent: 96, in_device: 3000, sending: 0, left: 0 },
            pins: FlowTableReport {
                capacity: 1 << 20,
                held: received / 100,
                remembered: received / 10,
                evicted: 5,
                displaced: 9,
            },
        },
    };
    Snapshot {
        rounds: 7,
        summary: Summary {
            frames: 6167,
            forwarded: 6047,
            passed: 105,
            odd: OddCounts { limited: [0, 3, 0], would_limit: [0; 3] },
            dropped,
            servers: servers.into(),
            services: [("web", 9, 2), ("dns", 0, 0)]
                .map(|(service, denied, would_deny)| ServiceSummary {
                    service: service.into(),
                    denied,
                    would_deny,
                    limited: LimitedCounts { limited: [0, 0, 7, 0, 0], would_limit: [0; 5] },
                })
                .into(),
            latency: None,
        },
        workers: vec![worker(4000), worker(2062)],
        latency: vec![
            ("web".into(), histogram(&[2_000, 3_100, 3_100, 40_000]).into()),
            ("dns".into(), histogram(&[]).into()),
        ],
        troubles: Vec::new(),
    }
}

/// As the stats thread keeps them.
pub fn histogram(values: &[u64]) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
    values.iter().for_each(|value| histogram.saturating_record(*value));
    histogram
}

pub fn trace(watched: bool) -> Trace {
    let frame = TracedFrame {
        at_us: 12_300,
        worker: 1,
        bytes: 74,
        protocol: "tcp".to_owned(),
        verdict: "forward".to_owned(),
        service: Some("web".to_owned()),
        server: Some("web2".to_owned()),
        reason: None,
    };
    let dropped = TracedFrame {
        at_us: 900_000,
        verdict: "drop".to_owned(),
        service: None,
        server: None,
        reason: Some("no_service".to_owned()),
        ..frame.clone()
    };
    let service = |service: &str, server: Option<&str>, keeps: Option<&str>, order: &[&str]| TracedService {
        service: service.into(),
        hash: "0x0123456789abcdef".to_owned(),
        slot: 291,
        server: server.map(str::to_owned),
        keeps: keeps.map(str::to_owned),
        order: order.iter().map(|&name| name.to_owned()).collect(),
    };
    Trace {
        client: "198.51.100.7".parse().unwrap(),
        services: vec![
            service("web", Some("web2"), None, &["web2", "web3", "web1"]),
            service("dns", Some("ns1"), Some("ns2"), &["ns2", "ns1"]),
        ],
        frames: if watched { vec![frame, dropped] } else { Vec::new() },
    }
}

pub fn diff(differs: bool) -> Diff {
    let same = Diff {
        config: "/etc/oneip/cluster.toml".into(),
        same: true,
        changes: Vec::new(),
        needs_restart: Vec::new(),
        services: Vec::new(),
        refused: None,
        warnings: Vec::new(),
        orders: vec!["server web2 of service web: drained".to_owned()],
    };
    let moves = ServiceDiff {
        service: "web".to_owned(),
        slots: 65_537,
        moved_slots: Some(16_384),
        moved: 0.2501,
        must: 0.25,
        drain_s: 300,
        needs_force: false,
    };
    let rule = ServiceDiff { service: "dns".to_owned(), moved_slots: None, drain_s: 0, ..moves.clone() };
    match differs {
        false => same,
        true => Diff {
            same: false,
            changes: vec!["service web: server web4 added (192.0.2.14, weight 1)".to_owned()],
            needs_restart: vec!["[dispatcher] cores".to_owned()],
            services: vec![moves, rule],
            refused: Some(
                "[dispatcher] cores cannot change while oneip runs; restart it, or change that back".to_owned(),
            ),
            ..same
        },
    }
}

pub fn client(client: IpAddr, port: Option<u16>) -> ClientCheck {
    let service = |place: &TracedService, listed, why: &str| ClientService {
        place: place.clone(),
        address: "203.0.113.80".parse().unwrap(),
        listed,
        limit: (place.service == "dns").then(|| "100 SYN a second".to_owned()),
        hash_input: if place.service == "dns" { "flow" } else { "source" }.to_owned(),
        why: why.to_owned(),
        flows: Vec::new(),
    };
    let places = trace(false).services;
    let prefix = "198.51.100.0/24".parse().unwrap();
    let denied = Listing { verdict: ListVerdict::Denied, prefix, by: "ctl deny".to_owned() };
    let web = service(&places[0], Some(denied), "first choice");
    let mut dns = service(&places[1], None, "failover, since ns2 is draining (by ctl drain)");
    dns.flows.extend(port.map(|port| ClientFlow {
        port,
        to: "udp/53".to_owned(),
        hash: "0x00000000000000ff".to_owned(),
        slot: 12,
        server: Some("ns1".to_owned()),
        keeps: None,
        why: "first choice".to_owned(),
    }));
    ClientCheck { client, services: vec![web, dns] }
}

pub fn talkers() -> Talkers {
    let talker = |service: Option<&str>, source: &str, frames, dropped, syns| Talker {
        service: service.map(str::to_owned),
        source: source.parse().unwrap(),
        frames,
        too_many: 0,
        dropped,
        bytes: 100 * frames,
        syns,
    };
    Talkers {
        for_ms: 2000,
        one_in: 64,
        looked_at: 1000,
        missed: 0,
        frames: 64_000,
        sources: vec![
            talker(Some("web"), "198.51.100.7", 48_000, 24_000, 640),
            talker(None, "2001:db8:0:7::/64", 8000, 8000, 0),
            talker(Some("dns"), "198.51.100.8", 64, 0, 64),
        ],
    }
}

/// Two frames, of which three more were lost, in pieces that are no blocks.
pub fn recording() -> Recording {
    let whole = pcapng();
    let (to, pieces) = tokio::sync::mpsc::channel(8);
    for piece in whole.chunks(whole.len().div_ceil(7)) {
        to.try_send(piece.to_vec()).unwrap();
    }
    Recording::new(pieces)
}

pub fn pcapng() -> Vec<u8> {
    let mut blocks = Blocks::new("eth1", 2048);
    for (at, is_sent) in [(1_000_000_007, false), (1_000_000_009, true)] {
        let comment = "verdict=forward service=web server=web1 queue=0".to_owned();
        blocks.add(Packet { at, original: 1500, bytes: &[7; 61], is_sent, comment });
    }
    blocks.tell(1_000_000_010, 3);
    blocks.take()
}

/// As it stands to a group whose store is away.
pub fn group() -> GroupSummary {
    GroupSummary {
        name: "edge".into(),
        member: "d1".into(),
        connected: false,
        since_s: 5.0,
        why: Some("connection refused".into()),
        outside: None,
        other_key: false,
        alive: 3,
        living: [("d1", true), ("d2", true), ("d3", false)]
            .map(|(member, belongs)| Living {
                member: member.into(),
                mode: "dispatcher".into(),
                version: "0.1.0".into(),
                belongs,
            })
            .into(),
        revision: Some(17),
        queued: 2,
        lost: 1,
        restored: 0,
        bad: Vec::new(),
        health: Some(HealthStatus { stance: "waiting".into(), since_s: 61.0, views: 2, checks: 2, of: 4, differs: 1 }),
        published: None,
    }
}

/// With all that may be left out.
pub fn group_of_two() -> GroupStatus {
    let bad = vec![BadValue { key: "/oneip/edge/orders/web1".into(), why: "it is no JSON".into() }];
    let summary = GroupSummary { outside: Some("it has another hash_key".into()), bad, living: Vec::new(), ..group() };
    let member = |member: &str, known: Option<usize>| MemberStatus {
        member: member.into(),
        version: "0.1.0".into(),
        mode: "dispatcher".into(),
        belongs: known.is_some(),
        generation: known.map(|generation| generation as u64),
        behind: known,
        announced: known,
        services: known,
        published: known.map(|known| known as u64),
        finds: known.map(|_| FindsStatus { checks: 2, out: 1, cut_off: false }),
    };
    let order = group::OrderStatus {
        server: "web1".into(),
        order: "drained".into(),
        by: "d2".into(),
        age_s: 2.5,
        counts: "group".into(),
    };
    GroupStatus {
        summary,
        etcd: vec!["https://192.0.2.5:2379".into()],
        members: vec![member("d1", Some(3)), member("d2", None)],
        orders: vec![order],
    }
}
