//! A file that appears all at once or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file in the making.
pub enum Output {
    /// A file beside its destination, which it replaces in the end.
    Beside(NamedTempFile, PathBuf),
    /// A pipe or device, which cannot be replaced and has no content to be kept.
    Straight(File),
}

impl Output {
    /// # Errors
    /// `file` cannot be written. Nothing has happened to it.
    pub fn open(file: &Path) -> io::Result<Output> {
        // The process's umask is taken off the permissions of a new file.
        let (destination, permissions) = match fs::metadata(file) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => {
                return Ok(Output::Straight(OpenOptions::new().write(true).open(file)?));
            }
            Ok(metadata) => (fs::canonicalize(file)?, metadata.permissions()),
            Err(_) => (file.to_owned(), Permissions::from_mode(0o666)),
        };
        let directory = match destination.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let temporary = tempfile::Builder::new().permissions(permissions).tempfile_in(directory);
        // The error's text names the temporary file, which the user does not know.
        Ok(Output::Beside(temporary.map_err(|e| e.kind())?, destination))
    }

    /// Puts what was written in place. Without this, what was there stays.
    ///
    /// # Errors
    /// It cannot be put in place.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Output::Beside(temporary, destination) => temporary.persist(destination).map(drop).map_err(|e| e.error),
            Output::Straight(_) => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Beside(file, _) => file.write(bytes),
            Output::Straight(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Beside(file, _) => file.flush(),
            Output::Straight(file) => file.flush(),
        }
    }
}
