//! A `Table`, laid out in cells as `src/bpf/arena.h` reads it. What stands in the arena already is shared: slots and keepers by the
//! identity of their slices, everything else by what it says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::arena::{Arena, Content, NARROW_SERVERS};
use super::layout::{
    BY_FLOW, GROUP, HAS_WAY, Head, LIMITS, LISTED, Moves, NARROW, NOT_RESOLVED, ODD_LIMITS, Owners, Place, QUIC,
    SECOND_CHANCE, Service, WATCHED, WATCHED_ALL, WATCHED_DROPPED, WATCHED_RECEIVED, WATCHED_SENT,
};
use crate::hash::Key;
use crate::model::Egress;
use crate::table::build::migration::Kept;
use crate::table::limits::{Limits, Rule};
use crate::table::ranges::Tree;
use crate::table::trace::Watch;
use crate::table::{self, PackedMac, ServiceTable, Table};
use crate::xdp::cell::Words;
use crate::xdp::directory::Directory;
use crate::xdp::prefixes::{self, Prefixes, Ranges};
use crate::xdp::quic;
use crate::xdp::ranges::Range;
use crate::xdp::way::WayCell;

/// A part of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Ports,
    Addresses,
    Prefixes(prefixes::Part),
    Loops,
    Keeping,
    Services,
    Hops,
    Ways,
    Idents,
    Servers,
    /// Of a family, IPv4's first: where its ranges begin, and what becomes of them.
    Ranges(bool),
    RangeFates(bool),
    Fates,
    Limits,
    Quic,
    /// Of a service, by its number.
    Moves(u16),
    /// By where the slice lies, which is held as long as the part is, and whether a byte is enough for each.
    Slots(usize, bool),
    PreviousOwners(usize),
}

/// A part in the arena.
#[derive(Clone)]
pub struct Held {
    pub range: Range,
    /// Of a slice: so that no other one can lie there.
    content: Option<Content>,
}

pub type Parts = HashMap<Part, Held>;

/// The arena cannot hold the table beside the one that is published.
#[derive(Debug)]
pub struct Full;

/// Where parts are put.
pub trait Places {
    fn place(&mut self, part: Part, content: Content) -> Result<u32, Full>;
}

/// Only counts.
#[derive(Default)]
pub struct Size {
    pub cells: u32,
    /// Were all slots wide.
    pub wide_cells: u32,
    slices: std::collections::HashSet<Part>,
    /// Of the largest service, wide.
    pub slots: u32,
}

impl Places for Size {
    fn place(&mut self, part: Part, content: Content) -> Result<u32, Full> {
        if !matches!(part, Part::Slots(..) | Part::PreviousOwners(_)) || self.slices.insert(part) {
            self.cells += content.cells();
            self.wide_cells += content.wide_cells();
        }
        if matches!(part, Part::Slots(..)) {
            self.slots = self.slots.max(content.wide_cells());
        }
        Ok(0)
    }
}

/// In an arena, beside what is published.
pub struct Placing<'a> {
    pub arena: &'a mut Arena,
    pub published: &'a Parts,
    pub parts: Parts,
    pub taken: Vec<Range>,
}

impl Places for Placing<'_> {
    fn place(&mut self, part: Part, content: Content) -> Result<u32, Full> {
        if let Some(held) = self.parts.get(&part) {
            return Ok(held.range.first);
        }
        let is_there = |held: &&Held| match &content {
            Content::Words(words) => held.range.count == content.cells() && self.arena.holds(held.range, words),
            Content::Slots(_) | Content::NarrowSlots(_) | Content::PreviousOwners(_) => true,
        };
        let held = match self.published.get(&part).filter(is_there) {
            Some(held) => held.clone(),
            None => {
                let range = self.arena.take(content.cells()).ok_or(Full)?;
                self.taken.push(range);
                self.arena.write(range, &content);
                let content = (!matches!(content, Content::Words(_))).then_some(content);
                Held { range, content }
            }
        };
        let first = held.range.first;
        self.parts.insert(part, held);
        Ok(first)
    }
}

impl Held {
    /// Whether it lies where another does.
    pub fn is(&self, other: &Held) -> bool {
        debug_assert!(self.range != other.range || self.content.is_some() == other.content.is_some());
        self.range == other.range
    }
}

/// The directories of ports and of addresses, which take longest and seldom change.
pub struct Ports {
    of: Arc<table::Directory>,
    ports: (Directory, Arc<[u64]>),
    addresses: (Directory, Arc<[u64]>),
}

impl Ports {
    pub fn new(table: &Table) -> Ports {
        let of = Arc::clone(table.directory());
        let [addresses, ports] = [Directory::addresses(&of), Directory::ports(&of)].map(|directory| {
            let words = directory.cells.concat().into();
            (directory, words)
        });
        Ports { of, ports, addresses }
    }

    pub fn are_of(&self, table: &Table) -> bool {
        Arc::ptr_eq(&self.of, table.directory())
    }
}

/// Lays a table out. With the interface that frames come to, and what flows are hashed with.
/// The head does not say yet where frames are counted.
pub fn compile(
    table: &Table,
    ports: &Ports,
    (own, flows): (Egress, Key),
    places: &mut impl Places,
) -> Result<Head, Full> {
    let mut head = Head { key: table.key.state(), flow_key: flows.state(), ..Head::default() };
    for (place, part, (directory, words)) in
        [(&mut head.ports, Part::Ports, &ports.ports), (&mut head.addresses, Part::Addresses, &ports.addresses)]
    {
        *place = Place::of(directory, places.place(part, Content::Words(Arc::clone(words)))?);
    }
    head.prefixes =
        Prefixes::place(&ports.of, |part, words| places.place(Part::Prefixes(part), Content::Words(words.into())))?;
    head.idents = idents(table, places)?;
    (head.loops, head.servers) = loops(table, places)?;
    let keeping: Vec<(u64, u64)> = table.previous_owners().map(keeping).collect();
    head.keeping = words(&keeping, Part::Keeping, places)?;
    head.horizon = table.horizon;
    let mut hops = Hops::default();
    let mut services = Vec::with_capacity(table.services() * size_of::<Service>() / 8);
    let mut ids = Vec::new();
    for id in 0..table.services() as u16 {
        let destinations = table.destinations_of(id);
        let mut service = service(id, (table.service(id), destinations.len()), places)?;
        service.flags |= table.lists().map_or(0, |lists| u16::from(lists.group(id)) << GROUP);
        if let Some(of) = table.service(id).connection_ids() {
            let entries = quic::entries(id, of);
            service.flags |= if entries.is_empty() { 0 } else { QUIC };
            ids.extend(entries);
        }
        service.hops = hops.add(destinations.flat_map(|destination| hop(table, own, destination)).collect());
        services.extend_from_slice(service.words());
    }
    head.hops = places.place(Part::Hops, Content::Words(padded(hops.words)))?;
    if !ids.is_empty() {
        let directory = quic::directory(ids);
        head.quic = Place::of(&directory, places.place(Part::Quic, Content::Words(directory.cells.concat().into()))?);
    }
    head.ways = ways(table, places)?;
    head.own_egress = own.index;
    head.services = places.place(Part::Services, Content::Words(padded(services)))?;
    if let Some(lists) = table.lists() {
        head.flags |= LISTED;
        (head.lists_v4, head.lists_v6) = (tree(lists.v4(), true, places)?, tree(lists.v6(), false, places)?);
        head.fates = places.place(Part::Fates, Content::Words(Arc::clone(lists.fates())))?;
    }
    head.flags |= if table.limits().is_some() { LIMITS } else { 0 };
    head.flags |= if table.odd_limits().is_some() { ODD_LIMITS } else { 0 };
    if head.flags & (LIMITS | ODD_LIMITS) != 0 {
        head.limits = places.place(Part::Limits, Content::Words(rules(table)))?;
    }
    if let Some(watch) = &table.watch {
        set_watch(&mut head, watch);
    }
    Ok(head)
}

/// `struct rule`
const RULE_WORDS: usize = 16;

/// `struct limit_key`: behind a key and as many gauges as a shift can find.
const ODD_FLAGS_WORD: usize = 4 + 2 * 4;

/// What sources are hashed with, the limits of what is dear to read, and the rule of each service.
fn rules(table: &Table) -> Arc<[u64]> {
    let mut words = table.limits().map_or([0; 4], |limits| limits.key().state()).to_vec();
    if let Some(odd) = table.odd_limits() {
        words.extend(odd.gauges().iter().flat_map(|gauge| [gauge.cost, gauge.depth]));
        words.resize(ODD_FLAGS_WORD, 0);
        words.push(u64::from(odd.only_counts()));
    }
    words.resize(RULE_WORDS, 0);
    for rule in table.limits().map_or(&[][..], Limits::rules) {
        let Rule { gauges, mask_v4, mask_v6: [low, high], slot, only_counts } = rule.unwrap_or_default();
        words.extend(gauges.iter().flat_map(|gauge| [gauge.cost, gauge.depth]));
        words.extend([mask_v4, low, high, u64::from(slot) | u64::from(only_counts) << 32]);
        words.resize(words.len().next_multiple_of(RULE_WORDS), 0);
    }
    words.into()
}

fn set_watch(head: &mut Head, watch: &Watch) {
    let points = watch.points;
    let flags = [
        (WATCHED_ALL, watch.client.is_none()),
        (WATCHED_RECEIVED, points.received),
        (WATCHED_DROPPED, points.only_dropped),
        (WATCHED_SENT, points.sent),
    ];
    head.flags |= WATCHED | flags.iter().filter(|(_, is_set)| *is_set).fold(0, |all, (flag, _)| all | flag);
    head.snap = watch.snap as u32;
    head.watched_of = watch.one_in;
    (head.watched, head.watched_is_v6) = match watch.client {
        None => ([0; 2], 0),
        Some(IpAddr::V4(client)) => ([u32::from_le_bytes(client.octets()).into(), 0], 0),
        Some(IpAddr::V6(client)) => {
            let number = u128::from_le_bytes(client.octets());
            ([number as u64, (number >> 64) as u64], 1)
        }
    };
}

/// The ranges of a family.
fn tree<const W: usize>(of: &Tree<W>, is_v4: bool, places: &mut impl Places) -> Result<Ranges, Full> {
    let keys = places.place(Part::Ranges(is_v4), Content::Words(Arc::clone(of.keys())))?;
    let values = places.place(Part::RangeFates(is_v4), Content::Words(prefixes::value_words(of).into()))?;
    Ok(Ranges::of(of, keys, values))
}

fn keeping((ident, destination): (u32, u32)) -> (u64, u64) {
    (ident.into(), u64::from(ident) | u64::from(destination) << 32)
}

/// The next hops of all servers. Services with the same share theirs: these are what nearly every frame reads, and so should
/// stay in the caches.
#[derive(Default)]
struct Hops {
    words: Vec<u64>,
    known: HashMap<Vec<u64>, u32>,
}

impl Hops {
    /// Where those of a service begin.
    fn add(&mut self, hops: Vec<u64>) -> u32 {
        let next = (self.words.len() / HOP_WORDS) as u32;
        *self.known.entry(hops).or_insert_with_key(|hops| {
            self.words.extend_from_slice(hops);
            next
        })
    }
}

/// `struct hop`
const HOP_WORDS: usize = 2;

fn hop(table: &Table, own: Egress, destination: usize) -> [u64; HOP_WORDS] {
    let next_hop = table.next_hop(destination);
    let Egress { index, source } = table.egress(next_hop).copied().unwrap_or(own);
    let source = PackedMac::from_bytes(source.0).word();
    let way = if next_hop.has_way() { HAS_WAY } else { 0 };
    let flags = if next_hop.is_forward() { way } else { NOT_RESOLVED };
    [next_hop.mac_word() | source << 48, source >> 16 | u64::from(index | flags) << 32]
}

/// What packets get besides MACs, where they do.
fn ways(table: &Table, places: &mut impl Places) -> Result<u32, Full> {
    if !table.has_ways() {
        return Ok(0);
    }
    let cells =
        (0..table.destinations() as u32).map(|at| WayCell::new(table.way(at), table.tags(at), table.tunnel_mtu()));
    let words: Vec<u64> = cells.flat_map(|cell| cell.words().to_vec()).collect();
    places.place(Part::Ways, Content::Words(padded(words)))
}

/// While any slot migrates: what names a server for as long as it is configured.
fn idents(table: &Table, places: &mut impl Places) -> Result<u32, Full> {
    if (0..table.services() as u16).all(|id| table.service(id).kept().is_none()) {
        return Ok(0);
    }
    let ident = |destination: usize| match destination < table.destinations() {
        true => u64::from(table.ident(destination as u32)),
        false => 0,
    };
    let idents: Vec<u64> = (0..table.destinations()).step_by(2).map(|at| ident(at) | ident(at + 1) << 32).collect();
    places.place(Part::Idents, Content::Words(padded(idents)))
}

/// Nothing takes a cell as well: what begins there must not be what begins elsewhere.
fn padded(mut words: Vec<u64>) -> Arc<[u64]> {
    if words.is_empty() {
        words.push(0);
    }
    words.into()
}

/// Who must not send to which address, and all of them.
fn loops(table: &Table, places: &mut impl Places) -> Result<(Place, Place), Full> {
    let loops: Vec<u64> = table.loops().map(|(mac, id)| mac.word() | (u64::from(id) + 1) << 48).collect();
    let mut servers: Vec<u64> = table.loops().map(|(mac, _)| mac.word() | 1 << 48).collect();
    servers.sort_unstable();
    servers.dedup();
    let keyed = |words: Vec<u64>| words.into_iter().map(|word| (word, word)).collect::<Vec<_>>();
    Ok((words(&keyed(loops), Part::Loops, places)?, words(&keyed(servers), Part::Servers, places)?))
}

fn words(all: &[(u64, u64)], part: Part, places: &mut impl Places) -> Result<Place, Full> {
    if all.is_empty() {
        return Ok(Place::default());
    }
    let directory = Directory::of_words(all);
    let first = places.place(part, Content::Words(directory.cells.concat().into()))?;
    Ok(Place::of(&directory, first))
}

/// Of a service with so many servers.
fn slots(slots: &Arc<[u16]>, servers: usize, places: &mut impl Places) -> Result<u32, Full> {
    let (at, are_narrow, slots) = (slots.as_ptr().addr(), servers <= NARROW_SERVERS, Arc::clone(slots));
    let content = if are_narrow { Content::NarrowSlots(slots) } else { Content::Slots(slots) };
    Ok(places.place(Part::Slots(at, are_narrow), content)? | if are_narrow { NARROW } else { 0 })
}

/// With so many servers.
fn service(id: u16, (table, count): (&ServiceTable, usize), places: &mut impl Places) -> Result<Service, Full> {
    let mut service = Service {
        slots: table.rule.slots,
        owners: slots(table.shared_owners(), count, places)?,
        base: table.base(),
        flags: if table.rule.flow { BY_FLOW } else { 0 } | if table.second_chance { SECOND_CHANCE } else { 0 },
        count: count as u16,
        ..Service::default()
    };
    if let Some(remainders) = table.shared_remainders() {
        service.servers = remainders.len() as u32;
        service.remainders = slots(remainders, count, places)?;
    }
    if let Some(kept) = table.kept() {
        let moves = moves(kept, count, places)?;
        service.moves = places.place(Part::Moves(id), Content::Words(moves.words().into()))?;
    }
    Ok(service)
}

fn moves(kept: &Kept, servers: usize, places: &mut impl Places) -> Result<Moves, Full> {
    let mut moves = Moves { horizon: kept.horizon, until_closed: kept.until_closed.into(), ..Moves::default() };
    if let Some((rule, owners)) = kept.shared_previous_owners() {
        let part = Part::PreviousOwners(owners.as_ptr().addr());
        moves.previous = Owners::of(&rule, places.place(part, Content::PreviousOwners(Arc::clone(owners)))?);
    }
    moves.changes = kept.chain().len() as u32;
    for (to, (owners, is_learning)) in moves.chain.iter_mut().zip(kept.chain()) {
        *to = before(owners, servers, places)?;
        to.is_learning = (*is_learning).into();
    }
    moves.earlier_changes = kept.earlier().len() as u32;
    for (to, owners) in moves.earlier.iter_mut().zip(kept.earlier()) {
        *to = before(owners, servers, places)?;
    }
    Ok(moves)
}

fn before(owners: &table::Owners, servers: usize, places: &mut impl Places) -> Result<Owners, Full> {
    let mut before = Owners::of(&owners.rule(), slots(owners.slots(), servers, places)?);
    if let Some(remainders) = owners.remainders() {
        before.servers = remainders.len() as u32;
        before.remainders = slots(remainders, servers, places)?;
    }
    Ok(before)
}
