//! Another configuration while clients are served.

use crate::dispatcher::Dispatcher;
use crate::network::{CLUSTER, Lab, WEB, clients, eventually, lookup};
use crate::operator::surf;
use crate::restart::browse;
use crate::stop::Stop;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

/// Without the server `web3` of every service.
pub fn without_web3(config: &str) -> String {
    let mut servers = config.split("[[service.server]]");
    let head = servers.next().unwrap().to_owned();
    servers.fold(head, |text, server| match server.split_once("[[service]]") {
        _ if !server.contains("\"web3\"") => format!("{text}[[service.server]]{server}"),
        Some((_, rest)) => format!("{text}[[service]]{rest}"),
        None => text,
    })
}

#[test]
fn fifty_reloads_under_load_break_nothing() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let plain = fs::read_to_string(lab.config()).unwrap();
    let less = without_web3(&plain);
    let other = plain.replace("name = \"web2\"\n", "name = \"web2\"\nweight = 3\n");
    assert!(less != plain && other != plain);
    let stop = &AtomicBool::new(false);
    let dispatcher = Dispatcher::start(lab, &[]);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let both = [0, 1].map(clients);
        let browsers: Vec<_> = (0..40)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| scope.spawn(move || browse(lab, family, &client, stop)))
            .collect();
        let surfers: Vec<_> = (0..4)
            .map(|n| (n % 2, both[n % 2][100 + n].clone()))
            .map(|(family, client)| scope.spawn(move || surf(lab, family, &client, stop)))
            .collect();
        for round in 0..50 {
            fs::write(lab.config(), [&less, &other, &plain][round % 3]).unwrap();
            let said = lab.ctl(&["reload"]);
            let expected = ["web3 removed", "web3 added", "weight 3 -> 1"][round % 3];
            assert!(said.contains(expected), "round {round}: {said}");
            thread::sleep(Duration::from_millis(60));
        }
        drop(when_done);
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 50));
        assert!(surfers.into_iter().all(|surfer| surfer.join().unwrap() > 50));
    });
    fs::write(lab.config(), &plain).unwrap();
    lab.ctl(&["reload"]);
    eventually("everybody is where the configuration says", || {
        lab.fetch(0, &clients(0)) == lookup(&lab.config(), WEB[0], &clients(0), &[])
    });
    let account = dispatcher.stop();
    assert_eq!(account.dropped_total(), 0, "{}", account.json);
}

#[test]
fn a_service_comes_and_goes_and_a_bad_configuration_changes_nothing() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let plain = fs::read_to_string(lab.config()).unwrap();
    let dispatcher = Dispatcher::start(lab, &[]);
    let all = clients(0);
    let before = lookup(&lab.config(), WEB[0], &all, &[]);

    let refused = |text: &str, says: &[&str]| {
        fs::write(lab.config(), text).unwrap();
        let said = lab.ctl_refused(&["reload"]);
        assert!(says.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(lab.fetch(0, &all), before);
    };
    refused(&plain.replace("web2\"", "web1\""), &["error: ", "test.toml:", "web1"]);
    refused(&plain.replace("lan0", "lan1"), &["[dispatcher] interface cannot change while oneip runs"]);
    refused(&plain.replace("lan0\"", "lan0\"\ncores = [0]"), &["[dispatcher] cores cannot change"]);
    refused(&plain.replace("192.0.2.12", "198.51.100.77"), &["web2", "198.51.100.77"]);
    fs::write(lab.config(), &plain).unwrap();
    assert!(lab.ctl(&["reload"]).contains("nothing has changed"));

    // By signal: without the services of IPv4, and with them again.
    let [_, rest] = plain.split("[[service]]\nname = \"web6\"").collect::<Vec<_>>()[..2] else { unreachable!() };
    let head = plain.split("[[service]]").next().unwrap();
    let only_v6 =
        format!("{head}[[service]]\nname = \"web6\"{}", rest.split("[[service]]\nname = \"echo\"").next().unwrap());
    fs::write(lab.config(), &only_v6).unwrap();
    dispatcher.signal(Signal::HUP);
    dispatcher.hear("service web removed (203.0.113.80)");
    eventually("nobody answers there", || lab.ping_within(1, 0, &all[..1], 56) == 0);
    assert_eq!(lab.ping(1, &clients(1)[..4], 56), 4, "{} goes on", CLUSTER[1]);
    fs::write(lab.config(), &plain).unwrap();
    dispatcher.signal(Signal::HUP);
    dispatcher.hear("service web added (203.0.113.80, 3 servers)");
    eventually("it serves again", || lab.fetch(0, &all) == before);
    dispatcher.stop();
}

impl Dispatcher<'_> {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).unwrap();
    }
}
