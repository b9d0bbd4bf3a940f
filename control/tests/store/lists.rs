//! Lists of streams: sorted, filtered, and read page by page while they change.

use std::collections::BTreeSet;

use control::clock::Timestamp;
use control::store::SharedStore;
use control::store::stream::{PageEnd, Stream, StreamFilter, StreamId, StreamOrder, StreamState, Visibility};

use super::fixture::*;

fn key(stream: &Stream, order: StreamOrder) -> i64 {
    let time = match order {
        StreamOrder::NewestFirst => Some(stream.created_at),
        StreamOrder::StartedLast => stream.started_at,
        StreamOrder::SoonestFirst => stream.scheduled_for,
    };
    time.map_or(-1, Timestamp::millis)
}

fn page_end(stream: &Stream, order: StreamOrder) -> PageEnd {
    PageEnd { key: key(stream, order), id: stream.id.to_string() }
}

/// Reads all pages, and calls `between` after each but the last.
async fn pages<F: AsyncFnMut(usize)>(
    store: &SharedStore,
    filter: &StreamFilter,
    order: StreamOrder,
    limit: usize,
    mut between: F,
) -> Vec<Stream> {
    let mut all = Vec::new();
    for number in 0..100 {
        let after = all.last().map(|last| page_end(last, order));
        let page = store.streams(filter, order, after.as_ref(), limit).await.unwrap();
        assert!(page.len() <= limit);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
        between(number).await;
    }
    panic!("the list does not end");
}

fn live() -> StreamFilter {
    StreamFilter { states: StreamState::LIVE.to_vec(), ..StreamFilter::default() }
}

fn ids(streams: &[Stream]) -> Vec<StreamId> {
    streams.iter().map(|stream| stream.id).collect()
}

/// Groups of five have equal times in every order.
async fn twenty_five(store: &SharedStore) -> Vec<Stream> {
    let mut all = Vec::new();
    for n in 0..25 {
        let time = at(3_000 + n / 5);
        let stream = Stream {
            created_at: time,
            started_at: Some(time),
            scheduled_for: Some(time),
            ..starting(&format!("owner-{n}"))
        };
        store.create(&stream).await.unwrap();
        all.push(stream);
    }
    all
}

pub async fn pages_give_all_in_order_also_with_equal_keys(store: SharedStore) {
    let mut all = twenty_five(&store).await;
    for order in [StreamOrder::NewestFirst, StreamOrder::StartedLast, StreamOrder::SoonestFirst] {
        all.sort_by_key(|stream| (key(stream, order), stream.id));
        if !matches!(order, StreamOrder::SoonestFirst) {
            all.reverse();
        }
        for limit in [1, 7, 25, 100] {
            let read = pages(&store, &StreamFilter::default(), order, limit, async |_| ()).await;
            assert_eq!(ids(&read), ids(&all), "{order:?} {limit}");
        }
        let read = pages(&store, &live(), order, 7, async |_| ()).await;
        assert_eq!(ids(&read), ids(&all), "{order:?}, live ones");
    }
}

pub async fn no_row_is_given_twice_while_rows_come_and_go(store: SharedStore) {
    let all = twenty_five(&store).await;
    let order = StreamOrder::StartedLast;
    let leaving: Vec<_> = all.iter().step_by(4).map(|stream| stream.id).collect();
    let mut to_leave = leaving.clone().into_iter();

    let read = pages(&store, &live(), order, 3, async |page| {
        if let Some(id) = to_leave.next() {
            store.transition(id, &end(at(9_000))).await.unwrap();
        }
        let newer = Stream { started_at: Some(at(5_000)), ..starting(&format!("late-{page}")) };
        store.create(&newer).await.unwrap();
    })
    .await;

    let distinct: BTreeSet<_> = ids(&read).into_iter().collect();
    assert_eq!(distinct.len(), read.len(), "a row was given twice");
    for stream in all.iter().filter(|stream| !leaving.contains(&stream.id)) {
        assert!(distinct.contains(&stream.id), "a row that stayed was left out");
    }
}

pub async fn streams_without_the_time_that_sorts_are_left_out(store: SharedStore) {
    let (plain, later) = (starting("ann"), scheduled("bob", at(7)));
    store.create(&plain).await.unwrap();
    store.create(&later).await.unwrap();
    let list = async |order| ids(&store.streams(&StreamFilter::default(), order, None, 10).await.unwrap());

    assert_eq!(list(StreamOrder::StartedLast).await, [plain.id]);
    assert_eq!(list(StreamOrder::SoonestFirst).await, [later.id]);
    assert_eq!(list(StreamOrder::NewestFirst).await.len(), 2);
}

pub async fn filters_hold_together(store: SharedStore) {
    let shown = scheduled("ann", at(1));
    let hidden = Stream { visibility: Visibility::Private, ..scheduled("ann", at(2)) };
    let flagged = Stream { flagged: true, ..starting("ann") };
    let other = starting("bob");
    let over = ended("bob", at(9));
    for stream in [&shown, &hidden, &flagged, &other, &over] {
        store.create(stream).await.unwrap();
    }
    let every = StreamFilter::default();
    let ann = StreamFilter { owner: Some(user("ann")), ..every.clone() };
    let bob = StreamFilter { owner: Some(user("bob")), ..every.clone() };
    let scheduled = StreamFilter { states: vec![StreamState::Scheduled], ..every.clone() };
    for (filter, expected) in [
        (every.clone(), vec![&shown, &hidden, &flagged, &other, &over]),
        (ann.clone(), vec![&shown, &hidden, &flagged]),
        (live(), vec![&flagged, &other]),
        (StreamFilter { states: StreamState::LIVE.to_vec(), ..bob.clone() }, vec![&other]),
        (scheduled.clone(), vec![&shown, &hidden]),
        (StreamFilter { visibility: Some(Visibility::Public), ..scheduled.clone() }, vec![&shown]),
        (StreamFilter { visibility: Some(Visibility::Private), ..scheduled }, vec![&hidden]),
        (StreamFilter { states: vec![StreamState::Scheduled, StreamState::Ended], ..bob }, vec![&over]),
        (StreamFilter { flagged: Some(true), ..every.clone() }, vec![&flagged]),
        (StreamFilter { flagged: Some(false), ..ann }, vec![&shown, &hidden]),
        (StreamFilter { states: vec![StreamState::Cancelled], ..every }, vec![]),
    ] {
        let found = pages(&store, &filter, StreamOrder::NewestFirst, 2, async |_| ()).await;
        let found: BTreeSet<_> = ids(&found).into_iter().collect();

        assert_eq!(found, expected.iter().map(|stream| stream.id).collect(), "{filter:?}");
    }
}

pub async fn a_cursor_that_means_nothing_does_no_harm(store: SharedStore) {
    twenty_five(&store).await;
    for id in ["", "nope", "'; DROP TABLE streams; --", "\u{0}"] {
        let after = PageEnd { key: at(3_002).millis(), id: id.to_owned() };

        let page = store.streams(&live(), StreamOrder::StartedLast, Some(&after), 50).await;

        assert!(page.is_ok_and(|page| page.len() <= 25));
    }
}

pub async fn changes_since_a_time_come_oldest_first(store: SharedStore) {
    let mut all = Vec::new();
    for n in 0..9 {
        let stream = Stream { updated_at: at(100 + n / 3), ..starting(&format!("owner-{n}")) };
        store.create(&stream).await.unwrap();
        all.push(stream);
    }
    all.sort_by_key(|stream| (stream.updated_at, stream.id));
    let since = async |time, limit| ids(&store.streams_changed_since(time, limit).await.unwrap());

    assert_eq!(since(at(0), 100).await, ids(&all));
    assert_eq!(since(at(101), 100).await, ids(&all[3..]));
    assert_eq!(since(at(101), 4).await, ids(&all[3..7]));
    assert_eq!(since(at(103), 100).await, []);

    store.set_flagged(all[0].id, at(500)).await.unwrap();
    assert_eq!(since(at(102), 100).await, [ids(&all[6..]), vec![all[0].id]].concat());
}

pub async fn a_change_of_presence_is_seen_by_who_asks_for_changes(store: SharedStore) {
    let stream = new_stream(&store).await;
    let before = Timestamp::now();

    // The webhook was late: the session began long before anybody asked.
    store.presence_join(stream.id, &session("PA_1", "viewer", at(1))).await.unwrap();

    assert_eq!(ids(&store.streams_changed_since(before, 10).await.unwrap()), [stream.id]);
}

pub async fn scheduled_streams_are_counted_until_they_start_or_are_cancelled(store: SharedStore) {
    let (first, second) = (scheduled("ann", at(1)), scheduled("ann", at(2)));
    for stream in [&first, &second, &scheduled("bob", at(3)), &starting("ann")] {
        store.create(stream).await.unwrap();
    }
    assert_eq!(store.count_scheduled(&user("ann")).await.unwrap(), 2);

    store.transition(first.id, &to(StreamState::Cancelled, &[StreamState::Scheduled], at(5))).await.unwrap();

    assert_eq!(store.count_scheduled(&user("ann")).await.unwrap(), 1);
}
