//! What a simulation found, as `--json` prints it. Shares are parts of 1.

use super::census::Origin;
use super::clients::Load;
use super::dispatchers::Dispatchers;
use serde::Serialize;
use std::net::IpAddr;

#[derive(Serialize)]
pub struct Report {
    pub service: String,
    pub source: Origin,
    /// The clients of the service.
    pub total: Load,
    /// Left out: their addresses are of the other family than the cluster address.
    pub foreign: Load,
    /// What to know first, in words.
    pub findings: Vec<String>,
    pub servers: Vec<Share>,
    pub peak_to_mean: Peak,
    pub heaviest: Vec<Heavy>,
    /// The part of the requests that the heaviest make together.
    pub heaviest_share: f64,
    /// Of each server that takes clients.
    pub failures: Vec<Effect>,
    pub drains: Vec<Effect>,
    pub pairs: Pairs,
    /// `null`: the service has as many servers as its slots allow.
    pub added: Option<Effect>,
    /// Absent if not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatchers: Option<Dispatchers>,
    /// This configuration first, then what it is compared with.
    pub schemes: Vec<Compared>,
}

impl Report {
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has nothing that JSON lacks")
    }
}

/// What a server has.
#[derive(Serialize)]
pub struct Share {
    pub server: String,
    pub weight: u32,
    pub clients: u64,
    pub requests: u64,
    pub clients_share: f64,
    pub requests_share: f64,
    /// By its weight.
    pub ideal_share: f64,
}

/// The most that a server has, in units of what its weight entitles it to: 1 is ideal. With equal weights the peak by the mean.
#[derive(Clone, Copy, Serialize)]
pub struct Peak {
    pub clients: f64,
    pub requests: f64,
}

#[derive(Serialize)]
pub struct Heavy {
    pub client: IpAddr,
    pub requests: u64,
    pub share: f64,
    pub server: String,
}

/// What a change moves.
#[derive(Serialize)]
pub struct Effect {
    /// Those that fail, are drained, or are added.
    pub servers: Vec<String>,
    pub moved: Load,
    /// Parts of all clients, and of all requests.
    pub moved_share: Portion,
    /// What of it had to leave a server that stays for another that was there before.
    pub healthy_moved: Load,
    /// As a part of the clients, and of the requests, of servers that stay.
    pub healthy_moved_share: Portion,
    /// How many servers received some, and the first of them by how many clients.
    pub receivers: usize,
    pub to: Vec<Received>,
    /// What no server has any more.
    pub nobody: Load,
    /// Afterwards; `null`: no server is left.
    pub peak_to_mean: Option<Peak>,
}

#[derive(Clone, Copy, Serialize)]
pub struct Portion {
    pub clients: f64,
    pub requests: f64,
}

#[derive(Serialize)]
pub struct Received {
    pub server: String,
    #[serde(flatten)]
    pub load: Load,
}

/// Two servers fail.
#[derive(Serialize)]
pub struct Pairs {
    /// How many pairs there are. With many servers not each was tried, but `each` is spread evenly over all.
    pub of: usize,
    pub each: Vec<Effect>,
}

/// A scheme's balance, and what changes move with it.
#[derive(Serialize)]
pub struct Compared {
    pub scheme: &'static str,
    pub peak_to_mean: Peak,
    pub failure: Option<Summary>,
    pub pair: Option<Summary>,
    pub added: Option<Summary>,
}

/// Of many changes of a kind. Parts of the clients, as in `Effect`.
#[derive(Serialize)]
pub struct Summary {
    pub moved_share: Extent,
    pub healthy_moved_share: Extent,
    /// By requests, afterwards.
    pub peak_to_mean: Option<Extent>,
}

#[derive(Serialize)]
pub struct Extent {
    pub mean: f64,
    pub worst: f64,
    /// In which change that was.
    pub worst_servers: Vec<String>,
}
