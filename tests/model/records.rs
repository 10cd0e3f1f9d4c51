//! tests/data/golden.toml

use oneip::config;
use oneip::limits::DEFAULT_SLOTS;
use oneip::model::{
    Deliver, Dispatcher, Engine, HashInput, Idle, List, ListKind, Mac, PINS, Plan, Prefix, Queues, Selection, Tags,
};
use serde::Deserialize;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    down: Vec<String>,
    config: String,
    frame: Vec<RawRecord>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecord {
    what: String,
    bytes: String,
    verdict: String,
    macs: Option<String>,
    same_server_as: Option<String>,
}

pub struct Golden {
    pub plan: Plan,
    /// Servers that are down.
    pub down: Vec<String>,
    pub records: Vec<Record>,
}

pub struct Record {
    pub what: String,
    pub frame: Vec<u8>,
    pub expected: Expected,
    /// Of a forwarded frame whose server is known: its bytes behind the dispatcher.
    pub output: Option<Vec<u8>>,
    pub same_server_as: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Service and, where it does not hang on a hash, server.
    Forward(String, Option<String>),
    Drop(String),
    Pass,
}

/// For plans that are many: tables of the usual size take a development build most of a test's time, and one with sanitizers minutes.
pub fn few_slots(plan: &mut Plan) {
    plan.services.iter_mut().filter(|service| service.slots == DEFAULT_SLOTS).for_each(|service| service.slots = 1009);
}

impl Golden {
    pub fn read() -> Golden {
        let file: File = toml::from_str(include_str!("../data/golden.toml")).expect("golden.toml is TOML");
        let plan = config::parse(&file.config, "golden.toml").unwrap_or_else(|errors| panic!("{errors}")).plan;
        Golden { plan, down: file.down, records: file.frame.into_iter().map(record).collect() }
    }

    /// The configuration, with a MAC for the server that lacks one: no frame that is forwarded goes there.
    pub fn config_with_macs() -> String {
        let file: File = toml::from_str(include_str!("../data/golden.toml")).expect("golden.toml is TOML");
        let mut config: toml::Table = toml::from_str(&file.config).expect("TOML");
        for service in config["service"].as_array_mut().expect("services") {
            for server in service["server"].as_array_mut().expect("servers") {
                let server = server.as_table_mut().expect("a section");
                server.entry("mac").or_insert_with(|| "02:00:00:00:09:99".into());
            }
        }
        config.to_string()
    }

    /// The same services, but all of them select that way, among few slots.
    pub fn plan_with(&self, selection: Selection, hash: HashInput) -> Plan {
        let mut plan = self.plan.clone();
        for service in &mut plan.services {
            service.selection = selection;
            service.hash = hash;
        }
        few_slots(&mut plan);
        plan
    }

    /// The same services, with lists for all of them and for some, whose prefixes lie in each other.
    pub fn with_lists(&self, mut plan: Plan) -> Plan {
        let prefix = |text: &str| {
            let (address, length) = text.split_once('/').expect("a prefix");
            Prefix { address: address.parse().expect("an address"), length: length.parse().expect("a length") }
        };
        let some: Vec<String> = plan.services.iter().step_by(2).map(|service| service.name.clone()).collect();
        let list = |kind, services: &[String], prefixes: &[&str]| List {
            kind,
            services: services.to_vec(),
            prefixes: prefixes.iter().map(|text| prefix(text)).collect(),
            files: Vec::new(),
        };
        plan.lists = vec![
            list(ListKind::Deny, &[], &["198.51.100.2/31", "198.51.100.12/32", "2001:db8:c::4/126", "::/1"]),
            list(ListKind::Deny, &some, &["198.51.0.0/16", "2001:db8::/32", "203.0.113.0/24"]),
            list(ListKind::Count, &[], &["198.51.100.8/29", "2000::/3", "0.0.0.0/0"]),
            list(
                ListKind::Allow,
                &[],
                &["198.51.100.4/30", "198.51.100.3/32", "2001:db8:c::/127", "2001:db8:c::8/125"],
            ),
            list(ListKind::Allow, &some[..1], &["198.51.100.0/24"]),
        ];
        plan
    }

    /// The same services, but the frames of all come to their servers that way, where `is_v6`, to IPv6 addresses of theirs. L3DSR is for
    /// servers of the cluster address' family. Each has few slots.
    pub fn plan_delivering(&self, deliver: Deliver, is_v6: bool, mtu: u32) -> Plan {
        let mut plan = self.plan.clone();
        for (at, service) in plan.services.iter_mut().enumerate() {
            for server in &mut service.servers {
                if let IpAddr::V4(v4) = server.address
                    && is_v6
                {
                    server.address = IpAddr::V6(v4.to_ipv6_compatible());
                }
            }
            service.deliver = match deliver {
                Deliver::L3dsr { .. } if service.address.is_ipv6() != is_v6 || !service.prefixes.is_empty() => {
                    Deliver::Ipip
                }
                Deliver::L3dsr { dscp } => Deliver::L3dsr { dscp: dscp + at as u8 },
                other => other,
            };
        }
        few_slots(&mut plan);
        plan.dispatcher = Some(dispatcher(mtu));
        plan
    }

    /// As `plan_delivering`, with servers that want other VLAN tags than their neighbours in the file.
    pub fn plan_tagging(&self, deliver: Deliver, is_v6: bool, mtu: u32) -> Plan {
        let mut plan = self.plan_delivering(deliver, is_v6, mtu);
        let tags = [Tags::Vlan(100), Tags::AsReceived, Tags::Untagged, Tags::Vlan(4094)];
        plan.services
            .iter_mut()
            .flat_map(|s| &mut s.servers)
            .zip(tags.into_iter().cycle())
            .for_each(|(s, t)| s.tags = t);
        plan
    }

    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.records.iter().map(|record| record.frame.clone()).collect()
    }
}

/// One that sends tunnels.
pub fn dispatcher(mtu: u32) -> Dispatcher {
    Dispatcher {
        interface: "eth1".into(),
        others: Vec::new(),
        queues: vec![Queues::default()],
        engine: Engine::AfXdp,
        cores: None,
        flows: 16,
        heartbeat: Duration::from_millis(100),
        xdp: None,
        pins: PINS.into(),
        dpdk: None,
        source: ["192.0.2.2", "2001:db8:2::2"].map(|source| source.parse().expect("an address")).to_vec(),
        mtu: Some(mtu),
        gateway_mac: None,
        limit_sources: 65_536,
        idle: Idle::Poll,
    }
}

fn record(raw: RawRecord) -> Record {
    let RawRecord { what, bytes, verdict, macs, same_server_as } = raw;
    let frame = hex(&bytes);
    let expected = match verdict.split([' ', '/']).collect::<Vec<_>>()[..] {
        ["forward", service, server] => Expected::Forward(service.into(), Some(server.into())),
        ["forward", service] => Expected::Forward(service.into(), None),
        ["drop", reason] => Expected::Drop(reason.into()),
        ["pass"] => Expected::Pass,
        _ => panic!("{what}: no verdict: {verdict}"),
    };
    let known = matches!(expected, Expected::Forward(_, Some(_)));
    assert_eq!(macs.is_some(), known, "{what}: `macs` goes with a known server");
    let output = macs.map(|macs| {
        let macs = macs.split(' ').flat_map(|mac| mac.parse::<Mac>().expect("a MAC").0);
        macs.chain(frame[12..].iter().copied()).collect()
    });
    Record { what, frame, expected, output, same_server_as }
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().expect("a part before the comment").split_whitespace())
        .flat_map(str::bytes)
        .map(|digit| (digit as char).to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "half a byte: {text}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
