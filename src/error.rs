//! The error of a verb.

use std::fmt;

/// Why a verb failed, in words for standard error.
pub type Failure = Box<dyn std::error::Error>;

/// The end of a verb whose exit codes are its own.
#[derive(Debug)]
pub struct Exit {
    pub code: u8,
    /// `None`: nothing failed.
    pub why: Option<Failure>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.as_ref().map_or(Ok(()), |why| why.fmt(f))
    }
}

impl std::error::Error for Exit {}
