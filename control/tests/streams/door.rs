//! A media server that is nothing but a list of rooms, which tests fill and take away.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use control::clock::Timestamp;
use control::rooms::{RoomBackend, RoomInfo, RoomsError, Session, TokenRequest};
use signaling::event::{RoomEvent, RoomHappening};
use tokio::sync::{broadcast, watch};

#[derive(Default)]
pub struct FakeDoor {
    rooms: Mutex<BTreeMap<String, Room>>,
    sids: AtomicU32,
    away: AtomicBool,
    /// Whether it answers, and removes nobody.
    refusing: AtomicBool,
    /// Whether the rooms are those of another server, which every process asks.
    elsewhere: AtomicBool,
    events: Events,
    /// The room of which nothing is told, until another one is.
    silent: watch::Sender<String>,
}

/// Where a process hears of its own rooms.
struct Events(broadcast::Sender<RoomEvent>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::channel(1_024).0)
    }
}

#[derive(Default)]
struct Room {
    sid: String,
    sessions: Vec<Session>,
}

impl FakeDoor {
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn set_refusing(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::SeqCst);
    }

    pub fn set_elsewhere(&self) {
        self.elsewhere.store(true, Ordering::SeqCst);
    }

    /// Tells the processes whose rooms these are.
    pub fn happen(&self, room: &str, sid: &str, what: RoomHappening) {
        let (room, room_sid) = (room.parse().unwrap(), sid.parse().unwrap());
        let event = RoomEvent { room, room_sid, number: 1, at: SystemTime::now(), client: None, what };
        self.events.0.send(event).expect("a process listens");
    }

    /// Whoever asks who is in that room waits. None: everybody is answered.
    pub fn set_silent(&self, room: &str) {
        self.silent.send_replace(room.to_owned());
    }

    pub fn put_in(&self, room: &str, session: Session) {
        self.rooms(|rooms| rooms.entry(room.to_owned()).or_default().sessions.push(session));
    }

    pub fn take_out(&self, room: &str, sid: &str) {
        self.rooms(|rooms| {
            if let Some(room) = rooms.get_mut(room) {
                room.sessions.retain(|session| session.sid != sid);
            }
        });
    }

    /// As after a restart.
    pub fn lose_all(&self) {
        self.rooms(BTreeMap::clear);
    }

    pub fn make(&self, name: &str) -> String {
        let sid = format!("RM_{}", self.sids.fetch_add(1, Ordering::SeqCst));
        self.rooms(|rooms| rooms.insert(name.to_owned(), Room { sid: sid.clone(), sessions: Vec::new() }));
        sid
    }

    pub fn has(&self, room: &str) -> bool {
        self.rooms(|rooms| rooms.contains_key(room))
    }

    pub fn identities(&self, room: &str) -> Vec<String> {
        self.rooms(|rooms| match rooms.get(room) {
            Some(room) => room.sessions.iter().map(|session| session.identity.clone()).collect(),
            None => Vec::new(),
        })
    }

    fn rooms<T>(&self, with: impl FnOnce(&mut BTreeMap<String, Room>) -> T) -> T {
        with(&mut self.rooms.lock().unwrap())
    }

    fn there(&self) -> Result<(), RoomsError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(RoomsError::Unavailable("taken away by the test".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl RoomBackend for FakeDoor {
    /// Says what was asked for.
    fn token(&self, request: &TokenRequest, now: Timestamp) -> (String, Timestamp) {
        let token = format!(
            "{} in {} as {}, publishes {}, sends data {}",
            request.identity,
            request.room,
            request.role.name(),
            request.may_publish,
            request.may_publish_data
        );
        (token, now.plus(request.life))
    }

    fn url(&self, called: Option<&str>) -> Option<String> {
        Some(called.unwrap_or("ws://sfu.test").to_owned())
    }

    fn is_local(&self) -> bool {
        !self.elsewhere.load(Ordering::SeqCst)
    }

    fn events(&self) -> Option<broadcast::Receiver<RoomEvent>> {
        self.is_local().then(|| self.events.0.subscribe())
    }

    async fn create(&self, room: &str) -> Result<String, RoomsError> {
        self.there()?;
        let known = self.rooms(|rooms| rooms.get(room).map(|room| room.sid.clone()));
        Ok(known.unwrap_or_else(|| self.make(room)))
    }

    async fn delete(&self, room: &str) -> Result<(), RoomsError> {
        self.there()?;
        self.rooms(|rooms| rooms.remove(room)).map(drop).ok_or(RoomsError::NotFound)
    }

    async fn list(&self, names: &[String]) -> Result<Vec<RoomInfo>, RoomsError> {
        self.there()?;
        let wanted = |name: &String| names.is_empty() || names.contains(name);
        Ok(self.rooms(|rooms| {
            let rooms = rooms.iter().filter(|(name, _)| wanted(name));
            rooms.map(|(name, room)| RoomInfo { name: name.clone(), sid: room.sid.clone() }).collect()
        }))
    }

    async fn sessions(&self, room: &str) -> Result<Vec<Session>, RoomsError> {
        self.there()?;
        let _ = self.silent.subscribe().wait_for(|silent| silent != room).await;
        Ok(self.rooms(|rooms| rooms.get(room).map(|room| room.sessions.clone()).unwrap_or_default()))
    }

    async fn remove(&self, room: &str, identity: &str) -> Result<(), RoomsError> {
        self.there()?;
        if self.refusing.load(Ordering::SeqCst) {
            return Err(RoomsError::Unavailable("the test lets it remove nobody".into()));
        }
        let removed = self.rooms(|rooms| {
            let sessions = rooms.get_mut(room).map(|room| &mut room.sessions)?;
            let before = sessions.len();
            sessions.retain(|session| session.identity != identity);
            (sessions.len() < before).then_some(())
        });
        removed.ok_or(RoomsError::NotFound)
    }
}
