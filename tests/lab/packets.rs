//! Packets that are not plain TCP: echo requests, datagrams, fragments, ICMP errors, VLAN tags.

use crate::dispatcher::Dispatcher;
use crate::echo::{Echo, round_trip};
use crate::network::{CLUSTER, ECHO, Lab, Pairs, SERVERS, WEB, clients, eventually, lookup, one_each, write_config};
use std::path::Path;
use std::process::Stdio;

/// Echo requests that a server has had.
fn echo_requests(lab: &Lab, server: &str, family: usize) -> u64 {
    let counters = lab.sh(server, ["cat /proc/net/snmp", "cat /proc/net/snmp6"][family]);
    match family {
        0 => {
            let mut icmp = counters.lines().filter(|line| line.starts_with("Icmp: ")).map(str::split_whitespace);
            let mut columns = icmp.next().unwrap().zip(icmp.next().unwrap());
            columns.find(|(name, _)| *name == "InEchos").unwrap().1.parse().unwrap()
        }
        _ => {
            let line = counters.lines().find(|line| line.starts_with("Icmp6InEchos")).unwrap();
            line.split_whitespace().last().unwrap().parse().unwrap()
        }
    }
}

fn count(pairs: &Pairs, server: &str) -> u64 {
    pairs.iter().filter(|(_, has)| has == server).count() as u64
}

#[test]
fn echo_requests_reach_the_clients_server_whole_and_in_fragments() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &[]);
    for family in [0, 1] {
        let clients = &clients(family)[..24];
        let expected = lookup(&lab.config(), WEB[family], clients, &[]);
        for payload in [56, 3000] {
            let before = SERVERS.map(|server| echo_requests(&lab, server, family));
            assert_eq!(lab.ping(family, clients, payload), clients.len(), "{payload} bytes to {}", CLUSTER[family]);
            for (server, before) in SERVERS.iter().zip(before) {
                let had = echo_requests(&lab, server, family) - before;
                assert_eq!(had, count(&expected, server), "{server}, {payload} bytes to {}", CLUSTER[family]);
            }
        }
    }
    // A frame for the small ones, three for the large.
    assert_eq!(dispatcher.stop().number("forwarded"), 2 * 24 * 4);
}

#[test]
fn datagrams_reach_the_clients_server_whole_and_in_fragments() {
    let Some(lab) = Lab::up(&[]) else { return };
    let _echo = Echo::serve(&lab);
    let dispatcher = Dispatcher::start(&lab, &[]);
    for family in [0, 1] {
        let clients = clients(family);
        for (client, server) in lookup(&lab.config(), ECHO[family], &clients, &[]) {
            let socket = lab.datagrams(family, &client);
            for length in [0, 18, 1400, 4000] {
                assert_eq!(round_trip(&socket, length), Some(server.clone()), "{client}, {length} bytes");
            }
        }
    }
    let account = dispatcher.stop();
    assert_eq!((account.number("forwarded"), account.dropped_total()), (2 * 210 * 6, 0), "{}", account.json);
}

/// The path MTU that a server has learnt towards a client, if it has.
pub fn learnt(lab: &Lab, server: &str, family: usize, client: &str) -> Option<u32> {
    let route = lab.ip(server, &format!("route get {client} from {}", CLUSTER[family]));
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).map(|mtu| mtu.parse().unwrap())
}

#[test]
fn path_mtu_discovery_reaches_the_server_of_the_client_and_no_other() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &[]);
    lab.script("narrow", &["1300"]);
    for family in [0, 1] {
        for (client, server) in one_each(&lookup(&lab.config(), WEB[family], &clients(family), &[])) {
            assert_eq!(learnt(&lab, &server, family, &client), None, "{server} knows nothing of {client} yet");
            lab.transfer(family, &client, &server);
            for other in SERVERS {
                let expected = (other == server).then_some(1300);
                assert_eq!(
                    learnt(&lab, other, family, &client),
                    expected,
                    "{other} about {client}, which {server} serves"
                );
            }
        }
    }
    assert_eq!(dispatcher.stop().dropped_total(), 0);
}

/// What a capture on the server sees: it takes no frames with that tag, which is for others to test.
#[test]
fn frames_to_a_server_with_a_vlan_have_its_tag() {
    for engine in ["af_xdp", "xdp"] {
        let Some(lab) = Lab::up(&["--engine", engine]) else { return };
        let text = std::fs::read_to_string(lab.config()).unwrap();
        let with_vlan = text.replace("\"192.0.2.13\"\n", "\"192.0.2.13\"\nvlan = 100\n");
        assert_ne!(text, with_vlan);
        write_config(&lab.config(), &with_vlan);
        let dispatcher = Dispatcher::start(&lab, &[]);
        let clients = &clients(0)[..24];
        let expected = lookup(&lab.config(), WEB[0], clients, &[]);
        let mut capture = lab.command("web3", "timeout");
        capture.args("20 tcpdump -c 2 -nnei lan0 ether src 02:00:00:00:00:02 and dst host 203.0.113.80".split(' '));
        let capture = capture.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let of = |server: &str, has: bool| -> Vec<String> {
            expected.iter().filter(|(_, its)| (its == server) == has).map(|(client, _)| client.clone()).collect()
        };
        let others = of("web3", false);
        eventually("the capture sees two frames", || {
            assert_eq!(lab.ping(0, &others, 56), others.len(), "the other servers have no tag");
            lab.ping_within(1, 0, &of("web3", true), 56);
            Path::new(&format!("/proc/{}", capture.id())).exists() && is_over(capture.id())
        });
        let output = capture.wait_with_output().unwrap();
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(seen.matches("vlan 100").count(), 2, "{engine}: {seen}");
        dispatcher.stop();
    }
}

/// Whether a child has ended, and waits to be asked how.
fn is_over(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_vlan_tag_stays_on() {
    let Some(lab) = Lab::up(&["--vlan", "100"]) else { return };
    let dispatcher = Dispatcher::start(&lab, &[]);
    for family in [0, 1] {
        let clients = clients(family);
        let expected = lookup(&lab.config(), WEB[family], &clients, &[]);
        assert_eq!(lab.fetch(family, &clients), expected);
        for (client, server) in one_each(&expected) {
            lab.transfer(family, &client, &server);
        }
        assert_eq!(lab.ping(family, &clients[..24], 3000), 24);
    }
    assert_eq!(dispatcher.stop().dropped_total(), 0);

    // The servers take no frame without the tag. By the bytes: Ethernet, the tag, IPv4, ICMP, the payload.
    let dispatcher = Dispatcher::start(&lab, &[]);
    assert_eq!(lab.ping(0, &clients(0)[..24], 56), 24);
    let account = dispatcher.stop();
    let bytes: u64 = SERVERS.iter().map(|server| account.server(server, "bytes")).sum();
    assert_eq!(bytes, 24 * (14 + 4 + 20 + 8 + 56));
}
