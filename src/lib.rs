//! oneip makes a cluster of servers answer on one IP address.
//!
//! # The journey of a frame
//!
//! A client's packet comes from the router with our MAC address on it, because the router's route for the cluster address
//! leads here. In the driver's receive loop `bpf/steer.bpf.c` looks at its destination: not a cluster address, and the kernel
//! gets it untouched; else it is stamped with the time and redirected into the AF_XDP ring of its queue ([`port::af_xdp`]).
//! There the queue's [`worker`] finds it, with up to 63 others, at its next turn. [`path::classify`] reads the headers
//! ([`wire`]) down to the flow that decides; [`path::select`] finds the service, hashes all clients of the burst at once
//! ([`hash::vector`]), and looks their slots' owners up in the [`table`]; [`path::rewrite`] writes two MAC addresses, and
//! where the server is behind a router [`path::encapsulate`] puts the tunnel's header in front. The port
//! hands the burst back to the device, and the server, on which the cluster address is an alias, answers the client through
//! its own gateway. We never see the answer. What was done is counted in the worker's [`metrics::counters`] and timed in its
//! [`metrics::histogram`] histograms, which the stats thread ([`metrics::collect`]) takes away whole once a second. When services or
//! servers come and go, the worker gets new [`metrics::worker`] to count and time in, together with the new table.
//!
//! On a NIC that is bound to DPDK (feature `dpdk`, `port/dpdk`) the same worker finds the same frames in the device's own ring;
//! there is no XDP program, so what is not for a cluster address goes to the kernel by way of the worker, through a tap.
//!
//! With the engine `xdp` the frame never leaves the kernel: `bpf/dispatch.bpf.c` decides it where it came in, by a table that is compiled
//! of the same one ([`xdp::dispatch`]), and sends it out again. Steer has that program too, for queues whose worker is gone.
//!
//! # The modules, in reading order
//!
//! - [`worker`]: one turn, from the ring to the ring; generic over the port.
//! - [`path`]: the steps of a turn, a file each: pure functions over slices and tables.
//! - [`wire`]: views of the headers that dispatching reads.
//! - [`hash`]: SipHash-1-3; scalar is the specification, vector the hot path.
//! - [`table`]: what a burst is decided by. [`table::build`] makes it: first choices, failover order, who keeps which connections
//!   through a change; [`table::publish`] takes it to the workers.
//! - [`port`]: the trait, and the ports: AF_XDP, DPDK, memory, capture files.
//! - [`xdp`]: the XDP programs of `bpf/`: loading, attaching, pinning.
//! - [`engine`]: what dispatches: workers over a port, or the filter of a server (broadcast-based dispatch); and decap, the servers' end of
//!   tunnels.
//! - [`metrics`]: what is counted and timed, by name through every change, and the thread that reports it.
//! - [`control`]: which servers there are, where they are, whether they serve, and what operators have set.
//! - [`group`]: what several dispatchers share through etcd: orders.
//! - [`netlink`]: what is said to the kernel about links, addresses, neighbours, routes and rules.
//! - [`host`]: this machine: cores, capabilities, the clock, one process an interface.
//! - [`admin`]: what can be asked of a running process, and the documents it answers with.
//! - [`run`]: `oneip run`, `oneip filter` and `oneip decap`: what starts in which order, on which thread, and how it stops.
//! - [`server`]: `oneip server`: the cluster address on the servers' side.
//! - [`ctl`]: `oneip ctl`: what an operator asks of a running process, and how the answers are shown.
//! - [`doctor`]: `oneip doctor`: what makes a host fail, and the command that mends it.
//! - [`pktgen`]: `oneip pktgen`: sends frames of many clients, and measures what comes back.
//! - [`verbs`]: `check`, `lookup`, `replay`, `simulate`: what needs neither root nor a NIC.
//! - [`cli`]: the command line, and the manuals that are made of it.
//! - [`log`]: what is logged, and in which form: text, JSON, the journal.
//! - [`config`], [`model`]: the configuration file, and what it says once it is checked.
//! - [`verdict`], [`limits`], [`error`]: what becomes of a frame, every bound, why a verb failed.
//!
//! No module uses one that uses it: a test holds the `use` lines to this. Control and data path meet in [`table`] alone.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod ctl;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod group;
pub mod hash;
pub mod host;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod path;
pub mod pktgen;
pub mod port;
pub mod run;
pub mod server;
pub mod table;
pub mod verbs;
pub mod verdict;
pub mod wire;
pub mod worker;
pub mod xdp;
