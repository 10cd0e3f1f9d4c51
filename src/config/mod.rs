//! The configuration file: from its text to a [`Plan`], or to everything that is wrong with it at once.
//!
//! In reading order: `file` reads it; `include` reads those that it names, and makes one tree of all; `source` turns a text into a TOML tree, past lines
//! that are not TOML; `draft` reads every key of the
//! tree by the walker of `section` and the keys of `schema`, each value by a function of `value` or `key`; `service` holds the rules inside one
//! service, `health` those of its checks, `deliver` those of the way to its servers, `limit` those of its limits, `lists` those of denied and allowed prefixes, `quic` those of connection IDs, `dpdk` those of the DPDK engine, `group` those of the store of a group, and `cross_checks` those between services; `report` collects what they find, with line and column.

mod cross_checks;
mod deliver;
mod dpdk;
mod draft;
mod file;
mod group;
mod health;
mod include;
mod interfaces;
mod key;
mod limit;
mod lists;
pub mod published;
mod quic;
mod report;
mod schema;
mod section;
mod service;
mod source;
mod value;

pub use lists::read_file as list_file;
pub use report::{Diagnostic, Errors};
// What the command line writes as the file does.
pub use value::{mac, name, port};

use crate::limits::MAX_CONFIG;
use crate::model::Plan;
use draft::Draft;
use published::Published;
use report::Report;
use std::path::Path;

/// A configuration that may be put to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub plan: Plan,
    /// What is legal but probably not meant, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks the configuration file at `path`; with what the group has published, as far as that is known here, if the file says so.
///
/// # Errors
/// Everything that is wrong with the file, in its order; or the one reason why it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    let text = text(path)?;
    let loaded = parse(&text, path)?;
    if loaded.plan.group.as_ref().is_none_or(|group| !group.takes_published) {
        return Ok(loaded);
    }
    let known = published::path(&loaded.plan.admin.state);
    match published::read(&known).map_err(|why| Errors::of_file(&known, why))? {
        Some(published) => parse_all(&text, path, Some(&published)),
        None => Ok(loaded),
    }
}

/// As `load`, with this in the place of what was published.
///
/// # Errors
/// As `load`; of what is published the file is called after its generation.
pub fn load_published(path: &Path, published: &Published) -> Result<Loaded, Errors> {
    parse_all(&text(path)?, path, Some(published))
}

fn text(path: &Path) -> Result<String, Errors> {
    let (bytes, _) = file::read(path, MAX_CONFIG).map_err(|why| Errors::of_file(path, why))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let valid = error.valid_up_to();
            let mut report = Report::default();
            report.add(path, &String::from_utf8_lossy(&bytes[..valid]));
            report.error(valid, not_utf8(&bytes, valid));
            Err(report.into_errors())
        }
    }
}

/// Checks the text of a configuration, and the files that it includes. `file` is its name in messages, and its directory what paths in all of them
/// are relative to.
///
/// # Errors
/// Everything that is wrong with the text, in its order.
pub fn parse(text: &str, file: impl AsRef<Path>) -> Result<Loaded, Errors> {
    parse_all(text, file.as_ref(), None)
}

fn parse_all(text: &str, file: &Path, published: Option<&Published>) -> Result<Loaded, Errors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::default();
    let mut texts = include::texts(text, file, &mut report);
    texts.extend(published.map(|published| include::published(published, &mut report)));
    let draft = include::tree(&mut texts, &mut report).map(|tree| {
        let draft = Draft::read(&tree, file.parent().unwrap_or(Path::new("")), &mut report);
        draft.services.iter().for_each(|service| service::check(service, &mut report));
        cross_checks::check(&draft.services, &mut report);
        deliver::check(&draft, &mut report);
        lists::check(&draft, &mut report);
        quic::check(&draft, &mut report);
        draft
    });
    let warnings = report.finish()?;
    let plan = draft.and_then(Draft::into_plan).expect("a draft without errors is complete");
    Ok(Loaded { plan, warnings })
}

/// What is wrong with bytes that are text up to `valid`.
fn not_utf8(bytes: &[u8], valid: usize) -> String {
    format!("byte {:#04x} at offset {valid} is not UTF-8; save the file as UTF-8", bytes[valid])
}
