//! Moves media between the transports of one worker. See ARCHITECTURE.md for the path of a packet.

pub mod audio;
pub mod certificate;
pub mod codec;
pub mod command;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod io;
pub mod rtcp;
pub mod rtp;
pub mod twcc;
