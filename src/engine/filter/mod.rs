//! Broadcast-based dispatch, on a server: the XDP program `src/bpf/filter.bpf.c` keeps the frames of this server's clients and
//! drops those of the others'.
//!
//! In the order in which a filter comes into service:
//!
//! - `generation`: what the program decides by, compiled of a `table::build::Cluster` for one server
//! - `takeover`: when the server takes over what it gets by a change (`view`: and what that is)
//! - `peers`: who takes clients, by what the filters of all servers tell each other (`beacon`: their messages; `digest`: whether
//!   they decide by the same)

pub mod beacon;
pub mod digest;
mod generation;
pub mod keeping;
pub mod peers;
pub mod speaker;
pub mod takeover;
mod view;

use std::ops::Deref;
use std::path::Path;
use std::sync::Mutex;

use aya::maps::{Array, MapData};

pub use generation::Generation;

use crate::host::clock;
use crate::limits::FILTER_HANDSHAKE;
use crate::model::{self, Mac};
use crate::xdp::driver;
use crate::xdp::interface::Interface;
use crate::xdp::link::{self, Attachment, Kept, Place};
use crate::xdp::program::{Program, ProgramError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter.bpf.o"));

const LEASE: &str = "lease";
const UNNOTICED: &str = "unnoticed";

/// As src/bpf/filter.bpf.c has it: how many, and the sizes of a `struct bpf_sock_tuple` and a sequence number.
const HANDSHAKES: &str = "handshakes";
const HANDSHAKE_ENTRIES: u32 = 16_384;
const HANDSHAKE_SIZES: (u32, u32) = (36, 4);

/// A time of `CLOCK_MONOTONIC` in nanoseconds, for the program to read.
type Time = Mutex<Array<MapData, u64>>;

/// The program, loaded.
pub struct Filter {
    program: Program,
    lease: Time,
    unnoticed: Time,
}

impl Deref for Filter {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl AsRef<Program> for Filter {
    fn as_ref(&self) -> &Program {
        &self.program
    }
}

impl Filter {
    /// Loads the program for an interface with the address `mac`. Without a table it passes everything. What the program before it `at` that
    /// place knows of handshakes, it knows; `None`: nothing.
    ///
    /// # Errors
    ///
    /// There is no BPF file system at the place, or the kernel refuses the program, for want of privileges or features.
    pub fn load(mac: Mac, at: Option<&Place>) -> Result<Filter, ProgramError> {
        let memory = at.map(|place| link::memory(place, HANDSHAKE_ENTRIES, HANDSHAKE_SIZES)).transpose()?;
        let memory = memory.as_deref().map(|pin| (HANDSHAKES, pin));
        let mut program = Program::load(Kept::Filter, OBJECT, mac, memory)?;
        let mut time = |name| {
            let map = program.take_map(name);
            Array::try_from(map).map(Mutex::new).map_err(|error| program.map_error(name, &error))
        };
        let (lease, unnoticed) = (time(LEASE)?, time(UNNOTICED)?);
        let filter = Filter { program, lease, unnoticed };
        filter.lease(u64::MAX)?;
        Ok(filter)
    }

    /// Until when, in nanoseconds of `CLOCK_MONOTONIC`, the program keeps clients that other servers have while all are up.
    /// Without a call there is no end. This server's own clients it always keeps.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn lease(&self, until: u64) -> Result<(), ProgramError> {
        self.set(&self.lease, LEASE, until)
    }

    /// Until when, in nanoseconds of `CLOCK_MONOTONIC`, a handshake may have begun without the program's knowledge. While clients move, those
    /// of SYNs that it has not seen are nobody's afterwards. `publish` sets it.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn unnoticed(&self, until: u64) -> Result<(), ProgramError> {
        self.set(&self.unnoticed, UNNOTICED, until)
    }

    fn set(&self, time: &Time, name: &'static str, until: u64) -> Result<(), ProgramError> {
        let mut time = time.lock().expect("nobody panics with it");
        time.set(0, until, 0).map_err(|error| self.map_error(name, &error))
    }

    /// See `Program::publish`. Of clients that did not move before, no SYNs were noticed.
    ///
    /// # Errors
    ///
    /// No memory; the old table stays.
    pub fn publish(&self, generation: &Generation) -> Result<(), ProgramError> {
        self.unnoticed(clock::now_ns() + FILTER_HANDSHAKE.as_nanos() as u64)?;
        self.program.publish(generation.cells())
    }

    /// Attaches the program `at` that place; if none is given, in the driver, or in the kernel where the driver cannot; or, where
    /// a filter of an earlier process still is, in its place, with no frame unfiltered in between. It is pinned below the path,
    /// and stays when this process ends.
    ///
    /// # Panics
    ///
    /// No table was published: every server would answer every client.
    ///
    /// # Errors
    ///
    /// There is no BPF file system at the path, another XDP program is attached, or the kernel refuses.
    pub fn attach(
        &mut self,
        interface: &Interface,
        at: (Option<model::Xdp>, &Path),
    ) -> Result<Attachment, ProgramError> {
        let (xdp_mode, pins) = at;
        // On veth the driver's XDP meets socket buffers that are marked as broadcast when they are sent, and `eth_type_trans`, which marks,
        // does not unmark what is host-addressed by then (drivers/net/veth.c, veth_xdp_rcv_skb): TCP would refuse what the filter
        // kept. Generic XDP unmarks it (net/core/dev.c, bpf_prog_run_generic_xdp).
        let in_driver = driver(&interface.name).is_none_or(|driver| driver != "veth");
        self.program.attach(&interface.place(Kept::Filter, pins), (xdp_mode, in_driver))
    }

    /// See `Program::number`.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn number(&mut self) -> Result<u32, ProgramError> {
        self.program.number()
    }

    /// Takes the program off the interface: every frame is the kernel's again.
    ///
    /// # Errors
    ///
    /// The pin cannot be removed; the program stays.
    pub fn detach(&mut self, interface: &Interface, pins: &Path) -> Result<(), ProgramError> {
        self.program.detach(&interface.place(Kept::Filter, pins))
    }
}
