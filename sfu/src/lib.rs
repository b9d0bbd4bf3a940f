//! Moves media between the transports of one worker. See ARCHITECTURE.md for the path of a packet.
#![warn(missing_docs, unreachable_pub, clippy::wildcard_enum_match_arm)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests begin at the present time"))]

pub mod audio;
pub mod certificate;
pub mod codec;
pub mod command;
pub mod demux;
mod downlink;
pub mod dtls;
pub mod engine;
pub mod estimate;
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
pub mod ice;
pub mod id;
#[allow(clippy::disallowed_methods, reason = "the shell has the clock, the threads and the sockets")]
pub mod io;
pub mod key;
pub mod keying;
pub mod local;
pub mod parameters;
pub mod path;
pub mod publication;
mod rates;
pub mod rewrite;
pub mod rtcp;
pub mod rtp;
pub mod run;
#[allow(clippy::wildcard_enum_match_arm, reason = "the enums of the libraries may grow")]
pub mod sctp;
pub mod section;
pub mod snapshot;
pub mod srtp;
pub mod stats;
pub mod subscription;
mod temporal;
pub mod trailer;
pub mod transport;
pub mod twcc;
