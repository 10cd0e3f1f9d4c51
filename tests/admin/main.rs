//! The admin side: the real server on real sockets, in front of threads that answer as the test wants, asked by hand, by
//! `oneip ctl`. (`tests/lab` has a Prometheus ask.)

mod ctl;
#[path = "../openapi/mod.rs"]
mod description;
mod documented;
mod fake;
mod http;
mod metrics;
mod openapi;
#[path = "../promtool/mod.rs"]
mod promtool;
mod ready;
mod sample;
mod server;
mod socket;
#[path = "../tools/mod.rs"]
mod tools;
mod top;
mod views;
mod web;
