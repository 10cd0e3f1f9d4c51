//! `ctl talkers`: who sends most, learned of some of the frames, for a while.

use super::controller::{Controller, Tasks};
use crate::admin::order::{Answer, LookForTalkers, Talker, Talkers};
use crate::control::membership::{Membership, Update};
use crate::limits::{CAPTURE_EVERY, CAPTURE_FRAMES, TALKERS, TALKERS_SHOWN, TALKERS_SNAP, TRACE_MOST};
use crate::metrics::space_saving::{Count, Frame, SpaceSaving};
use crate::model::{Plan, Prefix, names};
use crate::path::{classify, trace};
use crate::table::trace::{Fate, Points, Seen, Watch};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// An operator waits for the answer.
pub struct Looking {
    watch: Arc<Watch>,
    asked: LookForTalkers,
    /// By service and source.
    sketch: SpaceSaving<(Option<String>, Prefix)>,
    /// Frames to cluster addresses, and those of them to the service that was asked for.
    taken: u64,
    looked_at: u64,
    began: Instant,
    /// When frames are fetched next, and for the last time.
    pub next: Instant,
    end: Instant,
    to: oneshot::Sender<Answer>,
}

impl Controller<'_> {
    /// Has some of the frames noted for a while.
    pub(super) fn look_for_talkers(
        &mut self,
        membership: &mut Membership,
        asked: LookForTalkers,
        to: oneshot::Sender<Answer>,
        tasks: &mut Tasks,
    ) {
        let may = check(&asked, membership.plan());
        if let Err(error) = may.and_then(|()| self.may_watch(membership, tasks)) {
            return drop(to.send(Answer::Refused { error }));
        }
        let looking = Looking::new(asked, to);
        membership.set_watch(Some(Arc::clone(&looking.watch)));
        self.engine.publish(membership, Update::Table);
        tasks.looking = Some(looking);
    }

    /// Counts what was noted; answers when the time is over.
    pub(super) fn count_talkers(&mut self, membership: &mut Membership, tasks: &mut Tasks) {
        self.engine.read_watched();
        let Some(looking) = &mut tasks.looking else { return };
        looking.count(membership);
        if !looking.to.is_closed() && Instant::now() < looking.end {
            looking.next = (Instant::now() + CAPTURE_EVERY).min(looking.end);
            return;
        }
        self.end_look(membership, tasks);
    }

    /// Answers with what was counted until now.
    fn end_look(&mut self, membership: &mut Membership, tasks: &mut Tasks) {
        membership.set_watch(None);
        self.engine.publish(membership, Update::Table);
        if let Some(done) = tasks.looking.take() {
            let talkers = done.talkers();
            let _ = done.to.send(Answer::Talkers(talkers));
        }
    }

    /// Has those who only look on give way.
    ///
    /// # Errors
    /// Frames cannot be watched here, or somebody does already.
    pub(super) fn may_watch(&mut self, membership: &mut Membership, tasks: &mut Tasks) -> Result<(), String> {
        self.engine.can_watch()?;
        if tasks.looking.as_ref().is_some_and(|looking| looking.asked.gives_way) {
            self.end_look(membership, tasks);
        }
        tasks.can_watch()
    }
}

fn check(asked: &LookForTalkers, plan: &Plan) -> Result<(), String> {
    let LookForTalkers { for_ms, one_in, prefix_v4, prefix_v6, most, service, .. } = asked;
    if *for_ms == 0 || Duration::from_millis(*for_ms) > TRACE_MOST {
        return Err(format!("talkers are counted for 1 ms to {} s, not for {for_ms} ms", TRACE_MOST.as_secs()));
    }
    if *one_in == 0 {
        return Err("`one_in` is at least 1: one frame in so many is sampled".to_owned());
    }
    if *prefix_v4 > 32 || *prefix_v6 > 128 {
        return Err(format!("`prefix_v4` is at most 32 and `prefix_v6` at most 128, not {prefix_v4} and {prefix_v6}"));
    }
    if !(1..=TALKERS_SHOWN).contains(most) {
        return Err(format!("`most` is 1 to {TALKERS_SHOWN}, not {most}"));
    }
    match service {
        Some(name) if !plan.services.iter().any(|service| service.name == *name) => {
            let known = names::first(plan.services.iter().map(|service| service.name.as_str()));
            Err(format!("there is no service {name}; there are {known}"))
        }
        _ => Ok(()),
    }
}

impl Looking {
    fn new(asked: LookForTalkers, to: oneshot::Sender<Answer>) -> Looking {
        let watch = Watch::capture(None, Points::RECEIVED, TALKERS_SNAP, CAPTURE_FRAMES).sampled(asked.one_in);
        let began = Instant::now();
        let end = began + Duration::from_millis(asked.for_ms);
        Looking {
            watch: Arc::new(watch),
            asked,
            sketch: SpaceSaving::new(TALKERS),
            taken: 0,
            looked_at: 0,
            began,
            next: end.min(began + CAPTURE_EVERY),
            end,
            to,
        }
    }

    /// No more than there is room for: a flood does not keep the control thread here.
    fn count(&mut self, membership: &Membership) {
        let watch = Arc::clone(&self.watch);
        for _ in 0..CAPTURE_FRAMES {
            if watch.take(|seen, frame| self.add(seen, frame, membership)).is_none() {
                break;
            }
        }
    }

    fn add(&mut self, seen: Seen, frame: &[u8], membership: &Membership) {
        let (service, is_dropped) = match seen.fate {
            Fate::Forward(service, _) => (Some(service), false),
            Fate::Drop(_) => (seen.service, true),
            Fate::Pass => return,
        };
        let Some(source) = trace::source(frame) else { return };
        self.taken += 1;
        // The numbers of a layout that is no more mean nothing.
        let service = service.filter(|_| seen.layout == membership.layout());
        let service = service.and_then(|service| membership.plan().services.get(service as usize));
        let service = service.map(|service| service.name.clone());
        if self.asked.service.is_some() && self.asked.service != service {
            return;
        }
        self.looked_at += 1;
        let frame = Frame { bytes: seen.bytes, is_dropped, begins: classify::begins(frame) };
        self.sketch.add((service, self.prefix(source)), frame);
    }

    fn prefix(&self, source: IpAddr) -> Prefix {
        let length = if source.is_ipv4() { self.asked.prefix_v4 } else { self.asked.prefix_v6 };
        Prefix { address: source, length }.first()
    }

    fn talkers(&self) -> Talkers {
        let LookForTalkers { for_ms, one_in, most, .. } = self.asked;
        // Less, if it gave way.
        let for_ms = for_ms.min(self.began.elapsed().as_millis() as u64).max(1);
        let missed = self.watch.lost();
        let scale = f64::from(one_in) * (self.taken + missed) as f64 / self.taken.max(1) as f64;
        let of_all = |counted: u64| (counted as f64 * scale).round() as u64;
        let mut shown = HashMap::<&Option<String>, u32>::new();
        let mut sources = Vec::new();
        for ((service, source), count) in self.sketch.heaviest() {
            let shown = shown.entry(service).or_default();
            if *shown == most {
                continue;
            }
            *shown += 1;
            let Count { frames, error, bytes, dropped, begins } = count;
            sources.push(Talker {
                service: service.clone(),
                source: *source,
                frames: of_all(frames),
                too_many: of_all(error),
                dropped: of_all(dropped),
                bytes: of_all(bytes),
                syns: of_all(begins),
            });
        }
        Talkers { for_ms, one_in, looked_at: self.looked_at, missed, frames: of_all(self.looked_at), sources }
    }
}
