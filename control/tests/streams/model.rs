//! The rules of streams as a model of a few lines, and random steps through both: whatever happens in whatever order,
//! on whichever node and whenever, the product is as the model says (stream API, sections 1.3, 3 to 7). `SEED` names
//! another walk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::config::product;
use control::problem::{Code, Problem};
use control::rooms::Session;
use control::store::SharedStore;
use control::store::moderation::Ban;
use control::store::stream::{Block, EndReason, Stream, StreamState};
use control::streams::{OnConflict, StartRequest};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::world::{World, admin, eventually, id, user};

const OWNERS: [&str; 3] = ["ana", "bo", "cy"];
const USERS: [&str; 6] = ["ana", "bo", "cy", "dan", "eve", "finn"];

const STEPS: usize = 400;

/// Longest wait until the product is as it should be, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const START_TIMEOUT: i64 = 60 * SECOND;
const RECONNECT_WINDOW: i64 = 60 * SECOND;
const START_COOLDOWN: i64 = 30 * SECOND;
const MAX_DURATION: i64 = 2 * HOUR;
const STARTS_PER_HOUR: usize = 5;
const MAX_VIEWERS: usize = 3;
const KEY_LIFE: i64 = 24 * HOUR;

/// The rules. Times are milliseconds.
#[derive(Default)]
struct Model {
    now: i64,
    streams: Vec<Known>,
    /// New starts of each owner that count against the limit.
    starts: BTreeMap<&'static str, Vec<i64>>,
    /// What a key of an owner stands for.
    keys: BTreeMap<(&'static str, u8), Remembered>,
    banned: BTreeSet<&'static str>,
    /// Those whom an owner blocks from each new stream.
    lists: BTreeMap<&'static str, BTreeSet<&'static str>>,
}

#[derive(Clone)]
struct Remembered {
    digest: u8,
    at: i64,
    stream: usize,
    created: bool,
    resumed: bool,
}

struct Known {
    stream: Arc<Stream>,
    owner: &'static str,
    phase: Phase,
    started: i64,
    /// Since when the owner is gone.
    alone: i64,
    inside: Vec<Inside>,
    blocks: BTreeSet<&'static str>,
    watched: BTreeSet<&'static str>,
    /// Those who were put out as they came, and may have been seen for a moment.
    glimpsed: BTreeSet<&'static str>,
    peak: usize,
    /// It ended while the media server was away, which is asked again later.
    room_stays: bool,
    /// Its end was looked at.
    is_over: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Starting,
    Live,
    Reconnecting,
    /// With the reasons that there were, one of which is told.
    Ended(Vec<EndReason>, i64),
}

#[derive(Clone)]
struct Inside {
    session: Session,
    user: &'static str,
}

impl Known {
    fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Ended(..))
    }

    fn publishers(&self) -> impl Iterator<Item = &Inside> {
        self.inside.iter().filter(|inside| inside.session.publishes)
    }

    /// Distinct users who watch; the owner is none.
    fn viewers(&self) -> usize {
        let watching = self.inside.iter().filter(|inside| inside.user != self.owner).map(|inside| inside.user);
        watching.collect::<BTreeSet<_>>().len()
    }

    fn end(&mut self, reason: EndReason, at: i64) {
        if self.is_live() {
            self.phase = Phase::Ended(vec![reason], at);
            self.inside.clear();
        }
    }

    /// Of several reasons, and a time within which it ended, those that are told.
    fn take_end(&mut self, stored: &Stream, begin: i64) {
        if let Phase::Ended(reasons, at) = &mut self.phase
            && let (Some(reason), Some(ended_at)) = (stored.end_reason, stored.ended_at)
        {
            (*reasons, *at) = (vec![reason], ended_at.millis() - begin);
            self.is_over = true;
        }
    }

    /// Ends by time: what is due, and when.
    fn due(&self) -> Vec<(i64, EndReason)> {
        let own = match self.phase {
            Phase::Starting => Some((self.started + START_TIMEOUT, EndReason::NeverStarted)),
            Phase::Reconnecting => Some((self.alone + RECONNECT_WINDOW, EndReason::PublisherTimeout)),
            Phase::Live => None,
            Phase::Ended(..) => return Vec::new(),
        };
        own.into_iter().chain([(self.started + MAX_DURATION, EndReason::MaxDuration)]).collect()
    }
}

impl Model {
    fn live_of(&self, owner: &str) -> Option<usize> {
        self.streams.iter().position(|known| known.owner == owner && known.is_live())
    }

    /// Why the owner may not start a new stream, if so, and how long to wait.
    fn limits(&self, owner: &str, replaces: bool) -> Vec<(Code, i64)> {
        let asks_none = |reasons: &[EndReason]| matches!(reasons, [EndReason::NeverStarted | EndReason::Replaced]);
        let pause = |known: &Known| match &known.phase {
            Phase::Ended(reasons, at) if known.owner == owner && !asks_none(reasons) => Some(*at),
            _ => None,
        };
        let last = self.streams.iter().filter_map(pause).max().filter(|_| !replaces);
        let cooldown = last.map(|at| (Code::StartCooldown, at + START_COOLDOWN - self.now));
        let within: Vec<i64> =
            self.starts.get(owner).into_iter().flatten().copied().filter(|&at| at + HOUR > self.now).collect();
        let limited = (within.len() >= STARTS_PER_HOUR)
            .then(|| (Code::RateLimited, within[within.len() - STARTS_PER_HOUR] + HOUR - self.now));
        cooldown.into_iter().chain(limited).filter(|&(_, wait)| wait > 0).collect()
    }

    fn pass(&mut self, milliseconds: i64) {
        self.now += milliseconds;
        for known in &mut self.streams {
            let due: Vec<_> = known.due().into_iter().filter(|&(at, _)| at <= self.now).collect();
            if let Some(&(first, _)) = due.iter().min_by_key(|(at, _)| *at) {
                known.phase = Phase::Ended(due.into_iter().map(|(_, reason)| reason).collect(), first);
                known.inside.clear();
            }
        }
    }
}

/// The product, the model, and what was done to both.
struct Walk {
    model: Model,
    /// All share the store, the rooms and the clock.
    nodes: Vec<World>,
    /// Events that were told.
    told: Vec<Value>,
    /// The clock at the beginning.
    begin: i64,
    /// An event of this step was lost, so that comparing has to make up for it.
    is_lost: bool,
    log: Log,
    rng: StdRng,
}

/// Printed when the walk fails.
struct Log(Vec<String>);

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.join("\n"));
        }
    }
}

impl Walk {
    fn note(&mut self, what: impl Into<String>) {
        let line = format!("{:>8} s  {}", self.model.now / SECOND, what.into());
        self.log.0.push(line);
    }

    fn node(&mut self) -> usize {
        self.rng.random_range(0..self.nodes.len())
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        *all.choose(&mut self.rng).expect("there is one")
    }

    /// A stream; mostly one that is live.
    fn any_stream(&mut self) -> Option<usize> {
        let live: Vec<usize> = (0..self.model.streams.len()).filter(|&at| self.model.streams[at].is_live()).collect();
        match live.choose(&mut self.rng) {
            Some(&at) if self.rng.random_bool(0.9) => Some(at),
            _ => (0..self.model.streams.len()).collect::<Vec<_>>().choose(&mut self.rng).copied(),
        }
    }

    async fn step(&mut self) {
        self.is_lost = false;
        match self.rng.random_range(0..100) {
            0..12 => self.start().await,
            12..17 => self.stop().await,
            17..19 => self.end().await,
            19..27 => self.watch().await,
            27..32 => self.block().await,
            32..35 => self.unblock().await,
            35..37 => self.change_own_list().await,
            37..39 => self.ban_or_lift().await,
            39..54 => self.viewer_enters().await,
            54..64 => self.viewer_leaves().await,
            64..74 => self.owner_enters().await,
            74..80 => self.owner_leaves().await,
            80..86 => self.tell_again().await,
            86..88 => self.room_finishes().await,
            88..97 => self.wait().await,
            97..98 => self.jump().await,
            _ => self.restart().await,
        }
        self.settle().await;
    }

    // ---- what people ask for

    async fn start(&mut self) {
        let (owner, node) = (self.one_of(&OWNERS), self.node());
        let on_conflict = self.one_of(&[OnConflict::Resume, OnConflict::Replace, OnConflict::Reject]);
        let key = self.rng.random_bool(0.4).then(|| (self.rng.random_range(0..2), self.rng.random_range(0..2)));
        let without_media = self.rng.random_bool(0.05);
        self.note(format!("{owner} starts, {on_conflict:?}, key {key:?}, media server away: {without_media}"));
        let request = StartRequest {
            on_conflict,
            idempotency_key: key.map(|(key, _): (u8, u8)| key.to_string()),
            body_digest: key.map_or(String::new(), |(_, digest)| digest.to_string()),
            ..StartRequest::default()
        };
        self.nodes[node].door.set_away(without_media);
        let started = self.nodes[node].start_as(&user(owner), request).await;
        self.nodes[node].door.set_away(false);

        if self.model.banned.contains(owner) {
            return refused(started, &[(Code::Banned, None)]);
        }
        let remembered = key.and_then(|(key, _)| self.model.keys.get(&(owner, key)).cloned());
        let remembered = remembered.filter(|known| known.at + KEY_LIFE > self.model.now);
        if let (Some(known), Some((_, digest))) = (&remembered, key) {
            if known.digest != digest {
                return refused(started, &[(Code::IdempotencyKeyReused, None)]);
            }
            let started = started.expect("it is answered again");
            assert_eq!(started.stream.id, self.model.streams[known.stream].stream.id);
            assert_eq!((started.created, started.resumed), (known.created, known.resumed));
            return;
        }
        let live = self.model.live_of(owner);
        let index = match (live, on_conflict) {
            (Some(live), OnConflict::Resume) => {
                let started = started.expect("the stream that runs is given back");
                assert_eq!(started.stream.id, self.model.streams[live].stream.id);
                assert!(started.resumed && !started.created);
                live
            }
            (Some(_), OnConflict::Reject) => return refused(started, &[(Code::Conflict, None)]),
            (Some(_), OnConflict::Replace) | (None, _) => {
                let limits = self.model.limits(owner, live.is_some());
                if !limits.is_empty() {
                    let limits: Vec<_> = limits.into_iter().map(|(code, wait)| (code, Some(wait))).collect();
                    return refused(started, &limits);
                }
                let now = self.model.now;
                if let Some(live) = live {
                    self.model.streams[live].end(EndReason::Replaced, now);
                    self.model.streams[live].room_stays = without_media;
                }
                if without_media {
                    // It counts for nothing.
                    return refused(started, &[(Code::SfuUnavailable, None)]);
                }
                let started = started.expect("nothing is in its way");
                assert!(started.created && !started.resumed);
                self.model.starts.entry(owner).or_default().push(now);
                self.model.streams.push(Known {
                    stream: started.stream,
                    owner,
                    phase: Phase::Starting,
                    started: now,
                    alone: 0,
                    inside: Vec::new(),
                    blocks: self.model.lists.get(owner).cloned().unwrap_or_default(),
                    watched: BTreeSet::new(),
                    glimpsed: BTreeSet::new(),
                    peak: 0,
                    room_stays: false,
                    is_over: false,
                });
                self.model.streams.len() - 1
            }
        };
        if let Some((key, digest)) = key {
            let created = live != Some(index);
            let answer = Remembered { digest, at: self.model.now, stream: index, created, resumed: !created };
            self.model.keys.insert((owner, key), answer);
        }
    }

    async fn stop(&mut self) {
        let (who, node) = (self.one_of(&OWNERS), self.node());
        let named = if self.rng.random_bool(0.5) { self.any_stream() } else { None };
        self.note(format!("{who} stops {named:?}"));
        let stream = named.map(|at| self.model.streams[at].stream.id);
        let stopped = self.nodes[node].streams.stop(&user(who), stream).await;
        match named.or_else(|| self.model.live_of(who)) {
            None => refused(stopped, &[(Code::StreamNotFound, None)]),
            Some(at) if self.model.streams[at].owner != who => refused(stopped, &[(Code::NotOwner, None)]),
            Some(at) => {
                let (now, known) = (self.model.now, &mut self.model.streams[at]);
                let stopped = stopped.expect("an owner may stop");
                assert_eq!(stopped.already_ended, !known.is_live());
                known.end(EndReason::Stopped, now);
            }
        }
    }

    async fn end(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let node = self.node();
        self.note(format!("an administrator ends {at}"));
        let stream = self.model.streams[at].stream.id;
        let ended = self.nodes[node].streams.end(&admin("root"), stream).await.expect("an administrator may");
        let (now, known) = (self.model.now, &mut self.model.streams[at]);
        assert_eq!(ended.already_ended, !known.is_live());
        known.end(EndReason::EndedByAdmin, now);
    }

    async fn watch(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let (who, node) = (self.one_of(&USERS), self.node());
        self.note(format!("{who} asks to watch {at}"));
        let watching = self.nodes[node].watch_as(&user(who), self.model.streams[at].stream.id, None).await;
        let known = &self.model.streams[at];
        let is_counted = known.owner == who || known.inside.iter().any(|inside| inside.user == who);
        let why = [
            (self.model.banned.contains(who), Code::Banned),
            (known.blocks.contains(who), Code::Blocked),
            (!known.is_live(), Code::StreamEnded),
            (known.is_live() && known.viewers() >= MAX_VIEWERS && !is_counted, Code::StreamFull),
        ];
        let why: Vec<_> = why.into_iter().filter(|(holds, _)| *holds).map(|(_, code)| (code, None)).collect();
        match why.as_slice() {
            [] => assert_eq!(watching.expect("nothing is in the way").stream.room_name, known.stream.room_name),
            why => refused(watching, why),
        }
    }

    async fn block(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let (who, node) = (self.one_of(&USERS), self.node());
        if self.model.streams[at].owner == who {
            return;
        }
        self.note(format!("{who} is blocked from {at}"));
        self.nodes[node].block(&self.model.streams[at].stream, who).await;
        self.model.streams[at].blocks.insert(who);
        self.all_hear(at).await;
        self.put_out(at, who).await;
    }

    async fn unblock(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let node = self.node();
        let Some(&who) = self.model.streams[at].blocks.iter().next() else { return };
        self.note(format!("{who} is no longer blocked from {at}"));
        let world = &self.nodes[node];
        let outcome =
            world.lifecycle.store().unblock(self.model.streams[at].stream.id, &id(who), world.clock.now()).await;
        world.lifecycle.observe(outcome.unwrap().into_stream());
        self.model.streams[at].blocks.remove(who);
        self.all_hear(at).await;
    }

    async fn change_own_list(&mut self) {
        let (owner, who) = (self.one_of(&OWNERS), self.one_of(&USERS));
        if owner == who {
            return;
        }
        let world = &self.nodes[0];
        let list = self.model.lists.entry(owner).or_default();
        if list.remove(who) {
            world.lifecycle.store().owner_unblock(&id(owner), &id(who)).await.unwrap();
        } else {
            list.insert(who);
            let block = Block { user_id: id(who), blocked_at: world.clock.now(), by: id(owner), reason: None };
            world.lifecycle.store().owner_block(&id(owner), &block).await.unwrap();
        }
        self.note(format!("the list of {owner} changes by {who}"));
    }

    async fn ban_or_lift(&mut self) {
        let who = match self.model.banned.iter().next() {
            Some(banned) if self.model.banned.len() > 1 => *banned,
            _ => self.one_of(&USERS),
        };
        let now = self.nodes[0].clock.now();
        let ban =
            Ban { user_id: id(who), reason: "spam".into(), until: None, by: id("root"), at: now, lifted_at: None };
        if self.model.banned.remove(who) {
            self.note(format!("the ban of {who} is lifted"));
            self.nodes[0].lifecycle.store().lift_ban(&id(who), now).await.unwrap();
            for node in &self.nodes {
                node.lifecycle.observe_ban(Ban { lifted_at: Some(now), ..ban.clone() });
            }
            return;
        }
        self.note(format!("{who} is banned"));
        self.nodes[0].lifecycle.store().set_ban(&ban).await.unwrap();
        for node in &self.nodes {
            node.lifecycle.observe_ban(ban.clone());
        }
        self.model.banned.insert(who);
        if let Some(own) = self.model.live_of(who) {
            let now = self.model.now;
            self.model.streams[own].end(EndReason::Banned, now);
        }
        for at in 0..self.model.streams.len() {
            self.put_out(at, who).await;
        }
    }

    // ---- what rooms tell

    /// Somebody comes in, with a token of before a block or a ban as well.
    async fn viewer_enters(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let (who, is_lost) = (self.one_of(&USERS), self.rng.random_bool(0.1));
        if !self.model.streams[at].is_live() {
            return;
        }
        self.note(format!("{who} comes into {at}, event lost: {is_lost}"));
        let session = self.nodes[0].viewer(who);
        self.nodes[0].door.put_in(&self.model.streams[at].stream.room_name, session.clone());
        let is_unwanted = self.model.streams[at].blocks.contains(who) || self.model.banned.contains(who);
        self.model.streams[at].inside.push(Inside { session: session.clone(), user: who });
        self.is_lost = is_lost;
        if is_lost {
            self.compare();
        } else {
            self.tell("participant_joined", at, &session).await;
        }
        let known = &mut self.model.streams[at];
        if !known.is_live() {
            known.glimpsed.insert(who);
        } else if is_unwanted {
            known.glimpsed.insert(who);
            self.put_out(at, who).await;
        } else if known.owner != who {
            known.watched.insert(who);
            known.peak = known.peak.max(known.viewers());
        }
    }

    async fn viewer_leaves(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let viewers: Vec<usize> = (0..self.model.streams[at].inside.len())
            .filter(|&number| !self.model.streams[at].inside[number].session.publishes)
            .collect();
        let Some(&number) = viewers.choose(&mut self.rng) else { return };
        let is_lost = self.rng.random_bool(0.1);
        let inside = self.model.streams[at].inside.remove(number);
        self.note(format!("{} leaves {at}, event lost: {is_lost}", inside.user));
        self.nodes[0].door.take_out(&self.model.streams[at].stream.room_name, &inside.session.sid);
        self.is_lost = is_lost;
        if is_lost {
            self.compare();
        } else {
            self.tell("participant_left", at, &inside.session).await;
        }
    }

    /// The owner comes in and publishes; from a second device the first one is put out.
    async fn owner_enters(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let owner = self.model.streams[at].owner;
        if !self.model.streams[at].is_live() || self.model.banned.contains(owner) {
            return;
        }
        self.note(format!("{owner} comes into {at} and publishes"));
        let room = self.model.streams[at].stream.room_name.clone();
        let session = self.nodes[0].publisher(owner);
        let before: Vec<Inside> = self.model.streams[at].publishers().cloned().collect();
        self.nodes[0].door.put_in(&room, session.clone());
        self.tell("participant_joined", at, &session).await;
        self.tell("track_published", at, &session).await;
        for old in &before {
            self.nodes[0].door.take_out(&room, &old.session.sid);
            self.tell("participant_left", at, &old.session).await;
        }
        let known = &mut self.model.streams[at];
        known.inside.retain(|inside| !inside.session.publishes);
        known.inside.push(Inside { session, user: owner });
        known.phase = Phase::Live;
    }

    async fn owner_leaves(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let Some(publisher) = self.model.streams[at].publishers().next().cloned() else { return };
        self.note(format!("{} leaves {at}", publisher.user));
        self.nodes[0].door.take_out(&self.model.streams[at].stream.room_name, &publisher.session.sid);
        self.tell("participant_left", at, &publisher.session).await;
        let (now, known) = (self.model.now, &mut self.model.streams[at]);
        known.inside.retain(|inside| inside.session.sid != publisher.session.sid);
        (known.phase, known.alone) = (Phase::Reconnecting, now);
    }

    /// Any event of before comes again, after its repeats are forgotten as well.
    async fn tell_again(&mut self) {
        let Some(mut event) = self.told.choose(&mut self.rng).cloned() else { return };
        if self.rng.random_bool(0.5) {
            event["id"] = format!("EV_{}", crate::world::sid()).into();
        }
        let node = self.node();
        self.note(format!("again: {} of {}", event["event"], event["participant"]["identity"]));
        self.nodes[node].send(&event).await.expect("the event is taken");
    }

    async fn room_finishes(&mut self) {
        let Some(at) = self.any_stream() else { return };
        let node = self.node();
        let mut event = self.nodes[node].event("room_finished", &self.model.streams[at].stream, None);
        let is_older = self.rng.random_bool(0.5);
        self.note(format!("the room of {at} finishes, an older one: {is_older}"));
        let sid = self.nodes[node].stored(self.model.streams[at].stream.id).await.room_sid;
        event["room"]["sid"] = if is_older { "RM_older".into() } else { sid.into() };
        self.nodes[node].send(&event).await.expect("the event is taken");
        if !is_older {
            let now = self.model.now;
            self.model.streams[at].end(EndReason::RoomFinished, now);
        }
    }

    // ---- time and nodes

    async fn wait(&mut self) {
        let seconds = self.rng.random_range(1..=70);
        self.note(format!("{seconds} s pass"));
        for _ in 0..seconds {
            self.nodes[0].clock.advance(1);
            self.nodes.iter().for_each(|node| node.reconciler.tick());
            tokio::task::yield_now().await;
        }
        self.model.pass(seconds * SECOND);
    }

    /// Nobody looks for a long time, as when a machine sleeps.
    async fn jump(&mut self) {
        let seconds = self.one_of(&[1_200, 3_600, 25 * 3_600]);
        self.note(format!("{seconds} s pass at once"));
        self.nodes[0].clock.advance(seconds);
        self.nodes.iter().for_each(|node| node.reconciler.tick());
        self.model.pass(i64::try_from(seconds).unwrap() * SECOND);
    }

    /// Rooms are compared with what is known of them.
    fn compare(&mut self) {
        self.nodes[0].clock.advance(40);
        self.nodes.iter().for_each(|node| node.reconciler.tick());
        self.model.pass(40 * SECOND);
    }

    async fn restart(&mut self) {
        let node = self.node();
        self.note(format!("node {node} ends and starts again"));
        let next = self.nodes[node].node();
        next.reconciler.recover().await.expect("the store is there");
        self.nodes[node] = next;
    }

    // ---- both compared

    async fn tell(&mut self, event: &str, at: usize, session: &Session) {
        let node = self.node();
        let event = self.nodes[node].event(event, &self.model.streams[at].stream, Some(session));
        self.nodes[node].send(&event).await.expect("the event is taken");
        self.told.push(event);
    }

    /// The product puts all sessions of the user out of a room, which tells so.
    async fn put_out(&mut self, at: usize, who: &str) {
        let inside = std::mem::take(&mut self.model.streams[at].inside);
        let (gone, stay) = inside.into_iter().partition(|inside| inside.user == who);
        self.model.streams[at].inside = stay;
        for Inside { session, .. } in gone {
            let (room, door) = (&self.model.streams[at].stream.room_name, &self.nodes[0].door);
            eventually("who is unwanted is put out", async || !door.identities(room).contains(&session.identity)).await;
            self.tell("participant_left", at, &session).await;
        }
    }

    /// What one node changed the others read soon.
    async fn all_hear(&self, at: usize) {
        let stored = self.nodes[0].stored(self.model.streams[at].stream.id).await;
        self.others_hear(&stored);
    }

    fn others_hear(&self, stored: &Stream) {
        for node in &self.nodes {
            node.lifecycle.observe(stored.clone());
        }
    }

    /// Waits until the product is as the model says.
    async fn settle(&mut self) {
        let begin = Instant::now();
        for at in 0..self.model.streams.len() {
            if self.model.streams[at].is_over {
                continue;
            }
            loop {
                let stored = self.nodes[0].stored(self.model.streams[at].stream.id).await;
                let differences = self.differences(at, &stored);
                if differences.is_empty() {
                    self.others_hear(&stored);
                    self.model.streams[at].take_end(&stored, self.begin);
                    break;
                }
                assert!(begin.elapsed() < PATIENCE, "stream {at}: {}", differences.join(", "));
                tokio::time::sleep(Duration::from_millis(2)).await;
                if self.is_lost && begin.elapsed() > Duration::from_millis(500) {
                    // A comparison that was under way had asked the room before.
                    self.compare();
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        for owner in OWNERS {
            let live = self.nodes[0].lifecycle.store().live_stream_of(&id(owner)).await.unwrap();
            let expected = self.model.live_of(owner).map(|at| self.model.streams[at].stream.id);
            assert_eq!(live.map(|stream| stream.id), expected, "what {owner} has live");
        }
    }

    fn differences(&self, at: usize, stored: &Stream) -> Vec<String> {
        let known = &self.model.streams[at];
        let mut found = Vec::new();
        let mut differs = |what: &str, stored: &dyn Debug, expected: &dyn Debug, holds: bool| {
            if !holds {
                found.push(format!("{what} is {stored:?}, not {expected:?}"));
            }
        };
        let state = match known.phase {
            Phase::Starting => StreamState::Starting,
            Phase::Live => StreamState::Live,
            Phase::Reconnecting => StreamState::Reconnecting,
            Phase::Ended(..) => StreamState::Ended,
        };
        differs("the state", &stored.state, &state, stored.state == state);
        if let Phase::Ended(reasons, since) = &known.phase {
            let reason = stored.end_reason;
            differs("the reason", &reason, reasons, reason.is_some_and(|reason| reasons.contains(&reason)));
            let ended = stored.ended_at.map(|ended| ended.millis() - self.begin);
            let expected = *since..=self.model.now;
            differs("the end", &ended, &expected, ended.is_some_and(|ended| expected.contains(&ended)));
            let has_room = self.nodes[0].door.has(&known.stream.room_name);
            differs("its room", &has_room, &false, !has_room || known.room_stays);
        }
        let count = |count: u32| usize::try_from(count).unwrap();
        let viewers = if known.is_live() { known.viewers() } else { 0 };
        differs("the viewers", &stored.viewers, &viewers, count(stored.viewers) == viewers);
        let glimpsed = known.glimpsed.difference(&known.watched).count();
        let unique = known.watched.len()..=known.watched.len() + glimpsed;
        differs("the unique viewers", &stored.unique_viewers, &unique, unique.contains(&count(stored.unique_viewers)));
        let peak = known.peak..=known.peak + known.glimpsed.len();
        differs("the peak", &stored.peak_viewers, &peak, peak.contains(&count(stored.peak_viewers)));
        let blocks: BTreeSet<&str> = stored.blocks.iter().map(|block| block.user_id.as_str()).collect();
        differs("the block list", &blocks, &known.blocks, blocks == known.blocks);
        found
    }
}

fn refused<T: Debug>(result: Result<T, Problem>, expected: &[(Code, Option<i64>)]) {
    let problem = result.expect_err(&format!("refused for one of {expected:?}"));
    let wait = problem.retry_after.map(|wait| i64::try_from(wait.as_millis()).unwrap());
    let fits =
        |(code, expected): &(Code, Option<i64>)| problem.code == *code && (expected.is_none() || wait == *expected);
    assert!(expected.iter().any(fits), "{problem:?}, not one of {expected:?}");
}

pub async fn random_steps_end_as_the_rules_say(store: SharedStore) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let config = product::Live {
        max_duration: u32::try_from(MAX_DURATION / SECOND).unwrap(),
        max_viewers: u32::try_from(MAX_VIEWERS).unwrap(),
        ..product::Live::default()
    };
    let is_shared = store.is_shared();
    let world = World::with(store, config);
    let nodes = if is_shared { vec![world.node(), world] } else { vec![world] };
    for node in &nodes {
        node.reconciler.recover().await.unwrap();
    }
    let mut walk = Walk {
        model: Model::default(),
        begin: nodes[0].clock.now().millis(),
        is_lost: false,
        nodes,
        told: Vec::new(),
        log: Log(vec![format!("SEED={seed}")]),
        rng: StdRng::seed_from_u64(seed),
    };
    for _ in 0..STEPS {
        walk.step().await;
    }
    for known in &mut walk.model.streams {
        known.is_over = false;
    }
    walk.settle().await;
    assert!(walk.model.streams.len() > 3, "hardly a stream was started");
}
