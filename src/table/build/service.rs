//! One service on the control side: its servers, who of them owns which slot, and the changes that are under way.

use super::history::History;
use super::idents::Idents;
use super::maglev::{self, Candidate, NOBODY};
use super::migration::{Marked, Moves};
use super::rendezvous::Rendezvous;
use super::shared::{Elected, Moved, Shared, Step};
use crate::hash::Key;
use crate::limits::FLOW_CENSUS;
use crate::model::identity::Identity;
use crate::model::{Deliver, HashInput, Mac, NextHop, Selection, Server, ServerId, Service, Tags};
use crate::table::census::Census;
use crate::table::quic::{Codecs, ConnectionIds};
use crate::table::{Owners, Rule, ServiceTable};
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// What a server is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For nobody.
    Down,
    /// For the connections that it has.
    Draining,
    /// For new clients too.
    Active,
}

#[derive(Clone)]
pub struct ServiceState {
    pub identity: Identity,
    /// How often its servers' states, its slots or what is kept has changed.
    version: u64,
    /// Indices into the directory's addresses.
    pub addresses: Arc<[u16]>,
    pub deliver: Deliver,
    /// What QUIC connection IDs are read by.
    quic: Option<Arc<Codecs>>,
    pub servers: Vec<ServerState>,
    ranking: Arc<Ranking>,
    present: Owners,
    moves: Moves,
    /// While slots move: what the data path gets instead of `present`.
    marked: Option<Marked>,
    /// When that must be looked at again.
    due: Option<u64>,
    history: History,
    /// When it is looked whether what is remembered of changes whose time is over still lasts.
    look: Option<u64>,
    /// How many slots each server owns.
    shares: Arc<[u32]>,
}

#[derive(Clone)]
pub struct ServerState {
    pub name: String,
    pub address: IpAddr,
    /// `None`: not resolved.
    pub next_hop: Option<NextHop>,
    /// Names this server of this service for as long as it is configured, see [`Idents`].
    pub ident: u32,
    pub tags: Tags,
    quic_ids: Arc<[ServerId]>,
    state: State,
}

/// What depends on names, weights and slots alone; services that have the same share it.
pub struct Ranking {
    first: Arc<[u16]>,
    /// How many of the first choices each server has.
    first_shares: Arc<[u32]>,
    rendezvous: Rendezvous,
    weights: Vec<u32>,
    shared: Shared,
}

impl Ranking {
    pub fn new(key: Key, candidates: &[Candidate], slots: u32) -> Ranking {
        let shared = Shared::default();
        let all = vec![true; candidates.len()];
        let Elected { slots, shares } = shared.elect(all, maglev::populate(key, candidates, slots).into(), true);
        Ranking {
            first: slots,
            first_shares: shares,
            rendezvous: Rendezvous::new(key, candidates),
            weights: candidates.iter().map(|candidate| candidate.weight).collect(),
            shared,
        }
    }

    /// The failover order of a slot: the first choice, then every other server of weight above 0.
    pub fn order(&self, slot: u32) -> Vec<u16> {
        let first = self.first[slot as usize];
        let others = self.rendezvous.order(slot).into_iter().filter(|server| *server != first);
        std::iter::once(first).filter(|first| *first != NOBODY).chain(others).collect()
    }
}

/// Those of a service that can be chosen: not the leaving ones, which stand behind them.
pub fn candidates(service: &Service) -> Vec<Candidate<'_>> {
    let staying = &service.servers[..service.servers.len() - service.leaving];
    staying.iter().map(|s| Candidate { name: &s.name, weight: s.weight }).collect()
}

impl ServiceState {
    /// Every server with a weight takes clients.
    pub fn new(
        key: Key,
        service: &Service,
        (addresses, ranking): (Arc<[u16]>, Arc<Ranking>),
        idents: &mut Idents,
    ) -> ServiceState {
        let servers = service.servers.iter().map(|server| ServerState::new(server, State::Active, idents));
        let servers: Vec<ServerState> = servers.collect();
        let named = servers.iter().map(|server| server.ident).collect();
        let mut state = ServiceState {
            identity: Identity::of(service),
            version: 0,
            addresses,
            deliver: service.deliver,
            quic: Codecs::new(&service.quic),
            servers,
            present: Owners { rule: rule(key, service, None), slots: Arc::clone(&ranking.first), remainders: None },
            shares: Arc::clone(&ranking.first_shares),
            ranking,
            moves: Moves::default(),
            marked: None,
            due: None,
            history: History::new(service, vec![State::Active; service.servers.len()], named),
            look: None,
        };
        state.moves.configure(service);
        state.present.remainders = state.remainders();
        state
    }

    /// The same service after what it has gone through in a process before this one: connections that nobody remembers are kept as
    /// there, and flow tables that have outlasted it are understood. `None`: that says nothing.
    pub fn recalled(
        &self,
        key: Key,
        service: &Service,
        ranking: Arc<Ranking>,
        idents: &mut Idents,
        (history, now): (&History, u64),
    ) -> Option<ServiceState> {
        let mut state: Option<ServiceState> = None;
        for (configured, step) in history.steps(service) {
            let (at, until) = (step.at, step.until);
            let ranking = |of: &Service| Arc::new(Ranking::new(key, &candidates(of), of.slots));
            let mut next = match (state.take(), configured) {
                (Some(before), None) => before,
                (Some(mut before), Some((configured, named))) => {
                    before.end_changes(at);
                    let ranking = ranking(&configured);
                    before
                        .renew(key, &configured, (Arc::clone(&self.addresses), ranking), idents, (at, until))
                        .named(named)
                }
                (None, Some((first, named))) => {
                    // What everything began with moves nobody.
                    let ranking = ranking(&first);
                    let state = ServiceState::new(key, &first, (Arc::clone(&self.addresses), ranking), idents);
                    let mut state = state.named(named);
                    state.set_states(&step.states, 0, 0);
                    state
                }
                (None, None) => break,
            };
            if next.due.is_some_and(|due| due <= at) {
                next.end_changes(at);
            }
            next.set_states(&step.states, at, until);
            step.prolonged.into_iter().for_each(|until| next.prolong(until, at));
            state = Some(next);
        }
        let until = now + service.drain.as_nanos() as u64;
        let mut state = state?;
        state.end_changes(now);
        if !history.ends_with(service) {
            state = state.renew(key, service, (Arc::clone(&self.addresses), ranking), idents, (now, until));
        }
        // Where each is, and what it is there for now.
        let states: Vec<State> = self.servers.iter().map(|server| server.state).collect();
        for (server, is) in state.servers.iter_mut().zip(&self.servers) {
            (server.next_hop, server.tags, server.quic_ids) = (is.next_hop, is.tags, Arc::clone(&is.quic_ids));
        }
        state.set_states(&states, now, until);
        Some(state)
    }

    /// With these idents of its servers, if there are any.
    fn named(mut self, idents: &[u32]) -> ServiceState {
        if !idents.is_empty() {
            self.servers.iter_mut().zip(idents).for_each(|(server, ident)| server.ident = *ident);
            self.history.rename(self.idents());
        }
        self
    }

    /// Its servers have other idents than these from now on.
    pub fn avoid(&mut self, taken: &HashSet<u32>, idents: &mut Idents) {
        for server in self.servers.iter_mut().filter(|server| taken.contains(&server.ident)) {
            server.ident = idents.draw();
        }
        self.history.rename(self.idents());
    }

    pub fn idents(&self) -> Vec<u32> {
        self.servers.iter().map(|server| server.ident).collect()
    }

    pub fn ranking(&self) -> Arc<Ranking> {
        Arc::clone(&self.ranking)
    }

    /// What a process that comes after this one must know to go on with the changes that are open; `None`: there are none.
    pub fn history(&self) -> Option<&History> {
        Some(&self.history).filter(|history| !history.is_settled())
    }

    /// Writes down what the servers are there for from now on, as long as that matters.
    fn record(&mut self, times: (u64, u64), prolonged: Option<u64>) {
        self.history.note(self.servers.iter().map(|server| server.state).collect(), times, prolonged);
        if !self.moves.keeps() {
            self.history.settle();
        }
    }

    /// The same service by a new configuration. What stays the same server keeps its state; others are out at first.
    /// Connections stay with servers that go on, until `until`.
    pub fn renew(
        self,
        key: Key,
        service: &Service,
        (addresses, ranking): (Arc<[u16]>, Arc<Ranking>),
        idents: &mut Idents,
        (now, until): (u64, u64),
    ) -> ServiceState {
        let known_ranking = Arc::ptr_eq(&self.ranking, &ranking);
        let mut old: Vec<Option<ServerState>> = self.servers.into_iter().map(Some).collect();
        let mut new_positions = vec![NOBODY; old.len()];
        let mut servers = Vec::with_capacity(service.servers.len());
        for (new, server) in service.servers.iter().enumerate() {
            let same = |known: &&mut Option<ServerState>| known.as_ref().is_some_and(|it| it.address == server.address);
            let known = old.iter_mut().enumerate().find_map(|(at, known)| Some(at).zip(Some(known).filter(same)));
            servers.push(match known {
                Some((at, known)) => {
                    new_positions[at] = new as u16;
                    let known = known.take().expect("it was found");
                    ServerState {
                        name: server.name.clone(),
                        next_hop: NextHop::configured(server.mac, known.next_hop),
                        tags: server.tags,
                        quic_ids: server.quic_ids[..].into(),
                        ..known
                    }
                }
                None => ServerState::new(server, State::Down, idents),
            });
        }
        let rule = rule(key, service, Some(self.present.rule));
        let version = self.version + 1;
        let in_place = new_positions.iter().enumerate().all(|(at, new)| usize::from(*new) == at);
        if known_ranking && rule == self.present.rule && in_place && servers.len() == new_positions.len() {
            // Nothing that slots depend on: of thousands of services, a reload changes few.
            let mut state = ServiceState {
                identity: Identity::of(service),
                version,
                addresses,
                deliver: service.deliver,
                quic: Codecs::new(&service.quic),
                servers,
                ..self
            };
            state.moves.configure(service);
            state.pass(now);
            state.history.configure(service, state.idents());
            state.record((now, until), None);
            return state;
        }
        let before = self.present;
        let had_key = before.rule.key;
        let mut state = ServiceState {
            identity: Identity::of(service),
            version,
            addresses,
            deliver: service.deliver,
            quic: Codecs::new(&service.quic),
            servers,
            present: Owners { rule, slots: Arc::clone(&ranking.first), remainders: None },
            shares: Arc::clone(&ranking.first_shares),
            ranking,
            moves: self.moves,
            marked: self.marked,
            due: None,
            history: self.history,
            look: None,
        };
        state.moves.configure(service);
        state.elect(&[]);
        state.moved(before, (!in_place).then_some(new_positions), (now, until));
        if rule.key == had_key {
            state.history.configure(service, state.idents());
            state.record((now, until), None);
        } else {
            // The other key is a secret that is not written down.
            let states = state.servers.iter().map(|server| server.state).collect();
            state.history = History::new(service, states, state.idents());
        }
        state
    }

    /// Whether that changed anything. Connections stay with servers that go on, until `until`.
    pub fn set_states(&mut self, states: &[State], now: u64, until: u64) -> bool {
        assert_eq!(states.len(), self.servers.len(), "one a server");
        let (before, mut turns, mut down, mut changed) = (self.present.clone(), Vec::new(), Vec::new(), false);
        for (at, state) in states.iter().enumerate() {
            let was = std::mem::replace(&mut self.servers[at].state, *state);
            changed |= was != *state;
            if (was == State::Active) != (*state == State::Active) {
                turns.push(at as u16);
            }
            if was != *state && *state == State::Down {
                down.push(at);
            }
        }
        if changed {
            self.version += 1;
            self.elect(&turns);
            // Who is down keeps nothing.
            let positions = (!down.is_empty()).then(|| {
                let mut positions: Vec<u16> = (0..states.len() as u16).collect();
                down.into_iter().for_each(|at| positions[at] = NOBODY);
                positions
            });
            self.moved(before, positions, (now, until));
            self.record((now, until), None);
        }
        changed
    }

    /// Lets connections stay at least until then, where they stay already.
    pub fn prolong(&mut self, until: u64, now: u64) {
        self.version += 1;
        self.moves.prolong(until);
        self.due = self.moves.next(now);
        self.record((now, now), Some(until));
    }

    /// What was opened at `began` begins to count now: nothing of it ends before `until`.
    pub fn postpone(&mut self, began: u64, (now, until): (u64, u64)) {
        if now > began && self.moves.began_last() == Some(began) {
            self.prolong(until, now);
        }
    }

    /// Whether slots are given by the same rule to the same candidates.
    pub fn selects_like(&self, other: &ServiceState) -> bool {
        Arc::ptr_eq(&self.ranking, &other.ranking) && self.present.rule == other.present.rule
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// What clients will be selected by when servers that are new here take clients as well.
    pub fn promised(&self, is_new: impl Fn(&ServerState) -> bool) -> ServiceTable {
        let mut then = self.clone();
        let new = then.servers.iter_mut().filter(|server| is_new(server));
        new.for_each(|server| server.state = State::Active);
        then.elect(&[]);
        then.marked = None;
        then.table(0)
    }

    pub fn state(&self, server: usize) -> State {
        self.servers[server].state
    }

    /// Ends what is over. Whether that changed anything. `base` is the destination of the first server.
    pub fn expire(&mut self, now: u64, (census, base): (&Census, usize)) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        let closed = self.look.is_some_and(|look| look <= now)
            && self.is_settled()
            && !self.remembers(base..base + self.servers.len(), census);
        if closed {
            self.moves.close_settled();
        }
        if due || closed {
            self.version += 1;
            self.end_changes(now);
        }
        self.look = self.is_settled().then_some(now + FLOW_CENSUS.as_nanos() as u64);
        due || closed
    }

    fn end_changes(&mut self, now: u64) {
        self.pass(now);
        if !self.moves.keeps() {
            self.history.settle();
        }
    }

    pub fn due(&self) -> Option<u64> {
        self.due.into_iter().chain(self.look).min()
    }

    /// Whether nothing more is learnt of a change, while flows of it are remembered.
    pub fn is_settled(&self) -> bool {
        self.moves.settled_since().is_some()
    }

    /// Whether workers may remember flows of these destinations that stay for as long as they last.
    pub fn remembers(&self, destinations: Range<usize>, census: &Census) -> bool {
        // By then every worker has the table by which nothing more is remembered.
        let since = self.moves.settled_since().map(|since| since + FLOW_CENSUS.as_nanos() as u64);
        let settled = since.is_some_and(|since| census.may_know(destinations, since));
        settled || self.moves.is_learning()
    }

    /// Each slot's first choice, or `NOBODY`.
    pub fn first_choices(&self) -> &[u16] {
        &self.ranking.first
    }

    /// How many slots each server owns.
    pub fn shares(&self) -> &Arc<[u32]> {
        &self.shares
    }

    /// How many slots are moving.
    pub fn moving(&self) -> u32 {
        self.marked.as_ref().map_or(0, |marked| marked.slots)
    }

    pub fn order(&self, slot: u32) -> Vec<u16> {
        self.ranking.order(slot)
    }

    pub fn table(&self, base: u32) -> ServiceTable {
        let owners = self.marked.as_ref().map_or(&self.present, |marked| &marked.owners);
        ServiceTable {
            rule: owners.rule,
            owners: Arc::clone(&owners.slots),
            remainders: owners.remainders.clone(),
            base,
            kept: self.marked.as_ref().map(|marked| Arc::clone(&marked.kept)),
            second_chance: self.moves.second_chance(),
            connection_ids: self.quic.as_ref().map(|codecs| {
                let there = self.servers.iter().zip(0..).filter(|(server, _)| server.keeps());
                ConnectionIds::new(codecs, there.map(|(server, at)| (at, &server.quic_ids[..])))
            }),
        }
    }

    /// The slots were `before`'s. Whoever goes on and has lost some keeps its connections. `positions` is where servers are now that were
    /// known by others.
    fn moved(&mut self, before: Owners, positions: Option<Vec<u16>>, times: (u64, u64)) {
        self.step(Some(before), positions, times);
    }

    /// Time goes on.
    fn pass(&mut self, now: u64) {
        self.step(None, None, (now, now));
    }

    fn step(&mut self, before: Option<Owners>, positions: Option<Vec<u16>>, times: (u64, u64)) {
        let (present, marked) = (self.present.clone(), self.marked.take());
        let step = Step { before, positions, present, moves: std::mem::take(&mut self.moves), marked, times };
        Moved { moves: self.moves, marked: self.marked } = self.ranking.shared.take(step, self.has_others());
        self.due = self.moves.next(times.0);
        self.look = self.is_settled().then(|| self.look.unwrap_or(times.0));
    }

    /// Whether other services have the same servers. One of the ranking's owners is the cluster, and one this.
    fn has_others(&self) -> bool {
        Arc::strong_count(&self.ranking) > 2
    }

    fn taking(&self) -> Vec<bool> {
        self.servers[..self.ranking.weights.len()].iter().map(|s| s.state == State::Active).collect()
    }

    /// The owner of every slot: the first of its order that takes clients. `turns` are the servers that do now and did not, or the other way
    /// round; none: nothing is known of the owners.
    fn elect(&mut self, turns: &[u16]) {
        let taking = self.taking();
        let elected = self.ranking.shared.elected(&taking).unwrap_or_else(|| {
            if turns.is_empty() {
                self.present.slots = self.elected(&taking);
            }
            for turn in turns {
                match taking.get(*turn as usize) {
                    Some(true) => self.give_back(*turn),
                    Some(false) => self.hand_over(*turn),
                    // It is leaving.
                    None => {}
                }
            }
            self.ranking.shared.elect(taking, Arc::clone(&self.present.slots), self.has_others())
        });
        self.present.slots = elected.slots;
        self.shares = match self.servers.len() - elected.shares.len() {
            0 => elected.shares,
            // Those that are leaving own nothing.
            leaving => elected.shares.iter().copied().chain(std::iter::repeat_n(0, leaving)).collect(),
        };
        self.present.remainders = self.remainders();
    }

    fn elected(&self, taking: &[bool]) -> Arc<[u16]> {
        let mut election = self.ranking.rendezvous.among(taking);
        let owner = |(slot, first): (usize, &u16)| match *first {
            NOBODY => NOBODY,
            first if taking[first as usize] => first,
            _ => election.winner(slot as u32).unwrap_or(NOBODY),
        };
        self.ranking.first.iter().enumerate().map(owner).collect()
    }

    /// `server` takes no more: its slots go to the next in their order. No other slot is looked at, because the owner of a
    /// slot is the first of its order that takes clients, and that has not changed.
    fn hand_over(&mut self, server: u16) {
        let mut election = self.ranking.rendezvous.among(&self.taking());
        let owner = |(slot, owner): (usize, &u16)| match *owner == server {
            true => election.winner(slot as u32).unwrap_or(NOBODY),
            false => *owner,
        };
        self.present.slots = self.present.slots.iter().enumerate().map(owner).collect();
    }

    /// `server` came back: it gets the slots of which it is the first choice, and of those whose first choice is out the
    /// ones in which it comes before the present owner.
    fn give_back(&mut self, server: u16) {
        let Ranking { first, rendezvous, weights, .. } = &*self.ranking;
        if weights.get(server as usize).is_none_or(|weight| *weight == 0) {
            return;
        }
        let owner = |(slot, (owner, first)): (usize, (&u16, &u16))| match *owner {
            _ if *first == server => server,
            NOBODY => server,
            owner if owner != *first && rendezvous.precedes(server, owner, slot as u32) => server,
            owner => owner,
        };
        self.present.slots = self.present.slots.iter().zip(first.iter()).enumerate().map(owner).collect();
    }

    fn remainders(&self) -> Option<Arc<[u16]>> {
        self.present.rule.modulo?;
        let taking = self.taking().into_iter().zip(&self.ranking.weights);
        let owner =
            |(at, (taking, weight)): (usize, (bool, &u32))| if taking && *weight > 0 { at as u16 } else { NOBODY };
        Some(taking.enumerate().map(owner).collect())
    }
}

impl ServerState {
    pub fn mac(&self) -> Option<Mac> {
        self.next_hop.map(|next_hop| next_hop.destination)
    }

    fn new(server: &Server, state: State, idents: &mut Idents) -> ServerState {
        let ident = idents.draw();
        ServerState {
            name: server.name.clone(),
            address: server.address,
            next_hop: server.mac.map(NextHop::on_link),
            ident,
            tags: server.tags,
            quic_ids: server.quic_ids[..].into(),
            state,
        }
    }

    /// Whether its connections stay with it.
    pub fn keeps(&self) -> bool {
        self.state != State::Down
    }
}

fn rule(key: Key, service: &Service, before: Option<Rule>) -> Rule {
    let rule = Rule {
        key,
        flow: service.hash == HashInput::Flow,
        slots: service.slots,
        modulo: (service.selection == Selection::Modulo).then_some((service.servers.len() - service.leaving) as u16),
        number: before.map_or(0, |before| before.number),
    };
    match before {
        Some(before) if before != rule => Rule { number: rule.number + 1, ..rule },
        _ => rule,
    }
}
