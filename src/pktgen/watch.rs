//! What goes on beside the senders: the interval log, signals, and the end.

use super::error::PktgenError;
use super::histogram::Times;
use super::senders::{AtWork, Ended, NUDGE};
use super::sink::Sink;
use crate::limits::{PKTGEN_DRAIN, PKTGEN_DRAIN_COPIES, PKTGEN_DRAIN_MOST, PKTGEN_LOOK, STATS_INTERVAL};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};
use std::fmt;
use std::fs::File;
use std::io::LineWriter;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind};

/// The signals that are heard; made before a sender begins, lest one kills the process.
pub struct Signals {
    runtime: Runtime,
    interrupt: unix::Signal,
    terminate: unix::Signal,
    _nudge: unix::Signal,
}

impl Signals {
    /// # Errors
    /// The system refuses.
    pub fn catch() -> Result<Signals, PktgenError> {
        let failed = |reason| PktgenError::Signals { reason };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listen = |kind| runtime.block_on(async { unix::signal(kind) }).map_err(failed);
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let nudge = listen(SignalKind::from_raw(NUDGE as i32))?;
        Ok(Signals { runtime, interrupt, terminate, _nudge: nudge })
    }
}

/// What the watch looks at.
pub struct Watch<'a> {
    pub sink: &'a Sink,
    /// The interval log.
    pub log: Option<(PathBuf, File)>,
    /// How long the senders take if all goes well.
    pub expected: Duration,
}

impl Watch<'_> {
    /// Logs the latency once an interval until the senders have ended, and has them stop at a signal; then waits for stragglers.
    ///
    /// # Errors
    /// The log cannot be written, or the kernel does not give its figures. The senders were told to stop then.
    pub fn over(self, senders: &AtWork, ended: Ended, signals: Signals) -> Result<(), PktgenError> {
        let mut serializer = V2DeflateSerializer::new();
        let mut file = self.log.as_ref().map(|(_, file)| LineWriter::new(file));
        let writer = file.as_mut().map(|file| {
            IntervalLogWriterBuilder::new()
                .add_comment("oneip pktgen: latency from when a frame was due to the receive loop, nanoseconds")
                .with_start_time(SystemTime::now())
                .with_base_time(SystemTime::now())
                .with_max_value_divisor(1e6)
                .begin_log_with(file, &mut serializer)
        });
        let (writer, begun) = match writer.transpose() {
            Ok(writer) => (writer, Ok(())),
            Err(error) => (None, Err(self.unwritten(&error))),
        };
        let mut log = Log { writer, begun: Instant::now(), since: Duration::ZERO, before: Times::default() };
        let Signals { runtime, interrupt, terminate, _nudge } = signals;
        let stopped = (interrupt, terminate);
        let sent = runtime.block_on(self.attend(senders, ended, stopped, &mut log, begun))?;
        self.drain(sent)?;
        self.note(&mut log)
    }

    /// Until all senders have ended; how many frames they sent.
    async fn attend(
        &self,
        senders: &AtWork,
        mut ended: Ended,
        (mut interrupt, mut terminate): (unix::Signal, unix::Signal),
        log: &mut Log<'_, '_, '_>,
        mut outcome: Result<(), PktgenError>,
    ) -> Result<u64, PktgenError> {
        let mut sent = 0;
        let end = Instant::now() + self.expected;
        let mut ticks = tokio::time::interval(STATS_INTERVAL);
        ticks.tick().await;
        loop {
            if outcome.is_err() {
                senders.stop();
            }
            senders.nudge();
            let look = if senders.stops() {
                PKTGEN_LOOK
            } else {
                end.saturating_duration_since(Instant::now()).max(PKTGEN_LOOK)
            };
            tokio::select! {
                frames = ended.recv() => match frames {
                    Some(frames) => sent += frames,
                    None => return outcome.map(|()| sent),
                },
                _ = interrupt.recv() => senders.stop(),
                _ = terminate.recv() => senders.stop(),
                _ = ticks.tick(), if outcome.is_ok() => outcome = self.note(log),
                () = tokio::time::sleep(look) => {}
            }
        }
    }

    fn note(&self, log: &mut Log<'_, '_, '_>) -> Result<(), PktgenError> {
        let Some(writer) = &mut log.writer else { return Ok(()) };
        let (now, times) = (log.begun.elapsed(), self.sink.counts()?.latency);
        writer
            .write_histogram(&times.since(&log.before), log.since, now - log.since, Tag::new("pktgen"))
            .map_err(|error| self.unwritten(&error))?;
        (log.before, log.since) = (times, now);
        Ok(())
    }

    fn unwritten(&self, reason: &dyn fmt::Debug) -> PktgenError {
        let path = self.log.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        PktgenError::Log { path, reason: format!("{reason:?}") }
    }

    /// Waits until no straggler has come for a while; for a shorter one if of `sent` frames none is missing, since then only copies
    /// can come.
    fn drain(&self, sent: u64) -> Result<(), PktgenError> {
        let give_up = Instant::now() + PKTGEN_DRAIN_MOST;
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < give_up {
            let counts = self.sink.counts()?;
            let total = counts.received + counts.duplicates + counts.corrupt;
            if total != last {
                (last, since) = (total, Instant::now());
            }
            let quiet = if counts.received >= sent { PKTGEN_DRAIN_COPIES } else { PKTGEN_DRAIN };
            if since.elapsed() > quiet {
                break;
            }
            thread::sleep(PKTGEN_DRAIN_COPIES);
        }
        Ok(())
    }
}

struct Log<'f, 'a, 'b> {
    writer: Option<IntervalLogWriter<'a, 'b, LineWriter<&'f File>, V2DeflateSerializer>>,
    begun: Instant,
    since: Duration,
    /// What was in the histogram then.
    before: Times,
}
