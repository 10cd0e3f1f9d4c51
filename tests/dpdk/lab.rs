//! Real traffic: the lab, with curl and nginx in it, dispatched over DPDK devices that sit on the dispatcher's veth.

use crate::captured::{Capture, check, read};
use crate::dispatcher::Dispatcher;
use crate::echo::{Echo, round_trip};
use crate::network::{ECHO, HEALTH, Lab, WEB, clients, eventually, lookup, one_each, say, write_config};
use crate::second_lan::{lay_second_lan, over_both, received, serves_both_families};
use std::fs;
use std::path::{Path, PathBuf};

const OWN: [&str; 2] = ["192.0.2.2", "2001:db8:2::2"];

/// The lab's configuration, with this engine.
fn config(lab: &Lab, interface: &str, dpdk: &str) -> PathBuf {
    let file = lab.file("dpdk.toml");
    let text = fs::read_to_string(lab.config()).unwrap();
    let section = format!(
        "interface = \"{interface}\"\nengine = \"dpdk\"\n\n[dpdk]\neal = [\"--no-huge\", \"-m\", \"64\"]\n{dpdk}\n"
    );
    write_config(&file, &text.replace("interface = \"lan0\"\n", &section));
    file
}

/// Has the servers of the first service checked at the cluster address. Checks share the one worker with all clients, and its core with the
/// workers of other tests: with timeouts of 500 ms, beside two busy loops, servers were found down while a client sent 20 MiB.
fn check_health(config: &Path) {
    let text = fs::read_to_string(config).unwrap();
    let health = HEALTH.replace("_ms = 500", "_ms = 2000");
    fs::write(config, text.replacen("[[service.server]]", &format!("{health}[[service.server]]"), 1)).unwrap();
}

/// The dispatcher's own addresses go from its interface to a tap.
fn move_to_tap(lab: &Lab) {
    lab.sh(
        "dispatcher",
        "ip tuntap add dev oneip0 mode tap
         echo 0 >/proc/sys/net/ipv6/conf/oneip0/accept_dad
         ip address flush dev lan0 scope global
         ip link set oneip0 up
         ip address add 192.0.2.2/24 dev oneip0
         ip address add 2001:db8:2::2/64 dev oneip0 nodad
         ip route replace default via 192.0.2.1
         ip route replace default via 2001:db8:2::1",
    );
}

/// Everything that clients do, and what the dispatcher's own host does, goes on as it should.
fn dispatches(lab: &Lab, dispatcher: &Dispatcher, config: &Path, fragments: [bool; 2]) {
    for family in [0, 1] {
        let clients = clients(family);
        let expected = lookup(config, WEB[family], &clients, &[]);
        assert_eq!(lab.fetch(family, &clients), expected, "{}", dispatcher.said());
        let (client, server) = &one_each(&expected)[0];
        lab.transfer(family, client, server);
        assert_eq!(lab.ping(family, &clients[..24], 56), 24);
        if fragments[family] {
            assert_eq!(lab.ping(family, &clients[..24], 3000), 24, "in fragments");
        }
        for (client, server) in lookup(config, ECHO[family], &clients[..20], &[]) {
            let socket = lab.datagrams(family, &client);
            for length in [18, 1400, 4000].into_iter().filter(|length| *length < 1500 || fragments[family]) {
                assert_eq!(round_trip(&socket, length), Some(server.clone()), "{client}, {length} bytes");
            }
        }
        // ARP and neighbour discovery have to be answered again, and echo requests are.
        lab.sh("router", "ip neigh flush dev lan0 || true");
        lab.sh("router", &format!("ping -c3 -i0.2 -W2 -q {} >/dev/null", OWN[family]));
        lab.sh("dispatcher", &format!("ping -c1 -W2 -q {} >/dev/null", ["192.0.2.1", "2001:db8:2::1"][family]));
    }
}

/// Of the process's threads; also of those that DPDK starts.
fn only_the_devices_thread_and_control_have_privileges(dispatcher: &Dispatcher) {
    let folder = format!("/proc/{}/task", dispatcher.child().id());
    let privileged = || -> Vec<String> {
        let threads = fs::read_dir(&folder).unwrap().map(|thread| thread.unwrap().path());
        let privileged = threads.filter(|thread| {
            let status = fs::read_to_string(thread.join("status")).unwrap();
            let held = |set: &str| status.lines().find_map(|line| line.strip_prefix(set)).unwrap().trim().to_owned();
            held("CapEff:") != "0000000000000000" || held("CapPrm:") != "0000000000000000"
        });
        let name = |thread: PathBuf| fs::read_to_string(thread.join("comm")).unwrap().trim().to_owned();
        let mut names: Vec<String> = privileged.map(name).collect();
        names.sort();
        names
    };
    eventually("all others give theirs up", || privileged() == ["oneip", "oneip-dpdk"]);
}

#[test]
fn over_net_af_packet_beside_the_kernel() {
    let Some(lab) = Lab::up(&[]) else { return };
    let _echo = Echo::serve(&lab);
    let config = config(&lab, "lan0", "port = \"net_af_packet0,iface=lan0\"");
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    say(&dispatcher.said());
    // The driver has the kernel put IPv4 fragments together (PACKET_FANOUT_FLAG_DEFRAG), to packets that no link carries.
    dispatches(&lab, &dispatcher, &config, [false, true]);
    let account = dispatcher.stop();
    assert_eq!(account.dropped_total(), 0, "{}", account.json);
    assert!(account.number("passed") > 0, "{}", account.json);
    let latency = &account.json["latency_ns"];
    assert_eq!(latency["count"].as_u64(), Some(account.number("forwarded")), "{latency}");
}

#[test]
fn over_net_af_xdp_with_a_tap_for_the_kernel() {
    let Some(lab) = Lab::up(&[]) else { return };
    let _echo = Echo::serve(&lab);
    move_to_tap(&lab);
    let config = config(&lab, "oneip0", "port = \"net_af_xdp0,iface=lan0\"");
    check_health(&config);
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    say(&dispatcher.said());
    dispatches(&lab, &dispatcher, &config, [true, true]);
    only_the_devices_thread_and_control_have_privileges(&dispatcher);
    // Health checks take the clients' way, out through the tap and the device, and so do their failures.
    lab.ip("web2", "address del 203.0.113.80/32 dev lo");
    dispatcher.hear("server web2 of service web is down");
    let others = lookup(&config, WEB[0], &clients(0), &["--down", "web2"]);
    eventually("its clients are served by others", || lab.fetch(0, &clients(0)) == others);
    lab.ip("web2", "address add 203.0.113.80/32 dev lo");
    dispatcher.hear("server web2 of service web is up");
    let account = dispatcher.stop();
    assert_eq!(account.dropped_total(), 0, "{}", account.json);

    // What the kernel refuses has not been passed.
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    lab.ip("router", "neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev lan0 nud permanent");
    lab.ip("dispatcher", "link set oneip0 down");
    lab.sh("router", "ping -c20 -i0.01 -W1 -q 192.0.2.2 >/dev/null || true");
    lab.ip("dispatcher", "link set oneip0 up");
    let account = dispatcher.stop();
    assert!(account.dropped("pass_full") >= 20, "{}", account.json);
    assert_eq!(account.dropped_total(), account.dropped("pass_full"), "{}", account.json);
    lab.sh("router", "ip neigh del 192.0.2.2 dev lan0");
    lab.sh(
        "dispatcher",
        "ip address replace 2001:db8:2::2/64 dev oneip0 nodad; ip route replace default via 192.0.2.1",
    );
    lab.sh("dispatcher", "ip route replace default via 2001:db8:2::1");

    // A second process, after one that was killed.
    Dispatcher::start_with(&lab, &config, &[]).kill();
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    let expected = lookup(&config, WEB[0], &clients(0), &[]);
    eventually("clients are served again", || lab.fetch(0, &clients(0)) == expected);
    dispatcher.stop();
}

/// web3 is reached by the second device, by whichever clients come in.
#[test]
fn over_two_devices_clients_come_in_by_either_and_each_server_is_reached_by_its_own() {
    let Some(lab) = &Lab::up(&[]) else { return };
    lay_second_lan(lab, 1);
    move_to_tap(lab);
    lab.sh(
        "dispatcher",
        "ip tuntap add dev oneip1 mode tap
         echo 0 >/proc/sys/net/ipv6/conf/oneip1/accept_dad
         ip address flush dev lan1 scope global
         ip link set oneip1 up
         ip address add 198.18.5.2/24 dev oneip1
         ip address add 2001:db8:5::2/64 dev oneip1 nodad
         sysctl -qw net.ipv4.conf.oneip0.rp_filter=0 net.ipv4.conf.oneip1.rp_filter=0",
    );
    let text = over_both(&fs::read_to_string(lab.config()).unwrap(), "engine = \"dpdk\"\n", ["", ""]);
    let text = text.replace("\"lan0\"", "\"oneip0\"").replace("\"lan1\"", "\"oneip1\"");
    let ports = "port = [\"net_af_xdp0,iface=lan0\", \"net_af_xdp1,iface=lan1\"]";
    let config = lab.file("dpdk.toml");
    write_config(&config, &format!("{text}\n[dpdk]\neal = [\"--no-huge\", \"-m\", \"64\"]\n{ports}\n"));
    check_health(&config);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    say(&dispatcher.said());
    let some = [0, 1].map(|family| clients(family)[..60].to_vec());
    let by_second = received(lab, "web3", "lan1");
    serves_both_families(lab, &config, &some, &["web1", "web3"]);
    assert!(received(lab, "web3", "lan1") > by_second + 100, "web3 is reached by lan1");
    only_the_devices_thread_and_control_have_privileges(&dispatcher);
    let account = dispatcher.stop();
    assert_eq!(account.dropped_total(), 0, "{}", account.json);
}

/// The tap is this host's only sight of the network: without the port's link it has no carrier, and nobody's servers are judged.
#[test]
fn a_link_that_goes_down_takes_the_taps_carrier_with_it() {
    let _turn = crate::turn();
    let Some(lab) = &Lab::up(&[]) else { return };
    move_to_tap(lab);
    let config = config(lab, "oneip0", "port = \"net_tap0,iface=port0\"");
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    let carrier = || lab.sh("dispatcher", "cat /sys/class/net/oneip0/carrier").trim().to_owned();
    assert_eq!(carrier(), "1");
    lab.ip("dispatcher", "link set port0 down");
    eventually("the carrier is gone", || carrier() == "0");
    dispatcher.hear("oneip0 is down: nothing comes or goes there until its link is back");
    lab.ip("dispatcher", "link set port0 up");
    eventually("the carrier is back", || carrier() == "1");
    dispatcher.hear("oneip0 is up");
    dispatcher.stop();
}

/// Of a device that has no kernel beside it, a capture has what is passed to the kernel too.
#[test]
fn a_capture_has_what_is_forwarded_dropped_and_passed() {
    let Some(lab) = &Lab::up(&[]) else { return };
    move_to_tap(lab);
    let config = config(lab, "oneip0", "port = \"net_af_xdp0,iface=lan0\"");
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    let two = &clients(0)[..2];
    let (client, server) = &lookup(&config, WEB[0], two, &[])[0];
    let file = lab.file("captured.pcapng");
    let capture = |some: &[&str]| Capture::start(lab, &[&["--out", file.to_str().unwrap()], some].concat());

    let forwarded = capture(&["--client", client, "--service", "web"]);
    lab.fetch(0, two);
    eventually("a connection is in the file", || read(&file).len() >= 8);
    let said = forwarded.interrupt();
    let packets = read(&file);
    assert_eq!(said, format!("{} frames captured, 0 lost because the buffer was full\n", packets.len()));
    check(&packets, client, server);

    // The port of no service, and the address of the dispatcher's own.
    let dropped = capture(&["--where", "drop", "--count", "1", "--seconds", "20"]);
    let _ = lab.curl(client, &["--max-time", "2", "http://203.0.113.80:81/"]).output().unwrap();
    dropped.end();
    let packets = read(&file);
    assert!(packets[0].comment.starts_with("verdict=drop reason=no_service "), "{}", packets[0].comment);
    let passed = capture(&["--client", "192.0.2.1", "--count", "3", "--seconds", "20"]);
    lab.sh("router", "ping -c3 -i0.2 -W2 -q 192.0.2.2 >/dev/null");
    passed.end();
    for packet in read(&file) {
        assert!(packet.comment.starts_with("verdict=pass queue=") && !packet.is_sent, "{}", packet.comment);
    }
    dispatcher.stop();
}
