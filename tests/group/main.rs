//! Dispatchers that share a real etcd: its orders, and what becomes of them when it is gone, without a quorum, or older than it was.

#[path = "../soak/clock.rs"]
mod clock;
mod clocks;
mod halves;
mod health;
mod net;
mod published;
mod tls;
mod watched;

use net::{Net, Process, eventually};
use std::thread;

const STORE: &str = "etcd = [\"http://127.0.0.1:2379\"]";
const SAME: (&str, &str) = ("", "");

#[test]
fn an_order_to_one_member_is_one_to_all() {
    let Some(net) = Net::up(3) else { return };
    let _etcd = net.etcd(0, 1, "");
    (1..=2).for_each(|at| _ = net.config(at, STORE, SAME));
    let (_d1, _d2) = (net.dispatcher(1), net.dispatcher(2));
    (1..=2).for_each(|at| net.joined(at, 2));

    let said = net.done(1, "drain web1");
    assert!(said.ends_with("\nthe group has the order: 2 members"), "{said}");
    net.becomes(2, "web1", "draining", 1);
    let said = net.done(2, "undrain web1");
    assert!(said.ends_with("\nthe group has the order: 2 members; it replaces the order given on d1"), "{said}");
    net.becomes(1, "web1", "up", 1);

    // Two operators at once: nothing of either is lost.
    thread::scope(|scope| {
        scope.spawn(|| net.done(1, "weight web2 3"));
        scope.spawn(|| net.done(2, "disable web2"));
    });
    (1..=2).for_each(|at| net.becomes(at, "web2", "disabled", 3));
    net.done(1, "enable web2");
    net.done(1, "weight web2 default");
    (1..=2).for_each(|at| net.becomes(at, "web2", "up", 1));

    net.done(2, "deny 198.51.100.0/24 --for 10m");
    eventually("d1 denies it", || net.done(1, "denied").contains("198.51.100.0/24: denied for "));
    net.done(1, "undeny 198.51.100.0/24");
    eventually("d2 does not deny it", || net.done(2, "denied").contains("no prefix is denied by ctl"));

    // For one only; what the group says of other things counts there too.
    let said = net.done(1, "drain web3 --local");
    assert!(!said.contains("group"), "{said}");
    net.done(2, "weight web3 5");
    net.becomes(1, "web3", "draining", 5);
    net.becomes(2, "web3", "up", 5);
    net.done(1, "undrain web3 --local");
    net.becomes(1, "web3", "up", 5);
    let error = net.ctl(1, "undeny 198.51.100.7 --local").expect_err("it is not denied");
    assert!(error.contains("198.51.100.7 is not denied by --local"), "{error}");

    // What is wrong in the store is named, and changes nothing.
    net.etcdctl("put /oneip/edge/shared/orders/servers/web1 '{\"weight\":{\"set\":99999,\"by\":\"d9\",\"at_ms\":1}}'");
    eventually("it is named", || {
        let status = net.done(1, "status");
        status.contains("NOTE: orders/servers/web1 in the store is not used: `weight` 99999 is more than 65535")
    });
    assert_eq!(net.state(1, "web1"), ("up".to_owned(), 1));
    assert!(net.done(2, "metrics").contains("\noneip_group_bad_values 1\n"));
    // An order replaces it.
    net.done(2, "weight web1 2");
    net.becomes(1, "web1", "up", 2);

    eventually("all are there", || {
        let group = net.document(1, "group");
        let members = group["members"].as_array().expect("members").clone();
        members.len() == 2 && members.iter().all(|member| member["behind"] == 0 && member["belongs"] == true)
    });
    let shown = net.done(1, "group");
    assert!(shown.starts_with("group edge: d1 is one of 2 members\n"), "{shown}");
    assert!(shown.contains("d1 (this one)") && shown.contains("weight 2") && shown.contains("all members"), "{shown}");

    // A stranger shares nothing.
    let announcing = format!("{STORE}\n[announce]\nhold_s = 0\nhold_down_ms = 0");
    for (change, what) in [(("weight = 1", "weight = 2"), "configuration"), (("8f3a1c5e", "00001c5e"), "hash_key")] {
        net.config(3, &announcing, change);
        let stranger = net.dispatcher(3);
        let told = format!("this process has another {what} than the group (d1, d2)");
        eventually("it says so", || net.done(3, "status").contains(&told));
        let error = net.ctl(3, "drain web1").expect_err("refused");
        assert!(error.contains(&told) && error.contains("--local"), "{error}");
        assert_eq!(net.state(3, "web1").1, if change.1.ends_with('2') { 2 } else { 1 }, "it has no order of the group");
        net.done(3, "disable web1 --local");
        assert!(net.done(3, "metrics").contains("\noneip_group_joined 0\n"));
        net.done(3, "enable web1 --local");
        match what {
            // As while a change goes from member to member.
            "configuration" => {
                eventually("it is announced", || is_announced(&net, 3));
                assert_eq!(net.done(3, "ready"), "ready");
            }
            _ => a_member_with_another_key_is_not_announced(&net, &stranger, (&announcing, change), &told),
        }
        stranger.stop();
        net.joined(1, 2);
    }
    assert_eq!(net.state(1, "web1"), ("up".to_owned(), 2));

    // Two processes of one name.
    net.config(3, STORE, ("member = \"d3\"", "member = \"d2\""));
    let _twin = net.dispatcher(3);
    eventually("it says so", || net.done(3, "status").contains("another process in the group has the name d2"));
}

fn is_announced(net: &Net, at: usize) -> bool {
    net.document(at, "status")["services"][0]["announce"]["announced"] == true
}

/// Its clients would get other servers than at the others, to which routers send clients as well.
fn a_member_with_another_key_is_not_announced(
    net: &Net,
    stranger: &Process,
    (group, other): (&str, (&str, &str)),
    told: &str,
) {
    let is_kept_out = || {
        eventually("it is not announced", || !is_announced(net, 3));
        let status = net.done(3, "status");
        assert!(status.contains(&format!("NOT ANNOUNCED: {told}")), "{status}");
        let error = net.ctl(3, "ready").expect_err("it is not ready");
        assert!(error.contains(&format!("service web is not ready: {told}")), "{error}");
        let page = net.get_unix("d3.sock", "/readyz");
        assert!(page.contains("503") && page.contains(told), "{page}");
        assert!(net.ip_said(3, "route show table 111 proto 111").is_empty());
    };
    is_kept_out();
    assert!(!stranger.said().contains("203.0.113.80 is announced"), "not for a moment: {}", stranger.said());
    net.config(3, group, SAME);
    net.done(3, "reload --force");
    net.joined(3, 3);
    eventually("it is announced", || is_announced(net, 3));
    assert!(net.ip_said(3, "route show table 111 proto 111").contains("203.0.113.80"));
    net.config(3, group, other);
    net.done(3, "reload --force");
    is_kept_out();
    assert!(stranger.said().contains(&format!("203.0.113.80 is withdrawn: {told}")), "{}", stranger.said());
}

/// A cluster may have both, as when it goes over from one to the other.
#[test]
fn a_filter_is_a_member_as_a_dispatcher_is() {
    let Some(net) = Net::up(2) else { return };
    let _etcd = net.etcd(0, 1, "");
    net.config(1, STORE, SAME);
    net.config(2, STORE, ("[dispatcher]\ninterface = \"d2\"\nengine = \"xdp\"\n", "[filter]\ninterface = \"d2\"\n"));
    net.ip_of(2, "addr add 192.0.2.12/24 dev d2");
    let (_dispatcher, filter) = (net.dispatcher(1), net.filter(2, "web2"));
    (1..=2).for_each(|at| net.joined(at, 2));
    let shown = net.done(1, "group");
    assert!(shown.contains("filter") && shown.contains("dispatcher"), "{shown}");

    net.done(1, "weight web1 4");
    net.becomes(2, "web1", "up", 4);
    net.done(2, "disable web3");
    net.becomes(1, "web3", "disabled", 1);
    // It knows them from its disk.
    filter.stop();
    net.joined(1, 1);
    net.done(1, "enable web3");
    let _filter = net.filter(2, "web2");
    net.becomes(2, "web3", "up", 1);
    net.becomes(2, "web1", "up", 4);
}

/// Each host has its own routes; who has them is seen from anywhere.
#[test]
fn who_is_announced_is_shown_on_every_member() {
    let Some(net) = Net::halves([1, 1]) else { return };
    let _etcd = net.etcd(0, 1, "");
    (1..=2).for_each(|at| _ = net.config(at, &net.store(1), ("[admin]", "[announce]\nhold_s = 0\n[admin]")));
    let (_d1, _d2) = (net.dispatcher(1), net.dispatcher(2));
    (1..=2).for_each(|at| net.joined(at, 2));
    let announced = |at: usize| -> Vec<(u64, u64)> {
        let group = net.document(at, "group");
        let members = group["members"].as_array().expect("members").clone();
        let of = |member: &serde_json::Value, key: &str| member[key].as_u64().unwrap_or(99);
        members.iter().map(|member| (of(member, "announced"), of(member, "services"))).collect()
    };
    (1..=2).for_each(|at| eventually("both are", || announced(at) == [(1, 1), (1, 1)]));
    net.done(1, "withdraw");
    (1..=2).for_each(|at| eventually("d2 alone is", || announced(at) == [(0, 1), (1, 1)]));
    let shown = net.done(2, "group");
    assert!(shown.contains("0 of 1") && shown.contains("1 of 1"), "{shown}");
    net.done(1, "announce");
    (1..=2).for_each(|at| eventually("both are again", || announced(at) == [(1, 1), (1, 1)]));
}

#[test]
fn without_the_store_everything_goes_on_and_what_it_lost_it_is_told_again() {
    let Some(net) = Net::up(2) else { return };
    let etcd = net.etcd(0, 1, "");
    (1..=2).for_each(|at| _ = net.config(at, STORE, SAME));
    let (d1, _d2) = (net.dispatcher(1), net.dispatcher(2));
    (1..=2).for_each(|at| net.joined(at, 2));
    net.done(1, "weight web3 4");
    net.becomes(2, "web3", "up", 4);
    net.etcdctl("snapshot save before.db");
    net.done(2, "weight web2 7");
    net.becomes(1, "web2", "up", 7);

    etcd.stop();
    eventually("it is noticed", || net.done(1, "status").contains("the store CANNOT BE REACHED"));
    let said = net.done(1, "drain web1");
    assert!(said.ends_with("the order counts here, and reaches the other members when the store is back"), "{said}");
    net.becomes(1, "web1", "draining", 1);
    assert_eq!(net.state(2, "web1"), ("up".to_owned(), 1));
    eventually("it says so", || net.done(1, "status").contains("1 orders wait for the store"));

    // A start without the store knows what the one before knew.
    d1.stop();
    let _d1 = net.dispatcher(1);
    assert_eq!(net.state(1, "web1"), ("draining".to_owned(), 1));
    assert_eq!((net.state(1, "web2").1, net.state(1, "web3").1), (7, 4));
    assert!(net.done(1, "group").contains("this one, until the store can be reached"));

    // It comes back as it was before the last order: it is told that, and what waited.
    let _etcd = net.restored("before.db");
    net.becomes(2, "web1", "draining", 1);
    (1..=2).for_each(|at| net.joined(at, 2));
    for at in 1..=2 {
        assert_eq!((net.state(at, "web2").1, net.state(at, "web3").1), (7, 4), "d{at}");
        eventually("nothing waits", || net.document(at, "status")["group"]["queued"] == 0);
    }
    // Who looks second finds nothing lost any more.
    let restored = |at| net.document(at, "status")["group"]["restored"].as_u64().expect("a number");
    assert!(restored(1) + restored(2) >= 1);
    assert!(net.etcdctl("get /oneip/edge/shared/orders/servers/web2").contains("\"set\":7"));

    // Compacted, it is read anew.
    net.done(1, "undrain web1");
    let revision = net.document(1, "status")["group"]["revision"].as_i64().expect("a revision");
    net.etcdctl(&format!("compact {revision}"));
    net.done(2, "weight web3 default");
    net.becomes(1, "web3", "up", 1);
}

#[test]
fn without_a_quorum_orders_wait() {
    let Some(net) = Net::up(2) else { return };
    let mut nodes: Vec<_> =
        (0..3).map(|node| Some(net.etcd(node, 3, "--heartbeat-interval=50 --election-timeout=300"))).collect();
    (1..=2).for_each(|at| _ = net.config(at, &net.store(3), SAME));
    let (_d1, _d2) = (net.dispatcher(1), net.dispatcher(2));
    (1..=2).for_each(|at| net.joined(at, 2));
    // One of three changes nothing.
    nodes[0] = None;
    eventually("an order is shared", || net.done(1, "weight web1 2").contains("the group has the order"));
    net.becomes(2, "web1", "up", 2);
    nodes[1] = None;
    for at in 1..=2 {
        eventually("it is noticed", || net.document(at, "status")["group"]["connected"] == false);
    }
    net.done(2, "disable web3");
    assert_eq!(net.state(2, "web3").0, "disabled");
    assert_eq!(net.state(1, "web3").0, "up");
    nodes[1] = Some(net.etcd(1, 3, "--heartbeat-interval=50 --election-timeout=300"));
    net.becomes(1, "web3", "disabled", 1);
    (1..=2).for_each(|at| net.joined(at, 2));
}

/// One that is far behind: etcd ends its watch, since what it has not heard of is compacted.
#[test]
fn a_member_whose_watch_is_ended_for_compaction_reads_everything_anew() {
    let Some(net) = Net::up(2) else { return };
    let _etcd = net.etcd(0, 1, "");
    (1..=2).for_each(|at| _ = net.config(at, STORE, SAME));
    let (d1, _d2) = (net.dispatcher(1), net.dispatcher(2));
    (1..=2).for_each(|at| net.joined(at, 2));
    d1.pause();
    // More than waits for one that does not read, in its connection and in etcd.
    net.flood(1500, 10_000, |_| "/oneip/edge/shared/nonsense".to_owned());
    net.done(2, "weight web2 5");
    let header: serde_json::Value = serde_json::from_str(&net.etcdctl("get /none --write-out=json")).expect("JSON");
    net.etcdctl(&format!("compact {}", header["header"]["revision"]));
    d1.go_on();
    eventually("it says so", || d1.said().contains("it is compacted up to revision "));
    net.becomes(1, "web2", "up", 5);
    (1..=2).for_each(|at| net.joined(at, 2));
    net.done(1, "weight web2 6");
    net.becomes(2, "web2", "up", 6);
    net.done(2, "weight web2 default");
    net.becomes(1, "web2", "up", 1);
}

/// What is there is more than a member reads at once.
#[test]
fn a_store_that_is_too_full_to_be_read_changes_nothing() {
    let Some(net) = Net::up(2) else { return };
    let etcd = net.etcd(0, 1, "");
    (1..=2).for_each(|at| _ = net.config(at, STORE, SAME));
    let _members = [net.dispatcher(1), net.dispatcher(2)];
    (1..=2).for_each(|at| net.joined(at, 2));
    net.done(1, "weight web1 5");
    net.becomes(2, "web1", "up", 5);
    // More than a message has by default, where each member says how far it is.
    net.flood(8, 1 << 20, |at| format!("/oneip/edge/progress/x{at}"));
    eventually("it is known how far both are", || {
        let group = net.document(1, "group");
        let members = group["members"].as_array().expect("members").clone();
        members.len() == 2 && members.iter().all(|member| member["behind"].is_u64())
    });
    assert_eq!(net.document(1, "status")["group"]["lost"], 0);

    net.flood(40, 1 << 20, |at| format!("/oneip/edge/shared/nonsense{at}"));
    etcd.stop();
    let _etcd = net.etcd(0, 1, "");
    for at in 1..=2 {
        eventually("it says why", || {
            let group = &net.document(at, "status")["group"];
            group["connected"] == false
                && group["why"].as_str().is_some_and(|why| why.contains("message length too large"))
        });
        assert_eq!(net.state(at, "web1"), ("up".to_owned(), 5));
        net.done(at, &format!("weight web{} {}", at + 1, at + 6));
    }
    net.etcdctl("del --prefix /oneip/edge/shared/nonsense");
    for at in 1..=2 {
        net.joined(at, 2);
        net.becomes(at, "web1", "up", 5);
        net.becomes(at, "web2", "up", 7);
        net.becomes(at, "web3", "up", 8);
    }
}
