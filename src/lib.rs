//! oneip makes a cluster of servers answer on one IP address.
//!
//! # The journey of a frame
//!
//! A client's packet comes from the router with our MAC address on it, because the router's route for the cluster address
//! leads here. In the driver's receive loop `bpf/steer.bpf.c` looks at its destination: not a cluster address, and the kernel
//! gets it untouched; else it is stamped with the time and redirected into the AF_XDP ring of its queue ([`port::af_xdp`]).
//! There the queue's [`worker`] finds it, with up to 63 others, at its next turn. [`path::parse`] reads the headers
//! ([`wire`]) down to the flow that decides; [`path::select`] finds the service, hashes all clients of the burst at once
//! ([`hash::vector`]), and looks their slots' owners up in the [`table`]; [`path::rewrite`] writes two MAC addresses. The port
//! hands the burst back to the device, and the server, on which the cluster address is an alias, answers the client through
//! its own gateway. We never see the answer. What was done is counted in the worker's [`stats::tally`] and timed in its
//! [`stats::latency`] histograms, which the stats thread ([`stats::collect`]) takes away whole once a second. When services or
//! servers come and go, the worker gets new [`stats::books`] to count and time in, together with the new table.
//!
//! On a NIC that is bound to DPDK (feature `dpdk`, `port/dpdk`) the same worker finds the same frames in the device's own ring;
//! there is no XDP program, so what is not for a cluster address goes to the kernel by way of the worker, through a tap.
//!
//! # The modules, in reading order
//!
//! - [`worker`]: one turn, from the ring to the ring; generic over the port.
//! - [`path`]: the journey's steps, pure functions over slices and tables.
//! - [`wire`]: views of the headers that dispatching reads.
//! - [`hash`]: SipHash-1-3; scalar is the specification, vector the hot path.
//! - [`table`]: who owns which slot: first choice, failover order, who keeps which connections through a change, and how a new
//!   table reaches the workers.
//! - [`port`]: the trait, and the ports: AF_XDP, DPDK, memory, capture files.
//! - [`stats`]: what is counted and timed, by name through every change, and the thread that reports it.
//! - [`control`]: configuration, neighbours, health, the admin side, cores, host checks, privileges: ordinary code, away from
//!   the frames.
//! - [`filter`]: broadcast-based dispatch: the same decision in an XDP program on each server, which keeps its own clients.
//! - [`supervise`]: `oneip run`: what starts in which order, on which thread, and how it stops.
//! - [`server`]: `oneip server`: the cluster address on the servers' side.
//! - [`ctl`]: `oneip ctl`: what an operator asks of a running dispatcher, and how the answers are shown.
//! - [`pktgen`]: `oneip pktgen`: sends frames of many clients, and measures what comes back.
//! - [`verbs`]: `check`, `lookup`, `replay`, `simulate`: what needs neither root nor a NIC.
//! - [`plan`], [`verdict`], [`limits`]: the vocabulary: the checked configuration, what becomes of a frame, every bound.
//!
//! `wire`, `hash` and the vocabulary use nothing else. `path` never sees a port; `worker` sees only the `Port` trait; `control`
//! reaches the data path only through `table`. A test holds the `use` lines to this.

pub mod control;
pub mod ctl;
pub mod filter;
pub mod hash;
pub mod limits;
pub mod path;
pub mod pktgen;
pub mod plan;
pub mod port;
pub mod server;
pub mod stats;
pub mod supervise;
pub mod table;
pub mod verbs;
pub mod verdict;
pub mod wire;
pub mod worker;
