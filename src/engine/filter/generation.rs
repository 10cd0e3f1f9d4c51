//! The table that the program decides by, as `src/bpf/filter.bpf.c` reads it: cells of 4 KiB; the head in the first, then the
//! directory, the services, and the slots of each service, two bits a slot. Of the servers a filter needs to know one thing:
//! whether it is this one.

use std::collections::HashMap;

use super::view::{Places, View};
use crate::table::build::Cluster;
use crate::table::build::maglev::NOBODY;
use crate::table::build::migration::PreviousOwner;
use crate::table::{MIGRATING, ServiceId};
use crate::xdp::cell::{CELL_WORDS, Cell};
use crate::xdp::directory::Directory;
use crate::xdp::prefixes::Prefixes;

/// 64 bits hold 32 slots.
const WORD_SLOTS: usize = 32;
const CELL_SLOTS: usize = CELL_WORDS * WORD_SLOTS;

/// A service is four words.
const CELL_SERVICES: usize = CELL_WORDS / 4;

/// `struct service`, flags.
const BY_FLOW: u64 = 1;
const ALL_MOVE: u64 = 2;

/// `enum owner`; of a previous owner, `Nobody`: the slot does not move.
#[derive(Clone, Copy)]
enum Owner {
    Nobody = 0,
    Mine = 1,
    Theirs = 2,
    /// This server's as long as the lease is renewed, because it is the first choice of another one.
    Lent = 3,
}

/// A complete table for one server.
pub struct Generation {
    cells: Vec<Cell>,
}

/// What a filter decides by besides the state of the cluster.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Of the clients that this server gets, it takes those that it had in each of these states; the others' time has not come.
    pub had: &'a [&'a View],
    /// What is another one's by now, and this server keeps.
    pub kept: &'a View,
    /// Whether the connections of a service may be with any server, so that each is where its socket is.
    pub scattered: &'a dyn Fn(&str) -> bool,
    /// Under which number the frames of a service are counted.
    pub account: &'a dyn Fn(&str) -> u32,
}

impl Generation {
    /// Of the present state of the cluster, for the server of that name, which takes all its clients at once.
    pub fn compile(cluster: &Cluster, server: &str) -> Generation {
        Generation::on_terms(
            cluster,
            server,
            Terms { had: &[], kept: &View::default(), scattered: &|_| false, account: &|_| 0 },
        )
    }

    /// Of the present state of the cluster, for the server of that name.
    pub fn on_terms(cluster: &Cluster, server: &str, terms: Terms) -> Generation {
        let directory = Directory::new(cluster.directory());
        let mut cells = vec![[0; CELL_WORDS]];
        cells.extend_from_slice(&directory.cells);
        let prefixes = Prefixes::append(cluster.directory(), &mut cells);
        let (first_service, services) = (cells.len(), cluster.services());
        cells.resize(first_service + services.div_ceil(CELL_SERVICES), [0; CELL_WORDS]);
        cells[0][..4].copy_from_slice(&cluster.key().state());
        cells[0][4] = directory.factor;
        cells[0][5] = u64::from(directory.shift) | 1 << 32;
        cells[0][6..11].copy_from_slice(&prefixes.words());
        cells[0][10] |= (first_service as u64) << 32;
        let mut slots = Slots { cells, known: HashMap::new(), alike: HashMap::new() };
        for id in 0..services {
            let words = service(cluster, id as ServiceId, server, terms, &mut slots);
            let cell = &mut slots.cells[first_service + id / CELL_SERVICES];
            cell[id % CELL_SERVICES * 4..][..4].copy_from_slice(&words);
        }
        Generation { cells: slots.cells }
    }

    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }
}

/// `struct service`
fn service(cluster: &Cluster, id: ServiceId, server: &str, terms: Terms, slots: &mut Slots) -> [u64; 4] {
    let (table, name) = (cluster.service(id), cluster.name(id));
    let me = cluster.position(id, server);
    let whose = |owner: &u16| match owner & !MIGRATING {
        NOBODY => Owner::Nobody,
        owner if Some(owner) == me => Owner::Mine,
        _ => Owner::Theirs,
    };
    let had: Vec<Option<&Places>> = terms.had.iter().map(|view| view.places(name, &table)).collect();
    let had_all = |has: &dyn Fn(&Places) -> bool| had.iter().all(|places| places.is_some_and(has));
    // By remainder it is not the slot that says whose a client is while all are up.
    let firsts = cluster.first_choices(id);
    let is_lent = |slot: usize| table.remainders().is_some() || Some(firsts[slot]) != me;
    let kept = terms.kept.places(name, &table);
    let by_slot = |(slot, owner): (usize, &u16)| match whose(owner) {
        Owner::Theirs if kept.is_some_and(|kept| kept.has_slot(slot)) => Owner::Mine,
        Owner::Mine if !had_all(&|places| places.has_slot(slot)) => Owner::Theirs,
        Owner::Mine if is_lent(slot) => Owner::Lent,
        owner => owner,
    };
    // Services with the same servers share these two, and the cluster has them for as long as this takes.
    let alike = (table.owners().as_ptr().addr(), firsts.as_ptr().addr(), me, table.remainders().is_some());
    let alike = Some(alike).filter(|_| had.is_empty() && kept.is_none());
    let owners = slots.add_once(alike, table.owners().iter().enumerate().map(by_slot));
    let (mut servers, mut remainders, mut moves) = (0, 0, 0);
    if let Some(by_remainder) = table.remainders() {
        let held = |(at, owner): (usize, &u16)| match whose(owner) {
            Owner::Theirs if kept.is_some_and(|kept| kept.has_remainder(at)) => Owner::Mine,
            Owner::Mine if !had_all(&|places| places.has_remainder(at)) => Owner::Theirs,
            // The slot may be this server's, and may have been when it did not decide.
            Owner::Nobody if !had_all(&|places| places.is_free(at)) => Owner::Theirs,
            owner => owner,
        };
        servers = by_remainder.len() as u64;
        remainders = slots.add(by_remainder.iter().enumerate().map(held));
    }
    let mut flags = if table.rule.flow { BY_FLOW } else { 0 };
    if (terms.scattered)(name) {
        flags |= ALL_MOVE;
    } else if let Some(kept) = table.kept() {
        match kept.previous_owners() {
            Some(previous_owners) => {
                // Where who kept them is gone, others may have some yet that were begun since.
                let previous_owner = |(owner, previous_owner): (&u16, &PreviousOwner)| match owner & MIGRATING {
                    0 => Owner::Nobody,
                    _ => whose(&previous_owner.server().unwrap_or(*owner)),
                };
                moves = slots.add(table.owners().iter().zip(previous_owners).map(previous_owner));
            }
            None => flags |= ALL_MOVE,
        }
    }
    [
        u64::from(table.rule.slots) | owners << 32,
        moves | servers << 32,
        remainders | flags << 32,
        u64::from((terms.account)(name)),
    ]
}

/// The cells, and where in them slots already stand: services with the same servers share theirs.
struct Slots {
    cells: Vec<Cell>,
    known: HashMap<Vec<Cell>, u64>,
    /// Those of services that are known to be alike.
    alike: HashMap<Alike, u64>,
}

/// Where owners and first choices are in memory, this server's position, and whether clients are shared out by remainder.
type Alike = (usize, usize, Option<u16>, bool);

impl Slots {
    /// As `add`; of services that are alike, the slots are read once.
    fn add_once(&mut self, alike: Option<Alike>, slots: impl ExactSizeIterator<Item = Owner>) -> u64 {
        let known = alike.and_then(|alike| self.alike.get(&alike).copied());
        let first = known.unwrap_or_else(|| self.add(slots));
        self.alike.extend(alike.map(|alike| (alike, first)));
        first
    }

    /// The first cell.
    fn add(&mut self, slots: impl ExactSizeIterator<Item = Owner>) -> u64 {
        let mut cells = vec![[0; CELL_WORDS]; slots.len().div_ceil(CELL_SLOTS)];
        for (slot, owner) in slots.enumerate() {
            let word = &mut cells[slot / CELL_SLOTS][slot % CELL_SLOTS / WORD_SLOTS];
            *word |= (owner as u64) << (slot % WORD_SLOTS * 2);
        }
        let next = self.cells.len() as u64;
        *self.known.entry(cells).or_insert_with_key(|cells| {
            self.cells.extend_from_slice(cells);
            next
        })
    }
}
