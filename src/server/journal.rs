//! What `oneip server add` has changed on this host, so that `remove` undoes exactly that.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tunnel::End;
use super::{Error, Membership, Setting, Step};
use crate::model::Prefix;

/// Ends with the boot, as what it remembers does.
const DIRECTORY: &str = "/run/oneip";

/// The file `/run/oneip/server-<inode of the network namespace>.json`; none while there is nothing to undo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// The aliases that `add` put on `lo`, and the prefixes that it made local.
    pub addresses: Vec<Prefix>,
    /// The settings that `add` changed, in its order.
    pub settings: Vec<Setting>,
    /// The groups that `add` joined.
    #[serde(default)]
    pub groups: Vec<Membership>,
    /// The ends of tunnels that `add` opened, in its order.
    #[serde(default)]
    pub ends: Vec<End>,
}

impl Journal {
    pub fn load() -> Result<Journal, Error> {
        let path = path()?;
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| Error::Journal { path, reason: error.to_string() })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Journal::default()),
            Err(source) => Err(Error::File { doing: "read", path, source }),
        }
    }

    /// Replaces the file whole, or removes it when nothing is left to undo.
    pub fn save(&self) -> Result<(), Error> {
        let path = path()?;
        if *self == Journal::default() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(Error::File { doing: "remove", path, source: error })
                }
                _ => Ok(()),
            };
        }
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(DIRECTORY)?;
            let mut file = tempfile::NamedTempFile::new_in(DIRECTORY)?;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|source| Error::File { doing: "write", path: path.clone(), source })
    }

    /// Adds what `steps` are about to do. A setting that has to be changed once more was changed by someone else in
    /// between: it is their value that returns.
    pub fn record(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Add(address) if !self.addresses.contains(address) => self.addresses.push(*address),
                Step::Write(setting) => {
                    self.settings.retain(|old| old.path != setting.path);
                    self.settings.push(setting.clone());
                }
                Step::Open(end) if !self.ends.contains(end) => self.ends.push(*end),
                Step::Join(membership) if !self.groups.contains(membership) => self.groups.push(membership.clone()),
                _ => {}
            }
        }
    }

    /// Whether `add` had put this on `lo`.
    pub fn forget(&mut self, address: Prefix) -> bool {
        let count = self.addresses.len();
        self.addresses.retain(|&held| held != address);
        self.addresses.len() < count
    }
}

fn path() -> Result<PathBuf, Error> {
    // Of this thread: its namespace need not be the process's.
    let namespace = Path::new("/proc/thread-self/ns/net");
    let inode = fs::metadata(namespace)
        .map_err(|source| Error::File { doing: "look at", path: namespace.to_owned(), source })?
        .ino();
    Ok(Path::new(DIRECTORY).join(format!("server-{inode}.json")))
}
