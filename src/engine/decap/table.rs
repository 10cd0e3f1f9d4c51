//! The table that the program decides by, as `src/bpf/decap.bpf.c` reads it: cells of 4 KiB; the head in the first, then the
//! directory of the cluster addresses, that of the ends of tunnels, the services, and the prefixes that tunnels may come from.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::limits::TUNNEL_SOURCES;
use crate::model::{Deliver, Plan, Port, Prefix, Probe, Service, Transport};
use crate::table::build;
use crate::xdp::cell::{CELL_WORDS, Cell};
use crate::xdp::directory::Directory;
use crate::xdp::prefixes::Prefixes;

/// `struct service` and `struct prefix`, in words.
const SERVICE_WORDS: usize = 4;
const PREFIX_WORDS: usize = 4;

const _: () = assert!(2 * TUNNEL_SOURCES * PREFIX_WORDS == CELL_WORDS, "`SOURCES` of src/bpf/decap.bpf.c");

/// `BY_DSCP` of src/bpf/decap.bpf.c: in place of a protocol.
const BY_DSCP: u8 = 255;

/// A complete table for one server.
pub struct Table {
    cells: Vec<Cell>,
}

impl Table {
    /// For the server of that name. `account`: under which number the frames of a service are counted.
    pub fn compile(plan: &Plan, server: &str, account: &dyn Fn(&str) -> u32) -> Table {
        let mine = |service: &&Service| concerns(service) && service.servers.iter().any(|it| it.name == server);
        let services: Vec<Service> = plan.services.iter().filter(mine).map(with_checked_port).collect();
        let directory = build::directory(&services).0;
        let addresses = Directory::new(&directory);
        let ends = Directory::of_ports(ends(&services, server));
        let sources = plan.tunnel_sources();
        let (first_end, first_service) = (1 + addresses.cells.len(), 1 + addresses.cells.len() + ends.cells.len());
        let each_cell = CELL_WORDS / SERVICE_WORDS;
        let first_source = first_service + services.len().div_ceil(each_cell);
        let mut cells = vec![[0; CELL_WORDS]; first_source + usize::from(!sources.is_empty())];
        let prefixes = Prefixes::append(&directory, &mut cells);
        cells[0][6..11].copy_from_slice(&prefixes.words());
        let place =
            |directory: &Directory, first: usize| [directory.factor, u64::from(directory.shift) | (first as u64) << 32];
        cells[0][..2].copy_from_slice(&place(&addresses, 1));
        cells[0][2..4].copy_from_slice(&place(&ends, first_end));
        cells[1..first_end].copy_from_slice(&addresses.cells);
        cells[first_end..first_service].copy_from_slice(&ends.cells);
        for (at, service) in services.iter().enumerate() {
            let of_address = services.iter().filter(|other| other.shares_address(service));
            let forms = of_address.fold(0, |forms, other| forms | form(other));
            let [low, high] = words(service.address);
            let own = u64::from(account(&service.name)) | form(service) << 32 | forms << 48;
            let cell = &mut cells[first_service + at / each_cell];
            cell[at % each_cell * SERVICE_WORDS..][..SERVICE_WORDS].copy_from_slice(&[low, high, own, 0]);
        }
        let (v4, v6): (Vec<Prefix>, Vec<Prefix>) = sources.iter().partition(|source| source.address.is_ipv4());
        let behind = |at: usize| at * PREFIX_WORDS;
        for (at, source) in (0..).zip(&v4).chain((TUNNEL_SOURCES..).zip(&v6)) {
            let ([low, high], [low_mask, high_mask]) = (words(source.address), words(source.mask()));
            let prefix = [low, high, low_mask, high_mask];
            cells[first_source][behind(at)..][..PREFIX_WORDS].copy_from_slice(&prefix);
        }
        let first_source = if sources.is_empty() { 0 } else { first_source as u64 };
        cells[0][4] = first_service as u64 | first_source << 32;
        cells[0][5] = v4.len() as u64 | (v6.len() as u64) << 32;
        Table { cells }
    }

    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }
}

/// Whether something comes to it that is not the kernel's alone: tunnels, or what is sent back.
pub fn concerns(service: &Service) -> bool {
    service.deliver.is_routed() || service.second_chance
}

/// A check that goes the clients' way may be of a port that no client asks for.
fn with_checked_port(service: &Service) -> Service {
    let mut service = service.clone();
    if !service.deliver.is_routed() {
        return service;
    }
    let number = match service.health.as_ref().map(|health| &health.probe) {
        Some(Probe::Tcp { port }) => *port,
        Some(Probe::Http(http)) => http.port,
        Some(Probe::Icmp) | None => return service,
    };
    let checked = Port { transport: Transport::Tcp, number };
    if !service.ports.is_empty() && !service.ports.contains(&checked) {
        service.ports.push(checked);
    }
    service
}

/// The server's own addresses, the ports of GUE there, and the DSCPs: address, protocol, port, service.
fn ends(services: &[Service], server: &str) -> BTreeSet<(IpAddr, u8, u16, u16)> {
    let mut ends = BTreeSet::new();
    for (id, service) in (0..).zip(services).filter(|(_, service)| service.deliver.is_routed()) {
        for own in service.servers.iter().filter(|it| it.name == server).map(|it| it.address) {
            ends.insert((own, 0, 0, 0));
            match service.deliver {
                Deliver::Gue { port } => _ = ends.insert((own, Transport::Udp.protocol(), port, 0)),
                // Of several services of one address, any leads to the address.
                Deliver::L3dsr { dscp } => {
                    let dscp = u16::from(dscp);
                    if ends.range((own, BY_DSCP, dscp, 0)..=(own, BY_DSCP, dscp, u16::MAX)).next().is_none() {
                        ends.insert((own, BY_DSCP, dscp, id));
                    }
                }
                Deliver::L2 | Deliver::Ipip | Deliver::Gre => {}
            }
        }
    }
    ends
}

/// `enum form`
fn form(service: &Service) -> u64 {
    match service.deliver {
        Deliver::L2 => 16,
        Deliver::Ipip => 1,
        Deliver::Gue { .. } => 2,
        Deliver::Gre => 4,
        Deliver::L3dsr { .. } => 8,
    }
}

/// An address as it is in a packet.
fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [u32::from_le_bytes(address.octets()).into(), 0],
        IpAddr::V6(address) => {
            let number = u128::from_le_bytes(address.octets());
            [number as u64, (number >> 64) as u64]
        }
    }
}
