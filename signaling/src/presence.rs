//! Who is told of whom. What follows from it in large rooms is in `room/audience.rs`.

use serde::{Deserialize, Serialize};

/// Who is told of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Everybody.
    Announced,
    /// It came while the room was small, and only listens: those are told who came so, too, who publish or administer,
    /// and whom it sent data to.
    Early,
    /// One of a large audience: only those are told who publish or administer, and whom it sent data to.
    Audience,
}

/// Whom a participant is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HearsOf {
    /// Also of the audience: it publishes, administers, or is an agent or recorder. It remains so.
    Everybody,
    /// Of the announced, and of those who came while the room was small, as it did itself.
    Early,
    /// Those only who are announced to everybody.
    Announced,
}

impl HearsOf {
    /// Whether it is told of members with this presence.
    pub fn includes(self, presence: Presence) -> bool {
        match (self, presence) {
            (Self::Everybody, _) | (_, Presence::Announced) | (Self::Early, Presence::Early) => true,
            (Self::Early | Self::Announced, Presence::Audience) | (Self::Announced, Presence::Early) => false,
        }
    }
}
