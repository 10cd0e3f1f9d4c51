//! Where dispatchers share health: what the checks of this one find goes into the agreement, and what counts comes out of it. Without
//! `health = "shared"` there is no agreement, and what the checks find counts.

use super::{Membership, Update};
use crate::control::agreement::{Agreement, Finding, Reason, Stance, View};
use crate::control::health::{self, Known, Verdict};
use crate::host::clock;
use crate::limits::{GROUP_REASON, GROUP_REASONS};
use crate::model::{GroupHealth, Plan};
use std::time::{SystemTime, UNIX_EPOCH};

/// As a configuration wants it.
pub(super) fn wanted(plan: &Plan) -> Option<Agreement> {
    let group = plan.group.as_ref()?;
    match group.health {
        GroupHealth::Own => None,
        GroupHealth::Shared { check_by } => Some(Agreement::new(plan, &group.member, check_by)),
    }
}

impl Membership {
    /// What is agreed on; `None`: health is this process's own.
    pub fn agreement(&self) -> Option<&Agreement> {
        self.agreement.as_ref()
    }

    /// What counts of a server. What no check says anything of counts as up.
    pub(super) fn verdict(&self, service: usize, server: usize) -> Verdict {
        let agreed = self.agreement.as_ref().and_then(|agreement| agreement.counts(service, server));
        let checked = || self.health.as_ref().and_then(|health| health.status(service, server));
        agreed.or_else(|| checked().map(|status| status.verdict)).unwrap_or(Verdict::Up)
    }

    /// Whether it may still come out whether a server serves: a check of this process is under way, or others check it.
    pub(super) fn is_unknown(&self, service: usize, server: usize) -> bool {
        let status = self.health.as_ref().and_then(|health| health.status(service, server));
        let is_mine = self.agreement.as_ref().is_none_or(|agreement| agreement.is_mine(service, server));
        let is_open = status.map_or(!is_mine, |status| status.unchecked.is_none());
        self.verdict(service, server) == Verdict::Unknown && is_open
    }

    /// Which servers of a service take clients, of those that may. Those that count as up; where none does, those that this process
    /// finds up by itself, so that a service is not given up here that its servers serve.
    pub(super) fn taking(&self, service: usize, may: &[bool]) -> Vec<bool> {
        let Some(health) = &self.health else { return may.to_vec() };
        let counts = |server| self.agreement.as_ref()?.counts(service, server);
        let Some(mut verdicts) = (0..may.len()).map(counts).collect::<Option<Vec<Verdict>>>() else {
            return health.serving(service, may);
        };
        if !verdicts.iter().zip(may).any(|(verdict, may)| *may && *verdict != Verdict::Down) {
            let own = |server| health.finds(service, server);
            verdicts.iter_mut().enumerate().for_each(|(server, verdict)| *verdict = own(server).unwrap_or(*verdict));
        }
        health.serving_by(service, &verdicts, may)
    }

    /// Begins with what a process before this one knew: what its checks found is recalled already.
    pub(super) fn recall_agreed(&mut self, known: &[Known]) {
        let (Some(agreement), Some(health)) = (&mut self.agreement, &self.health) else { return };
        for (at, service) in self.plan.services.iter().enumerate() {
            let of = |(place, server): (usize, &crate::model::Server)| {
                let found = health.status(at, place).map(|status| status.verdict);
                let mut known = known.iter().filter(|known| known.service == service.name);
                let known = known.find(|known| known.server == server.name && known.address == server.address);
                (found, known.map_or(found.unwrap_or(Verdict::Unknown), |known| known.verdict))
            };
            let of: Vec<(Option<Verdict>, Verdict)> = service.servers.iter().enumerate().map(of).collect();
            // As with checks: all down is hardly so still.
            let all_down = of.iter().all(|(_, counted)| *counted == Verdict::Down);
            for (place, (found, counted)) in of.into_iter().enumerate() {
                let counted = if all_down { found.unwrap_or(Verdict::Unknown) } else { counted };
                agreement.recall((at, place), found, counted);
            }
        }
    }

    /// What counts and is not what this process finds by itself, for one that comes after it.
    pub(super) fn known_agreed(&self) -> Vec<Known> {
        let (Some(agreement), Some(health)) = (&self.agreement, &self.health) else { return Vec::new() };
        let mut all = Vec::new();
        for (at, service) in self.plan.services.iter().enumerate() {
            for (place, server) in service.servers.iter().enumerate() {
                let Some(verdict) = agreement.counts(at, place).filter(|counts| *counts != Verdict::Unknown) else {
                    continue;
                };
                if health.status(at, place).is_none_or(|status| status.verdict != verdict) {
                    let (service, server, address) = (service.name.clone(), server.name.clone(), server.address);
                    all.push(Known { service, server, address, verdict, since: 0, hold_s: None });
                }
            }
        }
        all
    }

    /// Takes in what the checks of this process find by now. Services of which something else counts.
    pub(super) fn agree(&mut self) -> Vec<usize> {
        let (Some(agreement), Some(health)) = (&mut self.agreement, &self.health) else { return Vec::new() };
        for (at, service) in self.plan.services.iter().enumerate().filter(|(_, service)| service.health.is_some()) {
            for place in 0..service.servers.len() {
                agreement.find((at, place), health.finds(at, place).and_then(Finding::of));
            }
        }
        self.settle()
    }

    fn settle(&mut self) -> Vec<usize> {
        let Some(agreement) = &mut self.agreement else { return Vec::new() };
        let judged = agreement.settle();
        judged.iter().for_each(|(service, _)| self.shown.touch(*service));
        judged.into_iter().filter_map(|(service, is_other)| is_other.then_some(service)).collect()
    }

    /// The same, with what that comes to for the data path.
    pub fn look_at_checks(&mut self) -> Option<Update> {
        let changed = self.agree();
        self.judge_some(&changed)
    }

    fn judge_some(&mut self, services: &[usize]) -> Option<Update> {
        let now = clock::now_ns();
        let moved = services.iter().fold(false, |moved, service| self.judge(*service, now, None) | moved);
        if !services.is_empty() {
            self.note();
        }
        moved.then_some(Update::Table)
    }

    /// Takes in what other members find, and how this one stands to them. What the data path must know, and which views are not about
    /// these servers, and why.
    pub fn hear_views(
        &mut self,
        views: Vec<(String, Option<View>)>,
        stance: Stance,
    ) -> (Option<Update>, Vec<(String, String)>) {
        let Some(agreement) = &mut self.agreement else { return (None, Vec::new()) };
        let hear = |(member, view): (String, Option<View>)| Some((agreement.hear(&member, view).err()?, member));
        let unfit = views.into_iter().filter_map(hear).map(|(why, member)| (member, why)).collect();
        agreement.set_stance(stance);
        let mut changed = self.divide();
        changed.extend(self.settle());
        (self.judge_some(&changed), unfit)
    }

    /// Has this process check what it is to check. Services of which something else counts: of what it checks no more it finds nothing.
    fn divide(&mut self) -> Vec<usize> {
        let (Some(agreement), Some(health)) = (&mut self.agreement, &mut self.health) else { return Vec::new() };
        if !agreement.assign() {
            return Vec::new();
        }
        health.assign(|service, server| agreement.is_mine(service, server));
        let (mine, all, _) = agreement.tally();
        tracing::info!("group: this member checks {mine} of {all} servers");
        self.agree()
    }

    /// The plan is another one.
    pub(super) fn agree_on(&mut self, before: &Plan) {
        let (Some(agreement), Some(health)) = (&mut self.agreement, &mut self.health) else { return };
        agreement.follow(before, &self.plan);
        agreement.assign();
        health.assign(|service, server| agreement.is_mine(service, server));
        self.agree();
    }

    /// What this process finds, for the other members; `None`: that is as in `told`.
    pub fn view(&self, told: Option<&View>) -> Option<View> {
        let (agreement, health) = (self.agreement.as_ref()?, self.health.as_ref()?);
        let (finds, cut_off) = (agreement.finds(), self.isolated().is_some());
        if told.is_some_and(|told| told.finds == finds && told.cut_off == cut_off) {
            return None;
        }
        let mut reasons = Vec::new();
        for (at, service) in self.plan.services.iter().enumerate() {
            for (place, server) in service.servers.iter().enumerate().take(service.servers.len() - service.leaving) {
                let status = health.finds(at, place).and(health.status(at, place));
                let Some(status) = status.filter(|status| matches!(status.verdict, Verdict::Down | Verdict::Held))
                else {
                    continue;
                };
                let (why, since) = (reason(&status), since_1970(status.since.elapsed().as_secs()));
                reasons.push(Reason { service: service.name.clone(), server: server.name.clone(), since, why });
                if reasons.len() == GROUP_REASONS {
                    return Some(View { finds, reasons, cut_off });
                }
            }
        }
        Some(View { finds, reasons, cut_off })
    }

    /// Why a server is taken to be what it is, where it is not this process's check alone that says so; else empty.
    pub(super) fn agreed_why(&self, service: usize, server: usize) -> String {
        let Some(agreement) = &self.agreement else { return String::new() };
        let Some((votes, own)) = agreement.votes(service, server) else { return String::new() };
        let counts = Finding::of(self.verdict(service, server)).unwrap_or(Finding::Up);
        let here = self.health.as_ref().and_then(|health| health.status(service, server));
        let here = || here.map_or_else(String::new, |status| reason(&status));
        let differs = own.is_some_and(|own| own != counts);
        let dissent = || match own {
            Some(Finding::Up) => "; this one finds it up".to_owned(),
            Some(Finding::Down | Finding::Held) => format!("; this one does not: {}", here()),
            None => String::new(),
        };
        if agreement.stance() != Stance::Together {
            return match (differs, counts) {
                (true, _) => format!("as the group had it{}", dissent()),
                (false, Finding::Up) => String::new(),
                (false, _) => here(),
            };
        }
        if counts == Finding::Up && !differs {
            return String::new();
        }
        let (for_it, all) = (votes.of(counts), votes.all());
        let tied = if 2 * for_it == all && all > 0 { ", as before" } else { "" };
        let members = if for_it == 1 { "member finds" } else { "members find" };
        let state = match counts {
            Finding::Up => "it up",
            Finding::Held => "that it flaps",
            Finding::Down => "it down",
        };
        let why = match (counts, own == Some(counts)) {
            (Finding::Up, _) => String::new(),
            (_, true) => format!(": {}", here()),
            (_, false) => agreement
                .reason((service, server), counts)
                .map_or_else(String::new, |(member, reason)| format!("; {member}: {}", reason.why)),
        };
        let dissent = if differs { dissent() } else { String::new() };
        format!("{for_it} of {all} {members} {state}{tied}{why}{dissent}")
    }
}

/// Why a check finds a server down or held, in words.
fn reason(status: &health::Status) -> String {
    let why = status.why();
    why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(GROUP_REASON).collect()
}

/// What was so many seconds ago.
fn since_1970(ago: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(ago)
}
