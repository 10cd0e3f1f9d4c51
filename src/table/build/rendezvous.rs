//! Failover order per slot: weighted rendezvous hashing of (slot, server).
//!
//! Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998)
//! with the logarithmic method for weights (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005):
//! a server's score for a slot is -ln(u) / weight, u its pseudo-random number in (0, 1) for that slot; the lowest score
//! wins. So the losers of a failed server's slots spread over the survivors by weight, and the order of a slot never
//! depends on who is up.
//!
//! Nothing of size slots x servers is kept: an `Election` finds the winner of one slot among those that are up. Among
//! servers of one weight the lowest score is the greatest u, so the logarithm is taken once a weight, not once a server,
//! and the search runs over 32-bit integers in vector registers.

use super::maglev::{Candidate, by_name};
use crate::hash::vector::{self, Level, Seed};
use crate::hash::{Key, siphash};

/// The servers of a service, ready to be ranked.
pub struct Rendezvous {
    /// By falling weight; servers of weight 0 are in none.
    classes: Vec<Class>,
    /// Class and position in it of each server; without meaning for one of weight 0.
    places: Vec<(u16, u16)>,
}

/// The servers of one weight, by name.
#[derive(Clone)]
struct Class {
    weight: u32,
    servers: Vec<u16>,
    seeds: Vec<Seed>,
}

impl Rendezvous {
    pub fn new(key: Key, candidates: &[Candidate]) -> Rendezvous {
        let mut classes: Vec<Class> = Vec::new();
        let mut places = vec![(0, 0); candidates.len()];
        let mut order = by_name(candidates);
        // Stable: servers of one weight stay sorted by name.
        order.sort_by_key(|i| std::cmp::Reverse(candidates[*i as usize].weight));
        for i in order {
            let Candidate { name, weight } = candidates[i as usize];
            if weight == 0 {
                continue;
            }
            if classes.last().is_none_or(|class| class.weight != weight) {
                classes.push(Class { weight, servers: Vec::new(), seeds: Vec::new() });
            }
            let at = classes.len();
            let class = &mut classes[at - 1];
            places[i as usize] = ((at - 1) as u16, class.servers.len() as u16);
            class.servers.push(i);
            class.seeds.push(seed(key, name));
        }
        Rendezvous { classes, places }
    }

    /// An election among the servers for which `up` is true.
    pub fn among(&self, up: &[bool]) -> Election {
        let mut classes = self.classes.clone();
        for class in &mut classes {
            let mut is_up = class.servers.iter().map(|i| up[*i as usize]);
            class.seeds.retain(|_| is_up.next().expect("a seed a server"));
            class.servers.retain(|i| up[*i as usize]);
        }
        classes.retain(|class| !class.servers.is_empty());
        let most = classes.iter().map(|class| class.servers.len()).max().unwrap_or(0);
        Election { level: Level::detect(), classes, strengths: vec![0; most] }
    }

    /// Whether server `a` comes before server `b` in a slot's order. Both have a weight above 0.
    pub fn precedes(&self, a: u16, b: u16, slot: u32) -> bool {
        let score = |(class, at): (u16, u16)| {
            let class = &self.classes[class as usize];
            score(vector::strength(class.seeds[at as usize], salt(slot)), class.weight)
        };
        let [place_a, place_b] = [a, b].map(|server| self.places[server as usize]);
        // Of equals the heavier, then the earlier name, comes first: that is the order of places.
        score(place_a).total_cmp(&score(place_b)).then(place_a.cmp(&place_b)).is_lt()
    }

    /// The whole failover order of a slot, the first choice's server included where it falls.
    pub fn order(&self, slot: u32) -> Vec<u16> {
        let mut ranked: Vec<(f64, usize, u16)> = Vec::new();
        for (rank, class) in self.classes.iter().enumerate() {
            for (server, seed) in class.servers.iter().zip(&class.seeds) {
                ranked.push((score(vector::strength(*seed, salt(slot)), class.weight), rank, *server));
            }
        }
        // Stable: among equals the heavier, then the earlier name, stays first.
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().map(|(_, _, server)| server).collect()
    }
}

/// Finds the winner of a slot among the servers that are up.
pub struct Election {
    level: Level,
    classes: Vec<Class>,
    strengths: Vec<u32>,
}

impl Election {
    /// `None`: nobody is up.
    pub fn winner(&mut self, slot: u32) -> Option<u16> {
        let mut best: Option<(f64, u16)> = None;
        let alone = self.classes.len() == 1;
        for class in &self.classes {
            let (at, strength) = self.level.strongest(&class.seeds, salt(slot), &mut self.strengths)?;
            if alone {
                return Some(class.servers[at]);
            }
            let score = score(strength, class.weight);
            if best.is_none_or(|(lowest, _)| score < lowest) {
                best = Some((score, class.servers[at]));
            }
        }
        best.map(|(_, server)| server)
    }
}

/// Two independent words of a server's name; the domain separates them from the permutations of `maglev`.
fn seed(key: Key, name: &str) -> Seed {
    let mut input = b"failover ".to_vec();
    input.extend_from_slice(name.as_bytes());
    let hash = siphash::bytes(key, &input);
    Seed { offset: (hash >> 32) as u32, factor: hash as u32 | 1 }
}

/// Neighbouring slots far apart: the golden ratio's multiplier (Knuth, TAOCP vol. 3, section 6.4).
fn salt(slot: u32) -> u32 {
    slot.wrapping_mul(0x9e37_79b9)
}

/// -ln(u) / weight. `libm` is computed in software, so that every machine of a cluster gets the same bits.
fn score(strength: u32, weight: u32) -> f64 {
    let u = (strength as f64 + 0.5) / 4_294_967_296.0;
    -libm::log(u) / weight as f64
}
