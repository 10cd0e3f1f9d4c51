//! The network is cut in two between members. Three dispatchers and two nodes of etcd are in one half; two and one in the other, which has
//! no quorum.

use super::health::{CHECKED, Servers};
use super::net::{Net, Process, eventually};

const LEFT: [usize; 3] = [1, 2, 3];
const RIGHT: [usize; 2] = [4, 5];
const ALL: [usize; 5] = [1, 2, 3, 4, 5];

#[test]
fn a_cut_between_members_moves_nobody_and_afterwards_both_halves_have_the_later_orders() {
    let Some(net) = Net::halves([3, 2]) else { return };
    let mut servers = Servers::new(&net, 5);
    let _etcd: Vec<Process> = (0..3).map(|node| net.etcd(node, 3, "")).collect();
    ALL.iter().for_each(|at| net.sharing(*at, 3, ""));
    let _members: Vec<Process> = ALL.iter().map(|at| net.dispatcher(*at)).collect();
    ALL.iter().for_each(|at| net.stands(*at, "together", 5));
    net.becomes(4, "web1", "up", 1);

    net.cut();
    // The half with the quorum goes on as a group. In the other one orders count where they are given, and wait.
    eventually("the left half shares an order", || net.done(1, "weight web2 2").contains("the group has the order"));
    for at in RIGHT {
        // It waits, or is alone already, if the left half has elected a leader slowly.
        eventually(&format!("d{at} has lost the others"), || net.health(at)["stance"] != "together");
    }
    let said = net.done(4, "weight web2 7");
    assert!(said.ends_with("the order counts here, and reaches the other members when the store is back"), "{said}");
    net.done(5, "drain web3");
    net.done(2, "weight web2 3");
    LEFT.iter().for_each(|at| net.becomes(*at, "web2", "up", 3));
    net.done(4, "weight web1 5");
    net.becomes(5, "web3", "draining", 1);
    assert_eq!((net.state(4, "web2"), net.state(5, "web2")), (("up".to_owned(), 7), ("up".to_owned(), 1)));
    assert_eq!((net.state(1, "web3").0, net.state(4, "web3").0), ("up".to_owned(), "up".to_owned()));

    // A server that dies is found out by both halves, and one that only members of the other half cannot reach moves nobody here.
    ALL.iter().for_each(|at| servers.refuse(*at, 2));
    LEFT.iter().for_each(|at| net.becomes(*at, "web2", "down", 3));
    net.becomes(4, "web2", "down", 7);
    net.becomes(5, "web2", "down", 1);
    RIGHT.iter().for_each(|at| servers.refuse(*at, 1));
    net.becomes(4, "web1", "down", 5);
    net.becomes(5, "web1", "down", 1);
    net.stays("web1", "up", &LEFT, CHECKED);
    // By now each half knows that the other one is gone.
    LEFT.iter().for_each(|at| net.stands(*at, "together", 3));
    RIGHT.iter().for_each(|at| net.stands(*at, "alone", 5));
    net.stays("web1", "up", &LEFT, CHECKED);
    net.stays("web3", "up", &[1, 2, 3, 4], CHECKED);

    // One group again: what most find counts, and of each thing the later order.
    net.mend();
    ALL.iter().for_each(|at| net.joined(*at, 5));
    for at in ALL {
        net.becomes(at, "web1", "up", 5);
        net.becomes(at, "web2", "down", 3);
        net.becomes(at, "web3", "draining", 1);
        eventually("nothing waits", || net.document(at, "status")["group"]["queued"] == 0);
        net.stands(at, "together", 5);
    }
    ALL.iter().for_each(|at| servers.serve(*at, 2));
    ALL.iter().for_each(|at| net.becomes(*at, "web2", "up", 3));
}

/// Its link is down, and no server is there for it; then the store is not either, and it is alone.
#[test]
fn a_member_that_is_cut_off_alone_takes_no_server_down() {
    let Some(net) = Net::halves([2, 1]) else { return };
    let mut servers = Servers::new(&net, 3);
    let _etcd = net.etcd(0, 1, "");
    let all = [1, 2, 3];
    all.iter().for_each(|at| net.sharing(*at, 1, ""));
    let _members: Vec<Process> = all.iter().map(|at| net.dispatcher(*at)).collect();
    all.iter().for_each(|at| net.stands(*at, "together", 3));
    let all_are_up = || {
        for server in ["web1", "web2", "web3"] {
            all.iter().for_each(|at| net.becomes(*at, server, "up", 1));
            net.stays(server, "up", &all, CHECKED);
        }
    };
    all_are_up();

    net.ip_of(3, "link set d3 down");
    (1..=3).for_each(|server| servers.refuse(3, server));
    eventually("d3 is cut off from the servers", || net.done(1, "group").contains("CUT OFF"));
    all_are_up();
    net.cut();
    net.stands(3, "waiting", 3);
    all_are_up();
    net.stands(3, "alone", 3);
    (1..=2).for_each(|at| net.stands(at, "together", 2));
    all_are_up();
    // The others go on by what they find.
    (1..=2).for_each(|at| servers.refuse(at, 2));
    (1..=2).for_each(|at| net.becomes(at, "web2", "down", 1));
    net.stays("web2", "up", &[3], CHECKED);
}
