//! Reading streams, and tokens for viewers. Both are answered from memory where this node knows the stream, so they go
//! on while the store is away.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;

use super::{Streams, Watching};
use crate::access::Admitted;
use crate::lifecycle::Counters;
use crate::problem::{Code, Problem};
use crate::rooms::{RoomRole, TokenRequest};
use crate::store::stream::{Stream, StreamId, StreamState};
use crate::user::User;

/// How long a viewer's token lasts: enough to connect.
pub const VIEWER_TOKEN_LIFE: Duration = Duration::from_secs(600);

/// What follows the user id in a viewer's identity, so that one user can watch on two devices.
const IDENTITY_SUFFIX_CHARS: usize = 8;

impl Streams {
    /// The newest copy known: this node's, else the store's. A live one that another node has just started is known
    /// here from then on, so that whoever is told of it finds its chat open.
    ///
    /// # Errors
    /// `stream_not_found`, `store_unavailable`.
    pub async fn stream(&self, id: StreamId) -> Result<Arc<Stream>, Problem> {
        if let Some(stream) = self.0.cache.stream(id) {
            return Ok(stream);
        }
        let stream = self.0.store.stream(id).await?.ok_or_else(Problem::stream_not_found)?;
        Ok(if stream.is_live() { self.lifecycle().observe(stream) } else { Arc::new(stream) })
    }

    /// A token to watch with.
    ///
    /// # Errors
    /// `stream_not_found`, `blocked`, `stream_ended`, `conflict` for one that was not started, `stream_full`,
    /// `store_unavailable`, `invalid_parameter` if it is not known under which address the client called and the URL is
    /// to be made from that.
    pub async fn watch(&self, admitted: &Admitted, id: StreamId, called: Option<&str>) -> Result<Watching, Problem> {
        let user = &admitted.user;
        let stream = self.stream(id).await?;
        self.require_watchable(&stream, user)?;
        self.require_place(&stream, user).await?;
        let now = self.now();
        let (token, token_expires_at) = self.0.rooms.token(&self.viewer_token(&stream, user), now);
        Counters::add(&self.lifecycle().counters().watch_tokens);
        Ok(Watching {
            token,
            token_expires_at,
            url: self.url(called)?,
            chat_settings: stream.chat_settings.clone(),
            stream,
        })
    }

    fn require_watchable(&self, stream: &Stream, user: &User) -> Result<(), Problem> {
        if !stream.is_visible_to(Some(&user.id)) {
            return Err(Problem::stream_not_found());
        }
        if stream.blocks(&user.id) {
            return Err(Problem::new(Code::Blocked, "You can't watch this stream."));
        }
        match stream.state {
            StreamState::Scheduled => Err(Problem::new(Code::Conflict, "This stream has not started yet.")),
            StreamState::Ended | StreamState::Cancelled => Err(Problem::new(Code::StreamEnded, "This stream is over.")),
            StreamState::Starting | StreamState::Live | StreamState::Reconnecting => Ok(()),
        }
    }

    /// Who is counted already takes no other place: a second device, or an app that was started anew. Without the store
    /// nobody can tell.
    async fn require_place(&self, stream: &Stream, user: &User) -> Result<(), Problem> {
        let max = self.0.config.max_viewers;
        if max == 0 || stream.viewers < max || stream.owner_id == user.id {
            return Ok(());
        }
        match self.0.store.presence_of(stream.id, &user.id).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => {
                Err(Problem::new(Code::StreamFull, "This stream has no free place; try again later."))
            }
        }
    }

    fn viewer_token(&self, stream: &Stream, user: &User) -> TokenRequest {
        TokenRequest {
            room: stream.room_name.clone(),
            identity: format!("{}:{}", user.id, identity_suffix()),
            name: user.name.clone(),
            user: user.id.clone(),
            role: RoomRole::Viewer,
            may_publish: false,
            may_publish_data: self.0.config.viewer_data,
            life: VIEWER_TOKEN_LIFE,
        }
    }
}

fn identity_suffix() -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rng = rand::rng();
    (0..IDENTITY_SUFFIX_CHARS).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}
