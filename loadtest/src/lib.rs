//! Simulated publishers and subscribers for any LiveKit server.
//!
//! [`run`] is the whole load test; [`client::Client`] is one participant, for tests with a few of them; [`hostile`]
//! attacks a server. Signalling is asynchronous, media is on threads of its own ([`media`]), and nothing here is shared
//! with a server's code.

pub mod channels;
pub mod churn;
pub mod client;
pub mod clock;
pub mod codec;
pub mod delays;
pub mod delivery;
mod dial;
mod drops;
pub mod dtls;
pub mod histogram;
pub mod hostile;
pub mod ice;
mod load;
mod marks;
pub mod media;
pub mod options;
pub mod playback;
mod plot;
pub mod receiver;
pub mod report;
pub mod rtcp;
pub mod rtp;
pub mod sdp;
pub mod sender;
mod session;
pub mod signal;
pub mod socket;
pub mod stamp;
mod summary;
pub mod timeline;
mod tls;
pub mod token;
pub mod trace;
pub mod transport;
mod usage;

pub use drops::Drops;
pub use load::run;
pub use options::Options;
pub use plot::svg;
pub use report::Report;
