//! The program on an interface, and when its process is gone.

use super::network::{self, ip};
use super::{plan, program};
use oneip::engine::decap::{self, Table};
use oneip::model::PINS;
use oneip::xdp::interface::Interface;
use oneip::xdp::link::{self, Kept};
use oneip::xdp::program::Program;
use std::path::Path;

fn in_a_network(body: impl FnOnce() + Send + 'static) {
    let made = ["link add d0 type veth peer name d1", "link set d0 up", "link set d1 up"];
    network::in_a_network(made.map(str::to_owned), body);
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
    });
}

#[test]
fn two_capabilities_are_enough_to_load_it() {
    in_a_network(|| {
        network::keep_two_capabilities();
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
