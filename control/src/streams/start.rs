//! Starting a stream (stream API, section 4.1): a document first, then its room; whoever loses a race resumes.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::once::{Once, Turn};
use super::schedule::blank;
use super::{OnConflict, START_EARLY, START_LATE, StartRequest, Started, Streams, sfu_unavailable};
use crate::access::{Admitted, Denied};
use crate::clock::Timestamp;
use crate::lifecycle::Counters;
use crate::problem::{Code, Problem};
use crate::rooms::name::room_name;
use crate::rooms::{RoomRole, TokenRequest};
use crate::store::stream::{
    Block, Edit, EndReason, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState, UserId,
};
use crate::store::{CreateError, StoreError, Taken};
use crate::user::User;

/// How long a publisher's token lasts; the SFU gives its client newer ones while it is connected.
pub const PUBLISHER_TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Over what time starts are limited.
const STARTS_WINDOW: Duration = Duration::from_secs(3600);

/// How often a start that lost a race to another one looks again.
const RACES_MAX: usize = 4;

/// How often a room name that is taken is raised by a millisecond.
const NAMES_MAX: u64 = 5;

/// Blocks of the owner's own list that are copied into a stream.
const OWNER_BLOCKS_MAX: usize = 10_000;

/// Ends that are looked at for the cool-down, when the last ones were starts that failed here.
const ENDS_LOOKED_AT: usize = 5;

/// What is kept of an answer for repeats.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartAnswer {
    stream_id: StreamId,
    resumed: bool,
    created: bool,
}

/// A stream that the caller has from now on.
struct Begun {
    stream: Arc<Stream>,
    resumed: bool,
}

/// What came of one attempt.
enum Attempt {
    Resumed(Box<Stream>),
    /// Written; the room is still to be made. With the unit of the limit.
    Written(Box<Stream>, Unit),
    /// Another start of the same owner was faster.
    Lost,
}

/// One unit of the start limit, to be given back if the start fails here.
#[derive(Debug, Clone, Copy)]
struct Unit(Option<Timestamp>);

impl Streams {
    /// Starts a stream, or gives the caller the live one back.
    ///
    /// # Errors
    /// `banned` by another node, `conflict`, `stream_not_found` or `not_startable` for a scheduled one, `rate_limited`,
    /// `start_cooldown`, `idempotency_key_reused`, `sfu_unavailable`, `store_unavailable`,
    /// `invalid_parameter` if it is not known under which address the client called and the URL is to be made from
    /// that.
    pub async fn start(&self, admitted: &Admitted, request: StartRequest) -> Result<Started, Problem> {
        // Before anything is written.
        let url = self.url(request.called.as_deref())?;
        let (streams, user) = (self.clone(), admitted.user.clone());
        self.lifecycle().to_the_end(async move { streams.start_once(user, request, url).await }).await
    }

    async fn start_once(&self, user: User, mut request: StartRequest, url: String) -> Result<Started, Problem> {
        // A ban that another node wrote may not be known here yet.
        if let Some(ban) = self.0.store.ban(&user.id).await? {
            let holds = ban.holds(self.now());
            self.lifecycle().observe_ban(ban);
            if holds {
                return Err(Denied::Banned.into());
            }
        }
        let key = request.idempotency_key.take();
        match Once::open::<StartAnswer>(&self.0.store, &user.id, "start", (key, &request.body_digest), self.now())
            .await?
        {
            Turn::Repeat(answer) => {
                let stream = self.stream(answer.stream_id).await?;
                Ok(self.started(&user, url, stream, answer.resumed, answer.created))
            }
            Turn::First(once) => {
                let result = self
                    .start_now(&user, &request)
                    .await
                    .map(|begun| self.started(&user, url, begun.stream, begun.resumed, !begun.resumed));
                once.close(&self.0.store, &result, |started| StartAnswer {
                    stream_id: started.stream.id,
                    resumed: started.resumed,
                    created: started.created,
                })
                .await;
                result
            }
        }
    }

    async fn start_now(&self, user: &User, request: &StartRequest) -> Result<Begun, Problem> {
        for _ in 0..RACES_MAX {
            let attempt = {
                let _turn = self.owner_lock(&user.id).lock().await;
                self.attempt(user, request).await?
            };
            match attempt {
                Attempt::Resumed(stream) => return Ok(self.resume(*stream).await),
                Attempt::Written(stream, unit) => return self.open_room(*stream, unit).await,
                Attempt::Lost => {}
            }
        }
        Err(Problem::new(Code::Conflict, "Several starts of yours race each other; try again in a moment."))
    }

    /// Conflict, limits, document.
    async fn attempt(&self, user: &User, request: &StartRequest) -> Result<Attempt, Problem> {
        let scheduled = match request.stream_id {
            Some(id) => Some(self.own_stream(user, id).await.map_err(hide_others)?),
            None => None,
        };
        let live = self.0.store.live_stream_of(&user.id).await?;
        if let Some(live) = &live {
            // It is over, which the store did not take.
            if self.0.cache.held_end(live.id).is_some() {
                self.lifecycle().store_held().await?;
                return Ok(Attempt::Lost);
            }
            match request.on_conflict {
                OnConflict::Resume => return Ok(Attempt::Resumed(Box::new(live.clone()))),
                OnConflict::Reject => {
                    return Err(Problem::new(Code::Conflict, "You are live already; stop that stream first."));
                }
                OnConflict::Replace => {}
            }
        }
        if let Some(scheduled) = &scheduled {
            require_startable(scheduled, self.now())?;
        }
        let unit = match self.take_unit(user, live.is_some()).await {
            Ok(unit) => unit,
            // The last unit may have gone to a start of the same user on another node: then there is one to resume.
            Err(refused) if live.is_none() => {
                return match self.0.store.live_stream_of(&user.id).await? {
                    Some(_) => Ok(Attempt::Lost),
                    None => Err(refused),
                };
            }
            Err(refused) => return Err(refused),
        };
        let written = self.replace_and_write(user, request, live, scheduled).await;
        match written {
            Ok(Some(stream)) => Ok(Attempt::Written(Box::new(stream), unit)),
            Ok(None) => {
                self.give_back(&user.id, unit).await;
                Ok(Attempt::Lost)
            }
            Err(problem) => {
                self.give_back(&user.id, unit).await;
                Err(problem)
            }
        }
    }

    /// `None`: another start was faster.
    async fn replace_and_write(
        &self,
        user: &User,
        request: &StartRequest,
        live: Option<Stream>,
        scheduled: Option<Stream>,
    ) -> Result<Option<Stream>, Problem> {
        let blocks = self.0.store.owner_blocks(&user.id, OWNER_BLOCKS_MAX).await?;
        if let Some(live) = live {
            self.lifecycle().finish(live.id, &StreamState::LIVE, EndReason::Replaced, None).await?;
        }
        let written = match scheduled {
            Some(scheduled) => self.write_scheduled(user, request, scheduled, blocks).await,
            None => self.write_new(user, request, blocks).await,
        };
        match written {
            Ok(stream) => Ok(Some(stream)),
            Err(CreateError::OwnerAlreadyLive) => Ok(None),
            Err(CreateError::NotScheduled(stream)) => {
                let stream = self.lifecycle().observe(*stream);
                // A live one is ours, started by a request that was faster.
                if stream.is_live() { Ok(None) } else { Err(not_startable(&stream)) }
            }
            Err(CreateError::RoomTaken) => {
                Err(Problem::new(Code::Conflict, "Several starts of yours race each other; try again in a moment."))
            }
            Err(CreateError::Store(error)) => Err(error.into()),
        }
    }

    async fn write_new(&self, user: &User, request: &StartRequest, blocks: Vec<Block>) -> Result<Stream, CreateError> {
        let now = self.now();
        let mut stream = Stream {
            title: request.title.clone().map(String::from),
            cover_url: request.cover_url.clone().map(String::from),
            tags: request.tags.clone().into(),
            blocks,
            started_at: Some(now),
            ..blank(user, now)
        };
        for later in 0..=NAMES_MAX {
            stream.room_name = room_name(&user.id, now.plus(Duration::from_millis(later)));
            match self.0.store.create(&stream).await {
                Err(CreateError::RoomTaken) => {}
                other => return other.map(|()| stream),
            }
        }
        Err(CreateError::RoomTaken)
    }

    async fn write_scheduled(
        &self,
        user: &User,
        request: &StartRequest,
        scheduled: Stream,
        mut blocks: Vec<Block>,
    ) -> Result<Stream, CreateError> {
        let edit = Edit {
            title: request.title.clone().map(|title| Some(title.into())),
            cover_url: request.cover_url.clone().map(|url| Some(url.into())),
            tags: (!request.tags.is_empty()).then(|| request.tags.clone().into()),
        };
        if edit != Edit::default() {
            self.0.store.edit(scheduled.id, &edit, &[StreamState::Scheduled], self.now()).await?;
        }
        blocks.extend(scheduled.blocks);
        blocks.sort_by(|a, b| (&a.user_id, a.blocked_at).cmp(&(&b.user_id, b.blocked_at)));
        blocks.dedup_by(|later, earlier| later.user_id == earlier.user_id);
        let now = self.now();
        for later in 0..=NAMES_MAX {
            let start = StartScheduled {
                room_name: room_name(&user.id, now.plus(Duration::from_millis(later))),
                owner_profile: user.profile(),
                blocks: blocks.clone(),
                at: now,
            };
            match self.0.store.start_scheduled(scheduled.id, &start).await {
                Err(CreateError::RoomTaken) => {}
                other => return other,
            }
        }
        Err(CreateError::RoomTaken)
    }

    // ---- limits

    async fn take_unit(&self, user: &User, replaces: bool) -> Result<Unit, Problem> {
        if user.is_admin() {
            return Ok(Unit(None));
        }
        let now = self.now();
        // What is replaced was live a moment ago; the pause is between streams.
        if !replaces {
            self.require_cooled_down(user, now).await?;
        }
        let max = self.0.config.starts_per_hour;
        if max == 0 {
            return Ok(Unit(None));
        }
        match self.0.store.limit_take(&limit_key(&user.id), max, STARTS_WINDOW, now).await? {
            Taken::Granted => Ok(Unit(Some(now))),
            Taken::Refused { until } => Err(Problem::new(
                Code::RateLimited,
                format!("You started {max} streams within an hour; wait before the next."),
            )
            .retry_after(until.since(now))),
        }
    }

    async fn require_cooled_down(&self, user: &User, now: Timestamp) -> Result<(), Problem> {
        let pause = Duration::from_secs(self.0.config.start_cooldown.into());
        if pause.is_zero() {
            return Ok(());
        }
        let Some(ended_at) = self.last_end(user).await? else { return Ok(()) };
        let until = ended_at.plus(pause);
        if until <= now || ended_at.is_far_ahead(now) {
            return Ok(());
        }
        Err(Problem::new(Code::StartCooldown, "Your last stream ended a moment ago; wait before the next.")
            .retry_after(until.since(now)))
    }

    async fn last_end(&self, user: &User) -> Result<Option<Timestamp>, StoreError> {
        let Some(last) = self.0.store.last_ended_of(&user.id).await? else { return Ok(None) };
        if !failed_here(&last) {
            return Ok(last.ended_at);
        }
        let filter =
            StreamFilter { owner: Some(user.id.clone()), states: vec![StreamState::Ended], ..StreamFilter::default() };
        let ended = self.0.store.streams(&filter, StreamOrder::NewestFirst, None, ENDS_LOOKED_AT).await?;
        // What was replaced by a start that failed asks for no pause either: that start may be tried again.
        let counts = |stream: &&Stream| {
            let no_pause = [Some(EndReason::NeverStarted), Some(EndReason::Replaced)];
            !failed_here(stream) && !no_pause.contains(&stream.end_reason)
        };
        Ok(ended.iter().filter(counts).filter_map(|stream| stream.ended_at).max())
    }

    async fn give_back(&self, user: &UserId, unit: Unit) {
        let Unit(Some(taken)) = unit else { return };
        if let Err(error) = self.0.store.limit_give_back(&limit_key(user), taken).await {
            tracing::warn!(%error, "a start that failed counts against its user's limit");
        }
    }

    // ---- room and token

    async fn open_room(&self, stream: Stream, unit: Unit) -> Result<Begun, Problem> {
        match self.0.rooms.create(&stream.room_name).await {
            Ok(room_sid) => {
                let id = stream.id;
                let stream = match self.0.store.note_room(id, &room_sid, self.now()).await {
                    Ok(outcome) => outcome.into_stream(),
                    // It is noted when the room tells of itself, or by reconciliation.
                    Err(error) => {
                        tracing::warn!(stream = %id, %error, "a room is not noted yet");
                        stream
                    }
                };
                let stream = self.lifecycle().observe(stream);
                if !stream.is_live() {
                    return Err(Problem::new(Code::Conflict, "The stream was ended while it started."));
                }
                Counters::add(&self.lifecycle().counters().started);
                let (owner, room) = (stream.owner_id.as_str(), stream.room_name.as_str());
                tracing::info!(stream = %id, owner, room, "stream started");
                Ok(Begun { stream, resumed: false })
            }
            Err(error) => {
                let problem = sfu_unavailable(&error);
                let owner = stream.owner_id.clone();
                if let Err(error) =
                    self.lifecycle().finish(stream.id, &StreamState::LIVE, EndReason::ServerLost, None).await
                {
                    tracing::warn!(%error, "a stream without a room ends when its time is over");
                    self.lifecycle().observe(stream);
                }
                self.give_back(&owner, unit).await;
                Err(problem)
            }
        }
    }

    /// The room may be gone with a media server that was restarted.
    async fn resume(&self, stream: Stream) -> Begun {
        let (id, room) = (stream.id, stream.room_name.clone());
        let mut stream = self.lifecycle().observe(stream);
        match self.0.rooms.create(&room).await {
            Ok(room_sid) if stream.room_sid.as_ref() != Some(&room_sid) => {
                match self.0.store.note_room(id, &room_sid, self.now()).await {
                    Ok(outcome) => stream = self.lifecycle().observe(outcome.into_stream()),
                    Err(error) => tracing::warn!(stream = %id, %error, "a room is not noted yet"),
                }
            }
            Ok(_) => {}
            // The token is good all the same, and may make the room.
            Err(error) => tracing::warn!(stream = %id, %error, "a stream is resumed without asking for its room"),
        }
        Counters::add(&self.lifecycle().counters().resumed);
        tracing::info!(stream = %id, owner = stream.owner_id.as_str(), room, "stream resumed");
        Begun { stream, resumed: true }
    }

    fn started(&self, user: &User, url: String, stream: Arc<Stream>, resumed: bool, created: bool) -> Started {
        let token = TokenRequest {
            room: stream.room_name.clone(),
            identity: user.id.to_string(),
            name: user.name.clone(),
            user: user.id.clone(),
            role: RoomRole::Publisher,
            may_publish: true,
            may_publish_data: true,
            life: PUBLISHER_TOKEN_LIFE,
        };
        let (token, token_expires_at) = self.0.rooms.token(&token, self.now());
        Started { stream, token, token_expires_at, url, resumed, created }
    }
}

/// A start that the media server refused: no room was ever noted.
fn failed_here(stream: &Stream) -> bool {
    stream.end_reason == Some(EndReason::ServerLost) && stream.room_sid.is_none()
}

fn limit_key(user: &UserId) -> String {
    format!("start:{user}")
}

/// Scheduled streams of others do not exist for the caller.
fn hide_others(problem: Problem) -> Problem {
    if problem.code == Code::NotOwner { Problem::stream_not_found() } else { problem }
}

fn require_startable(stream: &Stream, now: Timestamp) -> Result<(), Problem> {
    if stream.state != StreamState::Scheduled {
        return Err(not_startable(stream));
    }
    let Some(at) = stream.scheduled_for else { return Ok(()) };
    if now < at.minus(START_EARLY) {
        let minutes = START_EARLY.as_secs() / 60;
        return Err(Problem::new(
            Code::NotStartable,
            format!("This stream is scheduled for {at}; it can start from {minutes} minutes before."),
        ));
    }
    if now >= at.plus(START_LATE) {
        return Err(Problem::new(Code::NotStartable, "The time of this stream is past; start a new one."));
    }
    Ok(())
}

fn not_startable(stream: &Stream) -> Problem {
    let detail = match stream.state {
        StreamState::Cancelled => "This stream was cancelled; start a new one.",
        StreamState::Ended => "This stream is over; start a new one.",
        StreamState::Scheduled | StreamState::Starting | StreamState::Live | StreamState::Reconnecting => {
            "This stream cannot be started now."
        }
    };
    Problem::new(Code::NotStartable, detail)
}
