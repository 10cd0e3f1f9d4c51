//! What tunnels ask of a server: something that takes clients' packets out of them. That is `oneip decap`, a program on the interface of the
//! primary address, or a device of the kernel's own that an administrator has made.
//!
//! - A packet that leaves a tunnel device has come in by that device, and its answer leaves by another one: a strict `rp_filter` there drops
//!   it (`__fib_validate_source`, net/ipv4/fib_frontend.c). Loose (2) wins over a strict `all`. What decap unwraps has come in by the interface
//!   itself, and needs nothing.
//! - GUE variant 1 goes on to the handlers of IP in IP behind the socket (`gue_udp_recv`, net/ipv4/fou_core.c): the same devices take it.
//! - L3DSR has no device.

use super::host::{Host, Interface, interface_setting, setting_path};
use super::report::{Grade, Report};
use super::{Role, Setting, broadcast};
use crate::model::Deliver;
use std::net::IpAddr;

/// `ARPHRD_*`, include/uapi/linux/if_arp.h, and what `ip link` calls the device.
const IPIP: (u16, &str) = (768, "ipip");
const IP6TNL: (u16, &str) = (769, "ip6tnl");
const SIT: (u16, &str) = (776, "sit");
const GRE: (u16, &str) = (778, "gre");
const IP6GRE: (u16, &str) = (823, "ip6gre");

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
    fn device(self) -> Option<(u16, &'static str)> {
        match (self.deliver, self.is_outer_v4, self.is_inner_v4) {
            (Deliver::L2 | Deliver::L3dsr { .. }, ..) => None,
            (Deliver::Gre, true, _) => Some(GRE),
            (Deliver::Gre, false, _) => Some(IP6GRE),
            (Deliver::Ipip | Deliver::Gue { .. }, true, true) => Some(IPIP),
            (Deliver::Ipip | Deliver::Gue { .. }, true, false) => Some(SIT),
            (Deliver::Ipip | Deliver::Gue { .. }, false, _) => Some(IP6TNL),
        }
    }

    fn devices(self, host: &Host) -> impl Iterator<Item = &Interface> {
        host.interfaces.iter().filter(move |it| it.up && self.device().is_some_and(|(kind, _)| kind == it.kind))
    }
}

/// What says of the tunnels whether they end here. `missing`: how it is graded if one does not.
pub fn inspect(role: &Role, host: &Host, missing: Grade, report: &mut Report) {
    let programs = broadcast::interfaces(role, host);
    let has_program = |name: &&&str| host.interfaces.iter().any(|it| it.name == **name && it.has_program);
    let program = programs.iter().find(has_program);
    for tunnel in &role.tunnels {
        let deliver = tunnel.deliver;
        if let Some(name) = program {
            report.push(
                Grade::Ok,
                format!("{deliver}: an XDP program is on {name}; `oneip ctl status` says whether it is decap"),
            );
            continue;
        }
        if let Some(device) = tunnel.devices(host).next() {
            report.push(Grade::Ok, format!("{deliver}: the tunnel device {} is up", device.name));
            continue;
        }
        let device = tunnel.device().map_or(String::new(), |(_, kind)| format!(", and no {kind} device is up"));
        report.push_mend(
            missing,
            format!(
                "{deliver}: nothing takes clients' packets apart: no XDP program is on {}{device}",
                programs.join(", ")
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
    }
}

/// The settings of tunnel devices that keep clients' packets out. The kernel goes by the greater one of the interface's own value and that of
/// `all`.
pub fn settings(role: &Role, host: &Host) -> Vec<Setting> {
    let all = interface_setting("all", "rp_filter");
    let mut names: Vec<&str> = Vec::new();
    for tunnel in role.tunnels.iter().filter(|tunnel| tunnel.is_inner_v4) {
        names.extend(tunnel.devices(host).map(|device| device.name.as_str()));
    }
    names.sort_unstable();
    names.dedup();
    let setting = |name: &str| {
        let own = interface_setting(name, "rp_filter");
        let to = Setting { path: setting_path(name, "rp_filter"), from: own, to: 2 };
        (own.max(all) == 1).then_some(to)
    };
    names.into_iter().filter_map(setting).collect()
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
