//! What a start goes by: first verdicts, and what the state file says.

use super::{CONFIG, opened, places, states, web2, with_state_file};
use oneip::admin::status::State;
use oneip::config;
use oneip::control::membership::{Membership, Set, Side};
use oneip::control::state_file::StateFile;
use oneip::model::Plan;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;

/// The services of `CONFIG`, whose servers are on this host, and checked by connections.
fn checked(port: u16, health: &str) -> Plan {
    let health = format!("[service.health]\nport = {port}\nvia = \"primary\"\n{health}\n");
    let text = CONFIG.replacen("[[service.server]]", &format!("{health}[[service.server]]"), 1);
    let mut plan = config::parse(&text, "t.toml").unwrap().plan;
    for (server, address) in plan.services[0].servers.iter_mut().zip(["127.0.0.1", "127.0.0.2"]) {
        server.address = address.parse().unwrap();
    }
    plan
}

async fn open(plan: &Plan, file: &StateFile) -> Membership {
    Membership::open(plan.clone(), (Side::Dispatcher, "lo", None), &[], Some(file.clone())).await.unwrap()
}

/// What stands in the file, changed.
fn rewrite(file: &StateFile, change: impl FnOnce(&mut Value)) {
    let mut content = serde_json::from_str(&fs::read_to_string(file.path()).unwrap()).unwrap();
    change(&mut content);
    fs::write(file.path(), content.to_string()).unwrap();
}

/// It accepts connections and answers nobody: that takes its time to be found out.
#[test]
fn a_start_waits_for_first_verdicts_and_a_restart_knows_them() {
    with_state_file(|file| async move {
        let [good, hangs] = ["127.0.0.1", "127.0.0.2"].map(|address| TcpListener::bind((address, 0)).unwrap());
        let port = good.local_addr().unwrap().port();
        let hangs = TcpListener::bind(("127.0.0.2", port)).map(|same| (same, hangs)).unwrap();
        let answer = thread::spawn(move || {
            use std::io::{Read, Write};
            for mut stream in good.incoming().map_while(Result::ok) {
                let mut request = [0; 512];
                let Ok(length) = stream.read(&mut request) else { continue };
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                if request[..length].starts_with(b"END") {
                    return;
                }
            }
        });
        let health = format!(
            "[service.health]\ntype = \"http\"\nport = {port}\nvia = \"primary\"\ninterval_ms = 400\ntimeout_ms = 300\nfall = 3\n"
        );
        let text = CONFIG.replacen("[[service.server]]", &format!("{health}[[service.server]]"), 1);
        let mut plan = config::parse(&text, "t.toml").unwrap().plan;
        for (server, address) in plan.services[0].servers.iter_mut().zip(["127.0.0.1", "127.0.0.2"]) {
            server.address = address.parse().unwrap();
        }
        let open = || Membership::open(plan.clone(), (Side::Dispatcher, "lo", None), &[], Some(file.clone()));
        let mut first = open().await.unwrap();
        assert_eq!(states(&first), [(State::Up, 65_537), (State::Down, 0)], "nobody is sent to it");
        first.close().await;

        // The one that answered does not any more: it is not asked first.
        let mut stop = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::io::Write::write_all(&mut stop, b"END").unwrap();
        answer.join().unwrap();
        let mut second = open().await.unwrap();
        assert_eq!(states(&second), [(State::Up, 65_537), (State::Down, 0)], "as before, without a probe");
        let age = second.services()[0].servers[1].check.as_ref().unwrap().age_s;
        assert_eq!(age, None, "no probe has come to anything yet");
        second.close().await;
        drop(hangs);
    });
}

#[test]
fn verdicts_of_hours_ago_count_for_nothing() {
    with_state_file(|file| async move {
        let web1 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = web1.local_addr().unwrap().port();
        let plan = checked(port, "type = \"tcp\"\ninterval_ms = 400\nfall = 1\nrise = 5");
        let mut first = open(&plan, &file).await;
        assert_eq!(states(&first), [(State::Up, 65_537), (State::Down, 0)]);
        first.close().await;
        let _web2 = TcpListener::bind(("127.0.0.2", port)).unwrap();
        let mut second = open(&plan, &file).await;
        assert_eq!(states(&second)[1].0, State::Down, "a moment later it has to answer five times");
        second.close().await;
        rewrite(&file, |content| content["written"] = json!(content["written"].as_u64().unwrap() - 2 * 3600));
        let mut third = open(&plan, &file).await;
        assert_eq!(states(&third)[1].0, State::Up, "its first answer counts");
        third.close().await;
    });
}

/// It accepts connections, answers nobody, and has a minute for it.
#[test]
fn a_start_does_not_wait_for_ever_for_a_verdict() {
    with_state_file(|file| async move {
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = hangs.local_addr().unwrap().port();
        let plan = checked(port, "type = \"http\"\ninterval_ms = 60000\ntimeout_ms = 60000\nfall = 1");
        let mut membership = open(&plan, &file).await;
        assert_eq!(states(&membership)[0].0, State::Up, "until a check finds it down");
        membership.close().await;
    });
}

/// Another host, whose clocks count from another boot.
#[test]
fn a_standby_with_the_file_keeps_connections_where_they_are() {
    with_state_file(|file| async move {
        let plan = config::parse(CONFIG, "t.toml").unwrap().plan;
        let mut first = opened(&plan, &file).await;
        let _ = first.set("web2", None, Set::Drain(None), false).await;
        let draining = places(&first);
        assert!(draining.iter().any(|(_, keeps)| keeps.as_deref() == Some("web2")), "{draining:?}");
        first.close().await;
        let folder = tempfile::tempdir().unwrap();
        let there = StateFile::new(&folder.path().join("state.json"), Path::new("/etc/oneip.toml"));
        fs::copy(file.path(), there.path()).unwrap();
        rewrite(&there, |content| content["clocks"]["boot"] = json!("another"));
        let mut standby = opened(&plan, &there).await;
        assert_eq!(places(&standby), draining);
        assert_eq!(web2(&standby).0, State::Draining);
        standby.close().await;
    });
}
