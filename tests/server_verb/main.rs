//! `oneip server add|check|remove` on a real link: the server in one network namespace, its router in another.
//!
//! Each claim about silence on the LAN has its control: the same question is answered when the setting is missing.

#[macro_use]
mod lan;
mod broadcast;

use lan::{CLUSTER4, CLUSTER6, Lan, SERVER_MAC, service};
use oneip::model::Deliver;
use oneip::server::{self, Dispatch, Error, Grade, Report};

#[test]
fn add_makes_it_sound_and_remove_restores_what_was() {
    need_root!();
    let lan = Lan::new();
    let before = lan.snapshot();
    assert!(lan.check().verdict().is_err(), "nothing is set up yet");

    let added = lan.add(None).expect("add");
    assert_eq!(added.server, "web1");
    assert_eq!(grades(&added), [Grade::Done; 4], "{added}");
    lan.check().verdict().expect("sound after add");
    assert!(lan.journal().exists());

    let with_aliases = lan.snapshot();
    let again = lan.add(None).expect("add again");
    assert_eq!(grades(&again), [Grade::Ok; 2], "{again}");
    assert_eq!(lan.snapshot(), with_aliases);

    lan.remove(None).expect("remove");
    assert_eq!(lan.snapshot(), before);
    assert!(!lan.journal().exists());
    assert_eq!(grades(&lan.remove(None).expect("remove again")), []);
}

#[test]
fn check_names_what_is_wrong_and_the_command_that_mends_it() {
    need_root!();
    let lan = Lan::new();
    lan.add(None).expect("add");
    let cases = [
        ("ip address del 203.0.113.80/32 dev lo", "203.0.113.80 is missing on lo"),
        ("ip address del 2001:db8:80::80/128 dev lo", "2001:db8:80::80 is missing on lo"),
        ("ip address add 203.0.113.80/32 dev lan0", "203.0.113.80/32 is on lan0"),
        ("ip address add 2001:db8:80::80/64 dev lan0 nodad", "2001:db8:80::80/64 is on lan0"),
        (
            "ip address del 203.0.113.80/32 dev lo; ip address add 203.0.113.80/32 dev lan0",
            "the server answers ARP for it there",
        ),
        ("ip address del 203.0.113.80/32 dev lo; ip address add 203.0.113.80/24 dev lo", "so wide a prefix"),
        ("sysctl -qw net.ipv4.conf.all.arp_ignore=0", "arp_ignore is 0 (all 0, lan0 0)"),
        ("sysctl -qw net.ipv4.conf.lan0.arp_ignore=4", "arp_ignore is 4 (all 1, lan0 4)"),
        ("sysctl -qw net.ipv4.conf.all.arp_announce=1", "arp_announce is 1 (all 1, lan0 0)"),
        ("sysctl -qw net.ipv4.conf.lan0.arp_announce=3", "arp_announce is 3 (all 2, lan0 3)"),
        ("ip link set lo down", "lo is down"),
    ];
    for (fault, expected) in cases {
        lan.server_sh(fault);
        let report = lan.check();
        assert!(matches!(report.verdict(), Err(Error::Unsound { .. })), "after {fault}: {report}");
        let wrong = |line: &&server::Line| line.grade == Grade::Wrong;
        assert!(report.lines.iter().filter(wrong).any(|line| line.text.contains(expected)), "after {fault}: {report}");
        for line in report.lines.iter().filter(wrong) {
            lan.server_sh(line.mend.as_ref().expect("a command"));
        }
        let mended = lan.check();
        mended.verdict().unwrap_or_else(|_| panic!("after mending {fault}: {mended}"));
    }
}

#[test]
fn check_warns_of_what_turns_harmful_without_the_alias() {
    need_root!();
    let lan = Lan::new();
    lan.add(None).expect("add");
    for fault in ["net/ipv4/conf/lan0/proxy_arp=1", "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"] {
        lan.server_sh(&format!("sysctl -qw {fault}"));
        let report = lan.check();
        report.verdict().expect("a warning only");
        let warning = report.lines.iter().find(|line| line.grade == Grade::Warning).expect("a warning");
        lan.server_sh(warning.mend.as_ref().expect("a command"));
        assert!(!grades(&lan.check()).contains(&Grade::Warning));
    }
}

#[test]
fn check_compares_the_configured_mac() {
    need_root!();
    let mut lan = Lan::new();
    lan.add(None).expect("add");
    lan.plan.services[0].servers[0].mac = Some(SERVER_MAC.parse().expect("a MAC"));
    lan.check().verdict().expect("it is the interface's");
    lan.plan.services[0].servers[0].mac = Some("02:00:00:00:00:99".parse().expect("a MAC"));
    let report = lan.check();
    assert!(report.verdict().is_err() && report.to_string().contains("mac = \"02:00:00:00:00:11\""), "{report}");
}

#[test]
fn the_server_is_silent_about_its_cluster_addresses() {
    need_root!();
    let lan = Lan::new();
    lan.add(None).expect("add");
    assert!(!lan.claims(CLUSTER4), "ARP is not answered");
    assert!(!lan.claims(CLUSTER6), "neighbour solicitations are not answered");
    assert!(lan.claims("192.0.2.11") && lan.claims("2001:db8:2::11"), "the primary addresses are");
    for cluster in [CLUSTER4, CLUSTER6] {
        lan.router_sh(&format!("ip neigh replace {cluster} lladdr {SERVER_MAC} nud permanent dev lan0"));
        assert!(lan.router_reaches(cluster), "frames that come all the same are taken: {cluster}");
        lan.router_sh(&format!("ip neigh del {cluster} dev lan0"));
    }
    // The controls: each question is answered once its reason for silence is gone.
    lan.server_sh("sysctl -qw net.ipv4.conf.all.arp_ignore=0");
    assert!(lan.claims(CLUSTER4));
    lan.server_sh(&format!("ip address add {CLUSTER6}/128 dev lan0 nodad"));
    assert!(lan.claims(CLUSTER6));
}

#[test]
fn the_server_does_not_announce_its_cluster_addresses() {
    need_root!();
    let lan = Lan::new();
    lan.add(None).expect("add");
    assert!(!lan.router_learns(CLUSTER4, "192.0.2.1"));
    assert!(!lan.router_learns(CLUSTER6, "2001:db8:2::1"));
    lan.server_sh("sysctl -qw net.ipv4.conf.all.arp_announce=0");
    assert!(lan.router_learns(CLUSTER4, "192.0.2.1"), "the control");
}

#[test]
fn connections_of_the_server_keep_their_source() {
    need_root!();
    let lan = Lan::new();
    lan.add(None).expect("add");
    let source = |destination: &str| lan.server_sh(&format!("ip route get {destination}"));
    assert!(source("198.51.100.1").contains("src 192.0.2.11"));
    assert!(source("2001:db8:1::1").contains("src 2001:db8:2::11"));

    lan.server_sh("ip address del 192.0.2.11/24 dev lan0; ip route add default dev lan0");
    assert!(!source("198.51.100.1").contains(CLUSTER4), "not even where there is no other address");
    lan.server_sh(&format!("ip address del {CLUSTER4}/32 dev lo; ip address add {CLUSTER4}/32 dev lo scope global"));
    assert!(source("198.51.100.1").contains(CLUSTER4), "the control");
}

#[test]
fn add_refuses_before_it_changes_anything() {
    need_root!();
    let lan = Lan::new();
    for (fault, repair) in [
        ("ip address add 203.0.113.80/32 dev lan0", "ip address del 203.0.113.80/32 dev lan0"),
        ("ip address add 2001:db8:80::80/64 dev lan0 nodad", "ip address del 2001:db8:80::80/64 dev lan0"),
        ("ip address add 203.0.113.80/24 dev lo", "ip address del 203.0.113.80/24 dev lo"),
    ] {
        lan.server_sh(fault);
        let before = lan.snapshot();
        let error = lan.add(None).expect_err(fault).to_string();
        assert!(error.contains(repair), "{error}");
        assert_eq!(lan.snapshot(), before, "{fault}");
        lan.server_sh(repair);
    }
    lan.server_sh("ip link set lo down");
    assert!(matches!(lan.add(None), Err(Error::LoDown)));
    assert!(!lan.journal().exists());
}

#[test]
fn a_failure_in_the_middle_is_taken_back() {
    need_root!();
    let mut lan = Lan::new();
    let before = lan.snapshot();
    // The kernel does not take a group address on an interface.
    lan.plan.services.push(service("group", "224.0.0.80", &["192.0.2.11"]));
    assert!(matches!(lan.add(None), Err(Error::Netlink { .. })));
    assert_eq!(lan.snapshot(), before);
    assert!(!lan.journal().exists());
}

#[test]
fn what_was_there_before_stays() {
    need_root!();
    let lan = Lan::new();
    lan.server_sh(&format!("ip address add {CLUSTER4}/32 dev lo; sysctl -qw net.ipv4.conf.all.arp_ignore=2"));
    lan.add(None).expect("add");
    lan.server_sh("sysctl -qw net.ipv4.conf.all.arp_announce=1");
    let report = lan.remove(None).expect("remove");
    let after = lan.snapshot();
    assert!(after.contains(CLUSTER4) && !after.contains(CLUSTER6), "{after}");
    assert!(after.contains("all.arp_ignore = 2"), "a stricter value is neither lowered nor restored: {after}");
    assert!(after.contains("all.arp_announce = 1"), "a value changed since is someone else's: {after}");
    assert_eq!(grades(&report).iter().filter(|&&grade| grade == Grade::Note).count(), 2, "{report}");
}

#[test]
fn settings_stay_until_the_last_address_goes() {
    need_root!();
    let mut lan = Lan::new();
    lan.add(None).expect("add");
    let first = std::mem::replace(&mut lan.plan.services, vec![service("other", "203.0.113.81", &["192.0.2.11"])]);
    lan.add(None).expect("add for another configuration");
    let report = lan.remove(None).expect("remove the other's");
    assert!(report.to_string().contains("203.0.113.80 stays"), "{report}");
    lan.plan.services = first;
    lan.check().verdict().expect("the first is as it was");
}

#[test]
fn which_server_this_is() {
    need_root!();
    let mut lan = Lan::new();
    assert!(matches!(lan.add(Some("web9")), Err(Error::UnknownServer { known, .. }) if known == ["web1", "web2"]));
    lan.server_sh("ip address add 192.0.2.12/24 dev lan0");
    assert!(matches!(lan.add(None), Err(Error::SeveralServers { names }) if names == ["web1", "web2"]));
    assert_eq!(lan.add(Some("web2")).expect("add").server, "web2");
    lan.plan.services = vec![service("web", CLUSTER4, &["192.0.2.77"])];
    assert!(matches!(lan.remove(None), Err(Error::NotAServer { known }) if known == ["web1"]));
    let report = lan.remove(Some("web1")).expect("by its name");
    assert!(report.to_string().contains("removed 203.0.113.80/32"), "{report}");
}

#[test]
fn without_privileges_it_says_so_and_check_works() {
    need_root!();
    let lan = Lan::new();
    lan.inside(|| {
        use caps::{CapSet, Capability};
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).expect("drop");
        for refused in [server::add(&lan.plan, None, Dispatch::Routing), server::remove(&lan.plan, None)] {
            assert!(matches!(refused, Err(Error::NotPermitted)));
        }
        assert!(server::check(&lan.plan, None, Dispatch::Routing).expect("check").verdict().is_err());
    });
}

fn grades(report: &Report) -> Vec<Grade> {
    report.lines.iter().map(|line| line.grade).collect()
}

/// Either the kernel's devices are made, and `remove` takes them away, or it is said what to use instead. (What they do with packets is tried
/// in a kernel that has them: tests/guest.)
#[test]
fn add_sets_up_the_ends_of_tunnels_where_the_kernel_has_them() {
    need_root!();
    let mut lan = Lan::new();
    lan.server_sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
    let deliveries = [Deliver::Ipip, Deliver::Gue { port: 6080 }, Deliver::Gre, Deliver::L3dsr { dscp: 12 }];
    for deliver in deliveries {
        lan.plan.services.iter_mut().for_each(|service| service.deliver = deliver);
        // What comes with the modules comes now.
        let kind = if deliver == Deliver::Gre { "gre" } else { "ipip" };
        let trial = format!(
            "(ip link add t0 type {kind} local 192.0.2.11 && ip link del t0) 2>/dev/null && echo yes || echo no"
        );
        let has = !matches!(deliver, Deliver::L3dsr { .. }) && lan.server_sh(&trial).trim() == "yes";
        let before = lan.snapshot();
        let added = lan.add(None).expect("add");
        let text = added.to_string();
        if has {
            assert!(text.contains("set up the tunnel device oneip-"), "{text}");
            assert!(!grades(&added).contains(&Grade::Warning), "{text}");
            lan.check().verdict().expect("sound after add");
        } else {
            let note = format!("{deliver}: this kernel has no devices of type {kind}");
            assert!(text.contains(&note) || matches!(deliver, Deliver::L3dsr { .. }), "{text}");
            assert!(text.contains(&format!("warning  {deliver}: nothing decapsulates clients' packets")), "{text}");
            assert!(text.contains("fix: oneip decap -c FILE --server web1"), "{text}");
            let checked = lan.check();
            assert!(checked.verdict().is_err(), "nothing takes tunnels apart: {checked}");
        }
        lan.remove(None).expect("remove");
        assert_eq!(lan.snapshot(), before, "{deliver}");
        assert!(!lan.journal().exists());
    }
}

/// A prefix is made local by a route: every address in it is this server's, and none is claimed on the LAN.
#[test]
fn a_prefix_is_local_and_the_server_is_silent_about_it() {
    need_root!();
    const PREFIXES: [&str; 2] = ["203.0.113.0/24", "2001:db8:80::/64"];
    const INSIDE: [&str; 2] = ["203.0.113.177", "2001:db8:80::77"];
    let mut lan = Lan::new();
    for (service, prefix) in lan.plan.services.iter_mut().zip(PREFIXES) {
        service.prefixes = vec![prefix.parse().expect("a prefix")];
    }
    let snapshot = || lan.snapshot() + &lan.server_sh("ip route show table local; ip -6 route show table local");
    let before = snapshot();
    let unsound = lan.check();
    for prefix in PREFIXES {
        let missing = format!("the cluster prefix {prefix} is not local");
        let line = unsound.lines.iter().find(|line| line.text.starts_with(&missing)).expect("it is named");
        lan.server_sh(line.mend.as_ref().expect("a command"));
        lan.server_sh(&format!("ip route del local {prefix} dev lo"));
    }

    let added = lan.add(None).expect("add");
    assert_eq!(grades(&added), [Grade::Done; 4], "{added}");
    lan.check().verdict().expect("sound after add");
    assert_eq!(grades(&lan.add(None).expect("add again")), [Grade::Ok; 2]);
    for prefix in PREFIXES {
        lan.router_sh(&format!("ip route replace {prefix} dev lan0"));
    }
    for address in INSIDE {
        assert!(!lan.claims(address), "nobody asked for {address} gets an answer");
        assert!(!lan.router_learns(address, if address.contains(':') { "2001:db8:2::1" } else { "192.0.2.1" }));
        lan.router_sh(&format!("ip neigh replace {address} lladdr {SERVER_MAC} nud permanent dev lan0"));
        assert!(lan.router_reaches(address), "frames to it are taken: {address}");
        lan.router_sh(&format!("ip neigh del {address} dev lan0"));
    }
    // The control.
    lan.server_sh("sysctl -qw net.ipv4.conf.all.arp_ignore=0");
    assert!(lan.claims(INSIDE[0]));
    lan.server_sh("sysctl -qw net.ipv4.conf.all.arp_ignore=1");

    // Where somebody may ask for it.
    lan.server_sh(&format!("ip address add {}/32 dev lan0", INSIDE[0]));
    let fault = format!("the cluster address {}/32 is on lan0: the server answers ARP for it there", INSIDE[0]);
    let report = lan.check();
    let line = report.lines.iter().find(|line| line.text == fault).expect("it is named");
    assert!(matches!(lan.add(None), Err(Error::OnInterface { .. })));
    lan.server_sh(line.mend.as_ref().expect("a command"));

    lan.remove(None).expect("remove");
    assert_eq!(snapshot(), before);
    assert!(!lan.journal().exists());

    // What somebody else made local stays, and a wider one does as well.
    lan.server_sh("ip route add local 203.0.112.0/22 dev lo");
    let added = lan.add(None).expect("add");
    assert!(added.to_string().contains("203.0.112.0/22 is local"), "{added}");
    assert!(lan.check().to_string().contains("is local, as a part of 203.0.112.0/22"));
    lan.remove(None).expect("remove");
    assert!(lan.server_sh("ip route show table local").contains("local 203.0.112.0/22"));
}
