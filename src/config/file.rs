//! Reads a file that an operator has named, and nothing else: a pipe might never end, and a device has no end.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// What is in the file, and what the kernel says of it. A file that is longer than `most` bytes is refused before it is read.
///
/// # Errors
/// Why it cannot be read, to stand behind the name of the file, with what to do about it.
pub fn read(path: &Path, most: u64) -> Result<(Vec<u8>, Metadata), String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // A device may do something when it is opened, and a pipe waits for whoever writes.
    regular(&path.metadata().map_err(unreadable)?)?;
    let file = File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    // What is there by now may be another.
    regular(&facts)?;
    let too_long = || Err(format!("is longer than {most} bytes, the limit; is it the right file?"));
    if facts.len() > most {
        return too_long();
    }
    let mut bytes = Vec::with_capacity(facts.len() as usize);
    // It may grow meanwhile.
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most { too_long() } else { Ok((bytes, facts)) }
}

fn regular(facts: &Metadata) -> Result<(), String> {
    let kind = facts.file_type();
    let other = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(format!("is {other}; name a regular file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::fs;

    #[test]
    fn only_a_regular_file_of_bounded_length_is_read() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        fs::write(&path, "1234").expect("written");
        assert_eq!(read(&path, 4).expect("read").0, b"1234");
        let said = |path: &Path| read(path, 3).map(drop).expect_err("refused");
        assert_eq!(said(&path), "is longer than 3 bytes, the limit; is it the right file?");
        assert_eq!(said(folder.path()), "is a directory; name a regular file");
        assert_eq!(said(Path::new("/dev/zero")), "is a device; name a regular file");
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
        assert_eq!(said(&pipe), "is a pipe; name a regular file");
        // The kernel says that it is empty.
        assert_eq!(said(Path::new("/proc/self/maps")), "is longer than 3 bytes, the limit; is it the right file?");
        assert_eq!(said(&folder.path().join("none")), "cannot be read: No such file or directory (os error 2)");
    }
}
