//! The admin side: the real server on real sockets, in front of threads that answer as the test wants, asked by hand, by
//! `oneip ctl`, and by Prometheus.

mod ctl;
mod fake;
mod http;
mod metrics;
mod prometheus;
mod ready;
mod sample;
mod server;
mod socket;
mod top;
mod views;
