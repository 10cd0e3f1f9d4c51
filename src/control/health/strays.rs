//! What the kernel says by itself about probes that are over stays on this host.
//!
//! A segment that comes for a connection that was closed is answered with an RST (RFC 9293, section 3.5.2), by the kernel and
//! without the mark (`tcp_v4_send_reset`, net/ipv4/tcp_ipv4.c), so that it would leave by the ordinary route, come back from the
//! router as a client's packet, and be dispatched and counted. It has the port of the probe, though. Probes have ports of their
//! own, above those that the kernel gives to others (`net.ipv4.ip_local_port_range` ends at 60999), and what has such a port and no
//! mark has no route to a cluster address:
//!
//! ```text
//! ip rule      2: iif lo ipproto tcp sport 61000-65534 lookup 0x6f6e0000
//! ip route  unreachable 203.0.113.80 table 0x6f6e0000
//! ```

use std::io;
use std::net::IpAddr;

use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{IpProtocol, RouteNetlinkMessage};

use super::route::{MARKS, blank_rule, delete, full_length, table_of};
use crate::limits::HEALTH_PORTS;
use crate::netlink::{PROTOCOL, exchange, family};

/// Behind the rule that takes packets with a mark.
pub(super) const PREFERENCE: u32 = 2;

pub(super) fn rule(ipv4: bool) -> RuleMessage {
    let mut rule = blank_rule(ipv4, PREFERENCE, RuleAction::ToTable);
    let (start, end) = HEALTH_PORTS;
    rule.attributes.extend([
        RuleAttribute::Iifname("lo".to_owned()),
        RuleAttribute::IpProtocol(IpProtocol::Tcp),
        RuleAttribute::SourcePortRange(RulePortRange { start, end }),
        RuleAttribute::Table(MARKS),
    ]);
    rule
}

/// Leaves them no route to a cluster address.
pub(super) async fn block(handle: &Handle, cluster: IpAddr) -> io::Result<()> {
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    exchange(handle, RouteNetlinkMessage::NewRoute(message(cluster)), flags).await.map(|_| ())
}

pub(super) async fn unblock(handle: &Handle, cluster: IpAddr) -> io::Result<()> {
    delete(handle, RouteNetlinkMessage::DelRoute(message(cluster))).await
}

/// Whether a route is one of these.
pub(super) fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == PROTOCOL && route.header.kind == RouteType::Unreachable && table_of(route) == Some(MARKS)
}

/// The address that a route in the table of these leads to.
pub(super) fn cluster_of(route: &RouteMessage) -> Option<IpAddr> {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    to.filter(|_| table_of(route) == Some(MARKS))
}

fn message(cluster: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(cluster);
    route.header.destination_prefix_length = full_length(cluster);
    route.header.protocol = PROTOCOL;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unreachable;
    route.attributes.extend([RouteAttribute::Destination(cluster.into()), RouteAttribute::Table(MARKS)]);
    route
}
