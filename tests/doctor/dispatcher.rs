//! Faults of a dispatcher that does not run.

use crate::net::{CLUSTER4, CLUSTER6, HEALTH, Net, ONEIP, eventually, shell};
use crate::{Fault, fault, only, try_all};
use std::fs;
use std::process::Command;

/// A program that does nothing, for others to find.
const PROGRAM: &str = "printf '__attribute__((section(\"xdp\"), used)) int p(void *c) { return 2; }\\n' >DIR/p.c
    clang -target bpf -O2 -g -c DIR/p.c -o DIR/p.o; ip link set dev lan0 xdp obj DIR/p.o sec xdp";

#[test]
fn each_fault_of_the_host_is_named_alone_and_mended_by_its_command() {
    let Some(net) = Net::up() else { return };
    let v6 = "ip address replace 2001:db8:2::2/64 dev lan0 nodad; ip -6 route replace default via 2001:db8:2::1";
    let both = "ip route replace default via 192.0.2.1; ip address replace 2001:db8:2::2/64 dev lan0 nodad
        ip -6 route replace default via 2001:db8:2::1";
    let faults = [
        Fault { after: both, ..fault("link", "ip link set lan0 down") },
        Fault {
            after: "ip link del br9",
            ..fault("master", "ip link add br9 type bridge; ip link set lan0 master br9")
        },
        fault("mtu", "ip link set lan0 mtu 1400"),
        fault("vlan_stripping", "ethtool -K lan0 rxvlan on"),
        fault("send_redirects", "sysctl -qw net.ipv4.conf.all.send_redirects=1"),
        fault("send_redirects", "sysctl -qw net.ipv4.conf.lan0.send_redirects=1"),
        fault("send_redirects", "sysctl -qw net.ipv4.conf.all.send_redirects=1 net.ipv4.conf.lan0.send_redirects=1"),
        fault("ip_forward", "sysctl -qw net.ipv4.ip_forward=1"),
        fault("ipv6_forwarding", "sysctl -qw net.ipv6.conf.all.forwarding=1"),
        fault("proxy_arp", "sysctl -qw net.ipv4.conf.all.proxy_arp=1"),
        fault("proxy_arp", "sysctl -qw net.ipv4.conf.lan0.proxy_arp=1"),
        fault("cluster_address", "ip address add 203.0.113.80/32 dev lan0"),
        fault("cluster_address", "ip address add 203.0.113.80/32 dev lo"),
        fault("cluster_address", "ip address add 2001:db8:80::80/128 dev lo"),
        Fault { after: v6, ..fault("ipv6_disabled", "sysctl -qw net.ipv6.conf.lan0.disable_ipv6=1") },
        Fault { after: "ip route del 192.0.2.12", ..fault("routes", "ip route add unreachable 192.0.2.12/32") },
        Fault {
            after: "ip -6 route del 2001:db8:2::12",
            ..fault("routes", "ip route add unreachable 2001:db8:2::12/128 metric 1024")
        },
        Fault { after: "ip route del 192.0.2.12", ..fault("same_link", "ip route add 192.0.2.12/32 via 192.0.2.1") },
        Fault {
            after: "ip route del 192.0.2.12; ip link del o0",
            ..fault(
                "same_link",
                "ip link add o0 type veth peer name o1; ip link set o0 up; ip link set o1 up; ip route add 192.0.2.12/32 dev o0",
            )
        },
        Fault {
            after: "ip link del o0",
            ..fault(
                "rp_filter",
                "ip link add o0 type veth peer name o1; ip link set o0 up; ip link set o1 up; ip route add 203.0.113.80/32 dev o0",
            )
        },
        fault(
            "server_macs",
            "ping -c1 -W2 -q 192.0.2.1; ip neigh replace 192.0.2.12 lladdr 02:00:00:00:00:01 nud permanent dev lan0",
        ),
        fault("server_macs", "ip neigh replace 192.0.2.12 lladdr 02:00:00:00:00:02 nud permanent dev lan0"),
        fault("port_range", "sysctl -qw net.ipv4.ip_local_port_range='32768 64000'"),
        fault("probe_rules", "ip rule add pref 1 fwmark 0x6f6e0000/0xffff0000 lookup main"),
        fault("probe_rules", "ip rule add pref 0 lookup main"),
        fault("probe_rules", "ip rule add pref 40999 fwmark 0x6f6e0000/0xffff0000 prohibit protocol 111"),
        fault("xdp_program", PROGRAM),
        fault("state_file", "rmdir DIR/state; touch DIR/state"),
    ];
    try_all(&net, "d", "--seconds 0", &faults);
}

/// A host of the network has mounts of its own, that of the whole machine here comes there.
#[test]
fn a_bpf_file_system_that_is_not_mounted_is_named_and_mounted() {
    let Some(net) = Net::up() else { return };
    let healthy = net.doctor("d", "", "--seconds 0");
    shell(&format!("umount {}/bpf", net.dir()));
    let found = net.doctor("d", "", "--seconds 0");
    only(&healthy, &found, "bpf_fs", "umount");
    shell(&found.fixes("bpf_fs")[0]);
    assert_eq!(net.doctor("d", "", "--seconds 0").bad(), healthy.bad());
}

#[test]
fn a_clock_that_was_set_back_is_named() {
    let Some(net) = Net::up() else { return };
    let healthy = net.doctor("d", "", "--seconds 0");
    let state = net.path("state/state.json");
    net.sh("d", &format!("touch -d '1 hour' {}", state.display()));
    let found = net.doctor("d", "", "--seconds 0");
    only(&healthy, &found, "clock", "a state file that is newer than now");
    assert!(found.text().contains("s behind the last write of the state file"), "{}", found.text());
    // Its command sets the machine's clock: here the file becomes as old as that would make it.
    assert_eq!(found.fixes("clock"), ["timedatectl set-ntp true"]);
    net.sh("d", &format!("touch {}", state.display()));
    assert_eq!(net.doctor("d", "", "--seconds 0").bad(), healthy.bad());
}

#[test]
fn queues_of_af_xdp_are_held_against_cores_and_the_driver() {
    let Some(net) = Net::up() else { return };
    net.write("cluster.toml", &net.config("engine = \"af_xdp\"\ncores = [0]\n", HEALTH));
    let faults = [fault("queues", "ethtool -L lan0 rx 2 tx 1"), fault("mtu", "ip link set lan0 mtu 9000")];
    try_all(&net, "d", "--seconds 0", &faults);
    let healthy = net.doctor("d", "", "--seconds 0");
    assert!(healthy.bad().contains("zero_copy"), "a veth has none");

    // A core may serve several queues, but not more cores than there are queues.
    net.write("cluster.toml", &net.config("engine = \"af_xdp\"\ncores = [0, 1]\n", HEALTH));
    net.sh("d", "ethtool -L lan0 rx 2 tx 2");
    try_all(&net, "d", "--seconds 0", &[fault("queues", "ethtool -L lan0 rx 1 tx 1")]);
    net.write("cluster.toml", &net.config("engine = \"af_xdp\"\ncores = [0]\n", HEALTH));
    assert_eq!(net.doctor("d", "", "--seconds 0").bad(), healthy.bad(), "one core for two queues");
    net.sh("d", "ethtool -L lan0 rx 1 tx 1");

    // A limit counts for who has neither of these capabilities.
    let limited = "bash -c 'prlimit --pid $$ --memlock=65536:65536; exec \"$@\"' -- setpriv --bounding-set=-ipc_lock,-sys_resource --";
    let found = net.doctor("d", limited, "--seconds 0");
    only(&healthy, &found, "memlock", limited);
    let fix = found.fixes("memlock").remove(0);
    assert_eq!(fix, "prlimit --pid $$ --memlock=unlimited:unlimited");
    // Root of a container may not raise it either.
    if net.try_sh("d", &fix).status.success() {
        let mended = limited.replace("65536; exec", &format!("65536; {fix}; exec"));
        assert_eq!(net.doctor("d", &mended, "--seconds 0").bad(), healthy.bad());
    }
}

#[test]
fn capabilities_that_lack_are_given_by_setcap() {
    let Some(net) = Net::up() else { return };
    // Who has none may read the configuration and run a copy.
    net.sh("d", &format!("cp {ONEIP} {0}/oneip; chmod 755 {0} {0}/oneip; chmod 644 {0}/cluster.toml", net.dir()));
    net.sh("d", &format!("chown -R 65534 {}/state {0}/cluster.toml", net.dir()));
    let doctor = |setcap: &str| {
        net.sh("d", setcap);
        let script = format!(
            "setpriv --reuid 65534 --clear-groups {0}/oneip doctor -c {0}/cluster.toml --json --seconds 0",
            net.dir()
        );
        let said = net.try_sh("d", &script).stdout;
        let document: serde_json::Value = serde_json::from_slice(&said).expect("a document");
        let all = document["checks"].as_array().expect("a list").clone();
        all.into_iter().find(|finding| finding["name"] == "capabilities").expect("the check")
    };
    let lacking = doctor("true");
    assert_eq!(lacking["state"], "fail", "{lacking}");
    let mended = doctor(lacking["fix"].as_str().expect("a command"));
    assert_eq!(mended["state"], "ok", "{mended}");
}

#[test]
fn the_other_end_of_a_veth_needs_gro_for_the_engine_in_the_kernel() {
    let Some(net) = Net::up() else { return };
    let healthy = net.doctor("d", "", "--seconds 0");
    // The second time it has GRO, and the kernel does not know.
    for unseen in [
        "ethtool -K d gro off",
        "ethtool -K d gro off; ip link set dev d down; ethtool -K d gro on; ip link set dev d up",
    ] {
        net.sh("lan", unseen);
        let found = net.doctor("d", "", "--seconds 0");
        only(&healthy, &found, "xdp_transmit", unseen);
        net.sh("lan", &found.fixes("xdp_transmit")[0].replace("PEER", "d"));
        assert_eq!(net.doctor("d", "", "--seconds 0").bad(), healthy.bad(), "{unseen}");
    }

    net.write("cluster.toml", &net.config("xdp = \"generic\"\n", HEALTH));
    try_all(&net, "d", "--seconds 0", &[fault("gro", "ethtool -K lan0 gro on")]);
}

#[test]
fn servers_that_do_not_answer_and_wrong_configurations_are_told() {
    let Some(net) = Net::up() else { return };
    let healthy = net.doctor("d", "", "--seconds 0");
    net.sh("s2", "ip link set lan0 down");
    net.sh("d", "ip neigh flush dev lan0");
    let found = net.doctor("d", "", "--seconds 0");
    only(&healthy, &found, "neighbours", "the server's link");
    assert!(found.text().contains("server s2 192.0.2.12 does not answer"), "{}", found.text());
    net.sh("s2", "ip link set lan0 up; ip address replace 2001:db8:2::12/64 dev lan0 nodad");

    for (name, text) in [
        ("configuration", "[cluster]\n".to_owned()),
        ("interface", net.config("", HEALTH).replace("lan0", "eth9")),
        ("health", net.config("", "")),
    ] {
        net.write("cluster.toml", &text);
        let found = net.doctor("d", "", "--seconds 0");
        only(&healthy, &found, name, name);
    }
}

#[test]
fn unfinished_checksums_of_a_sender_are_seen_and_mended_there() {
    let Some(mut net) = Net::up() else { return };
    let healthy = net.doctor("d", "", "--seconds 1");
    let traffic = net.start("r", &format!("while :; do curl -s --max-time 0.2 http://{CLUSTER4}/ || true; curl -s -g --max-time 0.2 'http://[{CLUSTER6}]/' || true; done"));
    assert_eq!(net.doctor("d", "", "--seconds 2").bad(), healthy.bad(), "finished ones are nobody's fault");
    net.sh("r", "ethtool -K lan0 tx on");
    // The last to send them on.
    net.sh("lan", "ethtool -K d tx on");
    let found = net.doctor("d", "", "--seconds 2");
    only(&healthy, &found, "checksums", "tx on");
    net.sh("r", &found.fixes("checksums")[0]);
    assert_eq!(net.doctor("d", "", "--seconds 2").bad(), healthy.bad());
    net.end(traffic);
}

/// The kernel sends them if either of two settings says so: its command is about both.
#[test]
fn redirects_of_a_router_are_seen_and_ended_there() {
    let Some(mut net) = Net::up() else { return };
    // What goes to another router on the link, of two senders: one gets few and ever fewer (ip_rt_send_redirect, net/ipv4/route.c).
    net.sh("r", "ip route add 198.51.100.99 via 192.0.2.11");
    let ignore = "sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.lan0.accept_redirects=0";
    net.sh("d", &format!("{ignore}; ip address add 192.0.2.3/24 dev lan0"));
    let ping = |net: &mut Net, sender: &str| net.start("d", &format!("exec ping -q -i 0.1 -I {sender} 198.51.100.99"));
    let pinging = ping(&mut net, "192.0.2.2");
    let healthy = net.doctor("d", "", "--seconds 1");
    net.end(pinging);
    for (setting, sender) in [("all", "192.0.2.2"), ("lan0", "192.0.2.3")] {
        net.sh("r", &format!("sysctl -qw net.ipv4.conf.{setting}.send_redirects=1"));
        let pinging = ping(&mut net, sender);
        let mut found = net.doctor("d", "", "--seconds 1");
        eventually("redirects are seen", || {
            found = net.doctor("d", "", "--seconds 1");
            found.bad() != healthy.bad()
        });
        only(&healthy, &found, "redirects_seen", setting);
        assert!(found.text().contains("02:00:00:00:00:01 has sent"), "{}", found.text());
        net.sh("r", &found.fixes("redirects_seen")[0]);
        let both = "sysctl -n net.ipv4.conf.all.send_redirects net.ipv4.conf.lan0.send_redirects";
        assert_eq!(net.sh("r", both), "0\n0\n", "{setting}");
        assert_eq!(net.doctor("d", "", "--seconds 1").bad(), healthy.bad(), "{setting}");
        net.end(pinging);
    }
}

#[test]
fn without_a_configuration_it_looks_at_the_host_alone_and_text_says_the_same() {
    let Some(net) = Net::up() else { return };
    let output = net.try_sh("d", &format!("{ONEIP} doctor -c {}/cluster.toml --seconds 0", net.dir()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("ok    link"), "{said}");
    net.sh("d", "sysctl -qw net.ipv4.ip_forward=1");
    let output = net.try_sh("d", &format!("{ONEIP} doctor -c {}/cluster.toml --seconds 0", net.dir()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "a warning is no failure");
    let lines: Vec<&str> = said.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("warn  ip_forward ")).expect(&said);
    assert_eq!(lines[at + 1].trim_start(), "fix: sysctl -w net.ipv4.ip_forward=0", "{said}");
    net.sh("d", "sysctl -qw net.ipv4.ip_forward=0");
    let missing = Command::new(ONEIP).args(["doctor", "-c", "/nowhere.toml"]).output().expect("it runs");
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).starts_with("error: 1 check fails"));
    assert!(fs::metadata("/nowhere.toml").is_err());
}
