//! Which participants are sent updates about which (interest management). What follows from it in large rooms is in
//! `room/audience.rs`.

use serde::{Deserialize, Serialize};

/// Who is sent updates about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Everybody.
    Announced,
    /// Those who, like the member, joined while the room was small, those who publish or administer, and those whom the
    /// member sent data to. The member only listens.
    Early,
    /// Only those who publish or administer, and those whom the member sent data to. The member is one of a large
    /// audience.
    Audience,
}

/// About whom a participant is sent updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interest {
    /// Everybody, the audience too: it publishes, administers, or is an agent or recorder. It remains so.
    Everybody,
    /// The announced, and those who joined while the room was small, as it did itself.
    Early,
    /// Only those who are announced to everybody.
    Announced,
}

impl Interest {
    /// Whether it is sent updates about members with this presence.
    pub fn includes(self, presence: Presence) -> bool {
        match (self, presence) {
            (Self::Everybody, _) | (_, Presence::Announced) | (Self::Early, Presence::Early) => true,
            (Self::Early | Self::Announced, Presence::Audience) | (Self::Announced, Presence::Early) => false,
        }
    }
}
