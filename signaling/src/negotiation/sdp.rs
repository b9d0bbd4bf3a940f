//! Lines of a session description (RFC 8866): text to sections, and back.
//!
//! What the lines mean is decided in [`super::description`].

use std::fmt::{self, Write as _};

use super::interface::SdpError;

/// Longest description accepted, in bytes. A client with 100 tracks writes about 300 KiB.
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// Most attributes accepted before the first section; sections look through them. Clients write about four.
const SESSION_ATTRIBUTES_MAX: usize = 64;
/// Most media sections accepted, or written.
pub(crate) const SECTIONS_MAX: usize = 512;

/// A description as lines; all text is borrowed from it.
#[derive(Debug)]
pub(super) struct Sdp<'a> {
    pub attributes: Vec<Attribute<'a>>,
    pub sections: Vec<Section<'a>>,
}

/// From one `m=` line to the next.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub media: &'a str,
    pub port: u16,
    pub protocol: &'a str,
    pub formats: Vec<&'a str>,
    pub attributes: Vec<Attribute<'a>>,
}

/// `a=name:value` or `a=name`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub name: Name,
    /// Empty for a flag.
    pub value: &'a str,
}

/// The attributes that matter here; others are skipped. A browser's offer has hundreds of lines, which are looked
/// through many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    BundleOnly,
    Extmap,
    ExtmapAllowMixed,
    Fingerprint,
    Fmtp,
    Group,
    IcePwd,
    IceUfrag,
    Inactive,
    Mid,
    Msid,
    Recvonly,
    Rid,
    RtcpFb,
    RtcpMux,
    Rtpmap,
    Sendonly,
    Sendrecv,
    Setup,
    Simulcast,
    Ssrc,
    SsrcGroup,
}

impl Name {
    fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "bundle-only" => Self::BundleOnly,
            "extmap" => Self::Extmap,
            "extmap-allow-mixed" => Self::ExtmapAllowMixed,
            "fingerprint" => Self::Fingerprint,
            "fmtp" => Self::Fmtp,
            "group" => Self::Group,
            "ice-pwd" => Self::IcePwd,
            "ice-ufrag" => Self::IceUfrag,
            "inactive" => Self::Inactive,
            "mid" => Self::Mid,
            "msid" => Self::Msid,
            "recvonly" => Self::Recvonly,
            "rid" => Self::Rid,
            "rtcp-fb" => Self::RtcpFb,
            "rtcp-mux" => Self::RtcpMux,
            "rtpmap" => Self::Rtpmap,
            "sendonly" => Self::Sendonly,
            "sendrecv" => Self::Sendrecv,
            "setup" => Self::Setup,
            "simulcast" => Self::Simulcast,
            "ssrc" => Self::Ssrc,
            "ssrc-group" => Self::SsrcGroup,
            _ => return None,
        })
    }
}

impl<'a> Sdp<'a> {
    /// Splits a description. Lines of types that do not matter here are skipped.
    pub(crate) fn parse(text: &'a str) -> Result<Self, SdpError> {
        if text.len() > BYTES_MAX {
            return Err(SdpError(format!("longer than {BYTES_MAX} bytes")));
        }
        let mut rest = text;
        if next_line(&mut rest)? != Some("v=0") {
            return Err(SdpError("it does not start with v=0".into()));
        }
        let mut sdp = Sdp { attributes: Vec::new(), sections: Vec::new() };
        while let Some(line) = next_line(&mut rest)? {
            sdp.take_line(line)?;
        }
        Ok(sdp)
    }

    fn take_line(&mut self, line: &'a str) -> Result<(), SdpError> {
        let (Some(kind), Some(value)) = (line.bytes().next(), line.get(1..).and_then(|rest| rest.strip_prefix('=')))
        else {
            return Err(SdpError("a line without type".into()));
        };
        match kind {
            b'm' => {
                if self.sections.len() == SECTIONS_MAX {
                    return Err(SdpError(format!("more than {SECTIONS_MAX} media sections")));
                }
                self.sections.push(Section::parse(value)?);
            }
            b'a' => {
                let (name, value) = split_at_byte(value, b':').unwrap_or((value, ""));
                let Some(name) = Name::from_text(name) else { return Ok(()) };
                let attribute = Attribute { name, value: value.trim_ascii() };
                match self.sections.last_mut() {
                    Some(section) => section.attributes.push(attribute),
                    None if self.attributes.len() == SESSION_ATTRIBUTES_MAX => {
                        return Err(SdpError(format!("more than {SESSION_ATTRIBUTES_MAX} attributes of the session")));
                    }
                    None => self.attributes.push(attribute),
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Takes the next line that is not empty off `rest`. Of control characters only tabs may stand in one.
fn next_line<'a>(rest: &mut &'a str) -> Result<Option<&'a str>, SdpError> {
    while !rest.is_empty() {
        let text = *rest;
        let bytes = text.as_bytes();
        let end = bytes.iter().position(|byte| *byte < b' ' && *byte != b'\t').unwrap_or(bytes.len());
        let ending = match bytes.get(end..).unwrap_or_default() {
            [] => 0,
            [b'\n', ..] | [b'\r'] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return Err(SdpError("control characters in a line".into())),
        };
        *rest = &text[end + ending..];
        if end > 0 {
            return Ok(Some(&text[..end]));
        }
    }
    Ok(None)
}

/// What stands before and after the first such ASCII byte. Lines are too short for the searchers of the standard
/// library to be worth their preparation.
pub(super) fn split_at_byte(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|other| other == byte)?;
    Some((&text[..at], &text[at + 1..]))
}

impl<'a> Section<'a> {
    fn parse(value: &'a str) -> Result<Self, SdpError> {
        let mut words = value.split_ascii_whitespace();
        let (Some(media), Some(port), Some(protocol)) = (words.next(), words.next(), words.next()) else {
            return Err(SdpError("an incomplete media line".into()));
        };
        let port = port.split('/').next().unwrap_or(port);
        let port = port.parse().map_err(|_| SdpError("a media line without a port number".into()))?;
        Ok(Self { media, port, protocol, formats: words.collect(), attributes: Vec::new() })
    }
}

/// First value of an attribute.
pub(super) fn value<'a>(attributes: &[Attribute<'a>], name: Name) -> Option<&'a str> {
    values(attributes, name).next()
}

/// All values of an attribute, in order.
pub(super) fn values<'s, 'a: 's>(attributes: &'s [Attribute<'a>], name: Name) -> impl Iterator<Item = &'a str> + 's {
    attributes.iter().filter(move |attribute| attribute.name == name).map(|attribute| attribute.value)
}

/// Writes lines, each with the CRLF that RFC 8866 asks for.
#[derive(Debug, Default)]
pub(super) struct Lines(String);

impl Lines {
    /// A whole line, such as `s=-`.
    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("writing to a String cannot fail");
        self.0.push_str("\r\n");
    }

    /// `a=<text>`.
    pub(crate) fn attribute(&mut self, text: fmt::Arguments<'_>) {
        self.line(format_args!("a={text}"));
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_belong_to_the_section_they_follow() {
        let sdp = Sdp::parse(
            "v=0\r\no=x 1 2\r\na=setup:1\r\nm=audio 9 P 1 2\r\na=rtcp-mux\r\na=other:3\r\nm=video 0/2 P 3\r\na=mid:x:y\r\n",
        );
        let sdp = sdp.expect("it is well-formed");

        assert_eq!(value(&sdp.attributes, Name::Setup), Some("1"));
        assert_eq!(value(&sdp.sections[0].attributes, Name::RtcpMux), Some(""));
        assert_eq!(sdp.sections[0].attributes.len(), 1);
        assert_eq!(sdp.sections[0].formats, ["1", "2"]);
        assert_eq!(sdp.sections[1].port, 0);
        assert_eq!(value(&sdp.sections[1].attributes, Name::Mid), Some("x:y"));
    }

    #[test]
    fn what_is_not_lines_of_sdp_is_refused() {
        for text in [
            "",
            "v=1\n",
            "v=0\nxyz\n",
            "v=0\n=x\n",
            "v=0\nm=audio 9\n",
            "v=0\nm=audio x P 1\n",
            "v=0\na=b\rc\n",
            "v=0\na=b\u{1}c\n",
            "v=0\na=b\0",
        ] {
            assert!(Sdp::parse(text).is_err(), "{text:?}");
        }
        for text in ["v=0", "v=0\r", "\n\r\nv=0\n\na=b\tc", "v=0\r\n\r\na=b"] {
            assert!(Sdp::parse(text).is_ok(), "{text:?}");
        }
        assert!(Sdp::parse(&format!("v=0\n{}", "m=audio 9 P 1\n".repeat(SECTIONS_MAX))).is_ok());
        assert!(Sdp::parse(&format!("v=0\n{}", "m=audio 9 P 1\n".repeat(SECTIONS_MAX + 1))).is_err());
        let long = |bytes: usize| format!("v=0\ns={}", "x".repeat(bytes - "v=0\ns=".len()));
        assert!(Sdp::parse(&long(BYTES_MAX)).is_ok());
        assert!(Sdp::parse(&long(BYTES_MAX + 1)).is_err());
        assert!(Sdp::parse(&format!("v=0\n{}", "a=setup:active\n".repeat(SESSION_ATTRIBUTES_MAX))).is_ok());
        assert!(Sdp::parse(&format!("v=0\n{}", "a=setup:active\n".repeat(SESSION_ATTRIBUTES_MAX + 1))).is_err());
    }
}
