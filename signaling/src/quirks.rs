//! What clients of particular SDKs, versions, browsers, devices and protocol versions need done otherwise: every rule
//! and whom it concerns, as data.
//!
//! The rules are those of livekit-server 1.13.5, which clients have come to rely on (docs/livekit.md 3.6, 3.11). The
//! places that act ask [`Quirks::has`]. These of its rules need no quirk, as what they ask for is done for every
//! client:
//! - a JoinResponse has the room's sid, which clients before protocol 12 need in it;
//! - a Leave names no regions, and says in `can_reconnect` what `action` says, so that clients before protocol 13
//!   understand it (see [`crate::wire::leave`]);
//! - nobody is moved to another room, which clients before protocol 16 do not know;
//! - SCTP packets have their checksum (RFC 9653 is not negotiated), which not all clients do without;
//! - layers are never switched off at the publisher (see [`crate::wire::all_qualities`]), which a Firefox cannot do;
//! - candidates over TCP stand in every description, and no client is told to prefer them: one that cannot use them, as
//!   Pion or Swift before 1.0.5, waits for nothing.

use livekit_protocol as proto;
use proto::client_info::{Capability, Sdk};
use serde::{Deserialize, Serialize};

/// One thing that is done otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// It cannot decode signal messages that are newer than itself: neither TrackSubscribed nor RequestResponse is
    /// sent.
    NoNewerMessages,
    /// Nor is RequestResponse where a request succeeded.
    NoOkResponse,
    /// A resume is not answered by ReconnectResponse: the client throws at messages that it does not know.
    NoReconnectResponse,
    /// After a resume it is not told who left meanwhile.
    NoDeparturesOnResume,
    /// It does not tell a rejoin by its new sid: it is told that the replaced session left.
    UnawareOfRejoins,
    /// It knows no connection quality.
    NoQuality,
    /// It knows no quality LOST and is told POOR.
    LostIsPoor,
    /// It takes no SpeakersChanged.
    NoSpeakersChanged,
    /// A track that it may no longer publish is muted: it knows no TrackUnpublished.
    MutedForUnpublished,
    /// In v0 its publisher transport is the primary one.
    PublisherPrimary,
    /// The stream id of a shown track is the publisher's sid alone.
    PlainStreamId,
    /// A section of ours is not used again for another track (v0).
    NoSectionReuse,
    /// It is sent no RED.
    NoRed,
    /// It neither publishes nor is sent AV1.
    NoAv1,
    /// It does not publish VP9.
    PublishesNoVp9,
    /// It does not publish H.264.
    PublishesNoH264,
    /// It does not send the first codec of an answer, but what it likes best of it: only the preferred one is answered.
    OnlyPreferredCodec,
    /// It does not take packet trailers off what it is sent.
    NoTrailers,
    /// Its tracks have one codec: where that changes, a subscription starts over.
    NoCodecChange,
    /// The codec of a video that it publishes is known with the first packet, and so is the track shown.
    VideoShownByPacket,
    /// What overtakes the answer that names it is lost to it, and with it the track (v1): media waits until the answer
    /// was read.
    NoEarlyMedia,
}

/// Clients for which all of this holds. Names are compared without regard to case.
#[derive(Debug, Clone, Copy)]
struct Clients {
    /// Empty: any.
    sdks: &'static [Sdk],
    /// The SDK's version is lower; one that is not told is the lowest.
    version_below: Option<[u32; 3]>,
    /// Highest version of the signalling protocol.
    protocol_max: u32,
    /// Empty: any.
    browsers: &'static [&'static str],
    browser_above: Option<[u32; 3]>,
    /// Operating systems. Empty: any.
    systems: &'static [&'static str],
    device: Option<&'static str>,
    /// It does not claim this capability.
    lacks: Option<Capability>,
}

const ANY: Clients = Clients {
    sdks: &[],
    version_below: None,
    protocol_max: u32::MAX,
    browsers: &[],
    browser_above: None,
    systems: &[],
    device: None,
    lacks: None,
};

const FIREFOX: &[&str] = &["firefox", "firefox mobile"];
const SAFARI: &[&str] = &["safari"];

const fn protocol_up_to(protocol_max: u32) -> Clients {
    Clients { protocol_max, ..ANY }
}

/// Every rule. Several for one quirk mean either.
const RULES: &[(Quirk, Clients)] = &[
    // The Rust core panics when it decodes them. It is that of Python, Node and C++ too, which call themselves "rust".
    (Quirk::NoNewerMessages, Clients { sdks: &[Sdk::Rust], protocol_max: 9, ..ANY }),
    (Quirk::NoOkResponse, protocol_up_to(14)),
    (Quirk::NoReconnectResponse, Clients { sdks: &[Sdk::Js], version_below: Some([1, 6, 3]), ..ANY }),
    (Quirk::NoDeparturesOnResume, protocol_up_to(8)),
    (Quirk::UnawareOfRejoins, protocol_up_to(11)),
    (Quirk::NoQuality, protocol_up_to(4)),
    (Quirk::LostIsPoor, protocol_up_to(10)),
    (Quirk::NoSpeakersChanged, protocol_up_to(2)),
    (Quirk::MutedForUnpublished, protocol_up_to(6)),
    (Quirk::PublisherPrimary, protocol_up_to(2)),
    (Quirk::PlainStreamId, protocol_up_to(0)),
    (Quirk::NoSectionReuse, protocol_up_to(3)),
    (Quirk::NoSectionReuse, Clients { browsers: SAFARI, ..ANY }),
    (Quirk::NoRed, Clients { browsers: FIREFOX, ..ANY }),
    (Quirk::NoRed, Clients { browsers: SAFARI, ..ANY }),
    (Quirk::NoAv1, Clients { browsers: SAFARI, ..ANY }),
    (Quirk::PublishesNoVp9, Clients { browsers: SAFARI, browser_above: Some([18, 3, 0]), ..ANY }),
    (Quirk::PublishesNoH264, Clients { browsers: FIREFOX, systems: &["linux", "android"], ..ANY }),
    (Quirk::PublishesNoH264, Clients { device: Some("xiaomi 2201117ti"), systems: &["android"], ..ANY }),
    (Quirk::OnlyPreferredCodec, Clients { browsers: FIREFOX, systems: &["linux", "android"], ..ANY }),
    (Quirk::NoTrailers, Clients { lacks: Some(Capability::CapPacketTrailer), ..ANY }),
    // Pion gives a track the codec of its first packet.
    (Quirk::NoCodecChange, Clients { sdks: &[Sdk::Go, Sdk::Unknown], ..ANY }),
    (Quirk::VideoShownByPacket, Clients { sdks: &[Sdk::Go], ..ANY }),
    // Pion looks into a stream that it does not know for the rids of simulcast, and takes it from the track that it
    // later is. RFC 3264, section 5.1, would have it ready from its offer on; LiveKit's server loses the track there
    // too.
    (Quirk::NoEarlyMedia, Clients { sdks: &[Sdk::Go], ..ANY }),
];

impl Clients {
    fn include(&self, client: &proto::ClientInfo, protocol: u32) -> bool {
        let is_one_of =
            |names: &[&str], name: &str| names.is_empty() || names.iter().any(|one| one.eq_ignore_ascii_case(name));
        (self.sdks.is_empty() || self.sdks.contains(&client.sdk()))
            && self.version_below.is_none_or(|bound| version(&client.version) < bound)
            && protocol <= self.protocol_max
            && is_one_of(self.browsers, &client.browser)
            && self.browser_above.is_none_or(|bound| version(&client.browser_version) > bound)
            && is_one_of(self.systems, &client.os)
            && self.lacks.is_none_or(|capability| !client.capabilities.contains(&(capability as i32)))
            && self.device.is_none_or(|device| device.eq_ignore_ascii_case(&client.device_model))
    }
}

/// Three numbers of a version; what is none counts as 0.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

/// The quirks of one client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quirks(u32);

impl Quirks {
    /// `protocol`: the version of the signalling protocol that it speaks.
    pub fn of(client: &proto::ClientInfo, protocol: u32) -> Self {
        let found = RULES.iter().filter(|(_, clients)| clients.include(client, protocol));
        Self(found.fold(0, |bits, (quirk, _)| bits | bit(*quirk)))
    }

    pub fn has(self, quirk: Quirk) -> bool {
        self.0 & bit(quirk) != 0
    }

    /// MIME types in which it does not publish, whatever the room enables.
    pub fn withheld_from_publishing(self) -> impl Iterator<Item = &'static str> {
        self.mimes(&[
            (Quirk::NoAv1, "video/AV1"),
            (Quirk::PublishesNoVp9, "video/VP9"),
            (Quirk::PublishesNoH264, "video/H264"),
        ])
    }

    /// MIME types that it is not sent, whatever the room enables.
    pub fn withheld_from_viewing(self) -> impl Iterator<Item = &'static str> {
        self.mimes(&[(Quirk::NoAv1, "video/AV1"), (Quirk::NoRed, "audio/red")])
    }

    fn mimes(self, all: &'static [(Quirk, &'static str)]) -> impl Iterator<Item = &'static str> {
        all.iter().filter(move |(quirk, _)| self.has(*quirk)).map(|(_, mime)| *mime)
    }

    /// The codecs that are withheld, as the client is told (docs/livekit.md 3.6).
    pub fn client_configuration(self) -> Option<proto::ClientConfiguration> {
        let codec = |mime: &str| proto::Codec { mime: mime.into(), fmtp_line: String::new() };
        let (both, publish): (Vec<&str>, Vec<&str>) =
            self.withheld_from_publishing().partition(|mime| self.withheld_from_viewing().any(|other| other == *mime));
        let disabled = proto::DisabledCodecs {
            codecs: both.into_iter().map(codec).collect(),
            publish: publish.into_iter().map(codec).collect(),
        };
        let any = !disabled.codecs.is_empty() || !disabled.publish.is_empty();
        any.then(|| proto::ClientConfiguration { disabled_codecs: Some(disabled), ..Default::default() })
    }
}

const fn bit(quirk: Quirk) -> u32 {
    1 << quirk as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client as the columns of a rule tell it.
    fn client(sdk: Sdk, version: &str, browser: &str, system: &str) -> proto::ClientInfo {
        let (browser, browser_version) = browser.split_once('/').unwrap_or((browser, ""));
        proto::ClientInfo {
            sdk: sdk as i32,
            version: version.into(),
            browser: browser.into(),
            browser_version: browser_version.into(),
            os: system.into(),
            ..Default::default()
        }
    }

    fn has(quirk: Quirk, client: &proto::ClientInfo, protocol: u32) -> bool {
        Quirks::of(client, protocol).has(quirk)
    }

    #[test]
    fn every_quirk_has_a_rule_and_a_bit_of_its_own() {
        let mut bits: Vec<u32> = RULES.iter().map(|(quirk, _)| bit(*quirk)).collect();
        bits.sort_unstable();
        bits.dedup();
        let last = Quirk::NoEarlyMedia as usize;
        assert_eq!(bits.len(), last + 1, "each quirk from the first to the last concerns somebody");
    }

    #[test]
    fn a_present_client_has_no_quirks() {
        for sdk in [Sdk::Js, Sdk::Rust, Sdk::Python, Sdk::Swift, Sdk::Android, Sdk::Flutter, Sdk::Node] {
            let mut client = client(sdk, "2.20.0", "Chrome/140.0", "Linux");
            assert!(has(Quirk::NoTrailers, &client, 17));
            client.capabilities.push(Capability::CapPacketTrailer as i32);
            assert_eq!(Quirks::of(&client, 17), Quirks::default(), "{sdk:?}");
        }
    }

    #[test]
    fn protocol_versions_bring_what_livekit_says() {
        let lowest = [
            (Quirk::PlainStreamId, 1),
            (Quirk::NoSpeakersChanged, 3),
            (Quirk::PublisherPrimary, 3),
            (Quirk::NoSectionReuse, 4),
            (Quirk::NoQuality, 5),
            (Quirk::MutedForUnpublished, 7),
            (Quirk::NoDeparturesOnResume, 9),
            (Quirk::LostIsPoor, 11),
            (Quirk::UnawareOfRejoins, 12),
            (Quirk::NoOkResponse, 15),
        ];
        let js = client(Sdk::Js, "2.0.0", "Chrome/100", "Linux");
        for (quirk, protocol) in lowest {
            assert!(has(quirk, &js, protocol - 1) && !has(quirk, &js, protocol), "{quirk:?}");
        }
    }

    #[test]
    fn the_rust_core_decodes_newer_messages_from_protocol_10_on() {
        assert!(has(Quirk::NoNewerMessages, &client(Sdk::Rust, "0.11.1", "", ""), 9));
        assert!(!has(Quirk::NoNewerMessages, &client(Sdk::Rust, "0.12.0", "", ""), 10));
        assert!(!has(Quirk::NoNewerMessages, &client(Sdk::Js, "1.0.0", "", ""), 8));
    }

    #[test]
    fn javascript_takes_a_reconnect_response_from_1_6_3_on() {
        for (version, quirk) in [("", true), ("1.0.1", true), ("1.6.2", true), ("1.6.3", false), ("1.16.0", false)] {
            assert_eq!(has(Quirk::NoReconnectResponse, &client(Sdk::Js, version, "", ""), 8), quirk, "{version}");
        }
        assert!(!has(Quirk::NoReconnectResponse, &client(Sdk::Swift, "1.0.0", "", ""), 8));
    }

    #[test]
    fn browsers_are_known_by_name_and_version_in_any_case() {
        let configured = |browser, system| {
            let found = Quirks::of(&client(Sdk::Js, "2.0.0", browser, system), 16).client_configuration()?;
            let disabled = found.disabled_codecs.unwrap();
            let names = |codecs: &[proto::Codec]| codecs.iter().map(|codec| codec.mime.clone()).collect::<Vec<_>>();
            Some((names(&disabled.codecs).join(" "), names(&disabled.publish).join(" ")))
        };
        let text = |both: &str, publish: &str| Some((both.to_owned(), publish.to_owned()));
        assert_eq!(configured("Safari/17.0", "Mac OS X"), text("video/AV1", ""));
        assert_eq!(configured("safari/18.3", "Mac OS X"), text("video/AV1", ""));
        for version in ["Safari/18.3.1", "Safari/18.10", "Safari/26"] {
            assert_eq!(configured(version, "iOS"), text("video/AV1", "video/VP9"), "{version}");
        }
        assert_eq!(configured("Firefox/140", "Linux"), text("", "video/H264"));
        assert_eq!(configured("Firefox Mobile/140", "android"), text("", "video/H264"));
        assert_eq!(configured("Firefox/140", "Windows"), None);
        assert_eq!(configured("Chrome/140", "Linux"), None);
    }

    #[test]
    fn a_device_is_known_by_model_and_system() {
        let mut xiaomi = client(Sdk::Android, "2.0.0", "", "Android");
        xiaomi.device_model = "Xiaomi 2201117TI".into();
        assert!(has(Quirk::PublishesNoH264, &xiaomi, 13));
        xiaomi.os = "HyperOS".into();
        assert!(!has(Quirk::PublishesNoH264, &xiaomi, 13));
        let mut other = client(Sdk::Android, "2.0.0", "", "Android");
        other.device_model = "Pixel 8".into();
        assert!(!has(Quirk::PublishesNoH264, &other, 13));
    }
}
