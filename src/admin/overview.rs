//! How things are, as the control thread has put it down: scrapes and looks read it there, however many come, and ask no thread.

use super::status::{AnnounceStatus, ServerStatus, ServiceStatus, Status};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything but what is counted.
pub struct Overview {
    /// Without services.
    pub head: Status,
    /// When `head` was true.
    pub at: Instant,
    pub services: Vec<Arc<Seen>>,
    /// One a service; a filter has none.
    pub announcements: Vec<AnnounceStatus>,
}

/// A service, as of a moment. One in which nothing has happened is not looked at anew.
pub struct Seen {
    pub service: ServiceStatus,
    pub at: Instant,
}

impl Overview {
    /// As of now: what is so many seconds old has become older meanwhile.
    pub fn status(&self) -> Status {
        // One reading of the clock: moments that follow from these ages stand still.
        let now = Instant::now();
        let mut status = self.head.clone();
        status.uptime_s += now.saturating_duration_since(self.at).as_secs_f64();
        status.services = self.services.iter().map(|seen| seen.as_of(now)).collect();
        for (service, announcement) in status.services.iter_mut().zip(&self.announcements) {
            service.announce = Some(announcement.clone());
        }
        status
    }
}

impl Seen {
    fn as_of(&self, now: Instant) -> ServiceStatus {
        let passed = now.saturating_duration_since(self.at);
        let mut service = self.service.clone();
        service.servers.iter_mut().for_each(|server| grow_older(server, passed));
        service
    }

    /// One of its servers.
    pub fn server_as_of(&self, server: &ServerStatus, now: Instant) -> ServerStatus {
        let mut server = server.clone();
        grow_older(&mut server, now.saturating_duration_since(self.at));
        server
    }
}

fn grow_older(server: &mut ServerStatus, passed: Duration) {
    let passed = passed.as_secs_f64();
    server.since_s += passed;
    if let Some(check) = &mut server.check {
        let ages = [&mut check.age_s, &mut check.failure_age_s, &mut check.unchecked_s];
        ages.into_iter().flatten().for_each(|age| *age += passed);
    }
}
