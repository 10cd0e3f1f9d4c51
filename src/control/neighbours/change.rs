//! What is told to the caller: changes of neighbours, servers that are not on the link, and errors.

use std::fmt;
use std::io;
use std::net::IpAddr;

use thiserror::Error;

use crate::model::Mac;

/// A server's MAC became known, another one, or doubtful. `Display` is a line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name the address was given with.
    pub name: String,
    pub address: IpAddr,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It has this MAC: there was none before, or it was unconfirmed.
    Resolved(Mac),
    /// It has another MAC than before.
    Changed { from: Mac, to: Mac },
    /// The kernel no longer knows its MAC, and this is (now) the reason. Told once a reason. The last one is used until there is
    /// another: whether the server is there is for its checks to say.
    Unconfirmed { mac: Mac, why: Why },
    /// It still has no MAC, and this is (now) the reason. Told once a reason; no table depends on it.
    Unresolved(Why),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { name, address, what } = self;
        match what {
            What::Resolved(mac) => write!(f, "server {name} {address} is at {mac}"),
            What::Changed { from, to } => write!(f, "server {name} {address} moved from {from} to {to}"),
            What::Unconfirmed { mac, why } => write!(
                f,
                "server {name} {address} is not confirmed at {mac} any more: {why}; frames go there until another MAC is found"
            ),
            What::Unresolved(why) => write!(f, "server {name} {address} has no known MAC: {why}"),
        }
    }
}

/// Why an address has no MAC, or an unconfirmed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel asked, by ARP or neighbour discovery, and nobody answered.
    Unanswered,
    /// The neighbour entry was deleted, and the kernel has not been able to make it anew.
    Deleted,
    /// The device towards it is down or has no carrier.
    LinkDown { device: String },
    /// The device towards it does not exist any more.
    LinkGone { device: String },
    /// The route to it does not lead straight to the dispatcher's link.
    OffLink(Detour),
    /// The kernel's neighbour table of this family has no room.
    TableFull { ipv6: bool },
    /// The kernel refused to resolve it, with this error number.
    Refused(i32),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Unanswered => write!(f, "it does not answer ARP or neighbour discovery"),
            Why::Deleted => write!(f, "its neighbour entry was deleted"),
            Why::LinkDown { device } => write!(f, "{device} is down or has no carrier"),
            Why::LinkGone { device } => write!(f, "{device} was removed"),
            Why::OffLink(detour) => write!(f, "{detour}"),
            Why::TableFull { ipv6 } => {
                let version = if *ipv6 { "ipv6" } else { "ipv4" };
                write!(
                    f,
                    "the kernel's neighbour table is full: raise the sysctls net.{version}.neigh.default.gc_thresh3 "
                )?;
                write!(f, "(and gc_thresh2) above the number of servers and other neighbours")
            }
            Why::Refused(errno) => {
                write!(f, "the kernel refuses to resolve it: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// Where the route to an address leads instead of straight to the dispatcher's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detour {
    Gateway {
        via: IpAddr,
        device: String,
    },
    Device {
        device: String,
    },
    /// It is an address of this host.
    Own,
    /// It is a broadcast, multicast or anycast address.
    Group,
    NoRoute,
}

impl fmt::Display for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detour::Gateway { via, device } => write!(f, "the route goes via {via} dev {device}"),
            Detour::Device { device } => write!(f, "the route goes out of {device}"),
            Detour::Own => write!(f, "it is an address of this host itself"),
            Detour::Group => write!(f, "it is a broadcast, multicast or anycast address"),
            Detour::NoRoute => write!(f, "there is no route to it"),
        }
    }
}

/// A server that the dispatcher cannot be next to: the diagnosis for `run` to refuse or warn with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffLink {
    pub name: String,
    pub address: IpAddr,
    /// The dispatcher's interface.
    pub interface: String,
    pub detour: Detour,
}

impl fmt::Display for OffLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OffLink { name, address, interface, detour } = self;
        write!(f, "server {name} {address} is not on {interface}'s link: {detour}; ")?;
        match detour {
            Detour::Gateway { .. } | Detour::Device { .. } => {
                write!(f, "direct server return needs a next hop on the same link")
            }
            Detour::Own => write!(f, "give the server's own primary address"),
            Detour::Group => write!(f, "give the server's unicast primary address"),
            Detour::NoRoute => {
                write!(f, "bring {interface} (or a VLAN on it) up with an address in the server's subnet")
            }
        }
    }
}

/// Why neighbours cannot be followed.
#[derive(Debug, Error)]
pub enum Error {
    #[error("there is no interface {interface}: `ip link` lists those that exist")]
    NoInterface { interface: String },
    #[error("{interface} is not an Ethernet interface: servers are reached by their MAC, which it does not have")]
    NotEthernet { interface: String },
    #[error("not permitted to resolve {address} on {interface}: run as root or with the capability CAP_NET_ADMIN")]
    NotPermitted { interface: String, address: IpAddr },
    #[error("rtnetlink failed while trying to {task} on {interface}: {source}; restart oneip")]
    Netlink { interface: String, task: &'static str, source: io::Error },
}
