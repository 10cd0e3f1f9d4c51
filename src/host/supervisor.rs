//! What the process tells the service manager that has started it (systemd's `sd_notify(3)`): that it is ready, reloads, stops, how it is, and that
//! its threads are at work. Without a service manager it tells nobody.

use crate::limits::SHORT_WATCHDOG;
use sd_notify::NotifyState;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// How far the threads have come that dispatch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How often all of them were seen at work.
    pub rounds: u64,
    /// Which of them stood still when they were looked at last.
    pub stuck: Vec<usize>,
}

/// The way to the service manager.
#[derive(Default)]
pub struct Supervisor {
    watchdog: Option<Watchdog>,
    /// What it was told last of how things are.
    status: String,
    /// It cannot be reached, which was said.
    lost: bool,
}

/// Ends this process unless it is fed in time (`WatchdogSec=`).
struct Watchdog {
    /// How often it is fed.
    every: Duration,
    due: Instant,
    /// As of the last feeding.
    rounds: Option<u64>,
    /// Which threads stand still, as was said.
    stuck: Vec<usize>,
}

impl Supervisor {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub fn of_environment() -> Supervisor {
        let limit = sd_notify::watchdog_enabled();
        if let Some(limit) = limit.filter(|limit| *limit < SHORT_WATCHDOG) {
            let (limit, least) = (limit.as_secs_f64(), SHORT_WATCHDOG.as_secs());
            tracing::warn!(
                "WatchdogSec={limit} is too short: workers are looked at once a second; give it {least} s or more"
            );
        }
        let watchdog = limit.map(|limit| {
            let every = limit / 4;
            Watchdog { every, due: Instant::now() + every, rounds: None, stuck: Vec::new() }
        });
        Supervisor { watchdog, ..Supervisor::default() }
    }

    /// Everything runs: `READY=1`, also at the end of a reload.
    pub fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// `RELOADING=1`, with the time, by which the service manager tells the `READY=1` that ends it from earlier ones.
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => self.say_lost(&error),
        }
    }

    /// `STOPPING=1`
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// How things are, in a line: `systemctl status` shows it.
    pub fn status(&mut self, status: String) {
        if self.status != status {
            self.tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// When the watchdog is to be fed next; `None`: there is none.
    pub fn due(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.due)
    }

    /// Feeds the watchdog, unless a thread has made no progress since the last time. `None`: no thread but this one need be at work.
    pub fn feed(&mut self, progress: Option<Progress>) {
        let Some(watchdog) = &mut self.watchdog else { return };
        if watchdog.take(progress, Instant::now()) {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&mut self, states: &[NotifyState]) {
        if let Err(error) = sd_notify::notify(states) {
            self.say_lost(&error);
        }
    }

    fn say_lost(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!("the service manager cannot be told how this process is: {error}");
        }
    }
}

impl Watchdog {
    /// Whether it is to be fed.
    fn take(&mut self, progress: Option<Progress>, now: Instant) -> bool {
        self.due = now + self.every;
        let Some(Progress { rounds, stuck }) = progress else { return true };
        if self.rounds != Some(rounds) {
            if !self.stuck.is_empty() {
                tracing::info!("all workers run again");
            }
            (self.rounds, self.stuck) = (Some(rounds), Vec::new());
            return true;
        }
        // Between two looks at them it is no wonder that nothing was seen.
        if !stuck.is_empty() && stuck != self.stuck {
            let names: Vec<String> = stuck.iter().map(ToString::to_string).collect();
            let (s, stand) = if names.len() == 1 { ("", "stands") } else { ("s", "stand") };
            tracing::error!("worker{s} {} {stand} still: the watchdog will end this process", names.join(", "));
            self.stuck = stuck;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_by_progress_alone() {
        let every = Duration::from_secs(1);
        let start = Instant::now();
        let mut watchdog = Watchdog { every, due: start, rounds: None, stuck: Vec::new() };
        let at = |rounds, stuck: &[usize]| Some(Progress { rounds, stuck: stuck.to_vec() });
        assert!(watchdog.take(at(0, &[]), start), "it has just started");
        assert_eq!(watchdog.due, start + every);
        assert!(!watchdog.take(at(0, &[]), start), "nobody was looked at meanwhile");
        assert!(watchdog.take(at(1, &[]), start));
        assert!(!watchdog.take(at(1, &[0, 2]), start));
        assert_eq!(watchdog.stuck, [0, 2]);
        assert!(watchdog.take(at(2, &[]), start), "they turn again");
        assert!(watchdog.stuck.is_empty());
        assert!(watchdog.take(None, start) && watchdog.take(None, start), "no worker, no progress");
    }
}
