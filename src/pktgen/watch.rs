//! What goes on beside the sender: the interval log, signals, and the end.

use super::error::PktgenError;
use super::histogram::Times;
use super::sink::Sink;
use super::xdp::Progress;
use crate::limits::{PKTGEN_DRAIN, PKTGEN_DRAIN_MOST, PKTGEN_LOOK, STATS_INTERVAL};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};
use rustix::process::{Signal, getpid, kill_process};
use std::fmt;
use std::fs::File;
use std::io::LineWriter;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::oneshot;

/// Of no meaning but that it interrupts a system call.
const NUDGE: Signal = Signal::USR1;

/// The signals that are heard; made before the sender begins, lest one kills the process.
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
        let nudge = listen(SignalKind::user_defined1())?;
        Ok(Signals { runtime, interrupt, terminate, _nudge: nudge })
    }
}

/// What the watch looks at.
pub struct Watch<'a> {
    pub sink: &'a Sink,
    /// The interval log.
    pub log: Option<(PathBuf, File)>,
    /// Tells the sender to stop.
    pub stop: &'a AtomicBool,
    /// Of a sender that has to be interrupted at its end.
    pub progress: Option<Progress>,
    /// When that is, if all goes well.
    pub expected: Duration,
}

impl Watch<'_> {
    /// Logs the latency once an interval until the sender is done, and has it stop at a signal; then waits for stragglers.
    ///
    /// # Errors
    /// The log cannot be written, or the kernel does not give its figures. The sender was told to stop then.
    pub fn until(self, done: oneshot::Receiver<()>, signals: Signals) -> Result<(), PktgenError> {
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
        let writer = writer.transpose().map_err(|error| self.unwritten(&error))?;
        let mut log = Log { writer, begun: Instant::now(), since: Duration::ZERO, before: Times::default() };
        let Signals { runtime, interrupt, terminate, _nudge } = signals;
        runtime.block_on(self.attend(done, (interrupt, terminate), &mut log))?;
        self.drain()?;
        self.note(&mut log)
    }

    async fn attend(
        &self,
        mut done: oneshot::Receiver<()>,
        (mut interrupt, mut terminate): (unix::Signal, unix::Signal),
        log: &mut Log<'_, '_, '_>,
    ) -> Result<(), PktgenError> {
        let end = Instant::now() + self.expected;
        let mut ticks = tokio::time::interval(STATS_INTERVAL);
        ticks.tick().await;
        let mut outcome = Ok(());
        loop {
            let stops = self.stop.load(Ordering::Relaxed);
            let look = if stops { PKTGEN_LOOK } else { end.saturating_duration_since(Instant::now()).max(PKTGEN_LOOK) };
            tokio::select! {
                _ = &mut done => return outcome,
                _ = interrupt.recv() => self.stop.store(true, Ordering::Relaxed),
                _ = terminate.recv() => self.stop.store(true, Ordering::Relaxed),
                _ = ticks.tick(), if outcome.is_ok() => outcome = self.note(log),
                () = tokio::time::sleep(look) => {}
            }
            if outcome.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            if let Some(progress) = &self.progress
                && (self.stop.load(Ordering::Relaxed) || progress.is_over().unwrap_or(true))
            {
                // If it comes before the system call begins, there is another one.
                let _ = kill_process(getpid(), NUDGE);
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

    /// Waits until no straggler has come for a while.
    fn drain(&self) -> Result<(), PktgenError> {
        let give_up = Instant::now() + PKTGEN_DRAIN_MOST;
        let total = || self.sink.counts().map(|counts| counts.received + counts.duplicates + counts.corrupt);
        let (mut last, mut since) = (total()?, Instant::now());
        while since.elapsed() < PKTGEN_DRAIN && Instant::now() < give_up {
            thread::sleep(PKTGEN_DRAIN / 10);
            let now = total()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
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
