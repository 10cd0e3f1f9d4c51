//! Servers that are not there yet, come, and move.

use crate::dispatcher::Dispatcher;
use crate::failover::checked;
use crate::network::{Lab, Pairs, WEB, clients, eventually, lookup, one_each};
use serde_json::Value;

/// Whether each server answers an echo request of its client.
fn answer(lab: &Lab, family: usize, pairs: &Pairs) -> Vec<bool> {
    pairs.iter().map(|(client, _)| lab.ping_within(2, family, std::slice::from_ref(client), 56) == 1).collect()
}

#[test]
fn a_server_that_is_not_resolved_is_told_apart_is_found_when_it_comes_and_followed_when_its_mac_changes() {
    let Some(lab) = Lab::up(&[]) else { return };
    let pairs = [0, 1].map(|family| one_each(&lookup(&lab.config(), WEB[family], &clients(family), &[])));
    // Its cable is out.
    lab.ip("lan", "link set web3 nomaster");
    let dispatcher = Dispatcher::start(&lab, &[]);
    assert!(dispatcher.said().contains("not resolved yet"), "{}", dispatcher.said());
    for family in [0, 1] {
        assert_eq!(answer(&lab, family, &pairs[family]), [true, true, false]);
    }

    lab.ip("lan", "link set web3 master br0");
    for family in [0, 1] {
        let time = eventually("web3 is found", || answer(&lab, family, &pairs[family]) == [true; 3]);
        println!("found after {time:?}");
    }
    dispatcher.hear("web3 192.0.2.13 is at 02:00:00:00:00:13");

    // Nothing checks it: where the kernel knows it no more, its clients are sent where it was, and why is shown.
    lab.ip("lan", "link set web2 nomaster");
    lab.ip("dispatcher", "neigh flush dev lan0 to 192.0.2.12");
    let status = || serde_json::from_str::<Value>(&lab.ctl(&["status", "--json"])).unwrap();
    let why = || status()["services"][0]["servers"][1]["why"].as_str().unwrap_or_default().to_owned();
    let forwarded = || status()["forwarded"].as_u64().unwrap();
    eventually("web2 is not confirmed", || why().ends_with("; the last known MAC is used"));
    let before = forwarded();
    assert_eq!(answer(&lab, 0, &pairs[0]), [true, false, true]);
    eventually("web2's client is sent there", || forwarded() >= before + 3);
    lab.ip("lan", "link set web2 master br0");
    eventually("web2 is confirmed", || why().is_empty());

    // As a replaced network card does, it announces itself.
    lab.sh("web3", "sysctl -qw net.ipv4.conf.lan0.arp_notify=1 net.ipv6.conf.lan0.ndisc_notify=1");
    lab.ip("web3", "link set lan0 address 02:00:00:00:00:99");
    for family in [0, 1] {
        let time = eventually("web3 is followed", || answer(&lab, family, &pairs[family]) == [true; 3]);
        println!("followed after {time:?}");
    }
    dispatcher.hear("02:00:00:00:00:99");

    let account = dispatcher.stop();
    assert!(account.dropped("unresolved") >= 2, "{}", account.json);
    assert_eq!(account.dropped_total(), account.dropped("unresolved"), "{}", account.json);
}

#[test]
fn with_every_server_down_frames_are_dropped_for_that() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &["--down", "web1", "--down", "web2", "--down", "web3"]);
    assert_eq!(lab.ping_within(1, 0, &clients(0)[..4], 56) + lab.ping_within(1, 1, &clients(1)[..4], 56), 0);
    let account = dispatcher.stop();
    assert_eq!((account.dropped("no_server"), account.dropped_total()), (8, 8), "{}", account.json);
}

/// Gives a server's interface another MAC address. Nobody is told.
fn move_silently(lab: &Lab, server: &str, mac: &str) {
    lab.ip(server, &format!("link set lan0 address {mac}"));
}

#[test]
fn a_mac_that_changes_silently_is_followed_when_a_check_fails_and_so_are_two_that_are_swapped() {
    let Some(lab) = Lab::up(&[]) else { return };
    let config = checked(&lab);
    let all: [Pairs; 2] = [0, 1].map(|family| lookup(&config, WEB[family], &clients(family)[..40], &[]));
    let clients = [0, 1].map(|family| clients(family)[..40].to_vec());
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    let served = |what: &str| {
        for family in [0, 1] {
            eventually(what, || lab.fetch_within(2, family, &clients[family]) == all[family]);
        }
    };
    served("all are served");

    move_silently(&lab, "web3", "02:00:00:00:00:99");
    dispatcher.hear("server web3 192.0.2.13 moved from 02:00:00:00:00:13 to 02:00:00:00:00:99");
    served("web3 is followed");

    move_silently(&lab, "web1", "02:00:00:00:00:12");
    move_silently(&lab, "web2", "02:00:00:00:00:11");
    dispatcher.hear("server web1 192.0.2.11 moved from 02:00:00:00:00:11 to 02:00:00:00:00:12");
    dispatcher.hear("server web2 192.0.2.12 moved from 02:00:00:00:00:12 to 02:00:00:00:00:11");
    served("each has its clients");
    dispatcher.stop();
}
