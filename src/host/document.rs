//! Files of what is remembered: whole, or not there.

use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, IntoInnerError, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes a JSON document in the place of the one at `path`, through to the disk. A path has one writer at a time.
///
/// # Errors
/// What is at `path` is as it was.
pub fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unfinished = unfinished(path)?;
    let written = write_beside(&unfinished, content).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Always the same one: a process that is killed leaves it behind, and would fill the disk with many.
fn unfinished(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else { return Err(ErrorKind::IsADirectory.into()) };
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(".unfinished");
    Ok(path.with_file_name(unfinished))
}

fn write_beside(unfinished: &Path, content: &impl Serialize) -> io::Result<()> {
    match fs::remove_file(unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished)?);
    serde_json::to_writer_pretty(&mut file, content)?;
    file.write_all(b"\n")?;
    file.into_inner().map_err(IntoInnerError::into_error)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::ser::Error as _;

    /// Half of it is written, and then there is no more.
    struct Half;

    impl Serialize for Half {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("no more"))
        }
    }

    #[test]
    fn what_a_killed_process_left_is_replaced_and_a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("state.json");
        let files = || {
            let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
            names.sort();
            names
        };
        fs::write(folder.path().join(".state.json.unfinished"), "half").unwrap();
        write(&path, &[1, 2]).unwrap();
        assert_eq!(
            (files(), fs::read_to_string(&path).unwrap()),
            (vec!["state.json".into()], "[\n  1,\n  2\n]\n".into())
        );
        assert_eq!(write(&path, &Half).unwrap_err().to_string(), "no more");
        assert_eq!(
            (files(), fs::read_to_string(&path).unwrap()),
            (vec!["state.json".into()], "[\n  1,\n  2\n]\n".into())
        );
    }
}
