//! Presence: whatever comes, in whatever order and however often, the numbers end at the truth.

use std::collections::{BTreeMap, BTreeSet};

use control::store::presence::Presence;
use control::store::stream::{Stream, StreamId};
use control::store::{SharedStore, StoreError};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::fixture::*;

fn numbers(stream: &Stream) -> (u32, u32, u32) {
    (stream.viewers, stream.peak_viewers, stream.unique_viewers)
}

async fn join(store: &SharedStore, id: StreamId, session: &Presence) -> (u32, u32, u32) {
    numbers(&store.presence_join(id, session).await.unwrap().stream)
}

async fn leave(store: &SharedStore, id: StreamId, session: &Presence) -> (u32, u32, u32) {
    numbers(&store.presence_leave(id, session, at(1_000)).await.unwrap().stream)
}

fn without_count(sid: &str, of: &str) -> Presence {
    Presence { counts: false, ..session(sid, of, at(1)) }
}

pub async fn a_session_is_kept_with_its_times(store: SharedStore) {
    let stream = new_stream(&store).await;
    let (first, second) = (session("PA_2", "a", at(1)), without_count("PA_1", "b"));
    store.presence_join(stream.id, &first).await.unwrap();
    store.presence_join(stream.id, &second).await.unwrap();
    assert_eq!(store.presence_open(stream.id).await.unwrap(), [second.clone(), first.clone()]);
    assert!(store.presence_of(stream.id, &first.user_id).await.unwrap());
    assert!(!store.presence_of(stream.id, &second.user_id).await.unwrap(), "it does not count");

    store.presence_leave(stream.id, &first, at(77)).await.unwrap();

    assert!(!store.presence_of(stream.id, &first.user_id).await.unwrap());
    let left = Presence { left_at: Some(at(77)), ..first };
    assert_eq!(store.presence_open(stream.id).await.unwrap(), std::slice::from_ref(&second));
    assert_eq!(store.presence_all(stream.id, 10).await.unwrap(), [second.clone(), left]);
    assert_eq!(store.presence_all(stream.id, 1).await.unwrap(), [second]);
}

pub async fn presence_of_an_unknown_stream_is_not_found(store: SharedStore) {
    let (id, session) = (StreamId::generate(), session("PA_1", "a", at(1)));

    assert!(matches!(store.presence_join(id, &session).await, Err(StoreError::NotFound)));
    assert!(matches!(store.presence_leave(id, &session, at(2)).await, Err(StoreError::NotFound)));
    assert_eq!(store.presence_open(id).await.unwrap(), []);
    assert_eq!(store.presence_all(id, 10).await.unwrap(), []);
}

pub async fn a_join_and_a_leave_count_once(store: SharedStore) {
    let stream = new_stream(&store).await;
    let viewer = session("PA_1", "a", at(1));

    let joined = store.presence_join(stream.id, &viewer).await.unwrap();
    assert!(joined.changed);
    assert_eq!((numbers(&joined.stream), joined.stream.rev), ((1, 1, 1), 1));
    let again = store.presence_join(stream.id, &viewer).await.unwrap();
    assert!(!again.changed);
    assert_eq!(again.stream, joined.stream);

    let left = store.presence_leave(stream.id, &viewer, at(5)).await.unwrap();
    assert!(left.changed);
    assert_eq!((numbers(&left.stream), left.stream.rev), ((0, 1, 1), 2));
    let again = store.presence_leave(stream.id, &viewer, at(6)).await.unwrap();
    assert!(!again.changed);
    assert_eq!(again.stream, left.stream);
    assert_eq!(store.presence_all(stream.id, 10).await.unwrap()[0].left_at, Some(at(5)));
    assert_eq!(read(&store, stream.id).await, left.stream);
}

pub async fn a_leave_before_its_join_ends_as_absent(store: SharedStore) {
    let stream = new_stream(&store).await;
    let viewer = session("PA_1", "a", at(1));

    assert_eq!(leave(&store, stream.id, &viewer).await, (0, 0, 1));
    let joined = store.presence_join(stream.id, &viewer).await.unwrap();

    assert!(!joined.changed);
    assert_eq!(numbers(&joined.stream), (0, 0, 1));
    assert_eq!(store.presence_open(stream.id).await.unwrap(), []);
    assert_eq!(join(&store, stream.id, &session("PA_2", "a", at(9))).await, (1, 1, 1));
}

pub async fn a_user_on_two_devices_is_one_viewer(store: SharedStore) {
    let stream = new_stream(&store).await;
    let (phone, laptop) = (session("PA_1", "a", at(1)), session("PA_2", "a", at(2)));

    assert_eq!(join(&store, stream.id, &phone).await, (1, 1, 1));
    let rev = read(&store, stream.id).await.rev;
    let second = store.presence_join(stream.id, &laptop).await.unwrap();
    assert!(second.changed);
    assert_eq!((numbers(&second.stream), second.stream.rev), ((1, 1, 1), rev), "nothing that is shown has changed");
    assert_eq!(leave(&store, stream.id, &phone).await, (1, 1, 1));
    assert_eq!(leave(&store, stream.id, &laptop).await, (0, 1, 1));
}

pub async fn sessions_that_do_not_count_are_kept_and_not_counted(store: SharedStore) {
    let stream = new_stream(&store).await;
    let owner = without_count("PA_1", "owner");

    let joined = store.presence_join(stream.id, &owner).await.unwrap();
    assert!(joined.changed);
    assert_eq!(joined.stream, stream);
    assert_eq!(join(&store, stream.id, &session("PA_2", "a", at(2))).await, (1, 1, 1));
    assert_eq!(leave(&store, stream.id, &owner).await, (1, 1, 1));
    assert_eq!(store.presence_all(stream.id, 10).await.unwrap().len(), 2);
}

pub async fn one_users_sessions_of_both_kinds_do_not_disturb_each_other(store: SharedStore) {
    let stream = new_stream(&store).await;
    let (hidden, open) = (without_count("PA_1", "a"), session("PA_2", "a", at(2)));

    assert_eq!(join(&store, stream.id, &hidden).await, (0, 0, 0));
    assert_eq!(join(&store, stream.id, &open).await, (1, 1, 1));
    assert_eq!(leave(&store, stream.id, &hidden).await, (1, 1, 1));
    assert_eq!(leave(&store, stream.id, &open).await, (0, 1, 1));
}

pub async fn the_peak_is_the_most_at_one_time_and_unique_who_ever_came(store: SharedStore) {
    let stream = new_stream(&store).await;
    let viewers: Vec<_> = (0..6).map(|n| session(&format!("PA_{n}"), &format!("u{n}"), at(n))).collect();
    for viewer in &viewers[..3] {
        join(&store, stream.id, viewer).await;
    }
    for viewer in &viewers[..2] {
        leave(&store, stream.id, viewer).await;
    }
    for viewer in &viewers[3..5] {
        join(&store, stream.id, viewer).await;
    }
    assert_eq!(numbers(&read(&store, stream.id).await), (3, 3, 5));
    assert_eq!(join(&store, stream.id, &viewers[5]).await, (4, 4, 6));
    assert_eq!(join(&store, stream.id, &session("PA_again", "u0", at(9))).await, (5, 5, 6));
}

pub async fn numbers_of_an_ended_stream_stay_and_its_records_are_written(store: SharedStore) {
    let stream = new_stream(&store).await;
    let (one, two, late) = (session("PA_1", "a", at(1)), session("PA_2", "b", at(2)), session("PA_3", "c", at(3)));
    join(&store, stream.id, &one).await;
    join(&store, stream.id, &two).await;
    let over = store.transition(stream.id, &end(at(50))).await.unwrap().into_stream();
    assert_eq!(numbers(&over), (0, 2, 2));

    let left = store.presence_leave(stream.id, &one, at(51)).await.unwrap();
    let joined = store.presence_join(stream.id, &late).await.unwrap();

    assert!(left.changed && joined.changed);
    assert_eq!((&left.stream, &joined.stream), (&over, &over));
    assert_eq!(store.presence_open(stream.id).await.unwrap(), [two, late]);
}

pub async fn streams_are_counted_apart(store: SharedStore) {
    let (one, two) = (new_stream(&store).await, new_stream(&store).await);
    let viewer = session("PA_1", "a", at(1));

    assert_eq!(join(&store, one.id, &viewer).await, (1, 1, 1));
    assert_eq!(join(&store, two.id, &viewer).await, (1, 1, 1));
    assert_eq!(leave(&store, one.id, &viewer).await, (0, 1, 1));
    assert_eq!(numbers(&read(&store, two.id).await), (1, 1, 1));
}

/// What happened to one session.
#[derive(Clone)]
enum Event {
    Join(Presence),
    Leave(Presence),
}

async fn apply(store: &SharedStore, id: StreamId, event: &Event) -> control::store::presence::PresenceChange {
    match event {
        Event::Join(session) => store.presence_join(id, session).await.unwrap(),
        Event::Leave(session) => store.presence_leave(id, session, at(2_000)).await.unwrap(),
    }
}

/// Sessions of some users, each event up to three times, in any order.
fn shuffled_events(rng: &mut StdRng, sessions: usize, users: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for n in 0..sessions {
        let of = format!("u{}", rng.random_range(0..users));
        let counts = !rng.random_bool(0.1);
        let session = Presence { counts, ..session(&format!("PA_{n}"), &of, at(1)) };
        for _ in 0..rng.random_range(1..3) {
            events.push(Event::Join(session.clone()));
        }
        if rng.random_bool(0.6) {
            for _ in 0..rng.random_range(1..3) {
                events.push(Event::Leave(session.clone()));
            }
        }
    }
    events.shuffle(rng);
    events
}

/// Counts by going through all sessions again each time.
#[derive(Default)]
struct Naive {
    sessions: BTreeMap<String, (Presence, bool)>,
    peak: usize,
}

impl Naive {
    /// Whether anything was written.
    fn apply(&mut self, event: &Event) -> bool {
        let changed = match event {
            Event::Join(session) if self.sessions.contains_key(&session.sid) => false,
            Event::Join(session) => self.sessions.insert(session.sid.clone(), (session.clone(), true)).is_none(),
            Event::Leave(session) => {
                let before = self.sessions.insert(session.sid.clone(), (session.clone(), false));
                before.is_none_or(|(_, open)| open)
            }
        };
        self.peak = self.peak.max(self.users(true));
        changed
    }

    fn users(&self, open_only: bool) -> usize {
        let sessions = self.sessions.values().filter(|(session, open)| session.counts && (*open || !open_only));
        sessions.map(|(session, _)| &session.user_id).collect::<BTreeSet<_>>().len()
    }

    fn numbers(&self) -> (u32, u32, u32) {
        let number = |count| u32::try_from(count).unwrap();
        (number(self.users(true)), number(self.peak), number(self.users(false)))
    }
}

pub async fn events_in_any_order_agree_with_a_naive_count_at_every_step(store: SharedStore) {
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        let stream = new_stream(&store).await;
        let mut naive = Naive::default();
        for (step, event) in shuffled_events(&mut rng, 25, 8).iter().enumerate() {
            let changed = naive.apply(event);
            let change = apply(&store, stream.id, event).await;

            assert_eq!(change.changed, changed, "seed {seed}, step {step}");
            assert_eq!(numbers(&change.stream), naive.numbers(), "seed {seed}, step {step}");
        }
    }
}

pub async fn concurrent_events_in_any_order_end_at_the_true_numbers(store: SharedStore) {
    for seed in 100..103 {
        assert!(events_at_once(&store, seed, (40, 15), 4).await > 80);
    }
}

/// The test set of the contract: 1,000 events, shuffled and repeated.
pub async fn a_thousand_events_end_at_the_true_number(store: SharedStore) {
    assert!(events_at_once(&store, 7, (500, 200), 64).await > 900);
}

/// So many sessions of so many users in so many tasks, and the numbers afterwards; how many events there were.
async fn events_at_once(store: &SharedStore, seed: u64, (sessions, users): (usize, usize), tasks: usize) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let stream = new_stream(store).await;
    let events = shuffled_events(&mut rng, sessions, users);
    let mut naive = Naive::default();
    for event in &events {
        naive.apply(event);
    }
    let tasks = (0..tasks).map(|task| {
        let (store, id) = (store.clone(), stream.id);
        let own: Vec<_> = events.iter().skip(task).step_by(tasks).cloned().collect();
        async move {
            for event in &own {
                apply(&store, id, event).await;
            }
        }
    });
    together(tasks).await;

    let known = read(store, stream.id).await;
    let (viewers, _, unique) = naive.numbers();
    assert_eq!((known.viewers, known.unique_viewers), (viewers, unique), "seed {seed}");
    assert!(known.peak_viewers >= viewers, "seed {seed}");
    events.len()
}
