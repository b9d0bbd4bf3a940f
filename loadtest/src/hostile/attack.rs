//! The list of attacks.

use anyhow::bail;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;

use super::attacks::{channels, crowds, doors, paths, signalling};
use super::scene::Scene;

/// Where an attack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Data channels of somebody who joined.
    Channels,
    /// The signal socket of somebody who joined.
    Signalling,
    /// Many signal sockets, of those who joined.
    Crowds,
    /// HTTP, by strangers.
    Doors,
    /// Media sockets, UDP and TCP.
    Paths,
}

impl Kind {
    /// As `--only` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Signalling => "signalling",
            Self::Crowds => "crowds",
            Self::Doors => "doors",
            Self::Paths => "paths",
        }
    }
}

type Run = for<'a> fn(&'a Scene<'a>) -> LocalBoxFuture<'a, anyhow::Result<()>>;

/// One attack.
pub struct Attack {
    pub name: &'static str,
    pub kind: Kind,
    pub about: &'static str,
    pub(super) run: Run,
}

macro_rules! attack {
    ($kind:ident, $name:literal, $run:path, $about:literal) => {
        Attack { name: $name, kind: Kind::$kind, about: $about, run: |scene| Box::pin($run(scene)) }
    };
}

static ATTACKS: &[Attack] = &[
    attack!(Channels, "sctp-lying-cause", channels::lying_cause, "ERROR and ABORT whose cause claims 65,535 bytes"),
    attack!(Channels, "sctp-forward-tsn", channels::forward_tsn, "FORWARD-TSN nearly 2^31 ahead, with 300 streams"),
    attack!(
        Channels,
        "sctp-reconfig-future",
        channels::reconfig_future,
        "RE-CONFIG requests from the future, kept in wait"
    ),
    attack!(
        Channels,
        "sctp-gaps",
        channels::gaps,
        "DATA that leaves a gap after each chunk, and messages that never end"
    ),
    attack!(Channels, "sctp-streams", channels::streams, "data channels opened on every stream"),
    attack!(Channels, "sctp-noise", channels::noise, "every kind of chunk with random lengths and bytes"),
    attack!(Signalling, "signal-sync-state", signalling::sync_state, "SyncState of a million empty elements"),
    attack!(
        Signalling,
        "signal-subscription-sids",
        signalling::subscription_sids,
        "UpdateSubscription with 60,000 sids"
    ),
    attack!(Signalling, "signal-track-settings", signalling::track_settings, "UpdateTrackSettings with 60,000 sids"),
    attack!(
        Signalling,
        "signal-permissions",
        signalling::permissions,
        "SubscriptionPermission with 60,000 participants"
    ),
    attack!(Signalling, "signal-offer-sections", signalling::offer_sections, "offers of 500 sections"),
    attack!(Signalling, "signal-offer-lines", signalling::offer_lines, "offers of 40,000 lines of one kind"),
    attack!(Signalling, "signal-ice-restarts", signalling::ice_restarts, "offers with other ICE credentials each"),
    attack!(
        Signalling,
        "signal-add-track",
        signalling::add_track,
        "AddTrack with names of 250 KB, none of which is ever sent"
    ),
    attack!(Signalling, "signal-trickle", signalling::trickle, "candidates of 100 KB"),
    attack!(Signalling, "signal-flood", signalling::flood, "small requests as fast as they are read"),
    attack!(Signalling, "signal-noise", signalling::noise, "binary messages that are no requests"),
    attack!(
        Signalling,
        "signal-endless-frame",
        signalling::endless_frame,
        "WebSocket frames that claim 2^60 bytes, and messages without end"
    ),
    attack!(Signalling, "signal-deaf", signalling::deaf, "participants who never read what their room tells them"),
    attack!(Signalling, "joins-of-one-identity", signalling::joins_of_one_identity, "one identity joins in a loop"),
    attack!(
        Crowds,
        "messages-never-ended",
        crowds::messages_never_ended,
        "1,000 participants with 1.9 MB of a message each that never ends"
    ),
    attack!(
        Crowds,
        "sessions-beside-ones-own",
        crowds::sessions_beside_ones_own,
        "20,000 sessions of one token, by publish= in the URL"
    ),
    attack!(
        Crowds,
        "metadata-told-to-all",
        crowds::metadata_told_to_all,
        "changes of one's metadata without a pause, told to all members"
    ),
    attack!(
        Crowds,
        "answers-unread",
        crowds::answers_unread,
        "500 sessions whose requests are sent back to them, which they do not read"
    ),
    attack!(
        Doors,
        "validate-gzip",
        doors::validate_gzip,
        "join requests of half a million empty tracks in a kilobyte of gzip, with a viewer's token"
    ),
    attack!(Doors, "twirp-bodies", doors::twirp_bodies, "60 bodies of 10 MiB without a token"),
    attack!(Doors, "request-heads", doors::request_heads, "1,000 heads of 390 KiB"),
    attack!(Doors, "webhook-bodies", doors::webhook_bodies, "500 webhooks of 590 KiB without a signature"),
    attack!(Doors, "slow-heads", doors::slow_heads, "1,000 heads of a byte a second"),
    attack!(Doors, "forged-tokens", doors::forged_tokens, "forged HS256 and RS256 tokens at every door"),
    attack!(Doors, "idle-connections", doors::idle_connections, "5,000 connections that say nothing"),
    attack!(
        Doors,
        "websocket-upgrades",
        doors::websocket_upgrades,
        "2,000 WebSocket upgrades of one Socket.IO session"
    ),
    attack!(Doors, "polling-sessions", doors::polling_sessions, "Socket.IO sessions without end"),
    attack!(Doors, "chat-packets", doors::chat_packets, "chat sockets with packets of every shape"),
    attack!(Doors, "http-pipeline", doors::pipeline, "requests one behind the other, whose answers nobody reads"),
    attack!(Doors, "http-noise", doors::http_noise, "random bytes and broken requests"),
    attack!(Paths, "ice-tcp-silent", paths::silent_tcp, "4,000 ICE-TCP connections that say nothing"),
    attack!(
        Paths,
        "ice-tcp-empty-frames",
        paths::empty_frames,
        "ICE-TCP frames without bytes after one that looks like a check"
    ),
    attack!(
        Paths,
        "check-from-elsewhere",
        paths::check_from_elsewhere,
        "one check with USE-CANDIDATE from an address that then says nothing"
    ),
    attack!(
        Paths,
        "checks-from-everywhere",
        paths::checks_from_everywhere,
        "valid checks for one transport from thousands of ports"
    ),
    attack!(
        Paths,
        "dtls-noise",
        paths::dtls_noise,
        "DTLS handshake fragments that claim 16 MiB, epochs and numbers to come"
    ),
    attack!(Paths, "udp-noise", paths::udp_noise, "random datagrams of every kind on the media port"),
    attack!(Paths, "replay", paths::replay, "own datagrams sent again and again"),
    attack!(Paths, "rtcp-noise", paths::rtcp_noise, "authentic RTCP that asks for everything, and random RTCP"),
    attack!(Paths, "rtp-ssrcs", paths::rtp_ssrcs, "authentic RTP of a new SSRC in each packet"),
];

/// All attacks.
pub fn list() -> &'static [Attack] {
    ATTACKS
}

/// Those with one of these names or kinds; all if there are none.
pub(super) fn choose(only: &[String]) -> anyhow::Result<Vec<&'static Attack>> {
    let is = |attack: &Attack, wanted: &str| attack.name == wanted || attack.kind.name() == wanted;
    for wanted in only {
        if !ATTACKS.iter().any(|attack| is(attack, wanted)) {
            bail!("no attack is named {wanted:?}: see --list");
        }
    }
    let chosen = |attack: &&Attack| only.is_empty() || only.iter().any(|wanted| is(attack, wanted));
    Ok(ATTACKS.iter().filter(chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_chosen_by_name_and_by_kind() {
        let names = |only: &[&str]| -> Vec<_> {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            choose(&only).unwrap().into_iter().map(|attack| attack.name).collect()
        };
        assert_eq!(names(&["replay"]), ["replay"]);
        assert!(names(&["channels"]).iter().all(|name| name.starts_with("sctp")));
        assert_eq!(names(&[]).len(), list().len());
        assert!(choose(&["nothing".to_owned()]).is_err());
    }
}
