//! What a run came to, as JSON and as a short table.

use super::frames::FCS;
use super::histogram::Times;
use super::sink::Counts;
use super::transmit::Sent;
use crate::metrics::summary::microseconds;
use crate::model::Mac;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// `sent == received + lost + corrupt`, unless a frame came both changed and unchanged.
pub struct Report {
    /// `xdp`, or `af_xdp` and how frames get to the device.
    pub method: String,
    /// With FCS, each once.
    pub sizes: Vec<usize>,
    /// Frames a second.
    pub offered: Option<u64>,
    pub sent: Sent,
    /// Frames that the interface says it dropped instead of sending.
    pub tx_dropped: u64,
    pub counts: Counts,
    pub by_mac: BTreeMap<Mac, u64>,
}

impl Report {
    /// Frames that never came.
    pub fn lost(&self) -> u64 {
        self.sent.frames.saturating_sub(self.counts.received + self.counts.corrupt)
    }

    /// A rate of the time of sending; 0 where that is none.
    fn rate(&self, count: f64) -> f64 {
        let seconds = self.sent.seconds();
        if seconds > 0.0 { count / seconds } else { 0.0 }
    }

    fn sent_pps(&self) -> f64 {
        self.rate(self.sent.frames as f64)
    }

    fn received_pps(&self) -> f64 {
        self.rate(self.counts.received as f64)
    }

    /// Bits, of frames with their FCS.
    fn received_bps(&self) -> f64 {
        let bytes = self.counts.bytes + self.counts.received * FCS as u64;
        self.rate(bytes as f64 * 8.0)
    }

    /// Values that nothing was counted for are `null`.
    pub fn json(&self) -> Value {
        let Report { method, sizes, offered, sent, tx_dropped, counts, by_mac } = self;
        let by_mac: Map<String, Value> = by_mac.iter().map(|(mac, count)| (mac.to_string(), (*count).into())).collect();
        let lag = sent.lag.as_ref().filter(|lag| lag.count > 0).map(|lag| {
            let [p50, p99] = lag.quantiles([0.50, 0.99]);
            json!({"p50": p50, "p99": p99, "max": lag.most})
        });
        json!({
            "sent": sent.frames,
            "received": counts.received,
            "lost": self.lost(),
            "duplicates": counts.duplicates,
            "reordered": counts.reordered,
            "corrupt": counts.corrupt,
            "routed": counts.routed,
            "tx_dropped": tx_dropped,
            "seconds": sent.seconds(),
            "offered_pps": offered,
            "sent_pps": self.sent_pps(),
            "received_pps": self.received_pps(),
            "received_bps": self.received_bps(),
            "method": method,
            "frame_sizes": sizes,
            "lag_ns": lag,
            "latency_ns": (counts.latency.count > 0).then(|| latency(&counts.latency)),
            "by_mac": by_mac,
        })
    }
}

fn latency(times: &Times) -> Value {
    let [p50, p90, p99, p999, p9999] = times.quantiles([0.50, 0.90, 0.99, 0.999, 0.9999]);
    json!({
        "count": times.count,
        "min": times.least,
        "mean": times.mean(),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "p999": p999,
        "p9999": p9999,
        "max": times.most,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { method, sizes, offered, sent, tx_dropped, counts, by_mac } = self;
        let sizes = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "sent        {} frames of {sizes} bytes in {:.3} s", sent.frames, sent.seconds())?;
        write!(f, ", {:.0}/s", self.sent_pps())?;
        if let Some(offered) = offered {
            write!(f, " of {offered}/s")?;
        }
        writeln!(f, ", by {method}")?;
        let share = if sent.frames == 0 { 0.0 } else { 100.0 * self.lost() as f64 / sent.frames as f64 };
        let gbps = self.received_bps() / 1e9;
        writeln!(f, "received    {}, {:.0}/s, {gbps:.3} Gbit/s", counts.received, self.received_pps())?;
        write!(f, "lost        {} ({share:.4} %)", self.lost())?;
        if *tx_dropped > 0 {
            write!(f, ", {tx_dropped} of them on the way out of the interface")?;
        }
        let Counts { duplicates, reordered, corrupt, routed, .. } = counts;
        write!(f, "\n            duplicates {duplicates}, reordered {reordered}, corrupt {corrupt}, routed {routed}")?;
        if counts.latency.count > 0 {
            let times = &counts.latency;
            let quantiles = times.quantiles([0.50, 0.90, 0.99, 0.999, 0.9999]);
            let [p50, p90, p99, p999, p9999] = quantiles.map(microseconds);
            let (least, mean, most) =
                (microseconds(times.least), microseconds(times.mean() as u64), microseconds(times.most));
            write!(
                f,
                "\nlatency     min {least}, mean {mean}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, p99.99 {p9999}"
            )?;
            write!(f, ", max {most}")?;
        }
        if let Some(lag) = sent.lag.as_ref().filter(|lag| lag.count > 0) {
            let [p50, p99] = lag.quantiles([0.50, 0.99]).map(microseconds);
            write!(f, "\nlag         p50 {p50}, p99 {p99}, max {}", microseconds(lag.most))?;
        }
        for (mac, count) in by_mac {
            write!(f, "\n{mac}   {count} ({:.2} %)", 100.0 * *count as f64 / counts.received.max(1) as f64)?;
        }
        Ok(())
    }
}
