//! The documentation says what the program does: held against the schema of the configuration, the command line and the reasons;
//! links lead somewhere; each configuration and each command in it is right. (What needs a network or a host is run by `quickstart`; the
//! metrics are held by `admin`.)
//!
//! - `page`: tables, headings, text of a page
//! - `configuration`, `commands`, `reasons`, `alerts`: nothing is missing there, and nothing is too much
//! - `schema`: the JSON Schema for editors says the same
//! - `links`: where links lead
//! - `blocks`: what stands between fences

mod alerts;
mod blocks;
mod commands;
mod configuration;
mod links;
mod page;
#[path = "../pages/mod.rs"]
mod pages;
mod reasons;
mod schema;
#[path = "../tools/mod.rs"]
mod tools;
