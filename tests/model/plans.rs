//! Plans in a line or two.

use oneip::model::{
    Admin, Decap, Deliver, HashInput, HashKey, Mac, Plan, Port, Selection, Server, Service, Tags, Transport,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Plans of one service on udp/53 at `CLUSTER_V4`.
#[derive(Clone, Debug)]
pub struct One {
    pub key: [u8; 16],
    /// Name and weight.
    pub servers: Vec<(String, u32)>,
    pub slots: u32,
    pub selection: Selection,
    pub hash: HashInput,
}

pub const CLUSTER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
pub const CLUSTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, 0x53);
pub const KEY: [u8; 16] = *b"sixteen bytes !!";

impl One {
    /// Servers s0, s1, ... of these weights.
    pub fn weights(weights: &[u32], slots: u32) -> One {
        let servers = weights.iter().enumerate().map(|(i, weight)| (format!("s{i}"), *weight)).collect();
        One { key: KEY, servers, slots, selection: Selection::Maglev, hash: HashInput::Source }
    }

    pub fn selecting(self, selection: Selection) -> One {
        One { selection, ..self }
    }

    pub fn keyed(self, key: [u8; 16]) -> One {
        One { key, ..self }
    }

    pub fn plan(&self) -> Plan {
        self.at(&[IpAddr::V4(CLUSTER_V4)])
    }

    /// The same service at IPv4 and at IPv6.
    pub fn both(&self) -> Plan {
        self.at(&[IpAddr::V4(CLUSTER_V4), IpAddr::V6(CLUSTER_V6)])
    }

    fn at(&self, addresses: &[IpAddr]) -> Plan {
        let server = |(i, (name, weight)): (usize, &(String, u32))| Server {
            name: name.clone(),
            address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + i as u32)),
            mac: Some(mac(i)),
            weight: *weight,
            tags: Tags::AsReceived,
            quic_ids: Vec::new(),
        };
        let service = |address: &IpAddr| Service {
            name: format!("at {address}"),
            address: *address,
            prefixes: Vec::new(),
            ports: vec![Port { transport: Transport::Udp, number: 53 }],
            hash: self.hash,
            deliver: Deliver::L2,
            selection: self.selection,
            slots: self.slots,
            until_closed: false,
            second_chance: false,
            limit: None,
            quic: Vec::new(),
            leaving: 0,
            withdrawn: false,
            drain: Duration::from_secs(600),
            health: None,
            servers: self.servers.iter().enumerate().map(server).collect(),
        };
        let (admin, services) = (Admin::default(), addresses.iter().map(service).collect());
        let hash_key = HashKey(self.key);
        Plan {
            hash_key,
            dispatcher: None,
            filter: None,
            decap: Decap::default(),
            admin,
            announce: None,
            group: None,
            lists: Vec::new(),
            odd_limit: None,
            services,
        }
    }
}

pub fn mac(server: usize) -> Mac {
    Mac([2, 0, 0, 1, (server >> 8) as u8, server as u8])
}

/// A DNS query of 60 bytes (IPv4) or 62 (IPv6).
pub fn query(client: IpAddr, port: u16) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = Vec::new();
    let written = match client {
        IpAddr::V4(client) => {
            builder.ipv4(client.octets(), CLUSTER_V4.octets(), 64).udp(port, 53).write(&mut frame, &[7; 18])
        }
        IpAddr::V6(client) => {
            builder.ipv6(client.octets(), CLUSTER_V6.octets(), 64).udp(port, 53).write(&mut frame, &[])
        }
    };
    written.expect("a Vec takes all");
    frame
}
