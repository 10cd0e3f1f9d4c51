//! The whole works on real traffic: the lab of `scripts/lab.sh`, with curl and nginx in it, and `oneip run` as a process.
//!
//! - `network`: a lab, its hosts, and what the clients do
//! - `dispatcher`: `oneip run` in it, and the account it gives at the end; `filters`: `oneip filter` on its servers
//! - the tests: `arms` (several interfaces), `queues` (several, of one), `idle` (workers while nothing comes), `selection` (who is served by whom), `packets` (fragments, ICMP, path MTU, VLAN), `servers` (which come, go and
//!   move), `failover` (which fail), `operator` (drained, weighed, disabled by hand), `reload` (another configuration), `host` (the dispatcher's own traffic, generic XDP), `interface` (which loses its link, or goes), `isolation` (the dispatcher is cut off), `restart` (kill -9 under load), `figures` (what it prints and
//!   logs), `privileges` (what it may still do), `prometheus` (which scrapes it; `dashboard`: and answers Grafana), `refusals` (why it does not start), `supervisor` (what a service manager is told), `flood` (limits),
//!   `kernel` (the engine xdp: what goes on without a process), `broadcast` (no dispatcher, but filters), `peers` (which do not see each other as they should),
//!   `quic` (whose clients change their addresses), `announce` (routes for routing daemons, from one dispatcher), `several` (three of them behind BGP), `pair` (two behind VRRP), `group` (which share a store), `page` (in a `browser`, where there is one)
//!
//! There are three at once: workers sleep while nothing comes. What has nothing to do with engines is tried with the
//! engine in the kernel.

mod announce;
mod arms;
mod broadcast;
mod browser;
mod capture;
mod captured;
mod dashboard;
mod decap;
#[path = "../openapi/mod.rs"]
mod description;
mod dispatcher;
mod echo;
mod failover;
mod figures;
mod filters;
mod flood;
#[path = "../forge/mod.rs"]
mod forge;
mod group;
#[path = "../hlog/mod.rs"]
mod hlog;
mod host;
mod idle;
mod interface;
mod isolation;
mod kernel;
mod network;
mod operator;
mod packets;
mod page;
mod pair;
mod peers;
mod prefixes;
mod privileges;
mod prometheus;
#[path = "../promtool/mod.rs"]
mod promtool;
mod queues;
mod quic;
mod refusals;
mod reload;
mod restart;
mod second_chance;
mod second_lan;
mod selection;
mod servers;
mod several;
#[path = "../stop/mod.rs"]
mod stop;
mod supervisor;
#[path = "../tools/mod.rs"]
mod tools;
