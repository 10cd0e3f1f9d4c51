//! The client of a captured frame.

use crate::model::{Service, Transport};
use crate::path::classify::{Outer, outer};
use crate::wire::icmp::{self, Message};
use crate::wire::ipv4::Fragment;
use crate::wire::{ipv6, transport};
use std::net::IpAddr;

/// The source of a frame to a cluster address of the service and one of its ports. `None`: not such a frame, or one that does not
/// show it: a later fragment where the service has ports; an ICMP error, which comes from a router. A frame whose end was not
/// captured counts, if its ports were.
pub fn client(frame: &[u8], service: &Service) -> Option<IpAddr> {
    let (source, destination, protocol, fragment, payload) = match outer(frame) {
        Outer::V4(packet) => {
            packet.check(true).ok()?;
            let addresses = (IpAddr::from(packet.source()), IpAddr::from(packet.destination()));
            (addresses.0, addresses.1, Some(packet.protocol()), packet.fragment(), packet.payload())
        }
        Outer::V6(packet) => {
            packet.check(true).ok()?;
            let ipv6::Upper { protocol, fragment, payload } = packet.upper().ok()?;
            (packet.source().into(), packet.destination().into(), protocol, fragment, payload)
        }
        Outer::Truncated | Outer::Other => return None,
    };
    let is_asked = service.has_address(destination) && has(service, protocol, fragment, payload);
    is_asked.then_some(source)
}

fn has(service: &Service, protocol: Option<u8>, fragment: Fragment, payload: &[u8]) -> bool {
    if service.ports.is_empty() {
        let message = match protocol {
            Some(icmp::PROTOCOL_V4) => icmp::v4(payload),
            Some(icmp::PROTOCOL_V6) => icmp::v6(payload),
            _ => return true,
        };
        return fragment != Fragment::Whole || !matches!(message, Ok(Message::Error(_)));
    }
    let ports = transport::ports(payload).filter(|_| fragment != Fragment::Later);
    let transport = protocol.and_then(Transport::from_protocol);
    transport.zip(ports).is_some_and(|(transport, ports)| {
        service.ports.iter().any(|port| port.transport == transport && port.number == ports.destination)
    })
}
