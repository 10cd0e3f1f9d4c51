//! On a server: the cluster addresses on `lo`, and the ARP settings that keep the server silent about them.
//!
//! What the kernel needs so that a server takes packets to a cluster address and yet never claims it on the LAN, each
//! point tried on Linux 6.18 and kept true by `tests/server_verb/`:
//!
//! - The alias is on `lo`, as /32 or /128. A wider prefix makes the server take, and answer ARP for, its neighbours too.
//! - IPv4: with `arp_ignore` 0 Linux answers ARP for any address of the host on any interface. 1 or stricter answers
//!   only for those of the interface the request came in on. `all` counts for every interface: the greater value wins.
//! - IPv4: with `arp_announce` below 2 the server's own ARP requests carry the cluster address as their sender when
//!   it answers a client, and the router learns it from them.
//! - IPv6 needs neither: a neighbour solicitation is answered from the addresses of the receiving interface only
//!   (`ndisc_recv_ns`), whatever `forwarding` and `proxy_ndp` say, and solicitations are sent from the link-local
//!   address. There is no duplicate address detection on `lo`, so nothing is announced either.
//! - The alias must not become the source of connections that the server opens. IPv4: scope host keeps it from that; with scope
//!   global it is taken where the outgoing interface has no address of its own. IPv6: `preferred_lft 0` (deprecated).
//!   Neither disturbs answers to clients.
//! - A whole prefix is made this host's by a route (`ip route add local PREFIX dev lo`). None of its addresses is on an interface, so
//!   `arp_ignore` 1 keeps quiet about all of them; no neighbour solicitation is answered, and none becomes the source of a connection.
//! - `rp_filter` may stay strict where clients are reached through the interface on which the router's frames arrive.
//!
//! Broadcast-based dispatch asks for more: `broadcast`. So do tunnels: `tunnel`, with ports of GUE by `fou`.

mod broadcast;
mod fou;
mod host;
mod inspect;
mod journal;
mod netlink;
mod report;
mod tunnel;

use std::path::PathBuf;

pub use broadcast::group;
pub use host::Held;
use host::Host;
use journal::Journal;
use netlink::Netlink;
pub use report::{Grade, Line, Report};
use tunnel::{End, Tunnel};

use crate::model::{Mac, Plan, Prefix, Server, names};

/// How the cluster's clients come to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// From the dispatcher: in frames to this server's MAC address, or in tunnels.
    Routing,
    /// As `Routing`, where `oneip decap` is about to take tunnels apart.
    Decap,
    /// In frames of the router's that every server gets: broadcast, or to a multicast group.
    Broadcast { group: Option<Mac> },
}

/// Why a verb of `oneip server` did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no server is named \"{name}\" in the configuration; there are {}", names::first(known))]
    UnknownServer { name: String, known: Vec<String> },
    #[error(
        "no server of the configuration has its primary address on this host; say which one this is with --server NAME: {}",
        names::first(known)
    )]
    NotAServer { known: Vec<String> },
    #[error(
        "this host has the primary addresses of several servers; say which one is meant with --server NAME: {}",
        names::first(names)
    )]
    SeveralServers { names: Vec<String> },
    #[error(
        "{server} has no primary address on an interface of this host, so the interface of the router's frames is not \
         known; add the address first"
    )]
    NoInterface { server: String },
    #[error("changing addresses and ARP settings needs root (CAP_NET_ADMIN): run it with sudo")]
    NotPermitted,
    #[error("the interface lo is down; run `ip link set lo up`")]
    LoDown,
    #[error("{held}: a server answers {} for it there; remove it with `{}`", held.protocol(), held.delete_command())]
    OnInterface { held: Held },
    #[error("{held} is too wide, the server would accept its neighbours' packets; remove it with `{}`", held.delete_command())]
    TooWide { held: Held },
    #[error("cannot {doing} over rtnetlink: {source}")]
    Netlink { doing: String, source: rtnetlink::Error },
    #[error("cannot {doing} the port of GUE {} (`{}` does it by hand): {source}", port.number, port.command())]
    Fou { doing: &'static str, port: fou::Port, source: std::io::Error },
    #[error("cannot open an rtnetlink socket: {0}")]
    Socket(std::io::Error),
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is not what `oneip server add` writes ({reason}); undo its work by hand, then remove the file", path.display())]
    Journal { path: PathBuf, reason: String },
    #[error("{cause}; undoing the earlier steps failed too: {}", left.join("; "))]
    HalfDone { cause: Box<Error>, left: Vec<String> },
    #[error("{count} of the settings of server \"{server}\" are wrong")]
    Unsound { server: String, count: usize },
}

/// Every address of this host, and on which interface it is.
///
/// # Errors
/// The kernel does not list them.
pub fn held() -> Result<Vec<Held>, Error> {
    Ok(Host::read(&Netlink::open()?)?.held)
}

/// Those of these addresses and prefixes whose packets this host does not take.
///
/// # Errors
/// The kernel does not list its addresses and routes.
pub fn lacking<'a>(wanted: impl IntoIterator<Item = &'a Prefix>) -> Result<Vec<Prefix>, Error> {
    let host = Host::read(&Netlink::open()?)?;
    let has = |prefix: &Prefix| host.held.iter().any(|held| *prefix == Prefix::host(held.address));
    Ok(wanted.into_iter().filter(|prefix| !has(prefix) && host.local_with(prefix).is_none()).copied().collect())
}

/// Sets up the cluster addresses of the services that have this server. What is right already stays as it is, and
/// is not taken away by `remove`. `name`: the server this host is; `None`: the one whose primary address is on it.
///
/// # Errors
/// All are found before anything is changed, except the kernel's own refusals, after which the changes are taken back.
pub fn add(plan: &Plan, name: Option<&str>, dispatch: Dispatch) -> Result<Report, Error> {
    require_privilege()?;
    let netlink = Netlink::open()?;
    let host = Host::read(&netlink)?;
    let role = Role::of(plan, name, &host)?;
    if !host.lo_up {
        return Err(Error::LoDown);
    }
    let mut report = Report::new(&role.name);
    if !role.servers.iter().any(|server| host.holders(server.address).next().is_some()) {
        report.push(Grade::Warning, format!("no primary address of {} is on this host yet", role.name));
    }
    // The settings first: there is no moment at which the server has the address and answers ARP for it.
    let mut steps = Vec::new();
    if role.has_v4() {
        steps.extend(inspect::arp_changes(&role, &host).into_iter().map(Step::Write));
    }
    steps.extend(tunnel::settings(&role, &host).into_iter().map(Step::Write));
    if dispatch == Dispatch::Routing {
        steps.extend(tunnel::ends(&role, &host, &netlink, &mut report)?.into_iter().map(Step::Open));
    }
    if let Dispatch::Broadcast { .. } = dispatch {
        if broadcast::interfaces(&role, &host).is_empty() {
            return Err(Error::NoInterface { server: role.name });
        }
        for demand in broadcast::demands(&role, &host).into_iter().filter(|demand| !demand.met) {
            if demand.spared { demand.report(&mut report) } else { steps.push(Step::Write(demand.setting)) }
        }
        let joined = |membership: &Membership| host.groups.contains(membership);
        let missing = broadcast::memberships(&role, &host, dispatch).into_iter().filter(|wanted| !joined(wanted));
        steps.extend(missing.map(Step::Join));
    }
    for &cluster in role.clusters.iter().filter(|cluster| !cluster.is_host()) {
        match (host.claimed(cluster).next(), host.local_with(&cluster)) {
            (Some(held), _) => return Err(Error::OnInterface { held: held.clone() }),
            (None, Some(local)) => report.push(Grade::Ok, format!("{local} is local")),
            (None, None) => steps.push(Step::Add(cluster)),
        }
    }
    for &cluster in role.clusters.iter().filter(|cluster| cluster.is_host()) {
        let address = cluster.address;
        match host.holders(address).find(|held| !held.is_alias()) {
            Some(held) if held.on_lo() => return Err(Error::TooWide { held: held.clone() }),
            Some(held) => return Err(Error::OnInterface { held: held.clone() }),
            None if host.holders(address).next().is_some() => report.push(Grade::Ok, format!("{address} is on lo")),
            None => steps.push(Step::Add(cluster)),
        }
    }
    let before = Journal::load()?;
    let mut after = before.clone();
    after.record(&steps);
    // Written first: should this process die in the middle, `remove` still knows what there may be to undo.
    after.save()?;
    if let Err(error) = netlink.apply(&steps) {
        return Err(match before.save() {
            Ok(()) => error,
            Err(unsaved) => error.and_left(unsaved.to_string()),
        });
    }
    for step in &steps {
        report.push(Grade::Done, step.to_string());
    }
    if dispatch == Dispatch::Routing {
        tunnel::inspect(&role, &Host::read(&netlink)?, Grade::Warning, &mut report);
    }
    Ok(report)
}

/// Undoes what `add` did for this server and this configuration, and nothing else: addresses that were there before stay, and so
/// do settings that were changed since. Settings return to what they were with the last address of their family, and groups are
/// left with the last address.
///
/// # Errors
/// As `add`.
pub fn remove(plan: &Plan, name: Option<&str>) -> Result<Report, Error> {
    require_privilege()?;
    let netlink = Netlink::open()?;
    let host = Host::read(&netlink)?;
    let role = Role::of(plan, name, &host)?;
    let mut report = Report::new(&role.name);
    let mut journal = Journal::load()?;
    let mut steps = Vec::new();
    for &cluster in &role.clusters {
        if !cluster.is_host() {
            match (journal.forget(cluster), host.local.contains(&cluster)) {
                (true, true) => steps.push(Step::Remove(cluster)),
                (true, false) => report.push(Grade::Note, format!("{cluster} is not local any more")),
                (false, true) => report.push_mend(
                    Grade::Note,
                    format!("{cluster} is local, but not from `oneip server add`: it stays"),
                    format!("ip route del local {cluster} dev lo"),
                ),
                (false, false) => {}
            }
            continue;
        }
        let alias = host.holders(cluster.address).find(|held| held.is_alias());
        match (journal.forget(cluster), alias) {
            (true, Some(_)) => steps.push(Step::Remove(cluster)),
            (true, None) => report.push(Grade::Note, format!("{cluster} is not on lo any more")),
            (false, Some(held)) => report.push_mend(
                Grade::Note,
                format!("{held}, but not from `oneip server add`: it stays"),
                held.delete_command(),
            ),
            (false, None) => {}
        }
    }
    for left in &journal.addresses {
        report.push(Grade::Note, format!("{left} stays: another configuration's `oneip server add` set it up"));
    }
    let addresses = &journal.addresses;
    let needed =
        |setting: &Setting| addresses.iter().any(|address| setting.path.starts_with(host::conf(address.address)));
    let (needed, done_with) = journal.settings.into_iter().partition(needed);
    journal.settings = needed;
    for setting in Vec::into_iter(done_with).rev() {
        match host::read_setting(&setting.path) {
            Ok(now) if now == setting.to => steps.push(Step::Write(setting.reversed())),
            _ => report
                .push(Grade::Note, format!("{} was changed by someone else since: it stays", setting.path.display())),
        }
    }
    let left = if addresses.is_empty() { std::mem::take(&mut journal.groups) } else { Vec::new() };
    for membership in left {
        if host.groups.contains(&membership) {
            steps.push(Step::Leave(membership));
        } else {
            report.push(Grade::Note, format!("{membership} is not joined any more"));
        }
    }
    let left = if addresses.is_empty() { std::mem::take(&mut journal.ends) } else { Vec::new() };
    for end in left.into_iter().rev() {
        match end.is_there(&host) {
            true => steps.push(Step::Close(end)),
            false => report.push(Grade::Note, format!("{end} is not there any more")),
        }
    }
    netlink.apply(&steps)?;
    if let Err(error) = journal.save() {
        return Err(netlink.take_back(&steps, error));
    }
    for step in &steps {
        report.push(Grade::Done, step.to_string());
    }
    Ok(report)
}

/// Looks at everything that the technique asks of this server. Needs no privileges and changes nothing.
/// `Report::verdict` tells whether all of it is right.
///
/// # Errors
/// When it cannot look, or this host is no server of the plan; not when it finds something wrong.
pub fn check(plan: &Plan, name: Option<&str>, dispatch: Dispatch) -> Result<Report, Error> {
    let host = Host::read(&Netlink::open()?)?;
    let role = Role::of(plan, name, &host)?;
    Ok(inspect::inspect(&role, &host, dispatch))
}

/// The name of the server that this host is; by its primary address, if none is given.
///
/// # Errors
/// It is none of the plan's, or several, or the kernel does not list the addresses.
pub fn name(plan: &Plan, name: Option<&str>) -> Result<String, Error> {
    let host = Host::read(&Netlink::open()?)?;
    Ok(Role::of(plan, name, &host)?.name)
}

/// The interfaces that have primary addresses of the server of that name.
///
/// # Errors
/// The kernel does not list the addresses, or the plan has no such server.
pub fn interfaces(plan: &Plan, name: &str) -> Result<Vec<String>, Error> {
    let host = Host::read(&Netlink::open()?)?;
    let role = Role::of(plan, Some(name), &host)?;
    Ok(broadcast::interfaces(&role, &host).into_iter().map(str::to_owned).collect())
}

/// Which server of the plan this host is, and what that asks of it.
struct Role<'a> {
    name: String,
    /// As configured, once for each service that has it.
    servers: Vec<&'a Server>,
    /// Each once, in the order of the file.
    clusters: Vec<Prefix>,
    /// How clients' packets come, where that is not as they are.
    tunnels: Vec<Tunnel>,
}

impl<'a> Role<'a> {
    fn of(plan: &'a Plan, name: Option<&str>, host: &Host) -> Result<Self, Error> {
        let all =
            || plan.services.iter().flat_map(|service| service.servers.iter().map(move |server| (service, server)));
        let names = |wanted: &dyn Fn(&Server) -> bool| {
            let mut names: Vec<String> =
                all().filter(|(_, server)| wanted(server)).map(|(_, server)| server.name.clone()).collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        let candidates = match name {
            Some(name) => names(&|server| server.name == name),
            None => names(&|server| host.holders(server.address).next().is_some()),
        };
        let name = match (candidates.as_slice(), name) {
            ([one], _) => one.clone(),
            ([], Some(name)) => return Err(Error::UnknownServer { name: name.to_owned(), known: names(&|_| true) }),
            ([], None) => return Err(Error::NotAServer { known: names(&|_| true) }),
            _ => return Err(Error::SeveralServers { names: candidates }),
        };
        let (mut servers, mut clusters) = (Vec::new(), Vec::new());
        for (service, server) in all().filter(|(_, server)| server.name == name) {
            servers.push(server);
            for prefix in service.addresses() {
                if !clusters.contains(&prefix) {
                    clusters.push(prefix);
                }
            }
        }
        let ways = all().filter(|(_, server)| server.name == name);
        let ways = ways.map(|(service, server)| (service.deliver, server.address, service.address));
        let tunnels = tunnel::tunnels(ways);
        Ok(Role { name, servers, clusters, tunnels })
    }

    fn has_v4(&self) -> bool {
        self.clusters.iter().any(|cluster| cluster.address.is_ipv4())
    }

    fn has_v6(&self) -> bool {
        self.clusters.iter().any(|cluster| cluster.address.is_ipv6())
    }
}

/// One change to this host; each has its opposite.
#[derive(Clone, Debug)]
enum Step {
    Add(Prefix),
    Remove(Prefix),
    Write(Setting),
    Join(Membership),
    Leave(Membership),
    Open(End),
    Close(End),
}

impl Step {
    fn reversed(&self) -> Step {
        match self {
            Step::Add(address) => Step::Remove(*address),
            Step::Remove(address) => Step::Add(*address),
            Step::Write(setting) => Step::Write(setting.clone().reversed()),
            Step::Join(membership) => Step::Leave(membership.clone()),
            Step::Leave(membership) => Step::Join(membership.clone()),
            Step::Open(end) => Step::Close(*end),
            Step::Close(end) => Step::Open(*end),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Add(prefix) if prefix.is_host() => write!(f, "added {} to lo", host::alias_text(prefix.address)),
            Step::Remove(prefix) if prefix.is_host() => {
                write!(f, "removed {} from lo", host::alias_text(prefix.address))
            }
            Step::Add(prefix) => write!(f, "made {prefix} local by a route to lo"),
            Step::Remove(prefix) => write!(f, "removed the local route {prefix} from lo"),
            Step::Write(Setting { path, from, to }) => write!(f, "set {} to {to} (it was {from})", path.display()),
            Step::Join(membership) => write!(f, "joined {membership}"),
            Step::Leave(membership) => write!(f, "left {membership}"),
            Step::Open(end) => write!(f, "set up {end}"),
            Step::Close(end) => write!(f, "removed {end}"),
        }
    }
}

/// An interface takes the frames to a multicast group.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Membership {
    interface: String,
    group: Mac,
}

impl std::fmt::Display for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "group {} on {}", self.group, self.interface)
    }
}

/// A kernel setting and its change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    /// Under /proc/sys.
    path: PathBuf,
    from: u32,
    to: u32,
}

impl Setting {
    fn reversed(self) -> Setting {
        Setting { path: self.path, from: self.to, to: self.from }
    }

    /// What makes the change by hand.
    fn command(&self) -> String {
        format!("sysctl -w {}={}", self.path.display(), self.to)
    }
}

impl Error {
    /// Adds something that could not be taken back.
    fn and_left(self, what: String) -> Error {
        match self {
            Error::HalfDone { cause, mut left } => {
                left.push(what);
                Error::HalfDone { cause, left }
            }
            cause => Error::HalfDone { cause: Box::new(cause), left: vec![what] },
        }
    }
}

fn require_privilege() -> Result<(), Error> {
    match caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN) {
        Ok(true) => Ok(()),
        _ => Err(Error::NotPermitted),
    }
}
