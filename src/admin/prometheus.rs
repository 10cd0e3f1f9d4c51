//! `/metrics`: everything in Prometheus' text format. A pure function over an observation: there are no global counters, and a
//! scrape costs the workers nothing.

use super::backend::Observation;
use super::status::{AnnounceStatus, CheckStatus, PeerStatus, ServerStatus, State};
use crate::metrics::buckets::MAX_NS;
use crate::metrics::snapshot::WorkerSnapshot;
use crate::metrics::source::{LimitedCounts, OddCounts};
use crate::model::{LimitKind, OddKind};
use crate::verdict::Reason;
use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, SystemTime};

/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the latency buckets: 1 us, doubled up to 1.05 s.
///
/// Each is the first value of a step of the HDR histograms (1000 * 2^k is a multiple of the steps there, 2^(k+2) ns), so the
/// count below it is exact: no step lies on both sides. A latency is whole nanoseconds, cut off, so one that reads as the
/// bound was longer, and belongs above it.
pub const LATENCY_BOUNDS_NS: [u64; 21] = {
    let mut bounds = [1000; 21];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = 2 * bounds[at - 1];
        at += 1;
    }
    bounds
};

const _: () = assert!(LATENCY_BOUNDS_NS[20] < MAX_NS, "a latency of the longest told apart lies above every bound");

/// The page of an observation.
pub fn text(observation: Observation) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(observation));
    let mut page = String::new();
    text::encode_registry(&mut page, &registry).expect("a String takes all");
    page
}

impl Collector for Observation {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.frames(&mut page)?;
        self.servers(&mut page)?;
        self.checks(&mut page)?;
        self.peers(&mut page)?;
        self.group(&mut page)?;
        self.services(&mut page)?;
        self.workers(&mut page)
    }
}

type Labels<'s, const N: usize> = [(&'static str, &'s str); N];

impl Observation {
    fn process(&self, page: &mut Page) -> fmt::Result {
        let Observation { status, .. } = self;
        let version = [("version", status.version.as_str())];
        page.gauges("oneip_build_info", "The version of oneip that runs; always 1", [(version, 1u64)])?;
        let help = "When the process started, in seconds since 1970";
        page.gauge("process_start_time_seconds", help, seconds_since_1970(self.started))?;
        let seen = [("control", Some(status.uptime_s)), ("stats", status.counted_s)];
        let seen = seen
            .into_iter()
            .filter_map(|(thread, uptime_s)| Some(([("thread", thread)], self.moment(status.uptime_s - uptime_s?))));
        let help = "When the thread last updated these metrics, in seconds since 1970; does not advance if the thread \
                    hangs";
        page.gauges("oneip_snapshot_timestamp_seconds", help, seen)?;
        page.gauge(
            "oneip_table_generation",
            "Generation of the published table; 0: none is published yet",
            status.generation,
        )
    }

    fn frames(&self, page: &mut Page) -> fmt::Result {
        let summary = &self.figures.summary;
        if let Some(up) = self.status.interface_up {
            page.gauge("oneip_interface_up", "Whether the interface's link is up", u64::from(up))?;
        }
        let help = "Frames that reached the interface: forwarded, dropped and passed, and those on their way";
        page.counter("oneip_interface_frames_total", help, summary.frames)?;
        let received = self.each_worker(|worker| worker.received);
        page.counters("oneip_frames_received_total", "Frames that a worker took from its port", received)?;
        let servers = self.sent();
        let each = |value: fn(&Sent) -> u64| servers.iter().map(move |sent| (sent.labels(), value(sent)));
        page.counters("oneip_frames_forwarded_total", "Frames forwarded to a server", each(|sent| sent.frames))?;
        let help = "Bytes forwarded to a server, of whole frames without FCS";
        page.counters("oneip_bytes_forwarded_total", help, each(|sent| sent.bytes))?;
        let help = "TCP connections opened to a server (SYN without ACK)";
        page.counters("oneip_new_flows_total", help, each(|sent| sent.flows))?;
        let reasons: Vec<String> = Reason::ALL.map(|reason| format!("{reason}: {}", reason.help())).into();
        let dropped = Reason::ALL.into_iter().zip(summary.dropped);
        let dropped = dropped.map(|(reason, count)| ([("reason", reason.name())], count));
        page.counters("oneip_frames_dropped_total", &format!("Frames dropped; {}", reasons.join("; ")), dropped)?;
        page.counter("oneip_frames_passed_total", "Frames left to the kernel", summary.passed)?;
        let listed = summary.services.iter().flat_map(|of| {
            let service = ("service", &*of.service);
            [([service, ("mode", "drop")], of.denied), ([service, ("mode", "count")], of.would_deny)]
        });
        let help = "Frames whose source a list denies: dropped, or dispatched because the list only counts";
        page.counters("oneip_frames_denied_total", help, listed)?;
        let has_limit: HashSet<&str> =
            self.status.services.iter().filter(|of| of.limit.is_some()).map(|of| of.name.as_str()).collect();
        let limited = summary.services.iter().flat_map(|of| {
            LimitKind::ALL.into_iter().flat_map(move |kind| {
                let labels = |mode| [("service", &*of.service), ("limit", kind.name()), ("mode", mode)];
                let LimitedCounts { limited, would_limit } = of.limited;
                [(labels("drop"), limited[kind as usize]), (labels("count"), would_limit[kind as usize])]
            })
        });
        let help = "Frames beyond a limit of their service: dropped, or dispatched because the limit only counts; absent without limits";
        page.counters(
            "oneip_frames_limited_total",
            help,
            limited.filter(|([(_, service), ..], count)| *count > 0 || has_limit.contains(service)),
        )?;
        let has_odd = self.status.odd_limit.is_some();
        let odd = OddKind::ALL.into_iter().flat_map(|kind| {
            let labels = |mode| [("limit", kind.name()), ("mode", mode)];
            let OddCounts { limited, would_limit } = summary.odd;
            [(labels("drop"), limited[kind as usize]), (labels("count"), would_limit[kind as usize])]
        });
        let help = "Frames beyond a limit of [limit.odd]: dropped, or dispatched because the limit only counts; absent without limits";
        page.counters("oneip_odd_frames_limited_total", help, odd.filter(|(_, count)| *count > 0 || has_odd))
    }

    fn servers(&self, page: &mut Page) -> fmt::Result {
        let each = |value: fn(&ServerStatus) -> u64| {
            self.each_server(Some).map(move |(labels, server)| (labels, value(server)))
        };
        let up = self.each_server(|server| Some(u64::from(self.status.takes_clients(server))));
        page.gauges("oneip_server_up", "Whether the server takes new clients", up)?;
        let states = self.each_server(Some).flat_map(|([service, name], server)| {
            let is = move |state: State| ([service, name, ("state", state.name())], u64::from(server.state == state));
            State::ALL.into_iter().map(is)
        });
        page.gauges("oneip_server_state", "1 for the state that the server is in, 0 for the others", states)?;
        let changed = self.each_server(|server| Some(self.moment(server.since_s)));
        let help = "When the server entered its state, in seconds since 1970";
        page.gauges("oneip_server_state_change_timestamp_seconds", help, changed)?;
        page.gauges("oneip_server_weight", "The server's weight that is in use", each(|server| server.weight.into()))?;
        page.gauges("oneip_server_slots", "Slots that the server owns", each(|server| server.slots.into()))
    }

    fn checks(&self, page: &mut Page) -> fmt::Result {
        let unchecked = self.each_check(|check| Some(u64::from(check.unchecked.is_some())));
        let help = "Whether the server cannot be checked because of a fault of this host";
        page.gauges("oneip_server_check_impossible", help, unchecked)?;
        let unchecked = self.each_check(|check| Some(check.unchecked_s.unwrap_or(0.0)));
        let help = "For how long the server could not be checked because of a fault of this host; 0 if it can be \
                    checked";
        page.gauges("oneip_server_unchecked_seconds", help, unchecked)?;
        // To the microsecond.
        let took = self.each_check(|check| check.latency_ms.map(|ms| (ms * 1000.0).round() / 1e6));
        page.gauges("oneip_server_check_duration_seconds", "How long the last check that succeeded took", took)?;
        let checked = self.each_check(|check| check.age_s.map(|age| self.moment(age)));
        let help = "When the server was checked last, in seconds since 1970";
        page.gauges("oneip_server_check_timestamp_seconds", help, checked)?;
        let failed = self.each_check(|check| check.failure_age_s.map(|age| self.moment(age)));
        let help = "When a check of the server failed last, in seconds since 1970; absent where none has";
        page.gauges("oneip_server_check_failure_timestamp_seconds", help, failed)
    }

    fn peers(&self, page: &mut Page) -> fmt::Result {
        let each = |value: fn(&PeerStatus) -> bool| {
            let peers = self.status.peers.iter();
            peers.map(move |peer| ([("server", peer.server.as_str())], u64::from(value(peer))))
        };
        let help = "Whether this filter receives the messages of that server's filter";
        page.gauges("oneip_filter_peer_heard", help, each(|peer| peer.heard))?;
        let help = "0: that server's filter has had a different configuration, key or orders from this one for a while";
        page.gauges("oneip_filter_peer_agrees", help, each(|peer| peer.differs.is_empty()))
    }

    fn group(&self, page: &mut Page) -> fmt::Result {
        let Some(group) = &self.status.group else { return Ok(()) };
        page.gauge("oneip_group_connected", "Whether the group's store can be reached", u64::from(group.connected))?;
        let help = "Whether this process has the group's configuration and hash key, so that it shares orders";
        page.gauge("oneip_group_joined", help, u64::from(group.outside.is_none()))?;
        page.gauge("oneip_group_members", "Live members of the group, this one included", group.alive as u64)?;
        let help = "Revision of the store that was read last; 0: it was never read";
        page.gauge("oneip_group_revision", help, group.revision.unwrap_or_default())?;
        page.gauge(
            "oneip_group_orders_queued",
            "Orders that wait until the store can be reached",
            group.queued as u64,
        )?;
        let help = "Values in the store that are not used because they are invalid";
        page.gauge("oneip_group_bad_values", help, group.bad.len() as u64)?;
        page.counter("oneip_group_lost_total", "Times that the connection to the store was lost", group.lost)?;
        let help = "Times that the store went back to an older revision, and lost orders were written again";
        page.counter("oneip_group_restored_total", help, group.restored)?;
        let Some(health) = &group.health else { return Ok(()) };
        let help = "Whether the majority of the group's members decides which servers are up";
        page.gauge("oneip_group_health_shared", help, u64::from(health.stance == "together"))?;
        page.gauge("oneip_group_views", "Members whose findings are known, this one included", health.views as u64)?;
        let help = "Servers that this member checks, each in each service";
        page.gauge("oneip_group_servers_checked", help, health.checks as u64)?;
        let help = "Servers that this member finds up and the group down, or the other way round";
        page.gauge("oneip_group_servers_differ", help, health.differs as u64)
    }

    fn services(&self, page: &mut Page) -> fmt::Result {
        let services = &self.status.services;
        let slots = services.iter().map(|service| ([("service", service.name.as_str())], service.slots));
        page.gauges("oneip_service_slots", "Slots of the service", slots)?;
        let moving = services.iter().map(|service| ([("service", service.name.as_str())], service.moving));
        let help = "Slots whose connections stay where they are while new ones go to another server";
        page.gauges("oneip_service_slots_moving", help, moving)?;
        let each = |value: fn(&AnnounceStatus) -> Option<bool>| {
            services.iter().filter_map(move |service| {
                let value = value(service.announce.as_ref()?)?;
                Some(([("service", service.name.as_str())], u64::from(value)))
            })
        };
        let help = "Whether the service is ready: link, table, workers and enough servers";
        page.gauges("oneip_service_ready", help, each(|of| Some(of.ready)))?;
        let help = "Whether the route that routing daemons announce for the service is in place";
        page.gauges("oneip_announced", help, each(|of| of.announced))?;
        if self.figures.workers.is_empty() {
            // A filter's program times nothing.
            return Ok(());
        }
        let timed: HashMap<&str, &Histogram<u64>> =
            self.figures.latency.iter().map(|(service, times)| (&**service, &**times)).collect();
        let help = "Latency from a frame's arrival to its hand-over. Buckets are exact, the sum within 0.4 %";
        page.histograms(
            "oneip_dispatch_latency_seconds",
            help,
            services
                .iter()
                .map(|service| ([("service", service.name.as_str())], timed.get(service.name.as_str()).copied())),
        )
    }

    fn workers(&self, page: &mut Page) -> fmt::Result {
        let turns = self.each_worker(|worker| worker.turns.into());
        page.gauges("oneip_worker_turns", "1: the worker runs; it answered the last request for its counters", turns)?;
        let stuck = self.each_worker(|worker| worker.stuck.into());
        let help = "Whether frames wait in the worker's transmit ring and none has left for an interval";
        page.gauges("oneip_worker_stuck", help, stuck)?;
        let places = self.numbered_workers().flat_map(|(number, worker)| {
            let ledger = &worker.report.ledger;
            let places = [("idle", ledger.idle), ("lent", ledger.lent), ("in_device", ledger.in_device)];
            places.map(|(place, frames)| ([("worker", number.clone()), ("place", place.to_owned())], frames as u64))
        });
        let help = "Where the frames of the worker's port are: idle, lent to the worker, or in a ring of the device";
        page.gauges("oneip_worker_port_frames", help, places)?;
        let held = self.each_worker(|worker| worker.report.pins.held);
        page.gauges("oneip_pins_held", "Flows that began during a change and that the worker remembers", held)?;
        let capacity = self.each_worker(|worker| worker.report.pins.capacity);
        page.gauges("oneip_pins_capacity", "Flows that the worker can remember", capacity)?;
        let remembered = self.each_worker(|worker| worker.report.pins.remembered);
        page.counters("oneip_pins_remembered_total", "Flows remembered since the start", remembered)?;
        let evicted = self.each_worker(|worker| worker.report.pins.evicted);
        let help = "Flows evicted to make room for newer ones although they may still have been alive";
        page.counters("oneip_pins_evicted_total", help, evicted)?;
        let displaced = self.each_worker(|worker| worker.report.pins.displaced);
        let help = "Half-open connections of a change (only a SYN seen) evicted to make room for newer ones";
        page.counters("oneip_pins_syns_displaced_total", help, displaced)
    }

    /// When something was that is so many seconds ago, in seconds since 1970.
    fn moment(&self, age_s: f64) -> f64 {
        let after_start = Duration::try_from_secs_f64(self.status.uptime_s - age_s).unwrap_or_default();
        seconds_since_1970(self.started + after_start)
    }

    fn each_server<'s, V>(
        &'s self,
        value: impl Fn(&'s ServerStatus) -> Option<V> + Copy,
    ) -> impl Iterator<Item = (Labels<'s, 2>, V)> {
        self.status.services.iter().flat_map(move |service| {
            let name = service.name.as_str();
            let servers = service.servers.iter();
            servers
                .filter_map(move |server| Some(([("service", name), ("server", server.name.as_str())], value(server)?)))
        })
    }

    fn each_check<'s, V>(
        &'s self,
        value: impl Fn(&'s CheckStatus) -> Option<V> + Copy,
    ) -> impl Iterator<Item = (Labels<'s, 2>, V)> {
        self.each_server(move |server| server.check.as_ref().and_then(value))
    }

    fn numbered_workers(&self) -> impl Iterator<Item = (String, &WorkerSnapshot)> {
        self.figures.workers.iter().enumerate().map(|(number, worker)| (number.to_string(), worker))
    }

    fn each_worker(
        &self,
        value: impl Fn(&WorkerSnapshot) -> u64,
    ) -> impl Iterator<Item = ([(&'static str, String); 1], u64)> {
        self.numbered_workers().map(move |(number, worker)| ([("worker", number)], value(worker)))
    }

    /// What went to every server there is, and then to those that were.
    fn sent(&self) -> Vec<Sent<'_>> {
        let mut sent: Vec<Sent> = self
            .each_server(Some)
            .map(|([(_, service), (_, server)], status)| Sent {
                service,
                server,
                frames: status.frames,
                bytes: status.bytes,
                flows: status.new_flows,
            })
            .collect();
        let present: HashSet<(&str, &str)> = sent.iter().map(|sent| (sent.service, sent.server)).collect();
        let counted = self.figures.summary.servers.iter();
        let gone = counted.filter(|gone| !present.contains(&(&*gone.service, &*gone.server)));
        sent.extend(gone.map(|gone| Sent {
            service: &gone.service,
            server: &gone.server,
            frames: gone.frames,
            bytes: gone.bytes,
            flows: gone.flows,
        }));
        sent
    }
}

struct Sent<'s> {
    service: &'s str,
    server: &'s str,
    frames: u64,
    bytes: u64,
    flows: u64,
}

impl<'s> Sent<'s> {
    fn labels(&self) -> Labels<'s, 2> {
        [("service", self.service), ("server", self.server)]
    }
}

/// To the millisecond: the fractions below are noise.
fn seconds_since_1970(moment: SystemTime) -> f64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}

/// Families in Prometheus' text format. The crate writes that of OpenMetrics, in which a counter's family lacks the `_total`
/// of its samples; here both are called the same, as by a gauge, and only the type says counter.
struct Page<'e>(DescriptorEncoder<'e>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Counter)?.encode_gauge(&value)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        self.family(MetricType::Gauge, name, help, samples)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(MetricType::Counter, name, help, samples)
    }

    /// A family of which there is nothing is left out.
    fn family<L: EncodeLabelSet>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        samples.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (L, Option<&'h Histogram<u64>>)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in samples {
            let Buckets { each, count, sum_s } = histogram.map(Buckets::of).unwrap_or_default();
            let bounds = LATENCY_BOUNDS_NS.iter().map(|ns| *ns as f64 / 1e9).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(each).collect();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum_s, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// A histogram by the bounds of Prometheus.
#[derive(Default)]
pub(super) struct Buckets {
    /// Between a bound and the one before; the last above every bound.
    pub(super) each: [u64; LATENCY_BOUNDS_NS.len() + 1],
    count: u64,
    sum_s: f64,
}

impl Buckets {
    pub(super) fn of(histogram: &Histogram<u64>) -> Buckets {
        let mut buckets = Buckets::default();
        for step in histogram.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), step.count_at_value());
            buckets.each[LATENCY_BOUNDS_NS.partition_point(|bound| *bound <= value)] += count;
            buckets.count += count;
            // The middle of a step, which is at most 1/128 of its values wide.
            buckets.sum_s += histogram.median_equivalent(value) as f64 * count as f64 / 1e9;
        }
        buckets
    }
}
