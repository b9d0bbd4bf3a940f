//! The three data channels of a LiveKit transport: SCTP (RFC 8831) with in-band opening (DCEP, RFC 8832).
//!
//! Clients send INIT once DTLS is up, whoever created the channels, so the association is accepted: it is made when the
//! INIT arrives, costs nothing before that and nothing while idle. Only where we are the DTLS client and none comes do
//! we send one: of the stacks that answer as DTLS servers, Pion sends its own, and webrtc-rs waits for that of the DTLS
//! client. Channels are known by label; those we open take the stream ids 1, 3, 5 as the DTLS server and 0, 2, 4 as the
//! DTLS client (RFC 8832, section 6).
//!
//! # Why `rtc-sctp`, inspected
//!
//! The crate trusts its peer: of `rtc-sctp` 0.21.1 alone, one packet panics (a cause of ERROR or ABORT with a lying
//! length), one stalls for 5 s (FORWARD-TSN 2^31 ahead), and resets from the future are kept without bound. So
//! `sctp/inspect.rs` looks at each packet before. The others, with the same window, messages and packets:
//!
//! | | `rtc-sctp`, inspected | `sctp-proto` 0.10.8 | `dcsctp` 0.1.16 |
//! |---|---|---|---|
//! | panics in 200,000 mutated packets | 0 (alone: 215 in 4,422) | 0 | 0 |
//! | longest of them | 0.1 ms | 0.1 ms | 0.4 ms |
//! | kept of 20 MB behind gaps, with a window of 256 KiB | 0.2 MB | 24 MB | 0.3 MB |
//! | kept of a message of single bytes | 1.4 MB | 19 MB | none |
//! | CPU of both ends a MB: 1 KiB messages, 64 KiB messages | 3.3 ms, 3.1 ms | 61 ms, 48 ms | 81 ms, 78 ms |
//! | memory of an idle association | 5,102 bytes | 5,368 bytes | 3,958 bytes |
//!
//! `sctp-proto` looks through all that is in flight for each packet, and would need most of the inspection as well.
//! `dcsctp` needs none against what was tried, but writes each packet as text for a log that nobody reads: 10 ms and 5
//! ms without. Once that is gone it is the one to look at again.

mod backlog;
mod channel;
mod discards;
mod error;
mod inspect;
mod limits;
mod pace;
mod window;
mod work;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use bytes::Bytes;
use rtc_datachannel::message::Message;
use rtc_datachannel::message::message_channel_ack::DataChannelAck;
use rtc_datachannel::message::message_channel_open::{ChannelType, DataChannelOpen};
use rtc_sctp::{
    Association, AssociationHandle, Chunks, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, EndpointEvent,
    Event, Payload, PayloadProtocolIdentifier, ReliabilityType, ServerConfig, StreamEvent, StreamId, TransportConfig,
};
use rtc_shared::TransportProtocol;
use rtc_shared::marshal::{Marshal, Unmarshal};

use self::backlog::Backlog;
use self::channel::{CHANNELS, index_of, label_of, reliability_of, stream_of};
pub use self::discards::DataDiscards;
pub use self::error::SendDataError;
use self::inspect::{Inspector, Verdict, look_at_shape, number_of_init};
pub use self::limits::MESSAGE_BYTES_MAX;
use self::limits::{RECEIVE_WINDOW, STREAMS_MAX};
use self::pace::Pace;
use self::window::ReceiveWindow;
use crate::parameters::{ChannelOpener, DataChannel, DtlsRole};

/// Reliable bytes that wait for any client, whatever others do. One that is further behind than it may be loses
/// messages, which the caller counts: ending the transport instead would take its media away too, and waiting for it
/// would hold up everybody else.
const RELIABLE_BUFFER_MIN: usize = 1024 * 1024;
/// Reliable bytes that wait for one client at most: two minutes of a megabit a second.
const RELIABLE_BUFFER_MAX: usize = 16 * 1024 * 1024;
/// Reliable bytes that wait for a client below the threshold: two messages of the longest kind.
const SLOW_BUFFER_MAX: usize = 128 * 1024;
/// Bytes that may still come for a client after its senders were told to wait: twice what a room may have of them.
const BEHIND_MARGIN: usize = 2 * 1024 * 1024;
/// Above this many unacknowledged bytes a lossy message is dropped, unless the client is known to take them within
/// [`LOSSY_LATENCY_MAX`]: late is as good as lost. LiveKit's figure.
const LOSSY_BUFFER_MIN: usize = 8 * 1024;
/// The same bound for the fastest clients.
const LOSSY_BUFFER_MAX: usize = 1024 * 1024;
/// How late a lossy message may be.
const LOSSY_LATENCY_MAX: Duration = Duration::from_millis(200);
/// Reliable bytes kept for a channel that is not open yet. LiveKit's figure.
const PENDING_BYTES_MAX: usize = 100 * 1024;
/// INITs that may wait for their COOKIE-ECHO at once, see [`Sctp::candidates`].
const CANDIDATES_MAX: usize = 3;
/// How long a DTLS client waits for the server's INIT before it sends one: longer than the round trip of nearly every
/// network, since `rtc-sctp` does not merge two that cross (RFC 9260, section 5.2.1).
const INIT_WAIT: Duration = Duration::from_millis(400);
/// Lossy data that has arrived and was not fetched. Fetched after every datagram, so a datagram's worth is the norm.
const OUTPUTS_MAX: usize = 1_024;

/// `rtc-sctp` wants addresses; over DTLS there are none.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

static ENDPOINT_CONFIG: LazyLock<Arc<EndpointConfig>> = LazyLock::new(|| Arc::new(EndpointConfig::new()));
static SERVER_CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| Arc::new(ServerConfig::new(transport_config())));

fn transport_config() -> TransportConfig {
    TransportConfig::default()
        .with_max_receive_buffer_size(RECEIVE_WINDOW)
        .with_max_message_size(MESSAGE_BYTES_MAX as u32)
}

/// What the data channels have to tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SctpOutput {
    Open(DataChannel),
    /// A message of a channel that is not reliable.
    Data(DataChannel, Bytes),
}

/// A channel in our direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Closed,
    /// We sent OPEN and wait for ACK.
    Opening(StreamId),
    Open(StreamId),
}

/// SCTP and data channels of one transport.
pub(crate) struct Sctp {
    opener: ChannelOpener,
    /// Which stream ids our channels take follows from it.
    role: DtlsRole,
    /// When we send INIT if the client has not.
    initiate_at: Option<Instant>,
    association: Option<Box<Established>>,
    /// Associations that answered an INIT and wait for COOKIE-ECHO, or sent one and wait for the answer. `rtc-sctp`
    /// makes a new one of every repeated INIT, and the client goes on with the first INIT-ACK that reaches it:
    /// whichever is established is kept.
    candidates: Option<Box<Candidates>>,
    sending: [Sending; 3],
    /// Streams on which the client sends, by its OPEN or ours.
    receiving: ArrayVec<(StreamId, DataChannel), STREAMS_MAX>,
    /// Bits a second below which a client loses reliable messages; 0: none does.
    slow_threshold_bps: u64,
    /// Reliable messages that the client has not acknowledged.
    backlog: Backlog,
    /// What each channel of the association has unacknowledged, and how fast that goes.
    buffered: [usize; 3],
    paces: [Pace; 3],
    /// Reliable messages of the client.
    window: ReceiveWindow,
    outputs: VecDeque<SctpOutput>,
    transmits: VecDeque<Bytes>,
    discards: DataDiscards,
}

struct Established {
    endpoint: Endpoint,
    handle: AssociationHandle,
    association: Association,
    inspector: Inspector,
}

struct Candidates {
    endpoint: Endpoint,
    associations: ArrayVec<Candidate, CANDIDATES_MAX>,
}

struct Candidate {
    handle: AssociationHandle,
    association: Association,
    inspector: Inspector,
}

impl Established {
    fn collect_transmits(&mut self, now: Instant, transmits: &mut VecDeque<Bytes>) {
        collect_transmits(&mut self.association, &mut self.inspector, now, transmits);
    }
}

impl Candidates {
    fn new() -> Box<Self> {
        let endpoint =
            Endpoint::new(PEER, TransportProtocol::UDP, ENDPOINT_CONFIG.clone(), Some(SERVER_CONFIG.clone()));
        Box::new(Self { endpoint, associations: ArrayVec::new() })
    }
}

impl Sctp {
    pub(crate) fn new(opener: ChannelOpener) -> Self {
        Self {
            opener,
            role: DtlsRole::Server,
            initiate_at: None,
            association: None,
            candidates: None,
            sending: [Sending::Closed; 3],
            receiving: ArrayVec::new(),
            slow_threshold_bps: 0,
            backlog: Backlog::default(),
            buffered: [0; 3],
            paces: Default::default(),
            window: ReceiveWindow::default(),
            outputs: VecDeque::new(),
            transmits: VecDeque::new(),
            discards: DataDiscards::default(),
        }
    }

    /// DTLS is up, with us in this role.
    pub(crate) fn start(&mut self, now: Instant, role: DtlsRole) {
        self.role = role;
        self.initiate_at = (role == DtlsRole::Client).then_some(now + INIT_WAIT);
    }

    pub(crate) fn set_slow_threshold(&mut self, bits_per_second: u32) {
        self.slow_threshold_bps = bits_per_second.into();
    }

    /// Bytes of reliable messages that the client has not acknowledged.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog.bytes()
    }

    pub(crate) fn take_discards(&mut self) -> DataDiscards {
        std::mem::take(&mut self.discards)
    }

    /// Takes in an SCTP packet.
    pub(crate) fn on_packet(&mut self, now: Instant, packet: Bytes) {
        match look_at_shape(&packet) {
            // A late copy of the INIT that opened this association; the crate would close over it.
            Verdict::Take if self.association.is_some() && number_of_init(&packet).is_some() => {}
            Verdict::Take if self.association.is_some() && self.window.parks(&packet) => {
                self.discards.beyond_window += u64::from(!self.window.park(&packet));
            }
            Verdict::Take if self.association.is_some() => self.on_established_packet(now, packet),
            Verdict::Take => self.on_handshake_packet(now, packet),
            verdict @ (Verdict::Drop | Verdict::Abort) => self.refuse(verdict),
        }
        self.progress(now);
    }

    fn refuse(&mut self, verdict: Verdict) {
        self.discards.malformed += 1;
        if verdict == Verdict::Abort {
            self.on_association_lost();
        }
    }

    fn on_established_packet(&mut self, now: Instant, packet: Bytes) {
        let Some(established) = &mut self.association else { return };
        let verdict = established.inspector.look_at(now, &packet, true);
        if verdict != Verdict::Take {
            return self.refuse(verdict);
        }
        match established.endpoint.handle(now, PEER, None, packet) {
            Some((handle, DatagramEvent::AssociationEvent(event))) if handle == established.handle => {
                established.association.handle_event(event);
            }
            _ => self.discards.malformed += 1,
        }
    }

    /// Sends INIT, since the client has not.
    fn initiate(&mut self, now: Instant) {
        self.initiate_at = None;
        let candidates = self.candidates.get_or_insert_with(Candidates::new);
        let config = ClientConfig::new(transport_config());
        // Fails only when no more associations fit, and this is the first.
        if let Ok((handle, association)) = candidates.endpoint.connect(now, config, PEER) {
            let _ =
                candidates.associations.try_push(Candidate { handle, association, inspector: Inspector::default() });
        }
    }

    fn on_handshake_packet(&mut self, now: Instant, packet: Bytes) {
        self.initiate_at = None;
        let candidates = self.candidates.get_or_insert_with(Candidates::new);
        let init = number_of_init(&packet);
        if init.is_some() && candidates.associations.is_full() {
            // A client that still sends INIT has had no answer: the oldest one is the least likely to be taken up.
            let oldest = candidates.associations.remove(0);
            candidates.endpoint.handle_event(oldest.handle, EndpointEvent::drained());
        }
        match (candidates.endpoint.handle(now, PEER, None, packet.clone()), init) {
            (Some((handle, DatagramEvent::NewAssociation(association))), Some(first)) => {
                let inspector = Inspector::after_init(first);
                // Not full: there is room now, and only an INIT makes a new one.
                let _ = candidates.associations.try_push(Candidate { handle, association, inspector });
            }
            (Some((handle, DatagramEvent::AssociationEvent(event))), None) => {
                let Some(candidate) = candidates.associations.iter_mut().find(|known| known.handle == handle) else {
                    return self.refuse(Verdict::Drop);
                };
                match candidate.inspector.look_at(now, &packet, false) {
                    Verdict::Take => candidate.association.handle_event(event),
                    verdict @ (Verdict::Drop | Verdict::Abort) => return self.refuse(verdict),
                }
            }
            // Among them an INIT with the tag of a candidate, which would have it begin anew with other numbers.
            _ => self.discards.malformed += 1,
        }
        self.settle_candidates(now);
    }

    /// Keeps the candidate that is established, and sends what the others have to say.
    fn settle_candidates(&mut self, now: Instant) {
        let Some(candidates) = &mut self.candidates else { return };
        for Candidate { association, inspector, .. } in &mut candidates.associations {
            collect_transmits(association, inspector, now, &mut self.transmits);
        }
        let Some(index) = candidates.associations.iter().position(|known| !known.association.is_handshaking()) else {
            return;
        };
        let Candidate { handle, association, inspector } = candidates.associations.swap_remove(index);
        if let Some(Candidates { endpoint, .. }) = self.candidates.take().map(|candidates| *candidates) {
            self.association = Some(Box::new(Established { endpoint, handle, association, inspector }));
            self.on_established(now);
        }
    }

    fn on_established(&mut self, now: Instant) {
        match self.opener {
            ChannelOpener::Client => {}
            ChannelOpener::Server => CHANNELS.into_iter().for_each(|channel| self.open(now, channel)),
        }
    }

    fn open(&mut self, now: Instant, channel: DataChannel) {
        let id = stream_of(channel, self.role);
        let Some(established) = &mut self.association else { return };
        let Ok(mut stream) = established.association.open_stream(id, PayloadProtocolIdentifier::Binary) else {
            return;
        };
        let open = DataChannelOpen {
            channel_type: match channel {
                DataChannel::Reliable => ChannelType::Reliable,
                DataChannel::Lossy | DataChannel::DataTrack => ChannelType::PartialReliableRexmitUnordered,
            },
            priority: 0,
            reliability_parameter: 0,
            label: label_of(channel).into(),
            protocol: Vec::new(),
        };
        let Ok(open) = Message::DataChannelOpen(open).marshal() else { return };
        // OPEN goes reliably and in order, whatever the channel is (RFC 8832, section 6).
        if stream.write_sctp(now, &open.freeze(), PayloadProtocolIdentifier::Dcep).is_ok()
            && self.receiving.try_push((id, channel)).is_ok()
        {
            self.sending[index_of(channel)] = Sending::Opening(id);
        }
    }

    /// Carries on after anything that may have moved the association: events, messages, packets to send.
    fn progress(&mut self, now: Instant) {
        while let Some(event) = self.association.as_mut().and_then(|established| established.association.poll()) {
            match event {
                Event::Stream(StreamEvent::Opened { id }) => self.on_stream_opened(now, id),
                Event::Stream(StreamEvent::Readable { id }) => self.read(now, id),
                Event::AssociationLost { id, .. } => self.on_stream_closed(id),
                _ => {}
            }
        }
        self.give_backlog(now);
        if let Some(established) = &mut self.association {
            established.collect_transmits(now, &mut self.transmits);
            if established.association.is_closed() {
                self.on_association_lost();
            }
        }
    }

    /// Notes what was acknowledged.
    fn note_pace(&mut self, now: Instant) {
        let Some(established) = &mut self.association else { return };
        for channel in CHANNELS {
            let index = index_of(channel);
            let Sending::Open(id) = self.sending[index] else { continue };
            let Ok(buffered) = established.association.stream(id).and_then(|stream| stream.buffered_amount()) else {
                continue;
            };
            let taken = self.buffered[index].saturating_sub(buffered);
            self.buffered[index] = buffered;
            if channel == DataChannel::Reliable {
                self.backlog.settle(buffered);
            }
            self.paces[index].note(now, taken, buffered > 0);
        }
    }

    /// Gives the association as much of the backlog as it may have.
    fn give_backlog(&mut self, now: Instant) {
        self.note_pace(now);
        let Sending::Open(id) = self.sending[index_of(DataChannel::Reliable)] else { return };
        let mut given = false;
        while let Some(payload) = self.backlog.next() {
            given = true;
            if self.write(now, id, &payload).is_err() {
                self.backlog.clear();
            }
        }
        if given {
            self.note_pace(now);
        }
    }

    /// The client aborted the association, or never acknowledged. It may start another one.
    fn on_association_lost(&mut self) {
        self.association = None;
        self.candidates = None;
        self.sending = [Sending::Closed; 3];
        self.backlog.clear();
        self.buffered = [0; 3];
        self.paces = Default::default();
        self.window.forget_association();
        self.receiving.clear();
    }

    fn on_stream_closed(&mut self, id: StreamId) {
        self.receiving.retain(|(stream, _)| *stream != id);
        for sending in &mut self.sending {
            if matches!(*sending, Sending::Open(stream) | Sending::Opening(stream) if stream == id) {
                *sending = Sending::Closed;
            }
        }
    }

    fn on_stream_opened(&mut self, now: Instant, id: StreamId) {
        let Some(established) = &mut self.association else { return };
        // Taken off the crate's list of new streams; it is the event that we go by.
        while established.association.accept_stream().is_some() {}
        if established.association.stream_ids().len() > STREAMS_MAX {
            self.discards.malformed += 1;
            self.on_association_lost();
            return;
        }
        self.read(now, id);
    }

    fn read(&mut self, now: Instant, id: StreamId) {
        while let Some(established) = &mut self.association {
            let Ok(mut stream) = established.association.stream(id) else { return };
            let Ok(Some(chunks)) = stream.read() else { return };
            established.inspector.note_read(chunks.chunks.len());
            self.on_message(now, id, &chunks);
        }
    }

    fn on_message(&mut self, now: Instant, id: StreamId, chunks: &Chunks) {
        let Ok(payload) = chunks.to_payload(MESSAGE_BYTES_MAX) else {
            self.discards.too_long += 1;
            return;
        };
        match chunks.ppi {
            PayloadProtocolIdentifier::Dcep => self.on_dcep(now, id, payload.freeze()),
            PayloadProtocolIdentifier::Binary | PayloadProtocolIdentifier::String => {
                self.on_data(id, payload.freeze());
            }
            // An empty message travels as one zero byte (RFC 8831, section 6.6).
            PayloadProtocolIdentifier::BinaryEmpty | PayloadProtocolIdentifier::StringEmpty => {
                self.on_data(id, Bytes::new());
            }
            _ => self.discards.malformed += 1,
        }
    }

    fn on_data(&mut self, id: StreamId, payload: Bytes) {
        match self.receiving.iter().find(|(stream, _)| *stream == id) {
            None => self.discards.unknown_channel += 1,
            Some((_, DataChannel::Reliable)) => self.window.push(payload),
            Some(_) if self.outputs.len() >= OUTPUTS_MAX => self.discards.overflow += 1,
            Some(&(_, channel)) => self.outputs.push_back(SctpOutput::Data(channel, payload)),
        }
    }

    fn on_dcep(&mut self, now: Instant, id: StreamId, mut payload: Bytes) {
        match Message::unmarshal(&mut payload) {
            Ok(Message::DataChannelOpen(open)) => self.on_open(now, id, &open),
            Ok(Message::DataChannelAck(_)) => self.on_ack(now, id),
            _ => self.discards.malformed += 1,
        }
    }

    fn on_open(&mut self, now: Instant, id: StreamId, open: &DataChannelOpen) {
        let Some(established) = &mut self.association else { return };
        let Ok(mut stream) = established.association.stream(id) else { return };
        let Ok(ack) = Message::DataChannelAck(DataChannelAck).marshal() else { return };
        // A channel of another label is acknowledged too, since its client waits for that; its data is dropped.
        if stream.write_sctp(now, &ack.freeze(), PayloadProtocolIdentifier::Dcep).is_err() {
            return;
        }
        let (unordered, reliability) = reliability_of(open.channel_type);
        // Fails only for a stream that is not there.
        let _ = stream.set_reliability_params(unordered, reliability, open.reliability_parameter);

        let Some(channel) = CHANNELS.into_iter().find(|channel| label_of(*channel).as_bytes() == open.label) else {
            self.discards.unknown_channel += 1;
            return;
        };
        let is_new = self.receiving.iter().all(|(stream, _)| *stream != id);
        if is_new && self.receiving.try_push((id, channel)).is_err() {
            return;
        }
        if self.sending[index_of(channel)] == Sending::Closed {
            self.on_sendable(now, channel, id);
        }
    }

    fn on_ack(&mut self, now: Instant, id: StreamId) {
        let Some(channel) =
            CHANNELS.into_iter().find(|channel| self.sending[index_of(*channel)] == Sending::Opening(id))
        else {
            return;
        };
        if let Some(established) = &mut self.association
            && let Ok(mut stream) = established.association.stream(id)
        {
            let (unordered, reliability) = match channel {
                DataChannel::Reliable => (false, ReliabilityType::Reliable),
                DataChannel::Lossy | DataChannel::DataTrack => (true, ReliabilityType::Rexmit),
            };
            // Fails only for a stream that is not there.
            let _ = stream.set_reliability_params(unordered, reliability, 0);
        }
        self.on_sendable(now, channel, id);
    }

    fn on_sendable(&mut self, now: Instant, channel: DataChannel, id: StreamId) {
        self.sending[index_of(channel)] = Sending::Open(id);
        self.outputs.push_back(SctpOutput::Open(channel));
        self.give_backlog(now);
    }

    /// Sends a message. A reliable one waits for its channel to open, and for those before it; `spare` is how much more
    /// than [`RELIABLE_BUFFER_MIN`] may wait, in bytes.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        channel: DataChannel,
        payload: &Bytes,
        spare: usize,
    ) -> Result<(), SendDataError> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(SendDataError::TooLong);
        }
        match (channel, self.sending[index_of(channel)]) {
            (DataChannel::Reliable, Sending::Open(_)) => {
                self.note_pace(now);
                self.admit_reliable(payload, spare)?;
                self.backlog.push(payload.clone());
                self.give_backlog(now);
            }
            (DataChannel::Reliable, Sending::Closed | Sending::Opening(_)) => {
                if self.backlog.bytes() + Backlog::cost(payload) > PENDING_BYTES_MAX {
                    return Err(SendDataError::NotOpen);
                }
                self.backlog.push(payload.clone());
            }
            (DataChannel::Lossy | DataChannel::DataTrack, Sending::Open(id)) => {
                self.note_pace(now);
                self.admit_lossy(channel)?;
                self.write(now, id, payload)?;
                self.note_pace(now);
            }
            (DataChannel::Lossy | DataChannel::DataTrack, Sending::Closed | Sending::Opening(_)) => {
                return Err(SendDataError::NotOpen);
            }
        }
        if let Some(established) = &mut self.association {
            established.collect_transmits(now, &mut self.transmits);
        }
        Ok(())
    }

    fn admit_reliable(&self, payload: &Bytes, spare: usize) -> Result<(), SendDataError> {
        let bytes = self.backlog.bytes() + Backlog::cost(payload);
        let pace = self.paces[index_of(DataChannel::Reliable)].bps();
        if bytes > SLOW_BUFFER_MAX && pace.is_some_and(|bps| bps < self.slow_threshold_bps) {
            return Err(SendDataError::Slow);
        }
        if bytes > reliable_buffer(spare) {
            return Err(SendDataError::Full);
        }
        Ok(())
    }

    /// Whether so much waits for the client, although it is fast enough, that it would lose some of what is still on
    /// its way.
    pub(crate) fn is_behind(&mut self, now: Instant, spare: usize) -> bool {
        if self.slow_threshold_bps == 0 || self.backlog.bytes() <= reliable_buffer(spare).saturating_sub(BEHIND_MARGIN)
        {
            return false;
        }
        self.note_pace(now);
        self.paces[index_of(DataChannel::Reliable)].bps().is_none_or(|bps| bps >= self.slow_threshold_bps)
    }

    fn admit_lossy(&self, channel: DataChannel) -> Result<(), SendDataError> {
        let bps = self.paces[index_of(channel)].bps().unwrap_or_default();
        let in_time = (bps / 8) as f64 * LOSSY_LATENCY_MAX.as_secs_f64();
        let limit = (in_time as usize).clamp(LOSSY_BUFFER_MIN, LOSSY_BUFFER_MAX);
        if self.buffered[index_of(channel)] > limit { Err(SendDataError::Late) } else { Ok(()) }
    }

    fn write(&mut self, now: Instant, id: StreamId, payload: &Bytes) -> Result<(), SendDataError> {
        let established = self.association.as_mut().ok_or(SendDataError::NotOpen)?;
        let mut stream = established.association.stream(id).map_err(|_| SendDataError::NotOpen)?;
        let written = if payload.is_empty() {
            stream.write_sctp(now, &Bytes::from_static(&[0]), PayloadProtocolIdentifier::BinaryEmpty)
        } else {
            stream.write_sctp(now, payload, PayloadProtocolIdentifier::Binary)
        };
        written.map(drop).map_err(|_| SendDataError::NotOpen)
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Bytes> {
        Some(self.window.apply(self.transmits.pop_front()?))
    }

    pub(crate) fn poll_output(&mut self) -> Option<SctpOutput> {
        self.outputs.pop_front()
    }

    pub(crate) fn has_reliable(&self) -> bool {
        !self.window.is_empty()
    }

    /// The next reliable message of the client. Until it is taken it keeps the receive window closed by as much as it
    /// takes; afterwards there may be something to transmit.
    pub(crate) fn take_reliable(&mut self, now: Instant) -> Option<Bytes> {
        let payload = self.window.pop()?;
        if self.window.reopens() {
            while let Some(packet) = self.window.unpark() {
                self.on_established_packet(now, packet);
                self.progress(now);
            }
        }
        Some(payload)
    }

    /// When something is to be acknowledged or sent again; `None` while idle.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let candidates = self.candidates.iter().flat_map(|candidates| &candidates.associations);
        let established = self.association.as_ref().map(|established| &established.association);
        candidates
            .map(|candidate| &candidate.association)
            .chain(established)
            .filter_map(|association| association.poll_timeout())
            .chain(self.initiate_at)
            .min()
    }

    pub(crate) fn on_deadline(&mut self, now: Instant) {
        if self.initiate_at.is_some_and(|at| now >= at) {
            self.initiate(now);
        }
        if let Some(established) = &mut self.association {
            established.association.handle_timeout(now);
        }
        for candidate in self.candidates.iter_mut().flat_map(|candidates| &mut candidates.associations) {
            candidate.association.handle_timeout(now);
        }
        self.settle_candidates(now);
        self.progress(now);
    }
}

/// Reliable bytes that may wait for a client.
fn reliable_buffer(spare: usize) -> usize {
    RELIABLE_BUFFER_MIN.saturating_add(spare).min(RELIABLE_BUFFER_MAX)
}

fn collect_transmits(
    association: &mut Association,
    inspector: &mut Inspector,
    now: Instant,
    transmits: &mut VecDeque<Bytes>,
) {
    while let Some(transmit) = association.poll_transmit(now) {
        match transmit.message {
            Payload::RawEncode(packets) => {
                packets.iter().for_each(|packet| inspector.note_sent(packet));
                transmits.extend(packets);
            }
            _ => return,
        }
    }
}
