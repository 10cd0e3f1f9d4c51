//! What this host has: its addresses and the kernel's settings for each interface.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::netlink::{self, Link, Netlink};
use super::{Error, Membership, fou};
use crate::model::{Mac, Prefix};

/// Where the settings of interfaces are, below /proc/sys.
pub const IPV4: &str = "net/ipv4/conf";
pub const IPV6: &str = "net/ipv6/conf";

/// One reading of the host.
pub struct Host {
    pub lo_up: bool,
    pub held: Vec<Held>,
    /// Whose packets the kernel takes for this host, by routes to `lo`.
    pub local: Vec<Prefix>,
    /// All but `lo`.
    pub interfaces: Vec<Interface>,
    /// The groups whose frames each interface takes, whoever joined them.
    pub groups: Vec<Membership>,
    /// Where the kernel takes GUE apart.
    pub ports: Vec<fou::Port>,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub address: IpAddr,
    pub prefix: u8,
    pub interface: String,
    /// IPv4's scope host: never the source of a connection to elsewhere, and of no concern to `arp_ignore` 3.
    pub scope_host: bool,
}

pub struct Interface {
    pub name: String,
    pub up: bool,
    pub mac: Option<Mac>,
    /// `ARPHRD_*`, include/uapi/linux/if_arp.h.
    pub kind: u16,
    /// An XDP program is attached.
    pub has_program: bool,
    /// Of a tunnel device: the address that it is for. `None`: for any.
    pub local: Option<IpAddr>,
}

impl Host {
    pub fn read(netlink: &Netlink) -> Result<Host, Error> {
        let links = netlink.links()?;
        let name = |index| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let held = netlink
            .addresses()?
            .into_iter()
            // An interface that came between the two readings has no name yet; it is not this host's primary one.
            .filter_map(|found| {
                let interface = name(found.index)?;
                Some(Held { address: found.address, prefix: found.prefix, interface, scope_host: found.scope_host })
            })
            .collect();
        let lo_up = links.iter().any(|link| link.name == "lo" && link.up);
        let interfaces = links
            .into_iter()
            .filter(|link| link.name != "lo")
            .map(|Link { name, up, mac, kind, has_program, local, .. }| Interface {
                name,
                up,
                mac,
                kind,
                has_program,
                local,
            })
            .collect();
        let ports = netlink::fou()?.map_or(Ok(Vec::new()), |fou| fou.ports()).map_err(Error::Socket)?;
        Ok(Host { lo_up, held, local: netlink.local()?, interfaces, groups: groups()?, ports })
    }

    /// What makes a whole prefix this host's: itself, or a wider one.
    pub fn local_with(&self, prefix: &Prefix) -> Option<&Prefix> {
        self.local.iter().find(|local| local.covers(prefix))
    }

    /// Addresses of a cluster prefix that are where somebody may ask for them.
    pub fn claimed(&self, prefix: Prefix) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(move |held| !held.on_lo() && prefix.contains(held.address))
    }

    /// Where an address is.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(move |held| held.address == address)
    }
}

impl Held {
    pub fn on_lo(&self) -> bool {
        self.interface == "lo"
    }

    /// As a cluster address should be: alone in its prefix, on `lo`.
    pub fn is_alias(&self) -> bool {
        self.on_lo() && self.prefix == Prefix::host(self.address).length
    }

    /// What asks for, and gives away, an address of this family.
    pub fn protocol(&self) -> &'static str {
        if self.address.is_ipv4() { "ARP" } else { "neighbour solicitations" }
    }

    pub fn delete_command(&self) -> String {
        format!("ip address del {}/{} dev {}", self.address, self.prefix, self.interface)
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} is on {}", self.address, self.prefix, self.interface)
    }
}

/// Each line: index, name, users, global users, address (`dev_mc_seq_show`, net/core/dev_addr_lists.c).
fn groups() -> Result<Vec<Membership>, Error> {
    // Of this thread: its namespace need not be the process's.
    let path = PathBuf::from("/proc/thread-self/net/dev_mcast");
    let text = fs::read_to_string(&path).map_err(|source| Error::File { doing: "read", path, source })?;
    let membership = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (interface, address) = (fields.nth(1)?.to_owned(), u64::from_str_radix(fields.nth(2)?, 16).ok()?);
        let [_, _, mac @ ..] = address.to_be_bytes();
        Some(Membership { interface, group: Mac(mac) })
    };
    Ok(text.lines().filter_map(membership).collect())
}

pub fn alias_text(address: IpAddr) -> String {
    format!("{address}/{}", Prefix::host(address).length)
}

/// Where the settings of interfaces for this address's family are.
pub fn conf(address: IpAddr) -> &'static str {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

/// The IPv4 setting `key` of an interface, or of `all`.
pub fn setting_path(interface: &str, key: &str) -> PathBuf {
    Path::new(IPV4).join(interface).join(key)
}

/// 0 where there is none, as for an interface without IPv4.
pub fn interface_setting(interface: &str, key: &str) -> u32 {
    read_setting(&setting_path(interface, key)).unwrap_or(0)
}

/// `path` is below /proc/sys.
pub fn read_setting(path: &Path) -> std::io::Result<u32> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(path))?;
    text.trim().parse().map_err(|_| std::io::Error::other(format!("\"{}\" is not a number", text.trim())))
}

/// `path` is below /proc/sys.
pub fn write_setting(path: &Path, value: u32) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(path);
    fs::write(&path, value.to_string()).map_err(|source| Error::File { doing: "write", path, source })
}
