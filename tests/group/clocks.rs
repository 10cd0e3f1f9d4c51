//! Members whose clocks are apart. Nothing is heard of a clock but by what members write.

use super::clock::Clock;
use super::health::Servers;
use super::net::{Net, Process, eventually};
use std::fs;

/// Of each dispatcher, how many seconds its clock is ahead: hours, where a drain lasts minutes.
const AHEAD: [i64; 3] = [2 * 3600, -24 * 3600, 0];

#[test]
fn members_whose_clocks_are_hours_apart_do_the_same_for_as_long_as_was_ordered() {
    let Some(net) = Net::up(3) else { return };
    let mut servers = Servers::new(&net, 3);
    let clocks = [1, 2, 3].map(|at| {
        let folder = net.path(&format!("clock{at}"));
        fs::create_dir(&folder).expect("a folder");
        let clock = Clock::make(&folder);
        clock.set(AHEAD[at - 1]);
        clock
    });
    let start = |at: usize| net.dispatcher_by(at, |command| clocks[at - 1].give(command));
    let etcd = net.etcd(0, 1, "");
    let all = [1, 2, 3];
    all.iter().for_each(|at| net.sharing(*at, 1, ""));
    let mut members: Vec<Process> = all.iter().map(|at| start(*at)).collect();
    all.iter().for_each(|at| net.stands(*at, "together", 3));
    let log = fs::read_to_string(net.path("d2.log")).expect("a log");
    let date = |ahead: i64| {
        let date =
            std::process::Command::new("date").args(["-u", "+%Y-%m-%d", "-d", &format!("{ahead} seconds")]).output();
        String::from_utf8(date.expect("it runs").stdout).expect("text").trim().to_owned()
    };
    assert!(log.contains(&date(AHEAD[1])), "its clock is behind: {log}");

    // By d2's and d3's clocks it is ordered in the future; by d1's, what these order is long over.
    net.done(1, "drain web1");
    all.iter().for_each(|at| net.becomes(*at, "web1", "draining", 1));
    net.done(2, "undrain web1");
    all.iter().for_each(|at| net.becomes(*at, "web1", "up", 1));
    net.done(2, "drain web1");
    net.done(3, "drain web2");
    for at in all {
        net.becomes(at, "web1", "draining", 1);
        net.becomes(at, "web2", "draining", 1);
    }
    net.done(2, "deny 198.51.100.0/24 --for 10m");
    let left = |at: usize| {
        let denied = net.document(at, "denied");
        denied["denied"].as_array().and_then(|all| all.first()?["left_s"].as_u64())
    };
    for at in all {
        eventually("it is denied for ten minutes", || left(at).is_some_and(|left| (540..=600).contains(&left)));
    }
    // What a member was told stays so over a restart.
    drop(members.remove(0));
    members.insert(0, start(1));
    all.iter().for_each(|at| net.joined(*at, 3));
    for server in ["web1", "web2"] {
        assert_eq!(net.state(1, server).0, "draining");
    }
    assert!(all.iter().all(|at| left(*at).is_some_and(|left| (500..=600).contains(&left))));

    // No clock has a part in a vote.
    all.iter().for_each(|at| servers.refuse(*at, 3));
    all.iter().for_each(|at| net.becomes(*at, "web3", "down", 1));
    all.iter().for_each(|at| servers.serve(*at, 3));
    all.iter().for_each(|at| net.becomes(*at, "web3", "up", 1));

    // Only of what waited for the store the clocks say what was later: then all have the same.
    etcd.stop();
    all.iter()
        .for_each(|at| eventually("it is noticed", || net.document(*at, "status")["group"]["connected"] == false));
    net.done(1, "weight web3 4");
    net.done(3, "weight web3 6");
    let _etcd = net.etcd(0, 1, "");
    all.iter().for_each(|at| net.joined(*at, 3));
    all.iter().for_each(|at| net.becomes(*at, "web3", "up", 4));
    // And what is ordered then counts, whatever they say.
    net.done(2, "weight web3 6");
    all.iter().for_each(|at| net.becomes(*at, "web3", "up", 6));
}
