//! The admin side of a dispatcher or filter: what can be asked of it while it runs, and by which documents it answers.

pub mod order;
pub mod status;
