//! A LiveKit server: tokens, rooms, participants, server APIs.

#![warn(unreachable_pub, clippy::wildcard_enum_match_arm)]

mod api;
pub mod bodies;
pub mod budget;
mod counts;
pub mod event;
pub mod framing;
pub mod http;
pub mod id;
pub mod join;
pub mod media;
pub mod negotiation;
pub mod outbox;
pub mod participant;
pub mod presence;
pub mod protobuf_json;
pub mod quality;
pub mod quirks;
pub mod room;
pub mod rooms;
pub mod session;
pub mod session_stats;
pub mod settings;
pub mod socket;
pub mod token;
mod websocket;
pub mod wire;
pub mod wire_bounds;
mod wire_format;
