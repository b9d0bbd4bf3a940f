//! Session descriptions: offers and answers as a browser writes them, and what is read from the server's.
//!
//! Ours are texts, since they have to look as a browser's do; the server's are read by `rtc-sdp`, by other hands than
//! those that wrote them.

use std::fmt::Write as _;
use std::io::Cursor;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rtc_sdp::MediaDescription;
use rtc_sdp::description::session::SessionDescription;

use crate::codec::VideoCodec;
use crate::dtls::DtlsRole;
use crate::ice::{Credentials, IceRole};
use crate::receiver::MediaKind;
use crate::sender::Encoding;
use crate::trace::Layer;
use crate::transport::{ExpectedStream, PayloadKind, Reception, Remote};

const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
const TRANSPORT_SEQUENCE: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";

/// Payload types, names and parameters that are offered and accepted for video, as Chromium numbers them.
const VIDEO_CODECS: [(u8, &str, &str); 8] = [
    (96, "VP8", ""),
    (97, "rtx", "apt=96"),
    (98, "VP9", "profile-id=0"),
    (99, "rtx", "apt=98"),
    (108, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
    (109, "rtx", "apt=108"),
    (45, "AV1", "level-idx=5;profile=0;tier=0"),
    (46, "rtx", "apt=45"),
];

/// A track to send in a section.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The client's name of the track, which the server knows from AddTrack.
    pub cid: String,
    pub stream: String,
    /// One, or those of a simulcast track from the smallest to the largest.
    pub layers: Vec<SendingLayer>,
    pub codec: Option<VideoCodec>,
}

/// One encoding of a track.
#[derive(Debug, Clone, Copy)]
pub struct SendingLayer {
    pub layer: Layer,
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
}

impl Sending {
    fn is_simulcast(&self) -> bool {
        self.layers.len() > 1
    }

    fn rids(&self) -> Vec<&'static str> {
        self.layers.iter().map(|layer| layer.layer.rid()).collect()
    }
}

/// One media section of our offers.
#[derive(Debug, Clone)]
pub enum LocalSection {
    Receive(MediaKind),
    Send(MediaKind, Sending),
    /// A track that is no longer sent.
    Ended(MediaKind),
    Application,
}

/// `a=setup` of an answer to an offer with `actpass`: the active side is the DTLS client (RFC 8842, section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Setup {
    /// What browsers answer.
    #[default]
    Active,
    /// What Pion answers to an ICE-lite server.
    Passive,
}

impl Setup {
    pub fn role(self) -> DtlsRole {
        match self {
            Self::Active => DtlsRole::Client,
            Self::Passive => DtlsRole::Server,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

/// What is the same in every description of one transport.
#[derive(Debug, Clone)]
pub struct LocalTransport {
    pub credentials: Credentials,
    pub fingerprint: Arc<str>,
    pub candidate: SocketAddr,
    /// The `o=` line's session id.
    pub session: u64,
}

/// Renders an offer; the mid of a section is its index.
pub fn offer(transport: &LocalTransport, version: u32, sections: &[LocalSection]) -> String {
    let mut sdp = session_head(transport, version, (0..sections.len()).map(|mid| mid.to_string()));
    for (mid, section) in sections.iter().enumerate() {
        write_section(&mut sdp, transport, &mid.to_string(), section);
    }
    sdp
}

fn session_head(transport: &LocalTransport, version: u32, mids: impl Iterator<Item = String>) -> String {
    let mids = mids.collect::<Vec<_>>().join(" ");
    format!(
        "v=0\r\no=- {} {version} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {mids}\r\n\
         a=extmap-allow-mixed\r\na=msid-semantic: WMS *\r\n",
        transport.session
    )
}

fn write_section(sdp: &mut String, transport: &LocalTransport, mid: &str, section: &LocalSection) {
    match section {
        LocalSection::Application => write_application(sdp, transport, mid, "actpass"),
        LocalSection::Receive(kind) | LocalSection::Ended(kind) => {
            write_media_head(sdp, *kind, &receive_payloads(*kind));
            write_transport(sdp, transport, mid, "actpass");
            write_extensions(sdp, *kind, true);
            let direction = if matches!(section, LocalSection::Ended(_)) { "inactive" } else { "recvonly" };
            line(sdp, format_args!("a={direction}\r\na=rtcp-mux\r\na=rtcp-rsize"));
            write_codecs(sdp, *kind, &receive_payloads(*kind));
        }
        LocalSection::Send(kind, sending) => {
            let payloads = send_payloads(*kind, sending);
            write_media_head(sdp, *kind, &payloads);
            write_transport(sdp, transport, mid, "actpass");
            write_extensions(sdp, *kind, false);
            line(
                sdp,
                format_args!("a=sendonly\r\na=msid:{} {}\r\na=rtcp-mux\r\na=rtcp-rsize", sending.stream, sending.cid),
            );
            write_codecs(sdp, *kind, &payloads);
            if sending.is_simulcast() {
                write_rids(sdp, &sending.rids());
            } else {
                write_ssrcs(sdp, sending);
            }
        }
    }
}

fn line(sdp: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = write!(sdp, "{text}\r\n");
}

fn write_media_head(sdp: &mut String, kind: MediaKind, payloads: &[u8]) {
    let name = if kind == MediaKind::Audio { "audio" } else { "video" };
    let list = payloads.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    line(sdp, format_args!("m={name} 9 UDP/TLS/RTP/SAVPF {list}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0"));
}

fn write_transport(sdp: &mut String, transport: &LocalTransport, mid: &str, setup: &str) {
    let LocalTransport { credentials, fingerprint, candidate, .. } = transport;
    line(sdp, format_args!("a=ice-ufrag:{}\r\na=ice-pwd:{}", credentials.ufrag, credentials.password));
    line(sdp, format_args!("a=ice-options:trickle\r\na=fingerprint:sha-256 {fingerprint}"));
    line(sdp, format_args!("a=setup:{setup}\r\na=mid:{mid}"));
    let (ip, port) = (candidate.ip(), candidate.port());
    line(sdp, format_args!("a=candidate:1 1 udp 2122260223 {ip} {port} typ host generation 0"));
}

fn write_application(sdp: &mut String, transport: &LocalTransport, mid: &str, setup: &str) {
    line(sdp, format_args!("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0"));
    write_transport(sdp, transport, mid, setup);
    line(sdp, format_args!("a=sctp-port:5000\r\na=max-message-size:262144"));
}

fn write_extensions(sdp: &mut String, kind: MediaKind, receives: bool) {
    if kind == MediaKind::Audio {
        line(sdp, format_args!("a=extmap:1 {AUDIO_LEVEL}"));
    }
    if receives {
        line(sdp, format_args!("a=extmap:2 {ABS_SEND_TIME}"));
    }
    line(sdp, format_args!("a=extmap:3 {TRANSPORT_SEQUENCE}\r\na=extmap:4 {MID}"));
}

fn receive_payloads(kind: MediaKind) -> Vec<u8> {
    match kind {
        MediaKind::Audio => vec![111, 63, 0, 8],
        MediaKind::Video => VIDEO_CODECS.iter().map(|(payload_type, ..)| *payload_type).collect(),
    }
}

fn send_payloads(kind: MediaKind, sending: &Sending) -> Vec<u8> {
    match (kind, sending.codec) {
        (MediaKind::Audio, _) => vec![111],
        (MediaKind::Video, Some(VideoCodec::H264)) => vec![108, 109],
        (MediaKind::Video, _) => vec![96, 97],
    }
}

fn write_codecs(sdp: &mut String, kind: MediaKind, payloads: &[u8]) {
    if kind == MediaKind::Audio {
        line(sdp, format_args!("a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1"));
        line(sdp, format_args!("a=rtcp-fb:111 transport-cc"));
        if payloads.contains(&63) {
            line(sdp, format_args!("a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111"));
            line(sdp, format_args!("a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000"));
        }
        return;
    }
    for (payload_type, name, parameters) in VIDEO_CODECS.iter().filter(|codec| payloads.contains(&codec.0)) {
        line(sdp, format_args!("a=rtpmap:{payload_type} {name}/90000"));
        if !parameters.is_empty() {
            line(sdp, format_args!("a=fmtp:{payload_type} {parameters}"));
        }
        if *name != "rtx" {
            for feedback in ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"] {
                line(sdp, format_args!("a=rtcp-fb:{payload_type} {feedback}"));
            }
        }
    }
}

fn write_ssrcs(sdp: &mut String, sending: &Sending) {
    for SendingLayer { ssrc, rtx_ssrc, .. } in &sending.layers {
        if let Some(rtx) = rtx_ssrc {
            line(sdp, format_args!("a=ssrc-group:FID {ssrc} {rtx}"));
        }
        for ssrc in std::iter::once(ssrc).chain(rtx_ssrc) {
            line(
                sdp,
                format_args!("a=ssrc:{ssrc} cname:loadtest\r\na=ssrc:{ssrc} msid:{} {}", sending.stream, sending.cid),
            );
        }
    }
}

/// Simulcast (RFC 8853): browsers then declare no SSRC.
fn write_rids(sdp: &mut String, rids: &[&str]) {
    line(sdp, format_args!("a=extmap:10 {RID}\r\na=extmap:11 {REPAIRED_RID}"));
    for rid in rids {
        line(sdp, format_args!("a=rid:{rid} send"));
    }
    line(sdp, format_args!("a=simulcast:send {}", rids.join(";")));
}

/// Answers an offer of the server (v0's subscriber transport): everything it sends is taken.
pub fn answer(transport: &LocalTransport, setup: Setup, offer: &Description) -> String {
    let mids = offer.sections.iter().map(|section| section.mid.clone());
    let mut sdp = session_head(transport, 1, mids);
    for section in &offer.sections {
        let Some(kind) = section.kind else {
            write_application(&mut sdp, transport, &section.mid, setup.name());
            continue;
        };
        let accepted = section.accepted_payloads();
        let list: Vec<u8> = accepted.iter().map(|(payload_type, _)| *payload_type).collect();
        write_media_head(&mut sdp, kind, &list);
        write_transport(&mut sdp, transport, &section.mid, setup.name());
        for text in section.attributes.iter().filter(|text| text.starts_with("extmap:")) {
            if [AUDIO_LEVEL, ABS_SEND_TIME, TRANSPORT_SEQUENCE, MID].iter().any(|uri| text.contains(uri)) {
                line(&mut sdp, format_args!("a={text}"));
            }
        }
        let direction = if section.sends() { "recvonly" } else { "inactive" };
        line(&mut sdp, format_args!("a={direction}\r\na=rtcp-mux\r\na=rtcp-rsize"));
        for text in &section.attributes {
            let about = ["rtpmap:", "fmtp:", "rtcp-fb:"].iter().find_map(|name| text.strip_prefix(name));
            let number = about.and_then(|rest| rest.split(' ').next()?.parse::<u8>().ok());
            if number.is_some_and(|number| list.contains(&number)) {
                line(&mut sdp, format_args!("a={text}"));
            }
        }
    }
    sdp
}

/// A parsed description of the server.
#[derive(Debug, Clone, Default)]
pub struct Description {
    attributes: Vec<String>,
    pub sections: Vec<Section>,
}

/// One media section of the server.
#[derive(Debug, Clone)]
pub struct Section {
    /// `None` for data channels.
    pub kind: Option<MediaKind>,
    pub mid: String,
    payload_types: Vec<u8>,
    attributes: Vec<String>,
}

/// More sections than this are not parsed.
const SECTIONS_MAX: usize = 1_000;

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    ///
    /// When it is not well-formed, or has too many sections.
    pub fn parse(sdp: &str) -> anyhow::Result<Self> {
        let session = SessionDescription::unmarshal(&mut Cursor::new(sdp)).context("an SDP that cannot be read")?;
        if session.media_descriptions.len() > SECTIONS_MAX {
            bail!("an SDP with more than {SECTIONS_MAX} sections");
        }
        let attributes = session.attributes.iter().map(ToString::to_string).collect();
        let sections = session.media_descriptions.iter().map(Section::of).collect();
        Ok(Self { attributes, sections })
    }

    fn first(&self, name: &str) -> Option<&str> {
        let in_sections = self.sections.iter().flat_map(|section| &section.attributes);
        self.attributes.iter().chain(in_sections).find_map(|text| text.strip_prefix(name)?.strip_prefix(':'))
    }

    /// Credentials, fingerprint and our DTLS role; in ICE we control, as the side that offered does.
    ///
    /// # Errors
    ///
    /// When one of them is missing, or the fingerprint is not SHA-256.
    pub fn remote(&self) -> anyhow::Result<Remote> {
        let ufrag = self.first("ice-ufrag").context("an SDP without ice-ufrag")?.to_owned();
        let password = self.first("ice-pwd").context("an SDP without ice-pwd")?.to_owned();
        let fingerprint = self.first("fingerprint").context("an SDP without fingerprint")?;
        let (hash, fingerprint) = fingerprint.split_once(' ').context("a fingerprint without value")?;
        if !hash.eq_ignore_ascii_case("sha-256") {
            bail!("a fingerprint with the hash {hash}");
        }
        let role = if self.first("setup") == Some("active") { DtlsRole::Server } else { DtlsRole::Client };
        Ok(Remote {
            credentials: Credentials { ufrag, password },
            fingerprint: fingerprint.to_owned(),
            role,
            ice_role: IceRole::Controlling,
        })
    }

    /// Candidates inside the description.
    pub fn candidates(&self) -> impl Iterator<Item = SocketAddr> {
        let in_sections = self.sections.iter().flat_map(|section| &section.attributes);
        self.attributes.iter().chain(in_sections).filter_map(|text| candidate(text))
    }

    /// Whether the server said `a=ice-lite`.
    pub fn is_lite(&self) -> bool {
        self.attributes.iter().any(|text| text == "ice-lite")
    }

    /// What the server will send; `track_of` gives the track of a mid that its SDP does not name.
    pub fn reception(&self, track_of: impl Fn(&str) -> Option<String>) -> Reception {
        let mut reception = Reception::default();
        for section in &self.sections {
            let Some(kind) = section.kind else { continue };
            reception.payloads.extend(section.accepted_payloads());
            if !section.sends() {
                continue;
            }
            let Some((ssrc, rtx_ssrc)) = section.ssrcs() else { continue };
            let track = track_of(&section.mid).or_else(|| section.track()).unwrap_or_default();
            reception.streams.push(ExpectedStream { kind, ssrc, rtx_ssrc, track: track.into() });
            if kind == MediaKind::Video {
                reception.remb |= section.has_feedback("goog-remb");
                if section.has_feedback("transport-cc") {
                    reception.transport_sequence_extension = section.extension(TRANSPORT_SEQUENCE);
                }
            }
        }
        reception.payloads.sort_unstable_by_key(|(payload_type, _)| *payload_type);
        reception.payloads.dedup();
        reception
    }

    /// How to send each layer in the section with this mid; `None` if the server does not take it.
    ///
    /// A server that takes no simulcast gets the largest layer.
    pub fn encodings(&self, mid: &str, sending: &Sending) -> Option<Vec<(Layer, Encoding)>> {
        let section = self.sections.iter().find(|section| section.mid == mid)?;
        let kind = section.kind?;
        if !section.has("recvonly") && !section.has("sendrecv") {
            return None;
        }
        let wanted = match (kind, sending.codec) {
            (MediaKind::Audio, _) => "opus",
            (MediaKind::Video, codec) => codec?.name(),
        };
        let payload_type = section.payload_of(wanted)?;
        let rtx = section.fmtp_with(&format!("apt={payload_type}"));
        let audio_level = (kind == MediaKind::Audio).then(|| section.extension(AUDIO_LEVEL)).flatten();
        let simulcast = sending.is_simulcast() && section.values("simulcast").next().is_some();
        let layers = if simulcast { &sending.layers[..] } else { sending.layers.last_chunk::<1>()? };
        let encoding = |layer: &SendingLayer| Encoding {
            payload_type,
            ssrc: layer.ssrc,
            rtx: rtx.zip(layer.rtx_ssrc),
            mid: mid.to_owned(),
            rid: simulcast.then(|| layer.layer.rid()),
            mid_extension: section.extension(MID),
            rid_extension: section.extension(RID),
            repaired_rid_extension: section.extension(REPAIRED_RID),
            transport_sequence_extension: section.extension(TRANSPORT_SEQUENCE),
            audio_level_extension: audio_level,
        };
        Some(layers.iter().map(|layer| (layer.layer, encoding(layer))).collect())
    }
}

impl Section {
    fn of(media: &MediaDescription) -> Self {
        let kind = match media.media_name.media.as_str() {
            "audio" => Some(MediaKind::Audio),
            "video" => Some(MediaKind::Video),
            _ => None,
        };
        Self {
            kind,
            mid: media.attribute("mid").flatten().unwrap_or_default().to_owned(),
            payload_types: media.media_name.formats.iter().filter_map(|format| format.parse().ok()).collect(),
            attributes: media.attributes.iter().map(ToString::to_string).collect(),
        }
    }

    fn has(&self, attribute: &str) -> bool {
        self.attributes.iter().any(|text| text == attribute)
    }

    /// Whether the server sends here: it has an SSRC and no direction that forbids it.
    pub fn sends(&self) -> bool {
        !self.has("recvonly") && !self.has("inactive")
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.attributes.iter().filter_map(move |text| text.strip_prefix(name)?.strip_prefix(':'))
    }

    fn has_feedback(&self, feedback: &str) -> bool {
        self.values("rtcp-fb").any(|value| value.split_once(' ').is_some_and(|(_, rest)| rest == feedback))
    }

    fn extension(&self, uri: &str) -> Option<u8> {
        self.values("extmap").find_map(|value| {
            let (id, rest) = value.split_once(' ')?;
            // A direction may follow the id.
            let id = id.split('/').next()?.parse().ok()?;
            (rest.split(' ').next() == Some(uri) && (1..=14).contains(&id)).then_some(id)
        })
    }

    /// The media stream and its retransmission stream.
    fn ssrcs(&self) -> Option<(u32, Option<u32>)> {
        let group = self.values("ssrc-group").find_map(|value| value.strip_prefix("FID "));
        if let Some((media, rtx)) = group.and_then(|pair| pair.split_once(' ')) {
            return Some((media.parse().ok()?, rtx.parse().ok()));
        }
        let ssrc = self.values("ssrc").next()?.split(' ').next()?.parse().ok()?;
        Some((ssrc, None))
    }

    /// The track in `msid:PA_…|TR_… TR_…`.
    fn track(&self) -> Option<String> {
        let msid = self.values("msid").next()?;
        msid.rsplit(' ').next().map(str::to_owned)
    }

    /// The encoding name of a payload type, without rate.
    fn codec_name(&self, payload_type: u8) -> Option<&str> {
        self.values("rtpmap").find_map(|value| {
            let (number, rest) = value.split_once(' ')?;
            (number.parse() == Ok(payload_type)).then(|| rest.split('/').next()).flatten()
        })
    }

    fn payload_of(&self, name: &str) -> Option<u8> {
        let is =
            |payload_type: &&u8| self.codec_name(**payload_type).is_some_and(|known| known.eq_ignore_ascii_case(name));
        self.payload_types.iter().find(is).copied()
    }

    fn fmtp_with(&self, parameter: &str) -> Option<u8> {
        self.values("fmtp").find_map(|value| {
            let (number, rest) = value.split_once(' ')?;
            (rest.trim() == parameter).then(|| number.parse().ok()).flatten()
        })
    }

    /// Payload types of codecs that we know.
    fn accepted_payloads(&self) -> Vec<(u8, PayloadKind)> {
        let kind_of = |payload_type: u8| {
            let name = self.codec_name(payload_type)?.to_ascii_lowercase();
            Some(match name.as_str() {
                "opus" | "red" | "pcmu" | "pcma" if self.kind == Some(MediaKind::Audio) => PayloadKind::Audio,
                "vp8" => PayloadKind::Video(VideoCodec::Vp8),
                "h264" => PayloadKind::Video(VideoCodec::H264),
                "vp9" | "av1" => PayloadKind::OtherVideo,
                "rtx" => PayloadKind::Retransmission,
                _ => return None,
            })
        };
        self.payload_types.iter().filter_map(|&payload_type| Some((payload_type, kind_of(payload_type)?))).collect()
    }
}

/// The address of a UDP candidate, from an attribute or a trickled line.
pub fn candidate(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("candidate:")?;
    let mut words = text.split(' ');
    let (component, protocol) = (words.nth(1)?, words.next()?);
    let ip: IpAddr = words.nth(1)?.parse().ok()?;
    let port = words.next()?.parse().ok()?;
    (component == "1" && protocol.eq_ignore_ascii_case("udp")).then(|| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 AA:BB\r\n\
        a=group:BUNDLE 0 1 2\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\na=setup:active\r\na=mid:0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\n\
        a=rtpmap:111 opus/48000/2\r\na=rtpmap:63 red/48000/2\r\n\
        a=ssrc:11 cname:x\r\na=msid:PA_a|TR_A TR_A\r\na=sendonly\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:1\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 goog-remb\r\n\
        a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
        a=ssrc-group:FID 21 22\r\na=ssrc:21 cname:x\r\na=ssrc:22 cname:x\r\na=sendonly\r\n\
        a=candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host\r\na=candidate:1 2 udp 1 127.0.0.1 7882 typ host\r\n\
        a=candidate:2 1 tcp 1671430143 127.0.0.1 7881 typ host tcptype passive\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:2\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n\
        a=fmtp:97 apt=96\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=recvonly\r\n";

    fn transport() -> LocalTransport {
        LocalTransport {
            credentials: Credentials { ufrag: "abcd".into(), password: "a-long-enough-password".into() },
            fingerprint: "AA:BB".into(),
            candidate: SocketAddr::from(([127, 0, 0, 1], 5000)),
            session: 1,
        }
    }

    fn sending() -> Sending {
        let layers = vec![SendingLayer { layer: Layer::High, ssrc: 5, rtx_ssrc: Some(6) }];
        Sending { cid: "cam".into(), stream: "s".into(), layers, codec: Some(VideoCodec::Vp8) }
    }

    fn simulcast() -> Sending {
        let layer = |(number, layer)| SendingLayer { layer, ssrc: number, rtx_ssrc: Some(number + 10) };
        Sending { layers: (1..).zip(Layer::ALL).map(layer).collect(), ..sending() }
    }

    #[test]
    fn an_answer_gives_streams_role_and_udp_candidates() {
        let answer = Description::parse(ANSWER).unwrap();
        let remote = answer.remote().unwrap();
        assert_eq!((remote.role, remote.fingerprint.as_str()), (DtlsRole::Server, "AA:BB"));
        assert_eq!(answer.candidates().collect::<Vec<_>>(), [SocketAddr::from(([127, 0, 0, 1], 7882))]);
        let reception = answer.reception(|mid| (mid == "1").then(|| "TR_V".to_owned()));
        let tracks: Vec<_> = reception.streams.iter().map(|s| (s.kind, s.ssrc, s.rtx_ssrc, &*s.track)).collect();
        assert_eq!(tracks, [(MediaKind::Audio, 11, None, "TR_A"), (MediaKind::Video, 21, Some(22), "TR_V")]);
        assert!(reception.remb && reception.transport_sequence_extension.is_none());
        assert!(reception.payloads.contains(&(97, PayloadKind::Retransmission)));
    }

    #[test]
    fn a_taken_track_gives_its_encoding_and_a_refused_one_none() {
        let answer = Description::parse(ANSWER).unwrap();
        let encodings = answer.encodings("2", &sending()).unwrap();
        let [(Layer::High, encoding)] = &encodings[..] else { panic!("{encodings:?}") };
        assert_eq!((encoding.payload_type, encoding.rtx, encoding.mid_extension), (96, Some((97, 6)), Some(4)));
        assert!(answer.encodings("1", &sending()).is_none());
        assert!(answer.encodings("9", &sending()).is_none());
    }

    #[test]
    fn simulcast_is_offered_by_rid_and_a_server_without_it_gets_the_largest_layer() {
        let text = offer(&transport(), 1, &[LocalSection::Send(MediaKind::Video, simulcast())]);
        assert!(text.contains("a=rid:h send\r\n") && text.contains("a=simulcast:send q;h;f\r\n"));
        assert!(!text.contains("a=ssrc"));

        let taken = ANSWER.to_owned() + "a=rid:q recv\r\na=rid:h recv\r\na=rid:f recv\r\na=simulcast:recv q;h;f\r\n";
        let rids = |answer: &str| -> Vec<_> {
            let encodings = Description::parse(answer).unwrap().encodings("2", &simulcast()).unwrap();
            encodings.into_iter().map(|(_, encoding)| (encoding.rid, encoding.ssrc)).collect()
        };
        assert_eq!(rids(&taken), [(Some("q"), 1), (Some("h"), 2), (Some("f"), 3)]);
        assert_eq!(rids(ANSWER), [(None, 3)]);
    }

    #[test]
    fn an_offer_reads_back_with_its_sections() {
        let sections = [
            LocalSection::Receive(MediaKind::Audio),
            LocalSection::Receive(MediaKind::Video),
            LocalSection::Application,
            LocalSection::Send(MediaKind::Video, sending()),
        ];
        let text = offer(&transport(), 2, &sections);
        let parsed = Description::parse(&text).unwrap();
        let kinds: Vec<_> = parsed.sections.iter().map(|section| section.kind).collect();
        assert_eq!(kinds, [Some(MediaKind::Audio), Some(MediaKind::Video), None, Some(MediaKind::Video)]);
        assert_eq!(parsed.sections[3].ssrcs(), Some((5, Some(6))));
        assert_eq!(parsed.remote().unwrap().role, DtlsRole::Client);
    }

    #[test]
    fn an_offer_of_the_server_is_answered_section_by_section() {
        let text = answer(&transport(), Setup::Passive, &Description::parse(ANSWER).unwrap());
        let parsed = Description::parse(&text).unwrap();
        assert_eq!((text.matches("a=setup:passive").count(), text.matches("a=setup:").count()), (3, 3));
        assert_eq!(parsed.sections.len(), 3);
        assert!(parsed.sections[0].has("recvonly") && parsed.sections[1].has("recvonly"));
        assert!(parsed.sections[2].has("inactive"));
        assert_eq!(parsed.sections[1].payload_of("VP8"), Some(96));
    }

    #[test]
    fn broken_candidates_are_left_out() {
        for text in ["", "candidate:", "candidate:1 1 udp", "candidate:1 1 udp 1 host.local 9 typ host"] {
            assert_eq!(candidate(text), None);
        }
    }
}
