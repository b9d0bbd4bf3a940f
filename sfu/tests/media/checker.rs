//! Looks at all that clients are sent, as their own stacks would: by the rules of the RFCs, with other libraries than
//! the engine's.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::source_description::{SdesType, SourceDescription};
use rtc_srtp::context::Context;
use sfu::command::{PublicationId, ReceiveSection, SendSection};
use shared::media::{Codec, MediaKind};

use super::Rtp;

/// Sent ahead of what it is compared with at most, in units of the media clock: ten seconds of video.
const CLOCK_AHEAD_MAX: i32 = 900_000;

/// Packets of a publication that are kept to compare with: more than its layers' histories, from which the server
/// sends.
const PACKETS_MAX: usize = 2_048;

/// The media and reports of one world.
#[derive(Default)]
pub struct Checker {
    keys: HashMap<SocketAddr, Context>,
    /// By receiver and SSRC.
    sent: HashMap<(SocketAddr, u32), Sent>,
    /// The next transport-wide number to each receiver.
    numbers: HashMap<SocketAddr, u16>,
    /// The SSRC of which one sends again.
    repeats: HashMap<(SocketAddr, u32), u32>,
    publications: HashMap<PublicationId, Publication>,
    /// By SSRC.
    published: HashMap<u32, Published>,
    /// The SSRC of which a publisher's one sends again.
    repeated: HashMap<u32, u32>,
    /// Publishers send what is no media: then what subscribers get of it is none either.
    pub garbage: bool,
    /// Packets of publishers are on their way for a time, so that a report may not have all of them yet.
    is_networked: bool,
}

/// What a client publishes in one section.
struct Publication {
    publisher: SocketAddr,
    section: ReceiveSection,
    /// Sequence numbers that were skipped when packets arrived, in all layers.
    skipped: u64,
    /// How many packets have come.
    count: u64,
    /// The newest of them.
    packets: VecDeque<Original>,
}

/// A publisher's packet, and its payload without the numbers that subscribers get others of.
struct Original {
    packet: Rtp,
    payload: Vec<u8>,
}

/// A stream to a subscriber.
struct Sent {
    publication: PublicationId,
    section: SendSection,
    highest: Option<u16>,
    /// Sequence numbers that were skipped, and packets that came behind their successors.
    skipped: u64,
    late: u64,
    /// The publication's packets, by the order in which they came, that were sent.
    origins: HashSet<u64>,
    packets: HashMap<u16, Rtp>,
    count: u32,
    octets: u32,
    picture: Option<Picture>,
    newest_timestamp: u32,
    report: Option<u64>,
    next_repeat: Option<u16>,
}

/// VP8's numbers (RFC 7741, section 4.2) with the timestamp that they came with.
#[derive(Clone, Copy)]
struct Picture {
    timestamp: u32,
    id: u16,
    tl0: Option<u8>,
}

/// A stream of a publisher.
#[derive(Default)]
struct Published {
    /// Extended.
    first: u64,
    highest: u64,
    received: u64,
    seen: HashSet<u64>,
    /// Expected and received at the last report.
    reported: (u64, u64),
    /// Its last sender report.
    report: Option<(u64, Instant)>,
    publication: Option<PublicationId>,
    /// Of its layer, where packets have told it.
    rid: Option<Vec<u8>>,
}

impl Checker {
    /// One for clients that a network lies between, which neither loses packets nor changes their order.
    pub fn networked() -> Self {
        Self { is_networked: true, ..Self::default() }
    }

    pub fn join(&mut self, client: SocketAddr, from_server: Context) {
        self.keys.insert(client, from_server);
    }

    pub fn subscribe(&mut self, client: SocketAddr, publication: PublicationId, section: &SendSection) {
        if let Some(rtx) = section.rtx_ssrc {
            self.repeats.insert((client, rtx.0), section.ssrc.0);
        }
        let sent = Sent {
            publication,
            section: section.clone(),
            highest: None,
            skipped: 0,
            late: 0,
            origins: HashSet::new(),
            packets: HashMap::new(),
            count: 0,
            octets: 0,
            picture: None,
            newest_timestamp: 0,
            report: None,
            next_repeat: None,
        };
        self.sent.insert((client, section.ssrc.0), sent);
    }

    pub fn publish(&mut self, publisher: SocketAddr, publication: PublicationId, section: &ReceiveSection) {
        let layers = section.layers.iter();
        self.repeated.extend(layers.filter_map(|layer| Some((layer.rtx_ssrc?.0, layer.ssrc?.0))));
        let described = self.publications.entry(publication).or_insert_with(|| Publication {
            publisher,
            section: section.clone(),
            skipped: 0,
            count: 0,
            packets: VecDeque::new(),
        });
        described.section = section.clone();
    }

    /// A publisher sends its stream `of` again as this one, and need not say so.
    pub fn sent_again(&mut self, ssrc: u32, of: u32) {
        self.repeated.insert(ssrc, of);
    }

    /// A stream that another engine has had until now goes on with this number.
    pub fn goes_on(&mut self, ssrc: u32, next: u16) {
        let first = (1 << 16) + u64::from(next);
        self.published.insert(ssrc, Published { first, highest: first - 1, ..Published::default() });
    }

    /// A publisher's packet that is about to arrive.
    pub fn published(&mut self, publisher: SocketAddr, packet: &Rtp) {
        let publication = self.publication_of(publisher, packet);
        if self.is_repeat(publication, packet) {
            let original = self.original_of(publication, packet);
            if let (Some(ssrc), [high, low, payload @ ..]) = (original, packet.payload.as_slice()) {
                let (sequence, payload) = (u16::from_be_bytes([*high, *low]), payload.to_vec());
                let publication = self.published.get(&ssrc).and_then(|stream| stream.publication).or(publication);
                self.receive(publication, &Rtp { ssrc, sequence, payload, ..packet.clone() });
            }
            return;
        }
        self.receive(publication, packet);
    }

    fn receive(&mut self, id: Option<PublicationId>, packet: &Rtp) {
        let publication = id.and_then(|id| self.publications.get_mut(&id));
        let stream = self.published.entry(packet.ssrc).or_default();
        stream.publication = id;
        let skipped = stream.receive(packet.sequence);
        let Some(publication) = publication else { return };
        let rid = publication.section.extensions.rid.and_then(|id| packet.extension(id));
        stream.rid = rid.map(<[u8]>::to_vec).or(stream.rid.take());
        publication.skipped += skipped;
        publication.receive(packet);
    }

    /// Whether a packet is one that is sent again (RFC 4588): by its SSRC, or by its payload type.
    fn is_repeat(&self, publication: Option<PublicationId>, packet: &Rtp) -> bool {
        let section = publication.and_then(|id| self.publications.get(&id)).map(|publication| &publication.section);
        let is_rtx =
            |section: &ReceiveSection| section.codecs.iter().any(|codec| codec.rtx == Some(packet.payload_type));
        self.repeated.contains_key(&packet.ssrc) || section.is_some_and(is_rtx)
    }

    /// The SSRC of which a packet is sent again: the declared one, that of the layer which it names (RFC 8852, section
    /// 4.3), or the only one.
    fn original_of(&self, publication: Option<PublicationId>, packet: &Rtp) -> Option<u32> {
        if let Some(declared) = self.repeated.get(&packet.ssrc) {
            return Some(*declared);
        }
        let section = &self.publications.get(&publication?)?.section;
        let ids = [section.extensions.repaired_rid, section.extensions.rid];
        let named = ids.into_iter().flatten().find_map(|id| packet.extension(id));
        let mut layers = self.published.iter().filter(|(_, stream)| stream.publication == publication);
        let layer = match named {
            Some(rid) => layers.find(|(_, stream)| stream.rid.as_deref() == Some(rid)),
            None => layers.next().filter(|_| section.layers.len() == 1),
        };
        layer.map(|(ssrc, _)| *ssrc)
    }

    /// Of which publication a packet is: by its SSRC if that was declared, by its MID, by what others of its SSRC were,
    /// and at last by its payload type (RFC 9143, section 9.2).
    fn publication_of(&self, publisher: SocketAddr, packet: &Rtp) -> Option<PublicationId> {
        let all = || self.publications.iter().filter(|(_, one)| one.publisher == publisher);
        let declared = all().find(|(_, one)| {
            one.section.layers.iter().any(|layer| layer.ssrc.is_some_and(|ssrc| ssrc.0 == packet.ssrc))
        });
        let named = || {
            all().find(|(_, one)| {
                let mid = one.section.extensions.mid.and_then(|id| packet.extension(id));
                mid == Some(one.section.mid.as_bytes())
            })
        };
        let known = || self.published.get(&packet.ssrc)?.publication;
        let only = || {
            let mut fitting = all().filter(|(_, one)| one.codec_of(packet).is_some());
            fitting.next().filter(|_| fitting.next().is_none())
        };
        let id = |(id, _): (&PublicationId, &Publication)| *id;
        declared.or_else(named).map(id).or_else(known).or_else(|| only().map(id))
    }

    /// A client's RTCP that is about to arrive.
    pub fn reported(&mut self, now: Instant, compound: &[u8]) {
        let Ok(packets) = rtc_rtcp::packet::unmarshal(&mut &compound[..]) else { return };
        for packet in &packets {
            if let Some(report) = packet.as_any().downcast_ref::<SenderReport>()
                && let Some(stream) = self.published.get_mut(&report.ssrc)
            {
                stream.report = Some((report.ntp_time, now));
            }
        }
    }

    /// A datagram that has left.
    ///
    /// # Panics
    ///
    /// When a receiver that knows the RFCs would wonder.
    pub fn check(&mut self, now: Instant, to: SocketAddr, datagram: &[u8]) {
        // RFC 7983, section 7.
        if !matches!(datagram.first(), Some(128..=191)) {
            return;
        }
        let Some(keys) = self.keys.get_mut(&to) else { return };
        // RFC 5761, section 4.
        if (192..224).contains(&datagram[1]) {
            let compound = keys.decrypt_rtcp(datagram).expect("RTCP that can be opened");
            self.check_control(now, to, &compound);
        } else {
            let packet = Rtp::parse(&keys.decrypt_rtp(datagram).expect("RTP that can be opened"));
            self.check_media(to, packet);
        }
    }

    fn check_media(&mut self, to: SocketAddr, packet: Rtp) {
        self.check_transport_wide(to, &packet);
        if let Some(original) = self.repeats.get(&(to, packet.ssrc)) {
            let stream = self.sent.get_mut(&(to, *original)).expect("a stream whose packets are sent again");
            return stream.check_repeat(&packet);
        }
        let stream = self.sent.get_mut(&(to, packet.ssrc));
        let stream = stream.unwrap_or_else(|| panic!("SSRC {} was not agreed upon", packet.ssrc));
        let publication = self.publications.get(&stream.publication).expect("media of what was published");
        stream.check(packet, publication, self.garbage);
    }

    /// Transport-wide numbers go on by one over all streams, in the order in which packets leave. All video bears one
    /// where that was agreed upon, also when it is sent again
    /// (draft-holmer-rmcat-transport-wide-cc-extensions-01, section 2).
    fn check_transport_wide(&mut self, to: SocketAddr, packet: &Rtp) {
        let media = self.repeats.get(&(to, packet.ssrc)).unwrap_or(&packet.ssrc);
        let Some(stream) = self.sent.get(&(to, *media)) else { return };
        let Some(id) = stream.section.extensions.transport_cc else { return };
        let is_video = stream.section.codecs.iter().any(|codec| codec.codec.kind() == MediaKind::Video);
        let Some(number) = packet.extension(id) else {
            return assert!(!is_video, "video bears a transport-wide number");
        };
        let number = u16::from_be_bytes(number.try_into().expect("a transport-wide number has 16 bits"));
        if let Some(next) = self.numbers.insert(to, number.wrapping_add(1)) {
            assert_eq!(number, next, "transport-wide numbers go on by one");
        }
    }

    fn check_control(&mut self, now: Instant, to: SocketAddr, compound: &[u8]) {
        let packets = rtc_rtcp::packet::unmarshal(&mut &compound[..]).expect("RTCP that others can read");
        let mut packets = packets.iter().peekable();
        while let Some(packet) = packets.next() {
            if let Some(report) = packet.as_any().downcast_ref::<SenderReport>() {
                let description = packets.peek().and_then(|next| next.as_any().downcast_ref::<SourceDescription>());
                let stream = self.sent.get_mut(&(to, report.ssrc)).expect("a report on a stream of ours");
                stream.check_report(report, description.expect("a report comes with a CNAME (RFC 3550, section 6.1)"));
            }
            if let Some(report) = packet.as_any().downcast_ref::<ReceiverReport>() {
                for block in &report.reports {
                    let stream = self.published.get_mut(&block.ssrc).expect("a report on a stream that was published");
                    stream.check_block(now, block, self.is_networked);
                }
            }
        }
    }
}

impl Sent {
    fn check(&mut self, packet: Rtp, publication: &Publication, garbage: bool) {
        let codec = self.section.codecs.iter().find(|codec| codec.payload_type == packet.payload_type);
        let codec = codec.unwrap_or_else(|| panic!("payload type {} was not agreed upon", packet.payload_type)).codec;
        self.check_extensions(&packet, codec.kind() == MediaKind::Video);
        self.check_origin(&packet, codec, publication);
        let ahead = self.check_number(packet.sequence, publication);
        if ahead > 0 {
            self.highest = Some(packet.sequence);
            let passed = packet.timestamp.wrapping_sub(self.newest_timestamp).cast_signed();
            assert!(self.count == 0 || passed >= 0 || garbage, "the media clock goes back by {passed}");
            self.newest_timestamp = packet.timestamp;
            if codec == Codec::Vp8 && !garbage {
                self.check_picture(&packet, ahead == 1);
            }
        }
        self.count = self.count.wrapping_add(1);
        self.octets = self.octets.wrapping_add(packet.payload.len() as u32);
        self.packets.insert(packet.sequence, packet);
        let highest = self.highest.unwrap_or_default();
        for behind in 0..ahead.unsigned_abs() {
            self.packets.remove(&highest.wrapping_sub(30_000 + behind));
        }
    }

    /// How far a number is ahead of the highest before: one, but where the publisher's were skipped and come late.
    fn check_number(&mut self, sequence: u16, publication: &Publication) -> i16 {
        let ahead = self.highest.map_or(1, |highest| sequence.wrapping_sub(highest).cast_signed());
        let (skipped, late) = match u64::try_from(ahead) {
            Ok(ahead @ 1..) => (self.skipped + ahead - 1, self.late),
            Ok(_) | Err(_) => (self.skipped, self.late + 1),
        };
        let (before, theirs) = (self.highest, publication.skipped);
        assert!(!self.packets.contains_key(&sequence), "{sequence} was sent before");
        assert!(skipped <= theirs, "{sequence} follows {before:?}: {skipped} skipped, {theirs} by the publisher");
        assert!(late <= skipped, "{sequence} comes behind {before:?} and fills no gap");
        (self.skipped, self.late) = (skipped, late);
        ahead
    }

    /// Each packet has the payload of one of the publisher's, which is sent once. What that says in extensions goes
    /// along where both have agreed upon it: the audio level (RFC 6464), and the dependency descriptor (RTP Payload
    /// Format For AV1, appendix A) of codecs whose layers depend on each other.
    fn check_origin(&mut self, packet: &Rtp, codec: Codec, publication: &Publication) {
        let (theirs, ours) = (&publication.section.extensions, &self.section.extensions);
        let (theirs, ours) = match codec {
            Codec::Av1 { .. } | Codec::Vp9 { .. } => (theirs.dependency_descriptor, ours.dependency_descriptor),
            Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => (theirs.audio_level, ours.audio_level),
            Codec::Vp8 | Codec::H264 { .. } | Codec::H265 => {
                let descriptor = ours.dependency_descriptor.and_then(|id| packet.extension(id));
                assert_eq!(descriptor, None, "a switch of layers would leave it wrong");
                (None, None)
            }
        };
        let payload = without_numbers(codec, &packet.payload);
        // The newest first: mostly it is one of these.
        let mut newest_first = (0..publication.count).rev().zip(publication.packets.iter().rev());
        let origin = newest_first.find(|(number, original)| {
            let said = theirs.and_then(|id| original.packet.extension(id));
            ours.is_none_or(|id| said == packet.extension(id))
                && original.packet.marker == packet.marker
                && self.may_be(&payload, original, publication)
                && !self.origins.contains(number)
        });
        let (number, _) = origin.unwrap_or_else(|| panic!("no packet of its publisher's is {packet:?}"));
        self.origins.insert(number);
    }

    /// Whether a payload is the publisher's: all of it, what comes before a trailer, or the primary block of RED (RFC
    /// 2198), which is the last.
    fn may_be(&self, payload: &[u8], original: &Original, publication: &Publication) -> bool {
        let is_red = || publication.codec_of(&original.packet) == Some(Codec::Red);
        let whole = original.payload.as_slice();
        whole == payload
            || (self.section.strips_trailers && whole.starts_with(payload))
            || (whole.ends_with(payload) && is_red())
    }

    /// RFC 8285; the absolute send time as libwebrtc's estimate wants it, with all video.
    fn check_extensions(&self, packet: &Rtp, is_video: bool) {
        let ids = &self.section.extensions;
        let agreed = [ids.mid, ids.abs_send_time, ids.audio_level, ids.dependency_descriptor, ids.transport_cc];
        for (id, _) in &packet.extensions {
            assert!(agreed.contains(&Some(*id)), "extension {id} was not agreed upon");
        }
        if let Some(id) = ids.abs_send_time.filter(|_| is_video) {
            let time = packet.extension(id).expect("video tells its absolute send time");
            assert_eq!(time.len(), 3, "an absolute send time has 24 bits");
        }
    }

    fn check_picture(&mut self, packet: &Rtp, is_next: bool) {
        let Some(now) = picture(packet) else { return };
        if let (Some(before), true) = (self.picture.replace(now), is_next) {
            let step = now.id.wrapping_sub(before.id) & 0x7fff;
            let expected = u16::from(now.timestamp != before.timestamp);
            assert_eq!(step, expected, "picture ids go on by one, and stay within a frame");
            if let (Some(now), Some(before)) = (now.tl0, before.tl0) {
                assert_eq!(now.wrapping_sub(before), expected as u8, "TL0PICIDX goes on with the pictures");
            }
        }
    }

    /// RFC 4588, section 4.
    fn check_repeat(&mut self, packet: &Rtp) {
        if let Some(next) = self.next_repeat {
            assert_eq!(packet.sequence, next, "retransmissions have numbers of their own");
        }
        self.next_repeat = Some(packet.sequence.wrapping_add(1));
        let (number, payload) = packet.payload.split_first_chunk::<2>().expect("it tells which packet it was");
        let number = u16::from_be_bytes(*number);
        let original = self.packets.get(&number).unwrap_or_else(|| panic!("{number} was never sent"));
        assert_eq!(payload, original.payload, "the payload of {number}");
        assert_eq!((packet.timestamp, packet.marker), (original.timestamp, original.marker), "of {number}");
        let ids = &self.section.extensions;
        for id in [ids.audio_level, ids.dependency_descriptor].into_iter().flatten() {
            assert_eq!(packet.extension(id), original.extension(id), "extension {id} of {number}");
        }
        let codec = self.section.codecs.iter().find(|codec| codec.payload_type == original.payload_type);
        assert_eq!(Some(packet.payload_type), codec.and_then(|codec| codec.rtx));
    }

    /// RFC 3550, sections 6.4.1 and 6.5.1.
    fn check_report(&mut self, report: &SenderReport, description: &SourceDescription) {
        assert_eq!(report.packet_count, self.count, "packets so far");
        assert_eq!(report.octet_count, self.octets, "octets of payload so far");
        let ahead = report.rtp_time.wrapping_sub(self.newest_timestamp).cast_signed();
        assert!(ahead.abs() < CLOCK_AHEAD_MAX, "the media clock is {ahead} ahead of the media");
        assert!(self.report.is_none_or(|before| report.ntp_time > before), "the wall clock goes on");
        self.report = Some(report.ntp_time);
        let chunk = description.chunks.first().expect("a chunk");
        assert_eq!(chunk.source, report.ssrc);
        let name = chunk.items.iter().find(|item| item.sdes_type == SdesType::SdesCname).expect("a CNAME");
        assert_eq!(name.text, self.section.cname.as_bytes().to_vec());
    }
}

impl Publication {
    fn codec_of(&self, packet: &Rtp) -> Option<Codec> {
        let of = |payload_type| payload_type == packet.payload_type;
        let codec = self.section.codecs.iter().find(|one| of(one.payload_type) || one.rtx.is_some_and(of));
        codec.map(|one| one.codec)
    }

    fn receive(&mut self, packet: &Rtp) {
        let payload = match self.codec_of(packet) {
            Some(codec) => without_numbers(codec, &packet.payload),
            None => packet.payload.clone(),
        };
        self.count += 1;
        self.packets.push_back(Original { packet: packet.clone(), payload });
        if self.packets.len() > PACKETS_MAX {
            self.packets.pop_front();
        }
    }
}

impl Published {
    /// Takes a sequence number in, and says how many were skipped.
    fn receive(&mut self, sequence: u16) -> u64 {
        if self.first == 0 {
            self.first = (1 << 16) + u64::from(sequence);
            self.highest = self.first;
        }
        let ahead = i64::from(sequence.wrapping_sub(self.highest as u16).cast_signed());
        let extended = self.highest.saturating_add_signed(ahead);
        self.highest = self.highest.max(extended);
        self.received += u64::from(self.seen.insert(extended));
        u64::try_from(ahead - 1).unwrap_or(0)
    }

    /// RFC 3550, section 6.4.1 and appendix A.3. What is on its way may be missing.
    fn check_block(&mut self, now: Instant, block: &ReceptionReport, is_networked: bool) {
        let on_its_way = (self.highest as u16).wrapping_sub(block.last_sequence_number as u16);
        assert!(on_its_way == 0 || is_networked, "{on_its_way} behind the highest number that came");
        let highest = self.highest - u64::from(on_its_way);
        let (expected, received) = (highest + 1 - self.first, self.received - self.count_above(highest));
        assert!(expected >= self.reported.0, "the highest number goes back");
        assert_eq!(u64::from(block.total_lost), expected - received, "lost in all");
        let (new_expected, new_received) = (expected - self.reported.0, received - self.reported.1);
        self.reported = (expected, received);
        let lost = new_expected.saturating_sub(new_received);
        let fraction = (lost * 256).checked_div(new_expected).unwrap_or(0).min(255);
        assert_eq!(u64::from(block.fraction_lost), fraction, "the share lost since the last report");
        let Some((ntp, at)) = self.report else {
            return assert_eq!((block.last_sender_report, block.delay), (0, 0), "no sender report came");
        };
        assert_eq!(block.last_sender_report, (ntp >> 16) as u32, "the last sender report's time");
        let delay = (now.duration_since(at).as_secs_f64() * 65_536.0) as u32;
        assert!(block.delay.abs_diff(delay) <= 1, "{} since the last sender report, not {delay}", block.delay);
    }

    /// How many have come with higher numbers.
    fn count_above(&self, number: u64) -> u64 {
        (number + 1..=self.highest).filter(|number| self.seen.contains(number)).count() as u64
    }
}

/// A payload without the numbers that a subscriber gets others of, for its stream to have no gaps: picture id and
/// TL0PICIDX of VP8 (RFC 7741, section 4.2). Their places stay.
fn without_numbers(codec: Codec, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    if codec == Codec::Vp8
        && let [first, extension, numbers @ ..] = payload.as_mut_slice()
        && *first & 0x80 != 0
    {
        let id = match (*extension & 0x80, numbers.first_mut()) {
            (0, _) | (_, None) => 0,
            // The first bit tells that it has 15 bits.
            (_, Some(byte)) => {
                *byte &= 0x80;
                if *byte == 0 { 1 } else { 2 }
            }
        };
        let tl0 = usize::from(*extension & 0x40 != 0);
        numbers.iter_mut().take(id + tl0).skip(1.min(id)).for_each(|byte| *byte = 0);
    }
    payload
}

/// Picture id and TL0PICIDX of a VP8 payload with a 15-bit picture id.
fn picture(packet: &Rtp) -> Option<Picture> {
    let [first, extension, high, low, rest @ ..] = packet.payload.as_slice() else { return None };
    if first & 0x80 == 0 || extension & 0x80 == 0 || high & 0x80 == 0 {
        return None;
    }
    let tl0 = (extension & 0x40 != 0).then(|| rest.first().copied()).flatten();
    Some(Picture { timestamp: packet.timestamp, id: u16::from_be_bytes([high & 0x7f, *low]), tl0 })
}
