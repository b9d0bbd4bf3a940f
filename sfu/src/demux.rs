//! What a datagram is (RFC 7983, RFC 5761), and every reason to drop one.

/// The protocol of a datagram by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// A connectivity check, or an answer to one (RFC 8489).
    Stun,
    /// A record of DTLS (RFC 9147).
    Dtls,
    /// RTP, sealed (RFC 3711).
    Rtp,
    /// RTCP, sealed (RFC 3711).
    Rtcp,
}

impl PacketKind {
    /// Classifies by RFC 7983, section 7, and RTP against RTCP by RFC 5761, section 4.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match *datagram {
            [0..=3, ..] => Some(Self::Stun),
            [20..=63, ..] => Some(Self::Dtls),
            [128..=191, 192..=223, ..] => Some(Self::Rtcp),
            [128..=191, _, ..] => Some(Self::Rtp),
            _ => None,
        }
    }
}

macro_rules! discards {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Every reason to drop something that came from the network. Each is counted under its label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Discard {
            $($(#[$doc])* $name,)*
        }

        impl Discard {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Discard] = &[$(Discard::$name,)*];

            /// The label in metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Discard::$name => $label,)*
                }
            }
        }
    };
}

discards! {
    /// First bytes of no protocol that we speak.
    UnknownProtocol => "unknown_protocol",
    /// From an address without an authenticated connectivity check.
    UnknownSender => "unknown_sender",
    /// A connectivity check for a user fragment that nobody has.
    UnknownUfrag => "unknown_ufrag",
    /// No well-formed STUN message.
    StunMalformed => "stun_malformed",
    /// A check that is not authenticated with our password.
    StunIntegrity => "stun_integrity",
    /// A STUN message that is in order and of no use.
    StunRefused => "stun_refused",
    /// A check from the address where another client is.
    PathTaken => "path_taken",
    /// DTLS that is malformed or not due.
    DtlsMalformed => "dtls_malformed",
    /// RTP or RTCP before the handshake was finished and the certificate matched.
    NoKeys => "no_keys",
    /// RTP whose header leads outside.
    RtpMalformed => "rtp_malformed",
    /// RTCP whose lengths lead outside.
    RtcpMalformed => "rtcp_malformed",
    /// RTP or RTCP that is not sealed with the client's key.
    SrtpAuthentication => "srtp_authentication",
    /// RTP or RTCP whose number has been before, or is too old to tell.
    SrtpReplay => "srtp_replay",
    /// More SSRCs than one transport may use.
    TooManyStreams => "too_many_streams",
    /// RTP of no section that the transport publishes in.
    UnknownStream => "unknown_stream",
    /// A payload type that the section did not negotiate.
    UnknownPayloadType => "unknown_payload_type",
    /// A packet that had been received already.
    Duplicate => "duplicate",
    /// Longer than any packet that we forward, or than a datagram over TCP may be.
    TooLarge => "too_large",
    /// A frame of ICE-TCP that is empty, or comes before a valid check and is none.
    FrameRefused => "frame_refused",
    /// A TCP connection without a valid check for too long.
    Unauthenticated => "unauthenticated",
    /// A TCP connection beyond those that a worker keeps, in all or of one address.
    TcpConnectionsFull => "tcp_connections_full",
    /// The queue to the worker that owns the transport is full.
    HandOverFull => "hand_over_full",
    /// A message larger than data channels allow, or on an unknown channel.
    DataRefused => "data_refused",
    /// Transport-wide feedback on packets that were never sent.
    FeedbackUnsent => "feedback_unsent",
    /// Transport-wide feedback on packets that left too long ago, at least in part.
    FeedbackTooOld => "feedback_too_old",
    /// Transport-wide feedback whose arrivals lie far before others, at least in part.
    FeedbackBackwards => "feedback_backwards",
    /// DTLS or RTCP of a transport that has taken too much of its worker's time, and connectivity checks beyond those
    /// that any client needs.
    OverBudget => "over_budget",
    /// A command that named something that is gone.
    StaleCommand => "stale_command",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_decides_and_the_second_tells_rtcp_from_rtp() {
        assert_eq!(PacketKind::of(&[0, 1]), Some(PacketKind::Stun));
        assert_eq!(PacketKind::of(&[22, 254]), Some(PacketKind::Dtls));
        assert_eq!(PacketKind::of(&[0x80, 96]), Some(PacketKind::Rtp));
        assert_eq!(PacketKind::of(&[0x80, 0x80 | 96]), Some(PacketKind::Rtp));
        assert_eq!(PacketKind::of(&[0x81, 205]), Some(PacketKind::Rtcp));
        assert_eq!(PacketKind::of(&[]), None);
        assert_eq!(PacketKind::of(&[64]), None);
    }
}
