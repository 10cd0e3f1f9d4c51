//! Connections through a change of the cluster: the laws, the memory, and cases by hand.

mod cases;
mod fixture;
mod law;
mod memory;
mod restart;
mod spoofed;
