//! Files of what is remembered: whole, or not there.

use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// Writes a JSON document in the place of the one at `path`, through to the disk.
///
/// # Errors
/// What is at `path` is as it was.
pub fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = BufWriter::new(NamedTempFile::new_in(folder)?);
    serde_json::to_writer_pretty(&mut file, content)?;
    file.write_all(b"\n")?;
    let file = file.into_inner().map_err(IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}
