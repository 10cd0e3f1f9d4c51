//! The interface loses its link, gets another address, or goes away.

use serde_json::Value;

use crate::dispatcher::{Dispatcher, is_attached};
use crate::filters::{self, Filter};
use crate::network::{Lab, WEB, clients, eventually, lookup};

/// Has the link of a host go or come: its other end.
fn set_link(lab: &Lab, host: &str, state: &str) {
    lab.ip("lan", &format!("link set {host} {state}"));
}

fn is_up(status: &Value) -> bool {
    status["interface_up"].as_bool().unwrap()
}

#[test]
fn a_link_that_goes_is_told_and_frames_come_again_with_it() {
    let Some(lab) = Lab::up(&[]) else { return };
    let (clients, dispatcher) = (&clients(0)[..24], Dispatcher::start(&lab, &[]));
    let before = lab.fetch(0, clients);
    assert_eq!(before, lookup(&lab.config(), WEB[0], clients, &[]));
    assert!(is_up(&serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap()));

    set_link(&lab, "dispatcher", "down");
    dispatcher.hear("lan0 is down: nothing comes or goes there until its link is back");
    assert!(!is_up(&serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap()));
    assert!(lab.ctl(&["status"]).contains("dispatcher on lan0, which is DOWN"));

    set_link(&lab, "dispatcher", "up");
    dispatcher.hear("lan0 is up");
    eventually("its frames come again", || lab.fetch_within(2, 0, clients) == before);
    dispatcher.stop();
}

#[test]
fn another_mac_address_ends_it() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &[]);
    lab.fetch(0, &clients(0)[..24]);
    lab.ip("dispatcher", "link set lan0 address 02:00:00:00:00:fe");
    let (said, account) = dispatcher.fail();
    assert!(
        said.contains("error: lan0 has another MAC address than at the start, 02:00:00:00:00:fe instead of"),
        "{said}"
    );
    assert!(account["forwarded"].as_u64().unwrap() > 0, "the figures are told all the same: {account}");
    assert!(!is_attached(&lab), "the kernel has all frames again");
    Dispatcher::start(&lab, &[]).stop();
}

#[test]
fn an_interface_that_goes_ends_it() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &[]);
    lab.fetch(0, &clients(0)[..24]);
    lab.ip("dispatcher", "link del lan0");
    let (said, account) = dispatcher.fail();
    assert!(said.contains("error: lan0 was removed, so no frames arrive; restart oneip when it is back"), "{said}");
    assert!(account["forwarded"].as_u64().unwrap() > 0, "the figures are told all the same: {account}");
}

/// Gives the dispatcher's link to the LAN as many queues as wanted, of which one is in use.
pub fn lay_with_queues(lab: &Lab, most: u32) {
    lab.ip("dispatcher", "link del lan0");
    let (queues, dispatcher) = (format!("numrxqueues {most} numtxqueues {most}"), lab.namespace("dispatcher"));
    lab.ip(
        "lan",
        &format!(
            "link add dispatcher {queues} type veth peer name lan0 netns {dispatcher} address 02:00:00:00:00:02 {queues}"
        ),
    );
    use_queues(lab, 1);
    lab.ip("lan", "link set dispatcher master br0 up");
    lab.sh(
        "dispatcher",
        "ip link set lan0 up
         ip address add 192.0.2.2/24 dev lan0
         ip address add 2001:db8:2::2/64 dev lan0 nodad
         ip route add default via 192.0.2.1
         ip route add default via 2001:db8:2::1",
    );
    eventually("its link is up", || lab.ip("dispatcher", "link show lan0").contains("state UP"));
}

pub fn use_queues(lab: &Lab, count: u32) {
    for (host, interface) in [("dispatcher", "lan0"), ("lan", "dispatcher")] {
        lab.sh(host, &format!("ethtool -L {interface} rx {count} tx {count}"));
    }
}

/// The frames themselves are nobody's here: veth has no program on a queue that comes later (veth_set_channels, drivers/net/veth.c).
#[test]
fn queues_that_are_added_are_told() {
    let Some(lab) = Lab::up(&[]) else { return };
    lay_with_queues(&lab, 2);
    let (clients, dispatcher) = (&clients(0)[..24], Dispatcher::start(&lab, &[]));
    let told = || dispatcher.said().matches("lan0 has 2 receive queues, and oneip has workers for 1").count();
    assert_eq!((lab.ping(0, clients, 56), told()), (clients.len(), 0));
    use_queues(&lab, 2);
    eventually("it is told", || told() == 1);
    // Not `stop`: the driver counts the frames of a queue without a program as well.
    dispatcher.kill();
    let again = Dispatcher::start(&lab, &[]);
    assert_eq!(lab.ping(0, clients, 56), clients.len());
    again.stop();
}

#[test]
fn a_filter_ends_with_its_interface_and_with_the_address_that_it_was_made_for() {
    let Some(lab) = Lab::up(&["--broadcast"]) else { return };
    filters::configure(&lab, filters::QUICK, "");
    let web1 = Filter::start(&lab, "web1");
    lab.ip("web1", "link set lan0 address 02:00:00:00:00:fe");
    let said = web1.fail();
    assert!(
        said.contains("error: lan0 has another MAC address than at the start, 02:00:00:00:00:fe instead of"),
        "{said}"
    );
    assert!(!said.contains("the filter stays"), "{said}");

    let web2 = Filter::start(&lab, "web2");
    lab.ip("web2", "link del lan0");
    let said = web2.fail();
    assert!(said.contains("error: lan0 was removed"), "{said}");
}
