//! What follows from the kernel's messages: from answers to our questions, and from notifications.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use futures::future::FutureExt;
use futures::stream::StreamExt;
use rustix::io::Errno;

use super::change::{Detour, Error, Why};
use super::kernel::{self, Notice, Route, Seen};
use super::{Done, Neighbours, Resync, Upkeep};
use crate::netlink::links::Link;
use crate::netlink::{Overrun, is};

impl Neighbours {
    /// Takes in all that is ready, without waiting.
    pub(super) fn drain(&mut self) -> Result<(), Error> {
        while let Ok(address) = self.doubts.1.try_recv() {
            self.verify(address);
        }
        loop {
            if let Some(received) = self.notices.receive().now_or_never() {
                self.notice(received)?;
            } else if let Some(Some(done)) = self.running.next().now_or_never() {
                self.finish(done)?;
            } else {
                return Ok(());
            }
        }
    }

    pub(super) fn notice(&mut self, received: io::Result<Result<Vec<Notice>, Overrun>>) -> Result<(), Error> {
        let notices = match received.map_err(|source| self.failed("receive notifications", source))? {
            Ok(notices) => notices,
            Err(Overrun) if self.resync == Resync::No => {
                self.list();
                return Ok(());
            }
            Err(Overrun) => {
                self.resync = Resync::Again;
                return Ok(());
            }
        };
        let now = Instant::now();
        for notice in notices {
            match notice {
                Notice::Neighbour(device, address, seen) if self.is_at(address, device) => {
                    let upkeep = self.upkeep;
                    self.with(address, |entry| entry.hear(&seen, upkeep, now));
                }
                Notice::NeighbourGone(device, address) if self.is_at(address, device) => {
                    self.with(address, |entry| entry.vanish(now));
                }
                Notice::Link(index, link) => self.set_link(index, link, now),
                Notice::LinkGone(index) => self.remove_link(index, now),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, done: Done) -> Result<(), Error> {
        match done {
            Done::Routed(address, route) => {
                self.with(address, |entry| entry.asking = false);
                if let Some(device) = self.place(address, route)? {
                    let mut doubted = false;
                    self.with(address, |entry| {
                        entry.asking = true;
                        doubted = entry.take_doubt(Instant::now());
                    });
                    let (requests, manage) = (self.requests.clone(), self.upkeep == Upkeep::Kernel);
                    let asked = async move {
                        let answer = kernel::ask(&requests, device, address, manage, doubted).await;
                        Done::Asked { address, device, manage, answer }
                    };
                    self.running.push(asked.boxed());
                }
            }
            Done::Asked { address, device, .. } if !self.entries.contains_key(&address) => {
                self.release(Some(device), address);
            }
            Done::Asked { address, device, manage, answer } => self.answered(address, device, manage, answer)?,
            Done::Released(address, result) => match result {
                Err(e) if e.raw_os_error().is_none() => return Err(self.failed("release neighbours", e)),
                Err(e) if is(&e, Errno::PERM) => return Err(self.not_permitted(address)),
                _ => {} // gone with its device, or not ours any more
            },
            Done::Listed(table) => {
                let table = table.map_err(|source| self.failed("list links and neighbours", source))?;
                if std::mem::replace(&mut self.resync, Resync::No) == Resync::Again {
                    self.list();
                }
                let now = Instant::now();
                self.set_links(table.links, now);
                self.set_neighbours(&table.neighbours, now);
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        address: IpAddr,
        device: u32,
        manage: bool,
        answer: io::Result<Option<Seen>>,
    ) -> Result<(), Error> {
        self.with(address, |entry| entry.asking = false);
        match answer {
            Ok(Some(seen)) if self.is_up(device) => {
                if manage && !seen.managed && !seen.foreign {
                    self.upkeep = Upkeep::Ours;
                }
                let (upkeep, now) = (self.upkeep, Instant::now());
                self.with(address, |entry| entry.hear(&seen, upkeep, now));
            }
            Ok(_) => {}
            Err(e) if is(&e, Errno::PERM) => return Err(self.not_permitted(address)),
            Err(e) if is(&e, Errno::NODEV) || is(&e, Errno::NETDOWN) => {} // a notice about it follows
            Err(e) => self.refused(address, e, "ask for a neighbour")?,
        }
        Ok(())
    }

    /// Takes in where the kernel would send to. Returns the device, if it leads to our link and is up.
    pub(super) fn place(&mut self, address: IpAddr, route: io::Result<Route>) -> Result<Option<u32>, Error> {
        let detour = match route {
            Ok(Route::Straight { device }) if let Some(link) = self.links.leads_to_one(device, &self.indices) => {
                self.with(address, |entry| entry.attach(device, link));
                if self.is_up(device) {
                    return Ok(Some(device));
                }
                let why = Why::LinkDown { device: self.links.name(device) };
                self.with(address, |entry| entry.cut(why, Instant::now()));
                return Ok(None);
            }
            Ok(Route::Straight { device }) => Detour::Device { device: self.links.name(device) },
            Ok(Route::Via { gateway, device }) => Detour::Gateway { via: gateway, device: self.links.name(device) },
            Ok(Route::Nowhere(detour)) => detour,
            Err(e) => {
                self.refused(address, e, "look up a route")?;
                return Ok(None);
            }
        };
        self.with(address, |entry| entry.detach(detour, Instant::now()));
        Ok(None)
    }

    /// A refusal by the kernel concerns one address; that the socket failed concerns all.
    fn refused(&mut self, address: IpAddr, error: io::Error, task: &'static str) -> Result<(), Error> {
        let why = match error.raw_os_error() {
            None => return Err(self.failed(task, error)),
            Some(errno) if errno == Errno::NOBUFS.raw_os_error() => Why::TableFull { ipv6: address.is_ipv6() },
            Some(errno) => Why::Refused(errno),
        };
        self.with(address, |entry| entry.refuse(why, Instant::now()));
        Ok(())
    }

    pub(super) fn set_neighbours(&mut self, neighbours: &[(u32, IpAddr, Seen)], now: Instant) {
        let upkeep = self.upkeep;
        let mut missing: BTreeSet<IpAddr> = self.entries.keys().copied().collect();
        for (device, address, seen) in neighbours {
            if self.is_at(*address, *device) {
                missing.remove(address);
                self.with(*address, |entry| entry.hear(seen, upkeep, now));
            }
        }
        missing.retain(|address| self.entries[address].device.is_some_and(|device| self.is_up(device)));
        for address in missing {
            self.with(address, |entry| entry.vanish(now));
        }
    }

    fn set_links(&mut self, links: Vec<(u32, Link)>, now: Instant) {
        let gone =
            self.links.indices().filter(|index| links.iter().all(|(there, _)| there != index)).collect::<Vec<_>>();
        for index in gone {
            self.remove_link(index, now);
        }
        for (index, link) in links {
            self.set_link(index, link, now);
        }
    }

    fn set_link(&mut self, index: u32, link: Link, now: Instant) {
        let (was_up, up, name) = (self.is_up(index), link.up, link.name.clone());
        self.links.set(index, link);
        if let Some(at) = self.names.iter().position(|known| *known == name)
            && self.links.get(self.indices[at]).is_none()
        {
            self.indices[at] = index; // it was removed and has been made again
        }
        if was_up && !up {
            for address in self.addresses(|entry| entry.device == Some(index)) {
                self.with(address, |entry| entry.cut(Why::LinkDown { device: name.clone() }, now));
            }
        } else if up && !was_up && self.links.leads_to_one(index, &self.indices).is_some() {
            for address in self.addresses(|entry| entry.device == Some(index) || !entry.is_confirmed()) {
                self.with(address, |entry| entry.hasten(now));
            }
        }
    }

    fn remove_link(&mut self, index: u32, now: Instant) {
        let Some(link) = self.links.remove(index) else { return };
        let interface_left = self.indices.iter().any(|index| self.links.get(*index).is_some());
        for address in self.addresses(|entry| entry.device == Some(index)) {
            self.with(address, |entry| {
                entry.device = None;
                entry.cut(Why::LinkGone { device: link.name.clone() }, now);
                if interface_left {
                    entry.hasten(now);
                }
            });
        }
    }
}
