//! Probe routes: what is put into the kernel's tables so that packets with a mark reach one server's MAC, and how it is read back.
//!
//! ```text
//! ip rule      1: fwmark 0x6f6e0000/0xffff0000 goto 40000     probes leave the order of the rules; nobody else's packet does
//!              ... the operator's rules, 32766 main, 32767 default ...
//!          40000: nop
//!          40001: fwmark 0x6f6e0000/0xffffffc0 goto 40100     one for each group of 64 servers
//!          40100: fwmark 0x6f6e0001 lookup 0x6f6e0001         one for each server
//!          40100: fwmark 0x6f6e0002 lookup 0x6f6e0002
//!          40999: fwmark 0x6f6e0000/0xffff0000 unreachable    a probe never takes the ordinary way
//! ip route  203.0.113.80 via 240.0.0.1 dev eth1 onlink table 0x6f6e0001
//! ip neigh  240.0.0.1 dev eth1 lladdr 02:00:00:00:00:11 nud permanent
//! ```
//!
//! To a server that is reached through a tunnel or by another address (`deliver`), packets leave with the mark still on them, and the program
//! `xdp::probes` does with them what the data path does with clients' packets. The MAC is its next hop's: a router's, or the server's own.
//! The route has the MTU that the tunnel leaves.
//!
//! The next hop is an address that nobody has, with the MAC that the data path uses: what is tested is that very MAC,
//! whatever the kernel thinks of the server's primary address, and its family may be the other one. The class E address
//! never leaves this host; for IPv6 it is `fe80::6f6e:1`.
//!
//! A raw socket bound to the interface (SO_BINDTODEVICE) would need none of this, but it would need a TCP and a TLS of our own for the checks.
//!
//! The kernel goes through its rules one by one, three times for a connection. Everybody else's packets meet one rule of
//! ours, and behind `default` only those that no route takes meet the others. Without groups, a thousand servers make each
//! probe over TCP a sixth dearer (by `tests/health/load.rs`: 5.4 instead of 4.6 % of a core).
//!
//! Marks and tables are 0x6f6e0001 to 0x6f6e3fff, preferences 1, 2 (`strays`) and 40000 to 40999, and everything says `proto 111`. A
//! rule comes before what it leads to and goes after it, so that where there is no rule, nothing else was left behind.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, IpVersion};
use rustix::io::Errno;

use super::strays;
use crate::limits::HEALTH_PATHS;
use crate::model::{Deliver, Mac};
use crate::netlink::{PROTOCOL, TABLES, exchange, family, is, path, to_io};

/// The first mark, and table, less one.
pub(super) const MARKS: u32 = TABLES;
const MARKS_MASK: u32 = 0xffff_0000;

/// Before every rule that an operator or another program is likely to have.
const LEAVE: u32 = 1;
/// Behind the kernel's own, 32766 and 32767.
const LANDING: u32 = 40_000;
const FIND_GROUP: u32 = 40_001;
const FIRST_GROUP: u32 = 40_100;
const NOWHERE: u32 = 40_999;

/// The number of a group is that of its servers without these bits.
const GROUP_BITS: u32 = 6;

const _: () = assert!(FIRST_GROUP + (HEALTH_PATHS as u32 >> GROUP_BITS) < NOWHERE, "each group has a preference");

const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE;

/// What comes before this may take the packets of probes.
pub const FIRST_PREFERENCE: u32 = LEAVE;

/// Whether a rule that looks for this mark under this mask finds packets of probes.
pub fn is_probe_mark(mark: u32, mask: u32) -> bool {
    (mark ^ MARKS) & mask & MARKS_MASK == 0
}

/// Whether a routing table is that of a probe route.
pub fn is_probe_table(table: u32) -> bool {
    Number::of(table).is_some()
}

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

    /// By which the program on the way out knows how packets of a family leave.
    pub fn key(self, ipv4: bool) -> u32 {
        u32::from(self.0) << 1 | u32::from(!ipv4)
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
pub(super) struct ProbeRoute {
    pub number: Number,
    /// Its primary address. Packets to the cluster address have the source that packets to this one have, so that the
    /// server answers straight.
    pub server: IpAddr,
    pub deliver: Deliver,
    pub device: u32,
    pub mac: Mac,
    /// What a packet may have, where that is less than what the device carries.
    pub mtu: Option<u32>,
    /// The cluster addresses that packets may have.
    pub clusters: BTreeSet<IpAddr>,
}

/// Puts a probe route into the tables, or back into them; what is there already is corrected. Then asks the kernel whether
/// packets with the mark take it: an operator's rule may come first.
///
/// # Errors
/// The kernel refuses, or sends them elsewhere: nothing must be sent then.
pub(super) async fn install(handle: &Handle, route: &ProbeRoute) -> io::Result<()> {
    for cluster in &route.clusters {
        strays::block(handle, *cluster).await?;
    }
    for ipv4 in families(&route.clusters) {
        let [landing, nowhere, strays, leave] = guards(ipv4);
        let [group, server] = [find_group(route.number.group(), ipv4), rule(route.number, ipv4)];
        for rule in [landing, nowhere, strays, group, server, leave] {
            add(handle, rule).await?;
        }
        let neighbour = RouteNetlinkMessage::NewNeighbour(neighbour(route.number, ipv4, route.device, Some(route.mac)));
        exchange(handle, neighbour, CREATE | NLM_F_REPLACE).await?;
    }
    let ordinary = path(handle, route.server, None).await?;
    let by_router = route.deliver.is_routed();
    let ordinary = ordinary.filter(|path| (by_router || path.gateway.is_none()) && path.device == route.device);
    let source = ordinary.and_then(|path| path.source).filter(|source| !is_link_local(*source));
    for cluster in &route.clusters {
        let source = source.filter(|source| source.is_ipv4() == cluster.is_ipv4());
        let message = RouteNetlinkMessage::NewRoute(message(route, *cluster, source));
        exchange(handle, message, CREATE | NLM_F_REPLACE).await?;
    }
    for cluster in &route.clusters {
        let taken = path(handle, *cluster, Some(route.number.mark())).await?;
        let hop = route.number.hop(cluster.is_ipv4());
        if taken.is_none_or(|path| path.gateway != Some(hop) || path.device != route.device) {
            let mark = route.number.mark();
            return Err(io::Error::other(format!(
                "another rule or route of this host takes packets with the mark of the check (`ip route get {cluster} \
                 mark {mark:#x}` shows where to): give a rule that comes before preference {LEAVE} another preference \
                 (`ip rule`), and remove other routes from table {mark} (`ip route show table {mark}`)"
            )));
        }
    }
    Ok(())
}

/// Takes a probe route out of the tables; what is not there does not matter.
pub(super) async fn remove(handle: &Handle, route: &ProbeRoute) -> io::Result<()> {
    for cluster in &route.clusters {
        delete(handle, RouteNetlinkMessage::DelRoute(message(route, *cluster, None))).await?;
    }
    for ipv4 in families(&route.clusters) {
        let neighbour = neighbour(route.number, ipv4, route.device, None);
        delete(handle, RouteNetlinkMessage::DelNeighbour(neighbour)).await?;
        delete(handle, RouteNetlinkMessage::DelRule(rule(route.number, ipv4))).await?;
    }
    Ok(())
}

/// Removes what a process that was killed has left on devices for which `is_ours` holds, or on none. Returns the numbers
/// that another dispatcher of this host uses on other devices.
pub(super) async fn sweep(handle: &Handle, is_ours: impl Fn(u32) -> bool) -> io::Result<BTreeSet<Number>> {
    let (v4, v6) = (rules(handle, true).await?, rules(handle, false).await?);
    let unknown: Vec<RuleMessage> = v4.unknown.into_iter().chain(v6.unknown).collect();
    let (v4, v6) = (v4.numbers, v6.numbers);
    if v4.is_empty() && v6.is_empty() {
        for rule in unknown {
            delete(handle, RouteNetlinkMessage::DelRule(rule)).await?;
        }
        remove_unused_rules(handle).await?;
        return Ok(BTreeSet::new());
    }
    let (mut stale, mut blocked, mut taken) = (Vec::new(), Vec::new(), BTreeSet::new());
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut query = RouteMessage::default();
        query.header.address_family = if version == IpVersion::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let mut routes = Box::pin(handle.route().get(query).execute());
        while let Some(route) = routes.try_next().await.map_err(to_io)? {
            if strays::is_ours(&route) {
                blocked.push(route);
                continue;
            }
            let Some((number, device)) = ours(&route) else { continue };
            match is_ours(device) {
                true => stale.push(route),
                false => _ = taken.insert(number),
            }
        }
    }
    if taken.is_empty() {
        stale.append(&mut blocked);
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
    remove_unused_rules(handle).await?;
    Ok(taken)
}

/// Removes the rules that lead to no server's any more.
pub(super) async fn remove_unused_rules(handle: &Handle) -> io::Result<()> {
    for ipv4 in [true, false] {
        let Rules { numbers, groups, guarded, .. } = rules(handle, ipv4).await?;
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

/// Which families, as `is_ipv4`, the cluster addresses are of.
fn families(clusters: &BTreeSet<IpAddr>) -> impl Iterator<Item = bool> {
    [true, false].into_iter().filter(|ipv4| clusters.iter().any(|cluster| cluster.is_ipv4() == *ipv4))
}

/// In the order in which they are added: packets leave the order of the rules when there is a place to land.
fn guards(ipv4: bool) -> [RuleMessage; 4] {
    let landing = blank_rule(ipv4, LANDING, RuleAction::Nop);
    let nowhere = marked_rule(ipv4, NOWHERE, RuleAction::Unreachable, MARKS, MARKS_MASK);
    let mut leave = marked_rule(ipv4, LEAVE, RuleAction::Goto, MARKS, MARKS_MASK);
    leave.attributes.push(RuleAttribute::Goto(LANDING));
    [landing, nowhere, strays::rule(ipv4), leave]
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

pub(super) fn blank_rule(ipv4: bool, preference: u32, action: RuleAction) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    rule.header.action = action;
    rule.attributes.extend([RuleAttribute::Priority(preference), RuleAttribute::Protocol(PROTOCOL)]);
    rule
}

fn message(of: &ProbeRoute, cluster: IpAddr, source: Option<IpAddr>) -> RouteMessage {
    let ProbeRoute { number, device, mtu, .. } = *of;
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
    route.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
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

pub(super) fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Our rules of a family.
struct Rules {
    /// Those of servers.
    numbers: Vec<Number>,
    groups: Vec<u32>,
    /// Whether there are others: `guards`.
    guarded: bool,
    /// Marked as ours, but not as this version makes them.
    unknown: Vec<RuleMessage>,
}

async fn rules(handle: &Handle, ipv4: bool) -> io::Result<Rules> {
    let version = if ipv4 { IpVersion::V4 } else { IpVersion::V6 };
    let all: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await.map_err(to_io)?;
    let mut rules = Rules { numbers: Vec::new(), groups: Vec::new(), guarded: false, unknown: Vec::new() };
    for rule in all {
        match which(&rule) {
            Some(RuleOf::Server(number)) => rules.numbers.push(number),
            Some(RuleOf::Group(group)) => rules.groups.push(group),
            Some(RuleOf::All) => rules.guarded = true,
            None if rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL)) => rules.unknown.push(rule),
            None => {}
        }
    }
    Ok(rules)
}

/// Whom a rule of ours is for.
enum RuleOf {
    Server(Number),
    Group(u32),
    All,
}

/// `None`: it is none of ours.
fn which(rule: &RuleMessage) -> Option<RuleOf> {
    let (mut mark, mut preference, mut marked) = (0, 0, false);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::Priority(value) => preference = *value,
            RuleAttribute::Protocol(by) => marked = *by == PROTOCOL,
            _ => {}
        }
    }
    let server = Number::of(mark).filter(|number| preference == FIRST_GROUP + number.group());
    marked.then_some(())?;
    match (server, preference) {
        (Some(number), _) => Some(RuleOf::Server(number)),
        (None, FIND_GROUP) if mark & MARKS_MASK == MARKS => Some(RuleOf::Group((mark & !MARKS_MASK) >> GROUP_BITS)),
        (None, LEAVE | LANDING | NOWHERE | strays::PREFERENCE) => Some(RuleOf::All),
        _ => None,
    }
}

/// What a notification of the kernel's means for probe routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// One may be lost, or lead elsewhere.
    One(Number),
    /// The next hop of one has this permanent MAC now.
    Hop(Number, Option<Mac>),
    /// Those of a group of servers.
    Group(u32),
    /// Those to this cluster address: what strays may have a route there.
    Cluster(IpAddr),
    All,
}

impl Loss {
    /// `None`: nothing.
    pub fn of(message: &RouteNetlinkMessage) -> Option<Loss> {
        match message {
            RouteNetlinkMessage::DelRule(rule) => which(rule).map(|of| match of {
                RuleOf::Server(number) => Loss::One(number),
                RuleOf::Group(group) => Loss::Group(group),
                RuleOf::All => Loss::All,
            }),
            // Somebody's that comes before ours may take what is ours.
            RouteNetlinkMessage::NewRule(rule) if which(rule).is_none() => {
                let preference = rule.attributes.iter().find_map(|attribute| match attribute {
                    RuleAttribute::Priority(value) => Some(*value),
                    _ => None,
                });
                (preference.unwrap_or(0) <= LEAVE).then_some(Loss::All)
            }
            RouteNetlinkMessage::DelRoute(route) => Loss::of_table(route),
            // Somebody's in a table of ours may have taken the place of ours, or come before it.
            RouteNetlinkMessage::NewRoute(route) if !is_as_made(route) => Loss::of_table(route),
            RouteNetlinkMessage::DelNeighbour(neighbour) => hop_of(neighbour).map(Loss::One),
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                Some(Loss::Hop(hop_of(neighbour)?, permanent_mac(neighbour)))
            }
            _ => None,
        }
    }

    /// Of a route that is not there any more, or that is there and should not be.
    fn of_table(route: &RouteMessage) -> Option<Loss> {
        let table = table_of(route)?;
        Number::of(table).map(Loss::One).or_else(|| strays::cluster_of(route).map(Loss::Cluster))
    }

    /// Whether it is a loss for the route of that number to that MAC, which these cluster addresses have.
    pub fn concerns(self, number: Number, mac: Option<Mac>, clusters: &BTreeSet<IpAddr>) -> bool {
        match self {
            Loss::Cluster(cluster) => clusters.contains(&cluster),
            Loss::One(lost) => lost == number,
            Loss::Hop(changed, is) => changed == number && is != mac,
            Loss::Group(group) => number.group() == group,
            Loss::All => true,
        }
    }
}

/// Whose a route is, and on which device, if it is one of these.
fn ours(route: &RouteMessage) -> Option<(Number, u32)> {
    let device = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    (route.header.protocol == PROTOCOL).then_some((Number::of(table_of(route)?)?, device?))
}

/// The routing table that a route is in.
pub fn table_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    })
}

/// Whether a route in a table of ours may be one that was just installed.
fn is_as_made(route: &RouteMessage) -> bool {
    let Some((number, _)) = ours(route) else { return strays::is_ours(route) };
    let hop = number.hop(route.header.address_family == AddressFamily::Inet);
    route.attributes.contains(&RouteAttribute::Gateway(hop.into()))
}

/// Whether it is the next hop of a probe route, as we make it.
fn is_hop(message: &NeighbourMessage) -> bool {
    let marked = message.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL));
    marked && message.header.state == NeighbourState::Permanent && hop_of(message).is_some()
}

fn permanent_mac(message: &NeighbourMessage) -> Option<Mac> {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
        _ => None,
    });
    mac.filter(|_| message.header.state == NeighbourState::Permanent)
}

/// Whose next hop a neighbour is, whoever has made the entry.
fn hop_of(message: &NeighbourMessage) -> Option<Number> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
            Number::of(MARKS | (v4.to_bits() & !MARKS_MASK)).filter(|number| number.hop(true) == IpAddr::V4(*v4))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
            let last = u32::from(v6.segments()[7]);
            Number::of(MARKS | last).filter(|number| number.hop(false) == IpAddr::V6(*v6))
        }
        _ => None,
    })
}

async fn add(handle: &Handle, rule: RuleMessage) -> io::Result<()> {
    match exchange(handle, RouteNetlinkMessage::NewRule(rule), CREATE | NLM_F_EXCL).await {
        Err(e) if !is(&e, Errno::EXIST) => Err(e),
        _ => Ok(()),
    }
}

pub(super) async fn delete(handle: &Handle, message: RouteNetlinkMessage) -> io::Result<()> {
    let gone = [Errno::NOENT, Errno::SRCH, Errno::NODEV, Errno::NXIO];
    match exchange(handle, message, NLM_F_ACK).await {
        Err(e) if !gone.iter().any(|no| is(&e, *no)) => Err(e),
        _ => Ok(()),
    }
}
