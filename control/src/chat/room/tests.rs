use super::*;
use crate::store::chat::Mute;
use crate::store::stream::{Block, EndReason, StreamState};

pub(crate) fn message(seq: i64) -> ChatMessage {
    ChatMessage {
        id: format!("id-{seq}"),
        seq,
        text: format!("text {seq}"),
        user_id: "ana".parse().unwrap(),
        name: "Ana".into(),
        role: ChatRole::User,
        sent_at: Timestamp::from_millis(1_700_000_000_000),
        client_id: None,
        reply_to: None,
    }
}

pub(crate) fn live_stream() -> Stream {
    let at = Timestamp::from_millis(1_700_000_000_000);
    Stream {
        room_name: "live_owner_1".into(),
        state: StreamState::Live,
        started_at: Some(at),
        ..Stream::new("owner".parse().unwrap(), at)
    }
}

struct World {
    room: Room,
    start: Now,
}

impl World {
    fn new() -> Self {
        let mut room = Room::new(Arc::new(live_stream()), Arc::new(Limits::default()), [].into());
        room.numbers.reserved(1, 100);
        let start = Now { at: Instant::now(), wall: Timestamp::from_millis(1_700_000_100_000) };
        Self { room, start }
    }

    fn at(&self, ms: u64) -> Now {
        let passed = Duration::from_millis(ms);
        Now { at: self.start.at + passed, wall: self.start.wall.plus(passed) }
    }

    fn join(&mut self, key: u64, user: &str) -> Out {
        self.room.on_join(SocketKey(key), member(user), None, self.start)
    }

    fn change(&mut self, ms: u64, change: impl FnOnce(&mut Stream)) -> Vec<Out> {
        let mut stream = Stream::clone(self.room.stream());
        stream.rev += 1;
        change(&mut stream);
        let now = self.at(ms);
        self.room.on_stream(Arc::new(stream), now)
    }

    fn write(&mut self, user: &str, text: &str, ms: u64) -> Result<Draft, RefusalCode> {
        self.write_as(&member(user), text, ms)
    }

    fn write_as(&mut self, member: &Member, text: &str, ms: u64) -> Result<Draft, RefusalCode> {
        let now = self.at(ms);
        let message = MessageIn { text: text.into(), ..MessageIn::default() };
        self.room.on_message(member, message, now).map_err(|refusal| refusal.code)
    }

    /// Sends and returns the number.
    fn say(&mut self, user: &str, text: &str, ms: u64) -> i64 {
        let draft = self.write(user, text, ms).unwrap();
        let messages = self.room.number(vec![draft], true).unwrap();
        let now = self.at(ms);
        let out = self.room.on_sent(&messages, true, now);
        assert_eq!(out, [Out::All(Event::Message(Arc::clone(&messages[0])))]);
        messages[0].seq
    }
}

fn member(user: &str) -> Member {
    let role = if user == "owner" { ChatRole::Owner } else { ChatRole::User };
    Member { user: user.parse().unwrap(), role, name: user.into(), may_write: true, expires_at: None }
}

fn mute(user: &str, until_ms: u64, world: &World) -> Mute {
    Mute { user_id: user.parse().unwrap(), until: world.at(until_ms).wall }
}

fn block(user: &str) -> Block {
    let at = Timestamp::from_millis(1);
    Block { user_id: user.parse().unwrap(), blocked_at: at, by: "owner".parse().unwrap(), reason: None }
}

#[test]
fn a_newcomer_is_told_the_state_and_the_last_fifty_messages() {
    let mut world = World::new();
    for n in 0..60 {
        world.say("ana", &format!("message {n}"), n * 1000);
    }

    let Out::One(SocketKey(7), Event::State(state)) = world.join(7, "ben") else { panic!("no state") };
    assert_eq!(state.history.len(), 50);
    assert_eq!(state.history[0].seq, 11);
    assert_eq!((state.last_seq, state.gap), (60, false));
    assert!(state.you.can_write);
    assert_eq!(state.you.user_id.as_str(), "ben");
}

/// Section 8.3.
#[test]
fn the_state_says_all_that_a_client_starts_with() {
    let mut world = World::new();
    world.say("ana", "hello", 0);
    let now = world.at(0);
    world.room.on_reaction(&member("ana"), "🔥", now).unwrap();
    let muted = mute("ben", 60_000, &world);
    world.change(0, |stream| {
        (stream.viewers, stream.peak_viewers) = (3, 4);
        stream.chat_settings.slow_mode_seconds = 7;
        stream.pinned = Some(message(9));
        stream.mutes.push(muted);
    });

    let Out::One(SocketKey(7), state) = world.join(7, "ben") else { panic!("no state") };

    let mut state = serde_json::to_value(&state).unwrap();
    let history = state.as_object_mut().unwrap().remove("history").unwrap();
    assert_eq!((history.as_array().unwrap().len(), &history[0]["text"]), (1, &"hello".into()));
    let expected = serde_json::json!({
        "you": { "userId": "ben", "role": "user", "canWrite": false, "mutedUntil": "2023-11-14T22:16:00.000Z" },
        "settings": { "enabled": true, "slowModeSeconds": 7, "maxLength": 500, "linksAllowed": true,
            "emojiOnly": false, "filter": "off" },
        "pinned": { "id": "id-9", "seq": 9, "text": "text 9", "userId": "ana", "name": "Ana", "role": "user",
            "sentAt": "2023-11-14T22:13:20.000Z" },
        "viewers": 3, "lastSeq": 1, "gap": false, "reactionTotals": { "🔥": 1 },
    });
    assert_eq!(state, expected);
}

#[test]
fn numbers_are_in_the_order_of_sending() {
    let mut world = World::new();

    assert_eq!([world.say("ana", "a", 0), world.say("ben", "b", 0), world.say("ana", "c", 0)], [1, 2, 3]);
}

#[test]
fn a_muted_user_may_read_and_is_told_until_when() {
    let mut world = World::new();
    world.join(1, "ana");
    world.join(2, "ben");
    let entry = mute("ana", 60_000, &world);

    let out = world.change(0, |stream| stream.mutes.push(entry.clone()));
    assert_eq!(out, [Out::One(SocketKey(1), Event::Muted { until: Some(entry.until) })]);
    assert_eq!(world.write("ana", "hi", 59_999), Err(RefusalCode::Muted));
    assert!(world.write("ben", "hi", 0).is_ok());
    assert!(world.write("ana", "hi", 60_000).is_ok());
}

#[test]
fn a_lifted_mute_is_told_as_well() {
    let mut world = World::new();
    world.join(1, "ana");
    let entry = mute("ana", 60_000, &world);
    world.change(0, |stream| stream.mutes.push(entry));

    let out = world.change(10, |stream| stream.mutes.clear());
    assert_eq!(out, [Out::One(SocketKey(1), Event::Muted { until: None })]);
}

#[test]
fn a_block_is_sent_to_all_sockets_of_the_user_which_are_disconnected() {
    let mut world = World::new();
    world.join(1, "ana");
    world.join(2, "ana");
    world.join(3, "ben");

    let mut out = world.change(0, |stream| stream.blocks.push(block("ana")));
    out.sort_by_key(|out| matches!(out, Out::Disconnect(SocketKey(2), _)));
    assert_eq!(out, [1, 2].map(|key| Out::Disconnect(SocketKey(key), Some(Event::Blocked {}))));
    assert_eq!(world.write("ana", "hi", 0), Err(RefusalCode::Blocked));
    assert_eq!(world.join(4, "ana"), Out::Disconnect(SocketKey(4), Some(Event::Blocked {})));
}

#[test]
fn an_expired_token_reads_on_but_writes_no_more() {
    let mut world = World::new();
    let ana = Member { expires_at: Some(world.at(1000).wall), ..member("ana") };

    assert!(world.write_as(&ana, "a", 999).is_ok());
    assert_eq!(world.write_as(&ana, "b", 1000), Err(RefusalCode::TokenExpired));
}

#[test]
fn a_guest_who_may_read_only_is_asked_to_sign_in() {
    let mut world = World::new();
    let guest = Member { role: ChatRole::Guest, may_write: false, ..member("guest-1") };

    assert_eq!(world.write_as(&guest, "a", 0), Err(RefusalCode::Unauthenticated));
    let now = world.at(0);
    let refused = world.room.on_reaction(&guest, "🔥", now).unwrap_err();
    assert_eq!(refused.map(|refusal| refusal.code), Some(RefusalCode::Unauthenticated));
}

#[test]
fn slow_mode_spares_the_owner() {
    let mut world = World::new();
    let out = world.change(0, |stream| stream.chat_settings.slow_mode_seconds = 30);
    assert!(matches!(&out[..], [Out::All(Event::Settings(settings))] if settings.slow_mode_seconds == 30));

    for (n, text) in ["a", "b", "c"].into_iter().enumerate() {
        assert!(world.write("owner", text, n as u64).is_ok());
    }
    assert!(world.write("ana", "a", 0).is_ok());
    assert_eq!(world.write("ana", "b", 1000), Err(RefusalCode::SlowMode));
}

#[test]
fn nobody_writes_in_a_chat_that_is_switched_off() {
    let mut world = World::new();
    world.change(0, |stream| stream.chat_settings.enabled = false);

    assert_eq!(world.write("owner", "a", 0), Err(RefusalCode::ChatDisabled));
}

#[test]
fn a_room_takes_fifty_messages_a_second_of_all_users() {
    let mut world = World::new();
    let accepted = (0..500).filter(|n| world.write(&format!("u{n}"), "hi", 0).is_ok()).count();

    assert_eq!(accepted, 50);
    assert_eq!(world.write("late", "hi", 0), Err(RefusalCode::ServerBusy));
    assert!(world.write("late", "hi", 20).is_ok());
}

#[test]
fn references_are_bounded() {
    let mut world = World::new();
    let now = world.at(0);
    let mut send = |client_id: Option<String>, reply_to: Option<&str>| {
        let message = MessageIn { text: "hi".into(), client_id, reply_to: reply_to.map(str::to_owned) };
        world.room.on_message(&member("ana"), message, now).map_err(|refusal| refusal.code)
    };

    assert_eq!(send(Some("x".repeat(37)), None), Err(RefusalCode::ValidationFailed));
    assert_eq!(send(None, Some("short")), Err(RefusalCode::ValidationFailed));
    assert!(send(Some("x".repeat(36)), Some("01J00000000000000000000000")).is_ok());
}

#[test]
fn viewers_are_told_at_most_every_two_seconds() {
    let mut world = World::new();
    let viewers = |viewers| Out::All(Event::Viewers { viewers, peak_viewers: viewers });
    let set =
        |world: &mut World, ms: u64, n: u32| world.change(ms, |stream| (stream.viewers, stream.peak_viewers) = (n, n));

    assert_eq!(set(&mut world, 10, 1), [viewers(1)]);
    assert_eq!(set(&mut world, 500, 2), []);
    assert_eq!(set(&mut world, 1000, 3), []);
    assert_eq!(world.room.deadline(), Some(world.at(2010).at));
    let now = world.at(2010);
    assert_eq!(world.room.on_time(now), [viewers(3)]);
    assert_eq!(world.room.deadline(), None);
}

#[test]
fn changes_of_the_stream_are_told() {
    let mut world = World::new();

    let out = world.change(0, |stream| stream.title = Some("New".into()));
    assert_eq!(out, [Out::All(Event::Updated { title: Some("New".into()), tags: vec![], cover_url: None })]);
    let out = world.change(0, |stream| stream.state = StreamState::Reconnecting);
    assert_eq!(out, [Out::All(Event::StreamState { state: StreamState::Reconnecting })]);
    let out = world.change(0, |stream| stream.pinned = Some(message(3)));
    assert_eq!(out, [Out::All(Event::Pinned(Some(message(3))))]);
    let out = world.change(0, |stream| {
        stream.state = StreamState::Ended;
        stream.end_reason = Some(EndReason::Stopped);
    });
    assert_eq!(out, [Out::Close(Event::Ended { end_reason: Some(EndReason::Stopped), ended_at: None })]);
    assert_eq!(world.write("ana", "hi", 0), Err(RefusalCode::StreamNotLive));
}

#[test]
fn a_reaction_goes_out_at_once_and_in_the_sum() {
    let mut world = World::new();
    let now = world.at(0);

    let out = world.room.on_reaction(&member("ana"), "❤️", now);
    assert_eq!(out, Ok(Some(Out::All(Event::Reaction("❤️".into())))));
    assert!(world.room.on_reaction(&member("ana"), "no", now).is_err_and(|refusal| refusal.is_some()));
    let now = world.at(500);
    let counts: std::collections::BTreeMap<_, _> = [("❤️".to_owned(), 1)].into();
    let totals = counts.clone();
    assert_eq!(world.room.on_time(now), [Out::All(Event::Reactions { window_ms: 500, counts, totals })]);
}

#[test]
fn only_listed_emoji_pass_where_there_is_a_list() {
    let mut world = World::new();
    world.room.emoji = ["👏".to_owned()].into();
    let now = world.at(0);

    assert!(world.room.on_reaction(&member("ana"), "👏", now).is_ok());
    assert!(world.room.on_reaction(&member("ana"), "🔥", now).is_err());
}

#[test]
fn reactions_beyond_the_limit_are_dropped_without_a_word() {
    let mut world = World::new();
    let now = world.at(0);
    let mut react = || world.room.on_reaction(&member("ana"), "🔥", now);

    assert_eq!((0..50).filter(|_| react().is_ok()).count(), 20);
    assert_eq!(react(), Err(None));
}

#[test]
fn messages_of_other_nodes_are_shown_in_order_and_once() {
    let mut world = World::new();
    world.room.sequence.start_at(10);
    let note = |seq| ChatNote::Message { message: message(seq) };
    let shown = |seq| Out::All(Event::Message(Arc::new(message(seq))));
    let now = world.at(0);

    assert_eq!(world.room.on_note(note(12), now), Ok(vec![]));
    assert_eq!(world.room.on_note(note(11), now), Ok(vec![shown(11), shown(12)]));
    assert_eq!(world.room.on_note(note(12), now), Err(()));
    assert_eq!(world.room.on_note(note(14), now), Ok(vec![]));
    let now = world.at(500);
    assert_eq!(world.room.on_time(now), [shown(14)]);
}

#[test]
fn messages_that_come_too_late_to_be_shown_are_found_in_the_history() {
    let mut world = World::new();
    world.room.sequence.start_at(10);
    let note = |seq| ChatNote::Message { message: message(seq) };
    let now = world.at(0);
    assert_eq!(world.room.on_note(note(14), now), Ok(vec![]));
    let now = world.at(500);
    assert_eq!(world.room.on_time(now).len(), 1);

    assert_eq!(world.room.on_note(note(12), now), Err(()), "another node's");
    assert_eq!(world.room.on_sent(&[Arc::new(message(13))], false, now), [], "this node's, kept slowly");
    assert_eq!(world.room.on_note(note(16), now), Ok(vec![]), "waits for 15");
    assert_eq!(world.room.on_note(note(16), now), Err(()), "a repeat");
    let back = world.room.on_join(SocketKey(1), member("ben"), Some(10), now);
    let Out::One(_, Event::State(state)) = back else { panic!("no state") };
    assert_eq!(state.history.iter().map(|message| message.seq).collect::<Vec<_>>(), [12, 13, 14]);
    assert!(!state.gap);
}

#[test]
fn deletions_of_other_nodes_leave_the_history() {
    let mut world = World::new();
    let seq = world.say("ana", "bad", 0);
    let id = world.room.history.recent(None, 1).messages[0].id.clone();
    let now = world.at(0);

    let out = world.room.on_note(ChatNote::Deleted { id: id.clone(), seq }, now);
    assert_eq!(out, Ok(vec![Out::All(Event::Deleted { id, seq })]));
    let Out::One(_, Event::State(state)) = world.join(1, "ben") else { panic!("no state") };
    assert!(state.history.is_empty());
    assert_eq!(state.last_seq, seq);
}
