//! Who may connect to which chat, and how often (stream API, 8.1).

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use crate::access::{Access, Admitted, Denied};
use crate::auth::AuthError;
use crate::clock::Timestamp;
use crate::config::product::GuestAccess;
use crate::store::chat::ChatRole;
use crate::store::stream::{Stream, StreamId, UserId};
use crate::stream_cache::StreamCache;
use crate::user::{Caller, User};

use super::refusal::ConnectRefusal;
use super::room::Member;

/// Finds the user of a token.
pub type Verify =
    Arc<dyn Fn(String, Timestamp) -> Pin<Box<dyn Future<Output = Result<User, AuthError>> + Send>> + Send + Sync>;

/// Why somebody may not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAdmitted {
    /// What the client is sent.
    pub code: ConnectRefusal,
    /// Why the token was refused, if it was.
    pub token: Option<AuthError>,
}

impl From<ConnectRefusal> for NotAdmitted {
    fn from(code: ConnectRefusal) -> Self {
        Self { code, token: None }
    }
}

impl From<Denied> for ConnectRefusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::FeatureDisabled => Self::FeatureDisabled,
            Denied::Banned => Self::Banned,
        }
    }
}

impl From<AuthError> for NotAdmitted {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::Unauthenticated(_) => ConnectRefusal::Unauthenticated,
            AuthError::Expired => ConnectRefusal::TokenExpired,
            // Clients try again by themselves.
            AuthError::KeysUnavailable => ConnectRefusal::ServerBusy,
        };
        Self { code, token: Some(error) }
    }
}

pub(crate) struct Admission {
    pub verify: Verify,
    pub access: Access,
    pub cache: StreamCache,
    pub guest: GuestAccess,
    pub per_user: u32,
    pub per_connection: u32,
    /// Sockets of a user in a room.
    pub users: Quotas<(StreamId, UserId)>,
    /// Namespaces of a connection.
    pub connections: Quotas<String>,
}

/// A member, and the places that it takes until it leaves.
pub(crate) struct Seat {
    pub member: Member,
    pub places: Vec<Place>,
}

impl Admission {
    /// # Errors
    /// [`NotAdmitted`]
    pub async fn admit(&self, stream: StreamId, connection: &str, token: Option<String>) -> Result<Seat, NotAdmitted> {
        let feature = self.access.feature().map_err(ConnectRefusal::from)?;
        // Before the token, whose check costs more.
        let place = self.connections.enter(connection.to_owned(), self.per_connection);
        let of_connection = place.ok_or(ConnectRefusal::TooManyConnections)?;
        let Some(token) = token else {
            return Ok(self.admit_guest(stream, of_connection)?);
        };
        let user = (self.verify)(token, Timestamp::now()).await?;
        let caller = Caller { user, request_id: String::new() };
        let admitted = self.access.admit(feature, caller).map_err(ConnectRefusal::from)?;
        // After the token was verified, which waits: the stream may have ended meanwhile, or the user been blocked.
        let stream = self.live_stream(stream)?;
        if stream.blocks(&admitted.user.id) {
            return Err(ConnectRefusal::Blocked.into());
        }
        let of_user = self.users.enter((stream.id, admitted.user.id.clone()), self.per_user);
        let of_user = of_user.ok_or(ConnectRefusal::TooManyConnections)?;
        Ok(Seat { member: member(admitted, &stream), places: vec![of_connection, of_user] })
    }

    fn admit_guest(&self, stream: StreamId, place: Place) -> Result<Seat, ConnectRefusal> {
        let may_write = match self.guest {
            GuestAccess::Off => return Err(ConnectRefusal::Unauthenticated),
            GuestAccess::Read => false,
            GuestAccess::Write => true,
        };
        self.live_stream(stream)?;
        // Not derived from the connection's id: everybody sees the author of a message, and with the id of a polling
        // connection anybody could take it over.
        let user = format!("guest-{}", ulid::Ulid::generate()).parse().map_err(|_| ConnectRefusal::ServerBusy)?;
        let member = Member { user, role: ChatRole::Guest, name: "Guest".into(), may_write, expires_at: None };
        Ok(Seat { member, places: vec![place] })
    }

    /// For clients that were admitted before.
    pub fn is_banned(&self, user: &UserId) -> bool {
        self.access.is_banned(user)
    }

    fn live_stream(&self, id: StreamId) -> Result<Arc<Stream>, ConnectRefusal> {
        self.cache.stream(id).filter(|stream| stream.is_live()).ok_or(ConnectRefusal::StreamNotLive)
    }
}

fn member(admitted: Admitted, stream: &Stream) -> Member {
    let user = admitted.into_caller().user;
    let role = if user.id == stream.owner_id {
        ChatRole::Owner
    } else if user.is_admin() {
        ChatRole::Admin
    } else {
        ChatRole::User
    };
    let name = user.name.unwrap_or_else(|| user.id.as_str().to_owned());
    Member { user: user.id, role, name, may_write: true, expires_at: Some(user.expires_at) }
}

/// Counts by key, each with a bound.
pub(crate) struct Quotas<K>(Arc<Mutex<HashMap<K, u32>>>);

/// One unit of a count, which is given back when this is dropped.
pub(crate) struct Place(Option<Box<dyn FnOnce() + Send + Sync>>);

impl<K> Default for Quotas<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Quotas<K> {
    /// `None`: there are `max` already.
    pub fn enter(&self, key: K, max: u32) -> Option<Place> {
        let mut counts = self.0.lock().expect("no one panics with this lock");
        let count = counts.entry(key.clone()).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        let counts = Arc::clone(&self.0);
        Some(Place(Some(Box::new(move || leave(&counts, &key)))))
    }
}

fn leave<K: Eq + Hash>(counts: &Mutex<HashMap<K, u32>>, key: &K) {
    let mut counts = counts.lock().expect("no one panics with this lock");
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(key);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(leave) = self.0.take() {
            leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::room::tests::live_stream;
    use super::*;
    use crate::auth::Reason;
    use crate::store::moderation::Ban;
    use crate::user::Role;

    fn admission(guest: GuestAccess) -> (Admission, StreamId) {
        let cache = StreamCache::default();
        let mut stream = live_stream();
        let at = Timestamp::from_millis(1);
        let by: UserId = "owner".parse().unwrap();
        stream.blocks.push(crate::store::stream::Block {
            user_id: "blocked".parse().unwrap(),
            blocked_at: at,
            by: by.clone(),
            reason: None,
        });
        let id = stream.id;
        cache.observe(stream, |_| ()).unwrap();
        cache.observe_ban(Ban {
            user_id: "banned".parse().unwrap(),
            reason: String::new(),
            until: None,
            by,
            at,
            lifted_at: None,
        });
        let verify: Verify = Arc::new(|token, now| {
            Box::pin(async move {
                let role = if token == "admin" { Role::Admin } else { Role::User };
                match token.as_str() {
                    "old" => Err(AuthError::Expired),
                    "bad" => Err(Reason::Signature.into()),
                    "early" => Err(AuthError::KeysUnavailable),
                    id => Ok(User { id: id.parse().unwrap(), role, name: None, picture: None, expires_at: now }),
                }
            })
        });
        let (users, connections) = (Quotas::default(), Quotas::default());
        let access = Access::new(cache.clone(), true, Arc::new(Timestamp::now));
        (Admission { verify, access, cache, guest, per_user: 5, per_connection: 20, users, connections }, id)
    }

    async fn refusal(admission: &Admission, stream: StreamId, token: Option<&str>) -> Option<ConnectRefusal> {
        admission.admit(stream, "c", token.map(str::to_owned)).await.err().map(|refused| refused.code)
    }

    #[tokio::test]
    async fn refusals_are_named() {
        let (admission, id) = admission(GuestAccess::Off);
        for (token, expected) in [
            (Some("old"), Some(ConnectRefusal::TokenExpired)),
            (Some("bad"), Some(ConnectRefusal::Unauthenticated)),
            (Some("early"), Some(ConnectRefusal::ServerBusy)),
            (Some("banned"), Some(ConnectRefusal::Banned)),
            (Some("blocked"), Some(ConnectRefusal::Blocked)),
            (None, Some(ConnectRefusal::Unauthenticated)),
            (Some("ana"), None),
        ] {
            assert_eq!(refusal(&admission, id, token).await, expected, "{token:?}");
        }
        let unknown = refusal(&admission, StreamId::generate(), Some("ana")).await;
        assert_eq!(unknown, Some(ConnectRefusal::StreamNotLive));
        let access = Access::new(admission.cache.clone(), false, Arc::new(Timestamp::now));
        let disabled = Admission { access, ..admission };
        assert_eq!(refusal(&disabled, id, Some("ana")).await, Some(ConnectRefusal::FeatureDisabled));
    }

    #[tokio::test]
    async fn roles_come_from_the_stream_and_the_token() {
        let (admission, id) = admission(GuestAccess::Read);
        for (token, role, may_write) in [
            (Some("owner"), ChatRole::Owner, true),
            (Some("admin"), ChatRole::Admin, true),
            (Some("ana"), ChatRole::User, true),
            (None, ChatRole::Guest, false),
        ] {
            let admitted = admission.admit(id, "c", token.map(str::to_owned)).await.ok().unwrap();
            assert_eq!((admitted.member.role, admitted.member.may_write), (role, may_write), "{token:?}");
        }
    }

    #[tokio::test]
    async fn a_guest_is_not_named_after_the_secret_of_its_connection() {
        let (admission, id) = admission(GuestAccess::Write);
        let [one, other] = [(); 2].map(|()| admission.admit(id, "AAAAAAAAAAAAAAAA", None));
        let (one, other) = (one.await.ok().unwrap().member.user, other.await.ok().unwrap().member.user);

        assert!(one.as_str().starts_with("guest-") && one != other, "{one}");
        assert!(!one.as_str().contains("AAAAAAAAAAAAAAAA"), "{one}");
    }

    #[tokio::test]
    async fn a_banned_user_who_got_in_before_is_not_let_stay() {
        let (admission, _) = admission(GuestAccess::Read);
        let [ana, banned] = ["ana", "banned"].map(|user| user.parse::<UserId>().unwrap());

        assert!(!admission.is_banned(&ana) && admission.is_banned(&banned));
    }

    #[tokio::test]
    async fn a_user_has_five_sockets_in_a_room_and_a_connection_twenty_namespaces() {
        let (admission, id) = admission(GuestAccess::Read);
        let mut places = Vec::new();
        for n in 0..5 {
            places.push(admission.admit(id, &format!("c{n}"), Some("ana".into())).await.ok().unwrap());
        }
        assert_eq!(refusal(&admission, id, Some("ana")).await, Some(ConnectRefusal::TooManyConnections));
        places.pop();
        assert_eq!(refusal(&admission, id, Some("ana")).await, None);

        for _ in 0..20 {
            places.push(admission.admit(id, "one", None).await.ok().unwrap());
        }
        let refused = admission.admit(id, "one", None).await.err();
        assert_eq!(refused, Some(ConnectRefusal::TooManyConnections.into()));
        drop(places);
        assert!(admission.users.0.lock().unwrap().is_empty());
        assert!(admission.connections.0.lock().unwrap().is_empty());
    }
}
