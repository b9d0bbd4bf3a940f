//! The product, and the binary: arguments, configuration, what runs and how it stops.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod metrics;
mod serve;
pub mod store;
