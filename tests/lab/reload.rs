//! Another configuration while clients are served.

use crate::dispatcher::Dispatcher;
use crate::failover::checked;
use crate::network::{CLUSTER, Lab, WEB, XDP, clients, eventually, lookup, succeed, with_health};
use crate::operator::{connected, surf};
use crate::restart::browse;
use crate::stop::Stop;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
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
    let Some(lab) = &Lab::up(&XDP) else { return };
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

#[test]
fn a_reload_reads_the_files_that_are_included_again() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let plain = fs::read_to_string(lab.config()).unwrap();
    let (head, services) = plain.split_at(plain.find("[[service]]").unwrap());
    fs::create_dir(lab.file("services.d")).unwrap();
    let included = lab.file("services.d/all.toml");
    fs::write(&included, services).unwrap();
    fs::write(lab.config(), format!("include = \"services.d\"\n{head}")).unwrap();
    let dispatcher = Dispatcher::start(lab, &[]);
    assert!(lab.ctl(&["reload"]).contains("nothing has changed"));
    fs::write(&included, without_web3(services)).unwrap();
    assert!(lab.ctl(&["reload"]).contains("server web3"));
    fs::write(&included, services.replacen("name = \"web1\"", "nome = \"web1\"", 1)).unwrap();
    let said = lab.ctl_refused(&["reload"]);
    assert!(said.contains("services.d/all.toml:") && said.contains("unknown key `nome`"), "{said}");
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
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = checked(lab);
    let text = fs::read_to_string(&config).unwrap().replace("[service.health]", "drain_s = 8\n[service.health]");
    fs::write(&config, &text).unwrap();
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    fs::write(&config, without_web3(&text)).unwrap();
    assert!(lab.ctl(&["reload"]).contains("web3 removed"));
    lab.ip("dispatcher", "route del default");
    dispatcher.hear(
        "drained servers whose timeout has passed are removed only 30 s later: the kernel would drop the \
               servers' answers",
    );
    let said = lab.ctl_refused(&["weight", "web1", "3"]);
    assert!(said.contains("the kernel would drop the servers' answers"), "{said}");
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
    let Some(lab) = &Lab::up(&XDP) else { return };
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

/// Whoever opens the file waits until this is dropped; see fcntl(2), "Leases". Another process has it, which needs no more than
/// the kernel's numbers: F_SETLEASE 1024, F_GETLEASE 1025, F_WRLCK 1.
struct Lease {
    holder: Child,
    says: BufReader<ChildStdout>,
}

impl Lease {
    fn take(path: &Path) -> Lease {
        let script = "$SIG{IO} = 'IGNORE'; $| = 1; open(F, '+<', $ARGV[0]) or die; \
                      defined(fcntl(F, 1024, 1)) or die $!; print \"taken\\n\"; \
                      while (<STDIN>) { print fcntl(F, 1025, 0) == 1 ? \"kept\\n\" : \"wanted\\n\" }";
        let mut perl = Command::new("perl");
        let perl = perl.args(["-e", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = perl.spawn().unwrap();
        let says = BufReader::new(holder.stdout.take().unwrap());
        let mut lease = Lease { holder, says };
        assert_eq!(lease.line(), "taken\n");
        lease
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line
    }

    /// Whether somebody waits for the file to open.
    fn is_wanted(&mut self) -> bool {
        self.holder.stdin.as_mut().unwrap().write_all(b"?\n").unwrap();
        self.line() == "wanted\n"
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

#[test]
fn a_reload_that_hangs_stops_nothing() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = checked(lab);
    let text = fs::read_to_string(&config).unwrap();
    let (all, expected) = (&clients(0)[..24], |down: &[&str]| lookup(&config, WEB[0], &clients(0)[..24], down));
    let without_web2 = expected(&["--down", "web2"]);
    let without_both = expected(&["--down", "web2", "--down", "web1"]);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);

    fs::write(&config, text.replace("\"tcp/80\"", "\"tcp/80\", \"tcp/81\"")).unwrap();
    let mut lease = Lease::take(&config);
    dispatcher.signal(Signal::HUP);
    eventually("the file does not open", || lease.is_wanted());
    lab.ip("web2", "address del 203.0.113.80/32 dev lo");
    dispatcher.hear("server web2 of service web is down");
    eventually("web2's clients are served", || lab.fetch_within(2, 0, all) == without_web2);
    lab.ctl(&["drain", "web1"]);
    assert_eq!(lab.server("web", "web1")["state"], "draining");
    eventually("web1's as well", || lab.fetch_within(2, 0, all) == without_both);
    let said = lab.ctl_refused(&["reload"]);
    assert!(said.starts_with("error: a reload has been running for ") && said.contains("one at a time"), "{said}");
    dispatcher.signal(Signal::HUP);
    dispatcher.hear("there is one at a time; try again when it is over; the file is read once more then");
    assert!(lease.is_wanted(), "it hangs still");
    drop(lease);
    dispatcher.hear("reload: service web: ports tcp/80 -> tcp/80, tcp/81");
    dispatcher.hear("reload: nothing has changed");
    assert_eq!(lab.server("web", "web1")["state"], "draining", "what was ordered meanwhile holds");
    assert_eq!(lab.server("web", "web2")["state"], "down", "and what was found");
    assert_eq!(lab.fetch(0, all), without_both);

    // An order to stop is carried out all the same.
    let mut lease = Lease::take(&config);
    dispatcher.signal(Signal::HUP);
    eventually("the file does not open", || lease.is_wanted());
    dispatcher.stop();
    assert!(lease.is_wanted(), "it hung to the end");
}

/// Services that are little to read and much to build: no two have the same weights.
fn large_services(count: usize) -> String {
    let of_service = |service: usize| {
        let port = 10_000 + service;
        let head =
            format!("[[service]]\nname = \"large{service}\"\naddress = \"{}\"\nports = [\"tcp/{port}\"]\n", CLUSTER[0]);
        let server = |n: usize| {
            let weight = 1 + service * n;
            format!("[[service.server]]\nname = \"web{n}\"\naddress = \"192.0.2.1{n}\"\nweight = {weight}\n")
        };
        head + &[1, 2, 3].map(server).concat()
    };
    (0..count).map(of_service).collect()
}

/// Few services at first: how many of them take long enough to be built is a matter of the machine.
#[test]
fn a_reload_that_builds_large_tables_stops_nothing() {
    const QUICK: &str =
        "[service.health]\ntype = \"tcp\"\nport = 80\ninterval_ms = 200\ntimeout_ms = 200\nfall = 5\n\n";
    let Some(lab) = &Lab::up(&XDP) else { return };
    let text = with_health(&fs::read_to_string(lab.config()).unwrap(), QUICK);
    fs::write(lab.config(), &text).unwrap();
    let (all, expected) = (&clients(0)[..24], |down: &[&str]| lookup(&lab.config(), WEB[0], &clients(0)[..24], down));
    let without_web2 = expected(&["--down", "web2"]);
    let without_both = expected(&["--down", "web2", "--down", "web1"]);
    let dispatcher = Dispatcher::start(lab, &[]);
    let stops_nothing = |services: usize| {
        fs::write(lab.config(), text.clone() + &large_services(services)).unwrap();
        dispatcher.signal(Signal::HUP);
        lab.sh(
            "web2",
            "nft 'table ip closed { chain input { type filter hook input priority 0; tcp dport 80 reject with tcp reset; }; }'",
        );
        eventually("it is down", || lab.server("web", "web2")["state"] == "down");
        eventually("web2's clients are served", || lab.fetch_within(2, 0, all) == without_web2);
        lab.ctl(&["drain", "web1"]);
        assert_eq!(lab.server("web", "web1")["state"], "draining");
        eventually("web1's as well", || lab.fetch_within(2, 0, all) == without_both);
        let built = format!("reload: service large{} added", services - 1);
        let stopped = dispatcher.said().contains(&built);
        dispatcher.hear(&built);
        eventually("what was found and ordered meanwhile holds", || lab.fetch_within(2, 0, all) == without_both);
        lab.ctl(&["undrain", "web1"]);
        lab.sh("web2", "nft delete table ip closed");
        eventually("it is up", || lab.server("web", "web2")["state"] == "up");
        !stopped
    };
    assert!([100, 400, 1600].into_iter().any(stops_nothing), "the reload was always over first: {}", dispatcher.said());
    dispatcher.stop();
}

/// Another key gives nearly everybody another server, and nothing asks for that.
#[test]
fn what_moves_nearly_everybody_is_refused_without_force() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let plain = fs::read_to_string(lab.config()).unwrap();
    let all = clients(0);
    let before = lookup(&lab.config(), WEB[0], &all, &[]);
    let dispatcher = Dispatcher::start(lab, &[]);
    let (head, rest) = plain.split_once("hash_key = \"").unwrap();
    let other = format!("{head}hash_key = \"{}{}", "0f".repeat(16), &rest[32..]);
    fs::write(lab.config(), &other).unwrap();
    let check = || {
        let mut check = lab.command("dispatcher", env!("CARGO_BIN_EXE_oneip"));
        succeed(check.args(["check", "-c"]).arg(lab.config()))
    };
    dispatcher.signal(Signal::HUP);
    dispatcher.hear("reload: nothing was changed: service web: 6");
    let said = lab.ctl_refused(&["reload"]);
    let told = said.contains("service web: 6") && said.contains("% of its clients get another server");
    assert!(told && said.contains("`oneip ctl reload --force`"), "{said}");
    assert!(check().contains("which runs with this file:\n  a reload would be refused: service web: 6"), "{}", check());
    assert_eq!(lab.fetch(0, &all), before);
    assert!(lab.ctl(&["reload", "--force"]).contains("changed; nearly every client"));
    let after = lookup(&lab.config(), WEB[0], &all, &[]);
    assert_ne!(before, after);
    eventually("by the other key", || lab.fetch_within(2, 0, &all) == after);

    fs::write(lab.config(), other.replace("name = \"web2\"\n", "name = \"web2\"\nweight = 3\n")).unwrap();
    let said = lab.ctl(&["reload", "--dry-run"]);
    assert!(said.contains("web2: weight 1 -> 3") && said.contains("nothing was changed"), "{said}");
    assert!(check().contains("  service web: server web2: weight 1 -> 3\n"), "{}", check());
    assert_eq!(lab.server("web", "web2")["weight"], 1);
    dispatcher.stop();
}

#[test]
fn renamed_services_and_servers_keep_their_connections() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = checked(lab);
    let plain = fs::read_to_string(&config).unwrap();
    let stop = &AtomicBool::new(false);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let browsers: Vec<_> = (0..40)
            .map(|n| clients(0)[n].clone())
            .map(|client| scope.spawn(move || browse(lab, 0, &client, stop)))
            .collect();
        connected(lab, &clients(0)[..40]);
        for round in 0..6 {
            let named = match round % 3 {
                0 => plain.replace("name = \"web\"", "name = \"www\""),
                1 => plain.replace("\"web3\"", "\"third\""),
                _ => plain.clone(),
            };
            fs::write(&config, named).unwrap();
            assert!(lab.ctl(&["reload"]).contains("renamed to"), "round {round}");
            thread::sleep(Duration::from_millis(300));
        }
        drop(when_done);
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 10));
    });
    dispatcher.stop();
}
