//! `oneip simulate`: what it says of clients whose servers `lookup` tells one by one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::program::{CONFIG, Ended, Folder, ended, oneip};
use crate::replay::{capture, frame};

/// Clients, and how many requests each makes.
type Requests = BTreeMap<IpAddr, u64>;

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from(n.wrapping_mul(2_654_435_761)).into()
}

fn v6(n: u32) -> IpAddr {
    Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()
}

/// So many clients, some of them with more requests than others.
fn some(count: u32, client: fn(u32) -> IpAddr) -> Requests {
    (0..count).map(|n| (client(n), u64::from(n % 13 + 1))).collect()
}

fn list(requests: &Requests) -> String {
    let mut list = String::new();
    requests.iter().for_each(|(client, requests)| writeln!(list, "{client} {requests}").unwrap());
    list
}

fn simulate(folder: &Folder, options: &str, input: &str) -> Value {
    let out = folder.run_on("simulate", &format!("--clients - --json {options}"), input).done();
    serde_json::from_str(&out).unwrap()
}

/// The server of each client by `lookup`.
fn lookup(folder: &Folder, options: &str, requests: &Requests) -> BTreeMap<IpAddr, Option<String>> {
    let clients: String = requests.keys().map(|client| format!("{client}\n")).collect();
    let out = folder.run_on("lookup", &format!("--json {options}"), &clients).done();
    let answers: Vec<Value> = serde_json::from_str(&out).unwrap();
    let client = |answer: &Value| answer["client"].as_str().unwrap().parse().unwrap();
    answers.iter().map(|answer| (client(answer), answer["server"].as_str().map(str::to_owned))).collect()
}

fn load(clients: u64, requests: u64) -> Value {
    json!({ "clients": clients, "requests": requests })
}

/// What is moved between two answers of `lookup`: all, and by receiver, most clients first.
fn moved(
    requests: &Requests,
    before: &BTreeMap<IpAddr, Option<String>>,
    after: &BTreeMap<IpAddr, Option<String>>,
) -> (Value, Vec<Value>) {
    let (mut all, mut to) = ((0, 0), BTreeMap::<&str, (u64, u64)>::new());
    for (client, requests) in requests {
        if before[client] == after[client] {
            continue;
        }
        all = (all.0 + 1, all.1 + requests);
        if let Some(server) = &after[client] {
            let load = to.entry(server).or_default();
            *load = (load.0 + 1, load.1 + requests);
        }
    }
    let mut to: Vec<(&str, (u64, u64))> = to.into_iter().collect();
    to.sort_by_key(|(_, load)| std::cmp::Reverse(load.0));
    let to = to.iter().map(|(server, load)| json!({ "server": server, "clients": load.0, "requests": load.1 }));
    (load(all.0, all.1), to.collect())
}

#[test]
fn shares_and_moves_are_those_that_lookup_tells() {
    let folder = Folder::new();
    for (service, servers, requests) in [
        ("web", vec!["web1", "web2", "web3"], some(5000, v4)),
        ("plain", vec!["web1", "web2", "web3"], some(5000, v4)),
        ("web6", vec!["web1", "web3"], some(5000, v6)),
    ] {
        let report = simulate(&folder, &format!("--service {service}"), &list(&requests));
        let with = |down: &str| lookup(&folder, &format!("--service {service} {down}"), &requests);
        let before = with("");
        for (at, server) in servers.iter().enumerate() {
            let own = || requests.iter().filter(|(client, _)| before[*client].as_deref() == Some(server));
            let (clients, asked) = (own().count() as u64, own().map(|(_, requests)| requests).sum::<u64>());
            let share = &report["servers"][at];
            assert_eq!(
                (&share["server"], &share["clients"], &share["requests"]),
                (&json!(server), &json!(clients), &json!(asked))
            );

            let failure = &report["failures"][at];
            let (all, to) = moved(&requests, &before, &with(&format!("--down {server}")));
            assert_eq!(failure["servers"], json!([server]));
            assert_eq!((&failure["moved"], &failure["to"]), (&all, &json!(to)), "{service} without {server}");
            assert_eq!(failure["moved"], load(clients, asked), "its own clients, and no other's");
            assert_eq!(failure["healthy_moved"], load(0, 0));
            assert_eq!(report["drains"][at]["moved"], all, "a drain moves the same");
        }
        let pairs = report["pairs"]["each"].as_array().unwrap();
        assert_eq!(
            (pairs.len(), &report["pairs"]["of"]),
            (servers.len() * (servers.len() - 1) / 2, &json!(pairs.len()))
        );
        for pair in pairs {
            let names: Vec<&str> =
                pair["servers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            let (all, to) = moved(&requests, &before, &with(&format!("--down {} --down {}", names[0], names[1])));
            assert_eq!(
                (&pair["moved"], &pair["to"], &pair["healthy_moved"]),
                (&all, &json!(to), &load(0, 0)),
                "{names:?}"
            );
        }
    }
}

#[test]
fn an_added_server_takes_what_lookup_gives_it() {
    let server =
        "[[service.server]]\nname = \"web9\"\naddress = \"192.0.2.19\"\nmac = \"02:00:00:00:00:19\"\nweight = 2\n";
    let (head, rest) = CONFIG.split_at(CONFIG.find("[[service]]\nname = \"web6\"").unwrap());
    let (folder, grown) = (Folder::new(), Folder::with(&format!("{head}{server}\n{rest}")));
    let requests = some(5000, v4);
    let added = simulate(&folder, "--add-server web9:2", &list(&requests))["added"].take();
    let (before, after) = (lookup(&folder, "", &requests), lookup(&grown, "", &requests));
    let (all, to) = moved(&requests, &before, &after);
    assert_eq!((&added["servers"], &added["moved"]), (&json!(["web9"]), &all));
    assert_eq!((&added["to"][0], added["to"].as_array().unwrap().len()), (&to[0], to.len()));
    // 2 of 5 weights; a standard deviation is 35 clients.
    assert!((1800..2200).contains(&added["moved"]["clients"].as_u64().unwrap()), "{added}");
    let unnamed = simulate(&folder, "--service web6", &list(&some(10, v6)))["added"].take();
    assert_eq!(unnamed["servers"], json!(["(added)"]));
}

#[test]
fn uniform_clients_spread_as_chance_has_it() {
    const CLIENTS: u32 = 200_000;
    let mut clients = String::new();
    (0..CLIENTS).for_each(|n| writeln!(clients, "{}", v6(n)).unwrap());
    let report = simulate(&Folder::new(), "--service web6", &clients);
    assert_eq!(report["total"], load(CLIENTS.into(), CLIENTS.into()));
    for (at, ideal) in [0.25, 0.75].into_iter().enumerate() {
        let server = &report["servers"][at];
        assert_eq!(server["ideal_share"], ideal);
        // Five standard deviations of a binomial distribution, and half a slot of 1,009.
        let deviation = (ideal * (1.0 - ideal) / f64::from(CLIENTS)).sqrt();
        let share = server["clients_share"].as_f64().unwrap();
        assert!((share - ideal).abs() < 5.0 * deviation + 0.5 / 1009.0, "{server}");
    }
    let peak = report["peak_to_mean"]["clients"].as_f64().unwrap();
    let shares = [0, 1]
        .map(|at| &report["servers"][at])
        .map(|s| s["clients_share"].as_f64().unwrap() / s["ideal_share"].as_f64().unwrap());
    assert!((peak - shares[0].max(shares[1])).abs() < 1e-9 && (1.0..1.05).contains(&peak), "{peak}");
}

#[test]
fn modulo_moves_all_but_one_in_n() {
    // Consecutive addresses, so many that every pair of remainders comes equally often.
    let clients: String = (0..6000).map(|n| format!("{}\n", Ipv4Addr::from(0x0a00_0000 + n))).collect();
    let report = simulate(&Folder::new(), "", &clients);
    let modulo = &report["schemes"][1];
    assert_eq!((&modulo["scheme"], modulo["peak_to_mean"]["clients"].as_f64()), (&json!("modulo"), Some(1.0)));
    let near = |value: &Value, expected: f64| {
        assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value} is not {expected}")
    };
    near(&modulo["failure"]["moved_share"]["mean"], 2.0 / 3.0);
    near(&modulo["failure"]["moved_share"]["worst"], 2.0 / 3.0);
    near(&modulo["failure"]["healthy_moved_share"]["mean"], 0.5);
    near(&modulo["added"]["moved_share"]["mean"], 0.75);
}

#[test]
fn schemes_move_what_theory_says() {
    let mut config = String::from(
        "[cluster]\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\n[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n",
    );
    (1..=40)
        .for_each(|n| write!(config, "[[service.server]]\nname = \"web{n}\"\naddress = \"192.0.2.{n}\"\n").unwrap());
    let report = simulate(&Folder::with(&config), "", &list(&some(20_000, v4)));
    let names: Vec<&str> =
        report["schemes"].as_array().unwrap().iter().map(|s| s["scheme"].as_str().unwrap()).collect();
    assert_eq!(names, ["oneip", "modulo", "maglev", "rendezvous"]);
    for (at, healthy) in [(0, 0.0..=0.0), (1, 0.90..=1.0), (2, 0.001..=0.05), (3, 0.0..=0.0)] {
        for change in ["failure", "pair"] {
            let found = report["schemes"][at][change]["healthy_moved_share"]["mean"].as_f64().unwrap();
            assert!(healthy.contains(&found), "{} {change}: {found}", names[at]);
        }
        let added = report["schemes"][at]["added"]["moved_share"]["mean"].as_f64().unwrap();
        let least = 0.8 / 41.0;
        assert!(added > least && (at == 1) == (added > 0.5), "{}: {added}", names[at]);
    }
    assert_eq!((report["pairs"]["each"].as_array().unwrap().len(), &report["pairs"]["of"]), (496, &json!(780)));
    let failure = &report["failures"][0];
    assert_eq!((&failure["receivers"], failure["to"].as_array().unwrap().len()), (&json!(39), 20));
    // Survivors by weight: nobody gets more than a few of some 500.
    assert!(failure["to"][0]["clients"].as_u64().unwrap() < 50, "{failure}");
}

#[test]
fn one_client_may_be_most_of_it() {
    let folder = Folder::new();
    let mut requests = some(0, v4);
    requests.extend((0..1000).map(|n| (v4(n + 1), 1)));
    let nat: IpAddr = "198.51.100.7".parse().unwrap();
    requests.insert(nat, 9000);
    let report = simulate(&folder, "", &list(&requests));
    let server = lookup(&folder, "", &requests)[&nat].clone().unwrap();
    assert_eq!(report["heaviest"][0], json!({ "client": nat, "requests": 9000, "share": 0.9, "server": server }));
    assert_eq!(report["heaviest"].as_array().unwrap().len(), 10);
    assert!((report["heaviest_share"].as_f64().unwrap() - 0.9009).abs() < 1e-9);
    assert!(
        report["peak_to_mean"]["requests"].as_f64().unwrap() > 2.7
            && report["peak_to_mean"]["clients"].as_f64().unwrap() < 1.3
    );
    let said = folder.run_on("simulate", "--clients -", &list(&requests)).done();
    let finding = format!(
        "- 198.51.100.7 alone makes 90.00 % of the requests, more than any server's share (33.33 % at most): its server, {server}, gets them all"
    );
    assert!(said.contains(&finding), "{said}");
}

#[test]
fn every_form_is_known_by_its_content() {
    let folder = Folder::new();
    let rest = r#"- - [25/Nov/2026:18:00:00 +0000] "GET / HTTP/1.1" 200 2 "-" "curl/8""#;
    let list = "198.51.100.7\r\n198.51.100.8 3\n\n# a comment\n::ffff:198.51.100.7\n";
    let counted = "      2 198.51.100.7\n      3 198.51.100.8\n";
    let log = format!("198.51.100.7 {rest}\n{}::ffff:198.51.100.7 {rest}", format!("198.51.100.8 {rest}\n").repeat(3));
    let cluster = [203, 0, 113, 80];
    let client = |last: u8| frame(Ipv4Addr::new(198, 51, 100, last), cluster, 80);
    let mut tagged = client(8);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut later = client(9);
    later[21] = 7;
    let cut = client(8)[..40].to_vec();
    let others = [
        frame(Ipv4Addr::new(198, 51, 100, 9), cluster, 443),
        frame(Ipv4Addr::new(198, 51, 100, 9), [203, 0, 113, 99], 80),
        later,
        vec![0; 60],
    ];
    let frames = [client(7), client(8), client(7), tagged, cut].into_iter().chain(others);
    fs::write(folder.path("list"), list).unwrap();
    fs::write(folder.path("counted"), counted).unwrap();
    fs::write(folder.path("log"), &log).unwrap();
    fs::write(folder.path("capture"), capture(&frames.collect::<Vec<_>>())).unwrap();
    for (file, form, records, without) in
        [("list", "list", 3, 0), ("counted", "list", 2, 0), ("log", "log", 5, 0), ("capture", "capture", 9, 4)]
    {
        let json = |input: &str| -> Value {
            serde_json::from_str(&folder.run("simulate", &format!("--json --clients {input}")).done()).unwrap()
        };
        let mut report = json(file);
        let source = json!({ "file": file, "form": form, "records": records, "without_client": without, "first_without_client": null });
        assert_eq!(report["source"], source);
        assert_eq!(report["total"], load(2, 5), "{file}");
        let heaviest: Vec<(&Value, &Value)> =
            report["heaviest"].as_array().unwrap().iter().map(|heavy| (&heavy["client"], &heavy["requests"])).collect();
        assert_eq!(heaviest, [(&json!("198.51.100.8"), &json!(3)), (&json!("198.51.100.7"), &json!(2))], "{file}");

        let mut piped = folder.command("simulate", "--json --clients -");
        let piped = ended_on(piped.stdin(fs::File::open(folder.path(file)).unwrap())).done();
        report["source"]["file"] = json!("standard input");
        assert_eq!(serde_json::from_str::<Value>(&piped).unwrap(), report, "{file} on standard input");
    }
}

/// With standard input as it was set.
fn ended_on(command: &mut std::process::Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn lines_without_a_client_are_counted_and_the_first_is_shown() {
    let folder = Folder::new();
    let long = "x".repeat(100_000);
    let log = format!(
        "198.51.100.7 - -\n\nhost.example.org - - \"\u{1b}[2J\"\n198.51.100.8 {long}\n{long}\n2001:db8::1 - -\n- - -"
    );
    let report = simulate(&folder, "", &log);
    let first = json!({ "line": 3, "text": "host.example.org - - \"\u{fffd}[2J\"" });
    assert_eq!((&report["source"]["records"], &report["source"]["without_client"]), (&json!(6), &json!(3)));
    assert_eq!(report["source"]["first_without_client"], first);
    assert_eq!((&report["total"], &report["foreign"]), (&load(2, 2), &load(1, 1)));
    let said = folder.run_on("simulate", "--clients -", &log).done();
    assert!(
        said.contains("access log of 6 lines; 3 without a client's address, first line 3: `host.example.org"),
        "{said}"
    );
    assert!(said.contains("ignored: 1 requests of 1 clients of the other address family"), "{said}");
}

#[test]
fn what_cannot_be_simulated_is_said() {
    let folder = Folder::new();
    let forms = "understood are: an access log whose first field is the client's address (common or combined format); a list of \
                 addresses, one a line, also with a number of requests before or behind it; a capture of Ethernet frames (pcap or pcapng)\n";
    for (input, says) in [
        ("", format!("standard input: there is no line in it; {forms}")),
        ("\n \n", format!("standard input: there is no line in it; {forms}")),
        ("\nhost - -\nhost2 - -\n", format!("standard input: none of its 2 lines has a client's address (line 2: `host - -`); {forms}")),
        ("2001:db8::1\n", "service web is on 203.0.113.80, and all addresses of standard input are of the other family; choose another service with --service\n".to_owned()),
        ("BZh91AY", "standard input: it is compressed; unpack it: bzcat FILE | oneip simulate --clients - ...\n".to_owned()),
    ] {
        assert_eq!(folder.run_on("simulate", "--clients -", input).failed(), says);
    }
    fs::write(folder.path("capture"), capture(&[frame(Ipv4Addr::new(198, 51, 100, 7), [203, 0, 113, 99], 80)]))
        .unwrap();
    let said = folder.run("simulate", "--clients capture").failed();
    assert!(said.starts_with("capture: none of its 1 frames is to the cluster address 203.0.113.80 of service web and one of its ports; capture where"), "{said}");
    for (arguments, says) in [
        ("--clients nonesuch", "nonesuch: cannot be opened: "),
        ("--clients .", ".: cannot be read: "),
        ("--clients - --service nonesuch", "--service nonesuch: there is no such service; there are web, web6, plain"),
        ("--clients - --add-server web2", "--add-server web2: service web has a server of that name already"),
        ("--clients - --svg nonesuch/a.svg", "nonesuch/a.svg: cannot be written: "),
    ] {
        let said = folder.run_on("simulate", arguments, "198.51.100.7").failed();
        assert!(said.starts_with(says), "{arguments}: {said}");
    }
    let full = Folder::with(&CONFIG.replace("slots = 1009", "slots = 131"));
    let said = full.run("simulate", "--clients - --service web6 --add-server web9").failed();
    assert_eq!(said, "--add-server web9: service web6 has room for 2 servers\n");
    assert_eq!(simulate(&full, "--service web6", "2001:db8::1")["added"], Value::Null, "nobody asked for one");
    let none = Folder::with(
        &CONFIG.replace("name = \"web1\"", "weight = 0\nname = \"web1\"").replace("weight = 3", "weight = 0"),
    );
    let said = none.run("simulate", "--clients - --service web6");
    let error = "\nerror: no server of service web6 has a weight above 0: no server takes clients\n";
    assert!(said.code == Some(1) && said.out.is_empty() && said.err.ends_with(error), "{}", said.err);
}

#[test]
fn a_server_without_weight_and_the_last_one_are_told() {
    let folder = Folder::with(&CONFIG.replace("weight = 3", "weight = 0"));
    let report = simulate(&folder, "--service web6", "2001:db8::1\n2001:db8::2\n");
    let failures = report["failures"].as_array().unwrap();
    assert_eq!((failures.len(), &failures[0]["servers"], &failures[0]["nobody"]), (1, &json!(["web1"]), &load(2, 2)));
    assert_eq!(
        (&failures[0]["peak_to_mean"], &report["pairs"]["of"], &report["schemes"][0]["pair"]),
        (&Value::Null, &json!(0), &Value::Null)
    );
    assert_eq!(
        report["findings"],
        json!(["web1 is the only server that takes clients: when it fails, no server answers."])
    );
    let said = folder.run_on("simulate", "--service web6 --clients -", "2001:db8::1\n").done();
    assert!(said.contains("no server answers") && !said.contains("When two servers fail"), "{said}");
}

#[test]
fn the_json_has_its_keys() {
    let report = simulate(&Folder::new(), "", "198.51.100.7 3\n198.51.100.8\n");
    let keys = |value: &Value| -> String {
        value.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    let effect = "servers moved moved_share healthy_moved healthy_moved_share receivers to nobody peak_to_mean";
    for (value, expected) in [
        (
            &report,
            "service source total foreign findings servers peak_to_mean heaviest heaviest_share failures drains pairs added schemes",
        ),
        (&report["servers"][0], "server weight clients requests clients_share requests_share ideal_share"),
        (&report["failures"][0], effect),
        (&report["drains"][0], effect),
        (&report["pairs"], "of each"),
        (&report["pairs"]["each"][0], effect),
        (&report["added"], effect),
        (&report["failures"][0]["moved_share"], "clients requests"),
        (&report["schemes"][0], "scheme peak_to_mean failure pair added"),
        (&report["schemes"][0]["pair"], "moved_share healthy_moved_share peak_to_mean"),
        (&report["schemes"][0]["pair"]["peak_to_mean"], "mean worst worst_servers"),
    ] {
        assert_eq!(keys(value), expected);
    }
}

#[test]
fn people_read_the_findings_first() {
    let folder = Folder::new();
    let requests = some(5000, v4);
    let said = folder.run_on("simulate", "--clients -", &list(&requests)).done();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with(
            "service web: 34980 requests of 5000 clients, from standard input, list of addresses of 5000 lines"
        ),
        "{said}"
    );
    assert!(lines[2].starts_with("- When a server fails, its own clients move (33.33 % of all clients on average), and none of the other servers' clients. With modulo up to "), "{said}");
    assert!(lines[3].starts_with("- By clients, web") && lines[4].starts_with("- By requests, web"), "{said}");
    for heading in
        ["Clients per server", "The heaviest clients", "When a server fails", "When a server is added", "Comparison"]
    {
        assert!(lines.contains(&heading), "{heading}: {said}");
    }
    assert!(said.contains("When two servers fail (all 3 pairs): 66.67 % of the clients move"), "{said}");
    let report = simulate(&folder, "", &list(&requests));
    let web2 = lines.iter().find(|line| line.starts_with("web2")).unwrap().split_whitespace().collect::<Vec<_>>();
    let number = |key: &str| report["servers"][1][key].to_string();
    assert_eq!([web2[1], web2[4], web2[7]], ["1", &number("clients"), &number("requests")]);
    let flow = Folder::with(&CONFIG.replacen("ports =", "hash = \"flow\"\nports =", 1));
    let said = flow.run_on("simulate", "--clients -", "198.51.100.7\n").done();
    assert!(said.contains("\n- The service hashes flows, which spreads a client's connections"), "{said}");
}

#[test]
fn the_picture_is_xml_and_names_all_servers() {
    let mut config = String::from(
        "[cluster]\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\n[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n",
    );
    (1..=100).for_each(|n| {
        write!(config, "[[service.server]]\nname = \"a-rather-long-name-{n}\"\naddress = \"192.0.2.{n}\"\n").unwrap()
    });
    for (folder, service, servers) in [
        (Folder::new(), "web", vec!["web1".to_owned(), "web2".to_owned(), "web3".to_owned()]),
        (Folder::with(&config), "web", (1..=100).map(|n| format!("a-rather-long-name-{n}")).collect()),
    ] {
        let out = folder
            .run_on("simulate", &format!("--service {service} --clients - --svg a.svg"), &list(&some(2000, v4)))
            .done();
        assert!(out.starts_with("service web: "), "the table is printed as well");
        let svg = fs::read_to_string(folder.path("a.svg")).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        assert_eq!(document.root_element().tag_name().name(), "svg");
        let texts: Vec<&str> = document
            .descendants()
            .filter(|node| node.has_tag_name("text"))
            .filter_map(|node| node.text())
            .map(str::trim)
            .collect();
        for name in
            servers.iter().map(String::as_str).chain(["oneip", "modulo", "maglev", "rendezvous", "one server fails"])
        {
            assert!(texts.contains(&name), "{name} is not among {texts:?}");
        }
        // Two bars a server at least, and none drawn backwards.
        let bars: Vec<f64> = document
            .descendants()
            .filter(|node| node.has_tag_name("rect"))
            .map(|node| node.attribute("width").unwrap().parse().unwrap())
            .collect();
        assert!(bars.len() >= 2 * servers.len() && bars.iter().all(|width| *width > 0.0), "{bars:?}");
    }
}

#[test]
fn the_configuration_must_be_there() {
    let said = ended(&mut oneip("simulate -c nonesuch.toml --clients -"), "").failed();
    assert!(said.starts_with("nonesuch.toml"), "{said}");
}

/// What ECMP moves follows from its definition; whose server changes is what `lookup` tells.
#[test]
fn several_dispatchers_choose_alike_unless_they_disagree() {
    let folder = Folder::new();
    let requests = some(5000, v4);
    let near = |value: &Value, expected: f64, what: &str| {
        let value = value.as_f64().unwrap();
        assert!((value - expected).abs() < 0.01, "{what}: {value}, not {expected}");
    };
    let total: u64 = requests.values().sum();
    let before = lookup(&folder, "--service web", &requests);
    for count in [2u32, 3, 8] {
        let report = simulate(&folder, &format!("--service web --dispatchers {count}"), &list(&requests));
        let several = &report["dispatchers"];
        let one = 1.0 / f64::from(count);
        let shares = several["shares"].as_array().unwrap();
        assert_eq!((several["count"].as_u64(), shares.len()), (Some(count.into()), count as usize));
        shares.iter().for_each(|share| near(share, one, "a dispatcher's share"));
        // RFC 2992, section 3.1: with N next hops left, on average between a quarter and a half of the flows move; exactly, for each that dies.
        let n = f64::from(count);
        let needless = |dead: f64| {
            (0..count).map(f64::from).map(move |own| {
                let (low, high) = (own / n, (own + 1.0) / n);
                let heir = if own < dead { own } else { own - 1.0 };
                let stays = (high.min((heir + 1.0) / (n - 1.0)) - low.max(heir / (n - 1.0))).max(0.0);
                if own == dead { 0.0 } else { high - low - stays }
            })
        };
        let needlessly = (0..count).map(|dead| needless(dead.into()).sum::<f64>()).sum::<f64>() / n;
        near(&several["deaths"][0]["needlessly"], needlessly, "hash threshold, needlessly");
        near(&several["deaths"][0]["moved"], one + needlessly, "hash threshold");
        near(&several["deaths"][1]["moved"], one, "resilient");
        assert_eq!(several["deaths"][1]["needlessly"], json!(0.0));
        let deaths = several["deaths"].as_array().unwrap();
        assert!(deaths.iter().all(|death| death["another_server"] == json!(0.0)), "{deaths:?}");
        near(&several["another_key"], one * 2.0 / 3.0, "another key, three equal servers");
        for server in several["servers"].as_array().unwrap() {
            let name = server["server"].as_str().unwrap();
            let own = requests.iter().filter(|(client, _)| before[*client].as_deref() == Some(name));
            let own = own.map(|(_, requests)| requests).sum::<u64>() as f64 / total as f64;
            near(&server["one_sees_it_down"], own * one, "one sees it down");
            near(&server["remembered_while_it_drains"], own, "remembered");
        }
    }
    let text = folder.run_on("simulate", "--clients - --service web --dispatchers 3", &list(&requests)).done();
    assert!(
        text.contains("When one of 3 dispatchers fails") && text.contains("one dispatcher has another hash_key: "),
        "{text}"
    );
    for wrong in ["1", "65", "x"] {
        let Ended { code, .. } = folder.run_on("simulate", &format!("--clients - --dispatchers {wrong}"), "");
        assert_eq!(code, Some(2), "{wrong}");
    }
}
