use std::net::IpAddr;

use serde_yaml_ng::Value;
use signaling::token::Secret;

use super::load::{Flags, Loaded, Sources, load, parse_tree};
use super::*;

fn load_yaml(yaml: &str) -> anyhow::Result<Loaded> {
    load(Sources { yaml: Some(yaml.to_owned()), strict: true, ..Sources::default() })
}

fn error_of(yaml: &str) -> String {
    format!("{:#}", load_yaml(yaml).unwrap_err())
}

#[test]
fn the_documented_file_holds_every_key_with_its_default() {
    let documented = parse_tree(include_str!("../../../config/onair.yaml")).unwrap();
    let Value::Mapping(defaults) = serde_yaml_ng::to_value(Config::default()).unwrap() else { panic!("not a map") };

    assert_eq!(documented, defaults);
    assert_eq!(load_yaml(include_str!("../../../config/onair.yaml")).unwrap().config, Config::default());
}

#[test]
fn an_unknown_key_is_named_and_the_likely_one_suggested() {
    assert_eq!(error_of("rtc: {udp_prot: 7882}"), "unknown key rtc.udp_prot: did you mean rtc.udp_port?");
    assert_eq!(error_of("prot: 7880"), "unknown key prot: did you mean port?");
    assert_eq!(error_of("zzzzzzzzzz: 1"), "unknown key zzzzzzzzzz: config/onair.yaml lists all keys");
}

#[test]
fn a_value_of_the_wrong_sort_is_named() {
    assert!(error_of("{port: 7880, rtc: {tcp_port: many}}").starts_with("rtc.tcp_port: "));
    assert!(error_of("port: {x: 1}").starts_with("port"));
    assert!(error_of("rtc: 3").starts_with("rtc "));
    assert!(error_of("rtc: {udp_port: 9-8}").starts_with("rtc.udp_port: "));
}

#[test]
fn what_livekit_has_and_onair_does_not_is_refused_by_name() {
    let redis = error_of("redis: {address: 'localhost:6379'}");
    assert!(redis.starts_with("redis is not supported: rooms are in this process alone"), "{redis}");
    assert!(redis.contains("--disable-strict-config"));
    assert!(error_of("turn: {enabled: true}").starts_with("turn is not supported: "));
    assert!(error_of("rtc: {use_external_ip: true}").contains("rtc.node_ip"));
}

#[test]
fn what_livekit_has_and_onair_does_not_may_be_switched_off() {
    let loaded = load_yaml("{redis: {}, turn: {enabled: false, domain: x}, rtc: {use_external_ip: false}}").unwrap();

    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn tuning_keys_of_livekit_are_ignored_with_a_warning() {
    let loaded = load_yaml("{rtc: {pli_throttle: {low_quality: 1s}}, node_selector: {kind: any}}").unwrap();

    assert_eq!(loaded.warnings.len(), 2);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let sources = |overrides: &[(&str, &str)]| Sources {
        yaml: Some("rtc: {tcp_port: 1, udp_port: 1-2}".into()),
        environment: vec![("LIVEKIT_RTC_TCP_PORT".into(), "2".into()), ("LIVEKIT_REGION".into(), "eu".into())],
        overrides: overrides.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect(),
        strict: true,
        ..Sources::default()
    };

    assert_eq!(load(sources(&[])).unwrap().config.rtc.tcp_port, 2);
    let config = load(sources(&[("rtc.tcp_port", "3")])).unwrap().config;
    assert_eq!(config.rtc.tcp_port, 3);
    assert_eq!(config.rtc.udp_port, PortRange { first: 1, last: 2 });
    assert_eq!(config.region, "eu");
}

#[test]
fn keys_keep_their_order_and_hide_their_secrets() {
    let config = load_yaml("keys: {zz: hunter2, aa: 12345}").unwrap().config;

    assert_eq!(config.keys.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["zz", "aa"]);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn development_brings_public_keys_loopback_and_one_udp_port() {
    let flags = Flags { dev: true, ..Flags::default() };
    let config = load(Sources { flags, strict: true, ..Sources::default() }).unwrap().config;

    assert_eq!(config.keys.0, [(DEV_KEY.to_owned(), Secret::new(DEV_SECRET))]);
    assert!(!config.bind_addresses.is_empty() && config.bind_addresses.iter().all(IpAddr::is_loopback));
    assert_eq!(config.udp_ports(), PortRange { first: 7882, last: 7882 });
}

#[test]
fn development_listens_beyond_loopback_only_when_told() {
    let bound = |yaml: &str| {
        let flags = Flags { dev: true, ..Flags::default() };
        let sources = Sources { yaml: Some(yaml.into()), flags, strict: true, ..Sources::default() };
        load(sources).unwrap().config.bind_addresses
    };

    assert!(bound("keys: {k: s}").iter().all(IpAddr::is_loopback));
    assert_eq!(bound("{keys: {k: s}, bind_addresses: [0.0.0.0]}"), [IpAddr::from([0, 0, 0, 0])]);
    assert!(bound("{keys: {k: s}, sfu: {mode: only}}").is_empty());
}

#[test]
fn a_malformed_key_list_does_not_show_itself() {
    let flags = Flags { keys: Some("devkey:hunter2".into()), ..Flags::default() };
    let error = load(Sources { flags, strict: true, ..Sources::default() }).unwrap_err();

    assert!(!format!("{error:#}").contains("hunter2"));
}

#[test]
fn an_unknown_codec_is_refused() {
    assert!(error_of("room: {enabled_codecs: [{mime: video/theora}]}").contains("video/theora"));
}

/// Every key of the sample configuration of livekit-server 1.13.5, with values that are not those that switch it off,
/// and what becomes of it here.
const SAMPLE: &[(&str, &str, Fate)] = {
    use Fate::{Refused, WithoutEffect, Works};
    &[
        ("port", "7880", Works),
        ("redis.address", "redis.example:6379", Refused),
        ("rtc.port_range_start", "50000", Works),
        ("rtc.port_range_end", "60000", Works),
        ("rtc.tcp_port", "7881", Works),
        ("rtc.use_external_ip", "true", Refused),
        ("rtc.advertise_internal_ip", "true", WithoutEffect),
        ("rtc.skip_external_ip_validation", "true", WithoutEffect),
        ("rtc.node_ip", "203.0.113.9", Works),
        ("rtc.udp_port", "7882-7892", Works),
        ("rtc.use_ice_lite", "true", WithoutEffect),
        ("rtc.stun_servers", "[stun.example:3478]", Works),
        ("rtc.turn_servers", "[{host: turn.example, port: 443, protocol: tls, secret: s}]", Refused),
        ("rtc.congestion_control", "{enabled: true, allow_pause: true}", WithoutEffect),
        ("rtc.allow_tcp_fallback", "true", WithoutEffect),
        ("rtc.tcp_fallback_rtt_threshold", "200", WithoutEffect),
        ("rtc.allow_udp_unstable_fallback", "true", WithoutEffect),
        ("rtc.packet_buffer_size_video", "500", WithoutEffect),
        ("rtc.packet_buffer_size_audio", "200", WithoutEffect),
        ("rtc.pli_throttle", "{low_quality: 500ms, mid_quality: 1s, high_quality: 1s}", WithoutEffect),
        ("rtc.enable_loopback_candidate", "true", WithoutEffect),
        ("rtc.interfaces", "{includes: [en0], excludes: [docker0]}", Refused),
        ("rtc.ips", "{includes: [10.0.0.0/16], excludes: [192.168.1.0/24]}", Refused),
        ("rtc.use_mdns", "true", WithoutEffect),
        ("rtc.strict_acks", "true", WithoutEffect),
        ("rtc.batch_io", "{batch_size: 128, max_flush_interval: 2ms}", WithoutEffect),
        ("rtc.data_channel_max_buffered_amount", "1000", WithoutEffect),
        ("rtc.datachannel_data_track_target_latency", "100ms", WithoutEffect),
        ("prometheus_port", "6789", Works),
        ("debug_handler_port.port", "7070", WithoutEffect),
        ("keys", "{key1: secret1, key2: secret2}", Works),
        ("logging.level", "info", Works),
        ("logging.pion_level", "error", WithoutEffect),
        ("logging.json", "true", Works),
        ("logging.sample", "true", WithoutEffect),
        ("room.auto_create", "false", Works),
        ("room.empty_timeout", "300", Works),
        ("room.departure_timeout", "20", Works),
        ("room.max_participants", "100", Works),
        ("room.enabled_codecs", "[{mime: audio/opus}, {mime: video/vp8}]", Works),
        ("room.enable_remote_unmute", "true", Works),
        ("room.playout_delay", "{enabled: true, min: 100, max: 2000}", Refused),
        ("room.sync_streams", "true", WithoutEffect),
        ("webhook.api_key", "key1", Works),
        ("webhook.urls", "['https://backend.example/hook']", Works),
        ("signal_relay", "{retry_timeout: 30s, min_retry_interval: 500ms, stream_buffer_size: 1000}", WithoutEffect),
        ("psrpc", "{max_attempts: 3, timeout: 500ms, backoff: 500ms, buffer_size: 1000}", WithoutEffect),
        ("audio.active_level", "30", Works),
        ("audio.min_percentile", "40", Works),
        ("audio.update_interval", "500", Works),
        ("audio.smooth_intervals", "4", Works),
        ("audio.active_red_encoding", "true", WithoutEffect),
        ("turn.enabled", "true", Refused),
        ("ingress", "{rtmp_base_url: 'rtmp://live.example/live', whip_base_url: 'http://live.example/whip'}", Refused),
        ("region", "us-west-2", Works),
        ("node_selector", "{kind: sysload, sort_by: sysload, algorithm: lowest, sysload_limit: 0.7}", WithoutEffect),
        ("limit.num_tracks", "400", Works),
        ("limit.bytes_per_sec", "1000000000", WithoutEffect),
        ("limit.subscription_limit_video", "9", Refused),
        ("limit.subscription_limit_audio", "9", Refused),
        ("limit.max_metadata_size", "1000", Works),
        ("limit.max_attributes_size", "1000", Works),
        ("limit.max_room_name_length", "100", Works),
        ("limit.max_participant_identity_length", "100", Refused),
        ("limit.signal_message_size_limit", "1048576", Works),
        ("limit.agent_signal_message_size_limit", "2097152", WithoutEffect),
        ("limit.max_api_request_body_size", "1048576", Works),
    ]
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    WithoutEffect,
    Refused,
}

/// The sample with the keys of these fates.
fn sample(fates: &[Fate]) -> String {
    let mut tree = serde_yaml_ng::Mapping::new();
    for (path, value, _) in SAMPLE.iter().filter(|(.., fate)| fates.contains(fate)) {
        super::tree::set(&mut tree, path, serde_yaml_ng::from_str(value).unwrap());
    }
    serde_yaml_ng::to_string(&tree).unwrap()
}

#[test]
fn the_whole_sample_of_livekit_is_judged_at_once() {
    let error = error_of(&sample(&[Fate::Works, Fate::WithoutEffect, Fate::Refused]));

    for (path, _, fate) in SAMPLE {
        // A section of which no key is here is named as a whole.
        let section = path.split('.').next().unwrap();
        let named = error.lines().any(|line| {
            let key = line.trim_start().split(' ').next().unwrap();
            key == *path || key == section
        });
        assert_eq!(named, *fate == Fate::Refused, "{path}:\n{error}");
    }
    assert!(error.contains("--disable-strict-config"), "{error}");
}

#[test]
fn the_sample_of_livekit_starts_without_what_is_refused() {
    let loaded = load_yaml(&sample(&[Fate::Works, Fate::WithoutEffect])).unwrap();

    for (path, _, fate) in SAMPLE {
        let section = path.split('.').next().unwrap();
        let named = loaded.warnings.iter().any(|warning| {
            let key = warning.split(' ').next().unwrap();
            (key == *path || key == section) && warning.contains(" has no effect: ")
        });
        assert_eq!(named, *fate == Fate::WithoutEffect, "{path}: {:#?}", loaded.warnings);
    }
    let config = loaded.config;
    assert_eq!(config.limit.signal_message_size_limit, 1 << 20);
    assert_eq!(config.rtc.udp_port, PortRange { first: 7882, last: 7892 });
    assert_eq!(config.codecs().unwrap(), ["audio/opus", "video/VP8"]);
}

#[test]
fn without_strictness_the_whole_sample_starts() {
    let yaml = Some(sample(&[Fate::Works, Fate::WithoutEffect, Fate::Refused]));
    let loaded = load(Sources { yaml, strict: false, ..Sources::default() }).unwrap();

    assert!(loaded.warnings.iter().any(|warning| warning.starts_with("redis is not supported")));
    assert_eq!(loaded.config.room.max_participants, 100);
}

#[test]
fn all_mistakes_are_named_at_once() {
    let error = error_of("{prot: 1, rtc: {tcp_port: many, udp_port: 9-8}, turn: {enabled: true}, port: x}");

    for part in ["unknown key prot", "rtc.tcp_port: ", "rtc.udp_port: ", "turn is not supported", "\n  port: "] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let error = error_of("{sfu: {mode: external}, chat: {guest: write}, webhook: {urls: ['http://x']}}");
    for part in ["LIVEKIT_URL", "chat.guest", "webhook.api_key"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

#[test]
fn an_empty_address_means_all() {
    let bound = |yaml: &str| load_yaml(yaml).unwrap().config.bind_addresses;

    assert_eq!(bound("bind_addresses: ['']"), [IpAddr::from([0_u16; 8])]);
    assert_eq!(bound("bind_addresses: ['127.0.0.1', '::1']").len(), 2);
    assert!(bound("bind_addresses:").is_empty() && bound("bind_addresses: []").is_empty());
    assert!(error_of("bind_addresses: [nowhere]").starts_with("bind_addresses: \"nowhere\" is not an IP address"));
}

#[test]
fn old_places_of_limits_are_read() {
    let limit = load_yaml("room: {max_metadata_size: 10, max_room_name_length: 20}").unwrap().config.limit;

    assert_eq!((limit.max_metadata_size, limit.max_room_name_length), (10, 20));
    assert!(load_yaml("room: {max_participant_identity_length: 256}").is_ok());
    assert!(error_of("room: {max_participant_identity_length: 9}").contains("limit.max_participant_identity_length"));
}

#[test]
fn an_old_place_in_a_weaker_source_does_not_win() {
    let limit = |environment: &[(&str, &str)], overrides: &[(&str, &str)]| {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        let yaml = Some("room: {max_metadata_size: 10}".to_owned());
        let sources =
            Sources { yaml, environment: pairs(environment), overrides: pairs(overrides), ..Sources::default() };
        load(sources).unwrap().config.limit.max_metadata_size
    };
    let (old, new) = (("LIVEKIT_ROOM_MAX_METADATA_SIZE", "20"), ("LIVEKIT_LIMIT_MAX_METADATA_SIZE", "30"));

    assert_eq!(limit(&[], &[]), 10);
    assert_eq!(limit(&[old], &[]), 20);
    assert_eq!(limit(&[new], &[]), 30);
    assert_eq!(limit(&[old], &[("limit.max_metadata_size", "40")]), 40);
}

#[test]
fn what_is_to_be_off_and_is_not_off_here_is_told() {
    let warnings = load_yaml("rtc: {allow_tcp_fallback: false}").unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("rtc.allow_tcp_fallback has no effect")), "{warnings:?}");
    for yaml in ["limit: {max_participant_identity_length: 0}", "limit: {max_participant_identity_length: -1}"] {
        assert!(error_of(yaml).contains("limit.max_participant_identity_length is not supported: it is 256 here"));
    }
    assert!(load_yaml("{limit: {max_participant_identity_length: }, rtc: {allow_tcp_fallback: }}").is_ok());
}

#[test]
fn a_number_out_of_range_is_told_the_range() {
    let error = error_of("port: 99999");
    assert!(error.contains("port: ") && error.contains("`99999`, expected a number from 0 to 65535"), "{error}");
}

#[test]
fn secrets_may_be_digits_and_are_in_no_error() {
    for yaml in ["prometheus: {password: 1234567}", "auth: {jwt_secret: 12345678901234567}", "keys: {1: 2}"] {
        let told = load_yaml(yaml).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!told.contains("invalid type") && !told.contains("text"), "{yaml}: {told}");
    }
    for yaml in [
        "prometheus: {password: [1234567]}",
        "auth: {jwt_secret: {a: 1234567}}",
        "auth: {jwt_secret: 1234567.5}",
        "sfu: {api_secret: 1234567e9}",
        "store: {mongodb_uri: [1234567]}",
        "keys: 'devkey:1234567'",
        "keys: [1234567]",
        "keys: {devkey: [1234567]}",
    ] {
        let error = error_of(yaml);
        assert!(!error.contains("1234567"), "{error}");
    }
}

#[test]
fn variables_of_the_media_servers_key_are_of_no_section() {
    let secret = ("LIVEKIT_API_SECRET", "the-media-server-signs-with-this-0123456789");
    let warnings = with_environment(&[("LIVEKIT_API_KEY", "key"), secret]).unwrap().warnings;

    assert!(warnings.is_empty(), "{warnings:?}");
}

fn with_environment(environment: &[(&str, &str)]) -> anyhow::Result<Loaded> {
    let environment = environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    load(Sources { environment, strict: true, ..Sources::default() })
}

#[test]
fn variables_and_flags_are_read_as_their_key_wants() {
    let config = with_environment(&[
        ("LIVEKIT_STORE_PATH", "4711"),
        ("LIVEKIT_LOGGING_JSON", "1"),
        ("LIVEKIT_ROOM_AUTO_CREATE", "no"),
        ("LIVEKIT_LOG_LEVEL", "debug"),
        ("LIVEKIT_BIND_ADDRESSES", "127.0.0.1, ::1"),
        ("LIVEKIT_HTTP_CORS_ORIGINS", "https://a.example,https://b.example"),
        ("LIVEKIT_RTC_UDP_PORT", ""),
    ])
    .unwrap()
    .config;

    assert_eq!(config.store.path, "4711");
    assert!(config.logging.json && !config.room.auto_create);
    assert_eq!(config.log_level(), Level::Debug);
    assert_eq!(config.bind_addresses.len(), 2);
    assert_eq!(config.http.cors_origins, ["https://a.example", "https://b.example"]);
    assert!(!config.rtc.udp_port.is_set());
    let overrides = vec![("region".to_owned(), "7".to_owned()), ("rtc.tcp_port".to_owned(), "7".to_owned())];
    let config = load(Sources { overrides, strict: true, ..Sources::default() }).unwrap().config;
    assert_eq!((config.region.as_str(), config.rtc.tcp_port), ("7", 7));
}

#[test]
fn a_variable_that_nobody_reads_is_named() {
    let warnings =
        with_environment(&[("LIVEKIT_RTC_UDP_PROT", "1"), ("LIVEKIT_FOO", "1"), ("HOME", "/")]).unwrap().warnings;

    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("LIVEKIT_RTC_UDP_PROT") && warnings[0].contains("did you mean LIVEKIT_RTC_UDP_PORT?"));
    assert!(warnings[1].contains("LIVEKIT_FOO") && !warnings[1].contains("did you mean"));
}

#[test]
fn a_variable_of_livekits_is_judged_as_its_key() {
    let error = with_environment(&[("LIVEKIT_TURN_ENABLED", "true"), ("REDIS_HOST", "r:6379")]).unwrap_err();
    assert!(
        error.to_string().contains("turn is not supported") && error.to_string().contains("redis is not supported")
    );
    let loaded = with_environment(&[("LIVEKIT_PSRPC_TIMEOUT", "1s"), ("LIVEKIT_TURN_ENABLED", "false")]).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
}
