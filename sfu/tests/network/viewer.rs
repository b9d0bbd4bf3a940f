//! A participant who watches one camera and hears its microphone, by the rules of libwebrtc's receiver.
//!
//! Not modelled: the time that decoding takes, audio's jitter buffer and concealment.

use std::time::Duration;

use sfu::rtcp::{Feedback, ReportBlock, parse, write_nack, write_pli, write_receiver_report, write_sdes_cname};
use sfu::twcc::recorder::TwccRecorder;

use super::assembly::{Assembled, Assembly};
use super::decoder::{Decoder, DecoderError, Shown};
use super::nack::NackList;
use super::picture::Picture;
use super::playout::Playout;
use super::reception::Reception;
use super::references::References;
use super::remb::Remb;
use super::unwrap::Unwrapper;
use crate::media::{Rtp, extensions};

/// How often the NACK list is looked through (libwebrtc, `kUpdateInterval`).
pub const TICK: Duration = Duration::from_millis(20);
const TWCC_INTERVAL: Duration = Duration::from_millis(100);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Without a frame for so long: ask for a key frame, the first one and any later (`video_receive_stream2.cc`).
const FIRST_FRAME_WAIT: Duration = Duration::from_millis(200);
const NEXT_FRAME_WAIT: Duration = Duration::from_secs(3);
/// A stream without packets for so long is not active: it is not asked for key frames.
const ACTIVE: Duration = Duration::from_secs(5);
/// While a key frame is being received none is asked for.
const RECEIVING_KEYFRAME: Duration = Duration::from_millis(200);

/// A frame is late from then on (libwebrtc, `kMaxAllowedFrameDelay`).
const LATE: Duration = Duration::from_millis(5);

const SSRC: u32 = 77;

/// SSRCs of what a viewer gets.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    pub video: u32,
    pub video_rtx: u32,
    pub audio: u32,
}

/// A media packet that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    pub at: Duration,
    /// On the wire.
    pub bytes: usize,
    /// Since its publisher sent it first.
    pub delay: Duration,
    pub is_audio: bool,
    pub is_repeat: bool,
}

pub struct Viewer {
    streams: Streams,
    pub joined: Duration,
    assembly: Assembly,
    references: References,
    pub decoder: Decoder,
    playout: Playout,
    nacks: NackList,
    video: Reception,
    audio: Reception,
    audio_sequence: Unwrapper,
    twcc: TwccRecorder,
    has_numbers: bool,
    remb: Remb,
    next_twcc: Duration,
    next_report: Duration,
    needs_keyframe: bool,
    /// Since when it waits for a frame.
    waits_since: Duration,
    last_packet: Option<Duration>,
    last_key_packet: Option<Duration>,
    /// RTCP to send.
    outbox: Vec<Vec<u8>>,
    pub shown: Vec<Shown>,
    pub came: Vec<Came>,
    pub plis: Vec<Duration>,
    /// Packets asked for, each time again.
    pub nacked: Vec<(Duration, usize)>,
}

impl Viewer {
    pub fn new(now: Duration, streams: Streams) -> Self {
        Self {
            streams,
            joined: now,
            assembly: Assembly::default(),
            references: References::default(),
            decoder: Decoder::default(),
            playout: Playout::default(),
            nacks: NackList::default(),
            video: Reception::new(streams.video, 90_000),
            audio: Reception::new(streams.audio, 48_000),
            audio_sequence: Unwrapper::new(16),
            twcc: TwccRecorder::new(SSRC),
            has_numbers: false,
            remb: Remb::new(SSRC, streams.video),
            next_twcc: now,
            next_report: now,
            needs_keyframe: true,
            waits_since: now,
            last_packet: None,
            last_key_packet: None,
            outbox: Vec::new(),
            shown: Vec::new(),
            came: Vec::new(),
            plis: Vec::new(),
            nacked: Vec::new(),
        }
    }

    /// RTCP that it wants to send.
    pub fn take_rtcp(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.outbox)
    }

    /// Packets of the video that are missing still.
    pub fn lost(&self) -> i64 {
        self.video.lost()
    }

    pub fn errors(&self) -> &[(Duration, DecoderError)] {
        &self.decoder.errors
    }

    /// What a packet of the video is of, that is not sent again.
    pub fn picture_of(&self, packet: &Rtp) -> Option<Picture> {
        Some(packet)
            .filter(|packet| packet.ssrc == self.streams.video)
            .and_then(|packet| Picture::read(packet.payload.get(6..)?))
    }

    /// A media packet, of so many bytes on the wire.
    pub fn on_rtp(&mut self, now: Duration, packet: &Rtp, bytes: usize) {
        self.note_arrival(now, packet, bytes);
        let is_repeat = packet.ssrc == self.streams.video_rtx;
        if packet.ssrc == self.streams.audio {
            let sequence = self.audio_sequence.unwrap(packet.sequence.into());
            self.audio.on_packet(now, sequence, packet.timestamp);
            self.note(now, packet.payload.as_slice(), bytes, (true, false));
        } else if packet.ssrc == self.streams.video {
            self.note(now, packet.payload.get(6..).unwrap_or(&[]), bytes, (false, false));
            self.on_video(now, packet, is_repeat);
        } else if let (true, [high, low, payload @ ..]) = (is_repeat, packet.payload.as_slice()) {
            self.note(now, payload.get(6..).unwrap_or(&[]), bytes, (false, true));
            let (sequence, payload) = (u16::from_be_bytes([*high, *low]), payload.to_vec());
            self.on_video(now, &Rtp { ssrc: self.streams.video, sequence, payload, ..packet.clone() }, is_repeat);
        }
        let new = self.nacks.unasked(now);
        self.ask_for_lost(now, new);
    }

    /// Transport-wide numbers, once the server sends them; until then REMB.
    fn note_arrival(&mut self, now: Duration, packet: &Rtp, bytes: usize) {
        let id = extensions().transport_cc.expect("agreed");
        if let Some(&[high, low]) = packet.extension(id) {
            self.has_numbers = true;
            self.twcc.record(u16::from_be_bytes([high, low]), now, packet.ssrc);
        }
        let sent = extensions().abs_send_time.and_then(|id| packet.extension(id));
        if let Some(&[high, middle, low]) = sent {
            self.remb.on_packet(now, u32::from_be_bytes([0, high, middle, low]), bytes);
        }
    }

    fn note(&mut self, now: Duration, payload: &[u8], bytes: usize, (is_audio, is_repeat): (bool, bool)) {
        let sent = Picture::read(payload).map_or(now, |picture| picture.sent);
        self.came.push(Came { at: now, bytes, delay: now.saturating_sub(sent), is_audio, is_repeat });
    }

    fn on_video(&mut self, now: Duration, packet: &Rtp, is_repeat: bool) {
        let sequence = self.assembly.sequence(packet);
        self.last_packet = Some(now);
        if !is_repeat {
            self.video.on_packet(now, sequence, packet.timestamp);
        }
        if !self.nacks.on_packet(sequence) {
            self.ask_for_keyframe(now);
        }
        if Picture::read(packet.payload.get(6..).unwrap_or(&[])).is_some_and(|picture| picture.is_key) {
            self.last_key_packet = Some(now);
        }
        match self.assembly.insert(now, sequence, packet, is_repeat) {
            Assembled::Incomplete => {}
            Assembled::Overflow => self.ask_for_keyframe(now),
            Assembled::Frame(frame) => {
                self.decoder.check_order(now, &frame);
                self.playout.on_frame(&frame);
                self.references.insert(frame).into_iter().for_each(|frame| self.decoder.insert(frame));
                self.show(now);
            }
        }
    }

    /// When [`Viewer::show`] is due, if nothing else comes.
    pub fn next_show(&mut self) -> Option<Duration> {
        self.decoder.next_decodable().map(|frame| self.playout.due(frame.timestamp))
    }

    /// Shows the frames whose time has come. One that is late is passed over if another can be shown instead.
    pub fn show(&mut self, now: Duration) {
        while let Some(due) = self.next_show().filter(|due| *due <= now) {
            if now >= due + LATE && self.decoder.has_later_one() {
                self.decoder.skip();
            } else if let Some((shown, frame)) = self.decoder.decode(now) {
                self.playout.on_shown(now, &frame);
                self.on_shown(now, shown);
            }
        }
    }

    fn on_shown(&mut self, now: Duration, shown: Shown) {
        self.assembly.clear_to(shown.last_sequence);
        self.nacks.clear_to(shown.last_sequence);
        self.needs_keyframe = false;
        self.waits_since = now;
        self.shown.push(shown);
    }

    pub fn on_rtcp(&mut self, now: Duration, compound: &[u8]) {
        for feedback in parse(compound).flatten() {
            if let Feedback::SenderReport(report, _) = feedback {
                let streams = [(self.streams.video, &mut self.video), (self.streams.audio, &mut self.audio)];
                let of_stream = streams.into_iter().filter(|(ssrc, _)| *ssrc == report.ssrc);
                of_stream.for_each(|(_, stream)| stream.on_sender_report(now, report.ntp));
            }
        }
    }

    /// To be called each [`TICK`].
    pub fn on_tick(&mut self, now: Duration) {
        let due = self.nacks.due(now);
        self.ask_for_lost(now, due);
        let wait = if self.needs_keyframe { FIRST_FRAME_WAIT } else { NEXT_FRAME_WAIT };
        let is_within = |at: Option<Duration>, time| at.is_some_and(|at| now < at + time);
        if now >= self.waits_since + wait {
            self.waits_since = now;
            if is_within(self.last_packet, ACTIVE) && !is_within(self.last_key_packet, RECEIVING_KEYFRAME) {
                self.ask_for_keyframe(now);
            }
        }
        if now >= self.next_twcc {
            self.next_twcc = now + TWCC_INTERVAL;
            self.give_feedback(now);
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.report(now);
        }
    }

    fn ask_for_lost(&mut self, now: Duration, lost: Vec<i64>) {
        if lost.is_empty() {
            return;
        }
        self.nacked.push((now, lost.len()));
        let mut packet = Vec::new();
        write_nack(&mut packet, SSRC, self.streams.video, lost.into_iter().map(|sequence| sequence as u16));
        self.outbox.push(packet);
    }

    fn ask_for_keyframe(&mut self, now: Duration) {
        self.plis.push(now);
        let mut packet = Vec::new();
        write_pli(&mut packet, SSRC, self.streams.video);
        self.outbox.push(packet);
    }

    fn give_feedback(&mut self, now: Duration) {
        let mut packet = Vec::new();
        if self.has_numbers {
            self.twcc.write_feedback(&mut packet);
        } else if let Some(remb) = self.remb.due(now) {
            packet = remb;
        }
        self.outbox.extend(Some(packet).filter(|packet| !packet.is_empty()));
    }

    fn report(&mut self, now: Duration) {
        let blocks: Vec<ReportBlock> =
            [&mut self.video, &mut self.audio].into_iter().flat_map(|s| s.block(now)).collect();
        let mut packet = Vec::new();
        write_receiver_report(&mut packet, SSRC, &blocks);
        write_sdes_cname(&mut packet, SSRC, "viewer");
        self.outbox.push(packet);
    }
}
