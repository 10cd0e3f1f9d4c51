//! What broadcast-based dispatch asks of a server beyond its aliases and their silence.
//!
//! The router's frames come to every server of the cluster, as broadcast or to a multicast group. The filter makes what this
//! server keeps host-addressed before the kernel sees it, and drops the rest. What that leaves for the kernel, on the
//! interface of the primary address, each point tried on Linux 6.18 and kept true by `tests/server_verb/`:
//!
//! - `drop_unicast_in_l2_multicast` 1. Out of a broadcast frame the kernel takes no TCP, but UDP and echo requests
//!   (`ip_rcv_finish_core`, `ip6_rcv_core`): before its filter is attached, a server would answer every client, as all
//!   others do. So it answers none.
//! - Forwarding off. The kernel forwards nothing out of broadcast frames (`ip_forward`, `ip6_forward`: `pkt_type`), but what the
//!   filter kept is host-addressed: should the alias be missing, it would go back to the router, and round until its TTL ends.
//!   IPv4 knows forwarding for each interface that packets come in by; IPv6 only for all at once, and with
//!   `force_forwarding` (since 6.17) for one.
//! - A host on which another interface that is up forwards too is a router on purpose (or has containers). Its forwarding stays
//!   on, and `add` and `check` warn.
//! - `send_redirects` 0, for such a host's sake: it would tell the router to send elsewhere. The kernel goes by either of the
//!   interface's own value and that of `all`; the others' own values keep theirs.
//! - `rp_filter` not strict: it drops clients whose way back is another interface. Loose (2) wins over a strict `all`.
//! - The interface takes the frames of the group. Not so that the switch knows: nothing is announced, and one that snoops IGMP
//!   may need an entry of its own for a group of 01:00:5e or 33:33, or a group outside of these.

use super::host::{Host, IPV4, IPV6, read_setting};
use super::report::{Grade, Report};
use super::{Dispatch, Membership, Role, Setting};
use crate::model::Mac;
use std::path::Path;

/// A kernel setting, as it is and as it should be.
pub struct Demand {
    pub setting: Setting,
    /// What it is called.
    pub key: &'static str,
    /// In words, with what else the kernel goes by.
    pub state: String,
    pub met: bool,
    /// A router on purpose needs it as it is.
    pub spared: bool,
    /// What comes of it while it is not met.
    pub fault: &'static str,
}

impl Demand {
    /// What `check` says of it.
    pub fn report(&self, report: &mut Report) {
        let Demand { setting, key, state, met, spared, fault } = self;
        report.begin(key);
        match (met, spared) {
            (true, _) => report.push(Grade::Ok, state.clone()),
            (false, true) => report.push_mend(
                Grade::Warning,
                format!("{state}, as on other interfaces: this host routes, so it stays; but {fault}"),
                setting.command(),
            ),
            (false, false) => report.push_mend(Grade::Wrong, format!("{state}: {fault}"), setting.command()),
        }
    }
}

/// Of which name (an interface, or `all`), which setting, what it should be, whether its own value and that of `all` come to
/// that, and what comes of it else.
type Rule<'a> = (&'a str, &'static str, u32, fn(u32, u32) -> bool, &'static str);

const FORWARDING: [&str; 2] = ["forwarding", "force_forwarding"];

/// In the order in which `add` meets them.
pub fn demands(role: &Role, host: &Host) -> Vec<Demand> {
    let mut demands: Vec<Demand> = Vec::new();
    for interface in interfaces(role, host) {
        let ipv4 = role.has_v4().then(|| (IPV4, ipv4_rules(interface)));
        let ipv6 = role.has_v6().then(|| (IPV6, ipv6_rules(interface)));
        for (family, rules) in ipv4.into_iter().chain(ipv6) {
            let routes = routes(family, interface, host);
            demands.extend(rules.into_iter().filter_map(|rule| demand(family, rule, routes)));
        }
    }
    // The settings of `all` came again with each interface.
    demands.sort_by(|a, b| a.setting.path.cmp(&b.setting.path));
    demands.dedup_by(|a, b| a.setting.path == b.setting.path);
    demands
}

/// The groups that have to be joined.
pub fn memberships(role: &Role, host: &Host, dispatch: Dispatch) -> Vec<Membership> {
    let Dispatch::Broadcast { group: Some(group) } = dispatch else { return Vec::new() };
    interfaces(role, host).into_iter().map(|interface| Membership { interface: interface.to_owned(), group }).collect()
}

/// Where the router's frames come in: the interfaces that have the server's primary addresses.
pub fn interfaces<'a>(role: &Role, host: &'a Host) -> Vec<&'a str> {
    let mut interfaces: Vec<&str> = Vec::new();
    for server in &role.servers {
        interfaces
            .extend(host.holders(server.address).filter(|held| !held.on_lo()).map(|held| held.interface.as_str()));
    }
    interfaces.sort_unstable();
    interfaces.dedup();
    interfaces
}

/// The MAC address of a multicast group, from the command line.
///
/// # Errors
/// What is wrong with it, in words.
pub fn group(text: &str) -> Result<Mac, String> {
    let group = Mac::try_from(text.to_owned())?;
    match group.0 {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Err("every interface takes broadcast frames: leave it out".to_owned()),
        // IEEE 802.1Q, table 8-1.
        [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f] => Err("no bridge forwards this group".to_owned()),
        _ if group.is_group() => Ok(group),
        _ => Err("a station's address; the first byte of a group's is odd, as in 03:00:5e:00:00:50".to_owned()),
    }
}

fn ipv4_rules(interface: &str) -> Vec<Rule<'_>> {
    vec![
        (interface, DROP, 1, |own, all| own.max(all) != 0, ANSWERS),
        (interface, "forwarding", 0, |own, _| own == 0, CIRCLE),
        ("all", "send_redirects", 0, |own, _| own == 0, REDIRECTS),
        (interface, "send_redirects", 0, |own, _| own == 0, REDIRECTS),
        (
            interface,
            "rp_filter",
            2,
            |own, all| own.max(all) != 1,
            "packets of clients whose return route is another interface are dropped",
        ),
    ]
}

fn ipv6_rules(interface: &str) -> Vec<Rule<'_>> {
    vec![
        (interface, DROP, 1, |own, _| own != 0, ANSWERS),
        ("all", "forwarding", 0, |own, _| own == 0, CIRCLE),
        (interface, "force_forwarding", 0, |own, _| own == 0, CIRCLE),
    ]
}

const DROP: &str = "drop_unicast_in_l2_multicast";
const ANSWERS: &str = "while it has no filter the server answers the clients of the others too";
const CIRCLE: &str = "without its alias the server sends clients' packets in a loop";
const REDIRECTS: &str = "a server that forwards tells the router to send clients' packets elsewhere";

/// None where this kernel does not have the setting.
fn demand(family: &str, (of, key, to, met, fault): Rule, routes: bool) -> Option<Demand> {
    let path = Path::new(family).join(of).join(key);
    let own = read_setting(&path).ok()?;
    let all = read_setting(&Path::new(family).join("all").join(key)).ok()?;
    let state = if of == "all" { String::new() } else { format!(" (all {all})") };
    let state = format!("{} is {own}{state}", path.display());
    let spared = routes && FORWARDING.contains(&key);
    Some(Demand { setting: Setting { path, from: own, to }, key, state, met: met(own, all), spared, fault })
}

/// Whether packets that come in by another interface than this are forwarded.
fn routes(family: &str, interface: &str, host: &Host) -> bool {
    let forwards = |name: &str| {
        FORWARDING.iter().any(|key| read_setting(&Path::new(family).join(name).join(key)).is_ok_and(|value| value != 0))
    };
    host.interfaces.iter().any(|other| other.up && other.name != interface && forwards(&other.name))
}
