//! Holds the host's addresses and settings against what the technique asks of a server.

use std::net::IpAddr;

use super::host::{Held, Host, Interface, alias_text, interface_setting, setting_path};
use super::report::{Grade, Report};
use super::{Dispatch, Role, Setting, broadcast, tunnel};
use crate::model::Prefix;

/// Everything that `check` says.
pub fn inspect(role: &Role, host: &Host, dispatch: Dispatch) -> Report {
    let mut report = Report::new(&role.name);
    report.begin("primary_address");
    inspect_primary(role, host, &mut report);
    report.begin("lo");
    if !host.lo_up {
        report.push_mend(
            Grade::Wrong,
            "lo is down: the addresses on it do not count".to_owned(),
            "ip link set lo up".to_owned(),
        );
    }
    report.begin("alias");
    for &cluster in &role.clusters {
        match cluster.is_host() {
            true => inspect_alias(cluster.address, host, &mut report),
            false => inspect_prefix(cluster, host, &mut report),
        }
    }
    if role.has_v4() {
        for rule in ArpRule::all(role, host) {
            rule.inspect(host, &mut report);
        }
        inspect_proxy_arp(host, &mut report);
    }
    match dispatch {
        Dispatch::Routing => {
            inspect_forwarding(role, &mut report);
            tunnel::inspect(role, host, Grade::Wrong, &mut report);
        }
        Dispatch::Decap => inspect_forwarding(role, &mut report),
        Dispatch::Broadcast { .. } => inspect_broadcast(role, host, dispatch, &mut report),
    }
    report
}

/// The changes after which no interface claims the addresses of `lo`. A stricter value stays.
pub fn arp_changes(role: &Role, host: &Host) -> Vec<Setting> {
    ArpRule::all(role, host).iter().flat_map(|rule| rule.changes(host)).collect()
}

/// A setting of each interface. The kernel goes by the greater one of the interface's own value and that of `all`.
struct ArpRule {
    key: &'static str,
    wanted: u32,
    good: &'static [u32],
    /// What an interface does with any other value.
    fault: &'static str,
}

impl ArpRule {
    fn all(role: &Role, host: &Host) -> [ArpRule; 2] {
        let scope_host = role
            .clusters
            .iter()
            .filter(|cluster| cluster.is_host() && cluster.address.is_ipv4())
            .flat_map(|cluster| host.holders(cluster.address))
            .all(|held| held.scope_host);
        [
            ArpRule {
                key: "arp_ignore",
                wanted: 1,
                // 3 is silent about addresses of scope host only; 4 to 7 are reserved and work like 0
                // (`arp_ignore`, net/ipv4/arp.c).
                good: if scope_host { &[1, 2, 3, 8] } else { &[1, 2, 8] },
                fault: "answers ARP for the addresses of lo",
            },
            ArpRule {
                key: "arp_announce",
                wanted: 2,
                // Values above 2 work like 0 (`arp_solicit`, net/ipv4/arp.c).
                good: &[2],
                fault: "sends ARP requests in the name of the cluster address",
            },
        ]
    }

    fn changes(&self, host: &Host) -> Vec<Setting> {
        let mut changes = Vec::new();
        let mut change = |interface: &str, from: u32| {
            changes.push(Setting { path: setting_path(interface, self.key), from, to: self.wanted });
        };
        let mut all = interface_setting("all", self.key);
        if !self.good.contains(&all) {
            change("all", all);
            all = self.wanted;
        }
        for interface in &host.interfaces {
            let own = interface_setting(&interface.name, self.key);
            if !self.good.contains(&own.max(all)) {
                change(&interface.name, own);
            }
        }
        changes
    }

    fn inspect(&self, host: &Host, report: &mut Report) {
        let ArpRule { key, wanted, good, fault } = self;
        report.begin(key);
        let all = interface_setting("all", key);
        let mut sound = true;
        for Interface { name, .. } in &host.interfaces {
            let own = interface_setting(name, key);
            let effective = own.max(all);
            if good.contains(&effective) {
                continue;
            }
            sound = false;
            // Setting `all` helps unless the interface's own value is the greater one and stays.
            let target = if good.contains(wanted.max(&own)) { "all" } else { name };
            report.push_mend(
                Grade::Wrong,
                format!("{name} {fault}: {key} is {effective} (all {all}, {name} {own})"),
                format!("sysctl -w {}={wanted}", setting_path(target, key).display()),
            );
        }
        if sound {
            report.push(Grade::Ok, format!("{key} of every interface"));
        }
    }
}

fn inspect_primary(role: &Role, host: &Host, report: &mut Report) {
    let mut seen = Vec::new();
    for server in &role.servers {
        if seen.contains(&(server.address, server.mac)) {
            continue;
        }
        seen.push((server.address, server.mac));
        let Some(held) = host.holders(server.address).next() else {
            report.push(Grade::Wrong, format!("the primary address {} is on no interface", server.address));
            continue;
        };
        let mac = host.interfaces.iter().find(|interface| interface.name == held.interface).and_then(|found| found.mac);
        match (server.mac, mac) {
            (Some(said), Some(real)) if said != real => report.push_mend(
                Grade::Wrong,
                format!(
                    "the configuration sends frames for {} to {said}, but {} is {real}",
                    server.name, held.interface
                ),
                format!("mac = \"{real}\" in the configuration"),
            ),
            _ => report.push(Grade::Ok, format!("the primary address {held}")),
        }
    }
}

fn inspect_alias(cluster: IpAddr, host: &Host, report: &mut Report) {
    let options = if cluster.is_ipv4() { "scope host" } else { "nodad preferred_lft 0" };
    let add = format!("ip address add {} dev lo {options}", alias_text(cluster));
    if host.holders(cluster).next().is_none() {
        let text = format!("the cluster address {cluster} is missing on lo: the server does not accept its packets");
        return report.push_mend(Grade::Wrong, text, add);
    }
    let present = host.holders(cluster).any(Held::is_alias);
    for held in host.holders(cluster) {
        if held.is_alias() {
            report.push(Grade::Ok, format!("the cluster address {held}"));
            continue;
        }
        let fault = match held.on_lo() {
            true => "with so wide a prefix the server accepts its neighbours' packets too".to_owned(),
            false => format!("the server answers {} for it there", held.protocol()),
        };
        let mend = if present { held.delete_command() } else { format!("{} && {add}", held.delete_command()) };
        report.push_mend(Grade::Wrong, format!("the cluster address {held}: {fault}"), mend);
    }
}

fn inspect_prefix(cluster: Prefix, host: &Host, report: &mut Report) {
    match host.local_with(&cluster) {
        Some(local) if *local == cluster => report.push(Grade::Ok, format!("the cluster prefix {cluster} is local")),
        Some(local) => report.push(Grade::Ok, format!("the cluster prefix {cluster} is local, as a part of {local}")),
        None => report.push_mend(
            Grade::Wrong,
            format!("the cluster prefix {cluster} is not local: the server does not accept its packets"),
            format!("ip route add local {cluster} dev lo"),
        ),
    }
    for held in host.claimed(cluster) {
        let text = format!("the cluster address {held}: the server answers {} for it there", held.protocol());
        report.push_mend(Grade::Wrong, text, held.delete_command());
    }
}

/// Harmless while the alias is there, for the kernel asks first whether the address is its own (`arp_process`).
fn inspect_proxy_arp(host: &Host, report: &mut Report) {
    report.begin("proxy_arp");
    for name in ["all"].into_iter().chain(host.interfaces.iter().map(|interface| interface.name.as_str())) {
        if interface_setting(name, "proxy_arp") != 0 {
            report.push_mend(
                Grade::Warning,
                format!("{name}: proxy_arp is on: without its alias the server may answer ARP for the cluster address"),
                format!("sysctl -w {}=0", setting_path(name, "proxy_arp").display()),
            );
        }
    }
}

fn inspect_forwarding(role: &Role, report: &mut Report) {
    report.begin("forwarding");
    for (family, path, concerned) in
        [("IPv4", "net/ipv4/ip_forward", role.has_v4()), ("IPv6", "net/ipv6/conf/all/forwarding", role.has_v6())]
    {
        if concerned && super::host::read_setting(path.as_ref()).is_ok_and(|value| value != 0) {
            report.push_mend(
                Grade::Warning,
                format!("{family} forwarding is on: without its alias the server sends clients' packets in a loop"),
                format!("sysctl -w {path}=0"),
            );
        }
    }
}

fn inspect_broadcast(role: &Role, host: &Host, dispatch: Dispatch, report: &mut Report) {
    for demand in broadcast::demands(role, host) {
        demand.report(report);
    }
    report.begin("multicast_group");
    for membership in broadcast::memberships(role, host, dispatch) {
        if host.groups.contains(&membership) {
            report.push(Grade::Ok, format!("{membership} is joined"));
            continue;
        }
        let mend = format!("ip maddress add {} dev {}", membership.group, membership.interface);
        report.push_mend(Grade::Wrong, format!("{membership} is not joined: the NIC may drop its frames"), mend);
    }
}
