//! The addresses of an interface.

use super::links::Links;
use super::{is, links, to_io};
use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressScope};
use rustix::io::Errno;
use std::io;
use std::net::IpAddr;

/// Those that others may answer to, in the kernel's order: which takes the first as the source of what it sends.
///
/// # Errors
/// The kernel does not answer. An interface that there is not has none.
pub async fn of(handle: &Handle, interface: &str) -> io::Result<Vec<IpAddr>> {
    let Some(index) = Links::new(links::all(handle).await?).find(interface) else { return Ok(Vec::new()) };
    let mut answers = handle.address().get().set_link_index_filter(index).execute().map_err(to_io);
    let mut addresses = Vec::new();
    loop {
        let message = match answers.try_next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(addresses),
            Err(error) if is(&error, Errno::NODEV) => return Ok(addresses),
            Err(error) => return Err(error),
        };
        let unfit = AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
        if message.header.index != index || message.header.scope != AddressScope::Universe {
            continue;
        }
        let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(it) => local = Some(it),
                AddressAttribute::Address(it) => address = Some(it),
                AddressAttribute::Flags(it) => flags = it,
                _ => {}
            }
        }
        // Of a point-to-point link the other one is the peer's.
        addresses.extend(local.or(address).filter(|_| !flags.intersects(unfit)));
    }
}
