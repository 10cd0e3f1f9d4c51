//! What is said to the kernel over rtnetlink: one request and its answer, and the notifications of what others change.

use std::io;
use std::net::IpAddr;

pub mod address_routes;
pub mod addresses;
pub mod kinds;
pub mod links;

use futures::StreamExt;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use rustix::io::Errno;
use socket2::{SockFilter, SockRef};

/// Holds the largest message of the kernel (32 KiB since Linux 4.9).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// What the socket for notifications may have waiting; the kernel cuts it to `net.core.rmem_max`. What does not fit is
/// an overrun, which is recovered from.
const SOCKET_BUFFER: i32 = 4 * 1024 * 1024;

/// Marks what we put into the kernel's tables, so that what a process that was killed has left is found again.
/// Free in iproute2's `rt_protos`.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(111);

/// The upper half of the numbers of our routing tables, but for the one of announced addresses.
pub const TABLES: u32 = 0x6f6e_0000;

/// Requests that may be under way on one socket: an answer that finds its buffer full is lost, and nobody would wake who
/// waits for it. An acknowledgement takes about 1 KiB of the 208 that a socket has (`net.core.rmem_default`).
pub const REQUESTS: usize = 64;

/// A socket for requests only, so that no answer is ever lost to an overrun by notifications.
pub fn requests() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection); // ends when the last handle is dropped
    Ok(handle)
}

/// Sends one request and returns the first message of the answer, if the answer is more than an acknowledgement.
pub async fn exchange(
    handle: &Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    let mut answers = handle.clone().request(request).map_err(io::Error::other)?;
    let mut first = None;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(inner) => first = first.or(Some(inner)),
            _ => {}
        }
    }
    Ok(first)
}

pub fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

pub fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Where a route sends packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub device: u32,
    pub gateway: Option<IpAddr>,
    /// The source address that packets get.
    pub source: Option<IpAddr>,
}

impl Path {
    /// `None`: out of no device.
    pub fn of(route: &RouteMessage) -> Option<Path> {
        let (mut device, mut gateway, mut source) = (None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
                    gateway = Some(IpAddr::V4(*v4));
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
                    gateway = Some(IpAddr::V6(*v6));
                }
                RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(IpAddr::V6(*v6)),
                _ => {}
            }
        }
        device.map(|device| Path { device, gateway, source })
    }
}

/// The route that the kernel takes for packets to an address; `more` of what it goes by: a mark, a device. `None`: there is none.
pub async fn lookup(
    handle: &Handle,
    address: IpAddr,
    more: impl IntoIterator<Item = RouteAttribute>,
) -> io::Result<Option<RouteMessage>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message.attributes.extend(more);
    match exchange(handle, RouteNetlinkMessage::GetRoute(message), 0).await {
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(Some(route)),
        Ok(_) => Ok(None),
        Err(error) if is_no_route(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the kernel sends packets to an address, with a mark or without one. `None`: nowhere, or not to one machine elsewhere.
pub async fn path(handle: &Handle, address: IpAddr, mark: Option<u32>) -> io::Result<Option<Path>> {
    let route = lookup(handle, address, mark.map(RouteAttribute::Mark)).await?;
    Ok(route.filter(|route| route.header.kind == RouteType::Unicast).and_then(|route| Path::of(&route)))
}

/// Whether it is what unreachable, prohibit and blackhole routes, or none, answer (fib_props in net/ipv4/fib_semantics.c).
fn is_no_route(error: &io::Error) -> bool {
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL].iter().any(|no| is(error, *no))
}

pub fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Notifications about what changes in the kernel's tables. Read where they are used, without a task between: while nobody
/// reads, they wait in the kernel's bounded buffer.
pub struct Notifications {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// Some notifications were lost.
#[derive(Debug)]
pub struct Overrun;

type Notified = Result<Vec<RouteNetlinkMessage>, Overrun>;

impl Notifications {
    /// Of these groups. Of routes only those that we have made, or that are in tables of ours: a routing daemon changes thousands at once.
    pub fn open(groups: &[MulticastGroup]) -> io::Result<Notifications> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_ref().set_rx_buf_sz(SOCKET_BUFFER)?;
        SockRef::from(socket.socket_ref()).attach_filter(&without_others_routes())?;
        socket.socket_mut().bind_auto()?;
        for group in groups {
            socket.socket_mut().add_membership(*group as u32)?;
        }
        Ok(Notifications { socket, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// The next datagram's messages. Cancel-safe: a datagram is taken only when this completes.
    pub async fn receive(&mut self) -> io::Result<Notified> {
        self.buffer.clear();
        let received = self.socket.recv_from(&mut self.buffer).await.map(Some);
        read(received, &self.buffer).map(|found| found.unwrap_or(Ok(Vec::new())))
    }

    /// What the kernel has to say at this moment, without waiting for the runtime to notice that it has; `None`: nothing.
    pub fn poll(&mut self) -> io::Result<Option<Notified>> {
        self.buffer.clear();
        let received = match self.socket.socket_ref().recv_from(&mut self.buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            received => received.map(|(_, sender)| Some(sender)),
        };
        read(received, &self.buffer)
    }
}

fn read(received: io::Result<Option<SocketAddr>>, datagram: &[u8]) -> io::Result<Option<Notified>> {
    match received {
        Ok(None) => Ok(None),
        Ok(Some(sender)) if sender.port_number() == 0 => Ok(Some(Ok(messages(datagram)))),
        Ok(Some(_)) => Ok(Some(Ok(Vec::new()))), // not from the kernel
        Err(error) if is(&error, Errno::NOBUFS) => Ok(Some(Err(Overrun))),
        Err(error) => Err(error),
    }
}

/// What a datagram of the kernel says, as far as it is understood.
pub fn messages(mut datagram: &[u8]) -> Vec<RouteNetlinkMessage> {
    const ALIGNMENT: usize = 4; // NLMSG_ALIGNTO
    let mut found = Vec::new();
    while let Some(length) = datagram.first_chunk().map(|head| u32::from_ne_bytes(*head) as usize) {
        let Some(message) = datagram.get(..length).filter(|message| !message.is_empty()) else { break };
        if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
        {
            found.push(inner);
        }
        datagram = &datagram[length.next_multiple_of(ALIGNMENT).min(datagram.len())..];
    }
    found
}

/// Classic BPF, which the kernel runs on netlink messages too (`sk_filter` in net/netlink/af_netlink.c): passes everything but
/// routes (`RTM_NEWROUTE`, `RTM_DELROUTE`) whose `rtm_protocol` is not ours and which are not in tables of ours either.
fn without_others_routes() -> [SockFilter; 9] {
    const TYPE: u32 = 4; // of struct nlmsghdr
    const BY: u32 = 16 + 5; // rtm_protocol, behind struct nlmsghdr
    // RTA_TABLE is the first attribute behind struct rtmsg (`fib_dump_info`, `rt6_fill_node`); the upper half of its number.
    const TABLE: u32 = 16 + 12 + 4 + if cfg!(target_endian = "little") { 2 } else { 0 };
    // BPF_LD|BPF_H|BPF_ABS reads in network byte order, and the kernel writes in that of the host.
    let read = |number: u16| u32::from(u16::from_be_bytes(number.to_ne_bytes()));
    let (half, byte, equal, end) = (0x28, 0x30, 0x15, 0x06);
    [
        SockFilter::new(half, 0, 0, TYPE),
        SockFilter::new(equal, 1, 0, read(libc::RTM_NEWROUTE)),
        SockFilter::new(equal, 0, 4, read(libc::RTM_DELROUTE)),
        SockFilter::new(byte, 0, 0, BY),
        SockFilter::new(equal, 2, 0, u8::from(PROTOCOL).into()),
        SockFilter::new(half, 0, 0, TABLE),
        SockFilter::new(equal, 0, 1, read((TABLES >> 16) as u16)),
        SockFilter::new(end, 0, 0, u32::MAX),
        SockFilter::new(end, 0, 0, 0),
    ]
}
