//! Data packets (docs/livekit.md 6.2, 6.3).

use livekit_protocol as proto;
use prost::Message;
use proto::data_packet::Value;
use sfu::command::{Command, DataChannel, Event, TransportId};
use signaling::join::Mode;

use crate::world::{Client, World, join, s};

fn user(text: &str, destinations: &[&str], sequence: u32) -> proto::DataPacket {
    let user = proto::UserPacket { payload: text.into(), ..Default::default() };
    proto::DataPacket {
        value: Some(Value::User(user)),
        destination_identities: destinations.iter().map(|identity| (*identity).to_owned()).collect(),
        sequence,
        ..Default::default()
    }
}

fn send(world: &mut World, client: &Client, channel: DataChannel, packet: &proto::DataPacket) {
    let transport = world.session(client).publisher.id;
    world.event(Event::Data { transport, channel, payload: packet.encode_to_vec().into() });
}

fn sent(world: &mut World) -> Vec<(Vec<TransportId>, DataChannel, proto::DataPacket)> {
    std::mem::take(&mut world.commands)
        .into_iter()
        .filter_map(|command| match command {
            Command::SendData { transports, channel, payload, .. } => {
                Some((transports, channel, proto::DataPacket::decode(payload).unwrap()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_packet_goes_to_all_but_its_sender_with_the_senders_name() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let carol = world.enter_v1("carol");
    let mut packet = user("hello", &[], 3);
    packet.participant_identity = "mallory".into();
    send(&mut world, &alice, DataChannel::Reliable, &packet);

    let (mut transports, channel, packet) = sent(&mut world).remove(0);
    transports.sort();
    let mut expected = vec![world.session(&bob).subscriber.as_ref().unwrap().id, world.session(&carol).publisher.id];
    expected.sort();
    assert_eq!((transports, channel), (expected, DataChannel::Reliable));
    assert_eq!((packet.participant_identity.as_str(), packet.sequence), ("alice", 3));
    assert_eq!(packet.participant_sid, world.sid(&alice).as_str());
}

#[test]
fn destinations_are_kept_to() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let bob = world.enter_v1("bob");
    world.enter_v1("carol");
    send(&mut world, &alice, DataChannel::Lossy, &user("psst", &["bob", "nobody", "alice"], 0));
    let (transports, channel, packet) = sent(&mut world).remove(0);
    assert_eq!((transports, channel), (vec![world.session(&bob).publisher.id], DataChannel::Lossy));
    assert_eq!(packet.kind(), proto::data_packet::Kind::Lossy);
}

#[test]
fn a_reliable_packet_counts_once() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.enter_v1("bob");
    for sequence in [1, 2, 2, 1, 3] {
        send(&mut world, &alice, DataChannel::Reliable, &user("x", &[], sequence));
    }
    let sequences: Vec<_> = sent(&mut world).iter().map(|(.., packet)| packet.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

#[test]
fn who_may_not_send_data_is_not_heard() {
    let mut world = World::new();
    let mut request = join("alice", Mode::V1);
    request.grants.video.can_publish_data = Some(false);
    let alice = world.enter(request);
    world.enter_v1("bob");
    send(&mut world, &alice, DataChannel::Reliable, &user("x", &[], 1));
    assert!(sent(&mut world).is_empty());
}

#[test]
fn garbage_and_data_track_frames_go_nowhere() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.enter_v1("bob");
    let transport = world.session(&alice).publisher.id;
    let garbage = vec![0xff; 40];
    world.event(Event::Data { transport, channel: DataChannel::Reliable, payload: garbage.clone().into() });
    world.event(Event::Data { transport, channel: DataChannel::DataTrack, payload: garbage.into() });
    assert!(sent(&mut world).is_empty());
}

#[test]
fn a_worker_is_told_of_all_data_that_its_room_has_done_with_after_what_follows_from_it() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.enter_v1("bob");
    let mut request = join("mute", Mode::V1);
    request.grants.video.can_publish_data = Some(false);
    let mute = world.enter(request);
    let hello = user("hello", &[], 1);
    let length = hello.encoded_len();
    send(&mut world, &alice, DataChannel::Reliable, &hello);
    // Once more, which is old; of who may send none; of a transport that is gone; what is no message.
    send(&mut world, &alice, DataChannel::Reliable, &hello);
    send(&mut world, &mute, DataChannel::Lossy, &hello);
    let (alice, mute, gone) =
        (world.session(&alice).publisher.id, world.session(&mute).publisher.id, TransportId(u64::MAX));
    world.event(Event::Data { transport: gone, channel: DataChannel::Reliable, payload: vec![0xff; 9].into() });
    world.event(Event::Data { transport: alice, channel: DataChannel::DataTrack, payload: vec![0xff; 7].into() });

    let order: Vec<&Command> = world.commands.iter().collect();
    assert!(
        matches!(order[..2], [Command::SendData { from: Some(from), .. }, Command::DataTaken { .. }] if *from == alice)
    );
    let mut taken = std::collections::HashMap::<_, (usize, usize)>::new();
    for command in &world.commands {
        if let Command::DataTaken { transport, channel, messages, bytes, .. } = command {
            let sum = taken.entry((*transport, *channel)).or_default();
            *sum = (sum.0 + messages, sum.1 + bytes);
        }
    }
    let expected = [
        ((alice, DataChannel::Reliable), (2, 2 * length)),
        ((mute, DataChannel::Lossy), (1, length)),
        ((gone, DataChannel::Reliable), (1, 9)),
        ((alice, DataChannel::DataTrack), (1, 7)),
    ];
    assert_eq!(taken, expected.into());
}

#[test]
fn messages_that_come_together_are_done_with_together() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.forget();
    let transport = world.session(&alice).publisher.id;
    world.call(|room, now| {
        for (channel, length) in [(DataChannel::Reliable, 9), (DataChannel::Lossy, 5), (DataChannel::Reliable, 30)] {
            room.on_event(now, Event::Data { transport, channel, payload: vec![0xff; length].into() });
        }
    });
    let taken = world.commands.iter().filter_map(|command| match command {
        Command::DataTaken { channel, messages, bytes, .. } => Some((*channel, *messages, *bytes)),
        _ => None,
    });
    assert_eq!(taken.collect::<Vec<_>>(), [(DataChannel::Reliable, 2, 39), (DataChannel::Lossy, 1, 5)]);
}

#[test]
fn of_many_destinations_as_many_are_looked_at_as_a_large_room_has() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.enter_v1("bob");
    for (others, reached) in [(1_023, 1), (1_024, 0)] {
        world.forget();
        let mut destinations: Vec<_> = (0..others).map(|number| format!("n{number}")).collect();
        destinations.push("bob".into());
        let destinations: Vec<_> = destinations.iter().map(String::as_str).collect();
        send(&mut world, &alice, DataChannel::Lossy, &user("x", &destinations, 0));
        assert_eq!(sent(&mut world).len(), reached, "{others}");
    }
}

#[test]
#[expect(deprecated, reason = "older clients name sids, within their packets")]
fn destinations_within_a_user_packet_are_kept_to() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let bob = world.enter_v1("bob");
    world.enter_v1("carol");
    let (sid, to_bob) = (world.sid(&bob).to_string(), [world.session(&bob).publisher.id]);
    let identities = vec!["bob".to_owned()];
    for user in [
        proto::UserPacket { destination_identities: identities, ..Default::default() },
        proto::UserPacket { destination_sids: vec![sid, "PA_nobody".into()], ..Default::default() },
    ] {
        let packet = proto::DataPacket { value: Some(Value::User(user)), ..Default::default() };
        send(&mut world, &alice, DataChannel::Lossy, &packet);
        let (transports, ..) = sent(&mut world).remove(0);
        assert_eq!(transports, to_bob);
    }
}

#[test]
fn a_nonce_counts_once_whoever_sends_it() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.enter_v1("bob");
    let user = proto::UserPacket { nonce: vec![7; 16], ..Default::default() };
    let packet = proto::DataPacket { value: Some(Value::User(user)), ..Default::default() };
    send(&mut world, &alice, DataChannel::Lossy, &packet);
    send(&mut world, &alice, DataChannel::Lossy, &packet);
    let nonce = vec![7; 16];
    world.call(|room, now| room.send_data(now, &proto::SendDataRequest { nonce, ..Default::default() }));
    assert_eq!(sent(&mut world).len(), 1);
}

#[test]
#[expect(deprecated, reason = "older clients may still send speakers")]
fn metrics_and_speakers_of_a_client_go_nowhere() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.enter_v1("bob");
    for value in [Value::Metrics(proto::MetricsBatch::default()), Value::Speaker(proto::ActiveSpeakerUpdate::default())]
    {
        let packet = proto::DataPacket { value: Some(value), ..Default::default() };
        send(&mut world, &alice, DataChannel::Reliable, &packet);
    }
    assert!(sent(&mut world).is_empty());
}

#[test]
fn an_agent_alone_speaks_in_the_name_of_others() {
    use proto::data_stream::header::ContentHeader;
    use proto::data_stream::{ByteHeader, Header, TextHeader};
    let header = |content| Value::StreamHeader(Header { content_header: Some(content), ..Default::default() });
    let chat = || Value::ChatMessage(proto::ChatMessage::default());
    let text = || header(ContentHeader::TextHeader(TextHeader::default()));
    let bytes = || header(ContentHeader::ByteHeader(ByteHeader::default()));
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let mut request = join("agent", Mode::V1);
    request.grants.kind = proto::participant_info::Kind::Agent;
    let agent = world.enter(request);
    for (from, named, value, identity, is_generated) in [
        (&agent, "bob", chat(), "bob", true),
        (&agent, "bob", text(), "bob", true),
        (&agent, "bob", bytes(), "agent", false),
        (&agent, "agent", chat(), "agent", false),
        (&agent, "", chat(), "agent", false),
        (&alice, "bob", chat(), "alice", false),
    ] {
        let participant_identity = named.to_owned();
        let packet = proto::DataPacket { value: Some(value), participant_identity, ..Default::default() };
        send(&mut world, from, DataChannel::Reliable, &packet);
        let (.., arrived) = sent(&mut world).remove(0);
        let generated = match &arrived.value {
            Some(Value::ChatMessage(chat)) => chat.generated,
            Some(Value::StreamHeader(Header { content_header: Some(ContentHeader::TextHeader(text)), .. })) => {
                text.generated
            }
            _ => false,
        };
        let told = (arrived.participant_identity.as_str(), generated);
        assert_eq!(told, (identity, is_generated), "{} for {named}: {:?}", from.identity, arrived.value);
    }
}

#[test]
#[expect(deprecated, reason = "older clients read these fields of the user packet")]
fn a_hidden_sender_has_no_identity() {
    let mut world = World::new();
    let mut request = join("ghost", Mode::V1);
    request.grants.video.hidden = true;
    let ghost = world.enter(request);
    world.enter_v1("bob");
    let mut boo = user("boo", &[], 1);
    boo.participant_identity = "mallory".into();
    send(&mut world, &ghost, DataChannel::Reliable, &boo);
    let (.., packet) = sent(&mut world).remove(0);
    let Some(Value::User(user)) = packet.value else { panic!("no user packet") };
    let sid = world.sid(&ghost);
    assert_eq!((packet.participant_identity.as_str(), packet.participant_sid.as_str()), ("", sid.as_str()));
    assert_eq!((user.participant_identity.as_str(), user.participant_sid.as_str()), ("", ""));
}

#[test]
fn a_newcomer_gets_what_was_said_in_the_last_two_seconds() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    send(&mut world, &alice, DataChannel::Reliable, &user("old", &[], 1));
    world.pass(s(3));
    send(&mut world, &alice, DataChannel::Reliable, &user("for all", &[], 2));
    send(&mut world, &alice, DataChannel::Reliable, &user("for bob", &["bob"], 3));
    send(&mut world, &alice, DataChannel::Reliable, &user("for carol", &["carol"], 4));
    send(&mut world, &alice, DataChannel::Lossy, &user("lossy", &[], 0));
    world.forget();
    let bob = world.join(join("bob", Mode::V0));
    let downstream = world.session(&bob).subscriber.as_ref().unwrap().id;
    let replayed = sent(&mut world);
    assert!(replayed.iter().all(|(transports, ..)| *transports == [downstream]));
    let sequences: Vec<_> = replayed.iter().map(|(.., packet)| packet.sequence).collect();
    assert_eq!(sequences, [2, 3]);
}

#[test]
fn lossy_packets_reach_only_the_active() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.join(join("bob", Mode::V1));
    world.forget();
    send(&mut world, &alice, DataChannel::Lossy, &user("x", &[], 0));
    assert!(sent(&mut world).is_empty());
    send(&mut world, &alice, DataChannel::Reliable, &user("x", &[], 1));
    assert_eq!(sent(&mut world).len(), 1);
}

#[test]
fn the_server_api_sends_once_a_nonce() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    world.enter_v1("carol");
    let request = proto::SendDataRequest {
        data: b"news".to_vec(),
        destination_identities: vec!["bob".into()],
        topic: Some("t".into()),
        nonce: vec![1; 16],
        ..Default::default()
    };
    world.call(|room, now| room.send_data(now, &request));
    world.call(|room, now| room.send_data(now, &request));
    let sent = sent(&mut world);
    assert_eq!(sent.len(), 1);
    assert_eq!((&sent[0].0[..], sent[0].1), (&[world.session(&bob).publisher.id][..], DataChannel::Reliable));
    assert!(sent[0].2.participant_sid.is_empty());
    let Some(Value::User(user)) = &sent[0].2.value else { panic!("no user packet") };
    assert_eq!(user.topic.as_deref(), Some("t"));
}

#[test]
fn the_server_api_sends_lossily_to_the_active() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    world.join(join("carol", Mode::V1));
    world.forget();
    let kind = proto::data_packet::Kind::Lossy as i32;
    world.call(|room, now| room.send_data(now, &proto::SendDataRequest { kind, ..Default::default() }));
    let sent = sent(&mut world);
    assert_eq!(sent.len(), 1);
    assert_eq!((&sent[0].0[..], sent[0].1), (&[world.session(&bob).publisher.id][..], DataChannel::Lossy));
}

#[test]
fn only_agents_transcribe() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let mut request = join("agent", Mode::V1);
    request.grants.kind = proto::participant_info::Kind::Agent;
    let agent = world.enter(request);
    let packet =
        proto::DataPacket { value: Some(Value::Transcription(proto::Transcription::default())), ..Default::default() };
    send(&mut world, &alice, DataChannel::Reliable, &packet);
    assert!(sent(&mut world).is_empty());
    send(&mut world, &agent, DataChannel::Reliable, &packet);
    assert_eq!(sent(&mut world).len(), 1);
}

#[test]
#[expect(deprecated, reason = "backends may still name sids")]
fn what_is_for_nobody_who_can_be_named_reaches_nobody_and_no_newcomer_either() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.enter_v1("bob");
    let sid = world.sid(&alice).to_string();
    let to = |identities: &[&str], sids: &[&str]| proto::SendDataRequest {
        data: b"news".to_vec(),
        destination_identities: identities.iter().copied().map(str::to_owned).collect(),
        destination_sids: sids.iter().copied().map(str::to_owned).collect(),
        ..Default::default()
    };
    for request in [to(&[""], &[]), to(&[], &[""]), to(&[""], &[""]), to(&["x".repeat(300).as_str()], &[])] {
        world.call(|room, now| room.send_data(now, &request));
    }
    send(&mut world, &alice, DataChannel::Reliable, &user("hello", &[""], 1));
    assert!(sent(&mut world).is_empty());
    // One who is here, and is named by its sid.
    world.call(|room, now| room.send_data(now, &to(&[], &[&sid])));
    assert_eq!(sent(&mut world).len(), 1);

    world.forget();
    world.join(join("carol", Mode::V1));
    assert!(sent(&mut world).is_empty());
}

#[test]
fn the_server_api_does_nothing_to_a_participant_without_a_name() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let missing = |result: Result<(), signaling::room::error::ApiError>| {
        matches!(result, Err(signaling::room::error::ApiError::NotFound(_)))
    };
    let subscriptions = proto::UpdateSubscriptionsRequest { track_sids: vec![String::new()], ..Default::default() };
    let results = world.call(|room, now| {
        [
            room.participant("").map(drop),
            room.remove_participant(now, ""),
            room.mute_published_track(now, "", "", true).map(drop),
            room.update_participant(now, proto::UpdateParticipantRequest::default()).map(drop),
            room.update_subscriptions(now, &subscriptions),
        ]
    });
    assert!(results.into_iter().all(missing));
    // Of one who is there, a track without a name.
    assert_eq!(world.call(|room, now| room.mute_published_track(now, "alice", "", true)), Ok(None));
    let subscriptions = proto::UpdateSubscriptionsRequest { identity: "alice".into(), ..subscriptions };
    assert_eq!(world.call(|room, now| room.update_subscriptions(now, &subscriptions)), Ok(()));
    assert_eq!(world.room.list_participants().len(), 1);
    assert!(world.session(&alice).choices.is_empty());
}
