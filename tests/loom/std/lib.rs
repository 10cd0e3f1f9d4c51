//! The standard library, but that what threads share by is loom's.

pub use ::std::*;

pub mod sync {
    pub use ::std::sync::*;
    pub use loom::sync::{Arc, Mutex};

    pub mod atomic {
        pub use loom::sync::atomic::*;
    }
}
