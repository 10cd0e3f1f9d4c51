//! What is said of the servers is what the data path was told, whatever the clock says meanwhile.

mod agreement;
mod operator;
mod starts;

use oneip::admin::order::Answer;
use oneip::admin::status::{ServiceStatus, State};
use oneip::config;
use oneip::control::membership::{Event, Membership, Set, Side, Update};
use oneip::control::state_file::StateFile;
use oneip::hash::Key;
use oneip::host::clock;
use oneip::limits::FLOW_CLOSED;
use oneip::metrics::worker;
use oneip::model::{Plan, Prefix, Server};
use oneip::port::memory::Memory;
use oneip::table::flow_table::FlowTable;
use oneip::table::lists::Listed;
use oneip::table::publish;
use oneip::verdict::Verdict;
use oneip::worker::Worker;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

const CONFIG: &str = r#"[cluster]
hash_key = "8f3a1c5e7b9d2046a1b3c5d7e9f00112"

[dispatcher]
interface = "eth1"

[[service]]
name = "web"
address = "203.0.113.80"
ports = ["tcp/80"]

[[service.server]]
name = "web1"
address = "192.0.2.11"
mac = "02:00:00:00:00:11"

[[service.server]]
name = "web2"
address = "192.0.2.12"
mac = "02:00:00:00:00:12"
"#;

fn with_membership<F: Future<Output = ()>>(test: impl FnOnce(Membership) -> F) {
    with_membership_of(config::parse(CONFIG, "t.toml").unwrap().plan, "eth1", test);
}

fn with_membership_of<F: Future<Output = ()>>(plan: Plan, interface: &str, test: impl FnOnce(Membership) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let membership = Membership::open(plan, (Side::Dispatcher, interface, None), &[], None).await;
        test(membership.unwrap()).await;
    });
}

/// web2's state, whether its connections are its own still, and how many slots it has.
fn web2(membership: &Membership) -> (State, bool, u32) {
    let ServiceStatus { servers, moving, .. } = membership.services().remove(0);
    let web2 = servers.into_iter().find(|server| server.name == "web2").unwrap();
    (web2.state, moving > 0, web2.slots)
}

/// Whether the next table denies that source for the first service.
fn denies(membership: &mut Membership, source: &str) -> bool {
    let table = membership.table();
    table.lists().is_some_and(|lists| lists.listed_ip(source.parse().unwrap(), 0) == Listed::Denied)
}

#[test]
fn what_an_operator_denies_is_denied_until_it_is_over_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = || StateFile::new(&folder.path().join("state.json"), Path::new("/etc/oneip.toml"));
    let text = format!("{CONFIG}[[allow]]\nprefixes = [\"198.51.100.7\"]\n");
    let plan = config::parse(&text, "t.toml").unwrap().plan;
    let net: Prefix = "198.51.100.0/24".parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let open = || Membership::open(plan.clone(), (Side::Dispatcher, "eth1", None), &[], Some(file()));
        let mut membership = open().await.unwrap();
        assert!(!denies(&mut membership, "198.51.100.8"));
        let said = |answer| match answer {
            (Answer::Done { changes }, Some(Update::Table)) => changes.concat(),
            (Answer::Refused { error }, None) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(said(membership.deny(net, None, None)), "198.51.100.0/24 is denied until `ctl undeny`");
        let host: Prefix = "2001:db8::7".parse().unwrap();
        assert_eq!(said(membership.deny(host, Some("web"), Some(1))), "2001:db8::7 of service web is denied for 1 s");
        assert_eq!(said(membership.deny(host, Some("mail"), None)), "there is no service mail; there are web");
        assert!(denies(&mut membership, "198.51.100.8") && denies(&mut membership, "2001:db8::7"));
        assert!(!denies(&mut membership, "198.51.100.7"), "the configuration allows it");
        assert_eq!(membership.denied().len(), 2);
        membership.close().await;

        let mut membership = open().await.unwrap();
        assert!(denies(&mut membership, "198.51.100.8"));
        while membership.denied_due().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            membership.expire_denied();
        }
        assert!(!denies(&mut membership, "2001:db8::7") && denies(&mut membership, "198.51.100.8"));
        let undenied = "198.51.100.0/24 is not denied by ctl any more";
        assert_eq!(said(membership.undeny(net, None)), undenied);
        assert!(!denies(&mut membership, "198.51.100.8"));
        assert!(said(membership.undeny(net, None)).contains("`oneip ctl denied` shows what is"));
        membership.close().await;
    });
    runtime.block_on(async {
        let mut filter = Membership::open(plan.clone(), (Side::Server, "eth1", None), &[], None).await.unwrap();
        let refused = filter.deny(net, None, None).0;
        assert!(matches!(refused, Answer::Refused { error } if error.contains("give the order to a dispatcher")));
    });
}

#[test]
fn a_file_of_prefixes_takes_the_place_of_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deny.txt");
    std::fs::write(&file, "198.51.100.0/24\n").unwrap();
    let text = format!("{CONFIG}[[deny]]\nfiles = [\"deny.txt\"]\n");
    let plan = config::parse(&text, folder.path().join("t.toml")).unwrap().plan;
    with_membership_of(plan, "eth1", |mut membership| async move {
        assert!(denies(&mut membership, "198.51.100.8"));
        let path = membership.plan().lists[0].files[0].path.clone();
        let same: std::sync::Arc<[Prefix]> = vec!["198.51.100.0/24".parse().unwrap()].into();
        assert_eq!(membership.set_list_file(&path, &same), Ok(None));
        let other: std::sync::Arc<[Prefix]> = vec!["203.0.113.0/24".parse().unwrap()].into();
        let said = membership.set_list_file(&path, &other).unwrap().unwrap();
        assert_eq!(said, format!("{}: 1 prefixes, before 1", path.display()));
        assert!(!denies(&mut membership, "198.51.100.8") && denies(&mut membership, "203.0.113.9"));
        let many: Vec<Prefix> = (0..100_001).map(|at| Prefix::host(Ipv4Addr::from_bits(at).into())).collect();
        assert!(membership.set_list_file(&path, &many.into()).unwrap_err().contains("at most 100000"));
        assert!(denies(&mut membership, "203.0.113.9"));
    });
}

#[test]
fn a_drain_is_over_when_the_data_path_hears_of_it_and_not_before() {
    with_membership(|mut membership| async move {
        let (answer, update) = membership.set("web2", None, Set::Drain(Some(1)), false).await;
        assert!(matches!((answer, update), (Answer::Done { .. }, Some(Update::Table))));
        assert_eq!(web2(&membership), (State::Draining, true, 0));

        thread::sleep(Duration::from_millis(1100));
        assert_eq!(web2(&membership), (State::Draining, true, 0), "its connections are its own still");

        let event = membership.next().await.unwrap();
        assert!(matches!(event, Event::Due), "a drain that is overdue is due");
        assert_eq!(membership.take(event).await, Some(Update::Table));
        assert_eq!(web2(&membership), (State::Drained, false, 0));
    });
}

/// The frames are a client's, whose connection is on web2. A worker says when the last of its connections is closed.
#[test]
fn a_drain_until_closed_is_over_when_the_last_connection_is() {
    let text = CONFIG.replacen("[[service]]", "[[service]]\ndrain = \"until-closed\"", 1);
    with_membership_of(config::parse(&text, "t.toml").unwrap().plan, "eth1", |mut membership| async move {
        let on_web2 = |client: &Ipv4Addr| membership.trace((*client).into())[0].server.as_deref() == Some("web2");
        let client = (1..).map(Ipv4Addr::from_bits).find(on_web2).unwrap();
        let segment = |is_last: bool| {
            let packet =
                etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(client.octets(), [203, 0, 113, 80], 64);
            let packet = packet.tcp(1000, 80, 7, 1024).ack(1);
            let mut frame = Vec::new();
            if is_last { packet.rst() } else { packet }.write(&mut frame, &[]).unwrap();
            frame
        };
        let _ = membership.set("web2", None, Set::Drain(Some(1)), false).await;
        let table = membership.table();
        let (metrics, _view) = worker::open(&table);
        let (mut tables, mut readers) = publish::channel(table, vec![metrics]);
        let flow_table = FlowTable::new(1024, Key::new(1, 2));
        let mut worker = Worker::new(Memory::new(&[segment(false), segment(true)]), readers.remove(0), flow_table);
        worker.port_mut().burst = 1;
        let turn = |worker: &mut Worker<Memory>, later: Duration| {
            worker.port_mut().now = clock::now_ns() + later.as_nanos() as u64;
            worker.turn().iter().map(|outcome| outcome.verdict()).collect::<Vec<_>>()
        };
        let went = turn(&mut worker, Duration::ZERO);
        assert_eq!(went, [Verdict::Forward { service: 0, server: 1 }], "to the server that drains");

        // Its time is over, and it is looked twice whether its connection is.
        worker.port_mut().burst = 0;
        for round in 0..4 {
            let event = membership.next().await.unwrap();
            let update = membership.take(event).await;
            assert_eq!(
                (update, web2(&membership)),
                ((round == 0).then_some(Update::Table), (State::Draining, true, 0))
            );
            tables.publish(membership.table());
            (0..1024).for_each(|_| _ = turn(&mut worker, Duration::ZERO));
        }
        let why = membership.services().remove(0).servers.remove(1).why;
        assert!(why.ends_with("keeps its active connections until they are closed"), "{why}");

        worker.port_mut().burst = 1;
        let went = turn(&mut worker, Duration::ZERO);
        assert_eq!(went, [Verdict::Forward { service: 0, server: 1 }], "the last segment too");
        while web2(&membership).0 == State::Draining {
            (0..1024).for_each(|_| _ = turn(&mut worker, FLOW_CLOSED + Duration::from_secs(1)));
            let event = membership.next().await.unwrap();
            membership.take(event).await;
        }
        assert_eq!(web2(&membership), (State::Drained, false, 0));
    });
}

/// Checks that begin anew, as when a weight is set, do not tell what waited to be told: here, what nobody takes in.
#[test]
fn a_verdict_that_was_not_taken_in_counts_after_a_server_of_another_service_is_reweighed() {
    let answers = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = answers.local_addr().unwrap().port();
    let goes = TcpListener::bind(("127.0.0.2", port)).unwrap();
    let health = format!(
        "[service.health]\ntype = \"tcp\"\nport = {port}\nvia = \"primary\"\ninterval_ms = 100\ntimeout_ms = 90\nfall = 1\n"
    );
    let other = "[[service]]\nname = \"other\"\naddress = \"203.0.113.81\"\n[[service.server]]\nname = \"other1\"\n\
                 address = \"192.0.2.13\"\nmac = \"02:00:00:00:00:13\"\n";
    let text = CONFIG.replacen("[[service.server]]", &format!("{health}[[service.server]]"), 1) + other;
    let mut plan = config::parse(&text, "t.toml").unwrap().plan;
    plan.services[0].servers[0].address = "127.0.0.1".parse().unwrap();
    plan.services[0].servers[1].address = "127.0.0.2".parse().unwrap();
    with_membership_of(plan, "lo", |mut membership| async move {
        assert!(web2(&membership).2 > 0);
        drop(goes);
        while !matches!(membership.next().await.unwrap(), Event::Verdicts(_)) {}
        assert!(matches!(web2(&membership), (State::Down, _, 1..)), "nobody took it in");
        let (answer, update) = membership.set("other1", None, Set::Weight(Some(2)), false).await;
        assert!(matches!((answer, update), (Answer::Done { .. }, Some(Update::Layout))));
        assert_eq!(web2(&membership), (State::Down, false, 0));
        membership.close().await;
    });
}

/// Takes events in until it comes true.
async fn follow(membership: &mut Membership, holds: impl Fn(&Membership) -> bool) {
    while !holds(membership) {
        let event = tokio::time::timeout(Duration::from_secs(20), membership.next()).await.expect("in time").unwrap();
        membership.take(event).await;
    }
}

fn states(membership: &Membership) -> Vec<(State, u32)> {
    membership.services().remove(0).servers.iter().map(|server| (server.state, server.slots)).collect()
}

/// The two servers of the service on loopback addresses, checked there as often as can be.
fn checked_on_loopback(port: u16, all_down: &str) -> Plan {
    let health = format!(
        "[service.health]\ntype = \"tcp\"\nport = {port}\nvia = \"primary\"\ninterval_ms = 50\ntimeout_ms = 40\nfall = 1\n\
         rise = 1\nall_down = \"{all_down}\"\n"
    );
    let text = CONFIG.replacen("[[service.server]]", &format!("{health}[[service.server]]"), 1);
    let mut plan = config::parse(&text, "t.toml").unwrap().plan;
    for (server, address) in plan.services[0].servers.iter_mut().zip(["127.0.0.1", "127.0.0.2"]) {
        server.address = address.parse().unwrap();
    }
    plan
}

/// A flapping server answers, so it serves while no other is up; what was begun there then stays there.
#[test]
fn a_held_server_that_served_keeps_its_connections_when_another_returns() {
    let listen = |address: &str, port: u16| TcpListener::bind((address, port)).unwrap();
    let mut first = Some(listen("127.0.0.1", 0));
    let port = first.as_ref().unwrap().local_addr().unwrap().port();
    with_membership_of(checked_on_loopback(port, "drop"), "lo", |mut membership| async move {
        let is = |state| move |membership: &Membership| states(membership)[0].0 == state;
        for _ in 0..4 {
            follow(&mut membership, is(State::Up)).await;
            drop(first.take());
            follow(&mut membership, is(State::Down)).await;
            first = Some(listen("127.0.0.1", port));
            follow(&mut membership, |membership| states(membership)[0].0 != State::Down).await;
        }
        assert_eq!(
            states(&membership),
            [(State::Held, 65_537), (State::Down, 0)],
            "it serves, since there is no other"
        );
        let other = listen("127.0.0.2", port);
        follow(&mut membership, |membership| states(membership)[1].0 == State::Up).await;
        assert_eq!(states(&membership), [(State::Held, 0), (State::Up, 65_537)]);
        let keeps = |membership: &Membership| membership.trace("198.51.100.7".parse().unwrap())[0].keeps.clone();
        assert_eq!(keeps(&membership).as_deref(), Some("web1"), "what it has stays with it");

        // It fails: nothing stays.
        drop(first);
        follow(&mut membership, |membership| keeps(membership).is_none()).await;
        assert_eq!(states(&membership)[0], (State::Down, 0));
        drop(other);
        membership.close().await;
    });
}

/// Where checks are not believed when all fail, they are not when the first one passes.
#[test]
fn servers_that_served_because_all_were_down_keep_their_connections() {
    let listen = |address: &str, port: u16| TcpListener::bind((address, port)).unwrap();
    let free = listen("127.0.0.1", 0);
    let port = free.local_addr().unwrap().port();
    drop(free);
    with_membership_of(checked_on_loopback(port, "serve"), "lo", |mut membership| async move {
        follow(&mut membership, |membership| states(membership).iter().all(|(state, _)| *state == State::Down)).await;
        assert!(states(&membership).iter().all(|(_, slots)| *slots > 32_000), "all serve");
        let first = listen("127.0.0.1", port);
        follow(&mut membership, |membership| states(membership)[0].0 == State::Up).await;
        let (second, slots) = states(&membership)[1];
        assert_eq!((second, slots), (State::Down, 0));
        assert!(membership.services()[0].moving > 32_000, "what the second has stays with it");
        drop(first);
        membership.close().await;
    });
}

/// Where all are down, all of those serve that may.
#[test]
fn who_drains_or_has_no_weight_serves_nobody_though_all_are_down() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    for drains in [true, false] {
        let mut plan = checked_on_loopback(port, "serve");
        plan.services[0].servers[1].weight = u32::from(drains);
        with_membership_of(plan, "lo", |mut membership| async move {
            if drains {
                membership.set("web2", None, Set::Drain(Some(600)), false).await;
            }
            let are_down = |membership: &Membership| states(membership).iter().all(|(state, _)| *state == State::Down);
            follow(&mut membership, are_down).await;
            assert_eq!(states(&membership), [(State::Down, 65_537), (State::Down, 0)], "drains: {drains}");
            membership.close().await;
        });
    }
}

/// A process that ends in whichever way, and one that comes after it.
async fn opened(plan: &Plan, file: &StateFile) -> Membership {
    Membership::open(plan.clone(), (Side::Dispatcher, "eth1", None), &[], Some(file.clone())).await.unwrap()
}

/// Which server a client's new connections go to, and which one keeps its others.
fn places(membership: &Membership) -> Vec<(Option<String>, Option<String>)> {
    let clients = (0..64u32).map(|n| std::net::Ipv4Addr::from_bits(0xc633_6400 + n));
    clients.map(|client| membership.trace(client.into()).remove(0)).map(|of| (of.server, of.keeps)).collect()
}

fn with_state_file<F: Future<Output = ()>>(test: impl FnOnce(StateFile) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::new(&folder.path().join("state.json"), Path::new("/etc/oneip.toml"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test(file));
}

#[test]
fn a_restart_in_the_middle_of_changes_keeps_connections_where_they_are() {
    with_state_file(|file| async move {
        let plan = config::parse(CONFIG, "t.toml").unwrap().plan;
        let mut first = opened(&plan, &file).await;
        let _ = first.set("web2", None, Set::Drain(None), false).await;
        let draining = places(&first);
        assert!(draining.iter().any(|(_, keeps)| keeps.as_deref() == Some("web2")), "{draining:?}");
        first.close().await;

        let mut second = opened(&plan, &file).await;
        assert_eq!(places(&second), draining, "in the middle of a drain");
        let _ = second.set("web2", None, Set::Undrain, false).await;
        let undrained = places(&second);
        second.close().await;

        let mut third = opened(&plan, &file).await;
        assert_eq!(places(&third), undrained, "two changes later");
        let mut without = plan.clone();
        without.services[0].servers.remove(1);
        let prepared = third.base().prepare(without.clone());
        third.reload(prepared).await.unwrap();
        let removed = places(&third);
        assert!(removed.iter().any(|(_, keeps)| keeps.as_deref() == Some("web2")), "{removed:?}");
        third.close().await;

        let mut fourth = opened(&without, &file).await;
        assert_eq!(places(&fourth), removed, "web2 is not configured, and keeps what it has");
        assert_eq!(web2(&fourth).0, State::Leaving);
        fourth.close().await;

        // With another key the slots are others: nothing is known of them.
        let mut other = without;
        other.hash_key.0[0] ^= 1;
        let mut fifth = opened(&other, &file).await;
        assert!(places(&fifth).iter().all(|(_, keeps)| keeps.is_none()));
        fifth.close().await;
    });
}

#[test]
fn a_drain_without_time_is_over_at_once() {
    with_membership(|mut membership| async move {
        let (answer, update) = membership.set("web2", None, Set::Drain(Some(0)), false).await;
        assert!(matches!((answer, update), (Answer::Done { .. }, Some(Update::Table))));
        assert_eq!(web2(&membership), (State::Drained, false, 0));
    });
}

/// What somebody may write into a file.
const EDITS: [&str; 12] =
    ["0", "1", "2", "65536", "4294967295", "18446744073709551615", "-1", "0.5", "\"x\"", "null", "[]", "{}"];

/// The node of that number in a document, counted in some order, becomes another one; or is there twice, or not at all.
fn edit(document: &mut Value, number: &mut usize, edit: usize) {
    if *number == 0 {
        *document = serde_json::from_str(EDITS[edit % EDITS.len()]).unwrap();
    }
    *number = number.wrapping_sub(1);
    if let Value::Array(all) = document {
        match edit % 4 {
            1 if *number == 0 && !all.is_empty() => drop(all.pop()),
            2 if *number == 0 && !all.is_empty() => all.push(all[0].clone()),
            _ => {}
        }
    }
    let parts: Vec<&mut Value> = match document {
        Value::Array(all) => all.iter_mut().collect(),
        Value::Object(all) => all.values_mut().collect(),
        _ => Vec::new(),
    };
    parts.into_iter().for_each(|part| self::edit(part, number, edit));
}

/// In the middle of all that can be under way.
fn much_to_remember(plan: &Plan) -> String {
    let mut text = String::new();
    let written = &mut text;
    with_state_file(|file| async move {
        let mut membership = opened(plan, &file).await;
        let _ = membership.set("web2", None, Set::Drain(None), false).await;
        let _ = membership.set("web1", None, Set::Weight(Some(3)), false).await;
        let mut without = plan.clone();
        without.services[0].servers.remove(2);
        let prepared = membership.base().prepare(without);
        membership.reload(prepared).await.unwrap();
        membership.close().await;
        *written = std::fs::read_to_string(file.path()).unwrap();
    });
    text
}

/// It is ignored with a warning, or says something that can be.
#[test]
fn no_state_file_that_was_edited_by_hand_keeps_a_start_from_succeeding() {
    let mut plan = config::parse(CONFIG, "t.toml").unwrap().plan;
    plan.services.iter_mut().for_each(|service| service.slots = 251);
    let web3 = Server { name: "web3".into(), address: [192, 0, 2, 13].into(), ..plan.services[0].servers[1].clone() };
    plan.services[0].servers.push(web3);
    let text = much_to_remember(&plan);
    for wrong in ["\"slots\": 0", "\"slots\": 250", "\"slots\": 4294967291"] {
        let edited = text.replace("\"slots\": 251", wrong);
        assert_ne!(edited, text);
        with_state_file(|file| async move {
            std::fs::write(file.path(), edited).unwrap();
            let error = file.load().unwrap_err();
            assert!(error.contains("is damaged: the `history` of service web: `slots`"), "{error}");
        });
    }
    let document: Value = serde_json::from_str(&text).unwrap();
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    let edits = prop::collection::vec((0usize..160, 0usize..EDITS.len()), 1..3);
    let result = runner.run(&edits, |edits| {
        let mut document = document.clone();
        edits.into_iter().for_each(|(mut number, what)| edit(&mut document, &mut number, what));
        with_state_file(|file| {
            std::fs::write(file.path(), document.to_string()).unwrap();
            let plan = &plan;
            async move {
                let mut membership = opened(plan, &file).await;
                membership.table();
                membership.services();
                let _ = membership.set("web3", None, Set::Drain(None), true).await;
                membership.close().await;
            }
        });
        Ok(())
    });
    result.unwrap();
}
