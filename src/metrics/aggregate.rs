//! What all workers have counted and timed, by the names of services and servers, through every change of the layout.
//!
//! A worker may have several metrics open: those it writes in, and newer ones that it has not come to. When metrics are closed,
//! what is in them is added to the totals of their names; names that a reload removed keep theirs.

use super::buckets::{DIGITS, MAX_NS};
use super::histogram::{Answer, Latencies};
use super::snapshot::{WorkerReport, WorkerSnapshot};
use super::source::Source;
use super::summary::{Percentiles, Places, ServerSummary, ServiceSummary, Summary};
use crate::model::identity::continued_services;
use crate::model::{self, Plan};
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::sync::Arc;

/// A histogram of any number of frames.
pub type Long = Histogram<u64>;

pub struct Aggregator {
    /// Of closed metrics. Its servers are all that there ever were, in the order in which they came.
    closed: Summary,
    /// All that there ever were, likewise.
    services: Vec<Service>,
    service_at: HashMap<String, usize>,
    /// By position of the service and name of the server.
    server_at: HashMap<(usize, String), usize>,
    /// Where the services and servers of the newest layout stand.
    present: Arc<Places>,
    /// The services of that layout.
    plan: Vec<model::Service>,
    /// The workers', and those beside.
    workers: Vec<Account>,
    beside: usize,
    /// Between `ask` and `end_interval`.
    asking: bool,
    /// What was timed in ended intervals, for all services together.
    total: Long,
}

struct Service {
    name: Arc<str>,
    /// Since the present interval began; `None`: nothing.
    interval: Option<Long>,
    /// In ended intervals.
    ended: Option<Arc<Long>>,
}

struct Account {
    open: Vec<(Arc<Places>, Box<dyn Source>)>,
    /// Frames in, of closed metrics.
    received: u64,
    answered: bool,
    turns: bool,
    stuck: bool,
    report: WorkerReport,
    /// The report at the beginning of the harvest.
    before: WorkerReport,
}

impl Default for Account {
    fn default() -> Account {
        Account {
            open: Vec::new(),
            received: 0,
            answered: false,
            // Until it is asked for the first time, nothing speaks against it.
            turns: true,
            stuck: false,
            report: WorkerReport::default(),
            before: WorkerReport::default(),
        }
    }
}

impl Aggregator {
    pub fn new(workers: usize) -> Aggregator {
        Aggregator {
            closed: Summary::default(),
            services: Vec::new(),
            service_at: HashMap::new(),
            server_at: HashMap::new(),
            present: Arc::default(),
            plan: Vec::new(),
            workers: (0..workers).map(|_| Account::default()).collect(),
            beside: 0,
            asking: false,
            total: empty(),
        }
    }

    /// With so many sources beside the workers': what they count is no worker's.
    pub fn and(mut self, beside: usize) -> Aggregator {
        self.workers.resize_with(self.workers.len() + beside, Account::default);
        self.beside += beside;
        self
    }

    /// Takes note of a layout, and of each worker's metrics for it. Its tables have the services and servers of `plan`, in that
    /// order.
    pub fn open(&mut self, plan: &Plan, sources: Vec<Box<dyn Source>>) {
        assert_eq!(sources.len(), self.workers.len(), "one a worker");
        self.rename(plan);
        self.plan.clone_from(&plan.services);
        self.present = Arc::new(self.places(plan));
        for (account, mut source) in self.workers.iter_mut().zip(sources) {
            // The worker may be past the metrics in which it was asked.
            if self.asking {
                source.request();
            }
            account.open.push((Arc::clone(&self.present), source));
        }
    }

    /// What was counted for a service or a server goes on under its new name, if nothing else was counted under that.
    fn rename(&mut self, plan: &Plan) {
        let before = std::mem::take(&mut self.plan);
        let pairs = continued_services(&before, &plan.services);
        let pairs = plan.services.iter().zip(pairs).filter_map(|(new, at)| Some((&before[at?], new)));
        // All are taken away first: two may have changed names.
        let known: Vec<(usize, &model::Service, &model::Service)> =
            pairs.filter_map(|(old, new)| Some((*self.service_at.get(&old.name)?, old, new))).collect();
        for (_, old, _) in known.iter().filter(|(_, old, new)| old.name != new.name) {
            self.service_at.remove(&old.name);
        }
        for (at, old, new) in known {
            let is_free = old.name != new.name && !self.service_at.contains_key(&new.name);
            if is_free {
                self.service_at.insert(new.name.clone(), at);
                let name: Arc<str> = new.name.as_str().into();
                self.services[at].name = Arc::clone(&name);
                self.closed.services[at].service = name;
            } else if old.name != new.name {
                self.service_at.entry(old.name.clone()).or_insert(at);
                continue;
            }
            self.rename_servers(at, old, new);
        }
    }

    fn rename_servers(&mut self, service: usize, old: &model::Service, new: &model::Service) {
        let names = old.servers.iter().filter_map(|was| {
            let is = new.servers.iter().find(|is| is.is_same(was))?;
            (is.name != was.name).then_some((&was.name, &is.name))
        });
        let moved: Vec<(usize, &String, &String)> =
            names.filter_map(|(was, is)| Some((self.server_at.remove(&(service, was.clone()))?, was, is))).collect();
        for (at, was, is) in moved {
            let taken = self.server_at.contains_key(&(service, is.clone()));
            let name = if taken { was } else { is };
            self.server_at.entry((service, name.clone())).or_insert(at);
            self.closed.servers[at].server = name.as_str().into();
        }
        if old.name != new.name {
            let of = self.server_at.iter().filter(|((of, _), _)| *of == service);
            let name = &self.services[service].name;
            of.for_each(|(_, at)| self.closed.servers[*at].service = Arc::clone(name));
        }
    }

    /// Finds the names of a plan, and adds those that are new.
    fn places(&mut self, plan: &Plan) -> Places {
        let mut places = Places::default();
        for service in &plan.services {
            let at = *self.service_at.entry(service.name.clone()).or_insert_with(|| {
                let name: Arc<str> = service.name.as_str().into();
                self.services.push(Service { name: Arc::clone(&name), interval: None, ended: None });
                self.closed.services.push(ServiceSummary::new(name));
                self.services.len() - 1
            });
            places.services.push(at);
            for server in &service.servers {
                places.servers.push(*self.server_at.entry((at, server.name.clone())).or_insert_with(|| {
                    self.closed.servers.push(ServerSummary::new(&self.services[at].name, &server.name));
                    self.closed.servers.len() - 1
                }));
            }
        }
        places
    }

    /// Asks every worker for its histograms and its report. Answers come by `gather`.
    pub fn ask(&mut self) {
        // Answers to the last question, which came late.
        self.gather();
        self.asking = true;
        for account in &mut self.workers {
            account.answered = false;
            account.before = account.report;
            account.open.iter_mut().for_each(|(_, source)| source.request());
        }
    }

    /// Takes what has come. Whether every worker has answered, those apart that have no metrics open any more.
    pub fn gather(&mut self) -> bool {
        for account in &mut self.workers {
            let Account { open, received, answered, stuck, report, before, .. } = account;
            open.retain_mut(|(places, source)| {
                match source.collect(&mut |set| time(&mut self.services, places, set)) {
                    Answer::None => {}
                    Answer::Full(now) => {
                        *answered = true;
                        *stuck = before.ledger.sending > 0
                            && now.ledger.sending > 0
                            && before.ledger.left == now.ledger.left;
                        *report = now;
                    }
                    Answer::Last => {
                        *received += source.counts().received;
                        self.closed.add(&**source, places);
                        return false;
                    }
                }
                true
            });
        }
        self.workers.iter().all(|account| account.answered || account.open.is_empty())
    }

    /// Ends the wait for answers, and an interval: what was timed in it, by service, where anything was.
    pub fn end_interval(&mut self) -> Vec<(Arc<str>, Long)> {
        self.asking = false;
        self.workers.iter_mut().for_each(|account| account.turns = account.answered);
        let mut timed = Vec::new();
        for service in &mut self.services {
            let Some(interval) = service.interval.take() else { continue };
            add(Arc::make_mut(service.ended.get_or_insert_with(|| Arc::new(empty()))), &interval);
            add(&mut self.total, &interval);
            timed.push((Arc::clone(&service.name), interval));
        }
        timed
    }

    /// All counters as they are now: the servers of the newest layout, then others that frames went to.
    pub fn summary(&self) -> Summary {
        let mut summary = self.closed.clone();
        for (places, source) in self.workers.iter().flat_map(|account| &account.open) {
            summary.add(&**source, places);
        }
        let mut servers: Vec<Option<ServerSummary>> = summary.servers.drain(..).map(Some).collect();
        summary.servers.extend(self.present.servers.iter().filter_map(|at| servers[*at].take()));
        summary.servers.extend(servers.into_iter().flatten().filter(|server| server.frames > 0));
        summary.latency = Percentiles::of(&self.total);
        summary
    }

    pub fn workers(&self) -> Vec<WorkerSnapshot> {
        let figures = |account: &Account| WorkerSnapshot {
            received: account.received + account.open.iter().map(|(_, source)| source.counts().received).sum::<u64>(),
            turns: account.turns,
            stuck: account.stuck,
            report: account.report,
        };
        self.workers[..self.workers.len() - self.beside].iter().map(figures).collect()
    }

    /// What was timed in ended intervals, by service, where anything was.
    pub fn latency(&self) -> Vec<(Arc<str>, Arc<Long>)> {
        let timed = |service: &Service| Some((Arc::clone(&service.name), service.ended.clone()?));
        self.services.iter().filter_map(timed).collect()
    }
}

/// Adds a worker's set to the present interval.
fn time(services: &mut [Service], places: &Places, set: &Latencies) {
    for (at, part) in places.services.iter().zip(set.services()) {
        let mut part = part.peekable();
        if part.peek().is_some() {
            let sum = services[*at].interval.get_or_insert_with(empty);
            part.for_each(|(ns, count)| sum.record_n(ns, count.into()).expect("every bucket is within the bounds"));
        }
    }
}

pub fn add(sum: &mut Long, part: &Long) {
    sum.add(part).expect("both have the same bounds");
}

pub fn empty() -> Long {
    Long::new_with_bounds(1, MAX_NS, DIGITS).expect("the bounds are valid")
}
