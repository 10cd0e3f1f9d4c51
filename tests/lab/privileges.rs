//! What a dispatcher that runs may still do, as the kernel tells it.

use crate::dispatcher::{Dispatcher, run};
use crate::failover::checked;
use crate::network::{Lab, XDP, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// `CAP_NET_ADMIN`, `CAP_PERFMON` and `CAP_BPF`, include/uapi/linux/capability.h.
const KEPT: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// `O_ACCMODE`, include/uapi/asm-generic/fcntl.h.
const ACCESS: u32 = 3;

/// A line of /proc/PID/status, or of fdinfo.
fn line(text: &str, key: &str) -> String {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {key} in {text}")).trim().to_owned()
}

fn has_what_it_needs(thread: &Path, main: &str) -> bool {
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let set = |key: &str| u64::from_str_radix(&line(&status, key), 16).unwrap();
    let kept = if thread.ends_with(main) { KEPT } else { 0 };
    ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(set) == [0, kept, kept, 0] && line(&status, "NoNewPrivs") == "1"
}

/// Only the thread that follows the servers keeps capabilities, the three that it needs, and no thread gains any.
#[test]
fn one_thread_keeps_three_capabilities_and_no_file_is_open_for_writing() {
    let Some(lab) = Lab::up(&[]) else { return };
    let dispatcher = Dispatcher::start(&lab, &[]);
    let process = format!("/proc/{}", dispatcher.child().id());
    let main = dispatcher.child().id().to_string();
    // A thread gives them up as the first that it does, which may be after the dispatcher is ready.
    eventually("each thread has what it needs alone", || {
        let threads = fs::read_dir(format!("{process}/task")).unwrap().map(|entry| entry.unwrap());
        let threads: Vec<bool> = threads.map(|thread| has_what_it_needs(&thread.path(), &main)).collect();
        threads.len() > 3 && threads.into_iter().all(|has| has)
    });
    for entry in fs::read_dir(format!("{process}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let open = fs::read_link(&path).unwrap();
        let info = fs::read_to_string(path.to_string_lossy().replace("/fd/", "/fdinfo/")).unwrap();
        let writes = u32::from_str_radix(&line(&info, "flags"), 8).unwrap() & ACCESS != 0;
        // What is no file has no leading slash.
        let is_file = open.starts_with("/") && !open.starts_with("/dev");
        assert!(!(is_file && writes), "{} is open for writing", open.display());
    }
    dispatcher.stop();
}

/// A folder that came after the start is not one that the rules name, though it has the name.
#[test]
fn nothing_is_written_but_where_the_configuration_says() {
    let Some(lab) = Lab::up(&XDP) else { return };
    let config = checked(&lab);
    // Not beneath the folder of the socket.
    let folder = tempfile::tempdir().unwrap();
    let (kept, moved) = (folder.path().join("kept"), folder.path().join("moved"));
    fs::create_dir(&kept).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    let state =
        |line: &str| line.starts_with("state = ").then(|| format!("state = \"{}\"", kept.join("state.json").display()));
    let lines: Vec<String> = text.lines().map(|line| state(line).unwrap_or_else(|| line.to_owned())).collect();
    fs::write(&config, lines.join("\n")).unwrap();
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    dispatcher.hear("starts no program (Landlock)");
    lab.ctl(&["drain", "web1"]);
    assert!(kept.join("state.json").exists());
    fs::rename(&kept, &moved).unwrap();
    fs::create_dir(&kept).unwrap();
    let said = lab.ctl_refused(&["undrain", "web1"]);
    assert!(said.contains("state.json cannot be written: Permission denied"), "{said}");
    fs::remove_dir(&kept).unwrap();
    fs::rename(&moved, &kept).unwrap();
    eventually("the order is taken", || {
        lab.ctl(&["undrain", "web1"]);
        true
    });
    dispatcher.stop();
}

/// Neither a core dump nor anything that others may read shows the hash key.
#[test]
fn the_hash_key_is_shown_nowhere() {
    let Some(lab) = Lab::up(&XDP) else { return };
    let folder = tempfile::tempdir().unwrap();
    let unlimited = |command: &mut Command| {
        let mut limited = Command::new("prlimit");
        limited.arg("--core=unlimited").arg(command.get_program()).args(command.get_args());
        limited.current_dir(folder.path());
        limited
    };
    let text = fs::read_to_string(lab.config()).unwrap();
    let key = text.lines().find_map(|line| line.strip_prefix("hash_key = ")).unwrap().trim_matches('"').to_owned();
    let dispatcher = Dispatcher::start_by(&lab, unlimited(&mut run(&lab, &lab.config())), &[]);
    let process = format!("/proc/{}", dispatcher.child().id());
    for shown in ["cmdline", "environ", "comm"] {
        let shown = fs::read(format!("{process}/{shown}")).unwrap();
        assert!(!String::from_utf8_lossy(&shown).contains(&key));
    }
    for asked in [&["status", "--json"][..], &["diff"], &["denied"]] {
        assert!(!lab.ctl(asked).contains(&key), "{asked:?}");
    }
    assert!(!dispatcher.said().contains(&key));
    let ended = dispatcher.crash(Signal::ABORT);
    assert!(ended.signal() == Some(Signal::ABORT.as_raw()) && !ended.core_dumped(), "{ended}");
    // Another process is dumped, where this host does that at all.
    let mut other = unlimited(Command::new("sleep").arg("60")).spawn().unwrap();
    kill_process(Pid::from_child(&other), Signal::ABORT).unwrap();
    if !other.wait().unwrap().core_dumped() {
        println!("SKIPPED: this host dumps no cores");
    }
}
