//! What a process may still write, and that it starts no program: rules of the kernel's Landlock (landlock(7)).

use crate::error::Failure;
use crate::model::Admin;
use landlock::{ABI, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus};
use std::path::{Path, PathBuf};

/// What the rules know of, at most: from Linux 6.2 on truncation too. An older kernel holds to as much as it knows.
const KNOWN: ABI = ABI::V3;

/// From now on this thread and those that it starts write to no file but beneath `folders`, and start no program. What is open stays as it
/// is. Of a folder that does not exist, the nearest one above it that does is meant.
///
/// Returns the folders; `None`: the kernel has no Landlock (it came with Linux 5.13, and can be left out), and all is as before.
///
/// # Errors
/// A folder cannot be opened, or the kernel refuses.
pub fn confine(folders: &[&Path]) -> Result<Option<Vec<PathBuf>>, Failure> {
    let writing = AccessFs::from_write(KNOWN);
    let mut rules = Ruleset::default().handle_access(writing | AccessFs::Execute)?.create()?;
    let mut allowed: Vec<PathBuf> = folders.iter().map(|folder| existing(folder)).collect();
    allowed.sort();
    allowed.dedup();
    for folder in &allowed {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, writing))?;
    }
    let done = rules.restrict_self()?;
    Ok((done.ruleset != RulesetStatus::NotEnforced).then_some(allowed))
}

/// [`confine`], for a process that has an admin socket and a state file, and keeps programs at `pins`. In words, for a person at the start.
///
/// # Errors
/// As there.
pub fn confine_to(admin: &Admin, pins: &Path) -> Result<String, Failure> {
    let folder = |file: &Path| file.parent().unwrap_or(Path::new("/")).to_owned();
    let folders = [folder(&admin.socket), folder(&admin.state), pins.to_owned()];
    let confined = confine(&folders.each_ref().map(PathBuf::as_path))
        .map_err(|error| format!("writing cannot be confined by Landlock: {error}"))?;
    Ok(match confined {
        Some(folders) => {
            let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            format!("  writes     beneath {} only, and starts no program (Landlock)\n", folders.join(", "))
        }
        None => "  writes     wherever its user may: this kernel has no Landlock".to_owned(),
    })
}

/// The folder, or the nearest one above it that exists.
fn existing(folder: &Path) -> PathBuf {
    let here = Path::new(".");
    let above = folder.ancestors().map(|path| if path.as_os_str().is_empty() { here } else { path });
    above.into_iter().find(|path| path.is_dir()).unwrap_or(here).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;
    use std::process::Command;
    use std::thread;

    #[test]
    fn only_beneath_the_folders_is_written_and_no_program_is_started() {
        let (ours, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let before = fs::File::create(other.path().join("before")).expect("not confined yet");
        let missing = ours.path().join("not/there");
        // A thread of its own: no other test is confined.
        let confined = move || {
            let Some(folders) = confine(&[&missing]).expect("the kernel takes the rules") else {
                eprintln!("SKIPPED: this kernel has no Landlock");
                return;
            };
            assert_eq!(folders, [ours.path()]);
            fs::create_dir_all(&missing).expect("a folder beneath");
            fs::write(missing.join("a"), "text").expect("a file beneath");
            fs::rename(missing.join("a"), missing.join("b")).expect("another name");
            fs::remove_file(missing.join("b")).expect("ours to remove");
            before.set_len(4).expect("it was open");
            let refused = |done: std::io::Result<()>| done.expect_err("it is not ours").kind();
            assert_eq!(refused(fs::write(other.path().join("a"), "text")), ErrorKind::PermissionDenied);
            assert_eq!(refused(fs::remove_file(other.path().join("before"))), ErrorKind::PermissionDenied);
            assert_eq!(refused(fs::create_dir(other.path().join("a"))), ErrorKind::PermissionDenied);
            fs::read(other.path().join("before")).expect("reading goes on");
            let started = Command::new("true").spawn().map(drop);
            assert_eq!(refused(started), ErrorKind::PermissionDenied);
            let inherited = thread::spawn(move || fs::write(other.path().join("a"), "text").is_err());
            assert!(inherited.join().expect("it ends"));
        };
        thread::spawn(confined).join().expect("as asserted");
    }
}
