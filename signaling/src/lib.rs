//! A LiveKit server: tokens, rooms, participants, server APIs.

mod api;
pub mod bodies;
pub mod budget;
pub mod event;
pub mod http;
pub mod join;
pub mod media;
pub mod negotiation;
pub mod participant;
pub mod protobuf_json;
pub mod quality;
pub mod quirks;
pub mod room;
pub mod rooms;
pub mod session;
pub mod session_stats;
pub mod socket;
pub mod token;
mod websocket;
pub mod wire;
pub mod wire_bounds;
mod wire_format;
