//! The servers' end of tunnels. Its program is run by BPF_PROG_TEST_RUN; tests of the link have an interface.

mod frames;
mod link;
#[path = "../model/mod.rs"]
mod model;
#[path = "../network/mod.rs"]
mod network;
mod packets;
mod strays;
mod twin;

use oneip::config;
use oneip::engine::decap::{self, Table};
use oneip::model::{Mac, Plan};
use oneip::xdp::program::Program;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 0x11]);

/// Of the server s0: a service of each family for each way to deliver, one by l2, and one with a second chance; and one of another server.
fn plan() -> Plan {
    let mut text = "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n\
        [decap]\nsources = [\"192.0.2.2\", \"10.1.0.0/16\", \"2001:db8:2::2\", \"2001:db8:7::/48\"]\n"
        .to_owned();
    let deliveries = ["ipip", "gue", "gre", "l3dsr", "l2", "ipip", "l2"];
    for (n, deliver) in (1..).zip(deliveries) {
        let more = match n {
            4 => "dscp = 12\n",
            7 => "second_chance = true\n",
            _ => "",
        };
        let server = if n == 6 { "s1" } else { "s0" };
        let last = if n == 6 { "12" } else { "11" };
        for (family, cluster, own) in [("", "203.0.113.", "192.0.2."), ("v6", "2001:db8:80::", "2001:db8:2::")] {
            text += &format!(
                "[[service]]\nname = \"{deliver}{n}{family}\"\naddress = \"{cluster}{n}\"\nports = [\"tcp/80\", \"udp/53\"]\n\
                 deliver = \"{deliver}\"\n{more}[[service.server]]\nname = \"{server}\"\naddress = \"{own}{last}\"\n"
            );
        }
    }
    config::parse(&text, "decap.toml").expect("a configuration").plan
}

/// `None` without root, and it says so.
fn program(plan: &Plan) -> Option<Program> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    let program = decap::load(OWN).unwrap();
    let account = |service: &str| plan.services.iter().position(|it| it.name == service).expect("it has it") as u32;
    program.publish(Table::compile(plan, "s0", &account).cells()).unwrap();
    Some(program)
}
