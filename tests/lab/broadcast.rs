//! Broadcast-based dispatch: no dispatcher, but a filter on every server. One of them answers, and it is the one that a
//! dispatcher would choose.

use crate::echo::{Echo, round_trip};
use crate::filters::{self, Filter, QUICK, configure, publish};
use crate::forge::Stranger;
use crate::network::{CLUSTER, ECHO, HEALTH, Lab, Pairs, SERVERS, WEB, clients, eventually, lookup, one_each, say};
use crate::operator::{connected, surf_within};
use crate::packets::learnt;
use crate::reload::without_web3;
use crate::restart::browse;
use crate::several::goes_on;
use crate::stop::Stop;
use etherparse::{LaxSlicedPacket, TcpHeader, TransportSlice};
use pcap_file::pcap::PcapReader;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What passes the router's interface on the LAN, until it is stopped.
struct Recording {
    tcpdump: Child,
    file: PathBuf,
}

/// Packets of each kind, to and from the cluster addresses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    syn: usize,
    syn_ack: usize,
    reset: usize,
    datagrams: usize,
    datagrams_back: usize,
    echo_requests: usize,
    echo_replies: usize,
    icmp_errors: usize,
}

impl Recording {
    fn start(lab: &Lab) -> Recording {
        let file = lab.file("lan.pcap");
        let _ = fs::remove_file(&file);
        let mut tcpdump = lab.command("router", "tcpdump");
        tcpdump.args(["-i", "lan0", "--immediate-mode", "-U", "-Z", "root", "-B", "65536", "-w"]).arg(&file);
        tcpdump.arg("host 203.0.113.80 or host 2001:db8:80::80");
        let tcpdump = tcpdump.stderr(Stdio::null()).spawn().unwrap();
        eventually("it records", || fs::metadata(&file).is_ok_and(|facts| facts.len() >= 24));
        Recording { tcpdump, file }
    }

    fn stop(mut self) -> Seen {
        thread::sleep(Duration::from_millis(600));
        // It has read all that came, however little time this host gave it.
        let stat = format!("/proc/{}/stat", self.tcpdump.id());
        eventually("it waits for more", || fs::read_to_string(&stat).unwrap().contains(") S "));
        kill_process(Pid::from_child(&self.tcpdump), Signal::INT).unwrap();
        self.tcpdump.wait().unwrap();
        let mut capture = PcapReader::new(File::open(&self.file).unwrap()).unwrap();
        let mut seen = Seen::default();
        while let Some(packet) = capture.next_packet() {
            seen.add(&packet.unwrap().data);
        }
        seen
    }
}

impl Seen {
    fn add(&mut self, frame: &[u8]) {
        match LaxSlicedPacket::from_ethernet(frame).unwrap().transport {
            Some(TransportSlice::Tcp(tcp)) => {
                self.syn += usize::from(tcp.syn() && !tcp.ack());
                self.syn_ack += usize::from(tcp.syn() && tcp.ack());
                self.reset += usize::from(tcp.rst());
            }
            Some(TransportSlice::Udp(udp)) if udp.destination_port() == crate::network::ECHO_PORT => {
                self.datagrams += 1
            }
            Some(TransportSlice::Udp(_)) => self.datagrams_back += 1,
            Some(TransportSlice::Icmpv4(icmp)) => match icmp.type_u8() {
                8 => self.echo_requests += 1,
                0 => self.echo_replies += 1,
                _ => self.icmp_errors += 1,
            },
            Some(TransportSlice::Icmpv6(icmp)) => match icmp.type_u8() {
                128 => self.echo_requests += 1,
                129 => self.echo_replies += 1,
                _ => self.icmp_errors += 1,
            },
            _ => {}
        }
    }
}

fn stop(filters: Vec<Filter>) {
    filters.into_iter().for_each(|filter| drop(filter.stop()));
}

/// Until all filters have taken over what is theirs.
fn settled(lab: &Lab, family: usize) -> Pairs {
    let expected = lookup(&lab.config(), WEB[family], &clients(family), &[]);
    eventually("everybody is served", || lab.fetch_within(2, family, &clients(family)) == expected);
    expected
}

/// Everything that a client can send is answered by one server, which is the one that `lookup` names.
fn one_answers(options: &[&str]) {
    let Some(lab) = &Lab::up(options) else { return };
    configure(lab, QUICK, "");
    let _echo = Echo::serve(lab);
    let filters = filters::start(lab);
    for family in [0, 1] {
        settled(lab, family);
    }

    let recording = Recording::start(lab);
    for family in [0, 1] {
        let all = clients(family);
        assert_eq!(lab.fetch(family, &all), lookup(&lab.config(), WEB[family], &all, &[]));
        for (client, server) in lookup(&lab.config(), ECHO[family], &all[..24], &[]) {
            let socket = lab.datagrams(family, &client);
            for length in [18, 4000] {
                assert_eq!(round_trip(&socket, length), Some(server.clone()), "{client}, {length} bytes");
            }
        }
        assert_eq!(lab.ping(family, &all[..24], 56), 24);
    }
    let seen = recording.stop();
    let each = |n: usize| 2 * n;
    // The long ones come in fragments, which are not counted here.
    let expected = Seen {
        syn: each(210),
        syn_ack: each(210),
        reset: 0,
        datagrams: each(24),
        datagrams_back: each(24),
        echo_requests: each(24),
        echo_replies: each(24),
        icmp_errors: 0,
    };
    assert_eq!(seen, expected, "each is answered once, and nobody else says anything");

    // As under a flood: the kernel remembers no handshake, and knows its own by a cookie.
    for server in SERVERS {
        lab.sh(server, "sysctl -qw net.ipv4.tcp_syncookies=2");
    }
    for family in [0, 1] {
        assert_eq!(lab.fetch(family, &clients(family)), lookup(&lab.config(), WEB[family], &clients(family), &[]));
    }

    // A port that is no service's: nobody answers, neither by a reset nor by an error.
    let recording = Recording::start(lab);
    let nobody = lab.inside("client", || {
        let address = "203.0.113.80:81".parse().unwrap();
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_err()
    });
    assert!(nobody);
    let seen = recording.stop();
    assert!(seen.syn > 0 && seen == Seen { syn: seen.syn, ..Seen::default() }, "{seen:?}");

    lab.script("narrow", &["1300"]);
    for family in [0, 1] {
        for (client, server) in one_each(&lookup(&lab.config(), WEB[family], &clients(family), &[])) {
            lab.transfer(family, &client, &server);
            for other in SERVERS {
                let expected = (other == server).then_some(1300);
                assert_eq!(learnt(lab, other, family, &client), expected, "{other} about {client}, of {server}");
            }
        }
    }
    for filter in filters {
        let (server, account) = (filter.server, filter.stop());
        let kept = account["servers"][server]["frames"].as_u64().unwrap();
        assert_eq!(kept, account["forwarded"], "{account}");
        assert!(account["dropped"]["other_server"].as_u64().unwrap() > kept / 2, "{account}");
    }
}

#[test]
fn by_the_broadcast_address_one_server_answers() {
    one_answers(&["--broadcast"]);
}

#[test]
fn by_a_multicast_address_one_server_answers() {
    one_answers(&["--broadcast=01:00:5e:00:71:50"]);
}

#[test]
fn a_server_that_fails_loses_its_clients_and_gets_them_back() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, HEALTH);
    let filters = filters::start(lab);
    let before = settled(lab, 0);
    let without = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web2"]);
    let of_web2: Vec<String> =
        before.iter().filter(|(_, has)| has == "web2").map(|(client, _)| client.clone()).take(4).collect();
    let stop_ = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let others = before.iter().filter(|(_, has)| has != "web2").map(|pair| pair.0.clone()).take(20);
        let browsers: Vec<_> = others.map(|client| scope.spawn(move || browse(lab, 0, &client, stop_))).collect();
        thread::sleep(Duration::from_millis(500));

        let nginx = fs::read_to_string(lab.file("web2/nginx.pid")).unwrap();
        let nginx = nginx.trim();
        lab.sh("web2", &format!("kill -9 {nginx} $(pgrep -P {nginx})"));
        let killed = Instant::now();
        eventually("its clients are served by others", || !lab.fetch_within(2, 0, &of_web2[..1])[0].1.is_empty());
        // 6 x 500 ms for the checks, 900 ms until they are taken over; then a request that had no answer until then is sent anew.
        say(&format!("broadcast, nginx killed: its clients are served after {:.0?}", killed.elapsed()));
        eventually("all see it", || filters.iter().all(|filter| filter.state("web2") == "down"));
        eventually("each client has its next server", || lab.fetch_within(2, 0, &clients(0)) == without);

        let begun = of_web2.iter().map(|client| scope.spawn(move || browse(lab, 0, client, stop_)));
        let begun: Vec<_> = begun.collect();
        connected(lab, &of_web2);
        let at = lab.file("web2");
        lab.sh("web2", &format!("nginx -e {0}/error.log -p {0} -c {0}/nginx.conf", at.display()));
        eventually("it takes its clients back", || lab.fetch_within(2, 0, &clients(0)) == before);
        thread::sleep(Duration::from_millis(500));
        drop(when_done);
        let begun = begun.into_iter().map(|browser| browser.join().unwrap());
        assert!(begun.into_iter().all(|(requests, server)| requests > 3 && server != "web2"));
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 20), "nobody else's connection breaks");
    });
    stop(filters);
}

#[test]
fn fifty_reloads_of_all_filters_under_load_break_nothing() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, "hold_ms = 500\n", "");
    let filters = filters::start(lab);
    for family in [0, 1] {
        settled(lab, family);
    }
    let plain = fs::read_to_string(lab.config()).unwrap();
    let less = without_web3(&plain);
    let other = plain.replace("name = \"web2\"\n", "name = \"web2\"\nweight = 3\n");
    let (stop_, late) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let both = [0, 1].map(clients);
        let browsers: Vec<_> = (0..30)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| scope.spawn(move || browse(lab, family, &client, stop_)))
            .collect();
        let surfers: Vec<_> = (0..2)
            .map(|n| (n, both[n][100].clone()))
            .map(|(family, client)| scope.spawn(move || surf_within(20, lab, family, &client, stop_)))
            .collect();
        for round in 0..50 {
            // Each fifth moves clients. Its holds are over before the next.
            let servers = [&less, &other, &plain][round / 5 % 3];
            publish(lab, &servers.replace("[[service]]\n", &format!("[[service]]\ndrain_s = {}\n", 500 - round % 5)));
            thread::scope(|all| {
                for filter in &filters {
                    all.spawn(move || match filter.ctl_answer(&["reload"]) {
                        Ok(said) => assert!(
                            said.contains("drain_s")
                                && said.contains("give the same order to the filters of the other servers"),
                            "{said}"
                        ),
                        // A host on which the kernel takes its time over programs and maps: the order is carried out later.
                        Err(said) => {
                            assert!(said.contains("did not answer within"), "{said}");
                            late.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            thread::sleep(Duration::from_millis(120));
        }
        drop(when_done);
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 50));
        let requests: Vec<_> = surfers.into_iter().map(|surfer| surfer.join().unwrap()).collect();
        assert!(late.load(Ordering::Relaxed) <= 1, "orders that were answered late: {late:?} of 200");
        // How many is chance: a SYN that meets one hold after the other waits longer before each try.
        assert!(requests.iter().all(|requests| *requests > 0), "requests that came through: {requests:?}");
    });
    publish(lab, &plain);
    filters.iter().for_each(|filter| drop(filter.ctl(&["reload"])));
    settled(lab, 0);
    stop(filters);
}

#[test]
fn a_filter_that_dies_is_taken_over_without_a_gap_and_another_server_drained() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, "");
    let mut filters = filters::start(lab);
    let before = settled(lab, 0);
    let of = |server: &str| -> Vec<String> {
        before.iter().filter(|(_, has)| has == server).map(|(client, _)| client.clone()).collect()
    };
    let stop_ = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop_);
        let busy: Vec<_> = of("web1").into_iter().take(10).chain(of("web3").into_iter().take(10)).collect();
        let browsers: Vec<_> =
            busy.into_iter().map(|client| scope.spawn(move || browse(lab, 0, &client, stop_))).collect();
        thread::sleep(Duration::from_millis(300));

        filters.remove(0).kill();
        assert_eq!(lab.fetch(0, &clients(0)), before, "the program goes on by its last table");
        filters.insert(0, Filter::start(lab, "web1"));
        assert!(filters[0].said().contains("taken over from the process before"), "{}", filters[0].said());
        assert_eq!(lab.fetch(0, &clients(0)), before, "at once");

        // The server that loses clients first.
        for at in [2, 0, 1] {
            let said = filters[at].ctl(&["drain", "web3"]);
            assert!(said.contains("give the same order to the filters of the other servers"), "{said}");
        }
        let without = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web3"]);
        eventually("new connections go to the others", || lab.fetch_within(2, 0, &clients(0)) == without);
        thread::sleep(Duration::from_millis(300));
        drop(when_done);
        let ended: Vec<_> = browsers.into_iter().map(|browser| browser.join().unwrap()).collect();
        assert!(ended.iter().all(|(requests, _)| *requests > 20));
        assert_eq!(ended.iter().filter(|(_, server)| server == "web3").count(), 10, "connections stay");
    });

    let refused = filters[0].ctl_refused(&["trace", "198.51.100.10"]);
    assert!(refused.contains("a filter works in the kernel"), "{refused}");
    let metrics = filters[0].ctl(&["metrics"]);
    assert!(metrics.contains("oneip_frames_forwarded_total{service=\"web\",server=\"web1\"}"), "{metrics}");
    assert!(metrics.contains("oneip_frames_dropped_total{reason=\"other_server\"}"), "{metrics}");
    assert!(!metrics.contains("oneip_dispatch_latency_seconds"), "nothing is timed here: {metrics}");
    let status = filters[0].status();
    assert_eq!((&status["mode"], &status["server"]), (&"filter".into(), &"web1".into()), "{status}");
    stop(filters);

    let oneip = env!("CARGO_BIN_EXE_oneip");
    let detach = |server: &str| {
        lab.command(server, oneip)
            .args(["filter", "--detach", "-c"])
            .arg(filters::config(lab, server))
            .output()
            .unwrap()
    };
    assert!(lab.ip("web1", "link show lan0").contains("xdp"), "it stays");
    let said = detach("web1");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "the filter is detached from lan0\n", "{said:?}");
    assert!(!lab.ip("web1", "link show lan0").contains("xdp"), "it is off");
    let again = detach("web1");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.starts_with("error: there is no filter on lan0"), "{said}");
}

/// While slots move, the owner answers a SYN of anybody. The client says something else then, and the owner's kernel would reset that.
#[test]
fn a_forged_syn_breaks_no_connection_that_another_server_keeps() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    configure(lab, QUICK, "");
    let filters = filters::start(lab);
    let mut connections = Vec::new();
    for family in [0, 1] {
        let cluster: IpAddr = CLUSTER[family].parse().unwrap();
        let of_web3 = settled(lab, family).into_iter().filter(|(_, has)| has == "web3").take(10);
        connections.extend(of_web3.map(|(client, _)| (lab.connect(&client, (cluster, 80).into()), None)));
    }
    assert!(connections.iter_mut().all(|(connection, server)| goes_on(connection, server)));
    for at in [2, 0, 1] {
        filters[at].ctl(&["drain", "web3"]);
    }
    let without = lookup(&lab.config(), WEB[0], &clients(0), &["--down", "web3"]);
    eventually("new connections go to the others", || lab.fetch_within(2, 0, &clients(0)) == without);

    let recording = Recording::start(lab);
    let stranger = lab.inside("client", Stranger::new);
    for (connection, _) in &connections {
        let (from, to) = (connection.local_addr().unwrap(), connection.peer_addr().unwrap());
        let syn = TcpHeader { syn: true, ..TcpHeader::new(from.port(), 80, fastrand::u32(..), 1000) };
        stranger.send(from.ip(), to.ip(), syn).unwrap();
    }
    // It is answered, and what the client says to that, and says anyway, meets the handshake.
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        let broken =
            connections.iter_mut().filter_map(|(connection, server)| (!goes_on(connection, server)).then_some(()));
        assert_eq!(broken.count(), 0);
    }
    // Nor where the filters are others by then, which have not seen it begin.
    let filters: Vec<Filter> = filters
        .into_iter()
        .zip(SERVERS)
        .map(|(filter, server)| {
            filter.kill();
            Filter::start(lab, server)
        })
        .collect();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        let broken =
            connections.iter_mut().filter_map(|(connection, server)| (!goes_on(connection, server)).then_some(()));
        assert_eq!(broken.count(), 0, "after a restart");
    }
    let seen = recording.stop();
    assert!(seen.syn == 20 && seen.syn_ack >= 20, "{seen:?}");
    assert_eq!(seen.reset, 0);
    assert!(connections.iter().all(|(_, server)| server.as_deref() == Some("web3\n")));
    stop(filters);
}

/// What a filter may not do any more, when it is there, it does not need for its checks.
#[test]
fn checks_begin_with_a_reload_and_those_by_icmp_with_a_start() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    let plain = fs::read_to_string(lab.config()).unwrap();
    let checked = |health: &str| {
        fs::write(lab.config(), &plain).unwrap();
        configure(lab, QUICK, health);
    };
    let icmp = "[service.health]\ntype = \"icmp\"\ninterval_ms = 400\ntimeout_ms = 400\nfall = 4\n\n";
    checked("");
    let web1 = Filter::start(lab, "web1");
    checked(icmp);
    let said = web1.ctl_refused(&["reload"]);
    assert!(said.contains("restart oneip if a reload added the first such check"), "{said}");
    checked(HEALTH);
    web1.ctl(&["reload"]);
    lab.ip("web2", "link set lan0 down");
    eventually("web2 is down", || web1.state("web2") == "down");
    web1.stop();
    lab.ip("web2", "link set lan0 up");

    checked(icmp);
    let web1 = Filter::start(lab, "web1");
    eventually("web2 is up", || web1.state("web2") == "up");
    lab.ip("web2", "link set lan0 down");
    eventually("web2 is down", || web1.state("web2") == "down");
    // A machine that stands still for a moment is no lack of a privilege.
    let lacks = |line: &str| line.contains("cannot be checked") && !line.contains("stood still");
    assert!(!web1.said().lines().any(lacks), "{}", web1.said());
    web1.stop();
}
