//! What the filters of a cluster know of each other, and what follows from it: who takes clients, and when this server may.
//! No socket and no clock is here; `speaker` has both.
//!
//! Two servers have the same client only if one counts the other out while that counts itself in: whose a slot is is the first
//! server of its order that is in, so of two that have each other in, the one that comes first has it, whatever they think
//! of third ones. So it is enough that this holds for no pair, and that is what the rules are for:
//!
//! 1. A server is the first to know. Who is heard is in while it says that it takes clients, and out while it says that it
//!    does not, whatever checks say here.
//! 2. Who is not heard is in while checks from here succeed, or while another one that is heard says that it knows it to serve.
//! 3. A server that is counted out by one that does not hear it, for longer than an answer takes, takes no new clients until
//!    that one hears it, or has been silent for `PEER_LEASE`: by then its program has let go what was not its own.
//! 4. One that has failed by the checks of most others takes none either, although its own say that it serves; but some server
//!    has to remain, and if nobody takes clients, it is the first by name.
//! 5. Who comes (at its start, with its link, or when 3 and 4 are over) says so, and waits until all others have said that they
//!    count it in; for one that is not heard `PEER_LEASE`.
//!
//! What is kept of a server that has another configuration is only that it lives: its words may mean other services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::beacon::{Cipher, Id, Number, Remark, Report, Stranger};
use super::digest::Digests;
use super::takeover::Others;
use crate::admin::status::PeerStatus;
use crate::control::membership::peers::{Hearsay, Hearsays, Seen};
use crate::limits::{BEACON_LEAST, BEACON_MOST, BEACON_SERVER, PEER_DIFFERS, PEER_LEASE, PEER_SILENCE, SILENT_BEACONS};

/// The times that the filters of a cluster keep.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From one message to the next.
    pub beacon: Duration,
    /// Without a message for so long a server is not heard.
    pub silence: Duration,
    /// How long one that comes waits for those that are not heard.
    pub wait: Duration,
}

impl Times {
    /// `first_hold`: until others have seen by their checks that a server has come.
    pub fn new(hold: Duration, first_hold: Duration, servers: usize) -> Times {
        let beacon = (hold / 8).clamp(BEACON_LEAST, BEACON_MOST) + BEACON_SERVER * servers as u32;
        Times { beacon, silence: PEER_SILENCE.max(beacon * SILENT_BEACONS), wait: first_hold.max(PEER_LEASE) }
    }
}

/// How a server stands to its peers, as one of them sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    pub server: String,
    /// How long its last message is ago; `None`: there is none.
    pub heard: Option<Duration>,
    /// Whether that is recent.
    pub is_heard: bool,
    /// What it has other than this server, for longer than a reload of all takes.
    pub differs: Vec<&'static str>,
}

pub struct Peers {
    me: String,
    cipher: Cipher,
    /// The others, by name.
    others: BTreeMap<String, Peer>,
    /// Those that the configuration does not have any more, until they have been silent for `PEER_LEASE`: they may not know it.
    leaving: BTreeMap<String, Peer>,
    own: Digests,
    /// What this server has given up all for that it loses by it.
    gave_up: Digests,
    /// By service.
    mine: HashMap<String, Mine>,
    /// Since when this server is counted out by one that does not hear it, by service.
    counted_out: HashMap<String, Instant>,
    /// Services that are new begin as those that are taken over from a process before: at once.
    takes_at_once: bool,
}

#[derive(Default)]
struct Peer {
    last: Option<Heard>,
    /// Since when it has something other than this server.
    differs: Option<Instant>,
    /// What came from its address and was not read, the last time.
    stranger: Option<(Stranger, Instant)>,
}

struct Heard {
    number: Number,
    at: Instant,
    report: Report,
}

/// What this server does in a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mine {
    /// Takes no clients.
    Rests,
    /// Waits since then until the others count it in.
    Comes(Instant),
    Takes,
}

impl Peers {
    /// `takes_at_once`: this server has had its clients all the time, as its program did not stop.
    pub fn new(me: &str, cipher: Cipher, takes_at_once: bool) -> Peers {
        Peers {
            me: me.to_owned(),
            cipher,
            others: BTreeMap::new(),
            leaving: BTreeMap::new(),
            own: Digests::default(),
            gave_up: Digests::default(),
            mine: HashMap::new(),
            counted_out: HashMap::new(),
            takes_at_once,
        }
    }

    /// Goes over to another configuration: its key, what it says, and the names of all its servers.
    pub fn follow<'a>(&mut self, cipher: Cipher, own: Digests, servers: impl IntoIterator<Item = &'a str>) {
        let names: BTreeSet<&str> = servers.into_iter().filter(|name| *name != self.me).collect();
        self.leaving.extend(self.others.extract_if(.., |name, _| !names.contains(name.as_str())));
        self.others.extend(self.leaving.extract_if(.., |name, _| names.contains(name.as_str())));
        names.into_iter().for_each(|name| _ = self.others.entry(name.to_owned()).or_default());
        (self.cipher, self.own) = (cipher, own);
    }

    /// Of the others.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.others.keys().map(String::as_str)
    }

    pub fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    /// What this server is to decide by, and whether all others are that it waits for: those that are heard, and for `PEER_LEASE` those that
    /// are not, if they take clients by what is known here (`takes`), or if the configuration has them no more. A process that stands still does
    /// not know of the change, and its program goes on. To a server that is in no service itself nobody speaks: it waits for those that it hears.
    pub fn others(&self, takes: impl Fn(&str) -> bool, times: &Times, now: Instant) -> Others {
        let decides = self.own;
        let is_heard = |last: &Heard| now < last.at + times.silence;
        let may_speak = |last: &Heard| now < last.at + PEER_LEASE && !self.mine.is_empty();
        let waited_for = self.others.iter().chain(&self.leaving).filter_map(|(name, peer)| {
            let last = peer.last.as_ref()?;
            let may_not_know = || may_speak(last) && (self.leaving.contains_key(name) || takes(name));
            (is_heard(last) || may_not_know()).then_some(last)
        });
        waited_for.fold(Others { decides, know: true, gave_up: true }, |others, Heard { report, .. }| Others {
            know: others.know && report.digests == decides,
            gave_up: others.gave_up && report.gave_up == decides,
            ..others
        })
    }

    /// This server goes by what it is to decide by, and keeps nothing of what was before.
    pub fn give_up(&mut self) {
        self.gave_up = self.own;
    }

    /// Takes in what was received. Whether it says something new.
    ///
    /// An older message than the last is not taken, but from a process that was silent for `PEER_LEASE`: it may have started anew
    /// with a clock that was set back.
    pub fn take(&mut self, report: Report, number: Number, now: Instant) -> bool {
        let known = self.others.get_mut(&report.server).or_else(|| self.leaving.get_mut(&report.server));
        let Some(peer) = known else { return false };
        let recent = peer.last.as_ref().filter(|last| now < last.at + PEER_LEASE);
        if recent.is_some_and(|last| number <= last.number) {
            return false;
        }
        peer.stranger = None;
        let is_new = peer.last.as_ref().is_none_or(|last| last.report != report);
        peer.last = Some(Heard { number, at: now, report });
        is_new
    }

    /// Something came from a server's address that is no message of this cluster.
    pub fn take_stranger(&mut self, server: &str, why: Stranger, now: Instant) {
        if let Some(peer) = self.others.get_mut(server).filter(|_| why != Stranger::Nonsense) {
            peer.stranger = Some((why, now));
        }
    }

    /// Whatever this server had, others may have now; what was heard before does not count for it.
    /// Returns whether it had any.
    pub fn come_again(&mut self, now: Instant) -> bool {
        let had = self.mine.values().any(|mine| *mine == Mine::Takes);
        self.mine.values_mut().filter(|mine| **mine != Mine::Rests).for_each(|mine| *mine = Mine::Comes(now));
        had
    }

    /// The same, but where all others are heard to count it in anyway.
    pub fn come_if_doubtful(&mut self, seen: &[Seen], times: &Times, now: Instant) {
        let services: Vec<String> = self.mine.keys().cloned().collect();
        for service in services {
            let certain = self.is_counted_in(&service, seen, now.checked_sub(times.silence).unwrap_or(now), times, now);
            if !certain && self.mine[&service] == Mine::Takes {
                self.mine.insert(service, Mine::Comes(now));
            }
        }
    }

    /// Who takes clients, by all that is known.
    pub fn judge(&mut self, seen: &[Seen], times: &Times, now: Instant) -> Hearsays {
        let mut said = Hearsays::new();
        let me = self.me.clone();
        for one in seen.iter().filter(|one| one.may || one.server == me) {
            let hearsay = match one.server == me {
                true => self.judge_own(one, seen, times, now),
                false => self.judge_other(one, times, now),
            };
            said.extend(hearsay.map(|hearsay| ((one.service.clone(), one.server.clone()), hearsay)));
        }
        self.leaving.retain(|_, peer| peer.last.as_ref().is_some_and(|last| now < last.at + PEER_LEASE));
        // Whoever is taken out of a service and put back comes as one that has just started: others may have its clients.
        self.mine.retain(|service, _| seen.iter().any(|one| one.service == *service && one.server == me));
        self.takes_at_once = false;
        said
    }

    fn judge_other(&self, one: &Seen, times: &Times, now: Instant) -> Option<Hearsay> {
        let id = self.cipher.of_service(&one.service, &one.server);
        let name = &one.server;
        if let Some(report) = self.agreeing(name, times, now) {
            let remark = report.remark(id);
            return Some(match (remark.has(Remark::RESTS), remark.has(Remark::FAILED)) {
                (false, _) => Hearsay::Serves(format!("the filter of {name} says that it serves")),
                (true, false) => Hearsay::Keeps(format!("the filter of {name} says that it takes no new clients")),
                (true, true) => Hearsay::Fails(format!("the filter of {name} says that it does not serve")),
            });
        }
        let mut others = self.others.keys().filter(|other| *other != name);
        let witness = others
            .find(|other| self.agreeing(other, times, now).is_some_and(|report| !report.remark(id).has(Remark::RESTS)));
        witness.map(|witness| Hearsay::Serves(format!("{witness} says that it serves")))
    }

    fn judge_own(&mut self, own: &Seen, seen: &[Seen], times: &Times, now: Instant) -> Option<Hearsay> {
        let service = &own.service;
        let rests = self.is_counted_out(service, times, now).or_else(|| self.has_failed(service, times, now));
        let before = self.mine.get(service).copied();
        let mine = match before {
            _ if !own.serves || rests.is_some() => Mine::Rests,
            Some(Mine::Takes) => Mine::Takes,
            None if self.takes_at_once => Mine::Takes,
            Some(Mine::Comes(since)) if now >= since + times.wait => Mine::Takes,
            Some(Mine::Comes(since)) if self.is_counted_in(service, seen, since, times, now) => Mine::Takes,
            Some(Mine::Comes(since)) => Mine::Comes(since),
            None | Some(Mine::Rests) => Mine::Comes(now),
        };
        self.mine.insert(service.clone(), mine);
        match (mine, rests) {
            (_, Some(why)) => Some(Hearsay::Keeps(why)),
            (Mine::Comes(_), None) => {
                let seconds = times.wait.as_secs();
                Some(Hearsay::Joins(format!(
                    "waits until the other filters have given up its clients, {seconds} s for one that is not heard"
                )))
            }
            _ => None,
        }
    }

    /// Whether every server that may have this one's clients was heard, since then, to count it in, and to keep nothing of what was before.
    fn is_counted_in(&self, service: &str, seen: &[Seen], since: Instant, times: &Times, now: Instant) -> bool {
        let me = self.cipher.of_service(service, &self.me);
        seen.iter().filter(|one| one.service == service && one.server != self.me && one.may).all(|one| {
            let Some(report) = self.agreeing(&one.server, times, now) else { return !one.serves };
            let id = self.cipher.of_service(service, &one.server);
            let heard_since = self.others[&one.server].last.as_ref().is_some_and(|last| last.at > since);
            // Orders may come to it much later.
            let gave_up = report.gave_up.configuration == report.digests.configuration;
            heard_since && gave_up && (report.remark(id).has(Remark::RESTS) || !report.remark(me).has(Remark::OUT))
        })
    }

    /// Why this server must not take new clients: one that does not hear it does.
    fn is_counted_out(&mut self, service: &str, times: &Times, now: Instant) -> Option<String> {
        let me = self.cipher.of_service(service, &self.me);
        let deaf = self.others.iter().find(|(name, peer)| {
            let Some(last) = peer.last.as_ref().filter(|last| now < last.at + PEER_LEASE) else { return false };
            let it = self.cipher.of_service(service, name);
            let (it, me) = (last.report.remark(it), last.report.remark(me));
            let is_heard = !last.report.unheard.contains(&self.cipher.server(&self.me));
            me.has(Remark::OUT) && !is_heard && !it.has(Remark::RESTS)
                || me.has(Remark::OUT_ELSEWHERE) && now < last.at + times.silence
        });
        let Some((name, _)) = deaf else {
            self.counted_out.remove(service);
            return None;
        };
        let since = *self.counted_out.entry(service.to_owned()).or_insert(now);
        let is_long = now >= since + 2 * times.beacon;
        is_long.then(|| {
            format!("{name} does not hear this filter (UDP), treats this server as down and serves its clients")
        })
    }

    /// The same: most others find by their checks that it has failed.
    fn has_failed(&self, service: &str, times: &Times, now: Instant) -> Option<String> {
        let me = self.cipher.of_service(service, &self.me);
        let reports = || self.others.keys().filter_map(|name| Some((name, self.agreeing(name, times, now)?)));
        let failed = reports().filter(|(_, report)| report.remark(me).has(Remark::FAILED)).count();
        if 2 * failed <= reports().count() {
            return None;
        }
        let remains = reports().any(|(name, report)| {
            let it = report.remark(self.cipher.of_service(service, name));
            !it.has(Remark::RESTS) || *name < self.me && !it.has(Remark::FAILED)
        });
        remains.then(|| format!("it has failed by the checks of {failed} of the other servers"))
    }

    /// The word of a server that is heard and has this configuration.
    fn agreeing(&self, name: &str, times: &Times, now: Instant) -> Option<&Report> {
        let last = self.others.get(name)?.last.as_ref()?;
        let holds = now < last.at + times.silence && last.report.digests.configuration == self.own.configuration;
        holds.then_some(&last.report)
    }

    /// What this server tells, with its table as it is. `fails`: nobody is served from here at all.
    pub fn report(&self, seen: &[Seen], fails: bool, times: &Times, now: Instant) -> Report {
        let is_deaf_to = |peer: &Peer| peer.last.as_ref().is_none_or(|last| now >= last.at + times.silence);
        let unheard: BTreeSet<Id> = {
            let unheard = self.others.iter().filter(|(_, peer)| is_deaf_to(peer));
            unheard.map(|(name, _)| self.cipher.server(name)).collect()
        };
        let agreeing = || self.others.keys().filter_map(|name| Some((name, self.agreeing(name, times, now)?)));
        // None, as long as all is well.
        let deaf: Vec<(&String, &Report)> = agreeing().filter(|(_, report)| !report.unheard.is_empty()).collect();
        let mut remarks = BTreeMap::new();
        for one in seen {
            let id = self.cipher.of_service(&one.service, &one.server);
            let remark = if one.server == self.me {
                let rests = fails || self.mine.get(&one.service).is_none_or(|mine| *mine == Mine::Rests);
                Remark::RESTS.when(rests) | Remark::FAILED.when(fails || one.failed)
            } else {
                let serves = match self.agreeing(&one.server, times, now) {
                    Some(report) => !report.remark(id).has(Remark::RESTS),
                    None => one.serves,
                };
                Remark::RESTS.when(!serves)
                    | Remark::FAILED.when(one.failed)
                    | Remark::OUT.when(!one.takes)
                    | Remark::OUT_ELSEWHERE.when(self.is_out_by(&deaf, one, id))
            };
            if remark != Remark::default() {
                remarks.insert(id, remark);
            }
        }
        Report { server: self.me.clone(), digests: self.own, gave_up: self.gave_up, unheard, remarks }
    }

    /// Whether one of these counts a server out that it does not hear, which that may not know.
    fn is_out_by(&self, deaf: &[(&String, &Report)], one: &Seen, id: Id) -> bool {
        let server = self.cipher.server(&one.server);
        deaf.iter().filter(|(name, _)| **name != one.server).any(|(name, report)| {
            let it = report.remark(self.cipher.of_service(&one.service, name));
            report.remark(id).has(Remark::OUT) && report.unheard.contains(&server) && !it.has(Remark::RESTS)
        })
    }

    /// How each of the others stands to this one; what is new of it is told.
    pub fn compare(&mut self, times: &Times, now: Instant) -> Vec<Agreement> {
        let own = self.own;
        let compared = self.others.iter_mut().map(|(name, peer)| {
            let heard = peer.last.as_ref().filter(|last| now < last.at + times.silence);
            let mut differs: Vec<&'static str> = Vec::new();
            if let Some(Heard { report, .. }) = heard {
                differs.extend((report.digests.configuration != own.configuration).then_some("configuration"));
                differs.extend((report.digests.orders != own.orders).then_some("orders"));
            } else if let Some((why, at)) = peer.stranger
                && now < at + times.silence
            {
                differs.push(if why == Stranger::Key { "key" } else { "version" });
            }
            let since = *peer.differs.get_or_insert(now);
            if differs.is_empty() {
                peer.differs = None;
            } else if now < since + PEER_DIFFERS {
                differs.clear();
            }
            let (is_heard, last) = (heard.is_some(), peer.last.as_ref());
            Agreement { server: name.clone(), heard: last.map(|last| now - last.at), is_heard, differs }
        });
        compared.collect()
    }
}

impl From<&Agreement> for PeerStatus {
    fn from(agreement: &Agreement) -> PeerStatus {
        PeerStatus {
            server: agreement.server.clone(),
            heard: agreement.is_heard,
            heard_s: agreement.heard.map(|age| age.as_secs_f64()),
            differs: agreement.differs.iter().map(|what| (*what).to_owned()).collect(),
        }
    }
}
