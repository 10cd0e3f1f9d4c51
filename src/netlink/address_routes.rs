//! Routes for cluster addresses in a table that no rule looks up: the kernel sends nothing by them. They are there for routing
//! daemons, which read the table and tell other routers.
//!
//! ```text
//! ip route  203.0.113.80 dev eth1 table 111 proto 111 scope link
//! ```
//!
//! They are unicast routes out of the dispatcher's interface. Of the other types, `local` would have this host take the packets, and a
//! daemon that copies a `blackhole` route into the main table (as FRR does with what it imports) would have the kernel drop
//! everything from and to the address, the answers to health checks included.

use super::links;
use super::{PROTOCOL, exchange, family, is, to_io};
use crate::model::Prefix;
use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

/// The routes of one dispatcher: in this table, out of this interface, with our protocol number.
pub struct AddressRoutes {
    requests: Handle,
    device: u32,
    table: u8,
}

impl AddressRoutes {
    /// Inside a runtime.
    ///
    /// # Errors
    /// There is no interface of that name, or the kernel refuses.
    pub async fn open(interface: &str, table: u8) -> io::Result<AddressRoutes> {
        let (mut connection, requests, _) = rtnetlink::new_connection()?;
        // The kernel goes through this table alone, and not through all routes of a router.
        connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true)?;
        tokio::spawn(connection); // ends when the last handle is dropped
        let links = links::all(&requests).await?;
        let found = links.into_iter().find(|(_, link)| link.name == interface);
        let (device, _) = found.ok_or_else(|| io::Error::from(Errno::NODEV))?;
        Ok(AddressRoutes { requests, device, table })
    }

    /// The addresses that there are routes for.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn present(&self) -> io::Result<BTreeSet<Prefix>> {
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            query.header.protocol = PROTOCOL;
            query.attributes.push(RouteAttribute::Table(self.table.into()));
            let answers = self.requests.route().get(query).execute().map_err(to_io);
            let found_here = answers.try_for_each(|route| {
                found.extend(self.address(&route));
                futures::future::ready(Ok(()))
            });
            match found_here.await {
                Err(error) if is(&error, Errno::NOENT) => {} // nobody has ever put a route in the table
                done => done?,
            }
        }
        Ok(found)
    }

    /// # Errors
    /// The kernel refuses.
    pub async fn add(&self, prefix: Prefix) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRoute(self.route(prefix));
        match exchange(&self.requests, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).await {
            Err(error) if !is(&error, Errno::EXIST) => Err(error),
            _ => Ok(()),
        }
    }

    /// What is not there does not matter.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove(&self, prefix: Prefix) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelRoute(self.route(prefix));
        match exchange(&self.requests, message, NLM_F_ACK).await {
            Err(error) if ![Errno::SRCH, Errno::NOENT, Errno::NODEV].iter().any(|no| is(&error, *no)) => Err(error),
            _ => Ok(()),
        }
    }

    fn route(&self, prefix: Prefix) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = family(prefix.address);
        route.header.destination_prefix_length = prefix.length;
        route.header.table = self.table;
        route.header.protocol = PROTOCOL;
        route.header.scope = if prefix.address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        route.header.kind = RouteType::Unicast;
        route.attributes.extend([RouteAttribute::Destination(prefix.address.into()), RouteAttribute::Oif(self.device)]);
        route
    }

    /// Of a route that is ours.
    fn address(&self, route: &RouteMessage) -> Option<Prefix> {
        let ours = self.route(Prefix::host(IpAddr::from([0, 0, 0, 0]))).header;
        let (mut address, mut device) = (None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
                RouteAttribute::Oif(index) => device = Some(*index),
                _ => {}
            }
        }
        let here = (route.header.table, route.header.protocol) == (ours.table, PROTOCOL) && device == Some(self.device);
        let length = route.header.destination_prefix_length;
        address.filter(|_| here).map(|address| Prefix { address, length })
    }
}
