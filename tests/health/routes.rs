//! What is put into the kernel's tables so that probes take the data path, what comes of it when it is lost, and that it goes.

use std::time::Duration;

use super::net::{END, Net, V4, V6, accept, address, down, during, gather, plan, until, up};
use super::{QUICK, quick};
use oneip::control::health::{Change, Error, Health, Verdict, What};
use oneip::host::privileges;

const TCP: &str = "type = 'tcp'\nport = 80";

#[test]
fn probe_routes_are_there_while_they_are_needed_and_nothing_else_is_touched() {
    let Some(net) = Net::new(2) else { return };
    // The operator's own: a rule of each kind that is near ours, and a permanent neighbour.
    for rule in [
        "pref 200 fwmark 0x1 lookup 77",
        "pref 90 fwmark 0x6f6e0001 lookup 77 protocol 4",
        "pref 40100 to 10.7.0.0/16 lookup 77",
    ] {
        net.here(&format!("rule add {rule}"));
    }
    net.here("neigh add 240.0.0.9 lladdr 02:00:00:00:00:99 dev lan0 nud permanent");
    let theirs = || {
        [
            net.here("rule"),
            net.here("-6 rule"),
            net.here("route show table all"),
            net.here("-6 route show table all"),
            net.here("neigh show nud permanent"),
        ]
    };
    let before = theirs();
    net.inside(async || {
        let text =
            net.service("web", V4, &quick(TCP)) + &net.service("web6", V6, &quick(TCP)).replace("fd09::1:", "10.9.1.");
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        while health.pending() > 0 {
            health.next().await;
        }
        let left = net.left();
        for line in [
            "1:\tfrom all fwmark 0x6f6e0000/0xffff0000 goto 40000 proto 111\n",
            "2:\tfrom all iif lo ipproto tcp sport 61000-65534 lookup 1869479936 proto 111\n",
            "40000:\tfrom all nop proto 111\n",
            "40001:\tfrom all fwmark 0x6f6e0000/0xffffffc0 goto 40100 proto 111\n",
            "40100:\tfrom all fwmark 0x6f6e0001 lookup 1869479937 proto 111\n",
            "40100:\tfrom all fwmark 0x6f6e0002 lookup 1869479938 proto 111\n",
            "40999:\tfrom all fwmark 0x6f6e0000/0xffff0000 unreachable proto 111\n",
        ] {
            assert_eq!(left.matches(line).count(), 2, "{line}in\n{left}");
        }
        assert!(left.contains("unreachable 203.0.113.80 table 1869479936 proto 111"), "{left}");
        assert!(left.contains("unreachable 2001:db8:80::80 dev lo table 1869479936 proto 111"), "{left}");
        assert!(left.contains("203.0.113.80 via 240.0.0.1 dev lan0 table 1869479937"), "{left}");
        assert!(left.contains("2001:db8:80::80 via fe80::6f6e:2 dev lan0 table 1869479938"), "{left}");
        assert!(left.contains(&format!("240.0.0.2 dev lan0 lladdr {} PERMANENT proto 111", net.mac(1))), "{left}");
        let ours = net.here(&format!("route get {V4}"));
        assert!(ours.contains("via 10.9.255.254"), "unmarked packets go their ordinary way: {ours}");
        health.close().await.unwrap();
    });
    assert_eq!(net.left(), "");
    assert_eq!(theirs(), before);
}

#[test]
fn what_a_process_that_was_killed_has_left_is_removed_at_the_next_start() {
    let Some(net) = Net::new(2) else { return };
    // Another dispatcher of this host, on another interface.
    net.here("link add other0 type veth peer name other1");
    net.here("link set other0 up");
    net.here("link set other1 up");
    net.here("rule add pref 40100 fwmark 0x6f6e0001 lookup 1869479937 protocol 111");
    net.here("route add 203.0.113.99 via 240.0.0.1 dev other0 onlink table 1869479937 proto 111");
    let theirs = net.left();
    net.inside(async || {
        let text = net.service("web", V4, &quick(TCP)) + &net.service("web6", V6, &quick(TCP));
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        while health.pending() > 0 {
            health.next().await;
        }
        drop(health);
        let left = net.left();
        assert!(left.lines().count() > theirs.lines().count() + 10, "{left}");
        assert!(!left.contains("203.0.113.80 via 240.0.0.1 "), "a number that is taken: {left}");

        // The successor checks nothing.
        let text = net.service("web", V4, &quick(TCP)).split("[service.health]").next().unwrap().to_owned();
        let health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        assert_eq!(health.serving(0, &[true, false]), [true, false]);
        assert!(health.status(0, 0).is_none());
        let swept = net.left();
        assert!(!swept.contains("lan0") && !swept.contains("0x6f6e0002"), "{swept}");
        health.close().await.unwrap();
        let left = net.left();
        assert!(theirs.lines().all(|line| left.contains(line)), "the other's are still there: {left}");
    });
}

#[test]
fn a_server_is_reached_at_the_mac_of_the_data_path() {
    let Some(net) = Net::new(2) else { return };
    let _daemons = [net.listen(0, "0.0.0.0:80", accept), net.listen(1, "0.0.0.0:80", accept)];
    net.inside(async || {
        // The configuration names a MAC that is nobody's: clients' frames go nowhere, whatever ARP says.
        let wrong = |text: String| text.replace(&net.mac(0).to_string(), "02:00:00:00:00:99");
        let data_path = wrong(net.service("data-path", V4, &quick(TCP)));
        let primary = wrong(net.service("primary", V4, &quick(&format!("{TCP}\nvia = 'primary'"))));
        let mut health = Health::open(&plan(&(data_path + &primary)), "lan0", END).await.unwrap();
        assert!(down(&mut health, 0).await.starts_with("no answer from 203.0.113.80"));
        assert_eq!(health.status(1, 0).unwrap().verdict, Verdict::Up);
        assert_eq!(health.serving(0, &[true; 2]), [false, true]);
        health.close().await.unwrap();

        // Without one in the configuration, it is the one that the neighbour table has.
        let text = net.service("web", V4, &quick(TCP));
        let text: String =
            text.lines().filter(|line| !line.starts_with("mac")).map(|line| format!("{line}\n")).collect();
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        let why =
            until(&mut health, |change| matches!(change.what, What::Isolated(_))).await.pop().unwrap().to_string();
        assert!(
            why.starts_with("no server answers over IPv4: this host may be cut off: all servers keep their state"),
            "{why}"
        );
        let status = health.status(0, 0).unwrap();
        let failure = status.failure.unwrap().1;
        assert_eq!(failure, "its MAC is not known: it does not answer ARP or neighbour discovery");
        assert_eq!(status.verdict, Verdict::Unknown, "nobody has one");
        for server in [0, 1] {
            health.set_mac(address(&format!("10.9.1.{}", server + 1)), Some(net.mac(server)));
        }
        gather(&mut health, |health, _| health.serving(0, &[true; 2]) == [true, true]).await;

        // It gets another one.
        net.at(0, "link set lan0 address 02:00:00:00:00:aa");
        down(&mut health, 0).await;
        health.set_mac(address("10.9.1.1"), Some(net.mac(0)));
        up(&mut health, 0).await;
        health.set_mac(address("10.9.1.1"), None);
        assert!(down(&mut health, 0).await.starts_with("its MAC is not known"));
        health.close().await.unwrap();
    });
    assert_eq!(net.left(), "");
}

#[test]
fn the_families_of_cluster_and_primary_address_may_differ() {
    let Some(net) = Net::new(1) else { return };
    let _daemon = net.listen(0, "[::]:80", accept);
    net.inside(async || {
        let web = net.service("web", V4, &quick(TCP)).replace("10.9.1.", "fd09::1:");
        let web6 = net.service("web6", V6, &quick("type = 'icmp'")).replace("fd09::1:", "10.9.1.");
        let mut health = Health::open(&plan(&(web + &web6)), "lan0", END).await.unwrap();
        while health.pending() > 0 {
            health.next().await;
        }
        assert_eq!([0, 1].map(|service| health.status(service, 0).unwrap().verdict), [Verdict::Up; 2]);
        for (service, cluster) in [V4, V6].into_iter().enumerate() {
            net.remove_alias(0, cluster);
            down(&mut health, service).await;
            net.add_alias(0, cluster);
            up(&mut health, service).await;
        }
        health.close().await.unwrap();
    });
    assert_eq!(net.left(), "");
}

#[test]
fn without_a_link_nobody_is_judged_and_probe_routes_are_put_back() {
    let Some(net) = Net::new(1) else { return };
    let _daemon = net.listen(0, "[::]:80", accept);
    for cluster in [V4, V6] {
        net.inside(async || {
            // Nobody else could tell this host's trouble from the server's: its kernel has time to answer, however busy.
            let patient = format!("{TCP}\ninterval_ms = 1000\ntimeout_ms = 1000\nrise = 1\nfall = 2");
            let mut health = Health::open(&plan(&net.service("web", cluster, &patient)), "lan0", END).await.unwrap();
            up(&mut health, 0).await;

            net.here("link set lan0 down");
            let changes = until(&mut health, |change| matches!(change.what, What::Isolated(_))).await;
            let said = changes.last().unwrap().to_string();
            assert_eq!(said, "lan0 is down: all servers keep their state until one answers");
            assert_eq!(during(&mut health, Duration::from_millis(400)).await, [], "told once");
            assert_eq!(health.status(0, 0).unwrap().verdict, Verdict::Up);
            // Not before a probe was due, which may be late on a machine that is busy.
            let unchecked =
                |health: &Health| health.status(0, 0).unwrap().unchecked.map(|unchecked| unchecked.1.to_owned());
            while unchecked(&health).is_none() {
                assert_eq!(during(&mut health, Duration::from_millis(50)).await, [], "told once");
            }
            assert_eq!(unchecked(&health).as_deref(), Some("lan0 is down"));
            assert!(health.isolated().is_some());

            net.here("link set lan0 up");
            net.here("route add default via 10.9.255.254 dev lan0");
            if cluster == V6 {
                net.here("addr add fd09::1/64 dev lan0 nodad");
            }
            // The first probe may come to nothing.
            let answers = |health: &Health, _: &[Change]| health.isolated().is_none();
            let changes = gather(&mut health, answers).await;
            assert!(changes.iter().all(|change| !matches!(change.what, What::Down { .. })), "{changes:#?}");
            assert!(health.status(0, 0).unwrap().unchecked.is_none());

            // Beyond `locktime`, in which the server's kernel refuses another MAC.
            during(&mut health, Duration::from_millis(1500)).await;
            // With its MAC an interface loses its neighbours, permanent ones too, but no routes.
            net.here("link set lan0 address 02:00:00:00:00:dd");
            net.at(0, "neigh flush dev lan0");
            during(&mut health, Duration::from_millis(300)).await;
            let is_up = |health: &Health, _: &[Change]| {
                let status = health.status(0, 0).unwrap();
                status.unchecked.is_none() && status.verdict == Verdict::Up
            };
            gather(&mut health, is_up).await;
            health.close().await.unwrap();
        });
        assert_eq!(net.left(), "");
    }
}

/// A probe that leaves by the ordinary routes comes to a router, and from there to any server that is well.
#[test]
fn no_probe_is_sent_by_the_ordinary_routes_whoever_changes_rules_and_routes() {
    let Some(net) = Net::new(3) else { return };
    // The third one stands for the router and all that is behind it.
    net.at(2, "addr add 10.9.255.254/16 dev lan0");
    net.at(2, "addr add fd09::ffff/64 dev lan0 nodad");
    let _well = ["0.0.0.0:80", "[::]:81"].map(|at| [1, 2].map(|server| net.listen(server, at, accept)));
    for (cluster, family, port) in [(V4, "-4", 80), (V6, "-6", 81)] {
        net.inside(async || {
            let text = net.service("web", cluster, &quick(&format!("type = 'tcp'\nport = {port}")));
            let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
            assert!(down(&mut health, 0).await.contains("refuses the connection"));
            let hop = if cluster == V4 { "240.0.0.1" } else { "fe80::6f6e:1" };
            let router = if cluster == V4 { "10.9.255.254" } else { "fd09::ffff" };
            let in_place = || {
                let mut lines: Vec<String> = net.left().lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            let whole = in_place();
            for lost in [
                "rule del pref 1".to_owned(),
                "rule del pref 2".to_owned(),
                "rule del pref 40000".to_owned(),
                "rule del pref 40001".to_owned(),
                "rule del pref 40100 fwmark 0x6f6e0001".to_owned(),
                "rule del pref 40999".to_owned(),
                "route flush table 1869479937".to_owned(),
                format!("route replace {cluster} via {router} table 1869479937"),
                format!("route replace {cluster} via {router} proto 111 table 1869479937"),
                "route flush table 1869479936".to_owned(),
                format!("route replace {cluster} via {router} table 1869479936"),
                format!("neigh del {hop} dev lan0"),
                format!("neigh replace {hop} lladdr {} dev lan0 nud permanent", net.mac(2)),
                "rule flush; rule add pref 32766 lookup main; rule add pref 32767 lookup default".to_owned(),
            ] {
                for command in lost.split("; ") {
                    net.here(&format!("{family} {command}"));
                }
                let before = net.resets(0);
                let wrong =
                    |change: &Change| matches!(change.what, What::Up { server: 0, .. } | What::Down { server: 1, .. });
                while net.resets(0) < before + 3 {
                    let changes = during(&mut health, Duration::from_millis(10)).await;
                    assert!(!changes.iter().any(wrong), "{lost}: {changes:#?}");
                }
                gather(&mut health, |_, _| in_place() == whole).await;
            }
            health.close().await.unwrap();
        });
    }
    assert_eq!(net.left(), "");
}

/// A server is silent, and while it is waited for its route leads elsewhere: what is sent once more is answered there.
#[test]
fn an_answer_by_a_route_that_was_lost_meanwhile_counts_for_nothing() {
    let Some(net) = Net::new(3) else { return };
    net.at(2, "addr add 10.9.255.254/16 dev lan0");
    let _daemons = [1, 2].map(|server| net.listen(server, "0.0.0.0:80", accept));
    net.at(0, "link set lan0 down");
    net.inside(async || {
        let slow = format!("{TCP}\ninterval_ms = 3000\ntimeout_ms = 2500\nrise = 1\nfall = 1");
        let mut health = Health::open(&plan(&net.service("web", V4, &slow)), "lan0", END).await.unwrap();
        let known = |health: &Health| [1, 2].iter().all(|at| health.status(0, *at).unwrap().verdict == Verdict::Up);
        gather(&mut health, |health, _| known(health)).await;
        net.here(&format!("route replace {V4} via 10.9.255.254 table 1869479937"));
        let is_up = |change: &Change| matches!(change.what, What::Up { server: 0, .. });
        let changes = gather(&mut health, |health, _| health.status(0, 0).unwrap().verdict == Verdict::Down).await;
        assert!(!changes.iter().any(is_up), "{changes:#?}");
        health.close().await.unwrap();
    });
    assert_eq!(net.left(), "");
}

#[test]
fn an_operators_rules_are_skipped_by_no_packet_but_probes() {
    let Some(net) = Net::new(2) else { return };
    let _daemons = [0, 1].map(|server| net.listen(server, "0.0.0.0:80", accept));
    net.here("route add default via 10.9.1.2 dev lan0 table 77");
    for preference in [100, 112, 300, 998] {
        net.here(
            &format!("rule add pref {preference} to 10.{preference}.0.0/16 lookup 77")
                .replace("10.300", "10.30")
                .replace("10.998", "10.99"),
        );
    }
    net.inside(async || {
        let mut health = Health::open(&plan(&net.service("web", V4, &quick(TCP))), "lan0", END).await.unwrap();
        gather(&mut health, |health, _| [0, 1].iter().all(|at| health.status(0, *at).unwrap().verdict == Verdict::Up))
            .await;
        for to in ["10.100.0.1", "10.112.0.1", "10.30.0.1", "10.99.0.1"] {
            let route = net.here(&format!("route get {to}"));
            assert!(route.contains("via 10.9.1.2 dev lan0 table 77"), "{to}: {route}");
        }
        // One that takes probes before our first is told, and nothing is sent.
        net.here("rule add pref 0 to 203.0.113.80 lookup 77");
        let changes = until(&mut health, |change| matches!(change.what, What::Unchecked { .. })).await;
        let said = changes.last().unwrap().to_string();
        assert!(said.contains("another rule or route of this host takes packets with the mark of the check"), "{said}");
        assert!(said.contains("`ip route get 203.0.113.80 mark 0x6f6e000"), "{said}");
        let unchecked = |health: &Health| [0, 1].iter().all(|at| health.status(0, *at).unwrap().unchecked.is_some());
        gather(&mut health, |health, _| unchecked(health)).await;
        net.here("rule del pref 0 to 203.0.113.80 lookup 77");
        let checked = |health: &Health| [0, 1].iter().all(|at| health.status(0, *at).unwrap().unchecked.is_none());
        gather(&mut health, |health, _| checked(health)).await;
        assert_eq!(health.serving(0, &[true; 2]), [true, true]);
        health.close().await.unwrap();
    });
    assert_eq!(net.left(), "");
}

/// Two servers fail at once: of one of them it mostly has yet to be told when the checks begin anew.
#[test]
fn what_waits_to_be_told_is_told_after_a_reload_that_leaves_the_servers_where_they_are() {
    let Some(net) = Net::new(2) else { return };
    net.inside(async || {
        let plan = plan(&net.service("web", V4, &quick(TCP)));
        let down = |all: &[Change]| all.iter().filter(|change| matches!(change.what, What::Down { .. })).count();
        let are = |health: &Health, verdict| [0, 1].iter().all(|at| health.status(0, *at).unwrap().verdict == verdict);
        for _ in 0..20 {
            // One that remembers no failures: it would hold servers down that flap.
            let mut health = Health::open(&plan, "lan0", END).await.unwrap();
            let daemons = [0, 1].map(|server| net.listen(server, "0.0.0.0:80", accept));
            gather(&mut health, |health, _| are(health, Verdict::Up)).await;
            during(&mut health, Duration::from_millis(100)).await;
            drop(daemons);
            let mut told = Vec::new();
            while !are(&health, Verdict::Down) {
                told.extend(during(&mut health, Duration::from_millis(1)).await);
            }
            if down(&told) < 2 {
                health.watch(&plan).await.unwrap();
                let later = gather(&mut health, |_, later| down(&told) + down(later) == 2).await;
                assert!(later.iter().any(|change| matches!(change.what, What::AllDown(_))), "{later:#?}");
                return health.close().await.unwrap();
            }
            health.close().await.unwrap();
        }
        panic!("both were always told at once");
    });
}

#[test]
fn a_reload_keeps_what_stays_and_takes_up_the_ways_that_went() {
    let Some(net) = Net::new(2) else { return };
    let _daemon = net.listen(1, "0.0.0.0:80", accept);
    net.inside(async || {
        let text = net.service("web", V4, &quick(TCP));
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        gather(&mut health, |health, _| health.serving(0, &[true; 2]) == [false, true]).await;
        let since = health.status(0, 0).unwrap().since;

        // Another service comes before it, one server goes, the interval changes.
        let without = text.replace(QUICK, "interval_ms = 60\ntimeout_ms = 60\nrise = 1\nfall = 1");
        let (head, rest) = without.split_at(without.find("[[service.server]]\nname = 'web2'").unwrap());
        let new = net.service("new", V6, &quick(TCP)) + head + &rest[rest.find("[service.health]").unwrap()..];
        health.watch(&plan(&new)).await.unwrap();
        let status = health.status(1, 0).unwrap();
        assert_eq!((status.verdict, status.since, health.pending()), (Verdict::Down, since, 2));
        assert!(health.status(1, 1).is_none());
        while health.pending() > 0 {
            health.next().await;
        }
        let left = net.left();
        assert!(!left.contains("203.0.113.80 via 240.0.0.2") && left.contains("203.0.113.80 via 240.0.0.1"), "{left}");

        let daemon = net.listen(0, "0.0.0.0:80", accept);
        up(&mut health, 1).await;

        // A plan that cannot be checked changes nothing.
        net.here("route del default");
        let refused = health.watch(&plan(&net.service("other", "203.0.113.81", TCP))).await;
        assert!(matches!(refused, Err(Error::ReversePath { .. })));
        drop(daemon);
        down(&mut health, 1).await;

        health.watch(&plan(text.split("[service.health]").next().unwrap())).await.unwrap();
        assert!(!net.left().contains("lan0"), "{}", net.left());
        health.close().await.unwrap();
    });
    assert_eq!(net.left(), "");
}

#[test]
fn checks_go_on_with_the_privileges_that_a_dispatcher_keeps() {
    let Some(net) = Net::new(1) else { return };
    let _daemon = net.listen(0, "[::]:80", accept);
    net.inside(async || {
        let text = net.service("web", V4, &quick(TCP));
        let more = net.service("web6", V6, &quick("type = 'icmp'")) + &text;
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        let kept = privileges::keep(&privileges::CONTROL).unwrap();
        assert_eq!(kept.len(), 1, "no CAP_NET_RAW: {kept:?}");
        up(&mut health, 0).await;
        health.watch(&plan(&more)).await.unwrap();
        up(&mut health, 0).await;
        assert_eq!(health.status(1, 0).unwrap().verdict, Verdict::Up);
        health.close().await.unwrap();
    });
    assert_eq!(net.left(), "");
}

#[test]
fn answers_that_the_kernel_would_drop_are_foreseen() {
    let Some(net) = Net::new(1) else { return };
    let _daemon = net.listen(0, "0.0.0.0:80", accept);
    net.here("route del default");
    net.here("link add mgmt0 type veth peer name mgmt1");
    net.here("addr add 10.8.0.1/24 dev mgmt0");
    net.here("link set mgmt0 up");
    net.here("link set mgmt1 up");
    net.inside(async || {
        let plan = plan(&net.service("web", V4, &quick(TCP)));
        let open = async || match Health::open(&plan, "lan0", END).await {
            Ok(mut health) => {
                up(&mut health, 0).await;
                health.close().await.unwrap();
                "works".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let start = "the kernel would drop the servers' answers to checks of 203.0.113.80: they arrive on lan0, where \
                     rp_filter is";
        let end = "give it a route, `ip route add 203.0.113.80/32 via ROUTER dev lan0`, or write via = \"primary\" in [service.health]";
        for (rp_filter, route, said) in [
            (0, "", "works".to_owned()),
            (1, "", format!("{start} 1 (strict), but there is no route to it; {end}")),
            (2, "", format!("{start} 2 (loose), but there is no route to it; {end}")),
            (
                1,
                "default via 10.8.0.254",
                format!("{start} 1 (strict), but its route goes out of mgmt0; run `sysctl -w net/ipv4/conf/lan0/rp_filter=2`, {end}"),
            ),
            (2, "default via 10.8.0.254", "works".to_owned()),
            (1, "203.0.113.80 via 10.9.255.254 dev lan0", "works".to_owned()),
        ] {
            net.set_rp_filter(rp_filter);
            if !route.is_empty() {
                net.here(&format!("route replace {route}"));
            }
            assert_eq!(open().await, said, "rp_filter {rp_filter}, route {route}");
        }
        net.here("route del default");
        net.here("route del 203.0.113.80");
        let primary = super::net::plan(&net.service("web", V4, &quick(&format!("{TCP}\nvia = 'primary'"))));
        let mut health = Health::open(&primary, "lan0", END).await.unwrap();
        up(&mut health, 0).await;
        health.close().await.unwrap();
        assert!(matches!(Health::open(&primary, "none0", END).await, Err(Error::NoInterface { .. })));
    });
}

/// A page that is longer than what a probe reads: what comes after it was closed is answered by the kernel. The second server stands
/// for the router, `router` is its address; `resets` are the frames that it may not see.
fn what_the_kernel_says_stays(cluster: &str, router: &str, resets: &str) {
    let Some(net) = Net::new(2) else { return };
    net.at(1, &format!("addr add {router} dev lan0"));
    let long: fn(&mut std::net::TcpStream) = |stream| {
        use std::io::{Read, Write};
        let page = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec(), vec![b'.'; 1_000_000]].concat();
        _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(&page));
    };
    let _daemon = net.listen(0, "[::]:80", long);
    let seen = net.capture(1, &format!("{resets} and dst host {cluster}"));
    net.inside(async || {
        let http = "type = 'http'\nport = 80\ninterval_ms = 50\ntimeout_ms = 50\nrise = 1\nfall = 20";
        let both = net.service("web", cluster, http);
        let (head, rest) = both.split_at(both.find("[[service.server]]\nname = 'web2'").unwrap());
        let text = head.to_owned() + &rest[rest.find("[service.health]").unwrap()..];
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        up(&mut health, 0).await;
        during(&mut health, Duration::from_secs(2)).await;
        health.close().await.unwrap();
    });
    assert_eq!(seen().trim(), "");
}

#[test]
fn what_the_kernel_says_of_probes_that_are_over_does_not_leave() {
    what_the_kernel_says_stays(V4, "10.9.255.254/16", "tcp[tcpflags] & tcp-rst != 0");
}

/// Its header is 40 bytes long, and the flags are in the 14th behind it: pcap-filter(7) has no name for these.
#[test]
fn what_the_kernel_says_of_probes_over_ipv6_that_are_over_does_not_leave() {
    what_the_kernel_says_stays(V6, "fd09::ffff/64 nodad", "ip6[6] = 6 and ip6[53] & 4 != 0");
}
