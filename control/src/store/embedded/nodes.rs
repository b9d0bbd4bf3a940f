//! Signs of nodes, and what they tell each other.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Row, params};

use super::Embedded;
use super::list::list;
use super::value::Json;
use crate::clock::Timestamp;
use crate::store::chat::Relayed;
use crate::store::nodes::{NodeStore, SIGNS_MAX};
use crate::store::stream::StreamId;
use crate::store::{DAY, LEASE_FREE, Lease, NodeSign, Result};

/// By the stream of the room.
pub(super) type Leases = Mutex<HashMap<StreamId, Lease>>;

#[async_trait]
impl NodeStore for Embedded {
    fn is_shared(&self) -> bool {
        false
    }

    async fn relay(&self, notes: &[Relayed]) -> Result<()> {
        let notes = notes.to_vec();
        self.write(move |connection| {
            let sql = "INSERT OR IGNORE INTO relayed (id, node, stream_id, at, note) VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut statement = connection.prepare_cached(sql)?;
            for note in notes {
                statement.execute(params![note.id, note.node, note.stream_id, note.at, Json(&note.note)])?;
            }
            Ok(())
        })
        .await
    }

    async fn relayed_since(&self, since: &[NodeSign], limit: usize) -> Result<Vec<Relayed>> {
        let since = since.to_vec();
        self.read(move |connection| {
            let sql = "SELECT id, node, stream_id, at, note FROM relayed WHERE at >= ?1 AND node = ?2 ORDER BY at, \
                       id LIMIT ?3";
            let read = |row: &Row<'_>| {
                Ok(Relayed {
                    id: row.get(0)?,
                    node: row.get(1)?,
                    stream_id: row.get(2)?,
                    at: row.get(3)?,
                    note: row.get::<_, Json<_>>(4)?.0,
                })
            };
            let mut all = Vec::new();
            for NodeSign { node, at } in &since {
                all.extend(list(connection, "relayed", sql, &[at, node], limit, read)?);
            }
            all.sort_by(|one, other| (one.at, &one.id).cmp(&(other.at, &other.id)));
            all.truncate(limit);
            Ok(all)
        })
        .await
    }

    async fn announce_node(&self, node: &str, now: Timestamp) -> Result<Vec<NodeSign>> {
        let node = node.to_owned();
        self.write(move |connection| {
            let sql = "INSERT OR REPLACE INTO nodes (node, at) VALUES (?1, ?2)";
            connection.prepare_cached(sql)?.execute(params![node, now])?;
            let others = "SELECT node, at FROM nodes WHERE node <> ?1 ORDER BY at DESC LIMIT ?2";
            list(connection, "nodes", others, &[&node], SIGNS_MAX, |row| {
                Ok(NodeSign { node: row.get(0)?, at: row.get(1)? })
            })
        })
        .await
    }

    async fn lease_room(&self, stream: StreamId, node: &str, now: Timestamp) -> Result<Lease> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|_, lease| now < lease.renewed_at.plus(DAY));
        let before = leases.get(&stream);
        if let Some(other) = before.filter(|lease| lease.node.as_deref() != Some(node) && lease.holds(now, LEASE_FREE))
        {
            return Ok(other.clone());
        }
        let epoch = match before {
            Some(own) if own.node.as_deref() == Some(node) => own.epoch,
            Some(other) => other.epoch + 1,
            None => 1,
        };
        let lease = Lease { node: Some(node.to_owned()), epoch, renewed_at: now };
        leases.insert(stream, lease.clone());
        Ok(lease)
    }

    async fn room_lease(&self, stream: StreamId, now: Timestamp) -> Result<Option<Lease>> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(leases.get(&stream).filter(|lease| !lease.renewed_at.is_far_ahead(now)).cloned())
    }
}
