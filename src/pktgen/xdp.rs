//! Sending by `src/bpf/pktgen.bpf.c`: the kernel makes frames and runs the program on them, which redirects them to the
//! interface.

use super::error::PktgenError;
use super::frames::Frames;
use super::histogram::{Times, WORDS};
use super::program::{Program, inaccessible};
use super::transmit::{Load, Sent};
use crate::control::clock::now_ns;
use crate::limits::PKTGEN_RUNS;
use crate::port::af_xdp::{os_error, with_causes};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions};
use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, Ordering};

static PROGRAM: Program = Program {
    name: "pktgen",
    object: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pktgen.bpf.o")),
    constants: &["ifindex", "interval_ns", "interval_fraction"],
};

/// Words of a `struct sender`.
const SENDER: usize = 7 + WORDS;

/// Runs between two hand-overs to the interface, which are what a system call, a wake-up of the other side and the lock of its ring
/// cost. A schedule is met to the time that they take. `perf/method.md` has the measurement.
const BATCH: u32 = 64;
const BATCH_ON_SCHEDULE: u32 = 8;

/// The first frame is due so long after the start.
const LEAD_NS: u64 = 1_000_000;

/// The program, and what it is run on. Frames for an interface that does not send for XDP programs (`features::transmits`) are lost.
pub struct Generator {
    program: Ebpf,
    state: Array<MapData, [u64; SENDER]>,
    load: Load,
    largest: usize,
}

impl Generator {
    /// # Errors
    /// The kernel refuses the program.
    pub fn load(frames: &Frames, load: Load, ifindex: u32) -> Result<Generator, PktgenError> {
        let (ns, fraction) = load.schedule.map_or((0, 0), |schedule| schedule.interval());
        let mut program = PROGRAM.load(frames, &[ifindex, ns, fraction])?;
        let state = Array::try_from(program.take_map("senders").expect("the program has this map"));
        Ok(Generator { program, state: state.map_err(inaccessible("senders"))?, load, largest: frames.largest() })
    }

    /// Sends until the load is, or until `stop`.
    ///
    /// # Errors
    /// The kernel does not run the program any more.
    pub fn send(&mut self, stop: &AtomicBool) -> Result<Sent, PktgenError> {
        let start = now_ns() + LEAD_NS;
        let (limit, until) = self.start(start)?;
        let data = vec![0; self.largest];
        let batch = if self.load.schedule.is_some() { BATCH_ON_SCHEDULE } else { BATCH };
        while !stop.load(Ordering::Relaxed) {
            let left = limit - self.state()?[0];
            if left == 0 || now_ns() >= until {
                break;
            }
            let repeat = match self.load.schedule {
                // Most runs find nothing due.
                Some(_) => PKTGEN_RUNS,
                None => left.min(PKTGEN_RUNS.into()) as u32,
            };
            self.run(&data, repeat, batch)?;
        }
        self.sent()
    }

    /// Tells the program when to begin; the bounds.
    fn start(&mut self, start: u64) -> Result<(u64, u64), PktgenError> {
        let (limit, until) = self.load.bounds(start);
        let mut state = [0; SENDER];
        state[1] = limit;
        state[2] = until;
        state[3] = start;
        self.state.set(0, state, 0).map_err(inaccessible("senders"))?;
        Ok((limit, until))
    }

    fn run(&mut self, data: &[u8], repeat: u32, batch: u32) -> Result<(), PktgenError> {
        let attrs = TestRunAttrs::new().xdp_live_frames(batch);
        let options = TestRunOptions { data_in: Some(data), repeat, attrs, ..TestRunOptions::new() };
        match PROGRAM.xdp(&mut self.program).test_run(options) {
            Ok(_) => Ok(()),
            // A signal: whoever handles it says whether to stop.
            Err(error) if is_interrupted(&error) => Ok(()),
            Err(error) => Err(PktgenError::Run { reason: with_causes(&error) }),
        }
    }

    fn state(&self) -> Result<[u64; SENDER], PktgenError> {
        self.state.get(&0, 0).map_err(inaccessible("senders"))
    }

    fn sent(&self) -> Result<Sent, PktgenError> {
        let state = self.state()?;
        let [frames, _, _, _, _, first, last] = *state.first_chunk().expect("there are more words");
        let lag = self.load.schedule.map(|_| {
            let mut lag = Times::default();
            lag.add(state[SENDER - WORDS..].try_into().expect("the rest is the times"));
            lag
        });
        Ok(Sent { frames, first, last, lag })
    }

    /// The next frame, which goes nowhere. By `BPF_PROG_TEST_RUN`.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn next_frame(&mut self) -> Result<Vec<u8>, PktgenError> {
        if self.state()?[1] == 0 {
            self.start(0)?;
        }
        let (data, mut out) = (vec![0; self.largest], vec![0; self.largest]);
        let options = TestRunOptions { data_in: Some(&data), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = PROGRAM.xdp(&mut self.program).test_run(options);
        let result = result.map_err(|error| PktgenError::Run { reason: with_causes(&error) })?;
        out.truncate(result.data_size_out as usize);
        Ok(out)
    }
}

fn is_interrupted(error: &ProgramError) -> bool {
    os_error(error) == Some(Errno::INTR)
}
