//! What is told of servers: to the log, and to the timeline.

use super::state::Judged;
use super::{Membership, Name};
use crate::admin::finding::Grade;
use crate::admin::status::State;
use crate::admin::timeline::{Kind, Timeline, Told};
use crate::control::health::{self, What};
use crate::control::neighbours::{self, What as Whereabouts};

impl Membership {
    /// Where everything that happens is noted.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What an operator has had done, a line each.
    pub(super) fn tell_operator(&self, changes: &[String]) {
        changes.iter().for_each(|change| tracing::info!("operator: {change}"));
        self.timeline.tell(Told { kind: Kind::Order, grade: Grade::Ok, text: &changes.join("; "), mark: None });
    }

    /// The state of a server follows from verdicts, and is told by itself.
    pub(super) fn tell_verdicts(&self, changes: &[health::Change]) {
        let whose = if self.agreement.is_some() { "by this member's checks, " } else { "" };
        for change in changes {
            tell(change, whose);
            let grade = match change.what {
                What::NotAllDown | What::NotIsolated => Grade::Ok,
                What::Unchecked { .. } => Grade::Warn,
                What::Isolated(_) | What::AllDown(_) => Grade::Fail,
                What::Up { .. } | What::Down { .. } | What::Held { .. } => continue,
            };
            let text = format!("{whose}{change}");
            self.timeline.tell(Told { kind: Kind::Check, grade, text: &text, mark: None });
        }
    }

    /// A removed server has gone.
    pub(super) fn tell_removed(&self, service: &str, server: &str) {
        let text =
            format!("server {server} of service {service} is removed: the timeout of its connections has passed");
        tracing::info!("{text}");
        self.timeline.tell(Told { kind: Kind::Server, grade: Grade::Ok, text: &text, mark: Some((server, "removed")) });
    }

    /// That a server is where it was looked for is no news, unless there were doubts.
    pub(super) fn tell_neighbour(&mut self, change: &neighbours::Change) {
        tracing::info!("{change}");
        let grade = match change.what {
            Whereabouts::Resolved(_) if !self.doubted.remove(&change.address) => return,
            Whereabouts::Resolved(_) | Whereabouts::Changed { .. } => Grade::Ok,
            Whereabouts::Unconfirmed { .. } | Whereabouts::Unresolved(_) => {
                self.doubted.insert(change.address);
                Grade::Warn
            }
        };
        self.timeline.tell(Told { kind: Kind::Neighbour, grade, text: &change.to_string(), mark: None });
    }
}

/// A change of a verdict, to the log; and whose it is, where others may find something else.
pub(super) fn tell(change: &health::Change, whose: &str) {
    let (service, server) = change.names();
    match change.what {
        What::Up { .. } | What::NotAllDown | What::NotIsolated => tracing::info!(service, server, "{whose}{change}"),
        _ => tracing::warn!(service, server, "{whose}{change}"),
    }
}

/// A server came into this state. To the log as well, where it is `agreed` on, so that no check of this process has told it.
pub(super) fn tell_state(timeline: &Timeline, (service, server): &Name, judged: &Judged, agreed: bool) {
    let grade = match judged.state {
        State::Down => Grade::Fail,
        State::Held | State::Disabled => Grade::Warn,
        State::Up | State::Joining | State::Draining | State::Drained | State::Leaving => Grade::Ok,
    };
    let state = judged.state.name();
    let why = if judged.why.is_empty() { String::new() } else { format!(": {}", judged.why) };
    let text = format!("server {server} of service {service} is {state}{why}");
    match grade {
        _ if !agreed => {}
        Grade::Ok => tracing::info!(service, server, "{text}"),
        _ => tracing::warn!(service, server, "{text}"),
    }
    timeline.tell(Told { kind: Kind::Server, grade, text: &text, mark: Some((server, state)) });
}
