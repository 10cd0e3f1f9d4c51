//! What has happened, for the page: the control thread notes it as it happens. Whoever looks waits for nobody.

use super::finding::Grade;
use crate::limits::{TIMELINE_EVENTS, TIMELINE_LOOK, TIMELINE_SAME, TIMELINE_TEXT};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The process began to dispatch.
    Start,
    /// What an operator asked for.
    Order,
    Reload,
    /// A server came into another state.
    Server,
    /// Where a server is, in the kernel's neighbour table.
    Neighbour,
    /// What checks say beyond the state of a server.
    Check,
    /// The interface lost its link, or has it again.
    Link,
    /// Whether routers may send clients of a service here.
    Announce,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 in each process.
    pub number: u64,
    /// When, in seconds since 1970.
    pub at: f64,
    pub kind: Kind,
    pub grade: Grade,
    /// In words.
    pub text: String,
    /// In how many services more it happened to the server at the same time.
    pub more_services: usize,
}

/// What is told.
#[derive(Clone, Copy, Debug)]
pub struct Told<'t> {
    pub kind: Kind,
    pub grade: Grade,
    pub text: &'t str,
    /// The same of a server in several services has the same mark, and is one event.
    pub mark: Option<(&'t str, &'t str)>,
}

/// The events of a process, a bounded number.
#[derive(Clone, Default)]
pub struct Timeline(Arc<Mutex<Events>>);

#[derive(Default)]
struct Events {
    /// The number of the newest.
    last: u64,
    /// Oldest first.
    servers: VecDeque<Noted>,
    others: VecDeque<Noted>,
}

struct Noted {
    event: Arc<Event>,
    /// Of a server, and its state.
    mark: Option<(String, String)>,
}

impl Timeline {
    pub fn tell(&self, told: Told) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = now.as_millis() as f64 / 1e3;
        let mut events = self.events();
        events.last += 1;
        let number = events.last;
        let ring = match told.kind {
            Kind::Server | Kind::Neighbour => &mut events.servers,
            _ => &mut events.others,
        };
        let is_same = |noted: &Noted| {
            let mark = noted.mark.as_ref().map(|(server, state)| (server.as_str(), state.as_str()));
            mark.is_some() && mark == told.mark && at - noted.event.at <= TIMELINE_SAME.as_secs_f64()
        };
        let newest = ring.len().saturating_sub(TIMELINE_LOOK);
        if let Some(known) = ring.range_mut(newest..).rev().find(|noted| is_same(noted)) {
            let event = Event { number, more_services: known.event.more_services + 1, ..Event::clone(&known.event) };
            known.event = Arc::new(event);
            return;
        }
        if ring.len() == TIMELINE_EVENTS {
            ring.pop_front();
        }
        let Told { kind, grade, text, mark } = told;
        let event = Event { number, at, kind, grade, text: shortened(text), more_services: 0 };
        let mark = mark.map(|(server, state)| (server.to_owned(), state.to_owned()));
        ring.push_back(Noted { event: Arc::new(event), mark });
    }

    /// The number of the newest; 0: there is none.
    pub fn last(&self) -> u64 {
        self.events().last
    }

    /// Newest first, and the number of the newest.
    pub fn events_newest_first(&self) -> (u64, Vec<Arc<Event>>) {
        let (last, mut all) = {
            let events = self.events();
            let all = events.servers.iter().chain(&events.others).map(|noted| Arc::clone(&noted.event));
            (events.last, all.collect::<Vec<_>>())
        };
        all.sort_by(|one, other| other.at.total_cmp(&one.at).then(other.number.cmp(&one.number)));
        (last, all)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its beginning, where it is long.
fn shortened(text: &str) -> String {
    if text.len() <= TIMELINE_TEXT {
        return text.to_owned();
    }
    format!("{} ...", &text[..text.floor_char_boundary(TIMELINE_TEXT)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server<'t>(text: &'t str, mark: (&'t str, &'t str)) -> Told<'t> {
        Told { kind: Kind::Server, grade: Grade::Fail, text, mark: Some(mark) }
    }

    fn texts(timeline: &Timeline) -> Vec<(String, usize)> {
        let (_, events) = timeline.events_newest_first();
        events.iter().map(|event| (event.text.clone(), event.more_services)).collect()
    }

    #[test]
    fn the_same_of_a_server_in_several_services_is_one_event() {
        let timeline = Timeline::default();
        for (service, server_name, state) in [
            ("a", "web1", "down"),
            ("a", "web2", "down"),
            ("b", "web1", "down"),
            ("b", "web2", "down"),
            ("a", "web1", "up"),
        ] {
            timeline.tell(server(&format!("{server_name} of {service}: {state}"), (server_name, state)));
        }
        let expected = [("web1 of a: up", 0), ("web2 of a: down", 1), ("web1 of a: down", 1)];
        assert_eq!(texts(&timeline), expected.map(|(text, more)| (text.to_owned(), more)));
        assert_eq!(timeline.last(), 5, "whoever has seen the fourth learns that there is more");
    }

    #[test]
    fn servers_that_come_and_go_push_no_order_out() {
        let timeline = Timeline::default();
        timeline.tell(Told { kind: Kind::Order, grade: Grade::Ok, text: "drain", mark: None });
        for n in 0..3 * TIMELINE_EVENTS {
            timeline.tell(server("down", (&n.to_string(), "down")));
        }
        let all = texts(&timeline);
        assert_eq!(all.len(), TIMELINE_EVENTS + 1);
        assert!(all.iter().any(|(text, _)| text == "drain"));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let timeline = Timeline::default();
        let text = format!("x{}", "é".repeat(TIMELINE_TEXT));
        timeline.tell(Told { kind: Kind::Reload, grade: Grade::Ok, text: &text, mark: None });
        let (cut, _) = texts(&timeline).remove(0);
        assert_eq!(cut, format!("x{} ...", "é".repeat((TIMELINE_TEXT - 1) / 2)));
    }
}
