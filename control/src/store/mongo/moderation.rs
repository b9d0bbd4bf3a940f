//! Bans, reports and the audit log.

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::collections::{AUDIT, BANS, OWNER_BLOCKS, REPORTS};
use super::fault::{TRIES_MAX, collect, contended, run};
use super::record::{date, document, forms, joined, object_id, record, user};
use super::streams::{computed, extended, without};
use super::{Mongo, page};
use crate::clock::Timestamp;
use crate::store::interchange::OwnerBlock;
use crate::store::moderation::{AuditEntry, Ban, Filed, ModerationStore, Report, ReportStatus, Reviewed};
use crate::store::stream::{Block, Outcome, PageEnd, StreamId, UserId};
use crate::store::{Result, StoreError};

// ---- bans

pub(super) fn write_ban(ban: &Ban) -> Result<Document> {
    // By its text, so that bans are sorted alike in every store.
    let mut fields = doc! { "_id": ban.user_id.as_str() };
    fields.extend(document(ban)?);
    fields.insert("changedAt", date(ban.lifted_at.map_or(ban.at, |lifted_at| lifted_at.max(ban.at))));
    Ok(fields)
}

// ---- reports

/// An id as it is kept.
pub(super) fn id_of(text: &str) -> Bson {
    object_id(text).map_or_else(|| Bson::String(text.to_owned()), Bson::ObjectId)
}

/// The record of a document whose `id` is the document's own.
fn with_id<T: serde::de::DeserializeOwned>(found: &Document) -> Result<T> {
    let mut found = found.clone();
    if let Some(id) = found.get("_id").cloned() {
        found.insert("id", id);
    }
    record(&found)
}

/// Who reports what: of reports with the same, one is open at a time.
fn target(report: &Report) -> String {
    let message = report.message_id.as_deref().unwrap_or_default();
    let user = report.user_id.as_ref().map_or("", UserId::as_str);
    format!("{}/{}", report.stream_id, joined(report.reporter.as_str(), &joined(message, user)))
}

pub(super) fn write_report(report: &Report) -> Result<Document> {
    let mut fields = document(report)?;
    fields.remove("id");
    fields.insert("_id", id_of(&report.id));
    if report.status == ReportStatus::Open {
        fields.insert("openFor", target(report));
    }
    Ok(fields)
}

pub(super) fn read_report(found: &Document) -> Result<Report> {
    with_id(found)
}

#[async_trait]
impl ModerationStore for Mongo {
    async fn block(&self, id: StreamId, block: &Block) -> Result<Outcome> {
        let condition = doc! { "blockedUserIds": { "$nin": forms(&block.user_id) } };
        let set = doc! {
            "blockedUserIds": extended("$blockedUserIds", user(&block.user_id)),
            "blocks": extended("$blocks", document(block)?),
        };
        self.change(id, condition, computed(block.blocked_at, set)).await
    }

    async fn unblock(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let these = forms(user);
        let set = doc! {
            "blockedUserIds": without("$blockedUserIds", "$$one", &these),
            "blocks": without("$blocks", "$$one.userId", &these),
        };
        self.change(id, doc! { "blockedUserIds": { "$in": these } }, computed(at, set)).await
    }

    async fn owner_block(&self, owner: &UserId, block: &Block) -> Result<bool> {
        let entry = OwnerBlock { owner_id: owner.clone(), block: block.clone() };
        match run(self.of(OWNER_BLOCKS).insert_one(write_owner_block(&entry)?)).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.duplicate().is_some() => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn owner_unblock(&self, owner: &UserId, user: &UserId) -> Result<bool> {
        let removed = run(self.of(OWNER_BLOCKS).delete_one(doc! { "_id": owner_key(owner, user) })).await?;
        Ok(removed.deleted_count > 0)
    }

    async fn owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>> {
        let find = |limit| {
            let (blocks, of_owner) = (self.of(OWNER_BLOCKS), doc! { "ownerId": user(owner) });
            async move { collect(blocks.find(of_owner).sort(doc! { "_id": 1 }).limit(limit)).await }
        };
        page::readable(OWNER_BLOCKS, limit, find, record).await
    }

    async fn set_ban(&self, ban: &Ban) -> Result<()> {
        let id = doc! { "_id": ban.user_id.as_str() };
        for _ in 0..TRIES_MAX {
            match run(self.of(BANS).replace_one(id.clone(), write_ban(ban)?).upsert(true)).await {
                Ok(_) => return Ok(()),
                // Another one banned the same user at the same moment.
                Err(fault) if fault.duplicate().is_some() => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(contended("a ban"))
    }

    async fn lift_ban(&self, user: &UserId, at: Timestamp) -> Result<bool> {
        let standing = doc! { "_id": user.as_str(), "liftedAt": Bson::Null };
        let lift = doc! { "$set": { "liftedAt": date(at) }, "$max": { "changedAt": date(at) } };
        Ok(run(self.of(BANS).update_one(standing, lift)).await?.modified_count > 0)
    }

    async fn ban(&self, user: &UserId) -> Result<Option<Ban>> {
        run(self.of(BANS).find_one(doc! { "_id": user.as_str() })).await?.as_ref().map(record).transpose()
    }

    async fn bans_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Ban>> {
        let find = |limit| {
            let bans = self.of(BANS);
            let changed = doc! { "changedAt": { "$gte": date(since) } };
            async move { collect(bans.find(changed).sort(page::sort("changedAt", true)).limit(limit)).await }
        };
        page::readable(BANS, limit, find, record).await
    }

    async fn file_report(&self, report: &Report) -> Result<Filed> {
        let (id, repeated) = self.write_open_report(report).await?;
        let reporters = run(self.of(REPORTS).distinct("reporter", doc! { "streamId": report.stream_id })).await?.len();
        Ok(Filed { id, repeated, reporters: u32::try_from(reporters).unwrap_or(u32::MAX) })
    }

    async fn open_report(&self, like: &Report) -> Result<Option<String>> {
        let open = run(self.of(REPORTS).find_one(doc! { "openFor": target(like) })).await?;
        open.map(|open| Ok(read_report(&open)?.id)).transpose()
    }

    async fn reports(
        &self,
        status: Option<ReportStatus>,
        stream: Option<StreamId>,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Report>> {
        let mut filter = Document::new();
        if let Some(status) = status {
            filter.insert("status", status_name(status));
        }
        if let Some(stream) = stream {
            filter.insert("streamId", stream);
        }
        if let Some(end) = after {
            filter.extend(page::after("createdAt", false, end.key, id_of(&end.id)));
        }
        self.newest(REPORTS, "createdAt", filter, limit, read_report).await
    }

    async fn update_report(
        &self,
        id: &str,
        status: ReportStatus,
        note: Option<&str>,
        by: &UserId,
        at: Timestamp,
    ) -> Result<Reviewed> {
        let found = run(self.of(REPORTS).find_one(doc! { "_id": id_of(id) })).await?;
        let before = read_report(&found.ok_or(StoreError::NotFound)?)?;
        if before.says(status, note) {
            return Ok(Reviewed { report: before, changed: false });
        }
        let mut set = doc! { "status": status_name(status), "updatedAt": date(at) };
        let mut unset = Document::new();
        if let Some(note) = note {
            set.insert("note", note);
        }
        match status {
            ReportStatus::Open => {
                set.insert("openFor", target(&before));
                unset.insert("resolvedBy", "");
            }
            ReportStatus::Resolved => {
                set.insert("resolvedBy", user(by));
                unset.insert("openFor", "");
            }
        }
        let reports = self.of(REPORTS);
        let write = reports
            .find_one_and_update(doc! { "_id": id_of(id) }, doc! { "$set": set, "$unset": unset })
            .return_document(ReturnDocument::After);
        match run(write).await {
            Ok(after) => Ok(Reviewed { report: read_report(&after.ok_or(StoreError::NotFound)?)?, changed: true }),
            // The reporter has another open one for the same target by now.
            Err(fault) if fault.duplicate().is_some() => Ok(Reviewed { report: before, changed: false }),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<()> {
        match run(self.of(AUDIT).insert_one(write_audit(entry)?)).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.duplicate().is_some() => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn audit(&self, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>> {
        let mut filter = stream.map_or_else(Document::new, |stream| doc! { "streamId": stream });
        if let Some(end) = after {
            filter.extend(page::after("at", false, end.key, id_of(&end.id)));
        }
        self.newest(AUDIT, "at", filter, limit, read_audit).await
    }
}

impl Mongo {
    /// The id of the report that is open now for the same target, and whether it was there.
    async fn write_open_report(&self, report: &Report) -> Result<(String, bool)> {
        let written = write_report(report)?;
        for _ in 0..TRIES_MAX {
            match run(self.of(REPORTS).insert_one(&written)).await {
                Ok(_) => return Ok((report.id.clone(), false)),
                Err(fault) if fault.duplicate().is_some() => {}
                Err(fault) => return Err(fault.into()),
            }
            if let Some(open) = self.open_report(report).await? {
                return Ok((open, true));
            }
            // A repeat after an error, and somebody resolved it meanwhile.
            let own = doc! { "_id": id_of(&report.id) };
            if run(self.of(REPORTS).find_one(own)).await?.is_some() {
                return Ok((report.id.clone(), true));
            }
        }
        Err(contended("a report"))
    }

    async fn newest<T>(
        &self,
        collection: &'static str,
        field: &'static str,
        filter: Document,
        limit: usize,
        read: fn(&Document) -> Result<T>,
    ) -> Result<Vec<T>> {
        let find = |limit| {
            let (documents, filter) = (self.of(collection), filter.clone());
            async move { collect(documents.find(filter).sort(page::sort(field, false)).limit(limit)).await }
        };
        page::readable(collection, limit, find, read).await
    }
}

fn status_name(status: ReportStatus) -> &'static str {
    match status {
        ReportStatus::Open => "open",
        ReportStatus::Resolved => "resolved",
    }
}

// ---- audit

pub(super) fn write_audit(entry: &AuditEntry) -> Result<Document> {
    // The details are free in form, and kept as they are written.
    let details = (!entry.details.is_null()).then(|| entry.details.to_string());
    let mut fields = document(&AuditEntry { details: serde_json::Value::Null, ..entry.clone() })?;
    fields.remove("id");
    fields.insert("_id", id_of(&entry.id));
    if let Some(details) = details {
        fields.insert("details", details);
    }
    Ok(fields)
}

pub(super) fn read_audit(found: &Document) -> Result<AuditEntry> {
    let mut entry: AuditEntry = with_id(found)?;
    if let serde_json::Value::String(written) = &entry.details {
        entry.details = serde_json::from_str(written).map_err(|error| StoreError::Failed(error.to_string()))?;
    }
    Ok(entry)
}

// ---- the owners' own lists

fn owner_key(owner: &UserId, user: &UserId) -> String {
    joined(owner.as_str(), user.as_str())
}

pub(super) fn write_owner_block(entry: &OwnerBlock) -> Result<Document> {
    let mut fields = doc! { "_id": owner_key(&entry.owner_id, &entry.block.user_id) };
    fields.extend(document(entry)?);
    Ok(fields)
}
