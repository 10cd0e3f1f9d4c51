//! The state file: what a restart needs to go on as before. What operators have set, the last verdicts, which servers are leaving,
//! and which slots are moving, from whom and until when. A standby that has the file's content goes on likewise.
//!
//! It is written by a thread of its own, so that a disk that hangs keeps nobody waiting but an operator whose order must be
//! remembered. A file is whole or not there. Times are of the wall clock: another boot has another monotonic one. In the same boot the file tells both.

use super::denials::Denials;
use super::health::Known;
use super::overrides::{Overrides, Withdrawn};
use crate::hash::{Key, siphash};
use crate::host::{clock, document, privileges};
use crate::limits::{MAX_WEIGHT, STATE_AGAIN, STATE_LAST_NS, STATE_MOST};
use crate::model::{HashKey, Server};
use crate::table::build::History;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io, thread};

/// What is remembered. Times of changes and of leaving are of the ports' clock here, and of the wall clock in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// What operators have set.
    #[serde(flatten)]
    pub orders: Overrides,
    #[serde(default)]
    pub withdrawn: Withdrawn,
    /// What operators deny.
    #[serde(default)]
    pub denied: Denials,
    #[serde(default)]
    pub verdicts: Vec<Known>,
    /// What counts in the group, where that is not what this process's own checks have found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreed: Vec<Known>,
    #[serde(default)]
    pub leaving: Vec<Leaving>,
    #[serde(default)]
    pub changes: Vec<OpenChange>,
    /// Whose slots those are: a fingerprint of the hash key.
    #[serde(default)]
    pub key: String,
}

/// A server that a reload removed, and that keeps its connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaving {
    pub service: String,
    #[serde(with = "ServerFacts")]
    pub server: Server,
    /// Nanoseconds.
    pub until: u64,
}

/// Slots that are moving.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenChange {
    pub service: String,
    pub history: History,
}

impl Remembered {
    /// Whether a process can go on with it. Its times are of the wall clock.
    fn check(&self) -> Result<(), String> {
        let weights = self.orders.all().filter_map(|set| set.weight);
        if let Some(weight) = weights.max().filter(|weight| *weight > MAX_WEIGHT) {
            return Err(format!("a server has `weight` {weight}, which is more than {MAX_WEIGHT}"));
        }
        let mut known = HashSet::new();
        if let Some(twice) = self.leaving.iter().find(|left| {
            !known.insert((&left.service, Ok(left.server.address)))
                | !known.insert((&left.service, Err(&left.server.name)))
        }) {
            return Err(format!("server {} of service {} is `leaving` twice", twice.server.name, twice.service));
        }
        for OpenChange { service, history } in &self.changes {
            history.check().map_err(|error| format!("the `history` of service {service}: {error}"))?;
        }
        let seconds = self.orders.all().filter_map(|set| set.drained_until);
        let late = |at: &u64| *at > STATE_LAST_NS;
        let mut times =
            self.leaving.iter().map(|left| left.until).chain(self.changes.iter().flat_map(|open| open.history.times()));
        let of_server = seconds.map(|at| at.saturating_mul(1_000_000_000)).find(late);
        match of_server.or_else(|| times.find(late)) {
            Some(at) => Err(format!("it has a time that is {} years after 1970", at / 1_000_000_000 / 31_556_952)),
            None => Ok(()),
        }
    }

    /// With its times on another clock.
    fn on_clock(mut self, to: impl Fn(u64) -> u64) -> Remembered {
        self.leaving.iter_mut().for_each(|left| left.until = to(left.until));
        let on_clock = |OpenChange { service, history }| OpenChange { service, history: history.on_clock(&to) };
        self.changes = self.changes.into_iter().map(on_clock).collect();
        self
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Server")]
struct ServerFacts {
    name: String,
    address: std::net::IpAddr,
    mac: Option<crate::model::Mac>,
    weight: u32,
    #[serde(default, skip_serializing_if = "crate::model::Tags::are_as_received")]
    tags: crate::model::Tags,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    quic_ids: Vec<crate::model::ServerId>,
}

/// Tells keys apart, and tells nothing of them.
pub fn fingerprint(key: HashKey) -> String {
    format!("{:016x}", siphash::bytes(Key::from(key), b"oneip state file"))
}

#[derive(Serialize, Deserialize)]
struct Content {
    /// Whose it is: the path of the configuration.
    config: PathBuf,
    /// When it was written last, in seconds since 1970; each `STATE_AGAIN` at least, while the process lives.
    #[serde(default)]
    written: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clocks: Option<Clocks>,
    #[serde(flatten)]
    remembered: Remembered,
}

/// The clocks that its times were made with. The wall clock may jump: in the same boot it is not asked again.
#[derive(Clone, Serialize, Deserialize)]
struct Clocks {
    boot: String,
    /// So far was the wall clock ahead of the ports' clock.
    ahead_ns: u64,
}

impl Clocks {
    fn now() -> Clocks {
        let ahead_ns = (since_1970().as_nanos() as u64).saturating_sub(clock::now_ns());
        Clocks { boot: clock::boot().unwrap_or_default().to_owned(), ahead_ns }
    }

    /// Whether its times are of the ports' clock that there is.
    fn are_ours(&self) -> bool {
        clock::boot().is_some_and(|boot| boot == self.boot)
    }

    /// A time of the ports' clock in nanoseconds since 1970, and back. What is before this boot is its beginning.
    fn in_wall_ns(&self, at: u64) -> u64 {
        at.saturating_add(self.ahead_ns)
    }

    fn in_port_ns(&self, at: u64) -> u64 {
        at.saturating_sub(self.ahead_ns)
    }
}

/// Where it is, and whose.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    config: PathBuf,
}

impl StateFile {
    /// Remembers for the process of that configuration.
    pub fn new(path: &Path, config: &Path) -> StateFile {
        StateFile { path: path.to_owned(), config: config.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was remembered, and how long ago that was true. `Err`: why nothing is, in words; the configuration alone holds then.
    pub fn load(&self) -> Result<(Remembered, Duration), String> {
        let path = self.path.display();
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(format!("the state file {path} cannot be read: {error}")),
        };
        let content: Content =
            serde_json::from_str(&text).map_err(|error| format!("the state file {path} is damaged: {error}"))?;
        if content.config != self.config {
            let other = content.config.display();
            return Err(format!("the state file {path} belongs to the configuration {other}"));
        }
        content.remembered.check().map_err(|error| format!("the state file {path} is damaged: {error}"))?;
        let clocks = content.clocks.filter(Clocks::are_ours).unwrap_or_else(Clocks::now);
        let now = Duration::from_nanos(clocks.in_wall_ns(clock::now_ns()));
        let age = now.saturating_sub(Duration::from_secs(content.written));
        Ok((content.remembered.on_clock(|at| clocks.in_port_ns(at)), age))
    }

    /// # Errors
    /// In words; the file is as it was.
    pub fn save(&self, remembered: &Remembered) -> Result<(), String> {
        let clocks = Clocks::now();
        let remembered = remembered.clone().on_clock(|at| clocks.in_wall_ns(at));
        let (config, written) = (self.config.clone(), since_1970().as_secs());
        let content = Content { config, written, clocks: Some(clocks), remembered };
        document::write(&self.path, &content)
            .map_err(|error| format!("the state file {} cannot be written: {error}", self.path.display()))
    }
}

/// Writes the file from a thread of its own.
pub struct StateWriter {
    requests: Sender<Request>,
    done: Receiver<()>,
    path: PathBuf,
    last: Remembered,
    /// Whether `last` may not be written yet.
    is_pending: bool,
}

struct Request {
    remembered: Remembered,
    /// Where what came of it goes, if somebody waits.
    to: Option<Sender<Result<(), String>>>,
}

impl StateWriter {
    /// `last` is what stands in the file.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(file: StateFile, last: Remembered) -> io::Result<StateWriter> {
        let ((requests, inbox), (end, done)) = (channel(), channel());
        let path = file.path.clone();
        let first = last.clone();
        thread::Builder::new().name("oneip-state".into()).spawn(move || {
            if let Err(error) = privileges::keep(&[]) {
                tracing::warn!(%error, "the thread that writes the state file keeps privileges that it does not need");
            }
            write_all(&file, first, &inbox, STATE_AGAIN);
            drop(end);
        })?;
        Ok(StateWriter { requests, done, path, last, is_pending: false })
    }

    /// Has it written soon. Waits for nobody; what cannot be written is in the log.
    pub fn note(&mut self, remembered: Remembered) {
        if remembered != self.last {
            self.last = remembered.clone();
            self.is_pending = true;
            let _ = self.requests.send(Request { remembered, to: None });
        }
    }

    /// Has it written now.
    ///
    /// # Errors
    /// In words; the file is as it was, or that is not known within `STATE_MOST`.
    pub fn confirm(&mut self, remembered: Remembered) -> Result<(), String> {
        if remembered == self.last && !self.is_pending {
            return Ok(());
        }
        let (to, answer) = channel();
        let path = self.path.display();
        let request = Request { remembered: remembered.clone(), to: Some(to) };
        self.requests.send(request).map_err(|_| format!("the state file {path} cannot be written any more"))?;
        let Ok(written) = answer.recv_timeout(STATE_MOST) else {
            // It may be written yet, though it is refused: what was before comes after it.
            let _ = self.requests.send(Request { remembered: self.last.clone(), to: None });
            return Err(format!("the state file {path} was not written within {STATE_MOST:?}: its disk hangs"));
        };
        written?;
        (self.last, self.is_pending) = (remembered, false);
        Ok(())
    }

    /// Waits until all is written; not for a disk that hangs.
    pub fn close(self) {
        let StateWriter { requests, done, path, .. } = self;
        drop(requests);
        if done.recv_timeout(STATE_MOST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the state file {} was not written to the end: its disk hangs", path.display());
        }
    }
}

/// `last` is what stands in the file, or shall; it is written again after each `again` in which nothing comes.
fn write_all(file: &StateFile, mut last: Remembered, inbox: &Receiver<Request>, again: Duration) {
    let mut is_told = false;
    loop {
        let mut waiting = Vec::new();
        match inbox.recv_timeout(again) {
            Ok(request) => waiting.push(request),
            Err(RecvTimeoutError::Timeout) => _ = file.save(&last),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        waiting.extend(inbox.try_iter());
        let mut waiting = waiting.into_iter().peekable();
        while let Some(Request { remembered, to }) = waiting.next() {
            // Of several that nobody waits for the last one is enough.
            if to.is_none() && waiting.peek().is_some_and(|next| next.to.is_none()) {
                continue;
            }
            let saved = file.save(&remembered);
            // What somebody waits for and cannot be written is refused, and must not be written later.
            if saved.is_ok() || to.is_none() {
                last = remembered;
            }
            match (to, &saved) {
                (Some(to), _) => _ = to.send(saved),
                (None, Err(error)) if !is_told => {
                    tracing::warn!("{error}: after a restart, orders and the progress of changes would be lost");
                    is_told = true;
                }
                (None, _) => is_told = saved.is_err(),
            }
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since 1970, `time` from now.
pub fn in_wall_time(time: Duration) -> u64 {
    (since_1970() + time).as_secs()
}

/// How long it is until then.
pub fn from_wall_time(until: u64) -> Duration {
    Duration::from_secs(until).saturating_sub(since_1970())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::denials::Denied;
    use crate::control::health::Verdict;
    use crate::control::overrides::Override;

    fn some() -> Remembered {
        let drained = Override { drained_until: Some(1_800_000_000), ..Override::default() };
        let other = Override { disabled: true, weight: Some(0), ..Override::default() };
        let web3 = Server {
            name: "web3".into(),
            address: "192.0.2.13".parse().unwrap(),
            mac: None,
            weight: 0,
            tags: crate::model::Tags::Vlan(100),
            quic_ids: vec!["c4605e".parse().unwrap()],
        };
        let history = serde_json::json!({
            "configurations": [{
                "servers": [{ "name": "web3", "address": "192.0.2.13", "weight": 2 }],
                "leaving": 0, "slots": 65_537, "flow": false, "modulo": false,
            }],
            "steps": [
                { "configuration": 0, "states": ["t"], "at": 1_000_000_000u64, "until": 9_000_000_000u64 },
                {
                    "configuration": 0, "states": "k", "at": 2_000_000_000u64, "until": 9_000_000_000u64,
                    "prolonged": 9_000_000_000u64,
                },
            ],
        });
        let history = serde_json::from_value(history).unwrap();
        Remembered {
            orders: Overrides::new(
                [("web1".to_owned(), drained), ("web2".to_owned(), other)].into(),
                [(("web".to_owned(), "web2".to_owned()), drained)],
            ),
            denied: Denials(vec![Denied {
                prefix: "198.51.100.0/24".parse().expect("a prefix"),
                service: Some("web".into()),
                until: Some(2_000_000_000),
            }]),
            withdrawn: Withdrawn { all: false, services: ["web".to_owned()].into() },
            verdicts: vec![Known {
                service: "web".into(),
                server: "web1".into(),
                address: "192.0.2.11".parse().unwrap(),
                verdict: Verdict::Held,
                since: 1_790_000_000,
                hold_s: Some(20),
            }],
            agreed: vec![Known {
                service: "web".into(),
                server: "web2".into(),
                address: "192.0.2.12".parse().unwrap(),
                verdict: Verdict::Down,
                since: 0,
                hold_s: None,
            }],
            leaving: vec![Leaving { service: "web".into(), server: web3, until: 5_000_000_000 }],
            changes: vec![OpenChange { service: "web".into(), history }],
            key: fingerprint(HashKey([7; 16])),
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = StateFile::new(&folder.path().join("new/state.json"), Path::new("/etc/oneip.toml"));
        assert_eq!(file.load(), Ok(Default::default()), "there is none yet");
        file.save(&some()).expect("saved");
        let (loaded, age) = file.load().expect("it is there");
        let seconds = |remembered: Remembered| remembered.on_clock(|at| (at + 500_000_000) / 1_000_000_000);
        assert_eq!(seconds(loaded), seconds(some()));
        assert!(age < Duration::from_secs(60), "{age:?}");
        file.save(&Remembered::default()).expect("saved");
        assert_eq!(file.load().expect("it is there").0, Remembered::default());
        let left = fs::read_dir(folder.path().join("new")).expect("a directory").count();
        assert_eq!(left, 1, "no file of the making is left");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_told_and_ignored() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("state.json");
        let file = StateFile::new(&path, Path::new("/etc/oneip.toml"));
        for text in
            ["", "{", "{\"config\":\"/etc/oneip.toml\"}", "{\"config\":\"x\",\"servers\":{\"a\":{\"wieght\":1}}}"]
        {
            fs::write(&path, text).expect("written");
            let error = file.load().expect_err(text);
            assert!(error.contains("is damaged") && error.contains("state.json"), "{error}");
        }
        StateFile::new(&path, Path::new("/etc/other.toml")).save(&some()).expect("saved");
        let error = file.load().expect_err("another's");
        assert!(error.ends_with("belongs to the configuration /etc/other.toml"), "{error}");
        fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).expect("a directory in its place");
        assert!(file.load().expect_err("a directory").contains("cannot be read"));
        assert!(file.save(&some()).expect_err("a directory").contains("cannot be written"));
    }

    #[test]
    fn what_an_earlier_version_has_written_is_read() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("state.json");
        fs::write(&path, r#"{"config":"/etc/oneip.toml","servers":{"web1":{"disabled":true}}}"#).expect("written");
        let (loaded, age) = StateFile::new(&path, Path::new("/etc/oneip.toml")).load().expect("it is whole");
        assert!(loaded.orders.get("any", "web1").disabled && loaded.verdicts.is_empty());
        assert!(age > Duration::from_secs(1_000_000_000), "nobody knows how old it is: {age:?}");
    }

    #[test]
    fn a_writer_writes_the_last_of_what_it_is_told_and_says_whether_it_could() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = StateFile::new(&folder.path().join("sub/state.json"), Path::new("/etc/oneip.toml"));
        let load = || file.load().expect("it is whole").0.on_clock(|at| (at + 500_000_000) / 1_000_000_000);
        let some = || Remembered { changes: Vec::new(), leaving: Vec::new(), ..some() };
        let mut writer = StateWriter::start(file.clone(), Remembered::default()).expect("a thread");
        for key in 0..200 {
            writer.note(Remembered { key: key.to_string(), ..Remembered::default() });
        }
        writer.confirm(some()).expect("it is written");
        assert_eq!(load(), some());
        let last = Remembered { key: "last".into(), ..some() };
        writer.note(last.clone());
        writer.close();
        assert_eq!(load(), last);

        let blocked = folder.path().join("file");
        fs::write(&blocked, "no directory").expect("written");
        let file = StateFile::new(&blocked.join("state.json"), Path::new("/etc/oneip.toml"));
        let mut writer = StateWriter::start(file, Remembered::default()).expect("a thread");
        let error = writer.confirm(some()).expect_err("there is no such directory");
        assert!(error.contains("cannot be written"), "{error}");
        writer.close();
    }

    #[test]
    fn what_could_not_be_written_and_was_refused_is_not_written_later() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("directory");
        fs::write(&directory, "in its way").expect("written");
        let file = StateFile::new(&directory.join("state.json"), Path::new("/etc/oneip.toml"));
        let first = Remembered { key: "first".into(), ..Remembered::default() };
        let (requests, inbox) = channel();
        thread::scope(|scope| {
            let (of_thread, first) = (file.clone(), first.clone());
            scope.spawn(move || write_all(&of_thread, first, &inbox, Duration::from_millis(10)));
            let (to, answer) = channel();
            let refused = Remembered { key: "refused".into(), ..Remembered::default() };
            requests.send(Request { remembered: refused, to: Some(to) }).expect("it lives");
            answer.recv().expect("it answers").expect_err("there is no such directory");
            fs::remove_file(&directory).expect("it was there");
            while !directory.join("state.json").exists() {
                thread::sleep(Duration::from_millis(1));
            }
            drop(requests);
        });
        assert_eq!(file.load().expect("it is whole").0, first);
    }

    #[test]
    fn wall_clock_times_come_back() {
        let (at, clocks) = (clock::now_ns() + 5_000_000_000, Clocks::now());
        assert_eq!(clocks.in_port_ns(clocks.in_wall_ns(at)), at);
        assert_eq!(clocks.in_port_ns(1), 0);
    }

    /// A process that comes after one whose wall clock was 90 s ahead of its own.
    #[test]
    fn in_the_same_boot_a_wall_clock_that_has_jumped_changes_nothing() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("state.json");
        let file = StateFile::new(&path, Path::new("/etc/oneip.toml"));
        file.save(&Remembered { changes: Vec::new(), ..some() }).expect("saved");
        let text = fs::read_to_string(&path).expect("it is there");
        let mut written: serde_json::Value = serde_json::from_str(&text).expect("a document");
        let later = |value: &mut serde_json::Value, by: u64| *value = (value.as_u64().expect("a time") + by).into();
        later(&mut written["written"], 90);
        later(&mut written["clocks"]["ahead_ns"], 90_000_000_000);
        later(&mut written["leaving"][0]["until"], 90_000_000_000);
        fs::write(&path, written.to_string()).expect("written");
        let (loaded, age) = file.load().expect("it is whole");
        assert_eq!(loaded.leaving[0].until, some().leaving[0].until, "to the nanosecond");
        assert!(age < Duration::from_secs(60), "{age:?}");
        // In another boot nothing but the wall clock tells.
        written["clocks"]["boot"] = "another".into();
        fs::write(&path, written.to_string()).expect("written");
        let (loaded, age) = file.load().expect("it is whole");
        let off = loaded.leaving[0].until.abs_diff(some().leaving[0].until + 90_000_000_000);
        assert!(off < 60_000_000_000 && age == Duration::ZERO, "{off} {age:?}");
    }
}
