//! A transport against a client made of other parts, in virtual time.
#![expect(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rtc_datachannel::message::message_channel_open::ChannelType;
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use sfu::certificate::Certificate;
use sfu::command::{CONSENT_LOST, ChannelOpener, DataChannel, Fingerprint, TransportEnd, TransportId};
use sfu::demux::PacketKind;
use sfu::ice;
use sfu::transport::{
    HANDSHAKE_TIMEOUT, MESSAGE_BYTES_MAX, SendDataError, SrtpProfile, StunRefusal, Transport, TransportOutput,
};
use support::{Client, LIBWEBRTC_PROFILES, World, check, nomination, raw_attribute, udp};

const SECOND: Duration = Duration::from_secs(1);

fn data(world: &World) -> Vec<(DataChannel, Vec<u8>)> {
    let pick = |output: &TransportOutput| match output {
        TransportOutput::Data(channel, payload) => Some((*channel, payload.to_vec())),
        _ => None,
    };
    world.outputs.iter().filter_map(pick).collect()
}

fn end(world: &World) -> Option<TransportEnd> {
    world.outputs.iter().find_map(|output| match output {
        TransportOutput::Ended(end) => Some(*end),
        _ => None,
    })
}

fn connections(world: &World) -> usize {
    world.outputs.iter().filter(|output| matches!(output, TransportOutput::Connected(_))).count()
}

// Handshake.

#[test]
fn both_sides_export_the_same_keys_and_gcm_128_wins_although_the_client_lists_it_last() {
    let mut world = World::with_client(ChannelOpener::Client, 1, Client::new(&LIBWEBRTC_PROFILES));
    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    assert!(world.run_until(SECOND, |world| connections(world) == 1));

    let Some(TransportOutput::Connected(keys)) = world.outputs.first() else { panic!("{:?}", world.outputs) };
    assert_eq!(keys.profile, SrtpProfile::AeadAes128Gcm);
    assert!(world.agrees(keys));
    assert!(world.largest_datagram <= 1_200, "{}", world.largest_datagram);
}

#[test]
fn a_client_with_aes_cm_alone_gets_aes_cm_and_one_without_a_known_profile_fails() {
    let client = Client::new(&[SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80]);
    let mut world = World::with_client(ChannelOpener::Client, 1, client);
    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    assert!(world.run_until(SECOND, |world| connections(world) == 1));
    let Some(TransportOutput::Connected(keys)) = world.outputs.first() else { panic!("{:?}", world.outputs) };
    assert_eq!(keys.profile, SrtpProfile::Aes128CmSha1_80);
    assert_eq!((keys.receive_key.len(), keys.receive_salt.len()), (16, 14));

    let client = Client::new(&[SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_32]);
    let mut world = World::with_client(ChannelOpener::Client, 1, client);
    world.run_for(SECOND);
    assert_eq!(end(&world), Some(TransportEnd::HandshakeFailed));
}

/// Post-quantum key shares make browsers' ClientHellos longer than a datagram.
#[test]
fn a_client_hello_may_come_in_several_datagrams() {
    let client = Client::robust_with_mtu(1, 400);
    let mut world = World::with_client(ChannelOpener::Client, 1, client);
    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    assert!(world.run_until(SECOND, |world| connections(world) == 1));
    let Some(TransportOutput::Connected(keys)) = world.outputs.first() else { panic!("{:?}", world.outputs) };
    assert_eq!(keys.profile, SrtpProfile::AeadAes128Gcm);
}

#[test]
fn the_handshake_and_the_channels_survive_loss() {
    for seed in 0..200 {
        let mut world = World::new(ChannelOpener::Server, seed);
        world.loss = 0.1;
        world.transport.set_fingerprint(world.now, world.client.fingerprint);
        assert!(
            world.run_until(Duration::from_secs(120), |world| world.channels_open() == 3),
            "seed {seed}: {:?}",
            world.outputs
        );
        assert_eq!(connections(&world), 1, "seed {seed}");
    }
}

#[test]
fn a_wrong_fingerprint_ends_the_transport_before_any_media() {
    let mut world = World::new(ChannelOpener::Client, 1);
    world.transport.set_fingerprint(world.now, Fingerprint([7; 32]));
    world.run_for(2 * SECOND);

    assert_eq!(world.outputs, [TransportOutput::Ended(TransportEnd::WrongFingerprint)]);
    assert!(world.client.seen.dtls_closed);
    assert_eq!(world.transport.deadline(), None);
}

#[test]
fn a_fingerprint_that_comes_after_the_handshake_connects_at_once_and_loses_no_sctp_packet() {
    let mut world = World::new(ChannelOpener::Client, 1);
    assert!(world.run_until(SECOND, |world| world.client.seen.dtls_connected));
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.outputs, []);

    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    // Two round trips of SCTP, no retransmission.
    assert!(world.run_until(Duration::from_millis(50), |world| world.client.seen.sctp_connected));
    assert_eq!(connections(&world), 1);
}

#[test]
fn a_client_that_never_finishes_the_handshake_is_given_up() {
    let mut world = World::new(ChannelOpener::Client, 1);
    world.loss = 1.0;
    world.run_for(HANDSHAKE_TIMEOUT + SECOND);
    assert_eq!(end(&world), Some(TransportEnd::HandshakeFailed));
}

#[test]
fn a_transport_without_a_check_waits_for_ever() {
    let mut world = World::new(ChannelOpener::Client, 1);
    world.checks_from = None;
    world.loss = 1.0;
    world.run_for(SECOND);
    assert_eq!(world.transport.deadline(), None);
    assert_eq!(world.outputs, []);
}

#[test]
fn an_idle_transport_wakes_for_consent_alone() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.run_for(2 * SECOND);
    world.checks_from = None;
    world.run_for(SECOND);
    assert_eq!(end(&world), None);
    let deadline = world.transport.deadline().unwrap();
    assert!(deadline > world.now + CONSENT_LOST - 3 * SECOND, "{:?}", deadline - world.now);

    world.run_for(CONSENT_LOST);
    assert_eq!(end(&world), Some(TransportEnd::ConsentLost));
}

/// libnice checks no more once a path is nominated, and who neither publishes nor watches sends nothing but data.
#[test]
fn data_is_consent() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.checks_from = None;
    for _ in 0..2 * CONSENT_LOST.as_secs() {
        world.client.send(world.now, 2, b"still here");
        world.run_for(SECOND);
    }
    assert_eq!(end(&world), None);
    world.run_for(CONSENT_LOST + SECOND);
    assert_eq!(end(&world), Some(TransportEnd::ConsentLost));
}

#[test]
fn close_notify_ends_the_transport_and_closing_sends_one() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.client.close(world.now);
    world.run_for(SECOND);
    assert_eq!(end(&world), Some(TransportEnd::ClosedByPeer));

    let mut world = World::connected(ChannelOpener::Client, 1);
    world.transport.close(world.now);
    world.run_for(SECOND);
    assert!(world.client.seen.dtls_closed);
    assert_eq!(end(&world), None);
    assert_eq!(world.transport.deadline(), None);
}

/// The client here shares no code with `rtc-dtls`.
#[test]
fn another_dtls_implementation_exports_the_same_keys() {
    let world = World::connected(ChannelOpener::Client, 1);
    let Some(TransportOutput::Connected(keys)) = world.outputs.first() else { panic!("{:?}", world.outputs) };
    assert_eq!(keys.profile, SrtpProfile::AeadAes128Gcm);
    assert!(world.agrees(keys));
}

// Data channels.

/// Each channel carries a message of its own to either side.
fn carry_data_both_ways(world: &mut World, channels: [(u16, DataChannel); 3]) {
    for (stream, channel) in channels {
        let text = format!("{channel:?}");
        world.client.send(world.now, stream, text.as_bytes());
        world.transport.send_data(world.now, channel, &Bytes::from(text)).unwrap();
    }
    world.run_for(SECOND);
    for (stream, channel) in channels {
        let text = format!("{channel:?}").into_bytes();
        assert!(data(world).contains(&(channel, text.clone())), "{channel:?}");
        assert!(world.client.seen.messages.contains(&(stream, text)), "{channel:?}");
    }
}

#[test]
fn all_three_channels_carry_data_both_ways_whoever_opened_them() {
    for opener in [ChannelOpener::Client, ChannelOpener::Server] {
        let mut world = World::connected(opener, 1);
        let streams = match opener {
            ChannelOpener::Client => [(2, DataChannel::Reliable), (0, DataChannel::Lossy), (4, DataChannel::DataTrack)],
            ChannelOpener::Server => [(1, DataChannel::Reliable), (3, DataChannel::Lossy), (5, DataChannel::DataTrack)],
        };
        carry_data_both_ways(&mut world, streams);
    }
}

/// A passive client leaves the even ids to us (RFC 8832, section 6).
#[test]
fn a_passive_clients_channels_carry_data_both_ways_whoever_opened_them() {
    for opener in [ChannelOpener::Client, ChannelOpener::Server] {
        let mut world = World::connected_to(opener, 1, Client::passive_robust(1));
        let streams = match opener {
            ChannelOpener::Client => [(3, DataChannel::Reliable), (1, DataChannel::Lossy), (5, DataChannel::DataTrack)],
            ChannelOpener::Server => [(0, DataChannel::Reliable), (2, DataChannel::Lossy), (4, DataChannel::DataTrack)],
        };
        carry_data_both_ways(&mut world, streams);
    }
}

#[test]
fn a_passive_client_that_waits_for_our_init_gets_it_and_its_channels_open_under_loss() {
    for seed in 0..50 {
        let client = Client::passive_robust(seed).waiting_for_init();
        let mut world = World::with_client(ChannelOpener::Server, seed, client);
        world.loss = if seed == 0 { 0.0 } else { 0.1 };
        world.transport.set_fingerprint(world.now, world.client.fingerprint);
        let limit = if seed == 0 { SECOND } else { 120 * SECOND };
        assert!(world.run_until(limit, |world| world.channels_open() == 3), "seed {seed}: {:?}", world.outputs);
        assert_eq!(connections(&world), 1, "seed {seed}");
    }
}

#[test]
fn a_passive_client_that_sends_init_gets_none() {
    for seed in 0..50 {
        let mut world = World::with_client(ChannelOpener::Server, seed, Client::passive_robust(seed));
        (world.loss, world.reordering) = (0.1, 0.1);
        world.transport.set_fingerprint(world.now, world.client.fingerprint);
        let up = world.run_until(120 * SECOND, |world| world.channels_open() == 3);
        assert!(up, "seed {seed}: {:?}", world.outputs);
        world.loss = 0.0;
        world.client.send(world.now, 0, b"heard");
        world.run_for(10 * SECOND);
        assert!(data(&world).contains(&(DataChannel::Reliable, b"heard".to_vec())), "seed {seed}");
    }
}

#[test]
fn our_channels_are_1_3_and_5_in_livekits_order() {
    let world = World::connected(ChannelOpener::Server, 1);
    let expected = [(1, "_reliable"), (3, "_lossy"), (5, "_data_track")].map(|(id, label)| (id, label.to_owned()));
    assert_eq!(world.client.seen.opened, expected);
}

#[test]
fn the_clients_channels_are_acknowledged_and_foreign_labels_only_that() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.client.open(world.now, 6, "chat", ChannelType::Reliable);
    world.client.send(world.now, 6, b"hello");
    world.run_for(SECOND);
    let mut acknowledged = world.client.seen.acknowledged.clone();
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, [0, 2, 4, 6]);
    assert_eq!(data(&world), []);
    assert_eq!(world.transport.take_data_discards().unknown_channel, 2);
}

#[test]
fn a_client_with_too_many_channels_loses_them_and_stays_connected() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    // With the three that it has they are 32, as many as there may be.
    for id in (6..64).step_by(2) {
        world.client.open(world.now, id, "flood", ChannelType::Reliable);
    }
    world.run_for(SECOND);
    world.client.send(world.now, 2, b"heard");
    world.run_for(SECOND);
    assert_eq!(data(&world), [(DataChannel::Reliable, b"heard".to_vec())]);
    for id in (64..80).step_by(2) {
        world.client.open(world.now, id, "flood", ChannelType::Reliable);
    }
    world.run_for(SECOND);
    world.client.send(world.now, 2, b"unheard");
    world.run_for(SECOND);
    assert_eq!(data(&world).len(), 1);
    let payload = Bytes::from_static(b"no way");
    assert_eq!(world.transport.send_data(world.now, DataChannel::Lossy, &payload), Err(SendDataError::NotOpen));
    world.run_for(2 * CONSENT_LOST);
    assert!(world.transport.is_connected());
    assert_eq!(end(&world), None);
}

#[test]
fn reliable_messages_survive_loss_in_order_and_lossy_ones_are_never_repeated() {
    for seed in 0..10 {
        let mut world = World::connected(ChannelOpener::Client, seed);
        world.loss = 0.3;
        for number in 0..40u8 {
            world.transport.send_data(world.now, DataChannel::Reliable, &Bytes::from(vec![number])).unwrap();
            world.transport.send_data(world.now, DataChannel::Lossy, &Bytes::from(vec![number])).unwrap();
            world.run_for(Duration::from_millis(40));
        }
        world.run_for(Duration::from_secs(60));
        let of = |stream: u16| -> Vec<u8> {
            let messages = world.client.seen.messages.iter().filter(|(id, _)| *id == stream);
            messages.map(|(_, payload)| payload[0]).collect()
        };
        assert_eq!(of(2), (0..40).collect::<Vec<_>>(), "seed {seed}");
        let mut lossy = of(0);
        lossy.sort_unstable();
        lossy.dedup();
        assert_eq!(lossy.len(), of(0).len(), "seed {seed}");
        assert!((10..40).contains(&lossy.len()), "seed {seed}: {} of 40", lossy.len());
    }
}

#[test]
fn a_long_message_arrives_whole_and_a_longer_one_is_dropped_and_counted() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    let longest = vec![7; MESSAGE_BYTES_MAX];
    world.client.send(world.now, 2, &vec![9; MESSAGE_BYTES_MAX + 1]);
    world.client.send(world.now, 2, &longest);
    world.transport.send_data(world.now, DataChannel::Reliable, &Bytes::from(longest.clone())).unwrap();
    let too_long = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    assert_eq!(world.transport.send_data(world.now, DataChannel::Reliable, &too_long), Err(SendDataError::TooLong));
    world.run_for(5 * SECOND);
    assert!(data(&world) == [(DataChannel::Reliable, longest.clone())]);
    assert!(world.client.seen.messages == [(2, longest)]);
    assert_eq!(world.transport.take_data_discards().too_long, 1);
    assert!(world.largest_datagram <= 1_232, "{}", world.largest_datagram);
}

#[test]
fn reliable_messages_wait_for_their_channel_and_lossy_ones_do_not() {
    let mut world = World::new(ChannelOpener::Client, 1);
    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    let send = |world: &mut World, channel, payload: &[u8]| {
        world.transport.send_data(world.now, channel, &Bytes::copy_from_slice(payload))
    };
    assert_eq!(send(&mut world, DataChannel::Lossy, b"gone"), Err(SendDataError::NotOpen));
    send(&mut world, DataChannel::Reliable, b"early").unwrap();
    send(&mut world, DataChannel::Reliable, &vec![1; 60_000]).unwrap();
    assert_eq!(send(&mut world, DataChannel::Reliable, &vec![2; 60_000]), Err(SendDataError::NotOpen));

    assert!(world.run_until(SECOND, |world| world.client.seen.sctp_connected));
    world.open_channels();
    world.run_for(5 * SECOND);
    assert_eq!(world.client.seen.messages.first().unwrap(), &(2, b"early".to_vec()));
    assert_eq!(world.client.seen.messages.len(), 2);
}

#[test]
fn a_client_that_stops_reading_loses_lossy_messages_at_8_kib_and_reliable_ones_at_16_mib() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.run_for(SECOND);
    world.loss = 1.0;
    let kib = Bytes::from(vec![0; 1024]);
    let accepted = |world: &mut World, channel| {
        (0..20_000).take_while(|_| world.transport.send_data(world.now, channel, &kib).is_ok()).count()
    };
    assert_eq!(accepted(&mut world, DataChannel::Lossy), 9);
    assert_eq!(accepted(&mut world, DataChannel::Reliable), (16 << 20) / (1_024 + 64));
    assert_eq!(world.transport.send_data(world.now, DataChannel::Reliable, &kib), Err(SendDataError::Full));
    assert!(world.transport.data_backlog() <= 16 << 20);
}

// ICE.

struct Agent {
    transport: Transport,
    local: sfu::command::IceCredentials,
    now: std::time::Instant,
    reply: Vec<u8>,
}

impl Agent {
    fn new() -> Self {
        let (now, local) = (std::time::Instant::now(), ice::new_credentials(3));
        let transport =
            Transport::new(TransportId(1), local.clone(), ChannelOpener::Client, &Certificate::generate(), 1);
        Self { transport, local, now, reply: Vec::new() }
    }

    fn on_stun(&mut self, port: u16, datagram: &[u8]) -> Result<bool, StunRefusal> {
        let outcome = self.transport.on_stun(self.now, udp(port), datagram, &mut self.reply);
        outcome.map(|outcome| outcome.path_changed)
    }

    /// The reply as another implementation reads it: its type, and the code if it is an error.
    fn read_reply(&self) -> (rtc_stun::message::MessageType, Option<u16>) {
        use rtc_stun::error_code::ErrorCodeAttribute;
        use rtc_stun::message::Getter;
        let mut message = rtc_stun::message::Message::new();
        message.unmarshal_binary(&self.reply).unwrap();
        let mut code = ErrorCodeAttribute::default();
        let code = code.get_from(&message).is_ok().then_some(code.code.0);
        (message.typ, code)
    }
}

#[test]
fn a_check_is_answered_with_the_mapped_address_under_integrity() {
    use rtc_crypto::RTCCryptoProvider;
    use rtc_stun::integrity::MessageIntegrity;
    use rtc_stun::message::{BINDING_SUCCESS, Getter, Message};

    let mut agent = Agent::new();
    let datagram = check(&agent.local, vec![]);
    assert_eq!(agent.on_stun(9, &datagram), Ok(true));

    let mut message = Message::new();
    message.unmarshal_binary(&agent.reply).unwrap();
    assert_eq!(message.typ, BINDING_SUCCESS);
    assert_eq!(message.transaction_id.0, datagram[8..20]);
    let mut address = rtc_stun::xoraddr::XorMappedAddress::default();
    address.get_from(&message).unwrap();
    assert_eq!((address.ip, address.port), (udp(9).remote.ip(), 9));
    rtc_stun::fingerprint::FINGERPRINT.check(&message).unwrap();
    let provider = rtc_crypto::providers::RingProvider::new();
    MessageIntegrity::check(&mut message, agent.local.password.as_bytes(), provider.crypto()).unwrap();
}

#[test]
fn an_ipv6_client_learns_its_address() {
    use rtc_stun::message::{Getter, Message};

    let mut agent = Agent::new();
    let datagram = check(&agent.local, vec![]);
    let mut path = udp(9);
    path.remote = "[2001:db8::1]:4321".parse().unwrap();
    agent.transport.on_stun(agent.now, path, &datagram, &mut agent.reply).unwrap();
    let mut message = Message::new();
    message.unmarshal_binary(&agent.reply).unwrap();
    let mut address = rtc_stun::xoraddr::XorMappedAddress::default();
    address.get_from(&message).unwrap();
    assert_eq!(std::net::SocketAddr::new(address.ip, address.port), path.remote);
}

#[test]
fn the_newest_nomination_moves_the_path_and_plain_checks_do_not() {
    let mut agent = Agent::new();
    let (plain, nominating) = (check(&agent.local, vec![]), nomination(&agent.local));
    assert_eq!(agent.transport.path(), None);
    assert_eq!(agent.on_stun(1, &plain), Ok(true), "provisional");
    assert_eq!(agent.on_stun(2, &plain), Ok(false));
    assert_eq!(agent.on_stun(2, &nominating), Ok(true));
    assert_eq!(agent.on_stun(1, &plain), Ok(false));
    assert_eq!(agent.transport.path(), Some(udp(2)));
    assert_eq!(agent.on_stun(3, &nominating), Ok(true), "nominated anew");
    assert_eq!(agent.transport.path(), Some(udp(3)));
}

#[test]
fn after_a_restart_the_old_credentials_serve_until_the_new_ones_nominate() {
    let mut agent = Agent::new();
    let old = agent.local.clone();
    agent.on_stun(1, &nomination(&old)).unwrap();
    let new = ice::new_credentials(3);
    agent.transport.restart_ice(new.clone());
    let ufrags: Vec<_> = agent.transport.local_ufrags().map(str::to_owned).collect();
    assert_eq!(ufrags, [new.ufrag.clone(), old.ufrag.clone()]);

    assert_eq!(agent.on_stun(1, &check(&old, vec![])), Ok(false));
    assert_eq!(agent.on_stun(2, &check(&new, vec![])), Ok(false), "not nominated yet");
    assert_eq!(agent.transport.path(), Some(udp(1)));
    assert_eq!(agent.on_stun(2, &nomination(&new)), Ok(true));
    assert_eq!(agent.on_stun(1, &nomination(&old)), Err(StunRefusal::UnknownUsername));
    assert_eq!(agent.transport.path(), Some(udp(2)));
    assert_eq!(agent.transport.local_ufrags().collect::<Vec<_>>(), [new.ufrag.as_str()]);
}

#[test]
fn an_ice_restart_leaves_dtls_and_data_alone() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    let new = ice::new_credentials(0);
    world.transport.restart_ice(new.clone());
    world.local = new;
    world.checks_from = Some(udp(2));
    world.client.send(world.now, 2, b"still here");
    world.run_for(2 * SECOND);
    assert_eq!(world.transport.path(), Some(udp(2)));
    assert_eq!(data(&world), [(DataChannel::Reliable, b"still here".to_vec())]);
    assert_eq!(connections(&world), 1);
}

#[test]
fn what_is_not_a_valid_check_is_refused_and_changes_nothing() {
    let mut agent = Agent::new();
    let valid = nomination(&agent.local);

    let mut wrong_password = agent.local.clone();
    wrong_password.password.push('x');
    assert_eq!(agent.on_stun(1, &nomination(&wrong_password)), Err(StunRefusal::WrongIntegrity));
    assert_eq!(agent.read_reply().1, Some(401));

    assert_eq!(agent.on_stun(1, &nomination(&ice::new_credentials(3))), Err(StunRefusal::UnknownUsername));

    let controlled = check(&agent.local, vec![raw_attribute(0x8029, &[1; 8])]);
    assert_eq!(agent.on_stun(1, &controlled), Err(StunRefusal::RoleConflict));
    assert_eq!(agent.read_reply().1, Some(487));

    let unknown = check(&agent.local, vec![raw_attribute(0x7ABC, &[1; 4])]);
    assert_eq!(agent.on_stun(1, &unknown), Err(StunRefusal::UnknownAttribute));
    assert_eq!(agent.read_reply().1, Some(420));

    let mut broken = valid.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(agent.on_stun(1, &broken), Err(StunRefusal::WrongFingerprint));

    let mut response = valid.clone();
    response[0] = 1;
    assert!(agent.on_stun(1, &response).is_err());

    assert_eq!(agent.transport.path(), None);
    assert_eq!(agent.transport.deadline(), None);
    assert_eq!(agent.on_stun(1, &valid), Ok(true));
}

#[test]
fn credentials_name_their_worker_and_a_request_names_its_ufrag() {
    let local = ice::new_credentials(0xA7);
    assert_eq!(ice::worker_of(&local.ufrag), Some(0xA7));
    assert_eq!(ice::worker_of("z"), None);
    assert_eq!(ice::worker_of("+1xx"), None);
    assert_eq!((local.ufrag.len(), local.password.len()), (16, 32));
    let datagram = check(&local, vec![]);
    assert_eq!(PacketKind::of(&datagram), Some(PacketKind::Stun));
    assert_eq!(ice::local_ufrag_of(&datagram), Some(local.ufrag.as_str()));
}

proptest! {
    /// No datagram makes STUN parsing panic, and none that is cut or altered passes for a check.
    #[test]
    fn altered_checks_are_refused(cut in 0usize..120, position in 0usize..200, flip in 1u8..) {
        let mut agent = Agent::new();
        let valid = nomination(&agent.local);
        let mut altered = valid.clone();
        // All but FINGERPRINT, which a check may lack: it is the integrity that counts.
        let position = position % (altered.len() - 8);
        altered[position] ^= flip;
        prop_assert!(agent.on_stun(1, &altered).is_err());
        prop_assert!(agent.on_stun(1, &valid[..cut.min(valid.len() - 1)]).is_err());
        prop_assert_eq!(agent.transport.path(), None);
    }

    #[test]
    fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..300), record in 20u8..64) {
        let mut agent = Agent::new();
        let _ = agent.on_stun(1, &garbage);
        let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
        stun.extend(&garbage);
        let length = (stun.len().saturating_sub(20) as u16).to_be_bytes();
        stun[2..4].copy_from_slice(&length);
        let _ = agent.on_stun(1, &stun);
        let _ = ice::local_ufrag_of(&stun);

        let mut dtls = vec![record, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0];
        dtls.extend((garbage.len() as u16).to_be_bytes());
        dtls.extend(&garbage);
        let _ = agent.transport.on_dtls(agent.now, udp(1), &dtls);
        let _ = agent.transport.on_dtls(agent.now, udp(1), &garbage);
    }
}
