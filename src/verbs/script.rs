//! Changes of the cluster during a replay: what an operator or a failure would do, at times of the capture.

use crate::model::Plan;
use crate::table::ServiceId;
use crate::table::build::{Cluster, State};
use std::collections::VecDeque;
use std::str::FromStr;
use std::time::Duration;

/// Written `2.5 drain web1`: seconds after the first frame, what, and the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    after: Duration,
    what: What,
    server: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// It takes no new clients, and keeps its connections for its service's `drain_s`.
    Drain,
    Undrain,
    /// It fails.
    Down,
    Up,
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [after, what, server] = words[..] else {
            return Err(
                "write seconds after the first frame, what happens, and the server: \"2.5 drain web1\"".to_owned()
            );
        };
        let seconds: f64 = after.parse().map_err(|_| format!("`{after}` is not a number of seconds"))?;
        let after =
            Duration::try_from_secs_f64(seconds).map_err(|_| format!("{after} s is not a time after the start"))?;
        let what = match what {
            "drain" => What::Drain,
            "undrain" => What::Undrain,
            "down" => What::Down,
            "up" => What::Up,
            other => return Err(format!("`{other}` is not one of drain, undrain, down, up")),
        };
        Ok(Change { after, what, server: server.to_owned() })
    }
}

/// The changes to come, and the cluster that they change. Times are nanoseconds of the capture's clock.
pub struct Script<'p> {
    plan: &'p Plan,
    cluster: Cluster,
    changes: VecDeque<Change>,
    start: u64,
}

impl<'p> Script<'p> {
    /// # Errors
    /// A server that no service has.
    pub fn new(plan: &'p Plan, cluster: Cluster, mut changes: Vec<Change>, start: u64) -> Result<Script<'p>, String> {
        let known = |name: &str| plan.services.iter().any(|s| s.servers.iter().any(|server| server.name == name));
        if let Some(change) = changes.iter().find(|change| !known(&change.server)) {
            return Err(format!("--change: there is no server {}", change.server));
        }
        changes.sort_by_key(|change| change.after);
        Ok(Script { plan, cluster, changes: changes.into(), start })
    }

    /// When something happens next; `u64::MAX`: nothing will.
    pub fn due(&self) -> u64 {
        let change = self.changes.front().map(|change| self.start + change.after.as_nanos() as u64);
        change.into_iter().chain(self.cluster.due()).min().unwrap_or(u64::MAX)
    }

    /// Lets happen what happens until `now`. Returns the cluster, if it changed.
    pub fn pass(&mut self, now: u64) -> Option<&mut Cluster> {
        let mut changed = false;
        while self.due() <= now {
            let due = self.due();
            changed |= self.cluster.expire(due);
            while let Some(change) = self.changes.pop_front_if(|c| self.start + c.after.as_nanos() as u64 <= due) {
                changed |= self.apply(&change, due);
            }
        }
        changed.then_some(&mut self.cluster)
    }

    fn apply(&mut self, change: &Change, now: u64) -> bool {
        let state = match change.what {
            What::Drain => State::Draining,
            What::Undrain | What::Up => State::Active,
            What::Down => State::Down,
        };
        let mut changed = false;
        for (id, service) in self.plan.services.iter().enumerate() {
            let id = id as ServiceId;
            let of = |(at, server): (usize, &crate::model::Server)| match server.name == change.server {
                true => state,
                false => self.cluster.state(id, at),
            };
            let states: Vec<State> = service.servers.iter().enumerate().map(of).collect();
            changed |= self.cluster.set_states(id, &states, now, now + service.drain.as_nanos() as u64);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_and_wrong_ones_are_told() {
        let change = Change { after: Duration::from_millis(2500), what: What::Drain, server: "web1".to_owned() };
        assert_eq!("2.5 drain web1".parse(), Ok(change));
        for (text, says) in [
            ("drain web1", "write seconds"),
            ("x drain web1", "`x` is not a number"),
            ("-1 drain web1", "-1 s is not a time"),
            ("1 drian web1", "`drian` is not one of drain, undrain, down, up"),
        ] {
            let error = text.parse::<Change>().expect_err(text);
            assert!(error.contains(says), "{error}");
        }
    }
}
