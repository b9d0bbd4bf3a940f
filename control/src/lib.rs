//! The product, and the binary: arguments, configuration, what runs and how it stops.

pub mod app;
pub mod cli;
pub mod config;
pub mod metrics;
mod serve;
