//! Who is served by whom.

use rustix::process::Signal;

use crate::dispatcher::Dispatcher;
use crate::network::{Lab, WEB, clients, lookup, one_each};

#[test]
fn every_client_gets_the_server_that_lookup_names_and_only_a_servers_own_clients_move() {
    let Some(lab) = Lab::up(&[]) else { return };
    let config = lab.config();
    let dispatcher = Dispatcher::start(&lab, &[]);
    let before = [0, 1].map(|family| lab.fetch(family, &clients(family)));
    let account = dispatcher.stop_by(Signal::INT);
    for family in [0, 1] {
        assert_eq!(before[family], lookup(&config, WEB[family], &clients(family), &[]), "{}", WEB[family]);
    }
    assert_eq!(account.dropped_total(), 0, "{}", account.json);
    // At least SYN, ACK, the request, its answer's ACK and a FIN.
    assert!(account.number("forwarded") >= 420 * 5, "{}", account.json);

    let dispatcher = Dispatcher::start(&lab, &["--down", "web2"]);
    let after = [0, 1].map(|family| lab.fetch(family, &clients(family)));
    let account = dispatcher.stop_by(Signal::TERM);
    for family in [0, 1] {
        assert_eq!(after[family], lookup(&config, WEB[family], &clients(family), &["--down", "web2"]));
        for ((client, was), (_, is)) in before[family].iter().zip(&after[family]) {
            assert_eq!(was != is, was == "web2", "{client}: {was}, then {is}");
        }
    }
    assert_eq!(account.server("web2", "frames"), 0);
    assert!(account.number("forwarded") >= 420 * 5, "{}", account.json);
}

#[test]
fn large_transfers_arrive_whole() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &[]);
    for family in [0, 1] {
        for (client, server) in one_each(&lookup(&lab.config(), WEB[family], &clients(family), &[])) {
            lab.transfer(family, &client, &server);
        }
    }
    let account = dispatcher.stop();
    // Two uploads to each server, at 1,448 bytes a frame.
    for server in ["web1", "web2", "web3"] {
        assert!(account.server(server, "bytes") > 2 * (20 << 20), "{}", account.json);
    }
}
