//! `oneip filter` on every server of a lab without a dispatcher, and what they say.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dispatcher::Heard;
use crate::network::{Lab, PATIENCE, SERVERS, eventually, succeed, with_health};

/// What stands in the section of the filter besides the interface.
pub const QUICK: &str = "hold_ms = 900\n";

/// The lab's configuration, with `filter` in the section of the filter and `health` in each service, for every server.
pub fn configure(lab: &Lab, filter: &str, health: &str) {
    let plain = fs::read_to_string(lab.config()).unwrap();
    let plain = plain.replacen("[filter]\n", &format!("[filter]\n{filter}"), 1);
    publish(lab, &with_health(&plain, health));
}

/// A configuration for every server: each has a socket and a state of its own.
pub fn publish(lab: &Lab, text: &str) {
    fs::write(lab.config(), text).unwrap();
    for server in SERVERS {
        let at = |end| lab.file(&format!("{server}{end}")).display().to_string();
        let own = format!("[admin]\nsocket = \"{}\"\nstate = \"{}\"\n", at(".sock"), at(".state.json"));
        fs::write(config(lab, server), text.replacen("[admin]\n", &own, 1)).unwrap();
    }
}

pub fn config(lab: &Lab, server: &str) -> PathBuf {
    lab.file(&format!("{server}.toml"))
}

/// `oneip ctl` to the filter of a server.
fn ctl(lab: &Lab, server: &str) -> Command {
    let mut ctl = Command::new(env!("CARGO_BIN_EXE_oneip"));
    ctl.args(["ctl", "--socket"]).arg(lab.file(&format!("{server}.sock")));
    ctl
}

pub struct Filter<'l> {
    lab: &'l Lab,
    pub server: &'static str,
    child: Child,
    said: Heard,
    listener: JoinHandle<()>,
}

/// On every server.
pub fn start(lab: &Lab) -> Vec<Filter<'_>> {
    let program = |server| lab.command(server, env!("CARGO_BIN_EXE_oneip"));
    let begun: Vec<_> = SERVERS.iter().map(|server| Filter::begin(lab, server, program(server), "filter")).collect();
    begun.into_iter().map(|(filter, ready)| filter.when(&ready)).collect()
}

impl<'l> Filter<'l> {
    pub fn start(lab: &'l Lab, server: &'static str) -> Filter<'l> {
        Filter::start_by(lab, server, lab.command(server, env!("CARGO_BIN_EXE_oneip")))
    }

    /// `command` is the program in the server.
    pub fn start_by(lab: &'l Lab, server: &'static str, command: Command) -> Filter<'l> {
        let (filter, ready) = Filter::begin(lab, server, command, "filter");
        filter.when(&ready)
    }

    /// `oneip decap`, which lives as a filter does.
    pub fn decap(lab: &'l Lab, server: &'static str) -> Filter<'l> {
        Filter::decap_by(lab, server, lab.command(server, env!("CARGO_BIN_EXE_oneip")))
    }

    /// As `start_by`.
    pub fn decap_by(lab: &'l Lab, server: &'static str, command: Command) -> Filter<'l> {
        let (decap, ready) = Filter::begin(lab, server, command, "decap");
        decap.when(&ready)
    }

    fn begin(lab: &'l Lab, server: &'static str, mut command: Command, verb: &str) -> (Filter<'l>, Receiver<()>) {
        command.args([verb, "--json", "-c"]).arg(config(lab, server));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Heard::default();
        let (listener, ready) = said.listen(child.stderr.take().unwrap());
        (Filter { lab, server, child, said, listener }, ready)
    }

    fn when(self, ready: &Receiver<()>) -> Filter<'l> {
        assert!(ready.recv_timeout(PATIENCE).is_ok(), "{} does not become ready: {}", self.server, self.said());
        self
    }

    /// Its standard error up to now.
    pub fn said(&self) -> String {
        self.said.text()
    }

    /// `oneip ctl ARGUMENTS`
    pub fn ctl(&self, arguments: &[&str]) -> String {
        succeed(ctl(self.lab, self.server).args(arguments))
    }

    /// As `ctl`; `Err`: the order was refused, and this is what it says.
    pub fn ctl_answer(&self, arguments: &[&str]) -> Result<String, String> {
        let said = ctl(self.lab, self.server).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        match said.status.code() {
            Some(0) => Ok(text(said.stdout)),
            code => {
                assert_eq!(code, Some(1));
                Err(text(said.stderr))
            }
        }
    }

    /// As `ctl`, of an order that is refused. What it says.
    pub fn ctl_refused(&self, arguments: &[&str]) -> String {
        self.ctl_answer(arguments).expect_err("it is refused")
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ctl(&["status", "--json"])).unwrap()
    }

    /// The state that it sees a server in.
    pub fn state(&self, server: &str) -> String {
        let status = self.status();
        let servers = status["services"][0]["servers"].as_array().unwrap();
        servers.iter().find(|known| known["name"] == server).unwrap()["state"].as_str().unwrap().to_owned()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it says to a GET request on its socket.
    pub fn get(&self, path: &str) -> String {
        let socket = self.lab.file(&format!("{}.sock", self.server));
        succeed(Command::new("curl").args(["-s", "--unix-socket"]).arg(socket).arg(format!("http://localhost{path}")))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn child(&self) -> &Child {
        &self.child
    }

    /// kill -9
    pub fn kill(self) {
        self.crash(Signal::KILL);
    }

    /// Ends it by a signal that it does not catch.
    pub fn crash(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        self.listener.join().unwrap();
        status
    }

    /// Waits until it ends by itself, with an error. What it said.
    pub fn fail(mut self) -> String {
        eventually("it ends", || self.has_ended());
        let code = self.child.wait().unwrap().code();
        self.listener.join().unwrap();
        let said = self.said.text();
        assert_eq!(code, Some(1), "{said}");
        said
    }

    /// Its account, which balances.
    pub fn stop(self) -> Value {
        self.stop_and_hear().0
    }

    /// As `stop`; and all that it said.
    pub fn stop_and_hear(self) -> (Value, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let output = self.child.wait_with_output().unwrap();
        self.listener.join().unwrap();
        let said = self.said.text();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(!said.contains("stay behind"), "{said}");
        let account: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |value: &Value| value.as_u64().unwrap();
        let dropped: u64 = account["dropped"].as_object().unwrap().values().map(number).sum();
        let sum = number(&account["forwarded"]) + dropped + number(&account["passed"]);
        assert_eq!(number(&account["frames"]), sum, "{account}");
        (account, said)
    }
}
