//! What runs beside the data path: the configuration it is built from.

pub mod config;
