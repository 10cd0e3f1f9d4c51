//! The raw figures of a run, as `scripts/bench.sh` leaves them in a folder.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

pub type Failure = Box<dyn Error>;

/// A search's outcome: the highest rate at which no more was lost than is tolerated.
#[derive(Deserialize)]
pub struct Throughput {
    pub dut: String,
    pub family: u8,
    /// Bytes with FCS, or "imix".
    pub size: String,
    /// From 1. In a round every DUT has its turn.
    pub round: u32,
    /// Frames a second that arrived; 0: no rate held.
    pub pps: f64,
    /// What went no faster: "dut" or "generator".
    pub limit: String,
    /// Of the trial that held; absent in older reports.
    #[serde(default)]
    pub sent: Option<f64>,
    #[serde(default)]
    pub lost: Option<f64>,
}

/// Latencies in nanoseconds, as the generator saw them; absent where it sees none.
#[derive(Deserialize)]
pub struct Latency {
    pub dut: String,
    /// "idle", or percent of oneip's throughput.
    pub load: String,
    pub rate: f64,
    pub sent: f64,
    pub lost: f64,
    /// Frames that were timed.
    pub count: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub p9999: Option<f64>,
    pub max: Option<f64>,
}

/// A percentile is said if so many frames are beyond it.
const BEYOND: f64 = 10.0;

/// Whether a percentile of `count` is said, if this part of them is beyond it.
pub fn suffices(count: f64, beyond: f64) -> bool {
    count * beyond >= BEYOND - 1e-6
}

impl Latency {
    /// The percentiles 50, 90, 99, 99.9 and 99.99; `None` where too few frames were timed for one.
    pub fn percentiles(&self) -> [Option<f64>; 5] {
        let count = self.count.unwrap_or(0.0);
        let said = |percentile: Option<f64>, beyond: f64| percentile.filter(|_| suffices(count, beyond));
        let Latency { p50, p90, p99, p999, p9999, .. } = *self;
        [said(p50, 0.5), said(p90, 0.1), said(p99, 0.01), said(p999, 1e-3), said(p9999, 1e-4)]
    }
}

/// p99 of two short trials, one after the other, in nanoseconds.
#[derive(Deserialize)]
pub struct Tail {
    pub load: String,
    pub oneip: f64,
    pub reflector: f64,
}

#[derive(Deserialize)]
pub struct Loss {
    pub dut: String,
    pub sent_pps: f64,
    pub received_pps: f64,
}

/// Nanoseconds, or instructions, of a frame.
#[derive(Deserialize)]
pub struct Cost {
    pub scenario: String,
    pub stage: String,
    pub value: f64,
}

#[derive(Deserialize)]
pub struct Growth {
    /// "services", "servers", "clients" or "workers".
    pub what: String,
    pub n: f64,
    pub pps: f64,
    pub rss_kib: f64,
}

/// Resident memory of a dispatcher that has just started.
#[derive(Deserialize)]
pub struct Memory {
    pub services: f64,
    /// Of each service.
    pub servers: f64,
    pub rss_kib: f64,
}

/// A change under load.
#[derive(Deserialize)]
pub struct Change {
    pub dut: String,
    /// "none", "disable", "enable", "reload", "takeover" or "kill".
    pub what: String,
    pub rate: f64,
    pub sent: f64,
    pub lost: f64,
    /// Until the order was answered; after "takeover" and "kill", until the new process was ready.
    pub ms: f64,
    /// Frames to a disabled server after the answer.
    pub late: Option<f64>,
}

/// Clients beside a flood.
#[derive(Deserialize)]
pub struct Flood {
    pub engine: String,
    /// "on" or "off".
    pub limits: String,
    /// "none", "syn_random", "syn_24", "udp_closed", "dear" or "nat".
    pub flood: String,
    pub pps: f64,
    pub gets: f64,
    pub answered: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// "whole" or "broken".
    pub download: String,
}

/// Everything about a run. What was not measured is empty.
pub struct Snapshot {
    pub name: String,
    /// Name and value, in the order in which they are shown.
    pub facts: Vec<(String, String)>,
    pub throughput: Vec<Throughput>,
    pub latency: Vec<Latency>,
    pub tail: Vec<Tail>,
    pub loss: Vec<Loss>,
    pub cost: Vec<Cost>,
    /// By valgrind.
    pub instructions: Vec<Cost>,
    pub growth: Vec<Growth>,
    pub memory: Vec<Memory>,
    pub change: Vec<Change>,
    pub flood: Vec<Flood>,
    /// DUT, load and histogram, in nanoseconds.
    pub histograms: Vec<(String, String, Histogram<u64>)>,
}

impl Snapshot {
    /// # Errors
    /// A file that must be there is not, or is not of the form that `bench.sh` writes.
    pub fn read(folder: &Path) -> Result<Snapshot, Failure> {
        let facts = fs::read_to_string(folder.join("facts.json")).map_err(|error| {
            format!("{}: {error}; it is no report of scripts/bench.sh", folder.join("facts.json").display())
        })?;
        let facts: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&facts)?;
        let text = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Ok(Snapshot {
            name: fs::canonicalize(folder)?.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            facts: facts.into_iter().map(|(name, value)| (name, text(value))).collect(),
            throughput: table(folder, "throughput")?,
            latency: table(folder, "latency")?,
            tail: table(folder, "tail")?,
            loss: table(folder, "loss")?,
            cost: table(folder, "cost")?,
            instructions: table(folder, "instructions")?,
            growth: table(folder, "growth")?,
            memory: table(folder, "memory")?,
            change: table(folder, "change")?,
            flood: table(folder, "flood")?,
            histograms: histograms(&folder.join("hlog"))?,
        })
    }

    pub fn fact(&self, name: &str) -> &str {
        self.facts.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The DUTs that were measured, oneip first, then as they were measured.
    pub fn duts(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        self.throughput.iter().map(|row| row.dut.as_str()).filter(|dut| seen.insert(*dut)).collect()
    }

    /// A DUT's rounds with these frames.
    pub fn searches<'a>(&'a self, dut: &'a str, family: u8, size: &'a str) -> impl Iterator<Item = &'a Throughput> {
        self.throughput.iter().filter(move |row| row.dut == dut && row.family == family && row.size == size)
    }

    /// The rates of those in which one held.
    pub fn rounds(&self, dut: &str, family: u8, size: &str) -> Vec<f64> {
        self.searches(dut, family, size).map(|row| row.pps).filter(|pps| *pps > 0.0).collect()
    }

    /// The most that was lost of what was sent in a round; `None`: an older report does not say.
    pub fn most_lost(&self, dut: &str, family: u8, size: &str) -> Option<f64> {
        let held = self.searches(dut, family, size).filter(|row| row.pps > 0.0);
        let lost = held.map(|row| Some(row.lost? / row.sent?)).collect::<Option<Vec<f64>>>()?;
        lost.into_iter().max_by(f64::total_cmp)
    }

    /// Whether the generator rather than the DUT was the limit in some round.
    pub fn generator_bound(&self, dut: &str, family: u8, size: &str) -> bool {
        self.searches(dut, family, size).any(|row| row.limit == "generator")
    }

    pub fn latency(&self, dut: &str, load: &str) -> Option<&Latency> {
        self.latency.iter().find(|row| row.dut == dut && row.load == load && row.p50.is_some())
    }

    /// What `dut` forwarded of 64-byte frames over IPv4 by what `other` did, in each round in which both did.
    pub fn ratios(&self, dut: &str, other: &str) -> Vec<f64> {
        let theirs = |round| self.searches(other, 4, "64").find(|row| row.round == round && row.pps > 0.0);
        let ours = self.searches(dut, 4, "64").filter(|row| row.pps > 0.0);
        ours.filter_map(|row| Some(row.pps / theirs(row.round)?.pps)).collect()
    }

    /// Their median.
    pub fn ratio(&self, dut: &str, other: &str) -> Option<f64> {
        median(self.ratios(dut, other))
    }

    /// oneip's p99 by the reflector's at a load: the least of the short trials of each, since what the host does only adds.
    pub fn tail(&self, load: &str) -> Option<f64> {
        let least =
            |pick: fn(&Tail) -> f64| self.tail.iter().filter(|row| row.load == load).map(pick).min_by(f64::total_cmp);
        Some(least(|row| row.oneip)? / least(|row| row.reflector)?)
    }
}

/// `None`: of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    Some((values.get(low)? + values[high]) / 2.0)
}

fn table<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Vec<T>, Failure> {
    let path = folder.join(format!("{name}.csv"));
    let wrong = |error: csv::Error| format!("{}: {error}", path.display());
    if !path.exists() {
        return Ok(Vec::new());
    }
    let rows: Result<Vec<T>, csv::Error> = csv::Reader::from_path(&path).map_err(wrong)?.into_deserialize().collect();
    Ok(rows.map_err(wrong)?)
}

/// `DUT-LOAD.hlog`, the intervals of each added up.
fn histograms(folder: &Path) -> Result<Vec<(String, String, Histogram<u64>)>, Failure> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "hlog")) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let Some((dut, load)) = stem.rsplit_once('-') else { continue };
        let histogram = sum(&fs::read(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
        found.push((dut.to_owned(), load.to_owned(), histogram));
    }
    Ok(found)
}

fn sum(log: &[u8]) -> Result<Histogram<u64>, Failure> {
    let mut sum = Histogram::<u64>::new(3)?;
    for entry in IntervalLogIterator::new(log) {
        if let LogEntry::Interval(interval) = entry.map_err(|error| format!("no interval log: {error:?}"))? {
            let bytes = STANDARD.decode(interval.encoded_histogram())?;
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| format!("{error:?}"))?;
            sum.add(&histogram).map_err(|error| format!("{error:?}"))?;
        }
    }
    Ok(sum)
}
