//! The network devices, as far as neighbours depend on them: which are up, and which VLAN lies on which.

use std::collections::HashMap;
use std::io;

use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};

use crate::limits::MAX_VLAN_TAGS;
use crate::model::Mac;
use crate::netlink::to_io;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    /// Administratively up, with carrier.
    pub up: bool,
    pub ethernet: bool,
    pub mac: Option<Mac>,
    /// The device below, of a VLAN device.
    pub below: Option<u32>,
    /// The VLAN ID, of a VLAN device.
    pub vlan: Option<u16>,
}

/// Reads the device out of a message: its index and what is said about it. `None`: the message is about something else,
/// such as a port joining or leaving a bridge, which comes in the same shape with family `AF_BRIDGE`.
pub fn read(message: &LinkMessage) -> Option<(u32, Link)> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mac, mut below, mut vlan, mut elsewhere) = (None, None, None, false, false);
    let mut id = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                vlan = infos.contains(&LinkInfo::Kind(InfoKind::Vlan));
                id = infos.iter().find_map(vlan_id);
            }
            _ => {}
        }
    }
    let link = Link {
        name: name?,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        mac,
        // The index of a lower device in another namespace means nothing in this one.
        below: below.filter(|_| vlan && !elsewhere),
        vlan: id,
    };
    Some((message.header.index, link))
}

fn vlan_id(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(facts)) = info else { return None };
    facts.iter().find_map(|fact| match fact {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

/// How a device is at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    pub link: Link,
    /// The number of the XDP program that is attached to it.
    pub program: Option<u32>,
    /// Frames, as its driver counts them.
    pub received: u64,
}

/// One device.
pub async fn one(handle: &Handle, index: u32) -> io::Result<Look> {
    let mut answers = handle.link().get().match_index(index).execute().map_err(to_io);
    let message = answers.try_next().await?.ok_or_else(|| io::Error::other("no answer"))?;
    let (_, link) = read(&message).ok_or_else(|| io::Error::other("no answer"))?;
    Ok(Look { link, program: program(&message), received: received(&message) })
}

fn received(message: &LinkMessage) -> u64 {
    let counts = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(counts) => Some(counts.rx_packets),
        _ => None,
    });
    counts.unwrap_or(0)
}

fn program(message: &LinkMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(facts) => facts.iter().find_map(|fact| match fact {
            LinkXdp::ProgId(number) => Some(*number),
            _ => None,
        }),
        _ => None,
    })
}

/// Asks for all devices of the network namespace.
pub async fn all(handle: &Handle) -> io::Result<Vec<(u32, Link)>> {
    let links = handle.link().get().execute().map_err(to_io);
    links.try_filter_map(async |message| Ok(read(&message))).try_collect().await
}

/// All devices of the network namespace, by index.
#[derive(Debug, Default)]
pub struct Links(HashMap<u32, Link>);

impl Links {
    pub fn new(links: Vec<(u32, Link)>) -> Links {
        Links(links.into_iter().collect())
    }

    pub fn get(&self, index: u32) -> Option<&Link> {
        self.0.get(&index)
    }

    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    pub fn find(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(_, link)| link.name == name).map(|(index, _)| *index)
    }

    /// The name of a device, for messages.
    pub fn name(&self, index: u32) -> String {
        self.get(index).map_or_else(|| format!("device {index}"), |link| link.name.clone())
    }

    pub fn set(&mut self, index: u32, link: Link) {
        self.0.insert(index, link);
    }

    pub fn remove(&mut self, index: u32) -> Option<Link> {
        self.0.remove(&index)
    }

    /// The tags that frames have when what was sent through `device` leaves, the outermost one last.
    pub fn tags(&self, device: u32) -> Vec<u16> {
        let mut tags = Vec::new();
        let mut at = self.get(device);
        while let Some(link) = at.filter(|_| tags.len() <= MAX_VLAN_TAGS)
            && let Some(id) = link.vlan
        {
            tags.push(id);
            at = link.below.and_then(|below| self.get(below));
        }
        tags
    }

    /// Which of these interfaces frames sent through `device` leave on, by its position.
    pub fn leads_to_one(&self, device: u32, interfaces: &[u32]) -> Option<usize> {
        interfaces.iter().position(|interface| self.leads_to(device, *interface))
    }

    /// Whether frames sent through `device` leave on `interface`: it is that interface, or a VLAN on it.
    pub fn leads_to(&self, device: u32, interface: u32) -> bool {
        let mut at = Some(device);
        for _ in 0..=MAX_VLAN_TAGS {
            match at {
                Some(index) if index == interface => return true,
                Some(index) => at = self.get(index).and_then(|link| link.below),
                None => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, below: Option<u32>) -> Link {
        Link { name: name.into(), up: true, ethernet: true, mac: None, below, vlan: below.map(|_| 100) }
    }

    #[test]
    fn a_vlan_leads_to_the_device_below_it_but_no_deeper_than_the_tags_that_are_parsed() {
        let links = Links::new(vec![
            (1, link("lan0", None)),
            (2, link("lan0.100", Some(1))),
            (3, link("lan0.100.200", Some(2))),
            (4, link("lan0.100.200.300", Some(3))),
            (5, link("lan1", None)),
        ]);
        assert!(links.leads_to(1, 1));
        assert!(links.leads_to(2, 1));
        assert!(links.leads_to(3, 1));
        assert!(!links.leads_to(4, 1), "three tags are not looked through");
        assert!(!links.leads_to(5, 1));
        assert!(!links.leads_to(1, 2), "the VLAN is not below");
        assert!(!links.leads_to(9, 1), "unknown device");
        assert_eq!((links.tags(1), links.tags(3), links.tags(9)), (vec![], vec![100, 100], vec![]));
    }

    #[test]
    fn only_a_vlan_of_this_namespace_has_a_device_below() {
        let message = |kind, elsewhere| {
            let mut message = LinkMessage::default();
            message.header.index = 7;
            message.header.link_layer_type = LinkLayerType::Ether;
            message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
            let attributes = &mut message.attributes;
            attributes.push(LinkAttribute::IfName("lan0.100".into()));
            attributes.push(LinkAttribute::Link(1));
            let mut infos = vec![LinkInfo::Kind(kind)];
            if infos[0] == LinkInfo::Kind(InfoKind::Vlan) {
                infos.push(LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100)])));
            }
            attributes.push(LinkAttribute::LinkInfo(infos));
            if elsewhere {
                attributes.push(LinkAttribute::LinkNetNsId(0));
            }
            message
        };
        assert_eq!(read(&message(InfoKind::Vlan, false)), Some((7, link("lan0.100", Some(1)))));
        let elsewhere = Link { vlan: Some(100), ..link("lan0.100", None) };
        assert_eq!(read(&message(InfoKind::Vlan, true)), Some((7, elsewhere)));
        assert_eq!(read(&message(InfoKind::Veth, false)), Some((7, link("lan0.100", None))));
    }

    #[test]
    fn a_bridge_port_message_is_not_about_a_device() {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName("lan0".into()));
        assert!(read(&message).is_some());
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(read(&message), None);
    }
}
