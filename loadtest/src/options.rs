//! What a load test is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::codec::VideoCodec;
use crate::dtls::SrtpProfile;
use crate::sdp::Setup;
use crate::signal::Protocol;

/// Which SRTP profiles are offered, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum SrtpOffer {
    /// AES-CM before GCM, as libwebrtc lists them: the server's preference shows.
    #[default]
    CmGcm,
    GcmCm,
    Cm,
    Gcm,
}

impl SrtpOffer {
    pub(crate) fn profiles(self) -> &'static [SrtpProfile] {
        match self {
            Self::CmGcm => &[SrtpProfile::Aes128CmSha1, SrtpProfile::Aes128Gcm],
            Self::GcmCm => &[SrtpProfile::Aes128Gcm, SrtpProfile::Aes128CmSha1],
            Self::Cm => &[SrtpProfile::Aes128CmSha1],
            Self::Gcm => &[SrtpProfile::Aes128Gcm],
        }
    }
}

/// Simulated publishers and subscribers against any LiveKit server, on the same machine.
#[derive(Debug, Clone, Parser)]
#[command(name = "loadtest", version, about)]
pub struct Options {
    /// Server to test. With wss:// its certificate must be valid for this system, or for the file SSL_CERT_FILE.
    #[arg(long, env = "LIVEKIT_URL", default_value = "ws://127.0.0.1:7880")]
    pub url: String,
    #[arg(long, env = "LIVEKIT_API_KEY", default_value = "devkey")]
    pub api_key: String,
    #[arg(long, env = "LIVEKIT_API_SECRET", default_value = "secret", hide_env_values = true)]
    pub api_secret: String,
    /// Room to fill.
    #[arg(long, default_value = "load")]
    pub room: String,
    /// Rooms that share the subscribers evenly, each with its own publishers.
    #[arg(long, default_value_t = 1)]
    pub rooms: usize,
    /// Start of every identity.
    #[arg(long, default_value = "lt")]
    pub identity_prefix: String,
    /// Participants that publish one video track each.
    #[arg(long, default_value_t = 1)]
    pub video_publishers: usize,
    /// Participants that publish one audio track each; the first are also the video publishers.
    #[arg(long, default_value_t = 1)]
    pub audio_publishers: usize,
    /// Participants that receive every track.
    #[arg(long, default_value_t = 1)]
    pub subscribers: usize,
    /// Time of the measurement, from when everybody receives: `20s`, `5m`, `500ms`.
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Subscribers that join in a second.
    #[arg(long, default_value_t = 5.0)]
    pub num_per_second: f64,
    #[arg(long, value_enum, default_value_t)]
    pub video_codec: VideoCodec,
    /// Publish one layer in place of three; an exact packet rate implies it.
    #[arg(long)]
    pub no_simulcast: bool,
    /// Mean bitrate of the recorded frames, scaled, in bits a second; smaller simulcast layers come on top.
    #[arg(long, default_value_t = 2_000_000)]
    pub video_bitrate: u64,
    /// Exactly so many video packets a second, of one size, in place of the frame trace.
    #[arg(long)]
    pub video_packets_per_second: Option<u32>,
    /// Largest (steady: only) RTP payload of video, in bytes.
    #[arg(long, default_value_t = 1_100)]
    pub video_packet_size: usize,
    #[arg(long, default_value_t = 50)]
    pub audio_packets_per_second: u32,
    /// RTP payload of audio, in bytes.
    #[arg(long, default_value_t = 100)]
    pub audio_packet_size: usize,
    /// Share of the subscribers that decrypt and authenticate every packet; delay is measured on these.
    #[arg(long, default_value_t = 0.05)]
    pub verify: f64,
    #[arg(long, value_enum, default_value_t)]
    pub protocol: Protocol,
    #[arg(long, value_enum, default_value_t)]
    pub srtp: SrtpOffer,
    /// Of answers to the server's offers (v0, subscribers): with `passive` the server is the DTLS client.
    #[arg(long, value_enum, default_value_t)]
    pub setup: Setup,
    /// Share of the received RTP packets that every subscriber throws away, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub loss_down: f64,
    /// Share of the RTP packets that every publisher does not send, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub loss_up: f64,
    /// Read runs of packets as the server sent them. Cheaper for this process, and on loopback for the server, too.
    #[arg(long)]
    pub gro: bool,
    /// Between two looks at the subscribers' sockets; 0 reads each packet at once.
    #[arg(long, default_value = "1ms", value_parser = parse_duration)]
    pub sweep: Duration,
    /// Process of the server, for its CPU and memory.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Page of the server's metrics, which tells what it dropped in the measured time:
    /// http://user:password@127.0.0.1:6789/metrics.
    #[arg(long, env = "LIVEKIT_METRICS_URL", hide_env_values = true)]
    pub metrics_url: Option<String>,
    /// Joins and leaves a second beside the subscribers, in the measured time.
    #[arg(long, default_value_t = 0.0)]
    pub churn: f64,
    /// Such clients at a time at most; the next waits until one has left.
    #[arg(long, default_value_t = 5_000)]
    pub churn_sessions: usize,
    /// How long such a client stays.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub churn_stay: Duration,
    /// Nobody publishes: what remains is the price of joins.
    #[arg(long)]
    pub join_only: bool,
    /// Where to write the report.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where to draw packets, delays and joins over time, as SVG.
    #[arg(long)]
    pub plot: Option<PathBuf>,
    /// No line per second.
    #[arg(long)]
    pub quiet: bool,
}

/// How many participants publish what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publishers {
    pub video: usize,
    pub audio: usize,
}

impl Options {
    /// Publishers of either kind.
    pub(crate) fn publishers(&self) -> Publishers {
        match self.join_only {
            true => Publishers { video: 0, audio: 0 },
            false => Publishers { video: self.video_publishers, audio: self.audio_publishers },
        }
    }

    /// Tracks in a room.
    pub(crate) fn tracks(&self) -> usize {
        let Publishers { video, audio } = self.publishers();
        video + audio
    }

    pub(crate) fn rooms(&self) -> usize {
        self.rooms.max(1)
    }

    /// The name of the room that participant `number` belongs to.
    pub(crate) fn room_of(&self, number: usize) -> String {
        match self.rooms() {
            1 => self.room.clone(),
            rooms => format!("{}-{}", self.room, number % rooms),
        }
    }

    /// How many subscribers decrypt everything.
    pub(crate) fn verified_subscribers(&self) -> usize {
        (self.subscribers as f64 * self.verify.clamp(0.0, 1.0)).ceil() as usize
    }

    /// Whether subscriber `number` decrypts everything. These are spread over the audience, because a server that
    /// serves it in order of arrival shows its first members the shortest delays.
    pub(crate) fn is_verified(&self, number: usize) -> bool {
        let before = |number: usize| number * self.verified_subscribers() / self.subscribers.max(1);
        before(number + 1) > before(number)
    }

    /// Whether video is published in three layers.
    pub fn is_simulcast(&self) -> bool {
        !self.no_simulcast && self.video_packets_per_second.is_none()
    }
}

impl Default for Options {
    /// The defaults of the command line.
    fn default() -> Self {
        Self::parse_from(["loadtest"])
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a duration such as 20s"))?;
    let seconds = match unit {
        "ms" => number / 1_000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(format!("{unit:?} is not a unit of time; there are ms, s, m, h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_duration("fast").is_err() && parse_duration("3 days").is_err());
    }

    #[test]
    fn those_who_verify_are_spread_over_the_audience() {
        let options = Options { subscribers: 1_010, verify: 0.05, ..Options::default() };
        let verified: Vec<usize> = (0..1_010).filter(|number| options.is_verified(*number)).collect();
        assert_eq!(verified.len(), options.verified_subscribers());
        assert!(verified[0] < 20 && verified[50] == 1_009, "{verified:?}");
        assert!(verified.windows(2).all(|pair| pair[1] - pair[0] >= 19));
        assert!(Options { verify: 1.0, ..options }.is_verified(0));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
        assert_eq!(Options::default().subscribers, 1);
    }
}
