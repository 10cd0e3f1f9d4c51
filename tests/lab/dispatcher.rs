//! `oneip run` in a lab, and the account it gives at the end.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::network::{Lab, PATIENCE, eventually};

pub struct Dispatcher<'l> {
    lab: &'l Lab,
    host: String,
    child: Child,
    said: Heard,
    listener: JoinHandle<()>,
    counted: u64,
}

impl<'l> Dispatcher<'l> {
    /// Returns when frames are dispatched.
    pub fn start(lab: &'l Lab, options: &[&str]) -> Dispatcher<'l> {
        Dispatcher::start_with(lab, &lab.config(), options)
    }

    pub fn start_with(lab: &'l Lab, config: &Path, options: &[&str]) -> Dispatcher<'l> {
        Dispatcher::start_by(lab, run(lab, config), options)
    }

    /// `command` is one of `run`.
    pub fn start_by(lab: &'l Lab, command: Command, options: &[&str]) -> Dispatcher<'l> {
        Dispatcher::begin(lab, "dispatcher", command, options)
    }

    /// In another host.
    pub fn start_on(lab: &'l Lab, host: &str, config: &Path, options: &[&str]) -> Dispatcher<'l> {
        Dispatcher::begin(lab, host, run_on(lab, host, config), options)
    }

    fn begin(lab: &'l Lab, host: &str, mut command: Command, options: &[&str]) -> Dispatcher<'l> {
        let counted = driver_count(lab, host);
        let mut child =
            command.arg("--json").args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Heard::default();
        let (listener, ready) = said.listen(child.stderr.take().unwrap());
        let started = ready.recv_timeout(PATIENCE);
        let dispatcher = Dispatcher { lab, host: host.to_owned(), child, said, listener, counted };
        assert!(started.is_ok(), "it does not become ready: {}", dispatcher.said());
        dispatcher
    }

    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Its standard error up to now.
    pub fn said(&self) -> String {
        self.said.text()
    }

    /// Waits until it says this.
    pub fn hear(&self, text: &str) {
        eventually(&format!("it says `{text}`"), || self.said().contains(text));
    }

    pub fn stop(self) -> Account {
        self.stop_by(Signal::INT)
    }

    /// Ends it by a signal, and checks what it leaves behind and that its account balances.
    pub fn stop_by(self, signal: Signal) -> Account {
        let (lab, host, counted) = (self.lab, self.host.clone(), self.counted);
        let is_native = self.said().contains("native XDP\n");
        let count = || driver_count(lab, &host) - counted;
        let before = is_native.then(count);
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let account = self.ended();
        assert!(!is_attached_on(lab, &host), "the program is detached when the process has ended");
        if let Some(before) = before {
            // It also counts what comes when the program is off and it has not noticed yet (drivers/net/veth.c, veth_xdp_rcv).
            let by_driver = before..=count();
            let frames = account.number("frames");
            assert!(by_driver.contains(&frames), "{by_driver:?} as the driver counts: {}", account.json);
        }
        account
    }

    /// Waits until it has ended by itself, and checks that its account balances.
    pub fn ended(self) -> Account {
        let Dispatcher { mut child, said, listener, .. } = self;
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let status = child.wait().unwrap();
        listener.join().unwrap();
        let said = said.text();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!said.contains("netlink_proto"), "what a library says is no news: {said}");
        let json = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("one JSON document: {error}: {stdout}"));
        let account = Account { json, said };
        let out = account.number("forwarded") + account.dropped_total() + account.number("passed");
        assert_eq!(account.number("frames"), out, "frames in = forwarded + dropped + passed: {}", account.json);
        account
    }

    /// kill -9
    pub fn kill(self) {
        self.crash(Signal::KILL);
    }

    /// Ends it by a signal that it does not catch.
    pub fn crash(mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        self.listener.join().unwrap();
        status
    }

    /// Waits until it ends by itself, with an error. What it said, and its account.
    pub fn fail(self) -> (String, Value) {
        let Dispatcher { mut child, said, listener, .. } = self;
        eventually("it ends", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        listener.join().unwrap();
        let said = said.text();
        assert_eq!(output.status.code(), Some(1), "{said}");
        (said, serde_json::from_slice(&output.stdout).unwrap())
    }
}

/// `oneip run` in the dispatcher's network.
pub fn run(lab: &Lab, config: &Path) -> Command {
    run_on(lab, "dispatcher", config)
}

fn run_on(lab: &Lab, host: &str, config: &Path) -> Command {
    let mut command = lab.command(host, env!("CARGO_BIN_EXE_oneip"));
    command.arg("run").arg("-c").arg(config);
    command
}

/// Whether an XDP program is attached to an interface of the dispatcher's.
pub fn is_attached(lab: &Lab) -> bool {
    is_attached_on(lab, "dispatcher")
}

fn is_attached_on(lab: &Lab, host: &str) -> bool {
    lab.ip(host, "-d link show").contains("xdp")
}

/// Frames that came in while a program was attached, as the interface's driver counts them, since it was made.
fn driver_count(lab: &Lab, host: &str) -> u64 {
    let statistics = lab.sh(host, "for path in /sys/class/net/lan?; do ethtool -S ${path##*/}; done");
    let counts =
        statistics.lines().filter_map(|line| line.trim().strip_prefix("rx_queue_")?.split_once("_xdp_packets: "));
    counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
}

/// What a process has said up to now: with the time of each line, where the test fails while it runs.
#[derive(Default)]
pub struct Heard(Arc<Mutex<Vec<(SystemTime, String)>>>);

impl Heard {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Until it says nothing any more. Something comes back when it is ready.
    pub fn listen(&self, stderr: ChildStderr) -> (JoinHandle<()>, Receiver<()>) {
        let (tell, ready) = mpsc::channel();
        let said = Arc::clone(&self.0);
        let listener = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let is_ready = line == "ready";
                said.lock().unwrap().push((SystemTime::now(), line));
                if is_ready {
                    let _ = tell.send(());
                }
            }
        });
        (listener, ready)
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        if thread::panicking() {
            for (at, line) in self.0.lock().unwrap().iter() {
                eprintln!("{:.3} it said: {line}", at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64());
            }
        }
    }
}

/// What it said and counted.
pub struct Account {
    pub json: Value,
    pub said: String,
}

impl Account {
    pub fn number(&self, key: &str) -> u64 {
        self.json[key].as_u64().unwrap_or_else(|| panic!("{key} is a number: {}", self.json))
    }

    /// The frames dropped for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.json["dropped"][reason].as_u64().unwrap_or(0)
    }

    pub fn dropped_total(&self) -> u64 {
        self.json["dropped"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
    }

    /// Frames or bytes sent to a server.
    pub fn server(&self, server: &str, key: &str) -> u64 {
        self.json["servers"][server][key].as_u64().unwrap()
    }
}
