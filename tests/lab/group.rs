//! Several dispatchers that are one group, by a real etcd, while clients are served.

use crate::dispatcher::Dispatcher;
use crate::network::{Lab, WEB, clients, eventually, lookup, say, write_config};
use crate::operator::{connected, surf};
use crate::pair::{FAR, NEAR, cut_off, join_again};
use crate::restart::browse;
use crate::stop::Stop;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

/// Where members find it.
const STORE: &str = "http://192.0.2.1:2379";

const HOSTS: [&str; 3] = ["dispatcher1", "dispatcher2", "dispatcher3"];

/// A node of etcd on the router, killed when dropped.
pub struct Etcd(Child);

impl Etcd {
    pub fn serve(lab: &Lab) -> Etcd {
        let mut etcd = lab.command("router", "etcd");
        etcd.args(["--listen-client-urls", STORE, "--advertise-client-urls", STORE, "--data-dir"])
            .arg(lab.file("etcd"));
        etcd.stderr(File::create(lab.file("etcd.log")).unwrap());
        Etcd(etcd.spawn().expect("etcd: scripts/setup.sh"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a configuration be that of a member of the group. `more` stands in its section.
pub fn join(file: &Path, member: &str, more: &str) {
    let text = fs::read_to_string(file).unwrap();
    write_config(
        file,
        &format!("{text}\n[group]\nname = \"edge\"\nmember = \"{member}\"\netcd = [\"{STORE}\"]\n{more}"),
    );
}

fn status(lab: &Lab, host: &str) -> Value {
    serde_json::from_str(&lab.ctl_on(host, &["status", "--json"])).unwrap()
}

/// Waits until a server of both families is in that state on these dispatchers.
pub fn becomes(lab: &Lab, hosts: &[&str], server: &str, state: &str) {
    for host in hosts {
        eventually(&format!("{host} has {server} {state}"), || {
            let status = status(lab, host);
            let services = status["services"].as_array().unwrap().iter();
            let mut services = services.filter(|service| WEB.iter().any(|web| service["name"] == *web));
            services.all(|service| {
                let servers = service["servers"].as_array().unwrap();
                servers.iter().any(|it| it["name"] == server && it["state"] == state)
            })
        });
    }
}

/// A store, and three dispatchers that share health by it; with the first one's configuration.
fn of_one_mind(lab: &Lab) -> (Etcd, Vec<Dispatcher<'_>>, PathBuf) {
    let etcd = Etcd::serve(lab);
    let configs = HOSTS.map(|host| lab.several(host));
    HOSTS.iter().zip(&configs).for_each(|(host, config)| join(config, host, "health = \"shared\"\n"));
    let dispatchers =
        HOSTS.iter().zip(&configs).map(|(host, config)| Dispatcher::start_on(lab, host, config, &[])).collect();
    lab.sends_to(&["2", "3", "4"]);
    are_together(lab, &HOSTS);
    let [first, ..] = configs;
    (etcd, dispatchers, first)
}

pub fn are_together(lab: &Lab, hosts: &[&str]) {
    for host in hosts {
        eventually(&format!("{host} is together with the others"), || {
            let group = &status(lab, host)["group"];
            group["alive"] == hosts.len() && group["health"]["stance"] == "together"
        });
    }
}

/// Told to one, it counts for all. A server dies, the store, and a whole box while there is no store: only the server's connections break.
#[test]
fn with_one_mind_by_etcd_and_without_it_no_connection_breaks() {
    let Some(lab) = &Lab::up(&["--dispatchers", "3", "--engine", "xdp"]) else { return };
    let (etcd, _dispatchers, config) = of_one_mind(lab);
    let chosen = [0, 1].map(|family| lookup(&config, WEB[family], &clients(family), &[]));
    let served = |family: usize, n: usize| {
        let others = chosen[family].iter().filter(|(_, server)| server != "web3");
        others.map(|(client, _)| client.clone()).nth(n).unwrap()
    };
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let browsers: Vec<_> = (0..100)
            .map(|n| (n % 2, served(n % 2, n / 2)))
            .map(|(family, client)| scope.spawn(move || browse(lab, family, &client, stop)))
            .collect();
        let surfers: Vec<_> = (0..2)
            .map(|family| (family, served(family, 60)))
            .map(|(family, client)| scope.spawn(move || surf(lab, family, &client, stop)))
            .collect();
        // Who comes during the drain is with another server, which only the dispatcher that saw it begin knows.
        connected(lab, &(0..100).map(|n| served(n % 2, n / 2)).collect::<Vec<_>>());

        let said = lab.ctl_on(HOSTS[0], &["drain", "web1"]);
        assert!(said.ends_with("the group has the order: 3 members\n"), "{said}");
        becomes(lab, &HOSTS, "web1", "draining");
        let group = lab.ctl_on(HOSTS[2], &["group"]);
        assert!(group.contains("group edge: dispatcher3 is one of 3 members"), "{group}");
        lab.ctl_on(HOSTS[1], &["undrain", "web1"]);
        becomes(lab, &HOSTS, "web1", "up");

        lab.ip("lan", "link set web3 down");
        let failed = Instant::now();
        becomes(lab, &HOSTS, "web3", "down");
        say(&format!("a server that fails, fall = 6: all three have given it up after {:.1?}", failed.elapsed()));
        drop(etcd);
        for host in HOSTS {
            eventually(&format!("{host} notices"), || status(lab, host)["group"]["connected"] == false);
        }
        lab.ip("lan", "link set dispatcher2 down");
        say(&format!(
            "a dead box without the store: the router sends clients elsewhere after {:.1?}",
            lab.sends_to(&["2", "4"])
        ));
        // Each by itself.
        lab.ip("lan", "link set web3 up");
        becomes(lab, &[HOSTS[0], HOSTS[2]], "web3", "up");
        let said = lab.ctl_on(HOSTS[0], &["deny", "198.18.7.0/24", "--for", "10m"]);
        assert!(
            said.ends_with("the order counts here, and reaches the other members when the store is back\n"),
            "{said}"
        );

        let _etcd = Etcd::serve(lab);
        lab.ip("lan", "link set dispatcher2 up");
        lab.sends_to(&["2", "3", "4"]);
        for host in HOSTS {
            eventually(&format!("{host} has what waited"), || {
                lab.ctl_on(host, &["denied"]).contains("198.18.7.0/24: denied for ")
            });
        }
        becomes(lab, &HOSTS, "web3", "up");
        drop(when_done);
        let requests: usize = browsers.into_iter().map(|browser| browser.join().unwrap().0).sum();
        let fetched: usize = surfers.into_iter().map(|surfer| surfer.join().unwrap()).sum();
        say(&format!(
            "100 connections with {requests} requests, {fetched} connections one after the other: none broke"
        ));
        assert!(requests > 1000 && fetched > 10);
    });
}

/// The half with the router and the store goes on with its servers. A dispatcher of the other half, which has found those down by itself, comes back
/// and gets its share of their connections: they stay.
#[test]
fn a_lan_that_is_split_in_two_breaks_no_connection_to_a_server_in_the_half_with_the_store() {
    let Some(lab) = &Lab::up(&["--dispatchers", "3", "--engine", "xdp"]) else { return };
    let (_etcd, _dispatchers, config) = of_one_mind(lab);
    let chosen = [0, 1].map(|family| lookup(&config, WEB[family], &clients(family), &[]));
    let near = |family: usize, n: usize| {
        let near = chosen[family].iter().filter(|(_, server)| NEAR.contains(&&**server));
        near.map(|(client, _)| client.clone()).nth(n).unwrap()
    };
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let browsers: Vec<_> = (0..100)
            .map(|n| (n % 2, near(n % 2, n / 2)))
            .map(|(family, client)| scope.spawn(move || browse(lab, family, &client, stop)))
            .collect();
        let surfers: Vec<_> = (0..2)
            .map(|family| (family, near(family, 60)))
            .map(|(family, client)| scope.spawn(move || surf(lab, family, &client, stop)))
            .collect();
        let (cut, far, others) = ([HOSTS[1], FAR[0], FAR[1]], HOSTS[1], [HOSTS[0], HOSTS[2]]);
        cut_off(lab, &cut);
        say(&format!("cut in two: the router sends clients elsewhere after {:.1?}", lab.sends_to(&["2", "4"])));
        FAR.iter().for_each(|server| becomes(lab, &others, server, "down"));
        NEAR.iter().for_each(|server| becomes(lab, &[far], server, "down"));
        eventually("it goes by itself", || status(lab, far)["group"]["health"]["stance"] == "alone");
        join_again(lab, &cut);
        lab.sends_to(&["2", "3", "4"]);
        are_together(lab, &HOSTS);
        NEAR.iter().chain(&FAR).for_each(|server| becomes(lab, &HOSTS, server, "up"));
        drop(when_done);
        let requests: usize = browsers.into_iter().map(|browser| browser.join().unwrap().0).sum();
        let fetched: usize = surfers.into_iter().map(|surfer| surfer.join().unwrap()).sum();
        say(&format!(
            "100 connections with {requests} requests, {fetched} connections one after the other: none broke"
        ));
        assert!(requests > 1000 && fetched > 10);
    });
}
