//! Moves media between the transports of one worker. See ARCHITECTURE.md for the path of a packet.

pub mod certificate;
pub mod command;
pub mod dtls;
pub mod engine;
pub mod ice;
pub mod io;
pub mod sctp;
pub mod transport;
