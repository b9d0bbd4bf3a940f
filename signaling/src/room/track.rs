//! What AddTrack and the negotiation say of a track → its description for everybody (docs/livekit.md 4.4).

use livekit_protocol as proto;
use sfu::command::{ReceiveSection, Rid, Ssrc};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};

use crate::negotiation::ReceiveSettings;

pub(super) fn kind_of(track_type: proto::TrackType) -> Option<MediaKind> {
    match track_type {
        proto::TrackType::Audio => Some(MediaKind::Audio),
        proto::TrackType::Video => Some(MediaKind::Video),
        proto::TrackType::Data => None,
    }
}

pub(super) fn receive_settings(request: &proto::AddTrackRequest, track_id: &str) -> ReceiveSettings {
    let codecs = &request.simulcast_codecs;
    let codec = codecs.iter().find(|codec| codec.cid == track_id).or(codecs.first());
    let layers = codec.map(|codec| &codec.layers).filter(|layers| !layers.is_empty()).unwrap_or(&request.layers);
    let mut layers: Vec<_> = layers.iter().collect();
    layers.sort_by_key(|layer| layer.quality);
    ReceiveSettings {
        preferred_mime: codec.map(|codec| full_mime(&codec.codec, request.r#type())).filter(|mime| !mime.is_empty()),
        disable_red: request.disable_red,
        disable_dtx: disables_dtx(request),
        stereo: is_stereo(request),
        rids_by_quality: layers
            .iter()
            .filter_map(|layer| Rid::from(&layer.rid).ok())
            .filter(|r| !r.is_empty())
            .collect(),
    }
}

fn disables_dtx(request: &proto::AddTrackRequest) -> bool {
    request.disable_dtx || request.audio_features().any(|feature| feature == proto::AudioTrackFeature::TfNoDtx)
}

fn is_stereo(request: &proto::AddTrackRequest) -> bool {
    request.stereo || request.audio_features().any(|feature| feature == proto::AudioTrackFeature::TfStereo)
}

/// `vp8` and `video/vp8` mean the same; the client's spelling stays.
fn full_mime(codec: &str, track_type: proto::TrackType) -> String {
    match (codec, track_type) {
        ("", _) => String::new(),
        (mime, _) if mime.contains('/') => mime.into(),
        (bare, proto::TrackType::Audio) => format!("audio/{bare}"),
        (bare, _) => format!("video/{bare}"),
    }
}

/// LiveKit's two letters after `TR_`: type, then source.
pub(super) fn marker(track_type: proto::TrackType, source: proto::TrackSource) -> String {
    let mut marker = String::new();
    match track_type {
        proto::TrackType::Audio => marker.push('A'),
        proto::TrackType::Video => marker.push('V'),
        proto::TrackType::Data => {}
    }
    match source {
        proto::TrackSource::Camera => marker.push('C'),
        proto::TrackSource::Microphone => marker.push('M'),
        proto::TrackSource::ScreenShare => marker.push('S'),
        proto::TrackSource::ScreenShareAudio => marker.push('s'),
        proto::TrackSource::Unknown => {}
    }
    marker
}

/// A track as announced, before its media.
pub(super) fn track_info(sid: &TrackSid, request: &proto::AddTrackRequest, enabled: &[String]) -> proto::TrackInfo {
    let video = request.r#type() == proto::TrackType::Video;
    let codecs = codec_infos(request, enabled);
    let primary = codecs.first();
    let layers = primary.map_or_else(Vec::new, |codec| codec.layers.clone());
    let svc = primary.is_some_and(|codec| is_svc(codec.video_layer_mode()));
    let policy = if video { request.backup_codec_policy() } else { proto::BackupCodecPolicy::Simulcast };
    let mut info = proto::TrackInfo {
        sid: sid.to_string(),
        r#type: request.r#type,
        name: request.name.clone(),
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: video && !svc && layers.len() > 1,
        source: request.source,
        layers,
        mime_type: primary.map(|codec| codec.mime_type.clone()).unwrap_or_default(),
        codecs,
        disable_dtx: disables_dtx(request),
        stereo: is_stereo(request),
        disable_red: request.disable_red,
        encryption: request.encryption,
        stream: stream_of(request),
        audio_features: request.audio_features.clone(),
        backup_codec_policy: policy as i32,
        packet_trailer_features: request.packet_trailer_features.clone(),
        ..Default::default()
    };
    for (set, feature) in
        [(info.stereo, proto::AudioTrackFeature::TfStereo), (info.disable_dtx, proto::AudioTrackFeature::TfNoDtx)]
    {
        if !video && set && !info.audio_features.contains(&(feature as i32)) {
            info.audio_features.push(feature as i32);
        }
    }
    info
}

fn stream_of(request: &proto::AddTrackRequest) -> String {
    if !request.stream.is_empty() {
        return request.stream.clone();
    }
    match request.source() {
        proto::TrackSource::Camera | proto::TrackSource::Microphone => "camera",
        proto::TrackSource::ScreenShare | proto::TrackSource::ScreenShareAudio => "screen",
        proto::TrackSource::Unknown => "unknown",
    }
    .into()
}

fn codec_infos(request: &proto::AddTrackRequest, enabled: &[String]) -> Vec<proto::SimulcastCodecInfo> {
    let unnamed = [proto::SimulcastCodec { cid: request.cid.clone(), ..Default::default() }];
    let asked = if request.simulcast_codecs.is_empty() { &unnamed[..] } else { &request.simulcast_codecs };
    asked.iter().take(4).map(|codec| codec_info(codec, request, enabled)).collect()
}

fn codec_info(
    codec: &proto::SimulcastCodec,
    request: &proto::AddTrackRequest,
    enabled: &[String],
) -> proto::SimulcastCodecInfo {
    let mime_type = enabled_mime(full_mime(&codec.codec, request.r#type()), enabled);
    let mut layers = if codec.layers.is_empty() { request.layers.clone() } else { codec.layers.clone() };
    layers.truncate(sfu::command::LAYERS_MAX);
    layers.sort_by_key(|layer| layer.quality);
    let is_unset = codec.video_layer_mode() == proto::video_layer::Mode::Unused;
    let mode = match is_unset && request.r#type() == proto::TrackType::Video {
        true => default_mode(&mime_type),
        false => codec.video_layer_mode(),
    };
    proto::SimulcastCodecInfo {
        mime_type,
        cid: codec.cid.clone(),
        layers,
        video_layer_mode: mode as i32,
        ..Default::default()
    }
}

fn enabled_mime(mime: String, enabled: &[String]) -> String {
    let is_enabled = mime.is_empty() || enabled.iter().any(|known| known.eq_ignore_ascii_case(&mime));
    if is_enabled || mime.starts_with("audio/") {
        return mime;
    }
    enabled.iter().find(|known| known.starts_with("video/")).cloned().unwrap_or(mime)
}

fn default_mode(mime: &str) -> proto::video_layer::Mode {
    match mime.to_ascii_lowercase().as_str() {
        "video/vp9" | "video/av1" => proto::video_layer::Mode::MultipleSpatialLayersPerStream,
        _ => proto::video_layer::Mode::OneSpatialLayerPerStream,
    }
}

fn is_svc(mode: proto::video_layer::Mode) -> bool {
    mode == proto::video_layer::Mode::MultipleSpatialLayersPerStream
}

/// Fills in what the negotiation settled.
pub(super) fn describe_media(info: &mut proto::TrackInfo, section: &ReceiveSection, codec: Codec) {
    info.mid = section.mid.to_string();
    describe_codec(info, codec);
    let svc = info.codecs.first().is_some_and(|first| is_svc(first.video_layer_mode()));
    if let Some(first) = info.codecs.first_mut() {
        first.mid.clone_from(&info.mid);
    }
    if codec.kind() == MediaKind::Video {
        describe_layers(info, section, svc);
    }
}

pub(super) fn describe_codec(info: &mut proto::TrackInfo, codec: Codec) {
    info.mime_type = codec.mime().into();
    if let Some(first) = info.codecs.first_mut() {
        first.mime_type = codec.mime().into();
        if codec.kind() == MediaKind::Video && first.video_layer_mode() == proto::video_layer::Mode::Unused {
            first.set_video_layer_mode(default_mode(codec.mime()));
        }
    }
}

/// `section.layers` run from the lowest quality to the highest, as `info.layers` do.
fn describe_layers(info: &mut proto::TrackInfo, section: &ReceiveSection, svc: bool) {
    while info.layers.len() < section.layers.len() {
        let quality = i32::try_from(info.layers.len()).unwrap_or(0);
        info.layers.push(proto::VideoLayer { quality, ..Default::default() });
    }
    for (at, layer) in info.layers.iter_mut().enumerate() {
        layer.spatial_layer = i32::try_from(at).unwrap_or(0);
        let received = if svc { section.layers.first() } else { section.layers.get(at) };
        if let Some(received) = received {
            layer.rid = received.rid.map(|rid| rid.to_string()).unwrap_or_default();
            layer.ssrc = received.ssrc.map_or(layer.ssrc, |ssrc| ssrc.0);
            layer.repair_ssrc = received.rtx_ssrc.map_or(layer.repair_ssrc, |ssrc| ssrc.0);
        }
    }
    copy_layers(info);
}

pub(super) fn set_layer_ssrc(info: &mut proto::TrackInfo, at: usize, ssrc: Ssrc) {
    if let Some(layer) = info.layers.get_mut(at) {
        layer.ssrc = ssrc.0;
        copy_layers(info);
    }
}

fn copy_layers(info: &mut proto::TrackInfo) {
    if let Some(first) = info.codecs.first_mut() {
        first.layers.clone_from(&info.layers);
    }
}
