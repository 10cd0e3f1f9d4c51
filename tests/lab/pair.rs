//! A pair of dispatchers with VRRP: keepalived has what `packaging/` says.

use crate::dispatcher::Dispatcher;
use crate::group::becomes;
use crate::network::{Lab, WEB, clients, eventually, lookup, say};
use crate::operator::surf;
use crate::restart::browse;
use crate::stop::Stop;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

const HOSTS: [&str; 2] = ["dispatcher1", "dispatcher2"];

/// Servers, those that a split LAN leaves with the router and those that it does not.
pub const NEAR: [&str; 2] = ["web1", "web2"];
pub const FAR: [&str; 2] = ["web3", "web4"];

/// keepalived in a dispatcher, with what `packaging/` says but for the interface and the path of `oneip`.
fn keepalived(lab: &Lab, host: &str) -> Child {
    let script = lab.file(&format!("{host}.ready"));
    let socket = lab.file(&format!("{host}.sock"));
    let text = format!("#!/bin/sh\nexec {} ctl --socket {} ready\n", env!("CARGO_BIN_EXE_oneip"), socket.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/keepalived.conf");
    let packaged = fs::read_to_string(packaged).unwrap();
    let config = lab.file(&format!("{host}.keepalived.conf"));
    let ready = format!("script \"{}\"", script.display());
    fs::write(&config, packaged.replace("eth1", "lan0").replace("script \"/usr/bin/oneip ctl ready\"", &ready))
        .unwrap();
    let mut command = lab.command(host, "keepalived");
    command.args(["--dont-fork", "--log-console", "--vrrp", "-f"]).arg(config);
    command.arg("-p").arg(lab.file(&format!("{host}.keepalived.pid")));
    command.arg("-r").arg(lab.file(&format!("{host}.vrrp.pid")));
    let log = File::create(lab.file(&format!("{host}.keepalived.log"))).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// The router sends clients to the virtual addresses; waits until one dispatcher has them.
fn routed_to_one(lab: &Lab) -> Vec<Daemon> {
    lab.ip("router", "route add 203.0.113.80/32 via 192.0.2.254 metric 2");
    lab.ip("router", "-6 route add 2001:db8:80::80/128 via 2001:db8:2::254 metric 2");
    let daemons = HOSTS.map(|host| Daemon(keepalived(lab, host)));
    eventually("one has the addresses", || holders(lab).len() == 1);
    daemons.into()
}

/// Takes its addresses with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn other(host: &str) -> &'static str {
    if host == HOSTS[0] { HOSTS[1] } else { HOSTS[0] }
}

/// The dispatchers that have the virtual addresses, as far as these can be used.
fn holders(lab: &Lab) -> Vec<&'static str> {
    let has = |host: &&&str| {
        let text = lab.ip(host, "-br address show dev lan0 up");
        text.contains("192.0.2.254/") && text.contains("2001:db8:2::254/")
    };
    HOSTS.iter().filter(has).copied().collect()
}

#[test]
fn of_a_pair_one_has_the_virtual_addresses_and_the_other_takes_them_and_no_connection_breaks() {
    let Some(lab) = &Lab::up(&["--dispatchers", "2", "--engine", "xdp"]) else { return };
    let dispatchers = HOSTS.map(|host| Dispatcher::start_on(lab, host, &lab.several(host), &[]));
    let daemons = routed_to_one(lab);
    let has = holders(lab)[0];

    // A ghost: who asks the LAN for the cluster address hears nothing from anybody.
    for (family, address) in [("-4", "203.0.113.80"), ("-6", "2001:db8:80::80")] {
        let on_link = format!("{address} dev lan0 metric 1");
        lab.ip("router", &format!("{family} route add {on_link}"));
        let asked = lab.command("router", "ping").args(["-c1", "-W4", address]).output().unwrap();
        assert!(!asked.status.success(), "{address}");
        let neighbour = lab.ip("router", &format!("neighbour show {address}"));
        assert!(!neighbour.is_empty() && !neighbour.contains("lladdr"), "it was asked for: {neighbour}");
        lab.ip("router", &format!("{family} route del {on_link}"));
    }

    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let both = [0, 1].map(clients);
        let browsers: Vec<_> = (0..30)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| scope.spawn(move || browse(lab, family, &client, stop)))
            .collect();
        let moves_to = |host: &str| eventually("the other has the addresses", || holders(lab) == [host]);

        lab.ctl_on(has, &["withdraw"]);
        say(&format!("withdrawn: the other has the virtual addresses after {:.1?}", moves_to(other(has))));
        lab.ctl_on(has, &["announce"]);
        // Until it is a backup: rise is 3, every second.
        eventually("it could take them again", || backups_of(lab, has) >= 2);
        assert_eq!(holders(lab), [other(has)], "and nothing moves for that");

        // The process alone: what comes is dispatched by the program in the kernel until routers know.
        let at = HOSTS.iter().position(|host| *host == other(has)).unwrap();
        kill_process(Pid::from_child(dispatchers[at].child()), Signal::KILL).unwrap();
        say(&format!("kill -9: the other has the virtual addresses after {:.1?}", moves_to(has)));
        let config = lab.file(&format!("{}.toml", other(has)));
        let before = backups_of(lab, other(has));
        let _again = Dispatcher::start_on(lab, other(has), &config, &[]);
        eventually("it is back", || backups_of(lab, other(has)) > before);

        // The process alone, which stands still: it does not say that it is ready, and what comes is dispatched all the same.
        let (at, before) = (HOSTS.iter().position(|host| *host == has).unwrap(), backups_of(lab, has));
        kill_process(Pid::from_child(dispatchers[at].child()), Signal::STOP).unwrap();
        say(&format!("stopped: the other has the virtual addresses after {:.1?}", moves_to(other(has))));
        kill_process(Pid::from_child(dispatchers[at].child()), Signal::CONT).unwrap();
        eventually("it is back", || backups_of(lab, has) > before);
        assert_eq!(holders(lab), [other(has)], "and nothing moves for that");

        // The whole box.
        lab.ip("lan", &format!("link set {} down", other(has)));
        let took = eventually("the first has the addresses", || holders(lab).contains(&has));
        say(&format!("a dead box: the other has the virtual addresses after {took:.1?}"));
        thread::sleep(Duration::from_secs(2));
        drop(when_done);
        let requests: usize = browsers.into_iter().map(|browser| browser.join().unwrap().0).sum();
        say(&format!("30 connections with {requests} requests: none broke"));
        assert!(requests > 500);
    });
    drop(daemons);
}

/// Parts these hosts from the others of the LAN, as when a link between two switches fails.
pub fn cut_off(lab: &Lab, hosts: &[&str]) {
    lab.ip("lan", "link add br1 type bridge forward_delay 0 stp_state 0 mcast_snooping 0");
    hosts.iter().for_each(|host| drop(lab.ip("lan", &format!("link set {host} master br1"))));
    lab.ip("lan", "link set br1 up");
}

pub fn join_again(lab: &Lab, hosts: &[&str]) {
    hosts.iter().for_each(|host| drop(lab.ip("lan", &format!("link set {host} master br0"))));
    lab.ip("lan", "link del br1");
}

/// The half with the router goes on with its servers, whichever dispatcher is in it; in the other nobody has the addresses, so that nobody there
/// can keep them when the halves are joined.
#[test]
fn a_lan_that_is_split_in_two_breaks_no_connection_to_a_server_in_the_router_s_half() {
    let Some(lab) = &Lab::up(&["--dispatchers", "2", "--engine", "xdp"]) else { return };
    let configs = HOSTS.map(|host| lab.several(host));
    let dispatchers = [0, 1].map(|at| Dispatcher::start_on(lab, HOSTS[at], &configs[at], &[]));
    let daemons = routed_to_one(lab);
    let chosen = [0, 1].map(|family| lookup(&configs[0], WEB[family], &clients(family), &[]));
    let near = |family: usize, n: usize| {
        let near = chosen[family].iter().filter(|(_, server)| !FAR.contains(&&**server));
        near.map(|(client, _)| client.clone()).nth(n).unwrap()
    };
    let finds = |host: &str, servers: [&str; 2], state: &str| {
        servers.iter().for_each(|server| becomes(lab, &[host], server, state));
    };
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let browsers: Vec<_> = (0..30)
            .map(|n| (n % 2, near(n % 2, n / 2)))
            .map(|(family, client)| scope.spawn(move || browse(lab, family, &client, stop)))
            .collect();
        let surfers: Vec<_> = (0..2)
            .map(|family| (family, near(family, 20)))
            .map(|(family, client)| scope.spawn(move || surf(lab, family, &client, stop)))
            .collect();
        // The one that has the addresses is cut off; then, of those that are left, the one that has them not.
        for takes_the_holder in [true, false] {
            let has = holders(lab)[0];
            let far = if takes_the_holder { has } else { other(has) };
            let cut = [far, FAR[0], FAR[1]];
            let (before, faults) = (backups_of(lab, far), faults_of(lab, far));
            cut_off(lab, &cut);
            let took = eventually("the half with the router alone has a holder", || {
                // Not before the other half has found out that it is one.
                faults_of(lab, far) > faults && holders(lab) == [other(far)]
            });
            say(&format!("cut in two: the router's half alone has a holder after {took:.1?}"));
            finds(far, NEAR, "down");
            finds(other(far), FAR, "down");
            assert_eq!(holders(lab), [other(far)]);
            join_again(lab, &cut);
            HOSTS.iter().for_each(|host| finds(host, NEAR, "up"));
            HOSTS.iter().for_each(|host| finds(host, FAR, "up"));
            eventually("the other could take them again", || backups_of(lab, far) > before);
            assert_eq!(holders(lab), [other(far)], "and nothing moves for that");
        }
        drop(when_done);
        let requests: usize = browsers.into_iter().map(|browser| browser.join().unwrap().0).sum();
        let fetched: usize = surfers.into_iter().map(|surfer| surfer.join().unwrap()).sum();
        say(&format!("30 connections with {requests} requests, {fetched} connections one after the other: none broke"));
        assert!(requests > 500 && fetched > 10);
    });
    drop(daemons);
    dispatchers.into_iter().for_each(|dispatcher| drop(dispatcher.stop()));
}

fn backups_of(lab: &Lab, host: &str) -> usize {
    states_of(lab, host, "BACKUP")
}

fn faults_of(lab: &Lab, host: &str) -> usize {
    states_of(lab, host, "FAULT")
}

/// How often keepalived has come to that state.
fn states_of(lab: &Lab, host: &str, state: &str) -> usize {
    let log = fs::read_to_string(lab.file(&format!("{host}.keepalived.log"))).unwrap();
    log.matches(&format!("(dispatchers4) Entering {state} STATE")).count()
}
