//! Several dispatchers behind one router, by BGP: BIRD and FRR speak it, with what `packaging/` says.

use crate::dispatcher::Dispatcher;
use crate::network::{
    CLUSTER, HEALTH, Lab, PATIENCE, WEB, clients, eventually, lookup, say, succeed, url, with_health, write_config,
};
use crate::operator::surf;
use crate::restart::browse;
use crate::stop::Stop;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

impl Lab {
    /// The configuration of a dispatcher of several, with health checks, and times that suit a test.
    pub fn several(&self, host: &str) -> PathBuf {
        let path = self.file(&format!("{host}.toml"));
        let plain = fs::read_to_string(&path).unwrap();
        let settings = "[announce]\nhold_down_ms = 500\nlinger_ms = 500\nhold_s = 2\n";
        write_config(&path, &with_health(&plain.replace("[announce]\n", settings), HEALTH));
        path
    }

    /// `oneip ctl ARGUMENTS` in a dispatcher of several.
    pub fn ctl_on(&self, host: &str, arguments: &[&str]) -> String {
        let mut ctl = self.command(host, env!("CARGO_BIN_EXE_oneip"));
        succeed(ctl.args(["ctl", "--socket"]).arg(self.file(&format!("{host}.sock"))).args(arguments))
    }

    /// The dispatchers to which the router sends IPv4 and IPv6 clients, by the last digit of their addresses.
    fn next_hops(&self) -> [Vec<String>; 2] {
        [("-4 route show 203.0.113.80", "192.0.2."), ("-6 route show 2001:db8:80::80", "2001:db8:2::")].map(
            |(show, network)| {
                let text = self.ip("router", show);
                let hops = text.split_whitespace().filter_map(|word| word.strip_prefix(network));
                let mut hops: Vec<String> = hops.map(str::to_owned).collect();
                hops.sort();
                hops
            },
        )
    }

    /// Waits until the router sends clients to these dispatchers.
    pub fn sends_to(&self, hops: &[&str]) -> Duration {
        self.sends_families_to(2, hops)
    }

    /// As `sends_to`, for clients of IPv4 (1) or of both families (2).
    fn sends_families_to(&self, families: usize, hops: &[&str]) -> Duration {
        let start = Instant::now();
        while self.next_hops()[..families].iter().any(|now| now != hops) {
            let now = start.elapsed();
            assert!(now < PATIENCE, "the router does not send clients to {hops:?} after {now:.0?}\n{}", self.routing());
            thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }

    /// The dispatchers whose IPv4 addresses BFD watches, as `next_hops` names them.
    fn watched_by_bfd(&self) -> Vec<String> {
        let text = self.sh("router", &format!("birdc -s {} show bfd sessions", self.file("router.birdctl").display()));
        let up = text.lines().filter(|line| line.contains(" Up "));
        let mut watched: Vec<String> =
            up.filter_map(|line| Some(line.split_whitespace().next()?.strip_prefix("192.0.2.")?.to_owned())).collect();
        watched.sort();
        watched
    }

    /// FRR in the place of BIRD on a dispatcher, with what `packaging/` says, as it stands.
    fn route_by_frr(&self, host: &str) {
        let folder = self.file("frr");
        let shown = folder.display();
        self.sh(
            host,
            &format!(
                "kill $(cat {bird})
                 while [ -e {bird} ]; do sleep 0.05; done
                 mkdir {shown}
                 cp {packaging}/frr.conf {shown}/
                 touch {shown}/vtysh.conf
                 chown -R frr:frr {shown}
                 for daemon in zebra bgpd bfdd; do
                     own=''
                     [ $daemon != bfdd ] || own='--bfdctl {shown}/bfdd.sock'
                     /usr/lib/frr/$daemon -d -f /dev/null -z {shown}/zserv.api --vty_socket {shown} -i {shown}/$daemon.pid $own
                 done
                 vtysh --vty_socket {shown} --config_dir {shown} -b",
                bird = self.file(&format!("{host}.bird.pid")).display(),
                packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging"),
            ),
        );
    }

    fn forwarded(&self, host: &str) -> u64 {
        let status: Value = serde_json::from_str(&self.ctl_on(host, &["status", "--json"])).unwrap();
        status["forwarded"].as_u64().unwrap()
    }
}

/// Bytes that each of many clients loads.
const SLOW: usize = 120_000;

#[test]
fn dispatchers_come_are_withdrawn_and_die_and_no_connection_breaks() {
    let Some(lab) = &Lab::up(&["--dispatchers", "3", "--engine", "xdp"]) else { return };
    let hosts = ["dispatcher1", "dispatcher2", "dispatcher3"];
    let configs = hosts.map(|host| lab.several(host));
    let start = |at: usize| Dispatcher::start_on(lab, hosts[at], &configs[at], &[]);
    let first = start(0);
    let _second = start(1);
    lab.sends_to(&["2", "3"]);
    let big = fs::read(lab.file("big")).unwrap();
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let both = [0, 1].map(clients);
        let browsers: Vec<_> = (0..60)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| scope.spawn(move || browse(lab, family, &client, stop)))
            .collect();
        let surfers: Vec<_> = (0..2)
            .map(|family| (family, both[family][150].clone()))
            .map(|(family, client)| scope.spawn(move || surf(lab, family, &client, stop)))
            .collect();
        let downloads: Vec<_> = (100..116)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| {
                scope.spawn(move || {
                    lab.curl(&client, &["--limit-rate", "1200k", &url(family, "/big")]).output().unwrap()
                })
            })
            .collect();
        // They take the whole time.
        let slow: Vec<_> = (16..200)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| {
                let part = format!("0-{}", SLOW - 1);
                scope.spawn(move || {
                    lab.curl(&client, &["--limit-rate", "6k", "-r", &part, &url(family, "/big")]).output().unwrap()
                })
            })
            .collect();
        let uploads: Vec<_> = (120..128)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| {
                let to = url(family, &format!("/upload/several-{}", client.replace(':', "-")));
                let file = lab.file("big");
                scope.spawn(move || {
                    let put = ["--limit-rate", "1200k", "-T", file.to_str().unwrap(), &to];
                    lab.curl(&client, &put).output().unwrap()
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(500));

        let third = start(2);
        say(&format!("a dispatcher more: the router sends clients there after {:.1?}", lab.sends_to(&["2", "3", "4"])));
        for host in hosts {
            eventually(&format!("{host} has its share"), || lab.forwarded(host) > 100);
            // Each checks the servers by itself, from its own address.
            eventually(&format!("{host} has checked all servers"), || {
                let status: Value = serde_json::from_str(&lab.ctl_on(host, &["status", "--json"])).unwrap();
                let servers =
                    status["services"].as_array().unwrap().iter().flat_map(|of| of["servers"].as_array().unwrap());
                servers.into_iter().all(|server| server["state"] == "up" && server["check"]["latency_ms"].is_f64())
            });
        }

        lab.ctl_on(hosts[0], &["withdraw"]);
        say(&format!("withdrawn: the router sends clients elsewhere after {:.1?}", lab.sends_to(&["3", "4"])));
        lab.ctl_on(hosts[0], &["announce"]);
        lab.sends_to(&["2", "3", "4"]);
        let stopped = Instant::now();
        kill_process(Pid::from_child(first.child()), Signal::TERM).unwrap();
        say(&format!("stopped: the router sends clients elsewhere after {:.1?}", lab.sends_to(&["3", "4"])));
        assert!(first.ended().number("forwarded") > 100);
        say(&format!("and the process ends after {:.1?}", stopped.elapsed()));
        let _first = start(0);
        lab.sends_to(&["2", "3", "4"]);

        // The whole box: nothing comes from there any more, and BFD finds it out.
        lab.ip("lan", "link set dispatcher2 down");
        say(&format!("a dead box: the router sends clients elsewhere after {:.1?}", lab.sends_to(&["2", "4"])));
        lab.ip("lan", "link set dispatcher2 up");
        say(&format!("its link is back: the router sends clients there after {:.1?}", lab.sends_to(&["2", "3", "4"])));
        // The process alone: the program in the kernel dispatches until the routes are withdrawn.
        kill_process(Pid::from_child(third.child()), Signal::KILL).unwrap();
        say(&format!(
            "kill -9, hold_s = 2: the router sends clients elsewhere after {:.1?}",
            lab.sends_to(&["2", "3"])
        ));

        for transfer in downloads {
            let done = transfer.join().unwrap();
            assert!(done.status.success() && done.stdout == big, "{}", String::from_utf8_lossy(&done.stderr));
        }
        for transfer in slow {
            let done = transfer.join().unwrap();
            assert!(done.status.success() && done.stdout == big[..SLOW], "{}", String::from_utf8_lossy(&done.stderr));
        }
        for transfer in uploads {
            let done = transfer.join().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        drop(when_done);
        let requests: usize = browsers.into_iter().map(|browser| browser.join().unwrap().0).sum();
        let fetched: usize = surfers.into_iter().map(|surfer| surfer.join().unwrap()).sum();
        say(&format!(
            "200 downloads, 60 connections with {requests} requests, {fetched} connections one after the other: none broke"
        ));
        assert!(requests > 1000 && fetched > 10);
    });
}

/// FRR on one dispatcher and BIRD on the other, each as `packaging/` says: the router takes both as equal.
#[test]
fn what_frr_announces_is_as_good_as_what_bird_does() {
    let Some(lab) = &Lab::up(&["--dispatchers", "2", "--engine", "xdp"]) else { return };
    let hosts = ["dispatcher1", "dispatcher2"];
    let configs = hosts.map(|host| lab.several(host));
    lab.route_by_frr(hosts[1]);
    let sends_to = |hops: &[&str]| lab.sends_families_to(1, hops);
    let _both: Vec<Dispatcher> = (0..2).map(|at| Dispatcher::start_on(lab, hosts[at], &configs[at], &[])).collect();
    sends_to(&["2", "3"]);
    let clients = clients(0);
    assert_eq!(lab.fetch(0, &clients), lookup(&configs[0], WEB[0], &clients, &[]));
    eventually("each has its share", || hosts.iter().all(|host| lab.forwarded(host) > 100));
    lab.ctl_on(hosts[1], &["withdraw"]);
    sends_to(&["2"]);
    lab.ctl_on(hosts[1], &["announce"]);
    sends_to(&["2", "3"]);
    // A dead box, which BFD finds out.
    eventually("BFD watches both", || lab.watched_by_bfd() == ["2", "3"]);
    lab.ip("lan", "link set dispatcher2 down");
    say(&format!("FRR, a dead box: the router sends clients elsewhere after {:.1?}", sends_to(&["2"])));
    lab.ip("lan", "link set dispatcher2 up");
    sends_to(&["2", "3"]);
    // And one without BFD: as a box that dies before BFD has begun, or behind a router that has none. Then the hold time of 9 s counts.
    eventually("BFD watches both", || lab.watched_by_bfd() == ["2", "3"]);
    lab.sh(hosts[1], &format!("kill -9 $(cat {})", lab.file("frr/bfdd.pid").display()));
    sends_to(&["2"]);
    sends_to(&["2", "3"]);
    assert_eq!(lab.watched_by_bfd(), ["2"]);
    lab.ip("lan", "link set dispatcher2 down");
    say(&format!("FRR without BFD, a dead box: the router sends clients elsewhere after {:.1?}", sends_to(&["2"])));
}

/// Whether a connection has its answer to one more request, from the server that it had.
pub fn goes_on(connection: &TcpStream, server: &mut Option<String>) -> bool {
    let asked = (&*connection).write_all(b"GET / HTTP/1.1\r\nHost: cluster\r\n\r\n");
    let mut answers = BufReader::new(connection);
    let mut line = String::new();
    while asked.is_ok() && !line.starts_with("web") {
        line.clear();
        if answers.read_line(&mut line).unwrap_or(0) == 0 {
            break;
        }
    }
    line.starts_with("web") && *server.get_or_insert(line.clone()) == line
}

/// Connections that begin while slots move are remembered by the dispatcher that has seen them begin, and by no other.
#[test]
fn a_dispatcher_that_dies_during_a_drain_breaks_only_what_began_since_on_the_drained_server_s_slots() {
    let Some(lab) = &Lab::up(&["--dispatchers", "3", "--engine", "xdp"]) else { return };
    let hosts = ["dispatcher1", "dispatcher2", "dispatcher3"];
    let configs = hosts.map(|host| lab.several(host));
    let _dispatchers: Vec<_> =
        hosts.iter().zip(&configs).map(|(host, config)| Dispatcher::start_on(lab, host, config, &[])).collect();
    lab.sends_to(&["2", "3", "4"]);
    let families = [0, 1].map(|family| {
        let target = SocketAddr::new(CLUSTER[family].parse().unwrap(), 80);
        (clients(family), lookup(&configs[0], WEB[family], &clients(family), &[]), target)
    });
    let begin = || {
        families.each_ref().map(|(all, _, target)| -> Vec<(TcpStream, Option<String>)> {
            let begin = |client: &String| {
                let (connection, mut server) = (lab.connect(client, *target), None);
                assert!(goes_on(&connection, &mut server), "{client}");
                (connection, server)
            };
            all.iter().map(begin).collect()
        })
    };
    let mut before = begin();
    hosts.iter().for_each(|host| drop(lab.ctl_on(host, &["drain", "web1"])));
    let mut since = begin();
    assert!(
        since.iter().flatten().all(|(_, server)| server.as_deref() != Some("web1\n")),
        "the drained server gets no new ones"
    );
    lab.ip("lan", "link set dispatcher2 down");
    lab.sends_to(&["2", "4"]);
    let broken = |connections: &mut [(TcpStream, Option<String>)]| -> Vec<bool> {
        connections.iter_mut().map(|(connection, server)| !goes_on(connection, server)).collect()
    };
    for (family, ((_, own, _), (before, since))) in families.iter().zip(before.iter_mut().zip(&mut since)).enumerate() {
        assert!(!broken(before).contains(&true), "{}: what was there before the drain goes on", WEB[family]);
        let broken = broken(since);
        let count = |is_broken: bool, moves: bool| {
            (0..broken.len()).filter(|at| broken[*at] == is_broken && (own[*at].1 == "web1") == moves).count()
        };
        assert_eq!(count(true, false), 0, "{}: what is on other slots goes on", WEB[family]);
        let (lost, kept) = (count(true, true), count(false, true));
        assert!(lost + kept > 0, "{}: some began on the drained server's slots", WEB[family]);
        say(&format!(
            "{}: a drain, then a dead box: of {} connections from before none broke; of {} begun since, {lost} did, all of them among \
             the {} on the drained server's slots",
            WEB[family],
            before.len(),
            since.len(),
            lost + kept
        ));
    }
}
