//! Streams: a row each, read, changed and written as a whole by the one writer.

use async_trait::async_trait;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _};

use super::Embedded;
use super::list::list;
use super::row::{self, COLUMNS};
use super::value::{Word, violated};
use crate::clock::Timestamp;
use crate::store::stream::{
    Edit, EndReason, Outcome, PageEnd, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState,
    StreamStore, Transition, UserId,
};
use crate::store::{CreateError, Result, StoreError};

#[async_trait]
impl StreamStore for Embedded {
    async fn create(&self, stream: &Stream) -> Result<(), CreateError> {
        let stream = stream.clone();
        self.write(move |connection| {
            if by_id(connection, stream.id)?.is_some() {
                return Ok(());
            }
            row::insert(connection, &stream).map_err(create_error)
        })
        .await
    }

    async fn stream(&self, id: StreamId) -> Result<Option<Stream>> {
        self.read(move |c| by_id(c, id)).await
    }

    async fn stream_of_room(&self, room_name: &str) -> Result<Option<Stream>> {
        let room_name = room_name.to_owned();
        self.read(move |connection| one(connection, "room_name = ?1 AND room_name <> ''", &[&room_name])).await
    }

    async fn live_stream_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        let owner = owner.clone();
        self.read(move |connection| one(connection, "owner_id = ?1 AND is_live = 1", &[&owner])).await
    }

    async fn last_ended_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        let owner = owner.clone();
        self.read(move |connection| {
            let condition =
                "owner_id = ?1 AND state = 'ended' AND end_reason IS NOT ?2 ORDER BY ended_at DESC, id DESC";
            one(connection, condition, &[&owner, &Word(EndReason::NeverStarted)])
        })
        .await
    }

    async fn streams(
        &self,
        filter: &StreamFilter,
        order: StreamOrder,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Stream>> {
        let (filter, after) = (filter.clone(), after.cloned());
        self.read(move |connection| {
            let (key, direction, beyond) = match order {
                StreamOrder::NewestFirst => ("created_at", "DESC", "<"),
                StreamOrder::StartedLast => ("started_at", "DESC", "<"),
                StreamOrder::SoonestFirst => ("scheduled_for", "ASC", ">"),
            };
            let states: Vec<_> = filter.states.iter().copied().map(Word).collect();
            let visibility = filter.visibility.map(Word);
            let mut conditions = vec![format!("{key} IS NOT NULL")];
            let mut values: Vec<&dyn ToSql> = Vec::new();
            if let Some(owner) = &filter.owner {
                values.push(owner);
                conditions.push(format!("owner_id = ?{}", values.len()));
            }
            if is_every_live_state(&filter.states) {
                // The index by `is_live` gives them in order.
                conditions.push("is_live = 1".to_owned());
            } else if !states.is_empty() {
                let first = values.len() + 1;
                values.extend(states.iter().map(|state| state as &dyn ToSql));
                let places: Vec<_> = (first..=values.len()).map(|place| format!("?{place}")).collect();
                conditions.push(format!("state IN ({})", places.join(", ")));
            }
            if let Some(flagged) = &filter.flagged {
                values.push(flagged);
                conditions.push(format!("flagged = ?{}", values.len()));
            }
            if let Some(visibility) = &visibility {
                values.push(visibility);
                conditions.push(format!("visibility = ?{}", values.len()));
            }
            if let Some(after) = &after {
                values.extend([&after.key as &dyn ToSql, &after.id]);
                conditions.push(format!("({key}, id) {beyond} (?{}, ?{})", values.len() - 1, values.len()));
            }
            let sql = format!(
                "SELECT {COLUMNS} FROM streams WHERE {} ORDER BY {key} {direction}, id {direction} LIMIT ?{}",
                conditions.join(" AND "),
                values.len() + 1
            );
            list(connection, "streams", &sql, &values, limit, row::stream)
        })
        .await
    }

    async fn count_scheduled(&self, owner: &UserId) -> Result<u32> {
        let owner = owner.clone();
        self.read(move |connection| {
            let sql = "SELECT count(*) FROM streams INDEXED BY streams_owner_scheduled WHERE owner_id = ?1 AND state = \
                 'scheduled'";
            Ok(connection.prepare_cached(sql)?.query_row([owner], |row| row.get(0))?)
        })
        .await
    }

    async fn streams_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>> {
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM streams WHERE updated_at >= ?1 ORDER BY updated_at, id LIMIT ?2");
            list(connection, "streams", &sql, &[&since], limit, row::stream)
        })
        .await
    }

    async fn transition(&self, id: StreamId, transition: &Transition) -> Result<Outcome> {
        let transition = transition.clone();
        self.write(move |connection| {
            change(connection, id, transition.at, |stream| {
                let final_state = matches!(stream.state, StreamState::Ended | StreamState::Cancelled);
                let other_room = match (&transition.room_sid, &stream.room_sid) {
                    (Some(wanted), Some(noted)) => wanted != noted,
                    (Some(_) | None, None) | (None, Some(_)) => false,
                };
                if final_state
                    || other_room
                    || stream.state == transition.to
                    || !transition.from.contains(&stream.state)
                {
                    return;
                }
                stream.state = transition.to;
                stream.state_since = transition.at;
                if transition.to == StreamState::Ended {
                    stream.ended_at = Some(transition.at);
                    stream.end_reason = transition.end_reason;
                    stream.viewers = 0;
                }
            })
        })
        .await
    }

    async fn start_scheduled(&self, id: StreamId, start: &StartScheduled) -> Result<Stream, CreateError> {
        let start = start.clone();
        self.write(move |connection| {
            let stream = existing(connection, id)?;
            if stream.state != StreamState::Scheduled {
                return Err(CreateError::NotScheduled(Box::new(stream)));
            }
            let started = changed(connection, stream, start.at, |stream| {
                stream.state = StreamState::Starting;
                stream.state_since = start.at;
                stream.started_at = Some(start.at);
                stream.room_name = start.room_name.clone();
                stream.owner_profile = start.owner_profile.clone();
                stream.blocks = start.blocks.clone();
                stream.blocks.sort_by(|a, b| a.user_id.cmp(&b.user_id));
            });
            started.map(Outcome::into_stream).map_err(create_error)
        })
        .await
    }

    async fn note_room(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome> {
        let room_sid = room_sid.to_owned();
        self.write(move |connection| {
            change(connection, id, at, |stream| {
                if stream.is_live() {
                    stream.room_sid = Some(room_sid.to_owned());
                }
            })
        })
        .await
    }

    async fn edit(&self, id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome> {
        let (edit, from) = (edit.clone(), from.to_vec());
        self.write(move |connection| {
            change(connection, id, at, |stream| {
                if !from.contains(&stream.state) {
                    return;
                }
                stream.title = edit.title.unwrap_or_else(|| stream.title.take());
                stream.cover_url = edit.cover_url.unwrap_or_else(|| stream.cover_url.take());
                if let Some(tags) = edit.tags {
                    stream.tags = tags;
                }
            })
        })
        .await
    }

    async fn set_flagged(&self, id: StreamId, at: Timestamp) -> Result<Outcome> {
        self.write(move |c| change(c, id, at, |stream| stream.flagged = true)).await
    }
}

fn create_error(error: rusqlite::Error) -> CreateError {
    match violated(&error) {
        Some(columns) if columns.contains("streams.owner_id") => CreateError::OwnerAlreadyLive,
        Some(columns) if columns.contains("streams.room_name") => CreateError::RoomTaken,
        _ => error.into(),
    }
}

pub fn by_id(connection: &Connection, id: StreamId) -> Result<Option<Stream>> {
    one(connection, "id = ?1", &[&id])
}

fn one(connection: &Connection, condition: &str, values: &[&dyn ToSql]) -> Result<Option<Stream>> {
    let sql = format!("SELECT {COLUMNS} FROM streams WHERE {condition} LIMIT 1");
    Ok(connection.prepare_cached(&sql)?.query_row(values, row::stream).optional()?)
}

fn existing(connection: &Connection, id: StreamId) -> Result<Stream> {
    by_id(connection, id)?.ok_or(StoreError::NotFound)
}

fn is_every_live_state(states: &[StreamState]) -> bool {
    StreamState::LIVE.iter().all(|state| states.contains(state)) && states.iter().all(|state| state.is_live())
}

/// Applies a change. What it does not really change is left alone, with its `rev`.
pub fn change(
    connection: &Connection,
    id: StreamId,
    at: Timestamp,
    apply: impl FnOnce(&mut Stream),
) -> Result<Outcome> {
    let stream = existing(connection, id)?;
    changed(connection, stream, at, apply).map_err(StoreError::from)
}

fn changed(
    connection: &Connection,
    stream: Stream,
    at: Timestamp,
    apply: impl FnOnce(&mut Stream),
) -> rusqlite::Result<Outcome> {
    let mut after = stream.clone();
    apply(&mut after);
    if after == stream {
        return Ok(Outcome::Unchanged(stream));
    }
    after.rev += 1;
    after.updated_at = after.updated_at.max(at);
    row::replace(connection, &after)?;
    Ok(Outcome::Changed(after))
}
