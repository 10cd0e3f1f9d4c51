//! An Ethernet interface on which a server's program is kept.

use std::fs;
use std::io;
use std::path::Path;

use super::link::{Kept, Place};
use super::program::ProgramError;
use crate::model::Mac;

const SYSFS: &str = "/sys/class/net";

/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h.
const ETHERNET: u32 = 1;

/// An Ethernet interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub mac: Mac,
}

impl Interface {
    /// # Errors
    ///
    /// It does not exist, or is not Ethernet.
    pub fn read(name: &str) -> Result<Interface, ProgramError> {
        let interface = || name.to_owned();
        let unreadable = |reason: io::Error| ProgramError::NoInterface { interface: interface(), reason };
        // What a path is made of must not lead elsewhere.
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(unreadable(io::ErrorKind::NotFound.into()));
        }
        let fact = |fact: &str| fs::read_to_string(Path::new(SYSFS).join(name).join(fact)).map_err(unreadable);
        let number = |text: String| text.trim().parse().map_err(|_| unreadable(io::ErrorKind::InvalidData.into()));
        let kind = number(fact("type")?)?;
        if kind != ETHERNET {
            return Err(ProgramError::NotEthernet { interface: interface(), kind });
        }
        let mac = fact("address")?.trim().parse().map_err(|()| unreadable(io::ErrorKind::InvalidData.into()))?;
        Ok(Interface { name: interface(), index: number(fact("ifindex")?)?, mac })
    }

    /// Where a program is kept on it; `pins` is a folder on a BPF file system.
    pub fn place(&self, kept: Kept, pins: &Path) -> Place {
        let Interface { name, index, .. } = self;
        Place { kept, interface: name.clone(), index: *index, pins: pins.into() }
    }
}
