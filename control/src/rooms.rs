//! Access to rooms: this process's own, or those of an external LiveKit-compatible server through its server API.

pub mod builtin;
pub mod event;
pub mod external;
pub(crate) mod name;
mod session;
mod token;

use std::time::Duration;

use async_trait::async_trait;
use signaling::event::RoomEvent;
use tokio::sync::broadcast;

use crate::clock::Timestamp;
use crate::store::stream::UserId;

pub use builtin::{Builtin, admission};
pub use external::External;
pub(crate) use session::{SessionClaims, is_owners, joined_at, presence_of, session_of, session_to_be, user_of};
pub use token::TokenSigner;

/// Attributes of tokens and participants that say who somebody is for us.
pub const USER_ATTRIBUTE: &str = "app.userId";
pub const ROLE_ATTRIBUTE: &str = "app.role";

/// Who somebody is in a room, written into the attributes of the token (`app.userId`, `app.role`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomRole {
    Publisher,
    Viewer,
}

impl RoomRole {
    pub fn name(self) -> &'static str {
        match self {
            RoomRole::Publisher => "publisher",
            RoomRole::Viewer => "viewer",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        match name {
            "publisher" => Some(RoomRole::Publisher),
            "viewer" => Some(RoomRole::Viewer),
            _ => None,
        }
    }
}

/// How long rooms of ours stay without participants. Longer than streams wait, so that the stream decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomTimes {
    /// Before the first one.
    pub empty: Duration,
    /// After the last one.
    pub departure: Duration,
}

impl RoomTimes {
    /// What a room stays longer than its stream waits.
    const MARGIN: Duration = Duration::from_secs(300);

    pub fn of(config: &crate::config::product::Live) -> Self {
        let after = |seconds: u32| Duration::from_secs(seconds.into()) + Self::MARGIN;
        Self { empty: after(config.start_timeout), departure: after(config.reconnect_window) }
    }
}

/// What a token for a room says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub room: String,
    pub identity: String,
    pub name: Option<String>,
    pub user: UserId,
    pub role: RoomRole,
    pub may_publish: bool,
    pub may_publish_data: bool,
    pub life: Duration,
}

/// A session in a room, as the SFU tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub sid: String,
    pub identity: String,
    /// Of the attributes, else of the identity before its last `:`.
    pub user: Option<UserId>,
    pub role: Option<RoomRole>,
    /// A person's client: neither agent, egress, ingress nor SIP.
    pub standard: bool,
    pub hidden: bool,
    pub recorder: bool,
    pub joined_at: Timestamp,
    /// Connected, not only admitted: what webhooks call joined.
    pub active: bool,
    /// Publishes something.
    pub publishes: bool,
}

/// A room, as the SFU lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomInfo {
    pub name: String,
    pub sid: String,
}

/// The SFU did not do it, or not in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoomsError {
    #[error("there is no such room or participant")]
    NotFound,
    /// For the log.
    #[error("the media server is not available: {0}")]
    Unavailable(String),
}

/// What streams need of a media server.
#[async_trait]
pub trait RoomDoor: Send + Sync + 'static {
    /// Signs a token with the SFU's key; when it expires.
    fn token(&self, request: &TokenRequest, now: Timestamp) -> (String, Timestamp);

    /// What an app connects to, `ws://…` or `wss://…`. `called` is the scheme and authority under which the client
    /// called us (`http://host:port`). `None`: it takes these, and they are not known.
    fn url(&self, called: Option<&str>) -> Option<String>;

    /// Returns the `sid`. An existing room is as good.
    async fn create(&self, room: &str) -> Result<String, RoomsError>;

    async fn delete(&self, room: &str) -> Result<(), RoomsError>;

    /// Those of these names that exist; without names all, also rooms that are not ours.
    async fn list(&self, names: &[String]) -> Result<Vec<RoomInfo>, RoomsError>;

    /// Empty for a room that does not exist.
    async fn sessions(&self, room: &str) -> Result<Vec<Session>, RoomsError>;

    async fn remove(&self, room: &str, identity: &str) -> Result<(), RoomsError>;

    /// Whether the rooms are this process's own, so that other nodes have others.
    fn is_local(&self) -> bool {
        false
    }

    /// What happens in rooms of this process, from now on. Rooms elsewhere tell by webhooks.
    fn events(&self) -> Option<broadcast::Receiver<RoomEvent>> {
        None
    }
}
