//! The error of a verb.

/// Why a verb failed, in words for standard error.
pub type Failure = Box<dyn std::error::Error>;
