//! Configuration: defaults < file < environment < flags. Key names are LiveKit's where LiveKit has the feature.
//!
//! The tree of the default [`Config`] is the list of known keys, so a key cannot be forgotten here or in
//! `config/onair.yaml`, which documents each. Unknown keys are errors, unless the operator says otherwise.

mod audio;
mod livekit;
pub mod product;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_yaml_ng::{Mapping, Value};
use signaling::token::Secret;

use crate::webhook_sender::Webhook;
pub use audio::Audio;
use livekit::Standing;

/// API key of `--dev`. Public.
pub const DEV_KEY: &str = "devkey";
/// Its secret. Public.
pub const DEV_SECRET: &str = "secret";
/// UDP port of `--dev`.
const DEV_UDP_PORT: u16 = 7882;

/// Everything that an operator may set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub port: u16,
    pub bind_addresses: Vec<IpAddr>,
    pub keys: KeyPairs,
    pub key_file: String,
    pub region: String,
    pub development: bool,
    /// Seconds.
    pub drain_timeout: u64,
    pub log_level: Option<Level>,
    pub logging: Logging,
    pub prometheus_port: u16,
    pub prometheus: Prometheus,
    pub rtc: Rtc,
    pub audio: Audio,
    pub room: Room,
    pub limit: Limit,
    pub webhook: Webhook,
    pub live: product::Live,
    pub chat: product::Chat,
    pub auth: product::Auth,
    pub http: product::Http,
    pub store: product::Store,
    pub sfu: product::Sfu,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub level: Level,
    pub json: bool,
    /// Whether addresses of clients are written.
    pub addresses: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prometheus {
    pub port: u16,
    pub username: String,
    pub password: Hidden,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rtc {
    pub udp_port: PortRange,
    pub port_range_start: u16,
    pub port_range_end: u16,
    pub tcp_port: u16,
    pub node_ip: Addresses,
    pub stun_servers: Vec<String>,
    pub workers: usize,
    /// Bits a second; 0 means none.
    pub datachannel_slow_threshold: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    pub auto_create: bool,
    pub enabled_codecs: Vec<EnabledCodec>,
    pub max_participants: u32,
    /// In a room of more participants, newcomers are told to those only who publish or administer; 0 means never.
    pub audience_threshold: u32,
    /// Seconds.
    pub empty_timeout: u32,
    /// Seconds.
    pub departure_timeout: u32,
    pub enable_remote_unmute: bool,
    /// By name, as protobuf's JSON has them.
    pub room_configurations: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnabledCodec {
    pub mime: String,
    /// Accepted for LiveKit's sake.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fmtp_line: String,
}

/// Sizes in bytes; 0 means unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    pub max_metadata_size: usize,
    pub max_attributes_size: usize,
    pub max_participant_name_length: usize,
    pub max_room_name_length: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 7880,
            bind_addresses: Vec::new(),
            keys: KeyPairs::default(),
            key_file: String::new(),
            region: String::new(),
            development: false,
            drain_timeout: 10,
            log_level: None,
            logging: Logging::default(),
            prometheus_port: 0,
            prometheus: Prometheus::default(),
            rtc: Rtc::default(),
            audio: Audio::default(),
            room: Room::default(),
            limit: Limit::default(),
            webhook: Webhook::default(),
            live: product::Live::default(),
            chat: product::Chat::default(),
            auth: product::Auth::default(),
            http: product::Http::default(),
            store: product::Store::default(),
            sfu: product::Sfu::default(),
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: Level::Info, json: false, addresses: true }
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self {
            udp_port: PortRange::default(),
            port_range_start: 50_000,
            port_range_end: 60_000,
            tcp_port: 7881,
            node_ip: Addresses::default(),
            stun_servers: Vec::new(),
            workers: 0,
            datachannel_slow_threshold: 0,
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        let codec = |mime: &&str| EnabledCodec { mime: (*mime).to_owned(), fmtp_line: String::new() };
        Self {
            auto_create: true,
            enabled_codecs: signaling::rooms::DEFAULT_CODECS.iter().map(codec).collect(),
            max_participants: 0,
            audience_threshold: 50,
            empty_timeout: 300,
            departure_timeout: 20,
            enable_remote_unmute: false,
            room_configurations: BTreeMap::new(),
        }
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            max_metadata_size: 512 << 10,
            max_attributes_size: 64 << 10,
            max_participant_name_length: 256,
            max_room_name_length: 256,
        }
    }
}

impl Config {
    pub fn log_level(&self) -> Level {
        self.log_level.unwrap_or(self.logging.level)
    }

    /// 0: none.
    pub fn prometheus_port(&self) -> u16 {
        if self.prometheus.port != 0 { self.prometheus.port } else { self.prometheus_port }
    }

    /// UDP ports of the workers: `rtc.udp_port` if set, else the range.
    pub fn udp_ports(&self) -> PortRange {
        if self.rtc.udp_port.is_set() {
            return self.rtc.udp_port;
        }
        PortRange { first: self.rtc.port_range_start, last: self.rtc.port_range_end }
    }

    /// MIME types in order, as we spell them. Retransmissions come with their codecs and are not listed.
    ///
    /// # Errors
    /// A codec that this server does not know.
    pub fn codecs(&self) -> anyhow::Result<Vec<String>> {
        let mut codecs = Vec::new();
        for EnabledCodec { mime, .. } in &self.room.enabled_codecs {
            if mime.eq_ignore_ascii_case("video/rtx") {
                continue;
            }
            let known = signaling::rooms::DEFAULT_CODECS.iter().find(|known| known.eq_ignore_ascii_case(mime));
            let Some(known) = known else {
                let list = signaling::rooms::DEFAULT_CODECS.join(", ");
                bail!("room.enabled_codecs: unknown codec {mime:?}; known are {list}");
            };
            codecs.push((*known).to_owned());
        }
        Ok(codecs)
    }

    /// The secret of an API key.
    pub fn secret(&self, key: &str) -> Option<&Secret> {
        self.keys.0.iter().find(|(name, _)| name == key).map(|(_, secret)| secret)
    }

    fn check(&self) -> anyhow::Result<()> {
        let PortRange { first, last } = self.udp_ports();
        if first > last || first == 0 {
            bail!(
                "the UDP port range {first}-{last} is empty: set rtc.udp_port, or rtc.port_range_start ≤ rtc.port_range_end"
            );
        }
        if self.prometheus.username.is_empty() != self.prometheus.password.0.is_empty() {
            bail!("prometheus.username and prometheus.password belong together: set both or none");
        }
        if !self.webhook.urls.is_empty() && self.secret(&self.webhook.api_key).is_none() {
            bail!("webhook.urls need webhook.api_key, which must be one of keys: it signs the events");
        }
        self.audio.check()?;
        self.codecs()?;
        product::check(self)
    }
}

/// API keys and their secrets, in the file's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeyPairs(pub Vec<(String, Secret)>);

impl Serialize for KeyPairs {
    /// Names only: secrets do not leave.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, _)| (name, "…")))
    }
}

impl<'de> Deserialize<'de> for KeyPairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = KeyPairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of API keys to secrets, such as `name: secret`")
            }

            fn visit_unit<E>(self) -> Result<KeyPairs, E> {
                Ok(KeyPairs::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyPairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, secret)) = map.next_entry::<Value, Value>()? {
                    match (scalar_text(&name), scalar_text(&secret)) {
                        (Some(name), Some(secret)) => pairs.push((name, Secret::new(&secret))),
                        _ => return Err(A::Error::custom("an API key and its secret must be text")),
                    }
                }
                Ok(KeyPairs(pairs))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

/// Keys and secrets made of digits alone are text too.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

/// Text that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Hidden()" } else { "Hidden(…)" })
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "…" })
    }
}

/// A port, or `first-last`. 0 means unset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    fn is_set(self) -> bool {
        self.last != 0
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is neither a port nor a range such as 7882-7892")),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        scalar_text(&value)
            .ok_or("expected a port or a range".to_owned())
            .and_then(|text| text.parse())
            .map_err(D::Error::custom)
    }
}

/// Addresses as LiveKit writes them: one, or two with a comma between. Empty: find them out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<IpAddr>);

impl std::str::FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parse = |part: &str| part.parse().map_err(|_| format!("{part:?} is not an IP address"));
        Ok(Self(parts.map(parse).collect::<Result<_, String>>()?))
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = self.0.iter().map(IpAddr::to_string).collect();
        serializer.serialize_str(&texts.join(","))
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.unwrap_or_default().parse().map_err(D::Error::custom)
    }
}

/// Where a configuration comes from, weakest first.
#[derive(Default)]
pub struct Sources {
    /// Text of the file, or of `--config-body`.
    pub yaml: Option<String>,
    /// Environment variables: `LIVEKIT_` and the key in capitals.
    pub environment: Vec<(String, String)>,
    /// `--rtc.tcp_port 0` and the like, as path and value.
    pub overrides: Vec<(String, String)>,
    pub flags: Flags,
    /// Unknown keys are errors.
    pub strict: bool,
}

/// Settings that have a flag with a name of its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flags {
    pub dev: bool,
    /// YAML, `name: secret`.
    pub keys: Option<String>,
    pub key_file: Option<String>,
    pub bind: Vec<IpAddr>,
    pub node_ip: Option<Addresses>,
    pub udp_port: Option<PortRange>,
    pub region: Option<String>,
}

/// A configuration and what the operator should hear about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
}

/// Reads and checks a configuration.
///
/// # Errors
/// Says which key is wrong and what to do.
pub fn load(sources: Sources) -> anyhow::Result<Loaded> {
    let mut tree = parse_tree(sources.yaml.as_deref().unwrap_or_default())?;
    let known = KnownKeys::new();
    for (path, text) in known.environment_overrides(&sources.environment) {
        set(&mut tree, &path, value_of(&text));
    }
    for (path, value) in product::environment_overrides(&sources.environment) {
        set(&mut tree, path, value);
    }
    for (path, text) in &sources.overrides {
        set(&mut tree, path, value_of(text));
    }
    let mut warnings = Vec::new();
    known.check(&mut tree, sources.strict, &mut warnings)?;
    let mut config = read_tree(tree)?;
    apply_flags(&mut config, sources.flags)?;
    let file_given = sources.yaml.is_some();
    read_key_file(&mut config)?;
    apply_development(&mut config, file_given);
    product::adopt_key(&mut config);
    config.check()?;
    Ok(Loaded { config, warnings })
}

fn parse_tree(yaml: &str) -> anyhow::Result<Mapping> {
    match serde_yaml_ng::from_str(yaml).context("the configuration is not YAML")? {
        Value::Mapping(tree) => Ok(tree),
        Value::Null => Ok(Mapping::new()),
        _ => bail!("the configuration must be a map of keys to values"),
    }
}

/// The parser does not say which value it refused. So on an error each is read alone.
fn read_tree(tree: Mapping) -> anyhow::Result<Config> {
    let error = match serde_yaml_ng::from_value(Value::Mapping(tree.clone())) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    for (path, value) in leaves("", &tree) {
        let mut alone = Mapping::new();
        set(&mut alone, &path, value);
        if let Err(error) = serde_yaml_ng::from_value::<Config>(Value::Mapping(alone)) {
            bail!("{path}: {error}");
        }
    }
    Err(error).context("the configuration is not valid")
}

fn leaves(prefix: &str, tree: &Mapping) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in tree {
        let path = joined(prefix, key.as_str().unwrap_or_default());
        match value {
            Value::Mapping(below) if !OPEN_MAPS.contains(&path.as_str()) => found.extend(leaves(&path, below)),
            _ => found.push((path, value.clone())),
        }
    }
    found
}

fn apply_flags(config: &mut Config, flags: Flags) -> anyhow::Result<()> {
    config.development |= flags.dev;
    if let Some(yaml) = flags.keys {
        // The error of the parser could quote a secret.
        config.keys = serde_yaml_ng::from_str(&yaml)
            .map_err(|_| anyhow::anyhow!("--keys (LIVEKIT_KEYS) must be YAML like \"name: secret\", with the space"))?;
    }
    if let Some(path) = flags.key_file {
        config.key_file = path;
    }
    if !flags.bind.is_empty() {
        config.bind_addresses = flags.bind;
    }
    if let Some(addresses) = flags.node_ip {
        config.rtc.node_ip = addresses;
    }
    if let Some(ports) = flags.udp_port {
        config.rtc.udp_port = ports;
    }
    if let Some(region) = flags.region {
        config.region = region;
    }
    Ok(())
}

/// The key file wins over the keys given elsewhere.
fn read_key_file(config: &mut Config) -> anyhow::Result<()> {
    if config.key_file.is_empty() {
        return Ok(());
    }
    let path = Path::new(&config.key_file);
    refuse_open_file(path)?;
    let yaml = std::fs::read_to_string(path).with_context(|| format!("cannot read the key file {}", path.display()))?;
    config.keys = serde_yaml_ng::from_str(&yaml)
        .map_err(|_| anyhow::anyhow!("the key file {} must be YAML like \"name: secret\"", path.display()))?;
    Ok(())
}

#[cfg(unix)]
fn refuse_open_file(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read the key file {}", path.display()))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        bail!("the key file {0} is open to other users: chmod o-rwx {0}", path.display());
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_open_file(_path: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// What `--dev` adds where the operator said nothing: public keys, loopback, one UDP port.
fn apply_development(config: &mut Config, file_given: bool) {
    if !config.development {
        return;
    }
    if config.keys.0.is_empty() {
        let product::Sfu { mode, api_key, .. } = &config.sfu;
        // An app that brings a key of this name brings its secret too.
        if *mode != product::SfuMode::Builtin || api_key != DEV_KEY {
            config.keys = KeyPairs(vec![(DEV_KEY.to_owned(), Secret::new(DEV_SECRET))]);
        }
        listen_on_loopback(config);
    }
    // Anybody who reaches it can make tokens for any user.
    if config.sfu.mode != product::SfuMode::Only {
        listen_on_loopback(config);
    }
    if !file_given && !config.rtc.udp_port.is_set() {
        config.rtc.udp_port = PortRange { first: DEV_UDP_PORT, last: DEV_UDP_PORT };
    }
    if !file_given {
        config.logging.level = Level::Debug;
    }
}

/// Unless the operator says where.
fn listen_on_loopback(config: &mut Config) {
    if config.bind_addresses.is_empty() {
        config.bind_addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
}

/// What the text of a variable or a flag means in YAML.
fn value_of(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn set(tree: &mut Mapping, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            tree.insert(Value::from(path), value);
        }
        Some((section, rest)) => {
            let below = tree.entry(Value::from(section)).or_insert_with(|| Value::Mapping(Mapping::new()));
            if !below.is_mapping() {
                *below = Value::Mapping(Mapping::new());
            }
            if let Value::Mapping(below) = below {
                set(below, rest, value);
            }
        }
    }
}

/// Maps whose keys are the operator's.
const OPEN_MAPS: [&str; 2] = ["keys", "room.room_configurations"];

/// The keys that a [`Config`] has.
struct KnownKeys {
    values: BTreeSet<String>,
    sections: BTreeSet<String>,
}

impl KnownKeys {
    fn new() -> Self {
        let mut known = Self { values: BTreeSet::new(), sections: BTreeSet::new() };
        let tree = serde_yaml_ng::to_value(Config::default()).expect("the defaults are plain data");
        if let Value::Mapping(tree) = tree {
            known.add("", &tree);
        }
        known
    }

    fn add(&mut self, prefix: &str, tree: &Mapping) {
        for (key, value) in tree {
            let path = joined(prefix, key.as_str().unwrap_or_default());
            match value {
                Value::Mapping(below) if !OPEN_MAPS.contains(&path.as_str()) => {
                    self.sections.insert(path.clone());
                    self.add(&path, below);
                }
                _ => {
                    self.values.insert(path);
                }
            }
        }
    }

    /// Known keys that the environment sets. Maps have variables of their own, or none.
    fn environment_overrides(&self, environment: &[(String, String)]) -> Vec<(String, String)> {
        let by_name: BTreeMap<String, &String> = self
            .values
            .iter()
            .filter(|path| !OPEN_MAPS.contains(&path.as_str()))
            .map(|path| (format!("LIVEKIT_{}", path.replace('.', "_").to_ascii_uppercase()), path))
            .collect();
        environment
            .iter()
            .filter_map(|(name, text)| by_name.get(name).map(|path| ((*path).clone(), text.clone())))
            .collect()
    }

    /// Takes out what Onair does not know; complains as the key's standing demands.
    fn check(&self, tree: &mut Mapping, strict: bool, warnings: &mut Vec<String>) -> anyhow::Result<()> {
        self.check_section("", tree, strict, warnings)
    }

    fn check_section(
        &self,
        prefix: &str,
        tree: &mut Mapping,
        strict: bool,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let mut unknown = Vec::new();
        for (key, value) in tree.iter_mut() {
            let Some(name) = scalar_text(key) else {
                bail!("keys must be text, but {prefix:?} has one that is not");
            };
            let path = joined(prefix, &name);
            if self.values.contains(&path) {
                continue;
            }
            match value {
                Value::Mapping(below) if self.sections.contains(&path) => {
                    self.check_section(&path, below, strict, warnings)?;
                }
                // `rtc:` with nothing below it.
                Value::Null if self.sections.contains(&path) => unknown.push(key.clone()),
                _ if self.sections.contains(&path) => bail!("{path} has keys below it, not a value"),
                _ => {
                    self.complain(&path, value, strict, warnings)?;
                    unknown.push(key.clone());
                }
            }
        }
        for key in unknown {
            tree.remove(&key);
        }
        Ok(())
    }

    fn complain(&self, path: &str, value: &Value, strict: bool, warnings: &mut Vec<String>) -> anyhow::Result<()> {
        match livekit::standing(path) {
            Some(_) if is_off(value) => {}
            Some(Standing::Ignored) => warnings.push(format!("{path} has no effect: this server works without it")),
            Some(Standing::Unsupported) if strict => {
                bail!(
                    "{path} is not supported yet: take it out, or start with --disable-strict-config to go on without it"
                )
            }
            Some(Standing::Unsupported) => warnings.push(format!("{path} is not supported yet and has no effect")),
            None if strict => bail!("unknown key {path}{}", self.hint(path)),
            None => warnings.push(format!("unknown key {path}{}", self.hint(path))),
        }
        Ok(())
    }

    fn hint(&self, path: &str) -> String {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        let near = |known: &&String| edits(path, known).min(edits(&last(path), &last(known)) + 1);
        let nearest = self.values.iter().chain(&self.sections).min_by_key(near);
        match nearest {
            Some(known) if near(&known) <= 3 => format!(": did you mean {known}?"),
            Some(_) | None => ": config/onair.yaml lists all keys".to_owned(),
        }
    }
}

/// Whether a feature is switched off by this value, so that not having it changes nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(below) => below.get("enabled") == Some(&Value::Bool(false)) || below.values().all(is_off),
        Value::Bool(true) | Value::Tagged(_) => false,
    }
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let here = (left + 1).min(above + 1).min(diagonal + usize::from(x != y));
            diagonal = above;
            left = here;
            *cell = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_yaml(yaml: &str) -> anyhow::Result<Loaded> {
        load(Sources { yaml: Some(yaml.to_owned()), strict: true, ..Sources::default() })
    }

    fn error_of(yaml: &str) -> String {
        format!("{:#}", load_yaml(yaml).unwrap_err())
    }

    #[test]
    fn the_documented_file_holds_every_key_with_its_default() {
        let documented = parse_tree(include_str!("../../config/onair.yaml")).unwrap();
        let Value::Mapping(defaults) = serde_yaml_ng::to_value(Config::default()).unwrap() else { panic!("not a map") };

        assert_eq!(documented, defaults);
        assert_eq!(load_yaml(include_str!("../../config/onair.yaml")).unwrap().config, Config::default());
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
        let loaded =
            load_yaml("{redis: {}, turn: {enabled: false, domain: x}, rtc: {use_external_ip: false}}").unwrap();

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
}
