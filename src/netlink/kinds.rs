//! What an interface is made of, as far as a dispatcher must know: whether frames are there, or on another one.

use std::io;

use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use crate::model::{Engine, Xdp};
use crate::netlink::to_io;

/// An interface, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// `IFLA_INFO_KIND`; a device of hardware has none.
    pub kind: Option<InfoKind>,
    /// The bridge or bond whose port it is (`IFLA_MASTER`).
    pub master: Option<u32>,
    /// What it lies on (`IFLA_LINK`).
    pub below: Option<u32>,
}

/// All of the network namespace.
pub async fn all(handle: &Handle) -> io::Result<Vec<Interface>> {
    let links = handle.link().get().execute().map_err(to_io);
    links.try_filter_map(async |message| Ok(read(&message))).try_collect().await
}

fn read(message: &LinkMessage) -> Option<Interface> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut kind, mut master, mut below) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Controller(index) => master = Some(*index),
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Interface { index: message.header.index, name: name?, kind, master, below })
}

/// How a dispatcher means to use an interface.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub engine: Engine,
    pub xdp: Option<Xdp>,
    /// Beside others.
    pub is_one_of_several: bool,
}

/// Whether frames can be dispatched there.
///
/// # Errors
/// They cannot, or only at the price of generic XDP, which nobody has asked for: what to write instead.
pub fn check(all: &[Interface], name: &str, by: Use) -> Result<(), String> {
    let Some(interface) = all.iter().find(|interface| interface.name == name) else { return Ok(()) };
    let named = |index: Option<u32>| {
        let found = all.iter().find(|interface| Some(interface.index) == index);
        found.map_or("the device below", |interface| interface.name.as_str())
    };
    let is_generic = by.xdp == Some(Xdp::Generic);
    if let Some(master) = all.iter().find(|master| Some(master.index) == interface.master) {
        let over = &master.name;
        match &master.kind {
            Some(InfoKind::Bond) => {
                return Err(format!(
                    "{name} is a port of the bond {over}, which has the addresses and the routes: write {over} instead, with engine = \"xdp\""
                ));
            }
            Some(InfoKind::Bridge) => {
                return Err(format!(
                    "{name} is a port of the bridge {over}, which has the addresses and the routes: take it out of the bridge (ip link set \
                     {name} nomaster) and give it the addresses, or write {over} and xdp = \"generic\", which is slow"
                ));
            }
            _ => {}
        }
    }
    match &interface.kind {
        Some(InfoKind::Vlan) if !is_generic => Err(format!(
            "{name} is a VLAN device: XDP in the driver sees its frames on {0}, with their tag. Write {0} instead; frames keep their tag, and \
             `vlan` of a server changes it",
            named(interface.below)
        )),
        Some(InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan) if !is_generic => Err(format!(
            "{name} is stacked on {0}, and no driver runs XDP on it: write {0} instead, or xdp = \"generic\", which is \
             slow",
            named(interface.below)
        )),
        Some(InfoKind::Bridge) if !is_generic => Err(format!(
            "{name} is a bridge, which runs no XDP in a driver: write an interface that is no port of it, or xdp = \"generic\", which is slow"
        )),
        Some(InfoKind::Bond) if by.is_one_of_several => Err(format!(
            "{name} is a bond, whose frames come in on its ports: it cannot be one of several interfaces; write it alone, or the ports as \
             interfaces of their own, outside of the bond"
        )),
        Some(InfoKind::Bond) if by.engine == Engine::AfXdp && !is_generic => Err(format!(
            "{name} is a bond: AF_XDP sockets get no frames there, because they come in on its ports; write engine = \"xdp\", which the \
             bonding driver runs (Linux 5.15)"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, kind: Option<InfoKind>) -> Interface {
        Interface { index, name: name.to_owned(), kind, master: None, below: None }
    }

    #[test]
    fn what_frames_do_not_come_to_is_refused_and_it_is_said_where_they_come() {
        let all = [
            interface(1, "eth0", None),
            Interface { below: Some(1), ..interface(2, "eth0.100", Some(InfoKind::Vlan)) },
            interface(3, "bond0", Some(InfoKind::Bond)),
            Interface { master: Some(3), ..interface(4, "eth1", None) },
            interface(5, "br0", Some(InfoKind::Bridge)),
            Interface { master: Some(5), ..interface(6, "eth2", None) },
            Interface { below: Some(1), ..interface(7, "mv0", Some(InfoKind::MacVlan)) },
            interface(8, "vrf0", Some(InfoKind::Vrf)),
            Interface { master: Some(8), ..interface(9, "eth3", None) },
            interface(10, "veth0", Some(InfoKind::Veth)),
        ];
        let by = |engine, xdp| Use { engine, xdp, is_one_of_several: false };
        let [af_xdp, xdp] = [Engine::AfXdp, Engine::Xdp].map(|engine| by(engine, None));
        let generic = by(Engine::Xdp, Some(Xdp::Generic));
        let several = Use { is_one_of_several: true, ..xdp };
        for (name, by, said) in [
            ("eth0", af_xdp, None),
            ("eth3", af_xdp, None),
            ("veth0", several, None),
            ("none", xdp, None),
            ("eth0.100", af_xdp, Some("sees its frames on eth0, with their tag. Write eth0 instead")),
            ("eth0.100", xdp, Some("Write eth0 instead")),
            ("eth0.100", generic, None),
            ("mv0", xdp, Some("mv0 is stacked on eth0")),
            ("bond0", af_xdp, Some("write engine = \"xdp\"")),
            ("bond0", xdp, None),
            ("bond0", several, Some("cannot be one of several interfaces")),
            ("eth1", xdp, Some("write bond0 instead")),
            ("eth1", generic, Some("write bond0 instead")),
            ("br0", af_xdp, Some("br0 is a bridge")),
            ("br0", generic, None),
            ("eth2", xdp, Some("ip link set eth2 nomaster")),
        ] {
            let found = check(&all, name, by);
            match said {
                None => assert_eq!(found, Ok(()), "{name}"),
                Some(said) => assert!(found.as_ref().is_err_and(|error| error.contains(said)), "{name}: {found:?}"),
            }
        }
    }
}
