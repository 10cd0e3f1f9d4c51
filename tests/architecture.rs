//! The house's rules, held against the source: who may use whom, where `unsafe` is, how long files are, what reasons say.

use oneip::verdict::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a module may name of the crate: modules, or items in them. Itself goes without saying. Ports know no more than the
/// vocabulary, the worker knows the trait but no port, control touches the data path only through the tables, and `ctl` knows
/// the documents alone.
const MAY_USE: [(&str, &[&str]); 29] = [
    ("error", &[]),
    ("limits", &[]),
    ("verdict", &[]),
    ("model", &["limits"]),
    ("wire", &["limits", "model"]),
    ("hash", &["limits", "model"]),
    ("table", &["hash", "limits", "model", "wire"]),
    ("path", &["hash", "limits", "model", "table", "verdict", "wire"]),
    ("xdp", &["hash", "limits", "model", "table", "verdict", "wire"]),
    ("port", &["hash", "limits", "model", "verdict", "wire", "xdp"]),
    ("metrics", &["limits", "model", "port::Ledger", "table", "verdict"]),
    ("worker", &["limits", "metrics", "path", "port::Burst", "port::Port", "table", "verdict"]),
    ("config", &["limits", "model"]),
    ("netlink", &["limits", "model"]),
    ("server", &["model", "netlink::PROTOCOL"]),
    ("host", &["error", "limits", "model", "server"]),
    ("admin", &["host::privileges", "limits", "metrics", "model", "verdict"]),
    (
        "control",
        &[
            "admin::Seen",
            "admin::finding",
            "admin::order",
            "admin::status",
            "admin::timeline",
            "hash",
            "host",
            "limits",
            "model",
            "netlink",
            "table::Rule",
            "table::ServiceId",
            "table::ServiceTable",
            "table::Table",
            "table::TunnelEnd",
            "table::Way",
            "table::build",
            "table::lists",
            "table::trace",
            "xdp::probes",
        ],
    ),
    (
        "engine",
        &[
            "admin::status",
            "control",
            "error",
            "hash",
            "host",
            "limits",
            "metrics",
            "model",
            "port",
            "server",
            "table",
            "verdict",
            "worker",
            "xdp",
        ],
    ),
    (
        "group",
        &[
            "config",
            "control::agreement",
            "control::denials",
            "control::overrides",
            "engine::filter::digest",
            "hash",
            "host",
            "limits",
            "model",
        ],
    ),
    (
        "ctl",
        &[
            "admin::finding",
            "admin::group",
            "admin::order",
            "admin::status",
            "error",
            "limits",
            "metrics::summary",
            "model",
            "verdict",
        ],
    ),
    (
        "verbs",
        &[
            "admin::order",
            "admin::status",
            "config",
            "ctl",
            "engine::filter",
            "error",
            "hash",
            "host::cores",
            "host::share",
            "limits",
            "metrics",
            "model",
            "path",
            "port",
            "table",
            "verdict",
            "wire",
            "worker",
            "xdp",
        ],
    ),
    (
        "doctor",
        &[
            "admin::finding",
            "admin::order",
            "admin::status",
            "config",
            "control::health::route",
            "control::neighbours",
            "ctl::client",
            "error",
            "host::cores",
            "limits",
            "metrics::latest",
            "model",
            "netlink",
            "server",
            "verdict",
            "wire",
            "xdp",
        ],
    ),
    (
        "run",
        &[
            "admin",
            "config",
            "control",
            "ctl::client",
            "doctor",
            "engine",
            "error",
            "group",
            "hash",
            "host",
            "limits",
            "metrics",
            "model",
            "netlink::address_routes",
            "server",
            "netlink",
            "path::classify",
            "path::trace",
            "port::pcap",
            "table::TunnelEnd",
            "table::families",
            "table::trace",
            "verbs",
            "verdict",
            "xdp::interface",
            "xdp::link",
            "xdp::program",
        ],
    ),
    ("pktgen", &["config", "error", "hash", "host", "limits", "metrics", "model", "port", "wire", "xdp"]),
    ("log", &[]),
    ("cli", &["ctl", "limits", "log", "model", "pktgen::arguments", "server", "verbs::script", "verbs::simulate"]),
    ("lib", &[]),
    ("main", &[]),
];

const MAY_BE_UNSAFE: [&str; 5] = ["port/af_xdp", "port/dpdk", "hash/vector", "table/publish", "xdp"];

const MOST_LINES: usize = 600;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `directory`, by its path from there, without ".rs".
fn sources(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory_) = open.pop() {
        for entry in fs::read_dir(&directory_).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(directory).expect("below it").with_extension("");
                found.insert(name.to_str().expect("UTF-8").to_owned(), fs::read_to_string(&path).expect("UTF-8"));
            }
        }
    }
    assert!(!found.is_empty(), "no source in {}", directory.display());
    found
}

/// Code alone: no comments, no texts.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => {
                let mut end = 1;
                let bytes = rest.as_bytes();
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                end + 1
            }
            // A quotation mark as a character does not begin a text.
            '\'' if rest.starts_with("'\"'") => 3,
            _ => {
                code.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
        };
        rest = &rest[skipped.min(rest.len())..];
    }
    code
}

/// Every path behind `crate::`, one for each name of a group.
fn named(code: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (at, name) in code.match_indices("crate::") {
        let rest = &code[at + name.len()..];
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let path = &rest[..end];
        match rest[end..].strip_prefix('{').and_then(|group| group.split_once('}')) {
            Some((group, _)) => paths.extend(group.split(',').map(|name| format!("{path}{}", name.trim()))),
            None => _ = paths.insert(path.to_owned()),
        }
    }
    paths
}

/// Whether a path is an allowed one or leads on from there.
fn allows(allowed: &str, path: &str) -> bool {
    path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn modules_use_whom_they_may() {
    let rules = BTreeMap::from(MAY_USE);
    let mut broken = Vec::new();
    for (file, text) in sources(&src()) {
        let module = file.split('/').next().expect("a module");
        let Some(allowed) = rules.get(module) else {
            broken.push(format!("{file}: `{module}` has no rule in tests/architecture.rs"));
            continue;
        };
        let code = code(&text);
        for named in named(&code) {
            if !allows(module, &named) && !allowed.iter().any(|allowed| allows(allowed, &named)) {
                broken.push(format!("{file} uses {named}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Of two modules at most one knows the other, over any number of others.
#[test]
fn no_module_uses_one_that_uses_it() {
    let rules = BTreeMap::from(MAY_USE);
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    while settled.len() < rules.len() {
        let module = |path: &&'static str| path.split(':').next().expect("a module");
        let is_free = |allowed: &[&'static str]| allowed.iter().all(|path| settled.contains(module(path)));
        let free: Vec<&str> = rules
            .iter()
            .filter(|(name, allowed)| !settled.contains(*name) && is_free(allowed))
            .map(|(name, _)| *name)
            .collect();
        let left: Vec<_> = rules.keys().filter(|name| !settled.contains(*name)).collect();
        assert!(!free.is_empty(), "a circle among {left:?}");
        settled.extend(free);
    }
}

/// `super` leads no further than the module that a file belongs to.
#[test]
fn modules_reach_others_through_the_crate_only() {
    for (file, text) in sources(&src()) {
        let depth = file.split('/').filter(|part| *part != "mod").count();
        // A test module is one deeper.
        let most = "super::".repeat(depth + text.contains("mod tests {") as usize);
        assert!(!code(&text).contains(&most), "{file} leaves its module by `super`");
    }
}

#[test]
fn unsafe_is_where_it_may_be() {
    for (file, text) in sources(&src()) {
        let allowed = MAY_BE_UNSAFE.iter().any(|place| file.starts_with(place));
        let words: Vec<String> =
            code(&text).split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_owned).collect();
        let unsafe_ = words.iter().filter(|word| *word == "unsafe").count();
        assert!(allowed || unsafe_ == 0, "`unsafe` in {file}");
        assert!(allowed || !words.iter().any(|word| word == "unsafe_code"), "{file} allows `unsafe`");
        let reasons = text.matches("// SAFETY: ").count();
        let blocks = code(&text).matches("unsafe {").count() + code(&text).matches("unsafe impl").count();
        assert!(reasons >= blocks, "{file}: {blocks} unsafe blocks, {reasons} reasons");
    }
}

#[test]
fn files_are_about_one_thing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["src", "tests", "perf/bench", "perf/report"] {
        for (file, text) in sources(&root.join(directory)) {
            let lines = text.lines().count();
            assert!(lines < MOST_LINES, "{directory}/{file}.rs has {lines} lines");
        }
    }
}

/// Tests that lack such a tool fail in CI, which has what scripts/setup.sh installs for it.
#[test]
fn what_tests_may_not_lack_in_ci_is_installed_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).expect("UTF-8");
    assert!(read(".ci/run").lines().any(|line| line == "export CI=yes"));
    let setup = read("scripts/setup.sh");
    // Lines of a package and a program in it, which have the same name or not.
    let installs = |tool: &str| {
        let mut lines = setup.lines().map(|line| line.trim_end_matches('"').split(' '));
        lines.any(|mut words| words.next_back() == Some(tool) || words.next() == Some(tool))
    };
    let of = |text: &str| -> Vec<String> {
        let calls = text.split("installed(\"").skip(1);
        calls.filter_map(|call| Some(call.split_once("\")")?.0.to_owned())).collect()
    };
    let tests = sources(&root.join("tests"));
    let tools: BTreeSet<String> = tests.values().flat_map(|text| of(text)).collect();
    assert!(tools.len() >= 5, "{tools:?}");
    for tool in tools {
        assert!(installs(&tool), "scripts/setup.sh does not install {tool}");
    }
}

#[test]
fn every_reason_has_a_name_and_a_help_line() {
    let names: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Reason::COUNT);
    for (at, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, at, "{reason} counts in its own place");
        assert_eq!(reason.to_string(), reason.name());
        assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{reason} is not a JSON key");
        let help = reason.help();
        assert!((10..120).contains(&help.len()) && !help.contains('\n') && !help.ends_with('.'), "{reason}: {help}");
    }
}

#[test]
fn what_is_forbidden_would_be_found() {
    let uses = |text: &str| named(&code(text)).into_iter().collect::<Vec<_>>();
    let text =
        "use crate::port::{Burst,\n Port};\n// crate::control\nlet x = (\"crate::y\", '\"', crate::wire::be16(z));";
    assert_eq!(uses(text), ["port::Burst", "port::Port", "wire::be16"]);
    assert!(allows("table::cluster", "table::cluster::Cluster") && !allows("table::cluster", "table::index"));
    assert!(allows("port::Port", "port::Port") && !allows("port::Port", "port::memory::Memory"));
    assert!(!allows("path", "paths::x") && allows("limits", "limits"));
    assert_eq!(code("a // \"\nb \"c \\\" // d\" e"), "a \nb  e");
}
