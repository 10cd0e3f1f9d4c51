//! What operators have set beside the configuration, by the names of servers, and the file that remembers it across
//! restarts.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};
use tempfile::NamedTempFile;

/// What was set for one server, in every service that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// It takes no new clients; seconds since 1970 until when it keeps the connections it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_until: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// In place of the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// By name of the server; none is empty.
pub type Overrides = BTreeMap<String, Override>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// Whose overrides these are: the path of the configuration.
    config: PathBuf,
    servers: Overrides,
}

/// The file. It is written anew at each change, whole or not at all.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    config: PathBuf,
}

impl StateFile {
    /// Remembers for the dispatcher of that configuration.
    pub fn new(path: &Path, config: &Path) -> StateFile {
        StateFile { path: path.to_owned(), config: config.to_owned() }
    }

    /// What was remembered. `Err`: why nothing is, in words; the configuration alone holds then.
    pub fn load(&self) -> Result<Overrides, String> {
        let path = self.path.display();
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Overrides::new()),
            Err(error) => return Err(format!("the state file {path} cannot be read: {error}")),
        };
        let content: Content =
            serde_json::from_str(&text).map_err(|error| format!("the state file {path} is damaged: {error}"))?;
        if content.config != self.config {
            let other = content.config.display();
            return Err(format!("the state file {path} belongs to the configuration {other}"));
        }
        Ok(content.servers)
    }

    /// # Errors
    /// In words; the file is as it was.
    pub fn save(&self, servers: &Overrides) -> Result<(), String> {
        let content = Content { config: self.config.clone(), servers: servers.clone() };
        self.write(&content)
            .map_err(|error| format!("the state file {} cannot be written: {error}", self.path.display()))
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, content)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        fs::File::open(folder)?.sync_all()
    }
}

/// Seconds since 1970, `time` from now.
pub fn in_wall_time(time: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now + time).as_secs()
}

/// How long it is until then.
pub fn from_wall_time(until: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(until).saturating_sub(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Overrides {
        let drained = Override { drained_until: Some(1_800_000_000), ..Override::default() };
        let other = Override { disabled: true, weight: Some(0), ..Override::default() };
        Overrides::from([("web1".to_owned(), drained), ("web2".to_owned(), other)])
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = StateFile::new(&folder.path().join("new/state.json"), Path::new("/etc/oneip.toml"));
        assert_eq!(file.load(), Ok(Overrides::new()), "there is none yet");
        file.save(&some()).expect("saved");
        assert_eq!(file.load(), Ok(some()));
        file.save(&Overrides::new()).expect("saved");
        assert_eq!(file.load(), Ok(Overrides::new()));
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
}
