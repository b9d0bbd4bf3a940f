//! Small SDPs of a client: offers to publish and to receive, and answers to our offers.

const CODECS_VIDEO: &str = "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
    a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n";
const CODECS_AUDIO: &str = "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n";
const FINGERPRINT: &str = "a=fingerprint:sha-256 AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB";

/// A client's offer, section by section; mids count from 0.
#[derive(Debug, Clone)]
pub struct Offer {
    ufrag: String,
    sections: Vec<String>,
}

impl Default for Offer {
    fn default() -> Self {
        Self { ufrag: "clnt".into(), sections: Vec::new() }
    }
}

impl Offer {
    /// What every v1 client begins with.
    pub fn v1() -> Self {
        Self::default().receiving_audio(3).receiving_video(3).application()
    }

    pub fn receiving_audio(mut self, count: usize) -> Self {
        for _ in 0..count {
            self =
                self.section("audio 9 UDP/TLS/RTP/SAVPF 111", &format!("a=recvonly\r\na=rtcp-mux\r\n{CODECS_AUDIO}"));
        }
        self
    }

    pub fn receiving_video(mut self, count: usize) -> Self {
        for _ in 0..count {
            self =
                self.section("video 9 UDP/TLS/RTP/SAVPF 96 97", &format!("a=recvonly\r\na=rtcp-mux\r\n{CODECS_VIDEO}"));
        }
        self
    }

    pub fn application(self) -> Self {
        self.section(
            "application 9 UDP/DTLS/SCTP webrtc-datachannel",
            "a=sctp-port:5000\r\na=max-message-size:262144\r\n",
        )
    }

    pub fn audio(self, cid: &str, ssrc: u32) -> Self {
        self.section(
            "audio 9 UDP/TLS/RTP/SAVPF 111",
            &format!("a=sendonly\r\na=msid:- {cid}\r\na=rtcp-mux\r\n{CODECS_AUDIO}a=ssrc:{ssrc} cname:c\r\n"),
        )
    }

    pub fn video(self, cid: &str, ssrc: u32) -> Self {
        let rtx = ssrc + 1;
        self.section(
            "video 9 UDP/TLS/RTP/SAVPF 96 97",
            &format!(
                "a=sendonly\r\na=msid:- {cid}\r\na=rtcp-mux\r\n{CODECS_VIDEO}a=ssrc-group:FID {ssrc} {rtx}\r\n\
                 a=ssrc:{ssrc} cname:c\r\na=ssrc:{rtx} cname:c\r\n"
            ),
        )
    }

    pub fn simulcast(self, cid: &str, rids: &[&str]) -> Self {
        let lines: String = rids.iter().map(|rid| format!("a=rid:{rid} send\r\n")).collect();
        self.section(
            "video 9 UDP/TLS/RTP/SAVPF 96 97",
            &format!(
                "a=sendonly\r\na=msid:- {cid}\r\na=rtcp-mux\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
                 a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n{CODECS_VIDEO}{lines}a=simulcast:send {}\r\n",
                rids.join(";")
            ),
        )
    }

    /// A camera of a browser, which can send VP8, VP9, H.264 and AV1.
    pub fn browser_video(self, cid: &str, ssrc: u32) -> Self {
        let codecs = "a=rtpmap:96 VP8/90000\r\na=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\n\
            a=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1;profile-level-id=42e01f\r\na=rtpmap:45 AV1/90000\r\n";
        let lines = format!("a=sendonly\r\na=msid:- {cid}\r\na=rtcp-mux\r\n{codecs}a=ssrc:{ssrc} cname:c\r\n");
        self.section("video 9 UDP/TLS/RTP/SAVPF 96 98 102 45", &lines)
    }

    /// The same with other ICE credentials.
    pub fn restarted(mut self, ufrag: &str) -> Self {
        self.ufrag = ufrag.into();
        self
    }

    /// The same, but this section sends no more.
    pub fn stopped(mut self, mid: usize) -> Self {
        self.sections[mid] = self.sections[mid].replace("a=sendonly", "a=inactive");
        self
    }

    fn section(mut self, media: &str, lines: &str) -> Self {
        let mid = self.sections.len();
        self.sections.push(format!("m={media}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=setup:actpass\r\n{lines}"));
        self
    }

    pub fn text(&self) -> String {
        let mids: Vec<String> = (0..self.sections.len()).map(|mid| mid.to_string()).collect();
        let transport =
            format!("a=ice-ufrag:{}\r\na=ice-pwd:0123456789abcdefghijklmn\r\n{FINGERPRINT}\r\n", self.ufrag);
        let sections: String = self.sections.iter().map(|section| format!("{section}{transport}")).collect();
        format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS\r\n{sections}",
            mids.join(" ")
        )
    }
}

/// A client's answer that takes all that our offer shows.
pub fn answer_to(offer: &str) -> String {
    let mut answer = String::new();
    let mut media = false;
    for line in offer.lines() {
        if let Some(description) = line.strip_prefix("m=") {
            media = !description.starts_with("application");
        }
        let dropped = ["a=ssrc", "a=msid:", "a=candidate", "a=end-of-candidates", "a=ice-lite", "a=fingerprint"];
        if dropped.iter().any(|prefix| line.starts_with(prefix)) {
            continue;
        }
        let line = match line {
            "a=setup:actpass" => "a=setup:active",
            "a=sendrecv" if media => "a=recvonly",
            "a=recvonly" if media => "a=inactive",
            line if line.starts_with("a=ice-ufrag") => "a=ice-ufrag:clnt",
            line if line.starts_with("a=ice-pwd") => "a=ice-pwd:0123456789abcdefghijklmn",
            "t=0 0" => {
                answer.push_str(&format!("t=0 0\r\n{FINGERPRINT}\r\n"));
                continue;
            }
            line => line,
        };
        answer.push_str(line);
        answer.push_str("\r\n");
    }
    answer
}
