//! The log: what is written, by `ONEIP_LOG`, and in which form.
//!
//! Under systemd it goes to the journal, with levels and fields (`journalctl -u oneip -p warning SERVER=web1`). Else it is text on standard error,
//! with time stamps, and with colour on a terminal; or a JSON object a line.

use clap::ValueEnum;
use std::env;
use std::ffi::OsString;
use std::fmt::{self, Debug};
use std::io::{self, IsTerminal, Write};
use std::os::linux::fs::MetadataExt;
use tracing::Level;
use tracing::field::Field;
use tracing_journald::{Layer as Journal, Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged where nobody says otherwise. The netlink library warns of answers that nobody waits for any more: those of
/// requests that were given up.
const LOG: &str = "info,netlink_proto=error";

/// Fields that are for machines: the text of a message says the same.
const IN_WORDS: [&str; 2] = ["service", "server"];

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines with a time stamp, in colour on a terminal
    Text,
    /// A JSON object a line
    Json,
    /// To the journal of systemd, with levels and fields
    Journal,
}

/// Begins to log. `None`: to the journal if standard error leads there, else as text. Returns in which form.
///
/// # Errors
/// `ONEIP_LOG` is not a level, or there is no journal, and it was asked for.
pub fn begin(format: Option<Format>) -> Result<Format, String> {
    let level = level()?;
    let format = format.unwrap_or_else(|| if leads_to_journal() { Format::Journal } else { Format::Text });
    let registry = tracing_subscriber::registry().with(level);
    // When nobody reads any more, the library shall not tell of that by `eprintln!`, which panics.
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    match format {
        Format::Journal => {
            let journal = Journal::new().map_err(|error| format!("--log journal: there is no journal: {error}"))?;
            let (debug, info) = (Priority::Debug, Priority::Informational);
            let priorities = PriorityMappings { info, debug, trace: debug, ..PriorityMappings::new() };
            registry.with(journal.with_field_prefix(None).with_priority_mappings(priorities)).init();
        }
        Format::Json => registry.with(lines.json().flatten_event(true)).init(),
        Format::Text => {
            let plain = env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
            let colour = io::stderr().is_terminal() && !plain;
            registry.with(lines.with_ansi(colour).fmt_fields(debug_fn(write_field))).init();
        }
    }
    Ok(format)
}

/// Says why a verb failed. As text, its first line begins with `error: `.
pub fn fail(format: Format, failure: &dyn fmt::Display) {
    // However little is logged, this is said.
    match format {
        Format::Json | Format::Journal if tracing::enabled!(Level::ERROR) => tracing::error!("{failure}"),
        _ => drop(writeln!(io::stderr(), "error: {failure}")),
    }
}

fn write_field(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(to, "{value:?}"),
        name if IN_WORDS.contains(&name) => Ok(()),
        name => write!(to, " {name}={value:?}"),
    }
}

/// Whether the journal is what standard error is connected to: `JOURNAL_STREAM` has the file's device and inode (systemd.exec(5)).
fn leads_to_journal() -> bool {
    let facts = || std::fs::metadata("/proc/self/fd/2").ok();
    let stream = env::var("JOURNAL_STREAM").ok();
    stream.zip(facts()).is_some_and(|(stream, facts)| stream == format!("{}:{}", facts.st_dev(), facts.st_ino()))
}

/// What `ONEIP_LOG` says, or that.
fn level() -> Result<EnvFilter, String> {
    let said = match env::var_os("ONEIP_LOG").map(OsString::into_string) {
        None => String::new(),
        Some(Ok(said)) => said,
        Some(Err(said)) => said.to_string_lossy().into_owned(),
    };
    let is_level =
        |text: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&text.to_lowercase().as_str());
    // By itself the parser takes any word for the name of a module.
    let is_directive = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    let wrong = || {
        format!(
            "ONEIP_LOG=\"{said}\" is not a level; write off, error, warn, info, debug or trace, or MODULE=LEVEL,..."
        )
    };
    let said = said.trim();
    if said.is_empty() {
        return Ok(EnvFilter::new(LOG));
    }
    match said.split(',').all(|part| is_directive(part.trim())) {
        // The last directive of a module counts.
        true => EnvFilter::try_new(format!("{LOG},{said}")).map_err(|_| wrong()),
        false => Err(wrong()),
    }
}
