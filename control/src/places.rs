//! Who has a place among the viewers of a stream whose room is in this process (`live.max_viewers`).
//!
//! A join is admitted before its session is in the room and recorded: by the number of viewers alone, several joins at
//! the same time would all be given the last place. So a user takes a place when admitted, under one lock, and keeps it
//! until no session of the user is left. Where a stream's room is in several processes, each knows of its own viewers
//! only.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use signaling::room::JOIN_TIMEOUT;

use crate::rooms::event::{Event, EventKind};
use crate::rooms::{Session, presence_of};
use crate::store::stream::{Stream, UserId};

/// How long a place is kept for a user who was admitted and is not heard of: until the room would have given the
/// session up, and a little longer for the way there. A resumed session is not heard of, nor is a token that was only
/// validated.
const COMING_MAX: Duration = JOIN_TIMEOUT.saturating_add(Duration::from_secs(10));

/// A session that was heard of so recently may be missing in a list that was asked for before.
const YOUNG: Duration = Duration::from_secs(10);

/// By name of the room. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<String, Audience>>>);

#[derive(Debug, Default)]
struct Audience {
    users: HashMap<UserId, Place>,
    /// Sessions that were heard of, by `sid`: their user, and since when.
    sessions: HashMap<String, (UserId, Instant)>,
    /// Some sessions that came were perhaps not heard of.
    in_doubt: bool,
}

#[derive(Debug)]
struct Place {
    /// Joins that were admitted and not heard of since.
    coming: u32,
    /// Until when these are waited for.
    until: Instant,
    /// Sessions in the room.
    inside: u32,
}

impl Place {
    fn is_free(&self, now: Instant) -> bool {
        self.inside == 0 && (self.coming == 0 || self.until <= now)
    }
}

impl Places {
    /// Whether a user may join: one who has a place, or takes one of those that are left.
    pub(crate) fn take(&self, stream: &Stream, user: UserId, max: u32, now: Instant) -> bool {
        self.with(|rooms| {
            let audience = rooms.entry(stream.room_name.clone()).or_default();
            let is_full = |audience: &Audience| audience.users.len() >= usize::try_from(max).unwrap_or(usize::MAX);
            if is_full(audience) && !audience.users.contains_key(&user) {
                audience.users.retain(|_, place| !place.is_free(now));
                if is_full(audience) {
                    return false;
                }
            }
            audience.place(user, now).coming += 1;
            true
        })
    }

    /// Takes in what happened in the room of a live stream.
    pub(crate) fn hear(&self, stream: &Stream, event: &Event, now: Instant) {
        match &event.kind {
            EventKind::Joined(session) => self.joined(stream, session, now),
            EventKind::Left(session) => self.left(stream, &session.sid),
            EventKind::Aborted(session) => self.aborted(stream, session),
            EventKind::RoomFinished => self.forget(&stream.room_name),
            EventKind::RoomStarted | EventKind::TrackPublished(_) | EventKind::TrackUnpublished | EventKind::Other => {}
        }
    }

    fn joined(&self, stream: &Stream, session: &Session, now: Instant) {
        let presence = presence_of(stream, session);
        if presence.counts {
            self.with(|rooms| {
                rooms.entry(stream.room_name.clone()).or_default().enter(presence.user_id, &session.sid, now);
            });
        }
    }

    fn left(&self, stream: &Stream, sid: &str) {
        self.of(stream, |audience| audience.leave(sid));
    }

    fn aborted(&self, stream: &Stream, session: &Session) {
        let presence = presence_of(stream, session);
        if presence.counts {
            self.of(stream, |audience| audience.give_up(&presence.user_id));
        }
    }

    /// Events of rooms were missed, nobody knows which.
    pub(crate) fn doubt_all(&self) {
        self.with(|rooms| rooms.values_mut().for_each(|audience| audience.in_doubt = true));
    }

    /// Makes up for events that were missed.
    pub(crate) fn correct(&self, stream: &Stream, sessions: &[Session], now: Instant) {
        self.of(stream, |audience| audience.correct(stream, sessions, now));
    }

    pub(crate) fn forget(&self, room: &str) {
        self.with(|rooms| rooms.remove(room));
    }

    fn of(&self, stream: &Stream, change: impl FnOnce(&mut Audience)) {
        self.with(|rooms| rooms.get_mut(&stream.room_name).map(change));
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashMap<String, Audience>) -> T) -> T {
        change(&mut self.0.lock().expect("no one panics with this lock"))
    }
}

impl Audience {
    /// That of a user who joins.
    fn place(&mut self, user: UserId, now: Instant) -> &mut Place {
        let place = self.users.entry(user).or_insert(Place { coming: 0, until: now, inside: 0 });
        if place.until <= now {
            place.coming = 0;
        }
        place.until = now + COMING_MAX;
        place
    }

    fn enter(&mut self, user: UserId, sid: &str, now: Instant) {
        if self.sessions.contains_key(sid) {
            return;
        }
        self.sessions.insert(sid.to_owned(), (user.clone(), now));
        let place = self.users.entry(user).or_insert(Place { coming: 0, until: now, inside: 0 });
        place.coming = place.coming.saturating_sub(1);
        place.inside += 1;
    }

    fn leave(&mut self, sid: &str) {
        let Some((user, _)) = self.sessions.remove(sid) else { return };
        self.change(&user, |place| place.inside = place.inside.saturating_sub(1));
    }

    fn give_up(&mut self, user: &UserId) {
        self.change(user, |place| place.coming = place.coming.saturating_sub(1));
    }

    /// Gives the place back that is of no use any more.
    fn change(&mut self, user: &UserId, change: impl FnOnce(&mut Place)) {
        let Some(place) = self.users.get_mut(user) else { return };
        change(place);
        if place.coming == 0 && place.inside == 0 {
            self.users.remove(user);
        }
    }

    fn correct(&mut self, stream: &Stream, sessions: &[Session], now: Instant) {
        let inside: HashSet<&str> = sessions.iter().map(|session| session.sid.as_str()).collect();
        let is_gone = |sid: &String, since: &Instant| !inside.contains(sid.as_str()) && *since + YOUNG <= now;
        let gone = self.sessions.iter().filter(|(sid, (_, since))| is_gone(sid, since));
        for sid in gone.map(|(sid, _)| sid.clone()).collect::<Vec<_>>() {
            self.leave(&sid);
        }
        if !std::mem::take(&mut self.in_doubt) {
            return;
        }
        for session in sessions.iter().filter(|session| session.active) {
            let presence = presence_of(stream, session);
            if presence.counts {
                self.enter(presence.user_id, &session.sid, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::rooms::RoomRole;

    fn id(user: &str) -> UserId {
        user.parse().unwrap()
    }

    fn session(user: &str, sid: &str) -> Session {
        Session {
            sid: sid.into(),
            identity: format!("{user}:{sid}"),
            user: Some(id(user)),
            role: Some(RoomRole::Viewer),
            standard: true,
            hidden: false,
            recorder: false,
            joined_at: Timestamp::default(),
            active: true,
            publishes: false,
        }
    }

    struct Hall {
        places: Places,
        stream: Stream,
        begin: Instant,
    }

    impl Hall {
        fn new() -> Self {
            let stream = Stream { room_name: "live_ana_1".into(), ..Stream::new(id("ana"), Timestamp::default()) };
            Self { places: Places::default(), stream, begin: Instant::now() }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.begin + Duration::from_secs(seconds)
        }

        /// Of two places.
        fn take(&self, user: &str, seconds: u64) -> bool {
            self.places.take(&self.stream, id(user), 2, self.at(seconds))
        }

        fn hear(&self, kind: EventKind, seconds: u64) {
            let room = self.stream.room_name.clone();
            let event = Event { event_id: None, room, room_sid: String::new(), at: Timestamp::default(), kind };
            self.places.hear(&self.stream, &event, self.at(seconds));
        }
    }

    #[test]
    fn a_place_is_taken_before_the_join_is_heard_of_and_kept_until_the_last_session_leaves() {
        let hall = Hall::new();
        assert!(hall.take("bo", 0) && hall.take("cy", 0) && !hall.take("dan", 0));
        assert!(hall.take("bo", 0), "a second device");
        for sid in ["1", "2"] {
            hall.hear(EventKind::Joined(session("bo", sid)), 1);
            hall.hear(EventKind::Joined(session("bo", sid)), 1);
        }
        hall.hear(EventKind::Left(session("bo", "1")), 2);
        assert!(!hall.take("dan", 2));
        hall.hear(EventKind::Left(session("bo", "2")), 3);

        assert!(hall.take("dan", 3));
        assert!(!hall.take("bo", 3));
    }

    #[test]
    fn a_join_that_came_to_nothing_gives_its_place_back() {
        let hall = Hall::new();
        assert!(hall.take("bo", 0) && hall.take("bo", 0) && hall.take("cy", 0));

        hall.hear(EventKind::Aborted(session("bo", "1")), 1);
        assert!(!hall.take("dan", 1), "another one is still on its way");
        hall.hear(EventKind::Aborted(session("bo", "2")), 1);
        assert!(hall.take("dan", 1));
        assert!(!hall.take("eve", 69));
        assert!(hall.take("eve", 70), "cy was never heard of");
    }

    #[test]
    fn who_is_inside_keeps_the_place_without_joining_again() {
        let hall = Hall::new();
        assert!(hall.take("bo", 0) && hall.take("cy", 0));
        hall.hear(EventKind::Joined(session("bo", "1")), 1);
        hall.hear(EventKind::Joined(session("cy", "2")), 1);

        assert!(!hall.take("dan", 1_000));
    }

    #[test]
    fn missed_events_are_made_up_for() {
        let hall = Hall::new();
        assert!(hall.take("bo", 0) && hall.take("cy", 0));
        hall.hear(EventKind::Joined(session("bo", "1")), 0);
        hall.places.doubt_all();
        hall.places.correct(&hall.stream, &[session("cy", "2")], hall.at(5));
        assert!(!hall.take("dan", 80), "bo was young, and cy came");

        hall.places.correct(&hall.stream, &[session("cy", "2")], hall.at(80));
        assert!(hall.take("dan", 80));
        hall.places.correct(&hall.stream, &[session("eve", "3")], hall.at(90));
        assert!(hall.take("bo", 90), "cy is gone, and without a doubt the list adds nobody");
    }

    #[test]
    fn who_is_in_the_room_keeps_the_place_however_often_that_is_looked_up() {
        let hall = Hall::new();
        assert!(hall.take("bo", 0) && hall.take("cy", 0));
        let inside = [session("bo", "1"), session("cy", "2")];
        for session in &inside {
            hall.hear(EventKind::Joined(session.clone()), 0);
        }

        for seconds in [9, 10, 100] {
            hall.places.correct(&hall.stream, &inside, hall.at(seconds));
            assert!(!hall.take("dan", seconds), "both are inside, after {seconds} s");
        }
        hall.places.correct(&hall.stream, &inside[1..], hall.at(101));
        assert!(hall.take("dan", 101), "bo's leave was missed");
        assert!(!hall.take("eve", 101), "cy is still inside");
    }

    #[test]
    fn the_end_of_a_room_leaves_nothing() {
        let hall = Hall::new();
        assert!(hall.take("bo", 0) && hall.take("cy", 0));
        hall.hear(EventKind::RoomFinished, 1);

        assert!(hall.places.with(|rooms| rooms.is_empty()));
    }

    #[test]
    fn of_many_at_once_no_more_than_there_are_places_come_in() {
        let hall = Hall::new();
        let taken: usize = std::thread::scope(|scope| {
            let hall = &hall;
            let takers: Vec<_> =
                (0..16).map(|number| scope.spawn(move || usize::from(hall.take(&format!("u{number}"), 0)))).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });

        assert_eq!(taken, 2);
    }
}
