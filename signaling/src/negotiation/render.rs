//! Our descriptions as text. What stands in them is decided in [`super::client_offers`] and [`super::server_offers`].

use serde::{Deserialize, Serialize};
use sfu::command::{Candidate, CandidateProtocol, Mid, Rid, SendSection, Ssrc};
use shared::media::{Codec, MediaKind};

use super::codecs::{Feedback, SectionCodec, rtpmap};
use super::description::Direction;
use super::extensions::{self, ExtensionId};
use super::interface::{LocalTransport, OutgoingTrack};
use super::sdp::Lines;

/// Largest data channel message we accept, in bytes; clients then send less than 64,000.
const MESSAGE_BYTES_MAX: u32 = 65_535;

/// A track shown in a section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    pub track: OutgoingTrack,
    pub ssrc: Ssrc,
    /// Set for video; used where a codec of the section has retransmissions.
    pub rtx_ssrc: Option<Ssrc>,
}

impl Bound {
    fn rtx_ssrc_with(&self, codecs: &[SectionCodec]) -> Option<Ssrc> {
        self.rtx_ssrc.filter(|_| codecs.iter().any(|entry| entry.rtx.is_some()))
    }

    pub(crate) fn send_section(&self, mid: Mid, codecs: &[SectionCodec], extensions: &[ExtensionId]) -> SendSection {
        let mut extensions = extensions::ids(extensions);
        // Numbers are for those who report on them.
        if !codecs.iter().any(|entry| entry.feedback.contains(&Feedback::TransportCc)) {
            extensions.transport_cc = None;
        }
        SendSection {
            mid,
            ssrc: self.ssrc,
            rtx_ssrc: self.rtx_ssrc_with(codecs),
            codecs: codecs.iter().map(SectionCodec::payload).collect(),
            extensions,
            cname: self.track.stream_id.as_str().into(),
            strips_trailers: self.track.strips_trailers,
        }
    }
}

/// A whole description of ours.
#[derive(Debug)]
pub(super) struct Outline<'a> {
    pub local: &'a LocalTransport,
    pub session_id: u64,
    pub version: u64,
    pub setup: Setup,
    pub allows_mixed_extensions: bool,
    pub is_bundled: bool,
    pub sections: Vec<OurSection<'a>>,
}

/// We are the DTLS server towards offers, and leave the choice to answers (RFC 8842, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    Passive,
    Actpass,
}

#[derive(Debug)]
pub(super) enum OurSection<'a> {
    Refused { media: &'a str, protocol: &'a str, formats: &'a str, mid: Mid },
    Application { protocol: &'a str, mid: Mid },
    Media(MediaSection<'a>),
}

#[derive(Debug)]
pub(super) struct MediaSection<'a> {
    pub kind: MediaKind,
    pub protocol: &'a str,
    pub mid: Mid,
    pub direction: Direction,
    pub codecs: Vec<SectionCodec>,
    pub extensions: Vec<ExtensionId>,
    /// Received layers, in the client's order.
    pub rids: Vec<Rid>,
    pub sender: Option<&'a Bound>,
}

impl OurSection<'_> {
    /// Of sections in use.
    fn mid(&self) -> Option<Mid> {
        match self {
            OurSection::Refused { .. } => None,
            OurSection::Application { mid, .. } => Some(*mid),
            OurSection::Media(section) => Some(section.mid),
        }
    }
}

impl Outline<'_> {
    pub(crate) fn text(&self) -> String {
        let mut lines = Lines::default();
        self.write_session(&mut lines);
        let mut needs_candidates = true;
        for section in &self.sections {
            match section {
                OurSection::Refused { media, protocol, formats, mid } => {
                    write_refused(&mut lines, media, protocol, formats, *mid);
                    continue;
                }
                OurSection::Application { protocol, mid } => {
                    lines.line(format_args!("m=application 9 {protocol} webrtc-datachannel"));
                    self.write_transport(&mut lines, *mid);
                    write_application(&mut lines);
                }
                OurSection::Media(section) => {
                    write_media_line(&mut lines, section);
                    self.write_transport(&mut lines, section.mid);
                    write_media(&mut lines, section);
                }
            }
            if std::mem::take(&mut needs_candidates) {
                write_candidates(&mut lines, &self.local.candidates);
            }
        }
        lines.into_text()
    }

    fn write_session(&self, lines: &mut Lines) {
        lines.line(format_args!("v=0"));
        lines.line(format_args!("o=- {} {} IN IP4 0.0.0.0", self.session_id, self.version));
        lines.line(format_args!("s=-"));
        lines.line(format_args!("t=0 0"));
        lines.attribute(format_args!("ice-lite"));
        lines.attribute(format_args!("msid-semantic:WMS *"));
        let bytes: Vec<String> = self.local.fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect();
        lines.attribute(format_args!("fingerprint:sha-256 {}", bytes.join(":")));
        if self.allows_mixed_extensions {
            lines.attribute(format_args!("extmap-allow-mixed"));
        }
        if self.is_bundled {
            let mids = self.sections.iter().filter_map(OurSection::mid);
            let group = mids.fold("BUNDLE".to_owned(), |group, mid| group + " " + mid.as_str());
            lines.attribute(format_args!("group:{group}"));
        }
    }

    /// What every section says of the one transport.
    fn write_transport(&self, lines: &mut Lines, mid: Mid) {
        lines.line(format_args!("c=IN IP4 0.0.0.0"));
        let setup = match self.setup {
            Setup::Passive => "passive",
            Setup::Actpass => "actpass",
        };
        lines.attribute(format_args!("setup:{setup}"));
        lines.attribute(format_args!("mid:{mid}"));
        lines.attribute(format_args!("ice-ufrag:{}", self.local.ice.ufrag));
        lines.attribute(format_args!("ice-pwd:{}", self.local.ice.password));
    }
}

fn write_refused(lines: &mut Lines, media: &str, protocol: &str, formats: &str, mid: Mid) {
    lines.line(format_args!("m={media} 0 {protocol} {formats}"));
    lines.line(format_args!("c=IN IP4 0.0.0.0"));
    if !mid.is_empty() {
        lines.attribute(format_args!("mid:{mid}"));
    }
    lines.attribute(format_args!("inactive"));
}

fn write_application(lines: &mut Lines) {
    lines.attribute(format_args!("sendrecv"));
    lines.attribute(format_args!("sctp-port:5000"));
    lines.attribute(format_args!("max-message-size:{MESSAGE_BYTES_MAX}"));
}

fn write_media_line(lines: &mut Lines, section: &MediaSection<'_>) {
    let media = match section.kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    };
    let payload_types = section.codecs.iter().flat_map(|entry| [Some(entry.payload_type), entry.rtx]).flatten();
    let formats = payload_types.fold(String::new(), |formats, number| format!("{formats} {number}"));
    lines.line(format_args!("m={media} 9 {}{formats}", section.protocol));
}

fn write_media(lines: &mut Lines, section: &MediaSection<'_>) {
    lines.attribute(format_args!("rtcp-mux"));
    lines.attribute(format_args!("rtcp-rsize"));
    for entry in &section.codecs {
        write_codec(lines, entry);
    }
    for ExtensionId { extension, id } in &section.extensions {
        lines.attribute(format_args!("extmap:{id} {}", extension.uri()));
    }
    for rid in &section.rids {
        lines.attribute(format_args!("rid:{rid} recv"));
    }
    if !section.rids.is_empty() {
        let rids: Vec<&str> = section.rids.iter().map(|rid| rid.as_str()).collect();
        lines.attribute(format_args!("simulcast:recv {}", rids.join(";")));
    }
    if let Some(sender) = section.sender {
        write_sender(lines, sender, &section.codecs);
    }
    lines.attribute(format_args!("{}", section.direction.text()));
}

fn write_codec(lines: &mut Lines, entry: &SectionCodec) {
    let number = entry.payload_type;
    lines.attribute(format_args!("rtpmap:{number} {}", rtpmap(entry.codec)));
    if !entry.fmtp.is_empty() {
        lines.attribute(format_args!("fmtp:{number} {}", entry.fmtp));
    }
    for feedback in &entry.feedback {
        lines.attribute(format_args!("rtcp-fb:{number} {}", feedback.text()));
    }
    if let Some(rtx) = entry.rtx {
        lines.attribute(format_args!("rtpmap:{rtx} rtx/{}", Codec::clock_rate(entry.codec)));
        lines.attribute(format_args!("fmtp:{rtx} apt={number}"));
    }
}

/// Names of the stream and its SSRCs, in the new and the old way (docs/livekit.md 5.3).
fn write_sender(lines: &mut Lines, sender: &Bound, codecs: &[SectionCodec]) {
    let (stream, track) = (&sender.track.stream_id, &sender.track.track);
    let rtx_ssrc = sender.rtx_ssrc_with(codecs);
    if let Some(rtx) = rtx_ssrc {
        lines.attribute(format_args!("ssrc-group:FID {} {}", sender.ssrc.0, rtx.0));
    }
    for Ssrc(ssrc) in [Some(sender.ssrc), rtx_ssrc].into_iter().flatten() {
        lines.attribute(format_args!("ssrc:{ssrc} cname:{stream}"));
        lines.attribute(format_args!("ssrc:{ssrc} msid:{stream} {track}"));
        lines.attribute(format_args!("ssrc:{ssrc} mslabel:{stream}"));
        lines.attribute(format_args!("ssrc:{ssrc} label:{track}"));
    }
    lines.attribute(format_args!("msid:{stream} {track}"));
}

/// All candidates there will ever be (RFC 8839, RFC 6544), with the reference's priorities.
fn write_candidates(lines: &mut Lines, candidates: &[Candidate]) {
    for (index, candidate) in candidates.iter().enumerate() {
        let (foundation, ip, port) = (index + 1, candidate.address.ip(), candidate.address.port());
        match candidate.protocol {
            CandidateProtocol::Udp => {
                lines.attribute(format_args!("candidate:{foundation} 1 udp 2130706431 {ip} {port} typ host"));
            }
            CandidateProtocol::TcpPassive => lines.attribute(format_args!(
                "candidate:{foundation} 1 tcp 1671430143 {ip} {port} typ host tcptype passive"
            )),
        }
    }
    lines.attribute(format_args!("end-of-candidates"));
}
