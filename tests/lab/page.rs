//! The page of a dispatcher under traffic, as a browser shows it.

use crate::browser::Browser;
use crate::dispatcher::Dispatcher;
use crate::network::{CLUSTER, HEALTH, Lab, WEB, XDP, clients, eventually, with_health, write_config};
use std::fs;
use std::path::PathBuf;

const PAGE: &str = "http://127.0.0.1:9181/";

fn configured(lab: &Lab) -> PathBuf {
    let text = fs::read_to_string(lab.config()).unwrap();
    let text = text.replace("[admin]\n", "[admin]\nweb = \"127.0.0.1:9181\"\n");
    let config = lab.file("page.toml");
    write_config(&config, &with_health(&text, HEALTH));
    config
}

/// No browser needed: the documents of a real dispatcher, and what it noted.
#[test]
fn what_happens_to_a_dispatcher_is_on_its_timeline() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = configured(lab);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    let get = |path: &str| -> serde_json::Value {
        serde_json::from_str(&lab.sh("dispatcher", &format!("curl -sSf '{PAGE}web/{path}'"))).unwrap()
    };
    // The same of a server in several services is told of one of them.
    let told = |text: &str| {
        eventually(&format!("it is told: {text}"), || {
            let told = get("events").to_string();
            let told = ["echo6", "echo", "web6"]
                .iter()
                .fold(told, |told, name| told.replace(&format!("service {name} "), "service web "));
            told.contains(text)
        });
    };
    told("has started with 4 services");
    lab.ip("web2", &format!("address del {}/32 dev lo", CLUSTER[0]));
    told("server web2 of service web is down: ");
    lab.ctl(&["drain", "web1", "--timeout", "300"]);
    told("server web1 of 4 services (web, web6, echo, echo6) drains: no new clients");
    told("server web1 of service web is draining: by ctl drain; ");
    lab.ctl(&["undrain", "web1"]);
    lab.ip("web2", &format!("address add {}/32 dev lo", CLUSTER[0]));
    told("server web2 of service web is up");
    let text = fs::read_to_string(&config).unwrap();
    write_config(&config, &text.replace("[dispatcher]", "[dispatcher"));
    lab.ctl_refused(&["reload"]);
    told("reload: nothing was changed: ");
    lab.ip("lan", "link set dispatcher down");
    told("lan0 is down: nothing comes or goes there until its link is back");
    lab.ip("lan", "link set dispatcher up");
    told("lan0 is up");
    let events = get("events");
    let numbers: Vec<u64> =
        events["events"].as_array().unwrap().iter().map(|it| it["number"].as_u64().unwrap()).collect();
    assert_eq!(events["last"], numbers[0], "newest first: {events}");
    let drains =
        events["events"].as_array().unwrap().iter().find(|it| it["text"].as_str().unwrap().contains("is draining"));
    assert_eq!(drains.unwrap()["more_services"], 3, "the same in four services is one event");

    lab.fetch(0, &clients(0)[..40]);
    eventually("the page has rates, and shares of them", || {
        let web = get("service?name=web");
        let seen = web["servers"]["rows"].as_array().unwrap().iter().map(|server| server["seen"].as_f64());
        let sum: Option<f64> = seen.sum();
        sum.is_some_and(|sum| (sum - 1.0).abs() < 1e-9) && web["latency"]["p50_ns"].is_u64()
    });
    dispatcher.stop();
}

#[test]
fn a_browser_shows_the_page_on_a_phone_and_in_the_dark_and_through_a_restart() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = configured(lab);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    let Some(mut browser) = Browser::start(lab, "dispatcher") else { return };
    browser.resize(1280, 900);
    browser.prefer("light");
    browser.open(PAGE);
    browser.wait_for("live", "live as of");
    browser.wait_for("what", "dispatcher, engine xdp, on lan0 (link up)");
    browser.wait_for("services", "web6");
    lab.ip("web2", &format!("address del {}/32 dev lo", CLUSTER[0]));
    browser.wait_for("events", "server web2 of service");
    browser.wait_for("services", "web2 is down: ");
    browser.wait_for("tiles", "2 down");
    lab.fetch_within(2, 0, &clients(0)[..60]);
    browser.value("location.hash = '#service=web'");
    browser.wait_for("servers", "■ down");
    browser.wait_for("latency", "Since the start");

    // What was dropped, and the curves of the last minute: 92 is where nothing is.
    let _ = lab.curl(&clients(0)[0], &["--max-time", "2", "http://203.0.113.80:81/"]).output().unwrap();
    browser.wait_for("drops", "no_service");
    let highest = "[...document.querySelectorAll('#charts figure')].map(figure => Math.min(\
         ...[...figure.querySelectorAll('polyline')].flatMap(line => line.getAttribute('points').split(' ').map(point => +point.split(',')[1]))))";
    eventually("what is forwarded and dropped has a curve", || {
        let highest: Vec<f64> = serde_json::from_value(browser.value(highest)).unwrap_or_default();
        matches!(highest[..], [forwarded, dropped, _] if forwarded < 92.0 && dropped < 92.0)
    });

    // Nobody looks at frames before somebody wants to see who sends most.
    assert_eq!(browser.text("talkers"), "");
    browser.value("document.getElementById('talkers-title').click()");
    eventually("who sends most is shown", || {
        lab.fetch(0, &clients(0)[..4]);
        browser.text("talkers").contains(&clients(0)[0])
    });
    browser.wait_for("talkers-caption", "frames sampled in 1.0 s (all)");

    // What somebody has under the cursor, or selected, stays while figures change.
    browser.value("document.getElementById('find').focus(); window.row = document.querySelector('#services tr')");
    let frames = browser.text("process");
    eventually("it goes on", || browser.text("process") != frames);
    assert_eq!(browser.value("document.activeElement.id"), "find");
    assert_eq!(browser.value("window.row === document.querySelector('#services tr')"), true);

    // Text that looks like HTML is text.
    browser.value(
        "const find = document.getElementById('find'); find.value = '<img src=x onerror=\"window.broken=1\">'; \
         find.dispatchEvent(new Event('input'))",
    );
    browser.wait_for("services", "No service is like that.");
    browser.value("location.hash = '#service=' + encodeURIComponent('<img src=x onerror=\"window.broken=1\">')");
    browser.wait_for("notices", "There is no service <img src=x onerror=\"window.broken=1\">");
    assert_eq!(
        browser.value("[window.broken ?? null, document.querySelectorAll('img').length]"),
        serde_json::json!([null, 0])
    );
    browser.value("find.value = ''; find.dispatchEvent(new Event('input')); location.hash = '#service=web'");
    browser.wait_for("servers", "web3");

    let mut pictures = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        for (width, height) in [(1280, 2200), (360, 5200)] {
            browser.resize(width, height);
            let wide = browser.value("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(wide <= u64::from(width), "at {width} px it is {wide} px wide");
            pictures.push(browser.picture(&format!("page-{width}-{scheme}")));
        }
        let back = browser.value("getComputedStyle(document.body).backgroundColor");
        assert_eq!(back, ["rgb(255, 255, 255)", "rgb(20, 23, 26)"][usize::from(scheme == "dark")]);
    }
    assert!(pictures.iter().all(|png| png.starts_with(b"\x89PNG") && png.len() > 20_000));

    browser.resize(1280, 900);
    dispatcher.kill();
    browser.wait_for("live", "no answer");
    browser.wait_for("notices", "What is shown is from then.");
    assert!(browser.text("services").contains(WEB[1]), "it shows what it knew");
    browser.picture("page-stale");
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    browser.wait_for("notices", "The process started anew at");
    browser.wait_for("live", "live as of");
    browser.wait_for("events", "oneip");
    assert_eq!(browser.complaints, Vec::<String>::new());
    drop(browser);
    dispatcher.stop();
}
