//! A LiveKit server: tokens, rooms, participants, server APIs.

pub mod negotiation;
