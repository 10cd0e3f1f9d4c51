//! What the program costs a frame, by `BPF_PROG_TEST_RUN`.

use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions};

use super::{Dispatch, XdpError};
use crate::xdp::attach::{load, program};
use crate::xdp::error::with_causes;

/// Clients of the frames that are measured; a power of two.
pub(super) static MEASURED_CLIENTS: u32 = 1 << 20;

/// What is run again and again: a program that makes the frame one of another client, to another service, and then
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// dispatches it.
    Dispatch,
    /// sends it back: the floor.
    Floor,
}

impl Measured {
    fn name(self) -> &'static str {
        match self {
            Measured::Dispatch => "oneip_measured",
            Measured::Floor => "oneip_floor",
        }
    }
}

impl Dispatch {
    /// How long the program takes for a frame on average, of random clients, and what the last run did.
    ///
    /// # Errors
    ///
    /// The kernel refuses to load or run it.
    pub fn measure(&mut self, what: Measured, frame: &[u8], repeat: u32) -> Result<(u32, Duration), XdpError> {
        if program(&self.program, what.name()).fd().is_err() {
            load(&mut self.program, what.name()).map_err(|reason| XdpError::Load { reason })?;
        }
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        let result = program(&self.program, what.name())
            .test_run(options)
            .map_err(|error| XdpError::Judge { reason: with_causes(&error) })?;
        Ok((result.return_value, result.duration))
    }
}
