//! Faults of a server.

use crate::net::{CLUSTER4, Net, ONEIP, eventually};
use crate::{Fault, fault, only, try_all};
use std::collections::BTreeSet;
use std::fs;

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

/// A server's filter, in a cluster of the two servers without a dispatcher.
#[test]
fn a_filter_that_runs_or_does_not_is_looked_at_too() {
    let Some(mut net) = Net::up() else { return };
    let text = net.config("", crate::net::HEALTH).replace("[dispatcher]", "[filter]").replace("engine = \"xdp\"\n", "");
    let doctor = |net: &Net| net.doctor("s1", "", &format!("-c {}/filter.toml --server s1 --seconds 0", net.dir()));
    net.write("filter.toml", &text);
    for server in ["s1", "s2"] {
        net.sh(server, &format!("{ONEIP} server add -c {}/filter.toml --broadcast", net.dir()));
    }
    let found = doctor(&net);
    assert!(found.bad().contains("filter") && found.text().contains("no `oneip filter` runs here"), "{}", found.text());

    let run = |net: &mut Net, server: &str, file: &str| {
        net.start(
            server,
            &format!("exec {ONEIP} filter --json -c {0}/{file} >{0}/{server}.out 2>{0}/{server}.log", net.dir()),
        );
        let log = net.path(&format!("{server}.log"));
        let said = || fs::read_to_string(&log).unwrap_or_default();
        eventually("it is ready", || said().contains("\nready"));
    };
    run(&mut net, "s1", "filter.toml");
    eventually("nobody else is heard", || doctor(&net).text().contains("the filter of s2 is not heard"));
    assert!(!doctor(&net).bad().contains("filter"), "{}", doctor(&net).text());
    // The other one has a folder of its own, and first another weight.
    let other = text.replace("oneip.sock", "s2.sock").replace("state/state.json", "state/s2.json");
    net.write("s2.toml", &other.replacen("address = \"192.0.2.12\"\n", "address = \"192.0.2.12\"\nweight = 2\n", 1));
    run(&mut net, "s2", "s2.toml");
    eventually("they differ", || {
        doctor(&net).text().contains("the filter of s2 has another configuration than this one")
    });
    net.write("s2.toml", &other);
    net.sh("s2", &format!("{ONEIP} ctl --socket {}/s2.sock reload --force", net.dir()));
    eventually("they agree", || !doctor(&net).bad().contains("peers"));
    assert_eq!(doctor(&net).bad(), BTreeSet::new());
}

/// What a veth leaves to a card is forwarded as it is. Echo requests are whole.
#[test]
fn unfinished_checksums_are_seen_where_they_arrive() {
    let Some(mut net) = Net::up() else { return };
    net.run();
    eventually("all servers are up", || net.doctor("d", "", "--seconds 0").bad().is_empty());
    let doctor = |net: &Net, server: &str| net.doctor(server, "", &format!("--server {server} --seconds 1")).bad();
    let fetch = format!("curl -s -o /dev/null --max-time 0.5 --interface 198.51.100.7 http://{CLUSTER4}/");
    eventually("it is served", || net.try_sh("r", &fetch).status.success());
    let fetching = net.start("r", &format!("while :; do {fetch} || sleep 0.05; done"));
    for server in ["s1", "s2"] {
        assert_eq!(doctor(&net, server), BTreeSet::new());
    }

    net.sh("r", "ethtool -K lan0 tx on");
    // The last to send them on.
    net.sh("lan", "ethtool -K d tx on");
    eventually("one of them gets these", || {
        let bad = doctor(&net, "s1").into_iter().chain(doctor(&net, "s2"));
        bad.collect::<Vec<_>>() == ["checksums"]
    });
    assert!(!net.try_sh("r", &fetch).status.success());
    net.sh("r", &format!("ping -c1 -W2 -q -I 198.51.100.7 {CLUSTER4}"));

    net.sh("r", "ethtool -K lan0 tx off tso off gso off gro off");
    eventually("it is served", || net.try_sh("r", &fetch).status.success());
    net.end(fetching);
}
