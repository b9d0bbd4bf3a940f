//! Codecs as sections name them: recognising, choosing and ordering.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sfu::command::PayloadCodec;
use shared::media::{Codec, MediaKind};

use super::interface::ReceiveSettings;
use super::sdp::split_at_byte;

/// RTCP feedback that we know (RFC 4585, 5104; transport-cc and goog-remb are drafts that all browsers speak).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Feedback {
    TransportCc,
    Remb,
    Fir,
    Nack,
    NackPli,
}

impl Feedback {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Feedback::TransportCc => "transport-cc",
            Feedback::Remb => "goog-remb",
            Feedback::Fir => "ccm fir",
            Feedback::Nack => "nack",
            Feedback::NackPli => "nack pli",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let all = [Feedback::TransportCc, Feedback::Remb, Feedback::Fir, Feedback::Nack, Feedback::NackPli];
        all.into_iter().find(|feedback| feedback.text() == text)
    }

    /// Whether we give this feedback to a client that sends.
    fn is_given(self, kind: MediaKind, has_transport_cc: bool) -> bool {
        match self {
            Feedback::TransportCc => has_transport_cc,
            Feedback::Nack => true,
            Feedback::Fir | Feedback::NackPli => kind == MediaKind::Video,
            Feedback::Remb => false,
        }
    }

    /// Whether we act on this feedback of a client that receives.
    fn is_taken(self, kind: MediaKind, has_transport_cc: bool) -> bool {
        match self {
            Feedback::TransportCc => has_transport_cc,
            Feedback::Remb | Feedback::Fir | Feedback::Nack | Feedback::NackPli => kind == MediaKind::Video,
        }
    }
}

/// One codec of a section: what `rtpmap`, `fmtp` and `rtcp-fb` say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SectionCodec {
    pub payload_type: u8,
    pub codec: Codec,
    pub rtx: Option<u8>,
    /// Format parameters as the client wrote them.
    pub fmtp: String,
    pub feedback: Vec<Feedback>,
}

impl SectionCodec {
    pub(crate) fn payload(&self) -> PayloadCodec {
        PayloadCodec { payload_type: self.payload_type, codec: self.codec, rtx: self.rtx }
    }
}

/// What an `rtpmap` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Codec(Codec),
    /// Retransmissions of another payload type (RFC 4588).
    Rtx {
        of: u8,
    },
}

impl Encoding {
    /// Recognises what we can forward; `None` for everything else (FEC, comfort noise, unknown codecs).
    pub(crate) fn identify(kind: MediaKind, rtpmap: &str, fmtp: &str) -> Option<Self> {
        let mut parts = rtpmap.split('/');
        let name = parts.next()?.to_ascii_lowercase();
        let clock_rate: u32 = parts.next()?.trim().parse().ok()?;
        let codec = match (kind, name.as_str(), clock_rate) {
            (MediaKind::Audio, "opus", 48_000) => Codec::Opus,
            (MediaKind::Audio, "red", 48_000) => Codec::Red,
            (MediaKind::Audio, "pcmu", 8_000) => Codec::Pcmu,
            (MediaKind::Audio, "pcma", 8_000) => Codec::Pcma,
            (MediaKind::Video, "vp8", 90_000) => Codec::Vp8,
            (MediaKind::Video, "vp9", 90_000) => Codec::Vp9 { profile: number(fmtp, "profile-id", 0)? },
            (MediaKind::Video, "av1", 90_000) => Codec::Av1 { profile: number(fmtp, "profile", 0)? },
            (MediaKind::Video, "h265", 90_000) => Codec::H265,
            (MediaKind::Video, "h264", 90_000) => Codec::H264 {
                packetization_mode: number(fmtp, "packetization-mode", 0).filter(|mode| *mode <= 1)?,
                profile: h264_profile(fmtp)?,
            },
            (_, "rtx", _) => return Some(Encoding::Rtx { of: number(fmtp, "apt", u8::MAX)? }),
            _ => return None,
        };
        Some(Encoding::Codec(codec))
    }
}

/// Value of a format parameter.
fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = Some(fmtp);
    while let Some(text) = rest {
        let (parameter, after) = split_at_byte(text, b';').map_or((text, None), |(first, after)| (first, Some(after)));
        match split_at_byte(parameter, b'=') {
            Some((key, value)) if key.trim_ascii().eq_ignore_ascii_case(name) => return Some(value.trim_ascii()),
            _ => rest = after,
        }
    }
    None
}

/// A small number among the format parameters; `None` if it is there but is none.
fn number(fmtp: &str, name: &str, default: u8) -> Option<u8> {
    match parameter(fmtp, name) {
        Some(value) => value.parse().ok(),
        None => Some(default),
    }
}

/// `profile_idc` and `profile-iop` in one spelling for each profile, so that equal profiles compare equal (RFC 6184,
/// section 8.1, table 5).
fn h264_profile(fmtp: &str) -> Option<[u8; 2]> {
    // Without the parameter it is the Baseline profile.
    let id = parameter(fmtp, "profile-level-id").unwrap_or("420010");
    if id.len() != 6 {
        return None;
    }
    let [_, idc, iop, _level] = u32::from_str_radix(id, 16).ok()?.to_be_bytes();
    match (idc, iop) {
        (0x42, iop) if iop & 0x40 != 0 => Some([0x42, 0xe0]),
        (0x4d, iop) if iop & 0x80 != 0 => Some([0x42, 0xe0]),
        (0x58, iop) if iop & 0xc0 == 0xc0 => Some([0x42, 0xe0]),
        (0x42, _) => Some([0x42, 0x00]),
        (0x4d, _) => Some([0x4d, 0x00]),
        (0x64, iop) if iop & 0x0c == 0x0c => Some([0x64, 0x0c]),
        (0x64, _) => Some([0x64, 0x00]),
        (0xf4, _) => Some([0xf4, 0x00]),
        _ => None,
    }
}

/// Whether RED packs the Opus of this payload type: `111/111`.
pub(super) fn red_packs(fmtp: &str, opus: u8) -> bool {
    let mut parts = fmtp.split('/').map(|part| part.trim().parse::<u8>());
    !fmtp.is_empty() && parts.all(|part| part == Ok(opus))
}

/// Codecs that may be used in one direction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EnabledCodecs {
    /// MIME types enabled in the room. Empty: all that we know.
    enabled: Vec<String>,
    /// MIME types that are not for this client.
    withheld: Vec<String>,
}

impl EnabledCodecs {
    pub(crate) fn new(mimes: &[String]) -> Self {
        Self { enabled: mimes.to_vec(), withheld: Vec::new() }
    }

    pub(crate) fn withhold<'a>(&mut self, mimes: impl Iterator<Item = &'a str>) {
        self.withheld = mimes.map(str::to_owned).collect();
    }

    pub(crate) fn contains(&self, codec: Codec) -> bool {
        let names = |mime: &String| mime.eq_ignore_ascii_case(codec.mime());
        (self.enabled.is_empty() || self.enabled.iter().any(names)) && !self.withheld.iter().any(names)
    }
}

/// Variants of a codec that everybody decodes; the others are taken only where nothing else is offered.
fn is_usual(codec: Codec) -> bool {
    match codec {
        Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma | Codec::Vp8 | Codec::H265 => true,
        Codec::Vp9 { profile } => profile == 0 || profile == 2,
        Codec::Av1 { profile } => profile == 0,
        Codec::H264 { profile, .. } => profile == [0x42, 0xe0],
    }
}

/// The offered codecs that we take, in the offer's order: enabled, each once, and of each MIME type the usual variants
/// (and `wanted`), or all if there are none.
fn accepted(offered: &[SectionCodec], enabled: &EnabledCodecs, wanted: Option<Codec>) -> Vec<SectionCodec> {
    let mut taken: Vec<SectionCodec> = Vec::new();
    for entry in offered {
        let usual = is_usual(entry.codec)
            || wanted == Some(entry.codec)
            || !offered.iter().any(|other| is_usual(other.codec) && other.codec.mime() == entry.codec.mime());
        let known = taken.iter().any(|other| other.codec == entry.codec);
        if usual && !known && enabled.contains(entry.codec) {
            taken.push(entry.clone());
        }
    }
    taken
}

/// Codecs in which a client may publish in a section, best first.
///
/// `only_preferred`: the client sends what it likes best of the answer, not its first (docs/livekit.md 5.5).
pub(super) fn for_publishing(
    offered: &[SectionCodec],
    enabled: &EnabledCodecs,
    settings: &ReceiveSettings,
    has_transport_cc: bool,
    only_preferred: bool,
) -> Vec<SectionCodec> {
    let mut codecs = accepted(offered, enabled, None);
    codecs.retain(|entry| entry.codec != Codec::Red || !settings.disable_red);
    let is_preferred = |codec: Codec| match &settings.preferred_mime {
        Some(mime) => names(mime, codec) || (codec == Codec::Red && names(mime, Codec::Opus)),
        None => false,
    };
    if only_preferred && codecs.iter().any(|entry| entry.codec.kind() == MediaKind::Video && is_preferred(entry.codec))
    {
        codecs.retain(|entry| is_preferred(entry.codec));
    }
    codecs.sort_by_key(|entry| (!is_preferred(entry.codec), entry.codec != Codec::Red));
    for entry in &mut codecs {
        let kind = entry.codec.kind();
        entry.feedback.retain(|feedback| feedback.is_given(kind, has_transport_cc));
        if entry.codec == Codec::Opus {
            entry.fmtp = opus_to_receive(&entry.fmtp, settings);
        }
    }
    codecs
}

/// `video/VP9` and `vp9` name VP9.
fn names(mime: &str, codec: Codec) -> bool {
    let (_, name) = codec.mime().split_once('/').unwrap_or_default();
    mime.eq_ignore_ascii_case(codec.mime()) || mime.eq_ignore_ascii_case(name)
}

fn opus_to_receive(offered: &str, settings: &ReceiveSettings) -> String {
    let mut dropped = vec!["stereo", "sprop-stereo", "usedtx"];
    if settings.stereo {
        dropped.push("maxaveragebitrate");
    }
    let mut fmtp = without_parameters(offered, &dropped);
    if !settings.disable_dtx {
        append_parameter(&mut fmtp, "usedtx=1");
    }
    if settings.stereo {
        append_parameter(&mut fmtp, "stereo=1;maxaveragebitrate=510000");
    }
    fmtp
}

/// Codecs in which we may send in a section that the client offered, in its order.
pub(super) fn for_sending(
    offered: &[SectionCodec],
    enabled: &EnabledCodecs,
    wanted: Option<Codec>,
    stereo: bool,
    has_transport_cc: bool,
) -> Vec<SectionCodec> {
    let mut codecs = accepted(offered, enabled, wanted);
    for entry in &mut codecs {
        let kind = entry.codec.kind();
        entry.feedback.retain(|feedback| feedback.is_taken(kind, has_transport_cc));
        if entry.codec == Codec::Opus {
            entry.fmtp = opus_to_send(&entry.fmtp, stereo);
        }
    }
    codecs
}

fn opus_to_send(fmtp: &str, stereo: bool) -> String {
    let mut fmtp = without_parameters(fmtp, &["stereo", "sprop-stereo"]);
    if stereo {
        append_parameter(&mut fmtp, "sprop-stereo=1");
    }
    fmtp
}

fn without_parameters(fmtp: &str, names: &[&str]) -> String {
    let mut kept = String::with_capacity(fmtp.len());
    for parameter in fmtp.split(';').map(str::trim).filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split('=').next().unwrap_or(parameter).trim();
        if !names.iter().any(|dropped| dropped.eq_ignore_ascii_case(name)) {
            append_parameter(&mut kept, parameter);
        }
    }
    kept
}

fn append_parameter(fmtp: &mut String, parameter: &str) {
    if !fmtp.is_empty() {
        fmtp.push(';');
    }
    fmtp.push_str(parameter);
}

/// Whether a section with these codecs can carry a track. RED is unwrapped for those who only take Opus.
pub(super) fn carry(codecs: &[SectionCodec], track: Codec) -> bool {
    codecs.iter().any(|entry| entry.codec == track || (track == Codec::Red && entry.codec == Codec::Opus))
}

/// Text of an `rtpmap` without the payload type.
pub(super) fn rtpmap(codec: Codec) -> &'static str {
    match codec {
        Codec::Opus => "opus/48000/2",
        Codec::Red => "red/48000/2",
        Codec::Pcmu => "PCMU/8000",
        Codec::Pcma => "PCMA/8000",
        Codec::Vp8 => "VP8/90000",
        Codec::Vp9 { .. } => "VP9/90000",
        Codec::H264 { .. } => "H264/90000",
        Codec::Av1 { .. } => "AV1/90000",
        Codec::H265 => "H265/90000",
    }
}

const fn h264(packetization_mode: u8, idc: u8, iop: u8) -> Codec {
    Codec::H264 { packetization_mode, profile: [idc, iop] }
}

/// Payload types of our own offers, as the reference numbers them (docs/livekit.md 5.5), in order. That of a video
/// codec's retransmissions is the next one. Those that are not [`is_offered`] come only with a track that needs them.
const OURS: &[(u8, Codec)] = &[
    (111, Codec::Opus),
    (63, Codec::Red),
    (0, Codec::Pcmu),
    (8, Codec::Pcma),
    (96, Codec::Vp8),
    (98, Codec::Vp9 { profile: 0 }),
    (100, Codec::Vp9 { profile: 1 }),
    (125, h264(0, 0x42, 0xe0)),
    (108, h264(1, 0x42, 0xe0)),
    (35, Codec::Av1 { profile: 0 }),
    (116, Codec::H265),
    (104, h264(0, 0x42, 0x00)),
    (102, h264(1, 0x42, 0x00)),
    (39, h264(0, 0x4d, 0x00)),
    (106, h264(1, 0x4d, 0x00)),
    (123, h264(1, 0x64, 0x00)),
    (121, h264(1, 0x64, 0x0c)),
    (41, Codec::Vp9 { profile: 2 }),
    (43, Codec::Vp9 { profile: 3 }),
];

/// Whether our offers list a codec also when no track needs it.
fn is_offered(codec: Codec) -> bool {
    if let Codec::Vp9 { profile } = codec { profile <= 1 } else { is_usual(codec) }
}

/// Codecs of a section of our own offer, without those that the client refused before.
pub(super) fn ours(
    kind: MediaKind,
    enabled: &EnabledCodecs,
    refused: &[Codec],
    wanted: Option<Codec>,
    stereo: bool,
    has_transport_cc: bool,
) -> Vec<SectionCodec> {
    OURS.iter()
        .filter(|(_, codec)| codec.kind() == kind && enabled.contains(*codec) && !refused.contains(codec))
        .filter(|(_, codec)| is_offered(*codec) || wanted == Some(*codec))
        .map(|&(payload_type, codec)| our_entry(payload_type, codec, stereo, has_transport_cc))
        .collect()
}

fn our_entry(payload_type: u8, codec: Codec, stereo: bool, has_transport_cc: bool) -> SectionCodec {
    let (rtx, mut feedback) = match codec.kind() {
        MediaKind::Audio => (None, Vec::new()),
        MediaKind::Video => {
            (Some(payload_type + 1), vec![Feedback::Fir, Feedback::Nack, Feedback::NackPli, Feedback::Remb])
        }
    };
    if has_transport_cc {
        feedback.insert(0, Feedback::TransportCc);
    }
    SectionCodec { payload_type, codec, rtx, fmtp: our_fmtp(codec, stereo), feedback }
}

fn our_fmtp(codec: Codec, stereo: bool) -> String {
    let mut fmtp = String::new();
    let written = match codec {
        Codec::Opus => write!(fmtp, "{}", opus_to_send("minptime=10;useinbandfec=1", stereo)),
        Codec::Red => write!(fmtp, "111/111"),
        Codec::Vp9 { profile } => write!(fmtp, "profile-id={profile}"),
        Codec::H264 { packetization_mode, profile: [idc, iop] } => write!(
            fmtp,
            "level-asymmetry-allowed=1;packetization-mode={packetization_mode};profile-level-id={idc:02x}{iop:02x}1f"
        ),
        Codec::Pcmu | Codec::Pcma | Codec::Vp8 | Codec::Av1 { .. } | Codec::H265 => Ok(()),
    };
    written.expect("writing to a String cannot fail");
    fmtp
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h264_of(id: &str) -> Option<[u8; 2]> {
        h264_profile(&format!("profile-level-id={id}"))
    }

    #[test]
    fn spellings_of_one_h264_profile_are_equal() {
        for id in ["42e01f", "42E034", "42c01f", "4d8028"] {
            assert_eq!(h264_of(id), Some([0x42, 0xe0]), "{id}");
        }
        // RFC 6184, table 5: other bits of profile-iop do not matter.
        for id in ["58f01f", "58c01f"] {
            assert_eq!(h264_of(id), Some([0x42, 0xe0]), "{id}");
        }
        assert_eq!(h264_of("42001f"), Some([0x42, 0x00]));
        assert_eq!(h264_of("42a01f"), Some([0x42, 0x00]));
        assert_eq!(h264_of("4d001f"), Some([0x4d, 0x00]));
        assert_eq!(h264_of("4d401f"), Some([0x4d, 0x00]));
        assert_eq!(h264_of("640c1f"), Some([0x64, 0x0c]));
        assert_eq!(h264_of("640032"), Some([0x64, 0x00]));
        assert_eq!(h264_of("64081f"), Some([0x64, 0x00]));
        assert_eq!(h264_of("f4001f"), Some([0xf4, 0x00]));
        for id in ["58801f", "58001f", "6e001f", "42e0", "42e01f00", "wxyz1f", "€€"] {
            assert_eq!(h264_of(id), None, "{id}");
        }
        assert_eq!(h264_profile(""), Some([0x42, 0x00]));
    }

    fn identified(kind: MediaKind, rtpmap: &str, fmtp: &str) -> Option<Encoding> {
        Encoding::identify(kind, rtpmap, fmtp)
    }

    #[test]
    fn a_codec_is_known_by_its_kind_name_clock_rate_and_parameters() {
        let codec = |codec| Some(Encoding::Codec(codec));
        let h264 = |packetization_mode| codec(Codec::H264 { packetization_mode, profile: [0x42, 0xe0] });
        for (rtpmap, fmtp, expected) in [
            ("vp8/90000", "", codec(Codec::Vp8)),
            ("VP9/90000", "", codec(Codec::Vp9 { profile: 0 })),
            ("VP9/90000", "x-google-start-bitrate=1000; profile-id=2", codec(Codec::Vp9 { profile: 2 })),
            ("VP9/90000", "profile-id=none", None),
            ("AV1/90000", "level-idx=5;PROFILE = 1;tier=0", codec(Codec::Av1 { profile: 1 })),
            ("H265/90000", "level-id=93", codec(Codec::H265)),
            ("H264/90000", "profile-level-id=42e01f", h264(0)),
            ("H264/90000", "packetization-mode=1;profile-level-id=42e01f", h264(1)),
            ("H264/90000", "packetization-mode=2;profile-level-id=42e01f", None),
            ("rtx/90000", "apt=96;rtx-time=3000", Some(Encoding::Rtx { of: 96 })),
            ("rtx/90000", "", Some(Encoding::Rtx { of: 255 })),
            ("rtx/90000", "apt=300", None),
            ("ulpfec/90000", "", None),
            ("VP8/48000", "", None),
            ("VP8", "", None),
            ("opus/48000/2", "", None),
        ] {
            assert_eq!(identified(MediaKind::Video, rtpmap, fmtp), expected, "{rtpmap} {fmtp}");
        }
        for (rtpmap, expected) in [
            ("OPUS/48000/2", codec(Codec::Opus)),
            ("red/48000/2", codec(Codec::Red)),
            ("PCMU/8000", codec(Codec::Pcmu)),
            ("PCMA/8000", codec(Codec::Pcma)),
            ("red/90000", None),
            ("PCMU/16000", None),
            ("VP8/90000", None),
        ] {
            assert_eq!(identified(MediaKind::Audio, rtpmap, ""), expected, "{rtpmap}");
        }
    }

    fn offered(codecs: &[Codec]) -> Vec<SectionCodec> {
        codecs.iter().zip(96..).map(|(codec, number)| our_entry(number, *codec, false, false)).collect()
    }

    fn codecs_of(entries: &[SectionCodec]) -> Vec<Codec> {
        entries.iter().map(|entry| entry.codec).collect()
    }

    #[test]
    fn of_each_codec_the_usual_variants_are_taken_and_others_where_there_are_no_usual_ones() {
        let vp9 = |profile| Codec::Vp9 { profile };
        let av1 = |profile| Codec::Av1 { profile };
        let (usual, other) = (h264(1, 0x42, 0xe0), h264(1, 0x64, 0x0c));
        let all = EnabledCodecs::new(&[]);
        let take = |codecs: &[Codec], wanted| codecs_of(&accepted(&offered(codecs), &all, wanted));
        let many = [Codec::Vp8, vp9(3), vp9(2), vp9(1), vp9(0), av1(1), av1(0), other, usual, h264(0, 0x42, 0xe0)];
        let expected = [Codec::Vp8, vp9(2), vp9(0), av1(0), usual, h264(0, 0x42, 0xe0)];
        assert_eq!(take(&many, None), expected);
        let with_wanted = [Codec::Vp8, vp9(2), vp9(0), av1(0), other, usual, h264(0, 0x42, 0xe0)];
        assert_eq!(take(&many, Some(other)), with_wanted);
        assert_eq!(take(&[vp9(3), vp9(1), av1(1), other], None), [vp9(3), vp9(1), av1(1), other]);
        assert_eq!(take(&[Codec::Vp8, vp9(3), other], None), [Codec::Vp8, vp9(3), other]);
        assert_eq!(take(&[Codec::Vp8, vp9(0), Codec::Vp8], None), [Codec::Vp8, vp9(0)], "each once");

        let mut some = EnabledCodecs::new(&["video/vp8".into(), "VIDEO/av1".into(), "video/H264".into()]);
        some.withhold(["video/h264"].into_iter());
        assert_eq!(codecs_of(&accepted(&offered(&many), &some, None)), [Codec::Vp8, av1(0)]);
    }

    #[test]
    fn our_offers_list_the_usual_codecs_and_what_a_track_needs() {
        let all = EnabledCodecs::new(&[]);
        let listed = |refused: &[Codec], wanted| codecs_of(&ours(MediaKind::Video, &all, refused, wanted, false, true));
        let vp9 = |profile| Codec::Vp9 { profile };
        let (h264_0, h264_1) = (h264(0, 0x42, 0xe0), h264(1, 0x42, 0xe0));
        let usual = [Codec::Vp8, vp9(0), vp9(1), h264_0, h264_1, Codec::Av1 { profile: 0 }, Codec::H265];
        assert_eq!(listed(&[], None), usual);
        for needed in [vp9(2), vp9(3), h264(1, 0x64, 0x0c), h264(0, 0x4d, 0x00)] {
            let expected: Vec<_> = usual.into_iter().chain([needed]).collect();
            assert_eq!(listed(&[], Some(needed)), expected);
            assert_eq!(listed(&[needed, vp9(1)], Some(needed)).len(), usual.len() - 1, "it was refused");
        }
    }

    #[test]
    fn the_preferred_codec_comes_first_and_alone_where_a_client_would_take_another() {
        let enabled = EnabledCodecs::new(&[]);
        let settings = |mime: &str| ReceiveSettings { preferred_mime: Some(mime.into()), ..Default::default() };
        let publish = |codecs: &[Codec], settings: &ReceiveSettings, only_preferred| {
            codecs_of(&for_publishing(&offered(codecs), &enabled, settings, true, only_preferred))
        };
        let (vp8, vp9, av1) = (Codec::Vp8, Codec::Vp9 { profile: 0 }, Codec::Av1 { profile: 0 });
        let video = [vp8, vp9, av1];
        for mime in ["video/VP9", "vp9", "VP9"] {
            assert_eq!(publish(&video, &settings(mime), false), [vp9, vp8, av1], "{mime}");
            assert_eq!(publish(&video, &settings(mime), true), [vp9], "{mime}");
        }
        assert_eq!(publish(&video, &settings("audio/vp9"), false), video);
        assert_eq!(publish(&video, &settings("h265"), true), video, "it is not offered");
        assert_eq!(publish(&video, &ReceiveSettings::default(), true), video);
        // RED packs Opus, and whoever prefers that gets it so.
        let audio = [Codec::Opus, Codec::Pcmu, Codec::Red];
        assert_eq!(publish(&audio, &ReceiveSettings::default(), true), [Codec::Red, Codec::Opus, Codec::Pcmu]);
        assert_eq!(publish(&audio, &settings("audio/opus"), true), [Codec::Red, Codec::Opus, Codec::Pcmu]);
        assert_eq!(publish(&audio, &settings("pcmu"), true), [Codec::Pcmu, Codec::Red, Codec::Opus]);
        let without_red = ReceiveSettings { disable_red: true, ..settings("audio/red") };
        assert_eq!(publish(&audio, &without_red, false), [Codec::Opus, Codec::Pcmu]);
    }

    #[test]
    fn feedback_is_agreed_on_as_it_is_used() {
        let all = || vec![Feedback::TransportCc, Feedback::Remb, Feedback::Fir, Feedback::Nack, Feedback::NackPli];
        let enabled = EnabledCodecs::new(&[]);
        for (codec, has_transport_cc, to_publish, to_view) in [
            (
                Codec::Vp8,
                true,
                vec![Feedback::TransportCc, Feedback::Fir, Feedback::Nack, Feedback::NackPli],
                vec![Feedback::TransportCc, Feedback::Remb, Feedback::Fir, Feedback::Nack, Feedback::NackPli],
            ),
            (
                Codec::Vp8,
                false,
                vec![Feedback::Fir, Feedback::Nack, Feedback::NackPli],
                vec![Feedback::Remb, Feedback::Fir, Feedback::Nack, Feedback::NackPli],
            ),
            (Codec::Opus, true, vec![Feedback::TransportCc, Feedback::Nack], vec![Feedback::TransportCc]),
            (Codec::Opus, false, vec![Feedback::Nack], vec![]),
        ] {
            let offered = [SectionCodec { feedback: all(), ..our_entry(96, codec, false, false) }];
            let settings = ReceiveSettings::default();
            let published = for_publishing(&offered, &enabled, &settings, has_transport_cc, false);
            assert_eq!(published[0].feedback, to_publish, "{codec:?}");
            let sent = for_sending(&offered, &enabled, None, false, has_transport_cc);
            assert_eq!(sent[0].feedback, to_view, "{codec:?}");
        }
    }

    #[test]
    fn a_section_carries_red_as_opus_and_nothing_else_as_another() {
        for (section, track, carried) in [
            (&[Codec::Opus][..], Codec::Opus, true),
            (&[Codec::Opus], Codec::Red, true),
            (&[Codec::Pcmu, Codec::Red], Codec::Red, true),
            (&[Codec::Red], Codec::Opus, false),
            (&[Codec::Pcmu], Codec::Red, false),
            (&[Codec::Vp9 { profile: 0 }], Codec::Vp9 { profile: 2 }, false),
            (&[], Codec::Vp8, false),
        ] {
            assert_eq!(carry(&offered(section), track), carried, "{section:?} {track:?}");
        }
    }

    #[test]
    fn our_payload_types_do_not_collide() {
        let mut used: Vec<u8> = Vec::new();
        for &(payload_type, codec) in OURS {
            let entry = our_entry(payload_type, codec, false, true);
            used.extend([Some(entry.payload_type), entry.rtx].into_iter().flatten());
        }
        let count = used.len();
        used.sort_unstable();
        used.dedup();

        assert_eq!(used.len(), count);
        assert!(used.iter().all(|payload_type| *payload_type < 64 || (96..128).contains(payload_type)));
    }

    #[test]
    fn our_entries_are_read_back_as_what_they_are() {
        for &(payload_type, codec) in OURS {
            let entry = our_entry(payload_type, codec, true, true);
            let read = Encoding::identify(codec.kind(), rtpmap(codec), &entry.fmtp);
            assert_eq!(read, Some(Encoding::Codec(codec)));
        }
    }

    #[test]
    fn opus_gets_dtx_and_stereo_as_add_track_says() {
        let settings = ReceiveSettings { stereo: true, ..ReceiveSettings::default() };
        assert_eq!(
            opus_to_receive("minptime=10;stereo=1;useinbandfec=1", &settings),
            "minptime=10;useinbandfec=1;usedtx=1;stereo=1;maxaveragebitrate=510000"
        );
        let settings = ReceiveSettings { disable_dtx: true, ..ReceiveSettings::default() };
        assert_eq!(opus_to_receive("minptime=10;stereo=1", &settings), "minptime=10");
        let bitrate = "maxaveragebitrate=20000; SPROP-stereo = 1;usedtx=0;;";
        assert_eq!(opus_to_receive(bitrate, &settings), "maxaveragebitrate=20000");
        let stereo = ReceiveSettings { stereo: true, ..settings };
        assert_eq!(opus_to_receive(bitrate, &stereo), "stereo=1;maxaveragebitrate=510000");
    }

    #[test]
    fn opus_is_sent_in_stereo_if_the_track_is() {
        let with_fmtp =
            |codec| SectionCodec { fmtp: "a=1;sprop-stereo=0".into(), ..our_entry(96, codec, false, false) };
        let offered = [Codec::Pcmu, Codec::Opus].map(with_fmtp);
        let sent = for_sending(&offered, &EnabledCodecs::new(&[]), None, true, true);
        let sent: Vec<_> = sent.iter().map(|entry| entry.fmtp.as_str()).collect();
        assert_eq!(sent, ["a=1;sprop-stereo=0", "a=1;sprop-stereo=1"]);

        let offered = "minptime=10;stereo=0;sprop-stereo=0;useinbandfec=1";
        assert_eq!(opus_to_send(offered, true), "minptime=10;useinbandfec=1;sprop-stereo=1");
        assert_eq!(opus_to_send(offered, false), "minptime=10;useinbandfec=1");
        assert_eq!(opus_to_send("", true), "sprop-stereo=1");
    }

    #[test]
    fn red_must_pack_the_opus_of_its_section() {
        assert!(red_packs("111/111", 111));
        assert!(red_packs("111 / 111 / 111", 111));
        for fmtp in ["111/112", "112/111", "112/112", "111/", "x", ""] {
            assert!(!red_packs(fmtp, 111), "{fmtp}");
        }
    }
}
