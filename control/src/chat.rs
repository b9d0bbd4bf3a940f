//! Chat beside a stream, over Socket.IO (stream API, section 8).

use crate::live::Change;
use crate::store::stream::{StreamId, UserId};

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct Chat;

impl Chat {
    /// Opens, updates or closes the chat of a stream that changed. Never waits; called in the order of the changes.
    pub fn observe(&self, _change: &Change) {}

    /// Ends when the chat of that stream is closed on this node: everybody told and disconnected.
    pub async fn closed(&self, _stream: StreamId) {}

    /// Drops all sockets of a user who is banned.
    pub fn drop_user(&self, _user: &UserId) {}
}
