//! Settings of the live-streaming product: streams, chat, users, store, and where rooms are.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};
use signaling::token::Secret;

use super::remarks::Remarks;
use super::tree::set;
use super::values::truth;
use super::{Config, Hidden};
use crate::auth::secret::check_secret;
use crate::chat::words::is_one_emoji;
use crate::http::client::Proxies;
use crate::http::origins::Origins;

/// Environment variables with names of their own, and the keys that they set. All are text, whatever they look like,
/// but the feature flag.
const VARIABLES: [(&str, &str); 8] = [
    ("LIVEKIT_URL", "sfu.url"),
    ("LIVEKIT_API_KEY", "sfu.api_key"),
    ("LIVEKIT_API_SECRET", "sfu.api_secret"),
    ("MONGODB_URI", "store.mongodb_uri"),
    ("JWT_SECRET", "auth.jwt_secret"),
    ("JWT_JWKS_URL", "auth.jwks_url"),
    ("JWT_ISSUER", "auth.issuer"),
    ("JWT_AUDIENCE", "auth.audience"),
];

/// On, unless it says no.
const FEATURE_FLAG: &str = "FEATURE_GO_LIVE";

/// Sets what the environment sets under names of the product's. A variable that is empty counts as not set.
pub(super) fn read_environment(environment: &[(String, String)], tree: &mut Mapping, remarks: &mut Remarks) {
    for (name, text) in environment.iter().filter(|(_, text)| !text.trim().is_empty()) {
        if name == FEATURE_FLAG {
            match truth(text) {
                Some(enabled) => set(tree, "live.enabled", Value::Bool(enabled)),
                None => remarks.refuse(format!("{FEATURE_FLAG} is {text:?}: write true or false")),
            }
        } else if let Some((_, path)) = VARIABLES.iter().find(|(variable, _)| variable == name) {
            set(tree, path, Value::String(text.clone()));
        }
    }
}

/// The key of the streams is a key of our own media server too.
pub(super) fn adopt_key(config: &mut Config) {
    let Sfu { mode, api_key, api_secret, .. } = &config.sfu;
    if *mode == SfuMode::Builtin && !api_key.is_empty() && !config.keys.0.iter().any(|(name, _)| name == api_key) {
        config.keys.0.push((api_key.clone(), Secret::new(&api_secret.0)));
    }
}

/// What does not go together.
pub(super) fn check(config: &Config, remarks: &mut Remarks) {
    let Config { chat, http, sfu, development, .. } = config;
    if let Err(error) = check_secret(&config.auth.jwt_secret.0, &config.secrets_of_rooms()) {
        remarks.refuse(error.to_string());
    }
    if sfu.api_key.is_empty() != sfu.api_secret.0.is_empty() {
        remarks.refuse(
            "sfu.api_key (LIVEKIT_API_KEY) and sfu.api_secret (LIVEKIT_API_SECRET) belong together: set both or none",
        );
    }
    let other = |(name, secret): &(String, Secret)| *name == sfu.api_key && *secret != Secret::new(&sfu.api_secret.0);
    if sfu.mode == SfuMode::Builtin && config.keys.0.iter().any(other) {
        remarks.refuse(format!(
            "sfu.api_key (LIVEKIT_API_KEY) {0:?} is one of keys, with another secret than sfu.api_secret \
             (LIVEKIT_API_SECRET): this server would refuse its own streams' tokens. Give {0:?} one secret",
            sfu.api_key
        ));
    }
    if let Some(host) = elsewhere(config) {
        remarks.refuse(format!(
            "sfu.url (LIVEKIT_URL) names {host}, but the media server is this process's own (sfu.mode builtin). To use \
             the server at {host}, set sfu.mode external; if {host} is a name of this one, set it as sfu.public_url \
             in place of sfu.url"
        ));
    }
    if sfu.mode == SfuMode::External && (sfu.url.is_empty() || sfu.api_key.is_empty()) {
        remarks.refuse(
            "sfu.mode external needs the other server: set sfu.url, sfu.api_key and sfu.api_secret (LIVEKIT_URL, \
             LIVEKIT_API_KEY, LIVEKIT_API_SECRET)",
        );
    }
    for (key, url) in [("sfu.url (LIVEKIT_URL)", &sfu.url), ("sfu.public_url", &sfu.public_url)] {
        if sfu.mode != SfuMode::Only && !url.is_empty() && !leads_to_a_server(url) {
            remarks.refuse(format!(
                "{key} is {url:?}, where apps would not get anywhere: write it like https://sfu.example"
            ));
        }
    }
    for (key, path) in [("auth.user_claim", &config.auth.user_claim), ("auth.role_claim", &config.auth.role_claim)] {
        let names_nothing = path.is_empty() && key == "auth.role_claim";
        if !names_nothing && path.split('.').any(|part| part.trim() != part || part.is_empty()) {
            remarks.refuse(format!(
                "{key} is {path:?}, which names no claim: write the name of one, such as sub, or the names on the way to \
                 it with a dot between them, such as user.id"
            ));
        }
    }
    for reaction in chat.reactions.iter().filter(|text| !is_one_emoji(text)) {
        remarks.refuse(format!(
            "chat.reactions has {reaction:?}, which is not one emoji, so that nobody could send it: take it out, or \
             write the emoji itself"
        ));
    }
    if let Err(error) = Origins::new(&http.cors_origins, *development) {
        remarks.refuse(error.to_string());
    }
    if let Err(error) = Proxies::new(&http.trusted_proxies) {
        remarks.refuse(error.to_string());
    }
    if !development && chat.guest == Some(GuestAccess::Write) {
        remarks.refuse("chat.guest may be write in development only: nobody could be moderated");
    }
}

/// The host of `sfu.url`, if that is another machine's although rooms are in this process. A name is taken for this
/// machine's if it is one of its addresses, loopback, or what `sfu.public_url` says.
fn elsewhere(config: &Config) -> Option<String> {
    let Sfu { mode, url, public_url, .. } = &config.sfu;
    if *mode != SfuMode::Builtin || url.is_empty() {
        return None;
    }
    let host_of = |url: &str| url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host = host_of(url)?;
    let is_name =
        host == "localhost" || host.ends_with(".localhost") || host_of(public_url).is_some_and(|ours| ours == host);
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| {
        let interfaces = sfu::io::interface_addresses().unwrap_or_default();
        let known = config.rtc.node_ip.0.iter().chain(&config.bind_addresses).chain(&interfaces);
        address.is_loopback() || address.is_unspecified() || known.into_iter().any(|ours| *ours == address)
    });
    (!is_name && !is_address).then_some(host)
}

/// Whether clients can connect to a URL, once it is a WebSocket's.
fn leads_to_a_server(url: &str) -> bool {
    let known = ["http://", "https://", "ws://", "wss://"].iter().any(|scheme| url.starts_with(scheme));
    known && url::Url::parse(url).is_ok_and(|url| url.query().is_none() && url.fragment().is_none())
}

/// Streams (stream API, sections 3, 4 and 11).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    /// `FEATURE_GO_LIVE`: off, no stream starts and none is listed; running ones go on.
    pub enabled: bool,
    /// Seconds that a stream may stay without its owner's first track.
    pub start_timeout: u32,
    /// Seconds that a stream waits for an owner who is gone.
    pub reconnect_window: u32,
    /// Seconds; 0 means unlimited.
    pub max_duration: u32,
    /// Viewers of a stream; 0 means unlimited.
    pub max_viewers: u32,
    /// Whether viewers may send data messages in the SFU, which go round the moderation of the chat.
    pub viewer_data: bool,
    /// New streams of a user within an hour; 0 means unlimited.
    pub starts_per_hour: u32,
    /// Seconds from the end of a stream to the owner's next.
    pub start_cooldown: u32,
    /// Seconds between two comparisons of a live stream with its room.
    pub reconcile_interval: u32,
}

impl Live {
    /// Between two comparisons of a live stream with its room.
    pub fn reconcile_interval(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.reconcile_interval.max(1).into())
    }
}

impl Default for Live {
    fn default() -> Self {
        Self {
            enabled: true,
            start_timeout: 60,
            reconnect_window: 60,
            max_duration: 12 * 3600,
            max_viewers: 0,
            viewer_data: true,
            starts_per_hour: 5,
            start_cooldown: 30,
            reconcile_interval: 30,
        }
    }
}

/// What somebody without a token may do in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestAccess {
    Off,
    Read,
    /// In development only: nobody could be moderated.
    Write,
}

/// Chat (stream API, section 8).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chat {
    /// Absent: `read`, in development `write`.
    pub guest: Option<GuestAccess>,
    /// Whether messages are kept: before they are sent, for newcomers and reviewers.
    pub persist: bool,
    /// Days that messages stay after the end of their stream.
    pub retention: u32,
    /// Emoji that may be sent; empty means any.
    pub reactions: Vec<String>,
    /// Sockets of this process.
    pub max_connections: u32,
    /// Sockets of one address; 0 means unlimited.
    pub max_connections_per_ip: u32,
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            guest: None,
            persist: true,
            retention: 7,
            reactions: Vec::new(),
            max_connections: 50_000,
            max_connections_per_ip: 200,
        }
    }
}

/// Who users are: tokens of the app's identity service (stream API, section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// `JWT_SECRET`: of HS256 tokens, at least 32 bytes. Empty: none are accepted.
    pub jwt_secret: Hidden,
    /// `JWT_JWKS_URL`: of the keys of RS256, ES256 and EdDSA tokens. Empty: none are accepted.
    pub jwks_url: String,
    /// `JWT_ISSUER`: `iss` must be this. Empty: any.
    pub issuer: String,
    /// `JWT_AUDIENCE`: `aud` must contain this. Empty: any.
    pub audience: String,
    /// Where the user's id stands in a token, parts separated by dots.
    pub user_claim: String,
    /// Where the role stands in a token, parts separated by dots.
    pub role_claim: String,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            jwt_secret: Hidden::default(),
            jwks_url: String::new(),
            issuer: String::new(),
            audience: String::new(),
            user_claim: "sub".into(),
            role_claim: "role".into(),
        }
    }
}

/// The HTTP side of the product (stream API, section 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Origins whose pages may call ([`Origins`]); empty means this server's own alone.
    pub cors_origins: Vec<String>,
    /// Addresses or networks (`10.0.0.0/8`) of proxies, which are believed for whom they call ([`Proxies`]).
    pub trusted_proxies: Vec<String>,
    /// Calls of a user in a minute.
    pub calls_per_minute: u32,
    /// Calls without a token from one address in a minute; refused tokens as well.
    pub anonymous_calls_per_minute: u32,
    /// Connections from one address that are no WebSockets; 0 means any number.
    pub max_connections_per_ip: u32,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            cors_origins: Vec::new(),
            trusted_proxies: vec!["127.0.0.0/8".into(), "::1".into()],
            calls_per_minute: 300,
            anonymous_calls_per_minute: 120,
            max_connections_per_ip: 256,
        }
    }
}

/// Where things are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// `MONGODB_URI`. Empty: the embedded store.
    pub mongodb_uri: Hidden,
    /// Of MongoDB; empty means the one that the URI names, or `onair`.
    pub database: String,
    /// Directory of the embedded store, and of writes that wait for MongoDB. Empty: in development memory, else
    /// `onair-data` where the server was started.
    pub path: String,
    /// Whether the embedded store waits for the disk at each write, so that a power failure loses nothing either.
    pub full_sync: bool,
}

/// Whose rooms the streams are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SfuMode {
    /// This process's own.
    #[default]
    Builtin,
    /// Those of another LiveKit-compatible server, which sends its webhooks here.
    External,
    /// No streams at all: a media server alone.
    Only,
}

impl SfuMode {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            SfuMode::Builtin => "builtin",
            SfuMode::External => "external",
            SfuMode::Only => "only",
        }
    }
}

/// The media server of the streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sfu {
    pub mode: SfuMode,
    /// `LIVEKIT_URL`: of the external server; what apps are given, unless `public_url` is set.
    pub url: String,
    /// What apps are given to connect to. Empty: `url`, or the address under which this server was called.
    pub public_url: String,
    /// `LIVEKIT_API_KEY`. Empty: the first of `keys`.
    pub api_key: String,
    /// `LIVEKIT_API_SECRET`.
    pub api_secret: Hidden,
}

impl Sfu {
    /// Its key and secret, if there are any.
    pub(super) fn key(&self) -> Option<(String, String)> {
        (!self.api_key.is_empty()).then(|| (self.api_key.clone(), self.api_secret.0.clone()))
    }
}

impl Chat {
    /// What guests may do, given the mode.
    pub fn guest_access(&self, development: bool) -> GuestAccess {
        self.guest.unwrap_or(if development { GuestAccess::Write } else { GuestAccess::Read })
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::{Flags, Sources, load};
    use super::*;

    const LONG: &str = "a secret of users that is long enough";

    fn loaded(yaml: &str, environment: &[(&str, &str)], dev: bool) -> anyhow::Result<Config> {
        let environment = environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        let flags = Flags { dev, ..Flags::default() };
        let sources = Sources { yaml: Some(yaml.into()), environment, flags, strict: true, ..Sources::default() };
        load(sources).map(|loaded| loaded.config)
    }

    fn error_of(yaml: &str) -> String {
        format!("{:#}", loaded(yaml, &[], false).unwrap_err())
    }

    /// [S] Names of the variables.
    #[test]
    fn the_variables_of_the_app_set_the_media_server_and_the_store() {
        let environment = [
            ("LIVEKIT_URL", "http://127.0.0.1:7880"),
            ("LIVEKIT_API_KEY", "1234"),
            ("LIVEKIT_API_SECRET", "5678"),
            ("MONGODB_URI", "mongodb://127.0.0.1"),
            ("JWT_SECRET", LONG),
            ("JWT_JWKS_URL", "https://id.example/keys"),
            ("JWT_ISSUER", "https://id.example"),
            ("JWT_AUDIENCE", "live"),
        ];
        let config = loaded("", &environment, false).unwrap();

        assert_eq!(config.sfu.url, "http://127.0.0.1:7880");
        assert_eq!((config.sfu.api_key.as_str(), config.sfu.api_secret.0.as_str()), ("1234", "5678"));
        assert_eq!(config.store.mongodb_uri.0, "mongodb://127.0.0.1");
        assert_eq!(config.auth.jwt_secret.0, LONG);
        let Auth { jwks_url, issuer, audience, .. } = &config.auth;
        assert_eq!([jwks_url, issuer, audience], ["https://id.example/keys", "https://id.example", "live"]);
    }

    #[test]
    fn the_key_of_the_app_opens_the_built_in_media_server() {
        let environment = [("LIVEKIT_API_KEY", "app"), ("LIVEKIT_API_SECRET", LONG)];
        let config = loaded("keys: {other: secret}", &environment, false).unwrap();

        assert_eq!(config.keys.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["other", "app"]);
    }

    /// [S] `FEATURE_GO_LIVE`; [D] on by default.
    #[test]
    fn going_live_is_off_only_by_an_explicit_false() {
        let enabled = |text: &str| loaded("", &[("FEATURE_GO_LIVE", text)], false).unwrap().live.enabled;

        assert!(loaded("", &[], false).unwrap().live.enabled);
        for yes in ["true", "", "1", "yes", "On", " true "] {
            assert!(enabled(yes), "{yes:?}");
        }
        for no in ["false", "FALSE", "0", "no", "off", "Disabled", "f"] {
            assert!(!enabled(no), "{no:?}");
        }
        for unclear in ["maybe", "-1", "flase"] {
            let error = loaded("", &[("FEATURE_GO_LIVE", unclear)], false).unwrap_err().to_string();
            assert!(error.contains("FEATURE_GO_LIVE") && error.contains("true or false"), "{error}");
        }
    }

    #[test]
    fn the_url_of_another_server_is_not_taken_for_our_own() {
        for url in
            ["wss://app.livekit.cloud", "https://sfu.example", "http://192.0.2.7:7880", "ws://[2001:db8::1]:7880"]
        {
            let error = loaded("", &[("LIVEKIT_URL", url)], false).unwrap_err().to_string();
            assert!(error.contains("sfu.mode external") && error.contains("sfu.public_url"), "{error}");
            let external = "sfu: {mode: external, api_key: k, api_secret: s}";
            assert!(loaded(external, &[("LIVEKIT_URL", url)], false).is_ok(), "{url}");
            assert!(loaded("sfu: {mode: only}", &[("LIVEKIT_URL", url)], false).is_ok(), "{url}");
        }
        for url in ["ws://127.0.0.1:7880", "http://localhost:7880", "ws://[::1]:7880"] {
            assert!(loaded("", &[("LIVEKIT_URL", url)], false).is_ok(), "{url}");
        }
        let named = "{rtc: {node_ip: 203.0.113.9}, sfu: {url: 'ws://203.0.113.9:7880'}}";
        assert!(loaded(named, &[], false).is_ok());
    }

    #[test]
    fn the_secret_of_users_is_long_and_no_api_keys() {
        assert!(error_of("auth: {jwt_secret: short}").contains("5 bytes"));
        assert!(error_of(&format!("{{keys: {{k: {LONG}}}, auth: {{jwt_secret: {LONG}}}}}")).contains("different"));
        assert!(
            error_of(&format!("{{sfu: {{api_key: k, api_secret: {LONG}}}, auth: {{jwt_secret: {LONG}}}}}"))
                .contains("different")
        );
    }

    #[test]
    fn an_external_media_server_needs_its_address_and_key() {
        assert!(error_of("sfu: {mode: external}").contains("LIVEKIT_URL"));
        assert!(error_of("sfu: {api_key: k}").contains("belong together"));
    }

    #[test]
    fn apps_are_given_urls_that_lead_somewhere() {
        for url in ["sfu.example", "sfu.example:7880", "ftp://h", "https://", "https://h h", "HTTPS://h", "ws://h?x=1"]
        {
            for key in ["url", "public_url"] {
                assert!(error_of(&format!("sfu: {{{key}: '{url}'}}")).contains("https://sfu.example"), "{url}");
            }
        }
        for url in ["https://h", "http://127.0.0.1:7880/", "ws://[::1]:7880", "wss://h/below"] {
            assert!(loaded(&format!("sfu: {{url: '{url}', public_url: '{url}'}}"), &[], false).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_key_has_one_secret() {
        let sfu = "sfu: {api_key: app, api_secret: one}";

        assert!(error_of(&format!("{{keys: {{app: other}}, {sfu}}}")).contains("another secret"));
        assert!(loaded(&format!("{{keys: {{app: one}}, {sfu}}}"), &[], false).is_ok());
        // Those of an external server are its own affair.
        let external = "sfu: {mode: external, url: 'https://sfu.example', api_key: app, api_secret: one}";
        assert!(loaded(&format!("{{keys: {{app: other}}, {external}}}"), &[], false).is_ok());
    }

    #[test]
    fn the_public_key_of_development_gives_way_to_the_apps() {
        let environment = [("LIVEKIT_API_KEY", super::super::DEV_KEY), ("LIVEKIT_API_SECRET", LONG)];
        let config = loaded("", &environment, true).unwrap();

        assert_eq!(config.keys.0, [(super::super::DEV_KEY.to_owned(), Secret::new(LONG))]);
    }

    #[test]
    fn what_is_for_development_is_refused_elsewhere() {
        for yaml in ["http: {cors_origins: ['*']}", "chat: {guest: write}"] {
            assert!(error_of(yaml).contains("in development only"));
            assert!(loaded(yaml, &[], true).is_ok());
        }
    }

    #[test]
    fn a_claim_that_no_token_can_hold_is_refused() {
        for path in ["a..b", ".a", "a.", "a. b", ".", ""] {
            assert!(error_of(&format!("auth: {{user_claim: '{path}'}}")).contains("auth.user_claim"), "{path:?}");
            let role = loaded(&format!("auth: {{role_claim: '{path}'}}"), &[], false);
            assert_eq!(role.is_ok(), path.is_empty(), "{path:?}: nobody is an administrator without one");
        }
        for path in ["sub", "user.id", "https://app.example/user id", "_id"] {
            assert!(loaded(&format!("auth: {{user_claim: '{path}', role_claim: '{path}'}}"), &[], false).is_ok());
        }
    }

    #[test]
    fn a_reaction_that_is_no_emoji_is_refused() {
        let error = error_of("chat: {reactions: ['👏', abc, '', '👏👏', '1', ' 👏']}");

        for bad in ["\"abc\"", "\"\"", "\"👏👏\"", "\"1\"", "\" 👏\""] {
            assert!(error.contains(&format!("chat.reactions has {bad}, which is not one emoji")), "{bad}: {error}");
        }
        assert!(loaded("chat: {reactions: ['👏', '❤️', '1️⃣', '🇨🇭']}", &[], false).is_ok());
    }

    #[test]
    fn guests_read_and_in_development_write() {
        let guest = |yaml: &str, dev: bool| loaded(yaml, &[], dev).unwrap().chat.guest_access(dev);

        assert_eq!(guest("", false), GuestAccess::Read);
        assert_eq!(guest("", true), GuestAccess::Write);
        assert_eq!(guest("chat: {guest: 'off'}", true), GuestAccess::Off);
    }
}
