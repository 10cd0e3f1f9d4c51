//! What tunnels ask of a server: something that takes clients' packets out of them. That is `oneip decap`, a program on the interface of the
//! primary address, or a device of the kernel's own: `oneip server add` makes it where this kernel can and neither is there yet.
//!
//! - A packet that leaves a tunnel device has come in by that device, and its answer leaves by another one: a strict `rp_filter` there drops
//!   it (`__fib_validate_source`, net/ipv4/fib_frontend.c). Loose (2) wins over a strict `all`. What decap unwraps has come in by the interface
//!   itself, and needs nothing.
//!   A device without any IPv4 address drops it even where `rp_filter` is loose (the same function, `no_addr`), so it has one: the dummy address
//!   of RFC 7600, section 4.6, which is nobody's.
//! - GUE variant 1 goes on to the handlers of IP in IP behind the socket (`gue_udp_recv`, net/ipv4/fou_core.c): the same devices take it.
//! - L3DSR has no device.
//! - A device is for one address of this server, from anywhere. So it is another one than the kernel's own for any (`tunl0` and the like), which
//!   come with the modules and stay down.

use super::fou::Port;
use super::host::{Host, Interface, interface_setting, setting_path, write_setting};
use super::netlink::Netlink;
use super::report::{Grade, Report};
use super::{Error, Role, Setting, broadcast};
use crate::model::Deliver;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// RFC 7600, section 4.6.
pub const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// A type of the kernel's tunnel devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Ipip,
    Ip6Tnl,
    Sit,
    Gre,
    Ip6Gre,
}

impl Kind {
    /// What `ip link` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ipip => "ipip",
            Kind::Ip6Tnl => "ip6tnl",
            Kind::Sit => "sit",
            Kind::Gre => "gre",
            Kind::Ip6Gre => "ip6gre",
        }
    }

    /// The name of ours.
    pub fn device(self) -> &'static str {
        match self {
            Kind::Ipip => "oneip-ipip",
            Kind::Ip6Tnl => "oneip-ip6tnl",
            Kind::Sit => "oneip-sit",
            Kind::Gre => "oneip-gre",
            Kind::Ip6Gre => "oneip-ip6gre",
        }
    }

    /// `ARPHRD_*`, include/uapi/linux/if_arp.h.
    fn number(self) -> u16 {
        match self {
            Kind::Ipip => 768,
            Kind::Ip6Tnl => 769,
            Kind::Sit => 776,
            Kind::Gre => 778,
            Kind::Ip6Gre => 823,
        }
    }
}

/// One to make: for tunnels from anywhere to that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub kind: Kind,
    pub local: IpAddr,
}

/// What the kernel has for tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    Device(Device),
    Port(Port),
}

impl End {
    pub fn is_there(&self, host: &Host) -> bool {
        match self {
            End::Device(device) => {
                host.interfaces.iter().any(|it| it.name == device.kind.device() && it.kind == device.kind.number())
            }
            End::Port(port) => host.ports.contains(port),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Device(Device { kind, local }) => {
                write!(f, "the tunnel device {} ({}) for {local}", kind.device(), kind.name())
            }
            End::Port(Port { number, is_v4 }) => {
                write!(f, "the port {number} of GUE over {}", if *is_v4 { "IPv4" } else { "IPv6" })
            }
        }
    }
}

/// A way that clients' packets come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    pub deliver: Deliver,
    /// Families: of the server's primary address, and of the cluster address.
    pub is_outer_v4: bool,
    pub is_inner_v4: bool,
}

impl Tunnel {
    /// The device of the kernel that takes it apart.
    fn device(self) -> Option<Kind> {
        match (self.deliver, self.is_outer_v4, self.is_inner_v4) {
            (Deliver::L2 | Deliver::L3dsr { .. }, ..) => None,
            (Deliver::Gre, true, _) => Some(Kind::Gre),
            (Deliver::Gre, false, _) => Some(Kind::Ip6Gre),
            (Deliver::Ipip | Deliver::Gue { .. }, true, true) => Some(Kind::Ipip),
            (Deliver::Ipip | Deliver::Gue { .. }, true, false) => Some(Kind::Sit),
            (Deliver::Ipip | Deliver::Gue { .. }, false, _) => Some(Kind::Ip6Tnl),
        }
    }

    /// Those of the kind, up or down, for whichever address.
    fn candidates(self, host: &Host) -> impl Iterator<Item = &Interface> {
        let kind = self.device().map(Kind::number);
        host.interfaces.iter().filter(move |it| kind == Some(it.kind))
    }

    /// Those that take it apart.
    fn devices<'h>(self, role: &Role, host: &'h Host) -> impl Iterator<Item = &'h Interface> {
        let own = self.own(role);
        self.candidates(host).filter(move |it| it.up && (it.local.is_none() || it.local == own))
    }

    /// The primary address that it is to.
    fn own(self, role: &Role) -> Option<IpAddr> {
        role.servers.iter().map(|server| server.address).find(|address| address.is_ipv4() == self.is_outer_v4)
    }

    /// The port, where it has one.
    fn port(self) -> Option<Port> {
        match self.deliver {
            Deliver::Gue { port } => Some(Port { number: port, is_v4: self.is_outer_v4 }),
            _ => None,
        }
    }

    /// What is missing for it.
    fn missing(self, role: &Role, host: &Host) -> Vec<End> {
        let Some((kind, local)) = self.device().zip(self.own(role)) else { return Vec::new() };
        let device = self.devices(role, host).next().is_none().then_some(End::Device(Device { kind, local }));
        let port = self.port().filter(|port| !host.ports.contains(port)).map(End::Port);
        device.into_iter().chain(port).collect()
    }
}

/// The interface of a primary address that has an XDP program, `oneip decap` perhaps.
fn with_program<'h>(role: &Role, host: &'h Host) -> Option<&'h str> {
    let has_program = |name: &&str| host.interfaces.iter().any(|it| it.name == *name && it.has_program);
    broadcast::interfaces(role, host).into_iter().find(has_program)
}

/// What the kernel shall have that it has not: nothing where a program is there for it, and of a tunnel all or nothing.
///
/// # Errors
/// It does not say what it can.
pub fn ends(role: &Role, host: &Host, netlink: &Netlink, report: &mut Report) -> Result<Vec<End>, Error> {
    let mut ends = Vec::new();
    if with_program(role, host).is_some() {
        return Ok(ends);
    }
    for tunnel in &role.tunnels {
        let missing: Vec<End> = tunnel.missing(role, host).into_iter().filter(|end| !ends.contains(end)).collect();
        let mut lacking = None;
        for end in &missing {
            // Of that name, but down, or for another address: somebody changed it, and `check` says so.
            if end.is_there(host) || !netlink.has(end)? {
                lacking = Some(*end);
                break;
            }
        }
        match lacking {
            None => ends.extend(missing),
            Some(end) if end.is_there(host) => {}
            Some(End::Device(device)) => report.push(
                Grade::Note,
                format!("{}: this kernel has no devices of type {}", tunnel.deliver, device.kind.name()),
            ),
            Some(End::Port(_)) => {
                report.push(Grade::Note, format!("{}: this kernel has no ports of GUE (fou)", tunnel.deliver));
            }
        }
    }
    Ok(ends)
}

/// Lets clients' packets come out of a device that was just made.
pub fn loosen(name: &str) -> Result<(), Error> {
    match interface_setting("all", "rp_filter").max(interface_setting(name, "rp_filter")) {
        1 => write_setting(&setting_path(name, "rp_filter"), 2),
        _ => Ok(()),
    }
}

/// What says of the tunnels whether they end here. `missing`: how it is graded if one does not.
pub fn inspect(role: &Role, host: &Host, missing: Grade, report: &mut Report) {
    let interfaces = broadcast::interfaces(role, host);
    let program = with_program(role, host);
    for tunnel in &role.tunnels {
        let deliver = tunnel.deliver;
        if let Some(name) = program {
            report.push(
                Grade::Ok,
                format!("{deliver}: an XDP program is on {name}; `oneip ctl status` says whether it is decap"),
            );
            continue;
        }
        if let Some(device) = tunnel.devices(role, host).next() {
            match tunnel.port().filter(|port| !host.ports.contains(port)) {
                None => report.push(Grade::Ok, format!("{deliver}: the tunnel device {} is up", device.name)),
                Some(port) => report.push_mend(
                    missing,
                    format!("{deliver}: the tunnel device {} is up, but nothing takes the UDP header off", device.name),
                    port.command(),
                ),
            }
            continue;
        }
        let ours = tunnel.candidates(host).find(|it| tunnel.device().is_some_and(|kind| kind.device() == it.name));
        if let Some(Interface { name, up, local, .. }) = ours {
            let (fault, mend) = match (up, local) {
                (true, Some(local)) => {
                    (format!("is for {local}, not for the primary address"), format!("ip link del {name}"))
                }
                _ => ("is down".to_owned(), format!("ip link set {name} up")),
            };
            report.push_mend(missing, format!("{deliver}: the tunnel device {name} {fault}"), mend);
            continue;
        }
        let device = tunnel.device().map_or(String::new(), |kind| format!(", and no {} device is up", kind.name()));
        report.push_mend(
            missing,
            format!(
                "{deliver}: nothing decapsulates clients' packets: no XDP program is on {}{device}",
                interfaces.join(", ")
            ),
            format!("oneip decap -c FILE --server {}", role.name),
        );
    }
    if program.is_none() {
        for setting in settings(role, host) {
            let (name, all) = (setting.path.display(), interface_setting("all", "rp_filter"));
            let text = format!(
                "{name} is {} (all {all}): answers leave by another interface, so all is dropped",
                setting.from
            );
            report.push_mend(Grade::Wrong, text, setting.command());
        }
        for name in without_address(role, host) {
            let text =
                format!("{name} has no IPv4 address, so rp_filter drops all, however loose: any address will do");
            report.push_mend(Grade::Wrong, text, format!("ip address add {DUMMY}/32 dev {name} scope host"));
        }
    }
}

/// The settings of tunnel devices that keep clients' packets out. The kernel goes by the greater one of the interface's own value and that of
/// `all`.
pub fn settings(role: &Role, host: &Host) -> Vec<Setting> {
    let all = interface_setting("all", "rp_filter");
    let setting = |name: &str| {
        let own = interface_setting(name, "rp_filter");
        let to = Setting { path: setting_path(name, "rp_filter"), from: own, to: 2 };
        (own.max(all) == 1).then_some(to)
    };
    for_ipv4(role, host).into_iter().filter_map(setting).collect()
}

/// The devices of which IPv4 packets come, and which have no address though there is a reverse-path filter.
fn without_address<'h>(role: &Role, host: &'h Host) -> Vec<&'h str> {
    let all = interface_setting("all", "rp_filter");
    let filters = |name: &&str| all.max(interface_setting(name, "rp_filter")) != 0;
    let has_address = |name: &str| host.held.iter().any(|held| held.interface == name && held.address.is_ipv4());
    for_ipv4(role, host).into_iter().filter(filters).filter(|name| !has_address(name)).collect()
}

/// The devices of which IPv4 packets come.
fn for_ipv4<'h>(role: &Role, host: &'h Host) -> Vec<&'h str> {
    let mut names: Vec<&str> = Vec::new();
    for tunnel in role.tunnels.iter().filter(|tunnel| tunnel.is_inner_v4) {
        names.extend(tunnel.devices(role, host).map(|device| device.name.as_str()));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Each way once, in the order of the file.
pub fn tunnels(ways: impl Iterator<Item = (Deliver, IpAddr, IpAddr)>) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for (deliver, own, cluster) in ways.filter(|(deliver, ..)| deliver.is_routed()) {
        let tunnel = Tunnel { deliver, is_outer_v4: own.is_ipv4(), is_inner_v4: cluster.is_ipv4() };
        if !tunnels.contains(&tunnel) {
            tunnels.push(tunnel);
        }
    }
    tunnels
}
