//! A health check.

use std::ops::RangeInclusive;

/// As `[service.health]` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `tcp`, `http`, `https` or `icmp`.
    pub kind: &'static str,
    /// `None`: not for this kind.
    pub port: Option<u16>,
    pub path: Option<String>,
    pub host: Option<String>,
    /// As the key has it: `[200, "300-302"]`.
    pub expect_status: Option<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub fall: u64,
}

/// keepalived's own, where its file does not say (keepalived.conf(5)).
pub const INTERVAL_MS: u64 = 60_000;
pub const TIMEOUT_MS: u64 = 5_000;
pub const RETRIES: u64 = 1;

/// The bounds of `[service.health]`.
pub const INTERVALS_MS: RangeInclusive<u64> = 50..=600_000;
pub const TIMEOUTS_MS: RangeInclusive<u64> = 10..=60_000;
pub const FALLS: RangeInclusive<u64> = 1..=100;

/// The value in the range that is nearest.
pub fn within(value: u64, range: &RangeInclusive<u64>) -> u64 {
    value.clamp(*range.start(), *range.end())
}
