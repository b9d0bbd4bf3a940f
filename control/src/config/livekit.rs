//! Keys of LiveKit's configuration that Onair does not have, so that a file written for LiveKit starts, or fails for a
//! reason that helps.

/// What becomes of a key that LiveKit knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It tunes something that works without it: warn and go on.
    Ignored,
    /// The operator counts on it: refuse to start.
    Unsupported,
}

/// Paths, each with everything below it. A longer one counts before a shorter one.
const KEYS: [(&str, Standing); 78] = {
    use Standing::{Ignored, Unsupported};
    [
        ("agents", Ignored),
        ("api", Ignored),
        ("audio.active_red_encoding", Ignored),
        ("debug_handler", Unsupported),
        ("enable_data_tracks", Unsupported),
        ("enable_participant_data_blob", Unsupported),
        ("egress", Unsupported),
        ("ingress", Unsupported),
        ("limit.agent_signal_message_size_limit", Ignored),
        ("limit.bytes_per_sec", Unsupported),
        ("limit.max_api_request_body_size", Unsupported),
        ("limit.max_data_blob_size", Ignored),
        ("limit.max_participant_identity_length", Unsupported),
        ("limit.num_tracks", Unsupported),
        ("limit.signal_message_size_limit", Unsupported),
        ("limit.subscription_limit_audio", Unsupported),
        ("limit.subscription_limit_video", Unsupported),
        ("logging.component_levels", Ignored),
        ("logging.pion_level", Ignored),
        ("logging.sample", Ignored),
        ("metric", Ignored),
        ("node_selector", Ignored),
        ("node_stats", Ignored),
        ("psrpc", Ignored),
        ("redis", Unsupported),
        ("room.create_room_attempts", Ignored),
        ("room.create_room_enabled", Ignored),
        ("room.create_room_timeout", Ignored),
        ("room.enable_full_room_in_webhooks", Ignored),
        ("room.max_metadata_size", Unsupported),
        ("room.max_participant_identity_length", Unsupported),
        ("room.max_room_name_length", Unsupported),
        ("room.playout_delay", Unsupported),
        ("room.sync_streams", Ignored),
        ("room.update_batch_target_size", Ignored),
        ("rtc.advertise_internal_ip", Unsupported),
        ("rtc.allow_tcp_fallback", Ignored),
        ("rtc.allow_timestamp_adjustment", Ignored),
        ("rtc.allow_udp_unstable_fallback", Ignored),
        ("rtc.batch_io", Ignored),
        ("rtc.congestion_control", Ignored),
        ("rtc.data_channel_max_buffered_amount", Ignored),
        ("rtc.datachannel_data_track_target_latency", Ignored),
        ("rtc.datachannel_lossy_target_latency", Ignored),
        ("rtc.enable_loopback_candidate", Ignored),
        ("rtc.enable_warp", Ignored),
        ("rtc.external_ip_only", Unsupported),
        ("rtc.force_tcp", Unsupported),
        ("rtc.interfaces", Unsupported),
        ("rtc.ips", Unsupported),
        ("rtc.packet_buffer_size", Ignored),
        ("rtc.packet_buffer_size_audio", Ignored),
        ("rtc.packet_buffer_size_video", Ignored),
        ("rtc.pli_throttle", Ignored),
        ("rtc.reconnect_on_data_channel_error", Ignored),
        ("rtc.reconnect_on_publication_error", Ignored),
        ("rtc.reconnect_on_subscription_error", Ignored),
        ("rtc.skip_external_ip_validation", Ignored),
        ("rtc.strict_acks", Ignored),
        ("rtc.tcp_fallback_rtt_threshold", Ignored),
        ("rtc.turn_servers", Unsupported),
        ("rtc.use_external_ip", Unsupported),
        ("rtc.use_ice_lite", Ignored),
        ("rtc.use_mdns", Unsupported),
        ("rtc.use_stun_port_as_ice", Unsupported),
        ("signal_relay", Ignored),
        ("sip", Unsupported),
        ("stun_servers", Unsupported),
        ("trace", Unsupported),
        ("turn", Unsupported),
        ("turn_servers", Unsupported),
        ("video", Ignored),
        ("webhooks", Unsupported),
        ("whip", Unsupported),
        ("bytes_per_sec", Unsupported),
        ("cpuprofile", Ignored),
        ("memprofile", Ignored),
        ("transcode", Unsupported),
    ]
};

/// What becomes of `path`, if LiveKit knows it.
pub(super) fn standing(path: &str) -> Option<Standing> {
    KEYS.iter()
        .filter(|(key, _)| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        .max_by_key(|(key, _)| key.len())
        .map(|&(_, standing)| standing)
}
