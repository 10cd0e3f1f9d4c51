//! Keys of 16 bytes, from the configuration or from files of their own. No message shows any part of one.

use super::file;
use super::report::Report;
use super::section::{At, Section};
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
    if cluster.key_at("hash_key").or(cluster.key_at("hash_key_file")).is_none() {
        report.missing(
            cluster.at,
            "[cluster] lacks `hash_key` (or `hash_key_file`); write hash_key = \"32 hex digits\", for example from \
             `openssl rand -hex 16`",
        );
    }
    let why = "this hash key is not secret, so clients can choose their server; make one with `openssl rand -hex 16`";
    let names = Names { inline: "hash_key", in_file: "hash_key_file", called: "hash key" };
    read_either(cluster, &names, why, base, report).map(|key| HashKey(key.value))
}

/// The keys of a section that hold a key of 16 bytes, or the path of a file with one.
pub struct Names {
    pub inline: &'static str,
    pub in_file: &'static str,
    /// In messages.
    pub called: &'static str,
}

/// Reads a key from the section or from a file of its own. `no_secret` is said of one that everybody knows.
pub fn read_either(
    section: &Section,
    names: &Names,
    no_secret: &str,
    base: &Path,
    report: &mut Report,
) -> Option<At<[u8; 16]>> {
    let Names { inline, in_file, .. } = *names;
    if let (Some(key), Some(file)) = (section.key_at(inline), section.key_at(in_file)) {
        report.error(key.max(file), format!("`{inline}` and `{in_file}` are both given; keep one of them"));
    }
    let here = section.text(inline, report, |text| from_hex(text.as_bytes(), &format!("`{inline}`")));
    let mut warning = here.and_then(|key| exposed(report.file(key.at), names));
    let there = section.text(in_file, report, |path| from_file(path, names, base, &mut warning));
    let key = here.or(there)?;
    let is_known = key.value == EXAMPLE || key.value == [0; 16];
    if let Some(warning) = if is_known { Some(no_secret.to_owned()) } else { warning } {
        report.warn(key.at, warning);
    }
    Some(key)
}

/// What is to be said of a configuration file with a key in it that others can read.
fn exposed(file: &str, Names { in_file, called, .. }: &Names) -> Option<String> {
    let mode = fs::metadata(file).ok()?.permissions().mode();
    let command = format!("chmod o-rwx {file}");
    (mode & OTHERS_READ != 0).then(|| {
        format!("every user of this machine can read the {called} here; run `{command}`, or keep it in a `{in_file}`")
    })
}

/// `what` names the place in messages.
fn from_hex(text: &[u8], what: &str) -> Result<[u8; 16], String> {
    let digits: Vec<u8> =
        text.iter().filter_map(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8).collect();
    let others = String::from_utf8_lossy(text).chars().filter(|c| !c.is_ascii_hexdigit()).count();
    match <[u8; 32]>::try_from(digits) {
        Ok(digits) if others == 0 => Ok(std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1])),
        Ok(_) => Err(format!("{what} has 32 hex digits and {}; write the digits alone", characters(others))),
        Err(digits) if others == 0 => Err(format!("{what} has {} hex digits; {ADVICE}", digits.len())),
        Err(digits) => Err(format!("{what} has {} hex digits and {}; {ADVICE}", digits.len(), characters(others))),
    }
}

fn characters(count: usize) -> String {
    if count == 1 { "1 other character".to_owned() } else { format!("{count} other characters") }
}

fn from_file(path: &str, names: &Names, base: &Path, warning: &mut Option<String>) -> Result<[u8; 16], String> {
    if path.len() >= 16 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let Names { inline, in_file, .. } = names;
        return Err(format!(
            "`{in_file}` holds what looks like the key itself; write it as `{inline}`, or the path of a file"
        ));
    }
    let path = base.join(path);
    let (text, facts) = file::read(&path, MAX_FILE).map_err(|why| format!("the key file {path:?} {why}"))?;
    let key = from_hex(text.trim_ascii(), &format!("the key file {path:?}"))?;
    if facts.permissions().mode() & OTHERS_READ != 0 {
        *warning = Some(format!("every user of this machine can read the key file {path:?}; run `chmod o-rwx` on it"));
    }
    Ok(key)
}
