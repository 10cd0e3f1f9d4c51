//! What is known of the group, on disk beside the state file: a start without the store goes on by it. Each value is checked as one of
//! the store is.

use super::book::Queued;
use super::heard::Heard;
use super::record::{DenyOrder, ServerOrders};
use crate::host::document;
use crate::model::Prefix;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// Of the group.
    pub name: String,
    /// Which store that was, how far it was, and when this was so.
    pub synced: Option<Synced>,
    pub servers: BTreeMap<String, ServerOrders>,
    pub denied: Vec<DeniedHere>,
    /// What the store has not been told yet.
    pub queue: Vec<Queued>,
    /// What counts on this member only.
    pub local: BTreeMap<String, ServerOrders>,
    pub local_denied: Vec<DeniedHere>,
    #[serde(default)]
    pub heard: Heard,
}

/// A state of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synced {
    pub cluster: u64,
    pub revision: i64,
    /// In milliseconds since 1970.
    pub at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedHere {
    pub prefix: Prefix,
    pub service: Option<String>,
    pub order: DenyOrder,
}

/// `/var/lib/oneip/oneip.group.json`, where the state file is `oneip.json`.
pub fn path(state: &Path) -> PathBuf {
    state.with_extension("group.json")
}

/// `Ok(None)`: nothing is remembered.
///
/// # Errors
/// Why nothing can be remembered, in words.
pub fn load(path: &Path, name: &str) -> Result<Option<Remembered>, String> {
    let shown = path.display();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown} cannot be read: {error}")),
    };
    let mut remembered: Remembered =
        serde_json::from_slice(&text).map_err(|error| format!("{shown} is damaged: {error}"))?;
    // One that is wrong takes none of the others with it.
    let is_right = |what: &str, checked: Result<(), String>| match checked {
        Ok(()) => true,
        Err(why) => {
            tracing::warn!("group: {shown}: an order for {what} is not used: {why}");
            false
        }
    };
    for orders in [&mut remembered.servers, &mut remembered.local] {
        orders.retain(|server, orders| is_right(server, orders.check()));
    }
    for denied in [&mut remembered.denied, &mut remembered.local_denied] {
        denied.retain(|denied| is_right(&denied.prefix.to_string(), denied.order.check()));
    }
    remembered.queue.retain(|queued| is_right(&queued.edit.place().key(), queued.edit.check()));
    // Another group's says nothing of this one.
    Ok(Some(remembered).filter(|remembered| remembered.name == name))
}

/// # Errors
/// In words; the file is as it was.
pub fn save(path: &Path, remembered: &Remembered) -> Result<(), String> {
    document::write(path, remembered).map_err(|error| format!("{} cannot be written: {error}", path.display()))
}
