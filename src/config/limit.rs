//! `[service.limit]` and `[limit.odd]`: their keys, and the rules between them.

use super::report::Report;
use super::schema;
use super::section::{At, Section};
use super::value;
use crate::limits::{
    BURST_OF, LEAST_BITS, LEAST_BITS_BURST, LEAST_BURST, MAX_BITS_LIMIT, MAX_BURST_FILL, MAX_PACKETS_LIMIT,
};
use crate::model::{Limit, OddKind, OddLimit, PerSource, Rate};
use std::ops::RangeInclusive;

/// Of packets, or SYNs.
const PACKETS: RangeInclusive<u64> = 1..=MAX_PACKETS_LIMIT;
const BITS: RangeInclusive<u64> = LEAST_BITS..=MAX_BITS_LIMIT;
/// What has a large frame pass at all.
const BITS_BURSTS: RangeInclusive<u64> = LEAST_BITS_BURST..=MAX_BITS_LIMIT;

/// Reads the limits of a service. What is not legal is reported and absent.
pub fn read(section: &Section, report: &mut Report) -> Limit {
    let packets = rate(section, ["packets", "packets_burst"], (PACKETS, PACKETS), LEAST_BURST, report);
    let bits = rate(section, ["bits", "bits_burst"], (BITS, BITS_BURSTS), LEAST_BURST * 1518 * 8, report);
    let syn = rate(section, ["syn", "syn_burst"], (PACKETS, PACKETS), LEAST_BURST, report);
    let each = section.table("per_source", &schema::PER_SOURCE, report);
    let per_source = each.map(|each| read_per_source(&each, report));
    if ["packets", "bits", "syn", "per_source"].iter().all(|key| section.key_at(key).is_none()) {
        let form = schema::LIMIT.key("syn").form;
        report.missing(section.at, format!("it has none of `packets`, `bits`, `syn` and `per_source`; write {form}"));
    }
    Limit { packets, bits, syn, per_source, only_counts: read_mode(section, report) }
}

/// Reads the limits of packets that are dear to read. As `read`.
pub fn read_odd(section: &Section, report: &mut Report) -> OddLimit {
    let names = [["fragments", "fragments_burst"], ["icmp", "icmp_burst"], ["options", "options_burst"]];
    let rates = names.map(|names| rate(section, names, (PACKETS, PACKETS), LEAST_BURST, report));
    if OddKind::ALL.iter().all(|kind| section.key_at(kind.name()).is_none()) {
        let form = schema::ODD.key("fragments").form;
        report.missing(section.at, format!("it has none of `fragments`, `icmp` and `options`; write {form}"));
    }
    OddLimit { rates, only_counts: read_mode(section, report) }
}

/// Whether what is beyond is only counted.
fn read_mode(section: &Section, report: &mut Report) -> bool {
    let modes = [("drop", false), ("count", true)];
    section.text("mode", report, value::choice("mode", modes)).is_some_and(|mode| mode.value)
}

fn read_per_source(section: &Section, report: &mut Report) -> PerSource {
    if ["packets", "syn"].iter().all(|key| section.key_at(key).is_none()) {
        let form = schema::PER_SOURCE.key("syn").form;
        report.missing(section.at, format!("it has neither `packets` nor `syn`; write {form}"));
    }
    let mut length =
        |name, most, default| section.integer(name, 1..=most, report).map_or(default, |length| length.value) as u8;
    let (prefix_v4, prefix_v6) = (length("prefix_v4", 32, 32), length("prefix_v6", 128, 64));
    let burst = section.long("burst", PACKETS, report);
    let [packets, syn] = ["packets", "syn"].map(|name| {
        let per_second = section.long(name, PACKETS, report)?;
        Some(checked(per_second, burst, LEAST_BURST, report))
    });
    PerSource { prefix_v4, prefix_v6, packets, syn }
}

/// A limit and its burst, by the names of their keys.
fn rate(
    section: &Section,
    [name, burst_name]: [&str; 2],
    (rates, bursts): (RangeInclusive<u64>, RangeInclusive<u64>),
    least: u64,
    report: &mut Report,
) -> Option<Rate> {
    let burst = section.long(burst_name, bursts, report);
    if let (Some(at), None) = (section.key_at(burst_name), section.key_at(name)) {
        report.missing(at, format!("`{burst_name}` needs `{name}`; write {}", section.schema.key(name).form));
    }
    Some(checked(section.long(name, rates, report)?, burst, least, report))
}

fn checked(per_second: At<u64>, burst: Option<At<u64>>, least: u64, report: &mut Report) -> Rate {
    let default = (per_second.value / BURST_OF).max(least);
    let rate = Rate { per_second: per_second.value, burst: burst.map_or(default, |burst| burst.value) };
    if let Some(burst) = burst.filter(|_| rate.filled_in() > MAX_BURST_FILL) {
        let most = rate.per_second.saturating_mul(MAX_BURST_FILL.as_secs());
        report.error(
            burst.at,
            format!(
                "at {} a second, a burst of {} takes longer than an hour to refill; write at most {most}",
                rate.per_second, rate.burst
            ),
        );
    }
    rate
}
