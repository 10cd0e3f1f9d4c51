//! `/healthz` and `/readyz`.

use crate::fake::{Fake, Script};
use crate::http::{Reply, tcp};
use crate::sample;
use oneip::admin::group::GroupSummary;
use oneip::admin::status::{State, Status};
use oneip::metrics::snapshot::Snapshot;
use std::sync::{Arc, Mutex};

fn asked(path: &str, status: impl FnOnce(&mut Status), figures: impl FnOnce(&mut Snapshot)) -> (u16, String) {
    let script = Script::default();
    status(&mut script.status.lock().unwrap());
    let mut changed = sample::figures();
    figures(&mut changed);
    let fake = Fake::with(Script { figures: Arc::new(Mutex::new(Some(changed))), ..script });
    let Reply { status, body, .. } = tcp(&fake, "GET", path);
    (status, body)
}

#[test]
fn workers_that_turn_are_healthy_and_others_are_named() {
    let healthz = |figures: fn(&mut Snapshot)| asked("/healthz", |_| {}, figures);
    assert_eq!(healthz(|_| {}), (200, "ok\n".into()));
    assert_eq!(healthz(|figures| figures.workers.clear()), (200, "ok\n".into()), "a filter has none");
    let (status, body) = healthz(|figures| {
        figures.workers[0].stuck = true;
        figures.workers[1].turns = false;
    });
    let expected = "worker 0 is stuck: frames wait in its transmit ring, and none has left for an interval\n\
                    worker 1 hangs: it did not answer the last request for its counters\n";
    assert_eq!((status, body.as_str()), (503, expected));
    let trouble = healthz(|figures| figures.troubles.push("the filter is off lan0".to_owned()));
    assert_eq!(trouble, (503, "the filter is off lan0\n".into()));
}

#[test]
fn filters_that_decide_by_something_else_are_not_ready() {
    let (status, body) = asked("/readyz", |status| status.peers = sample::peers(), |_| {});
    let said = |server: &str, what: &str, then: &str| {
        format!(
            "the filter of {server} has {what} than this one; a client may be answered by two servers or by none: \
             {then}\n"
        )
    };
    let expected = [
        said("web3", "another configuration", "give both the same services, servers and weights, and reload"),
        said("web3", "other orders", "give both the same orders with oneip ctl"),
        said("web5", "another hash_key", "give both the same, and reload"),
    ];
    assert_eq!((status, body), (503, expected.concat()));
    assert_eq!(asked("/healthz", |status| status.peers = sample::peers(), |_| {}).0, 200, "a start anew mends nothing");
}

#[test]
fn a_member_of_a_group_with_another_key_is_not_ready_and_one_with_another_configuration_is() {
    let readyz = |other_key: bool| {
        let outside = Some("this process has another one than the group (d1)".to_owned());
        asked("/readyz", |status| status.group = Some(GroupSummary { outside, other_key, ..sample::group() }), |_| {})
    };
    assert_eq!(readyz(true), (503, "this process has another one than the group (d1)\n".into()));
    assert_eq!(readyz(false), (200, "ok\n".into()));
}

#[test]
fn it_is_ready_when_every_service_that_shall_take_clients_has_a_server_up() {
    let readyz = |status: fn(&mut Status)| asked("/readyz", status, |_| {});
    let all = |status: &mut Status, service: usize, state: State| {
        status.services[service].servers.iter_mut().for_each(|server| server.state = state);
    };
    assert_eq!(readyz(|_| {}), (200, "ok\n".into()), "one of two is enough");
    assert_eq!(readyz(|status| status.interface_up = Some(false)), (503, "eth1 is down\n".into()));
    assert_eq!(readyz(|status| status.generation = 0), (503, "no table is published yet\n".into()));
    let (status, body) = asked(
        "/readyz",
        |status| {
            all(status, 0, State::Down);
            all(status, 1, State::Draining);
        },
        |_| {},
    );
    let expected = "service web has no server that takes clients\nservice dns has no server that takes clients\n";
    assert_eq!((status, body.as_str()), (503, expected));
    let unresolved = |status: &mut Status| {
        status.services[0].servers.iter_mut().for_each(|server| server.mac = None);
    };
    let expected = "service web has no server that takes clients\n";
    assert_eq!(asked("/readyz", unresolved, |_| {}), (503, expected.into()), "their clients' frames are dropped");
    // One check that came to something is enough.
    let unchecked = |status: &mut Status, servers: &[usize]| {
        for (at, server) in status.services[0].servers.iter_mut().enumerate() {
            let check = server.check.as_mut().expect("web is checked");
            check.unchecked_s = servers.contains(&at).then_some(3.5);
            check.unchecked = servers.contains(&at).then(|| "eth1 hears nobody".to_owned());
        }
    };
    let takers = |status: &Status| -> Vec<usize> {
        let servers = status.services[0].servers.iter().enumerate();
        servers.filter(|(_, server)| status.takes_clients(server)).map(|(at, _)| at).collect()
    };
    let (code, body) = asked("/readyz", |status| unchecked(status, &takers(status)), |_| {});
    let expected = "service web has no server that could be checked in the last 4 s: eth1 hears nobody\n";
    assert_eq!((code, body.as_str()), (503, expected));
    assert_eq!(asked("/readyz", |status| unchecked(status, &takers(status)[1..]), |_| {}), (200, "ok\n".into()));
    let at_home = readyz(|status| {
        status.server = Some("web1".to_owned());
        status.services[0].servers.iter_mut().for_each(|server| server.mac = None);
    });
    assert_eq!(at_home, (200, "ok\n".into()), "a filter needs none");
    let idle = readyz(|status| {
        status.services[0].servers.iter_mut().for_each(|server| {
            server.state = State::Down;
            server.weight = 0;
        });
    });
    assert_eq!(idle, (200, "ok\n".into()), "a service of weight 0 is not meant to take clients");
    let (status, _) = asked("/readyz", |_| {}, |figures| figures.workers[0].turns = false);
    assert_eq!(status, 200, "that is another question");
}
