//! Services that are published for all members by way of etcd.

use super::net::{Net, eventually};
use super::{SAME, STORE};
use std::fs;
use std::thread;

/// The services of the file, with a weight for web1, and a line more.
fn services(weight: u32, more: &str) -> String {
    let servers: String = (1..=3)
        .map(|n| {
            let weight = if n == 1 { weight } else { 1 };
            format!("[[service.server]]\nname = \"web{n}\"\naddress = \"192.0.2.1{n}\"\nmac = \"02:00:00:00:00:1{n}\"\nweight = {weight}\n")
        })
        .collect();
    format!("[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n{more}{servers}")
}

fn write(net: &Net, file: &str, text: &str) {
    fs::write(net.path(file), text).expect("written");
}

fn generations(net: &Net, at: usize) -> Vec<u64> {
    let group = net.document(at, "group");
    let members = group["members"].as_array().expect("members").clone();
    members.iter().map(|member| member["published"].as_u64().unwrap_or(99)).collect()
}

#[test]
fn what_is_published_counts_on_all_and_what_is_wrong_on_none() {
    let Some(net) = Net::up(3) else { return };
    let etcd = net.etcd(0, 1, "");
    let group = format!("{STORE}\nconfig = \"etcd\"");
    (1..=2).for_each(|at| _ = net.config(at, &group, SAME));
    let (d1, _d2) = (net.dispatcher(1), net.dispatcher(2));
    (1..=2).for_each(|at| net.joined(at, 2));
    assert_eq!(net.document(1, "status")["group"]["published"], 0, "the services of the file count");

    write(&net, "next.toml", &services(5, ""));
    let said = net.done(1, "publish next.toml");
    assert!(said.contains("web1") && said.contains("published as generation 1"), "{said}");
    (1..=2).for_each(|at| net.becomes(at, "web1", "up", 5));
    (1..=2).for_each(|at| net.joined(at, 2));
    eventually("all go by it", || generations(&net, 2) == [1, 1]);
    assert!(net.done(1, "status").contains("services of generation 1"));

    // What is wrong is refused where it is given, with the line, and nothing is published.
    for (text, said) in [
        (services(5, "slots = 4\n"), "what is to be published:4:9: 4 slots are too few"),
        ("[dispatcher]\ninterface = \"d1\"\n".to_owned() + &services(5, ""), "belongs in the file of each member"),
        ("nonsense\n".to_owned(), "what is to be published:1"),
    ] {
        write(&net, "wrong.toml", &text);
        let error = net.ctl(2, "publish wrong.toml").expect_err("refused");
        assert!(error.contains(said), "{error}");
    }
    // In the store it changes nothing, is named, and does not keep the next one away.
    let text = services(7, "hash = 'x'\n").replace('\n', "\\n").replace(['"', '\''], "\\\"");
    net.etcdctl(&format!(
        "put /oneip/edge/shared/config '{{\"generation\":2,\"by\":\"d9\",\"at_ms\":1,\"text\":\"{text}\"}}'"
    ));
    for at in 1..=2 {
        eventually("it is named", || {
            net.done(at, "status").contains(
                "config in the store is not used: generation 2 cannot be used here, and generation 1 stays in use",
            )
        });
        assert_eq!(net.state(at, "web1"), ("up".to_owned(), 5));
    }
    // A reload of the file goes on by what counts.
    let error = net.ctl(1, "reload").expect_err("what is published is wrong");
    assert!(error.contains("generation 2 by d9:4:8:"), "{error}");
    assert_eq!(net.state(1, "web1"), ("up".to_owned(), 5));
    write(&net, "next.toml", &services(6, ""));
    assert!(net.done(2, "publish next.toml").contains("published as generation 3"));
    (1..=2).for_each(|at| net.becomes(at, "web1", "up", 6));
    assert!(net.done(1, "reload").contains("nothing has changed"));

    // Two operators at once: one generation after the other, or one is told.
    let both = [1, 2].map(|at| (at, format!("at{at}.toml")));
    both.iter().for_each(|(at, file)| write(&net, file, &services(10 + *at as u32, "")));
    let said: Vec<_> = thread::scope(|scope| {
        let net = &net;
        let told = both.each_ref().map(|(at, file)| scope.spawn(move || net.ctl(*at, &format!("publish {file}"))));
        told.into_iter().map(|told| told.join().expect("it ends")).collect()
    });
    assert!(said.iter().any(Result::is_ok), "{said:?}");
    let refused = said.iter().filter_map(|said| said.as_ref().err());
    refused.for_each(|error| {
        assert!(error.contains("meanwhile") || error.contains("a reload has been running"), "{error}")
    });
    let last = 3 + said.iter().filter(|said| said.is_ok()).count() as u64;
    eventually("both go by the last one", || generations(&net, 1) == [last, last]);
    let weight = net.state(1, "web1").1;
    assert_eq!(net.state(2, "web1").1, weight);

    // Without the store: nothing can be published, and a start goes by what is on disk.
    etcd.stop();
    eventually("it is noticed", || net.done(1, "status").contains("the store CANNOT BE REACHED"));
    let error = net.ctl(1, "publish next.toml").expect_err("refused");
    assert!(error.contains("the group's store cannot be reached"), "{error}");
    d1.stop();
    let _d1 = net.dispatcher(1);
    assert_eq!(net.state(1, "web1"), ("up".to_owned(), weight));
    assert_eq!(net.document(1, "status")["group"]["published"], last);

    // The store goes back to a generation before: nobody follows it there, until something is published again.
    let etcd = net.etcd(0, 1, "");
    (1..=2).for_each(|at| net.joined(at, 2));
    net.etcdctl("snapshot save then.db");
    write(&net, "next.toml", &services(20, ""));
    net.done(1, "publish next.toml");
    (1..=2).for_each(|at| net.becomes(at, "web1", "up", 20));
    etcd.stop();
    let etcd = net.restored("then.db");
    let older = format!("generation {last} is older than {}, which is in use here: the store was restored", last + 1);
    for at in 1..=2 {
        eventually("it is told", || net.done(at, "status").contains(&older));
        assert_eq!(net.state(at, "web1"), ("up".to_owned(), 20));
    }
    write(&net, "next.toml", &services(21, ""));
    assert!(net.done(2, "publish next.toml").contains(&format!("published as generation {}", last + 2)));
    (1..=2).for_each(|at| net.becomes(at, "web1", "up", 21));
    let weight = 21;
    etcd.stop();

    // A member that is new takes it from the store; one that does not take what is published stays outside.
    let _etcd = net.etcd(0, 1, "");
    net.config(3, &group, SAME);
    let third = net.dispatcher(3);
    net.becomes(3, "web1", "up", weight);
    net.joined(3, 3);
    third.stop();
    net.config(3, STORE, SAME);
    fs::remove_dir_all(net.path("state3")).expect("it is there");
    let _third = net.dispatcher(3);
    eventually("it says so", || net.done(3, "status").contains("another configuration than the group (d1, d2)"));
    let error = net.ctl(3, "publish next.toml").expect_err("refused");
    assert!(error.contains("write config = \"etcd\" in its [group]"), "{error}");
}
