//! What operators have set beside the configuration, by the names of servers.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What was set for one server, in every service that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// It takes no new clients; seconds since 1970 until when it keeps the connections it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_until: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// In place of the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// By name of the server; none is empty.
pub type Overrides = BTreeMap<String, Override>;

/// The services whose cluster addresses are not to be announced, by name, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawn {
    /// Those too that a reload adds.
    #[serde(default)]
    pub all: bool,
    #[serde(default)]
    pub services: BTreeSet<String>,
}

impl Withdrawn {
    pub fn has(&self, service: &str) -> bool {
        self.all || self.services.contains(service)
    }
}
