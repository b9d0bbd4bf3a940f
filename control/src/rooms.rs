//! Access to rooms: this process's own, or those of an external LiveKit-compatible server through its server API.

pub mod builtin;
pub mod event;
pub mod external;
pub(crate) mod name;
mod session;
mod token;

use async_trait::async_trait;
use signaling::event::RoomEvent;
use tokio::sync::broadcast;

use crate::clock::Timestamp;

pub use session::{ROLE_ATTRIBUTE, RoomRole, Session, USER_ATTRIBUTE};
pub(crate) use session::{SessionClaims, is_owners, joined_at, presence_of, session_of, session_to_be, user_of};
pub use token::{RoomTimes, TokenRequest, TokenSigner};

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
pub trait RoomBackend: Send + Sync + 'static {
    /// Signs a token with the SFU's key; when it expires.
    fn token(&self, request: &TokenRequest, now: Timestamp) -> (String, Timestamp);

    /// What an app connects to, `ws://…` or `wss://…`. `called` is the scheme and authority under which the client
    /// called us (`http://host:port`). `None`: the URL is to be made from `called`, which is absent.
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
