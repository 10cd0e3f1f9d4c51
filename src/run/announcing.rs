//! What the control thread does to announce cluster addresses: it judges services by all that a dispatcher needs, and has routes
//! follow.

use super::controller::Controller;
use super::grouping::Grouping;
use super::guard::Guard;
use crate::admin::group::GroupSummary;
use crate::admin::status::{AnnounceStatus, Status};
use crate::admin::{self, Seen};
use crate::control::announce::{Announcer, Readiness};
use crate::control::membership::Membership;
use crate::limits::FIGURES_MOST;
use crate::metrics::snapshot::Snapshot;
use crate::model::Announce;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What was counted last, and how old that is. Waits for no thread.
type Figures = Box<dyn Fn() -> Option<(Arc<Snapshot>, Duration)>>;

/// A dispatcher's.
pub struct Announcing {
    pub announcer: Announcer,
    /// `None`: there is no `[announce]`.
    pub guard: Option<Guard>,
    pub figures: Figures,
    /// Of each service, as it was judged last.
    pub statuses: Vec<AnnounceStatus>,
}

impl Announcing {
    /// Judges every service as of now.
    pub fn judge(&mut self, membership: &Membership, head: &Status, services: &[Arc<Seen>], group: Option<&Grouping>) {
        // It may have another key than its group. What a process before this one has announced stays as it is.
        if group.is_some_and(|group| !group.has_asked()) {
            return;
        }
        let Some(ready) = self.host(head) else { return };
        let plan = membership.plan();
        let least = plan.announce.as_ref().map_or(Announce::MIN_UP, |settings| settings.min_up) as usize;
        let of_service = |seen: &Arc<Seen>| -> Readiness {
            ready.clone()?;
            admin::serves(head, seen, least)
        };
        let readiness: Vec<Readiness> = services.iter().map(of_service).collect();
        self.statuses = self.announcer.judge(plan, &readiness, membership.withdrawn());
    }

    /// Whether all is there that is not of one service: the key of the group, the link, a table, and workers that turn. `None`: nothing has been counted
    /// yet, and what a process before this one has announced stays as it is.
    fn host(&self, head: &Status) -> Option<Readiness> {
        if let Some(why) = head.group.as_ref().and_then(GroupSummary::keeps_out) {
            return Some(Err(why.to_owned()));
        }
        if head.interface_up == Some(false) {
            return Some(Err(format!("{} is down", head.interface)));
        }
        if head.generation == 0 {
            return Some(Err("no table is published yet".to_owned()));
        }
        match (self.figures)() {
            None if head.uptime_s < FIGURES_MOST.as_secs_f64() => None,
            None => Some(Err("the state of the workers is not known".to_owned())),
            Some((_, age)) if age > FIGURES_MOST => {
                Some(Err(format!("the stats thread hangs: the state of the workers is not known for {age:.0?}")))
            }
            Some((figures, _)) => Some(admin::healthy(&figures).map_err(|why| why.trim_end().replace('\n', "; "))),
        }
    }
}

impl Controller<'_> {
    /// Has routes be as the services were judged, and puts down what came of it.
    pub(super) async fn announce(&mut self, membership: &mut Membership) {
        let Some(announcing) = &mut self.announcing else { return };
        announcing.guard.iter_mut().for_each(Guard::beat);
        if announcing.announcer.settle().await {
            self.show(membership);
        }
    }

    /// At a clean stop routers are told first, and have a while to send clients elsewhere. When dispatching ends; `None`: nothing
    /// was announced.
    pub(super) async fn withdraw(&mut self, membership: &mut Membership) -> Option<Instant> {
        let had = self.announcing.as_mut()?.announcer.stop().await;
        self.show(membership);
        let linger = membership.plan().announce.as_ref()?.linger;
        had.then(|| {
            self.supervisor.stopping();
            tracing::info!(
                "all routes are withdrawn; frames that still arrive are dispatched for {} ms more",
                linger.as_millis()
            );
            Instant::now() + linger
        })
    }
}
