//! Reads links and addresses over rtnetlink, and carries out changes to this host as one.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressScope, CacheInfo};
use rtnetlink::packet_route::link::{
    InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkXdp,
};
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, NeighbourAddRequest};
use tokio::runtime::{Builder, Runtime};

use super::fou::Fou;
use super::host;
use super::tunnel::{DUMMY, Device, End, Kind};
use super::{Error, Membership, Setting, Step};
use crate::model::{Mac, Prefix};
use crate::netlink::PROTOCOL;

/// The kernel gives the loopback interface of every namespace this number (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LO: u32 = 1;

/// A connection to rtnetlink in the network namespace of the thread that opened it. Not to be used inside an async runtime.
pub struct Netlink {
    runtime: Runtime,
    handle: rtnetlink::Handle,
}

pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub mac: Option<Mac>,
    /// `ARPHRD_*`, include/uapi/linux/if_arp.h.
    pub kind: u16,
    /// An XDP program is attached.
    pub has_program: bool,
    /// Of a tunnel device: the address that it is for. `None`: for any.
    pub local: Option<IpAddr>,
}

/// Of the device by which is tried what the kernel can.
const TRIAL: &str = "oneip-try";

fn failed(doing: String, source: rtnetlink::Error) -> Error {
    Error::Netlink { doing, source }
}

/// `None`: this kernel has no such ports.
pub fn fou() -> Result<Option<Fou>, Error> {
    Fou::open().map_err(Error::Socket)
}

fn local(infos: &[LinkInfo]) -> Option<IpAddr> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let local = match data? {
        InfoData::IpTunnel(facts) => facts.iter().find_map(|fact| match fact {
            InfoIpTunnel::Local(local) => Some(*local),
            _ => None,
        }),
        InfoData::GreTun(facts) => facts.iter().find_map(|fact| match fact {
            InfoGre::Local(local) => Some(IpAddr::V4(*local)),
            _ => None,
        }),
        InfoData::GreTun6(facts) => facts.iter().find_map(|fact| match fact {
            InfoGre6::Local(local) => Some(IpAddr::V6(*local)),
            _ => None,
        }),
        _ => None,
    };
    local.filter(|local| !local.is_unspecified())
}

/// `ip route add local PREFIX dev lo`.
fn local_route(prefix: Prefix) -> RouteMessage {
    let (family, address) = match prefix.address {
        IpAddr::V4(address) => (AddressFamily::Inet, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, RouteAddress::Inet6(address)),
    };
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.destination_prefix_length = prefix.length;
    route.header.table = libc::RT_TABLE_LOCAL;
    route.header.protocol = PROTOCOL;
    route.header.scope = if prefix.address.is_ipv4() { RouteScope::Host } else { RouteScope::Universe };
    route.header.kind = RouteType::Local;
    route.attributes = vec![RouteAttribute::Destination(address), RouteAttribute::Oif(LO)];
    route
}

/// What of this host's a route makes so, beyond single addresses.
fn local_prefix(route: &RouteMessage) -> Option<Prefix> {
    let is_local = route.header.kind == RouteType::Local && route.header.table == libc::RT_TABLE_LOCAL;
    let to_lo = route.attributes.contains(&RouteAttribute::Oif(LO));
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let prefix = Prefix { address, length: route.header.destination_prefix_length };
    (is_local && to_lo && !prefix.is_host()).then_some(prefix)
}

/// An address as the kernel lists it.
pub struct Found {
    pub index: u32,
    pub address: IpAddr,
    pub prefix: u8,
    pub scope_host: bool,
}

impl Netlink {
    pub fn open() -> Result<Netlink, Error> {
        let runtime = Builder::new_current_thread().enable_io().build().map_err(Error::Socket)?;
        let handle = {
            let _context = runtime.enter();
            let (mut connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
            // Of its routes the kernel lists the asked table's alone.
            connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true).map_err(Error::Socket)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Netlink { runtime, handle })
    }

    pub fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<_> = self
            .runtime
            .block_on(self.handle.link().get().execute().try_collect())
            .map_err(|source| Error::Netlink { doing: "list interfaces".to_owned(), source })?;
        let link = |message: rtnetlink::packet_route::link::LinkMessage| {
            let mut link = Link {
                index: message.header.index,
                name: String::new(),
                up: message.header.flags.contains(LinkFlags::Up),
                mac: None,
                kind: message.header.link_layer_type.into(),
                has_program: false,
                local: None,
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => link.name = name,
                    LinkAttribute::Xdp(facts) => {
                        link.has_program = facts.iter().any(|fact| matches!(fact, LinkXdp::ProgId(_)));
                    }
                    LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
                    LinkAttribute::LinkInfo(infos) => link.local = local(&infos),
                    _ => {}
                }
            }
            link
        };
        Ok(messages.into_iter().map(link).collect())
    }

    pub fn addresses(&self) -> Result<Vec<Found>, Error> {
        let messages: Vec<_> = self
            .runtime
            .block_on(self.handle.address().get().execute().try_collect())
            .map_err(|source| Error::Netlink { doing: "list addresses".to_owned(), source })?;
        let found = |message: rtnetlink::packet_route::address::AddressMessage| {
            // On a point-to-point link IFA_ADDRESS is the far end; IFA_LOCAL, where there is one, is this end.
            let (mut local, mut address) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => local = Some(*ip),
                    AddressAttribute::Address(ip) => address = Some(*ip),
                    _ => {}
                }
            }
            Some(Found {
                index: message.header.index,
                address: local.or(address)?,
                prefix: message.header.prefix_len,
                scope_host: message.header.scope == AddressScope::Host,
            })
        };
        Ok(messages.into_iter().filter_map(found).collect())
    }

    /// All the steps, or none: when one fails, those before it are taken back.
    pub fn apply(&self, steps: &[Step]) -> Result<(), Error> {
        for (done, step) in steps.iter().enumerate() {
            if let Err(error) = self.carry_out(step) {
                return Err(self.take_back(&steps[..done], error));
            }
        }
        Ok(())
    }

    /// Undoes `steps`, because of `cause`.
    pub fn take_back(&self, steps: &[Step], cause: Error) -> Error {
        steps.iter().rev().fold(cause, |cause, step| match self.carry_out(&step.reversed()) {
            Ok(()) => cause,
            Err(error) => cause.and_left(error.to_string()),
        })
    }

    fn carry_out(&self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Add(prefix) if prefix.is_host() => self.add_alias(prefix.address),
            Step::Remove(prefix) if prefix.is_host() => self.remove_alias(prefix.address),
            Step::Add(prefix) => self.add_local(*prefix),
            Step::Remove(prefix) => self.remove_local(*prefix),
            Step::Write(Setting { path, to, .. }) => host::write_setting(path, *to),
            Step::Join(membership) => self.join(membership),
            Step::Leave(membership) => self.leave(membership),
            Step::Open(end) => self.open_end(end),
            Step::Close(end) => self.close_end(end),
        }
    }

    /// Whether this kernel can do that.
    pub fn has(&self, end: &End) -> Result<bool, Error> {
        match end {
            End::Port(_) => Ok(fou()?.is_some()),
            End::Device(device) => match self.delete_trial().and_then(|()| self.make(TRIAL, *device)) {
                Ok(()) => {
                    self.delete_trial().map(|()| true).map_err(|source| failed(format!("remove {TRIAL}"), source))
                }
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => Ok(false),
                Err(source) => Err(failed(format!("make a device of type {}", device.kind.name()), source)),
            },
        }
    }

    fn open_end(&self, end: &End) -> Result<(), Error> {
        match end {
            End::Port(port) => {
                let done = fou()?.map_or(Err(std::io::ErrorKind::Unsupported.into()), |fou| fou.add(*port));
                done.map_err(|source| Error::Fou { doing: "open", port: *port, source })
            }
            End::Device(device @ Device { kind, .. }) => {
                let name = kind.device();
                self.make(name, *device).map_err(|source| failed(format!("make {name}"), source))?;
                let addressed = if *kind == Kind::Sit { Ok(()) } else { self.address(name) };
                let done = addressed.and_then(|()| super::tunnel::loosen(name));
                // Half a device is none.
                done.inspect_err(|_| _ = self.delete(name))
            }
        }
    }

    fn close_end(&self, end: &End) -> Result<(), Error> {
        match end {
            End::Port(port) => {
                let done = fou()?.map_or(Ok(()), |fou| fou.delete(*port));
                done.map_err(|source| Error::Fou { doing: "close", port: *port, source })
            }
            End::Device(device) => {
                let name = device.kind.device();
                self.delete(name).map_err(|source| failed(format!("remove {name}"), source))
            }
        }
    }

    /// It is up at once.
    fn make(&self, name: &str, Device { kind, local }: Device) -> Result<(), rtnetlink::Error> {
        let (kind, data) = match (kind, local) {
            (Kind::Ipip, _) => (InfoKind::IpIp, InfoData::IpTunnel(vec![InfoIpTunnel::Local(local)])),
            (Kind::Sit, _) => (InfoKind::SitTun, InfoData::IpTunnel(vec![InfoIpTunnel::Local(local)])),
            (Kind::Ip6Tnl, _) => (InfoKind::Ip6Tnl, InfoData::IpTunnel(vec![InfoIpTunnel::Local(local)])),
            (Kind::Gre, IpAddr::V4(v4)) => (InfoKind::GreTun, InfoData::GreTun(vec![InfoGre::Local(v4)])),
            (_, IpAddr::V6(v6)) => (InfoKind::GreTun6, InfoData::GreTun6(vec![InfoGre6::Local(v6)])),
            (Kind::Ip6Gre, IpAddr::V4(_)) => unreachable!("its outer header is IPv6"),
        };
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(name).set_info_data(data).up();
        self.runtime.block_on(self.handle.link().add(message.build()).execute())
    }

    /// So that clients' packets come out of it (`tunnel`).
    fn address(&self, name: &str) -> Result<(), Error> {
        let added = self.runtime.block_on(async {
            let link = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await?;
            let index = link.map_or(0, |link| link.header.index);
            let mut request = self.handle.address().add(index, DUMMY.into(), Prefix::host(DUMMY.into()).length);
            request.message_mut().header.scope = AddressScope::Host;
            request.execute().await
        });
        added.map_err(|source| failed(format!("add {DUMMY} to {name}"), source))
    }

    /// One may be left of a process that was killed.
    fn delete_trial(&self) -> Result<(), rtnetlink::Error> {
        match self.delete(TRIAL) {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(()),
            done => done,
        }
    }

    fn delete(&self, name: &str) -> Result<(), rtnetlink::Error> {
        self.runtime.block_on(async {
            let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await?;
            match found {
                Some(link) => self.handle.link().del(link.header.index).execute().await,
                None => Ok(()),
            }
        })
    }

    fn add_alias(&self, address: IpAddr) -> Result<(), Error> {
        let mut request = self.handle.address().add(LO, address, Prefix::host(address).length);
        let message = request.message_mut();
        if address.is_ipv4() {
            message.header.scope = AddressScope::Host;
        } else {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_preferred = 0;
            lifetime.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        self.runtime
            .block_on(request.execute())
            .map_err(|source| Error::Netlink { doing: format!("add {address} to lo"), source })
    }

    fn remove_alias(&self, address: IpAddr) -> Result<(), Error> {
        let message = self.handle.address().add(LO, address, Prefix::host(address).length).message_mut().clone();
        self.runtime
            .block_on(self.handle.address().del(message).execute())
            .map_err(|source| Error::Netlink { doing: format!("remove {address} from lo"), source })
    }

    /// The prefixes that routes to `lo` make this host's, longer ones than of an address.
    pub fn local(&self) -> Result<Vec<Prefix>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            query.header.table = libc::RT_TABLE_LOCAL;
            query.attributes.push(RouteAttribute::Table(libc::RT_TABLE_LOCAL.into()));
            let messages: Vec<RouteMessage> = self
                .runtime
                .block_on(self.handle.route().get(query).execute().try_collect())
                .map_err(|source| failed("list routes".to_owned(), source))?;
            found.extend(messages.iter().filter_map(local_prefix));
        }
        Ok(found)
    }

    fn add_local(&self, prefix: Prefix) -> Result<(), Error> {
        self.runtime
            .block_on(self.handle.route().add(local_route(prefix)).execute())
            .map_err(|source| failed(format!("add the local route {prefix} to lo"), source))
    }

    fn remove_local(&self, prefix: Prefix) -> Result<(), Error> {
        self.runtime
            .block_on(self.handle.route().del(local_route(prefix)).execute())
            .map_err(|source| failed(format!("remove the local route {prefix} from lo"), source))
    }

    fn join(&self, membership: &Membership) -> Result<(), Error> {
        let failed = |source| Error::Netlink { doing: format!("join {membership}"), source };
        let request = self.receives(membership).map_err(failed)?;
        self.runtime.block_on(request.execute()).map_err(failed)
    }

    fn leave(&self, membership: &Membership) -> Result<(), Error> {
        let failed = |source| Error::Netlink { doing: format!("leave {membership}"), source };
        let entry = self.receives(membership).map_err(failed)?.message_mut().clone();
        self.runtime.block_on(self.handle.neighbours().del(entry).execute()).map_err(failed)
    }

    /// What `ip maddr` does by ioctls: an entry of the interface's own in the forwarding database is an address that its
    /// receiver takes, on a device that is no bridge too (`ndo_dflt_fdb_add`, net/core/rtnetlink.c).
    fn receives(&self, Membership { interface, group }: &Membership) -> Result<NeighbourAddRequest, rtnetlink::Error> {
        let mut links = self.handle.link().get().match_name(interface.clone()).execute();
        let index = self.runtime.block_on(links.try_next())?.map_or(0, |link| link.header.index);
        Ok(self.handle.neighbours().add_bridge(index, &group.0).flags(NeighbourFlags::Own))
    }
}
