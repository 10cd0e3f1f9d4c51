//! Any bytes as an answer of the kernel about links, neighbours and routes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::control::neighbours;
use oneip::netlink::{self, Path, links};
use rtnetlink::packet_route::RouteNetlinkMessage;

fuzz_target!(|datagram: &[u8]| {
    for message in netlink::messages(datagram) {
        match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => drop(links::read(&link)),
            RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour) => {
                let _ = neighbours::read(&neighbour);
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                drop((Path::of(&route), neighbours::read_route(&route)));
            }
            _ => {}
        }
    }
});
