//! Moves media between the transports of one worker. See ARCHITECTURE.md for the path of a packet.

pub mod audio;
pub mod certificate;
pub mod codec;
pub mod command;
pub mod demux;
pub mod dtls;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
pub mod ice;
pub mod io;
pub mod publication;
pub mod rewrite;
pub mod rtcp;
pub mod rtp;
pub mod run;
pub mod sctp;
pub mod srtp;
pub mod stats;
pub mod subscription;
pub mod transport;
pub mod twcc;
