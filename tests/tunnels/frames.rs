//! Packets of clients of any length.

use std::net::IpAddr;

pub const CLUSTER_V4: [u8; 4] = [203, 0, 113, 80];
pub const CLUSTER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];

/// What a client sends.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub client: IpAddr,
    pub is_udp: bool,
    /// Behind the transport header.
    pub data: usize,
    pub class: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub is_tagged: bool,
    /// Behind the packet.
    pub padding: usize,
}

impl Packet {
    pub fn new(client: &str, data: usize) -> Packet {
        let client = client.parse().expect("an address");
        let (class, id) = (0, 7);
        Packet { client, is_udp: true, data, class, id, dont_fragment: true, is_tagged: false, padding: 0 }
    }

    /// To port 443 of the cluster address.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let data: Vec<u8> = (0..self.data).map(|at| (at * 7 + at / 256) as u8).collect();
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0xfe], [2, 0, 0, 0, 0, 1]);
        let ip = match self.client {
            IpAddr::V4(client) => {
                let mut ip = etherparse::Ipv4Header::new(0, 9, etherparse::IpNumber(0), client.octets(), CLUSTER_V4)
                    .expect("short");
                (ip.dscp, ip.ecn) =
                    ((self.class >> 2).try_into().expect("6 bits"), (self.class & 3).try_into().expect("2 bits"));
                (ip.identification, ip.dont_fragment) = (self.id, self.dont_fragment);
                etherparse::IpHeaders::Ipv4(ip, Default::default())
            }
            IpAddr::V6(client) => etherparse::IpHeaders::Ipv6(
                etherparse::Ipv6Header {
                    traffic_class: self.class,
                    flow_label: 0x12345.try_into().expect("20 bits"),
                    hop_limit: 9,
                    source: client.octets(),
                    destination: CLUSTER_V6,
                    ..Default::default()
                },
                Default::default(),
            ),
        };
        if self.is_tagged {
            let builder = builder.single_vlan(100.try_into().expect("12 bits")).ip(ip);
            if self.is_udp {
                builder.udp(4000, 443).write(&mut frame, &data).expect("a Vec takes all");
            } else {
                builder.tcp(4000, 443, 1, 1000).write(&mut frame, &data).expect("a Vec takes all");
            }
        } else if self.is_udp {
            builder.ip(ip).udp(4000, 443).write(&mut frame, &data).expect("a Vec takes all");
        } else {
            builder.ip(ip).tcp(4000, 443, 1, 1000).write(&mut frame, &data).expect("a Vec takes all");
        }
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }
}
