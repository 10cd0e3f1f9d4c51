//! Where frames for a server are sent.

use super::Mac;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The next hop of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The number of an `Egress`, from 1; 0: the interface that the frame came in on, from the address that it came to.
    pub egress: u8,
    pub destination: Mac,
    /// It is a router's, and not the server's own.
    pub is_gateway: bool,
}

impl NextHop {
    /// A server on the link that frames come from.
    pub fn on_link(mac: Mac) -> NextHop {
        NextHop { egress: 0, destination: mac, is_gateway: false }
    }

    /// That of a server with this MAC in the configuration, or none, of which it is known how it was reached.
    pub fn configured(mac: Option<Mac>, known: Option<NextHop>) -> Option<NextHop> {
        let egress = known.map_or(0, |known| known.egress);
        mac.map(|mac| NextHop { egress, ..NextHop::on_link(mac) }).or(known)
    }

    /// A server behind a router that is on that link.
    pub fn by_gateway(mac: Mac) -> NextHop {
        NextHop { egress: 0, destination: mac, is_gateway: true }
    }
}

/// The VLAN tags (802.1Q) that frames to a server leave with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tags {
    /// Those that they came with.
    #[default]
    AsReceived,
    Untagged,
    /// One, with this VLAN ID. The priority is that of the outermost tag that they came with.
    Vlan(u16),
}

impl Tags {
    /// As `vlan` of a server says it.
    pub fn of_vlan(id: Option<u16>) -> Tags {
        match id {
            None => Tags::AsReceived,
            Some(0) => Tags::Untagged,
            Some(id) => Tags::Vlan(id),
        }
    }

    pub fn are_as_received(&self) -> bool {
        *self == Tags::AsReceived
    }
}

/// As messages have them.
impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tags::AsReceived => f.write_str("as received"),
            Tags::Untagged => f.write_str("untagged"),
            Tags::Vlan(id) => write!(f, "{id}"),
        }
    }
}

/// Another interface by which frames leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The kernel's number of the interface.
    pub index: u32,
    /// Its address.
    pub source: Mac,
}
