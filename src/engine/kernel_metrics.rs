//! What the program in the kernel counts and times, as the collector takes it: a source a core.

use crate::metrics::histogram::{Answer, Latencies};
use crate::metrics::snapshot::WorkerReport;
use crate::metrics::source::{Counted, Counts, LimitedCounts, ListedCounts, OddCounts, SentCounts, Source};
use crate::table::flow_table::FlowTable;
use crate::xdp::dispatch::{Books, Sent, Tally};

/// A core's.
pub struct CoreMetrics {
    books: Books,
    core: usize,
    shared: Option<Shared>,
}

/// What belongs to all cores together: one of them has it.
struct Shared {
    timed: Timed,
    /// Of the receive queues; none where workers tell of them.
    flow_tables: Vec<FlowTable>,
}

impl CoreMetrics {
    /// Of each core. `flow_tables` are those of which nobody else tells.
    pub fn all(books: &Books, flow_tables: Vec<FlowTable>) -> impl Iterator<Item = CoreMetrics> {
        let mut shared = Some(Shared { timed: Timed::new(books.clone()), flow_tables });
        (0..books.cores()).map(move |core| CoreMetrics { books: books.clone(), core, shared: shared.take() })
    }
}

impl Counted for CoreMetrics {
    fn counts(&self) -> Counts {
        let tally @ Tally { forwarded, passed, dropped, odd, .. } = self.books.tally(self.core);
        Counts {
            received: tally.received(),
            forwarded,
            passed,
            dropped,
            odd: OddCounts { limited: odd[0], would_limit: odd[1] },
        }
    }

    fn destinations(&self) -> usize {
        self.books.destinations()
    }

    fn sent(&self, destination: usize) -> SentCounts {
        let Sent { frames, bytes, flows } = self.books.sent(self.core, destination);
        SentCounts { frames, bytes, flows }
    }

    fn services(&self) -> usize {
        self.books.services()
    }

    fn listed(&self, service: usize) -> ListedCounts {
        let [denied, would_deny] = self.books.listed(self.core, service);
        ListedCounts { denied, would_deny }
    }

    fn limited(&self, service: usize) -> LimitedCounts {
        let [limited, would_limit] = self.books.limited(self.core, service);
        LimitedCounts { limited, would_limit }
    }
}

impl Source for CoreMetrics {
    /// The program is not asked: what it counts can be read at any time.
    fn request(&mut self) {}

    fn collect(&mut self, with: &mut dyn FnMut(&Latencies)) -> Answer {
        // Looked for first: what is read after it is all.
        let is_final = self.books.are_final();
        let mut report = WorkerReport::default();
        if let Some(Shared { timed, flow_tables }) = &mut self.shared {
            timed.collect(with);
            report.pins = flow_tables.iter().map(FlowTable::report).sum();
        }
        if is_final { Answer::Last } else { Answer::Full(report) }
    }
}

/// What was timed, since it was collected last.
struct Timed {
    books: Books,
    /// By service and bucket, when it was collected last.
    before: Vec<Vec<u32>>,
    since: Latencies,
}

impl Timed {
    fn new(books: Books) -> Timed {
        let before =
            (0..books.services()).map(|service| books.timed(service).map(|(_, count)| count).collect()).collect();
        let since = Latencies::new(books.services());
        Timed { books, before, since }
    }

    fn collect(&mut self, with: &mut dyn FnMut(&Latencies)) {
        for (service, before) in self.before.iter_mut().enumerate() {
            for (bucket, now) in self.books.timed(service) {
                let before = &mut before[bucket];
                if *before != now {
                    self.since.add(service, bucket, now.wrapping_sub(*before));
                    *before = now;
                }
            }
        }
        with(&self.since);
        self.since.clear();
    }
}

/// What the program counts in the place of workers, on all cores together.
pub struct NetMetrics {
    /// Empty where nothing is counted.
    cores: Vec<CoreMetrics>,
    services: usize,
    destinations: usize,
}

impl NetMetrics {
    pub fn new(books: &Books) -> NetMetrics {
        let cores = CoreMetrics::all(books, Vec::new()).collect();
        NetMetrics { cores, services: books.services(), destinations: books.destinations() }
    }

    /// Of nothing.
    pub fn none(services: usize, destinations: usize) -> NetMetrics {
        NetMetrics { cores: Vec::new(), services, destinations }
    }
}

impl Counted for NetMetrics {
    fn counts(&self) -> Counts {
        self.cores.iter().map(Counted::counts).fold(
            Counts::default(),
            |mut sum, Counts { received, forwarded, passed, dropped, odd }| {
                sum.odd += odd;
                sum.received += received;
                sum.forwarded += forwarded;
                sum.passed += passed;
                sum.dropped.iter_mut().zip(dropped).for_each(|(sum, count)| *sum += count);
                sum
            },
        )
    }

    fn destinations(&self) -> usize {
        self.destinations
    }

    fn sent(&self, destination: usize) -> SentCounts {
        let each = self.cores.iter().map(|core| core.sent(destination));
        each.fold(SentCounts::default(), |mut sum, SentCounts { frames, bytes, flows }| {
            sum.frames += frames;
            sum.bytes += bytes;
            sum.flows += flows;
            sum
        })
    }

    fn services(&self) -> usize {
        self.services
    }

    fn listed(&self, service: usize) -> ListedCounts {
        let each = self.cores.iter().map(|core| core.listed(service));
        each.fold(ListedCounts::default(), |sum, ListedCounts { denied, would_deny }| ListedCounts {
            denied: sum.denied + denied,
            would_deny: sum.would_deny + would_deny,
        })
    }

    fn limited(&self, service: usize) -> LimitedCounts {
        self.cores.iter().fold(LimitedCounts::default(), |mut sum, core| {
            sum += core.limited(service);
            sum
        })
    }
}

impl Source for NetMetrics {
    fn request(&mut self) {}

    fn collect(&mut self, with: &mut dyn FnMut(&Latencies)) -> Answer {
        self.cores.iter_mut().map(|core| core.collect(with)).last().unwrap_or(Answer::Last)
    }
}
