//! Plans for benchmarks.

use oneip::model::{
    Admin, Decap, Deliver, HashInput, HashKey, Mac, Plan, Port, Prefix, Selection, Server, Service, Tags, Transport,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// `services` services on udp/53, each with `servers` servers of weight 1.
pub fn plan(services: usize, servers: usize, v6: bool) -> Plan {
    let service = |i: usize| Service {
        name: format!("service{i}"),
        address: cluster_address(i, v6),
        prefixes: Vec::new(),
        ports: vec![Port { transport: Transport::Udp, number: 53 }],
        hash: HashInput::Source,
        deliver: Deliver::L2,
        selection: Selection::Maglev,
        slots: 65_537,
        drain: Duration::from_secs(600),
        servers: (0..servers)
            .map(|s| Server {
                name: format!("server{i}-{s}"),
                address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + (i * 1024 + s) as u32)),
                mac: Some(Mac([2, 1, (i >> 8) as u8, i as u8, (s >> 8) as u8, s as u8])),
                weight: 1,
                tags: Tags::AsReceived,
                quic_ids: Vec::new(),
            })
            .collect(),
        until_closed: false,
        second_chance: false,
        limit: None,
        quic: Vec::new(),
        leaving: 0,
        withdrawn: false,
        health: None,
    };
    Plan {
        hash_key: HashKey(std::array::from_fn(|i| i as u8)),
        dispatcher: None,
        filter: None,
        decap: Decap::default(),
        admin: Admin::default(),
        announce: None,
        group: None,
        lists: Vec::new(),
        odd_limit: None,
        services: (0..services).map(service).collect(),
    }
}

/// As it is with many ports of a few clusters: of thousands of services, eight have servers, and the others have theirs.
#[allow(dead_code)] // by some of the benches
pub fn clustered(services: usize, servers: usize, v6: bool) -> Plan {
    let mut plan = plan(services, servers, v6);
    for at in 8..services {
        plan.services[at].servers = plan.services[at % 8].servers.clone();
    }
    plan
}

/// Services of `prefixed`.
#[allow(dead_code)] // by some of the benches
pub const PREFIXED: usize = 4080;

/// `PREFIXED` services, `clustered`, each on a prefix and on an address elsewhere. The prefixes halve the 4,096 addresses from the first
/// `cluster_address` on again and again, from /24 to /31 (/120 to /127), so that each of these is in eight; service n has addresses
/// 2 n and 2 n + 1.
#[allow(dead_code)] // by some of the benches
pub fn prefixed(servers: usize, v6: bool) -> Plan {
    let mut plan = clustered(PREFIXED, servers, v6);
    let whole = Prefix::host(cluster_address(0, v6)).length;
    let prefixes = (1..=8).flat_map(|bits: usize| {
        let prefix = move |at: usize| Prefix { address: cluster_address(at << bits, v6), length: whole - bits as u8 };
        (0..4096 >> bits).map(prefix)
    });
    for (at, (service, prefix)) in plan.services.iter_mut().zip(prefixes).enumerate() {
        service.prefixes = vec![prefix, Prefix::host(cluster_address((1 << 20) + at, v6))];
    }
    plan
}

pub fn cluster_address(service: usize, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_0080_0000_0000_0000_0000_0000 + service as u128))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + service as u32))
    }
}
