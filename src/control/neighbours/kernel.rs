//! The conversation with the kernel: what is asked over rtnetlink, and what its messages say.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, MulticastGroup};
use rustix::io::Errno;

use super::change::Detour;
use crate::model::Mac;
use crate::netlink::links::{self, Link};
use crate::netlink::{self, Notifications, Overrun, PROTOCOL, Path, exchange, family, is, to_io};

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub state: Reachability,
    /// The kernel keeps the entry fresh by itself.
    pub managed: bool,
    /// We asked for it.
    pub ours: bool,
    /// The operator or another program maintains it: permanent, or marked with another protocol. Such an entry is used
    /// and never written: the kernel would strip it of its permanence (`__neigh_update` under `NEIGH_UPDATE_F_USE`).
    pub foreign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Has a MAC that frames can be sent to, perhaps while it is verified again.
    Usable(Mac),
    /// No answer yet.
    Asking,
    /// No answer, given up.
    Failed,
}

/// Something that happened to a neighbour or a device.
#[derive(Debug)]
pub(super) enum Notice {
    Neighbour(u32, IpAddr, Seen),
    NeighbourGone(u32, IpAddr),
    Link(u32, Link),
    LinkGone(u32),
}

/// What there is now.
#[derive(Debug)]
pub struct Table {
    pub links: Vec<(u32, Link)>,
    pub neighbours: Vec<(u32, IpAddr, Seen)>,
}

/// Where the kernel would send a packet to an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Straight { device: u32 },
    Via { gateway: IpAddr, device: u32 },
    Nowhere(Detour),
}

/// Notifications about neighbours and devices.
pub(super) struct Notices(Notifications);

impl Notices {
    pub fn open() -> io::Result<Notices> {
        Notifications::open(&[MulticastGroup::Neigh, MulticastGroup::Link]).map(Notices)
    }

    /// The next notices. Cancel-safe.
    pub async fn receive(&mut self) -> io::Result<Result<Vec<Notice>, Overrun>> {
        let received = self.0.receive().await?;
        Ok(received.map(|messages| messages.iter().filter_map(notice).collect()))
    }
}

fn notice(message: &RouteNetlinkMessage) -> Option<Notice> {
    match message {
        RouteNetlinkMessage::NewNeighbour(m) => {
            read(m).map(|(device, address, seen)| Notice::Neighbour(device, address, seen))
        }
        RouteNetlinkMessage::DelNeighbour(m) => {
            read(m).map(|(device, address, _)| Notice::NeighbourGone(device, address))
        }
        RouteNetlinkMessage::NewLink(m) => links::read(m).map(|(index, link)| Notice::Link(index, link)),
        RouteNetlinkMessage::DelLink(m) => links::read(m).map(|(index, _)| Notice::LinkGone(index)),
        _ => None,
    }
}

/// Device, address and what is known of it. `None`: not an IP neighbour (a bridge's forwarding entry, a proxy entry).
pub fn read(message: &NeighbourMessage) -> Option<(u32, IpAddr, Seen)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac, mut managed, mut protocol) = (None, None, false, RouteProtocol::Unspec);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(to) => address = to_ip(to),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(by) => protocol = *by,
            _ => {}
        }
    }
    let fixed = matches!(header.state, NeighbourState::Permanent | NeighbourState::Noarp);
    let state = match header.state {
        NeighbourState::Failed => Reachability::Failed,
        NeighbourState::Incomplete | NeighbourState::None | NeighbourState::Other(_) => Reachability::Asking,
        _ => mac.filter(|mac| *mac != Mac([0; 6])).map_or(Reachability::Failed, Reachability::Usable),
    };
    let ours = protocol == PROTOCOL && !fixed && (managed || header.flags.contains(NeighbourFlags::ExtLearned));
    let foreign = fixed || (protocol != RouteProtocol::Unspec && protocol != PROTOCOL);
    Some((header.ifindex, address?, Seen { state, managed, ours, foreign }))
}

fn to_ip(address: &rtnetlink::packet_route::neighbour::NeighbourAddress) -> Option<IpAddr> {
    use rtnetlink::packet_route::neighbour::NeighbourAddress;
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// All devices and all IP neighbours of the network namespace.
pub async fn table(handle: Handle) -> io::Result<Table> {
    let links = links::all(&handle).await?;
    let neighbours = handle.neighbours().get().execute().map_err(to_io);
    let neighbours = neighbours.try_filter_map(async |message| Ok(read(&message))).try_collect().await?;
    Ok(Table { links, neighbours })
}

/// Where the kernel's routing table sends packets to `address`; a link-local address is taken to be on `interface`.
pub async fn route(handle: &Handle, address: IpAddr, interface: u32) -> io::Result<Route> {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let out = link_local.then_some(RouteAttribute::Oif(interface));
    let route = netlink::lookup(handle, address, out).await?;
    Ok(route.map_or(Route::Nowhere(Detour::NoRoute), |route| read_route(&route)))
}

pub fn read_route(route: &RouteMessage) -> Route {
    match (&route.header.kind, Path::of(route)) {
        (RouteType::Unicast, Some(Path { device, gateway: Some(gateway), .. })) => Route::Via { gateway, device },
        (RouteType::Unicast, Some(Path { device, gateway: None, .. })) => Route::Straight { device },
        (RouteType::Local, ..) => Route::Nowhere(Detour::Own),
        (RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast, ..) => Route::Nowhere(Detour::Group),
        _ => Route::Nowhere(Detour::NoRoute),
    }
}

/// The present entry of one neighbour.
async fn look(handle: &Handle, device: u32, address: IpAddr) -> io::Result<Option<Seen>> {
    let message = RouteNetlinkMessage::GetNeighbour(entry(device, address));
    match exchange(handle, message, 0).await {
        Ok(Some(RouteNetlinkMessage::NewNeighbour(found))) => Ok(read(&found).map(|(.., seen)| seen)),
        Ok(_) => Ok(None),
        Err(e) if is(&e, Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn entry(device: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = device;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

/// Has the kernel resolve a neighbour, and keep it fresh from then on if `manage` (since Linux 5.16; older ones ignore
/// that part). Returns what the kernel then knows of it. The entry of somebody else is left as it is.
///
/// `NTF_EXT_LEARNED` exempts the entry from garbage collection and from the limit `gc_thresh3` (`neigh_alloc` in
/// net/core/neighbour.c); without it the kernel deletes managed entries too, from 512 on, and refuses new ones at 1,024.
///
/// With `forget`, the entry fails first. The question goes to everybody then: of an entry that it knows the kernel asks the MAC
/// that it knows, three times a second apart, before it asks anybody else (`arp_solicit` in net/ipv4/arp.c).
pub(super) async fn ask(
    handle: &Handle,
    device: u32,
    address: IpAddr,
    manage: bool,
    forget: bool,
) -> io::Result<Option<Seen>> {
    let before = look(handle, device, address).await?;
    if before.is_some_and(|seen| seen.foreign) {
        return Ok(before);
    }
    if forget && before.is_some() {
        let mut message = entry(device, address);
        message.header.state = NeighbourState::Failed;
        message.header.flags = NeighbourFlags::ExtLearned;
        message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
        exchange(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_ACK).await?;
    }
    let mut message = entry(device, address);
    message.header.flags = NeighbourFlags::Use | NeighbourFlags::ExtLearned;
    message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
    if manage {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    exchange(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_ACK).await?;
    look(handle, device, address).await
}

/// Makes an entry of ours an ordinary one: the MAC stays known to the host, the kernel may forget it. Entries without a
/// MAC are deleted. An entry that is not ours is left as it is.
pub(super) async fn release(handle: &Handle, device: u32, address: IpAddr) -> io::Result<()> {
    let Some(Seen { ours: true, state, .. }) = look(handle, device, address).await? else { return Ok(()) };
    if let Reachability::Usable(_) = state {
        let mut message = entry(device, address);
        message.header.state = NeighbourState::Stale; // and none of the flags, which clears them
        if exchange(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_ACK).await.is_ok() {
            return Ok(());
        }
    }
    match exchange(handle, RouteNetlinkMessage::DelNeighbour(entry(device, address)), NLM_F_ACK).await {
        Err(e) if !is(&e, Errno::NOENT) => Err(e),
        _ => Ok(()),
    }
}
