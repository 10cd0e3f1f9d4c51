//! How far members are, and that they hear of it: nobody asks the store again and again.

use super::net::{Net, eventually};
use super::{SAME, STORE};
use serde_json::Value;
use std::thread;
use std::time::Duration;

/// How often etcd was asked for keys.
fn asked(net: &Net) -> u64 {
    let page = net.get("127.0.0.1:2379", "/metrics");
    let is_it = |line: &&str| line.starts_with("grpc_server_started_total{") && line.contains("grpc_method=\"Range\"");
    let line = page.lines().find(is_it).expect("etcd counts it");
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

fn member(net: &Net, asked: usize, about: &str) -> Value {
    let group = net.document(asked, "group");
    let members = group["members"].as_array().expect("members").clone();
    members.into_iter().find(|member| member["member"] == about).unwrap_or_default()
}

#[test]
fn members_watch_the_store_and_it_is_seen_how_far_each_is() {
    let Some(net) = Net::up(2) else { return };
    let _etcd = net.etcd(0, 1, "");
    (1..=2).for_each(|at| _ = net.config(at, STORE, SAME));
    let (_d1, d2) = (net.dispatcher(1), net.dispatcher(2));
    (1..=2).for_each(|at| net.joined(at, 2));
    net.done(1, "weight web1 2");
    net.becomes(2, "web1", "up", 2);

    // Longer than every wait between two attempts.
    let mut before = asked(&net);
    // A connection that was lost because this host stood still is made anew, once.
    eventually("nobody asks", || {
        thread::sleep(Duration::from_secs(6));
        asked(&net) == std::mem::replace(&mut before, asked(&net))
    });
    net.document(1, "group");
    assert!(asked(&net) > before, "who looks asks, and it is counted");

    let tables = || [1, 2].map(|at| member(&net, at, &format!("d{at}"))["generation"].as_u64().unwrap_or_default());
    eventually("both say how far they are", || tables().iter().all(|table| *table > 0));
    let old = tables();
    net.done(2, "weight web2 3");
    eventually("both have another table", || tables().iter().zip(old).all(|(new, old)| *new > old));

    eventually("nobody is behind", || member(&net, 1, "d2")["behind"] == 0);
    d2.pause();
    net.done(1, "weight web3 4");
    eventually("d2 has not heard of it", || member(&net, 1, "d2")["behind"].as_u64().is_some_and(|behind| behind >= 1));
    eventually("d1 has", || member(&net, 1, "d1")["behind"] == 0);
    let shown = net.done(1, "group");
    assert!(shown.contains("1 orders"), "{shown}");
    d2.go_on();
    eventually("it has caught up", || member(&net, 1, "d2")["behind"] == 0);
    net.becomes(2, "web3", "up", 4);
}
