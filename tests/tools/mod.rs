//! The programs beside oneip that tests run, and what becomes of a test that lacks one.

use std::env;
use std::io::Write;

/// Says that a test is skipped for want of something that CI has: scripts/setup.sh installs it. CI fails instead, since a test that is
/// never run looks like one that passes.
pub fn skip(why: &str) {
    assert!(env::var_os("CI").is_none(), "{why}");
    // Past the harness, which shows what failed tests print only.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether a program that scripts/setup.sh installs is there, by its name or its whole path.
#[allow(dead_code, reason = "some tests skip for other reasons only")]
pub fn installed(tool: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    // A whole path stays what it is when it is joined.
    let is_there = env::split_paths(&folders).any(|folder| folder.join(tool).is_file());
    if !is_there {
        skip(&format!("{tool} is missing: run scripts/setup.sh --browser --package"));
    }
    is_there
}
