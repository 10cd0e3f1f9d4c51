//! The servers' end of tunnels: the XDP program `src/bpf/decap.bpf.c` takes off what a dispatcher has put in front of a client's packet.
//! And it sends back segments of connections that the server does not have, where a service has `second_chance`.
//!
//! - `table`: what the program decides by, compiled of a configuration for one server
//! - `unwrapping`: the program as an engine

mod table;
pub mod unwrapping;

pub use table::{Table, concerns};

use crate::model::Mac;
use crate::xdp::link::Kept;
use crate::xdp::program::{Program, ProgramError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.bpf.o"));

/// Loads the program for an interface with the address `mac`. Without a table it passes everything.
///
/// # Errors
///
/// The kernel refuses it, for want of privileges or features.
pub fn load(mac: Mac) -> Result<Program, ProgramError> {
    Program::load(Kept::Decap, OBJECT, mac, None)
}
