//! The door to rooms: this process's own, or those of an external LiveKit-compatible server through its server API.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::store::stream::UserId;

/// Who somebody is in a room, written into the attributes of the token (`app.userId`, `app.role`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomRole {
    Publisher,
    Viewer,
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
    /// called us (`http://host:port`).
    fn url(&self, called: Option<&str>) -> String;

    /// Returns the `sid`. An existing room is as good.
    async fn create(&self, room: &str) -> Result<String, RoomsError>;

    async fn delete(&self, room: &str) -> Result<(), RoomsError>;

    /// Rooms of ours are named `live_…`; others are listed too.
    async fn list(&self) -> Result<Vec<RoomInfo>, RoomsError>;

    async fn sessions(&self, room: &str) -> Result<Vec<Session>, RoomsError>;

    async fn remove(&self, room: &str, identity: &str) -> Result<(), RoomsError>;
}
