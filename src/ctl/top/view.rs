//! What `top` knows: the last look, the rates since the one before, and how they were.

use crate::admin::order::Heaviest;
use crate::admin::status::Status;
use crate::ctl::rates::{self, Rates};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Looks that are remembered: as many as a wide terminal has columns.
const REMEMBERED: usize = 512;

pub struct View {
    pub status: Status,
    /// `None`: this is the first look at the process.
    pub rates: Option<Rates>,
    /// Frames in by the second, newest first.
    pub frames: VecDeque<f64>,
    /// Frames forwarded by the second, by service, likewise.
    pub services: HashMap<String, VecDeque<f64>>,
    /// Why the last look failed.
    pub error: Option<String>,
    pub paused: bool,
    /// The keys are shown in place of the list.
    pub help: bool,
    /// The sources that send most are shown in place of the servers.
    pub talkers: bool,
    /// Who they are; `None`: nobody has looked.
    pub heaviest: Option<Heaviest>,
    /// The first line of the list that is shown, and what the last drawing made of it: lines there are, lines shown.
    pub first: usize,
    pub lines: usize,
    pub shown: usize,
    seen: Instant,
}

/// Where to scroll; lines and pages down, or up if negative.
pub enum Way {
    Line(isize),
    Page(isize),
    Top,
    Bottom,
}

impl View {
    pub fn new(status: Status, seen: Instant) -> View {
        View {
            status,
            rates: None,
            frames: VecDeque::new(),
            services: HashMap::new(),
            error: None,
            paused: false,
            help: false,
            talkers: false,
            heaviest: None,
            first: 0,
            lines: 0,
            shown: 0,
            seen,
        }
    }

    /// Takes another look in, unless this is paused.
    pub fn look(&mut self, look: Result<Status, String>, at: Instant) {
        if self.paused {
            return;
        }
        let status = match look {
            Ok(status) => status,
            Err(error) => return self.error = Some(error),
        };
        self.error = None;
        self.rates = rates::between(&self.status, &status, at - self.seen);
        match &self.rates {
            Some(rates) => {
                remember(&mut self.frames, rates.frames);
                for service in &rates.services {
                    remember(self.services.entry(service.name.clone()).or_default(), service.sum().frames);
                }
                self.services.retain(|name, _| rates.services.iter().any(|service| service.name == *name));
            }
            None => {
                self.frames.clear();
                self.services.clear();
            }
        }
        (self.status, self.seen) = (status, at);
    }

    /// Takes in who sends most, or why that is not known, unless this is paused.
    pub fn look_at_talkers(&mut self, look: Result<Heaviest, String>) {
        if !self.paused {
            self.heaviest = Some(look.unwrap_or_else(|error| Heaviest { error: Some(error), ..Heaviest::default() }));
        }
    }

    /// Shows who sends most, or the servers again.
    pub fn talkers(&mut self) {
        (self.talkers, self.help, self.heaviest) = (self.help || !self.talkers, false, None);
        self.first = 0;
    }

    /// What comes while it is paused is not seen; the next rates are over the whole pause.
    pub fn pause(&mut self) {
        self.paused = !self.paused;
    }

    /// Shows the keys, or the list again.
    pub fn help(&mut self) {
        self.help = !self.help;
        self.first = 0;
    }

    pub fn scroll(&mut self, way: Way) {
        let page = self.shown.saturating_sub(1).max(1) as isize;
        self.first = match way {
            Way::Line(lines) => self.first.saturating_add_signed(lines),
            Way::Page(pages) => self.first.saturating_add_signed(pages * page),
            Way::Top => 0,
            Way::Bottom => usize::MAX,
        };
        self.first = self.first.min(self.lines.saturating_sub(self.shown));
    }
}

fn remember(history: &mut VecDeque<f64>, value: f64) {
    history.push_front(value);
    history.truncate(REMEMBERED);
}
