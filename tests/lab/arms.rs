//! A dispatcher with two interfaces: servers on the links of both, clients that come in by either.

use std::fs;
use std::net::TcpStream;

use serde_json::Value;

use crate::dispatcher::Dispatcher;
use crate::failover::checked;
use crate::interface::{lay_with_queues, use_queues};
use crate::network::{AF_XDP, CLUSTER, Lab, WEB, XDP, clients, eventually, lookup, write_config};
use crate::queues::ask;
use crate::second_lan::{lay_second_lan, over_both, received, serves_both_families};

/// Over both interfaces, with these keys of each; web3 is reached by the second one.
fn configure_with(lab: &Lab, dispatcher: &str, keys: [&str; 2]) {
    let text = fs::read_to_string(lab.config()).unwrap();
    write_config(&lab.config(), &over_both(&text, dispatcher, keys));
}

fn configure(lab: &Lab, dispatcher: &str) {
    configure_with(lab, dispatcher, ["", ""]);
}

#[test]
fn clients_come_in_by_any_interface_and_each_server_is_reached_by_its_own() {
    let generic = "xdp = \"generic\"\n";
    for (engine, mode) in [(&XDP, ""), (&XDP, generic), (&AF_XDP, ""), (&AF_XDP, generic)] {
        let Some(lab) = Lab::up(engine) else { return };
        lay_second_lan(&lab, 1);
        configure(&lab, mode);
        let (clients, dispatcher) = (&clients(0)[..60], Dispatcher::start(&lab, &[]));
        let said = dispatcher.said();
        assert_eq!(said.contains("generic XDP"), !mode.is_empty(), "{said}");
        assert!(!said.contains("same_link"), "{said}");
        let expected = lookup(&lab.config(), WEB[0], clients, &[]);
        let by_second = received(&lab, "web3", "lan1");
        assert_eq!(lab.fetch(0, clients), expected, "clients come in by the first interface");
        let of_web3 = expected.iter().filter(|(_, server)| server == "web3").count() as u64;
        assert!(of_web3 > 5 && received(&lab, "web3", "lan1") >= by_second + of_web3, "web3 is reached by lan1");

        lab.ip("router", &format!("route replace {}/32 via 198.18.5.2", CLUSTER[0]));
        let by_second = received(&lab, "dispatcher", "lan1");
        assert_eq!(lab.fetch(0, clients), expected, "they come in by the second one");
        assert!(received(&lab, "dispatcher", "lan1") > by_second + clients.len() as u64);

        // web3 moves to the first link, with the address that it has.
        lab.ip("web3", "address del 198.18.5.13/24 dev lan1");
        lab.ip("web3", "address add 198.18.5.13/32 dev lan0");
        lab.ip("dispatcher", "route add 198.18.5.13/32 dev lan0");
        // Sooner than the kernel would find that nobody answers there.
        lab.ip("dispatcher", "neighbour del 198.18.5.13 dev lan1");
        eventually("it is reached there", || {
            let before = received(&lab, "web3", "lan1");
            lab.fetch_within(2, 0, clients) == expected && received(&lab, "web3", "lan1") < before + of_web3
        });
        dispatcher.stop();
    }
}

/// Each worker has queues of both interfaces. What is received is sent by either, with a process and without.
#[test]
fn workers_of_several_queues_send_by_either_interface_and_the_program_in_their_place() {
    let listed = "cores = [0, 1]\n";
    for (queues, of_workers, keys) in
        [([2, 2], "", ["", ""]), ([2, 4], "cores = [1]\n", ["", ""]), ([4, 2], "", [listed, "cores = [1, 0]\n"])]
    {
        let Some(lab) = Lab::up(&AF_XDP) else { return };
        lay_with_queues(&lab, queues[0]);
        use_queues(&lab, queues[0]);
        lab.sh("lan", "ethtool -K dispatcher gro off; ethtool -K dispatcher gro on");
        lay_second_lan(&lab, queues[1]);
        configure_with(&lab, of_workers, keys);
        let config = checked(&lab);
        // Nobody fails here: a server that waits for its processor is not to be taken for one that has.
        let patient = fs::read_to_string(&config).unwrap().replace("fall = 6\n", "fall = 60\n");
        assert!(patient.contains("fall = 60"));
        write_config(&config, &patient);
        let some = [0, 1].map(|family| clients(family)[..30].to_vec());
        let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
        let workers = || -> Vec<u64> {
            let status: Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
            let workers = status["workers"].as_array().unwrap();
            workers.iter().map(|worker| worker["received"].as_u64().unwrap()).collect()
        };
        assert_eq!(workers().len(), 2, "{queues:?}: as many as the interface with the fewest queues has");
        serves_both_families(&lab, &config, &some, &["web1", "web3"]);
        assert!(workers().iter().all(|received| *received > 0), "each worker has received frames");

        // A flow that comes by another queue goes on.
        let to = format!("{}:80", CLUSTER[0]).parse().unwrap();
        let mut streams: Vec<TcpStream> = some[0].iter().map(|client| lab.connect(client, to)).collect();
        let before: Vec<String> = streams.iter_mut().map(ask).collect();
        lab.sh("lan", "ethtool -L dispatcher tx 1; ethtool -L dispatcher1 tx 1");
        assert_eq!(streams.iter_mut().map(ask).collect::<Vec<_>>(), before, "by the first queues now");
        lab.sh("lan", &format!("ethtool -L dispatcher tx {}; ethtool -L dispatcher1 tx {}", queues[0], queues[1]));
        assert_eq!(streams.iter_mut().map(ask).collect::<Vec<_>>(), before, "and back");

        // Nobody is there but the program, which sends from one interface to the other too.
        dispatcher.kill();
        assert_eq!(streams.iter_mut().map(ask).collect::<Vec<_>>(), before, "without a process");
        serves_both_families(&lab, &config, &some, &["web3"]);
        let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
        assert!(dispatcher.said().contains("taken over from the process before"), "{}", dispatcher.said());
        assert_eq!(streams.iter_mut().map(ask).collect::<Vec<_>>(), before, "and with the next one");
        let received: u64 = workers().iter().sum();
        eventually("workers have the frames again", || {
            assert_eq!(lab.fetch(0, &some[0]), lookup(&config, WEB[0], &some[0], &[]));
            workers().iter().sum::<u64>() > received + 30
        });
        dispatcher.stop();
        let links = lab.ip("dispatcher", "-d link show");
        assert!(!links.contains("prog/xdp"), "nothing is left on any interface: {links}");
    }
}

#[test]
fn a_server_fails_and_moves_from_one_interface_to_the_other_by_a_reload() {
    for engine in [&XDP, &AF_XDP] {
        let Some(lab) = Lab::up(engine) else { return };
        lay_second_lan(&lab, 1);
        configure(&lab, "");
        let config = checked(&lab);
        let clients = clients(0);
        let expected = lookup(&config, WEB[0], &clients, &[]);
        let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
        assert_eq!(lab.fetch(0, &clients), expected);
        let of_web3 = expected.iter().filter(|(_, server)| server == "web3").count() as u64;

        lab.ip("web3", "address del 203.0.113.80/32 dev lo");
        dispatcher.hear("server web3 of service web is down");
        let without = lookup(&config, WEB[0], &clients, &["--down", "web3"]);
        eventually("others serve web3's clients", || lab.fetch_within(2, 0, &clients) == without);
        lab.ip("web3", "address add 203.0.113.80/32 dev lo");
        eventually("they are back", || lab.fetch_within(2, 0, &clients) == expected);

        // The same server, under its address on the first link.
        let text = fs::read_to_string(&config).unwrap();
        let by_second = received(&lab, "web3", "lan1");
        assert_eq!(lab.fetch(0, &clients), expected);
        assert!(received(&lab, "web3", "lan1") >= by_second + of_web3, "it is reached by lan1");
        write_config(&config, &text.replace("198.18.5.13", "192.0.2.13").replace("2001:db8:5::13", "2001:db8:2::13"));
        let said = lab.ctl(&["reload", "--force"]);
        assert!(said.contains("192.0.2.13"), "{said}");
        let moved = lookup(&config, WEB[0], &clients, &[]);
        eventually("it is reached by lan0", || {
            let by_second = received(&lab, "web3", "lan1");
            lab.fetch_within(2, 0, &clients) == moved && received(&lab, "web3", "lan1") < by_second + of_web3
        });
        // All four services migrate at once: the program that stands in for workers has room for that.
        assert!(!dispatcher.said().contains("an older table"), "{}", dispatcher.said());
        dispatcher.stop();
    }
}

#[test]
fn queues_that_no_worker_serves_are_the_programs() {
    let Some(lab) = Lab::up(&AF_XDP) else { return };
    lay_with_queues(&lab, 2);
    use_queues(&lab, 2);
    lab.sh("lan", "ethtool -K dispatcher gro off; ethtool -K dispatcher gro on");
    lay_second_lan(&lab, 2);
    configure_with(&lab, "", ["queues = 1\n", "queues = 1\n"]);
    let (clients, dispatcher) = (&clients(0)[..40], Dispatcher::start(&lab, &[]));
    let said = dispatcher.said();
    assert!(said.contains("queues     2, by one worker"), "{said}");
    assert!(!said.contains("and oneip has workers for 1"), "it was asked for: {said}");
    assert_eq!(lab.fetch(0, clients), lookup(&lab.config(), WEB[0], clients, &[]));
    eventually("the second queues' frames are counted", || {
        let metrics = lab.ctl(&["metrics"]);
        let sum = |name: &str| -> u64 {
            let lines = metrics.lines().filter(|line| line.starts_with(name));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        sum("oneip_frames_forwarded_total{") > sum("oneip_frames_received_total{")
    });
    dispatcher.stop();
}

#[test]
fn an_interface_that_goes_down_is_told_and_one_that_is_gone_ends_it() {
    for engine in [&XDP, &AF_XDP] {
        let Some(lab) = Lab::up(engine) else { return };
        lay_second_lan(&lab, 1);
        configure(&lab, "");
        let (clients, dispatcher) = (&clients(0)[..24], Dispatcher::start(&lab, &[]));
        let expected = lookup(&lab.config(), WEB[0], clients, &[]);
        assert_eq!(lab.fetch(0, clients), expected);
        lab.ip("lan", "link set dispatcher1 down");
        dispatcher.hear("lan1 is down: nothing comes or goes there until its link is back");
        let status: Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
        assert!(status["interface_up"].as_bool().unwrap(), "the first one is up");
        // To servers on the other link nothing is lost.
        let others: Vec<_> = expected.iter().filter(|(_, server)| server != "web3").cloned().collect();
        let their_clients: Vec<String> = others.iter().map(|(client, _)| client.clone()).collect();
        assert_eq!(lab.fetch_within(2, 0, &their_clients), others);
        lab.ip("lan", "link set dispatcher1 up");
        dispatcher.hear("lan1 is up");
        eventually("frames leave by it again", || lab.fetch_within(2, 0, clients) == expected);
        lab.ip("dispatcher", "link del lan1");
        let (said, _) = dispatcher.fail();
        assert!(said.contains("error: lan1 was removed, so no frames arrive"), "{said}");
        assert!(!lab.ip("dispatcher", "-d link show lan0").contains("prog/xdp"), "nothing is left on the other one");
    }
}

#[test]
fn interfaces_that_do_not_fit_together_are_refused() {
    let Some(lab) = Lab::up(&XDP) else { return };
    lay_second_lan(&lab, 1);
    configure(&lab, "");
    lab.ip("dispatcher", "link set lan1 mtu 1400");
    let text = fs::read_to_string(lab.config()).unwrap();
    for engine in ["xdp", "af_xdp"] {
        write_config(&lab.config(), &text.replacen("engine = \"xdp\"", &format!("engine = \"{engine}\""), 1));
        let output = crate::dispatcher::run(&lab, &lab.config()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("lan0 has an MTU of 1500, and lan1 of 1400"), "{said}");
    }
}

#[test]
fn a_bridge_its_port_and_a_macvlan_are_refused_with_what_to_write_instead() {
    let Some(lab) = Lab::up(&XDP) else { return };
    let text = fs::read_to_string(lab.config()).unwrap();
    lab.sh(
        "dispatcher",
        "ip link add br0 type bridge
         ip link add port0 type veth peer name port1
         ip link set port0 master br0
         ip link add mv0 link lan0 type macvlan",
    );
    for (name, wanted) in [
        ("br0", "br0 is a bridge, which runs no XDP in a driver: write an interface that is no port of it"),
        ("port0", "port0 is a port of the bridge br0, which has the addresses and the routes"),
        ("mv0", "mv0 is stacked on lan0, and no driver runs XDP on it: write lan0 instead"),
    ] {
        write_config(&lab.config(), &text.replacen("\"lan0\"", &format!("\"{name}\""), 1));
        let output = crate::dispatcher::run(&lab, &lab.config()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wanted), "{name}: {said}");
    }
}
