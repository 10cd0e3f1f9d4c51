//! The hash key, from the configuration or from a file of its own. No message shows any part of it.

use super::file;
use super::report::Report;
use super::section::Section;
use crate::model::HashKey;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const ADVICE: &str = "32 are needed, for example from `openssl rand -hex 16`";

/// A key file longer than this (bytes) is some other file.
const MAX_FILE: u64 = 1024;

/// The permission bit.
const OTHERS_READ: u32 = 0o004;

/// The key of the documentation's example.
const EXAMPLE: [u8; 16] = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";

/// Reads `hash_key` or `hash_key_file` of `[cluster]`; a relative path is looked up in `base`.
pub fn read(cluster: &Section, base: &Path, report: &mut Report) -> Option<HashKey> {
    let given = (cluster.key_at("hash_key"), cluster.key_at("hash_key_file"));
    match given {
        (Some(key), Some(file)) => {
            report.error(key.max(file), "`hash_key` and `hash_key_file` are both given; keep one of them");
        }
        (None, None) => report.missing(
            cluster.at,
            "[cluster] lacks `hash_key` (or `hash_key_file`); write hash_key = \"32 hex digits\", for example from \
             `openssl rand -hex 16`",
        ),
        _ => {}
    }
    let inline = cluster.text("hash_key", report, |text| from_hex(text.as_bytes(), "`hash_key`"));
    let mut warning = inline.and_then(|key| exposed(report.file(key.at)));
    let in_file = cluster.text("hash_key_file", report, |path| from_file(path, base, &mut warning));
    let key = inline.or(in_file)?;
    let known = key.0 == EXAMPLE || key.0 == [0; 16];
    if let Some(warning) = warning.filter(|_| !known) {
        report.warn(key.at, warning);
    }
    if known {
        report.warn(
            key.at,
            "this hash key is no secret, so clients can aim at one server; make one with `openssl rand -hex 16`",
        );
    }
    Some(key.value)
}

/// What is to be said of a configuration file with a key in it that others can read.
fn exposed(file: &str) -> Option<String> {
    let mode = fs::metadata(file).ok()?.permissions().mode();
    let command = format!("chmod o-rwx {file}");
    (mode & OTHERS_READ != 0).then(|| {
        format!(
            "every user of this machine can read the hash key here; run `{command}`, or keep it in a `hash_key_file`"
        )
    })
}

/// `what` names the place in messages.
fn from_hex(text: &[u8], what: &str) -> Result<HashKey, String> {
    let digits: Vec<u8> =
        text.iter().filter_map(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8).collect();
    let others = String::from_utf8_lossy(text).chars().filter(|c| !c.is_ascii_hexdigit()).count();
    match <[u8; 32]>::try_from(digits) {
        Ok(digits) if others == 0 => Ok(HashKey(std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1]))),
        Ok(_) => Err(format!("{what} has 32 hex digits and {}; write the digits alone", characters(others))),
        Err(digits) if others == 0 => Err(format!("{what} has {} hex digits; {ADVICE}", digits.len())),
        Err(digits) => Err(format!("{what} has {} hex digits and {}; {ADVICE}", digits.len(), characters(others))),
    }
}

fn characters(count: usize) -> String {
    if count == 1 { "1 other character".to_owned() } else { format!("{count} other characters") }
}

fn from_file(path: &str, base: &Path, warning: &mut Option<String>) -> Result<HashKey, String> {
    if path.len() >= 16 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(
            "`hash_key_file` holds what looks like the key itself; write it as `hash_key`, or the path of a file"
                .into(),
        );
    }
    let path = base.join(path);
    let (text, facts) = file::read(&path, MAX_FILE).map_err(|why| format!("the key file {path:?} {why}"))?;
    let key = from_hex(text.trim_ascii(), &format!("the key file {path:?}"))?;
    if facts.permissions().mode() & OTHERS_READ != 0 {
        *warning = Some(format!("every user of this machine can read the key file {path:?}; run `chmod o-rwx` on it"));
    }
    Ok(key)
}
