//! Connections through a change of the cluster: the laws, the memory, and cases by hand.

mod cases;
mod law;
mod memory;
mod restart;
mod spoofed;
mod world;
