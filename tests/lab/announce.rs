//! Cluster addresses are announced, by routes in a table for routing daemons, exactly while clients are served.

use crate::dispatcher::Dispatcher;
use crate::network::{HEALTH, Lab, WEB, XDP, clients, eventually, lookup, say, with_health, write_config};
use crate::supervisor::stop_worker;
use nix::sys::ptrace;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const ALL: [&str; 3] = ["web1", "web2", "web3"];

/// The lab's configuration with this in `[announce]`.
fn announcing(lab: &Lab, settings: &str) -> PathBuf {
    let plain = fs::read_to_string(lab.config()).unwrap();
    let path = lab.file("announcing.toml");
    write_config(&path, &plain.replace("[admin]", &format!("[announce]\n{settings}\n[admin]")));
    path
}

/// What a routing daemon finds in the table.
pub fn announced(lab: &Lab, host: &str) -> Vec<String> {
    // Nobody has ever put a route there: the kernel has no such table.
    let show = |family: &str| {
        let mut ip = Command::new("ip");
        ip.args(["-n", &lab.namespace(host), family, "route", "show", "table", "111", "proto", "111"]);
        String::from_utf8(ip.output().unwrap().stdout).unwrap()
    };
    let text = show("-4") + &show("-6");
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

const BOTH: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];

/// Waits until these are announced, and how long that took.
fn is_announced(lab: &Lab, wanted: &[&str]) -> Duration {
    eventually(&format!("{wanted:?} are announced"), || announced(lab, "dispatcher") == wanted)
}

fn why(lab: &Lab, service: &str) -> String {
    lab.status(service)["announce"]["why"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_ready_is_announced_and_an_operator_withdraws_it_while_frames_are_dispatched() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = announcing(lab, "hold_down_ms = 8000\nlinger_ms = 5000\nhold_s = 2");
    let plain = lookup(&lab.config(), WEB[0], &clients(0), &[]);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    is_announced(lab, &BOTH);
    assert_eq!(lab.ctl(&["ready"]), "ready\n");
    // Nothing of the kernel's own goes by these routes.
    assert!(lab.ip("dispatcher", "route get 203.0.113.80").contains("via 192.0.2.1"));

    assert!(lab.ctl(&["withdraw", "--service", "web"]).contains("still arrive are dispatched"));
    // The services "web" and "echo" share the address, and one of them is to be announced.
    assert!(lab.ctl(&["withdraw", "--service", "web"]).contains("203.0.113.80 stays announced while service echo"));
    assert_eq!(announced(lab, "dispatcher"), BOTH);
    let said = lab.ctl_refused(&["ready", "--service", "web"]);
    assert_eq!(said, "error: service web is not ready: withdrawn by oneip ctl withdraw\n");
    assert_eq!(lab.ctl(&["ready", "--service", "echo"]), "ready\n");
    lab.ctl(&["withdraw", "--service", "echo"]);
    is_announced(lab, &BOTH[1..]);
    assert_eq!(lab.fetch(0, &clients(0)), plain, "frames are dispatched");
    lab.ctl(&["withdraw"]);
    is_announced(lab, &[]);
    assert!(lab.ctl_refused(&["announce", "--service", "web"]).contains("every service is withdrawn"));
    assert!(lab.ctl_refused(&["withdraw", "--service", "nonesuch"]).contains("there is no service nonesuch"));
    dispatcher.stop();

    // An order outlives the process.
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    assert!(dispatcher.said().contains("every service is withdrawn by the operator, as before the restart"));
    assert!(announced(lab, "dispatcher").is_empty());
    lab.ctl(&["announce"]);
    is_announced(lab, &BOTH);

    // Servers go at once, and come back when they have stayed for a while.
    let started = Instant::now();
    ALL.iter().for_each(|server| drop(lab.ctl(&["disable", server, "--force"])));
    is_announced(lab, &[]);
    assert_eq!(why(lab, "web"), "no server that takes clients");
    let status = lab.ctl(&["status"]);
    assert!(status.contains("NOT ANNOUNCED: no server that takes clients"), "{status}");
    lab.ctl(&["enable", "web2"]);
    assert!(why(lab, "web").starts_with("ready again, and announced after "), "{}", why(lab, "web"));
    assert!(announced(lab, "dispatcher").is_empty(), "it is held down");
    is_announced(lab, &BOTH);
    assert!(started.elapsed() > Duration::from_secs(8));

    // At a clean stop routers are told first.
    let page = lab.ctl(&["metrics"]);
    assert!(
        page.contains("oneip_announced{service=\"web\"} 1\n")
            && page.contains("oneip_service_ready{service=\"web\"} 1")
    );
    kill_process(Pid::from_child(dispatcher.child()), Signal::TERM).unwrap();
    is_announced(lab, &[]);
    assert!(lab.fetch(0, &clients(0)[..20]).iter().all(|(_, server)| server == "web2"), "what comes is dispatched yet");
    let said = dispatcher.ended().said;
    assert!(said.contains("frames that still arrive are dispatched for 5000 ms more"), "{said}");
}

#[test]
fn a_link_that_is_down_and_a_dispatcher_that_hangs_or_is_killed_are_not_announced_for_long() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = announcing(lab, "hold_down_ms = 500\nlinger_ms = 0\nhold_s = 12");
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    is_announced(lab, &BOTH);
    // The far end of the cable.
    lab.ip("lan", "link set dispatcher down");
    let took = is_announced(lab, &[]);
    say(&format!("link down: withdrawn after {took:.1?}"));
    assert_eq!(why(lab, "web"), "lan0 is down");
    lab.ip("lan", "link set dispatcher up");
    is_announced(lab, &BOTH);
    // What somebody else has taken away is put back.
    lab.ip("dispatcher", "route flush table 111");
    is_announced(lab, &BOTH);

    let process = Pid::from_child(dispatcher.child());
    kill_process(process, Signal::STOP).unwrap();
    say(&format!("stopped: withdrawn after {:.1?}", is_announced(lab, &[])));
    kill_process(process, Signal::CONT).unwrap();
    is_announced(lab, &BOTH);

    // A start within the time, which is long for a busy machine, is seen by no router.
    kill_process(process, Signal::KILL).unwrap();
    assert_eq!(announced(lab, "dispatcher"), BOTH);
    let next = Dispatcher::start_with(lab, &config, &[]);
    std::thread::sleep(Duration::from_secs(13));
    assert_eq!(announced(lab, "dispatcher"), BOTH, "the routes are the next one's");
    assert!(!next.said().contains("withdrawn") && !next.said().contains("is announced"), "{}", next.said());
    drop(dispatcher);

    let killed = Instant::now();
    kill_process(Pid::from_child(next.child()), Signal::KILL).unwrap();
    is_announced(lab, &[]);
    say(&format!("killed, hold_s = 12: withdrawn after {:.1?}", killed.elapsed()));
    assert!(killed.elapsed() >= Duration::from_secs(12));

    // Without a time: one that hangs has to be silent for long enough to hang.
    let text = fs::read_to_string(&config).unwrap();
    write_config(&config, &text.replace("hold_s = 12", "hold_s = 0"));
    let last = Dispatcher::start_with(lab, &config, &[]);
    is_announced(lab, &BOTH);
    let process = Pid::from_child(last.child());
    kill_process(process, Signal::STOP).unwrap();
    say(&format!("stopped, hold_s = 0: withdrawn after {:.1?}", is_announced(lab, &[])));
    kill_process(process, Signal::CONT).unwrap();
    is_announced(lab, &BOTH);
    kill_process(process, Signal::KILL).unwrap();
    say(&format!("killed, hold_s = 0: withdrawn after {:.1?}", is_announced(lab, &[])));
}

/// Its link is up, and nothing behind it is there.
#[test]
fn a_dispatcher_that_no_server_answers_is_not_announced() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = announcing(lab, "hold_down_ms = 500\nlinger_ms = 0");
    write_config(&config, &with_health(&fs::read_to_string(&config).unwrap(), HEALTH));
    let expected = lookup(&lab.config(), WEB[0], &clients(0), &[]);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    is_announced(lab, &BOTH);
    lab.ip("lan", "link set dispatcher nomaster");
    say(&format!("no server answers: withdrawn after {:.1?}", is_announced(lab, &[])));
    for service in WEB {
        let why = why(lab, service);
        assert!(why.starts_with("no server that could be checked in the last "), "{service}: {why}");
    }
    for address in BOTH {
        let told = dispatcher.said();
        let line = told.lines().find(|line| line.contains(&format!("{address} is withdrawn: "))).unwrap();
        assert!(line.contains("no server that could be checked"), "{line}");
    }
    let refused = lab.ctl_refused(&["ready"]);
    assert!(refused.contains("service web is not ready: no server that could be checked"), "{refused}");
    lab.ip("lan", "link set dispatcher master br0");
    is_announced(lab, &BOTH);
    assert_eq!(lab.ctl(&["ready"]), "ready\n");
    assert_eq!(lab.fetch(0, &clients(0)), expected, "everybody is where they were");
    dispatcher.stop();
}

/// Its clients are served meanwhile: the program in front of its rings dispatches.
#[test]
fn a_worker_that_stands_still_is_not_announced() {
    let Some(lab) = &Lab::up(&["--engine", "af_xdp"]) else { return };
    let config = announcing(lab, "hold_down_ms = 500\nlinger_ms = 0\nhold_s = 2");
    let expected = lookup(&lab.config(), WEB[0], &clients(0)[..20], &[]);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    is_announced(lab, &BOTH);
    let worker = stop_worker(&dispatcher);
    say(&format!("a worker stands still: withdrawn after {:.1?}", is_announced(lab, &[])));
    assert!(why(lab, "web").starts_with("worker 0 "), "{}", why(lab, "web"));
    assert_eq!(lab.fetch(0, &clients(0)[..20]), expected, "while it stands still");
    ptrace::detach(worker, None).unwrap();
    is_announced(lab, &BOTH);
    dispatcher.stop();
}

#[test]
fn a_reload_changes_what_is_announced_and_a_takeover_nothing() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = announcing(lab, "linger_ms = 0");
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    is_announced(lab, &BOTH);
    let text = fs::read_to_string(&config).unwrap();
    let drained = text.replace("name = \"web6\"", "announce = \"drain\"\nname = \"web6\"");
    let drained = drained.replace("name = \"echo6\"", "announce = \"drain\"\nname = \"echo6\"");
    write_config(&config, &drained);
    assert!(lab.ctl(&["reload"]).contains("service web6: announce ready -> drain"));
    is_announced(lab, &BOTH[..1]);
    assert_eq!(why(lab, "web6"), "withdrawn by announce = \"drain\"");
    let some = &clients(1)[..20];
    let expected = lookup(&lab.config(), WEB[1], some, &[]);
    eventually("what still comes is dispatched", || lab.fetch_within(2, 1, some) == expected);
    assert_eq!(announced(lab, "dispatcher"), BOTH[..1]);
    write_config(&config, &text.replace("[announce]", "[announce]\nmin_up = 3"));
    lab.ctl(&["reload"]);
    is_announced(lab, &BOTH);
    lab.ctl(&["disable", "web1"]);
    is_announced(lab, &[]);
    assert_eq!(why(lab, "web"), "2 servers that take clients, and needs 3 (`min_up`)");
    lab.ctl(&["enable", "web1"]);
    write_config(&config, &text.replace("[announce]", "[announce]\ntable = 112"));
    assert!(lab.ctl_refused(&["reload"]).contains("[announce] table or hold_s"));
    write_config(&config, &text);
    lab.ctl(&["reload"]);
    is_announced(lab, &BOTH);

    let next = Dispatcher::start_with(lab, &config, &["--takeover"]);
    assert_eq!(announced(lab, "dispatcher"), BOTH);
    dispatcher.ended();
    assert!(!next.said().contains("withdrawn"), "{}", next.said());
    let status = || -> Value { serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap() };
    eventually("the new one says so", || status()["services"][0]["announce"]["announced"] == true);
    next.stop();
    assert!(announced(lab, "dispatcher").is_empty());
}
