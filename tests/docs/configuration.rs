//! docs/configuration.md against the schema: the same keys, with their types, defaults and bounds. The schema is asked as a
//! user asks it: by configurations, and by what is said of them.

use crate::page::{read, rows, sections, spans};
use oneip::config::{self, Loaded};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use toml::{Table, Value};

/// A configuration with every section.
pub const WHOLE: &str = r#"
[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
[dispatcher]
interface = "eth1"
[filter]
interface = "eth1"
[decap]
[admin]
[announce]
[group]
name = "edge"
etcd = ["https://192.0.2.51:2379"]
ca_file = "etcd-ca.pem"
cert_file = "etcd-client.pem"
key_file = "etcd-client.key"
user = "oneip"
password_file = "etcd.password"
health = "shared"
[[deny]]
prefixes = ["198.51.100.0/24"]
files = ["deny.txt"]
[[allow]]
prefixes = ["198.51.100.7"]
files = ["allow.txt"]
[dpdk]
port = "0000:03:00.0"
[limit.odd]
fragments = 20000
icmp = 2000
options = 1000
[[service]]
name = "web"
address = "203.0.113.80"
ports = ["tcp/80", "udp/443"]
[service.health]
type = "http"
port = 80
[service.limit]
packets = 500000
bits = 4000000000
syn = 20000
[service.limit.per_source]
packets = 5000
syn = 50
[service.quic]
config_id = 0
server_id_length = 3
nonce_length = 6
[[service.server]]
name = "web1"
address = "192.0.2.11"
quic_id = "c4605e"
"#;

/// A row of a table.
pub struct Key {
    pub section: String,
    pub name: String,
    pub kind: String,
    pub default: String,
    pub values: String,
    pub example: String,
}

/// Every key of the page, by section.
pub fn documented() -> BTreeMap<String, Vec<Key>> {
    let mut found: BTreeMap<String, Vec<Key>> = BTreeMap::new();
    for (section, text) in sections(&read("docs/configuration.md")) {
        for row in rows(&text) {
            let [name, kind, default, values, example] = <[String; 5]>::try_from(row).expect("five cells");
            let only = |cell: &str| spans(cell).first().cloned().expect("code");
            let (name, example) = (only(&name), only(&example));
            let key = Key { section: section.clone(), name, kind, default, values, example };
            found.entry(section.clone()).or_default().push(key);
        }
    }
    found
}

/// The whole configuration, as it is where it has that section.
pub fn whole(section: Option<&str>) -> Table {
    let mut root: Table = WHOLE.parse().expect("TOML");
    if section == Some("[[dispatcher.interface]]") {
        let interface: Table = "name = \"eth1\"".parse().expect("TOML");
        let dispatcher = root["dispatcher"].as_table_mut().expect("a section");
        dispatcher.insert("interface".to_owned(), Value::Array(vec![Value::Table(interface)]));
    }
    root
}

/// The table of a section in a configuration, and the name in it of what the section is.
pub fn table<'t>(root: &'t mut Table, section: &str) -> &'t mut Table {
    let mut table = root;
    for name in section.trim_matches(['[', ']']).split('.') {
        let value = table.get_mut(name).unwrap_or_else(|| panic!("{section} is not in the whole configuration"));
        table = match value {
            Value::Array(sections) => sections[0].as_table_mut().expect("a section"),
            value => value.as_table_mut().expect("a section"),
        };
    }
    table
}

pub struct Bench {
    folder: TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("hash.key"), "5b2f9d0c71e84a6d93f05ce2187ab46d\n").expect("written");
        fs::write(folder.path().join("quic.key"), "9d4f0c6a1b7e35288ac1f2605dbe9473\n").expect("written");
        for list in ["deny.txt", "allow.txt"] {
            fs::write(folder.path().join(list), "192.0.2.77\n").expect("written");
        }
        openssl(folder.path());
        fs::write(folder.path().join("etcd.password"), "secret\n").expect("written");
        for secret in ["etcd-client.key", "etcd.password", "hash.key", "quic.key"] {
            fs::set_permissions(folder.path().join(secret), fs::Permissions::from_mode(0o600)).expect("it is ours");
        }
        Bench { folder }
    }

    fn parse(&self, root: &Table) -> Result<Loaded, String> {
        let file: PathBuf = self.folder.path().join("oneip.toml");
        config::parse(&toml::to_string(root).expect("TOML"), Path::new(&file)).map_err(|errors| errors.to_string())
    }

    /// The whole configuration with a key set, or removed.
    fn with(&self, section: &str, key: &str, value: Option<Value>) -> Result<Loaded, String> {
        let mut root = whole(Some(section));
        let place = table(&mut root, section);
        match value {
            Some(value) => _ = place.insert(key.to_owned(), value),
            None => _ = place.remove(key),
        }
        // What goes with another key.
        if let Some(way) = [("gue_port", "gue"), ("dscp", "l3dsr")].iter().find(|(of, _)| *of == key) {
            place.insert("deliver".to_owned(), way.1.into());
        }
        if key == "ports" && !place.contains_key(key) {
            place.remove("quic");
            let servers = place["server"].as_array_mut().expect("servers");
            servers.iter_mut().for_each(|server| _ = server.as_table_mut().expect("a section").remove("quic_id"));
        }
        let pairs = [("cert_file", "key_file"), ("user", "password_file")];
        if let Some((one, other)) = pairs.into_iter().find(|(one, other)| [*one, *other].contains(&key))
            && !place.contains_key(key)
        {
            place.remove(one);
            place.remove(other);
        }
        // One of the two.
        if key == "hash_key_file" {
            place.remove("hash_key");
        }
        self.parse(&root)
    }

    fn refused(&self, section: &str, key: &str, value: Option<Value>) -> String {
        let shown = format!("{value:?}");
        self.with(section, key, value).err().unwrap_or_else(|| panic!("{section} {key} = {shown} is taken"))
    }

    /// The keys that the schema has in a section, or the sections that there are.
    pub fn known(&self, section: Option<&str>) -> Vec<String> {
        let mut root = whole(section);
        let place = match section {
            Some(section) => table(&mut root, section),
            None => &mut root,
        };
        place.insert("zzzzzzzz".to_owned(), true.into());
        let said = self.parse(&root).expect_err("an unknown key");
        let keys = said.split("the keys here are ").nth(1).unwrap_or_else(|| panic!("{said}"));
        keys.lines().next().expect("a line").split(", ").map(str::to_owned).collect()
    }
}

/// A certificate of itself, which is its own authority.
fn openssl(folder: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=nobody -keyout etcd-client.key -out \
                     etcd-client.pem";
    let done = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output();
    assert!(done.expect("openssl runs").status.success());
    fs::copy(folder.join("etcd-client.pem"), folder.join("etcd-ca.pem")).expect("copied");
}

pub fn value(text: &str) -> Value {
    let table: Table = format!("value = {text}").parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    table["value"].clone()
}

#[test]
fn the_page_has_each_key_of_the_schema_and_no_other() {
    let bench = Bench::new();
    let documented = documented();
    let mut sections = Vec::new();
    let (files, roots): (Vec<String>, Vec<String>) = bench.known(None).into_iter().partition(|key| key == "include");
    assert!(!files.is_empty() && read("docs/configuration.md").contains("\ninclude = "));
    // It has no keys of its own.
    for root in roots.into_iter().filter(|root| root != "limit") {
        sections.push(if ["service", "deny", "allow"].contains(&root.as_str()) {
            format!("[[{root}]]")
        } else {
            format!("[{root}]")
        });
    }
    let inside = [
        "[[dispatcher.interface]]",
        "[[service.server]]",
        "[service.health]",
        "[service.limit]",
        "[service.limit.per_source]",
        "[service.quic]",
    ];
    sections.extend(inside.map(String::from));
    sections.push("[limit.odd]".into());
    let names: Vec<&String> = documented.keys().collect();
    sections.sort();
    assert_eq!(names, sections.iter().collect::<Vec<_>>());
    for (section, keys) in &documented {
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let known = bench.known(Some(section));
        let is_section = |key: &&String| match section.as_str() {
            "[[service]]" => ["server", "health", "limit", "quic"].contains(&key.as_str()),
            "[service.limit]" => *key == "per_source",
            _ => false,
        };
        assert_eq!(names, known.iter().filter(|key| !is_section(key)).collect::<Vec<_>>(), "{section}");
    }
}

#[test]
fn each_example_is_taken() {
    let bench = Bench::new();
    for Key { section, name, example, .. } in documented().values().flatten() {
        let (key, text) = example.split_once(" = ").expect("key = value");
        assert_eq!(key, name, "{section}");
        bench.with(section, name, Some(value(text))).unwrap_or_else(|said| panic!("{section} {example}: {said}"));
    }
}

#[test]
fn each_default_is_what_absence_means() {
    let bench = Bench::new();
    let mut compared = 0;
    for Key { section, name, default, .. } in documented().values().flatten() {
        if default.starts_with("required") {
            let said = bench.refused(section, name, None);
            assert!(said.contains(&format!("lacks `{name}`")), "{section} {name}: {said}");
        } else {
            let plan = |value| {
                let loaded = bench.with(section, name, value);
                let mut plan = loaded.unwrap_or_else(|said| panic!("{section} {name}: {said}")).plan;
                // Whether the key is there is a matter of its own.
                plan.admin.socket_given = true;
                plan
            };
            let absent = if name == "hash_key_file" { continue } else { plan(None) };
            if default.starts_with('`') {
                compared += 1;
                assert_eq!(absent, plan(Some(value(&spans(default)[0]))), "{section} {name} = {default}");
            }
        }
    }
    assert!(compared >= 20, "only {compared} defaults were compared");
}

#[test]
fn each_bound_and_choice_is_the_one_that_is_enforced() {
    let bench = Bench::new();
    let mut compared = 0;
    for Key { section, name, kind, values, .. } in documented().values().flatten() {
        let quoted: Vec<String> = spans(values).into_iter().filter(|span| span.starts_with('"')).collect();
        if kind.starts_with("integer") && !kind.contains("string") {
            compared += 1;
            let said = bench.refused(section, name, Some(i64::MAX.into()));
            let bounds = said.split("a number from ").nth(1).unwrap_or_else(|| panic!("{said}"));
            let bounds = bounds.lines().next().expect("a line");
            let rest = values.strip_prefix(bounds).unwrap_or_else(|| panic!("{section} {name} is {bounds}"));
            assert!(!rest.starts_with(|c: char| c.is_ascii_digit()), "{section} {name} is {bounds}");
        } else if kind.starts_with("integer") {
            compared += 1;
            let said = bench.refused(section, name, Some(i64::MAX.into()));
            assert!(said.contains(values.as_str()), "{section} {name} is {values}: {said}");
        } else if !quoted.is_empty() {
            compared += 1;
            let said = bench.refused(section, name, Some("zzzz".into()));
            let choices = said.split("; write ").nth(1).unwrap_or_else(|| panic!("{said}"));
            let choices: Vec<&str> = choices.split('"').skip(1).step_by(2).collect();
            assert_eq!(quoted, choices.iter().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>(), "{name}");
        }
    }
    assert!(compared >= 20, "only {compared} keys were compared");
}

#[test]
fn each_type_is_the_one_that_is_asked_for() {
    let bench = Bench::new();
    for Key { section, name, kind, .. } in documented().values().flatten() {
        let given = if kind == "boolean" { "true".into() } else { true.into() };
        let wanted = match kind.split([' ', ',']).next().expect("a word") {
            // One or several of them.
            _ if kind.contains("or an array") => "this is a boolean",
            "string" | "path" => "must be a string",
            "integer" => "must be an integer",
            "boolean" => "must be true or false",
            "array" => "must be an array",
            other => panic!("{section} {name}: what is {other}?"),
        };
        let said = bench.refused(section, name, Some(given));
        assert!(said.contains(wanted), "{section} {name} is {kind}: {said}");
    }
}

/// The example that the package installs, as it is and with all that it only shows.
#[test]
fn the_packaged_example_is_right_and_has_every_key() {
    let bench = Bench::new();
    let example = read("packaging/oneip.toml");
    let shown = |line: &str| {
        let rest = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        rest.unwrap_or(line).to_owned() + "\n"
    };
    let whole: String = example.lines().map(shown).collect();
    fs::create_dir(bench.folder.path().join("services.d")).expect("created");
    for text in [&example, &whole] {
        let file = bench.folder.path().join("oneip.toml");
        let loaded = config::parse(text, file).unwrap_or_else(|errors| panic!("{errors}"));
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let is_known = |warning: &String| ["hash.key", "connection IDs"].iter().any(|known| warning.contains(known));
        assert!(warnings.iter().all(is_known), "{warnings:?}");
    }
    let mut root: Table = whole.parse().expect("TOML");
    // It stands in the place of a key.
    let sections = documented().into_iter().filter(|(section, _)| section != "[[dispatcher.interface]]");
    for (section, keys) in sections {
        let there = table(&mut root, &section);
        // What goes with another choice is told beside that.
        let told = |key: &&Key| {
            let beside = ["hash_key", "gue_port", "dscp", "check_by"].contains(&key.name.as_str());
            !beside && (key.section != "[service.quic]" || !key.name.starts_with("key"))
        };
        for Key { name, default, .. } in keys.iter().filter(told) {
            let value = there.get(name).unwrap_or_else(|| panic!("{section} lacks {name}"));
            if default.starts_with('`') && example.contains(&format!("#{name} = ")) {
                assert_eq!(
                    *value,
                    self::value(&spans(default)[0]),
                    "{section} {name}: what is commented out is the default"
                );
            }
        }
    }
}
