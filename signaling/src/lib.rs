//! A LiveKit server: tokens, rooms, participants, server APIs.

pub mod join;
pub mod negotiation;
pub mod token;
