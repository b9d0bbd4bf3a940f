//! Rooms of this process, and who may join those of streams.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use shared::rate::Buckets;
use signaling::event::RoomEvent;
use signaling::http::Admit;
use signaling::join::JoinError;
use signaling::room::error::ApiError;
use signaling::rooms::Rooms;
use signaling::token::Grants;
use tokio::sync::broadcast;

use super::name::{PREFIX, named_at};
use super::{
    ROLE_ATTRIBUTE, RoomBackend, RoomInfo, RoomRole, RoomsError, Session, TokenRequest, TokenSigner, presence_of,
    session_of, session_to_be, user_of,
};
use crate::clock::Timestamp;
use crate::store::presence::Presence;
use crate::store::stream::Stream;
use crate::stream_cache::StreamCache;

/// How long a stream that another node started may not be known here: changes are looked for twice a second, and clocks
/// differ.
const UNSEEN_MAX: Duration = Duration::from_secs(10);

/// How often one user joins streams, under whatever identities: so often at once, then once more after each
/// [`USER_JOINS_REFILL`]. Each join that comes through leaves a record of presence in the store.
const USER_JOINS_BURST: u32 = 120;
const USER_JOINS_REFILL: Duration = Duration::from_secs(1);
/// Users whose joins are counted.
const USERS_MAX: usize = 100_000;

/// The rooms of this process.
pub struct Builtin {
    rooms: Rooms,
    signer: TokenSigner,
    public_url: Option<String>,
}

impl Builtin {
    /// Without a `public_url` apps are given the address under which they called.
    pub fn new(rooms: Rooms, signer: TokenSigner, public_url: Option<String>) -> Self {
        Self { rooms, signer, public_url: public_url.filter(|url| !url.is_empty()) }
    }
}

#[async_trait]
impl RoomBackend for Builtin {
    fn token(&self, request: &TokenRequest, now: Timestamp) -> (String, Timestamp) {
        self.signer.join(request, now)
    }

    fn url(&self, called: Option<&str>) -> Option<String> {
        self.public_url.as_deref().or(called).map(websocket_url)
    }

    async fn create(&self, room: &str) -> Result<String, RoomsError> {
        let request = self.signer.times().request(room);
        Ok(self.rooms.create_room(request).await?.sid)
    }

    async fn delete(&self, room: &str) -> Result<(), RoomsError> {
        Ok(self.rooms.delete_room(room).await?)
    }

    async fn list(&self, names: &[String]) -> Result<Vec<RoomInfo>, RoomsError> {
        let rooms = self.rooms.list_rooms(names).await;
        Ok(rooms.into_iter().map(|room| RoomInfo { name: room.name, sid: room.sid }).collect())
    }

    async fn sessions(&self, room: &str) -> Result<Vec<Session>, RoomsError> {
        Ok(self.rooms.list_participants(room).await.iter().map(session_of).collect())
    }

    async fn remove(&self, room: &str, identity: &str) -> Result<(), RoomsError> {
        Ok(self.rooms.remove_participant(room, identity).await?)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn events(&self) -> Option<broadcast::Receiver<RoomEvent>> {
        Some(self.rooms.events())
    }
}

impl From<ApiError> for RoomsError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NotFound(_) => RoomsError::NotFound,
            ApiError::InvalidArgument(cause) | ApiError::FailedPrecondition(cause) | ApiError::Unavailable(cause) => {
                RoomsError::Unavailable(cause)
            }
        }
    }
}

/// `ws` for `http`, `wss` for `https`; no slash at the end.
pub(super) fn websocket_url(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}"),
        Some(("https", rest)) => format!("wss://{rest}"),
        Some(_) | None => url.to_owned(),
    }
}

/// Who may join the rooms of streams. Reads memory only.
///
/// Refuses blocked and banned users, and rooms of streams that are over; until it is `known` who is blocked and banned,
/// everybody. From then on all live streams are known, so a token of ours for a room without a stream is for one that
/// is over. All other rooms are admitted, such as those of an app that makes tokens by itself. A user who joined too
/// often waits ([`USER_JOINS_BURST`]), and one who would be the first beyond `max_viewers` (0: no bound) is refused.
pub fn admission(
    cache: StreamCache,
    max_viewers: u32,
    known: impl Fn() -> bool + Send + Sync + 'static,
    now: impl Fn() -> Timestamp + Send + Sync + 'static,
) -> Admit {
    let joins = Mutex::new(Buckets::new(USER_JOINS_BURST, USER_JOINS_REFILL, USERS_MAX));
    Arc::new(move |grants: &Grants| {
        if grants.video.room.starts_with(PREFIX) && !known() {
            return Err(JoinError::NotYet("the server is starting: try again in a moment".into()));
        }
        admit(&cache, now(), grants)?;
        let Some(stream) = cache.of_room(&grants.video.room) else { return Ok(()) };
        if let Some(user) = user_of(grants.identity.as_str(), &grants.attributes) {
            joins
                .lock()
                .expect("no one panics with this lock")
                .take(user, Instant::now())
                .map_err(|_| JoinError::NotYet("you have joined streams too often: try again in a moment".into()))?;
        }
        take_place(&cache, &stream, max_viewers, presence_of(&stream, &session_to_be(grants, now())))
    })
}

/// Who is no viewer takes no place. Last of all, so that nobody takes one who is refused.
fn take_place(cache: &StreamCache, stream: &Stream, max: u32, viewer: Presence) -> Result<(), JoinError> {
    match max == 0 || !viewer.counts || cache.places().take(stream, viewer.user_id, max, Instant::now()) {
        true => Ok(()),
        false => Err(JoinError::Forbidden("this stream has no free place: try again later".into())),
    }
}

fn admit(cache: &StreamCache, now: Timestamp, grants: &Grants) -> Result<(), JoinError> {
    let never = |reason: &'static str| Err(JoinError::Forbidden(reason.into()));
    let room = grants.video.room.as_str();
    let Some(stream) = cache.of_room(room) else {
        let is_ours = grants.attributes.get(ROLE_ATTRIBUTE).is_some_and(|role| RoomRole::named(role).is_some());
        return match named_at(room).filter(|_| is_ours) {
            None => Ok(()),
            Some(at) if now < at.plus(UNSEEN_MAX) => {
                Err(JoinError::NotYet("this stream is not known here yet: try again in a moment".into()))
            }
            Some(_) => never("this stream is over"),
        };
    };
    if !stream.is_live() {
        return never("this stream is over");
    }
    match user_of(grants.identity.as_str(), &grants.attributes) {
        Some(user) if cache.ban(&user, now).is_some() => never("you are banned from this service"),
        Some(user) if stream.blocks(&user) => never("you can't watch this stream"),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use livekit_protocol as proto;
    use signaling::token::VideoGrant;

    use super::*;
    use crate::store::moderation::Ban;
    use crate::store::stream::{Block, UserId};

    fn grants(room: &str) -> Grants {
        Grants {
            identity: "ana".parse().unwrap(),
            name: String::new(),
            metadata: String::new(),
            attributes: [(ROLE_ATTRIBUTE.to_owned(), RoomRole::Publisher.name().to_owned())].into(),
            kind: proto::participant_info::Kind::Standard,
            kind_details: Vec::new(),
            video: VideoGrant { room_join: true, room: room.into(), ..VideoGrant::default() },
            room_preset: String::new(),
            room_config: None,
            expires_at: std::time::SystemTime::UNIX_EPOCH,
            not_before: None,
            api_key: "key".into(),
        }
    }

    #[test]
    fn rooms_of_streams_are_shut_until_it_is_known_who_is_blocked() {
        let known = Arc::new(AtomicBool::new(false));
        let admit = {
            let known = Arc::clone(&known);
            admission(StreamCache::default(), 0, move || known.load(Ordering::Relaxed), Timestamp::now)
        };

        assert!(matches!(admit(&grants("live_ben_1767323045678")), Err(JoinError::NotYet(_))));
        assert_eq!(admit(&grants("board-meeting")), Ok(()), "a room of no stream");
        known.store(true, Ordering::Relaxed);
        assert!(matches!(admit(&grants("live_ben_1767323045678")), Err(JoinError::Forbidden(_))), "it ended long ago");
    }

    #[test]
    fn who_is_banned_or_blocked_stays_outside_with_any_token() {
        let (cache, now) = (StreamCache::default(), Timestamp::now());
        let ben: UserId = "ben".parse().unwrap();
        let block = Block { user_id: "cy".parse().unwrap(), blocked_at: now, by: ben.clone(), reason: None };
        let stream = Stream { room_name: "live_ben_1".into(), blocks: vec![block], ..Stream::new(ben.clone(), now) };
        cache.observe(stream, |_| ()).unwrap();
        let ban = |user: &str, lifted_at| {
            let user_id = user.parse().unwrap();
            Ban { user_id, reason: "spam".into(), until: None, by: ben.clone(), at: now, lifted_at }
        };
        cache.observe_ban(ban("bad", None));
        cache.observe_ban(ban("better", Some(now)));
        let admit = admission(cache, 0, || true, Timestamp::now);
        let of = |identity: &str, room: &str| admit(&Grants { identity: identity.parse().unwrap(), ..grants(room) });

        for refused in ["bad", "bad:1", "cy", "cy:1"] {
            let answer = of(refused, "live_ben_1");
            assert!(matches!(answer, Err(JoinError::Forbidden(_))), "{refused} is let in: {answer:?}");
        }
        for admitted in ["ana:1", "better:1"] {
            assert_eq!(of(admitted, "live_ben_1"), Ok(()), "{admitted}");
        }
        assert_eq!(of("bad:1", "board-meeting"), Ok(()), "a room of no stream");
    }

    #[test]
    fn a_user_joins_streams_so_often_under_whatever_identities() {
        let cache = StreamCache::default();
        let stream = Stream { room_name: "live_ben_1".into(), ..Stream::new("ben".parse().unwrap(), Timestamp::now()) };
        cache.observe(stream, |_| ()).unwrap();
        let admit = admission(cache, 0, || true, Timestamp::now);
        let of = |user: &str, room: &str, number: usize| {
            let identity = format!("{user}:{number}").parse().unwrap();
            admit(&Grants { identity, ..grants(room) })
        };

        let admitted = (0..10_000).filter(|number| of("ana", "live_ben_1", *number).is_ok()).count();
        assert!((120..1_000).contains(&admitted), "{admitted}");
        assert!(matches!(of("ana", "live_ben_1", 1), Err(JoinError::NotYet(_))));
        assert_eq!(of("cy", "live_ben_1", 1), Ok(()));
        assert_eq!(of("ana", "board-meeting", 1), Ok(()), "a room of no stream");
    }

    #[test]
    fn only_one_viewer_too_many_stays_outside() {
        let cache = StreamCache::default();
        let stream = Stream { room_name: "live_ben_1".into(), ..Stream::new("ben".parse().unwrap(), Timestamp::now()) };
        cache.observe(stream, |_| ()).unwrap();
        let admit = admission(cache, 1, || true, Timestamp::now);
        let viewer = |user: &str| Grants {
            identity: format!("{user}:1").parse().unwrap(),
            attributes: [(ROLE_ATTRIBUTE.to_owned(), RoomRole::Viewer.name().to_owned())].into(),
            ..grants("live_ben_1")
        };
        let with = |video: VideoGrant| Grants { video, ..viewer("cy") };
        let video = viewer("cy").video;

        assert_eq!(admit(&viewer("ana")), Ok(()));
        let others = [
            ("counted already", Grants { identity: "ana:2".parse().unwrap(), ..viewer("ana") }),
            ("the owner", viewer("ben")),
            ("a publisher", grants("live_ben_1")),
            ("hidden", with(VideoGrant { hidden: true, ..video.clone() })),
            ("a recorder", with(VideoGrant { recorder: true, ..video.clone() })),
            ("an agent", Grants { kind: proto::participant_info::Kind::Agent, ..viewer("cy") }),
            ("somewhere else", with(VideoGrant { room: "board-meeting".into(), ..video })),
        ];
        for (who, grants) in others {
            assert_eq!(admit(&grants), Ok(()), "{who}");
        }
        assert!(matches!(admit(&viewer("cy")), Err(JoinError::Forbidden(_))));
    }

    #[test]
    fn a_token_of_ours_for_a_room_without_a_stream_opens_nothing_and_at_first_only_for_a_moment() {
        let started = Timestamp::from_millis(1_767_323_045_678);
        let admit = |room: &str, later: u64| {
            admit(&StreamCache::default(), started.plus(Duration::from_millis(later)), &grants(room))
        };

        assert!(matches!(admit("live_ben_1767323045678", 500), Err(JoinError::NotYet(_))), "another node's");
        assert!(matches!(admit("live_ben_1767323045678", 10_000), Err(JoinError::Forbidden(_))));
        for room in ["live_show_2026", "live_", "live_ben", "board-meeting"] {
            assert_eq!(admit(room, 10_000), Ok(()), "{room} is no stream's");
        }
        let mut of_an_app = grants("live_ben_1767323045678");
        of_an_app.attributes.clear();
        assert_eq!(
            super::admit(&StreamCache::default(), started, &of_an_app),
            Ok(()),
            "an app's own room of such a name"
        );
    }

    #[test]
    fn apps_are_given_websocket_urls() {
        for (url, expected) in
            [("http://h:7880", "ws://h:7880"), ("https://h/", "wss://h"), ("wss://sfu.example", "wss://sfu.example")]
        {
            assert_eq!(websocket_url(url), expected);
        }
    }
}
