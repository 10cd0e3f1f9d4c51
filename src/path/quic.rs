//! The server of a QUIC packet by its connection ID, where that says whose it is: however its client's address has changed. ICMP errors
//! and fragments do not show one.

use super::classify::Upper;
use crate::model::Transport;
use crate::table::{Place, ServiceId, Table};
use crate::wire::transport;

/// Where a packet goes by its connection ID. `payload` lends what stands behind its IP header, if that is UDP. `None`: its hash decides.
#[inline]
pub(super) fn place<'a>(
    service: ServiceId,
    upper: Upper,
    table: &Table,
    payload: impl FnOnce() -> Option<&'a [u8]>,
) -> Option<Place> {
    let ids = table.service(service).connection_ids()?;
    if !matches!(upper, Upper::Ports(Transport::Udp, _)) {
        return None;
    }
    let server = ids.server(transport::datagram(payload()?)?)?;
    Some(table.place_of(service, server))
}
