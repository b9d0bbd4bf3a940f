//! Bans, reports and the audit log.

use async_trait::async_trait;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::Embedded;
use super::list::list;
use super::row;
use super::streams::change;
use super::value::{Json, Word, violated};
use crate::clock::Timestamp;
use crate::store::moderation::{AuditEntry, Ban, Filed, ModerationStore, Report, ReportStatus, Reviewed};
use crate::store::stream::{Block, Outcome, PageEnd, StreamId, UserId};
use crate::store::{Result, StoreError};

pub const BAN_COLUMNS: &str = "user_id, reason, until, by, at, lifted_at";
pub const REPORT_COLUMNS: &str = "id, stream_id, reporter, reason, details, message_id, user_id, status, note, \
     resolved_by, created_at, updated_at";
pub const AUDIT_COLUMNS: &str = "id, at, actor, action, stream_id, target, details, request_id";

#[async_trait]
impl ModerationStore for Embedded {
    async fn block(&self, id: StreamId, block: &Block) -> Result<Outcome> {
        let block = block.clone();
        self.write(move |connection| {
            let at = block.blocked_at;
            change(connection, id, at, |stream| {
                if let Err(place) = stream.blocks.binary_search_by(|other| other.user_id.cmp(&block.user_id)) {
                    stream.blocks.insert(place, block);
                }
            })
        })
        .await
    }

    async fn unblock(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let user = user.clone();
        self.write(move |connection| {
            change(connection, id, at, |stream| stream.blocks.retain(|block| block.user_id != user))
        })
        .await
    }

    async fn owner_block(&self, owner: &UserId, block: &Block) -> Result<bool> {
        let (owner, block) = (owner.clone(), block.clone());
        self.write(move |c| owner_block(c, &owner, &block)).await
    }

    async fn owner_unblock(&self, owner: &UserId, user: &UserId) -> Result<bool> {
        let (owner, user) = (owner.clone(), user.clone());
        self.write(move |c| owner_unblock(c, &owner, &user)).await
    }

    async fn owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>> {
        let owner = owner.clone();
        self.read(move |connection| {
            let sql = "SELECT user_id, blocked_at, by, reason FROM owner_blocks WHERE owner_id = ?1 ORDER BY \
                       user_id LIMIT ?2";
            list(connection, "owner_blocks", sql, &[&owner], limit, row::block)
        })
        .await
    }

    async fn set_ban(&self, ban: &Ban) -> Result<()> {
        let ban = ban.clone();
        self.write(move |c| set_ban(c, &ban)).await
    }

    async fn lift_ban(&self, user: &UserId, at: Timestamp) -> Result<bool> {
        let user = user.clone();
        self.write(move |connection| {
            let sql = "UPDATE bans SET lifted_at = ?2 WHERE user_id = ?1 AND lifted_at IS NULL";
            Ok(connection.prepare_cached(sql)?.execute(params![user, at])? > 0)
        })
        .await
    }

    async fn ban(&self, user: &UserId) -> Result<Option<Ban>> {
        let user = user.clone();
        self.read(move |connection| {
            let sql = format!("SELECT {BAN_COLUMNS} FROM bans WHERE user_id = ?1");
            Ok(connection.prepare_cached(&sql)?.query_row([user], read_ban).optional()?)
        })
        .await
    }

    async fn bans_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Ban>> {
        self.read(move |connection| {
            let sql =
                format!("SELECT {BAN_COLUMNS} FROM bans WHERE changed_at >= ?1 ORDER BY changed_at, user_id LIMIT ?2");
            list(connection, "bans", &sql, &[&since], limit, read_ban)
        })
        .await
    }

    async fn file_report(&self, report: &Report) -> Result<Filed> {
        let report = report.clone();
        self.write(move |connection| {
            let known = open_report(connection, &report)?;
            let repeated = known.is_some();
            if !repeated {
                write_report(connection, &report)?;
            }
            let reporters = "SELECT count(DISTINCT reporter) FROM reports WHERE stream_id = ?1";
            let reporters = connection.prepare_cached(reporters)?.query_row([report.stream_id], |row| row.get(0))?;
            Ok(Filed { id: known.unwrap_or_else(|| report.id.clone()), repeated, reporters })
        })
        .await
    }

    async fn open_report(&self, like: &Report) -> Result<Option<String>> {
        let like = like.clone();
        self.read(move |c| open_report(c, &like)).await
    }

    async fn reports(
        &self,
        status: Option<ReportStatus>,
        stream: Option<StreamId>,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Report>> {
        let after = after.cloned();
        self.read(move |connection| {
            let after = after.as_ref();

            let status = status.map(Word);
            let mut page = Page::new("created_at", after);
            if let Some(status) = &status {
                page.only("status", status);
            }
            if let Some(stream) = &stream {
                page.only("stream_id", stream);
            }
            page.read(connection, "reports", REPORT_COLUMNS, limit, read_report)
        })
        .await
    }

    async fn update_report(
        &self,
        id: &str,
        status: ReportStatus,
        note: Option<&str>,
        by: &UserId,
        at: Timestamp,
    ) -> Result<Reviewed> {
        let (id, note, by) = (id.to_owned(), note.map(str::to_owned), by.clone());
        self.write(move |connection| {
            let sql = format!("SELECT {REPORT_COLUMNS} FROM reports WHERE id = ?1");
            let found = connection.prepare_cached(&sql)?.query_row([id], read_report).optional()?;
            let before = found.ok_or(StoreError::NotFound)?;
            if before.says(status, note.as_deref()) {
                return Ok(Reviewed { report: before, changed: false });
            }
            let mut report = before.clone();
            report.status = status;
            report.note = note.or(report.note);
            report.resolved_by = match status {
                ReportStatus::Open => None,
                ReportStatus::Resolved => Some(by.clone()),
            };
            report.updated_at = at;
            match write_report(connection, &report) {
                Ok(()) => Ok(Reviewed { report, changed: true }),
                // The reporter has another open one for the same target by now.
                Err(error) if violated(&error).is_some() => Ok(Reviewed { report: before, changed: false }),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<()> {
        let entry = entry.clone();
        self.write(move |connection| write_audit(connection, &entry, "INSERT OR IGNORE")).await
    }

    async fn audit(&self, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>> {
        let after = after.cloned();
        self.read(move |connection| {
            let after = after.as_ref();

            let mut page = Page::new("at", after);
            if let Some(stream) = &stream {
                page.only("stream_id", stream);
            }
            page.read(connection, "audit", AUDIT_COLUMNS, limit, read_audit)
        })
        .await
    }
}

fn open_report(connection: &Connection, like: &Report) -> Result<Option<String>> {
    let open = "SELECT id FROM reports WHERE stream_id = ?1 AND reporter = ?2 \
                AND coalesce(message_id, '') = coalesce(?3, '') AND coalesce(user_id, '') = coalesce(?4, '') \
                AND status = 'open'";
    let values = params![like.stream_id, like.reporter, like.message_id, like.user_id];
    Ok(connection.prepare_cached(open)?.query_row(values, |row| row.get(0)).optional()?)
}

pub fn set_ban(connection: &Connection, ban: &Ban) -> Result<()> {
    let sql = format!("INSERT OR REPLACE INTO bans ({BAN_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
    let values = params![ban.user_id, ban.reason, ban.until, ban.by, ban.at, ban.lifted_at];
    connection.prepare_cached(&sql)?.execute(values)?;
    Ok(())
}

pub fn read_ban(row: &Row<'_>) -> rusqlite::Result<Ban> {
    Ok(Ban {
        user_id: row.get("user_id")?,
        reason: row.get("reason")?,
        until: row.get("until")?,
        by: row.get("by")?,
        at: row.get("at")?,
        lifted_at: row.get("lifted_at")?,
    })
}

/// Puts a report in the place of the one with its id, if there is one.
pub fn write_report(connection: &Connection, report: &Report) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO reports ({REPORT_COLUMNS}) VALUES (:id, :stream_id, :reporter, :reason, :details, :message_id, \
         :user_id, :status, :note, :resolved_by, :created_at, :updated_at) \
         ON CONFLICT (id) DO UPDATE SET stream_id = excluded.stream_id, reporter = excluded.reporter, \
         reason = excluded.reason, details = excluded.details, message_id = excluded.message_id, \
         user_id = excluded.user_id, status = excluded.status, note = excluded.note, \
         resolved_by = excluded.resolved_by, created_at = excluded.created_at, updated_at = excluded.updated_at"
    );
    connection.prepare_cached(&sql)?.execute(named_params! {
        ":id": report.id,
        ":stream_id": report.stream_id,
        ":reporter": report.reporter,
        ":reason": Word(report.reason),
        ":details": report.details,
        ":message_id": report.message_id,
        ":user_id": report.user_id,
        ":status": Word(report.status),
        ":note": report.note,
        ":resolved_by": report.resolved_by,
        ":created_at": report.created_at,
        ":updated_at": report.updated_at,
    })?;
    Ok(())
}

pub fn read_report(row: &Row<'_>) -> rusqlite::Result<Report> {
    Ok(Report {
        id: row.get("id")?,
        stream_id: row.get("stream_id")?,
        reporter: row.get("reporter")?,
        reason: row.get::<_, Word<_>>("reason")?.0,
        details: row.get("details")?,
        message_id: row.get("message_id")?,
        user_id: row.get("user_id")?,
        status: row.get::<_, Word<_>>("status")?.0,
        note: row.get("note")?,
        resolved_by: row.get("resolved_by")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

pub fn write_audit(connection: &Connection, entry: &AuditEntry, insert: &str) -> Result<()> {
    let sql = format!("{insert} INTO audit ({AUDIT_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    let values = params![
        entry.id,
        entry.at,
        entry.actor,
        entry.action,
        entry.stream_id,
        entry.target,
        Json(&entry.details),
        entry.request_id
    ];
    connection.prepare_cached(&sql)?.execute(values)?;
    Ok(())
}

pub fn read_audit(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get("id")?,
        at: row.get("at")?,
        actor: row.get("actor")?,
        action: row.get("action")?,
        stream_id: row.get("stream_id")?,
        target: row.get("target")?,
        details: row.get::<_, Json<_>>("details")?.0,
        request_id: row.get("request_id")?,
    })
}

/// A page of rows, newest first.
struct Page<'a> {
    key: &'static str,
    conditions: Vec<String>,
    values: Vec<&'a dyn ToSql>,
}

impl<'a> Page<'a> {
    fn new(key: &'static str, after: Option<&'a PageEnd>) -> Self {
        let mut page = Self { key, conditions: vec!["true".to_owned()], values: Vec::new() };
        if let Some(after) = after {
            page.values.extend([&after.key as &dyn ToSql, &after.id]);
            page.conditions.push(format!("({key}, id) < (?1, ?2)"));
        }
        page
    }

    fn only(&mut self, column: &str, value: &'a dyn ToSql) {
        self.values.push(value);
        self.conditions.push(format!("{column} = ?{}", self.values.len()));
    }

    fn read<T>(
        self,
        connection: &Connection,
        table: &str,
        columns: &str,
        limit: usize,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let place = self.values.len() + 1;
        let (conditions, key) = (self.conditions.join(" AND "), self.key);
        let sql =
            format!("SELECT {columns} FROM {table} WHERE {conditions} ORDER BY {key} DESC, id DESC LIMIT ?{place}");
        list(connection, table, &sql, &self.values, limit, read)
    }
}

pub fn owner_block(connection: &Connection, owner: &UserId, block: &Block) -> Result<bool> {
    let sql = "INSERT INTO owner_blocks (owner_id, user_id, blocked_at, by, reason) VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT DO NOTHING";
    let values = params![owner, block.user_id, block.blocked_at, block.by, block.reason];
    Ok(connection.prepare_cached(sql)?.execute(values)? > 0)
}

pub fn owner_unblock(connection: &Connection, owner: &UserId, user: &UserId) -> Result<bool> {
    let sql = "DELETE FROM owner_blocks WHERE owner_id = ?1 AND user_id = ?2";
    Ok(connection.prepare_cached(sql)?.execute([owner, user])? > 0)
}
