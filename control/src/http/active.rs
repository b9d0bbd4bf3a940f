//! The list of live streams, from memory (stream API, section 4.3).
//!
//! Browse screens poll it without a token. Such an answer is made at most once a second for each query, and given again
//! as bytes with a weak `ETag`, or as 304.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Digest as _;

use super::Front;
use super::caller::MaybeUser;
use super::page::{Page, Query};
use super::shape::{StreamPage, StreamShape};
use crate::problem::Problem;
use crate::refusals;
use crate::store::stream::{PageEnd, Stream, UserId};
use crate::stream_cache::StreamCache;
use crate::text;
use crate::user::User;

/// Oldest answer that somebody without a token gets.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);

/// Answers of one snapshot that are kept, each for another query.
const RENDERED_MAX: usize = 256;

/// Longest query whose answer is kept.
const QUERY_BYTES_MAX: usize = 512;

const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=2");
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Newest first.
    StartedAt,
    /// Most viewers first. They move between two pages: a row may then be missing or come twice.
    Viewers,
}

/// What is asked for.
struct Wanted {
    page: Page,
    sort: Sort,
    tags: Vec<String>,
    owner: Option<UserId>,
}

impl Wanted {
    fn read(query: &Query) -> Result<Self, Problem> {
        let sort = query.read("sort", "must be startedAt or viewers", |text| match text {
            "startedAt" => Some(Sort::StartedAt),
            "viewers" => Some(Sort::Viewers),
            _ => None,
        })?;
        let sort = sort.unwrap_or(Sort::StartedAt);
        let tags: Result<_, _> = query.all("tag").map(text::tag).collect();
        let page = query.page(match sort {
            Sort::StartedAt => 's',
            Sort::Viewers => 'v',
        })?;
        Ok(Self {
            page,
            sort,
            tags: tags.map_err(|error| super::page::invalid("tag", &format!("is no tag: {error}")))?,
            owner: query.read("ownerId", "must have 1 to 128 bytes", |id| id.parse().ok())?,
        })
    }

    fn matches(&self, stream: &Stream, caller: Option<&User>) -> bool {
        self.owner.as_ref().is_none_or(|owner| *owner == stream.owner_id)
            && self.tags.iter().all(|tag| stream.tags.contains(tag))
            && caller.is_none_or(|caller| caller.is_admin() || !stream.blocks(&caller.id))
    }

    /// The rows of the page, from all live streams, the newest first.
    fn page_of(&self, all: &[Arc<Stream>], caller: Option<&User>) -> StreamPage {
        let mut rows: Vec<(i64, &Arc<Stream>)> =
            all.iter().filter(|stream| self.matches(stream, caller)).map(|stream| (self.key(stream), stream)).collect();
        if self.sort == Sort::Viewers {
            rows.sort_by_key(|(key, stream)| Reverse((*key, stream.id)));
        }
        if let Some(after) = &self.page.after {
            let end = (after.key, after.id.as_str());
            rows.retain(|(key, stream)| (*key, stream.id.to_string().as_str()) < end);
        }
        rows.truncate(self.page.look_up());
        let next_cursor = self.page.cut(&mut rows, |(key, stream)| PageEnd { key: *key, id: stream.id.to_string() });
        StreamPage { streams: rows.into_iter().map(|(_, stream)| StreamShape::from(&**stream)).collect(), next_cursor }
    }

    fn key(&self, stream: &Stream) -> i64 {
        match self.sort {
            Sort::StartedAt => stream.started_at.unwrap_or_default().millis(),
            Sort::Viewers => i64::from(stream.viewers),
        }
    }
}

/// An answer as bytes.
#[derive(Clone)]
struct Rendered {
    body: Bytes,
    tag: HeaderValue,
}

impl Rendered {
    fn new(page: &StreamPage) -> Self {
        let body = serde_json::to_vec(page).unwrap_or_default();
        let digest = sha2::Sha256::digest(&body);
        let tag = format!("W/\"{}\"", URL_SAFE_NO_PAD.encode(&digest[..12]));
        let tag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("W/\"0\""));
        Self { body: body.into(), tag }
    }

    fn answer(self, headers: &HeaderMap) -> Response {
        let fixed = [(header::CACHE_CONTROL, PUBLIC), (header::VARY, HeaderValue::from_static("authorization"))];
        let tag = [(header::ETAG, self.tag.clone())];
        if knows(headers, self.tag.as_bytes()) {
            return (StatusCode::NOT_MODIFIED, fixed, tag).into_response();
        }
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        (fixed, tag, kind, self.body).into_response()
    }
}

/// Whether `If-None-Match` has the tag; weak tags compare as they are written (RFC 9110, section 8.8.3.2).
fn knows(headers: &HeaderMap, tag: &[u8]) -> bool {
    let strong = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let tag = strong(tag);
    headers.get_all(header::IF_NONE_MATCH).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).any(
        |known| {
            let known = known.trim_ascii();
            known == b"*" || strong(known) == tag
        },
    )
}

/// All live streams at one moment, and the answers made of them.
struct Snapshot {
    made: Instant,
    /// Of [`StreamCache`].
    version: u64,
    streams: Vec<Arc<Stream>>,
    rendered: Mutex<HashMap<String, Rendered>>,
}

/// The newest snapshot.
#[derive(Default)]
pub(super) struct Snapshots(RwLock<Option<Arc<Snapshot>>>);

impl Snapshots {
    fn newest(&self, cache: &StreamCache, now: Instant) -> Arc<Snapshot> {
        let fresh = |snapshot: &&Arc<Snapshot>| {
            now.saturating_duration_since(snapshot.made) < SNAPSHOT_AGE_MAX || snapshot.version == cache.version()
        };
        if let Some(snapshot) = self.0.read().expect("no one panics with this lock").as_ref().filter(fresh) {
            return Arc::clone(snapshot);
        }
        let mut newest = self.0.write().expect("no one panics with this lock");
        // Somebody else may have made it meanwhile.
        if let Some(snapshot) = newest.as_ref().filter(fresh) {
            return Arc::clone(snapshot);
        }
        // The version is read first: after a change in between, the snapshot counts as older than it is, not as newer.
        let version = cache.version();
        let snapshot = Snapshot { made: now, version, streams: cache.all(), rendered: Mutex::default() };
        Arc::clone(newest.insert(Arc::new(snapshot)))
    }
}

impl Snapshot {
    fn render(&self, query: &str) -> Result<Rendered, Problem> {
        if let Some(rendered) = self.rendered.lock().expect("no one panics with this lock").get(query) {
            return Ok(rendered.clone());
        }
        let rendered = Rendered::new(&Wanted::read(&Query::parse(query))?.page_of(&self.streams, None));
        let mut kept = self.rendered.lock().expect("no one panics with this lock");
        if kept.len() < RENDERED_MAX && query.len() <= QUERY_BYTES_MAX {
            kept.insert(query.to_owned(), rendered.clone());
        }
        Ok(rendered)
    }
}

refusals!(ActiveRefusals = [USER, LIVE, LIST]);

/// All live streams.
#[utoipa::path(
    get, path = "/api/live/active", tag = "streams", operation_id = "listActiveStreams",
    security((), ("user" = [])),
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, min_length = 1, max_length = 256),
        ("tag" = Option<Vec<String>>, Query, description = "All of them must match"),
        ("ownerId" = Option<String>, Query, min_length = 1, max_length = 128),
        ("sort" = inline(Option<SortNames>), Query, description = "`startedAt` (newest first) or `viewers` (most first)"),
        ("If-None-Match" = Option<String>, Header)
    ),
    responses(
        (status = 200, description = "A page of streams", body = StreamPage),
        (status = 304, description = "As it was"),
        ActiveRefusals
    )
)]
pub(super) async fn active(
    State(front): State<Arc<Front>>,
    MaybeUser(user): MaybeUser,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = query.as_deref().unwrap_or_default();
    let cache = front.lifecycle.cache();
    let Some(user) = user else {
        return Ok(front.snapshots.newest(cache, Instant::now()).render(query)?.answer(&headers));
    };
    let page = Wanted::read(&Query::parse(query))?.page_of(&cache.all(), Some(&user));
    let fixed = [(header::CACHE_CONTROL, PRIVATE), (header::VARY, HeaderValue::from_static("authorization"))];
    Ok((fixed, axum::Json(page)).into_response())
}

/// Names of [`Sort`], for the description.
#[derive(utoipa::ToSchema)]
#[schema(as = ActiveSort, rename_all = "camelCase")]
#[expect(dead_code, reason = "only describes")]
enum SortNames {
    StartedAt,
    Viewers,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::store::stream::StreamState;

    fn live_stream(viewers: u32) -> Stream {
        let at = Timestamp::from_millis(1_767_323_045_678);
        let owner = format!("owner-{viewers}").parse().unwrap();
        Stream { viewers, state: StreamState::Live, started_at: Some(at), ..Stream::new(owner, at) }
    }

    #[test]
    fn the_most_watched_come_first_page_by_page() {
        let all = [1, 3, 0, 2].map(|viewers| Arc::new(live_stream(viewers)));
        let mut query = "sort=viewers&limit=3".to_owned();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let page = Wanted::read(&Query::parse(&query)).unwrap().page_of(&all, None);
            let page = serde_json::to_value(page).unwrap();
            seen.extend(page["streams"].as_array().unwrap().iter().map(|stream| stream["viewers"].as_u64().unwrap()));
            query = format!("sort=viewers&limit=3&cursor={}", page["nextCursor"].as_str().unwrap_or_default());
        }

        assert_eq!(seen, [3, 2, 1, 0]);
    }

    #[test]
    fn a_list_for_strangers_is_at_most_a_second_old() {
        let (cache, snapshots, start) = (StreamCache::default(), Snapshots::default(), Instant::now());
        let count = |millis| snapshots.newest(&cache, start + Duration::from_millis(millis)).streams.len();
        assert_eq!(count(0), 0);
        cache.observe(live_stream(1), |_| ()).unwrap();

        assert_eq!(count(999), 0);
        assert_eq!(count(1_000), 1);
    }

    #[test]
    fn whatever_strangers_ask_for_little_is_kept() {
        let fresh = || Snapshots::default().newest(&StreamCache::default(), Instant::now());
        let kept = |snapshot: &Snapshot| snapshot.rendered.lock().unwrap().len();
        let (many, long) = (fresh(), fresh());
        for number in 0..RENDERED_MAX + 10 {
            many.render(&format!("tag=t{number}")).unwrap();
        }
        long.render(&format!("limit=1{}", "&".repeat(QUERY_BYTES_MAX))).unwrap();

        assert_eq!((kept(&many), kept(&long)), (RENDERED_MAX, 0));
    }

    #[test]
    fn a_known_tag_is_found_in_a_list_whether_weak_or_not() {
        let knows = |sent: &'static str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(sent))]);
            super::knows(&headers, b"W/\"a\"")
        };

        assert!(knows("W/\"a\"") && knows("\"a\"") && knows("\"b\", W/\"a\"") && knows("*"));
        assert!(!knows("W/\"b\"") && !knows("a"));
    }
}
