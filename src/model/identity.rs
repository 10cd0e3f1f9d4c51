//! What makes a service or a server the same through a change of the configuration. Names are for people.

use super::{Port, Prefix, Server, Service};

/// Where the clients of a service find it, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// Sorted.
    pub addresses: Vec<Prefix>,
    /// Sorted; empty: every protocol and port.
    ports: Vec<Port>,
}

impl Identity {
    pub fn of(service: &Service) -> Identity {
        let mut ports = service.ports.clone();
        ports.sort_unstable();
        let mut addresses = service.addresses();
        addresses.sort_unstable();
        Identity { name: service.name.clone(), addresses, ports }
    }

    fn overlaps(&self, other: &Identity) -> bool {
        let any = |ports: &[Port]| ports.is_empty();
        any(&self.ports) || any(&other.ports) || self.ports.iter().any(|port| other.ports.binary_search(port).is_ok())
    }
}

/// For each service of `new`, the one of `old` that it continues. That is the one with the same addresses and ports; where some
/// have changed, one that shares an address or prefix with it and has the same ports, the same name, or else one of the ports. No
/// service is continued where it shares none: its clients are not there.
pub fn continued(old: &[Identity], new: &[Identity]) -> Vec<Option<usize>> {
    let rules: [fn(&Identity, &Identity) -> bool; 4] = [
        |old, new| old.addresses == new.addresses && old.ports == new.ports,
        |old, new| old.ports == new.ports,
        |old, new| old.name == new.name,
        Identity::overlaps,
    ];
    let mut found = vec![None; new.len()];
    let mut taken = vec![false; old.len()];
    let mut by_address = std::collections::HashMap::<Prefix, Vec<usize>>::new();
    for (at, old) in old.iter().enumerate() {
        old.addresses.iter().for_each(|address| by_address.entry(*address).or_default().push(at));
    }
    for is_same in rules {
        for (new, found) in new.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            let there = new.addresses.iter().filter_map(|address| by_address.get(address)).flatten();
            *found = there.copied().find(|at| !taken[*at] && is_same(&old[*at], new));
            found.iter().for_each(|at| taken[*at] = true);
        }
    }
    found
}

/// As [`continued`], for the services of two configurations.
pub fn continued_services(old: &[Service], new: &[Service]) -> Vec<Option<usize>> {
    let of = |services: &[Service]| services.iter().map(Identity::of).collect::<Vec<_>>();
    continued(&of(old), &of(new))
}

impl Server {
    /// Whether it is the same server of its service: the one with that primary address.
    pub fn is_same(&self, other: &Server) -> bool {
        self.address == other.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Transport;

    fn service(name: &str, last: u8, ports: &[u16]) -> Identity {
        let port = |number: &u16| Port { transport: Transport::Tcp, number: *number };
        Identity {
            name: name.to_owned(),
            addresses: vec![Prefix::host([203, 0, 113, last].into())],
            ports: ports.iter().map(port).collect(),
        }
    }

    #[test]
    fn a_service_is_where_its_clients_find_it() {
        let old = [service("web", 80, &[80, 443]), service("mail", 80, &[25]), service("all", 81, &[])];
        let continues = |new: &[Identity]| continued(&old, new);
        assert_eq!(
            continues(&[service("a", 80, &[80, 443]), service("web", 80, &[25])]),
            [Some(0), Some(1)],
            "renamed"
        );
        assert_eq!(continues(&[service("web", 80, &[8080])]), [Some(0)], "with other ports");
        assert_eq!(continues(&[service("b", 80, &[443]), service("c", 81, &[53])]), [Some(0), Some(2)], "and renamed");
        assert_eq!(continues(&[service("web", 82, &[80, 443]), service("d", 80, &[53])]), [None, None]);
        assert_eq!(continues(&[service("e", 80, &[443]), service("f", 80, &[80])]), [Some(0), None], "one each");
    }
}
