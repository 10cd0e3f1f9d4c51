//! The receiving side, `src/bpf/sink.bpf.c`: takes the frames of a run off an interface, checks, counts and times them, in the
//! kernel's receive loop.

use super::error::PktgenError;
use super::frames::Frames;
use super::histogram::{Times, WORDS};
use super::program::{Program, inaccessible};
use crate::model::Mac;
use crate::xdp::{Device, Mode, attach, program, program_mut, with_causes};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use aya::programs::xdp::XdpLink;
use aya::programs::{TestRun, TestRunOptions};
use std::collections::BTreeMap;

static PROGRAM: Program = Program {
    name: "sink",
    object: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o")),
    constants: &[],
    by_sender: &[("next", QUEUES), ("seen", WINDOW_WORDS)],
};

/// The twins of `MAX_QUEUES` and `WINDOW_WORDS` in src/bpf/sink.bpf.c.
const QUEUES: u32 = 1024;
const WINDOW_WORDS: u32 = 1 << 19;

const COUNTS: usize = 7;

/// `enum xdp_action` in include/uapi/linux/bpf.h.
const XDP_DROP: u32 = 1;

/// What came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came intact, each once.
    pub received: u64,
    /// Of those, without FCS.
    pub bytes: u64,
    /// Frames that had come intact before.
    pub duplicates: u64,
    /// Frames of this run of which something but the MAC addresses and the TTL was changed.
    pub corrupt: u64,
    /// Received after a frame that the same sender sent later (RFC 4737 section 3.3), on the same receive queue.
    pub reordered: u64,
    /// Received with a lower TTL.
    pub routed: u64,
    /// Received for a MAC address beyond the 4,096 that are told apart.
    pub other_macs: u64,
    /// From the stamp to the receive loop, of those received.
    pub latency: Times,
}

/// The program. Dropping it detaches it.
pub struct Sink {
    program: Ebpf,
    link: Option<XdpLink>,
    tallies: PerCpuArray<MapData, [u64; COUNTS + WORDS]>,
    macs: PerCpuHashMap<MapData, u64, u64>,
}

impl Sink {
    /// Loads the program, for frames at which so many senders take turns; it takes nothing yet.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(frames: &Frames, senders: usize) -> Result<Sink, PktgenError> {
        let mut program = PROGRAM.load(frames, senders as u64, &[])?;
        let mut map = |name| program.take_map(name).expect("the program has this map");
        let tallies = PerCpuArray::try_from(map("tallies")).map_err(inaccessible("tallies"))?;
        let macs = PerCpuHashMap::try_from(map("macs")).map_err(inaccessible("macs"))?;
        Ok(Sink { program, link: None, tallies, macs })
    }

    /// # Errors
    /// Another program is attached, or the kernel refuses.
    pub fn attach(&mut self, device: &Device) -> Result<Mode, PktgenError> {
        let (link, mode) = attach(program_mut(&mut self.program, PROGRAM.name), device)?;
        self.link = Some(link);
        Ok(mode)
    }

    /// # Errors
    /// The kernel has no memory for the answer.
    pub fn counts(&self) -> Result<Counts, PktgenError> {
        let cores = self.tallies.get(&0, 0).map_err(inaccessible("tallies"))?;
        let mut counts = Counts::default();
        for core in cores.iter() {
            let (of_core, times) = core.split_at(COUNTS);
            let Counts { received, bytes, duplicates, corrupt, reordered, routed, other_macs, latency } = &mut counts;
            let sums = [received, bytes, duplicates, corrupt, reordered, routed, other_macs];
            sums.into_iter().zip(of_core).for_each(|(sum, count)| *sum += count);
            latency.add(times.try_into().expect("the rest is the times"));
        }
        Ok(counts)
    }

    /// Frames received by destination MAC.
    ///
    /// # Errors
    /// As `counts`.
    pub fn by_mac(&self) -> Result<BTreeMap<Mac, u64>, PktgenError> {
        let mut by_mac = BTreeMap::new();
        for entry in self.macs.iter() {
            let (key, cores) = entry.map_err(inaccessible("macs"))?;
            let mac = *key.to_ne_bytes().first_chunk().expect("8 bytes hold 6");
            by_mac.insert(Mac(mac), cores.iter().sum());
        }
        Ok(by_mac)
    }

    /// Whether the program takes a frame that comes in on queue 0, and counts it so. By `BPF_PROG_TEST_RUN`.
    ///
    /// # Errors
    /// The kernel does not run it on such a frame.
    pub fn takes(&mut self, frame: &[u8]) -> Result<bool, PktgenError> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = program(&self.program, PROGRAM.name).test_run(options);
        let result = result.map_err(|error| PktgenError::Run { reason: with_causes(&error) })?;
        Ok(result.return_value == XDP_DROP)
    }
}
