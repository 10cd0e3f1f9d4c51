//! The admin side of a dispatcher or filter: what can be asked of it while it runs, and by which documents it answers.
//!
//! [`bind`] makes the socket and the listener of the metrics, or says why a start must be refused; [`Listeners::start`] puts
//! a thread behind them that needs no privileges. Orders it passes on, by a [`Backend`], to the control thread, which carries them
//! out one after the other. Who only looks is answered from what the control thread and the stats thread have put down
//! last, so that no number of scrapes keeps either from its work. Everything it waits for, its clients included, has a
//! bound in `limits`.
//!
//! In reading order: `order`, `status` and `group` are the documents, `overview` is what the control thread puts down, and `timeline` what it notes; `socket` is where clients come in, `server` the thread that
//! serves them, `routes` what there is; `backend` asks, `heaviest` for all who look on; `figures` adds what was counted to how things are; `ready` judges
//! both for `/healthz` and `/readyz`, `prometheus` shows them to Prometheus, and `web` to people.

mod backend;
mod figures;
pub mod finding;
pub mod group;
mod heaviest;
pub mod order;
mod overview;
mod prometheus;
mod ready;
mod routes;
mod server;
mod socket;
pub mod status;
pub mod timeline;
mod web;

pub use backend::{Asked, Backend, Wanted, Watched, channel};
pub use overview::{Overview, Seen};
pub use prometheus::LATENCY_BOUNDS_NS;
pub use ready::{healthy, serves};
pub use server::Server;
pub use socket::{Error, Listeners, bind};
