use std::net::IpAddr;

use serde_yaml_ng::Value;
use signaling::token::Secret;

use super::load::parse_tree;
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
    assert!(error_of("redis: {address: 'localhost:6379'}").starts_with("redis is not supported yet"));
    assert!(error_of("turn: {enabled: true}").starts_with("turn is not supported yet"));
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
