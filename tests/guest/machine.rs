//! The guest of `scripts/guest.sh --nic`, which is a lab's dispatcher, and commands in it.

use crate::network::{Lab, say};
use crate::pages::{Fence, fences, root};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Longest wait for the end of a command in a guest, and for a guest to come up: emulation is slow, and so may the machine be.
const GUEST_PATIENCE: Duration = Duration::from_secs(150);

/// A guest that runs. Dropped, it is powered off.
pub struct Guest<'l> {
    lab: &'l Lab,
    nic: String,
    machine: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// All that it has said, for a test that fails.
    said: Arc<Mutex<String>>,
    commands: u32,
}

impl<'l> Guest<'l> {
    /// With this NIC in the place of the lab's dispatcher, or of another host by `--host`, and these options of the script. `None` where kernel or qemu cannot be had, and it says so.
    pub fn boot(lab: &'l Lab, nic: &str, queues: u32, options: &[&str]) -> Option<Guest<'l>> {
        let guest = || {
            let mut command = Command::new("scripts/guest.sh");
            command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["--nic", nic]);
            command
        };
        let fetched = guest().arg("--fetch").output().unwrap();
        if !fetched.status.success() {
            say(&format!("SKIPPED: there is no guest: {}", String::from_utf8_lossy(&fetched.stderr)));
            return None;
        }
        let name = lab.namespace("lan").strip_suffix("-lan").unwrap().to_owned();
        let mut machine = guest()
            .args(["--lab", &name, "--queues", &queues.to_string(), "--minutes", "20"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (tell, lines) = mpsc::channel();
        listen(machine.stdout.take().unwrap(), Arc::clone(&said), move |line| drop(tell.send(line)));
        listen(machine.stderr.take().unwrap(), Arc::clone(&said), |_| ());
        let input = machine.stdin.take().unwrap();
        let guest = Guest { lab, nic: nic.to_owned(), machine, input, lines, said, commands: 0 };
        while guest.line("boot") != "the guest is up" {}
        Some(guest)
    }

    /// What a shell command says; it succeeds.
    pub fn run(&mut self, command: &str) -> String {
        self.commands += 1;
        let mark = format!("guest-command-{}-ended", self.commands);
        writeln!(self.input, "{{ {command}; }} </dev/null 2>&1; echo; echo {mark} $?").unwrap();
        let mut said = String::new();
        loop {
            let line = self.line(command);
            if let Some(status) = line.strip_prefix(&mark) {
                assert_eq!(status.trim(), "0", "{command}: {said}\nthe guest said:\n{}", self.said());
                return said.trim().to_owned();
            }
            said += &line;
            said.push('\n');
        }
    }

    /// Runs the blocks of that kind on all pages as they stand there, so many.
    pub fn read(&mut self, kind: &str, count: usize) {
        let mut pages: Vec<PathBuf> =
            std::fs::read_dir(root().join("docs")).unwrap().map(|of| of.unwrap().path()).collect();
        pages.sort();
        let blocks: Vec<Fence> = pages.iter().flat_map(fences).filter(|block| block.info == kind).collect();
        assert_eq!(blocks.len(), count, "blocks of the kind `{kind}`");
        for Fence { body, place, .. } in blocks {
            say(&place);
            for line in body.lines() {
                self.run(line);
            }
        }
    }

    /// What comes next, of a command.
    fn line(&self, command: &str) -> String {
        let line = self.lines.recv_timeout(GUEST_PATIENCE);
        line.unwrap_or_else(|_| panic!("{command}: no end of it; the guest said:\n{}", self.said()))
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// `oneip run` in the guest, with the lab's configuration and this in its section `[dispatcher]`. What it says up to `ready`.
    pub fn start(&mut self, settings: &str, options: &str) -> String {
        let text = std::fs::read_to_string(self.lab.config()).unwrap();
        self.start_with(&text.replace("[dispatcher]\n", &format!("[dispatcher]\n{settings}\n")), options)
    }

    /// `oneip run` in the guest, with this configuration. What it says up to `ready`.
    pub fn start_with(&mut self, config: &str, options: &str) -> String {
        self.begin("run", config, options)
    }

    /// As `start_with`, of `oneip run` or `oneip filter`.
    pub fn begin(&mut self, verb: &str, config: &str, options: &str) -> String {
        let file = self.config();
        crate::network::write_config(&file, config);
        self.run(&format!(
            "rm -f /tmp/said; {} {verb} -c {} --json {options} >/tmp/account 2>/tmp/said & echo $! >/tmp/process",
            oneip(),
            file.display()
        ));
        self.run(
            "for ((t = 0; t < 600; t++)); do if grep -q ^ready /tmp/said || ! kill -0 $(cat /tmp/process); then break; fi; sleep 0.1; done; \
             cat /tmp/said; grep -q ^ready /tmp/said",
        )
    }

    /// The configuration of what is started.
    fn config(&self) -> PathBuf {
        self.lab.file("guest.toml")
    }

    /// `oneip check` of what was started last.
    #[cfg(feature = "dpdk")]
    pub fn check(&mut self) -> String {
        let config = self.config();
        self.run(&format!("{} check -c {}", oneip(), config.display()))
    }

    /// Plugs the NIC's cable in, or pulls it out.
    pub fn set_link(&self, on: bool) {
        let mut monitor = UnixStream::connect(self.lab.file("guest-monitor")).unwrap();
        writeln!(monitor, "set_link n0 {}", if on { "on" } else { "off" }).unwrap();
        // It prompts when it has read the command.
        let mut said = String::new();
        let mut lines = BufReader::new(monitor);
        while said.matches("(qemu)").count() < 2 {
            let mut byte = [0];
            lines.read_exact(&mut byte).unwrap();
            said.push(byte[0] as char);
        }
    }

    /// What `oneip run` has said since it was started.
    pub fn heard(&mut self) -> String {
        self.run("cat /tmp/said")
    }

    /// `oneip ctl status --json`
    pub fn status(&mut self) -> Value {
        let socket = self.lab.file("oneip.sock");
        let said = self.run(&format!("{} ctl --socket {} status --json", oneip(), socket.display()));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// Ends `oneip run` by a signal, and returns when it is gone.
    pub fn end(&mut self, signal: &str) {
        self.run(&format!(
            "kill -{signal} $(cat /tmp/process); while kill -0 $(cat /tmp/process) 2>/dev/null; do sleep 0.1; done"
        ));
    }

    /// Ends it by SIGINT; its account, which balances.
    pub fn stop(&mut self) -> Value {
        self.run("kill -INT $(cat /tmp/process)");
        self.ended()
    }

    /// The account, which balances, of a process that ends.
    pub fn ended(&mut self) -> Value {
        self.run("for ((t = 0; t < 600; t++)); do if ! kill -0 $(cat /tmp/process) 2>/dev/null; then break; fi; sleep 0.1; done");
        self.account("/tmp/account")
    }

    /// `oneip run --takeover` with the configuration of what runs, which ends; its account, which balances.
    pub fn take_over(&mut self) -> Value {
        let config = std::fs::read_to_string(self.config()).unwrap();
        self.run("mv /tmp/account /tmp/account-before");
        let said = self.start_with(&config, "--takeover");
        assert!(said.contains("taken over from the process before"), "{said}");
        self.account("/tmp/account-before")
    }

    fn account(&mut self, file: &str) -> Value {
        let said = self.run(&format!("cat {file}"));
        let account: Value =
            serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}\n{}", self.heard()));
        let number = |value: &Value| value.as_u64().unwrap();
        let dropped: u64 = account["dropped"].as_object().unwrap().values().map(number).sum();
        let out = number(&account["forwarded"]) + dropped + number(&account["passed"]);
        assert_eq!(number(&account["frames"]), out, "frames in = forwarded + dropped + passed: {account}");
        self.report(&account);
        account
    }

    /// Adds a row to the file that `ONEIP_REPORT` names, if it does: the test, the NIC, the kernel, the engine, and the account.
    fn report(&mut self, account: &Value) {
        let Some(file) = std::env::var_os("ONEIP_REPORT") else { return };
        let (kernel, heard) = (self.run("uname -r"), self.heard());
        let engine = heard.lines().find_map(|line| line.strip_prefix("  engine     ")).unwrap_or_default();
        let dropped: Vec<String> = account["dropped"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let test = thread::current().name().unwrap_or_default().replace('_', " ");
        let counts = ["frames", "forwarded", "passed"].map(|key| account[key].to_string());
        let row = format!(
            "| {test} | {} | {kernel} | {engine} | {} | {} |\n",
            self.nic,
            counts.join(" | "),
            dropped.join(", ")
        );
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        file.and_then(|mut file| file.write_all(row.as_bytes())).unwrap();
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "exit");
        let ended = (0..300).any(|_| {
            thread::sleep(Duration::from_millis(100));
            self.machine.try_wait().unwrap().is_some()
        });
        if !ended {
            kill_process_group(Pid::from_child(&self.machine), Signal::TERM).unwrap();
            let _ = self.machine.wait();
        }
    }
}

/// The binary that is tested, by its path, which is the same in the guest.
fn oneip() -> String {
    PathBuf::from(env!("CARGO_BIN_EXE_oneip")).display().to_string()
}

fn listen(from: impl Read + Send + 'static, said: Arc<Mutex<String>>, mut tell: impl FnMut(String) + Send + 'static) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let line = line.trim_end_matches('\r').to_owned();
            *said.lock().unwrap() += &format!("{line}\n");
            tell(line);
        }
    });
}
