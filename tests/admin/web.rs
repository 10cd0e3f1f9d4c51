//! The page: what it is made of, what a browser is told, and what its documents say. (`tests/lab` has a browser look at it.)

use crate::fake::{Fake, Script, nothing};
use crate::http::{Reply, at, unix};
use crate::sample;
use oneip::admin;
use oneip::admin::finding::Grade;
use oneip::admin::order::{Answer, LookForTalkers, Order};
use oneip::admin::status::{ServerStatus, State, Status};
use oneip::admin::timeline::{Kind, Told};
use oneip::limits::{TALKERS_VIEW_EVERY, WEB_NAMED, WEB_ROWS};
use oneip::metrics::snapshot::Snapshot;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn get(fake: &Fake, path: &str) -> Reply {
    at(fake.web, "GET", path)
}

fn document(fake: &Fake, path: &str) -> Value {
    let reply = get(fake, path);
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    assert!(reply.head.contains("content-type: application/json"), "{}", reply.head);
    reply.json()
}

fn names(rows: &Value) -> Vec<&str> {
    rows["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

fn with(change: impl FnOnce(&mut Status)) -> Fake {
    let mut status = sample::status();
    change(&mut status);
    Fake::with(Script { status: Arc::new(Mutex::new(status)), ..Script::default() })
}

#[test]
fn the_page_is_of_this_process_alone_and_a_browser_is_told_so() {
    let fake = Fake::start();
    let page = get(&fake, "/");
    assert!(page.body.starts_with("<!doctype html>") && page.body.contains("/web/page.js"), "{}", page.body);
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let kinds = [
        ("/", "text/html; charset=utf-8"),
        ("/web/page.css", "text/css; charset=utf-8"),
        ("/web/page.js", "text/javascript; charset=utf-8"),
        ("/web/icon.svg", "image/svg+xml"),
        ("/web/now", "application/json"),
    ];
    for (path, kind) in kinds {
        let reply = get(&fake, path);
        assert_eq!(reply.status, 200, "{path}");
        for line in [
            policy,
            &format!("content-type: {kind}"),
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(reply.head.lines().any(|there| there == line), "{path} lacks {line}:\n{}", reply.head);
        }
        let elsewhere = reply.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{path} names another place");
    }
    for made in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "style="] {
        assert!(!include_str!("../../src/admin/web/page.js").contains(made), "{made}");
    }
    for inline in ["<style", " style=", " onclick=", "<script>", "javascript:"] {
        assert!(!page.body.contains(inline), "{inline}");
    }
}

#[test]
fn the_page_can_only_be_read() {
    let fake = Fake::start();
    let said = "not found; there is GET /, the page\n";
    for path in ["/status", "/order", "/metrics", "/web", "/web/page.html"] {
        let reply = get(&fake, path);
        assert_eq!((reply.status, reply.body.as_str()), (404, said), "{path}");
    }
    for path in ["/", "/web/now", "/web/service?name=web"] {
        let reply = at(fake.web, "POST", path);
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (405, "this method is not allowed; there is GET /, the page\n")
        );
    }
    assert_eq!(at(fake.metrics, "GET", "/").status, 404, "the metrics have a listener of their own");
    assert_eq!(unix(&fake.socket, "GET", "/web/now", "").status, 404);
    assert!(fake.orders().is_empty());
}

#[test]
fn one_listener_is_enough_for_the_page_and_the_metrics() {
    let fake = Fake::with(Script { web: "127.0.0.1:0".parse().unwrap(), ..Script::default() });
    assert_eq!(fake.web, fake.metrics);
    for path in ["/", "/web/now", "/metrics", "/readyz"] {
        assert_eq!(get(&fake, path).status, 200, "{path}");
    }
    assert!(!get(&fake, "/metrics").head.contains("content-security-policy"));
}

#[test]
fn it_says_how_the_process_is_and_what_was_dropped() {
    let fake = Fake::start();
    let now = document(&fake, "/web/now");
    assert_eq!((&now["head"]["mode"], &now["head"]["interface"]), (&json!("dispatcher"), &json!("eth1")));
    assert_eq!(now["services"], json!({"all": 2, "ok": 1, "warn": 1, "fail": 0}));
    assert_eq!(now["servers"], json!({"all": 5, "ok": 4, "warn": 1, "fail": 0}), "one drains");
    assert_eq!((&now["frames"], &now["forwarded"], &now["passed"]), (&json!(6167), &json!(6047), &json!(105)));
    let dropped: Vec<(&str, u64)> = now["dropped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| (of["reason"].as_str().unwrap(), of["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(dropped, [("no_service", 12), ("tx_full", 3)]);
    assert_eq!(now["workers"][1]["received"], 2062);
    assert_eq!(now["troubles"], json!([]));
    let (at, started) = (now["at"].as_f64().unwrap(), now["started"].as_f64().unwrap());
    assert!((at - started - 273_912.5).abs() < 30.0, "{at} {started}");
}

#[test]
fn the_members_of_the_group_are_shown() {
    assert_eq!(document(&with(|status| status.group = None), "/web/now")["head"]["group"], Value::Null);
    let fake = with(|status| status.group = Some(sample::group()));
    let group = &document(&fake, "/web/now")["head"]["group"];
    assert_eq!((&group["name"], &group["connected"], &group["queued"]), (&json!("edge"), &json!(false), &json!(2)));
    let living = group["living"].as_array().unwrap();
    let shown: Vec<_> = living.iter().map(|one| (one["member"].as_str().unwrap(), one["belongs"] == true)).collect();
    assert_eq!(shown, [("d1", true), ("d2", true), ("d3", false)]);
}

#[test]
fn what_is_wrong_is_said_first() {
    let fake = with(|status| {
        let web = &mut status.services[0].servers;
        web.iter_mut().for_each(|server| (server.state, server.why) = (State::Down, "connection refused".to_owned()));
        status.services.swap(0, 1);
    });
    let list = document(&fake, "/web/services");
    assert_eq!(names(&list), ["web", "dns"], "worst first, whatever the order of the configuration");
    let web = &list["rows"][0];
    assert_eq!((&web["grade"], &web["takes_clients"], &web["servers"]), (&json!("fail"), &json!(0), &json!(3)));
    let named = json!({"name": "web1", "state": "down", "why": "connection refused"});
    assert_eq!((&web["named"][0], web["named"].as_array().unwrap().len()), (&named, WEB_NAMED));
    let now = document(&fake, "/web/now");
    assert_eq!(now["troubles"], json!(["service web has no server that takes clients"]));
    assert_eq!(now["services"]["fail"], 1);
}

#[test]
fn thousands_of_services_come_page_by_page() {
    let fake = with(|status| {
        let like = status.services.remove(0);
        status.services = (0..3000)
            .map(|n| {
                let mut service = like.clone();
                service.name = format!("web-{n:04}");
                service.address = format!("203.0.{}.{}", n / 200, n % 200).parse().unwrap();
                service
            })
            .collect();
        status.services[2777].servers[1].state = State::Down;
    });
    let first = document(&fake, "/web/services");
    assert_eq!((&first["all"], &first["found"], &first["pages"]), (&json!(3000), &json!(3000), &json!(120)));
    assert_eq!((names(&first).len(), names(&first)[0]), (WEB_ROWS, "web-2777"));
    let last = document(&fake, "/web/services?page=120");
    assert_eq!(names(&last).last(), Some(&"web-2999"));
    assert_eq!(document(&fake, "/web/services?page=999")["page"], 120, "the last there is");
    let found = document(&fake, "/web/services?find=WEB-001");
    assert_eq!(names(&found), (10..20).map(|n| format!("web-{n:04}")).collect::<Vec<_>>());
    assert_eq!(names(&document(&fake, "/web/services?find=203.0.14.7&page=1"))[0], "web-2807");
    assert_eq!(names(&document(&fake, "/web/services?trouble=1")), ["web-2777"]);
    let none = document(&fake, "/web/services?find=%3Cimg%20onerror%3E");
    assert_eq!((&none["found"], &none["pages"], &none["page"]), (&json!(0), &json!(0), &json!(1)));
}

#[test]
fn servers_come_page_by_page_too() {
    let fake = with(|status| {
        status.services[0].servers = (0..130).map(|n| sample::server(&format!("s{n}"), n % 200)).collect();
        let server: &mut ServerStatus = &mut status.services[0].servers[127];
        (server.state, server.why) = (State::Held, "answers, but flaps".to_owned());
    });
    let servers = |query: &str| document(&fake, &format!("/web/service?name=web{query}"))["servers"].clone();
    assert_eq!(names(&servers("&page=6")), (125..130).map(|n| format!("s{n}")).collect::<Vec<_>>());
    assert_eq!(names(&servers("&trouble=1")), ["s127"]);
    assert_eq!(names(&servers("&find=held")), ["s127"]);
    assert_eq!(names(&servers("&find=192.0.2.21")), ["s10"]);
}

#[test]
fn a_service_has_shares_latency_and_checks() {
    let fake = Fake::start();
    let web = document(&fake, "/web/service?name=web");
    let server = &web["servers"]["rows"][1];
    assert_eq!((&server["name"], &server["state"], &server["frames"]), (&json!("web2"), &json!("up"), &json!(2000)));
    assert_eq!((&server["expected"], &server["slots"]), (&json!(0.3333), &json!(21_845)));
    assert_eq!(server["check"]["latency_ms"], 0.81);
    let since = server["since_s"].as_f64().unwrap();
    assert!((4242.0..4270.0).contains(&since), "as old as it is: {since}");
    let latency = &web["latency"];
    assert_eq!((&latency["run"]["count"], latency["bounds_ns"].as_array().unwrap().len()), (&json!(4), 21));
    assert_eq!(document(&fake, "/web/service?name=dns")["latency"], Value::Null, "nothing was timed");
    let reply = get(&fake, "/web/service?name=gone");
    assert_eq!((reply.status, reply.refused().as_str()), (404, "there is no service \"gone\""));
}

/// What comes after the first note is of the last minute.
#[test]
fn rates_shares_and_latencies_are_of_the_last_minute() {
    let script = Script::default();
    let figures = Arc::clone(&script.figures);
    let fake = Fake::with(script);
    eventually(|| !document(&fake, "/web/now")["minute"].as_array().unwrap().is_empty());
    let more = |snapshot: &mut Snapshot| {
        let servers = &mut snapshot.summary.servers;
        (servers[0].frames, servers[1].frames) = (servers[0].frames + 300, servers[1].frames + 100);
        snapshot.summary.forwarded += 400;
        Arc::make_mut(&mut snapshot.latency[0].1).saturating_record_n(3_000_000, 400);
    };
    more(figures.lock().unwrap().as_mut().unwrap());
    eventually(|| {
        let minute = document(&fake, "/web/now")["minute"].clone();
        minute.as_array().unwrap().iter().any(|point| point["forwarded"].as_f64().unwrap() > 100.0)
    });
    let web = document(&fake, "/web/service?name=web");
    let seen: Vec<f64> = (0..3).map(|at| web["servers"]["rows"][at]["seen"].as_f64().unwrap()).collect();
    assert_eq!(seen, [0.75, 0.25, 0.0]);
    assert!(web["service"]["frames_per_s"].as_f64().unwrap() > 1.0);
    let latency = &web["latency"];
    assert_eq!((&latency["p50_ns"], &latency["p999_ns"]), (&json!(4_096_000), &json!(4_096_000)), "below 4.096 ms");
    assert_eq!(latency["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 400);
    assert_eq!(latency["run"]["count"], 404);
    assert_eq!(web["service"]["p99_ns"], 4_096_000);
}

fn eventually(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it does not come true");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_happened_is_told_newest_first() {
    let fake = Fake::start();
    assert_eq!(document(&fake, "/web/events"), json!({"last": 0, "events": []}));
    let tell = |kind, grade, text| fake.timeline.tell(Told { kind, grade, text, mark: None });
    tell(Kind::Order, Grade::Ok, "server web1 drains");
    tell(Kind::Link, Grade::Fail, "eth1 is down");
    let told = document(&fake, "/web/events");
    let events = told["events"].as_array().unwrap();
    assert_eq!((&told["last"], &document(&fake, "/web/now")["last_event"]), (&json!(2), &json!(2)));
    let said = |event: &Value| {
        [&event["kind"], &event["grade"], &event["text"]].map(|field| field.as_str().unwrap().to_owned())
    };
    assert_eq!(said(&events[0]), ["link", "fail", "eth1 is down"]);
    assert_eq!(said(&events[1]), ["order", "ok", "server web1 drains"]);
    let new = document(&fake, "/web/events?after=1");
    assert_eq!(
        (&new["last"], new["events"].as_array().unwrap().len(), &new["events"][0]["number"]),
        (&json!(2), 1, &json!(2))
    );
}

/// However many look on, and wherever they do.
#[test]
fn who_sends_most_is_looked_for_once_for_all() {
    let fake = Fake::start();
    let nothing = json!({"talkers": null, "age_s": null, "error": null});
    assert_eq!(document(&fake, "/web/talkers"), nothing, "it does not wait for the look");
    eventually(|| document(&fake, "/web/talkers")["talkers"].is_object());
    let found = document(&fake, "/web/talkers");
    assert_eq!(found["talkers"], serde_json::to_value(sample::talkers()).unwrap());
    assert!(found["age_s"].as_f64().unwrap() < TALKERS_VIEW_EVERY.as_secs_f64(), "{found}");
    assert_eq!(unix(&fake.socket, "GET", "/talkers", "").json()["talkers"], found["talkers"]);
    let asked = Order::Talkers(LookForTalkers {
        for_ms: 1000,
        one_in: 1,
        prefix_v4: 32,
        prefix_v6: 64,
        most: 20,
        service: None,
        gives_way: true,
    });
    assert_eq!(fake.orders(), [asked]);
}

#[test]
fn why_nobody_could_look_is_said_beside_what_was_known() {
    let answer = |_: &Order| Some(Answer::Refused { error: "somebody captures frames at the moment".to_owned() });
    let fake = Fake::with(Script { answer, ..Script::default() });
    eventually(|| document(&fake, "/web/talkers")["error"] == "somebody captures frames at the moment");
    assert_eq!(document(&fake, "/web/talkers")["talkers"], Value::Null);
}

#[test]
fn a_query_that_is_wrong_is_refused() {
    let fake = Fake::start();
    for (path, said) in [
        ("/web/now?x=1", "unknown parameter `x`; there are none here"),
        ("/web/talkers?page=1", "unknown parameter `page`; there are none here"),
        ("/web/services?name=web", "unknown parameter `name`; there are find, trouble, page"),
        ("/web/service?name=web&trouble=yes", "`trouble` is 0 or 1, not \"yes\""),
        ("/web/events?after=x", "`after` is the number of an event, not \"x\""),
        ("/web/services?page=0", "`page` is a number from 1 on, not \"0\""),
    ] {
        let reply = get(&fake, path);
        assert_eq!((reply.status, reply.refused().as_str()), (400, said), "{path}");
    }
}

/// A page that is opened then says so, and not nothing.
#[test]
fn before_anything_is_known_it_says_that() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s.sock");
    let web = Some("127.0.0.1:0".parse().unwrap());
    let plan = oneip::model::Admin { socket, socket_given: true, web, ..Default::default() };
    let (backend, _asked) = admin::channel(nothing(), drop);
    let listeners = admin::bind(&plan).unwrap();
    let address = listeners.web().unwrap();
    let _server = listeners.start(backend).unwrap();
    assert_eq!(at(address, "GET", "/").status, 200, "the page itself is there");
    let reply = at(address, "GET", "/web/now");
    assert_eq!(reply.status, 503);
    assert_eq!(reply.refused(), "the control thread has not reported the state of the servers yet");
}
