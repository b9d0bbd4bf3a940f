//! Bad networks in virtual time: the real engine between simulated clients and links. One seed, one run.
//!
//! What is modelled, and what is not, is in docs/networks.md.
#![allow(dead_code, reason = "gates use parts")]
#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

pub mod assembly;
pub mod decoder;
pub mod gates;
#[cfg(test)]
mod honesty;
pub mod jitter;
pub mod link;
pub mod nack;
pub mod pacer;
pub mod picture;
pub mod playout;
pub mod plot;
pub mod publisher;
pub mod rate;
pub mod reception;
pub mod references;
pub mod remb;
pub mod score;
pub mod server;
pub mod unwrap;
pub mod viewer;
pub mod vp8;
pub mod world;
