//! One request to the kernel over rtnetlink, and what its answer means.

use std::io;
use std::net::IpAddr;

use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

/// Marks what we put into the kernel's tables, so that what a process that was killed has left is found again.
/// Free in iproute2's `rt_protos`.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(111);

/// Requests that may be under way on one socket: an answer that finds its buffer full is lost, and nobody would wake who
/// waits for it. An acknowledgement takes about 1 KiB of the 208 that a socket has (`net.core.rmem_default`).
pub(super) const REQUESTS: usize = 64;

/// A socket for requests only, so that no answer is ever lost to an overrun by notifications.
pub(super) fn requests() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection); // ends when the last handle is dropped
    Ok(handle)
}

/// Sends one request and returns the first message of the answer, if the answer is more than an acknowledgement.
pub(super) async fn exchange(
    handle: &Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    let mut answers = handle.clone().request(request).map_err(io::Error::other)?;
    let mut first = None;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(inner) => first = first.or(Some(inner)),
            _ => {}
        }
    }
    Ok(first)
}

pub(super) fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
