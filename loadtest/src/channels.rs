//! SCTP over DTLS and the data channels on it (RFC 8831, 8832).
//!
//! The DTLS client opens the association. A LiveKit server knows its channels by label: `_reliable`, `_lossy`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rtc_datachannel::message::Message;
use rtc_datachannel::message::message_channel_ack::DataChannelAck;
use rtc_datachannel::message::message_channel_open::{CHANNEL_PRIORITY_NORMAL, ChannelType, DataChannelOpen};
use rtc_sctp::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event, Payload,
    PayloadProtocolIdentifier, ReliabilityType, ServerConfig, StreamEvent, TransportConfig,
};
use rtc_shared::TransportProtocol;
use rtc_shared::marshal::{Marshal, Unmarshal};

use crate::dtls::DtlsRole;

/// The association is the only one of its endpoint, whichever path its packets take.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// Largest message that is taken from the server.
const MESSAGE_MAX: usize = 256 * 1024;

/// Channels that a server may open.
const CHANNELS_MAX: usize = 16;

/// What happened on the channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEvent {
    /// Messages can be sent with this label.
    Open(String),
    /// A message on the channel with this label.
    Message(String, Bytes),
}

/// The data channels of one transport.
pub struct Channels {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    role: DtlsRole,
    /// Opened by us once the association is up.
    wanted: Vec<String>,
    labels: HashMap<u16, String>,
    connected: bool,
}

impl Channels {
    /// `wanted` are the labels to open; `_lossy` is unordered and never retransmits.
    pub fn new(role: DtlsRole, wanted: Vec<String>) -> Self {
        let server = (role == DtlsRole::Server).then(|| Arc::new(ServerConfig::new(TransportConfig::default())));
        let endpoint = Endpoint::new(PEER, TransportProtocol::UDP, Arc::new(EndpointConfig::new()), server);
        Self { endpoint, association: None, role, wanted, labels: HashMap::new(), connected: false }
    }

    /// Sends INIT if that is ours to do; called when DTLS is established.
    pub fn start(&mut self, now: Instant) {
        if self.role == DtlsRole::Client && self.association.is_none() {
            self.association = self.endpoint.connect(now, ClientConfig::new(TransportConfig::default()), PEER).ok();
        }
    }

    /// Handles one SCTP packet out of DTLS.
    pub fn on_packet(&mut self, now: Instant, packet: Bytes) -> Vec<ChannelEvent> {
        match self.endpoint.handle(now, PEER, None, packet) {
            Some((handle, DatagramEvent::NewAssociation(association))) => {
                self.association = Some((handle, association));
            }
            Some((_, DatagramEvent::AssociationEvent(event))) => {
                if let Some((_, association)) = &mut self.association {
                    association.handle_event(event);
                }
            }
            _ => {}
        }
        self.poll(now)
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.association.as_ref().and_then(|(_, association)| association.poll_timeout())
    }

    /// Runs the retransmission timers.
    pub fn on_timeout(&mut self, now: Instant) -> Vec<ChannelEvent> {
        match &mut self.association {
            Some((_, association)) if association.poll_timeout().is_some_and(|deadline| deadline <= now) => {
                association.handle_timeout(now);
                self.poll(now)
            }
            _ => Vec::new(),
        }
    }

    /// The next SCTP packets to send through DTLS.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<Bytes>> {
        let (_, association) = self.association.as_mut()?;
        match association.poll_transmit(now)?.message {
            Payload::RawEncode(packets) => Some(packets),
            _ => None,
        }
    }

    /// Sends a binary message; `false` when there is no such channel yet or its buffer is full.
    pub fn send(&mut self, now: Instant, label: &str, message: &[u8]) -> bool {
        let Some((&id, _)) = self.labels.iter().find(|(_, known)| *known == label) else { return false };
        let Some((_, association)) = &mut self.association else { return false };
        association
            .stream(id)
            .and_then(|mut stream| stream.write_with_ppi(now, message, PayloadProtocolIdentifier::Binary))
            .is_ok()
    }

    fn poll(&mut self, now: Instant) -> Vec<ChannelEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.association.as_mut().and_then(|(_, association)| association.poll()) {
            match event {
                Event::Connected => self.open_wanted(now, &mut events),
                Event::Stream(StreamEvent::Readable { id }) => self.read(now, id, &mut events),
                Event::Stream(StreamEvent::Opened { .. }) => self.accept(now, &mut events),
                _ => {}
            }
        }
        events
    }

    fn accept(&mut self, now: Instant, events: &mut Vec<ChannelEvent>) {
        while let Some(id) = self
            .association
            .as_mut()
            .and_then(|(_, association)| association.accept_stream())
            .map(|stream| stream.stream_identifier())
        {
            self.read(now, id, events);
        }
    }

    fn open_wanted(&mut self, now: Instant, events: &mut Vec<ChannelEvent>) {
        if std::mem::replace(&mut self.connected, true) {
            return;
        }
        // The DTLS client takes the even streams (RFC 8832, section 6).
        let first = if self.role == DtlsRole::Client { 0 } else { 1 };
        for (index, label) in std::mem::take(&mut self.wanted).into_iter().enumerate() {
            let id = first + 2 * index as u16;
            if self.open(now, id, &label).is_some() {
                self.labels.insert(id, label.clone());
                events.push(ChannelEvent::Open(label));
            }
        }
    }

    fn open(&mut self, now: Instant, id: u16, label: &str) -> Option<()> {
        let lossy = label != "_reliable";
        let open = Message::DataChannelOpen(DataChannelOpen {
            channel_type: if lossy { ChannelType::PartialReliableRexmitUnordered } else { ChannelType::Reliable },
            priority: CHANNEL_PRIORITY_NORMAL,
            reliability_parameter: 0,
            label: label.as_bytes().to_vec(),
            protocol: Vec::new(),
        });
        let bytes = open.marshal().ok()?;
        let (_, association) = self.association.as_mut()?;
        let mut stream = association.open_stream(id, PayloadProtocolIdentifier::Binary).ok()?;
        stream.write_with_ppi(now, &bytes, PayloadProtocolIdentifier::Dcep).ok()?;
        if lossy {
            stream.set_reliability_params(true, ReliabilityType::Rexmit, 0).ok()?;
        }
        Some(())
    }

    fn read(&mut self, now: Instant, id: u16, events: &mut Vec<ChannelEvent>) {
        while let Some((ppi, message)) = self.next_message(id) {
            if ppi == PayloadProtocolIdentifier::Dcep {
                self.on_control(now, id, &message, events);
            } else if let Some(label) = self.labels.get(&id) {
                events.push(ChannelEvent::Message(label.clone(), message));
            }
        }
    }

    fn next_message(&mut self, id: u16) -> Option<(PayloadProtocolIdentifier, Bytes)> {
        let (_, association) = self.association.as_mut()?;
        let chunks = association.stream(id).ok()?.read().ok()??;
        let message = chunks.to_payload(MESSAGE_MAX).ok()?.freeze();
        Some((chunks.ppi, message))
    }

    fn on_control(&mut self, now: Instant, id: u16, message: &Bytes, events: &mut Vec<ChannelEvent>) {
        let mut bytes = message.clone();
        let Ok(Message::DataChannelOpen(open)) = Message::unmarshal(&mut bytes) else { return };
        let Ok(label) = String::from_utf8(open.label) else { return };
        if self.labels.len() >= CHANNELS_MAX {
            return;
        }
        self.labels.insert(id, label.clone());
        events.push(ChannelEvent::Open(label));
        if let (Some((_, association)), Ok(ack)) =
            (&mut self.association, Message::DataChannelAck(DataChannelAck {}).marshal())
            && let Ok(mut stream) = association.stream(id)
        {
            // A stream that closed meanwhile needs no acknowledgement.
            let _ = stream.write_with_ppi(now, &ack, PayloadProtocolIdentifier::Dcep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(now: Instant, one: &mut Channels, other: &mut Channels) -> (Vec<ChannelEvent>, Vec<ChannelEvent>) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            while let Some(packets) = one.poll_transmit(now) {
                second.extend(packets.into_iter().flat_map(|packet| other.on_packet(now, packet)));
            }
            while let Some(packets) = other.poll_transmit(now) {
                first.extend(packets.into_iter().flat_map(|packet| one.on_packet(now, packet)));
            }
        }
        (first, second)
    }

    #[test]
    fn a_message_reaches_the_channel_of_the_same_label() {
        let now = Instant::now();
        let mut client = Channels::new(DtlsRole::Client, vec!["_reliable".into(), "_lossy".into()]);
        let mut server = Channels::new(DtlsRole::Server, vec![]);
        client.start(now);
        let (ours, theirs) = exchange(now, &mut client, &mut server);
        let open = |label: &str| ChannelEvent::Open(label.into());
        assert_eq!(ours, [open("_reliable"), open("_lossy")]);
        assert_eq!(theirs, [open("_reliable"), open("_lossy")]);

        assert!(client.send(now, "_lossy", b"hello"));
        assert!(server.send(now, "_reliable", b"there"));
        assert!(!client.send(now, "_none", b""));
        let (ours, theirs) = exchange(now, &mut client, &mut server);
        assert_eq!(ours, [ChannelEvent::Message("_reliable".into(), Bytes::from_static(b"there"))]);
        assert_eq!(theirs, [ChannelEvent::Message("_lossy".into(), Bytes::from_static(b"hello"))]);
    }
}
