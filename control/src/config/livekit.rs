//! Keys of LiveKit's configuration that Onair does not have, so that a file written for LiveKit starts, or fails for a
//! reason that helps.

/// What becomes of a key that LiveKit knows, with the reason in words that follow the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing that an operator counts on goes missing: accepted, and reported at the start.
    WithoutEffect(&'static str),
    /// It is on here, whatever it says: accepted, and reported at the start, also if it is to be off.
    AlwaysOn(&'static str),
    /// It has this value here, whatever it says: any other is refused.
    Fixed(u64),
    /// The operator counts on it: refuse to start.
    Refused(&'static str),
}

/// Paths, each with everything below it. A longer one counts before a shorter one.
#[rustfmt::skip]
const KEYS: &[(&str, Standing)] = {
    use Standing::{AlwaysOn, Fixed, Refused, WithoutEffect};
    const TUNING: Standing = WithoutEffect("tunes a part that works otherwise here");
    const ONE_NODE: Standing = WithoutEffect("is for several nodes; this server is one");
    const LOGGING: Standing = WithoutEffect("is of LiveKit's logging library; logging.level is for all parts");
    const NO_PROFILER: Standing = WithoutEffect("is for a profiler of Go programs");
    const ICE: Standing = WithoutEffect("this server is always ICE-lite: clients choose the path");
    const NO_STUN: Standing = WithoutEffect("goes with rtc.use_external_ip");
    const NO_TURN: Standing =
        Refused("there is no TURN here; clients without UDP connect over TCP (rtc.tcp_port)");
    const NO_SERVICE: Standing = Refused("this service is not there yet");
    const BOUND: Standing = Refused("subscriptions are not bounded by number here");
    &[
        ("agents", WithoutEffect("agents are not dispatched here")),
        ("api", TUNING),
        ("audio.active_red_encoding", TUNING),
        ("audio.enable_loss_proxying", TUNING),
        ("bytes_per_sec", WithoutEffect("joins are not refused by load here")),
        ("cpuprofile", NO_PROFILER),
        ("debug_handler", NO_PROFILER),
        ("debug_handler_port", NO_PROFILER),
        ("egress", NO_SERVICE),
        ("enable_data_tracks", WithoutEffect("there are no data tracks here yet")),
        ("enable_participant_data_blob", Refused("participants have no data blobs here yet")),
        ("ingress", NO_SERVICE),
        ("limit.agent_signal_message_size_limit", WithoutEffect("no agent workers connect here")),
        ("limit.bytes_per_sec", WithoutEffect("joins are not refused by load here")),
        ("limit.max_data_blob_key_length", WithoutEffect("participants have no data blobs here yet")),
        ("limit.max_data_blobs_size", WithoutEffect("participants have no data blobs here yet")),
        ("limit.max_data_track_custom_encoding_length", WithoutEffect("there are no data tracks here yet")),
        ("limit.max_participant_identity_length", Fixed(256)),
        ("limit.subscription_limit_audio", BOUND),
        ("limit.subscription_limit_video", BOUND),
        ("logging.component_levels", LOGGING),
        ("logging.item_sample_initial", LOGGING),
        ("logging.item_sample_interval", LOGGING),
        ("logging.item_sample_seconds", LOGGING),
        ("logging.pion_level", LOGGING),
        ("logging.sample", LOGGING),
        ("logging.sample_initial", LOGGING),
        ("logging.sample_interval", LOGGING),
        ("memprofile", NO_PROFILER),
        ("metric", TUNING),
        ("node_selector", ONE_NODE),
        ("node_stats", ONE_NODE),
        ("psrpc", ONE_NODE),
        ("redis", Refused("rooms are in this process alone and nothing is shared through Redis")),
        ("room.create_room_attempts", ONE_NODE),
        ("room.create_room_enabled", TUNING),
        ("room.create_room_timeout", ONE_NODE),
        ("room.enable_full_room_in_webhooks", WithoutEffect("events of rooms and participants hold the whole room, those of tracks its sid and name")),
        ("room.playout_delay", Refused("clients choose their playout delay themselves here")),
        ("room.sync_streams", WithoutEffect("every track is a stream of its own here; clients synchronize by sender reports")),
        ("room.update_batch_target_size", TUNING),
        ("rtc.advertise_internal_ip", NO_STUN),
        ("rtc.allow_tcp_fallback", AlwaysOn("clients are always told of the TCP port; rtc.tcp_port 0 closes it")),
        ("rtc.allow_timestamp_adjustment", TUNING),
        ("rtc.allow_udp_unstable_fallback", WithoutEffect("clients choose between UDP and TCP here")),
        ("rtc.batch_io", WithoutEffect("packets are always sent in runs")),
        ("rtc.congestion_control", WithoutEffect("there is no congestion control towards subscribers yet")),
        ("rtc.data_channel_max_buffered_amount", TUNING),
        ("rtc.datachannel_data_track_target_latency", WithoutEffect("there are no data tracks here yet")),
        ("rtc.datachannel_lossy_target_latency", TUNING),
        ("rtc.enable_loopback_candidate", WithoutEffect("rtc.node_ip names the addresses that clients are told")),
        ("rtc.enable_rtp_stream_restart_detection", TUNING),
        ("rtc.enable_warp", TUNING),
        ("rtc.external_ip_only", NO_STUN),
        ("rtc.force_tcp", Refused("clients without UDP use TCP by themselves")),
        ("rtc.forward_stats", TUNING),
        ("rtc.interfaces", Refused("media listens on every interface: name what clients are told with rtc.node_ip")),
        ("rtc.host_acceptance_min_wait", ICE),
        ("rtc.prflx_acceptance_min_wait", ICE),
        ("rtc.relay_acceptance_min_wait", ICE),
        ("rtc.srflx_acceptance_min_wait", ICE),
        ("rtc.ips", Refused("media listens on every address: name what clients are told with rtc.node_ip")),
        ("rtc.packet_buffer_size", TUNING),
        ("rtc.packet_buffer_size_audio", TUNING),
        ("rtc.packet_buffer_size_video", TUNING),
        ("rtc.pli_throttle", TUNING),
        ("rtc.reconnect_on_data_channel_error", TUNING),
        ("rtc.reconnect_on_publication_error", TUNING),
        ("rtc.reconnect_on_subscription_error", TUNING),
        ("rtc.require_ipv4", NO_STUN),
        ("rtc.sctp_cwnd_ca_step", TUNING),
        ("rtc.sctp_fast_rtx_wnd", TUNING),
        ("rtc.sctp_min_cwnd", TUNING),
        ("rtc.skip_external_ip_validation", NO_STUN),
        ("rtc.strict_acks", TUNING),
        ("rtc.tcp_fallback_rtt_threshold", WithoutEffect("clients choose between UDP and TCP here")),
        ("rtc.turn_servers", NO_TURN),
        ("rtc.use_external_ip", Refused("the public address is not found out: name it with rtc.node_ip (--node-ip)")),
        ("rtc.use_ice_lite", ICE),
        ("rtc.use_mdns", WithoutEffect("clients are told addresses, not names")),
        ("rtc.use_stun_port_as_ice", NO_STUN),
        ("signal_relay", ONE_NODE),
        ("sip", NO_SERVICE),
        ("stun_servers", Refused("this old name is not read: write rtc.stun_servers")),
        ("trace", WithoutEffect("traces are not exported")),
        ("transcode", NO_SERVICE),
        ("turn", NO_TURN),
        ("turn_servers", NO_TURN),
        ("video", WithoutEffect("every published layer is received: there is no dynacast yet")),
        ("webhook.filter_params", Refused("every event goes to every URL")),
        ("webhook.resource_url_notifier", TUNING),
        ("webhook.url_notifier", TUNING),
        ("webhooks", Refused("the section is named webhook")),
        ("whip", NO_SERVICE),
    ]
};

/// Keys that moved, and where Onair reads them. LiveKit reads the old places as well.
pub(super) const MOVED: [(&str, &str); 3] = [
    ("room.max_metadata_size", "limit.max_metadata_size"),
    ("room.max_participant_identity_length", "limit.max_participant_identity_length"),
    ("room.max_room_name_length", "limit.max_room_name_length"),
];

/// Variables of LiveKit's own flags, and the keys that they set.
const VARIABLES: [(&str, &str); 4] = [
    ("REDIS_HOST", "redis.address"),
    ("REDIS_PASSWORD", "redis.password"),
    ("LIVEKIT_TURN_CERT", "turn.cert_file"),
    ("LIVEKIT_TURN_KEY", "turn.key_file"),
];

/// What becomes of `path`, if LiveKit knows it.
pub(super) fn standing(path: &str) -> Option<Standing> {
    KEYS.iter()
        .filter(|(key, _)| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        .max_by_key(|(key, _)| key.len())
        .map(|&(_, standing)| standing)
}

/// The key of LiveKit's that an environment variable sets, as far as the name tells it.
pub(super) fn key_of_variable(variable: &str) -> Option<String> {
    if let Some((_, path)) = VARIABLES.iter().find(|(name, _)| *name == variable) {
        return Some((*path).to_owned());
    }
    let text = variable.strip_prefix("LIVEKIT_")?.to_ascii_lowercase();
    let keys = KEYS.iter().map(|(key, _)| *key).chain(MOVED.iter().map(|(from, _)| *from));
    let rest_of = |key: &str| {
        let rest = text.strip_prefix(&key.replace('.', "_"))?;
        (rest.is_empty() || rest.starts_with('_')).then(|| rest.trim_start_matches('_').to_owned())
    };
    let (key, rest) = keys.filter_map(|key| Some((key, rest_of(key)?))).max_by_key(|(key, _)| key.len())?;
    Some(if rest.is_empty() { key.to_owned() } else { format!("{key}.{rest}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_standing() {
        for (number, (key, _)) in KEYS.iter().enumerate() {
            assert!(KEYS.iter().skip(number + 1).all(|(other, _)| key != other), "{key} is there twice");
        }
    }

    #[test]
    fn a_variable_names_the_longest_key() {
        assert_eq!(key_of_variable("LIVEKIT_TURN_ENABLED").as_deref(), Some("turn.enabled"));
        assert_eq!(key_of_variable("LIVEKIT_RTC_USE_EXTERNAL_IP").as_deref(), Some("rtc.use_external_ip"));
        assert_eq!(key_of_variable("LIVEKIT_TURN_SERVERS").as_deref(), Some("turn_servers"));
        assert_eq!(key_of_variable("LIVEKIT_TURN_CERT").as_deref(), Some("turn.cert_file"));
        assert_eq!(key_of_variable("LIVEKIT_SOMETHING"), None);
    }
}
