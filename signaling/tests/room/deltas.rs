//! What members see of a room can be rebuilt from its numbered deltas (ARCHITECTURE.md, invariant 12).

use std::collections::HashMap;

use livekit_protocol as proto;
use proptest::prelude::*;
use prost::Message as _;
use proto::data_packet::Value;
use proto::signal_request::Message as Request;
use sfu::command::{DataChannel, Event};
use signaling::join::Mode;

use crate::sdp::Offer;
use crate::world::{Client, World, join, resume, s};

#[derive(Debug, Clone)]
pub enum Step {
    Join(usize),
    Resume(usize),
    Connect(usize),
    Leave(usize),
    LoseSocket(usize),
    Publish(usize),
    Unpublish(usize),
    Mute(usize, bool),
    Rename(usize, u8),
    Forbid(usize, bool),
    Hide(usize, bool),
    /// Nobody may subscribe to its tracks, or everybody.
    Refuse(usize, bool),
    Speak(usize),
    Say(usize),
    RoomMetadata(u8),
    Pass(u64),
}

/// Who joins hidden. It may become visible (`Forbid`), and hidden again, also when it joins anew.
pub const GHOST: usize = 4;

/// No other text in messages contains one.
pub fn identity(who: usize) -> String {
    if who == GHOST { "the-ghost".to_owned() } else { format!("member-{who}") }
}

pub fn step() -> impl Strategy<Value = Step> {
    let who = 0..=GHOST;
    prop_oneof![
        who.clone().prop_map(Step::Join),
        who.clone().prop_map(Step::Resume),
        who.clone().prop_map(Step::Connect),
        who.clone().prop_map(Step::Leave),
        who.clone().prop_map(Step::LoseSocket),
        who.clone().prop_map(Step::Publish),
        who.clone().prop_map(Step::Unpublish),
        (who.clone(), any::<bool>()).prop_map(|(who, muted)| Step::Mute(who, muted)),
        (who.clone(), any::<u8>()).prop_map(|(who, name)| Step::Rename(who, name)),
        (who.clone(), any::<bool>()).prop_map(|(who, allowed)| Step::Forbid(who, allowed)),
        (who.clone(), any::<bool>()).prop_map(|(who, hidden)| Step::Hide(who, hidden)),
        (who.clone(), any::<bool>()).prop_map(|(who, refuses)| Step::Refuse(who, refuses)),
        who.clone().prop_map(Step::Speak),
        who.prop_map(Step::Say),
        any::<u8>().prop_map(Step::RoomMetadata),
        (0..70u64).prop_map(Step::Pass),
    ]
}

pub fn publishing() -> Offer {
    Offer::v1().audio("mic", 10)
}

pub fn microphone() -> proto::AddTrackRequest {
    proto::AddTrackRequest { cid: "mic".into(), source: proto::TrackSource::Microphone as i32, ..Default::default() }
}

fn permit(world: &mut World, who: usize, permission: proto::ParticipantPermission) {
    let request =
        proto::UpdateParticipantRequest { identity: identity(who), permission: Some(permission), ..Default::default() };
    let _ = world.update_participant(request);
}

pub fn take(world: &mut World, clients: &mut HashMap<usize, Client>, step: &Step) {
    if world.finished {
        return;
    }
    let client =
        |who: &usize| clients.get(who).filter(|client| world.room.session(&client.identity).is_some()).cloned();
    match step {
        Step::Join(who) => {
            let mode = if who % 2 == 0 { Mode::V0 } else { Mode::V1 };
            let mut join = join(&identity(*who), mode);
            join.grants.video.hidden = *who == GHOST;
            let client = world.join(join);
            clients.insert(*who, client);
        }
        Step::Resume(who) => {
            if let Some(client) = client(who) {
                let mode = world.session(&client).mode;
                let sid = world.sid(&client);
                let client = world.join(resume(&client.identity, mode, sid.as_str()));
                clients.insert(*who, client);
            }
        }
        Step::Connect(who) => {
            if let Some(client) = client(who) {
                world.connect(&client);
            }
        }
        Step::Leave(who) => {
            if let Some(client) = client(who) {
                world.request(&client, Request::Leave(proto::LeaveRequest::default()));
            }
        }
        Step::LoseSocket(who) => {
            if let Some(client) = client(who) {
                world.lose_socket(&client);
            }
        }
        Step::Publish(who) => {
            if let Some(client) = client(who) {
                world.request(&client, Request::AddTrack(microphone()));
                world.offer(&client, 1, &publishing());
            }
        }
        Step::Unpublish(who) => {
            if let Some(client) = client(who) {
                world.offer(&client, 1, &publishing().stopped(7));
            }
        }
        Step::Mute(who, muted) => {
            if let Some(client) = client(who) {
                let tracks: Vec<_> = world.session(&client).publications.keys().map(ToString::to_string).collect();
                for sid in tracks {
                    world.request(&client, Request::Mute(proto::MuteTrackRequest { sid, muted: *muted }));
                }
            }
        }
        Step::Rename(who, name) => {
            let request = proto::UpdateParticipantRequest {
                identity: identity(*who),
                name: name.to_string(),
                ..Default::default()
            };
            let _ = world.update_participant(request);
        }
        Step::Forbid(who, allowed) => {
            let permission = proto::ParticipantPermission {
                can_publish: *allowed,
                can_subscribe: *allowed,
                hidden: *who == GHOST && *allowed,
                ..Default::default()
            };
            permit(world, *who, permission);
        }
        Step::Hide(who, hidden) => {
            let permission = proto::ParticipantPermission {
                can_publish: true,
                can_publish_data: true,
                can_subscribe: true,
                hidden: *hidden,
                ..Default::default()
            };
            permit(world, *who, permission);
        }
        Step::Refuse(who, refuses) => {
            if let Some(client) = client(who) {
                let request = proto::SubscriptionPermission { all_participants: !refuses, ..Default::default() };
                world.request(&client, Request::SubscriptionPermission(request));
            }
        }
        Step::Speak(who) => {
            let publications =
                client(who).map(|client| world.session(&client).publications.values().map(|p| p.id).collect());
            for publication in publications.unwrap_or_else(Vec::new) {
                // One of them is a change.
                for level in [0.25, 0.75] {
                    world.event(Event::AudioActivity { publication, level, active: true });
                }
            }
        }
        Step::Say(who) => {
            let Some(transport) = client(who).map(|client| world.session(&client).data_transport()) else { return };
            let value = Value::User(proto::UserPacket { payload: b"hello".to_vec(), ..Default::default() });
            let payload = proto::DataPacket { value: Some(value), ..Default::default() }.encode_to_vec().into();
            world.event(Event::Data { transport, channel: DataChannel::Reliable, payload });
        }
        Step::RoomMetadata(text) => {
            world.call(|room, _| room.update_metadata(&text.to_string())).unwrap();
        }
        Step::Pass(seconds) => world.pass(s(*seconds)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens, a replica that applies the deltas sees what the room sees.
    #[test]
    fn the_visible_state_is_the_sum_of_its_deltas(audience in 0..4u32, steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::with(|config, _| config.audience_threshold = audience);
        let mut clients = HashMap::new();
        for step in &steps {
            take(&mut world, &mut clients, step);
            prop_assert_eq!(&world.rebuilt(), world.room.view());
        }
    }

    /// What a participant is told of another is never older than what it was told before.
    #[test]
    fn versions_of_a_participant_never_go_back(audience in 0..4u32, steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::with(|config, _| config.audience_threshold = audience);
        let mut clients = HashMap::new();
        let watcher = world.enter_v1("watcher");
        let mut seen: HashMap<String, u32> = HashMap::new();
        for step in &steps {
            take(&mut world, &mut clients, step);
            for info in crate::world::updates(&world.take(&watcher)) {
                let last = seen.entry(info.sid.clone()).or_default();
                prop_assert!(info.version >= *last);
                *last = info.version;
            }
        }
    }
}

#[test]
fn a_view_can_be_written_down_and_read_back() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    let text = serde_json::to_string(world.room.view()).unwrap();
    let back: signaling::room::view::RoomView = serde_json::from_str(&text).unwrap();
    assert_eq!(&back, world.room.view());
}
