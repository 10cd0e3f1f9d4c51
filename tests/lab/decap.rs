//! Tunnels from a dispatcher, over the router, to servers that take them apart by `oneip decap`.

use crate::dispatcher::Dispatcher;
use crate::echo::{Echo, round_trip};
use crate::filters::{self, Filter};
use crate::network::{
    ECHO, HEALTH, Lab, SERVERS, WEB, XDP, clients, eventually, lookup, one_each, say, with_health, write_config,
};
use rustix::process::Signal;
use std::fs;

/// The addresses of the servers that are behind the router, by family.
const BEHIND: [&str; 2] = ["10.9.0.", "2001:db8:9::"];
const ON_LINK: [&str; 2] = ["192.0.2.", "2001:db8:2::"];

/// Gives each server an address that is reached over the router alone, and writes the configurations. `families`: which family's
/// address servers have in the service of each family.
pub fn configure(lab: &Lab, deliver: &str, families: [usize; 2]) {
    for (number, server) in (11..).zip(SERVERS) {
        lab.ip(server, &format!("address add 10.9.0.{number}/32 dev lan0"));
        lab.ip(server, &format!("address add 2001:db8:9::{number}/128 dev lan0 nodad"));
        lab.ip("router", &format!("route add 10.9.0.{number}/32 via 192.0.2.{number}"));
        lab.ip("router", &format!("route add 2001:db8:9::{number}/128 via 2001:db8:2::{number}"));
    }
    // By l3dsr clients' own addresses come in where the dispatcher is: a router that is strict drops them.
    lab.sh("router", "sysctl -qw net.ipv4.conf.lan0.rp_filter=2");
    let mut text = fs::read_to_string(lab.config()).unwrap();
    for family in [0, 1] {
        text = text.replace(
            &format!("address = \"{}1", ON_LINK[family]),
            &format!("address = \"{}1", BEHIND[families[family]]),
        );
    }
    text = text.replace("\nports = ", &format!("\n{deliver}\nports = "));
    text += &format!(
        "\n[decap]\npins = \"{}\"\nsources = [\"192.0.2.2\", \"2001:db8:2::/120\"]\n",
        lab.file("bpf").display()
    );
    write_config(&lab.config(), &text);
    for server in SERVERS {
        let own = |text: &str, end: &str, of: &str| {
            let at = |name: &str| lab.file(name).display().to_string();
            text.replace(&at(of), &at(&format!("{server}{end}")))
        };
        let text = own(&own(&text, ".sock", "oneip.sock"), ".state.json", "state.json");
        write_config(&filters::config(lab, server), &text);
    }
}

/// Pages, uploads, downloads, datagrams and echo requests of both families arrive; answers go straight to the client.
fn serves(deliver: &str, families: [usize; 2]) {
    let Some(lab) = &Lab::up(&XDP) else { return };
    configure(lab, deliver, families);
    let _echo = Echo::serve(lab);
    let decaps: Vec<Filter> = SERVERS.iter().map(|server| Filter::decap(lab, server)).collect();
    let dispatcher = Dispatcher::start(lab, &[]);
    for family in [0, 1] {
        let clients = &clients(family)[..40];
        let expected = lookup(&lab.config(), WEB[family], clients, &[]);
        eventually("everybody is served", || lab.fetch_within(3, family, clients) == expected);
        assert_eq!(lab.ping(family, &clients[..8], 56), 8);
        let (client, server) = one_each(&lookup(&lab.config(), WEB[family], clients, &[])).remove(0);
        lab.transfer(family, &client, &server);
        for (client, server) in lookup(&lab.config(), ECHO[family], &clients[..4], &[]) {
            assert_eq!(round_trip(&lab.datagrams(family, &client), 700), Some(server), "{client}");
        }
    }
    let sent = dispatcher.stop();
    let kept: u64 = decaps.into_iter().map(|decap| decap.stop()["forwarded"].as_u64().unwrap()).sum();
    // Checks of neighbours and the like are passed. Every packet that left was unwrapped, unless it was fragmented on the way.
    assert!(kept > 0 && kept <= sent.number("forwarded"), "{kept} of {}", sent.json);
}

/// `deliver` of the services of each family. A server without decap answers at its own address, and is down all the same.
fn judged_by_clients_way(deliver: [&str; 2], families: [usize; 2], health: &str) {
    let Some(lab) = &Lab::up(&XDP) else { return };
    configure(lab, "DELIVER", families);
    for file in [lab.config()].into_iter().chain(SERVERS.map(|server| filters::config(lab, server))) {
        let text = with_health(&fs::read_to_string(&file).unwrap(), health);
        let mut of_service = text.split("DELIVER");
        let mut filled = of_service.next().unwrap().to_owned();
        // Services of both families take turns.
        for (at, rest) in of_service.enumerate() {
            filled += deliver[at % 2];
            filled += rest;
        }
        write_config(&file, &filled);
    }
    let mut decaps: Vec<Filter> = SERVERS.iter().map(|server| Filter::decap(lab, server)).collect();
    let dispatcher = Dispatcher::start(lab, &[]);
    let state = |service: &str, server: &str| lab.server(service, server)["state"].as_str().unwrap().to_owned();
    let are = |server: &str, wanted: &str| WEB.iter().chain(&ECHO).all(|service| state(service, server) == wanted);
    for server in SERVERS {
        eventually(&format!("{server} is up"), || are(server, "up"));
        assert!(lab.server("web", server)["check"]["latency_ms"].is_f64());
    }

    decaps.remove(0).stop();
    lab.command("web1", env!("CARGO_BIN_EXE_oneip"))
        .args(["decap", "--detach", "-c"])
        .arg(filters::config(lab, "web1"))
        .status()
        .unwrap();
    eventually("web1 is down", || are("web1", "down"));
    let reason = lab.server("web", "web1")["check"]["failure"].to_string();
    assert!(
        reason.contains("no answer from 203.0.113.80 within 500 ms; does the server accept packets by"),
        "{reason}"
    );
    for family in families {
        let address = if family == 0 { "10.9.0.11".to_owned() } else { "[2001:db8:9::11]".to_owned() };
        assert_eq!(lab.sh("dispatcher", &format!("curl -sS -m 5 http://{address}/")).trim(), "web1");
    }
    assert!(are("web2", "up") && are("web3", "up"));

    decaps.push(Filter::decap(lab, "web1"));
    eventually("web1 is up again", || are("web1", "up"));
    dispatcher.stop();
    let left = lab.sh("dispatcher", "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all");
    assert!(!left.contains("proto 111"), "{left}");
}

#[test]
fn checks_go_through_tunnels_to_the_cluster_address() {
    judged_by_clients_way(["deliver = \"ipip\"", "deliver = \"gue\""], [0, 1], HEALTH);
}

#[test]
fn checks_go_through_tunnels_of_the_other_family() {
    judged_by_clients_way(["deliver = \"gue\"", "deliver = \"gre\""], [1, 0], HEALTH);
}

/// Echo requests are checks too.
#[test]
fn checks_by_l3dsr_go_to_the_servers_own_address() {
    judged_by_clients_way(["deliver = \"l3dsr\"\ndscp = 12", "deliver = \"l3dsr\"\ndscp = 44"], [0, 1], HEALTH);
}

/// A probe that leaves outside of its tunnel comes to the router, and from there to any server that is well.
#[test]
fn a_probe_that_missed_its_tunnel_counts_for_nothing() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    configure(lab, "deliver = \"ipip\"", [0, 1]);
    write_config(&lab.config(), &with_health(&fs::read_to_string(lab.config()).unwrap(), HEALTH));
    let _decaps: Vec<Filter> = SERVERS.iter().map(|server| Filter::decap(lab, server)).collect();
    let dispatcher = Dispatcher::start(lab, &[]);
    eventually("web1 is up", || lab.server("web", "web1")["state"] == "up");
    lab.sh(
        "dispatcher",
        "nft 'add table netdev t; add chain netdev t e { type filter hook egress device lan0 priority 0; }; \
         add rule netdev t e meta mark & 0xffff0000 == 0x6f6e0000 meta mark set 0'",
    );
    dispatcher.hear("its probe left lan0 outside of the tunnel");
    eventually("nobody is checked", || {
        SERVERS.iter().all(|server| lab.server("web", server)["check"]["unchecked"].is_string())
    });
    assert!(SERVERS.iter().all(|server| lab.server("web", server)["state"] == "up"));
    lab.sh("dispatcher", "nft delete table netdev t");
    eventually("all are checked", || {
        SERVERS.iter().all(|server| lab.server("web", server)["check"]["unchecked"].is_null())
    });
    dispatcher.stop();
}

#[test]
fn ipip_reaches_servers_over_the_router() {
    serves("deliver = \"ipip\"", [0, 1]);
}

#[test]
fn ipip_reaches_servers_of_the_other_family() {
    serves("deliver = \"ipip\"", [1, 0]);
}

#[test]
fn gue_reaches_servers_over_the_router() {
    serves("deliver = \"gue\"", [0, 1]);
}

#[test]
fn gre_reaches_servers_over_the_router() {
    serves("deliver = \"gre\"", [0, 1]);
}

#[test]
fn l3dsr_reaches_servers_over_the_router() {
    serves("deliver = \"l3dsr\"\ndscp = 12", [0, 1]);
}

/// Every link carries 1,500 bytes, so that clients have to learn that the tunnels carry less.
#[test]
#[ignore = "takes minutes"]
fn a_hundred_megabytes_go_up_and_down_over_each_delivery() {
    for (deliver, families) in [
        ("deliver = \"ipip\"", [0, 1]),
        ("deliver = \"ipip\"", [1, 0]),
        ("deliver = \"gue\"", [0, 1]),
        ("deliver = \"gue\"", [1, 0]),
        ("deliver = \"gre\"", [0, 1]),
        ("deliver = \"gre\"", [1, 0]),
        ("deliver = \"l3dsr\"\ndscp = 12", [0, 1]),
    ] {
        let Some(lab) = &Lab::up(&XDP) else { return };
        configure(lab, deliver, families);
        let hundred: Vec<u8> = (0..100_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(lab.file("big"), hundred).unwrap();
        let decaps: Vec<Filter> = SERVERS.iter().map(|server| Filter::decap(lab, server)).collect();
        let dispatcher = Dispatcher::start(lab, &[]);
        for family in [0, 1] {
            let clients = &clients(family)[..40];
            let expected = lookup(&lab.config(), WEB[family], clients, &[]);
            eventually("everybody is served", || lab.fetch_within(3, family, clients) == expected);
            let (client, server) = one_each(&expected).remove(0);
            let start = std::time::Instant::now();
            lab.transfer(family, &client, &server);
            let cluster = ["203.0.113.80", "2001:db8:80::80"][family];
            let route = lab.sh("client", &format!("ip route get {cluster} from {client}"));
            let took = start.elapsed();
            say(&format!("{deliver:?} {families:?}, family {family}: {took:.1?}; {}", route.trim().replace('\n', " ")));
        }
        say(&format!("dropped: {}", dispatcher.stop().json["dropped"]));
        decaps.into_iter().for_each(|decap| drop(decap.stop()));
    }
}

#[test]
fn decap_goes_on_without_its_process_is_taken_over_and_detached() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    configure(lab, "deliver = \"gue\"", [0, 1]);
    let mut decaps: Vec<Filter> = SERVERS.iter().map(|server| Filter::decap(lab, server)).collect();
    let dispatcher = Dispatcher::start(lab, &[]);
    let clients = &clients(0)[..30];
    let expected = lookup(&lab.config(), WEB[0], clients, &[]);
    eventually("everybody is served", || lab.fetch_within(3, 0, clients) == expected);

    let status = decaps[0].status();
    assert_eq!((&status["mode"], &status["server"]), (&"decap".into(), &"web1".into()));
    assert!(status["forwarded"].as_u64().unwrap() > 0, "{status}");
    let metrics = decaps[0].get("/metrics");
    for line in [
        "oneip_frames_forwarded_total{service=\"web\",server=\"web1\"}",
        "oneip_frames_dropped_total{reason=\"untrusted\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let refused = decaps[0].ctl_refused(&["trace", "198.51.100.10"]);
    assert!(refused.contains("decap"), "{refused}");

    // By a signal, and by none at all.
    let said = decaps.remove(0);
    assert!(said.said().contains("sources    192.0.2.2, 2001:db8:2::/120"), "{}", said.said());
    said.stop();
    decaps.remove(0).kill();
    assert_eq!(lab.fetch(0, clients), expected);
    let next = Filter::decap(lab, "web1");
    assert!(next.said().contains("taken over from the process before"), "{}", next.said());
    assert_eq!(lab.fetch(0, clients), expected);
    // A reload takes the dispatcher's source away: its tunnels are a stranger's now.
    let file = filters::config(lab, "web1");
    let text = fs::read_to_string(&file).unwrap().replace("\"192.0.2.2\"", "\"192.0.2.99\"");
    write_config(&file, &text);
    next.signal(Signal::HUP);
    let (client, _) = expected.iter().find(|(_, server)| server == "web1").unwrap();
    eventually("web1 trusts nobody", || {
        lab.fetch_within(1, 0, std::slice::from_ref(client));
        next.status()["dropped"]["untrusted"].as_u64().unwrap_or(0) > 0
    });
    lab.detach_program("web1");
    let trouble = "somebody has detached the decap from lan0, and no program is attached instead: packets stay in their tunnels, and none is \
                   sent back; restart `oneip decap`\n";
    eventually("it is noticed", || next.get("/healthz") == trouble);
    next.stop();
    let detach = |server: &str| {
        let mut detach = lab.command(server, env!("CARGO_BIN_EXE_oneip"));
        detach.args(["decap", "--detach", "-c"]).arg(filters::config(lab, server)).output().unwrap()
    };
    assert!(detach("web1").status.success());
    let again = detach("web1");
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is no decap on lan0"), "{again:?}");
    drop(dispatcher.stop());
}
