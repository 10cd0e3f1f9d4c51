//! What is put into the kernel's tables so that packets with a mark reach one server's MAC, and how it is read back.
//!
//! ```text
//! ip rule   111: not fwmark 0x6f6e0000/0xffff0000 goto 999     everybody else's packets pass by at once
//!           112: fwmark 0x6f6e0000/0xffffffc0 goto 200         one for each group of 64 servers
//!           200: fwmark 0x6f6e0001 lookup 0x6f6e0001           one for each server
//!           200: fwmark 0x6f6e0002 lookup 0x6f6e0002
//!           998: unreachable                                   a probe never takes the ordinary way
//!           999: nop
//! ip route  203.0.113.80 via 240.0.0.1 dev eth1 onlink table 0x6f6e0001
//! ip neigh  240.0.0.1 dev eth1 lladdr 02:00:00:00:00:11 nud permanent
//! ```
//!
//! The next hop is an address that nobody has, with the MAC that the data path uses: what is tested is that very MAC,
//! whatever the kernel thinks of the server's primary address, and its family may be the other one. The class E address
//! never leaves this host; for IPv6 it is `fe80::6f6e:1`.
//!
//! The kernel goes through its rules one by one, three times for a connection. Without groups, a thousand servers make each
//! probe over TCP a sixth dearer (by `tests/health/load.rs`: 5.4 instead of 4.6 % of a core).
//!
//! Marks and tables are 0x6f6e0001 to 0x6f6e3fff, preferences 111, 112 and 200 to 999, and everything says `proto 111`. A
//! rule comes before what it leads to and goes after it, so that where there is no rule, nothing else was left behind.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, IpVersion};
use rustix::io::Errno;

use crate::control::netlink::{PROTOCOL, exchange, family, is, to_io};
use crate::limits::HEALTH_PATHS;
use crate::plan::Mac;

/// The first mark, and table, less one.
const MARKS: u32 = 0x6f6e_0000;
const MARKS_MASK: u32 = 0xffff_0000;

const PASS_BY: u32 = 111;
const FIND_GROUP: u32 = 112;
const FIRST_GROUP: u32 = 200;
const NOWHERE: u32 = 998;
const LANDING: u32 = 999;

/// The number of a group is that of its servers without these bits.
const GROUP_BITS: u32 = 6;

const _: () = assert!(FIRST_GROUP + (HEALTH_PATHS as u32 >> GROUP_BITS) < NOWHERE, "each group has a preference");

const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE;

/// Tells a server's mark, routing table and next hops from those of the others: 1 to `HEALTH_PATHS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(u16);

impl Number {
    pub fn all() -> impl Iterator<Item = Number> {
        (1..=HEALTH_PATHS as u16).map(Number)
    }

    /// The mark, which is also the number of the table.
    pub fn mark(self) -> u32 {
        MARKS | u32::from(self.0)
    }

    fn of(mark: u32) -> Option<Number> {
        let number = (mark & !MARKS_MASK) as u16;
        (mark & MARKS_MASK == MARKS && (1..=HEALTH_PATHS).contains(&number.into())).then_some(Number(number))
    }

    fn group(self) -> u32 {
        u32::from(self.0) >> GROUP_BITS
    }

    fn hop(self, ipv4: bool) -> IpAddr {
        match ipv4 {
            true => Ipv4Addr::from_bits(0xf000_0000 | u32::from(self.0)).into(),
            false => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x6f6e, self.0).into(),
        }
    }
}

/// What the kernel needs to know to deliver to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub number: Number,
    /// Its primary address. Packets to the cluster address have the source that packets to this one have, so that the
    /// server answers straight.
    pub server: IpAddr,
    pub device: u32,
    pub mac: Mac,
    /// The cluster addresses that packets may have.
    pub clusters: BTreeSet<IpAddr>,
}

/// Puts a way into the tables, or back into them; what is there already is corrected.
pub(super) async fn lay(handle: &Handle, way: &Way) -> io::Result<()> {
    for ipv4 in families(&way.clusters) {
        let [landing, pass_by, nowhere] = guards(ipv4);
        for rule in [landing, pass_by, nowhere, find_group(way.number.group(), ipv4), rule(way.number, ipv4)] {
            add(handle, rule).await?;
        }
        let neighbour = RouteNetlinkMessage::NewNeighbour(neighbour(way.number, ipv4, way.device, Some(way.mac)));
        exchange(handle, neighbour, CREATE | NLM_F_REPLACE).await?;
    }
    let course = course(handle, way.server).await?.filter(|course| course.straight && course.device == way.device);
    let source = course.and_then(|course| course.source).filter(|source| !is_link_local(*source));
    for cluster in &way.clusters {
        let source = source.filter(|source| source.is_ipv4() == cluster.is_ipv4());
        let route = RouteNetlinkMessage::NewRoute(route(way.number, *cluster, way.device, source));
        exchange(handle, route, CREATE | NLM_F_REPLACE).await?;
    }
    Ok(())
}

/// Takes a way out of the tables; what is not there does not matter.
pub(super) async fn take_up(handle: &Handle, way: &Way) -> io::Result<()> {
    for cluster in &way.clusters {
        delete(handle, RouteNetlinkMessage::DelRoute(route(way.number, *cluster, way.device, None))).await?;
    }
    for ipv4 in families(&way.clusters) {
        let neighbour = neighbour(way.number, ipv4, way.device, None);
        delete(handle, RouteNetlinkMessage::DelNeighbour(neighbour)).await?;
        delete(handle, RouteNetlinkMessage::DelRule(rule(way.number, ipv4))).await?;
    }
    Ok(())
}

/// Removes what a process that was killed has left on devices for which `is_ours` holds, or on none. Returns the numbers
/// that another dispatcher of this host uses on other devices.
pub(super) async fn sweep(handle: &Handle, is_ours: impl Fn(u32) -> bool) -> io::Result<BTreeSet<Number>> {
    let (v4, v6) = (rules(handle, true).await?.numbers, rules(handle, false).await?.numbers);
    if v4.is_empty() && v6.is_empty() {
        close(handle).await?;
        return Ok(BTreeSet::new());
    }
    let (mut stale, mut taken) = (Vec::new(), BTreeSet::new());
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut query = RouteMessage::default();
        query.header.address_family = if version == IpVersion::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let mut routes = Box::pin(handle.route().get(query).execute());
        while let Some(route) = routes.try_next().await.map_err(to_io)? {
            let Some((number, device)) = ours(&route) else { continue };
            match is_ours(device) {
                true => stale.push(route),
                false => _ = taken.insert(number),
            }
        }
    }
    for route in stale {
        delete(handle, RouteNetlinkMessage::DelRoute(route)).await?;
    }
    let mut neighbours = Box::pin(handle.neighbours().get().execute());
    let mut left = Vec::new();
    while let Some(message) = neighbours.try_next().await.map_err(to_io)? {
        if is_ours(message.header.ifindex) && is_hop(&message) {
            left.push(message);
        }
    }
    for message in left {
        delete(handle, RouteNetlinkMessage::DelNeighbour(message)).await?;
    }
    let all = v4.into_iter().map(|number| (number, true)).chain(v6.into_iter().map(|number| (number, false)));
    for (number, ipv4) in all.filter(|(number, _)| !taken.contains(number)) {
        delete(handle, RouteNetlinkMessage::DelRule(rule(number, ipv4))).await?;
    }
    close(handle).await?;
    Ok(taken)
}

/// Removes the rules that lead to no server's any more.
pub(super) async fn close(handle: &Handle) -> io::Result<()> {
    for ipv4 in [true, false] {
        let Rules { numbers, groups, guarded } = rules(handle, ipv4).await?;
        let unused = groups.into_iter().filter(|group| numbers.iter().all(|number| number.group() != *group));
        let mut unused: Vec<RuleMessage> = unused.map(|group| find_group(group, ipv4)).collect();
        if numbers.is_empty() && guarded {
            unused.extend(guards(ipv4).into_iter().rev());
        }
        for rule in unused {
            delete(handle, RouteNetlinkMessage::DelRule(rule)).await?;
        }
    }
    Ok(())
}

/// Where the kernel sends packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Course {
    pub device: u32,
    /// Without a gateway.
    pub straight: bool,
    pub source: Option<IpAddr>,
}

/// `None`: nowhere, or not to one machine elsewhere.
pub(super) async fn course(handle: &Handle, address: IpAddr) -> io::Result<Option<Course>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = full_length(address);
    message.attributes.push(RouteAttribute::Destination(address.into()));
    let route = match exchange(handle, RouteNetlinkMessage::GetRoute(message), 0).await {
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) if route.header.kind == RouteType::Unicast => route,
        Ok(_) => return Ok(None),
        Err(e) if [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL].iter().any(|no| is(&e, *no)) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let (mut device, mut straight, mut source) = (None, true, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(RouteVia::Inet(_) | RouteVia::Inet6(_)) => {
                straight = false
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(IpAddr::V6(*v6)),
            _ => {}
        }
    }
    Ok(device.map(|device| Course { device, straight, source }))
}

/// Which families, as `is_ipv4`, the cluster addresses are of.
fn families(clusters: &BTreeSet<IpAddr>) -> impl Iterator<Item = bool> {
    [true, false].into_iter().filter(|ipv4| clusters.iter().any(|cluster| cluster.is_ipv4() == *ipv4))
}

/// In the order in which they are added: until the first one has its landing, it does nothing.
fn guards(ipv4: bool) -> [RuleMessage; 3] {
    let landing = blank_rule(ipv4, LANDING, RuleAction::Nop);
    let mut pass_by = marked_rule(ipv4, PASS_BY, RuleAction::Goto, MARKS, MARKS_MASK);
    pass_by.header.flags = RuleFlags::Invert;
    pass_by.attributes.push(RuleAttribute::Goto(LANDING));
    let nowhere = marked_rule(ipv4, NOWHERE, RuleAction::Unreachable, MARKS, MARKS_MASK);
    [landing, pass_by, nowhere]
}

fn find_group(group: u32, ipv4: bool) -> RuleMessage {
    let mask = u32::MAX << GROUP_BITS;
    let mut rule = marked_rule(ipv4, FIND_GROUP, RuleAction::Goto, MARKS | group << GROUP_BITS, mask);
    rule.attributes.push(RuleAttribute::Goto(FIRST_GROUP + group));
    rule
}

fn rule(number: Number, ipv4: bool) -> RuleMessage {
    let mut rule = marked_rule(ipv4, FIRST_GROUP + number.group(), RuleAction::ToTable, number.mark(), u32::MAX);
    rule.attributes.push(RuleAttribute::Table(number.mark()));
    rule
}

fn marked_rule(ipv4: bool, preference: u32, action: RuleAction, mark: u32, mask: u32) -> RuleMessage {
    let mut rule = blank_rule(ipv4, preference, action);
    rule.attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
    rule
}

fn blank_rule(ipv4: bool, preference: u32, action: RuleAction) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    rule.header.action = action;
    rule.attributes.extend([RuleAttribute::Priority(preference), RuleAttribute::Protocol(PROTOCOL)]);
    rule
}

fn route(number: Number, cluster: IpAddr, device: u32, source: Option<IpAddr>) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(cluster);
    route.header.destination_prefix_length = full_length(cluster);
    route.header.protocol = PROTOCOL;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.header.flags = RouteFlags::Onlink;
    route.attributes.extend([
        RouteAttribute::Destination(cluster.into()),
        RouteAttribute::Table(number.mark()),
        RouteAttribute::Gateway(number.hop(cluster.is_ipv4()).into()),
        RouteAttribute::Oif(device),
    ]);
    route.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    route
}

fn neighbour(number: Number, ipv4: bool, device: u32, mac: Option<Mac>) -> NeighbourMessage {
    let hop = number.hop(ipv4);
    let mut message = NeighbourMessage::default();
    message.header.family = family(hop);
    message.header.ifindex = device;
    message.header.state = NeighbourState::Permanent;
    message.attributes.extend([NeighbourAttribute::Destination(hop.into()), NeighbourAttribute::Protocol(PROTOCOL)]);
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Our rules of a family.
struct Rules {
    /// Those of servers.
    numbers: Vec<Number>,
    groups: Vec<u32>,
    /// Whether there are others: `guards`.
    guarded: bool,
}

async fn rules(handle: &Handle, ipv4: bool) -> io::Result<Rules> {
    let version = if ipv4 { IpVersion::V4 } else { IpVersion::V6 };
    let all: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await.map_err(to_io)?;
    let mut rules = Rules { numbers: Vec::new(), groups: Vec::new(), guarded: false };
    for rule in all {
        let (mut mark, mut preference, mut marked) = (0, 0, false);
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::FwMark(value) => mark = *value,
                RuleAttribute::Priority(value) => preference = *value,
                RuleAttribute::Protocol(by) => marked = *by == PROTOCOL,
                _ => {}
            }
        }
        match Number::of(mark).filter(|number| marked && preference == FIRST_GROUP + number.group()) {
            Some(number) => rules.numbers.push(number),
            None if marked && preference == FIND_GROUP && mark & MARKS_MASK == MARKS => {
                rules.groups.push((mark & !MARKS_MASK) >> GROUP_BITS);
            }
            None => rules.guarded |= marked && [PASS_BY, NOWHERE, LANDING].contains(&preference),
        }
    }
    Ok(rules)
}

/// Whose a route is, and on which device, if it is one of these.
fn ours(route: &RouteMessage) -> Option<(Number, u32)> {
    let (mut table, mut device) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = Some(*value),
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => {}
        }
    }
    (route.header.protocol == PROTOCOL).then_some((table.and_then(Number::of)?, device?))
}

fn is_hop(message: &NeighbourMessage) -> bool {
    use rtnetlink::packet_route::neighbour::NeighbourAddress;
    let (mut hop, mut marked) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                hop = Number::of(MARKS | (v4.to_bits() & !MARKS_MASK)).is_some_and(|n| n.hop(true) == IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                let last = u32::from(v6.segments()[7]);
                hop = Number::of(MARKS | last).is_some_and(|n| n.hop(false) == IpAddr::V6(*v6));
            }
            NeighbourAttribute::Protocol(by) => marked = *by == PROTOCOL,
            _ => {}
        }
    }
    hop && marked && message.header.state == NeighbourState::Permanent
}

async fn add(handle: &Handle, rule: RuleMessage) -> io::Result<()> {
    match exchange(handle, RouteNetlinkMessage::NewRule(rule), CREATE | NLM_F_EXCL).await {
        Err(e) if !is(&e, Errno::EXIST) => Err(e),
        _ => Ok(()),
    }
}

async fn delete(handle: &Handle, message: RouteNetlinkMessage) -> io::Result<()> {
    let gone = [Errno::NOENT, Errno::SRCH, Errno::NODEV, Errno::NXIO];
    match exchange(handle, message, NLM_F_ACK).await {
        Err(e) if !gone.iter().any(|no| is(&e, *no)) => Err(e),
        _ => Ok(()),
    }
}
