//! Faults of a dispatcher that runs.

use crate::net::{CLUSTER4, HEALTH, Net, ONEIP, eventually};
use crate::{fault, only, try_all};
use std::fs;

#[test]
fn faults_of_a_running_dispatcher_are_named_alone() {
    let Some(mut net) = Net::up() else { return };
    net.run();
    let dir = net.dir();
    let mut healthy = net.doctor("d", "", "--seconds 1");
    eventually("all servers are up and checked", || {
        healthy = net.doctor("d", "", "--seconds 1");
        healthy.bad().is_empty()
    });

    // The file and what runs.
    let weight = r#"sed -i 's/^name = "s1"/&\nweight = 3/' DIR/cluster.toml"#;
    try_all(&net, "d", "--seconds 0", &[fault("reload", weight)]);
    net.write("cluster.toml", &net.config("", HEALTH));
    net.sh("d", &format!("{ONEIP} ctl --socket {dir}/oneip.sock reload"));

    // Orders.
    let order = "ONEIP ctl --socket DIR/oneip.sock disable s2";
    try_all(&net, "d", "--seconds 0", &[fault("servers", order)]);
    eventually("it is up again", || net.doctor("d", "", "--seconds 0").bad().is_empty());

    // Drops, while they rise.
    let noise = net.start("r", &format!("while :; do echo x >/dev/udp/{CLUSTER4}/9; sleep 0.05; done"));
    let found = net.doctor("d", "", "--seconds 2");
    only(&healthy, &found, "drops_no_service", "another port");
    net.end(noise);
    eventually("the noise has ended", || net.doctor("d", "", "--seconds 1").bad().is_empty());

    // A rule that takes the probes: named, and not what follows from it.
    net.sh("d", "ip rule add pref 0 fwmark 0x6f6e0000/0xffff0000 lookup main");
    let found = net.doctor("d", "", "--seconds 0");
    only(&healthy, &found, "probe_rules", "a rule before ours");
    net.sh("d", &found.fixes("probe_rules")[0]);
    eventually("servers are checked again", || net.doctor("d", "", "--seconds 0").bad().is_empty());

    // A server whose program has ended.
    let listener = net.sh("s2", "ss -Hltnp sport = :80 | sed 's/.*pid=\\([0-9]*\\).*/\\1/'");
    net.sh("s2", &format!("kill {listener}"));
    let mut found = net.doctor("d", "", "--seconds 0");
    eventually("it is down", || {
        found = net.doctor("d", "", "--seconds 0");
        found.bad().contains("servers")
    });
    only(&healthy, &found, "servers", "nobody listens");
}

/// A dispatcher puts its routes back within a second: this one is stopped first.
#[test]
fn routes_of_the_checks_that_are_lost_or_left_are_named() {
    let Some(mut net) = Net::up() else { return };
    let process = net.run();
    eventually("all servers are up", || net.doctor("d", "", "--seconds 0").bad().is_empty());
    let flush = "ip route flush table all proto 111";
    net.signal(process, "STOP");
    let stopped = net.doctor("d", "", "--seconds 0");
    net.sh("d", flush);
    let found = net.doctor("d", "", "--seconds 0");
    only(&stopped, &found, "probe_rules", flush);
    assert!(found.text().contains("4 routes of the checks are missing"), "{}", found.text());
    net.signal(process, "CONT");
    eventually("they are back", || net.doctor("d", "", "--seconds 0").bad().is_empty());

    // Of one that was killed, rules and routes are left; either is named, and both are removed.
    net.signal(process, "KILL");
    net.end(process);
    let found = net.doctor("d", "", "--seconds 0");
    let said = found.text();
    assert!(said.contains(" rules and 4 routes of the checks, but no dispatcher runs"), "{said}");
    net.sh("d", "ip rule flush protocol 111; ip -6 rule flush protocol 111");
    let found = net.doctor("d", "", "--seconds 0");
    assert!(found.text().contains("there are 0 rules and 4 routes of the checks"), "{}", found.text());
    net.sh("d", &found.fixes("probe_rules")[0]);
    assert!(!net.doctor("d", "", "--seconds 0").bad().contains("probe_rules"));
    assert_eq!(net.sh("d", &flush.replace("flush", "show")), "");
}

#[test]
fn a_server_whose_answers_never_show_is_named() {
    let Some(mut net) = Net::up() else { return };
    net.run();
    eventually("all servers are up", || net.doctor("d", "", "--seconds 0").bad().is_empty());
    let healthy = net.doctor("d", "", "--seconds 0");
    // Answers to the dispatcher's checks stay on the link; those to clients have no way.
    for server in ["s1", "s2"] {
        net.sh(server, "ip route del default");
    }
    net.start("r", &format!("while :; do for n in 7 8 9; do curl -s --max-time 0.5 --interface 198.51.100.$n http://{CLUSTER4}/ || true; done; done"));
    let mut found = net.doctor("d", "", "--seconds 0");
    eventually("connections were tried", || {
        found = net.doctor("d", "", "--seconds 0");
        found.bad().contains("silent_servers")
    });
    only(&healthy, &found, "silent_servers", "no way to clients");
    let fix = found.fixes("silent_servers")[0].replace("FILE", &format!("{}/cluster.toml", net.dir()));
    let server = fix.rsplit(' ').next().expect("a name").to_owned();
    assert!(fix.ends_with(&format!("--server {server}")) && fix.starts_with("oneip doctor"));
    assert!(net.doctor(&server, "", &format!("--server {server} --seconds 0")).bad().contains("default_route"));
}

#[test]
fn queues_that_have_no_worker_are_named_and_taken_away() {
    let Some(mut net) = Net::up() else { return };
    net.write("cluster.toml", &net.config("engine = \"af_xdp\"\n", HEALTH));
    net.run();
    let healthy = net.doctor("d", "", "--seconds 0");
    net.sh("d", "ethtool -L lan0 rx 2 tx 2");
    let found = net.doctor("d", "", "--seconds 0");
    only(&healthy, &found, "queues", "a queue more");
    net.sh("d", &found.fixes("queues")[0]);
    assert_eq!(net.doctor("d", "", "--seconds 0").bad(), healthy.bad());
}

#[test]
fn run_warns_at_the_start_and_status_shows_the_worst_in_a_line_each() {
    let Some(mut net) = Net::up() else { return };
    net.sh("d", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=1");
    net.run();
    let said = fs::read_to_string(net.path("run.log")).expect("it is there");
    let status = net.sh("d", &format!("{ONEIP} ctl --socket {}/oneip.sock status", net.dir()));
    for (name, fix) in [
        ("ip_forward", "sysctl -w net.ipv4.ip_forward=0"),
        ("send_redirects", "sysctl -w net/ipv4/conf/all/send_redirects=0"),
    ] {
        let is_told = |text: &str| text.lines().any(|line| line.contains(&format!("{name}: ")) && line.ends_with(fix));
        assert!(is_told(&said), "{name}: {said}");
        assert!(is_told(&status), "{name}: {status}");
    }
}
