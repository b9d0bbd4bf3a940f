//! Publishing (docs/livekit.md 4.4).

use livekit_protocol as proto;
use prost::Message as _;
use proto::request_response::Reason;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::Command;
use signaling::event::RoomHappening;

use crate::sdp::Offer;
use crate::world::{World, camera, join, names, request_responses, updates};
use signaling::join::Mode;
use signaling::participant::{
    PENDING_TRACKS_MAX, PUBLICATIONS_MAX, QUEUED_TRACKS_MAX, ROOM_TRACKS_MAX, TRACK_BYTES_MAX,
};

const RIDS: &[&str] = &["q", "h", "f"];

fn microphone(cid: &str) -> Request {
    let source = proto::TrackSource::Microphone as i32;
    Request::AddTrack(proto::AddTrackRequest { cid: cid.into(), source, ..Default::default() })
}

fn published_sections(world: &World) -> usize {
    world.commands.iter().filter(|command| matches!(command, Command::Publish { .. })).count()
}

#[test]
fn a_track_with_declared_ssrc_is_told_before_its_answer() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));

    let messages = world.take(&alice);
    assert_eq!(names(&messages)[..3], ["track_published", "update", "answer"]);
    let track = &updates(&messages)[0].tracks[0];
    assert!(track.sid.starts_with("TR_AM"));
    assert_eq!((track.mime_type.as_str(), track.mid.as_str(), track.stream.as_str()), ("audio/opus", "1", "camera"));
    assert!(track.version.is_some());
    assert!(updates(&world.take(&bob))[0].is_publisher);
    assert!(matches!(world.events.last().unwrap().what, RoomHappening::TrackPublished { .. }));
}

#[test]
fn simulcast_is_told_with_its_first_packet_and_each_layer_with_its_own() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 1, &Offer::default().application().simulcast("cam", RIDS));
    assert!(updates(&world.take(&bob)).is_empty());
    let track = world.track_published(&alice, "cam");
    #[expect(deprecated, reason = "older clients read it")]
    let simulcast = track.simulcast;
    assert!(simulcast && track.mid.is_empty() && track.version.is_none());
    assert_eq!(track.mime_type, "video/vp8");

    world.start_layer(&alice, &track.sid, 1);
    world.start_layer(&alice, &track.sid, 0);
    let seen = updates(&world.take(&bob));
    assert_eq!(seen.len(), 2);
    let track = &seen[1].tracks[0];
    assert_eq!(track.mime_type, "video/VP8");
    let layers = &track.codecs[0].layers;
    let described: Vec<_> = layers.iter().map(|layer| (layer.rid.as_str(), layer.spatial_layer, layer.ssrc)).collect();
    assert_eq!(described, [("q", 0, 1_000), ("h", 1, 1_001), ("f", 2, 0)]);
}

fn layer(quality: proto::VideoQuality, width: u32) -> proto::VideoLayer {
    let height = width * 9 / 16;
    proto::VideoLayer { quality: quality as i32, width, height, bitrate: 2 * width, ..Default::default() }
}

#[test]
#[expect(deprecated, reason = "older clients read these fields")]
fn a_video_is_described_as_it_was_announced() {
    use proto::VideoQuality::{High, Low, Medium};
    use proto::video_layer::Mode;
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let request = proto::AddTrackRequest {
        cid: "cam".into(),
        name: "front".into(),
        r#type: proto::TrackType::Video as i32,
        source: proto::TrackSource::Camera as i32,
        width: 1280,
        height: 720,
        muted: true,
        layers: vec![layer(High, 1280), layer(Low, 320)],
        simulcast_codecs: vec![
            proto::SimulcastCodec { codec: "vp8".into(), cid: "cam".into(), ..Default::default() },
            proto::SimulcastCodec {
                codec: "video/vp9".into(),
                cid: "backup".into(),
                layers: vec![layer(Medium, 640)],
                ..Default::default()
            },
        ],
        encryption: proto::encryption::Type::Gcm as i32,
        stream: "studio".into(),
        backup_codec_policy: proto::BackupCodecPolicy::Regression as i32,
        packet_trailer_features: vec![proto::PacketTrailerFeature::PtfUserTimestamp as i32],
        ..Default::default()
    };
    world.request(&alice, Request::AddTrack(request));
    let told = world.track_published(&alice, "cam");
    let sorted = vec![layer(Low, 320), layer(High, 1280)];
    let codec = |mime: &str, cid: &str, layers: &[proto::VideoLayer], mode: Mode| proto::SimulcastCodecInfo {
        mime_type: mime.into(),
        cid: cid.into(),
        layers: layers.to_vec(),
        video_layer_mode: mode as i32,
        ..Default::default()
    };
    let expected = proto::TrackInfo {
        sid: told.sid.clone(),
        r#type: proto::TrackType::Video as i32,
        name: "front".into(),
        muted: true,
        width: 1280,
        height: 720,
        simulcast: true,
        source: proto::TrackSource::Camera as i32,
        layers: sorted.clone(),
        mime_type: "video/vp8".into(),
        codecs: vec![
            codec("video/vp8", "cam", &sorted, Mode::OneSpatialLayerPerStream),
            codec("video/vp9", "backup", &[layer(Medium, 640)], Mode::MultipleSpatialLayersPerStream),
        ],
        encryption: proto::encryption::Type::Gcm as i32,
        stream: "studio".into(),
        backup_codec_policy: proto::BackupCodecPolicy::Regression as i32,
        packet_trailer_features: vec![proto::PacketTrailerFeature::PtfUserTimestamp as i32],
        ..Default::default()
    };
    assert_eq!(told, expected);
}

/// Old clients say in flags what newer ones say in features: everybody is told both.
#[test]
#[expect(deprecated, reason = "older clients read these fields")]
fn a_sound_is_described_in_flags_and_in_features_whichever_it_was_announced_in() {
    use proto::AudioTrackFeature::{TfEchoCancellation, TfNoDtx, TfStereo};
    let request = |stereo, features: &[proto::AudioTrackFeature]| proto::AddTrackRequest {
        cid: "mic".into(),
        source: proto::TrackSource::Microphone as i32,
        stereo,
        disable_dtx: stereo,
        disable_red: true,
        backup_codec_policy: proto::BackupCodecPolicy::Regression as i32,
        audio_features: features.iter().map(|feature| *feature as i32).collect(),
        ..Default::default()
    };
    for (request, features) in [
        (request(true, &[TfEchoCancellation]), [TfEchoCancellation, TfStereo, TfNoDtx]),
        (request(false, &[TfNoDtx, TfStereo, TfEchoCancellation]), [TfNoDtx, TfStereo, TfEchoCancellation]),
        (request(true, &[TfNoDtx, TfEchoCancellation]), [TfNoDtx, TfEchoCancellation, TfStereo]),
    ] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        world.request(&alice, Request::AddTrack(request));
        let told = world.track_published(&alice, "mic");
        let expected = proto::TrackInfo {
            sid: told.sid.clone(),
            r#type: proto::TrackType::Audio as i32,
            source: proto::TrackSource::Microphone as i32,
            codecs: vec![proto::SimulcastCodecInfo { cid: "mic".into(), ..Default::default() }],
            stereo: true,
            disable_dtx: true,
            disable_red: true,
            stream: "camera".into(),
            audio_features: features.iter().map(|feature| *feature as i32).collect(),
            backup_codec_policy: proto::BackupCodecPolicy::Simulcast as i32,
            ..Default::default()
        };
        assert_eq!(told, expected);
    }

    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, microphone("mic"));
    let plain = world.track_published(&alice, "mic");
    assert!(!plain.stereo && !plain.disable_dtx && !plain.disable_red && plain.audio_features.is_empty());
    let features = vec![TfEchoCancellation as i32];
    let request =
        proto::AddTrackRequest { cid: "other".into(), audio_features: features.clone(), ..Default::default() };
    world.request(&alice, Request::AddTrack(request));
    let other = world.track_published(&alice, "other");
    assert!(!other.stereo && !other.disable_dtx && other.audio_features == features);
    world.request(&alice, Request::AddTrack(proto::AddTrackRequest { stereo: true, ..camera("cam") }));
    assert!(world.track_published(&alice, "cam").audio_features.is_empty(), "a video has none");
}

#[test]
fn type_and_source_of_a_track_are_in_its_sid_and_name_its_stream() {
    use proto::TrackSource::{Camera, Microphone, ScreenShare, ScreenShareAudio, Unknown};
    use proto::TrackType::{Audio, Video};
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    for (kind, source, prefix, stream) in [
        (Audio, Microphone, "TR_AM", "camera"),
        (Video, Camera, "TR_VC", "camera"),
        (Video, ScreenShare, "TR_VS", "screen"),
        (Audio, ScreenShareAudio, "TR_As", "screen"),
        (Audio, Unknown, "TR_A", "unknown"),
        (Video, Unknown, "TR_V", "unknown"),
    ] {
        let cid = format!("{kind:?} of {source:?}");
        let (r#type, source) = (kind as i32, source as i32);
        let request = proto::AddTrackRequest { cid: cid.clone(), r#type, source, ..Default::default() };
        world.request(&alice, Request::AddTrack(request));
        let track = world.track_published(&alice, &cid);
        assert!(track.sid.starts_with(prefix), "{cid}: {}", track.sid);
        assert_eq!((track.r#type, track.source, track.stream.as_str()), (r#type, source, stream), "{cid}");
    }
}

#[test]
fn what_a_client_announces_of_codecs_and_layers_is_bounded_and_made_possible() {
    use proto::VideoQuality::High;
    use proto::video_layer::Mode;
    let mut world = World::with(|config, _| {
        config.enabled_codecs = ["audio/opus", "video/VP8", "video/VP9", "video/AV1"].map(str::to_owned).to_vec();
    });
    let alice = world.enter_v0("alice");
    let mut announce = |kind: proto::TrackType, codecs: &[&str], layers: usize| {
        let cid = format!("{codecs:?}, {layers}");
        let codec = |codec: &&str| proto::SimulcastCodec { codec: (*codec).into(), ..Default::default() };
        let request = proto::AddTrackRequest {
            cid: cid.clone(),
            r#type: kind as i32,
            simulcast_codecs: codecs.iter().map(codec).collect(),
            layers: vec![layer(High, 1280); layers],
            ..Default::default()
        };
        world.request(&alice, Request::AddTrack(request));
        world.track_published(&alice, &cid)
    };
    let mimes = |track: &proto::TrackInfo| track.codecs.iter().map(|codec| codec.mime_type.clone()).collect::<Vec<_>>();
    #[expect(deprecated, reason = "older clients read it")]
    let is_simulcast = |track: &proto::TrackInfo| track.simulcast;
    let video = proto::TrackType::Video;
    // One that is not enabled is replaced by the first that is; a sound keeps its own.
    let track = announce(video, &["h265", "VP9", "", "video/vp8", "vp8"], 4);
    assert_eq!(mimes(&track), ["video/VP8", "video/VP9", "", "video/vp8"]);
    assert_eq!((track.codecs[0].layers.len(), is_simulcast(&track)), (3, true));
    assert_eq!(mimes(&announce(proto::TrackType::Audio, &["pcmu"], 0)), ["audio/pcmu"]);
    // A video in one layer is no simulcast, nor is SVC.
    for (codec, mode) in [
        ("vp8", Mode::OneSpatialLayerPerStream),
        ("vp9", Mode::MultipleSpatialLayersPerStream),
        ("av1", Mode::MultipleSpatialLayersPerStream),
    ] {
        for layers in [0, 1, 2] {
            let track = announce(video, &[codec], layers);
            assert_eq!(track.codecs[0].video_layer_mode(), mode, "{codec}");
            let expected = layers == 2 && mode == Mode::OneSpatialLayerPerStream;
            assert_eq!(is_simulcast(&track), expected, "{codec}, {layers}");
        }
    }
}

#[test]
#[expect(deprecated, reason = "older clients read these fields")]
fn layers_that_were_not_announced_are_told_with_the_media() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let video = |cid: &str, codec: &str| proto::AddTrackRequest {
        cid: cid.into(),
        r#type: proto::TrackType::Video as i32,
        source: proto::TrackSource::Camera as i32,
        simulcast_codecs: vec![proto::SimulcastCodec { codec: codec.into(), cid: cid.into(), ..Default::default() }],
        ..Default::default()
    };
    world.request(&alice, Request::AddTrack(video("cam", "")));
    let offer = Offer::default().application().simulcast("cam", RIDS);
    world.offer(&alice, 1, &offer);
    let track = world.track_published(&alice, "cam").sid;
    world.start_layer(&alice, &track, 2);
    let described = |world: &mut World| {
        let track = updates(&world.take(&bob)).pop().unwrap().tracks.pop().unwrap();
        assert_eq!(track.codecs[0].layers, track.layers);
        assert!(track.codecs[0].mid == track.mid && !track.mid.is_empty());
        let layers = track.layers.iter();
        let layers = layers.map(|l| (l.quality, l.spatial_layer, l.rid.clone(), l.ssrc, l.repair_ssrc));
        let mode = track.codecs[0].video_layer_mode();
        (track.mime_type.clone(), track.codecs[0].mime_type.clone(), mode, layers.collect::<Vec<_>>())
    };
    let layer = |quality: i32, rid: &str, ssrc, repair| (quality, quality, rid.to_owned(), ssrc, repair);
    use proto::video_layer::Mode;
    let layers = vec![layer(0, "q", 0, 0), layer(1, "h", 0, 0), layer(2, "f", 1_002, 0)];
    let vp8 = || "video/VP8".to_owned();
    assert_eq!(described(&mut world), (vp8(), vp8(), Mode::OneSpatialLayerPerStream, layers));

    // All layers of an SVC stream come in one.
    let layers = vec![layer_of(0), layer_of(1), layer_of(2)];
    let request = proto::AddTrackRequest { layers, ..video("svc", "vp9") };
    world.request(&alice, Request::AddTrack(request));
    world.offer(&alice, 2, &offer.video("svc", 20));
    let (.., layers) = described(&mut world);
    assert_eq!(layers, [layer(0, "", 20, 21), layer(1, "", 20, 21), layer(2, "", 20, 21)]);
}

fn layer_of(quality: i32) -> proto::VideoLayer {
    proto::VideoLayer { quality, ..Default::default() }
}

#[test]
fn what_a_client_says_later_of_a_track_is_told_once() {
    use proto::AudioTrackFeature::{TfEchoCancellation, TfNoDtx, TfStereo};
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let offer = Offer::default().application().audio("mic", 10);
    let mic = world.publish_audio(&alice, "mic", &offer);
    let cam = world.publish_camera(&alice, "cam", &offer.simulcast("cam", RIDS));
    world.request(&alice, microphone("pending"));
    let pending = world.track_published(&alice, "pending").sid;
    world.forget();
    let audio = |track: &str, features: &[proto::AudioTrackFeature]| {
        let features = features.iter().map(|feature| *feature as i32).collect();
        Request::UpdateAudioTrack(proto::UpdateLocalAudioTrack { track_sid: track.into(), features })
    };
    let video = |track: &str, width, height| {
        Request::UpdateVideoTrack(proto::UpdateLocalVideoTrack { track_sid: track.into(), width, height })
    };
    #[expect(deprecated, reason = "older clients read these fields")]
    let sound = |info: &proto::TrackInfo| (info.stereo, info.disable_dtx, info.audio_features.clone());
    for (features, stereo, no_dtx) in [
        (&[TfStereo, TfEchoCancellation][..], true, false),
        (&[TfEchoCancellation, TfNoDtx], false, true),
        (&[], false, false),
    ] {
        world.request(&alice, audio(&mic, features));
        let told = updates(&world.take(&bob));
        assert_eq!(told.len(), 1);
        let expected = (stereo, no_dtx, features.iter().map(|feature| *feature as i32).collect());
        assert_eq!(sound(&told[0].tracks[0]), expected);
        world.request(&alice, audio(&mic, features));
        assert!(world.take(&bob).is_empty(), "nothing is new");
    }
    for (width, height) in [(640, 720), (640, 360)] {
        world.request(&alice, video(&cam, width, height));
        let told = updates(&world.take(&bob));
        let cam = told[0].tracks.iter().find(|track| track.sid == cam).unwrap();
        assert_eq!((told.len(), cam.width, cam.height), (1, width, height));
    }
    // One that has no media yet is told with it; one that is not there is no track.
    world.request(&alice, audio(&pending, &[TfStereo]));
    assert!(world.take(&bob).is_empty());
    let kept = sound(&world.session(&alice).pending[0].info);
    assert_eq!(kept, (true, false, vec![TfStereo as i32]));
    assert!(request_responses(&world.take(&alice)).is_empty());
    for request in [audio("TR_none", &[]), video("TR_none", 1, 1), audio("", &[]), video("nonsense", 1, 1)] {
        world.request(&alice, request);
        let answers = request_responses(&world.take(&alice));
        assert_eq!((answers.len(), answers[0].reason(), answers[0].request.is_some()), (1, Reason::NotFound, true));
    }
}

#[test]
fn the_server_api_mutes_also_a_track_without_media_yet() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.enter_v0("bob");
    world.request(&alice, microphone("mic"));
    let track = world.track_published(&alice, "mic").sid;
    world.forget();
    let muted = world.call(|room, now| room.mute_published_track(now, "alice", &track, true)).unwrap().unwrap();
    assert!(muted.muted && muted.sid == track);
    let told = world.take(&alice);
    let [Response::Mute(mute)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((mute.sid.as_str(), mute.muted), (track.as_str(), true));

    world.offer(&alice, 1, &Offer::default().application().audio("mic", 10));
    assert!(updates(&world.take(&alice))[0].tracks[0].muted);
    assert!(world.commands.iter().any(|command| matches!(command, Command::SetMuted { muted: true, .. })));
}

#[test]
fn a_track_is_unmuted_by_the_server_api_where_that_is_enabled() {
    let mut world = World::with(|config, _| config.enable_remote_unmute = true);
    let alice = world.enter_v0("alice");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    for muted in [true, false] {
        world.forget();
        let info = world.call(|room, now| room.mute_published_track(now, "alice", &track, muted)).unwrap().unwrap();
        assert_eq!(info.muted, muted);
        assert_eq!(names(&world.take(&alice)), ["mute", "update"]);
    }
}

#[test]
fn a_first_packet_that_tells_nothing_new_is_not_told() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();
    let publication = world.session(&alice).publications[track.as_str()].id;
    let ssrc = sfu::command::Ssrc(10);
    // A sound keeps the codec that was agreed on, also where it comes packed in RED or unpacked.
    for codec in [shared::media::Codec::Opus, shared::media::Codec::Red] {
        world.event(sfu::command::Event::LayerStarted { publication, layer: 0, ssrc, codec });
        assert!(world.take(&alice).is_empty(), "{codec:?}");
    }
}

#[test]
fn media_and_add_track_find_each_other_in_either_order() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.offer(&alice, 1, &Offer::default().application().audio("mic", 10));
    assert_eq!(published_sections(&world), 0);
    world.request(&alice, microphone("mic"));
    assert_eq!(published_sections(&world), 1);
    assert_eq!(updates(&world.take(&alice))[0].tracks.len(), 1);
}

#[test]
fn sections_with_other_names_are_claimed_by_their_kind() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().video("{other}", 10).audio("{another}", 20).audio("mic", 30);
    world.offer(&alice, 1, &offer);
    for request in [microphone("mic"), microphone("second"), Request::AddTrack(camera("cam"))] {
        world.request(&alice, request);
    }
    let session = world.session(&alice);
    let mut claimed: Vec<_> = session.publications.values().map(|p| (p.mid.to_string(), p.cid.as_str())).collect();
    claimed.sort();
    assert_eq!(claimed, [("0".to_owned(), "cam"), ("1".to_owned(), "second"), ("2".to_owned(), "mic")]);
}

#[test]
fn a_browser_with_other_track_ids_gets_the_first_pending_track_of_the_kind() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.request(&alice, microphone("mic"));
    let offer = Offer::default().application().audio("{other}", 10).video("{another}", 20);
    world.offer(&alice, 1, &offer);
    let tracks = updates(&world.take(&alice)).pop().unwrap().tracks;
    let sources: Vec<_> = tracks.iter().map(|track| track.source()).collect();
    assert_eq!(sources, [proto::TrackSource::Microphone, proto::TrackSource::Camera]);
}

/// As libwebrtc names a track that is published again.
#[test]
fn a_track_with_another_name_is_not_taken_for_one_that_was_given_up_before() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10);
    world.request(&alice, Request::AddTrack(camera("abandoned")));
    world.publish_audio(&alice, "mic", &offer);
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 2, &offer.video("{another}", 20));

    let session = world.session(&alice);
    assert!(session.publications.values().any(|publication| publication.cid == "cam"));
    assert_eq!(session.pending.iter().map(|p| p.request.cid.as_str()).collect::<Vec<_>>(), ["abandoned"]);
}

#[test]
fn a_name_in_the_sdp_goes_before_the_order_of_requests() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, microphone("first"));
    world.request(&alice, microphone("second"));
    world.offer(&alice, 1, &Offer::default().application().audio("second", 10).audio("first", 20));
    let mids: Vec<_> =
        world.session(&alice).publications.values().map(|p| (p.cid.clone(), p.mid.to_string())).collect();
    assert!(mids.contains(&("second".into(), "1".into())) && mids.contains(&("first".into(), "2".into())));
}

#[test]
fn a_section_without_a_known_name_takes_no_track_that_another_one_names() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, microphone("first"));
    world.request(&alice, microphone("second"));
    world.offer(&alice, 1, &Offer::default().application().audio("{other}", 10).audio("first", 20));
    let session = world.session(&alice);
    let mut mids: Vec<_> = session.publications.values().map(|p| (p.mid.to_string(), p.cid.as_str())).collect();
    mids.sort();
    assert_eq!(mids, [("1".to_owned(), "second"), ("2".to_owned(), "first")]);
}

/// The name of a backup codec's track is one of its own.
#[test]
fn a_track_is_found_by_the_name_of_any_of_its_codecs() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, Request::AddTrack(camera("first")));
    let mut second = camera("second");
    second.simulcast_codecs[0].cid = "backup".into();
    world.request(&alice, Request::AddTrack(second));
    world.offer(&alice, 1, &Offer::default().application().video("backup", 10));
    let session = world.session(&alice);
    assert_eq!(session.publications.values().map(|p| p.cid.as_str()).collect::<Vec<_>>(), ["second"]);
}

#[test]
fn a_section_that_stops_sending_ends_its_track() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let offer = Offer::default().application().audio("mic", 10);
    let track = world.publish_audio(&alice, "mic", &offer);
    world.forget();

    world.offer(&alice, 2, &offer.stopped(1));
    assert!(updates(&world.take(&bob))[0].tracks.is_empty());
    assert!(world.commands.iter().any(|command| matches!(command, Command::Unpublish { .. })));
    let event = world.events.last().unwrap();
    assert!(matches!(&event.what, RoomHappening::TrackUnpublished { track: ended, .. } if ended.sid == track));
}

#[test]
fn a_section_that_changes_is_published_anew_as_the_same_track() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let both = |mic, second| Offer::default().application().audio("mic", mic).audio("second", second);
    let mic = world.publish_audio(&alice, "mic", &both(10, 20));
    let second = world.publish_audio(&alice, "second", &both(10, 20));
    world.forget();
    world.offer(&alice, 9, &both(10, 21));
    let session = world.session(&alice);
    let published: Vec<_> = world
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Publish { publication, section, .. } => Some((*publication, section.layers[0].ssrc)),
            _ => None,
        })
        .collect();
    assert_eq!(published, [(session.publications[second.as_str()].id, Some(sfu::command::Ssrc(21)))]);
    assert_eq!(session.publications.len(), 2);
    assert!(session.publications.contains_key(mic.as_str()));
}

#[test]
fn a_mute_is_told_to_everybody_once() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();

    let mute = Request::Mute(proto::MuteTrackRequest { sid: track, muted: true });
    world.request(&alice, mute.clone());
    assert!(updates(&world.take(&alice))[0].tracks[0].muted);
    assert!(updates(&world.take(&bob))[0].tracks[0].muted);
    assert!(matches!(world.commands[..], [Command::SetMuted { muted: true, .. }]));
    world.request(&alice, mute);
    assert!(world.take(&alice).is_empty() && world.take(&bob).is_empty());
}

#[test]
fn a_simulcast_camera_muted_from_birth_is_invisible_until_it_sends() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.request(&alice, Request::AddTrack(proto::AddTrackRequest { muted: true, ..camera("cam") }));
    world.offer(&alice, 1, &Offer::default().application().simulcast("cam", RIDS));
    let track = world.track_published(&alice, "cam").sid;
    let mute = |muted| Request::Mute(proto::MuteTrackRequest { sid: track.clone(), muted });
    world.request(&alice, mute(true));
    world.request(&alice, mute(false));
    assert!(request_responses(world.inbox(&alice)).is_empty());
    assert!(updates(world.inbox(&bob)).is_empty());
    world.start_layer(&alice, &track, 0);
    assert!(!updates(&world.take(&bob))[0].tracks[0].muted);
}

#[test]
fn what_cannot_be_published_is_refused_with_the_request() {
    let mut world = World::new();
    let mut request = join("alice", Mode::V0);
    request.grants.video.can_publish_sources = vec![proto::TrackSource::Microphone];
    let alice = world.enter(request);
    world.request(&alice, Request::AddTrack(camera("cam")));
    let data = proto::AddTrackRequest {
        cid: "data".into(),
        r#type: proto::TrackType::Data as i32,
        source: proto::TrackSource::Microphone as i32,
        ..Default::default()
    };
    world.request(&alice, Request::AddTrack(data));
    let microphone = proto::TrackSource::Microphone as i32;
    world.request(&alice, Request::AddTrack(proto::AddTrackRequest { source: microphone, ..camera("mic") }));
    world.request(&alice, Request::Mute(proto::MuteTrackRequest { sid: "TR_none".into(), muted: true }));

    let refused = request_responses(&world.take(&alice));
    let reasons: Vec<_> = refused.iter().map(|response| response.reason()).collect();
    assert_eq!(reasons, [Reason::NotAllowed, Reason::UnsupportedType, Reason::NotAllowed, Reason::NotFound]);
    assert!(refused.iter().all(|response| response.request.is_some()));
}

#[test]
fn a_cid_in_use_waits_until_the_earlier_track_ends() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10);
    world.publish_audio(&alice, "mic", &offer);
    world.forget();
    world.request(&alice, microphone("mic"));
    assert_eq!(request_responses(&world.take(&alice))[0].reason(), Reason::Queued);
    world.offer(&alice, 2, &offer.stopped(1));
    assert!(names(&world.take(&alice)).contains(&"track_published"));
}

fn told_sids(messages: &[Response], cid: &str) -> Vec<String> {
    let published = messages.iter().filter_map(|message| match message {
        Response::TrackPublished(published) if published.cid == cid => published.track.as_ref(),
        _ => None,
    });
    published.map(|track| track.sid.clone()).collect()
}

#[test]
fn a_request_whose_media_never_came_makes_way_for_the_next_one_with_its_cid() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    for _ in 0..3 {
        world.request(&alice, microphone("mic"));
        // Unpublished before its section was ever offered.
        world.offer(&alice, 1, &Offer::default().application());
    }
    let messages = world.inbox(&alice).to_vec();
    assert!(request_responses(&messages).is_empty());
    let sids = told_sids(&messages, "mic");
    assert_eq!(sids.len(), 3);
    assert_eq!((world.session(&alice).pending.len(), world.session(&alice).queued.len()), (1, 0));

    world.offer(&alice, 2, &Offer::default().application().audio("mic", 10));
    assert_eq!(world.session(&alice).publications.keys().map(|sid| sid.as_str()).collect::<Vec<_>>(), [&sids[2]]);
    assert!(world.session(&alice).pending.is_empty());
    assert_eq!(updates(&world.take(&bob)).last().unwrap().tracks[0].sid, sids[2]);
}

#[test]
fn a_camera_that_never_sent_makes_way_for_the_next_one_with_its_cid() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let offer = Offer::default().application().simulcast("cam", RIDS);
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 1, &offer);
    world.request(&alice, Request::AddTrack(camera("cam")));
    assert!(request_responses(world.inbox(&alice)).is_empty());
    let sids = told_sids(world.inbox(&alice), "cam");
    assert_eq!(sids.len(), 2);
    let ended = world.commands.iter().filter(|command| matches!(command, Command::Unpublish { .. })).count();
    assert_eq!(ended, 1);

    // In the same section or in another one.
    for (id, offer) in [(2, offer.clone()), (3, offer.stopped(1).simulcast("cam", RIDS))] {
        world.offer(&alice, id, &offer);
        assert_eq!(world.session(&alice).publications.len(), 1, "{id}");
        if id == 2 {
            assert!(world.session(&alice).publications.contains_key(sids[1].as_str()));
            world.request(&alice, Request::AddTrack(camera("cam")));
        }
    }
    let last = told_sids(world.inbox(&alice), "cam").pop().unwrap();
    world.start_layer(&alice, &last, 0);
    assert_eq!(updates(&world.take(&bob)).last().unwrap().tracks.len(), 1);
}

#[test]
fn of_requests_that_wait_for_a_cid_the_last_one_counts() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10);
    world.publish_audio(&alice, "mic", &offer);
    for name in ["first", "second", "third", "fourth", "fifth"] {
        let source = proto::TrackSource::Microphone as i32;
        let request = proto::AddTrackRequest { cid: "mic".into(), name: name.into(), source, ..Default::default() };
        world.request(&alice, Request::AddTrack(request));
    }
    let refused = request_responses(world.inbox(&alice));
    assert!(refused.iter().all(|response| response.reason() == Reason::Queued), "{refused:?}");
    assert_eq!(world.session(&alice).queued.len(), 1);
    world.offer(&alice, 2, &offer.stopped(1));
    assert_eq!(world.track_published(&alice, "mic").name, "fifth");
    assert!(world.session(&alice).queued.is_empty());
}

#[test]
fn every_request_that_waits_goes_on_when_its_cid_is_free() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10).audio("other", 20);
    world.publish_audio(&alice, "mic", &offer);
    world.publish_audio(&alice, "other", &offer);
    for cid in ["mic", "other"] {
        world.request(&alice, microphone(cid));
    }
    world.offer(&alice, 2, &offer.stopped(1).stopped(2));
    assert!(world.session(&alice).queued.is_empty());
    assert_eq!(world.session(&alice).pending.len(), 2);
}

mod abandoned {
    //! Publishing and unpublishing in any order.

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// However often a track was published and given up, at whatever moment: published once more it is there, and
        /// nothing waits for it.
        #[test]
        fn a_track_can_always_be_published_again(
            simulcast: bool,
            steps in proptest::collection::vec((0..4u8, 0..2usize), 0..30),
        ) {
            let mut world = World::new();
            let alice = world.enter_v0("alice");
            let cids = ["one", "two"];
            let mut sends = [false; 2];
            let request = |cid: &str| if simulcast { Request::AddTrack(camera(cid)) } else { microphone(cid) };
            let offer = |sends: [bool; 2]| {
                let mut offer = Offer::default().application();
                for (at, cid) in cids.into_iter().enumerate() {
                    offer = if simulcast { offer.simulcast(cid, RIDS) } else { offer.audio(cid, 10 + at as u32) };
                    if !sends[at] {
                        offer = offer.stopped(at + 1);
                    }
                }
                offer
            };
            let mut id = 0;
            for (step, which) in steps {
                match step {
                    0 => world.request(&alice, request(cids[which])),
                    1 => sends[which] = true,
                    2 => sends[which] = false,
                    _ => {
                        id += 1;
                        world.offer(&alice, id, &offer(sends));
                    }
                }
            }
            // Given up for good, and published again.
            world.offer(&alice, id + 1, &offer([false; 2]));
            world.take(&alice);
            world.request(&alice, request("one"));
            let sid = world.track_published(&alice, "one").sid;
            world.offer(&alice, id + 2, &offer([true, false]));
            prop_assert!(world.session(&alice).publications.contains_key(sid.as_str()));
            prop_assert!(world.session(&alice).queued.is_empty());
        }
    }
}

#[test]
fn announced_tracks_are_bounded() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    for number in 0..21 {
        world.request(&alice, microphone(&format!("mic{number}")));
    }
    let refused = request_responses(&world.take(&alice));
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].reason(), Reason::LimitExceeded);
}

#[test]
fn an_own_track_named_again_for_a_backup_codec_is_described_again() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 1, &Offer::default().application().video("cam", 10));
    let track = world.track_published(&alice, "cam").sid;
    world.forget();
    let again = proto::AddTrackRequest { cid: "backup".into(), sid: track.clone(), ..camera("backup") };
    world.request(&alice, Request::AddTrack(again));
    assert_eq!(world.track_published(&alice, "backup").sid, track);
}

#[test]
fn an_unreadable_offer_makes_the_client_start_over() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = proto::SessionDescription { r#type: "offer".into(), sdp: "nonsense".into(), ..Default::default() };
    world.request(&alice, Request::Offer(offer));
    let Some(Response::Leave(leave)) = world.take(&alice).pop() else { panic!("no leave") };
    assert_eq!(leave.reason(), proto::DisconnectReason::StateMismatch);
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
}

/// A participant with as many tracks as it and the room may have; how many these are.
fn publish_all(world: &mut World, name: &str) -> (crate::world::Client, usize) {
    let client = world.enter(signaling::join::Join { auto_subscribe: false, ..join(name, Mode::V0) });
    let mut offer = Offer::default();
    for number in 0..PUBLICATIONS_MAX {
        let cid = format!("{name}{number}");
        world.request(&client, microphone(&cid));
        offer = offer.audio(&cid, 10 + number as u32);
        if number % 16 == 15 {
            world.offer(&client, number as u32, &offer);
        }
    }
    (client.clone(), world.session(&client).publications.len())
}

#[test]
fn a_room_has_so_many_tracks_and_who_announces_more_is_told() {
    let mut world = World::new();
    // It is announced before the room is full, and offered when it is.
    let late = world.enter_v0("late");
    world.request(&late, microphone("late"));
    let (mut published, mut last) = (0, None);
    while published < ROOM_TRACKS_MAX {
        let (client, count) = publish_all(&mut world, &format!("p{published}"));
        published += count;
        last = Some(client);
        world.take(&late);
    }
    assert_eq!(published, ROOM_TRACKS_MAX);
    assert_eq!(world.room.track_count(), ROOM_TRACKS_MAX);
    let refused = world.tracks_refused;

    let offer = Offer::default().audio("late", 10);
    world.offer(&late, 1, &offer);
    world.request(&late, microphone("more"));
    let answers = request_responses(&world.take(&late));
    let reasons: Vec<_> = answers.iter().map(|answer| (answer.reason(), answer.message.as_str())).collect();
    assert_eq!(reasons, [(Reason::LimitExceeded, "too many tracks in the room"); 2]);
    assert_eq!(world.tracks_refused, refused + 2);

    // Whoever leaves makes room.
    world.lose_socket(&last.unwrap());
    world.call(|room, now| room.remove_participant(now, "p0").unwrap());
    world.request(&late, microphone("late"));
    world.offer(&late, 2, &offer);
    assert_eq!(world.session(&late).publications.len(), 1);
}

#[test]
fn a_track_with_a_long_description_is_refused() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let named = |length: usize| proto::AddTrackRequest {
        cid: format!("cid{length}"),
        name: "n".repeat(length),
        ..Default::default()
    };
    let longest = TRACK_BYTES_MAX - (named(4_000).encoded_len() - 4_000);
    world.request(&alice, Request::AddTrack(named(longest)));
    world.request(&alice, Request::AddTrack(named(longest + 1)));
    let reasons: Vec<_> = request_responses(&world.take(&alice)).iter().map(|answer| answer.reason()).collect();
    assert_eq!(reasons, [Reason::LimitExceeded]);
    let accepted: Vec<_> = world.session(&alice).pending.iter().map(|pending| pending.request.name.len()).collect();
    assert_eq!(accepted, [longest]);
    assert_eq!(world.tracks_refused, 1);
}

#[test]
fn a_participant_publishes_so_many_tracks() {
    let mut world = World::new();
    let (alice, published) = publish_all(&mut world, "alice");
    assert_eq!(published, PUBLICATIONS_MAX);
    world.take(&alice);
    world.request(&alice, microphone("more"));
    assert_eq!(request_responses(&world.take(&alice))[0].reason(), Reason::LimitExceeded);
}

#[test]
fn so_many_requests_wait_for_a_cid_and_one_more_is_refused_for_good() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let cids: Vec<_> = (0..=QUEUED_TRACKS_MAX).map(|number| format!("mic{number}")).collect();
    let mut offer = Offer::default().application();
    for (cid, ssrc) in cids.iter().zip(10..) {
        offer = offer.audio(cid, ssrc);
        world.publish_audio(&alice, cid, &offer);
    }
    world.forget();
    for cid in &cids {
        world.request(&alice, microphone(cid));
    }
    let reasons: Vec<_> = request_responses(&world.take(&alice)).iter().map(|answer| answer.reason()).collect();
    let mut expected = vec![Reason::Queued; QUEUED_TRACKS_MAX];
    expected.push(Reason::LimitExceeded);
    assert_eq!(reasons, expected);
    assert_eq!(world.tracks_refused, 1);
}

#[test]
fn so_many_sections_wait_to_be_claimed() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let cids: Vec<_> = (0..=PENDING_TRACKS_MAX).map(|number| format!("mic{number}")).collect();
    let offer = cids.iter().zip(10..).fold(Offer::default(), |offer, (cid, ssrc)| offer.audio(cid, ssrc));
    world.offer(&alice, 1, &offer);
    for cid in &cids {
        world.request(&alice, microphone(cid));
    }
    assert_eq!(published_sections(&world), PENDING_TRACKS_MAX);
    assert_eq!(world.session(&alice).pending.len(), 1);
    // The last one is taken with the next offer.
    world.offer(&alice, 2, &offer);
    assert_eq!(world.session(&alice).publications.len(), PENDING_TRACKS_MAX + 1);
}

#[test]
fn who_may_not_publish_has_no_section_taken() {
    let mut world = World::new();
    let mut request = join("alice", Mode::V0);
    request.grants.video.can_publish = Some(false);
    let alice = world.enter(request);
    world.offer(&alice, 1, &Offer::default().audio("mic", 10));
    assert!(world.session(&alice).unclaimed.is_empty());
}
