//! The document of `ctl group`, and what of it `ctl status` has.

use serde::{Deserialize, Serialize};

/// How this process stands to its group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSummary {
    pub name: String,
    /// What this process is called there.
    pub member: String,
    /// Whether the store can be asked.
    pub connected: bool,
    /// For how long it can, or cannot.
    pub since_s: f64,
    /// Why it cannot, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Why this process shares nothing with the others, in words; `None`: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
    /// It has another hash key than the others: a client would get another server here, so that it is not announced.
    #[serde(default)]
    pub other_key: bool,
    /// Members that live, this one included, as far as is known.
    pub alive: usize,
    /// Who they are, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub living: Vec<Living>,
    /// Of the store: what was taken in last; `None`: it was never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Orders that the store has not been told yet.
    pub queued: usize,
    /// How often the connection to the store was lost.
    pub lost: u64,
    /// How often the store went back, and was told what it had lost.
    pub restored: u64,
    /// Values in the store that are not used, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<BadValue>,
    /// `None`: health is each member's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
    /// The generation of what was published that counts here; 0: none yet. `None`: the services are those of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u64>,
}

impl GroupSummary {
    /// Why no clients may be sent here, whatever else is well: they would get other servers than at the other members.
    pub fn keeps_out(&self) -> Option<&str> {
        self.outside.as_deref().filter(|_| self.other_key)
    }
}

/// A member that lives, as far as is known without asking the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Living {
    pub member: String,
    /// `dispatcher` or `filter`.
    pub mode: String,
    pub version: String,
    /// It has the configuration and the hash key that the group has.
    pub belongs: bool,
}

/// How health is shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// `together`: what most members find counts. `waiting`: it is not known now, and what counts stays. `alone`: this member's own
    /// checks count.
    pub stance: String,
    /// For how long.
    pub since_s: f64,
    /// Members whose findings are known, this one included.
    pub views: usize,
    /// Servers that this member checks, each in each service.
    pub checks: usize,
    /// All that are checked.
    pub of: usize,
    /// Those that this member finds up and the group down, or the other way round.
    pub differs: usize,
}

/// What a member finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindsStatus {
    /// Servers that it finds something of, each in each service.
    pub checks: usize,
    /// Those that it does not find up.
    pub out: usize,
    /// It is cut off from the servers, and judges nobody.
    pub cut_off: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BadValue {
    pub key: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    #[serde(flatten)]
    pub summary: GroupSummary,
    pub etcd: Vec<String>,
    pub members: Vec<MemberStatus>,
    /// What was ordered for servers, oldest first.
    pub orders: Vec<OrderStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub member: String,
    pub version: String,
    /// `dispatcher` or `filter`.
    pub mode: String,
    /// It has the configuration and the hash key of the group.
    pub belongs: bool,
    /// Of its table; `None`: it has not said so yet, or the store cannot be asked.
    pub generation: Option<u64>,
    /// Orders in the store that it has not taken in.
    pub behind: Option<usize>,
    /// Services of it that routers send clients to, and all of them.
    pub announced: Option<usize>,
    pub services: Option<usize>,
    /// The generation of what was published that it goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u64>,
    /// `None`: it has not said what it finds, or health is not shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finds: Option<FindsStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderStatus {
    pub server: String,
    /// In words.
    pub order: String,
    /// The member that was told last.
    pub by: String,
    pub age_s: f64,
    /// `group`, `queued` or `local`.
    pub counts: String,
}
