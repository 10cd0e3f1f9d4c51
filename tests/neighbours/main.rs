//! `control::neighbours` against the real kernel, in network namespaces of its own. Needs root.

mod net;
mod routes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use net::{LIMIT, Net, during, names, until};
use oneip::control::neighbours::{Change, Detour, Error, Neighbours, Upkeep, What, Why};
use oneip::limits::NEIGHBOUR_GATHER;

const SHORT: Duration = Duration::from_millis(1500);

fn last<'a>(changes: &'a [Change], address: &IpAddr) -> Option<&'a What> {
    changes.iter().rev().find(|change| change.address == *address).map(|change| &change.what)
}

#[test]
fn resolves_both_families_and_has_the_kernel_keep_them_fresh() {
    let Some(net) = Net::new() else { return };
    let (v4, v6) = (net.serve("10.9.0.11"), net.serve("fd09::11"));
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11", "fd09::11", "10.9.0.11"])).await.unwrap();
        let batches = until(&mut neighbours, |_, all| all.len() == 2).await;
        let changes = batches.concat();
        assert_eq!(last(&changes, &v4), Some(&What::Resolved(net.mac())));
        assert_eq!(changes[0].to_string(), format!("server web1 10.9.0.11 is at {}", net.mac()));
        assert_eq!(last(&changes, &v6), Some(&What::Resolved(net.mac())));
        assert_eq!(neighbours.mac(v4), Some(net.mac()));
        assert_eq!(neighbours.mac("10.9.0.12".parse().unwrap()), None);
        assert_eq!(neighbours.upkeep(), Upkeep::Kernel);
        assert_eq!(neighbours.off_link(), []);
        assert!(
            net.entry("10.9.0.11").contains("managed extern_learn REACHABLE proto 111"),
            "{}",
            net.entry("10.9.0.11")
        );
        assert!(net.entry("fd09::11").contains("managed extern_learn"), "{}", net.entry("fd09::11"));

        neighbours.close().await.unwrap();
        for address in ["10.9.0.11", "fd09::11"] {
            let entry = net.entry(address);
            assert!(
                entry.contains("lladdr") && !entry.contains("managed") && !entry.contains("extern_learn"),
                "{entry}"
            );
        }
    });
}

#[test]
fn an_absent_server_is_said_once_to_be_unresolved_and_found_when_it_comes_up() {
    let Some(net) = Net::new() else { return };
    net.inside(async || {
        let wanted = names(&["10.9.0.11", "fd09::11"]);
        let mut neighbours = Neighbours::open("v0", &wanted).await.unwrap();
        let changes = until(&mut neighbours, |_, all| all.len() == 2).await.concat();
        assert!(changes.iter().all(|change| change.what == What::Unresolved(Why::Unanswered)), "{changes:?}");
        assert_eq!(
            changes[0].to_string(),
            "server web1 10.9.0.11 has no known MAC: it does not answer ARP or neighbour discovery"
        );
        assert_eq!(during(&mut neighbours, Duration::from_secs(9)).await, [], "the same is not said twice");

        let (v4, v6) = (net.serve("10.9.0.11"), net.serve("fd09::11"));
        until(&mut neighbours, |n, _| n.mac(v4).is_some() && n.mac(v6).is_some()).await;
        neighbours.close().await.unwrap();
    });
}

#[test]
fn a_mac_that_changes_is_followed_whether_announced_or_found_out_by_a_probe() {
    let Some(net) = Net::new() else { return };
    let (v4, v6) = (net.serve("10.9.0.11"), net.serve("fd09::11"));
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11", "fd09::11"])).await.unwrap();
        until(&mut neighbours, |_, all| all.len() == 2).await;
        let from = net.mac();

        // The server moves, and then asks for us: its question carries its new MAC.
        tokio::time::sleep(SHORT).await; // beyond `locktime`, in which the kernel refuses another MAC
        net.there("link set v1 address 02:00:00:00:00:aa");
        let to = net.mac();
        net.there("neigh flush dev v1");
        for (us, server) in [("10.9.0.1", "10.9.0.11"), ("fd09::1", "fd09::11")] {
            let ping = std::process::Command::new("ip")
                .args(["netns", "exec", &net.there, "ping", "-c1", "-W2", "-I", server, us])
                .output();
            assert!(ping.unwrap().status.success(), "{server} does not reach {us}");
        }
        let changes = until(&mut neighbours, |n, _| n.mac(v4) == Some(to) && n.mac(v6) == Some(to)).await.concat();
        assert_eq!(last(&changes, &v4), Some(&What::Changed { from, to }));
        assert_eq!(last(&changes, &v6), Some(&What::Changed { from, to }));

        // It moves and is silent: the kernel's probes of the old MAC fail, and a new question finds it.
        net.there("link set v1 address 02:00:00:00:00:bb");
        net.here("neigh change 10.9.0.11 dev v0 nud probe");
        let changes = until(&mut neighbours, |n, _| n.mac(v4) == Some(net.mac())).await.concat();
        let lapsed = What::Unconfirmed { mac: to, why: Why::Unanswered };
        assert!(changes.iter().any(|change| change.address == v4 && change.what == lapsed), "{changes:?}");
        assert_eq!(last(&changes, &v4), Some(&What::Changed { from: to, to: net.mac() }));
        during(&mut neighbours, SHORT).await;
        assert!(net.entry("10.9.0.11").contains("managed"), "managed again: {}", net.entry("10.9.0.11"));
        neighbours.close().await.unwrap();
    });
}

#[test]
fn a_doubted_mac_is_found_at_once_though_the_kernel_takes_the_old_one_for_good() {
    let Some(net) = Net::new() else { return };
    let servers = [net.serve("10.9.0.11"), net.serve("fd09::11")];
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11", "fd09::11"])).await.unwrap();
        until(&mut neighbours, |_, all| all.len() == 2).await;
        let (doubts, from) = (neighbours.doubts(), net.mac());

        // Nothing has changed: nothing is told.
        servers.iter().for_each(|server| doubts.try_send(*server).unwrap());
        assert_eq!(during(&mut neighbours, 2 * SHORT).await, []);
        assert!(net.entry("10.9.0.11").contains("managed extern_learn REACHABLE"), "{}", net.entry("10.9.0.11"));

        // The server's MAC changes, and it says nothing.
        net.there("link set v1 address 02:00:00:00:00:bb");
        let to = net.mac();
        servers.iter().for_each(|server| doubts.try_send(*server).unwrap());
        let changes =
            until(&mut neighbours, |n, _| servers.iter().all(|server| n.mac(*server) == Some(to))).await.concat();
        for server in &servers {
            let changed = What::Changed { from, to };
            let its: Vec<_> =
                changes.iter().filter(|change| change.address == *server).map(|change| &change.what).collect();
            assert_eq!(its, [&changed], "by one question, not after the kernel's have failed");
        }
        assert!(net.entry("10.9.0.11").contains("managed extern_learn"), "{}", net.entry("10.9.0.11"));

        // Not wanted, or made permanent by the operator: left alone.
        net.here("neigh replace 10.9.0.11 lladdr 02:00:00:00:00:99 dev v0 nud permanent");
        until(&mut neighbours, |n, _| n.mac(servers[0]) != Some(to)).await;
        doubts.try_send(servers[0]).unwrap();
        doubts.try_send("10.9.0.77".parse().unwrap()).unwrap();
        assert_eq!(during(&mut neighbours, SHORT).await, []);
        assert!(net.entry("10.9.0.11").contains("PERMANENT"), "{}", net.entry("10.9.0.11"));
        assert_eq!(net.entry("10.9.0.77"), "");
        neighbours.close().await.unwrap();
    });
}

#[test]
fn who_shares_a_mac_with_one_that_moved_is_verified_with_it() {
    let Some(net) = Net::new() else { return };
    let servers = [net.serve("10.9.0.11"), net.serve("10.9.0.12")];
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11", "10.9.0.12"])).await.unwrap();
        until(&mut neighbours, |_, all| all.len() == 2).await;
        net.there("link set v1 address 02:00:00:00:00:bb");
        neighbours.doubts().try_send(servers[0]).unwrap();
        let changes =
            until(&mut neighbours, |n, _| servers.iter().all(|server| n.mac(*server) == Some(net.mac()))).await;
        let changed = |change: &Change| matches!(change.what, What::Changed { .. });
        assert!(changes.concat().iter().all(changed), "neither by the kernel's failing: {changes:?}");
        neighbours.close().await.unwrap();
    });
}

#[test]
fn a_deleted_entry_is_made_anew_and_the_mac_stays_unless_nobody_answers() {
    let Some(net) = Net::new() else { return };
    let v4 = net.serve("10.9.0.11");
    net.serve("fd09::11");
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11", "fd09::11"])).await.unwrap();
        until(&mut neighbours, |_, all| all.len() == 2).await;

        tokio::time::sleep(SHORT).await; // so that it is asked for at once, and has a second to answer
        net.here("neigh del 10.9.0.11 dev v0");
        net.here("neigh flush dev v0");
        assert_eq!(during(&mut neighbours, 2 * SHORT).await, [], "servers that answer are not lost for a moment");
        assert_eq!(neighbours.mac(v4), Some(net.mac()));
        assert!(net.entry("10.9.0.11").contains("managed extern_learn REACHABLE"), "{}", net.entry("10.9.0.11"));
        assert!(net.entry("fd09::11").contains("managed extern_learn"), "{}", net.entry("fd09::11"));

        net.there("addr del 10.9.0.11/16 dev v1");
        net.here("neigh del 10.9.0.11 dev v0");
        let changes = until(&mut neighbours, |_, all| !all.is_empty()).await.concat();
        assert_eq!(last(&changes, &v4), Some(&What::Unconfirmed { mac: net.mac(), why: Why::Deleted }));
        assert_eq!(neighbours.mac(v4), Some(net.mac()), "the last one that is known");
        let text = changes.last().unwrap().to_string();
        let expected = format!(
            "server web1 10.9.0.11 is not confirmed at {} any more: its neighbour entry was deleted; frames go there until \
             another MAC is found",
            net.mac()
        );
        assert_eq!(text, expected);
        neighbours.close().await.unwrap();
        assert_eq!(net.entry("10.9.0.11"), "", "an entry without a MAC is not left behind");
    });
}

#[test]
fn servers_that_are_not_on_the_link_are_diagnosed_and_resolved_once_they_are() {
    let Some(net) = Net::new() else { return };
    net.here("link add w0 type veth peer name w1");
    net.here("addr add 10.8.0.1/24 dev w0");
    net.here("link set w0 up");
    net.here("link set w1 up");
    net.here("route add 192.0.2.0/24 via 10.8.0.254 dev w0");
    let server = net.serve("10.7.0.7");
    let wanted = names(&["192.0.2.11", "10.8.0.9", "10.9.0.1", "10.9.255.255", "203.0.113.9", "fd99::1", "10.7.0.7"]);
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &wanted).await.unwrap();
        let said: BTreeMap<_, _> =
            neighbours.off_link().into_iter().map(|off| (off.name.clone(), off.to_string())).collect();
        let expected = [
            (
                "web1",
                "server web1 192.0.2.11 is not on v0's link: the route goes via 10.8.0.254 dev w0; direct server return \
                 needs a next hop on the same link",
            ),
            (
                "web2",
                "server web2 10.8.0.9 is not on v0's link: the route goes out of w0; direct server return needs a next \
                 hop on the same link",
            ),
            (
                "web3",
                "server web3 10.9.0.1 is not on v0's link: it is an address of this host itself; give the server's own \
                 primary address",
            ),
            (
                "web4",
                "server web4 10.9.255.255 is not on v0's link: it is a broadcast, multicast or anycast address; give the \
                 server's unicast primary address",
            ),
            (
                "web5",
                "server web5 203.0.113.9 is not on v0's link: there is no route to it; bring v0 (or a VLAN on it) up with \
                 an address in the server's subnet",
            ),
            (
                "web6",
                "server web6 fd99::1 is not on v0's link: there is no route to it; bring v0 (or a VLAN on it) up with an \
                 address in the server's subnet",
            ),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let others: BTreeMap<_, _> = said.clone().into_iter().filter(|(name, _)| name != "web7").collect();
        assert_eq!(others, BTreeMap::from(expected));
        assert!(said.contains_key("web7"));

        let changes = until(&mut neighbours, |_, all| all.len() == 7).await.concat();
        let off_link = Why::OffLink(Detour::Gateway { via: "10.8.0.254".parse().unwrap(), device: "w0".into() });
        assert_eq!(last(&changes, &wanted[0].1), Some(&What::Unresolved(off_link)));

        net.here("addr add 10.7.0.1/24 dev v0");
        until(&mut neighbours, |n, _| n.mac(server) == Some(net.mac())).await;
        assert_eq!(neighbours.off_link().len(), 6);
        neighbours.close().await.unwrap();
    });
}

#[test]
fn servers_on_a_vlan_of_the_interface_are_on_its_link() {
    let Some(net) = Net::new() else { return };
    if !net.knows("vlan") {
        return eprintln!("SKIPPED: needs a kernel with 802.1Q VLAN devices (module 8021q)");
    }
    let vlan = |side: fn(&Net, &str) -> String, device: &str, address: &str| {
        side(&net, &format!("link add link {device} name {device}.100 type vlan id 100"));
        side(&net, &format!("addr add {address}/24 dev {device}.100"));
        side(&net, &format!("link set {device}.100 up"));
    };
    vlan(Net::here, "v0", "10.100.0.1");
    vlan(Net::there, "v1", "10.100.0.11");
    net.inside(async || {
        let server = "10.100.0.11".parse().unwrap();
        let mut neighbours = Neighbours::open("v0", &names(&["10.100.0.11"])).await.unwrap();
        assert_eq!(neighbours.off_link(), []);
        until(&mut neighbours, |_, all| last(all, &server) == Some(&What::Resolved(net.mac()))).await;

        net.here("link del v0.100");
        let changes = until(&mut neighbours, |n, _| n.why(server).is_some()).await.concat();
        let gone = Why::LinkGone { device: "v0.100".into() };
        assert_eq!(last(&changes, &server), Some(&What::Unconfirmed { mac: net.mac(), why: gone }));
        vlan(Net::here, "v0", "10.100.0.1");
        until(&mut neighbours, |n, _| n.why(server).is_none()).await;
        neighbours.close().await.unwrap();

        net.here("link add other type veth peer name other1");
        let other = Neighbours::open("other", &names(&["10.100.0.11"])).await.unwrap();
        assert_eq!(other.off_link()[0].detour, Detour::Device { device: "v0.100".into() });
    });
}

/// What is gathered is told once in each [`NEIGHBOUR_GATHER`], the first at once: however slowly the kernel resolves, that many batches.
fn most_batches(elapsed: Duration) -> usize {
    usize::try_from(elapsed.as_millis() / NEIGHBOUR_GATHER.as_millis()).expect("a test's time") + 2
}

#[test]
fn more_servers_than_the_table_holds_by_default_come_in_seconds_and_in_few_batches() {
    let Some(net) = Net::new() else { return };
    let v4 = (0..1200).map(|i| format!("10.9.{}.{}", 1 + i / 250, 1 + i % 250));
    let v6 = (0..300).map(|i| format!("fd09::1:{i:x}"));
    let all: Vec<String> = v4.chain(v6).collect();
    let line = |address: &String| {
        let rest = if address.contains(':') { "/64 dev v1 nodad" } else { "/16 dev v1" };
        format!("addr add {address}{rest}\n")
    };
    net.there_batch(&all.iter().map(line).collect::<String>());
    net.inside(async || {
        let wanted = names(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let began = Instant::now();
        let mut neighbours = Neighbours::open("v0", &wanted).await.unwrap();
        let batches = until(&mut neighbours, |_, all| all.len() >= 1500).await;
        let most = most_batches(began.elapsed());
        eprintln!("1500 addresses in {:?}, {} of at most {most} batches", began.elapsed(), batches.len());
        assert!(batches.len() <= most, "{} batches", batches.len());
        assert!(batches.concat().iter().all(|change| matches!(change.what, What::Resolved(_))));

        // All of them unconfirmed at once, and back.
        let began = Instant::now();
        net.there("link set v1 down");
        let batches = until(&mut neighbours, |n, _| wanted.iter().all(|(_, a)| n.why(*a).is_some())).await;
        let most = most_batches(began.elapsed());
        assert!(batches.len() <= most.max(3), "{} batches", batches.len());
        net.there("link set v1 up");
        // The servers' IPv6 addresses went with their link; the others are still there.
        let v4 = &wanted[..1200];
        until(&mut neighbours, |n, _| v4.iter().all(|(_, a)| n.why(*a).is_none())).await;
        assert!(wanted.iter().all(|(_, a)| neighbours.mac(*a) == Some(net.mac())), "nobody's MAC was forgotten");
        neighbours.close().await.unwrap();
        assert!(!net.here("-d neigh show").contains("managed"));
    });
}

#[test]
fn dropping_next_at_any_moment_loses_and_repeats_nothing() {
    let Some(net) = Net::new() else { return };
    let all: Vec<String> = (0..300).map(|i| format!("10.9.{}.{}", 1 + i / 250, 1 + i % 250)).collect();
    net.there_batch(&all.iter().map(|address| format!("addr add {address}/16 dev v1\n")).collect::<String>());
    net.inside(async || {
        let wanted = names(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let mut neighbours = Neighbours::open("v0", &wanted).await.unwrap();
        let (deadline, mut told) = (Instant::now() + LIMIT, BTreeMap::<IpAddr, u32>::new());
        while told.len() < 300 && Instant::now() < deadline {
            let step = Duration::from_micros(100 + 37 * (told.len() as u64 % 50));
            if let Ok(changes) = tokio::time::timeout(step, neighbours.next()).await {
                changes.unwrap().iter().for_each(|change| *told.entry(change.address).or_default() += 1);
            }
        }
        assert_eq!(told.len(), 300);
        assert!(told.values().all(|times| *times == 1), "{told:?}");
        neighbours.close().await.unwrap();
    });
}

#[test]
fn an_overrun_of_the_socket_misses_no_change() {
    let Some(net) = Net::new() else { return };
    let (stays, moves, goes) = (net.serve("10.9.0.11"), net.serve("10.9.0.12"), net.serve("10.9.0.13"));
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11", "10.9.0.12", "10.9.0.13"])).await.unwrap();
        until(&mut neighbours, |_, all| all.len() == 3).await;

        // Nobody reads while more notifications come than the socket can hold, and the interesting ones come last.
        let flood = (0..20_000).map(|i| {
            let (host, mac) = (i % 200, i / 200);
            format!("neigh replace 10.9.20.{host} lladdr 02:00:00:00:00:{mac:02x} dev v0 nud permanent\n")
        });
        net.here_batch(&flood.collect::<String>());
        net.here("neigh replace 10.9.0.12 lladdr 02:00:00:00:00:cc dev v0 nud permanent");
        net.there("addr del 10.9.0.13/16 dev v1");
        net.here("neigh del 10.9.0.13 dev v0");
        let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
        assert!(
            sockets.lines().skip(1).any(|line| line.split_whitespace().nth(8) != Some("0")),
            "no overrun:\n{sockets}"
        );

        let moved = "02:00:00:00:00:cc".parse().unwrap();
        until(&mut neighbours, |n, _| n.mac(moves) == Some(moved) && n.why(goes).is_some()).await;
        assert_eq!(neighbours.mac(stays), Some(net.mac()));
        neighbours.close().await.unwrap();
    });
}

#[test]
fn the_link_going_down_and_up_and_away_and_coming_back_is_followed() {
    let Some(net) = Net::new() else { return };
    let server = net.serve("10.9.0.11");
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11"])).await.unwrap();
        let found = |all: &[Change]| last(all, &server) == Some(&What::Resolved(net.mac()));
        until(&mut neighbours, |_, all| found(all)).await;

        net.here("link set v0 down");
        let changes = until(&mut neighbours, |n, _| n.why(server).is_some()).await.concat();
        let why = Why::LinkDown { device: "v0".into() };
        assert_eq!(last(&changes, &server), Some(&What::Unconfirmed { mac: net.mac(), why }));
        assert_eq!(neighbours.mac(server), Some(net.mac()), "it was not the server's link");
        assert_eq!(during(&mut neighbours, SHORT).await, []);
        net.here("link set v0 up");
        until(&mut neighbours, |_, all| found(all)).await;
        net.there("link set v1 down");
        until(&mut neighbours, |n, _| n.why(server).is_some()).await;
        net.there("link set v1 up");
        until(&mut neighbours, |_, all| found(all)).await;

        let was = net.mac();
        net.here("link del v0");
        let changes = until(&mut neighbours, |n, _| n.why(server).is_some()).await.concat();
        let lapsed = changes.iter().find(|change| matches!(change.what, What::Unconfirmed { mac, .. } if mac == was));
        assert!(lapsed.is_some(), "{changes:?}");
        net.join();
        net.serve("10.9.0.11");
        let changed = What::Changed { from: was, to: net.mac() };
        until(&mut neighbours, |_, all| last(all, &server) == Some(&changed)).await;
        neighbours.close().await.unwrap();
    });
}

#[test]
fn what_the_operator_made_permanent_is_used_and_left_alone() {
    let Some(net) = Net::new() else { return };
    let (server, fixed) = (net.serve("10.9.0.11"), "02:00:00:00:00:99".parse().unwrap());
    net.here("neigh add 10.9.0.11 lladdr 02:00:00:00:00:99 dev v0 nud permanent");
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11"])).await.unwrap();
        until(&mut neighbours, |_, all| last(all, &server) == Some(&What::Resolved(fixed))).await;
        assert!(net.entry("10.9.0.11").contains("PERMANENT"));

        tokio::time::sleep(SHORT).await; // so that it is asked for at once, and has a second to answer
        net.here("neigh del 10.9.0.11 dev v0");
        let changed = What::Changed { from: fixed, to: net.mac() };
        until(&mut neighbours, |_, all| last(all, &server) == Some(&changed)).await;

        net.here("neigh replace 10.9.0.11 lladdr 02:00:00:00:00:99 dev v0 nud permanent");
        let changed = What::Changed { from: net.mac(), to: fixed };
        until(&mut neighbours, |_, all| last(all, &server) == Some(&changed)).await;
        assert_eq!(during(&mut neighbours, 2 * SHORT).await, []);
        neighbours.close().await.unwrap();
        assert!(net.entry("10.9.0.11").contains("PERMANENT"), "{}", net.entry("10.9.0.11"));
    });
}

#[test]
fn the_wanted_set_can_be_replaced_and_what_a_killed_process_left_is_cleared() {
    let Some(net) = Net::new() else { return };
    let servers = ["10.9.0.11", "10.9.0.12", "10.9.0.13"].map(|address| net.serve(address));
    net.inside(async || {
        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.11", "10.9.0.12"])).await.unwrap();
        until(&mut neighbours, |_, all| all.len() == 2).await;
        neighbours.watch(&names(&["10.9.0.12", "10.9.0.13", "192.0.2.1"])).await.unwrap();
        assert_eq!(neighbours.mac(servers[0]), None);
        assert_eq!(neighbours.mac(servers[1]), Some(net.mac()), "it stayed");
        assert_eq!(neighbours.off_link().len(), 1);
        let changes = until(&mut neighbours, |_, all| all.len() == 2).await.concat();
        assert_eq!(last(&changes, &servers[2]), Some(&What::Resolved(net.mac())));
        assert_eq!(changes.iter().find(|change| change.address == servers[2]).unwrap().name, "web2");
        assert!(!net.entry("10.9.0.11").contains("managed"), "{}", net.entry("10.9.0.11"));
        drop(neighbours); // as if killed
        assert!(net.entry("10.9.0.12").contains("managed"));

        let mut neighbours = Neighbours::open("v0", &names(&["10.9.0.13"])).await.unwrap();
        assert_eq!(neighbours.mac(servers[2]), Some(net.mac()), "known from the start");
        assert_eq!(until(&mut neighbours, |_, all| !all.is_empty()).await.concat().len(), 1);
        assert!(!net.entry("10.9.0.12").contains("managed"), "{}", net.entry("10.9.0.12"));
        assert!(net.entry("10.9.0.13").contains("managed"), "{}", net.entry("10.9.0.13"));
        neighbours.close().await.unwrap();
    });
}

#[test]
fn without_managed_entries_the_same_is_done_by_asking_again() {
    let Some(net) = Net::new() else { return };
    let (first, second) = (net.serve("10.9.0.11"), "10.9.0.12".parse().unwrap());
    net.inside(async || {
        let wanted = names(&["10.9.0.11", "10.9.0.12"]);
        let mut neighbours = Neighbours::open_with(&["v0".to_owned()], &wanted, Upkeep::Ours).await.unwrap();
        until(&mut neighbours, |_, all| all.len() == 2).await;
        assert_eq!(neighbours.mac(first), Some(net.mac()));
        assert!(!net.here("-d neigh show").contains("managed"));
        net.serve("10.9.0.12");
        until(&mut neighbours, |_, all| last(all, &second) == Some(&What::Resolved(net.mac()))).await;
        net.here("neigh flush dev v0");
        assert_eq!(during(&mut neighbours, SHORT).await, []);
        assert!(net.entry("10.9.0.11").contains("extern_learn"));
        neighbours.close().await.unwrap();
        assert!(!net.here("-d neigh show").contains("extern_learn"));
    });
}

#[test]
fn what_cannot_work_is_refused_with_what_to_do() {
    let Some(net) = Net::new() else { return };
    net.serve("10.9.0.11");
    net.inside(async || {
        let wanted = names(&["10.9.0.11"]);
        let Err(error) = Neighbours::open("eth9", &wanted).await else { panic!() };
        assert!(matches!(error, Error::NoInterface { .. }));
        assert_eq!(error.to_string(), "there is no interface eth9: `ip link` lists those that exist");

        let Err(error) = Neighbours::open("lo", &wanted).await else { panic!() };
        assert!(matches!(error, Error::NotEthernet { .. }), "{error}");

        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        let Err(error) = Neighbours::open("v0", &wanted).await else { panic!() };
        assert_eq!(
            error.to_string(),
            "not permitted to resolve 10.9.0.11 on v0: run as root or with the capability CAP_NET_ADMIN"
        );
    });
}
