//! The filters of a cluster when they do not see each other as they should: links that flap, messages that come one way, a process
//! that hangs, another key. Two never answer one client.

use crate::filters::{self, Filter, QUICK, configure, publish};
use crate::group::{Etcd, join};
use crate::network::{CLUSTER, HEALTH, Lab, Pairs, SERVERS, WEB, clients, eventually, lookup};
use crate::reload::without_web3;
use crate::restart::browse;
use crate::stop::Stop;
use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use oneip::config;
use oneip::engine::filter::Generation;
use oneip::table::build::Cluster;
use oneip::xdp::interface::Interface;
use pcap_file::pcap::PcapReader;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Every SYN-ACK that servers send over IPv4, until it is stopped.
struct Answers {
    tcpdump: Child,
    file: PathBuf,
}

impl Answers {
    fn record(lab: &Lab) -> Answers {
        let file = lab.file("answers.pcap");
        let _ = fs::remove_file(&file);
        let mut tcpdump = lab.command("router", "tcpdump");
        tcpdump.args(["-i", "lan0", "--immediate-mode", "-U", "-Z", "root", "-B", "65536", "-w"]).arg(&file);
        tcpdump.arg(format!("src host {} and tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)", CLUSTER[0]));
        let tcpdump = tcpdump.stderr(Stdio::null()).spawn().unwrap();
        eventually("it records", || fs::metadata(&file).is_ok_and(|facts| facts.len() >= 24));
        Answers { tcpdump, file }
    }

    /// How many connections were answered, and those that two servers answered.
    fn stop(mut self) -> (usize, Vec<String>) {
        thread::sleep(Duration::from_millis(600));
        kill_process(Pid::from_child(&self.tcpdump), Signal::INT).unwrap();
        self.tcpdump.wait().unwrap();
        let mut capture = PcapReader::new(File::open(&self.file).unwrap()).unwrap();
        let mut servers: BTreeMap<(IpAddr, u16, u32), BTreeSet<[u8; 6]>> = BTreeMap::new();
        while let Some(packet) = capture.next_packet() {
            let packet = packet.unwrap();
            let frame = LaxSlicedPacket::from_ethernet(&packet.data).unwrap();
            let (Some(LinkSlice::Ethernet2(link)), Some(TransportSlice::Tcp(tcp))) = (&frame.link, &frame.transport)
            else {
                panic!("tcpdump selects TCP")
            };
            let Some(LaxNetSlice::Ipv4(ip)) = &frame.net else { panic!("tcpdump selects IPv4") };
            // A client may have the same port again, but not for the same SYN.
            let client = ip.header().destination_addr().into();
            let client = (client, tcp.destination_port(), tcp.acknowledgment_number());
            servers.entry(client).or_default().insert(link.source());
        }
        let by_two = servers.iter().filter(|(_, servers)| servers.len() > 1);
        let by_two = by_two.map(|((client, port, _), servers)| format!("{client}:{port} by {servers:02x?}"));
        (servers.len(), by_two.collect())
    }
}

/// New connections from these clients again and again, until it is told to stop. How many were served.
fn call(lab: &Lab, clients: &[String], stop: &AtomicBool) -> usize {
    let mut served = 0;
    while !stop.load(Ordering::Relaxed) {
        served += lab.fetch_within(2, 0, clients).iter().filter(|(_, server)| !server.is_empty()).count();
        thread::sleep(Duration::from_millis(100));
    }
    served
}

fn settled(lab: &Lab) -> Pairs {
    let expected = lookup(&lab.config(), WEB[0], &clients(0), &[]);
    eventually("everybody is served", || lab.fetch_within(2, 0, &clients(0)) == expected);
    expected
}

fn of(pairs: &Pairs, server: &str, take: usize) -> Vec<String> {
    let of = pairs.iter().filter(|(_, has)| has == server).map(|(client, _)| client.clone());
    of.take(take).collect()
}

fn set_link(lab: &Lab, host: &str, state: &str) {
    lab.ip("lan", &format!("link set {host} {state}"));
}

fn stop(filters: Vec<Filter>) {
    filters.into_iter().for_each(|filter| drop(filter.stop()));
}

#[test]
fn a_server_whose_link_flaps_takes_nobody_from_the_others() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    let filters = filters::start(lab);
    let before = settled(lab);
    let without = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web2"]);
    let answers = Answers::record(lab);
    let stop_ = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let others = of(&before, "web1", 20).into_iter().chain(of(&before, "web3", 20));
        let browsers: Vec<_> = others.map(|client| scope.spawn(move || browse(lab, 0, &client, stop_))).collect();
        let all = clients(0);
        let callers: Vec<_> = (0..3)
            .map(|n| all[n * 70..][..70].to_vec())
            .map(|some| scope.spawn(move || call(lab, &some, stop_)))
            .collect();
        for _ in 0..3 {
            set_link(lab, "web2", "down");
            for at in [0, 2] {
                eventually("it is down", || filters[at].state("web2") == "down");
            }
            eventually("its clients have others", || lab.fetch_within(2, 0, &clients(0)) == without);
            set_link(lab, "web2", "up");
            eventually("it has its clients again", || lab.fetch_within(2, 0, &clients(0)) == before);
        }
        for _ in 0..3 {
            set_link(lab, "web2", "down");
            thread::sleep(Duration::from_millis(300));
            set_link(lab, "web2", "up");
            eventually("it has its clients again", || lab.fetch_within(2, 0, &clients(0)) == before);
        }
        drop(when_done);
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 20), "nobody else's connection breaks");
        assert!(callers.into_iter().all(|caller| caller.join().unwrap() > 20));
    });
    let (answered, by_two) = answers.stop();
    assert!(answered > 500 && by_two.is_empty(), "{} of {answered} answered by two: {by_two:#?}", by_two.len());
    stop(filters);
}

/// Its carrier stays, but nothing comes or goes. It cannot know whether it or all others are gone, and keeps its own clients, which
/// the others take over; nobody else's are touched, while the port is closed nor when it is open again.
#[test]
fn a_server_whose_port_on_the_bridge_is_closed_and_opened_takes_nobody_from_the_others() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    let filters = filters::start(lab);
    let before = settled(lab);
    let without = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web2"]);
    let answers = Answers::record(lab);
    let stop_ = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let others = of(&before, "web1", 20).into_iter().chain(of(&before, "web3", 20));
        let browsers: Vec<_> = others.map(|client| scope.spawn(move || browse(lab, 0, &client, stop_))).collect();
        let others =
            before.iter().filter(|(_, has)| has != "web2").map(|(client, _)| client.clone()).collect::<Vec<_>>();
        let caller = scope.spawn(move || call(lab, &others, stop_));
        for _ in 0..2 {
            lab.sh("lan", "bridge link set dev web2 state 0");
            eventually("its clients have others", || lab.fetch_within(2, 0, &clients(0)) == without);
            eventually("it is cut off", || filters[1].said().contains("no server answers"));
            lab.sh("lan", "bridge link set dev web2 state 3");
            eventually("it has its clients again", || lab.fetch_within(2, 0, &clients(0)) == before);
        }
        drop(when_done);
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 20), "nobody else's connection breaks");
        assert!(caller.join().unwrap() > 100);
    });
    let (answered, by_two) = answers.stop();
    let of_web2 = of(&before, "web2", usize::MAX);
    let touched = by_two.iter().filter(|by| !of_web2.iter().any(|client| by.starts_with(&format!("{client}:"))));
    assert!(answered > 300 && touched.clone().count() == 0, "{:#?}", touched.collect::<Vec<_>>());
    stop(filters);
}

/// What web1 would get from web2 is lost, whatever it is.
fn make_deaf(lab: &Lab) {
    lab.sh(
        "web1",
        "nft 'table ip deaf { chain input { type filter hook input priority 0; ip saddr 192.0.2.12 drop; }; }'",
    );
}

fn make_hear(lab: &Lab) {
    lab.sh("web1", "nft delete table ip deaf");
}

#[test]
fn while_a_third_server_hears_both_nobody_is_taken_over() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    let filters = filters::start(lab);
    let before = settled(lab);
    let answers = Answers::record(lab);
    make_deaf(lab);
    let why = |filter: &Filter| {
        let status = filter.status();
        let servers = status["services"][0]["servers"].as_array().unwrap();
        servers.iter().find(|known| known["name"] == "web2").unwrap()["why"].as_str().unwrap().to_owned()
    };
    eventually("checks fail", || why(&filters[0]).contains("web3 says that it serves"));
    // Long enough to take over.
    for _ in 0..10 {
        assert_eq!(lab.fetch_within(2, 0, &clients(0)), before);
        thread::sleep(Duration::from_millis(200));
    }
    make_hear(lab);
    eventually("checks succeed", || why(&filters[0]).is_empty());
    assert_eq!(lab.fetch_within(2, 0, &clients(0)), before);
    let (answered, by_two) = answers.stop();
    assert!(answered > 500 && by_two.is_empty(), "{by_two:#?}");
    stop(filters);
}

#[test]
fn of_two_of_which_one_does_not_hear_the_other_one_answers() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    publish(lab, &without_web3(&fs::read_to_string(lab.config()).unwrap()));
    let filters: Vec<Filter> = SERVERS[..2].iter().map(|server| Filter::start(lab, server)).collect();
    let before = settled(lab);
    let alone = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web2"]);
    let answers = Answers::record(lab);
    let stop_ = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let all = clients(0);
        let caller = scope.spawn(move || call(lab, &all[..100], stop_));
        make_deaf(lab);
        eventually("one has all", || lab.fetch_within(2, 0, &clients(0)) == alone);
        eventually("the other one says why", || {
            filters[1].ctl(&["status"]).contains("web1 does not hear this filter (UDP), treats this server as down")
        });
        make_hear(lab);
        eventually("both have theirs", || lab.fetch_within(2, 0, &clients(0)) == before);
        drop(when_done);
        assert!(caller.join().unwrap() > 100);
    });
    let (answered, by_two) = answers.stop();
    assert!(answered > 300 && by_two.is_empty(), "{} of {answered}: {by_two:#?}", by_two.len());
    stop(filters);
}

#[test]
fn a_filter_that_hangs_lets_go_what_it_has_for_others() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    let filters = filters::start(lab);
    let before = settled(lab);
    let without = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web2"]);
    set_link(lab, "web2", "down");
    eventually("its clients have others", || lab.fetch_within(2, 0, &clients(0)) == without);
    let answers = Answers::record(lab);
    let stop_ = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let (own, all) = (of(&before, "web1", 20), clients(0));
        let own: Vec<_> = own.into_iter().map(|client| scope.spawn(move || browse(lab, 0, &client, stop_))).collect();
        let caller = scope.spawn(move || call(lab, &all, stop_));
        filters[0].signal(Signal::STOP);
        set_link(lab, "web2", "up");
        eventually("web2 has its clients again", || lab.fetch_within(2, 0, &clients(0)) == before);
        filters[0].signal(Signal::CONT);
        eventually("it has come to itself", || filters[0].said().contains("this process stood still"));
        eventually("all is as before", || lab.fetch_within(2, 0, &clients(0)) == before);
        drop(when_done);
        assert!(own.into_iter().all(|browser| browser.join().unwrap().0 > 20), "its own clients notice nothing");
        assert!(caller.join().unwrap() > 100);
    });
    let (answered, by_two) = answers.stop();
    assert!(answered > 300 && by_two.is_empty(), "{} of {answered}: {by_two:#?}", by_two.len());
    stop(filters);
}

/// The text of `/readyz`.
fn ready(filter: &Filter) -> String {
    filter.get("/readyz")
}

#[test]
fn another_key_and_other_servers_are_noticed() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    let web2 = filters::config(lab, "web2");
    let plain = fs::read_to_string(&web2).unwrap();
    let key = plain.lines().find(|line| line.starts_with("hash_key")).unwrap();
    fs::write(&web2, plain.replace(key, "hash_key = \"00112233445566778899aabbccddeeff\"")).unwrap();
    let web3 = filters::config(lab, "web3");
    let other = fs::read_to_string(&web3).unwrap().replacen("name = \"web2\"\n", "name = \"web2\"\nweight = 3\n", 1);
    fs::write(&web3, other).unwrap();
    let filters = filters::start(lab);
    let [web1, ..] = &filters[..] else { unreachable!() };
    eventually("the key", || ready(web1).contains("the filter of web2 has another hash_key"));
    eventually("the servers", || ready(web1).contains("the filter of web3 has another configuration"));
    eventually("it is logged", || web1.said().contains("WARN") && web1.said().contains("web2 has another hash_key"));
    assert!(
        web1.ctl(&["status"]).contains("NOTE: the filter of web2 has another hash_key"),
        "{}",
        web1.ctl(&["status"])
    );
    let metrics = web1.ctl(&["metrics"]);
    assert!(metrics.contains("oneip_filter_peer_agrees{server=\"web2\"} 0"), "{metrics}");
    assert!(metrics.contains("oneip_filter_peer_heard{server=\"web2\"} 0"), "{metrics}");
    assert!(metrics.contains("oneip_filter_peer_heard{server=\"web3\"} 1"), "{metrics}");

    fs::write(&web2, &plain).unwrap();
    fs::write(&web3, fs::read_to_string(filters::config(lab, "web1")).unwrap().replace("web1.s", "web3.s")).unwrap();
    filters[1..].iter().for_each(|filter| drop(filter.ctl(&["reload", "--force"])));
    eventually("they agree", || ready(web1) == "ok\n");
    web1.ctl(&["weight", "web3", "2"]);
    eventually("orders differ", || ready(web1).contains("the filter of web2 has other orders"));
    filters[1..].iter().for_each(|filter| drop(filter.ctl(&["weight", "web3", "2"])));
    eventually("they agree", || ready(web1) == "ok\n");
    stop(filters);
}

/// Seconds apart, which is many times `hold_ms`. As long as one filter has not got the order everybody stays where he is.
#[test]
fn a_weight_is_given_to_one_filter_after_the_other_and_two_never_answer() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    weighs_web3(lab, filters::start(lab), |filters, before| {
        for told in [2, 0] {
            filters[told].ctl(&["weight", "web3", "5"]);
            thread::sleep(Duration::from_secs(3));
            assert_eq!(lab.fetch_within(2, 0, &clients(0)), *before, "web2 has not got it");
        }
        filters[1].ctl(&["weight", "web3", "5"]);
    });
}

/// Told to one, it is told to all by way of the store, and they agree on when it counts.
#[test]
fn an_order_to_one_filter_of_a_group_is_one_to_all_and_two_never_answer() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    let _etcd = Etcd::serve(lab);
    configure(lab, QUICK, HEALTH);
    for server in SERVERS {
        join(&filters::config(lab, server), server, "");
    }
    let filters = filters::start(lab);
    for filter in &filters {
        eventually("all are one group", || filter.ctl(&["group"]).contains("is one of 3 members"));
    }
    filters[0].ctl(&["disable", "web2"]);
    eventually("the filter of web2 has it", || {
        filters[1].state("web2") == "disabled" && filters[2].state("web2") == "disabled"
    });
    filters[2].ctl(&["enable", "web2"]);
    eventually("and that it may again", || filters.iter().all(|filter| filter.state("web2") == "up"));
    weighs_web3(lab, filters, |filters, _| {
        let said = filters[2].ctl(&["weight", "web3", "5"]);
        assert!(said.contains("the group has the order: 3 members"), "{said}");
    });
}

/// web3 gets a greater weight by `order`, while clients connect again and again: those who move do, and none is answered by two.
fn weighs_web3(lab: &Lab, filters: Vec<Filter>, order: impl FnOnce(&[Filter], &Pairs)) {
    let before = settled(lab);
    let weighted = lab.file("weighted.toml");
    let plain = fs::read_to_string(lab.config()).unwrap();
    fs::write(&weighted, plain.replace("name = \"web3\"\n", "name = \"web3\"\nweight = 5\n")).unwrap();
    let after = lookup(&weighted, WEB[0], &clients(0), &[]);
    assert!(of(&after, "web3", usize::MAX).len() > of(&before, "web3", usize::MAX).len() + 50);
    let answers = Answers::record(lab);
    let stop_ = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let all = clients(0);
        let callers: Vec<_> = (0..3)
            .map(|n| all[n * 70..][..70].to_vec())
            .map(|some| scope.spawn(move || call(lab, &some, stop_)))
            .collect();
        order(&filters, &before);
        eventually("clients move", || lab.fetch_within(2, 0, &clients(0)) == after);
        drop(when_done);
        assert!(callers.into_iter().all(|caller| caller.join().unwrap() > 20));
    });
    let (answered, by_two) = answers.stop();
    assert!(answered > 200 && by_two.is_empty(), "{} of {answered} answered by two: {by_two:#?}", by_two.len());
    stop(filters);
}

/// The program of another process, which has no clients at all, in the place of the one on a server.
fn replace_program(lab: &Lab, server: &str) {
    lab.inside(server, || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        umount2("/sys", MntFlags::MNT_DETACH).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        let interface = Interface::read("lan0").unwrap();
        let plan = config::load(&lab.config()).unwrap().plan;
        let mut other = oneip::engine::filter::Filter::load(interface.mac, None).unwrap();
        other.publish(&Generation::compile(&Cluster::new(&plan), "stranger")).unwrap();
        assert!(other.attach(&interface, (None, &lab.file("bpf"))).unwrap().taken_over);
    });
}

/// `lose` takes the program of a server off its interface, where `instead` is then.
fn says_that_it_is_gone(lose: fn(&Lab, &str), instead: &str) {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    let mut filters = filters::start(lab);
    let before = settled(lab);
    let without = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web1"]);
    assert_eq!(filters[0].get("/healthz"), "ok\n");
    lose(lab, "web1");
    eventually("it is noticed", || filters[0].get("/healthz") != "ok\n");
    let said = filters[0].get("/healthz");
    assert!(said.starts_with(&format!("somebody has detached the filter from lan0, and {instead}")), "{said}");
    assert!(said.contains(": this server has no clients; restart `oneip filter`"), "{said}");
    eventually("others have its clients", || lab.fetch_within(2, 0, &clients(0)) == without);
    let logged = filters[0].said().matches("somebody has detached the filter from lan0").count();
    assert_eq!(logged, 1, "{}", filters[0].said());

    let (_, said) = filters.remove(0).stop_and_hear();
    assert!(!said.contains("the filter stays on lan0"), "it does not: {said}");
    filters.insert(0, Filter::start(lab, "web1"));
    eventually("it has its clients again", || lab.fetch_within(2, 0, &clients(0)) == before);
    assert_eq!(filters[0].get("/healthz"), "ok\n");
    stop(filters);
}

#[test]
fn a_filter_that_is_not_on_its_interface_any_more_says_so_and_others_take_its_clients() {
    says_that_it_is_gone(replace_program, "XDP program ");
}

#[test]
fn a_filter_that_was_detached_and_nothing_put_in_its_place_says_so_and_others_take_its_clients() {
    says_that_it_is_gone(Lab::detach_program, "no program is attached instead");
}
