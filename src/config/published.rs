//! Services that were published for all members of a group, as they stand in its store and, for a start without that, on disk. They stand in
//! the place of the services and lists of each member's own file.

use super::{file, value};
use crate::limits::GROUP_CONFIG;
use serde::{Deserialize, Serialize};
use std::ops::Not;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What can be published.
pub const KEYS: [&str; 3] = ["service", "deny", "allow"];

/// Bytes of the file: JSON writes a byte of the text with up to six.
const MOST: u64 = 8 * GROUP_CONFIG as u64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The greater one is the later one, whatever clocks and the store's revisions say.
    pub generation: u64,
    /// The member that was told.
    pub by: String,
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// Though it moves most of a service's clients for nothing.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub force: bool,
    /// In TOML.
    pub text: String,
}

impl Published {
    /// # Errors
    /// What is wrong with it, but for its text, in words.
    pub fn check(&self) -> Result<(), String> {
        value::name(&self.by)?;
        if !(1..=latest()).contains(&self.generation) || self.at_ms >= 1 << 42 {
            return Err("its generation or its time is out of range".to_owned());
        }
        check_text(&self.text)
    }
}

/// The last generation that is accepted: that of a group which publishes once a millisecond since 1970. The bound moves on with the clock, so
/// that whatever stands in the store can be followed by another one a moment later. The clock may not be set yet.
fn latest() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    now.max(1 << 40)
}

/// # Errors
/// It is too long, in words.
pub fn check_text(text: &str) -> Result<(), String> {
    match text.len() > GROUP_CONFIG {
        true => Err(format!("it has {} bytes; at most {GROUP_CONFIG} can be published", text.len())),
        false => Ok(()),
    }
}

/// `/var/lib/oneip/oneip.published.json`, where the state file is `oneip.json`.
pub fn path(state: &Path) -> PathBuf {
    state.with_extension("published.json")
}

/// `Ok(None)`: nothing was published.
///
/// # Errors
/// In words.
pub fn read(path: &Path) -> Result<Option<Published>, String> {
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(None);
    }
    let (bytes, _) =
        file::read(path, MOST).map_err(|why| format!("{why}; it keeps the services that the group has published"))?;
    let damaged = |why: String| format!("is damaged: {why}; remove it, and it is read again from the store");
    let published: Published = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    published.check().map_err(damaged)?;
    Ok(Some(published))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn what_is_accepted_can_be_followed() {
        let of = |generation| Published { generation, by: "d1".into(), at_ms: 1, force: false, text: String::new() };
        let last = latest();
        assert_eq!([1, last].map(|generation| of(generation).check()), [Ok(()), Ok(())]);
        sleep(Duration::from_millis(2));
        assert_eq!(of(last + 1).check(), Ok(()));
        assert!([0, latest() + 1000, (1 << 53) - 1].iter().all(|generation| of(*generation).check().is_err()));
    }
}
