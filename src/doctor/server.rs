//! `oneip doctor --server`: what the technique asks of a server of the cluster, and whether anybody would answer there.

use super::read::files::Root;
use super::read::network::setting;
use super::read::running::running;
use super::{Options, Report, check};
use crate::admin::finding::Finding;
use crate::error::Failure;
use crate::model::{Plan, Port, Transport};
use crate::netlink::{self, links, lookup};
use crate::server::{self, Dispatch, Grade};
use rtnetlink::packet_route::route::RouteType;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

/// What was seen beyond the addresses and settings that `oneip server check` looks at.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// The services of this server: name, cluster address, ports.
    services: Vec<(String, IpAddr, Vec<Port>)>,
    /// Ports that somebody listens on, for any address or for that one.
    listening: BTreeSet<(Transport, u16, Option<IpAddr>)>,
    /// The device of the default route of IPv4 and IPv6; `None`: there is none.
    ways_out: [Option<String>; 2],
    /// Where the primary addresses are.
    interfaces: Vec<String>,
    /// Of `all`, and of each of those.
    rp_filter: (i64, Vec<i64>),
    /// Segments and datagrams with wrong checksums that came within the time.
    wrong_checksums: Option<u64>,
}

/// Of a server, by its name; `None`: the one whose primary address this host has.
///
/// # Errors
/// This host is no server of the plan, or the kernel does not answer.
pub fn examine(plan: &Plan, name: Option<&str>, options: &Options) -> Result<Report, Failure> {
    let broadcast = plan.filter.is_some() && plan.dispatcher.is_none();
    let dispatch = if broadcast { Dispatch::Broadcast { group: None } } else { Dispatch::Routing };
    let report = server::check(plan, name, dispatch)?;
    // With lo the addresses on it are lost.
    let lo_is_down = report.lines.iter().any(|line| line.topic == "lo");
    let told = report.lines.iter().filter(|line| !(lo_is_down && line.topic == "alias"));
    let mut checks: Vec<Finding> = told.map(finding).collect();
    let (facts, running) = thread::scope(|scope| {
        let asking = scope.spawn(|| running(&plan.admin.socket, options.config.as_deref(), options.seconds));
        (gather(plan, &report.server, options), asking.join().expect("it does not panic"))
    });
    let facts = facts?;
    for check in [listening, way_out, rp_filter, checksums] {
        checks.extend(check(&facts));
    }
    let (running, no_answer) = match running {
        Ok(running) => (running, None),
        Err(why) => (None, Some(why)),
    };
    checks.extend(check::on_server(&super::Facts {
        plan: Some(plan.clone()),
        running,
        no_answer,
        ..Default::default()
    }));
    Ok(Report { checks })
}

fn finding(line: &server::Line) -> Finding {
    let finding = match line.grade {
        Grade::Wrong => Finding::fail(line.topic, line.text.clone()),
        Grade::Warning => Finding::warn(line.topic, line.text.clone()),
        Grade::Ok | Grade::Done | Grade::Note => Finding::ok(line.topic, line.text.clone()),
    };
    match &line.mend {
        Some(mend) => finding.mend(mend.clone()),
        None => finding,
    }
}

fn gather(plan: &Plan, name: &str, options: &Options) -> Result<Facts, Failure> {
    let root = Root(options.root.clone());
    let own = |service: &&crate::model::Service| service.servers.iter().any(|server| server.name == name);
    let services: Vec<_> = plan.services.iter().filter(own).collect();
    let primaries = services.iter().flat_map(|service| &service.servers).filter(|server| server.name == name);
    let primaries: BTreeSet<IpAddr> = primaries.map(|server| server.address).collect();
    let held = server::held()?;
    let mut interfaces: Vec<String> = held
        .into_iter()
        .filter(|held| primaries.contains(&held.address) && !held.on_lo())
        .map(|held| held.interface)
        .collect();
    interfaces.sort();
    interfaces.dedup();
    let conf = |of: &str| root.number(&format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).unwrap_or(0);
    let before = wrong_checksums(&root);
    thread::sleep(options.seconds);
    let after = wrong_checksums(&root);
    Ok(Facts {
        services: services.iter().map(|s| (s.name.clone(), s.address, s.ports.clone())).collect(),
        listening: sockets(&root),
        ways_out: ways_out()?,
        rp_filter: (conf("all"), interfaces.iter().map(|name| conf(name)).collect()),
        interfaces,
        wrong_checksums: before.zip(after).map(|(before, after)| after.saturating_sub(before)),
    })
}

fn ways_out() -> Result<[Option<String>; 2], Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let handle = netlink::requests()?;
        let links = links::Links::new(links::all(&handle).await?);
        let mut ways = [None, None];
        // Addresses of documentation: nobody has a route of its own to them (RFC 5737, RFC 3849).
        let far =
            [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1))];
        for (way, far) in ways.iter_mut().zip(far) {
            let route = lookup(&handle, far, None).await?.filter(|route| route.header.kind == RouteType::Unicast);
            *way = route.and_then(|route| netlink::Path::of(&route)).map(|path| links.name(path.device));
        }
        Ok(ways)
    })
}

/// `/proc/net/tcp` and its like (proc_net_tcp in the kernel's documentation): of TCP those in state LISTEN, of UDP all that are bound.
fn sockets(root: &Root) -> BTreeSet<(Transport, u16, Option<IpAddr>)> {
    const LISTEN: &str = "0A";
    let mut found = BTreeSet::new();
    for (transport, file) in
        [(Transport::Tcp, "tcp"), (Transport::Tcp, "tcp6"), (Transport::Udp, "udp"), (Transport::Udp, "udp6")]
    {
        let table = root.text(&format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(state)) = (fields.get(1), fields.get(3)) else { continue };
            if transport == Transport::Udp || *state == LISTEN {
                found.extend(local_address(local).map(|(address, port)| (transport, port, address)));
            }
        }
    }
    found
}

/// `0100007F:1F90`, words in the host's byte order; `None`: any address, which of IPv6 is one of IPv4 too.
fn local_address(text: &str) -> Option<(Option<IpAddr>, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        _ => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[4 * at..][..4].copy_from_slice(&word(8 * at)?);
            }
            IpAddr::from(bytes)
        }
    };
    Some(((!address.is_unspecified()).then_some(address), u16::from_str_radix(port, 16).ok()?))
}

/// `InCsumErrors` of `Tcp` and `Udp` in /proc/net/snmp.
fn wrong_checksums(root: &Root) -> Option<u64> {
    let text = root.text("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines();
    let mut total = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        if names.starts_with("Tcp:") || names.starts_with("Udp:") {
            let at = names.split_whitespace().position(|name| name == "InCsumErrors")?;
            total += values.split_whitespace().nth(at)?.parse::<u64>().ok()?;
        }
    }
    Some(total)
}

fn listening(facts: &Facts) -> Vec<Finding> {
    let somebody = |port: &Port, address: IpAddr| {
        let on = |address| facts.listening.contains(&(port.transport, port.number, address));
        on(None) || on(Some(address))
    };
    let mut missing = Vec::new();
    for (service, address, ports) in &facts.services {
        // Of SCTP no table is read.
        let silent = ports.iter().filter(|port| port.transport != Transport::Sctp && !somebody(port, *address));
        missing.extend(silent.map(|port| {
            let why = format!("no program listens on {port} for {address} (service {service}): clients are refused; start the program, and let it listen on any address");
            Finding::fail("listening", why)
        }));
    }
    if missing.is_empty() { vec![Finding::ok("listening", "a program listens, for each service")] } else { missing }
}

/// Answers leave by the server's own gateway.
fn way_out(facts: &Facts) -> Vec<Finding> {
    let serves = |ipv4: bool| facts.services.iter().any(|(_, address, _)| address.is_ipv4() == ipv4);
    let families = [(true, "IPv4", ""), (false, "IPv6", "-6 ")].into_iter().zip(&facts.ways_out);
    let lost = families.filter(|((ipv4, ..), way)| serves(*ipv4) && way.is_none());
    let lost: Vec<Finding> = lost
        .map(|((_, family, option), _)| {
            Finding::fail(
                "default_route",
                format!("there is no {family} route to clients: answers cannot be sent; ROUTER is the gateway"),
            )
            .mend(format!("ip {option}route add default via ROUTER"))
        })
        .collect();
    if lost.is_empty() { vec![Finding::ok("default_route", "there is a route for answers to clients")] } else { lost }
}

/// Frames of clients come in where the primary address is, and answers may leave elsewhere.
fn rp_filter(facts: &Facts) -> Vec<Finding> {
    let (all, own) = &facts.rp_filter;
    let Some(way) = &facts.ways_out[0] else { return Vec::new() };
    if !facts.services.iter().any(|(_, address, _)| address.is_ipv4()) {
        return Vec::new();
    }
    let strict = facts.interfaces.iter().zip(own).find(|(interface, own)| (**own).max(*all) == 1 && *interface != way);
    match strict {
        None => vec![Finding::ok("rp_filter", "it accepts packets from clients")],
        Some((interface, _)) => vec![
            Finding::fail(
                "rp_filter",
                format!("rp_filter is strict on {interface}, but the route to clients leads through {way}: clients' packets are dropped"),
            )
            .mend(setting(interface, "rp_filter", 2)),
        ],
    }
}

fn checksums(facts: &Facts) -> Vec<Finding> {
    match facts.wrong_checksums {
        None => Vec::new(),
        Some(0) => vec![Finding::ok("checksums", "no wrong checksums now")],
        Some(count) => vec![Finding::fail(
            "checksums",
            format!(
                "{count} segments and datagrams with wrong checksums arrived just now: a veth or virtio NIC that sends towards the \
                 dispatcher does not finish them; run `oneip doctor` on the dispatcher"
            ),
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let tcp = |number| Port { transport: Transport::Tcp, number };
        Facts {
            services: vec![("web".into(), IpAddr::from([203, 0, 113, 80]), vec![tcp(80), tcp(443)])],
            listening: [(Transport::Tcp, 80, None), (Transport::Tcp, 443, Some(IpAddr::from([203, 0, 113, 80])))]
                .into(),
            ways_out: [Some("eth0".into()), None],
            interfaces: vec!["eth0".into()],
            rp_filter: (1, vec![0]),
            wrong_checksums: Some(0),
        }
    }

    fn names(facts: &Facts) -> Vec<String> {
        let all = [listening, way_out, rp_filter, checksums].into_iter().flat_map(|check| check(facts));
        all.filter(|finding| finding.state != crate::admin::finding::Grade::Ok).map(|finding| finding.name).collect()
    }

    #[test]
    fn each_fault_of_a_server_is_named_and_no_other() {
        assert_eq!(names(&facts()), [""; 0]);
        let with = |plant: fn(&mut Facts)| {
            let mut facts = facts();
            plant(&mut facts);
            names(&facts)
        };
        assert_eq!(with(|f| f.listening.clear()), ["listening", "listening"]);
        assert_eq!(
            with(|f| f.listening = [(Transport::Tcp, 80, None), (Transport::Udp, 443, None)].into()),
            ["listening"]
        );
        assert_eq!(with(|f| f.ways_out[0] = None), ["default_route"]);
        assert_eq!(with(|f| f.ways_out[0] = Some("eth1".into())), ["rp_filter"]);
        assert_eq!(with(|f| f.wrong_checksums = Some(3)), ["checksums"]);
        assert_eq!(with(|f| (f.ways_out[0], f.rp_filter) = (Some("eth1".into()), (1, vec![2]))), [""; 0]);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let little = cfg!(target_endian = "little");
        assert!(little, "the examples are of such a machine");
        assert_eq!(local_address("0100007F:1F90"), Some((Some(IpAddr::from([127, 0, 0, 1])), 8080)));
        assert_eq!(local_address("00000000:0050"), Some((None, 80)));
        assert_eq!(local_address("00000000000000000000000000000000:0050"), Some((None, 80)));
        let loopback = "00000000000000000000000001000000:0035";
        assert_eq!(local_address(loopback), Some((Some(IpAddr::V6(Ipv6Addr::LOCALHOST)), 53)));
        assert_eq!(local_address("x"), None);
    }
}
