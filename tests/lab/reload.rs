//! Another configuration while clients are served.

use crate::dispatcher::Dispatcher;
use crate::failover::checked;
use crate::network::{CLUSTER, Lab, WEB, clients, eventually, lookup};
use crate::operator::surf;
use crate::restart::browse;
use crate::stop::Stop;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
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
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 10));
        assert!(surfers.into_iter().all(|surfer| surfer.join().unwrap() > 10));
    });
    fs::write(lab.config(), &plain).unwrap();
    lab.ctl(&["reload"]);
    eventually("everybody is where the configuration says", || {
        lab.fetch_within(2, 0, &clients(0)) == lookup(&lab.config(), WEB[0], &clients(0), &[])
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
    eventually("it serves again", || lab.fetch_within(2, 0, &all) == before);
    dispatcher.stop();
}

impl Dispatcher<'_> {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).unwrap();
    }
}

/// Such as a route that went: checks would not come back, and a reload would be refused. A weight is, and leaves nothing behind.
#[test]
fn what_a_reload_is_refused_for_does_not_end_a_dispatcher() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let config = checked(lab);
    let text = fs::read_to_string(&config).unwrap().replace("[service.health]", "drain_s = 3\n[service.health]");
    fs::write(&config, &text).unwrap();
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    fs::write(&config, without_web3(&text)).unwrap();
    assert!(lab.ctl(&["reload"]).contains("web3 removed"));
    lab.ip("dispatcher", "route del default");
    dispatcher
        .hear("servers whose time is over stay for 30 s more, and go then: the kernel would drop what servers answer");
    let said = lab.ctl_refused(&["weight", "web1", "3"]);
    assert!(said.contains("the kernel would drop what servers answer"), "{said}");
    assert_eq!(lab.server("web", "web1")["weight"], 1);
    let remembered: Value = serde_json::from_slice(&fs::read(lab.file("state.json")).unwrap()).unwrap();
    assert_eq!(remembered["servers"], serde_json::json!({}), "{remembered}");
    let judged = |server| lab.server("web", server)["state"].as_str().unwrap() == "down";
    assert!(!["web1", "web2"].into_iter().any(judged), "that no answer arrives is not their fault");
    lab.ip("dispatcher", "route add default via 192.0.2.1");
    let (all, expected) = (&clients(0)[..24], lookup(&config, WEB[0], &clients(0)[..24], &[]));
    eventually("everybody is served again", || lab.fetch_within(2, 0, all) == expected);
    dispatcher.stop();
}

/// By a relative path, of a link that leads to another file later.
#[test]
fn a_reload_reads_the_name_that_was_given_again() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let text = fs::read_to_string(lab.config()).unwrap();
    let folder = lab.file("").display().to_string();
    let relative = text.replace(&folder, "");
    assert!(relative.contains("socket = \"oneip.sock\""), "{relative}");
    fs::write(lab.file("old.toml"), &relative).unwrap();
    fs::write(lab.file("new.toml"), without_web3(&relative)).unwrap();
    let link = lab.file("link.toml");
    let lead_to = |file: &str| {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(file, &link).unwrap();
    };
    lead_to("old.toml");
    let up = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect::<PathBuf>();
    let dispatcher = Dispatcher::start_with(lab, &up.join(link.strip_prefix("/").unwrap()), &[]);
    assert!(lab.ctl(&["reload"]).contains("nothing has changed"));
    lead_to("new.toml");
    assert!(lab.ctl(&["reload"]).contains("web3 removed"));
    dispatcher.stop();
}
