//! Every message of the configuration, where it stands and what it says; and what a correct file becomes.

mod dpdk;

use oneip::config::{self, Loaded};
use oneip::model::{
    Admin, AllDown, Decap, Deliver, Dispatcher, Engine, HashInput, HashKey, Health, Http, Idle, Mac, PINS, Plan, Port,
    Probe, Queues, Selection, Server, Service, Tags, Transport, Via,
};
use proptest::prelude::*;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Correct and without a warning; the records below each change something.
const VALID: &str = r#"[cluster]
hash_key = "8f3a1c5e7b9d2046a1b3c5d7e9f00112"

[dispatcher]
interface = "eth1"
engine = "af_xdp"
cores = [2, 3]

[[service]]
name = "web"
address = "203.0.113.80"
ports = ["tcp/80", "udp/443"]
hash = "source"
selection = "maglev"
slots = 65537

[[service.server]]
name = "web1"
address = "192.0.2.11"
mac = "02:00:00:00:00:11"
weight = 1

[[service.server]]
name = "web2"
address = "192.0.2.12"
"#;

/// What is said of a text: the errors, or the warnings.
fn said_of(text: &str) -> Vec<String> {
    match config::parse(text, "t.toml") {
        Ok(Loaded { warnings, .. }) => warnings.iter().map(|warning| format!("warning {warning}")).collect(),
        Err(errors) => {
            errors.to_string().lines().filter(|line| !line.ends_with(" problems")).map(str::to_owned).collect()
        }
    }
}

/// One record of tests/data/config-messages.txt.
#[derive(Default)]
struct Record<'t> {
    line: usize,
    old: Vec<&'t str>,
    new: Vec<&'t str>,
    whole: Option<Vec<&'t str>>,
    said: Vec<&'t str>,
}

impl Record<'_> {
    fn text(&self) -> String {
        if let Some(whole) = &self.whole {
            return whole.join("\n");
        }
        let (old, new) = (self.old.join("\n"), self.new.join("\n"));
        if old.is_empty() {
            return format!("{VALID}\n{new}\n");
        }
        assert!(VALID.contains(&old), "record of line {}: {old}", self.line);
        VALID.replacen(&old, &new, 1)
    }
}

fn records(text: &str) -> Vec<Record<'_>> {
    let mut records = vec![Record::default()];
    for (i, line) in text.lines().enumerate() {
        let (mark, rest) = line.split_at(line.len().min(1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let record = records.last_mut().unwrap();
        match mark {
            "-" => record.old.push(rest),
            "+" => record.new.push(rest),
            "=" => record.whole.get_or_insert_default().push(rest),
            ">" => record.said.push(rest),
            "" => records.push(Record { line: i + 2, ..Record::default() }),
            "#" => {}
            _ => panic!("line {}: {line}", i + 1),
        }
    }
    records.retain(|record| !record.new.is_empty() || !record.old.is_empty() || record.whole.is_some());
    records
}

#[test]
fn every_message_stands_where_the_mistake_is() {
    let records = records(include_str!("../data/config-messages.txt"));
    assert!(records.len() > 100);
    for record in records {
        let text = record.text();
        let said: Vec<_> = said_of(&text).iter().map(|line| line.replacen("t.toml:", "", 1)).collect();
        assert_eq!(said, record.said, "record of line {}\n{text}", record.line);
    }
}

fn loaded(text: &str) -> Loaded {
    config::parse(text, "t.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_example_of_the_interface_becomes_its_plan() {
    let text = r#"
[cluster]
hash_key = "00112233445566778899aabbccddeeff"   # secret, 16 bytes; the same on every dispatcher and filter

[dispatcher]
interface = "eth1"            # clients' frames arrive and leave here
engine = "af_xdp"             # af_xdp (default) | xdp | dpdk | auto
cores = [2, 3]                # one worker per queue; default: the cores near the NIC

[[service]]
name = "web"
address = "203.0.113.80"      # the cluster address, IPv4 or IPv6
ports = ["tcp/80", "tcp/443", "udp/443"]    # absent: every protocol and port
hash = "source"               # source (default) | flow
selection = "maglev"          # maglev (default) | modulo
slots = 65537

[[service.server]]
name = "web1"
address = "192.0.2.11"        # primary address
mac = "02:00:00:00:00:11"     # optional: else resolved from the neighbour table
weight = 1                    # default 1; 0 = configured but takes no clients
"#;
    let port = |transport, number| Port { transport, number };
    let server = Server {
        name: "web1".into(),
        address: "192.0.2.11".parse().unwrap(),
        mac: Some(Mac([2, 0, 0, 0, 0, 0x11])),
        weight: 1,
        tags: Tags::AsReceived,
        quic_ids: Vec::new(),
    };
    let service = Service {
        name: "web".into(),
        address: "203.0.113.80".parse().unwrap(),
        prefixes: Vec::new(),
        ports: vec![port(Transport::Tcp, 80), port(Transport::Tcp, 443), port(Transport::Udp, 443)],
        hash: HashInput::Source,
        deliver: Deliver::L2,
        selection: Selection::Maglev,
        slots: 65537,
        drain: Duration::from_secs(600),
        servers: vec![server],
        until_closed: false,
        second_chance: false,
        leaving: 0,
        withdrawn: false,
        health: None,
        limit: None,
        quic: Vec::new(),
    };
    let plan = Plan {
        hash_key: HashKey(std::array::from_fn(|i| i as u8 * 0x11)),
        dispatcher: Some(Dispatcher {
            interface: "eth1".into(),
            others: Vec::new(),
            queues: vec![Queues::default()],
            engine: Engine::AfXdp,
            cores: Some(vec![2, 3]),
            flows: 1 << 20,
            heartbeat: Duration::from_millis(100),
            xdp: None,
            pins: PINS.into(),
            dpdk: None,
            source: Vec::new(),
            mtu: None,
            gateway_mac: None,
            limit_sources: 65_536,
            idle: Idle::Poll,
        }),
        filter: None,
        decap: Decap::default(),
        admin: Admin::default(),
        announce: None,
        group: None,
        lists: Vec::new(),
        odd_limit: None,
        services: vec![service],
    };
    assert_eq!(loaded(text).plan, plan);
}

#[test]
fn absent_keys_have_their_defaults() {
    let text = "[cluster]\nhash_key = '8F3A1C5E7B9D2046A1B3C5D7E9F00112'\n\
                [[service]]\nname = 'a'\naddress = '2001:db8::80'\n[[service.server]]\nname = 'b'\naddress = '192.0.2.1'\n";
    let Loaded { plan, warnings } = loaded(text);
    assert_eq!((plan.hash_key.0[0], plan.hash_key.0[15]), (0x8f, 0x12));
    assert_eq!((plan.dispatcher, warnings), (None, vec![]));
    let service = &plan.services[0];
    assert_eq!((service.hash, service.selection, service.slots), (HashInput::Source, Selection::Maglev, 65537));
    assert_eq!((&service.ports[..], service.servers[0].mac, service.servers[0].weight), (&[][..], None, 1));
    let dispatcher = loaded(&format!("[dispatcher]\ninterface = 'eth1'\n{text}")).plan.dispatcher.unwrap();
    assert_eq!((dispatcher.engine, dispatcher.cores), (Engine::AfXdp, None));
    let (socket, state) = ("/run/oneip/oneip.sock".into(), "/var/lib/oneip/oneip.json".into());
    let admin = Admin { socket, socket_given: false, metrics: None, web: None, state };
    assert_eq!(plan.admin, admin);
}

#[test]
fn the_admin_section_becomes_its_plan() {
    let admin = |keys: &str| config::parse(&format!("{VALID}[admin]\n{keys}"), "/etc/oneip/t.toml").unwrap().plan.admin;
    assert_eq!(admin(""), Admin::default());
    let expected = Admin {
        socket: "/run/oneip/east.sock".into(),
        socket_given: true,
        metrics: Some("[::1]:9180".parse().unwrap()),
        web: Some("127.0.0.1:9181".parse().unwrap()),
        state: "/var/lib/oneip/east.json".into(),
    };
    assert_eq!(admin("socket = '/run/oneip/east.sock'\nmetrics = '[::1]:9180'\nweb = '127.0.0.1:9181'"), expected);
    assert!(admin("socket = '/run/oneip/oneip.sock'").socket_given, "named, though it is the default");
    let relative = admin("socket = 'a.sock'\nstate = 'keep/state'");
    assert_eq!(relative.socket, Path::new("/etc/oneip/a.sock"));
    assert_eq!(relative.state, Path::new("/etc/oneip/keep/state"), "as the key file, from the directory of the file");
}

#[test]
fn what_a_change_keeps_is_configured() {
    let plan = loaded(&VALID.replace("cores = [2, 3]", "flows = 0").replace("slots = 65537", "drain_s = 604800")).plan;
    assert_eq!((plan.dispatcher.unwrap().flows, plan.services[0].drain), (0, Duration::from_secs(604_800)));
    for (drain, until_closed) in [("until-closed", true), ("time-limited", false)] {
        let plan = loaded(&VALID.replace("slots = 65537", &format!("drain = \"{drain}\""))).plan;
        assert_eq!((plan.services[0].until_closed, plan.services[0].drain), (until_closed, Duration::from_secs(600)));
    }
}

#[test]
fn a_health_section_becomes_its_plan_and_absent_keys_have_their_defaults() {
    let health =
        |keys: &str| loaded(&format!("{VALID}[service.health]\n{keys}")).plan.services[0].health.clone().unwrap();
    let ms = Duration::from_millis;
    let default = Health {
        probe: Probe::Tcp { port: 80 },
        via: Via::Service,
        interval: ms(1000),
        timeout: ms(500),
        rise: 2,
        fall: 3,
        all_down: AllDown::Drop,
    };
    assert_eq!(health("type = 'tcp'"), default);
    assert_eq!(health("type = 'icmp'"), Health { probe: Probe::Icmp, ..default.clone() });
    assert_eq!(health("type = 'tcp'\ninterval_ms = 200").timeout, ms(200), "not longer than the interval");
    let http = Http { tls: false, port: 80, host: None, path: "/".into(), expect: vec![200..=399] };
    assert_eq!(health("type = 'http'"), Health { probe: Probe::Http(http), ..default });
    let keys = "type = 'https'\nport = 8443\npath = '/healthz?full=1'\nexpect_status = [204, '300-302']\nhost = 'www.example.org'\n\
                interval_ms = 250\ntimeout_ms = 250\nrise = 1\nfall = 5\nvia = 'primary'\nall_down = 'serve'";
    let http = Http {
        tls: true,
        port: 8443,
        host: Some("www.example.org".into()),
        path: "/healthz?full=1".into(),
        expect: vec![204..=204, 300..=302],
    };
    let expected = Health {
        probe: Probe::Http(http),
        via: Via::Primary,
        interval: ms(250),
        timeout: ms(250),
        rise: 1,
        fall: 5,
        all_down: AllDown::Serve,
    };
    assert_eq!(health(keys), expected);
    assert_eq!(
        expected.to_string(),
        "https GET /healthz?full=1 on port 8443, at the primary address, every 250 ms, timeout 250 ms, rise 1, fall 5; \
         with all servers down, all serve"
    );
}

#[test]
fn a_byte_order_mark_and_carriage_returns_change_no_position() {
    let text = format!("\u{feff}{}", VALID.replace('\n', "\r\n"));
    assert_eq!(loaded(&text).plan, loaded(VALID).plan);
    let text = text.replace("weight = 1", "weigth = 1").replace("[cluster]", "[clutser]");
    let said = said_of(&text);
    assert!(said[0].starts_with("t.toml:1:1: the configuration lacks `cluster`"), "{said:?}");
    assert!(said[1].starts_with("t.toml:1:2: unknown key `clutser`"), "{said:?}");
    assert!(said[2].starts_with("t.toml:21:1: unknown key `weigth`"), "{said:?}");
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_file() {
    let mut text = VALID.to_owned();
    for (old, new) in [
        ("9f00112\"", "\""),
        ("interface = \"eth1\"", "interfaces = \"eth1\""),
        ("cores = [2, 3]", "cores = [2, 2]"),
        ("203.0.113.80", "203.0.113.80/24"),
        ("tcp/80", "tcp/0"),
        ("65537", "65536"),
        ("02:00:00:00:00:11", "2:0:0:0:0:11"),
        ("weight = 1", "weight = \"1\""),
        ("web2", "web1"),
    ] {
        assert!(text.contains(old), "{old}");
        text = text.replacen(old, new, 1);
    }
    let Err(errors) = config::parse(&text, "dir/t.toml") else { panic!("accepted") };
    let lines: Vec<_> = errors.to_string().lines().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    let positions = ["2:12", "4:1", "5:1", "7:13", "11:11", "12:10", "15:9", "20:7", "21:10", "24:8"];
    let expected = positions.map(|position| format!("dir/t.toml:{position}"));
    assert_eq!(lines[0], "dir/t.toml");
    assert_eq!(lines[1..], expected);
}

#[test]
fn the_numbers_of_services_and_servers_are_bounded() {
    let server =
        |i: usize| format!("[[service.server]]\nname = 's{i}'\naddress = '10.0.{}.{}'\n", i / 250, i % 250 + 1);
    let service = |i: usize| format!("[[service]]\nname = 'v{i}'\naddress = '10.1.{}.{}'\n", i / 250, i % 250 + 1);
    let cluster = "[cluster]\nhash_key = '8F3A1C5E7B9D2046A1B3C5D7E9F00112'\n";
    let with_servers = |count| format!("{cluster}{}{}", service(0), (0..count).map(server).collect::<String>());
    assert_eq!(loaded(&with_servers(655)).plan.services[0].slots, 65537);
    assert_eq!(loaded(&with_servers(1024)).plan.services[0].slots, 65537, "a server more never changes it");
    assert_eq!(said_of(&with_servers(1025)), ["t.toml:3078:1: 1025 of [[service.server]]; at most 1024 are possible"]);
    let with_services = |count| format!("{cluster}{}", (0..count).map(|i| service(i) + &server(i)).collect::<String>());
    assert_eq!(loaded(&with_services(4096)).plan.services.len(), 4096);
    assert_eq!(said_of(&with_services(4097)), ["t.toml:24579:1: 4097 of [[service]]; at most 4096 are possible"]);
}

#[test]
fn a_file_with_every_service_there_can_be_is_read_and_each_mistake_in_it_told() {
    let mut text = VALID.to_owned();
    for i in 0..4095 {
        let (high, low) = (i / 250, i % 250 + 1);
        write!(text, "[[service]]\nname = 'v{i}'\naddress = '10.0.{high}.{low}'\nports = ['tcp/80', 'udp/53']\n")
            .unwrap();
        for s in 0..8 {
            write!(text, "[[service.server]]\nname = 's{i}-{s}'\naddress = '10.{}.{high}.{low}'\nmac = '02:00:00:00:00:{s:02x}'\n", s + 1).unwrap();
        }
    }
    assert_eq!(loaded(&text).plan.services.len(), 4096);
    assert_eq!(said_of(&text.replace("udp/53", "udp/0")).len(), 4095);
}

#[test]
fn no_message_shows_any_part_of_the_hash_key() {
    let key = "8f3a1c5e7b9d2046a1b3c5d7e9f00112";
    let lines = [
        format!("hash_key = \"{key}0\""),
        format!("hash_key = {key}"),
        format!("hash_key = \"{key}"),
        format!("hash_key = [\"{key}\"]"),
        format!("hash_key = \"{}-{}\"", &key[..16], &key[16..]),
        format!("hash_key_file = \"{key}\""),
        format!("hashkey = \"{key}\""),
        format!("hash_key = \"{key}\"\nhash_key = \"{key}\""),
    ];
    for line in lines {
        let text = VALID.replace(&format!("hash_key = \"{key}\""), &line);
        let said = said_of(&text).join("\n");
        assert!(!said.is_empty(), "{line}");
        assert!((0..=28).all(|at| !said.contains(&key[at..at + 4])), "{said}");
    }
}

#[test]
fn the_hash_key_may_stand_in_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (config, key) = (directory.path().join("t.toml"), directory.path().join("key"));
    fs::write(&config, VALID.replace("hash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"", "hash_key_file = \"key\""))
        .unwrap();
    let said = |content: &[u8], mode| {
        fs::write(&key, content).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let said = match config::load(&config) {
            Ok(Loaded { plan, warnings }) => {
                assert_eq!(plan, loaded(VALID).plan);
                warnings.iter().map(|warning| format!("warning {warning}")).collect()
            }
            Err(errors) => errors.to_string(),
        };
        said.replace(&directory.path().display().to_string(), "DIR")
    };
    let right = b" 8f3a1c5e7b9d2046a1b3c5d7e9f00112\n";
    let file = "DIR/t.toml:2:17: the key file \"DIR/key\"";
    assert_eq!(said(right, 0o640), "");
    assert_eq!(
        said(right, 0o604),
        format!(
            "warning DIR/t.toml:2:17: every user of this machine can read the key file \"DIR/key\"; run `chmod o-rwx` on it"
        )
    );
    assert_eq!(
        said(b"8f3a\n", 0o600),
        format!("{file} has 4 hex digits; 32 are needed, for example from `openssl rand -hex 16`")
    );
    assert_eq!(
        said(b"\xff\xfe8f", 0o600),
        format!(
            "{file} has 2 hex digits and 2 other characters; 32 are needed, for example from `openssl rand -hex 16`"
        )
    );
    assert_eq!(
        said(&[b'0'; 2000], 0o600),
        format!("{file} is longer than 1024 bytes, the limit; is it the right file?")
    );
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    let error = config::load(&config).unwrap_err().to_string();
    assert!(error.ends_with("is a directory; name a regular file"), "{error}");
}

#[test]
fn the_files_of_a_group_are_read_and_what_is_wrong_with_them_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let d = directory.path();
    let made = std::process::Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=nobody -keyout key -out crt".split(' '))
        .current_dir(d)
        .output();
    assert!(made.expect("openssl runs").status.success());
    fs::write(d.join("password"), "s3cret word\n").unwrap();
    fs::write(d.join("two"), "two\nlines\n").unwrap();
    let mode = |file: &str, mode| fs::set_permissions(d.join(file), fs::Permissions::from_mode(mode)).unwrap();
    ["key", "password"].iter().for_each(|file| mode(file, 0o600));
    let said = |group: &str| {
        let text = format!(
            "{VALID}\n[group]\nname = \"edge\"\netcd = [\"https://192.0.2.51:2379\"]\nmember = \"d1\"\n{group}"
        );
        match config::parse(&text, d.join("t.toml")) {
            Ok(Loaded { plan, warnings }) => {
                let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
                (plan.group, said.join("\n"))
            }
            Err(errors) => (None, errors.to_string()),
        }
    };
    let (group, warned) = said(
        "ca_file = \"crt\"\ncert_file = \"crt\"\nkey_file = \"key\"\nuser = \"oneip\"\npassword_file = \"password\"",
    );
    assert_eq!(warned, "");
    let group = group.expect("a group");
    assert_eq!((group.name.as_str(), group.member.as_str()), ("edge", "d1"));
    let (user, password) = group.user.clone().expect("a user");
    assert_eq!((user.as_str(), password.0.as_slice()), ("oneip", b"s3cret word".as_slice()));
    assert_eq!(group.identity.as_ref().expect("an identity").1.0, fs::read(d.join("key")).unwrap());
    let shown = format!("{group:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("PRIVATE"), "{shown}");
    for (wrong, told) in [
        ("ca_file = \"key\"", "holds no certificate in PEM; it begins with -----BEGIN CERTIFICATE-----"),
        ("ca_file = \"none\"", "cannot be read: No such file or directory"),
        (
            "ca_file = \"crt\"\ncert_file = \"crt\"\nkey_file = \"crt\"",
            "holds no private key in PEM without a passphrase",
        ),
        (
            "ca_file = \"crt\"\ncert_file = \"crt\"",
            "`cert_file` needs `key_file` too; write key_file = \"etcd-client.key\"",
        ),
        ("ca_file = \"crt\"\npassword_file = \"password\"", "`password_file` needs `user` too; write user = \"oneip\""),
        ("ca_file = \"crt\"\nuser = \"oneip\"\npassword_file = \"two\"", "does not hold one line of text"),
    ] {
        let (group, errors) = said(wrong);
        assert!(group.is_none() && errors.contains(told), "{wrong}: {errors}");
        assert!(!errors.contains("s3cret"), "{errors}");
    }
    mode("key", 0o644);
    mode("password", 0o604);
    let (_, warned) = said(
        "ca_file = \"crt\"\ncert_file = \"crt\"\nkey_file = \"key\"\nuser = \"oneip\"\npassword_file = \"password\"",
    );
    let told: Vec<&str> = warned.lines().collect();
    assert!(told.len() == 2 && told[0].contains("every user of this machine can read the `key_file`"), "{warned}");
    assert!(
        told[1].contains("can read the `password_file`") && told[1].ends_with("run `chmod o-rwx` on it"),
        "{warned}"
    );
}

#[test]
fn a_key_in_a_configuration_that_everybody_can_read_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    fs::write(&path, VALID).unwrap();
    let said = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let (loaded, shown) = (config::load(&path).unwrap(), path.display().to_string());
        loaded.warnings.iter().map(|warning| warning.to_string().replace(&shown, "FILE")).collect::<Vec<_>>()
    };
    assert_eq!(said(0o640), [""; 0]);
    assert_eq!(
        said(0o644),
        ["FILE:2:12: every user of this machine can read the hash key here; run `chmod o-rwx FILE`, or keep it in a \
             `hash_key_file`"]
    );
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    let error = config::load(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{}: cannot be read: No such file or directory (os error 2)", path.display()));
    fs::write(&path, b"[cluster]\nn\xc3\xa9 = '\xff'\n").unwrap();
    let error = config::load(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{}:2:7: byte 0xff at offset 17 is not UTF-8; save the file as UTF-8", path.display()));
}

#[test]
fn a_file_of_prefixes_is_part_of_the_configuration_and_its_mistakes_have_its_lines() {
    let directory = tempfile::tempdir().unwrap();
    let (path, list) = (directory.path().join("t.toml"), directory.path().join("deny.txt"));
    let parse = |prefixes: &str| {
        fs::write(&list, prefixes).unwrap();
        config::parse(&format!("{VALID}\n[[deny]]\nfiles = [\"deny.txt\"]\n"), &path)
    };
    let plan = parse("\u{feff}198.51.100.0/24\r\n# remark\n\n  2001:db8::/32 # remark\n").unwrap().plan;
    let prefixes: Vec<String> = plan.lists[0].all().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["198.51.100.0/24", "2001:db8::/32"]);
    let said = |prefixes: &str| parse(prefixes).unwrap_err().to_string().replace(&*list.to_string_lossy(), "LIST");
    assert_eq!(
        said("198.51.100.0/24\n  198.51.100.0/33 # too long\n"),
        "LIST:2:3: \"198.51.100.0/33\" is not a prefix; write one like \"192.0.2.0/24\" or \"2001:db8:2::/64\""
    );
    let many = said(&"x\n".repeat(1000));
    assert_eq!(many.lines().filter(|line| line.starts_with("LIST:")).count(), 20, "{many}");
    assert!(many.ends_with("; and 980 more in this file"), "{many}");
    let hosts: String = (0..100_001).map(|at| format!("{}\n", std::net::Ipv4Addr::from_bits(at))).collect();
    let excess = "100001 IPv4 prefixes in all [[deny]] together; at most 100000 are possible: write wider ones";
    assert!(said(&hosts).ends_with(excess), "{}", said(&hosts));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is cut out of a configuration and put in its place, there is a plan or a list of errors with positions in it.
    #[test]
    fn a_mutilated_configuration_is_refused_or_read(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, "[\\[\\]{}=\"'.,# \n\\\\a-c0-9é\u{0}\r-]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = VALID.chars().collect();
        for (start, length, insert) in edits {
            let start = start.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = config::parse(&text, "t.toml") {
            let errors = errors.to_string();
            let mut lines = errors.lines().filter(|line| !line.ends_with(" problems"));
            prop_assert!(lines.all(|line| line.starts_with("t.toml:")), "{errors}");
        }
    }
}
