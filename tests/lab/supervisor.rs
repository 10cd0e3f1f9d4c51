//! What a service manager is told (sd_notify): this test is one, with a socket and a watchdog, but ends nobody.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::dispatcher::{Dispatcher, run};
use crate::filters::{self, Filter, QUICK};
use crate::network::{Lab, eventually};

/// How long a process has before the watchdog ends it.
const WATCHDOG: Duration = Duration::from_secs(4);

struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Names itself to the program that `command` starts.
    fn of(lab: &Lab, command: &mut Command) -> Manager {
        let path = lab.file("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Manager { socket, heard: Vec::new() }
    }

    /// What has come since this was asked last.
    fn new_messages(&mut self) -> Vec<String> {
        let mut message = [0; 4096];
        let mut new = Vec::new();
        loop {
            match self.socket.recv(&mut message) {
                Ok(length) => new.push(str::from_utf8(&message[..length]).unwrap().to_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.heard.extend_from_slice(&new);
        new
    }

    /// Waits for a message, behind all that was heard before.
    fn hear(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
        eventually(what, || self.new_messages().iter().any(|message| is_it(message)));
    }

    fn hear_line(&mut self, line: &str) {
        self.hear(line, |message| message.lines().any(|heard| heard == line));
    }
}

/// The threads of a process, by name.
pub fn threads(child: &Child, name: &str) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let named = tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == name);
    named.map(|task| Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap())).collect()
}

#[test]
fn a_dispatcher_says_how_it_is_and_reloads_and_stops() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let mut command = run(lab, &lab.config());
    let mut manager = Manager::of(lab, &mut command);
    let dispatcher = Dispatcher::start_by(lab, command, &[]);
    manager.hear_line("READY=1");
    let first = manager.heard.iter().position(|message| message == "READY=1\n").unwrap();
    assert!(manager.heard[..first].iter().all(|message| message.starts_with("STATUS=")), "{:?}", manager.heard);
    eventually("every server takes clients", || {
        manager.new_messages();
        manager.heard.iter().rfind(|message| message.starts_with("STATUS=")).unwrap()
            == "STATUS=12 of 12 servers take clients\n"
    });

    lab.ctl(&["drain", "web1"]);
    manager.hear("the status", |message| {
        message.starts_with("STATUS=8 of 12 servers take clients; web1 of ") && message.contains("is drain")
    });
    lab.ctl(&["undrain", "web1"]);
    manager.hear_line("STATUS=12 of 12 servers take clients");

    lab.ctl(&["reload", "--dry-run"]);
    lab.ctl(&["reload"]);
    manager.hear_line("READY=1");
    let reloads: Vec<_> = manager.heard.iter().filter(|message| message.starts_with("RELOADING=1\n")).collect();
    let [reload] = reloads[..] else { panic!("{reloads:?}") };
    let at: u64 = reload.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap().parse().unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let now: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!((now - at as f64 / 1e6).abs() < 60.0, "{at} is a time of CLOCK_MONOTONIC, now {now} s");

    // A wrong file is refused, and it is ready again all the same.
    fs::write(lab.config(), "[cluster]\n").unwrap();
    lab.ctl_refused(&["reload"]);
    manager.hear_line("READY=1");
    dispatcher.stop();
    assert_eq!(manager.new_messages().last().unwrap(), "STOPPING=1\n");
}

/// The first worker stands still, alone, until this thread detaches from it (`ptrace::detach`) or ends.
pub fn stop_worker(dispatcher: &Dispatcher<'_>) -> nix::unistd::Pid {
    let workers = threads(dispatcher.child(), "oneip-worker0");
    let [worker] = workers[..] else { panic!("{workers:?}") };
    ptrace::attach(worker).unwrap();
    waitpid(worker, None).unwrap();
    worker
}

#[test]
fn a_worker_that_stands_still_starves_the_watchdog() {
    // The engine in the kernel has no worker.
    let Some(lab) = &Lab::up(&["--engine", "af_xdp"]) else { return };
    let mut command = run(lab, &lab.config());
    let mut manager = Manager::of(lab, &mut command);
    let dispatcher = Dispatcher::start_by(lab, command, &[]);
    for _ in 0..3 {
        manager.hear_line("WATCHDOG=1");
    }
    let worker = stop_worker(&dispatcher);
    dispatcher.hear("worker 0 stands still: the watchdog will end this process");
    manager.new_messages();
    // The control thread is at work, for longer than it takes to feed twice.
    for _ in 0..5 {
        lab.ctl(&["drain", "web1"]);
        manager.hear("the status", |message| message.starts_with("STATUS=8 of 12"));
        lab.ctl(&["undrain", "web1"]);
        thread::sleep(WATCHDOG / 8);
    }
    let unfed = manager.heard.iter().rposition(|message| message == "WATCHDOG=1\n").unwrap();
    let statuses = manager.heard[unfed..].iter().filter(|message| message.starts_with("STATUS=8 of 12")).count();
    assert_eq!(statuses, 5, "it was fed meanwhile: {:?}", manager.heard);
    ptrace::detach(worker, None).unwrap();
    manager.hear_line("WATCHDOG=1");
    dispatcher.hear("all workers run again");
    dispatcher.stop();
}

#[test]
fn the_control_thread_feeds_the_watchdog_where_there_is_no_worker() {
    let Some(lab) = &Lab::up(&["--engine", "xdp"]) else { return };
    let mut command = run(lab, &lab.config());
    let mut manager = Manager::of(lab, &mut command);
    let dispatcher = Dispatcher::start_by(lab, command, &[]);
    for _ in 0..3 {
        manager.hear_line("WATCHDOG=1");
    }
    dispatcher.stop();
}

#[test]
fn a_filter_says_how_it_is_too() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    filters::configure(lab, QUICK, "");
    let mut command = lab.command("web1", env!("CARGO_BIN_EXE_oneip"));
    let mut manager = Manager::of(lab, &mut command);
    let filter = Filter::start_by(lab, "web1", command);
    manager.hear_line("READY=1");
    manager.hear_line("WATCHDOG=1");
    filter.stop();
    assert!(manager.new_messages().last().is_some_and(|message| message == "STOPPING=1\n"), "{:?}", manager.heard);
}

/// Whoever is named and is not there keeps nobody from dispatching.
#[test]
fn without_its_manager_it_dispatches() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let mut command = run(lab, &lab.config());
    command.env("NOTIFY_SOCKET", lab.file("nobody"));
    let dispatcher = Dispatcher::start_by(lab, command, &[]);
    dispatcher.hear("the service manager cannot be told how this process is: ");
    assert_eq!(dispatcher.said().matches("the service manager cannot").count(), 1);
    dispatcher.stop();
}
