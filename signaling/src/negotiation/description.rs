//! A client's description as it matters here: one transport, and its sections (RFC 9429, RFC 8843).
//!
//! Everything that cannot be served is refused or marked unusable while reading, so that later steps need no doubts.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sfu::command::{DtlsRole, Fingerprint, IceCredentials, Mid, Rid, Ssrc};
use shared::media::{Codec, MediaKind};

use super::codecs::{self, Encoding, Feedback, SectionCodec};
use super::extensions::{Extension, ExtensionId};
use super::interface::{Role, SdpError};
use super::sdp::{self, Attribute, Name, Sdp, Section};

/// Rids of a section that are read; three are used.
const RIDS_MAX: usize = 8;
/// SSRCs of a section that are read: three layers with retransmissions and FEC, twice.
const SSRCS_MAX: usize = 18;
/// Codecs of a section that are kept. Browsers list about two dozen.
const CODECS_MAX: usize = 40;
/// Kept length of a stream or track id, in bytes.
const MSID_BYTES_MAX: usize = 256;

/// Who may take which DTLS role depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DescriptionKind {
    Offer,
    Answer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub allows_mixed_extensions: bool,
    pub is_bundled: bool,
    pub ice: IceCredentials,
    pub fingerprint: Fingerprint,
    /// Ours, by the client's `a=setup`.
    pub dtls_role: DtlsRole,
    pub sections: Vec<ClientSection>,
    /// That the client declares as its own, in all sections.
    ssrcs: BTreeSet<Ssrc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Direction {
    Sendrecv,
    Sendonly,
    Recvonly,
    Inactive,
}

impl Direction {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Direction::Sendrecv => "sendrecv",
            Direction::Sendonly => "sendonly",
            Direction::Recvonly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    pub(crate) fn sends(self) -> bool {
        matches!(self, Direction::Sendrecv | Direction::Sendonly)
    }

    pub(crate) fn receives(self) -> bool {
        matches!(self, Direction::Sendrecv | Direction::Recvonly)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SectionKind {
    Media(MediaKind),
    Application,
    /// Stopped by the client, or nothing that we serve: answered with port 0.
    Unusable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClientSection {
    pub kind: SectionKind,
    /// Empty only in unusable sections.
    pub mid: Mid,
    /// `audio`, and so on: what a refusal repeats.
    pub media: String,
    pub protocol: String,
    pub formats: String,
    pub direction: Direction,
    pub codecs: Vec<SectionCodec>,
    extensions: Vec<(ExtensionId, Direction)>,
    pub stream_id: String,
    pub track_id: String,
    pub rids: Vec<Rid>,
    pub ssrcs: Vec<(Ssrc, Option<Ssrc>)>,
    /// The SSRCs are layers of one track, lowest first (`a=ssrc-group:SIM`).
    pub is_ssrc_simulcast: bool,
}

impl ClientSection {
    pub(crate) fn media_kind(&self) -> Option<MediaKind> {
        match self.kind {
            SectionKind::Media(kind) => Some(kind),
            SectionKind::Application | SectionKind::Unusable => None,
        }
    }

    /// The client sends media in it.
    pub(crate) fn sends(&self) -> bool {
        self.media_kind().is_some() && self.direction.sends()
    }

    /// The client wants media in it.
    pub(crate) fn receives(&self) -> bool {
        self.media_kind().is_some() && self.direction.receives()
    }

    /// Extensions that the client may send and we read.
    pub(crate) fn extensions_to_receive(&self, kind: MediaKind, role: Role) -> Vec<ExtensionId> {
        let wanted = self.extensions.iter().filter(|(entry, direction)| {
            entry.extension.is_received(kind, role) && matches!(direction, Direction::Sendrecv | Direction::Sendonly)
        });
        wanted.map(|(entry, _)| *entry).collect()
    }

    /// Extensions that the client reads and we may send.
    pub(crate) fn extensions_to_send(&self, kind: MediaKind, role: Role) -> Vec<ExtensionId> {
        self.extensions_read(|extension| extension.is_sent(kind, role))
    }

    /// Extensions to agree on in a section that we send in: those of publishing too, because a Chromium offers its
    /// later sections only what it was answered in earlier ones of the kind, and without the one of rids its simulcast
    /// fails.
    pub(crate) fn extensions_of_slot(&self, kind: MediaKind, role: Role) -> Vec<ExtensionId> {
        self.extensions_read(|extension| extension.is_sent(kind, role) || extension.is_received(kind, role))
    }

    fn extensions_read(&self, is_wanted: impl Fn(Extension) -> bool) -> Vec<ExtensionId> {
        let wanted = self.extensions.iter().filter(|(entry, direction)| {
            is_wanted(entry.extension) && matches!(direction, Direction::Sendrecv | Direction::Recvonly)
        });
        wanted.map(|(entry, _)| *entry).collect()
    }
}

impl Description {
    pub(crate) fn parse(text: &str, kind: DescriptionKind) -> Result<Self, SdpError> {
        let sdp = Sdp::parse(text)?;
        let bundle = bundle_of(&sdp);
        let mut sections = Vec::with_capacity(sdp.sections.len());
        for section in &sdp.sections {
            sections.push(read_section(section, &sdp)?);
        }
        check_mids(&sections, &bundle)?;

        let used = sdp.sections.iter().zip(&sections).filter(|(_, read)| read.kind != SectionKind::Unusable);
        let (mut transport, mut roles) = (None, None);
        for (section, _) in used {
            if let Some(setup) = find(section, &sdp, Name::Setup) {
                let role = read_setup(setup, kind)?;
                if roles.replace(role).is_some_and(|other| other != role) {
                    return Err(SdpError("sections of one transport differ in their setup".into()));
                }
            }
            if transport.is_none() {
                transport = Some((read_ice(section, &sdp)?, read_fingerprint(section, &sdp)?));
            }
        }
        let (ice, fingerprint) = transport.ok_or_else(|| SdpError("it has no section in use".into()))?;
        // Without a word of it the client begins.
        let dtls_role = roles.unwrap_or(DtlsRole::Server);
        Ok(Self {
            allows_mixed_extensions: allows_mixed_extensions(&sdp),
            is_bundled: !bundle.is_empty(),
            ice,
            fingerprint,
            dtls_role,
            ssrcs: declared(&sections),
            sections,
        })
    }

    /// The usable section with this mid.
    pub(crate) fn section(&self, mid: &Mid) -> Option<&ClientSection> {
        self.sections.iter().find(|section| section.kind != SectionKind::Unusable && section.mid == *mid)
    }

    /// Whether the client declares this SSRC as its own.
    pub(crate) fn declares(&self, ssrc: Ssrc) -> bool {
        self.ssrcs.contains(&ssrc)
    }
}

fn declared(sections: &[ClientSection]) -> BTreeSet<Ssrc> {
    let pairs = sections.iter().flat_map(|section| &section.ssrcs);
    pairs.flat_map(|(media, rtx)| std::iter::once(*media).chain(*rtx)).collect()
}

/// An attribute of the section, else of the session.
fn find<'a>(section: &Section<'a>, sdp: &Sdp<'a>, name: Name) -> Option<&'a str> {
    sdp::value(&section.attributes, name).or_else(|| sdp::value(&sdp.attributes, name))
}

/// Mids of the first BUNDLE group.
fn bundle_of<'a>(sdp: &Sdp<'a>) -> Vec<&'a str> {
    let mut groups = sdp::values(&sdp.attributes, Name::Group).map(str::split_ascii_whitespace);
    let mids = groups.find_map(|mut words| (words.next() == Some("BUNDLE")).then_some(words));
    mids.map(Iterator::collect).unwrap_or_default()
}

fn allows_mixed_extensions(sdp: &Sdp<'_>) -> bool {
    let mut all = std::iter::once(&sdp.attributes).chain(sdp.sections.iter().map(|section| &section.attributes));
    all.any(|attributes| sdp::value(attributes, Name::ExtmapAllowMixed).is_some())
}

/// Every section in use needs a mid of its own, and all must share one transport.
fn check_mids(sections: &[ClientSection], bundle: &[&str]) -> Result<(), SdpError> {
    let mut seen = std::collections::HashSet::new();
    let bundle: std::collections::HashSet<&str> = bundle.iter().copied().collect();
    let used = sections.iter().filter(|section| section.kind != SectionKind::Unusable).count();
    for section in sections.iter().filter(|section| !section.mid.is_empty()) {
        if !seen.insert(section.mid) {
            return Err(SdpError(format!("mid {:?} is used twice", section.mid.as_str())));
        }
        let needs_bundle = used > 1 || !bundle.is_empty();
        if section.kind != SectionKind::Unusable && needs_bundle && !bundle.contains(section.mid.as_str()) {
            return Err(SdpError(format!("section {:?} is outside of BUNDLE", section.mid.as_str())));
        }
    }
    Ok(())
}

/// Our DTLS role (RFC 8842, section 5.3). Towards an offer we are the server, so that its client must be able to begin;
/// our own offers leave the choice to the answer.
fn read_setup(setup: &str, kind: DescriptionKind) -> Result<DtlsRole, SdpError> {
    match (setup, kind) {
        ("active", _) | ("actpass", DescriptionKind::Offer) => Ok(DtlsRole::Server),
        ("passive", DescriptionKind::Answer) => Ok(DtlsRole::Client),
        (other, DescriptionKind::Offer) => {
            Err(SdpError(format!("setup {:?}: who offers must be able to begin the DTLS handshake", clip(other))))
        }
        (other, DescriptionKind::Answer) => Err(SdpError(format!("setup {:?} is no answer to actpass", clip(other)))),
    }
}

fn read_ice(section: &Section<'_>, sdp: &Sdp<'_>) -> Result<IceCredentials, SdpError> {
    let (Some(ufrag), Some(password)) = (find(section, sdp, Name::IceUfrag), find(section, sdp, Name::IcePwd)) else {
        return Err(SdpError("no ICE credentials".into()));
    };
    // RFC 8839, section 5.4.
    if !(4..=256).contains(&ufrag.len()) || !(22..=256).contains(&password.len()) {
        return Err(SdpError("ICE credentials of a wrong length".into()));
    }
    Ok(IceCredentials { ufrag: ufrag.into(), password: password.into() })
}

fn read_fingerprint(section: &Section<'_>, sdp: &Sdp<'_>) -> Result<Fingerprint, SdpError> {
    let own = sdp::value(&section.attributes, Name::Fingerprint);
    let attributes = if own.is_some() { &section.attributes } else { &sdp.attributes };
    let mut has_other = false;
    for value in sdp::values(attributes, Name::Fingerprint) {
        match value.split_once(' ') {
            Some((hash, digits)) if hash.eq_ignore_ascii_case("sha-256") => return parse_fingerprint(digits),
            _ => has_other = true,
        }
    }
    Err(SdpError(if has_other { "no sha-256 fingerprint" } else { "no fingerprint" }.into()))
}

fn parse_fingerprint(digits: &str) -> Result<Fingerprint, SdpError> {
    let mut bytes = [0; 32];
    let mut pairs = digits.trim().split(':');
    for byte in &mut bytes {
        let pair = pairs.next().filter(|pair| pair.len() == 2);
        let parsed = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        *byte = parsed.ok_or_else(|| SdpError("a malformed fingerprint".into()))?;
    }
    match pairs.next() {
        None => Ok(Fingerprint(bytes)),
        Some(_) => Err(SdpError("a fingerprint of a wrong length".into())),
    }
}

fn read_section(section: &Section<'_>, sdp: &Sdp<'_>) -> Result<ClientSection, SdpError> {
    let kind = kind_of(section)?;
    let mid = read_mid(section)?;
    if mid.is_empty() && kind != SectionKind::Unusable {
        return Err(SdpError("a media section without mid".into()));
    }
    let mut read = ClientSection {
        kind,
        mid,
        media: section.media.into(),
        protocol: section.protocol.into(),
        formats: section.formats.join(" "),
        direction: direction_of(section, sdp),
        codecs: Vec::new(),
        extensions: Vec::new(),
        stream_id: String::new(),
        track_id: String::new(),
        rids: Vec::new(),
        ssrcs: Vec::new(),
        is_ssrc_simulcast: false,
    };
    if let SectionKind::Media(media) = kind {
        read.codecs = read_codecs(section, media);
        read.extensions = read_extensions(section, sdp);
        read.rids = read_rids(section);
        (read.ssrcs, read.is_ssrc_simulcast) = read_ssrcs(section);
        (read.stream_id, read.track_id) = read_msid(section);
    }
    Ok(read)
}

fn kind_of(section: &Section<'_>) -> Result<SectionKind, SdpError> {
    let has = |name| sdp::value(&section.attributes, name).is_some();
    // Port 0 with bundle-only is in use all the same (RFC 8843, section 6).
    if section.port == 0 && !has(Name::BundleOnly) {
        return Ok(SectionKind::Unusable);
    }
    let kind = match section.media {
        "audio" => SectionKind::Media(MediaKind::Audio),
        "video" => SectionKind::Media(MediaKind::Video),
        "application" => SectionKind::Application,
        _ => return Ok(SectionKind::Unusable),
    };
    let is_served = match kind {
        SectionKind::Application => {
            section.protocol.ends_with("/DTLS/SCTP") && section.formats == ["webrtc-datachannel"]
        }
        SectionKind::Media(_) | SectionKind::Unusable => section.protocol.ends_with("RTP/SAVPF"),
    };
    match (is_served, kind) {
        (false, _) => Ok(SectionKind::Unusable),
        (true, SectionKind::Media(_)) if !has(Name::RtcpMux) => {
            Err(SdpError("a media section without rtcp-mux".into()))
        }
        (true, kind) => Ok(kind),
    }
}

fn read_mid(section: &Section<'_>) -> Result<Mid, SdpError> {
    let text = sdp::value(&section.attributes, Name::Mid).unwrap_or("");
    let is_token = text.bytes().all(|byte| byte.is_ascii_graphic());
    match Mid::from(text) {
        Ok(mid) if is_token => Ok(mid),
        _ => Err(SdpError(format!("mid {:?} is longer than 16 bytes, or no token", clip(text)))),
    }
}

fn direction_of(section: &Section<'_>, sdp: &Sdp<'_>) -> Direction {
    let read = |attribute: &Attribute<'_>| match attribute.name {
        Name::Sendrecv => Some(Direction::Sendrecv),
        Name::Sendonly => Some(Direction::Sendonly),
        Name::Recvonly => Some(Direction::Recvonly),
        Name::Inactive => Some(Direction::Inactive),
        Name::BundleOnly | Name::Extmap | Name::ExtmapAllowMixed | Name::Fingerprint | Name::Fmtp | Name::Group => None,
        Name::IcePwd | Name::IceUfrag | Name::Mid | Name::Msid | Name::Rid | Name::RtcpFb | Name::RtcpMux => None,
        Name::Rtpmap | Name::Setup | Name::Simulcast | Name::Ssrc | Name::SsrcGroup => None,
    };
    let own = section.attributes.iter().find_map(read);
    own.or_else(|| sdp.attributes.iter().find_map(read)).unwrap_or(Direction::Sendrecv)
}

fn direction_named(name: &str) -> Option<Direction> {
    match name {
        "sendrecv" => Some(Direction::Sendrecv),
        "sendonly" => Some(Direction::Sendonly),
        "recvonly" => Some(Direction::Recvonly),
        "inactive" => Some(Direction::Inactive),
        _ => None,
    }
}

/// What a section says of one payload type.
#[derive(Debug, Clone, Default)]
struct Payload<'a> {
    rtpmap: Option<&'a str>,
    fmtp: &'a str,
    feedback: Vec<Feedback>,
}

/// Payload types 64 to 95 look like RTCP under rtcp-mux (RFC 5761, section 4).
fn is_payload_type(number: u8) -> bool {
    number < 64 || (96..128).contains(&number)
}

fn read_codecs(section: &Section<'_>, kind: MediaKind) -> Vec<SectionCodec> {
    let payloads = read_payloads(section);
    let mut codecs: Vec<SectionCodec> = Vec::new();
    let mut retransmissions = Vec::new();
    let mut listed = [false; 128];
    for format in &section.formats {
        let Some(payload_type) = format.parse::<u8>().ok().filter(|number| is_payload_type(*number)) else { continue };
        let payload = &payloads[usize::from(payload_type)];
        let Some(rtpmap) = payload.rtpmap.or_else(|| static_rtpmap(payload_type)) else { continue };
        if std::mem::replace(&mut listed[usize::from(payload_type)], true) {
            continue;
        }
        match Encoding::identify(kind, rtpmap, payload.fmtp) {
            Some(Encoding::Codec(_)) if codecs.len() == CODECS_MAX => {}
            Some(Encoding::Codec(codec)) => codecs.push(SectionCodec {
                payload_type,
                codec,
                rtx: None,
                fmtp: payload.fmtp.into(),
                feedback: payload.feedback.clone(),
            }),
            Some(Encoding::Rtx { of }) => retransmissions.push((of, payload_type)),
            None => {}
        }
    }
    for entry in &mut codecs {
        entry.rtx = retransmissions.iter().find(|(of, _)| *of == entry.payload_type).map(|(_, rtx)| *rtx);
    }
    let opus = codecs.iter().find(|entry| entry.codec == Codec::Opus).map(|entry| entry.payload_type);
    codecs.retain(|entry| entry.codec != Codec::Red || opus.is_some_and(|opus| codecs::red_packs(&entry.fmtp, opus)));
    codecs
}

/// Collects the payload attributes by payload type, 0 to 127.
fn read_payloads<'a>(section: &Section<'a>) -> Vec<Payload<'a>> {
    let mut payloads = vec![Payload::default(); 128];
    let mut of_all: Vec<&str> = Vec::new();
    for attribute in &section.attributes {
        if !matches!(attribute.name, Name::Rtpmap | Name::Fmtp | Name::RtcpFb) {
            continue;
        }
        let Some((target, text)) = sdp::split_at_byte(attribute.value, b' ') else { continue };
        let text = text.trim_ascii();
        let number = target.parse::<u8>().ok().map(usize::from);
        match (attribute.name, number.and_then(|number| payloads.get_mut(number))) {
            (Name::Rtpmap, Some(payload)) => payload.rtpmap = payload.rtpmap.or(Some(text)),
            (Name::Fmtp, Some(payload)) if payload.fmtp.is_empty() => payload.fmtp = text,
            (Name::RtcpFb, Some(payload)) => add_feedback(payload, text),
            (Name::RtcpFb, None) if target == "*" && Feedback::from_text(text).is_some() && !of_all.contains(&text) => {
                of_all.push(text);
                payloads.iter_mut().for_each(|payload| add_feedback(payload, text))
            }
            _ => {}
        }
    }
    payloads
}

fn add_feedback(payload: &mut Payload<'_>, text: &str) {
    match Feedback::from_text(text) {
        Some(feedback) if !payload.feedback.contains(&feedback) => payload.feedback.push(feedback),
        _ => {}
    }
}

/// Payload types that need no rtpmap (RFC 3551, table 4).
fn static_rtpmap(payload_type: u8) -> Option<&'static str> {
    match payload_type {
        0 => Some("PCMU/8000"),
        8 => Some("PCMA/8000"),
        _ => None,
    }
}

fn read_extensions(section: &Section<'_>, sdp: &Sdp<'_>) -> Vec<(ExtensionId, Direction)> {
    let mut read: Vec<(ExtensionId, Direction)> = Vec::new();
    for value in sdp::values(&section.attributes, Name::Extmap).chain(sdp::values(&sdp.attributes, Name::Extmap)) {
        let mut words = value.split_ascii_whitespace();
        let (number, direction) = match words.next().unwrap_or("").split_once('/') {
            Some((number, direction)) => (number, direction_named(direction)),
            None => (value.split_ascii_whitespace().next().unwrap_or(""), Some(Direction::Sendrecv)),
        };
        let id = number.parse::<u8>().ok().filter(|id| (1..=14).contains(id));
        let extension = words.next().and_then(Extension::from_uri);
        let (Some(id), Some(extension), Some(direction)) = (id, extension, direction) else { continue };
        if !read.iter().any(|(known, _)| known.id == id || known.extension == extension) {
            read.push((ExtensionId { extension, id }, direction));
        }
    }
    read
}

/// Rids that the client sends, in the order of `a=simulcast`; pause marks and alternatives do not matter (RFC 8853).
fn read_rids(section: &Section<'_>) -> Vec<Rid> {
    let mut declared: Vec<Rid> = Vec::new();
    for value in sdp::values(&section.attributes, Name::Rid) {
        let mut words = value.split_ascii_whitespace();
        let (Some(rid), Some("send")) = (words.next().and_then(parse_rid), words.next()) else { continue };
        if declared.len() < RIDS_MAX && !declared.contains(&rid) {
            declared.push(rid);
        }
    }
    let mut words = sdp::value(&section.attributes, Name::Simulcast).unwrap_or("").split_ascii_whitespace();
    let Some(streams) = words.find(|word| *word == "send").and_then(|_| words.next()) else { return declared };
    let mut ordered: Vec<Rid> = Vec::new();
    for stream in streams.split(';').filter_map(|stream| stream.split(',').next()) {
        let rid = parse_rid(stream.trim_start_matches('~'));
        ordered.extend(rid.filter(|rid| declared.contains(rid) && !ordered.contains(rid)));
    }
    ordered
}

/// RFC 8852, section 3.
fn parse_rid(text: &str) -> Option<Rid> {
    let is_rid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    Rid::from(text).ok().filter(|_| is_rid)
}

/// Media SSRCs with those of their retransmissions (RFC 5576), and whether they are layers of one track.
fn read_ssrcs(section: &Section<'_>) -> (Vec<(Ssrc, Option<Ssrc>)>, bool) {
    let number = |word: &str| word.parse::<u32>().ok().map(Ssrc);
    let mut declared: Vec<Ssrc> = Vec::new();
    for value in sdp::values(&section.attributes, Name::Ssrc) {
        let ssrc = value.split_ascii_whitespace().next().and_then(number);
        declared.extend(ssrc.filter(|ssrc| declared.len() < SSRCS_MAX && !declared.contains(ssrc)));
    }
    let mut repairs: Vec<(Ssrc, Ssrc)> = Vec::new();
    let mut layers: Vec<Ssrc> = Vec::new();
    for value in sdp::values(&section.attributes, Name::SsrcGroup).take(SSRCS_MAX) {
        let mut words = value.split_ascii_whitespace();
        let semantics = words.next();
        let mut group = words.filter_map(number);
        match (semantics, group.next(), group.next()) {
            (Some("FID"), Some(media), Some(rtx)) => repairs.push((media, rtx)),
            // What repairs by other means is neither media nor RTX.
            (Some("FEC-FR" | "FEC"), Some(_), Some(fec)) => declared.retain(|ssrc| *ssrc != fec),
            (Some("SIM"), Some(first), Some(second)) if layers.is_empty() => {
                layers.extend([first, second].into_iter().chain(group).take(SSRCS_MAX));
            }
            _ => {}
        }
    }
    let is_simulcast = !layers.is_empty();
    let media = if is_simulcast { layers } else { declared };
    let media = media.into_iter().filter(|ssrc| !repairs.iter().any(|(_, rtx)| rtx == ssrc));
    let rtx_of = |ssrc: Ssrc| repairs.iter().find(|(media, _)| *media == ssrc).map(|(_, rtx)| *rtx);
    (media.map(|ssrc| (ssrc, rtx_of(ssrc))).collect(), is_simulcast)
}

/// Stream and track id, of `a=msid` (RFC 8830) or the older `a=ssrc:… msid:`.
fn read_msid(section: &Section<'_>) -> (String, String) {
    let of_ssrc = || {
        let mut values = sdp::values(&section.attributes, Name::Ssrc);
        values.find_map(|value| value.split_once(' ').and_then(|(_, rest)| rest.trim().strip_prefix("msid:")))
    };
    let text = sdp::value(&section.attributes, Name::Msid).or_else(of_ssrc).unwrap_or("");
    let mut words = text.split_ascii_whitespace().map(|word| clip_to(word, MSID_BYTES_MAX).to_owned());
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

/// The beginning of a foreign text, for messages.
fn clip(text: &str) -> &str {
    clip_to(text, 32)
}

fn clip_to(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}
