//! The life of a stream: start, watch, stop, end, and what follows from each change (stream API, sections 3, 4, 9).
//!
//! Every change is one conditional write to the store; whoever loses a race answers from what it finds. Effects on chat
//! and rooms are derived from the change in [`Streams::observe`], on every node alike.

use std::sync::Arc;

use crate::chat::Chat;
use crate::clock::Timestamp;
use crate::config::product;
use crate::live::Live;
use crate::problem::Problem;
use crate::rooms::RoomDoor;
use crate::store::SharedStore;
use crate::store::chat::ChatSettings;
use crate::store::stream::{Edit, EndReason, Stream, StreamId, Visibility};
use crate::user::{Caller, User};

/// What to do when the caller is live already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    #[default]
    Resume,
    Replace,
    Reject,
}

/// Validated (see `http`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StartRequest {
    pub title: Option<String>,
    pub tags: Vec<String>,
    pub cover_url: Option<String>,
    /// A scheduled stream of the caller's.
    pub stream_id: Option<StreamId>,
    pub on_conflict: OnConflict,
    pub idempotency_key: Option<String>,
    /// Of the body, for the idempotency key.
    pub body_digest: String,
    /// Scheme and authority under which the client called.
    pub called: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    pub stream: Arc<Stream>,
    pub token: String,
    pub token_expires_at: Timestamp,
    pub url: String,
    pub resumed: bool,
    /// 201, else 200. A repeated request with the same idempotency key answers as the first.
    pub created: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub stream: Arc<Stream>,
    pub already_ended: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Watching {
    pub stream: Arc<Stream>,
    pub token: String,
    pub token_expires_at: Timestamp,
    pub url: String,
    pub chat_settings: ChatSettings,
}

/// Validated (see `http`).
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRequest {
    pub title: String,
    pub tags: Vec<String>,
    pub cover_url: Option<String>,
    pub scheduled_for: Timestamp,
    pub visibility: Visibility,
    pub idempotency_key: Option<String>,
    pub body_digest: String,
}

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Parts>);

/// What streams are made of.
pub struct Parts {
    pub config: product::Live,
    pub store: SharedStore,
    pub live: Live,
    pub rooms: Arc<dyn RoomDoor>,
    pub chat: Chat,
}

impl Streams {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub fn live(&self) -> &Live {
        &self.0.live
    }

    pub fn store(&self) -> &SharedStore {
        &self.0.store
    }

    pub fn chat(&self) -> &Chat {
        &self.0.chat
    }
}
