//! Who is asked for the MAC that leads to a server behind a router: the gateway of the route to it, or the server itself where it is on the
//! link. Routes are looked up again every `ROUTE_LOOK`, whatever becomes of notifications, of which a routing daemon makes thousands.

use crate::model::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::change::{Detour, Error};
use super::kernel::{self, Route};
use crate::limits::ROUTE_LOOK;
use crate::netlink;
use crate::netlink::links::{self, Links};

/// Follows the routes to servers that need not be on the link.
pub struct Routes {
    /// For messages: the interfaces' names.
    interface: String,
    names: Vec<String>,
    requests: rtnetlink::Handle,
    servers: BTreeMap<IpAddr, Followed>,
    /// A route through one of these would bring packets back here.
    cluster_addresses: BTreeSet<Prefix>,
    looks: Interval,
}

#[derive(Default)]
struct Followed {
    name: String,
    /// Who is next on the way. Once there is one, there is until there is another: without a route nothing is gained by losing clients.
    via: Option<IpAddr>,
    /// Why there is no route by that interface, where that was told.
    wrong: Option<Wrong>,
}

/// Why packets cannot be sent to a server by its route.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    Detour(Detour),
    ClusterAddress(IpAddr),
}

/// A route that is no good. `Display` is a line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongRoute {
    name: String,
    address: IpAddr,
    interface: String,
    wrong: Wrong,
}

impl fmt::Display for WrongRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WrongRoute { name, address, interface, wrong } = self;
        write!(f, "server {name} {address} is not reached through {interface}: ")?;
        match wrong {
            Wrong::ClusterAddress(cluster) => {
                write!(
                    f,
                    "the route goes via {cluster}, a cluster address, and so comes back here; give it another gateway"
                )
            }
            Wrong::Detour(detour @ (Detour::Own | Detour::Group)) => {
                write!(f, "{detour}; give the server's own unicast address")
            }
            Wrong::Detour(detour) => {
                write!(f, "{detour}; add a route, as in ip route add {address} via GATEWAY dev {interface}")
            }
        }
    }
}

impl Routes {
    /// Of no server yet. Inside a runtime.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub fn open(names: &[String]) -> Result<Routes, Error> {
        let interface = names.join(" or ");
        let failed =
            |source| Error::Netlink { interface: interface.clone(), task: "open a socket for requests", source };
        let mut looks = interval(ROUTE_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Routes {
            requests: netlink::requests().map_err(failed)?,
            interface,
            names: names.to_vec(),
            servers: BTreeMap::new(),
            cluster_addresses: BTreeSet::new(),
            looks,
        })
    }

    /// Replaces the servers that are followed, and looks up the routes to all.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn watch(
        &mut self,
        wanted: &[(String, IpAddr)],
        cluster_addresses: BTreeSet<Prefix>,
    ) -> Result<(), Error> {
        let mut before = std::mem::take(&mut self.servers);
        for (name, address) in wanted {
            let known = before.remove(address).unwrap_or_default();
            self.servers.insert(*address, Followed { name: name.clone(), ..known });
        }
        self.cluster_addresses = cluster_addresses;
        let found = self.look().await.map_err(|source| self.failed(source))?;
        self.take(found);
        Ok(())
    }

    /// Whose MAC leads to a server that is followed; itself, where it is on the link.
    pub fn via(&self, server: IpAddr) -> Option<IpAddr> {
        self.servers.get(&server)?.via
    }

    pub fn follows(&self, server: IpAddr) -> bool {
        self.servers.contains_key(&server)
    }

    /// The servers whose packets go by that neighbour.
    pub fn behind(&self, via: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.servers.iter().filter(move |(_, followed)| followed.via == Some(via)).map(|(address, _)| *address)
    }

    /// Who is to be asked for their MACs, each once, with a name for messages.
    pub fn neighbours(&self) -> Vec<(String, IpAddr)> {
        let mut all: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (address, Followed { name, via, .. }) in &self.servers {
            let Some(via) = *via else { continue };
            let name = if via == *address { name.clone() } else { format!("{name}'s gateway") };
            all.entry(via).or_insert(name);
        }
        all.into_iter().map(|(address, name)| (name, address)).collect()
    }

    /// The servers that no route leads to by the interface.
    pub fn wrong(&self) -> Vec<WrongRoute> {
        let wrong = |(address, followed): (&IpAddr, &Followed)| {
            let wrong = followed.wrong.clone()?;
            let (name, interface) = (followed.name.clone(), self.interface.clone());
            Some(WrongRoute { name, address: *address, interface, wrong })
        };
        self.servers.iter().filter_map(wrong).collect()
    }

    /// Waits until some route has changed. Cancel-safe.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn next(&mut self) -> Result<(), Error> {
        loop {
            self.looks.tick().await;
            let found = self.look().await.map_err(|source| self.failed(source))?;
            if self.take(found) {
                return Ok(());
            }
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Netlink { interface: self.interface.clone(), task: "look up routes", source }
    }

    /// Nothing is changed.
    async fn look(&self) -> io::Result<Vec<(IpAddr, Result<IpAddr, Wrong>)>> {
        let links = Links::new(links::all(&self.requests).await?);
        // While it is gone nothing is known.
        let Some(interfaces) = self.names.iter().map(|name| links.find(name)).collect::<Option<Vec<u32>>>() else {
            return Ok(Vec::new());
        };
        let mut found = Vec::with_capacity(self.servers.len());
        for address in self.servers.keys().copied() {
            let route = kernel::route(&self.requests, address, interfaces[0]).await?;
            found.push((address, self.judge(address, route, (&links, &interfaces))));
        }
        Ok(found)
    }

    fn judge(&self, server: IpAddr, route: Route, (links, interfaces): (&Links, &[u32])) -> Result<IpAddr, Wrong> {
        match route {
            Route::Via { gateway, .. } if self.cluster_addresses.iter().any(|prefix| prefix.contains(gateway)) => {
                Err(Wrong::ClusterAddress(gateway))
            }
            Route::Via { gateway, device } if links.leads_to_one(device, interfaces).is_some() => Ok(gateway),
            Route::Straight { device } if links.leads_to_one(device, interfaces).is_some() => Ok(server),
            Route::Via { gateway, device } => {
                Err(Wrong::Detour(Detour::Gateway { via: gateway, device: links.name(device) }))
            }
            Route::Straight { device } => Err(Wrong::Detour(Detour::Device { device: links.name(device) })),
            Route::Nowhere(detour) => Err(Wrong::Detour(detour)),
        }
    }

    /// Whether anybody is reached by another neighbour now, or not any more.
    fn take(&mut self, found: Vec<(IpAddr, Result<IpAddr, Wrong>)>) -> bool {
        let mut changed = false;
        for (address, found) in found {
            let Some(server) = self.servers.get_mut(&address) else { continue };
            match found {
                Ok(via) => {
                    changed |= server.via != Some(via) || server.wrong.is_some();
                    (server.via, server.wrong) = (Some(via), None);
                }
                Err(wrong) => {
                    changed |= server.wrong.as_ref() != Some(&wrong);
                    server.wrong = Some(wrong);
                }
            }
        }
        changed
    }
}
