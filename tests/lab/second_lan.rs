//! A second LAN of the lab, on which one of its servers is.

use crate::network::{CLUSTER, Lab, WEB, eventually, lookup, one_each};
use std::path::Path;

/// A second LAN, br1: the dispatcher, the router and web3 are on it too, by `lan1`. Their addresses there are 198.18.5.2, .1 and .13, and
/// 2001:db8:5::2, ::1 and ::13. The dispatcher has so many queues there.
pub fn lay_second_lan(lab: &Lab, queues: u32) {
    lab.ip("lan", "link add br1 type bridge forward_delay 0 stp_state 0 mcast_snooping 0");
    lab.ip("lan", "link set br1 up");
    for (host, number) in [("router", 1), ("dispatcher", 2), ("web3", 13)] {
        let count = if host == "dispatcher" { queues } else { 1 };
        let queues = format!("numrxqueues {count} numtxqueues {count}");
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
                 ip address add 2001:db8:5::{number}/64 dev lan1 nodad
                 sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan1.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0"
            ),
        );
        let off = "tx off tso off gso off gro off rxvlan off txvlan off";
        lab.sh(host, &format!("ethtool -K lan1 {off} >/dev/null 2>&1 || true"));
        lab.sh("lan", &format!("ethtool -K {other} {off} >/dev/null 2>&1 || true"));
    }
    lab.sh("dispatcher", &format!("ethtool -L lan1 rx {queues} tx {queues}"));
    lab.sh("lan", &format!("ethtool -L dispatcher1 rx {queues} tx {queues}"));
    lab.sh("lan", "ethtool -K dispatcher1 gro on");
    eventually("its link is up", || lab.ip("dispatcher", "link show lan1").contains("state UP"));
}

/// A configuration with these keys of the dispatcher and of each interface, lan0 and lan1; web3 is reached by the second one.
pub fn over_both(config: &str, dispatcher: &str, keys: [&str; 2]) -> String {
    let section = |at: usize| format!("[[dispatcher.interface]]\nname = \"lan{at}\"\n{}", keys[at]);
    let interfaces = format!("{dispatcher}{}{}", section(0), section(1));
    let config = config.replacen("interface = \"lan0\"\n", &interfaces, 1);
    config.replace("\"192.0.2.13\"", "\"198.18.5.13\"").replace("\"2001:db8:2::13\"", "\"2001:db8:5::13\"")
}

pub fn received(lab: &Lab, host: &str, interface: &str) -> u64 {
    let text = lab.sh(host, &format!("cat /sys/class/net/{interface}/statistics/rx_packets"));
    text.trim().parse().unwrap()
}

/// Which server each client gets, of both families, by whichever interface it comes in; what a client of these servers sends and gets arrives
/// whole.
pub fn serves_both_families(lab: &Lab, config: &Path, clients: &[Vec<String>; 2], transfers: &[&str]) {
    for (second, by) in [(false, ["192.0.2.2", "2001:db8:2::2"]), (true, ["198.18.5.2", "2001:db8:5::2"])] {
        for family in [0, 1] {
            let prefix = ["/32", "/128"][family];
            lab.ip("router", &format!("route replace {}{prefix} via {}", CLUSTER[family], by[family]));
            let expected = lookup(config, WEB[family], &clients[family], &[]);
            eventually("all are served", || lab.fetch_within(2, family, &clients[family]) == expected);
            assert_eq!(lab.fetch(family, &clients[family]), expected, "by the second interface: {second}");
            for (client, server) in
                one_each(&expected).iter().filter(|(_, server)| transfers.contains(&server.as_str()))
            {
                lab.transfer(family, client, server);
            }
        }
    }
}
