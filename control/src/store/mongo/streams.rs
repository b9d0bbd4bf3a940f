//! Streams: each change is one conditional write that raises `rev`.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ReturnDocument, UpdateModifications};
use tracing::info;

use super::collections::STREAMS;
use super::fault::{Fault, UPKEEP_MAX, collect, run, within};
use super::record::{date, document, forms, object_id};
use super::stream_document::{self, in_states};
use super::{Mongo, page};
use crate::clock::Timestamp;
use crate::store::stream::{
    Edit, EndReason, Outcome, PageEnd, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState,
    StreamStore, Transition, UserId, Visibility,
};
use crate::store::{CreateError, Result, StoreError};

/// States that are never left.
const FINAL: [StreamState; 2] = [StreamState::Ended, StreamState::Cancelled];

/// A change of a stream: it raises `rev`, and never sets `updatedAt` back.
///
/// Its fields are expressions. What another application wrote into a field with another type is as if it were absent;
/// the operators that change numbers and lists in place would refuse it.
pub(super) fn computed(at: Timestamp, mut set: Document) -> Vec<Document> {
    set.insert("updatedAt", doc! { "$max": ["$updatedAt", date(at)] });
    set.insert("rev", doc! { "$add": [number("$rev"), 1_i64] });
    vec![doc! { "$set": set }]
}

/// The same for values as they are: text from outside may look like an expression.
pub(super) fn changed(at: Timestamp, set: Document) -> Vec<Document> {
    computed(at, set.into_iter().map(|(name, value)| (name, Bson::from(doc! { "$literal": value }))).collect())
}

/// In place of a value: the field is removed.
pub(super) const REMOVED: &str = "$$REMOVE";

fn number(field: &str) -> Document {
    doc! { "$cond": [{ "$isNumber": field }, field, 0_i64] }
}

pub(super) fn list(field: &str) -> Document {
    doc! { "$cond": [{ "$isArray": [field] }, field, []] }
}

/// A list with one more at its end.
pub(super) fn extended(field: &str, with: impl Into<Bson>) -> Document {
    doc! { "$concatArrays": [list(field), [{ "$literal": with.into() }]] }
}

/// A list without those of which `value`, an expression about `$$one`, is one of these.
pub(super) fn without(field: &str, value: &str, these: &[Bson]) -> Document {
    let is_one = doc! { "$in": [value, { "$literal": these }] };
    doc! { "$filter": { "input": list(field), "as": "one", "cond": { "$not": [is_one] } } }
}

/// The highest number of viewers so far, also of a stream on which nobody kept it.
pub(super) fn peak(viewers: i64) -> Document {
    doc! { "$max": [number("$peakViewers"), number("$viewers"), viewers] }
}

/// What a document of `livestreams` must be to be a stream (see [`stream_document::read`]).
pub(super) fn is_stream() -> Document {
    doc! {
        "_id": { "$type": "objectId" },
        "ownerId": { "$type": ["objectId", "string"], "$ne": "" },
        "roomName": { "$type": "string", "$ne": "" },
    }
}

/// What a document without a date of its own is: it counts as made with its id.
fn is_undated() -> Document {
    doc! { "createdAt": { "$not": { "$type": "date" } } }
}

/// Which streams are live, by the application's index.
fn is_live() -> Document {
    let others: Vec<_> = StreamState::ALL.iter().filter(|state| !state.is_live()).map(|state| state.name()).collect();
    doc! { "isLive": true, "state": { "$nin": others } }
}

#[async_trait]
impl StreamStore for Mongo {
    async fn create(&self, stream: &Stream) -> Result<(), CreateError> {
        if stream.is_live() {
            self.check_other_form(stream).await?;
        }
        match run(self.of(STREAMS).insert_one(stream_document::write(stream)?)).await {
            Ok(_) => Ok(()),
            // A repeat after an error: whichever index was asked first, the stream is in the way of itself.
            Err(fault) if fault.duplicate().is_some() && self.stream(stream.id).await?.is_some() => Ok(()),
            Err(fault) => Err(self.why_not(fault)),
        }
    }

    async fn stream(&self, id: StreamId) -> Result<Option<Stream>> {
        self.find_stream(doc! { "_id": id }).await
    }

    async fn stream_of_room(&self, room_name: &str) -> Result<Option<Stream>> {
        let found = self.find_stream(doc! { "roomName": room_name }).await?;
        Ok(found.filter(|stream| !room_name.is_empty() && stream.room_name == room_name))
    }

    async fn live_stream_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        self.find_stream(page::all(vec![is_live(), doc! { "ownerId": { "$in": forms(owner) } }])).await
    }

    async fn last_ended_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        let mut filter = in_states(&[StreamState::Ended]);
        filter.insert("ownerId", doc! { "$in": forms(owner) });
        filter.insert("endReason", doc! { "$ne": "never_started" });
        filter.insert("endedAt", doc! { "$type": "date" });
        Ok(self.list(filter, doc! { "endedAt": -1, "_id": -1 }, 1).await?.pop())
    }

    async fn streams(
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
        let after = match after.map(|end| object_id(&end.id).map(|id| (end.key, id))) {
            Some(None) => return Ok(Vec::new()),
            Some(Some(end)) => Some(end),
            None => None,
        };
        let mut dated = conditions(filter);
        dated.push(doc! { field: { "$type": "date" } });
        dated.extend(after.map(|(millis, id)| page::after(field, rising, millis, Bson::ObjectId(id))));
        let mut streams = self.list(page::all(dated), page::sort(field, rising), limit).await?;
        if order == StreamOrder::NewestFirst && self.has_undated {
            streams.extend(self.page_of_undated(filter, after, limit).await?);
            streams.sort_by_key(|stream| std::cmp::Reverse((stream.created_at, stream.id)));
            streams.truncate(limit);
        }
        Ok(streams)
    }

    async fn count_scheduled(&self, owner: &UserId) -> Result<u32> {
        let filter = doc! { "ownerId": { "$in": forms(owner) }, "state": StreamState::Scheduled.name() };
        let count = run(self.of(STREAMS).count_documents(filter)).await?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    async fn streams_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>> {
        let filter = doc! { "updatedAt": { "$gte": date(since) } };
        self.list(filter, page::sort("updatedAt", true), limit).await
    }

    async fn transition(&self, id: StreamId, transition: &Transition) -> Result<Outcome> {
        let Transition { from, to, at, end_reason, room_sid } = transition;
        let left: Vec<_> = from.iter().copied().filter(|state| state != to && !FINAL.contains(state)).collect();
        let mut condition = vec![in_states(&left)];
        if let Some(room_sid) = room_sid {
            let none = doc! { "roomSid": { "$not": { "$type": "string" } } };
            condition.push(doc! { "$or": [none, { "roomSid": { "$in": ["", room_sid] } }] });
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

    async fn start_scheduled(&self, id: StreamId, start: &StartScheduled) -> Result<Stream, CreateError> {
        let before = self.existing(id).await?;
        self.check_other_form(&before).await?;
        let mut set = doc! {
            "state": StreamState::Starting.name(),
            "isLive": true,
            "roomName": stream_document::room(id, &start.room_name),
            "ownerProfile": document(&start.owner_profile)?,
            "startedAt": date(start.at),
            "stateSince": date(start.at),
        };
        set.extend(stream_document::blocks(&start.blocks)?);
        match self.write_if(id, in_states(&[StreamState::Scheduled]), changed(start.at, set)).await {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => Err(CreateError::NotScheduled(Box::new(self.existing(id).await?))),
            Err(fault) => Err(self.why_not(fault)),
        }
    }

    async fn note_room(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome> {
        let condition = doc! { "isLive": true, "roomSid": { "$ne": room_sid } };
        self.change(id, condition, changed(at, doc! { "roomSid": room_sid })).await
    }

    async fn edit(&self, id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome> {
        let (mut set, mut differs) = (Document::new(), Vec::new());
        for (field, text) in [("title", &edit.title), ("coverUrl", &edit.cover_url)] {
            match text {
                Some(Some(text)) => {
                    set.insert(field, doc! { "$literal": text });
                    differs.push(doc! { field: { "$ne": text } });
                }
                Some(None) => {
                    set.insert(field, REMOVED);
                    differs.push(doc! { field: { "$ne": Bson::Null } });
                }
                None => {}
            }
        }
        if let Some(tags) = &edit.tags {
            set.insert("tags", doc! { "$literal": tags });
            differs.push(doc! { "tags": { "$ne": tags } });
        }
        if differs.is_empty() {
            return Ok(Outcome::Unchanged(self.existing(id).await?));
        }
        self.change(id, doc! { "$and": [in_states(from), { "$or": differs }] }, computed(at, set)).await
    }

    async fn set_flagged(&self, id: StreamId, at: Timestamp) -> Result<Outcome> {
        self.change(id, doc! { "flagged": { "$ne": true } }, changed(at, doc! { "flagged": true })).await
    }
}

impl Mongo {
    /// Another application may have written the same owner in the other form, which to an index is another owner.
    async fn check_other_form(&self, stream: &Stream) -> Result<(), CreateError> {
        let Some(other) = forms(&stream.owner_id).into_iter().nth(1) else { return Ok(()) };
        let mut live = is_live();
        live.extend(doc! { "ownerId": other, "_id": { "$ne": stream.id } });
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

    /// A document that is no stream is passed over here as in lists.
    pub(super) async fn find_stream(&self, filter: Document) -> Result<Option<Stream>> {
        let filter = page::all(vec![filter, is_stream()]);
        Ok(run(self.of(STREAMS).find_one(filter)).await?.as_ref().and_then(readable))
    }

    /// The stream that an operation is about.
    pub(super) async fn existing(&self, id: StreamId) -> Result<Stream> {
        self.stream(id).await?.ok_or(StoreError::NotFound)
    }

    /// Of the streams that have no date but that of their id.
    async fn page_of_undated(
        &self,
        filter: &StreamFilter,
        after: Option<(i64, ObjectId)>,
        limit: usize,
    ) -> Result<Vec<Stream>> {
        let mut undated = conditions(filter);
        undated.push(is_undated());
        undated.extend(after.map(|(millis, id)| doc! { "_id": { "$lt": page::first_not_older(millis, id) } }));
        self.list(page::all(undated), doc! { "_id": -1 }, limit).await
    }

    /// Looks whether an application that was here before left streams without a date.
    pub(super) async fn note_undated(&mut self) -> Result<()> {
        let undated = page::all(vec![is_undated(), is_stream()]);
        let streams = self.of(STREAMS);
        self.has_undated = within(UPKEEP_MAX, streams.find_one(undated).into_future()).await?.is_some();
        Ok(())
    }

    /// Documents that are no streams are passed over: one of them must hide no others, and end no list.
    async fn list(&self, filter: Document, sort: Document, limit: usize) -> Result<Vec<Stream>> {
        let filter = page::all(vec![filter, is_stream()]);
        let find = |limit| {
            let (streams, filter, sort) = (self.of(STREAMS), filter.clone(), sort.clone());
            async move { collect(streams.find(filter).sort(sort).limit(limit)).await }
        };
        page::readable(STREAMS, limit, find, stream_document::read).await
    }

    /// Ends all live streams of an owner but the one started last, whichever way the owner is written.
    ///
    /// The application that was here before had no such rule, and left streams live when it crashed.
    pub(super) async fn end_all_but_the_newest(&self) -> Result<()> {
        let live = self.of(STREAMS);
        let live = live.find(page::all(vec![is_live(), is_stream()]));
        let live: Vec<_> = within(UPKEEP_MAX, async { live.await?.try_collect().await }).await?;
        let mut live: Vec<_> = live.iter().filter_map(readable).collect();
        live.sort_by_key(|stream| std::cmp::Reverse((stream.started_at, stream.id)));
        let (mut owners, now) = (std::collections::HashSet::new(), Timestamp::now());
        for stream in live {
            if owners.insert(stream.owner_id) {
                continue;
            }
            let end = Transition {
                from: StreamState::LIVE.to_vec(),
                to: StreamState::Ended,
                at: now,
                end_reason: Some(EndReason::ServerLost),
                room_sid: None,
            };
            if self.transition(stream.id, &end).await?.changed() {
                info!(stream = %stream.id, "ended a live stream whose owner had started another later");
            }
        }
        Ok(())
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
    ) -> std::result::Result<Option<Stream>, Fault> {
        let filter = doc! { "_id": id, "$and": [condition, is_stream()] };
        let streams = self.of(STREAMS);
        let write = streams.find_one_and_update(filter, update).return_document(ReturnDocument::After);
        Ok(run(write).await?.as_ref().and_then(readable))
    }
}

fn conditions(filter: &StreamFilter) -> Vec<Document> {
    let mut all = Vec::new();
    if let Some(owner) = &filter.owner {
        all.push(doc! { "ownerId": { "$in": forms(owner) } });
    }
    if StreamState::LIVE.iter().all(|state| filter.states.contains(state)) && filter.states.len() == 3 {
        all.push(is_live());
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

/// The stream of a document; none, if it is one that an application wrote and that can be no stream.
pub(super) fn readable(found: &Document) -> Option<Stream> {
    page::one(STREAMS, found, stream_document::read)
}
