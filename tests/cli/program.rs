//! The program, run to its end.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// The key is SipHash's published one, 00 01 .. 0f. web1 and web3 come in several services.
pub const CONFIG: &str = r#"[cluster]
hash_key = "000102030405060708090a0b0c0d0e0f"

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

[[service.server]]
name = "web3"
address = "192.0.2.13"
mac = "02:00:00:00:00:13"

[[service]]
name = "web6"
address = "2001:db8:80::80"
ports = ["tcp/80"]
slots = 1009

[[service.server]]
name = "web1"
address = "2001:db8:2::11"
mac = "02:00:00:00:00:11"

[[service.server]]
name = "web3"
address = "2001:db8:2::13"
mac = "02:00:00:00:00:13"
weight = 3

[[service]]
name = "plain"
address = "203.0.113.81"
selection = "modulo"

[[service.server]]
name = "web1"
address = "192.0.2.11"
mac = "02:00:00:00:00:11"

[[service.server]]
name = "web2"
address = "192.0.2.12"
mac = "02:00:00:00:00:12"

[[service.server]]
name = "web3"
address = "192.0.2.13"
mac = "02:00:00:00:00:13"
"#;

/// What a process said, and how it exited.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Standard output of a success.
    pub fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// Standard error of a failure, whose first line is the error, without that line's `error: `.
    pub fn failed(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{}", self.err);
        self.err.strip_prefix("error: ").unwrap_or_else(|| panic!("the first line is the error: {}", self.err)).into()
    }
}

/// A folder with `oneip.toml` in it, where the program runs.
pub struct Folder(TempDir);

impl Folder {
    pub fn with(config: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        fs::write(folder.path("oneip.toml"), config).unwrap();
        // There is a key in it.
        fs::set_permissions(folder.path("oneip.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        folder
    }

    pub fn new() -> Folder {
        Folder::with(CONFIG)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of the files, in order.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `oneip VERB -c oneip.toml ARGUMENTS`
    pub fn command(&self, verb: &str, arguments: &str) -> Command {
        let mut command = oneip(verb);
        command.current_dir(self.0.path()).args(["-c", "oneip.toml"]).args(arguments.split_whitespace());
        command
    }

    pub fn run(&self, verb: &str, arguments: &str) -> Ended {
        self.run_on(verb, arguments, "")
    }

    /// With `input` on standard input.
    pub fn run_on(&self, verb: &str, arguments: &str, input: &str) -> Ended {
        ended(&mut self.command(verb, arguments), input)
    }
}

pub fn oneip(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
    command.args(arguments.split_whitespace());
    command
}

pub fn ended(command: &mut Command, input: &str) -> Ended {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // It may be through before it has read everything.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    })
}
