//! Another configuration: what stays the same through it, what it costs the clients, and what happens while it is worked out.

use oneip::admin::order::{Answer, Diff};
use oneip::admin::status::{ServerStatus, ServiceStatus, State};
use oneip::config;
use oneip::control::membership::{Event, Membership, Refusal, Reloaded, Set, Side, Update};
use oneip::model::{HashInput, Plan, Selection, Server, Service};
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

/// A service `web` of so many servers, `web1` and so on. Needs no privileges: every MAC is known, and nothing is checked.
fn plan(servers: u8) -> Plan {
    let server = |n: u8| {
        format!("[[service.server]]\nname = \"web{n}\"\naddress = \"192.0.2.{n}\"\nmac = \"02:00:00:00:00:{n:02x}\"\n")
    };
    let head = "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n[dispatcher]\ninterface = \"eth1\"\n\
                [[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\nports = [\"tcp/80\"]\n";
    let text = head.to_owned() + &(1..=servers).map(server).collect::<String>();
    config::parse(&text, "t.toml").unwrap().plan
}

fn with<F: Future<Output = ()>>(plan: Plan, test: impl FnOnce(Membership) -> F) {
    with_interface(plan, "eth1", test);
}

fn with_interface<F: Future<Output = ()>>(plan: Plan, interface: &str, test: impl FnOnce(Membership) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let membership = Membership::open(plan, (Side::Dispatcher, interface, None), &[], None).await;
        test(membership.unwrap()).await;
    });
}

async fn reload(membership: &mut Membership, plan: Plan) -> Vec<String> {
    let prepared = membership.base().prepare(plan);
    match membership.reload(prepared).await.unwrap() {
        Reloaded::Done(changes, _) => changes,
        Reloaded::Outdated(_) => panic!("nothing has happened meanwhile"),
    }
}

fn servers(membership: &Membership, service: usize) -> Vec<ServerStatus> {
    membership.services().remove(service).servers
}

fn states(membership: &Membership, service: usize) -> Vec<State> {
    servers(membership, service).iter().map(|server| server.state).collect()
}

#[test]
fn a_renamed_service_is_the_same_service() {
    with(plan(4), |mut membership| async move {
        let before = servers(&membership, 0);
        let _ = membership.set("web4", None, Set::Disable, false).await;
        let without: Vec<u32> = servers(&membership, 0).iter().map(|server| server.slots).collect();
        let mut named = plan(4);
        named.services[0].name = "www".into();
        assert_eq!(reload(&mut membership, named).await, ["service web renamed to www"]);
        let ServiceStatus { moving, servers, .. } = membership.services().remove(0);
        assert_eq!(moving, 0, "not a slot moves");
        assert_eq!(servers.iter().map(|server| server.slots).collect::<Vec<_>>(), without);
        let states: Vec<State> = servers.iter().map(|server| server.state).collect();
        assert_eq!(states, [State::Up, State::Up, State::Up, State::Disabled]);
        assert!(servers[0].since_s >= before[0].since_s, "it has been up for as long as before");
    });
}

#[test]
fn a_renamed_server_is_the_same_machine_and_what_was_ordered_of_it_holds() {
    with(plan(3), |mut membership| async move {
        let _ = membership.set("web2", None, Set::Drain(None), false).await;
        let _ = membership.set("web3", None, Set::Weight(Some(5)), false).await;
        let mut named = plan(3);
        named.services[0].servers[1].name = "web3".into();
        named.services[0].servers[2].name = "web2".into();
        let changes = reload(&mut membership, named).await;
        assert!(
            changes[0].starts_with("service web: server web2 renamed to web3; slots depend on the name"),
            "{changes:?}"
        );
        let now = servers(&membership, 0);
        assert_eq!((now[1].name.as_str(), now[1].state, now[1].weight), ("web3", State::Draining, 1));
        assert_eq!((now[2].name.as_str(), now[2].state, now[2].weight), ("web2", State::Up, 5));
        let _ = membership.set("web3", None, Set::Undrain, false).await;
        assert_eq!(states(&membership, 0), [State::Up; 3]);
    });
}

/// Orders of one service go with that service and its server, whatever they are called; those of every service come to a new one too.
#[test]
fn orders_of_one_service_outlast_new_names_and_orders_of_all_reach_new_services() {
    let of_two = |names: [&str; 2], server: &str| {
        let mut two = plan(3);
        let mut other = two.services[0].clone();
        other.address = "203.0.113.81".parse().unwrap();
        two.services.push(other);
        two.services.iter_mut().zip(names).for_each(|(service, name)| service.name = name.into());
        two.services[1].servers[1].name = server.into();
        two
    };
    with(of_two(["web", "other"], "web2"), |mut membership| async move {
        let _ = membership.set("web2", Some("other"), Set::Drain(None), false).await;
        let _ = membership.set("web3", Some("web"), Set::Weight(Some(7)), false).await;
        let _ = membership.set("web1", None, Set::Disable, false).await;
        let mut three = of_two(["www", "others"], "second");
        let mut third = three.services[0].clone();
        (third.name, third.address) = ("third".into(), "203.0.113.82".parse().unwrap());
        three.services.push(third);
        reload(&mut membership, three).await;
        assert_eq!(states(&membership, 0), [State::Disabled, State::Up, State::Up]);
        assert_eq!(states(&membership, 1), [State::Disabled, State::Draining, State::Up]);
        assert_eq!(states(&membership, 2)[0], State::Disabled);
        let weights = |service| servers(&membership, service).iter().map(|server| server.weight).collect::<Vec<_>>();
        assert_eq!([weights(0), weights(1), weights(2)], [vec![1, 1, 7], vec![1, 1, 1], vec![1, 1, 1]]);
    });
}

/// Another machine of the same name is another server: what was ordered of the old one was not meant for it.
#[test]
fn a_replaced_server_is_another_one() {
    with(plan(3), |mut membership| async move {
        let _ = membership.set("web2", None, Set::Disable, false).await;
        let mut replaced = plan(3);
        replaced.services[0].servers[1].address = "192.0.2.99".parse().unwrap();
        reload(&mut membership, replaced).await;
        assert_eq!(states(&membership, 0), [State::Up; 3]);
    });
}

/// What of a service's clients get another server, in a hundred, and what of them must; `None`: so few that it is not told.
fn cost(change: impl FnOnce(&mut Plan), servers: u8) -> Option<(bool, String)> {
    let mut found = None;
    let (told, mut other) = (&mut found, plan(servers));
    change(&mut other);
    with(plan(servers), |membership| async move {
        let prepared = membership.base().prepare(other);
        let line = prepared.changes().into_iter().find(|line| line.starts_with("warning: "));
        *told = line.map(|line| (prepared.confirm().is_err(), line));
    });
    found
}

#[test]
fn what_moves_nearly_everybody_needs_force() {
    let service = |change: fn(&mut Service)| move |plan: &mut Plan| change(&mut plan.services[0]);
    let add = |service: &mut Service| {
        let new = Server { name: "new".into(), address: "192.0.2.200".parse().unwrap(), ..service.servers[0].clone() };
        service.servers.push(new);
    };
    assert_eq!(cost(service(add), 4), None, "who must move moves");
    assert_eq!(cost(service(|service| drop(service.servers.remove(2))), 4), None);
    assert_eq!(cost(service(|service| service.servers[1].weight = 7), 4), None);
    assert_eq!(cost(service(|service| service.drain *= 2), 4), None);

    let forced = |change: fn(&mut Service), servers| cost(service(change), servers).expect("it is told");
    let (needs_force, said) = cost(|plan| plan.hash_key.0[0] ^= 1, 4).expect("it is told");
    assert!(needs_force && said.contains("75 % of its clients get another server"), "{said}");
    assert!(forced(|service| service.slots = 65_539, 4).0, "each size of the table is another table");
    assert!(forced(|service| service.hash = HashInput::Flow, 4).0);
    assert!(forced(|service| service.selection = Selection::Modulo, 4).0);
    assert!(forced(|service| service.servers.iter_mut().for_each(|server| server.name += "x"), 4).0);
    let (needs_force, said) = forced(|service| service.servers[0].name = "other".into(), 8);
    assert!(!needs_force && said.contains("connections stay where they are for 600 s"), "{said}");

    // One more under modulo: of four in five clients.
    with(modulo(4), |membership| async move {
        let prepared = membership.base().prepare(modulo(5));
        let error = prepared.confirm().unwrap_err().to_string();
        assert!(error.starts_with("service web: 80 % of its clients get another server"), "{error}");
        assert!(error.contains("needs only 20 %") && error.contains("`oneip ctl reload --force`"), "{error}");
    });
}

/// What `ctl diff` says of a plan, and how many slots of the first service change hands when it is taken over.
fn compared(before: Plan, after: &Plan) -> (Diff, u32) {
    let mut found = None;
    let told = &mut found;
    with(before, |mut membership| async move {
        let diff = membership.base().prepare(after.clone()).compared(None);
        let slots = |membership: &mut Membership| {
            let (plan, table) = (membership.plan().clone(), membership.table());
            let address = |slot| table.service(0).owner(slot).map(|at| plan.services[0].servers[at as usize].address);
            (0..table.service(0).rule.slots).map(address).collect::<Vec<_>>()
        };
        let then = slots(&mut membership);
        if diff.refused.is_none() {
            reload(&mut membership, after.clone()).await;
        }
        let now = slots(&mut membership);
        *told = Some((diff, then.iter().zip(&now).filter(|(then, now)| then != now).count() as u32));
    });
    found.unwrap()
}

#[test]
fn a_diff_counts_the_slots_that_a_reload_moves() {
    let (same, moved) = compared(plan(4), &plan(4));
    assert!(same.same && same.changes.is_empty() && same.services.is_empty() && moved == 0, "{same:?}");

    let (added, moved) = compared(plan(4), &plan(5));
    assert_eq!(added.changes, ["service web: server web5 added (192.0.2.5, weight 1)"]);
    let [web] = &added.services[..] else { panic!("{added:?}") };
    assert!(!added.same && !web.needs_force && web.moved_slots == Some(moved), "{moved}: {web:?}");
    assert!((13_100..13_900).contains(&moved), "a fifth, and a few more: {moved}");
    assert!((web.moved - 0.2).abs() < 0.03 && (web.must - 0.2).abs() < 0.03, "{web:?}");

    let mut replaced = plan(4);
    replaced.services[0].servers[1].address = "192.0.2.99".parse().unwrap();
    let (replaced, moved) = compared(plan(4), &replaced);
    let [web] = &replaced.services[..] else { panic!("{replaced:?}") };
    assert!(
        web.moved_slots == Some(moved) && moved.abs_diff(65_537 / 4) < 2,
        "all of web2, and no other: {web:?}, {moved}"
    );

    let mut key = plan(4);
    key.hash_key = oneip::model::HashKey([7; 16]);
    let (key, _) = compared(plan(4), &key);
    let [web] = &key.services[..] else { panic!("{key:?}") };
    assert!(web.moved_slots.is_none() && web.needs_force && web.moved > 0.7 && web.must < 0.05, "{web:?}");
    assert!(key.refused.unwrap().contains("`oneip ctl reload --force`"));

    let mut restart = plan(5);
    restart.dispatcher.as_mut().unwrap().interface = "eth2".into();
    let (restart, _) = compared(plan(4), &restart);
    assert_eq!(restart.needs_restart, ["[dispatcher] interface"]);
    assert_eq!(restart.services.len(), 1, "and all the rest is compared, too");
    let refused = restart.refused.unwrap();
    assert_eq!(refused, "[dispatcher] interface cannot change while oneip runs; restart it, or change that back");
}

#[test]
fn what_needs_a_restart_is_not_taken_over() {
    with(plan(2), |mut membership| async move {
        let mut other = plan(3);
        other.dispatcher.as_mut().unwrap().interface = "eth2".into();
        let prepared = membership.base().prepare(other);
        assert!(matches!(prepared.possible(), Err(Refusal::NeedsRestart(_))));
        assert!(membership.reload(prepared).await.is_err());
        assert_eq!(servers(&membership, 0).len(), 2);
    });
}

fn modulo(servers: u8) -> Plan {
    let mut plan = plan(servers);
    plan.services[0].selection = Selection::Modulo;
    plan
}

/// Whatever happens while another configuration is worked out holds in it.
#[test]
fn what_happens_while_a_reload_is_worked_out_is_not_lost() {
    with(plan(4), |mut membership| async move {
        let mut other = plan(4);
        other.services[0].servers[3].weight = 2;
        let prepared = membership.base().prepare(other);
        let _ = membership.set("web1", None, Set::Disable, false).await;
        let _ = membership.set("web2", None, Set::Drain(None), false).await;
        let Reloaded::Done(_, Some(Update::Layout)) = membership.reload(prepared).await.unwrap() else {
            panic!("the same servers with the same weights")
        };
        assert_eq!(states(&membership, 0), [State::Disabled, State::Draining, State::Up, State::Up]);
        let ServiceStatus { moving, servers, slots, .. } = membership.services().remove(0);
        assert!((servers[0].slots, servers[1].slots) == (0, 0) && servers[3].slots > slots / 2, "{servers:?}");
        assert!(moving > slots / 4, "web2's connections stay, and those that web4 takes from web3");

        // A weight is another list of candidates: what was worked out is for the one before.
        let prepared = membership.base().prepare(plan(4));
        let _ = membership.set("web3", None, Set::Weight(Some(9)), false).await;
        let Reloaded::Outdated(again) = membership.reload(prepared).await.unwrap() else { panic!("it was for others") };
        let prepared = membership.base().prepare(*again);
        assert!(matches!(membership.reload(prepared).await.unwrap(), Reloaded::Done(..)));
        assert_eq!(servers_weights(&membership), [1, 1, 9, 1]);
    });
}

fn servers_weights(membership: &Membership) -> Vec<u32> {
    servers(membership, 0).iter().map(|server| server.weight).collect()
}

#[test]
fn the_last_server_of_a_service_is_taken_out_by_force_alone() {
    let mut two = plan(2);
    let mut other = two.services[0].clone();
    (other.name, other.address) = ("other".into(), "203.0.113.81".parse().unwrap());
    other.servers.truncate(1);
    two.services.push(other);
    with(two, |mut membership| async move {
        for set in [Set::Drain(None), Set::Disable, Set::Weight(Some(0))] {
            let (answer, update) = membership.set("web1", None, set, false).await;
            let Answer::Refused { error } = answer else { panic!("{answer:?}") };
            let expected =
                "server web1 is the last one that takes clients of service other; to do it anyway, use --force";
            assert_eq!((error.as_str(), update), (expected, None));
        }
        assert!(matches!(membership.set("web2", None, Set::Disable, false).await.0, Answer::Done { .. }));
        let (answer, _) = membership.set("web1", None, Set::Disable, false).await;
        let Answer::Refused { error } = answer else { panic!("{answer:?}") };
        assert!(error.contains("of services web, other;"), "{error}");
        let (answer, _) = membership.set("web1", None, Set::Disable, true).await;
        let Answer::Done { changes } = answer else { panic!("{answer:?}") };
        assert_eq!(changes[1], "warning: no server takes clients of web, other now");
        // Nobody is taken from anybody any more.
        assert!(matches!(membership.set("web1", None, Set::Drain(None), false).await.0, Answer::Done { .. }));
    });
}

/// One answers at once, one accepts connections and lets them wait: of the second it takes longer to know.
#[test]
fn the_servers_of_a_new_service_start_together() {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs root");
        return;
    }
    let quick = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = quick.local_addr().unwrap().port();
    let slow = TcpListener::bind(("127.0.0.2", port)).unwrap();
    thread::spawn(move || {
        for mut stream in quick.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        }
    });
    let mut old = plan(2);
    let mut new = old.services[0].clone();
    let health = format!(
        "[service.health]\ntype = \"http\"\nport = {port}\nvia = \"primary\"\ninterval_ms = 400\n\
                          timeout_ms = 300\nfall = 3\n"
    );
    let text = "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n[[service]]\nname = \"x\"\naddress = \
                \"203.0.113.80\"\n"
        .to_owned()
        + &health
        + "[[service.server]]\nname = \"a\"\naddress = \"192.0.2.1\"\n";
    new.health = config::parse(&text, "t.toml").unwrap().plan.services.remove(0).health;
    (new.name, new.address) = ("new".into(), "203.0.113.81".parse().unwrap());
    for (server, address) in new.servers.iter_mut().zip(["127.0.0.1", "127.0.0.2"]) {
        (server.name, server.address) = (format!("new-{}", server.name), address.parse().unwrap());
    }
    old.dispatcher.as_mut().unwrap().interface = "lo".into();
    let mut both = old.clone();
    both.services.push(new);
    with_interface(old, "lo", |mut membership| async move {
        reload(&mut membership, both).await;
        assert_eq!(states(&membership, 1), [State::Joining; 2]);
        while states(&membership, 1)[0] == State::Joining {
            let event = membership.next().await.unwrap();
            let first = matches!(event, Event::Verdicts(_));
            let update = membership.take(event).await;
            let now = states(&membership, 1);
            assert_eq!(now[0] == State::Joining, now[1] == State::Joining, "both, or none: {now:?}");
            assert!(first || update.is_none(), "known by a verdict, not by the time that it took");
        }
        assert_eq!(states(&membership, 1), [State::Up, State::Down]);
        assert_eq!(membership.services()[1].moving, 0, "nobody had anybody to lose");
        membership.close().await;
        drop(slow);
    });
}
