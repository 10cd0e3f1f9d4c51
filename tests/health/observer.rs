//! This host's own trouble is not judged as its servers'.

use std::time::Duration;

use super::net::{END, Net, V4, accept, during, gather, plan, until};
use super::quick;
use oneip::control::health::{Change, Health, Verdict, What};

const TCP: &str = "type = 'tcp'\nport = 80";

fn verdicts(health: &Health) -> Vec<Verdict> {
    (0..).map_while(|server| Some(health.status(0, server)?.verdict)).collect()
}

fn is_down(change: &Change) -> bool {
    matches!(change.what, What::Down { .. })
}

/// The dispatcher's port on the switch, which may keep its link: the last switch before the servers may be another one.
#[test]
fn who_hears_nobody_judges_nobody_and_what_failed_together_comes_back_together() {
    let Some(net) = Net::new(4) else { return };
    let mut daemons: Vec<_> = (0..4).map(|server| Some(net.listen(server, "0.0.0.0:80", accept))).collect();
    let servers = ["web1", "web2", "web3", "web4"];
    net.inside(async || {
        let mut health = Health::open(&plan(&net.service("web", V4, &quick(TCP))), "lan0", END).await.unwrap();
        gather(&mut health, |health, _| verdicts(health) == [Verdict::Up; 4]).await;
        for cut in [&["dispatcher"][..], &servers] {
            net.set_ports(cut, "down");
            let changes = until(&mut health, |change| matches!(change.what, What::Isolated(_))).await;
            assert!(!changes.iter().any(is_down), "{changes:#?}");
            let changes = during(&mut health, Duration::from_millis(1500)).await;
            assert!(changes.is_empty(), "{changes:#?}");
            assert!(health.isolated().is_some());
            assert_eq!(verdicts(&health), [Verdict::Up; 4]);

            net.set_ports(cut, "up");
            let changes = until(&mut health, |change| change.what == What::NotIsolated).await;
            assert!(!changes.iter().any(is_down), "{changes:#?}");
            let checked = |health: &Health| (0..4).all(|at| health.status(0, at).unwrap().unchecked.is_none());
            let changes = gather(&mut health, |health, _| checked(health)).await;
            assert!(!changes.iter().any(is_down), "nobody, though all had failed often enough: {changes:#?}");
        }

        // One that did fail meanwhile is found afterwards, and nobody else.
        net.set_ports(&["dispatcher"], "down");
        until(&mut health, |change| matches!(change.what, What::Isolated(_))).await;
        daemons[2] = None;
        net.set_ports(&["dispatcher"], "up");
        let changes = until(&mut health, is_down).await;
        assert!(matches!(changes.last().unwrap().what, What::Down { server: 2, .. }), "{changes:#?}");
        during(&mut health, Duration::from_millis(500)).await;
        assert_eq!(verdicts(&health), [Verdict::Up, Verdict::Up, Verdict::Down, Verdict::Up]);
        health.close().await.unwrap();
    });
}

#[test]
fn a_server_that_is_silent_alone_is_down_and_so_are_most_after_twice_as_many_failures() {
    let Some(net) = Net::new(4) else { return };
    let _daemons: Vec<_> = (0..4).map(|server| net.listen(server, "0.0.0.0:80", accept)).collect();
    net.inside(async || {
        let mut health = Health::open(&plan(&net.service("web", V4, &quick(TCP))), "lan0", END).await.unwrap();
        gather(&mut health, |health, _| verdicts(health) == [Verdict::Up; 4]).await;
        net.set_ports(&["web2"], "down");
        let changes = until(&mut health, is_down).await;
        assert!(matches!(changes.last().unwrap().what, What::Down { server: 1, .. }), "{changes:#?}");
        net.set_ports(&["web2"], "up");
        gather(&mut health, |health, _| verdicts(health) == [Verdict::Up; 4]).await;

        net.set_ports(&["web2", "web3", "web4"], "down");
        let expected = [Verdict::Up, Verdict::Down, Verdict::Down, Verdict::Down];
        let changes = gather(&mut health, |health, _| verdicts(health) == expected).await;
        assert!(!changes.iter().any(|change| matches!(change.what, What::Isolated(_))), "{changes:#?}");
        health.close().await.unwrap();
    });
}

/// As when the database behind all of them stalls.
#[test]
fn servers_that_all_stall_at_once_stay_and_one_that_stalls_alone_is_down() {
    let Some(net) = Net::new(3) else { return };
    let answer: fn(&mut std::net::TcpStream) = |stream| {
        use std::io::{Read, Write};
        _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"));
    };
    let serve = |with: fn(&mut std::net::TcpStream), which: &[usize]| {
        which.iter().map(|server| net.listen(*server, "0.0.0.0:80", with)).collect::<Vec<_>>()
    };
    net.inside(async || {
        let http = "type = 'http'\nport = 80\ninterval_ms = 100\ntimeout_ms = 80\nrise = 1\nfall = 4";
        let mut daemons = serve(answer, &[0, 1, 2]);
        let mut health = Health::open(&plan(&net.service("web", V4, http)), "lan0", END).await.unwrap();
        gather(&mut health, |health, _| verdicts(health) == [Verdict::Up; 3]).await;

        daemons.clear();
        daemons = serve(accept, &[0, 1, 2]);
        let unchecked = |health: &Health| (0..3).all(|at| health.status(0, at).unwrap().unchecked.is_some());
        let changes = gather(&mut health, |health, _| unchecked(health)).await;
        assert!(!changes.iter().any(is_down), "{changes:#?}");
        let changes = during(&mut health, Duration::from_millis(1000)).await;
        assert!(!changes.iter().any(is_down), "{changes:#?}");
        assert!(health.isolated().is_none(), "they take connections");
        let why = health.status(0, 0).unwrap().unchecked.unwrap().1;
        assert!(why.starts_with("no server of its service answers in time"), "{why}");

        daemons.clear();
        daemons = serve(answer, &[0, 1]);
        daemons.extend(serve(accept, &[2]));
        let changes = until(&mut health, is_down).await;
        assert!(matches!(changes.last().unwrap().what, What::Down { server: 2, .. }), "{changes:#?}");
        during(&mut health, Duration::from_millis(500)).await;
        assert_eq!(verdicts(&health), [Verdict::Up, Verdict::Up, Verdict::Down]);
        drop(daemons);
        health.close().await.unwrap();
    });
}

/// In a group, members divide the checks.
#[test]
fn who_checks_some_servers_knows_nothing_of_the_others_and_judges_his_own_by_his_own() {
    let Some(net) = Net::new(4) else { return };
    let mut daemons: Vec<_> = (0..4).map(|server| Some(net.listen(server, "0.0.0.0:80", accept))).collect();
    net.inside(async || {
        let mut health = Health::open(&plan(&net.service("web", V4, &quick(TCP))), "lan0", END).await.unwrap();
        gather(&mut health, |health, _| verdicts(health) == [Verdict::Up; 4]).await;
        assert_eq!(health.finds(0, 0), Some(Verdict::Up));
        health.assign(|_, server| server >= 2);
        assert!(health.status(0, 0).is_none() && health.finds(0, 0).is_none());
        assert_eq!((health.pending(), health.finds(0, 3)), (0, Some(Verdict::Up)));
        // No probe more, but one that was under way.
        daemons[0] = None;
        let before = net.resets(0);
        let changes = during(&mut health, Duration::from_millis(600)).await;
        assert!(!changes.iter().any(is_down), "{changes:#?}");
        assert!(net.resets(0) - before <= 1);

        // Those that it checks are all silent: it is cut off, whatever it knew of the others.
        net.set_ports(&["web3", "web4"], "down");
        let changes = until(&mut health, |change| matches!(change.what, What::Isolated(_))).await;
        assert!(!changes.iter().any(is_down), "{changes:#?}");
        assert_eq!((health.finds(0, 2), health.finds(0, 3)), (None, None));
        net.set_ports(&["web3", "web4"], "up");
        until(&mut health, |change| change.what == What::NotIsolated).await;

        // It begins anew with what it is given.
        health.assign(|_, _| true);
        assert_eq!(health.pending(), 2);
        let changes = until(&mut health, is_down).await;
        let down = changes.into_iter().find(is_down).unwrap();
        assert!(matches!(down.what, What::Down { server: 0, .. }), "{down:#?}");
        gather(&mut health, |health, _| health.finds(0, 1) == Some(Verdict::Up)).await;
        health.close().await.unwrap();
    });
}
