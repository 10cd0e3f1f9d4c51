//! What is made of what the kernel tells and of what probes come to: which results count, and what is told of them.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::change::{Change, What};
use super::check::Check;
use super::observer::Evidence;
use super::probe::Trouble;
use super::routes::Told;
use super::silence::Part;
use super::state::{Rules, Verdict};
use super::{Done, Health, Id};
use crate::limits::{HEALTH_FIRST_PAUSE, HEALTH_HERE_PAUSE, HEALTH_JITTER, HEALTH_MOST_SILENT, HEALTH_REPAIR};
use crate::model::Via;

/// Why a server that is silent stays as it is while nobody answers.
const NOBODY_ANSWERS: [&str; 2] =
    ["no server answers over IPv6: this host may be cut off", "no server answers over IPv4: this host may be cut off"];
const NONE_OF_ITS_SERVICE: &str =
    "no server of its service answers in time: the cause may be something that they all depend on";

/// What the kernel tells.
impl Health {
    pub(super) fn hear(&mut self, now: Instant) {
        let told = self.routes.hear();
        self.take_in(&told, now);
    }

    pub(super) fn take_in(&mut self, told: &[Told], now: Instant) {
        if told.contains(&Told::Link) && self.observer.set_link(self.routes.link_is_up(), now) {
            match self.observer.has_link() {
                true => self.regain_link(now),
                false => self.lose_link(now),
            }
        }
        if told.contains(&Told::Lost) {
            tracing::warn!(
                "{}: rules, routes or neighbours that health checks use were changed by another program; they are \
                 restored",
                self.routes.interface()
            );
            let deliver = |service: u32| {
                let service = self.services[service as usize].as_ref()?;
                (service.health.via == Via::Service).then_some(service.deliver)
            };
            let lost = |(service, _): Id, check: &Check| {
                deliver(service).is_some_and(|deliver| !self.routes.is_in_place(check.server.address, deliver))
            };
            let checks = self.checks().filter(|(id, check)| lost(*id, check));
            let ids: Vec<Id> = checks.map(|(id, _)| id).collect();
            ids.into_iter().for_each(|id| self.hasten(id, now + HEALTH_REPAIR.mul_f64(fastrand::f64())));
        }
    }

    pub(super) fn lose_link(&mut self, now: Instant) {
        let reason = format!("{} is down", self.routes.interface());
        self.checks_mut().for_each(|(_, check)| check.set_unchecked(&reason, now));
        // It is an update for each of them.
        self.services.iter_mut().flatten().for_each(|service| service.results += 1);
        self.tell_isolation(0, Some(reason));
    }

    /// What was found meanwhile counts for nothing, and everybody is probed soon.
    fn regain_link(&mut self, now: Instant) {
        [true, false].into_iter().for_each(|ipv4| self.start_over(ipv4));
        self.release_if_alone();
        if self.observer.isolated().is_none() {
            self.tell_isolation(0, None);
        }
        let ids: Vec<Id> = self.checks().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.hasten(id, now + HEALTH_FIRST_PAUSE.mul_f64(fastrand::f64())));
    }

    /// Where there is nobody who could answer, nobody is waited for.
    pub(super) fn release_if_alone(&mut self) {
        for ipv4 in [true, false] {
            let can_answer =
                |check: &Check| check.is_on && check.is_of(ipv4) && !self.observer.is_local(check.server.address);
            if !self.checks().any(|(_, check)| can_answer(check)) {
                self.observer.is_alone(ipv4);
            }
        }
    }

    /// Failures in a row begin anew: what fails still, fails again.
    fn start_over(&mut self, ipv4: bool) {
        self.checks_mut().filter(|(_, check)| check.is_of(ipv4)).for_each(|(_, check)| {
            check.doubt = None;
            check.state.forget_failures();
        });
    }

    /// `Some`: why nobody is judged; `None`: they are again.
    fn tell_isolation(&mut self, service: usize, why: Option<String>) {
        let what = why.map_or(What::NotIsolated, What::Isolated);
        self.changes.push(Change { service, what, names: Default::default() });
    }
}

/// What is made of the results.
impl Health {
    pub(super) fn finish(&mut self, Done { id, began, installed, trip, passage, mut result }: Done) {
        let now = Instant::now();
        self.hear(now);
        if let Some(installation) = installed {
            self.routes.set_installed(&installation);
        }
        // Without its tunnel it went somewhere else, and may have been answered there.
        let sent = !matches!(result, Err(Trouble::Here(_)));
        if let Some(why) = passage.filter(|_| sent).and_then(|passage| self.routes.not_passed(&passage)) {
            result = Err(Trouble::Here(why));
        }
        let Some((address, ipv4)) = self.check(id).map(|check| (check.server.address, check.asked.is_ipv4())) else {
            return;
        };
        if let Some(off) = self.check_mut(id).filter(|check| !check.is_on) {
            return off.is_running = false;
        }
        if trip.is_some_and(|trip| self.routes.is_astray(&trip)) {
            return self.send_again(id, now);
        }
        let evidence = match &result {
            Ok(_) => Some(Evidence::Serves),
            Err(Trouble::Server(failure)) => Some(failure.evidence()),
            Err(Trouble::Here(_)) => None,
        };
        if evidence.is_some_and(Evidence::needs_witness)
            && let Some(why) = self.observer.excuse(began, self.routes.interface())
        {
            result = Err(Trouble::Here(why));
        }
        let answered = evidence.is_some_and(|evidence| evidence != Evidence::Silence);
        if answered && self.observer.hear(address, ipv4, began) {
            self.start_over(ipv4);
            self.tell_isolation(id.0 as usize, None);
        }
        self.take(id, began, result, now);
        self.services[id.0 as usize].iter_mut().for_each(|service| service.results += 1);
        if answered {
            self.settle_doubts(now);
        }
    }

    /// Instead of a probe whose route was lost while it was under way: whoever has answered, or not, may be another.
    fn send_again(&mut self, id: Id, now: Instant) {
        let Some(check) = self.check_mut(id) else { return };
        (check.is_running, check.due) = (false, now + HEALTH_REPAIR.mul_f64(fastrand::f64()));
        let due = check.due;
        self.agenda.push(Reverse((due, id)));
    }

    fn take(&mut self, id: Id, began: Instant, result: Result<Duration, Trouble>, now: Instant) {
        let Some(service) = self.services[id.0 as usize].as_mut() else { return };
        let interval = service.health.interval;
        let check = &mut service.checks[id.1 as usize];
        check.is_running = false;
        let unknown = check.state.verdict == Verdict::Unknown;
        if check.needs_relay(&result) {
            self.routes.doubt(check.server.address);
            if let (Some(doubts), Err(Trouble::Server(_))) = (&self.doubts, &result) {
                let _ = doubts.try_send(check.server.address);
            }
        }
        let here = matches!(result, Err(Trouble::Here(_)));
        match result {
            Ok(latency) => {
                self.change(id, |check| check.succeed(latency, began));
                self.judge(id, true, now);
            }
            Err(Trouble::Here(reason)) => {
                let told = check.unchecked.as_ref().is_some_and(|(_, told)| *told == reason);
                check.set_unchecked(&reason, now);
                if !told && self.observer.isolated().is_none() {
                    self.tell(id, What::Unchecked { server: id.1 as usize, reason });
                }
            }
            Err(Trouble::Server(failure)) => {
                let evidence = failure.evidence();
                self.change(id, |check| check.fail(&failure, now));
                match evidence.needs_witness() && self.has_others(id, evidence) {
                    true => self.doubt(id, began, evidence, now),
                    false => self.judge(id, false, now),
                }
            }
        }
        let Some(check) = self.check_mut(id) else { return };
        check.due = match (unknown, check.state.verdict) {
            (_, _) if here => now + interval.min(HEALTH_HERE_PAUSE).mul_f64(0.5 + 0.5 * fastrand::f64()),
            (true, Verdict::Unknown) => now + interval.min(HEALTH_FIRST_PAUSE),
            // All began at once; from here on they are spread.
            (true, _) => now + interval.mul_f64(fastrand::f64()),
            (false, _) => now.max(began + interval.mul_f64(1.0 - HEALTH_JITTER * fastrand::f64())),
        };
        let due = check.due;
        self.agenda.push(Reverse((due, id)));
    }

    /// A failure that counts only beside others who do better. If they do not, nobody is judged.
    fn doubt(&mut self, id: Id, began: Instant, evidence: Evidence, now: Instant) {
        if self.has_witness(id, began, evidence) {
            return self.judge(id, false, now);
        }
        if self.check_mut(id).is_some_and(|check| check.doubt.replace((began, evidence)).is_none()) {
            self.doubtful.push(id);
        }
        let all_stall = {
            let mut others = self.others(id, evidence).filter(|(_, check)| check.state.verdict != Verdict::Down);
            others.all(|(_, check)| check.stalled.is_some())
        };
        if all_stall {
            let Some(ipv4) = self.check(id).map(|check| check.asked.is_ipv4()) else { return };
            let is_silence = evidence == Evidence::Silence;
            let reason = if is_silence { NOBODY_ANSWERS[usize::from(ipv4)] } else { NONE_OF_ITS_SERVICE };
            if is_silence && self.observer.isolate(ipv4, now) {
                self.tell_isolation(id.0 as usize, Some(reason.to_owned()));
            }
            self.check_mut(id).into_iter().for_each(|check| check.set_unchecked(reason, now));
        } else {
            // One that was well the last time is asked now, rather than in its turn.
            let witness = {
                let well = self.others(id, evidence).filter(|(_, check)| check.stalled.is_none() && !check.is_running);
                well.min_by_key(|(_, check)| check.due).map(|(witness, _)| witness)
            };
            witness.into_iter().for_each(|witness| self.hasten(witness, now));
        }
    }

    /// Those whose answers say that a failure of this kind is the server's own: of silence all other servers of the family that
    /// are not this host, of stalling those of its service.
    fn others(&self, id: Id, evidence: Evidence) -> impl Iterator<Item = (Id, &Check)> + Clone {
        let check = self.check(id).map(|check| (check.server.address, check.asked.is_ipv4()));
        let services = self.services.iter().enumerate().filter_map(|(s, service)| Some((s as u32, service.as_ref()?)));
        let services = services.filter(move |(s, _)| evidence == Evidence::Silence || *s == id.0);
        let checks = services.flat_map(|(s, service)| (0..).map(move |c| (s, c)).zip(&service.checks));
        checks.filter(|(_, other)| other.is_on).filter(move |(_, other)| {
            let address = other.server.address;
            let can_witness = |ipv4| other.is_of(ipv4) && !self.observer.is_local(address);
            check.is_some_and(|(own, ipv4)| own != address && (evidence != Evidence::Silence || can_witness(ipv4)))
        })
    }

    fn has_others(&self, id: Id, evidence: Evidence) -> bool {
        self.others(id, evidence).next().is_some()
    }

    fn has_witness(&self, id: Id, since: Instant, evidence: Evidence) -> bool {
        match evidence {
            Evidence::Silence => {
                let has_witness =
                    |check: &Check| self.observer.has_witness(check.server.address, check.asked.is_ipv4(), since);
                self.check(id).is_some_and(has_witness)
            }
            _ => self.others(id, evidence).any(|(_, other)| other.succeeded.is_some_and(|began| began >= since)),
        }
    }

    /// Counts the failures that have a witness now.
    fn settle_doubts(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.doubtful) {
            let Some((began, evidence)) = self.check(id).and_then(|check| check.doubt) else { continue };
            if self.has_witness(id, began, evidence) {
                self.judge(id, false, now);
            } else {
                self.doubtful.push(id);
            }
        }
    }

    /// Takes in a result that counts.
    fn judge(&mut self, id: Id, success: bool, now: Instant) {
        let ipv4 = self.check(id).is_some_and(|check| check.asked.is_ipv4());
        let most_silent = !success && self.silence.is_with_most(ipv4);
        let Some(rules) = self.services[id.0 as usize].as_ref().map(|service| service.rules) else { return };
        let fall = if most_silent { rules.fall * HEALTH_MOST_SILENT } else { rules.fall };
        let judge = |check: &mut Check| check.judge(success, &Rules { fall, ..rules }, id.1 as usize, now);
        let Some(what) = self.change(id, judge).flatten() else { return };
        let Some(service) = self.services[id.0 as usize].as_mut() else { return };
        let name = service.name.clone();
        let count = service.count();
        self.tell(id, what);
        self.changes.extend(count.map(|what| Change { service: id.0 as usize, what, names: (name, None) }));
    }

    /// Every change of a verdict, and of who is silent.
    fn change<T>(&mut self, id: Id, change: impl FnOnce(&mut Check) -> T) -> Option<T> {
        let check = self.check_mut(id)?;
        let before = Part::of(check);
        let changed = change(check);
        let after = Part::of(check);
        self.silence.change(before, after);
        Some(changed)
    }

    fn tell(&mut self, id: Id, what: What) {
        let Some(service) = self.services[id.0 as usize].as_ref() else { return };
        let names = (service.name.clone(), Some(service.checks[id.1 as usize].server.name.clone()));
        self.changes.push(Change { service: id.0 as usize, what, names });
    }
}
