//! Simulated publishers and subscribers.
pub mod channels;
pub mod clock;
pub mod dtls;
pub mod ice;
pub mod rtcp;
pub mod rtp;
pub mod stamp;
pub mod codec;
pub mod histogram;
pub mod receiver;
pub mod sender;
pub mod trace;
pub mod media;
pub mod socket;
pub mod transport;
pub mod sdp;
