//! Subscribing and the negotiation that carries it out (docs/livekit.md 5.1, 5.4, 5.7, 7.8, 7.9).

use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::{Command, Event, TransportEnd};
use signaling::join::{Join, Mode};
use signaling::participant::WISHES_MAX;

use crate::sdp::Offer;
use crate::world::{Client, World, join, leaves, ms, names, s};

fn offers(messages: &[Response]) -> Vec<proto::SessionDescription> {
    messages.iter().filter_map(|m| if let Response::Offer(offer) = m { Some(offer.clone()) } else { None }).collect()
}

fn requirements(messages: &[Response]) -> Vec<(u32, u32)> {
    messages
        .iter()
        .filter_map(|m| {
            if let Response::MediaSectionsRequirement(n) = m { Some((n.num_audios, n.num_videos)) } else { None }
        })
        .collect()
}

fn subscribe(track: &str, subscribe: bool) -> Request {
    Request::Subscription(proto::UpdateSubscription {
        track_sids: vec![track.into()],
        subscribe,
        participant_tracks: vec![proto::ParticipantTracks {
            participant_sid: String::new(),
            track_sids: vec![track.into()],
        }],
    })
}

/// Alice with a microphone, her offer, and its track.
fn alice_speaks(world: &mut World) -> (Client, String) {
    let alice = world.enter_v0("alice");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();
    (alice, track)
}

fn permission(all_participants: bool) -> Request {
    Request::SubscriptionPermission(proto::SubscriptionPermission { all_participants, ..Default::default() })
}

/// What is said of tracks that are permitted, or no longer.
fn allowed(messages: &[Response]) -> Vec<bool> {
    let updates = messages.iter().filter_map(|m| {
        if let Response::SubscriptionPermissionUpdate(update) = m { Some(update.allowed) } else { None }
    });
    updates.collect()
}

fn subscribes(world: &World) -> usize {
    world.commands.iter().filter(|command| matches!(command, Command::Subscribe { .. })).count()
}

#[test]
fn a_new_track_reaches_a_v0_subscriber_by_update_permission_offer() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.pass(s(1));
    world.forget();
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.pass(ms(10));

    let messages = world.inbox(&bob).to_vec();
    assert_eq!(names(&messages)[..3], ["update", "permission", "offer"]);
    let offer = &offers(&messages)[0];
    let sid = world.sid(&alice);
    assert!(offer.sdp.contains(&format!("a=msid:{sid}|{track} {track}")), "{}", offer.sdp);
    assert_eq!(offer.mid_to_track_id.values().collect::<Vec<_>>(), [&track]);
    assert_eq!(subscribes(&world), 0);

    world.take(&alice);
    world.answer(&bob);
    assert_eq!(subscribes(&world), 1);
    assert_eq!(names(&world.take(&alice)), ["track_subscribed"]);
}

#[test]
fn existing_tracks_come_in_a_second_offer_150_ms_after_the_first() {
    let mut world = World::new();
    alice_speaks(&mut world);
    let bob = world.join(join("bob", Mode::V0));
    let first = offers(world.inbox(&bob)).pop().unwrap();
    assert!(!first.sdp.contains("m=audio"));
    world.answer(&bob);
    world.pass(ms(149));
    assert_eq!(offers(world.inbox(&bob)).len(), 1);
    world.pass(ms(1));
    let second = offers(world.inbox(&bob)).pop().unwrap();
    assert_eq!(second.id, first.id + 1);
    assert!(second.sdp.contains("m=audio"));
}

#[test]
fn tracks_that_come_within_ten_milliseconds_come_in_one_offer() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.pass(s(1));
    let offer = Offer::default().application().audio("mic", 10);
    world.publish_audio(&alice, "mic", &offer);
    world.forget();
    world.pass(ms(9));
    assert!(offers(world.inbox(&bob)).is_empty());
    world.publish_audio(&alice, "second", &offer.audio("second", 20));
    world.pass(ms(1));
    let offers = offers(world.inbox(&bob));
    assert_eq!(offers.iter().map(|offer| offer.mid_to_track_id.len()).collect::<Vec<_>>(), [2]);
}

#[test]
fn only_one_offer_is_outstanding() {
    let mut world = World::new();
    let (alice, _) = alice_speaks(&mut world);
    let bob = world.join(join("bob", Mode::V0));
    world.pass(s(1));
    assert_eq!(offers(world.inbox(&bob)).len(), 1);
    world.answer(&bob);
    world.pass(ms(10));
    let offer = Offer::default().application().audio("mic", 10).audio("second", 20);
    world.publish_audio(&alice, "second", &offer);
    world.pass(s(1));
    assert_eq!(offers(world.inbox(&bob)).len(), 2);
    world.connect(&bob);
    world.answer(&bob);
    world.pass(s(1));
    assert_eq!(offers(world.inbox(&bob)).len(), 3);
}

#[test]
fn a_stale_answer_is_ignored() {
    let mut world = World::new();
    let bob = world.join(join("bob", Mode::V0));
    let offer = offers(world.inbox(&bob)).pop().unwrap();
    let stale = proto::SessionDescription { r#type: "answer".into(), sdp: "x".into(), id: offer.id + 9, ..offer };
    world.request(&bob, Request::Answer(stale));
    assert!(leaves(&world.take(&bob)).is_empty());
    assert!(world.session(&bob).subscriber.as_ref().unwrap().outstanding);
}

#[test]
fn an_offer_that_stays_unanswered_makes_the_client_start_over() {
    let mut world = World::new();
    let bob = world.join(join("bob", Mode::V0));
    world.pass(s(15));
    let leave = &leaves(&world.take(&bob))[0];
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
}

#[test]
fn nothing_is_offered_to_who_closed_its_transport_or_has_nothing_to_be_told() {
    for is_closed in [true, false] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let mut request = join("bob", Mode::V0);
        if !is_closed {
            // It plays no AV1.
            request.client.browser = "Safari".into();
        }
        let bob = world.enter(request);
        world.pass(s(1));
        if is_closed {
            let transport = world.session(&bob).subscriber.as_ref().unwrap().id;
            world.event(Event::TransportEnded { transport, end: TransportEnd::ClosedByPeer });
        }
        let mut camera = crate::world::camera("cam");
        camera.simulcast_codecs[0].codec = "av1".into();
        world.request(&alice, Request::AddTrack(camera));
        let offer = Offer::default().application().browser_video("cam", 10);
        world.offer(&alice, 1, &offer);
        world.pass(s(1));
        let told = world.take(&bob);
        assert!(offers(&told).is_empty(), "{is_closed}");
        let refused = told.iter().any(|m| {
            matches!(m, Response::SubscriptionResponse(r) if r.err() == proto::SubscriptionError::SeCodecUnsupported)
        });
        assert_eq!(refused, !is_closed);
    }
}

#[test]
fn a_v1_newcomer_finds_the_tracks_in_its_first_answer() {
    let mut world = World::new();
    let (alice, track) = alice_speaks(&mut world);
    let offer = crate::world::offer(1, &Offer::v1());
    let bob = world.join(Join { publisher_offer: Some(offer), ..join("bob", Mode::V1) });
    let messages = world.take(&bob);
    let answer = messages.iter().find_map(|m| if let Response::Answer(answer) = m { Some(answer) } else { None });
    assert_eq!(answer.unwrap().mid_to_track_id.get("0"), Some(&track));
    assert_eq!(subscribes(&world), 1);
    assert!(names(&world.take(&alice)).contains(&"track_subscribed"));
    world.connect(&bob);
    world.pass(s(5));
    assert!(requirements(&world.take(&bob)).is_empty());
}

#[test]
fn a_v1_subscriber_is_asked_for_an_offer() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v1("bob");
    world.pass(s(1));
    world.forget();
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.pass(ms(10));
    assert_eq!(requirements(&world.take(&bob)), [(0, 0)]);

    world.offer(&bob, 2, &Offer::v1());
    let messages = world.take(&bob);
    let answer = messages.iter().find_map(|m| if let Response::Answer(answer) = m { Some(answer) } else { None });
    assert_eq!(answer.unwrap().mid_to_track_id.get("0"), Some(&track));
    world.pass(s(5));
    assert!(requirements(&world.take(&bob)).is_empty());
}

#[test]
fn a_v1_subscriber_without_slots_is_asked_for_as_many_as_it_lacks() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let first = Offer::default().application();
    let join = Join { publisher_offer: Some(crate::world::offer(1, &first)), ..join("bob", Mode::V1) };
    let bob = world.enter(join);
    let offer = Offer::default().application().audio("mic", 10);
    world.publish_audio(&alice, "mic", &offer);
    world.publish_camera(&alice, "cam", &offer.simulcast("cam", &["q", "h", "f"]));
    world.pass(ms(150));
    assert_eq!(requirements(world.inbox(&bob)).last(), Some(&(1, 1)));

    world.offer(&bob, 2, &first.receiving_audio(1).receiving_video(1));
    assert_eq!(subscribes(&world), 2);
}

#[test]
fn a_v1_client_that_brings_no_sections_is_not_asked_for_ever() {
    let mut world = World::new();
    let (alice, _) = alice_speaks(&mut world);
    let first = Offer::default().application();
    let join = Join { publisher_offer: Some(crate::world::offer(1, &first)), ..join("bob", Mode::V1) };
    let bob = world.enter(join);
    for id in 2..20 {
        world.pass(s(1));
        world.offer(&bob, id, &first);
    }
    // And anew when there is news.
    assert_eq!(requirements(&world.take(&bob)), [(1, 0); 3]);
    let offer = Offer::default().application().audio("mic", 10).audio("second", 20);
    world.publish_audio(&alice, "second", &offer);
    world.pass(s(1));
    assert_eq!(requirements(&world.take(&bob)), [(2, 0)]);
}

#[test]
fn auto_subscribe_can_be_off_and_single_tracks_chosen() {
    let mut world = World::new();
    let (_, track) = alice_speaks(&mut world);
    let bob = world.enter(Join { auto_subscribe: false, ..join("bob", Mode::V0) });
    world.pass(s(1));
    assert!(world.session(&bob).subscriptions.is_empty());
    world.request(&bob, subscribe(&track, true));
    world.pass(ms(150));
    world.answer(&bob);
    assert_eq!(subscribes(&world), 1);

    world.forget();
    world.request(&bob, subscribe(&track, false));
    assert!(world.commands.iter().any(|command| matches!(command, Command::Unsubscribe { .. })));
    world.pass(ms(150));
    let offer = offers(world.inbox(&bob)).pop().unwrap();
    assert!(!offer.sdp.contains(&track) && offer.sdp.contains("a=recvonly"));
}

#[test]
fn a_track_nobody_knows_is_waited_for_and_given_up_after_a_minute() {
    let mut world = World::new();
    let bob = world.enter_v0("bob");
    world.request(&bob, subscribe("TR_unknown", true));
    world.pass(s(59));
    assert!(world.take(&bob).iter().all(|m| !matches!(m, Response::SubscriptionResponse(_))));
    world.pass(s(1));
    let found = world.take(&bob).into_iter().find_map(|m| match m {
        Response::SubscriptionResponse(response) => Some(response.err()),
        _ => None,
    });
    assert_eq!(found, Some(proto::SubscriptionError::SeTrackNotfound));
}

#[test]
fn each_unknown_track_is_given_up_in_its_own_minute() {
    let mut world = World::new();
    let bob = world.enter_v0("bob");
    let given_up = |world: &mut World| {
        let messages = world.take(&bob).into_iter();
        let found =
            messages.filter_map(|m| if let Response::SubscriptionResponse(r) = m { Some(r.track_sid) } else { None });
        found.collect::<Vec<_>>()
    };
    world.request(&bob, subscribe("TR_first", true));
    world.pass(s(20));
    world.request(&bob, subscribe("TR_second", true));
    // Asked for again, and not wanted any more.
    world.request(&bob, subscribe("TR_first", true));
    for wanted in [true, false] {
        world.request(&bob, subscribe("TR_third", wanted));
    }
    world.pass(s(40));
    assert_eq!(given_up(&mut world), ["TR_first"]);
    world.pass(s(19));
    assert!(given_up(&mut world).is_empty());
    world.pass(s(1));
    assert_eq!(given_up(&mut world), ["TR_second"]);
    world.pass(s(60));
    assert!(given_up(&mut world).is_empty());
}

#[test]
fn a_track_that_comes_in_time_is_not_given_up() {
    let mut world = World::new();
    let (alice, first) = alice_speaks(&mut world);
    let bob = world.enter(Join { auto_subscribe: false, ..join("bob", Mode::V0) });
    // What it is called is known before it is there.
    world.request(&alice, Request::AddTrack(crate::world::camera("cam")));
    let track = world.track_published(&alice, "cam").sid;
    world.request(&bob, subscribe(&track, true));
    world.request(&bob, subscribe(&first, false));
    world.pass(s(59));
    let offer = Offer::default().application().audio("mic", 10).simulcast("cam", &["q", "h", "f"]);
    world.offer(&alice, 9, &offer);
    world.start_layer(&alice, &track, 0);
    assert_eq!(world.session(&bob).subscriptions.keys().map(|sid| sid.as_str()).collect::<Vec<_>>(), [&track]);
    world.pass(s(10));
    assert!(!names(&world.take(&bob)).contains(&"subscription_response"));
}

#[test]
fn who_may_not_subscribe_is_not_waited_for() {
    let mut world = World::new();
    let mut request = join("bob", Mode::V1);
    request.grants.video.can_subscribe = Some(false);
    let bob = world.enter(request);
    world.request(&bob, subscribe("TR_unknown", true));
    world.pass(s(61));
    assert!(!names(&world.take(&bob)).contains(&"subscription_response"));
    assert!(world.session(&bob).choices.is_empty());
}

/// As many as are said of different tracks; what is said of one may change.
#[test]
fn wishes_of_a_participant_are_bounded() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let sids: Vec<String> = (0..=WISHES_MAX).map(|number| format!("TR_{number:05}")).collect();
    let choose = |world: &mut World, track_sids: &[String], subscribe| {
        let track_sids = track_sids.to_vec();
        let update = proto::UpdateSubscription { track_sids, subscribe, ..Default::default() };
        world.request(&bob, Request::Subscription(update));
    };
    let set = |world: &mut World, track_sids: &[String], disabled| {
        let track_sids = track_sids.to_vec();
        let update = proto::UpdateTrackSettings { track_sids, disabled, ..Default::default() };
        world.request(&bob, Request::TrackSetting(update));
    };
    choose(&mut world, &sids, true);
    set(&mut world, &sids, true);
    let (first, last) = (sids[0].as_str(), sids[WISHES_MAX].as_str());
    let session = world.session(&bob);
    assert_eq!((session.choices.len(), session.settings.len()), (WISHES_MAX, WISHES_MAX));
    assert!(!session.choices.contains_key(last) && !session.settings.contains_key(last));

    choose(&mut world, &sids[..1], false);
    set(&mut world, &sids[..1], false);
    let session = world.session(&bob);
    assert_eq!((session.choices[first], session.settings[first].disabled), (false, false));
    assert_eq!((session.choices.len(), session.settings.len()), (WISHES_MAX, WISHES_MAX));

    world.pass(s(60));
    let given_up = names(&world.take(&bob)).into_iter().filter(|name| *name == "subscription_response").count();
    assert_eq!(given_up, WISHES_MAX - 1, "one is not wanted any more");
}

#[test]
fn a_publisher_can_forbid_and_permit() {
    let mut world = World::new();
    let (alice, track) = alice_speaks(&mut world);
    let bob = world.enter_v0("bob");
    world.pass(s(1));
    world.answer(&bob);
    world.forget();
    world.request(&alice, permission(false));
    assert_eq!(allowed(&world.take(&bob)), [false]);
    assert!(world.session(&bob).subscriptions.is_empty());
    world.request(&alice, permission(true));
    assert_eq!(allowed(&world.take(&bob)), [true]);
    assert!(world.session(&bob).subscriptions.contains_key(track.as_str()));
}

#[test]
fn who_is_still_connecting_loses_at_once_what_is_no_longer_permitted() {
    for mode in [Mode::V0, Mode::V1] {
        let mut world = World::new();
        let (alice, track) = alice_speaks(&mut world);
        let offer = (mode == Mode::V1).then(|| crate::world::offer(1, &Offer::v1()));
        let bob = world.join(Join { publisher_offer: offer, ..join("bob", mode) });
        world.answer(&bob);
        world.pass(s(1));
        world.answer(&bob);
        assert!(subscribes(&world) == 1 && !world.session(&bob).active, "{mode:?}");
        world.forget();

        world.request(&alice, permission(false));
        let unsubscribes = |command: &&Command| matches!(command, Command::Unsubscribe { .. });
        assert_eq!(world.commands.iter().filter(unsubscribes).count(), 1, "{mode:?}");
        assert_eq!(allowed(&world.take(&bob)), [false], "{mode:?}");
        // What is published meanwhile is for those who are ACTIVE.
        let more = Offer::default().application().audio("mic", 10).audio("second", 20);
        world.publish_audio(&alice, "second", &more);
        world.request(&alice, permission(true));
        assert_eq!(allowed(&world.take(&bob)), [true], "{mode:?}");
        let shown: Vec<_> = world.session(&bob).subscriptions.keys().map(ToString::to_string).collect();
        assert_eq!(shown, [track], "{mode:?}");
        world.connect(&bob);
        assert_eq!(world.session(&bob).subscriptions.len(), 2, "{mode:?}");
    }
}

#[test]
fn a_publisher_can_permit_by_identity_and_track() {
    let mut world = World::new();
    let (alice, track) = alice_speaks(&mut world);
    let bob = world.enter_v0("bob");
    let carol = world.enter_v0("carol");
    let entry =
        proto::TrackPermission { participant_identity: "bob".into(), track_sids: vec![track], ..Default::default() };
    let listed = proto::SubscriptionPermission { all_participants: false, track_permissions: vec![entry] };
    world.request(&alice, Request::SubscriptionPermission(listed));
    assert_eq!(world.session(&bob).subscriptions.len(), 1);
    assert!(world.session(&carol).subscriptions.is_empty());
}

#[test]
fn track_settings_become_what_the_worker_forwards() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter(Join { adaptive_stream: true, ..join("bob", Mode::V0) });
    world.pass(s(1));
    let offer = Offer::default().application().simulcast("cam", &["q", "h", "f"]);
    let track = world.publish_camera(&alice, "cam", &offer);
    world.pass(ms(150));
    world.take(&alice);
    world.answer(&bob);
    let settings = |world: &World| match world.commands.last() {
        Some(Command::SetSubscription { paused, layer_max, .. }) => (*paused, *layer_max),
        other => panic!("{other:?}"),
    };
    assert_eq!(settings(&world), (false, 0));
    assert_eq!(names(&world.take(&alice)), ["subscribed_quality", "track_subscribed"]);

    let mut ask = |disabled, quality: proto::VideoQuality, width, height| {
        world.request(
            &bob,
            Request::TrackSetting(proto::UpdateTrackSettings {
                track_sids: vec![track.clone()],
                disabled,
                quality: quality as i32,
                width,
                height,
                ..Default::default()
            }),
        );
        settings(&world)
    };
    assert_eq!(ask(false, proto::VideoQuality::High, 0, 0), (false, 2));
    assert_eq!(ask(false, proto::VideoQuality::High, 640, 360), (false, 1));
    assert_eq!(ask(true, proto::VideoQuality::High, 0, 0), (true, 2));
    assert!(ask(false, proto::VideoQuality::Off, 0, 0).0);
}

#[test]
fn the_first_subscriber_is_told_once_in_a_tracks_life_and_hidden_ones_never() {
    let mut world = World::new();
    let (alice, _) = alice_speaks(&mut world);
    let mut hidden = join("ghost", Mode::V1);
    hidden.grants.video.hidden = true;
    world.join(Join { publisher_offer: Some(crate::world::offer(1, &Offer::v1())), ..hidden });
    assert!(!names(&world.take(&alice)).contains(&"track_subscribed"));
    for identity in ["bob", "carol"] {
        let offer = crate::world::offer(1, &Offer::v1());
        world.join(Join { publisher_offer: Some(offer), ..join(identity, Mode::V1) });
    }
    let told = names(&world.take(&alice)).into_iter().filter(|name| *name == "track_subscribed").count();
    assert_eq!(told, 1);
}

#[test]
fn a_track_that_ends_frees_its_sections() {
    let mut world = World::new();
    let (alice, _) = alice_speaks(&mut world);
    let bob = world.enter_v1("bob");
    world.pass(s(1));
    world.forget();
    world.offer(&alice, 9, &Offer::default().application().audio("mic", 10).stopped(1));
    assert!(world.commands.iter().any(|command| matches!(command, Command::Unsubscribe { .. })));
    world.pass(ms(150));
    assert_eq!(requirements(&world.take(&bob)), [(0, 0)]);
    assert!(world.session(&bob).subscriptions.is_empty());
}
