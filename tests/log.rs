//! In which form the log is written: text, JSON, or to a real journal.

#[path = "tools/mod.rs"]
mod tools;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use tools::{installed, skip};

const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// It warns of the key, and then fails: there is no such interface. Without root it fails for want of that.
const CONFIG: &str = "[cluster]\nhash_key = \"00000000000000000000000000000000\"\n[dispatcher]\ninterface = \"none0\"\n[[service]]\nname = \
                      \"web\"\naddress = \"203.0.113.80\"\n[[service.server]]\nname = \"web1\"\naddress = \"192.0.2.11\"\n";

const WARNING: &str = "oneip.toml:2:12: this hash key is not secret";

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        fs::write(folder.file("oneip.toml"), CONFIG).unwrap();
        fs::set_permissions(folder.file("oneip.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn oneip(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
        command.current_dir(self.0.path()).env_remove("JOURNAL_STREAM").args(["run", "-c", "oneip.toml"]).args(options);
        command
    }
}

/// What a failure has said on standard error.
fn failed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert_eq!((status.code(), stdout.as_slice()), (Some(1), &b""[..]));
    String::from_utf8(stderr).unwrap()
}

/// `2026-11-28T16:00:00.123456Z`
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000000Z"
}

#[test]
fn text_has_a_time_stamp_and_a_level_and_errors_stay_as_they_are() {
    let said = failed(&mut Folder::new().oneip(&[]));
    let (warning, error) = said.split_once('\n').unwrap();
    let (time, warning) = warning.split_once(' ').unwrap();
    assert!(is_time(time), "{said}");
    assert!(warning.starts_with(" WARN oneip: /") && warning.contains(WARNING), "{said}");
    assert!(error.starts_with("error: ") && !said.contains('\x1b'), "{said}");
}

#[test]
fn a_terminal_gets_colour_unless_it_is_unwanted() {
    let folder = Folder::new();
    let program = env!("CARGO_BIN_EXE_oneip");
    let on_terminal = |environment: &str| {
        let line = format!("{environment} {program} run -c oneip.toml");
        let mut script = Command::new("script");
        script.current_dir(folder.0.path()).env_remove("NO_COLOR").args(["-qefc", &line, "/dev/null"]);
        String::from_utf8(script.output().unwrap().stdout).unwrap()
    };
    let said = on_terminal("");
    assert!(said.contains("\x1b[33m WARN\x1b[0m") && said.contains(WARNING), "{said:?}");
    let said = on_terminal("NO_COLOR=1");
    assert!(!said.contains('\x1b') && said.contains(" WARN ") && said.contains(WARNING), "{said:?}");
}

#[test]
fn json_is_an_object_a_line_the_failure_too() {
    let folder = Folder::new();
    let said = failed(&mut folder.oneip(&["--log", "json"]));
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [warning, error] = &lines[..] else { panic!("{said}") };
    assert_eq!((&warning["level"], &warning["target"]), (&"WARN".into(), &"oneip".into()));
    assert!(is_time(warning["timestamp"].as_str().unwrap()) && warning["message"].as_str().unwrap().contains(WARNING));
    assert_eq!(error["level"], "ERROR");
    assert!(!error["message"].as_str().unwrap().is_empty());
    // However little is logged, why it failed is said.
    let said = failed(folder.oneip(&["--log", "json"]).env("ONEIP_LOG", "off"));
    assert!(said.starts_with("error: ") && said.lines().count() >= 1, "{said}");
}

#[test]
fn the_configuration_may_be_named_by_the_environment() {
    let folder = Folder::new();
    let ask = |verb: &str, environment: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
        command.current_dir(folder.0.path()).arg(verb).args(arguments).env("ONEIP_CONFIG", environment);
        command.output().unwrap()
    };
    let check = |environment: &str, arguments: &[&str]| ask("check", environment, arguments);
    assert!(check("oneip.toml", &[]).status.success());
    assert!(check("none.toml", &["-c", "oneip.toml"]).status.success(), "-c overrides it");
    let said = check("none.toml", &[]);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8(said.stderr).unwrap().starts_with("error: none.toml: cannot be read"));
    assert_eq!(check("", &[]).status.code(), Some(2), "empty");
    let said = String::from_utf8(ask("doctor", "none.toml", &["--seconds", "0"]).stdout).unwrap();
    assert!(said.contains("none.toml: cannot be read"), "{said}");
}

/// journald in a mount namespace of its own; what is connected to it as systemd would, and what it then has. It cannot look up the name of a
/// process that has ended already, so entries are found by what they say of themselves.
fn journal(folder: &Folder, options: &str) -> Vec<Value> {
    let script = format!(
        "mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/log; mkdir -p /run/systemd/journal /run/log/journal
         {JOURNALD} & journald=$!; trap 'kill $journald; wait $journald' EXIT
         until [ -S /run/systemd/journal/stdout ] && [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
         systemd-cat -t oneip sh -c 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec {} run -c oneip.toml {options}' || true
         journalctl --sync
         journalctl --no-pager -o json --file '/run/log/journal/*/*.journal' SYSLOG_IDENTIFIER=oneip",
        env!("CARGO_BIN_EXE_oneip")
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-euc", &script]).current_dir(folder.0.path());
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn under_systemd_the_journal_gets_levels_and_fields() {
    if !rustix::process::geteuid().is_root() {
        return skip("a journal of its own needs root");
    }
    if !installed(JOURNALD) {
        return;
    }
    let folder = Folder::new();
    let entries = journal(&folder, "");
    let [warning, error] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((&warning["PRIORITY"], &error["PRIORITY"]), (&"4".into(), &"3".into()));
    assert!(warning["MESSAGE"].as_str().unwrap().contains(WARNING), "{warning}");
    assert!(error["MESSAGE"].as_str().unwrap().contains("none0"), "{error}");
    for entry in &entries {
        assert_eq!((&entry["_TRANSPORT"], &entry["SYSLOG_IDENTIFIER"]), (&"journal".into(), &"oneip".into()));
        assert!(entry["TARGET"].as_str().unwrap().starts_with("oneip"), "{entry}");
    }
    // It is text to systemd.
    let entries = journal(&folder, "--log text");
    assert!(entries.iter().all(|entry| entry["_TRANSPORT"] == "stdout"), "{entries:?}");
}

#[test]
fn a_journal_that_is_not_there_is_an_error() {
    let folder = Folder::new();
    if Path::new("/run/systemd/journal/socket").exists() {
        return;
    }
    let said = folder.oneip(&["--log", "journal"]).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.starts_with("error: --log journal: there is no journal: "), "{said}");
}
