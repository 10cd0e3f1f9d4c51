//! A whole prefix as the cluster's address: every address in it answers, each client at its server; a longer prefix has its own.

use crate::dispatcher::Dispatcher;
use crate::network::{CLUSTER, HEALTH, Lab, SERVERS, WEB, clients, lookup, succeed, with_health, write_config};
use std::fs;
use std::process::Command;

const PREFIX: [&str; 2] = ["203.0.113.0/24", "2001:db8:80::/64"];
/// Addresses in it, and of a URL.
const INSIDE: [[&str; 3]; 2] = [
    ["203.0.113.1", "203.0.113.77", "203.0.113.254"],
    ["[2001:db8:80::1]", "[2001:db8:80::feed]", "[2001:db8:80:0:ffff::]"],
];

#[test]
fn every_address_of_a_prefix_answers_and_the_longest_prefix_decides() {
    let Some(lab) = Lab::up(&["--bare"]) else { return };
    let mut text = with_health(&fs::read_to_string(lab.config()).unwrap(), HEALTH);
    for family in [0, 1] {
        // The services of web alone: those of echo stay on the address, which is longer.
        text = text.replacen(
            &format!("address = \"{}\"", CLUSTER[family]),
            &format!("address = \"{}\"", PREFIX[family]),
            1,
        );
    }
    write_config(&lab.config(), &text);
    for server in SERVERS {
        let mut add = lab.command(server, env!("CARGO_BIN_EXE_oneip"));
        let said = succeed(add.args(["server", "add", "-c"]).arg(lab.config()));
        assert!(PREFIX.iter().all(|prefix| said.contains(&format!("made {prefix} local"))), "{said}");
    }
    lab.ip("router", &format!("route add {} via 192.0.2.2", PREFIX[0]));
    lab.ip("router", &format!("route add {} via 2001:db8:2::2", PREFIX[1]));
    let dispatcher = Dispatcher::start(&lab, &[]);
    for family in [0, 1] {
        let clients = &clients(family)[..30];
        for (client, server) in lookup(&lab.config(), WEB[family], clients, &[]) {
            for address in INSIDE[family] {
                let url = format!("http://{address}/");
                let mut curl: Command = lab.curl(&client, &["-o", "/dev/null", "-w", "%header{x-server}", &url]);
                assert_eq!(succeed(&mut curl), server, "{client} at {address}");
            }
        }
        // The longer one has no such port, and the shorter does not get it.
        let alone =
            format!("http://{}/", if family == 0 { CLUSTER[0].to_owned() } else { format!("[{}]", CLUSTER[1]) });
        let refused = lab.curl(&clients[0], &["--connect-timeout", "1", &alone]).output().unwrap();
        assert!(!refused.status.success());
    }
    let account = dispatcher.stop();
    assert!(account.dropped("no_service") >= 2, "{}", account.json);
    assert_eq!(account.dropped_total(), account.dropped("no_service"), "{}", account.json);
}
