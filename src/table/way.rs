//! What packets to a server get besides MAC addresses: headers, or another address. Compiled when the table is built.

use crate::model::{Deliver, Service, Tags};
use crate::wire::readdress::Readdress;
use crate::wire::tunnel::Template;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where tunnels begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// Bytes that a packet may have with its headers.
    pub mtu: u32,
}

impl TunnelEnd {
    /// An Ethernet's.
    pub const MTU: u32 = 1500;

    /// The first address of each family.
    pub fn new(addresses: &[IpAddr], mtu: u32) -> TunnelEnd {
        let (mut v4, mut v6) = (None, None);
        for address in addresses {
            match address {
                IpAddr::V4(address) => _ = v4.get_or_insert(*address),
                IpAddr::V6(address) => _ = v6.get_or_insert(*address),
            }
        }
        TunnelEnd { v4, v6, mtu }
    }

    /// The address that tunnels to a server come from.
    pub fn source(&self, server: IpAddr) -> Option<IpAddr> {
        match server {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

/// How packets of one service come to one of its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As they are.
    Direct,
    Tunnel(Template),
    Readdressed(Readdress),
    /// There is no address that the tunnel could come from.
    Closed,
}

/// How frames to one server leave, in a cache line of its own.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Leaving {
    pub way: Way,
    pub tags: Tags,
}

impl Leaving {
    /// Whether nothing else of a frame changes.
    pub fn changes_no_more_than_macs(&self) -> bool {
        matches!((self.way, self.tags), (Way::Direct | Way::Closed, Tags::AsReceived))
    }
}

const _: () = assert!(size_of::<Leaving>() == 64);

impl Way {
    pub fn new(deliver: Deliver, cluster: IpAddr, server: IpAddr, end: &TunnelEnd) -> Way {
        if let Deliver::L3dsr { dscp } = deliver {
            return Way::Readdressed(Readdress::new(server, dscp));
        }
        if deliver == Deliver::L2 {
            return Way::Direct;
        }
        let template = end.source(server).and_then(|source| Template::new(deliver, source, server, cluster.is_ipv4()));
        template.map_or(Way::Closed, Way::Tunnel)
    }
}

/// The families of servers that tunnels lead to, IPv4 first, each with the first such server's name.
pub fn families(services: &[Service]) -> [Option<&str>; 2] {
    let tunnels = services.iter().filter(|service| service.deliver.is_tunnel());
    let servers: Vec<_> = tunnels.flat_map(|service| &service.servers).collect();
    [true, false]
        .map(|is_v4| servers.iter().find(|server| server.address.is_ipv4() == is_v4).map(|server| server.name.as_str()))
}
