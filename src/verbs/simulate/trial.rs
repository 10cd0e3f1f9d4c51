//! A scheme, taken through all changes.

use super::change::{Change, Moves, Scheme};
use super::clients::Load;
use super::report::{Compared, Effect, Extent, Pairs, Peak, Portion, Received, Summary};
use crate::limits::SIMULATED_PAIRS;
use crate::table::build::maglev::Candidate;
use std::cmp::Reverse;
use std::slice;

/// Servers that an effect names as receivers.
const RECEIVERS: usize = 20;

pub struct Trial {
    scheme: &'static str,
    pub loads: Vec<Load>,
    pub peak: Peak,
    pub failures: Vec<Effect>,
    pub pairs: Pairs,
    pub added: Option<Effect>,
}

impl Trial {
    pub fn of(scheme: &mut dyn Scheme, servers: &Servers) -> Trial {
        let loads = scheme.loads();
        let pairs = servers.pairs();
        let of = pairs.len();
        // Of many, some: evenly spread over all.
        let tried = of.min(SIMULATED_PAIRS);
        let each =
            (0..tried).map(|at| servers.effect(scheme, &Change::Fail(&pairs[at * of / tried]), &loads)).collect();
        Trial {
            scheme: scheme.name(),
            peak: peak(&loads, &servers.weights).expect("a server takes clients"),
            failures: servers.each(scheme, |out| Change::Fail(out), &loads),
            pairs: Pairs { of, each },
            added: servers.added.map(|_| servers.effect(scheme, &Change::Add, &loads)),
            loads,
        }
    }

    pub fn compared(&self) -> Compared {
        Compared {
            scheme: self.scheme,
            peak_to_mean: self.peak,
            failure: summary(&self.failures),
            pair: summary(&self.pairs.each),
            added: self.added.as_ref().and_then(|added| summary(slice::from_ref(added))),
        }
    }
}

/// The servers of a service, by name and weight, and the one that may be added.
pub struct Servers<'a> {
    names: Vec<&'a str>,
    weights: Vec<u32>,
    added: Option<Candidate<'a>>,
}

impl<'a> Servers<'a> {
    pub fn new(servers: &[Candidate<'a>], added: Option<Candidate<'a>>) -> Servers<'a> {
        let names = servers.iter().chain(&added).map(|server| server.name).collect();
        Servers { names, weights: servers.iter().map(|server| server.weight).collect(), added }
    }

    /// Those that take clients.
    fn taking(&self) -> Vec<u16> {
        (0..).zip(&self.weights).filter(|(_, weight)| **weight > 0).map(|(at, _)| at).collect()
    }

    fn pairs(&self) -> Vec<[u16; 2]> {
        let taking = self.taking();
        let with_later = |(at, first): (usize, &u16)| taking[at + 1..].iter().map(|second| [*first, *second]).collect();
        taking.iter().enumerate().flat_map(|pair| -> Vec<[u16; 2]> { with_later(pair) }).collect()
    }

    /// What a change of each server alone moves.
    pub fn each(&self, scheme: &mut dyn Scheme, change: fn(&[u16]) -> Change, before: &[Load]) -> Vec<Effect> {
        self.taking().iter().map(|at| self.effect(scheme, &change(slice::from_ref(at)), before)).collect()
    }

    fn effect(&self, scheme: &mut dyn Scheme, change: &Change, before: &[Load]) -> Effect {
        let mut moves = Moves::new(change, before);
        scheme.tell(change, &mut moves);
        let mut weights = self.weights.clone();
        let mut changed = change.out().to_vec();
        match (change, self.added) {
            (Change::Add, Some(added)) => {
                weights.push(added.weight);
                changed.push(before.len() as u16);
            }
            _ => changed.iter().for_each(|at| weights[*at as usize] = 0),
        }
        let gone = change.out().iter().map(|at| before[*at as usize]).sum();
        let total: Load = before.iter().copied().sum();
        let (receivers, to) = self.received(&moves.to);
        Effect {
            servers: changed.iter().map(|at| self.names[*at as usize].to_owned()).collect(),
            moved: moves.moved,
            moved_share: portion(moves.moved, total),
            healthy_moved: moves.healthy,
            healthy_moved_share: portion(moves.healthy, total - gone),
            receivers,
            to,
            nobody: moves.nobody,
            peak_to_mean: peak(&moves.after, &weights),
        }
    }

    /// How many received something, and who most.
    fn received(&self, loads: &[Load]) -> (usize, Vec<Received>) {
        let mut received: Vec<(&str, Load)> = self.names.iter().copied().zip(loads.iter().copied()).collect();
        received.retain(|(_, load)| *load != Load::default());
        received.sort_by_key(|(_, load)| Reverse(load.clients));
        let most = received.iter().take(RECEIVERS);
        let most = most.map(|(server, load)| Received { server: (*server).to_owned(), load: *load }).collect();
        (received.len(), most)
    }
}

/// `None`: nobody has a weight.
fn peak(loads: &[Load], weights: &[u32]) -> Option<Peak> {
    let total: Load = loads.iter().copied().sum();
    let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let most = |of: fn(&Load) -> u64| {
        let entitled = |weight: u32| of(&total) as f64 * f64::from(weight) / all;
        let taking = loads.iter().zip(weights).filter(|(_, weight)| **weight > 0);
        taking.map(|(load, weight)| of(load) as f64 / entitled(*weight)).reduce(f64::max)
    };
    Some(Peak { clients: most(|load| load.clients)?, requests: most(|load| load.requests)? })
}

fn portion(part: Load, whole: Load) -> Portion {
    let of = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    Portion { clients: of(part.clients, whole.clients), requests: of(part.requests, whole.requests) }
}

/// `None`: no change.
fn summary(effects: &[Effect]) -> Option<Summary> {
    Some(Summary {
        moved_share: extent(effects, |effect| Some(effect.moved_share.clients))?,
        healthy_moved_share: extent(effects, |effect| Some(effect.healthy_moved_share.clients))?,
        peak_to_mean: extent(effects, |effect| Some(effect.peak_to_mean?.requests)),
    })
}

fn extent(effects: &[Effect], of: impl Fn(&Effect) -> Option<f64>) -> Option<Extent> {
    let values: Vec<(&Effect, f64)> = effects.iter().filter_map(|effect| Some((effect, of(effect)?))).collect();
    let (effect, worst) = values.iter().copied().reduce(|worst, next| if next.1 > worst.1 { next } else { worst })?;
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64;
    Some(Extent { mean, worst, worst_servers: effect.servers.clone() })
}
