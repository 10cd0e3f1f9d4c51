//! A capture while it goes on: frames out of the watch, as pieces of a pcapng, to whoever asked for it.

use crate::admin::order::{Answer, Capture, Point, Recording};
use crate::control::membership::Membership;
use crate::host::clock;
use crate::limits::{CAPTURE_FRAMES, CAPTURE_PIECES, CAPTURE_ROOM, CAPTURE_TOLD_EVERY};
use crate::model::{Plan, names};
use crate::port::pcap::{Blocks, Packet};
use crate::table::trace::{Fate, Points, Seen, Watch};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub struct Capturing {
    pub watch: Arc<Watch>,
    asked: Capture,
    blocks: Blocks,
    to: mpsc::Sender<Vec<u8>>,
    /// What the frames' numbers mean: the last layouts, with their plans.
    layouts: Vec<(u64, Arc<Plan>)>,
    /// From the ports' clock to the time since 1970, in nanoseconds.
    since_1970: u64,
    end: Option<Instant>,
    /// When it was said last how many were lost, and how many.
    told: (Instant, u64),
}

/// Layouts whose frames may be on their way.
const LAYOUTS: usize = 4;

impl Capturing {
    /// Nothing comes before the watch is in the table.
    ///
    /// # Errors
    /// There is no such service or server.
    pub fn begin(asked: Capture, membership: &Membership) -> Result<(Capturing, Answer), String> {
        check(&asked, membership.plan())?;
        let points = match asked.point {
            None => Points::ALL,
            Some(Point::In) => Points::RECEIVED,
            Some(Point::Out) => Points::SENT,
            Some(Point::Drop) => Points::DROPPED,
        };
        let most = (CAPTURE_ROOM / asked.snap.max(1)).clamp(1, CAPTURE_FRAMES);
        let watch = Arc::new(Watch::capture(asked.client, points, asked.snap, most));
        let (to, pieces) = mpsc::channel(CAPTURE_PIECES);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let capturing = Capturing {
            watch,
            blocks: Blocks::new(membership.interface(), asked.snap as u32),
            to,
            layouts: Vec::new(),
            since_1970: now.saturating_sub(clock::now_ns()),
            end: asked.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            // So that the head of the file is on its way with the first look.
            told: (Instant::now() - CAPTURE_TOLD_EVERY, 0),
            asked,
        };
        Ok((capturing, Answer::Capture(Recording::new(pieces))))
    }

    /// Sends what was seen since the last look. Returns whether the capture goes on. While the last pieces were not taken yet, frames stay
    /// in the watch, and what finds no room there is lost and counted.
    pub fn look(&mut self, membership: &Membership) -> bool {
        if self.to.is_closed() {
            return false;
        }
        if self.layouts.last().is_none_or(|(layout, _)| *layout != membership.layout()) {
            self.layouts.push((membership.layout(), Arc::clone(membership.plan())));
            let old = self.layouts.len().saturating_sub(LAYOUTS);
            self.layouts.drain(..old);
        }
        let now = Instant::now();
        let is_over = self.end.is_some_and(|end| now >= end);
        let to = self.to.clone();
        let Ok(place) = to.try_reserve() else { return !is_over };
        // No more than there is room for: a flood does not keep the control thread here.
        for _ in 0..CAPTURE_FRAMES {
            if self.is_full() || !self.take_one() {
                break;
            }
        }
        let is_over = is_over || self.is_full();
        let lost = self.watch.lost();
        if is_over || lost != self.told.1 || now.duration_since(self.told.0) >= CAPTURE_TOLD_EVERY {
            self.blocks.tell(self.since_1970 + clock::now_ns(), lost);
            self.told = (now, lost);
        }
        let piece = self.blocks.take();
        if !piece.is_empty() {
            place.send(piece);
        }
        !is_over
    }

    fn is_full(&self) -> bool {
        self.asked.count.is_some_and(|count| self.blocks.frames() >= count)
    }

    /// Whether there was a frame.
    fn take_one(&mut self) -> bool {
        let Capturing { watch, asked, blocks, layouts, since_1970, .. } = self;
        let taken = watch.take(|seen, bytes| {
            let plan = layouts.iter().find(|(layout, _)| *layout == seen.layout).map(|(_, plan)| &**plan);
            let names = Names::of(&seen, plan);
            if names.match_(asked) {
                let at = *since_1970 + seen.at;
                let (original, is_sent, comment) = (seen.bytes, seen.is_sent, names.comment(&seen));
                blocks.add(Packet { at, original, bytes, is_sent, comment });
            }
        });
        taken.is_some()
    }
}

fn check(asked: &Capture, plan: &Plan) -> Result<(), String> {
    let names = || plan.services.iter().map(|service| service.name.as_str());
    if let Some(service) = &asked.service
        && !names().any(|name| name == service)
    {
        return Err(format!("there is no service {service}; there are {}", names::first(names())));
    }
    let wanted = plan.services.iter().filter(|service| asked.service.as_ref().is_none_or(|name| *name == service.name));
    let mut servers = wanted.flat_map(|service| &service.servers);
    match &asked.server {
        Some(name) if !servers.any(|server| server.name == *name) => {
            let of = asked.service.as_ref().map_or(String::new(), |service| format!(" in service {service}"));
            Err(format!("there is no server {name}{of}; `oneip ctl status` shows all"))
        }
        _ => Ok(()),
    }
}

/// Whose a frame is, where that is known.
struct Names<'a> {
    service: Option<&'a str>,
    server: Option<&'a str>,
}

impl<'a> Names<'a> {
    fn of(seen: &Seen, plan: Option<&'a Plan>) -> Names<'a> {
        let (service, server) = match seen.fate {
            Fate::Forward(service, server) => (Some(service), Some(server)),
            Fate::Drop(_) | Fate::Pass => (seen.service, None),
        };
        let service = service.and_then(|service| plan?.services.get(service as usize));
        let server = server.and_then(|server| service?.servers.get(server as usize));
        Names { service: service.map(|service| &*service.name), server: server.map(|server| &*server.name) }
    }

    fn match_(&self, asked: &Capture) -> bool {
        let is =
            |wanted: &Option<String>, name: Option<&str>| wanted.as_deref().is_none_or(|wanted| name == Some(wanted));
        is(&asked.service, self.service) && is(&asked.server, self.server)
    }

    fn comment(&self, seen: &Seen) -> String {
        let mut comment = match seen.fate {
            Fate::Forward(..) => "verdict=forward".to_owned(),
            Fate::Drop(reason) => format!("verdict=drop reason={reason}"),
            Fate::Pass => "verdict=pass".to_owned(),
        };
        for (key, name) in [("service", self.service), ("server", self.server)] {
            if let Some(name) = name {
                comment += &format!(" {key}={name}");
            }
        }
        comment + &format!(" queue={}", seen.worker)
    }
}
