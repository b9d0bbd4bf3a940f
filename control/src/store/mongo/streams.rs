//! Streams: each change is one conditional write that raises `rev`.

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ReturnDocument, UpdateModifications};
use tracing::warn;

use super::collections::{OWNER_BLOCKS, STREAMS};
use super::fault::{Fault, collect, run};
use super::record::{date, document, forms, joined, object_id, record, user};
use super::stream_document::{self, in_states};
use super::{Mongo, page};
use crate::clock::Timestamp;
use crate::store::chat::{ChatMessage, ChatSettings, Mute};
use crate::store::interchange::OwnerBlock;
use crate::store::stream::{
    Block, Edit, Outcome, PageEnd, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState,
    Transition, UserId, Visibility,
};
use crate::store::{CreateError, Result, StoreError};

/// States that are never left.
const FINAL: [StreamState; 2] = [StreamState::Ended, StreamState::Cancelled];

/// Every change raises `rev`, and never sets `updatedAt` back.
pub(super) fn changed(at: Timestamp, mut update: Document) -> Document {
    update.insert("$inc", doc! { "rev": 1_i64 });
    let latest = update.entry("$max".to_owned()).or_insert_with(|| Bson::Document(Document::new()));
    if let Bson::Document(latest) = latest {
        latest.insert("updatedAt", date(at));
    }
    update
}

/// The same for fields that are computed from others. Text from outside must be a `$literal` there: it may look like an
/// expression.
pub(super) fn computed(at: Timestamp, mut set: Document) -> Vec<Document> {
    set.insert("updatedAt", doc! { "$max": ["$updatedAt", date(at)] });
    set.insert("rev", doc! { "$add": [{ "$ifNull": ["$rev", 0_i64] }, 1_i64] });
    vec![doc! { "$set": set }]
}

/// The highest number of viewers so far, also of a stream on which nobody kept it.
pub(super) fn peak(viewers: i64) -> Document {
    doc! { "$max": ["$peakViewers", "$viewers", viewers] }
}

impl Mongo {
    pub(super) async fn create_stream(&self, stream: &Stream) -> std::result::Result<(), CreateError> {
        if stream.is_live() {
            self.check_other_form(stream).await?;
        }
        match run(self.of(STREAMS).insert_one(stream_document::write(stream)?)).await {
            Ok(_) => Ok(()),
            // A repeat after an error: whichever index was asked first, the stream is in the way of itself.
            Err(fault) if fault.duplicate().is_some() && self.stream_by_id(stream.id).await?.is_some() => Ok(()),
            Err(fault) => Err(self.why_not(fault)),
        }
    }

    /// Another application may have written the same owner in the other form, which to an index is another owner.
    async fn check_other_form(&self, stream: &Stream) -> std::result::Result<(), CreateError> {
        let Some(other) = forms(&stream.owner_id).into_iter().nth(1) else { return Ok(()) };
        let live = doc! { "ownerId": other, "isLive": true, "_id": { "$ne": stream.id.0 } };
        match run(self.of(STREAMS).find_one(live)).await.map_err(StoreError::from)? {
            Some(_) => Err(CreateError::OwnerAlreadyLive),
            None => Ok(()),
        }
    }

    fn why_not(&self, fault: Fault) -> CreateError {
        match fault.duplicate() {
            Some(index) if index == self.unique.room => CreateError::RoomTaken,
            Some(index) if index == self.unique.owner_live => CreateError::OwnerAlreadyLive,
            _ => CreateError::Store(fault.into()),
        }
    }

    pub(super) async fn find_stream(&self, filter: Document) -> Result<Option<Stream>> {
        let found = run(self.of(STREAMS).find_one(filter)).await?;
        found.as_ref().map(stream_document::read).transpose()
    }

    pub(super) async fn stream_by_id(&self, id: StreamId) -> Result<Option<Stream>> {
        self.find_stream(doc! { "_id": id.0 }).await
    }

    /// The stream that an operation is about.
    pub(super) async fn existing(&self, id: StreamId) -> Result<Stream> {
        self.stream_by_id(id).await?.ok_or(StoreError::NotFound)
    }

    pub(super) async fn stream_by_room(&self, room_name: &str) -> Result<Option<Stream>> {
        let found = self.find_stream(doc! { "roomName": room_name }).await?;
        Ok(found.filter(|stream| !room_name.is_empty() && stream.room_name == room_name))
    }

    pub(super) async fn live_stream_by_owner(&self, owner: &UserId) -> Result<Option<Stream>> {
        self.find_stream(doc! { "ownerId": { "$in": forms(owner) }, "isLive": true }).await
    }

    pub(super) async fn last_ended_by_owner(&self, owner: &UserId) -> Result<Option<Stream>> {
        let mut filter = in_states(&[StreamState::Ended]);
        filter.insert("ownerId", doc! { "$in": forms(owner) });
        filter.insert("endReason", doc! { "$ne": "never_started" });
        let streams = self.of(STREAMS);
        let last = streams.find_one(filter).sort(doc! { "endedAt": -1, "_id": -1 });
        run(last).await?.as_ref().map(stream_document::read).transpose()
    }

    pub(super) async fn page_of_streams(
        &self,
        filter: &StreamFilter,
        order: StreamOrder,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Stream>> {
        let (field, rising) = match order {
            StreamOrder::NewestFirst => ("createdAt", false),
            StreamOrder::StartedLast => ("startedAt", false),
            StreamOrder::SoonestFirst => ("scheduledFor", true),
        };
        let mut all = conditions(filter);
        all.push(doc! { field: { "$type": "date" } });
        match after.map(|end| object_id(&end.id).map(|id| page::after(field, rising, end.key, Bson::ObjectId(id)))) {
            Some(Some(rest)) => all.push(rest),
            Some(None) => return Ok(Vec::new()),
            None => {}
        }
        self.list(page::all(all), page::sort(field, rising), limit).await
    }

    /// Documents that are no streams are passed over: one of them must not hide all others.
    async fn list(&self, filter: Document, sort: Document, limit: usize) -> Result<Vec<Stream>> {
        let Some(limit) = page::limit(limit) else { return Ok(Vec::new()) };
        let documents = collect(self.of(STREAMS).find(filter).sort(sort).limit(limit)).await?;
        let streams = documents.iter().map(stream_document::read);
        Ok(streams.filter_map(|stream| stream.inspect_err(|error| warn!(%error, "passed over")).ok()).collect())
    }

    pub(super) async fn count_scheduled_by(&self, owner: &UserId) -> Result<u32> {
        let filter = doc! { "ownerId": { "$in": forms(owner) }, "state": StreamState::Scheduled.name() };
        let count = run(self.of(STREAMS).count_documents(filter)).await?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    pub(super) async fn changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>> {
        let filter = doc! { "updatedAt": { "$gte": date(since) } };
        self.list(filter, page::sort("updatedAt", true), limit).await
    }

    /// Changes a stream if `condition` holds, and gives it back as it is then.
    pub(super) async fn change(
        &self,
        id: StreamId,
        condition: Document,
        update: impl Into<UpdateModifications>,
    ) -> Result<Outcome> {
        match self.write_if(id, condition, update).await? {
            Some(stream) => Ok(Outcome::Changed(stream)),
            None => Ok(Outcome::Unchanged(self.existing(id).await?)),
        }
    }

    pub(super) async fn write_if(
        &self,
        id: StreamId,
        condition: Document,
        update: impl Into<UpdateModifications>,
    ) -> std::result::Result<Option<Stream>, WriteFault> {
        let filter = doc! { "_id": id.0, "$and": [condition] };
        let streams = self.of(STREAMS);
        let write = streams.find_one_and_update(filter, update).return_document(ReturnDocument::After);
        Ok(run(write).await?.as_ref().map(stream_document::read).transpose()?)
    }

    pub(super) async fn change_state(&self, id: StreamId, transition: &Transition) -> Result<Outcome> {
        let Transition { from, to, at, end_reason, room_sid } = transition;
        let left: Vec<_> = from.iter().copied().filter(|state| state != to && !FINAL.contains(state)).collect();
        let mut condition = vec![in_states(&left)];
        if let Some(room_sid) = room_sid {
            condition.push(doc! { "roomSid": { "$in": [Bson::Null, Bson::from(room_sid)] } });
        }
        let mut set = doc! { "state": to.name(), "isLive": to.is_live(), "stateSince": date(*at) };
        if *to == StreamState::Ended {
            set.insert("endedAt", date(*at));
            set.insert("viewers", 0_i64);
            set.insert("peakViewers", peak(0));
            if let Some(reason) = end_reason {
                set.insert("endReason", reason.name());
            }
        }
        self.change(id, doc! { "$and": condition }, computed(*at, set)).await
    }

    pub(super) async fn start_one_scheduled(
        &self,
        id: StreamId,
        start: &StartScheduled,
    ) -> std::result::Result<Stream, CreateError> {
        let mut set = doc! {
            "state": StreamState::Starting.name(),
            "isLive": true,
            "roomName": stream_document::room(id, &start.room_name),
            "ownerProfile": document(&start.owner_profile)?,
            "startedAt": date(start.at),
            "stateSince": date(start.at),
        };
        set.extend(stream_document::blocks(&start.blocks)?);
        let update = changed(start.at, doc! { "$set": set });
        match self.write_if(id, in_states(&[StreamState::Scheduled]), update).await {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => Err(CreateError::NotScheduled(Box::new(self.existing(id).await?))),
            Err(WriteFault::Fault(fault)) => Err(self.why_not(fault)),
            Err(WriteFault::Unreadable(error)) => Err(error.into()),
        }
    }

    pub(super) async fn set_room_sid(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome> {
        let condition = doc! { "isLive": true, "roomSid": { "$ne": room_sid } };
        self.change(id, condition, changed(at, doc! { "$set": { "roomSid": room_sid } })).await
    }

    pub(super) async fn edit_stream(
        &self,
        id: StreamId,
        edit: &Edit,
        from: &[StreamState],
        at: Timestamp,
    ) -> Result<Outcome> {
        let (mut set, mut unset, mut differs) = (Document::new(), Document::new(), Vec::new());
        for (field, text) in [("title", &edit.title), ("coverUrl", &edit.cover_url)] {
            match text {
                Some(Some(text)) => {
                    set.insert(field, text);
                    differs.push(doc! { field: { "$ne": text } });
                }
                Some(None) => {
                    unset.insert(field, "");
                    differs.push(doc! { field: { "$ne": Bson::Null } });
                }
                None => {}
            }
        }
        if let Some(tags) = &edit.tags {
            set.insert("tags", tags);
            differs.push(doc! { "tags": { "$ne": tags } });
        }
        if differs.is_empty() {
            return Ok(Outcome::Unchanged(self.existing(id).await?));
        }
        let mut update = Document::new();
        for (operator, fields) in [("$set", set), ("$unset", unset)] {
            if !fields.is_empty() {
                update.insert(operator, fields);
            }
        }
        self.change(id, doc! { "$and": [in_states(from), { "$or": differs }] }, changed(at, update)).await
    }

    pub(super) async fn flag(&self, id: StreamId, at: Timestamp) -> Result<Outcome> {
        self.change(id, doc! { "flagged": { "$ne": true } }, changed(at, doc! { "$set": { "flagged": true } })).await
    }

    pub(super) async fn block_user(&self, id: StreamId, block: &Block) -> Result<Outcome> {
        let condition = doc! { "blockedUserIds": { "$nin": forms(&block.user_id) } };
        let push = doc! { "blockedUserIds": user(&block.user_id), "blocks": document(block)? };
        self.change(id, condition, changed(block.blocked_at, doc! { "$push": push })).await
    }

    pub(super) async fn unblock_user(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let these = doc! { "$in": forms(user) };
        let pull = doc! { "blockedUserIds": &these, "blocks": { "userId": &these } };
        self.change(id, doc! { "blockedUserIds": these }, changed(at, doc! { "$pull": pull })).await
    }

    pub(super) async fn change_chat_settings(
        &self,
        id: StreamId,
        settings: &ChatSettings,
        at: Timestamp,
    ) -> Result<Outcome> {
        let written = document(settings)?;
        let mut same = vec![Bson::Document(written.clone())];
        if *settings == ChatSettings::default() {
            same.push(Bson::Null);
        }
        let condition = doc! { "chatSettings": { "$nin": same } };
        self.change(id, condition, changed(at, doc! { "$set": { "chatSettings": written } })).await
    }

    pub(super) async fn mute_user(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome> {
        let these = forms(&mute.user_id);
        let same = doc! { "userId": { "$in": &these }, "until": date(mute.until) };
        let others = doc! { "$filter": {
            "input": { "$ifNull": ["$mutes", []] },
            "as": "mute",
            "cond": { "$and": [
                { "$not": [{ "$in": ["$$mute.userId", { "$literal": these }] }] },
                // Expired ones go, so that the list does not grow for ever.
                { "$gt": ["$$mute.until", date(at)] },
            ] },
        } };
        let mutes = doc! { "$concatArrays": [others, [{ "$literal": document(mute)? }]] };
        let update = computed(at, doc! { "mutes": mutes });
        self.change(id, doc! { "mutes": { "$not": { "$elemMatch": same } } }, update).await
    }

    pub(super) async fn unmute_user(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let these = doc! { "userId": { "$in": forms(user) } };
        let update = changed(at, doc! { "$pull": { "mutes": &these } });
        self.change(id, doc! { "mutes": { "$elemMatch": these } }, update).await
    }

    pub(super) async fn pin_message(
        &self,
        id: StreamId,
        message: Option<&ChatMessage>,
        at: Timestamp,
    ) -> Result<Outcome> {
        let (condition, update) = match message {
            Some(message) => {
                let written = document(message)?;
                (doc! { "pinned": { "$ne": &written } }, doc! { "$set": { "pinned": written } })
            }
            None => (doc! { "pinned": { "$ne": Bson::Null } }, doc! { "$unset": { "pinned": "" } }),
        };
        self.change(id, condition, changed(at, update)).await
    }
}

fn conditions(filter: &StreamFilter) -> Vec<Document> {
    let mut all = Vec::new();
    if let Some(owner) = &filter.owner {
        all.push(doc! { "ownerId": { "$in": forms(owner) } });
    }
    if StreamState::LIVE.iter().all(|state| filter.states.contains(state)) && filter.states.len() == 3 {
        // The seed's index.
        all.push(doc! { "isLive": true });
    } else if !filter.states.is_empty() {
        all.push(in_states(&filter.states));
    }
    if let Some(flagged) = filter.flagged {
        all.push(if flagged {
            doc! { "flagged": true }
        } else {
            doc! { "flagged": { "$ne": true } }
        });
    }
    match filter.visibility {
        Some(Visibility::Public) => all.push(doc! { "visibility": { "$ne": "private" } }),
        Some(Visibility::Private) => all.push(doc! { "visibility": "private" }),
        None => {}
    }
    all
}

/// Why a conditional write gave no stream.
#[derive(Debug)]
pub(super) enum WriteFault {
    Fault(Fault),
    /// It was done, and the document is no stream.
    Unreadable(StoreError),
}

impl From<Fault> for WriteFault {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StoreError> for WriteFault {
    fn from(error: StoreError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<WriteFault> for StoreError {
    fn from(fault: WriteFault) -> Self {
        match fault {
            WriteFault::Fault(fault) => fault.into(),
            WriteFault::Unreadable(error) => error,
        }
    }
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

impl Mongo {
    pub(super) async fn add_owner_block(&self, owner: &UserId, block: &Block) -> Result<bool> {
        let entry = OwnerBlock { owner_id: owner.clone(), block: block.clone() };
        match run(self.of(OWNER_BLOCKS).insert_one(write_owner_block(&entry)?)).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.duplicate().is_some() => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    pub(super) async fn remove_owner_block(&self, owner: &UserId, user: &UserId) -> Result<bool> {
        let removed = run(self.of(OWNER_BLOCKS).delete_one(doc! { "_id": owner_key(owner, user) })).await?;
        Ok(removed.deleted_count > 0)
    }

    pub(super) async fn list_owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>> {
        let Some(limit) = page::limit(limit) else { return Ok(Vec::new()) };
        let filter = doc! { "ownerId": user(owner) };
        let found = collect(self.of(OWNER_BLOCKS).find(filter).sort(doc! { "_id": 1 }).limit(limit)).await?;
        found.iter().map(record).collect()
    }
}
