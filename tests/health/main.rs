//! `control::health` against the real kernel and real servers, in network namespaces of its own. Needs root.

mod load;
mod net;
mod observer;
mod routes;

use std::time::Duration;

use net::{END, Net, V4, V6, accept, address, babble, down, during, gather, hang_up, known, plan, run, until, up};
use oneip::control::health::{Change, Health, Verdict, What};

const QUICK: &str = "interval_ms = 100\ntimeout_ms = 80\nrise = 1\nfall = 2";

fn quick(first: &str) -> String {
    format!("{first}\n{QUICK}")
}

#[test]
fn a_tcp_server_goes_down_with_its_daemon_and_comes_up_with_it() {
    let Some(net) = Net::new(1) else { return };
    for cluster in [V4, V6] {
        net.inside(async || {
            let at = address(cluster);
            let socket = std::net::SocketAddr::new(at, 80).to_string();
            let plan = plan(&net.service("web", cluster, &quick("type = 'tcp'\nport = 80")));
            let mut health = Health::open(&plan, "lan0", END).await.unwrap();
            assert_eq!(
                (health.pending(), health.serving(0, &[true])),
                (1, vec![true]),
                "up until it is known to be down"
            );

            let reason = down(&mut health, 0).await;
            assert_eq!(
                reason,
                format!("{socket} refuses the connection: nothing listens there on the cluster address")
            );
            assert_eq!((health.pending(), health.serving(0, &[true])), (0, vec![false]));

            let daemon = net.listen(0, &socket, accept);
            up(&mut health, 0).await;
            let status = health.status(0, 0).unwrap();
            assert_eq!(status.verdict, Verdict::Up);
            assert!(status.latency.is_some());
            assert!(status.failure.unwrap().1.contains("refuses the connection"), "kept to be shown");

            drop(daemon);
            let before = net.resets(0);
            down(&mut health, 0).await;
            // One less, if a check was under way.
            assert!((1..=2).contains(&(net.resets(0) - before)), "so many failures in a row are enough: fall = 2");
            health.close().await.unwrap();
        });
    }
}

#[test]
fn a_server_without_the_alias_fails_on_the_data_path_and_not_at_its_primary_address() {
    let Some(net) = Net::new(1) else { return };
    let daemons = ["0.0.0.0:80", "[::]:8080"].map(|at| net.listen(0, at, accept));
    for (cluster, port) in [(V4, 80), (V6, 8080)] {
        net.inside(async || {
            let data_path = net.service("data-path", cluster, &quick(&format!("type = 'tcp'\nport = {port}")));
            let primary =
                net.service("primary", cluster, &quick(&format!("type = 'tcp'\nport = {port}\nvia = 'primary'")));
            let mut health = Health::open(&plan(&(data_path + &primary)), "lan0", END).await.unwrap();
            known(&mut health).await;
            assert_eq!([0, 1].map(|service| health.status(service, 0).unwrap().verdict), [Verdict::Up; 2]);

            net.remove_alias(0, cluster);
            let reason = down(&mut health, 0).await;
            assert_eq!(
                reason,
                format!(
                    "no answer from {cluster} within 80 ms; is the server at its last known MAC, and does it have the \
                     cluster address? Run `oneip server check` there"
                )
            );
            let changes = during(&mut health, Duration::from_millis(500)).await;
            assert!(changes.iter().all(|change| change.service == 0), "the other one is content: {changes:#?}");
            assert_eq!(health.status(1, 0).unwrap().verdict, Verdict::Up);

            net.add_alias(0, cluster);
            up(&mut health, 0).await;
            health.close().await.unwrap();
        });
    }
    drop(daemons);
}

#[test]
fn a_daemon_on_the_primary_address_alone_fails_on_the_data_path() {
    let Some(net) = Net::new(1) else { return };
    let _daemon = net.listen(0, "10.9.1.1:80", accept);
    net.inside(async || {
        let data_path = net.service("data-path", V4, &quick("type = 'tcp'\nport = 80"));
        let primary = net.service("primary", V4, &quick("type = 'tcp'\nport = 80\nvia = 'primary'"));
        let mut health = Health::open(&plan(&(data_path + &primary)), "lan0", END).await.unwrap();
        let reason = down(&mut health, 0).await;
        assert!(reason.ends_with("refuses the connection: nothing listens there on the cluster address"), "{reason}");
        assert_eq!(health.status(1, 0).unwrap().verdict, Verdict::Up);
        health.close().await.unwrap();
    });
}

#[test]
fn a_real_nginx_is_judged_by_its_status_over_http_and_https() {
    let Some(net) = Net::new(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let d = directory.path().display().to_string();
    run(
        "openssl",
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=nobody -keyout {d}/key -out {d}/crt"
        ),
    );
    let listen = "listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;";
    let kinds = [(444, "1.2", "auto"), (445, "1.3", "auto"), (446, "1.2", "X25519"), (447, "1.3", "X25519")];
    let kind = |(port, version, curves)| {
        let listen = format!("listen {port} ssl; listen [::]:{port} ssl;");
        format!("server {{ {listen} ssl_protocols TLSv{version}; ssl_ecdh_curve {curves}; return 200 hello; }}\n")
    };
    let servers = format!(
        "ssl_certificate {d}/crt; ssl_certificate_key {d}/key;\n\
         server {{ {listen} server_name _; location / {{ return 200 hello; }} location /gone {{ return 503; }} \
         location /moved {{ return 302 /; }} }}\n\
         server {{ {listen} server_name www.example.org; location / {{ return 204; }} }}\n\
         {}",
        kinds.map(kind).concat()
    );
    let mut nginx = Some(net.nginx(0, directory.path(), &servers));
    for cluster in [V4, V6] {
        net.inside(async || {
            let good = [
                "type = 'http'",
                "type = 'http'\npath = '/moved'",
                "type = 'http'\nhost = 'www.example.org'\nexpect_status = 204",
                "type = 'https'",
                "type = 'https'\nhost = 'www.example.org'\nexpect_status = [204]",
                "type = 'https'\nport = 444",
                "type = 'https'\nport = 445",
                "type = 'https'\nport = 446",
                "type = 'https'\nport = 447",
                "type = 'http'\nvia = 'primary'",
            ];
            let bad = [
                ("type = 'http'\npath = '/gone'", "HTTP status 503, not 200 to 399".to_owned()),
                (
                    "type = 'https'\npath = '/moved'\nexpect_status = [200, '204-206']",
                    "HTTP status 302, not 200 or 204 to 206".to_owned(),
                ),
                ("type = 'http'\nhost = 'www.example.org'\nexpect_status = 200", "HTTP status 204, not 200".to_owned()),
            ];
            let all = good.iter().copied().chain(bad.iter().map(|(health, _)| *health));
            let service = |(i, health): (usize, &str)| {
                let port = match (health.contains("port"), health.contains("https")) {
                    (true, _) => "",
                    (false, true) => "port = 443",
                    (false, false) => "port = 80",
                };
                let lines = format!("{health}\n{port}\ninterval_ms = 200\nrise = 1\nfall = 2");
                net.service(&format!("s{i}"), cluster, &lines)
            };
            let text: String = all.enumerate().map(service).collect();
            let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
            // A first probe counts for nothing if this process stood still meanwhile; and servers stand still too.
            let verdict = |health: &Health, service| health.status(service, 0).unwrap().verdict;
            let services = good.len() + bad.len();
            let expected = |i| if i < good.len() { Verdict::Up } else { Verdict::Down };
            gather(&mut health, |health, _| (0..services).all(|i| verdict(health, i) == expected(i))).await;
            for (i, check) in good.iter().enumerate() {
                let status = health.status(i, 0).unwrap();
                assert_eq!(status.verdict, Verdict::Up, "{check}: {:?}", status.failure);
            }
            for (i, (check, reason)) in bad.iter().enumerate() {
                let status = health.status(good.len() + i, 0).unwrap();
                assert_eq!((status.verdict, status.failure.unwrap().1), (Verdict::Down, reason.as_str()), "{check}");
            }
            if cluster == V6 {
                nginx = None;
                let refused = |health: &Health, service| {
                    let status = health.status(service, 0).unwrap();
                    status.verdict == Verdict::Down && status.failure.unwrap().1.contains("refuses the connection")
                };
                gather(&mut health, |health, _| refused(health, 0) && refused(health, 3)).await;
            }
            health.close().await.unwrap();
        });
    }
    let log = std::fs::read_to_string(directory.path().join("access.log")).unwrap();
    assert!(log.contains("oneip/0.1.0 (health check)"), "{log}");
    assert!(log.contains("10.9.0.1 ") && log.contains("fd09::1 "), "from the dispatcher's own addresses: {log}");
}

#[test]
fn servers_that_are_slow_or_speak_something_else_are_down_for_that_reason() {
    let Some(net) = Net::new(1) else { return };
    let _daemons = [
        net.listen(0, "0.0.0.0:81", accept),
        net.listen(0, "0.0.0.0:82", babble),
        net.listen(0, "0.0.0.0:83", hang_up),
    ];
    net.inside(async || {
        let cases = [
            ("http", 81, "203.0.113.80:81 accepts the connection, and then sends no HTTP response within 80 ms"),
            (
                "https",
                81,
                "203.0.113.80:81 accepts the connection, and then does not finish the TLS handshake within 80 ms",
            ),
            ("http", 82, "203.0.113.80:82 does not speak HTTP"),
            ("https", 82, "the TLS handshake with 203.0.113.80:82 fails"),
            ("http", 83, "203.0.113.80:83 closes the connection before it has answered"),
            ("https", 83, "203.0.113.80:83 closes the connection before it has answered"),
        ];
        let service = |(i, (kind, port, _)): (usize, &(&str, u16, &str))| {
            net.service(&format!("s{i}"), V4, &quick(&format!("type = '{kind}'\nport = {port}")))
        };
        let text: String = cases.iter().enumerate().map(service).collect();
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        for (i, (.., reason)) in cases.iter().enumerate() {
            // One that was late, on a machine that stood still, may have had another reason.
            let is_said = |health: &Health, _: &[Change]| {
                let status = health.status(i, 0).unwrap();
                status.verdict == Verdict::Down && status.failure.unwrap().1.starts_with(reason)
            };
            gather(&mut health, is_said).await;
        }
        health.close().await.unwrap();
    });
}

#[test]
fn echo_requests_travel_the_data_path_too() {
    let Some(net) = Net::new(2) else { return };
    for cluster in [V4, V6] {
        net.inside(async || {
            let data_path = net.service("data-path", cluster, &quick("type = 'icmp'"));
            let primary = net.service("primary", cluster, &quick("type = 'icmp'\nvia = 'primary'"));
            let mut health = Health::open(&plan(&(data_path + &primary)), "lan0", END).await.unwrap();
            known(&mut health).await;
            net.remove_alias(1, cluster);
            assert!(down(&mut health, 0).await.starts_with(&format!("no answer from {cluster} within 80 ms")));
            assert_eq!(health.serving(0, &[true; 2]), [true, false]);
            assert_eq!(health.serving(1, &[true; 2]), [true, true]);
            net.add_alias(1, cluster);
            up(&mut health, 0).await;
            assert_eq!(health.serving(0, &[true; 2]), [true, true]);
            health.close().await.unwrap();
        });
    }
}

#[test]
fn one_server_fails_alone_and_when_all_fail_it_is_said() {
    let Some(net) = Net::new(2) else { return };
    let mut daemons: Vec<_> = (0..2).map(|server| Some(net.listen(server, "0.0.0.0:80", accept))).collect();
    net.inside(async || {
        let drops = net.service("web", V4, &quick("type = 'tcp'\nport = 80"));
        let serves = net.service("web6", V6, &quick("type = 'tcp'\nport = 80\nvia = 'primary'\nall_down = 'serve'"));
        let serves = serves.replace("fd09::1:", "10.9.1.");
        let mut health = Health::open(&plan(&(drops + &serves)), "lan0", END).await.unwrap();
        known(&mut health).await;

        daemons[0] = None;
        down(&mut health, 0).await;
        let both = [true; 2];
        assert_eq!((health.serving(0, &both), health.status(0, 1).unwrap().verdict), (vec![false, true], Verdict::Up));
        assert_eq!([0, 1].map(|server| health.status(0, server).unwrap().failing), [true, false]);

        daemons[1] = None;
        let all_down = |changes: &[Change], service| {
            changes.iter().filter(|c| c.service == service && matches!(c.what, What::AllDown(_))).count()
        };
        let changes = gather(&mut health, |_, all| [0, 1].iter().all(|service| all_down(all, *service) > 0)).await;
        let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!([all_down(&changes, 0), all_down(&changes, 1)], [1, 1], "{said:#?}");
        assert_eq!((health.serving(0, &both), health.serving(1, &both)), (vec![false; 2], vec![true; 2]));
        assert_eq!(health.serving(1, &[false, true]), [false, true], "not one that somebody has taken out");
        assert!(
            said.iter().any(|line| line.starts_with("service web6 has no server that is up: all of them serve")),
            "{said:#?}"
        );

        daemons[1] = Some(net.listen(1, "0.0.0.0:80", accept));
        until(&mut health, |change| change.service == 0 && change.what == What::NotAllDown).await;
        assert_eq!(health.serving(0, &both), [false, true]);
        let back = health.status(0, 1).unwrap();
        assert!(!back.failing && back.failure.is_some(), "it failed once, and does not fail now");
        health.close().await.unwrap();
    });
}

#[test]
fn a_flapping_server_is_held_down_and_said_to_be_flapping() {
    let Some(net) = Net::new(2) else { return };
    let _steady = net.listen(1, "0.0.0.0:80", accept);
    net.inside(async || {
        let text =
            net.service("web", V4, "type = 'tcp'\nport = 80\ninterval_ms = 50\ntimeout_ms = 40\nrise = 1\nfall = 1");
        let mut health = Health::open(&plan(&text), "lan0", END).await.unwrap();
        let mut last = None;
        for _ in 0..4 {
            let daemon = net.listen(0, "0.0.0.0:80", accept);
            until(&mut health, |c| matches!(c.what, What::Up { server: 0, .. })).await;
            drop(daemon);
            last = until(&mut health, |c| matches!(c.what, What::Down { server: 0, .. })).await.pop();
        }
        let said = last.unwrap().to_string();
        assert!(said.starts_with("server web1 of service web is down and flapping: "), "{said}");
        assert!(said.ends_with("; it is held down until 10 s have passed without a failure"), "{said}");
        let _daemon = net.listen(0, "0.0.0.0:80", accept);
        until(&mut health, |c| matches!(c.what, What::Held { server: 0, .. })).await;
        assert_eq!(during(&mut health, Duration::from_millis(500)).await, []);
        assert_eq!(health.serving(0, &[true; 2]), [false, true]);
        assert_eq!(health.serving(0, &[true, false]), [true, false], "there is no other");
        health.close().await.unwrap();
    });
}
