//! Plans for benchmarks.

use oneip::model::{Admin, Decap, Deliver, HashInput, HashKey, Mac, Plan, Port, Selection, Server, Service, Transport};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// `services` services on udp/53, each with `servers` servers of weight 1.
pub fn plan(services: usize, servers: usize, v6: bool) -> Plan {
    let service = |i: usize| Service {
        name: format!("service{i}"),
        address: cluster_address(i, v6),
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
            })
            .collect(),
        until_closed: false,
        limit: None,
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
        services: (0..services).map(service).collect(),
    }
}

pub fn cluster_address(service: usize, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_0080_0000_0000_0000_0000_0000 + service as u128))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + service as u32))
    }
}
