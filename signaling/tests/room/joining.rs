//! Joining in both connection models (docs/livekit.md 3.4 to 3.6, 7.5).

use livekit_protocol as proto;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::{ChannelOpener, Command, DtlsRole, TransportEnd};
use signaling::event::RoomHappening;
use signaling::join::JoinError;
use signaling::join::{Join, Mode};
use signaling::token::Grants;

use crate::sdp::{Offer, answer_to};
use crate::world::{Client, World, grants, join, leaves, ms, names, offer, resume, s, updates};

fn join_response(world: &mut World, join: Join) -> proto::JoinResponse {
    let client = world.join(join);
    let Some(Response::Join(response)) = world.take(&client).into_iter().next() else { panic!("no join first") };
    response
}

fn codecs(mimes: &[&str]) -> Vec<proto::Codec> {
    mimes.iter().map(|mime| proto::Codec { mime: (*mime).into(), fmtp_line: String::new() }).collect()
}

/// A world of which everything that can be set is set, and where all of it is told.
fn world_with_settings() -> World {
    World::with(|config, settings| {
        config.region = "eu-west".into();
        let urls = vec!["turn:turn.example:3478".to_owned()];
        config.ice_servers = vec![proto::IceServer { urls, username: "u".into(), credential: "c".into() }];
        config.enabled_codecs = ["audio/opus", "audio/red", "video/VP8", "video/AV1"].map(str::to_owned).to_vec();
        settings.max_participants = 7;
        settings.metadata = "of the room".into();
    })
}

/// Of somebody with a Safari, who plays no AV1.
fn join_with_everything() -> Join {
    let mut request = join("alice", Mode::V0);
    request.grants.name = "Alice".into();
    request.grants.metadata = "of alice".into();
    request.grants.attributes = [("a".to_owned(), "1".to_owned())].into();
    request.grants.kind = proto::participant_info::Kind::Sip;
    request.grants.kind_details = vec![proto::participant_info::KindDetail::Forwarded];
    request.client.browser = "Safari".into();
    request.client.browser_version = "18.0".into();
    request.client.capabilities = vec![proto::client_info::Capability::CapPacketTrailer as i32];
    request
}

fn server_info() -> proto::ServerInfo {
    proto::ServerInfo {
        edition: proto::server_info::Edition::Standard as i32,
        version: "1.13.5".into(),
        protocol: 17,
        region: "eu-west".into(),
        node_id: "ND_test".into(),
        debug_info: String::new(),
        agent_protocol: 1,
    }
}

fn no_av1() -> proto::ClientConfiguration {
    let disabled_codecs = proto::DisabledCodecs { codecs: codecs(&["video/AV1"]), publish: Vec::new() };
    proto::ClientConfiguration { disabled_codecs: Some(disabled_codecs), ..Default::default() }
}

#[test]
fn the_first_message_is_the_join_response_with_all_that_a_client_starts_from() {
    let mut world = world_with_settings();
    world.pass(ms(1_250));
    let response = join_response(&mut world, join_with_everything());

    // What is minted anew each time.
    let (me, room) = (response.participant.as_ref().unwrap(), response.room.as_ref().unwrap());
    assert!(me.sid.starts_with("PA_") && room.sid.starts_with("RM_"));
    assert_eq!((response.sif_trailer.len(), response.sif_trailer.is_ascii()), (43, true));
    let began_ms = 1_800_000_000_000;
    let expected = proto::JoinResponse {
        room: Some(proto::Room {
            sid: room.sid.clone(),
            name: "room".into(),
            empty_timeout: 300,
            departure_timeout: 20,
            max_participants: 7,
            creation_time: began_ms / 1_000,
            creation_time_ms: began_ms,
            enabled_codecs: codecs(&["audio/opus", "audio/red", "video/VP8", "video/AV1", "video/rtx"]),
            metadata: "of the room".into(),
            ..Default::default()
        }),
        participant: Some(proto::ParticipantInfo {
            sid: me.sid.clone(),
            identity: "alice".into(),
            state: State::Joining as i32,
            name: "Alice".into(),
            metadata: "of alice".into(),
            attributes: [("a".to_owned(), "1".to_owned())].into(),
            joined_at: 1_800_000_001,
            joined_at_ms: began_ms + 1_250,
            permission: Some(proto::ParticipantPermission {
                can_subscribe: true,
                can_publish: true,
                can_publish_data: true,
                ..Default::default()
            }),
            region: "eu-west".into(),
            kind: proto::participant_info::Kind::Sip as i32,
            kind_details: vec![proto::participant_info::KindDetail::Forwarded as i32],
            client_protocol: 2,
            capabilities: vec![proto::client_info::Capability::CapPacketTrailer as i32],
            ..Default::default()
        }),
        other_participants: Vec::new(),
        server_version: "1.13.5".into(),
        ice_servers: vec![proto::IceServer {
            urls: vec!["turn:turn.example:3478".into()],
            username: "u".into(),
            credential: "c".into(),
        }],
        subscriber_primary: true,
        alternative_url: String::new(),
        client_configuration: Some(no_av1()),
        server_region: "eu-west".into(),
        ping_timeout: 15,
        ping_interval: 5,
        server_info: Some(server_info()),
        sif_trailer: response.sif_trailer.clone(),
        enabled_publish_codecs: codecs(&["video/VP8", "audio/opus", "audio/red"]),
        fast_publish: true,
    };
    assert_eq!(response, expected);
}

#[test]
fn a_resume_is_told_anew_what_may_have_changed_with_the_server() {
    let mut world = world_with_settings();
    let alice = world.join(join_with_everything());
    let Some(Response::Join(joined)) = world.take(&alice).into_iter().next() else { panic!("no join first") };
    let again = Join { reconnect: resume("alice", Mode::V0, "").reconnect, ..join_with_everything() };
    let again = world.join(again);
    let Some(Response::Reconnect(response)) = world.take(&again).into_iter().next() else { panic!("no reconnect") };
    let expected = proto::ReconnectResponse {
        ice_servers: joined.ice_servers,
        client_configuration: Some(no_av1()),
        server_info: Some(server_info()),
        last_message_seq: 0,
    };
    assert_eq!(response, expected);
}

#[test]
fn who_may_not_publish_is_not_told_to_publish_with_the_join() {
    let mut request = join("alice", Mode::V1);
    request.grants.video.can_publish = Some(false);
    assert!(!join_response(&mut World::new(), request).fast_publish);
}

#[test]
fn a_v0_join_gets_two_transports_and_an_offer_without_media() {
    let mut world = World::new();
    let alice = world.join(join("alice", Mode::V0));

    let openers: Vec<_> = world
        .commands
        .iter()
        .filter_map(|command| if let Command::OpenTransport { opener, .. } = command { Some(*opener) } else { None })
        .collect();
    assert_eq!(openers, [ChannelOpener::Client, ChannelOpener::Server]);
    let messages = world.take(&alice);
    assert_eq!(names(&messages)[0], "join");
    let offer = messages.iter().find_map(|m| if let Response::Offer(offer) = m { Some(offer) } else { None }).unwrap();
    assert!(offer.sdp.contains("m=application") && !offer.sdp.contains("m=video"));
    assert!((2..=257).contains(&offer.id));
    assert!(names(&messages).contains(&"token"));
}

/// As the Go SDK does, whose Pion waits for the ClientHello of an ICE-lite server.
#[test]
fn who_answers_passive_makes_us_the_dtls_client_of_that_transport_alone() {
    for (setup, role) in [("passive", DtlsRole::Client), ("active", DtlsRole::Server)] {
        let mut world = World::new();
        let alice = world.join(join("alice", Mode::V0));
        let messages = world.take(&alice);
        let offers = |m: &_| if let Response::Offer(offer) = m { Some(offer.clone()) } else { None };
        let their = messages.iter().find_map(offers).unwrap();
        let sdp = answer_to(&their.sdp).replace("a=setup:active", &format!("a=setup:{setup}"));
        let answer = proto::SessionDescription { r#type: "answer".into(), sdp, id: their.id, ..Default::default() };
        world.request(&alice, Request::Answer(answer));
        world.offer(&alice, 1, &Offer::default().application());
        let roles = world.commands.iter().filter_map(|command| match command {
            Command::SetFingerprint { role, .. } => Some(*role),
            _ => None,
        });
        assert_eq!(roles.collect::<Vec<_>>(), [role, DtlsRole::Server]);
        let told = |command: &&Command| matches!(command, Command::SetRemoteCredentials { .. });
        assert_eq!(world.commands.iter().filter(told).count(), 2, "the client's ICE credentials");
    }
}

#[test]
fn a_v1_join_gets_one_transport_and_the_answer_to_its_offer() {
    let mut world = World::new();
    let offer = offer(1, &Offer::v1());
    let alice = world.join(Join { publisher_offer: Some(offer), ..join("alice", Mode::V1) });

    let opened = world.commands.iter().filter(|command| matches!(command, Command::OpenTransport { .. })).count();
    assert_eq!(opened, 1);
    assert!(world.commands.iter().any(|command| matches!(command, Command::SetFingerprint { .. })));
    let messages = world.take(&alice);
    let answer = messages.iter().find_map(|m| if let Response::Answer(answer) = m { Some(answer) } else { None });
    assert_eq!(answer.unwrap().id, 1);
    let Response::Join(response) = &messages[0] else { panic!("no join first") };
    assert!(!response.subscriber_primary);
}

#[test]
fn who_may_not_subscribe_gets_no_offer() {
    let mut world = World::new();
    let mut request = join("alice", Mode::V0);
    request.grants.video.can_subscribe = Some(false);
    let alice = world.join(request);

    let messages = world.take(&alice);
    let Response::Join(response) = &messages[0] else { panic!("no join first") };
    assert!(!response.subscriber_primary);
    assert!(!names(&messages).contains(&"offer"));
}

#[test]
fn a_participant_is_active_when_its_primary_transport_is() {
    let mut world = World::new();
    let alice = world.join(join("alice", Mode::V0));
    let publisher = world.session(&alice).publisher.id;

    world.event(sfu::command::Event::TransportConnected { transport: publisher });
    assert!(!world.session(&alice).active);
    world.connect(&alice);
    assert!(world.session(&alice).active);
    let states: Vec<_> = updates(&world.take(&alice)).iter().map(|info| (info.state(), info.version)).collect();
    assert_eq!(states, [(State::Joined, 1), (State::Active, 2)]);
    assert!(world.events.iter().any(|event| matches!(event.what, RoomHappening::ParticipantJoined { .. })));
}

#[test]
fn a_newcomer_is_told_of_all_others_but_the_hidden() {
    let mut world = World::new();
    world.enter_v0("alice");
    let mut hidden = join("ghost", Mode::V1);
    hidden.grants.video.hidden = true;
    world.enter(hidden);

    let response = join_response(&mut world, join("bob", Mode::V1));
    let others: Vec<_> = response.other_participants.iter().map(|info| info.identity.as_str()).collect();
    assert_eq!(others, ["alice"]);
}

#[test]
fn of_a_hidden_participant_only_it_itself_hears() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let mut hidden = join("ghost", Mode::V1);
    hidden.grants.video.hidden = true;
    let ghost = world.join(hidden);
    world.connect(&ghost);

    assert!(updates(&world.take(&alice)).is_empty());
    assert!(!updates(&world.take(&ghost)).is_empty());
    assert_eq!(world.room.info().num_participants, 2);
}

/// What others hear of `bob` until now, who is in sight at first: states by sid.
fn seen_of_bob(world: &mut World, alice: &Client) -> Vec<(String, State)> {
    let infos = updates(&world.take(alice)).into_iter().filter(|info| info.identity == "bob");
    infos.map(|info| (info.sid.clone(), info.state())).collect()
}

#[test]
fn who_comes_back_hidden_has_left_for_the_others() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let bob = world.enter_v1("bob");
    let sid = world.sid(&bob).to_string();
    world.forget();

    let mut hidden = join("bob", Mode::V1);
    hidden.grants.video.hidden = true;
    world.join(hidden);
    assert_eq!(seen_of_bob(&mut world, &alice), [(sid, State::Disconnected)]);
}

#[test]
fn who_is_hidden_by_the_server_api_leaves_the_others_sight_with_its_tracks() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let bob = world.enter_v1("bob");
    let track = world.publish_audio(&bob, "mic", &Offer::v1().audio("mic", 10));
    let sid = world.sid(&bob).to_string();
    let hide = |world: &mut World, hidden| {
        let permission =
            proto::ParticipantPermission { can_publish: true, can_subscribe: true, hidden, ..Default::default() };
        let identity = "bob".into();
        let request = proto::UpdateParticipantRequest { identity, permission: Some(permission), ..Default::default() };
        world.update_participant(request).unwrap();
    };
    assert!(world.session(&alice).subscriptions.contains_key(track.as_str()));
    world.forget();

    hide(&mut world, true);
    assert_eq!(seen_of_bob(&mut world, &alice), [(sid.clone(), State::Disconnected)]);
    let own = updates(&world.take(&bob));
    assert!(own.iter().all(|info| info.state() == State::Active), "its own client believes it gone: {own:?}");
    assert!(!world.session(&alice).subscriptions.contains_key(track.as_str()));
    assert!(world.session(&bob).publications.contains_key(track.as_str()), "it goes on sending");

    hide(&mut world, false);
    assert_eq!(seen_of_bob(&mut world, &alice), [(sid, State::Active)]);
    assert!(world.session(&alice).subscriptions.contains_key(track.as_str()));
}

#[test]
fn the_same_identity_again_replaces_the_old_session_without_a_word_to_new_clients() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let old_client = world.enter(Join { protocol_version: 11, ..join("carol", Mode::V0) });
    let bob = world.enter_v0("bob");
    let old_sid = world.sid(&bob);
    world.forget();

    let again = world.join(join("bob", Mode::V0));
    let leave = &leaves(&world.take(&bob))[0];
    assert_eq!(leave.reason(), proto::DisconnectReason::DuplicateIdentity);
    assert_eq!(leave.action(), proto::leave_request::Action::Disconnect);
    assert!(world.closed.contains(&bob.connection));
    assert_ne!(world.sid(&again), old_sid);
    let seen: Vec<_> = updates(&world.take(&alice)).iter().map(|info| info.state()).collect();
    assert_eq!(seen, [State::Joined]);
    let seen: Vec<_> = updates(&world.take(&old_client)).iter().map(|info| info.state()).collect();
    assert_eq!(seen, [State::Disconnected, State::Joined]);
}

#[test]
fn a_full_room_refuses_but_lets_an_identity_replace_itself() {
    let mut world = World::with(|_, settings| settings.max_participants = 1);
    world.enter_v0("alice");

    assert_eq!(world.try_join(join("bob", Mode::V0)), Err(JoinError::RoomFull));
    assert!(world.try_join(join("alice", Mode::V0)).is_ok());
}

#[test]
fn agents_and_recorders_find_room_in_a_full_one_and_are_not_counted() {
    use proto::participant_info::Kind;
    let mut world = World::with(|_, settings| settings.max_participants = 1);
    world.enter_v0("alice");
    type Change = fn(&mut Grants);
    let dependents: [(&str, Change); 4] = [
        ("an agent by its kind", |grants| grants.kind = Kind::Agent),
        ("an agent by its grant", |grants| grants.video.agent = true),
        ("a recorder by its kind", |grants| grants.kind = Kind::Egress),
        ("a recorder by its grant", |grants| grants.video.recorder = true),
    ];
    for (identity, change) in dependents {
        let mut request = join(identity, Mode::V0);
        change(&mut request.grants);
        assert!(world.try_join(request).is_ok(), "{identity}");
        assert_eq!(world.room.info().num_participants, 1, "{identity}");
        // Its place is none that somebody who counts could take.
        assert_eq!(world.try_join(join(identity, Mode::V0)), Err(JoinError::RoomFull), "{identity}");
    }
    for kind in [Kind::Standard, Kind::Ingress, Kind::Sip] {
        let mut request = join("bob", Mode::V0);
        request.grants.kind = kind;
        assert_eq!(world.try_join(request), Err(JoinError::RoomFull), "{kind:?}");
    }
}

#[test]
fn who_becomes_a_recorder_counts_no_more_and_who_is_none_any_more_counts() {
    let mut world = World::new();
    world.enter_v0("alice");
    world.enter_v0("bob");
    for (recorder, counted) in [(true, 1), (true, 1), (false, 2)] {
        #[expect(deprecated, reason = "server SDKs may still set it")]
        let permission = proto::ParticipantPermission { can_publish: true, recorder, ..Default::default() };
        let identity = "bob".into();
        let request = proto::UpdateParticipantRequest { identity, permission: Some(permission), ..Default::default() };
        world.update_participant(request).unwrap();
        assert_eq!(world.room.info().num_participants, counted);
    }
}

#[test]
fn a_token_describes_its_bearer_within_the_limits() {
    let attempt = |limit: usize, metadata: &str, attributes: &[(&str, &str)]| {
        let mut world = World::with(|config, _| {
            config.limits.metadata_bytes_max = limit;
            config.limits.attributes_bytes_max = limit;
        });
        let mut grants = grants("alice");
        grants.metadata = metadata.into();
        grants.attributes = attributes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        world.try_join(Join { grants, ..join("alice", Mode::V0) }).map(drop)
    };
    let (as_long, longer) = ([("key", "value"), ("k", "v")], [("key", "value"), ("k", "ve")]);
    assert_eq!(attempt(10, "ten bytes!", &as_long), Ok(()));
    assert_eq!(attempt(10, "eleven byte", &as_long), Err(JoinError::TooLarge("metadata")));
    assert_eq!(attempt(10, "ten bytes!", &longer), Err(JoinError::TooLarge("attributes")));
    assert_eq!(attempt(0, "eleven byte", &longer), Ok(()), "no limit");
}

#[test]
fn who_is_not_connected_in_a_minute_is_removed() {
    let mut world = World::new();
    let alice = world.join(join("alice", Mode::V1));
    world.pass(s(59));
    assert!(!world.closed.contains(&alice.connection));

    world.pass(s(1));
    let leave = &leaves(&world.take(&alice))[0];
    assert_eq!(leave.reason(), proto::DisconnectReason::JoinFailure);
    assert!(world.closed.contains(&alice.connection));
    let aborted = world.events.last().unwrap();
    assert!(matches!(aborted.what, RoomHappening::ParticipantConnectionAborted { .. }));
}

#[test]
fn an_idle_publisher_transport_that_expires_is_opened_again() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.enter_v0("bob");
    let carol = world.join(join("carol", Mode::V0));
    let old = world.session(&carol).publisher.id;
    world.event(sfu::command::Event::TransportEnded { transport: old, end: TransportEnd::HandshakeFailed });

    let new = world.session(&carol).publisher.id;
    assert_ne!(new, old);
    let opened = |world: &World| match world.commands.last() {
        Some(Command::OpenTransport { transport, opener, .. }) => (*transport, *opener),
        other => panic!("{other:?}"),
    };
    assert_eq!(opened(&world), (new, ChannelOpener::Client));
    assert!(leaves(&world.take(&carol)).is_empty());
    assert!(leaves(&world.take(&alice)).is_empty());

    // An old client publishes on its primary transport.
    let dave = world.join(Join { protocol_version: 2, ..join("dave", Mode::V0) });
    let transport = world.session(&dave).subscriber.as_ref().unwrap().id;
    world.event(sfu::command::Event::TransportEnded { transport, end: TransportEnd::HandshakeFailed });
    let new = world.session(&dave).subscriber.as_ref().unwrap().id;
    assert_eq!((new == transport, opened(&world)), (false, (new, ChannelOpener::Server)));
}

#[test]
fn tokens_are_renewed_at_once_and_every_five_minutes() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.pass(s(299));
    assert!(!names(&world.take(&alice)).contains(&"token"));
    world.pass(s(2));
    assert!(names(&world.take(&alice)).contains(&"token"));
}

#[test]
fn a_recorder_is_announced_by_the_room() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let mut request = join("egress", Mode::V1);
    request.grants.video.recorder = true;
    request.grants.video.hidden = true;
    let recorder = world.join(request);

    let recording = |messages: Vec<Response>| {
        let updates =
            messages.into_iter().rev().find_map(|m| if let Response::RoomUpdate(u) = m { u.room } else { None });
        updates.map(|room| room.active_recording)
    };
    assert_eq!(recording(world.take(&alice)), Some(true));
    world.lose_socket(&recorder);
    world.pass(ms(1));
    assert_eq!(recording(world.take(&alice)), Some(false));
}
