//! What is known of requests for a while: idempotency keys, limits, webhooks; and the removal of what is past its time.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::Value;

use super::Embedded;
use super::value::{Json, rows};
use crate::clock::Timestamp;
use crate::store::requests::RequestStore;
use crate::store::{CLAIM_MAX, Claimed, DAY, IdempotencyKey, RELAYED_KEPT, Result, Taken};

/// Rows that one transaction of [`expire`] removes from a table, so that others get their turn.
const EXPIRED_AT_ONCE: usize = 2_000;

#[async_trait]
impl RequestStore for Embedded {
    async fn webhook_handled(&self, event_id: &str, now: Timestamp) -> Result<bool> {
        let event_id = event_id.to_owned();
        self.read(move |connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM webhook_events WHERE id = ?1 AND at > ?2)";
            Ok(connection.prepare_cached(sql)?.query_row(params![event_id, now.minus(DAY)], |row| row.get(0))?)
        })
        .await
    }

    async fn note_webhook(&self, event_id: &str, at: Timestamp) -> Result<()> {
        let event_id = event_id.to_owned();
        self.write(move |connection| {
            let sql = "INSERT OR REPLACE INTO webhook_events (id, at) VALUES (?1, ?2)";
            connection.prepare_cached(sql)?.execute(params![event_id, at])?;
            Ok(())
        })
        .await
    }

    async fn idempotency_claim(&self, key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed> {
        let (key, body) = (key.clone(), body.to_owned());
        self.write(move |connection| {
            let sql = "SELECT body, answer, claimed_at FROM idempotency WHERE user_id = ?1 AND operation = ?2 AND \
                       key = ?3";
            let read = |row: &Row<'_>| -> rusqlite::Result<(String, Option<Json<Value>>, Timestamp)> {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            };
            let found =
                connection.prepare_cached(sql)?.query_row(params![key.user, key.operation, key.key], read).optional()?;
            if let Some((known, answer, claimed_at)) = found {
                let kept = if answer.is_some() { DAY } else { CLAIM_MAX };
                if now < claimed_at.plus(kept) && (answer.is_some() || !claimed_at.is_far_ahead(now)) {
                    return Ok(match answer {
                        _ if known != body => Claimed::OtherBody,
                        Some(answer) => Claimed::Finished(answer.0),
                        None => Claimed::Pending,
                    });
                }
            }
            let sql =
                "INSERT OR REPLACE INTO idempotency (user_id, operation, key, body, claimed_at) VALUES (?1, ?2, ?3, \
                 ?4, ?5)";
            connection.prepare_cached(sql)?.execute(params![key.user, key.operation, key.key, body, now])?;
            Ok(Claimed::New)
        })
        .await
    }

    async fn idempotency_finish(&self, key: &IdempotencyKey, answer: &Value) -> Result<()> {
        let (key, answer) = (key.clone(), answer.clone());
        self.write(move |connection| {
            let sql = "UPDATE idempotency SET answer = ?4 WHERE user_id = ?1 AND operation = ?2 AND key = ?3";
            connection.prepare_cached(sql)?.execute(params![key.user, key.operation, key.key, Json(answer)])?;
            Ok(())
        })
        .await
    }

    async fn idempotency_release(&self, key: &IdempotencyKey) -> Result<()> {
        let key = key.clone();
        self.write(move |connection| {
            let sql = "DELETE FROM idempotency WHERE user_id = ?1 AND operation = ?2 AND key = ?3 AND answer IS NULL";
            connection.prepare_cached(sql)?.execute(params![key.user, key.operation, key.key])?;
            Ok(())
        })
        .await
    }

    async fn limit_take(&self, key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken> {
        let key = key.to_owned();
        self.write(move |connection| {
            let since = now.minus(window);
            let forget = "DELETE FROM limits WHERE key = ?1 AND (taken_at <= ?2 OR taken_at > ?3)";
            connection.prepare_cached(forget)?.execute(params![key, since, now.plus(Timestamp::AHEAD_MAX)])?;
            let Some(before) = max.checked_sub(1) else { return Ok(Taken::Refused { until: now.plus(window) }) };
            // The unit that must be free again before another can be taken.
            let blocking = "SELECT taken_at FROM limits WHERE key = ?1 ORDER BY taken_at DESC LIMIT 1 OFFSET ?2";
            let blocking: Option<Timestamp> =
                connection.prepare_cached(blocking)?.query_row(params![key, before], |row| row.get(0)).optional()?;
            if let Some(taken_at) = blocking {
                return Ok(Taken::Refused { until: taken_at.plus(window) });
            }
            let sql = "INSERT INTO limits (key, taken_at, expires_at) VALUES (?1, ?2, ?3)";
            connection.prepare_cached(sql)?.execute(params![key, now, now.plus(window)])?;
            Ok(Taken::Granted)
        })
        .await
    }

    async fn limit_give_back(&self, key: &str, taken: Timestamp) -> Result<()> {
        let key = key.to_owned();
        self.write(move |connection| {
            let sql =
                "DELETE FROM limits WHERE rowid = (SELECT rowid FROM limits WHERE key = ?1 AND taken_at = ?2 LIMIT 1)";
            connection.prepare_cached(sql)?.execute(params![key, taken])?;
            Ok(())
        })
        .await
    }
}

/// Removes some of what is past its time. True: there is more.
pub fn expire(connection: &Connection, now: Timestamp, chat_retention: Duration) -> Result<bool> {
    let of_table = |table: &str, key: &str, condition: &str, before: Timestamp| -> Result<bool> {
        let sql = format!("DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {condition} LIMIT ?2)");
        let values = params![before, rows(EXPIRED_AT_ONCE), now.plus(Timestamp::EXPIRED_AHEAD)];
        // Not every condition looks ahead.
        let mut statement = connection.prepare_cached(&sql)?;
        let count = statement.parameter_count();
        let removed = statement.execute(&values[..count])?;
        Ok(removed == EXPIRED_AT_ONCE)
    };
    let chat = "stream_id IN (SELECT id FROM streams WHERE state = 'ended' AND ended_at < ?1)";
    let more = [
        of_table("idempotency", "rowid", "claimed_at <= ?1 OR claimed_at > ?3", now.minus(DAY))?,
        of_table("limits", "rowid", "expires_at <= ?1 OR expires_at > ?3", now)?,
        of_table("webhook_events", "id", "at <= ?1 OR at > ?3", now.minus(DAY))?,
        of_table("relayed", "id", "at <= ?1", now.minus(RELAYED_KEPT))?,
        of_table("nodes", "node", "at <= ?1", now.minus(DAY))?,
        of_table("chat_messages", "rowid", chat, now.minus(chat_retention))?,
    ];
    Ok(more.contains(&true))
}
