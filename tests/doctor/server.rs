//! Faults of a server.

use crate::net::Net;
use crate::{Fault, fault, only, try_all};

#[test]
fn each_fault_of_a_server_is_named_alone_and_mended_by_its_command() {
    let Some(net) = Net::up() else { return };
    let faults = [
        fault("alias", "ip address del 203.0.113.80/32 dev lo"),
        fault("alias", "ip address del 2001:db8:80::80/128 dev lo"),
        fault("alias", "ip address add 203.0.113.80/32 dev lan0"),
        fault("alias", "ip address add 2001:db8:80::80/64 dev lan0 nodad"),
        fault("alias", "ip address del 203.0.113.80/32 dev lo; ip address add 203.0.113.80/24 dev lo"),
        fault("arp_ignore", "sysctl -qw net.ipv4.conf.all.arp_ignore=0"),
        fault("arp_ignore", "sysctl -qw net.ipv4.conf.lan0.arp_ignore=4"),
        fault("arp_announce", "sysctl -qw net.ipv4.conf.all.arp_announce=1"),
        fault("arp_announce", "sysctl -qw net.ipv4.conf.lan0.arp_announce=3"),
        fault("proxy_arp", "sysctl -qw net.ipv4.conf.lan0.proxy_arp=1"),
        fault("forwarding", "sysctl -qw net.ipv4.ip_forward=1"),
        fault("forwarding", "sysctl -qw net.ipv6.conf.all.forwarding=1"),
        Fault {
            after: "ip address add 2001:db8:80::80/128 dev lo nodad preferred_lft 0",
            ..fault("lo", "ip link set lo down")
        },
        Fault { after: "ip link del o0; ip route replace default via 192.0.2.1", ..fault("rp_filter", OTHER_WAY) },
    ];
    try_all(&net, "s1", "--server s1 --seconds 0", &faults);

    let healthy = net.doctor("s1", "", "--server --seconds 0");
    assert!(healthy.bad().is_empty(), "{}", healthy.text());
    net.sh("s1", "ip route del default");
    let found = net.doctor("s1", "", "--server s1 --seconds 0");
    only(&healthy, &found, "default_route", "no route");
    net.sh("s1", &found.fixes("default_route")[0].replace("ROUTER", "192.0.2.1"));
    assert!(net.doctor("s1", "", "--server s1 --seconds 0").bad().is_empty());

    let listener = net.sh("s1", "ss -Hltnp sport = :80 | sed 's/.*pid=\\([0-9]*\\).*/\\1/'");
    net.sh("s1", &format!("kill {listener}"));
    crate::net::eventually("it has ended", || net.sh("s1", "ss -Hltn sport = :80").is_empty());
    only(&healthy, &net.doctor("s1", "", "--server s1 --seconds 0"), "listening", "nobody listens");
}

const OTHER_WAY: &str =
    "ip link add o0 type veth peer name o1; ip link set o0 up; ip link set o1 up; ip address add 10.9.0.1/24 dev o0
    ip route replace default via 10.9.0.2 dev o0";

#[test]
fn a_host_that_is_no_server_is_refused_with_those_that_there_are() {
    let Some(net) = Net::up() else { return };
    let output = net.try_sh("r", &format!("{} doctor -c {}/cluster.toml --server", crate::net::ONEIP, net.dir()));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("s1, s2"));
}
