//! The dispatcher on NICs of its own, which qemu emulates: the drivers are Linux's, with zero copy and several hardware queues. The rest of
//! the lab is on this host, with real servers and clients.
//!
//! Two of them run with every test, one of which is an older kernel's; the others with `cargo test --features dpdk --test guest -- --ignored`
//! (without the feature, all but those of the DPDK port).

mod capture;
mod changes;
#[cfg(feature = "dpdk")]
mod dpdk;
mod filter;
mod frames;
mod machine;
#[path = "../model/mod.rs"]
mod model;
// What the lab's tests have and these do not need.
#[allow(dead_code)]
#[path = "../lab/network.rs"]
mod network;
#[allow(dead_code)]
#[path = "../pages/mod.rs"]
mod pages;
#[path = "../lab/second_lan.rs"]
mod second_lan;
#[cfg(feature = "dpdk")]
#[path = "../tools/mod.rs"]
mod tools;
mod two_nics;

use machine::Guest;
use network::{Lab, Pairs, WEB, clients, eventually, lookup};
use std::process::Command;

/// As many that each queue and each server gets some.
const CLIENTS: usize = 24;

/// Gone with the link.
const ROUTES: &str = "ip route replace default via 192.0.2.1; ip -6 route replace default via 2001:db8:2::1";

/// Where everybody should be, over IPv4.
fn expected(lab: &Lab) -> Pairs {
    lookup(&lab.config(), WEB[0], &clients(0)[..CLIENTS], &[])
}

/// Attaching a program takes the link of many NICs down for a while.
fn wait_for_link(lab: &Lab) {
    let (client, mut answered) = (&clients(0)[..1], 0);
    eventually("frames come and go", || {
        answered = lab.ping_within(2, 0, client, 56);
        answered == 1
    });
}

/// The kernel's view of the same, where nobody answers.
fn wait_for_carrier(guest: &mut Guest) {
    guest.run("for ((t = 0; t < 300; t++)); do if [[ $(</sys/class/net/lan0/carrier) == 1 ]]; then break; fi; sleep 0.1; done; sleep 1");
}

/// Everybody has their server; packets as long as the MTU arrive; downloads and uploads arrive whole.
fn all_is_well(lab: &Lab) {
    wait_for_link(lab);
    assert_eq!(lab.fetch(0, &clients(0)[..CLIENTS]), expected(lab));
    assert_eq!(lab.fetch(1, &clients(1)[..4]), lookup(&lab.config(), WEB[1], &clients(1)[..4], &[]));
    assert_eq!(lab.ping(0, &clients(0)[..4], 1472), 4, "whole frames at the MTU");
    let (client, server) = &expected(lab)[0];
    lab.transfer(0, client, server);
}

/// By worker: frames received.
fn received(guest: &mut Guest) -> Vec<u64> {
    let status = guest.status();
    status["workers"].as_array().unwrap().iter().map(|worker| worker["received"].as_u64().unwrap()).collect()
}

/// What all drivers must stand. Of so many queues, so many get frames.
fn works_on(lab: &Lab, guest: &mut Guest, mode: &str, (queues, busy): (usize, usize)) {
    let said = guest.start("engine = \"af_xdp\"", "");
    assert!(said.contains(mode), "{said}");
    all_is_well(lab);
    let workers = received(guest);
    let have_some = workers.iter().filter(|received| **received > 0).count();
    assert!(workers.len() == queues && have_some == busy, "{busy} of {queues} have a share: {workers:?}");

    guest.end("KILL");
    assert_eq!(lab.fetch(0, &clients(0)[..CLIENTS]), expected(lab), "the program in the kernel dispatches on");
    let said = guest.start("engine = \"af_xdp\"", "");
    assert!(said.contains(mode) && said.contains("taken over from the process before"), "{said}");
    all_is_well(lab);
    guest.stop();

    let said = guest.start("engine = \"xdp\"", "");
    assert!(said.contains("XDP"), "{said}");
    all_is_well(lab);
    guest.stop();
}

fn set_down_and_up(guest: &mut Guest) {
    guest.run("ip link set lan0 down");
    guest.run(&format!("sleep 1; ip link set lan0 up; {ROUTES}"));
}

/// With either engine.
fn stands_a_link_that_goes_and_comes(lab: &Lab, guest: &mut Guest) {
    for engine in ["af_xdp", "xdp"] {
        guest.start(&format!("engine = \"{engine}\""), "");
        set_down_and_up(guest);
        wait_for_link(lab);
        assert_eq!(lab.fetch(0, &clients(0)[..CLIENTS]), expected(lab), "{engine}, after the link was down");
        eventually("it is told", || ["lan0 is down", "lan0 is up"].iter().all(|told| guest.heard().contains(told)));
        guest.stop();
    }
}

#[test]
fn igb_with_two_queues_in_zero_copy_mode() {
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "igb", 1, &[]) else { return };
    guest.run("ip link set lan0 down; ip link set lan0 name eth1; ip link set eth1 up");
    guest.read("sh nic", 3);
    let queues = guest.run("ethtool -l eth1 | tail -n 1");
    assert_eq!(queues.split_whitespace().last(), Some("2"), "{queues}");
    guest.run(&format!("ip link set eth1 down; ip link set eth1 name lan0; ip link set lan0 up; {ROUTES}"));
    wait_for_carrier(&mut guest);
    works_on(&lab, &mut guest, "AF_XDP, zero-copy mode, huge pages, native XDP", (2, 2));
    stands_a_link_that_goes_and_comes(&lab, &mut guest);
    let said = guest.start("engine = \"auto\"", "");
    assert!(said.contains("AF_XDP, zero-copy mode"), "{said}");
    guest.stop();
}

#[test]
#[ignore = "takes minutes"]
fn virtio_with_queues_to_spare_in_zero_copy_mode() {
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "virtio", 2, &[]) else { return };
    works_on(&lab, &mut guest, "AF_XDP, zero-copy mode, native XDP", (2, 2));
    stands_a_link_that_goes_and_comes(&lab, &mut guest);
}

#[test]
#[ignore = "takes minutes"]
fn golden_frames_through_igb() {
    let Some(lab) = Lab::up(&[]) else { return };
    lab.ip("lan", "link add peer0 type veth peer name peer1");
    lab.sh("lan", "ip link set peer1 master br0 up; ip link set peer0 promisc on up");
    let Some(mut guest) = Guest::boot(&lab, "igb", 2, &["--modules", "8021q"]) else { return };
    frames::make_vlan_devices(&mut guest);
    for engine in ["af_xdp", "xdp"] {
        frames::golden_frames_come_back(&lab, &mut guest, engine);
    }
}

#[test]
#[ignore = "takes minutes"]
fn a_million_frames_through_igb_over_af_xdp() {
    a_million_frames_come_back("af_xdp");
}

#[test]
#[ignore = "takes minutes"]
fn a_million_frames_through_igb_over_xdp() {
    a_million_frames_come_back("xdp");
}

/// Numbered ones, at a rate that the guest holds: each comes back once, unchanged. No server has these MACs, so that the LAN's bridge sends to
/// every port what is to them.
fn a_million_frames_come_back(engine: &str) {
    let Some(lab) = Lab::up(&[]) else { return };
    lab.ip("lan", "link add peer0 type veth peer name peer1");
    lab.sh("lan", "ip link set peer1 master br0 up; ip link set peer0 promisc on up");
    let Some(mut guest) = Guest::boot(&lab, "igb", 2, &[]) else { return };
    // A guest stands still for longer than its NIC, and qemu's end of the cable, have room for.
    lab.ip("lan", "link set guest0 txqueuelen 20000");
    guest.run("ethtool -G lan0 rx 4096 tx 4096");
    wait_for_carrier(&mut guest);
    let servers: String = (1..=3)
        .map(|n| {
            format!("[[service.server]]\nname = \"s{n}\"\naddress = \"192.0.2.5{n}\"\nmac = \"02:00:00:00:00:5{n}\"\n")
        })
        .collect();
    let config = format!(
        "[cluster]\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\n[dispatcher]\ninterface = \"lan0\"\nengine = \"{engine}\"\n\
         [admin]\nsocket = \"{}\"\n[[service]]\nname = \"echo\"\naddress = \"203.0.113.80\"\nports = [\"udp/80\"]\n{servers}",
        lab.file("oneip.sock").display()
    );
    guest.start_with(&config, "");
    wait_for_carrier(&mut guest);
    let mut pktgen = lab.command("lan", env!("CARGO_BIN_EXE_oneip"));
    pktgen.args(["pktgen", "--interface", "peer0", "--to", "02:00:00:00:00:02", "--address", "203.0.113.80"]);
    pktgen.args(["--method", "af_xdp", "--rate", "4000", "--count", "1000000", "--json"]);
    let said = pktgen.output().unwrap();
    let report: serde_json::Value =
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    network::say(&report.to_string());
    let counts = ["sent", "received", "corrupt", "lost", "duplicates"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts, [1_000_000, 1_000_000, 0, 0, 0], "{report}");
    assert!(guest.stop()["forwarded"].as_u64().unwrap() >= 1_000_000);
}

/// More workers than cores of the guest's, and one.
#[test]
#[ignore = "takes minutes"]
fn igb_with_four_queues_and_with_one() {
    for queues in [4, 1] {
        let Some(lab) = Lab::up(&[]) else { return };
        let Some(mut guest) = Guest::boot(&lab, "igb", queues, &[]) else { return };
        guest.start("engine = \"af_xdp\"", "");
        all_is_well(&lab);
        let workers = received(&mut guest);
        assert!(workers.len() == queues as usize && workers.iter().all(|received| *received > 0), "{workers:?}");
        guest.stop();
    }
}

#[test]
#[ignore = "takes minutes"]
fn e1000e_in_copy_mode() {
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "e1000e", 1, &[]) else { return };
    works_on(&lab, &mut guest, "AF_XDP, copy mode, generic XDP", (1, 1));
    stands_a_link_that_goes_and_comes(&lab, &mut guest);
}

/// The driver has a queue for each core; qemu's NIC puts everything into the first one. A program that is attached while the interface is set
/// down and up is not run any more (Linux 7.3; `ethtool -S`: "xdp packets"): that is told, until the program is attached anew.
#[test]
#[ignore = "takes minutes"]
fn vmxnet3_in_copy_mode() {
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "vmxnet3", 2, &[]) else { return };
    works_on(&lab, &mut guest, "AF_XDP, copy mode, native XDP", (2, 1));
    for engine in ["af_xdp", "xdp"] {
        guest.start(&format!("engine = \"{engine}\""), "");
        set_down_and_up(&mut guest);
        eventually("it is told", || {
            lab.fetch_within(1, 0, &clients(0)[..CLIENTS]);
            guest
                .heard()
                .contains("lan0 receives frames, and the dispatcher's program, which is attached there, sees none")
        });
        let socket = lab.file("oneip.sock").display().to_string();
        let health = guest.run(&format!("curl -sS http://oneip/healthz --unix-socket {socket}"));
        assert!(health.contains("sees none"), "{health}");
        guest.stop();
        guest.start(&format!("engine = \"{engine}\""), "");
        all_is_well(&lab);
        guest.stop();
    }
}

/// The kernel's own tunnel devices, which this host's kernel need not have: `oneip server add` makes them, and clients are served through them.
#[test]
#[ignore = "takes minutes"]
fn servers_kernels_take_tunnels_apart() {
    let guest = || {
        let mut command = Command::new("scripts/guest.sh");
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    };
    let fetched = guest().arg("--fetch").output().unwrap();
    if !fetched.status.success() {
        network::say(&format!("SKIPPED: there is no guest: {}", String::from_utf8_lossy(&fetched.stderr)));
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let modules = "bridge,ipip,sit,ip6_tunnel,ip_gre,ip6_gre,fou,fou6,sch_ingress,cls_bpf";
    let said = guest()
        .args(["--modules", modules, "--minutes", "20", "--out"])
        .arg(out.path())
        .args(["tests/guest/tunnels.sh", env!("CARGO_BIN_EXE_oneip")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.contains("the kernel's devices take tunnels apart"), "{text}");
}

/// With the kernel of the oldest Debian that is supported: its verifier takes less than newer ones.
#[test]
fn linux_6_1_takes_every_program_and_clients_get_their_pages() {
    if !rustix::process::geteuid().is_root() {
        return network::say("SKIPPED: needs root");
    }
    let fetched = Command::new("scripts/guest.sh").args(["--kernel", "bookworm", "--fetch"]).output().unwrap();
    if !fetched.status.success() {
        return network::say(&format!("SKIPPED: there is no guest: {}", String::from_utf8_lossy(&fetched.stderr)));
    }
    let mut guest = Command::new("scripts/guest.sh");
    guest.args([
        "--kernel",
        "bookworm",
        "--modules",
        "bridge,sch_ingress,cls_bpf",
        "tests/guest/kernel.sh",
        env!("CARGO_BIN_EXE_oneip"),
    ]);
    let said = guest.output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.contains("== done"), "{text}");
}

/// The package through its life in a Debian that systemd boots, with its own kernel.
fn lives(script: &str) {
    if !rustix::process::geteuid().is_root() {
        return network::say("SKIPPED: needs root");
    }
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let out = tempfile::tempdir().unwrap();
    let package = run(Command::new("scripts/package.sh").args(["--profile", "dev", "--out"]).arg(out.path()));
    let said = run(Command::new("scripts/guest.sh").args(["--systemd", script, package.trim()]));
    assert!(said.contains("== done"), "{said}");
}

#[test]
#[ignore = "takes minutes, and needs cargo-deb"]
fn the_package_lives_under_systemd_on_a_dispatcher() {
    lives("tests/guest/dispatcher.sh");
}

#[test]
#[ignore = "takes minutes, and needs cargo-deb"]
fn the_package_lives_under_systemd_on_a_server_with_a_filter() {
    lives("tests/guest/filter.sh");
}
