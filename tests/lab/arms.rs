//! A dispatcher with two interfaces: servers on the links of both, clients that come in by either.

use std::fs;

use serde_json::Value;

use crate::dispatcher::Dispatcher;
use crate::network::{CLUSTER, Lab, WEB, XDP, clients, eventually, lookup, write_config};

/// A second LAN, br1: the dispatcher, the router and web3 are on it too, by `lan1`. Their addresses there are 198.18.5.2, .1 and .13.
fn lay_second_lan(lab: &Lab) {
    lab.ip("lan", "link add br1 type bridge forward_delay 0 stp_state 0 mcast_snooping 0");
    lab.ip("lan", "link set br1 up");
    for (host, number) in [("router", 1), ("dispatcher", 2), ("web3", 13)] {
        let queues = "numrxqueues 1 numtxqueues 1";
        let (other, namespace) = (format!("{host}1"), lab.namespace(host));
        lab.ip(
            "lan",
            &format!(
                "link add {other} {queues} type veth peer name lan1 netns {namespace} address 02:00:00:00:05:{number:02} {queues}"
            ),
        );
        lab.ip("lan", &format!("link set {other} master br1 up"));
        lab.sh(
            host,
            &format!(
                "ip link set lan1 up
                 ip address add 198.18.5.{number}/24 dev lan1
                 sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan1.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0"
            ),
        );
        let off = "tx off tso off gso off gro off rxvlan off txvlan off";
        lab.sh(host, &format!("ethtool -K lan1 {off} >/dev/null 2>&1 || true"));
        lab.sh("lan", &format!("ethtool -K {other} {off} >/dev/null 2>&1 || true"));
    }
    lab.sh("lan", "ethtool -K dispatcher1 gro on");
    eventually("its link is up", || lab.ip("dispatcher", "link show lan1").contains("state UP"));
}

/// Over both interfaces; web3 is reached by the second one.
fn configure(lab: &Lab, dispatcher: &str) {
    let text = fs::read_to_string(lab.config()).unwrap();
    let interfaces =
        format!("{dispatcher}[[dispatcher.interface]]\nname = \"lan0\"\n[[dispatcher.interface]]\nname = \"lan1\"\n");
    let text = text.replacen("interface = \"lan0\"\n", &interfaces, 1).replace("\"192.0.2.13\"", "\"198.18.5.13\"");
    write_config(&lab.config(), &text);
}

fn received(lab: &Lab, host: &str, interface: &str) -> u64 {
    let text = lab.sh(host, &format!("cat /sys/class/net/{interface}/statistics/rx_packets"));
    text.trim().parse().unwrap()
}

#[test]
fn clients_come_in_by_any_interface_and_each_server_is_reached_by_its_own() {
    for mode in ["", "xdp = \"generic\"\n"] {
        let Some(lab) = Lab::up(&XDP) else { return };
        lay_second_lan(&lab);
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

#[test]
fn an_interface_that_goes_down_is_told_and_one_that_is_gone_ends_it() {
    let Some(lab) = Lab::up(&XDP) else { return };
    lay_second_lan(&lab);
    configure(&lab, "");
    let dispatcher = Dispatcher::start(&lab, &[]);
    lab.ip("lan", "link set dispatcher1 down");
    dispatcher.hear("lan1 is down: nothing comes or goes there until its link is back");
    let status: Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
    assert!(status["interface_up"].as_bool().unwrap(), "the first one is up");
    lab.ip("lan", "link set dispatcher1 up");
    dispatcher.hear("lan1 is up");
    lab.ip("dispatcher", "link del lan1");
    let (said, _) = dispatcher.fail();
    assert!(said.contains("error: lan1 is gone, and with it the frames"), "{said}");
    assert!(!lab.ip("dispatcher", "-d link show lan0").contains("prog/xdp"), "nothing is left on the other one");
}

#[test]
fn interfaces_that_do_not_fit_together_are_refused() {
    let Some(lab) = Lab::up(&XDP) else { return };
    lay_second_lan(&lab);
    configure(&lab, "");
    lab.ip("dispatcher", "link set lan1 mtu 1400");
    let output = crate::dispatcher::run(&lab, &lab.config()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("lan0 has an MTU of 1500, and lan1 of 1400"), "{said}");
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
        ("mv0", "mv0 lies on lan0, and no driver runs XDP there: write lan0 instead"),
    ] {
        write_config(&lab.config(), &text.replacen("\"lan0\"", &format!("\"{name}\""), 1));
        let output = crate::dispatcher::run(&lab, &lab.config()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wanted), "{name}: {said}");
    }
}
