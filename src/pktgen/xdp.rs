//! Sending by `src/bpf/pktgen.bpf.c`: the kernel makes frames and runs the program on them, which redirects them to the
//! interface. Each sender has a program and maps of its own.
//!
//! One system call runs it some billions of times, with a pause of 20 ms at its end, when the kernel gives the pages back. So there is
//! one for the whole share where that is possible, and a signal to the thread that made it ends it (`senders`). Between the call and the
//! first run lie some 7 ms, more with more to do, in which the kernel waits for RCU (bpf_dispatcher_change_prog, kernel/bpf/dispatcher.c):
//! so the program is told when to begin once it runs. Otherwise the frames of that time would be late, and hit the other side at once.

use super::error::PktgenError;
use super::frames::Frames;
use super::histogram::{Times, WORDS};
use super::program::{Program, inaccessible};
use super::transmit::{Load, Sender, Sent, Share, Start};
use crate::host::clock::now_ns;
use crate::xdp::{os_error, program, with_causes};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions};
use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

static PROGRAM: Program = Program {
    name: "pktgen",
    object: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pktgen.bpf.o")),
    constants: &["ifindex", "first_number", "interval_ns", "interval_fraction"],
    by_sender: &[],
};

/// Words of a `struct sender`.
const SENDER: usize = 8;

/// Runs between two hand-overs to the interface, which are what a wake-up of the other side and the lock of its ring cost. A frame
/// waits for the hand-over, so on a schedule they are as few as the rate allows: one by one a core sends 1.5 million frames a
/// second, eight by eight more than two (`perf/method.md`).
const BATCH: u32 = 64;
const BATCH_ON_SCHEDULE: u32 = 8;

/// From this interval of a sender on, a frame is handed over by itself.
const ONE_BY_ONE_NS: u64 = 2_000;

/// The program, and what it is run on. Frames for an interface that does not send for XDP programs (`Features::transmits`) are
/// lost.
pub struct Generator {
    program: Ebpf,
    state: Progress,
    lag: Array<MapData, [u64; WORDS]>,
    largest: usize,
}

/// How far a generator has come, and its start; for any thread.
#[derive(Clone)]
pub struct Progress {
    state: Arc<Mutex<State>>,
    load: Load,
    share: Share,
}

type State = Array<MapData, [u64; SENDER]>;

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    fn read(&self) -> Result<[u64; SENDER], PktgenError> {
        self.state().get(&0, 0).map_err(inaccessible("senders"))
    }

    /// Whether the program has been run, and waits for its start.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn waits(&self) -> Result<bool, PktgenError> {
        Ok(self.read()?[7] > 0)
    }

    /// Tells the program when to begin and to end.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn begin(&self, start: u64) -> Result<(), PktgenError> {
        let Progress { load, share, .. } = self;
        let (limit, until) = load.bounds(start);
        let (ns, fraction) = load.schedule.map_or((0, 0), |schedule| schedule.exact(share.first));
        let mut state = self.state();
        // The program may be running. It begins with `until`, when all else is there.
        for until in [0, until] {
            let words = [0, share.of(limit), until, start + ns, fraction.into(), 0, 0, 0];
            state.set(0, words, 0).map_err(inaccessible("senders"))?;
        }
        Ok(())
    }

    /// Whether there is nothing to send any more: the system call has to be interrupted.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_over(&self) -> Result<bool, PktgenError> {
        let [sent, limit, until, ..] = self.read()?;
        // Nothing was begun while that is 0.
        Ok(until > 0 && (sent >= limit || now_ns() >= until))
    }
}

impl Generator {
    /// # Errors
    /// The kernel refuses the program.
    pub fn load(frames: &Frames, load: Load, share: Share, ifindex: u32) -> Result<Generator, PktgenError> {
        let (ns, fraction) = load.schedule.map_or((0, 0), |schedule| schedule.exact(share.stride));
        let values = [ifindex.into(), share.first, ns, fraction.into()];
        let mut program = PROGRAM.load(frames, share.stride, &values)?;
        let mut map = |name| program.take_map(name).expect("the program has this map");
        let state = Array::try_from(map("senders")).map_err(inaccessible("senders"))?;
        let lag = Array::try_from(map("lags")).map_err(inaccessible("lags"))?;
        let state = Progress { state: Arc::new(Mutex::new(state)), load, share };
        Ok(Generator { program, state, lag, largest: frames.largest() })
    }

    pub fn progress(&self) -> Progress {
        self.state.clone()
    }

    fn run(&mut self, data: &[u8], repeat: u32, batch: u32) -> Result<(), PktgenError> {
        let attrs = TestRunAttrs::new().xdp_live_frames(batch);
        let options = TestRunOptions { data_in: Some(data), repeat, attrs, ..TestRunOptions::new() };
        match program(&self.program, PROGRAM.name).test_run(options) {
            Ok(_) => Ok(()),
            Err(error) if is_interrupted(&error) => Ok(()),
            Err(error) => Err(PktgenError::Run { reason: with_causes(&error) }),
        }
    }

    fn sent(&self) -> Result<Sent, PktgenError> {
        let [frames, _, _, _, _, first, last, _] = self.state.read()?;
        let words = self.lag.get(&0, 0).map_err(inaccessible("lags"))?;
        let lag = self.state.load.schedule.map(|_| {
            let mut lag = Times::default();
            lag.add(&words);
            lag
        });
        Ok(Sent { frames, first, last, lag })
    }

    /// The next frame, which goes nowhere; zeros if none is due. By `BPF_PROG_TEST_RUN`.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn next_frame(&mut self) -> Result<Vec<u8>, PktgenError> {
        let (data, mut out) = (vec![0; self.largest], vec![0; self.largest]);
        let options = TestRunOptions { data_in: Some(&data), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program(&self.program, PROGRAM.name).test_run(options);
        let result = result.map_err(|error| PktgenError::Run { reason: with_causes(&error) })?;
        out.truncate(result.data_size_out as usize);
        Ok(out)
    }
}

impl Sender for Generator {
    /// To be told when to begin by its `Progress`, and to be interrupted by a signal at its end.
    fn send(&mut self, _: &Start, stop: &AtomicBool) -> Result<Sent, PktgenError> {
        let data = vec![0; self.largest];
        let Progress { load, share, .. } = self.state;
        let batch = match load.schedule {
            None => BATCH,
            Some(schedule) if schedule.due(share.stride) < ONE_BY_ONE_NS => BATCH_ON_SCHEDULE,
            Some(_) => 1,
        };
        while !stop.load(Ordering::Relaxed) && !self.state.is_over()? {
            // Most runs find nothing due.
            self.run(&data, u32::MAX, batch)?;
        }
        self.sent()
    }
}

fn is_interrupted(error: &ProgramError) -> bool {
    os_error(error) == Some(Errno::INTR)
}
