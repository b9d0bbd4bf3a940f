//! A running session's state is written down and read back: another engine goes on where the first one stopped.

mod media;

use std::time::Duration;

use media::*;
use sfu::command::*;
use sfu::demux::Discard;
use sfu::engine::TransportState;
use sfu::rtcp::{Feedback, parse};

fn secrets(client: u64) -> [Vec<u8>; 4] {
    let keys = keys(client);
    [&keys.receive_key[..], &keys.receive_salt, &keys.send_key, &keys.send_salt].map(<[u8]>::to_vec)
}

/// How bytes may stand in JSON: as a list of numbers, as hexadecimal.
fn written_forms(secret: &[u8]) -> impl Iterator<Item = String> {
    let numbers: Vec<_> = secret.iter().map(u8::to_string).collect();
    let hexadecimal: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    [numbers.join(","), hexadecimal.to_uppercase(), hexadecimal].into_iter()
}

#[test]
fn an_exported_session_goes_on_elsewhere_without_a_gap() {
    let mut here = World::new();
    here.join(1);
    here.publish(1, 1, video_section(100));
    here.join(10);
    here.subscribe(10, 1, 1, send_section(1000, video_codecs()));
    let mut source = Source::new(100);
    here.send(1, &source.frame(true, 4));
    // The publisher's numbers roll over, which the other engine has to know.
    here.send(1, &source.frame(false, 60));
    let before = here.media(10);

    let written: Vec<String> = [1, 10]
        .map(|client| {
            here.command(Command::ExportTransport { transport: TransportId(client) });
            match here.events.pop() {
                Some(Event::TransportExported { state: Some(state), .. }) => {
                    serde_json::to_string(&*state).expect("plain data")
                }
                other => panic!("no state but {other:?}"),
            }
        })
        .to_vec();
    for (client, text) in [1, 10].into_iter().zip(&written) {
        for secret in secrets(client) {
            assert!(!written_forms(&secret).any(|form| text.contains(&form)), "a key of {client} leaves: {text}");
        }
    }

    let mut there = World::new();
    for (client, text) in [1, 10].into_iter().zip(&written) {
        let state: TransportState = serde_json::from_str(text).expect("reads back");
        let local = IceCredentials { ufrag: format!("00new{client}"), password: "p".repeat(32) };
        let World { engine, out, now, .. } = &mut there;
        engine.restore(*now, state.clone(), local, ChannelOpener::Client, out);
        assert_eq!(engine.state_of(TransportId(client)), Some(state));
        there.connect(client);
    }
    there.checker.publish(address(1), PublicationId(1), &video_section(100));
    there.checker.subscribe(address(10), PublicationId(1), &send_section(1000, video_codecs()));
    there.send(1, &source.frame(true, 3));
    let after = there.media(10);
    assert_eq!(after.len(), 3);
    assert_eq!(after[0].sequence, before[before.len() - 1].sequence.wrapping_add(1));
    assert_eq!(after[0].ssrc, 1000);
}

/// The client's stack goes on with its numbers, and so do the requests and reports about them.
#[test]
fn what_is_lost_on_the_move_is_asked_for_and_what_came_before_is_not_lost() {
    let mut here = World::new();
    here.join(1);
    here.publish(1, 1, video_section(100));
    // Its numbers roll over before it moves.
    let mut source = Source::new(100);
    here.send(1, &source.frame(true, 60));
    let state = here.engine.state_of(TransportId(1)).expect("a transport");
    for is_lost in [false, true] {
        let mut there = World::new();
        let World { engine, out, now, .. } = &mut there;
        engine.restore(*now, state.clone(), credentials(2), ChannelOpener::Client, out);
        there.connect(1);
        there.checker.goes_on(100, source.sequence.wrapping_add(1));
        let mut source = Source { sequence: source.sequence, ..Source::new(100) };
        let frame = source.frame(false, 5);
        there.send(1, &frame[usize::from(is_lost)..]);
        there.pass(Duration::from_millis(1_100));
        let (mut asked, mut lost) = (Vec::new(), None);
        for feedback in there.received(1).1.iter().flat_map(|compound| parse(compound)) {
            match feedback.expect("sound") {
                Feedback::Nack { pairs, .. } => asked.extend(pairs),
                Feedback::ReceiverReport { mut blocks, .. } => {
                    lost = blocks.next().map(|block| (block.cumulative_lost, block.highest_sequence as u16));
                }
                _ => {}
            }
        }
        assert_eq!(lost, Some((i32::from(is_lost), frame[4].sequence)));
        asked.dedup();
        assert_eq!(asked, if is_lost { vec![frame[0].sequence] } else { Vec::new() });
    }
}

/// Browsers name the layer of a stream in its first packets alone (RFC 8852, section 3).
#[test]
fn layers_that_have_named_themselves_once_are_known_elsewhere() {
    let mut here = World::new();
    here.join(1);
    here.publish(1, 1, simulcast_section());
    let mut sources = [Source::layer(100, "q"), Source::layer(200, "h"), Source::layer(300, "f")];
    for source in &mut sources {
        here.send(1, &source.frame(true, 2));
    }
    let state = here.engine.state_of(TransportId(1)).expect("a transport");
    let mut there = World::new();
    let World { engine, out, now, .. } = &mut there;
    engine.restore(*now, state, credentials(2), ChannelOpener::Client, out);
    there.connect(1);
    for source in &mut sources {
        let mut frame = source.frame(false, 2);
        frame.iter_mut().for_each(|packet| packet.extensions.clear());
        there.send(1, &frame);
    }
    assert_eq!(there.engine.stats.discards(Discard::UnknownStream), 0);
    let started = |event: &Event| if let Event::LayerStarted { layer, .. } = event { Some(*layer) } else { None };
    assert_eq!(there.events.iter().filter_map(started).collect::<Vec<_>>(), [0, 1, 2]);
}

/// A session whose handshake has not been yet is all that its descriptions have said.
#[test]
fn what_descriptions_and_rooms_have_said_goes_along() {
    let mut here = World::new();
    let (transport, opener) = (TransportId(1), ChannelOpener::Client);
    here.command(Command::OpenTransport { transport, room: ROOM, local: credentials(1), opener });
    let (fingerprint, role) = (Fingerprint([7; 32]), DtlsRole::Client);
    here.command(Command::SetFingerprint { transport, fingerprint, role });
    let remote = IceCredentials { ufrag: "theirs".into(), password: "the password of the client".into() };
    here.command(Command::SetRemoteCredentials { transport, remote: remote.clone() });
    here.publish(1, 1, video_section(100));
    here.command(Command::SetMuted { publication: PublicationId(1), muted: true });
    here.publish(1, 2, audio_section(200));
    here.subscribe(1, 3, 1, send_section(1000, video_codecs()));
    here.command(Command::SetSubscription { subscription: SubscriptionId(3), paused: true, layer_max: 1 });

    let state = here.engine.state_of(transport).expect("a transport");
    assert_eq!((state.transport, state.room), (transport, ROOM));
    assert_eq!((state.fingerprint, state.remote.as_ref(), state.role), (Some(fingerprint), Some(&remote), role));
    let publications: Vec<_> = state.publications.iter().map(|one| (one.publication.0, one.muted)).collect();
    assert_eq!(publications, [(1, true), (2, false)]);
    assert!(state.publications.iter().all(|one| one.layers == [None]), "nothing has come");
    let [subscription] = &state.subscriptions[..] else { panic!("one subscription") };
    assert_eq!((subscription.subscription.0, subscription.publication.0), (3, 1));
    assert_eq!((subscription.paused, subscription.layer_max), (true, 1));
    assert_eq!(subscription.section, send_section(1000, video_codecs()));

    let text = serde_json::to_string(&state).expect("plain data");
    let read: TransportState = serde_json::from_str(&text).expect("reads back");
    let mut there = World::new();
    let World { engine, out, now, .. } = &mut there;
    engine.restore(*now, read, credentials(1), opener, out);
    assert_eq!(engine.state_of(transport), Some(state));
    assert_eq!(engine.state_of(TransportId(2)), None);
}

#[test]
fn a_transport_that_is_not_there_has_no_state() {
    let mut world = World::new();
    world.join(1);
    world.events.clear();
    world.command(Command::ExportTransport { transport: TransportId(2) });
    assert!(world.events.is_empty());
}
