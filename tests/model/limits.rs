//! Limits a second time: a token bucket for each service, and for each source in a map without bounds, that is filled as time goes by.

use super::Model;
use oneip::model::{Limit, LimitKind, OddKind, OddLimit, PerSource, Plan, Rate};
use oneip::verdict::{Reason, Verdict};
use std::collections::HashMap;
use std::net::IpAddr;

/// A service's, or that of a source: its family and prefix.
type Whose = (usize, LimitKind, Option<(bool, u128)>);

pub struct Naive {
    plan: Plan,
    /// What is in each, and since when.
    buckets: HashMap<Whose, (u128, u64)>,
    /// Frames beyond limits, by service and kind.
    pub beyond: HashMap<(usize, LimitKind), u64>,
    /// What is in the buckets of what is dear to read, and since when.
    odd: HashMap<OddKind, (u128, u64)>,
    pub beyond_odd: HashMap<OddKind, u64>,
}

/// The plan, with limits of all kinds, one service of five without any and one that only counts.
/// Services take turns at the kinds; `turn` says who begins, and from 5 on there is `[limit.odd]` too.
pub fn with_limits(mut plan: Plan, turn: usize) -> Plan {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    for (at, service) in plan.services.iter_mut().enumerate() {
        let per_source = PerSource { prefix_v4: 32, prefix_v6: 126, packets: rate(3000, 4), syn: rate(1300, 2) };
        let none = Limit { packets: None, bits: None, syn: None, per_source: None, only_counts: false };
        service.limit = match (at + turn) % 5 {
            0 => Some(Limit {
                packets: rate(90_000, 60),
                bits: rate(90_000_000, 80_000),
                syn: rate(20_000, 11),
                per_source: Some(per_source),
                only_counts: false,
            }),
            1 => Some(Limit { bits: rate(3_000_000, 90_000), only_counts: true, ..none }),
            2 => Some(Limit { syn: rate(7, 20), packets: rate(1500, 30), ..none }),
            3 => Some(Limit { per_source: Some(PerSource { prefix_v4: 30, syn: None, ..per_source }), ..none }),
            _ => None,
        };
    }
    plan.odd_limit = (turn >= 5).then(|| OddLimit {
        rates: [rate(20_000, 12), (turn != 6).then_some(rate(9_000, 5)).flatten(), rate(15_000, 3)],
        only_counts: turn == 7,
    });
    plan
}

impl Naive {
    pub fn new(plan: &Plan) -> Naive {
        let plan = plan.clone();
        Naive { plan, buckets: HashMap::new(), beyond: HashMap::new(), odd: HashMap::new(), beyond_odd: HashMap::new() }
    }

    /// The verdict of a frame that comes at that time, in nanoseconds.
    pub fn verdict(&mut self, model: &Model, frame: &[u8], now: u64) -> Verdict {
        let verdict = model.verdict(frame);
        if self.is_beyond_odd(model, frame, verdict, now) {
            return Verdict::Drop(Reason::Limited);
        }
        let Some((service, source, begins)) = model.subject(frame) else { return verdict };
        match self.beyond(service, source, begins, frame.len(), now) {
            Some(false) => Verdict::Drop(Reason::Limited),
            _ => verdict,
        }
    }

    /// Frames beyond limits of what is dear to read: those dropped, and those only counted, by kind.
    pub fn odd(&self) -> [[u64; OddKind::COUNT]; 2] {
        let beyond = OddKind::ALL.map(|kind| self.beyond_odd.get(&kind).copied().unwrap_or(0));
        let only_counts = self.plan.odd_limit.as_ref().is_some_and(|limit| limit.only_counts);
        if only_counts { [[0; OddKind::COUNT], beyond] } else { [beyond, [0; OddKind::COUNT]] }
    }

    /// Who is denied takes nothing from the others.
    fn is_beyond_odd(&mut self, model: &Model, frame: &[u8], verdict: Verdict, now: u64) -> bool {
        let (Some(limit), Some(kind)) = (&self.plan.odd_limit, model.odd(frame)) else { return false };
        let Some(rate) = limit.rates[kind as usize] else { return false };
        let (second, per_second) = (1024 * 1_000_000_000u128, u128::from(rate.per_second));
        let cost = (second + per_second / 2) / per_second;
        let depth = cost * u128::from(rate.burst);
        let (level, since) = self.odd.entry(kind).or_insert((depth, now));
        *level = depth.min(*level + 1024 * u128::from(now - *since));
        *since = now;
        if *level < cost {
            *self.beyond_odd.entry(kind).or_default() += 1;
            return !limit.only_counts;
        }
        if verdict != Verdict::Drop(Reason::Denied) {
            *level -= cost;
        }
        false
    }

    /// Whether a frame is beyond a limit: of one that only counts, or of one that drops.
    fn beyond(&mut self, service: usize, source: IpAddr, begins: bool, len: usize, now: u64) -> Option<bool> {
        let limit = self.plan.services[service].limit.clone()?;
        let mut costs = Vec::new();
        for (kind, rate) in limit.rates() {
            let is_syn = matches!(kind, LimitKind::SourceSyn | LimitKind::Syn);
            if is_syn && !begins {
                continue;
            }
            let of = matches!(kind, LimitKind::SourceSyn | LimitKind::SourcePackets)
                .then(|| prefix(source, limit.per_source.as_ref().expect("limits of sources")));
            // In 1024ths of a nanosecond.
            let second = 1024 * 1_000_000_000u128;
            let per_second = u128::from(rate.per_second);
            let (cost, depth) = if kind == LimitKind::Bits {
                let byte = 8 * second * 4096 / per_second;
                (byte * len as u128 / 4096, byte * u128::from(rate.burst / 8) / 4096)
            } else {
                let cost = (second + per_second / 2) / per_second;
                (cost, cost * u128::from(rate.burst))
            };
            let (level, since) = self.buckets.entry((service, kind, of)).or_insert((depth, now));
            *level = depth.min(*level + 1024 * u128::from(now - *since));
            *since = now;
            if *level < cost {
                *self.beyond.entry((service, kind)).or_default() += 1;
                return Some(limit.only_counts);
            }
            costs.push(((service, kind, of), cost));
        }
        costs.iter().for_each(|(bucket, cost)| self.buckets.get_mut(bucket).expect("it was asked").0 -= cost);
        None
    }
}

fn prefix(source: IpAddr, of: &PerSource) -> (bool, u128) {
    match source {
        IpAddr::V4(source) => (false, u128::from(source.to_bits()) >> (32 - of.prefix_v4)),
        IpAddr::V6(source) => (true, source.to_bits() >> (128 - of.prefix_v6)),
    }
}
