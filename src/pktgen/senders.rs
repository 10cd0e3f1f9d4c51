//! The senders, each a thread on a core of its own. They take turns at the frames (`transmit::Share`) and have one start, so that a
//! frame is due at the same time whoever sends it.
//!
//! A sender may be in a system call that only a signal ends, and it has to be one to its own thread: one to the process goes to
//! whichever thread the kernel chooses (complete_signal, kernel/signal.c).

use super::af_xdp;
use super::arguments::Method;
use super::error::PktgenError;
use super::frames::Frames;
use super::transmit::{Load, Sender, Sent, Share, Start};
use super::xdp::{self, Progress};
use crate::host::clock::now_ns;
use crate::limits::{PKTGEN_LOOK, PKTGEN_START};
use crate::port::af_xdp::Transfer;
use crate::xdp::Device;
use crate::xdp::Features;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Of no meaning but that it interrupts a system call. It has to be caught.
pub const NUDGE: Signal = Signal::SIGUSR1;

/// The first frame is due so long after all senders are there.
const LEAD_NS: u64 = 1_000_000;

/// One a core, by one method.
pub enum Senders {
    Xdp(Vec<xdp::Generator>),
    AfXdp(Vec<af_xdp::Generator>),
}

impl Senders {
    /// So many, ready to send.
    ///
    /// # Errors
    /// The interface cannot send by that method, or by no method.
    pub fn prepare(
        count: usize,
        method: Method,
        frames: &Frames,
        load: Load,
        device: &Device,
    ) -> Result<Senders, PktgenError> {
        let features = Features::of(device.index);
        let by_xdp = || match features.transmits() {
            true => {
                let load = |share| xdp::Generator::load(frames, load, share, device.index);
                Ok(Senders::Xdp(Share::among(count).map(load).collect::<Result<_, _>>()?))
            }
            false => Err(PktgenError::NoXdpTransmit { interface: device.interface.clone() }),
        };
        let by_socket = || af_xdp::Generator::bind(frames, load, count, device);
        match method {
            Method::Xdp => by_xdp(),
            Method::AfXdp => Ok(Senders::AfXdp(by_socket()?)),
            Method::Auto if !features.transmits() => Ok(Senders::AfXdp(by_socket()?)),
            // Not to see it: the kernel would release those sockets' memory while the load begins.
            Method::Auto if !features.zero_copies() => by_xdp(),
            Method::Auto => match by_socket() {
                Ok(senders) if senders.iter().all(|sender| sender.transfer() == Transfer::ZeroCopy) => {
                    Ok(Senders::AfXdp(senders))
                }
                _ => by_xdp(),
            },
        }
    }

    /// Of the method.
    pub fn name(&self) -> String {
        match self {
            Senders::Xdp(_) => "xdp".into(),
            Senders::AfXdp(senders) => format!("af_xdp, {}", senders[0].transfer()),
        }
    }

    /// `AtWork::during` of all of them, at the end of which they are interrupted if need be.
    pub fn during<T>(
        &mut self,
        cores: &[usize],
        watch: impl FnOnce(&AtWork, Ended) -> T,
    ) -> (Result<Sent, PktgenError>, T) {
        match self {
            Senders::Xdp(senders) => {
                AtWork::new(senders.iter().map(xdp::Generator::progress)).during(senders, cores, watch)
            }
            Senders::AfXdp(senders) => AtWork::new([]).during(senders, cores, watch),
        }
    }
}

/// Says when a sender has ended how many frames it sent, and closes with the last.
pub type Ended = UnboundedReceiver<u64>;

/// The senders as they send, for each other and for whoever watches them.
pub struct AtWork {
    stop: AtomicBool,
    /// Of those that have to be interrupted: all, or none.
    interruptible: Vec<(Progress, OnceLock<Pthread>)>,
}

impl AtWork {
    /// `progress` is that of the senders if they have to be interrupted at their end.
    pub fn new(progress: impl IntoIterator<Item = Progress>) -> AtWork {
        let interruptible = progress.into_iter().map(|progress| (progress, OnceLock::new())).collect();
        AtWork { stop: AtomicBool::new(false), interruptible }
    }

    /// Has `senders` send, each on a thread and the core at the same position, or on any core if there is none; and runs `watch`
    /// meanwhile, which is to wait until all have ended. What they sent together, or the first one's error, which stops the
    /// others; and the answer of `watch`.
    ///
    /// # Panics
    /// A sender does.
    pub fn during<T>(
        &self,
        senders: &mut [impl Sender],
        cores: &[usize],
        watch: impl FnOnce(&AtWork, Ended) -> T,
    ) -> (Result<Sent, PktgenError>, T) {
        let (together, start) = (Barrier::new(senders.len() + 1), Start::new());
        let (tell, ended) = unbounded_channel();
        thread::scope(|scope| {
            let send = |(place, sender): (usize, _)| {
                let (tell, core) = (tell.clone(), cores.get(place).copied());
                let (together, start) = (&together, &start);
                scope.spawn(move || {
                    self.enter(place, core);
                    together.wait();
                    self.send(sender, start, &tell)
                })
            };
            // None is joined before the watch is over: so long there is a thread to send a signal to.
            let threads: Vec<_> = senders.iter_mut().enumerate().map(send).collect();
            drop(tell);
            together.wait();
            let begun = self.begin(&start);
            let watched = watch(self, ended);
            let sent = threads.into_iter().map(|thread| thread.join().expect("a sender does not panic"));
            (sent.sum::<Result<_, _>>().and_then(|sent| begun.map(|()| sent)), watched)
        })
    }

    fn enter(&self, place: usize, core: Option<usize>) {
        if let Some(id) = core
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!("the sender cannot be moved to core {id}");
        }
        if let Some((_, thread)) = self.interruptible.get(place) {
            thread.set(pthread_self()).expect("a place is one thread's");
        }
    }

    /// Lets them begin together, once the kernel runs those that it runs.
    fn begin(&self, start: &Start) -> Result<(), PktgenError> {
        let give_up = Instant::now() + PKTGEN_START;
        let waited = loop {
            match self.all_wait() {
                Ok(false) if !self.stops() && Instant::now() < give_up => thread::sleep(PKTGEN_LOOK),
                answer => break answer,
            }
        };
        let at = now_ns() + LEAD_NS;
        start.set(at).expect("there is one start");
        let begun = waited.and_then(|_| self.interruptible.iter().try_for_each(|(progress, _)| progress.begin(at)));
        begun.inspect_err(|_| self.stop())
    }

    fn all_wait(&self) -> Result<bool, PktgenError> {
        for (progress, _) in &self.interruptible {
            if !progress.waits()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn send(&self, sender: &mut impl Sender, start: &Start, tell: &UnboundedSender<u64>) -> Result<Sent, PktgenError> {
        let sent = sender.send(start, &self.stop);
        if sent.is_err() {
            self.stop();
        }
        // Or nobody watches any more.
        let _ = tell.send(sent.as_ref().map_or(0, |sent| sent.frames));
        sent
    }

    /// Has them all stop, once they are nudged.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Interrupts those that are to stop or have nothing to send any more. It may come before the system call that it is to
    /// end: do it again until they have ended.
    pub fn nudge(&self) {
        for (progress, thread) in &self.interruptible {
            if let Some(thread) = thread.get()
                && (self.stops() || progress.is_over().unwrap_or(true))
            {
                // Or it has ended by itself.
                let _ = pthread_kill(*thread, NUDGE);
            }
        }
    }
}
