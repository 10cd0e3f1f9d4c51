//! For broadcast-based dispatch: what the kernel does with the router's frames, and what the verbs make of it.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use oneip::engine::filter::{Filter, Generation};
use oneip::model::Mac;
use oneip::server::{self, Dispatch, Error, Grade, Report};
use oneip::table::build::Cluster;
use oneip::xdp::interface::Interface;

use super::grades;
use super::lan::{CLUSTER4, CLUSTER6, Lan, SERVER_MAC};

const EVERYONE: &str = "ff:ff:ff:ff:ff:ff";
const GROUP: Mac = Mac([3, 0, 0x5e, 0, 0, 0x50]);

const BROADCAST: Dispatch = Dispatch::Broadcast { group: None };
const MULTICAST: Dispatch = Dispatch::Broadcast { group: Some(GROUP) };

#[test]
fn add_makes_it_sound_and_remove_restores_what_was() {
    need_root!();
    let lan = Lan::new();
    lan.server_sh(
        "sysctl -qw net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1 net/ipv4/conf/lan0/rp_filter=1 \
         net/ipv4/conf/all/send_redirects=1 net/ipv4/conf/lan0/send_redirects=1",
    );
    let before = lan.settings();
    assert!(lan.check_for(MULTICAST).verdict().is_err());

    lan.add_for(MULTICAST).expect("add");
    lan.check_for(MULTICAST).verdict().expect("sound after add");
    let after = lan.settings();
    assert!(after.contains(&format!("link  {GROUP}")), "{after}");
    let again = lan.add_for(MULTICAST).expect("add again");
    assert_eq!(grades(&again), [Grade::Ok; 2], "{again}");
    assert_eq!(lan.settings(), after);

    lan.remove(None).expect("remove");
    assert_eq!(lan.settings(), before);
    assert!(!lan.journal().exists());
}

#[test]
fn check_names_what_is_wrong_and_the_command_that_mends_it() {
    need_root!();
    let lan = Lan::new();
    lan.add_for(MULTICAST).expect("add");
    let cases = [
        (
            "sysctl -qw net/ipv4/conf/lan0/drop_unicast_in_l2_multicast=0",
            "lan0/drop_unicast_in_l2_multicast is 0 (all 0)",
        ),
        (
            "sysctl -qw net/ipv6/conf/lan0/drop_unicast_in_l2_multicast=0",
            "ipv6/conf/lan0/drop_unicast_in_l2_multicast is 0",
        ),
        ("sysctl -qw net/ipv4/conf/lan0/forwarding=1", "ipv4/conf/lan0/forwarding is 1"),
        ("sysctl -qw net/ipv6/conf/all/forwarding=1", "ipv6/conf/all/forwarding is 1"),
        ("sysctl -qw net/ipv4/conf/all/send_redirects=1", "all/send_redirects is 1"),
        ("sysctl -qw net/ipv4/conf/lan0/send_redirects=1", "lan0/send_redirects is 1 (all 0)"),
        ("sysctl -qw net/ipv4/conf/lan0/rp_filter=1", "lan0/rp_filter is 1 (all 0)"),
        ("sysctl -qw net/ipv4/conf/lan0/rp_filter=0 net/ipv4/conf/all/rp_filter=1", "lan0/rp_filter is 0 (all 1)"),
        ("ip maddress del 03:00:5e:00:00:50 dev lan0", "group 03:00:5e:00:00:50 on lan0 is not joined"),
    ];
    for (fault, expected) in cases {
        lan.server_sh(fault);
        let report = lan.check_for(MULTICAST);
        let wrong: Vec<_> = report.lines.iter().filter(|line| line.grade == Grade::Wrong).collect();
        assert!(matches!(&wrong[..], [line] if line.text.contains(expected)), "after {fault}: {report}");
        lan.server_sh(wrong[0].mend.as_ref().expect("a command"));
        let mended = lan.check_for(MULTICAST);
        mended.verdict().unwrap_or_else(|_| panic!("after mending {fault}: {mended}"));
    }
}

#[test]
fn a_router_on_purpose_goes_on_routing() {
    need_root!();
    let lan = Lan::new();
    lan.server_sh(
        "ip link add inside0 type veth peer name inside1; ip link set inside0 up
         sysctl -qw net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1",
    );
    let added = lan.add_for(BROADCAST).expect("add");
    for report in [added, lan.check_for(BROADCAST)] {
        report.verdict().expect("it only warns");
        let warnings = report.lines.iter().filter(|line| line.grade == Grade::Warning);
        let mends: Vec<_> = warnings.filter_map(|line| line.mend.as_deref()).collect();
        assert_eq!(mends, ["sysctl -w net/ipv4/conf/lan0/forwarding=0", "sysctl -w net/ipv6/conf/all/forwarding=0"]);
    }
    lan.server_sh("ip link set inside0 down");
    assert!(lan.check_for(BROADCAST).verdict().is_err(), "no interface to route to is up");
}

#[test]
fn no_filter_no_answer() {
    need_root!();
    let lan = Lan::new();
    lan.router_sends_to(EVERYONE);
    lan.add(None).expect("add, as for routing-based dispatch");
    assert!(lan.router_reaches(CLUSTER4) && lan.router_reaches(CLUSTER6), "every server would answer");
    lan.add_for(BROADCAST).expect("add");
    assert!(!lan.router_reaches(CLUSTER4) && !lan.router_reaches(CLUSTER6));
    assert!(
        lan.router_reaches("192.0.2.11") && lan.router_reaches("2001:db8:2::11"),
        "frames to the server itself are taken"
    );
    lan.with_filter(|| {
        for cluster in [CLUSTER4, CLUSTER6] {
            assert!(lan.router_reaches(cluster), "what the filter keeps is taken: {cluster}");
        }
        let listener = lan.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("listen"));
        lan.inside_router(|| {
            let client = TcpStream::connect_timeout(&format!("{CLUSTER4}:80").parse().unwrap(), Duration::from_secs(5));
            drop(listener.accept().expect("a connection"));
            let end = client.expect("a connection").read(&mut [0]).expect("its end");
            assert_eq!(end, 0);
        });
    });
}

#[test]
fn nothing_goes_back_to_the_router() {
    need_root!();
    let lan = Lan::new();
    lan.server_sh("sysctl -qw net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1");
    let forwarded = |mac: &str| {
        lan.router_sends_to(mac);
        let before = (lan.count("IpForwDatagrams"), lan.count("Ip6OutForwDatagrams"));
        assert!(!lan.router_reaches(CLUSTER4) && !lan.router_reaches(CLUSTER6), "there is no alias");
        (lan.count("IpForwDatagrams") > before.0, lan.count("Ip6OutForwDatagrams") > before.1)
    };
    assert_eq!(forwarded(EVERYONE), (false, false), "not out of broadcast frames");
    assert_eq!(forwarded(SERVER_MAC), (true, true), "but what a filter made host-addressed would be");
    lan.add_for(BROADCAST).expect("add");
    lan.server_sh(&format!("ip address del {CLUSTER4}/32 dev lo; ip address del {CLUSTER6}/128 dev lo"));
    assert_eq!(forwarded(SERVER_MAC), (false, false));
}

#[test]
fn clients_whose_way_back_is_another_interface_are_taken() {
    need_root!();
    let lan = Lan::new();
    lan.router_sh("ip address add 198.51.100.7/32 dev lo");
    lan.server_sh(
        "ip link add back0 type veth peer name back1; ip link set back0 up; ip link set back1 up
         ip route add 198.51.100.0/24 dev back0; sysctl -qw net/ipv4/conf/all/rp_filter=1",
    );
    let taken = || {
        let before = lan.count("IcmpInEchos");
        lan.router_sh(&format!("ping -c1 -W0.2 -q -I 198.51.100.7 {CLUSTER4} >/dev/null || true"));
        lan.count("IcmpInEchos") > before
    };
    lan.add(None).expect("add, as for routing-based dispatch");
    lan.router_sends_to(SERVER_MAC);
    assert!(!taken(), "strict");
    lan.add_for(BROADCAST).expect("add");
    assert!(taken(), "loose");
}

/// Unlike veth, macvlan takes only the groups that it is told to take, as NICs do.
#[test]
fn frames_to_the_group_are_taken_once_it_is_joined() {
    need_root!();
    let lan = Lan::new();
    lan.server_sh(
        "ip address flush dev lan0; ip link add link lan0 name nic0 type macvlan
         sysctl -qw net/ipv6/conf/nic0/accept_dad=0 net/ipv4/conf/lan0/drop_unicast_in_l2_multicast=1
         ip link set nic0 up; ip address add 192.0.2.11/24 dev nic0; ip address add 2001:db8:2::11/64 dev nic0
         ip route replace default via 192.0.2.1; ip route replace default via 2001:db8:2::1",
    );
    lan.router_sends_to(&GROUP.to_string());
    // No filter is attached here: the kernel shall answer what it gets.
    let reached = || {
        lan.server_sh("sysctl -qw net/ipv4/conf/nic0/drop_unicast_in_l2_multicast=0");
        lan.router_reaches(CLUSTER4)
    };
    lan.add_for(BROADCAST).expect("add");
    assert!(!reached());
    lan.add_for(MULTICAST).expect("add");
    assert!(reached());
    lan.server_sh("ip maddress del 03:00:5e:00:00:50 dev nic0");
    let removed = lan.remove(None).expect("remove").to_string();
    assert!(removed.contains("group 03:00:5e:00:00:50 on nic0 is not joined any more"), "{removed}");
}

#[test]
fn where_frames_come_in_has_to_be_known() {
    need_root!();
    let lan = Lan::new();
    lan.server_sh("ip address del 192.0.2.11/24 dev lan0; ip address del 2001:db8:2::11/64 dev lan0");
    let before = lan.settings();
    let error = lan.inside(|| server::add(&lan.plan, Some("web1"), BROADCAST)).expect_err("no interface");
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    assert_eq!(lan.settings(), before);
}

#[test]
fn a_group_is_one() {
    assert_eq!(server::group("03:00:5e:00:00:50"), Ok(GROUP));
    for (text, fault) in [
        (EVERYONE, "leave it out"),
        (SERVER_MAC, "the first byte of a group's is odd"),
        ("01:80:c2:00:00:0e", "no bridge forwards"),
        ("224.0.0.1", "no MAC address"),
    ] {
        let error = server::group(text).expect_err(text);
        assert!(error.contains(fault), "{text}: {error}");
    }
}

#[test]
fn the_flags_reach_the_verbs() {
    need_root!();
    let lan = Lan::new();
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("oneip.toml");
    let text = "[cluster]\nhash_key = \"00112233445566778899aabbccddeeff\"\n[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n\
                [[service.server]]\nname = \"web1\"\naddress = \"192.0.2.11\"\n";
    std::fs::write(&config, text).expect("a file");
    let verb = |verb: &str, flags: &str| {
        let (oneip, config) = (env!("CARGO_BIN_EXE_oneip"), config.display());
        lan.server_sh(&format!("{oneip} server {verb} -c {config} {flags} 2>&1 || true"))
    };
    let added = verb("add", "--broadcast --group 03-00-5e-00-00-50");
    assert!(added.contains("joined group 03:00:5e:00:00:50 on lan0"), "{added}");
    let checked = verb("check", "--broadcast --group 03:00:5e:00:00:51");
    assert!(checked.ends_with("error: 1 of the settings of server \"web1\" are wrong\n"), "{checked}");
    let removed = verb("remove", "--broadcast");
    assert!(removed.contains("left group 03:00:5e:00:00:50 on lan0"), "{removed}");
    assert!(verb("check", "").contains("is missing on lo"));
}

impl Lan {
    fn add_for(&self, dispatch: Dispatch) -> Result<Report, Error> {
        self.inside(|| server::add(&self.plan, None, dispatch))
    }

    fn check_for(&self, dispatch: Dispatch) -> Report {
        self.inside(|| server::check(&self.plan, None, dispatch)).expect("check")
    }

    /// All that the verbs may change for broadcast-based dispatch.
    fn settings(&self) -> String {
        let keys = "(arp_(ignore|announce)|(force_)?forwarding|send_redirects|rp_filter|drop_unicast_in_l2_multicast)";
        self.server_sh(&format!("ip -o address; sysctl -a -r '\\.{keys}$'; ip maddress show dev lan0 | grep link"))
    }

    fn router_sends_to(&self, mac: &str) {
        for cluster in [CLUSTER4, CLUSTER6] {
            self.router_sh(&format!("ip neigh replace {cluster} lladdr {mac} nud permanent dev lan0"));
        }
    }

    /// A counter of the server's kernel.
    fn count(&self, name: &str) -> u64 {
        let counters = self.server_sh("nstat -asz");
        let mut counters: BTreeMap<_, _> =
            counters.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
        let value = counters.remove(name).expect("a counter").split_whitespace().next();
        value.expect("a number").parse().expect("a number")
    }

    /// Runs `work` while the filter of web1, which owns every client, is on lan0.
    fn with_filter(&self, work: impl FnOnce() + Send) {
        self.inside(|| {
            // This thread's own /sys, with the interfaces of its namespace.
            unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
            umount2("/sys", MntFlags::MNT_DETACH).expect("umount");
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("sysfs");
            mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).expect("bpffs");
            let mut plan = self.plan.clone();
            for service in &mut plan.services {
                service.servers.truncate(1);
            }
            let interface = Interface::read("lan0").expect("lan0");
            let mut filter = Filter::load(interface.mac, None).expect("load");
            let cluster = Cluster::new(&plan);
            filter.publish(&Generation::compile(&cluster, "web1")).expect("publish");
            filter.attach(&interface, (None, oneip::model::PINS.as_ref())).expect("attach");
            work();
            filter.detach(&interface, oneip::model::PINS.as_ref()).expect("detach");
        });
    }
}
