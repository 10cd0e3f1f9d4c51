//! Frames for benchmarks.

use etherparse::PacketBuilder;
use std::net::IpAddr;

/// Splitmix64 (Steele, Lea and Flood, OOPSLA 2014): reproducible inputs.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// The MAC of the router in front, and ours.
pub const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A UDP frame of 64 bytes with FCS, or as short as its headers allow.
pub fn frame(client: u32, cluster: IpAddr, vlan: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(ROUTER, OURS);
    macro_rules! ip {
        ($builder:expr) => {
            match cluster {
                IpAddr::V4(to) => $builder.ipv4(client.to_be_bytes(), to.octets(), 64).udp(40_000, 53),
                IpAddr::V6(to) => $builder.ipv6(client_v6(client), to.octets(), 64).udp(40_000, 53),
            }
        };
    }
    let builder = if vlan { ip!(builder.single_vlan(100.try_into().expect("a VLAN id"))) } else { ip!(builder) };
    let payload = 60usize.saturating_sub(builder.size(0));
    builder.write(&mut frame, &vec![0; payload]).expect("a Vec takes all");
    frame
}

/// The IPv6 client with that number.
pub fn client_v6(client: u32) -> [u8; 16] {
    (0x2001_0db8_0001_0000_0000_0000_0000_0000u128 + client as u128).to_be_bytes()
}
