//! What stands between fences is right: configurations are taken, or refused as the page says; commands run, or, where they are
//! for a box, are such as there are.

use crate::page::all;
use crate::pages::{Fence, ROLES, fences, root};
use crate::tools::skip;
use clap::Parser;
use oneip::cli::Cli;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use toml::{Table, Value};

const ONEIP: &str = env!("CARGO_BIN_EXE_oneip");

const KINDS: [&str; 17] = [
    "",
    "text",
    "text output",
    "text excerpt",
    "json",
    "sh run",
    "sh netns",
    "sh build",
    "sh systemd",
    "sh nic",
    "sh vfio",
    "sh two-hosts",
    "bird",
    "frr",
    "toml",
    "toml part",
    "toml error",
];

/// What parts of a configuration are put into.
const BASE: &str = r#"
[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
[[service]]
name = "web"
address = "203.0.113.80"
ports = ["tcp/80"]
[[service.server]]
name = "web1"
address = "192.0.2.11"
mac = "02:00:00:00:00:11"
[[service.server]]
name = "web2"
address = "192.0.2.12"
mac = "02:00:00:00:00:12"
"#;

/// What stands in a file that a block includes.
const SERVICE: &str = "[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n[[service.server]]\nname = \"web1\"\naddress = \"192.0.2.11\"\n";

/// The blocks of a kind on all pages.
fn blocks(kind: &str) -> Vec<Fence> {
    let found: Vec<Fence> = all().into_keys().flat_map(fences).filter(|fence| fence.info == kind).collect();
    assert!(!found.is_empty(), "no page has a block of the kind `{kind}`");
    found
}

fn write(folder: &TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("written");
    // There may be a key in it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn check(text: &str) -> (Output, String) {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder, "FILE", text);
    if text.contains("include = \"services.d\"") {
        fs::create_dir(folder.path().join("services.d")).expect("a folder in it");
        write(&folder, "services.d/web.toml", SERVICE);
    }
    let output = Command::new(ONEIP).args(["check", "-c", "FILE"]).current_dir(folder.path()).output().expect("oneip");
    // Which cores there are is this machine's matter.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: String = said.split_inclusive('\n').filter(|line| !line.contains("on this machine")).collect();
    (output, said)
}

#[test]
fn every_block_says_what_is_to_be_done_with_it() {
    for fence in all().into_keys().flat_map(fences) {
        let of_box = fence.info.strip_prefix("sh box ").and_then(|host| host.split(' ').next());
        let known = KINDS.contains(&fence.info.as_str()) || of_box.is_some_and(|role| ROLES.contains(&role));
        assert!(known, "{}: what is ```{}?", fence.place, fence.info);
    }
}

#[test]
fn configurations_pass_the_check() {
    for fence in blocks("toml") {
        let (output, said) = check(&fence.body);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", fence.place);
    }
}

#[test]
fn parts_of_configurations_pass_the_check() {
    for fence in blocks("toml part") {
        let mut whole: Table = BASE.parse().expect("TOML");
        let part: Table = fence.body.parse().unwrap_or_else(|error| panic!("{}: {error}", fence.place));
        put(&mut whole, part);
        let (output, said) = check(&toml::to_string(&whole).expect("TOML"));
        assert!(output.status.success() && said.is_empty(), "{}: {said}", fence.place);
    }
}

/// What stands in the part takes the place of what stood there.
fn put(whole: &mut Table, part: Table) {
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(Value::Table(there)), Value::Table(value)) => put(there, value),
            (_, value) => _ = whole.insert(key, value),
        }
    }
}

#[test]
fn a_wrong_configuration_gets_the_message_that_the_page_shows() {
    let mut refused = 0;
    for page in all().into_keys() {
        let fences = fences(&page);
        for (at, fence) in fences.iter().enumerate().filter(|(_, fence)| fence.info == "toml error") {
            refused += 1;
            let (output, said) = check(&fence.body);
            assert_eq!((output.status.code(), said), (Some(1), fences[at + 1].body.clone()), "{}", fence.place);
        }
    }
    assert!(refused > 0);
}

#[test]
fn documents_are_json() {
    for fence in blocks("json") {
        for line in fence.body.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{}: {error}", fence.place));
        }
    }
}

/// Each page in a folder of its own, one block after the other, with the files that its commands read.
#[test]
fn plain_commands_run() {
    for page in all().into_keys() {
        let blocks: Vec<Fence> = fences(&page).into_iter().filter(|fence| fence.info == "sh run").collect();
        if blocks.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder, "cluster.toml", BASE);
        write(&folder, "with-macs.toml", BASE);
        let log: String = (1..=200).map(|n| format!("198.51.100.{n} - - [25/Nov/2026] \"GET /\" 200 1\n")).collect();
        write(&folder, "access.log", &log);
        fs::write(folder.path().join("in.pcap"), capture()).expect("written");
        for Fence { body, output: shown, place, .. } in blocks {
            let output = shell(&body, folder.path());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{place}: {said}");
            if let Some(shown) = shown {
                assert_eq!(String::from_utf8_lossy(&output.stdout), shown, "{place}");
            }
        }
    }
}

fn shell(script: &str, folder: &Path) -> Output {
    let program = Path::new(ONEIP).parent().expect("a folder").display();
    let script = format!("set -euo pipefail\nPATH={program}:$PATH\n{script}");
    Command::new("bash").args(["-c", &script]).current_dir(folder).output().expect("bash")
}

/// A capture of one frame, to no cluster address: https://www.tcpdump.org/manpages/pcap-savefile.5.html
fn capture() -> Vec<u8> {
    let frame = [[0xff_u8; 6].as_slice(), &[2, 0, 0, 0, 0, 1], &[0x08, 0x06], &[0; 46]].concat();
    let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1];
    let record = [1_u32, 0, frame.len() as u32, frame.len() as u32];
    let words = header.iter().chain(&record).flat_map(|word| word.to_le_bytes());
    words.chain(frame).collect()
}

/// Not run here, nor, without root, anywhere.
fn is_read_only(info: &str) -> bool {
    info.starts_with("sh box ") || ["sh build", "sh systemd", "sh nic", "sh vfio", "sh two-hosts"].contains(&info)
}

/// They are shell, the scripts are there, and our own verbs take those options.
#[test]
fn commands_that_are_not_run_are_such_as_there_are() {
    let mut parsed = 0;
    let all = all().into_keys().flat_map(fences);
    for Fence { body, place, .. } in all.filter(|fence| is_read_only(&fence.info)) {
        let read = Command::new("bash").args(["-n", "-c", &body]).output().expect("bash");
        assert!(read.status.success(), "{place}: {}", String::from_utf8_lossy(&read.stderr));
        for line in body.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            for script in words.iter().filter(|word| word.starts_with("scripts/")) {
                assert!(root().join(script).is_file(), "{place}: there is no {script}");
            }
            if words.first() == Some(&"oneip") {
                parsed += 1;
                // What is written to a file or a pipe is the shell's.
                let ours = words.iter().take_while(|word| !word.starts_with(['>', '|', '#']));
                let cli = Cli::try_parse_from(ours);
                assert!(cli.is_ok(), "{place}: {line}: {}", cli.err().map_or(String::new(), |e| e.to_string()));
            }
        }
    }
    assert!(parsed > 20, "{parsed} commands of ours are few: are they found?");
}

/// Lines for BIRD stand in a configuration that has nothing else; FRR's are read as they are.
#[test]
fn lines_for_routing_daemons_are_taken_by_them() {
    let daemons: [(&str, &str, &[&str], &str); 2] =
        [("bird", "bird", &["-p", "-c"], "router id 192.0.2.1;\n"), ("frr", "vtysh", &["-C", "-f"], "")];
    for (kind, program, options, before) in daemons {
        for Fence { body, place, .. } in blocks(kind) {
            let folder = tempfile::tempdir().expect("a folder");
            write(&folder, "lines", &format!("{before}{body}"));
            let mut command = Command::new(program);
            command.args(options).arg("lines").current_dir(folder.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            let Ok(output) = command.output() else {
                skip(&format!("{place}: {program} is missing: run scripts/setup.sh"));
                continue;
            };
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&said));
        }
    }
}
