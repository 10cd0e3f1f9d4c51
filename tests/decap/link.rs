//! The program on an interface, and when its process is gone.

use super::{plan, program};
use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use oneip::engine::decap::{self, Table};
use oneip::model::PINS;
use oneip::xdp::interface::Interface;
use oneip::xdp::link::{self, Kept};
use oneip::xdp::program::Program;
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::thread;

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn in_a_network(body: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let network = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        umount2("/sys", MntFlags::MNT_DETACH).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
        ip("link add d0 type veth peer name d1");
        ip("link set d0 up");
        ip("link set d1 up");
    };
    thread::spawn(move || {
        network();
        body();
    })
    .join()
    .unwrap();
}

fn loaded(interface: &Interface) -> Program {
    let program = decap::load(interface.mac).unwrap();
    program.publish(Table::compile(&plan(), "s0", &|_| 0).cells()).unwrap();
    program
}

#[test]
fn it_stays_is_taken_over_and_is_not_the_filter_of_the_interface() {
    in_a_network(|| {
        let interface = Interface::read("d0").unwrap();
        let place = interface.place(Kept::Decap, Path::new(PINS));
        let mut first = loaded(&interface);
        assert!(!first.attach(&place, (None, true)).unwrap().taken_over);
        drop(first);
        assert!(ip("link show d0").contains("xdp"), "it stays without its process");
        assert!(link::is_pinned(&place).unwrap());
        assert!(!link::is_pinned(&interface.place(Kept::Filter, Path::new(PINS))).unwrap());
        let mut next = loaded(&interface);
        assert!(next.attach(&place, (None, true)).unwrap().taken_over);
        next.detach(&place).unwrap();
        assert!(!link::is_pinned(&place).unwrap());
        assert!(!link::forget(&place).unwrap(), "there is none any more");
    });
}

/// CAP_PERFMON would let it read kernel memory: a program on a server's interface does without.
#[test]
fn two_capabilities_are_enough_to_load_it() {
    in_a_network(|| {
        let few = HashSet::from([Capability::CAP_NET_ADMIN, Capability::CAP_BPF]);
        caps::set(None, CapSet::Effective, &few).unwrap();
        caps::set(None, CapSet::Permitted, &few).unwrap();
        let interface = Interface::read("d0").unwrap();
        loaded(&interface).attach(&interface.place(Kept::Decap, Path::new(PINS)), (None, true)).unwrap();
    });
}

#[test]
fn a_table_of_a_server_with_no_tunnel_passes_everything() {
    let Some(program) = program(&plan()) else { return };
    program.publish(Table::compile(&plan(), "nobody", &|_| 0).cells()).unwrap();
    let packet = super::packets::packets(super::packets::cluster(1, 0)).remove(0);
    let (from, to) = ["192.0.2.2", "192.0.2.11"].map(super::packets::address).into();
    let frame = super::packets::frame(0, &super::packets::wrapped(super::packets::Form::Ipip, from, to, &packet));
    assert_eq!(program.judge(&frame).unwrap().1, frame);
}
