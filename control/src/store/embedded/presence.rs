//! Presence: sessions, and the sums over them that the stream shows.
//!
//! The sums are kept beside the sessions, in the same transaction. Each write compares what is known of its user before
//! and after, so its cost does not grow with the audience.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Embedded;
use super::list::list;
use super::{row, streams};
use crate::clock::Timestamp;
use crate::store::presence::{Presence, PresenceChange, PresenceStore};
use crate::store::stream::{Stream, StreamId, UserId};
use crate::store::{Result, StoreError};

const COLUMNS: &str = "sid, identity, user_id, counts, joined_at, left_at";

#[async_trait]
impl PresenceStore for Embedded {
    async fn presence_join(&self, id: StreamId, session: &Presence) -> Result<PresenceChange> {
        let session = session.clone();
        self.write(move |connection| change(connection, id, &session, "ON CONFLICT DO NOTHING")).await
    }

    async fn presence_leave(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<PresenceChange> {
        let session = session.clone();
        self.write(move |connection| {
            let left = Presence { left_at: Some(at), ..session.clone() };
            change(
                connection,
                id,
                &left,
                "ON CONFLICT (stream_id, sid) DO UPDATE SET left_at = excluded.left_at WHERE presence.left_at IS NULL",
            )
        })
        .await
    }

    async fn presence_open(&self, id: StreamId) -> Result<Vec<Presence>> {
        self.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM presence WHERE stream_id = ?1 AND left_at IS NULL ORDER BY joined_at, sid \
                 LIMIT ?2"
            );
            select(connection, &sql, id, usize::MAX)
        })
        .await
    }

    async fn presence_of(&self, id: StreamId, user: &UserId) -> Result<bool> {
        let user = user.clone();
        self.read(move |connection| Ok(standing(connection, id, &user)?.is_there)).await
    }

    async fn presence_all(&self, id: StreamId, limit: usize) -> Result<Vec<Presence>> {
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM presence WHERE stream_id = ?1 ORDER BY joined_at, sid LIMIT ?2");
            select(connection, &sql, id, limit)
        })
        .await
    }
}

fn change(connection: &Connection, id: StreamId, session: &Presence, on_conflict: &str) -> Result<PresenceChange> {
    let stream = streams::by_id(connection, id)?.ok_or(StoreError::NotFound)?;
    let changed = write(connection, id, session, on_conflict)?;
    let stream = if changed && stream.is_live() { count(connection, stream)? } else { stream };
    Ok(PresenceChange { stream, changed })
}

/// Puts a session in the place of the one with its key, if there is one. The stream's numbers are left as they are.
pub fn replace(connection: &Connection, id: StreamId, session: &Presence) -> Result<()> {
    let user = "SELECT user_id FROM presence WHERE stream_id = ?1 AND sid = ?2";
    let before: Option<UserId> =
        connection.prepare_cached(user)?.query_row(params![id, session.sid], |row| row.get(0)).optional()?;
    if let Some(user) = before {
        let standing = standing(connection, id, &user)?;
        let sql = "DELETE FROM presence WHERE stream_id = ?1 AND sid = ?2";
        connection.prepare_cached(sql)?.execute(params![id, session.sid])?;
        note(connection, id, &user, standing)?;
    }
    write(connection, id, session, "")?;
    Ok(())
}

fn write(connection: &Connection, id: StreamId, session: &Presence, on_conflict: &str) -> Result<bool> {
    let known: Option<UserId> = connection
        .prepare_cached("SELECT user_id FROM presence WHERE stream_id = ?1 AND sid = ?2")?
        .query_row(params![id, session.sid], |row| row.get(0))
        .optional()?;
    // A session belongs to the user that it came with first.
    let user = known.as_ref().unwrap_or(&session.user_id);
    let before = standing(connection, id, user)?;
    let sql = format!("INSERT INTO presence (stream_id, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) {on_conflict}");
    let written = connection.prepare_cached(&sql)?.execute(params![
        id,
        session.sid,
        session.identity,
        session.user_id,
        session.counts,
        session.joined_at,
        session.left_at,
    ])? > 0;
    if written {
        note(connection, id, user, before)?;
    }
    Ok(written)
}

/// What is known of one user in one stream, from sessions that count.
#[derive(Clone, Copy, PartialEq)]
struct Standing {
    /// Has one, open or not.
    came: bool,
    /// Has an open one.
    is_there: bool,
}

const STANDING: &str = "SELECT \
     EXISTS (SELECT 1 FROM presence WHERE stream_id = ?1 AND user_id = ?2 AND counts = 1), \
     EXISTS (SELECT 1 FROM presence WHERE stream_id = ?1 AND user_id = ?2 AND counts = 1 AND left_at IS NULL)";

fn standing(connection: &Connection, id: StreamId, user: &UserId) -> Result<Standing> {
    let read = |row: &rusqlite::Row<'_>| Ok(Standing { came: row.get(0)?, is_there: row.get(1)? });
    Ok(connection.prepare_cached(STANDING)?.query_row(params![id, user], read)?)
}

/// Brings the sums up to date after a write that concerned `user`.
fn note(connection: &Connection, id: StreamId, user: &UserId, before: Standing) -> Result<()> {
    let after = standing(connection, id, user)?;
    if after == before {
        return Ok(());
    }
    let users = i64::from(after.came) - i64::from(before.came);
    let open_users = i64::from(after.is_there) - i64::from(before.is_there);
    let sql = "INSERT INTO presence_totals (stream_id, users, open_users) VALUES (?1, ?2, ?3) \
               ON CONFLICT (stream_id) DO UPDATE SET users = users + ?2, open_users = open_users + ?3";
    connection.prepare_cached(sql)?.execute(params![id, users, open_users])?;
    Ok(())
}

/// Writes the sums into the stream, if they differ from what it says.
fn count(connection: &Connection, mut stream: Stream) -> Result<Stream> {
    let sql = "SELECT open_users, users FROM presence_totals WHERE stream_id = ?1";
    let (viewers, unique) = connection
        .prepare_cached(sql)?
        .query_row([stream.id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .unwrap_or((0, 0));
    let peak = stream.peak_viewers.max(viewers);
    if (viewers, peak, unique) == (stream.viewers, stream.peak_viewers, stream.unique_viewers) {
        return Ok(stream);
    }
    (stream.viewers, stream.peak_viewers, stream.unique_viewers) = (viewers, peak, unique);
    // Times of sessions may lie back; whoever asks for changes since then must still see this one.
    stream.updated_at = stream.updated_at.max(Timestamp::now());
    stream.rev += 1;
    let sql = "UPDATE streams SET viewers = ?2, peak_viewers = ?3, unique_viewers = ?4, updated_at = ?5, rev = ?6 \
               WHERE id = ?1";
    let values = params![stream.id, viewers, peak, unique, stream.updated_at, stream.rev];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(stream)
}

fn select(connection: &Connection, sql: &str, id: StreamId, limit: usize) -> Result<Vec<Presence>> {
    list(connection, "presence", sql, &[&id], limit, row::presence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_user_is_found_without_going_through_the_audience() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::schema::bring_up_to_date(&mut connection).unwrap();
        let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {STANDING}")).unwrap();
        let plan: Vec<String> =
            explained.query_map(["id", "user"], |row| row.get(3)).unwrap().collect::<rusqlite::Result<_>>().unwrap();

        let searches: Vec<_> = plan.iter().filter(|step| step.contains("presence")).collect();
        assert_eq!(searches.len(), 2, "{plan:?}");
        assert!(searches.iter().all(|step| step.contains("COVERING INDEX presence_user (stream_id=? AND user_id=?")));
    }
}
