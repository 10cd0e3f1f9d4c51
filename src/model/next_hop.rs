//! Where frames for a server are sent.

use super::Mac;

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

    /// A server behind a router that is on that link.
    pub fn by_gateway(mac: Mac) -> NextHop {
        NextHop { egress: 0, destination: mac, is_gateway: true }
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
