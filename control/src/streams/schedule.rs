//! Scheduled streams, and changes of what is shown (stream API, sections 4.7 and 9).

use std::sync::Arc;
use std::time::Duration;

use super::once::{Once, Turn};
use super::{SCHEDULED_MAX, START_LATE, ScheduleRequest, Streams};
use crate::access::{Admitted, FeatureEnabled};
use crate::clock::Timestamp;
use crate::lifecycle::Counters;
use crate::problem::{Code, Problem};
use crate::store::stream::{Edit, Stream, StreamFilter, StreamId, StreamOrder, StreamState, Transition};
use crate::store::{CreateError, StoreError, Taken};
use crate::user::User;

/// Streams that one user schedules within [`SCHEDULES_WINDOW`]: those that were called off stay in the store.
const SCHEDULES_MAX: u32 = 2 * SCHEDULED_MAX;

const SCHEDULES_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Streams that are looked at in one go when late ones are cancelled.
const EXPIRY_PAGE: usize = 100;

/// The states in which what is shown can be changed.
const EDITABLE: [StreamState; 4] =
    [StreamState::Scheduled, StreamState::Starting, StreamState::Live, StreamState::Reconnecting];

impl Streams {
    /// Plans a stream.
    ///
    /// # Errors
    /// `conflict` when too many are scheduled, `rate_limited` when too many were within a day,
    /// `idempotency_key_reused`, `store_unavailable`.
    pub async fn schedule(&self, admitted: &Admitted, request: ScheduleRequest) -> Result<Arc<Stream>, Problem> {
        let (streams, user) = (self.clone(), admitted.user.clone());
        self.lifecycle().to_the_end(async move { streams.schedule_once(user, request).await }).await
    }

    async fn schedule_once(&self, user: User, mut request: ScheduleRequest) -> Result<Arc<Stream>, Problem> {
        let key = request.idempotency_key.take();
        match Once::open::<StreamId>(&self.0.store, &user.id, "scheduled", (key, &request.body_digest), self.now())
            .await?
        {
            Turn::Repeat(id) => self.stream(id).await,
            Turn::First(once) => {
                let result = match request.refusal.take() {
                    Some(refusal) => Err(refusal),
                    None => self.schedule_now(&user, request).await,
                };
                once.close(&self.0.store, &result, |stream| stream.id).await;
                result
            }
        }
    }

    async fn schedule_now(&self, user: &User, request: ScheduleRequest) -> Result<Arc<Stream>, Problem> {
        let _turn = self.owner_lock(&user.id).lock().await;
        if self.0.store.count_scheduled(&user.id).await? >= SCHEDULED_MAX {
            return Err(Problem::new(
                Code::Conflict,
                format!("You have {SCHEDULED_MAX} scheduled streams already; cancel one first."),
            ));
        }
        let now = self.now();
        let key = format!("schedules:{}", user.id);
        if !user.is_admin()
            && let Taken::Refused { until } =
                self.0.store.limit_take(&key, SCHEDULES_MAX, SCHEDULES_WINDOW, now).await?
        {
            let detail = format!("You scheduled {SCHEDULES_MAX} streams within a day; edit one of them, or wait.");
            return Err(Problem::new(Code::RateLimited, detail).retry_after(until.since(now)));
        }
        let stream = Stream {
            state: StreamState::Scheduled,
            title: Some(request.title.into()),
            tags: request.tags.into(),
            cover_url: request.cover_url.map(String::from),
            scheduled_for: Some(request.scheduled_for),
            visibility: request.visibility,
            ..blank(user, now)
        };
        self.0.store.create(&stream).await.map_err(|error| match error {
            CreateError::Store(error) => Problem::from(error),
            other @ (CreateError::OwnerAlreadyLive | CreateError::RoomTaken | CreateError::NotScheduled(_)) => {
                Problem::from(StoreError::Failed(other.to_string()))
            }
        })?;
        Counters::add(&self.lifecycle().counters().scheduled);
        Ok(self.lifecycle().observe(stream))
    }

    /// Cancels a scheduled stream of the caller's. Twice is as good as once.
    ///
    /// # Errors
    /// `stream_not_found`, `not_owner`, `conflict` once it was started, `store_unavailable`.
    pub async fn cancel(&self, _: FeatureEnabled, user: &User, id: StreamId) -> Result<Arc<Stream>, Problem> {
        let (streams, user) = (self.clone(), user.clone());
        self.lifecycle()
            .to_the_end(async move {
                streams.own_stream(&user, id).await?;
                let stream = streams.cancel_scheduled(id).await?;
                match stream.state {
                    StreamState::Cancelled => Ok(stream),
                    StreamState::Scheduled
                    | StreamState::Starting
                    | StreamState::Live
                    | StreamState::Reconnecting
                    | StreamState::Ended => {
                        Err(Problem::new(Code::Conflict, "This stream was started; stop it instead."))
                    }
                }
            })
            .await
    }

    async fn cancel_scheduled(&self, id: StreamId) -> Result<Arc<Stream>, StoreError> {
        let transition = Transition {
            from: vec![StreamState::Scheduled],
            to: StreamState::Cancelled,
            at: self.now(),
            end_reason: None,
            room_sid: None,
        };
        let outcome = self.0.store.transition(id, &transition).await?;
        if outcome.changed() {
            Counters::add(&self.lifecycle().counters().cancelled);
        }
        Ok(self.lifecycle().observe(outcome.into_stream()))
    }

    /// Changes what is shown of a stream of the caller's.
    ///
    /// # Errors
    /// `stream_not_found`, `not_owner`, `stream_ended`, `store_unavailable`.
    pub async fn edit(&self, _: FeatureEnabled, user: &User, id: StreamId, edit: Edit) -> Result<Arc<Stream>, Problem> {
        let (streams, user) = (self.clone(), user.clone());
        self.lifecycle()
            .to_the_end(async move {
                streams.own_stream(&user, id).await?;
                let outcome = streams.0.store.edit(id, &edit, &EDITABLE, streams.now()).await?;
                let stream = streams.lifecycle().observe(outcome.into_stream());
                match EDITABLE.contains(&stream.state) {
                    true => Ok(stream),
                    false => Err(Problem::new(Code::StreamEnded, "This stream is over and stays as it is.")),
                }
            })
            .await
    }

    /// Cancels scheduled streams whose time is long past.
    pub(crate) async fn expire_scheduled(&self) -> Result<(), StoreError> {
        let filter = StreamFilter { states: vec![StreamState::Scheduled], ..StreamFilter::default() };
        loop {
            let page = self.0.store.streams(&filter, StreamOrder::SoonestFirst, None, EXPIRY_PAGE).await?;
            let before = self.now().minus(START_LATE);
            let late: Vec<StreamId> = page
                .iter()
                .filter(|stream| stream.scheduled_for.is_some_and(|at| at <= before))
                .map(|stream| stream.id)
                .collect();
            for &id in &late {
                self.cancel_scheduled(id).await?;
            }
            if late.len() < EXPIRY_PAGE {
                return Ok(());
            }
        }
    }
}

/// A stream of this user, of which nothing is known yet.
pub(super) fn blank(user: &User, now: Timestamp) -> Stream {
    Stream { owner_profile: user.profile(), ..Stream::new(user.id.clone(), now) }
}
