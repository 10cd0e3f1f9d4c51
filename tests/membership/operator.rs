//! Orders of one service and of all, and what a client is told.

use crate::{CONFIG, opened, with_membership_of, with_state_file};
use oneip::admin::order::Answer;
use oneip::admin::status::State;
use oneip::config;
use oneip::control::membership::{Membership, Set, Update};
use oneip::control::overrides::{Override, Overrides};
use oneip::hash::{self, Key};
use oneip::limits::{MAX_DRAIN_S, MAX_WEIGHT};
use oneip::model::{HashInput, Limit, Plan, Rate, Service};
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Fourteen services with the same two servers.
fn of_many() -> Plan {
    let mut plan = config::parse(CONFIG, "t.toml").unwrap().plan;
    let one = plan.services.remove(0);
    let of = |n: u8| {
        let (name, address) = (format!("s{n}"), Ipv4Addr::new(203, 0, 113, n).into());
        Service { name, address, ..one.clone() }
    };
    plan.services = (1..=14).map(of).collect();
    plan
}

/// What was set at another dispatcher.
#[test]
fn orders_of_the_group_are_carried_out_as_those_that_are_given_here() {
    with_membership_of(of_many(), "eth1", |mut membership| async move {
        let in_s3 = |one: Override| {
            let mut all = Overrides::default();
            all.change(Some("s3"), "web2", |it| *it = one);
            all
        };
        let drained = |seconds: i64| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            in_s3(Override { drained_until: Some(now.saturating_add_signed(seconds)), ..Override::default() })
        };
        let web2 = |membership: &Membership, service: usize| {
            let of = membership.services().remove(service);
            (of.servers[1].state, of.servers[1].weight)
        };
        let disabled = in_s3(Override { disabled: true, ..Override::default() });
        let weight = in_s3(Override { weight: Some(4), ..Override::default() });
        let (for_long, over) = (drained(600), drained(-1));
        let none = Overrides::default();
        for (orders, update, expected) in [
            (&none, None, (State::Up, 1)),
            (&disabled, Some(Update::Table), (State::Disabled, 1)),
            (&disabled, None, (State::Disabled, 1)),
            (&none, Some(Update::Table), (State::Up, 1)),
            (&for_long, Some(Update::Table), (State::Draining, 1)),
            (&over, Some(Update::Table), (State::Drained, 1)),
            (&none, Some(Update::Table), (State::Up, 1)),
            (&weight, Some(Update::Layout), (State::Up, 4)),
        ] {
            assert_eq!(membership.adopt(orders.clone()).await, Ok(update), "{orders:?}");
            assert_eq!(web2(&membership, 2), expected, "{orders:?}");
            assert_eq!(web2(&membership, 3), (State::Up, 1), "no other service's");
        }
        membership.close().await;
    });
}

#[test]
fn an_order_beyond_the_bounds_is_refused() {
    with_membership_of(of_many(), "eth1", |mut membership| async move {
        for (within, beyond, why) in [
            (Set::Drain(Some(MAX_DRAIN_S.into())), Set::Drain(Some(u64::from(MAX_DRAIN_S) + 1)), "too long"),
            (Set::Weight(Some(MAX_WEIGHT)), Set::Weight(Some(MAX_WEIGHT + 1)), "too great"),
        ] {
            let (answer, update) = membership.set("web2", None, beyond, false).await;
            assert!(matches!(answer, Answer::Refused { error } if error.contains(why)) && update.is_none());
            assert!(matches!(membership.set("web2", None, within, false).await.0, Answer::Done { .. }));
        }
        membership.close().await;
    });
}

#[test]
fn an_order_is_for_one_service_or_for_all_that_have_the_server_and_says_which() {
    with_state_file(|file| async move {
        let plan = of_many();
        let mut first = opened(&plan, &file).await;
        let said = |(answer, _): (Answer, Option<Update>)| match answer {
            Answer::Done { changes } => changes.join("; "),
            Answer::Refused { error } => error,
            other => panic!("{other:?}"),
        };
        let of_web2 = |membership: &Membership| -> Vec<(State, u32)> {
            membership.services().iter().map(|of| (of.servers[1].state, of.servers[1].weight)).collect()
        };
        let (up, out) = ((State::Up, 1), (State::Disabled, 1));
        assert_eq!(
            said(first.set("web2", None, Set::Disable, false).await),
            "server web2 of 14 services (s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12 and 2 more) is disabled: it \
             gets no frames, and its connections break"
        );
        assert_eq!(of_web2(&first), [out; 14]);
        let one = "server web2 of service s3 takes clients again";
        assert_eq!(said(first.set("web2", Some("s3"), Set::Enable, false).await), one);
        let _ = first.set("web2", Some("s5"), Set::Weight(Some(4)), false).await;
        let mut expected = [out; 14];
        (expected[2], expected[4]) = (up, (State::Disabled, 4));
        assert_eq!(of_web2(&first), expected);
        // What leaves that one service without servers, and no other.
        let refused = "server web1 is the last one that takes clients of services s1, s2, s4, s5, s6, s7, s8, s9, s10, \
                       s11, s12, s13 and 1 more; to do it anyway, use --force";
        assert_eq!(said(first.set("web1", None, Set::Drain(None), false).await), refused);
        let _ = first.set("web1", Some("s3"), Set::Drain(Some(60)), false).await;
        let states = |membership: &Membership| -> Vec<State> {
            membership.services().iter().map(|of| of.servers[0].state).collect()
        };
        let mut drained = [State::Up; 14];
        drained[2] = State::Draining;
        assert_eq!(states(&first), drained);
        assert_eq!(
            said(first.set("web1", Some("s4"), Set::Undrain, false).await),
            "server web1 of service s4 is not drained"
        );
        for (server, service, expected) in [
            ("web3", None, "there is no server web3; there are web1, web2"),
            ("web3", Some("s1"), "there is no server web3 in service s1; there are web1, web2"),
            (
                "web1",
                Some("mail"),
                "there is no service mail; there are s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12 and 2 more",
            ),
        ] {
            assert_eq!(said(first.set(server, service, Set::Disable, true).await), expected);
        }
        first.close().await;

        let mut second = opened(&plan, &file).await;
        assert_eq!((of_web2(&second), states(&second)), (expected.to_vec(), drained.to_vec()), "after a restart");
        let _ = second.set("web2", None, Set::Enable, false).await;
        let _ = second.set("web1", None, Set::Undrain, false).await;
        assert_eq!(states(&second), [State::Up; 14]);
        expected = [up; 14];
        expected[4].1 = 4;
        assert_eq!(of_web2(&second), expected, "what was set apart besides stays");
        second.close().await;
    });
}

/// By a service over the source, one over the flow, and one of the other family.
#[test]
fn a_client_is_told_what_it_meets_and_why() {
    let lists = "[[deny]]\nprefixes = [\"198.51.100.0/24\"]\n[[deny]]\nprefixes = [\"198.51.100.64/26\"]\nservices = [\"web\"]\n\
                 mode = \"count\"\n[[allow]]\nprefixes = [\"198.51.100.7\"]\n";
    let mut plan = config::parse(&format!("{CONFIG}{lists}"), "t.toml").unwrap().plan;
    let web = plan.services[0].clone();
    let (flow, v6) = ("203.0.113.81".parse().unwrap(), "2001:db8::80".parse().unwrap());
    plan.services.push(Service { name: "flow".into(), address: flow, hash: HashInput::Flow, ..web.clone() });
    let syn = Some(Rate { per_second: 100, burst: 10 });
    plan.services[1].limit = Some(Limit { packets: None, bits: None, syn, per_source: None, only_counts: false });
    plan.services.push(Service { name: "six".into(), address: v6, ports: Vec::new(), hash: HashInput::Flow, ..web });
    with_membership_of(plan, "eth1", |mut membership| async move {
        let check = |membership: &Membership, client: &str, port| {
            membership.check_client(client.parse().unwrap(), None, (port, None)).unwrap().services
        };
        let listed = |membership: &Membership, client: &str| -> Vec<String> {
            let services = check(membership, client, None).into_iter().map(|of| of.listed);
            let told =
                services.map(|of| of.map_or("-".to_owned(), |of| format!("{:?} {} {}", of.verdict, of.by, of.prefix)));
            told.collect()
        };
        assert_eq!(listed(&membership, "198.51.101.1"), ["-", "-"]);
        assert_eq!(listed(&membership, "198.51.100.1"), ["Denied [[deny]] 198.51.100.0/24"; 2]);
        assert_eq!(listed(&membership, "198.51.100.7"), ["Allowed [[allow]] 198.51.100.7"; 2]);
        let _ = membership.deny("198.51.0.0/16".parse().unwrap(), Some("flow"), None);
        assert_eq!(listed(&membership, "198.51.101.1"), ["-", "Denied ctl deny 198.51.0.0/16"]);
        let _ = membership.undeny("198.51.0.0/16".parse().unwrap(), Some("flow"));

        let at_home = |membership: &Membership, client: &str| {
            let [web, flow] = &check(membership, client, Some(40_000))[..] else { panic!("two are of the family") };
            (web.clone(), flow.clone())
        };
        let (web, flow) = at_home(&membership, "198.51.101.1");
        assert_eq!((web.why.as_str(), web.hash_input.as_str(), web.flows.len()), ("first choice", "source", 0));
        assert_eq!(web.place, membership.trace("198.51.101.1".parse().unwrap())[0]);
        let [to_80] = &flow.flows[..] else { panic!("it lists one port") };
        let key = Key::from(membership.plan().hash_key);
        let source = "198.51.101.1".parse().unwrap();
        let hashed = hash::flow(key, source, flow.address, (40_000, 80), 6);
        let slot = hash::slot(hashed, 65_537);
        assert_eq!((to_80.to.as_str(), to_80.hash.clone(), to_80.slot), ("tcp/80", format!("{hashed:#018x}"), slot));
        let owner = membership.table().service(1).owner(slot).unwrap();
        assert_eq!(to_80.server.as_deref(), Some(["web1", "web2"][owner as usize]), "as the table has it");

        assert_eq!((web.limit, flow.limit), (None, Some("at most 100 SYN/s (burst 10)".to_owned())));
        // Where a service does not list its ports, it must be said.
        let six = "2001:db8:1::7".parse().unwrap();
        let to = |to: Option<&str>| {
            let to = to.map(|to| to.parse().unwrap());
            membership.check_client(six, Some("six"), (Some(40_000), to)).unwrap().services.remove(0)
        };
        assert_eq!(to(None).flows, []);
        let [to_443] = &to(Some("udp/443")).flows[..] else { panic!("it is one flow") };
        let hashed = hash::flow(key, six, v6, (40_000, 443), 17);
        assert_eq!((to_443.to.as_str(), to_443.hash.clone()), ("udp/443", format!("{hashed:#018x}")));

        let (first, other) = (web.place.order[0].clone(), web.place.order[1].clone());
        let _ = membership.set(&first, Some("web"), Set::Drain(Some(60)), false).await;
        let (web, _) = at_home(&membership, "198.51.101.1");
        assert_eq!((web.place.server, web.place.keeps), (Some(other.clone()), Some(first.clone())));
        let why = format!("failover, since {first} is draining (by ctl drain; keeps its connections for ");
        assert!(web.why.starts_with(&why), "{}", web.why);
        let _ = membership.set(&first, None, Set::Disable, true).await;
        let _ = membership.set(&other, None, Set::Disable, true).await;
        let (web, flow) = at_home(&membership, "198.51.101.1");
        let why = format!("{first} is disabled (by ctl disable), {other} is disabled (by ctl disable)");
        assert_eq!((web.place.server, web.why, flow.flows[0].server.clone()), (None, why, None));
        let refused = |service| membership.check_client(source, Some(service), (None, None)).unwrap_err();
        assert_eq!(refused("six"), "service six has the address 2001:db8::80: 198.51.101.1 is of the other family");
        assert_eq!(refused("mail"), "there is no service mail; there are web, flow, six");
    });
}
