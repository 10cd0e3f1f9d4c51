//! What was found, whichever program's configuration it was in.

use super::check::Check;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

/// File and line.
pub type Place = (usize, usize);

#[derive(Default)]
pub struct Found {
    pub services: Vec<Service>,
    /// Those of keepalived that name a group.
    pub of_groups: Vec<(String, Service)>,
    /// Addresses and ports of a group of keepalived.
    pub groups: HashMap<String, Vec<(IpAddr, u16)>>,
    /// Where VRRP runs.
    pub interface: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub at: Place,
    pub address: IpAddr,
    /// 0: all.
    pub port: u16,
    pub transport: Transport,
    pub by_flow: bool,
    pub servers: Vec<Server>,
    pub check: Option<Check>,
    /// How all are delivered to, once it is settled.
    pub deliver: Deliver,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub at: Place,
    pub address: IpAddr,
    pub port: u16,
    pub weight: u32,
    pub deliver: Option<Deliver>,
    pub check: Option<(Place, Check)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    L2,
    Ipip,
    Gue(Option<u16>),
    Gre,
    /// The other program changes addresses, which ours does not.
    Nat,
}

impl Deliver {
    /// In the words of the configurations that are read.
    const fn method(self) -> &'static str {
        match self {
            Deliver::L2 => "DR",
            Deliver::Nat => "NAT",
            Deliver::Ipip | Deliver::Gue(_) | Deliver::Gre => "TUN",
        }
    }
}

/// What is to be said, in the order of the input.
#[derive(Default)]
pub struct Remarks {
    file: usize,
    said: BTreeMap<Place, Vec<String>>,
}

impl Remarks {
    /// What follows is of that file.
    pub fn begin(&mut self, file: usize) {
        self.file = file;
    }

    pub fn place(&self, line: usize) -> Place {
        (self.file, line)
    }

    pub fn say(&mut self, line: usize, text: impl Into<String>) {
        self.say_at((self.file, line), text);
    }

    pub fn say_at(&mut self, place: Place, text: impl Into<String>) {
        let (said, text) = (self.said.entry(place).or_default(), text.into());
        // A group of keepalived is several services.
        if !said.contains(&text) {
            said.push(text);
        }
    }

    pub fn lines<'n>(&self, name: impl Fn(usize) -> &'n str) -> Vec<String> {
        let each = self.said.iter().flat_map(|((file, line), said)| said.iter().map(move |text| (*file, *line, text)));
        each.map(|(file, line, text)| format!("{}:{line}: {text}", name(file))).collect()
    }
}

const NAT: &str = "NAT has no counterpart: packets reach servers unchanged, and servers answer clients themselves. Give servers the cluster \
                   address (`oneip server add`), and make this DR or TUN first";

impl Found {
    /// Leaves out what cannot be taken over, and says so.
    pub fn settle(&mut self, remarks: &mut Remarks) {
        let mut seen: HashMap<(IpAddr, u16, &'static str), Place> = HashMap::new();
        self.services.retain_mut(|service| {
            let key = (service.address, service.port, service.transport.name());
            if let Some((file, line)) = seen.get(&key) {
                let of = if *file == service.at.0 { "" } else { " of a file before this one" };
                remarks.say_at(service.at, format!("left out: the same virtual server stands on line {line}{of}"));
                return false;
            }
            seen.insert(key, service.at);
            service.settle(remarks)
        });
    }
}

impl Service {
    /// Whether anything is left of it.
    fn settle(&mut self, remarks: &mut Remarks) -> bool {
        let address = self.address;
        let mut known: HashSet<IpAddr> = HashSet::new();
        let way = self.servers.iter().filter_map(|server| server.deliver).find(|way| *way != Deliver::Nat);
        let nat = self.servers.iter().filter(|server| server.deliver == Some(Deliver::Nat)).count();
        if nat == self.servers.len() && nat > 0 {
            remarks.say_at(self.at, format!("left out: {NAT}"));
            return false;
        }
        self.deliver = way.unwrap_or(Deliver::L2);
        let deliver = self.deliver;
        self.servers.retain(|server| {
            let out = match server.deliver {
                Some(Deliver::Nat) => Some(NAT.to_owned()),
                Some(other) if other != deliver => {
                    let (one, other) = (deliver.method(), other.method());
                    Some(format!("a service is delivered in one way, and this one by {one}, not by {other}"))
                }
                _ if server.address == address => {
                    Some("it is the load balancer itself, which serves no clients".to_owned())
                }
                _ if server.address.is_loopback() => {
                    Some("it is the load balancer itself, which serves no clients".to_owned())
                }
                _ if deliver == Deliver::L2 && server.address.is_ipv4() != address.is_ipv4() => {
                    Some("its address is of another family than the cluster address".to_owned())
                }
                _ if !known.insert(server.address) => Some("the service has it already".to_owned()),
                _ => None,
            };
            out.iter().for_each(|why| remarks.say_at(server.at, format!("server {} left out: {why}", server.address)));
            out.is_none()
        });
        for server in self.servers.iter().filter(|server| server.port != self.port && server.port != 0) {
            let text = format!(
                "port {} of server {} is not converted: oneip does not change ports",
                server.port, server.address
            );
            remarks.say_at(server.at, text);
        }
        if self.servers.is_empty() {
            remarks.say_at(self.at, "left out: it has no server that could be converted");
            return false;
        }
        if self.port == 0 {
            let text = "port 0 becomes all of the address: every protocol and port, ICMP included";
            remarks.say_at(self.at, text);
        }
        self.settle_check(remarks);
        true
    }

    /// A service has one check: the first server's.
    fn settle_check(&mut self, remarks: &mut Remarks) {
        let checks = || self.servers.iter().filter_map(|server| server.check.as_ref());
        let Some((_, first)) = checks().next().cloned() else { return };
        for (at, _) in checks().filter(|(_, check)| *check != first) {
            remarks.say_at(*at, "this check differs from that of the service's first server, which counts for all");
        }
        for server in self.servers.iter().filter(|server| server.check.is_none()) {
            let text = format!(
                "server {} has no check in this file; in oneip it is checked like the others of the service",
                server.address
            );
            remarks.say_at(server.at, text);
        }
        self.check = Some(first);
    }
}
