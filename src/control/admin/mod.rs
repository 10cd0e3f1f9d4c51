//! The admin side of a dispatcher or filter: what can be asked of it while it runs, and by which documents it answers.
//!
//! [`bind`] makes the socket and the listener of the metrics, or says why a start must be refused; [`Listeners::start`] puts
//! a thread behind them that needs no privileges. What it is asked it passes on by a [`Backend`]: orders to the control
//! thread, which carries them out one after the other, and the question for figures to the stats thread. Everything it waits
//! for, its clients included, has a bound in `limits`.
//!
//! In reading order: `order` and `status` are the documents; `socket` is where clients come in, `server` the thread that
//! serves them, `routes` what there is; `backend` asks; `figures` adds what was counted to how things are; `ready` judges
//! both for `/healthz` and `/readyz`, `metrics` shows them to Prometheus.

mod backend;
mod figures;
mod metrics;
pub mod order;
mod ready;
mod routes;
mod server;
mod socket;
pub mod status;

pub use backend::{Asked, Backend, Wanted, channel};
pub use metrics::LATENCY_BOUNDS_NS;
pub use server::Server;
pub use socket::{Error, Listeners, bind};
