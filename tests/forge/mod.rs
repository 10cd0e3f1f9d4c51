//! TCP segments of any source, as a stranger sends them.

use etherparse::{PacketBuilder, TcpHeader};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};

pub struct Stranger([Socket; 2]);

impl Stranger {
    /// In the network of the thread that calls.
    pub fn new() -> Stranger {
        // With this protocol the sender makes the header of IPv6 too (`rawv6_init_sk`, net/ipv6/raw.c).
        Stranger(
            [Domain::IPV4, Domain::IPV6]
                .map(|domain| Socket::new(domain, Type::RAW, Some(Protocol::from(255))).unwrap()),
        )
    }

    /// # Errors
    ///
    /// The host refuses it, as while its link is away.
    pub fn send(&self, from: IpAddr, to: IpAddr, tcp: TcpHeader) -> io::Result<()> {
        let ip = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
            _ => unreachable!("both are of one family"),
        };
        let mut bytes = Vec::new();
        ip.tcp_header(tcp).write(&mut bytes, &[]).unwrap();
        let [v4, v6] = &self.0;
        let socket = if from.is_ipv4() { v4 } else { v6 };
        socket.send_to(&bytes, &SockAddr::from(SocketAddr::from((to, 0)))).map(drop)
    }
}
