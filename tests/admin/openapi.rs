//! The description of what is served over HTTP, against what is served.

use crate::description::Description;
use crate::fake::{self, Fake};
use crate::http::{self, Reply, unix};
use crate::sample;
use oneip::admin;
use oneip::model::Admin;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn description(fake: &Fake) -> Description {
    let reply = unix(&fake.socket, "GET", "/openapi.json", "");
    assert!(reply.status == 200 && reply.head.contains("content-type: application/json"), "{}", reply.head);
    Description::new(&reply.body)
}

/// Where a route is served.
fn ask(fake: &Fake, method: &str, path: &str, query: &str, body: &str) -> Reply {
    match path == "/" || path.starts_with("/web/") {
        true => http::at(fake.web, method, &format!("{path}{query}")),
        false => unix(&fake.socket, method, &format!("{path}{query}"), body),
    }
}

/// The paths in the source between these words and the next quotation mark.
fn paths(file: &str, before: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let found = text.split(before).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
    found.filter(|path| path.starts_with('/')).collect()
}

#[test]
fn it_has_every_route_and_no_other() {
    let fake = Fake::start();
    let description = description(&fake);
    assert_eq!(description.0["openapi"], "3.1.0");
    assert_eq!(description.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    let served = [
        paths("src/admin/routes.rs", ".route(\""),
        paths("src/admin/web/mod.rs", ".route(\""),
        paths("src/admin/web/mod.rs", "    (\""),
    ];
    let served: BTreeSet<String> = served.concat().into_iter().collect();
    let routes = description.routes();
    let documented: BTreeSet<String> = routes.iter().map(|(_, path)| path.clone()).collect();
    assert_eq!(documented, served);
    for (method, path) in routes {
        let other = if method == "GET" { "POST" } else { "GET" };
        assert_eq!(ask(&fake, other, &path, "", "").status, 405, "{other} {path} is not documented");
    }
}

#[test]
fn every_schema_is_one_and_every_reference_leads_somewhere() {
    let document = description(&Fake::start()).0;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        jsonschema::meta::validate(schema).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let text = document.to_string();
    let mut used = BTreeSet::new();
    for name in text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
        used.insert(name.to_owned());
    }
    let there: BTreeSet<String> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(used, there, "and none is for nothing");
}

#[test]
fn whatever_is_asked_is_answered_as_documented() {
    let script = crate::fake::Script::default();
    {
        // All that may be left out is there.
        let mut status = script.status.lock().unwrap();
        status.peers = sample::peers();
        status.group = Some(sample::group());
        status.findings =
            vec![oneip::admin::finding::Finding::warn("mtu", "it is small").mend("ip link set eth1 mtu 1500")];
        status.program = Some(oneip::admin::status::ProgramStatus { run_time_ns: 7, runs: 1 });
        let check = status.services[0].servers[0].check.as_mut().unwrap();
        (check.failure, check.failure_age_s) = (Some("no answer".to_owned()), Some(3.5));
        (check.unchecked, check.unchecked_s) = (Some("no route".to_owned()), Some(3.5));
    }
    let fake = Fake::with(script);
    let description = description(&fake);
    let queries = |path: &str| match path {
        "/lookup" => vec![
            "?client=198.51.100.7",
            "?client=198.51.100.7&service=web",
            "",
            "?client=x",
            "?client=198.51.100.7&service=mail",
        ],
        "/web/services" => vec!["", "?find=web&trouble=1&page=1", "?page=0"],
        "/web/service" => vec!["?name=web", "?name=mail", "?name=web&trouble=2"],
        "/web/events" => vec!["", "?after=1", "?after=x"],
        "/web/now" | "/web/talkers" => vec!["", "?x=1"],
        _ => vec![""],
    };
    for (method, path) in description.routes().into_iter().filter(|(method, _)| method == "GET") {
        let mut seen = BTreeSet::new();
        for query in queries(&path) {
            let reply = ask(&fake, &method, &path, query, "");
            let content = description.answer(&method, &path, reply.status);
            let kind = content.keys().next().unwrap();
            assert!(reply.head.contains(&format!("content-type: {kind}\r\n")), "{path}{query}: {}", reply.head);
            if kind == "application/json" {
                description.check(&method, &path, reply.status, &reply.body);
            }
            seen.insert(reply.status);
        }
        let refuses = queries(&path).len() > 1;
        assert!((seen.contains(&200) || path == "/readyz") && (!refuses || seen.contains(&400)), "{path}: {seen:?}");
    }
    let found = unix(&fake.socket, "GET", "/lookup?client=198.51.100.7&service=dns", "");
    let of_dns = json!([{"client": "198.51.100.7", "service": "dns", "hash": "0x0123456789abcdef", "slot": 291, "server": "ns1"}]);
    assert_eq!(found.json(), of_dns, "as `oneip lookup --json`");
    assert_eq!(unix(&fake.socket, "GET", "/lookup?client=%31%39%32.0.2.1", "").status, 200, "percent-encoded");
    let words = |query: &str| unix(&fake.socket, "GET", &format!("/lookup{query}"), "").refused();
    assert_eq!(words(""), "name a client, as /lookup?client=198.51.100.7");
    assert_eq!(words("?client=web"), "`client` is an IPv4 or IPv6 address, not \"web\"");
    assert_eq!(words("?address=1"), "unknown parameter `address`; there are client, service");
    let known = "service mail: 198.51.100.7 can be a client of these services: web, dns";
    assert_eq!(words("?client=198.51.100.7&service=mail"), known);
}

/// An example of each order at least, and of each of its fields.
const ORDERS: [&str; 27] = [
    r#"{"order":"status"}"#,
    r#"{"order":"reload","force":true,"dry_run":false}"#,
    r#"{"order":"publish","text":"[[service]]","force":true}"#,
    r#"{"order":"diff"}"#,
    r#"{"order":"diff","config":"/etc/oneip/next.toml"}"#,
    r#"{"order":"drain","server":"web1"}"#,
    r#"{"order":"drain","server":"web1","service":"web","timeout_s":30,"force":false}"#,
    r#"{"order":"undrain","server":"web1","service":null}"#,
    r#"{"order":"weight","server":"web1","weight":null,"force":true}"#,
    r#"{"order":"weight","server":"web1","service":"web","weight":3}"#,
    r#"{"order":"disable","server":"web1","service":"web","force":true}"#,
    r#"{"order":"enable","server":"web1","service":"web"}"#,
    r#"{"order":"withdraw","service":"web"}"#,
    r#"{"order":"announce","service":null}"#,
    r#"{"order":"deny","prefix":"198.51.100.0/24","service":"web","for_s":60}"#,
    r#"{"order":"undeny","prefix":"2001:db8::7","service":null}"#,
    r#"{"order":"denied"}"#,
    r#"{"order":"hand_over"}"#,
    r#"{"order":"group"}"#,
    r#"{"order":"local","inner":{"order":"drain","server":"web1"}}"#,
    r#"{"order":"trace","client":"198.51.100.7","watch_ms":10}"#,
    r#"{"order":"check_client","client":"198.51.100.7"}"#,
    r#"{"order":"check_client","client":"198.51.100.7","service":"web","port":40000}"#,
    r#"{"order":"check_client","client":"198.51.100.7","port":40000,"to":"tcp/443"}"#,
    r#"{"order":"talkers","for_ms":1000}"#,
    r#"{"order":"talkers","for_ms":1000,"one_in":64,"prefix_v4":24,"prefix_v6":48,"most":3,"service":"web","gives_way":true}"#,
    r#"{"order":"capture","client":null,"service":"web","server":"web1","where":"in","snap":64,"count":2,"seconds":5}"#,
];

#[test]
fn every_order_is_documented_and_answered_as_documented() {
    let fake = Fake::start();
    let description = description(&fake);
    let schema = &description.0["paths"]["/order"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    let mut asked = BTreeSet::new();
    for text in ORDERS {
        let order: Value = serde_json::from_str(text).unwrap();
        assert_eq!(description.wrong(schema, &order), [""; 0], "{text}");
        let reply = unix(&fake.socket, "POST", "/order", text);
        assert_eq!(reply.status, 200, "{text}: {reply:?}");
        match order["order"] == "capture" {
            true => assert!(reply.head.contains("content-type: application/x-pcapng"), "{}", reply.head),
            false => description.check("POST", "/order", 200, &reply.body),
        }
        asked.extend(order.as_object().unwrap().keys().map(|key| format!("{} {key}", order["order"])));
    }
    let schemas = description.0["components"]["schemas"].as_object().unwrap();
    let orders = schemas.iter().filter(|(name, _)| name.starts_with("Order") && *name != "Order");
    let documented = orders.flat_map(|(_, schema)| {
        let order = &schema["properties"]["order"]["const"];
        schema["properties"].as_object().unwrap().keys().map(move |key| format!("{order} {key}"))
    });
    assert_eq!(asked, documented.collect(), "every field of every order");
    for text in [
        r#"{"order":"fly"}"#,
        r#"{"order":"drain"}"#,
        r#"{"order":"undrain","server":"web1","force":true}"#,
        r#"{"order":"status","verbose":true}"#,
        r#"{"order":"group","verbose":true}"#,
        r#"{"order":"local","inner":{"order":"drain","server":"web1","verbose":true}}"#,
        r#"{"order":"trace","client":"198.51.100.7","watch_ms":60001}"#,
        r#"{"order":"capture","snap":9217}"#,
        r#"{"order":"capture","where":"up"}"#,
        r#"{"order":"check_client","client":"198.51.100.7","port":65536}"#,
        r#"{"order":"check_client","client":"198.51.100.7","port":1,"to":"443"}"#,
        r#"{"order":"talkers"}"#,
        r#"{"order":"talkers","for_ms":60001}"#,
    ] {
        let reply = unix(&fake.socket, "POST", "/order", text);
        assert_eq!(reply.status, 400, "{text}: {reply:?}");
        description.check("POST", "/order", 400, &reply.body);
        assert!(!description.wrong(schema, &serde_json::from_str(text).unwrap()).is_empty(), "{text}");
    }
    let refused = unix(&fake.socket, "POST", "/order", r#"{"order":"drain","server":"nobody"}"#);
    description.check("POST", "/order", refused.status, &refused.body);
    let long = unix(&fake.socket, "POST", "/order", &format!("\"{}\"", "x".repeat(oneip::limits::ADMIN_BODY)));
    description.check("POST", "/order", long.status, &long.body);
}

#[test]
fn a_process_that_cannot_answer_says_so_as_documented() {
    let description = description(&Fake::start());
    let folder = tempfile::tempdir().unwrap();
    let plan = Admin { socket: folder.path().join("s.sock"), socket_given: true, ..Admin::default() };
    let (backend, asked) = admin::channel(fake::nothing(), drop);
    drop(asked);
    let _server = admin::bind(&plan).unwrap().start(backend).unwrap();
    for (method, path, query, body) in
        [("GET", "/lookup", "?client=198.51.100.7", ""), ("POST", "/order", "", r#"{"order":"denied"}"#)]
    {
        let reply = unix(&plan.socket, method, &format!("{path}{query}"), body);
        assert_eq!(reply.status, 503, "{path}");
        description.check(method, path, 503, &reply.body);
    }
}
