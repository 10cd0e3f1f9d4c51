//! The verbs that need no root and no NIC, as processes: what they print, literally, and how they exit.

mod check;
mod help;
mod import;
mod lookup;
mod program;
mod replay;
mod simulate;
#[path = "../tools/mod.rs"]
mod tools;
mod usage;
