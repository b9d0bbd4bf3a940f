//! A WebRTC client made of other parts than the server's, and the lossy virtual network between the two.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dimpl::{Dtls, Output};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ring::digest;
use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_datachannel::message::Message;
use rtc_datachannel::message::message_channel_ack::DataChannelAck;
use rtc_datachannel::message::message_channel_open::{ChannelType, DataChannelOpen};
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate as ClientCertificate;
use rtc_dtls::endpoint::{Endpoint as DtlsEndpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_sctp::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint as SctpEndpoint, EndpointConfig, Event,
    Payload, PayloadProtocolIdentifier, ReliabilityType, ServerConfig, StreamEvent, StreamId, TransportConfig,
};
use rtc_shared::TransportProtocol;
use rtc_shared::marshal::{Marshal, Unmarshal};
use rtc_stun::attributes::{ATTR_USE_CANDIDATE, ATTR_USERNAME};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Message as StunMessage, Setter, TransactionId};
use rtc_stun::textattrs::{TextAttribute, Username};
use rtc_stun::xoraddr::XorMappedAddress;
use sfu::certificate::Certificate;
use sfu::command::{ChannelOpener, DataChannel, DtlsRole, Fingerprint, IceCredentials, TransportId};
use sfu::ice;
use sfu::transport::{KeyingMaterial, Path, Transport, TransportOutput, Via};

/// One way, in the virtual network.
const DELAY: Duration = Duration::from_millis(10);
/// What waits for a link of a certain rate at most.
const LINK_QUEUE_MAX: Duration = Duration::from_millis(500);
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7882);

pub fn udp(port: u16) -> Path {
    Path { remote: SocketAddr::from(([192, 0, 2, 1], port)), via: Via::Udp(0) }
}

/// libwebrtc's order: the costly profile first.
pub const LIBWEBRTC_PROFILES: [SrtpProtectionProfile; 3] = [
    SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
    SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
];

/// A connectivity check, with `setters` before its MESSAGE-INTEGRITY.
pub fn check(local: &IceCredentials, setters: Vec<Box<dyn Setter>>) -> Vec<u8> {
    check_of(local, &remote_credentials().ufrag, setters)
}

/// The same by a client with another ufrag.
pub fn check_of(local: &IceCredentials, ufrag: &str, setters: Vec<Box<dyn Setter>>) -> Vec<u8> {
    let provider = RingProvider::new();
    let mut all: Vec<Box<dyn Setter + '_>> = vec![
        Box::new(BINDING_REQUEST),
        Box::new(TransactionId::new()),
        Box::new(Username::new(ATTR_USERNAME, format!("{}:{ufrag}", local.ufrag))),
    ];
    all.extend(setters.into_iter().map(|setter| setter as Box<dyn Setter + '_>));
    all.push(Box::new(MessageIntegrity::new_short_term_integrity_with_provider(
        local.password.clone(),
        provider.crypto(),
    )));
    all.push(Box::new(FINGERPRINT));
    let mut message = StunMessage::new();
    message.build(&all).expect("a check can be built");
    message.raw
}

/// A check that nominates.
pub fn nomination(local: &IceCredentials) -> Vec<u8> {
    check(local, vec![raw_attribute(ATTR_USE_CANDIDATE.0, &[])])
}

/// What a client's description says of its ICE.
pub fn remote_credentials() -> IceCredentials {
    IceCredentials { ufrag: "theirs".into(), password: "the password of the client".into() }
}

/// What a full ICE agent answers a check of the server's with (RFC 8445, section 7.3); `None` if it is none for it.
pub fn answer_to(datagram: &[u8], remote: &IceCredentials) -> Option<Vec<u8>> {
    let provider = RingProvider::new();
    let key = MessageIntegrity::new_short_term_integrity_with_provider(remote.password.clone(), provider.crypto());
    let mut check = StunMessage::new();
    check.unmarshal_binary(datagram).ok().filter(|()| check.typ == BINDING_REQUEST)?;
    FINGERPRINT.check(&check).expect("a check has a fingerprint");
    MessageIntegrity::check(&mut check, remote.password.as_bytes(), provider.crypto()).ok()?;
    let username = TextAttribute::get_from_as(&check, ATTR_USERNAME).expect("a check has a user name");
    if username.text.split(':').next() != Some(&remote.ufrag) {
        return None;
    }
    let attributes: Vec<u16> = check.attributes.0.iter().map(|attribute| attribute.typ.0).collect();
    assert!(attributes.contains(&0x24) && attributes.contains(&0x8029), "PRIORITY and ICE-CONTROLLED: {attributes:x?}");
    let mapped = XorMappedAddress { ip: SERVER.ip(), port: SERVER.port() };
    let id = check.transaction_id;
    let all: Vec<Box<dyn Setter + '_>> =
        vec![Box::new(BINDING_SUCCESS), Box::new(id), Box::new(mapped), Box::new(key), Box::new(FINGERPRINT)];
    let mut answer = StunMessage::new();
    answer.build(&all).expect("an answer can be built");
    Some(answer.raw)
}

struct RawAttribute(u16, Vec<u8>);

impl Setter for RawAttribute {
    fn add_to(&self, message: &mut StunMessage) -> rtc_shared::error::Result<()> {
        message.add(rtc_stun::attributes::AttrType(self.0), &self.1);
        Ok(())
    }
}

pub fn raw_attribute(kind: u16, value: &[u8]) -> Box<dyn Setter> {
    Box::new(RawAttribute(kind, value.to_vec()))
}

/// What a client has seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub dtls_connected: bool,
    pub dtls_closed: bool,
    pub sctp_connected: bool,
    pub opened: Vec<(StreamId, String)>,
    pub acknowledged: Vec<StreamId>,
    pub messages: Vec<(StreamId, Vec<u8>)>,
    /// SCTP packets of the server.
    pub sctp_packets: Vec<Bytes>,
}

/// The client's DTLS: `rtc-dtls` where the order of its profiles matters, `dimpl` where datagrams get lost, because
/// the former as a client does not recover from that.
enum ClientDtls {
    Rtc(Box<DtlsEndpoint>),
    Dimpl { dtls: Box<Dtls>, keys: Vec<u8>, deadline: Option<Instant> },
}

/// How the client answers our `setup:actpass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    Active,
    Passive,
}

pub struct Client {
    dtls: ClientDtls,
    pub setup: Setup,
    waits_for_init: bool,
    sctp: SctpEndpoint,
    association: Option<(AssociationHandle, Association)>,
    pub outgoing: Vec<Vec<u8>>,
    /// Streams whose OPEN is to be acknowledged as soon as the association is up: DATA may overtake COOKIE-ACK.
    unacknowledged: Vec<StreamId>,
    /// Ports and verification tag of the SCTP packets that it sends (RFC 9260, section 3.1).
    sctp_header: [u8; 8],
    pub fingerprint: Fingerprint,
    pub seen: Seen,
}

impl Client {
    pub fn new(profiles: &[SrtpProtectionProfile]) -> Self {
        let certificate =
            ClientCertificate::generate_self_signed(vec!["client".to_owned()], RingProvider::new().crypto()).unwrap();
        Self::with_certificate(profiles, certificate)
    }

    /// GStreamer's clients have RSA keys.
    pub fn with_rsa_certificate() -> Self {
        let pem = include_str!("rsa_client.pem");
        let certificate = ClientCertificate::from_pem(pem, RingProvider::new().crypto()).unwrap();
        Self::with_certificate(&LIBWEBRTC_PROFILES, certificate)
    }

    /// A client that shows a certificate of somebody else.
    pub fn impostor() -> Self {
        Self::with_certificate(&LIBWEBRTC_PROFILES, Self::stolen_certificate())
    }

    fn stolen_certificate() -> ClientCertificate {
        let provider = RingProvider::new();
        let [own, other] = ["own", "other"]
            .map(|name| ClientCertificate::generate_self_signed(vec![name.to_owned()], provider.crypto()).unwrap());
        ClientCertificate { certificate: other.certificate, private_key: own.private_key }
    }

    /// A client that answers `setup:passive`: `rtc-dtls` as a server, which asks for a cookie.
    pub fn passive(profiles: &[SrtpProtectionProfile]) -> Self {
        let certificate =
            ClientCertificate::generate_self_signed(vec!["client".to_owned()], RingProvider::new().crypto()).unwrap();
        Self::with_setup(Setup::Passive, profiles, certificate, ExtendedMasterSecretType::Require)
    }

    pub fn passive_with_rsa_certificate() -> Self {
        let pem = include_str!("rsa_client.pem");
        let certificate = ClientCertificate::from_pem(pem, RingProvider::new().crypto()).unwrap();
        Self::with_setup(Setup::Passive, &LIBWEBRTC_PROFILES, certificate, ExtendedMasterSecretType::Require)
    }

    /// A server that does not bind its keys to the certificates.
    pub fn passive_without_extended_master_secret() -> Self {
        let certificate =
            ClientCertificate::generate_self_signed(vec!["client".to_owned()], RingProvider::new().crypto()).unwrap();
        Self::with_setup(Setup::Passive, &LIBWEBRTC_PROFILES, certificate, ExtendedMasterSecretType::Disable)
    }

    pub fn passive_impostor() -> Self {
        let (setup, extended) = (Setup::Passive, ExtendedMasterSecretType::Require);
        Self::with_setup(setup, &LIBWEBRTC_PROFILES, Self::stolen_certificate(), extended)
    }

    fn with_certificate(profiles: &[SrtpProtectionProfile], certificate: ClientCertificate) -> Self {
        Self::with_setup(Setup::Active, profiles, certificate, ExtendedMasterSecretType::Require)
    }

    fn with_setup(
        setup: Setup,
        profiles: &[SrtpProtectionProfile],
        certificate: ClientCertificate,
        extended: ExtendedMasterSecretType,
    ) -> Self {
        let provider = Arc::new(RingProvider::new());
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, certificate.certificate.first().unwrap()).as_ref());
        let config = ConfigBuilder::default()
            .with_crypto_provider(provider)
            .with_certificates(vec![certificate])
            .with_srtp_protection_profiles(profiles.to_vec())
            .with_insecure_skip_verify(true)
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_extended_master_secret(extended)
            .build(setup == Setup::Active, None)
            .unwrap();
        let dtls = Self::rtc_dtls(setup, Arc::new(config));
        Self::with_dtls(ClientDtls::Rtc(Box::new(dtls)), setup, Fingerprint(fingerprint))
    }

    fn rtc_dtls(setup: Setup, config: Arc<HandshakeConfig>) -> DtlsEndpoint {
        match setup {
            Setup::Active => {
                let mut dtls = DtlsEndpoint::new(SERVER, TransportProtocol::UDP, None);
                // The client's clock starts with the test's: nothing is sent before the first step.
                dtls.connect(epoch(), SERVER, config, None).unwrap();
                dtls
            }
            Setup::Passive => DtlsEndpoint::new(SERVER, TransportProtocol::UDP, Some(config)),
        }
    }

    /// A client that bears loss.
    pub fn robust(seed: u64) -> Self {
        Self::robust_with_mtu(seed, 1_200)
    }

    /// A client whose datagrams are no longer than `mtu` bytes.
    pub fn robust_with_mtu(seed: u64, mtu: usize) -> Self {
        Self::robust_from(Setup::Active, epoch(), seed, mtu)
    }

    /// A client that bears loss and answers `setup:passive`: `dimpl` as a server, which asks for a cookie.
    pub fn passive_robust(seed: u64) -> Self {
        Self::robust_from(Setup::Passive, epoch(), seed, 1_200)
    }

    /// One whose datagrams are no longer than `mtu` bytes.
    pub fn passive_robust_with_mtu(seed: u64, mtu: usize) -> Self {
        Self::robust_from(Setup::Passive, epoch(), seed, mtu)
    }

    /// A client that bears loss, on the clock of the machine.
    pub fn real(seed: u64) -> Self {
        Self::robust_from(Setup::Active, Instant::now(), seed, 1_200)
    }

    fn robust_from(setup: Setup, now: Instant, seed: u64, mtu: usize) -> Self {
        let certificate = dimpl::certificate::generate_self_signed_certificate().unwrap();
        let fingerprint = Fingerprint(certificate.fingerprint().try_into().unwrap());
        // As patient as libwebrtc, which starts at 50 ms; by default this one gives up after four attempts.
        let config = dimpl::Config::builder()
            .mtu(mtu)
            .flight_start_rto(Duration::from_millis(50))
            .flight_retries(16)
            .dangerously_set_rng_seed(seed)
            .build()
            .unwrap();
        let mut dtls = Dtls::new_auto(Arc::new(config), certificate, now);
        dtls.set_active(setup == Setup::Active);
        dtls.handle_timeout(now).unwrap();
        let dtls = ClientDtls::Dimpl { dtls: Box::new(dtls), keys: Vec::new(), deadline: None };
        Self::with_dtls(dtls, setup, fingerprint)
    }

    fn with_dtls(dtls: ClientDtls, setup: Setup, fingerprint: Fingerprint) -> Self {
        let config = ServerConfig::new(TransportConfig::default());
        let sctp =
            SctpEndpoint::new(SERVER, TransportProtocol::UDP, Arc::new(EndpointConfig::new()), Some(Arc::new(config)));
        Self {
            dtls,
            setup,
            waits_for_init: false,
            sctp,
            association: None,
            outgoing: Vec::new(),
            unacknowledged: Vec::new(),
            sctp_header: [0; 8],
            fingerprint,
            seen: Seen::default(),
        }
    }

    /// Leaves the INIT to the server, as webrtc-rs does where it is passive.
    pub fn waiting_for_init(mut self) -> Self {
        self.waits_for_init = true;
        self
    }

    /// Client key, server key, client salt, server salt.
    pub fn keying_material(&self, length: usize) -> Vec<u8> {
        match &self.dtls {
            ClientDtls::Rtc(dtls) => {
                let state = dtls.get_connection_state(SERVER).unwrap();
                state.export_keying_material("EXTRACTOR-dtls_srtp", &[], length).unwrap().into_bytes()
            }
            ClientDtls::Dimpl { keys, .. } => keys.clone(),
        }
    }

    pub fn receive(&mut self, now: Instant, datagram: &[u8]) {
        match &mut self.dtls {
            ClientDtls::Rtc(dtls) => {
                for event in dtls.read(now, SERVER, None, BytesMut::from(datagram)).unwrap_or_default() {
                    match event {
                        EndpointEvent::HandshakeComplete => self.on_dtls_connected(now),
                        EndpointEvent::ApplicationData(packet) => self.receive_sctp(now, packet.freeze()),
                        EndpointEvent::PeerClosed => self.seen.dtls_closed = true,
                        _ => {}
                    }
                }
            }
            ClientDtls::Dimpl { dtls, .. } => {
                dtls.handle_timeout(now).unwrap();
                // An alert in reply to its ClientHello is an error to the crate.
                let _ = dtls.handle_packet(datagram);
            }
        }
        self.progress(now);
    }

    fn on_dtls_connected(&mut self, now: Instant) {
        self.seen.dtls_connected = true;
        if !self.waits_for_init {
            self.association = Some(self.sctp.connect(now, ClientConfig::default(), SERVER).unwrap());
        }
    }

    /// Takes what DTLS has to send and to tell.
    fn progress_dtls(&mut self, now: Instant) {
        let ClientDtls::Dimpl { dtls, keys, deadline } = &mut self.dtls else {
            if let ClientDtls::Rtc(dtls) = &mut self.dtls {
                self.outgoing.extend(std::iter::from_fn(|| dtls.poll_transmit()).map(|out| out.message.to_vec()));
            }
            return;
        };
        let (mut buffer, mut packets, mut connected) = (vec![0; 4_096], Vec::new(), false);
        loop {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => self.outgoing.push(packet.to_vec()),
                Output::Timeout(at) => {
                    *deadline = Some(at);
                    break;
                }
                Output::Connected => connected = true,
                Output::KeyingMaterial(material, _) => *keys = material.to_vec(),
                Output::ApplicationData(packet) => packets.push(Bytes::copy_from_slice(packet)),
                Output::CloseNotify => self.seen.dtls_closed = true,
                _ => {}
            }
        }
        if connected {
            self.on_dtls_connected(now);
        }
        packets.into_iter().for_each(|packet| self.receive_sctp(now, packet));
    }

    fn write_dtls(&mut self, now: Instant, packet: &[u8]) {
        match &mut self.dtls {
            ClientDtls::Rtc(dtls) => dtls.write(now, SERVER, packet).unwrap_or_default(),
            ClientDtls::Dimpl { dtls, .. } => drop(dtls.send_application_data(packet)),
        }
    }

    fn receive_sctp(&mut self, now: Instant, packet: Bytes) {
        self.seen.sctp_packets.push(packet.clone());
        match self.sctp.handle(now, SERVER, None, packet) {
            Some((_, DatagramEvent::AssociationEvent(event))) => {
                self.association.as_mut().unwrap().1.handle_event(event);
            }
            Some((handle, DatagramEvent::NewAssociation(association))) if self.waits_for_init => {
                self.association = Some((handle, association));
            }
            _ => {}
        }
    }

    pub fn progress(&mut self, now: Instant) {
        self.progress_dtls(now);
        while let Some((_, association)) = &mut self.association {
            match association.poll() {
                Some(Event::Connected) => self.seen.sctp_connected = true,
                Some(Event::Stream(StreamEvent::Readable { id } | StreamEvent::Opened { id })) => self.read(id),
                Some(_) => {}
                None => break,
            }
        }
        if let Some((_, association)) = &mut self.association {
            let ack = Message::DataChannelAck(DataChannelAck).marshal().unwrap().freeze();
            self.unacknowledged.retain(|id| {
                let mut stream = association.stream(*id).unwrap();
                stream.write_sctp(now, &ack, PayloadProtocolIdentifier::Dcep).is_err()
            });
            let mut packets = Vec::new();
            while let Some(transmit) = association.poll_transmit(now) {
                if let Payload::RawEncode(more) = transmit.message {
                    packets.extend(more);
                }
            }
            for packet in &packets {
                self.sctp_header.copy_from_slice(&packet[..8]);
                self.write_dtls(now, packet);
                // What its DTLS keeps to be polled is bounded.
                self.progress_dtls(now);
            }
        }
        self.progress_dtls(now);
    }

    fn read(&mut self, id: StreamId) {
        let (_, association) = self.association.as_mut().unwrap();
        while let Ok(Some(chunks)) = association.stream(id).and_then(|mut stream| stream.read()) {
            let payload = chunks.to_payload(1 << 20).unwrap();
            if chunks.ppi != PayloadProtocolIdentifier::Dcep {
                self.seen.messages.push((id, payload.to_vec()));
                continue;
            }
            match Message::unmarshal(&mut payload.freeze()).unwrap() {
                Message::DataChannelOpen(open) => {
                    self.seen.opened.push((id, String::from_utf8(open.label).unwrap()));
                    self.unacknowledged.push(id);
                }
                Message::DataChannelAck(_) => self.seen.acknowledged.push(id),
                _ => {}
            }
        }
    }

    pub fn open(&mut self, now: Instant, id: StreamId, label: &str, channel_type: ChannelType) {
        let (_, association) = self.association.as_mut().unwrap();
        let open = DataChannelOpen {
            channel_type,
            priority: 0,
            reliability_parameter: 0,
            label: label.into(),
            protocol: Vec::new(),
        };
        let open = Message::DataChannelOpen(open).marshal().unwrap().freeze();
        let mut stream = association.open_stream(id, PayloadProtocolIdentifier::Binary).unwrap();
        stream.write_sctp(now, &open, PayloadProtocolIdentifier::Dcep).unwrap();
        if channel_type == ChannelType::PartialReliableRexmitUnordered {
            stream.set_reliability_params(true, ReliabilityType::Rexmit, 0).unwrap();
        }
        self.progress(now);
    }

    pub fn send(&mut self, now: Instant, id: StreamId, payload: &[u8]) {
        let (_, association) = self.association.as_mut().unwrap();
        let payload = Bytes::copy_from_slice(payload);
        association.stream(id).unwrap().write_sctp(now, &payload, PayloadProtocolIdentifier::Binary).unwrap();
        self.progress(now);
    }

    /// Sends an SCTP packet of its association that holds these chunks, however they look.
    pub fn send_chunks(&mut self, now: Instant, chunks: &[u8]) {
        self.send_sctp_packet(now, self.sctp_header, chunks);
    }

    /// The same with these ports and this verification tag.
    pub fn send_sctp_packet(&mut self, now: Instant, header: [u8; 8], chunks: &[u8]) {
        let mut packet = [&header[..], &[0; 4], chunks].concat();
        let checksum = crc32c::crc32c(&packet).to_le_bytes();
        packet[8..12].copy_from_slice(&checksum);
        self.write_dtls(now, &packet);
        self.progress(now);
    }

    pub fn close(&mut self, now: Instant) {
        match &mut self.dtls {
            ClientDtls::Rtc(dtls) => dtls.close(now).unwrap(),
            ClientDtls::Dimpl { dtls, .. } => dtls.close().unwrap(),
        }
        self.progress(now);
    }

    pub fn deadline(&self) -> Option<Instant> {
        let sctp = self.association.as_ref().and_then(|(_, association)| association.poll_timeout());
        let dtls = match &self.dtls {
            ClientDtls::Rtc(dtls) => dtls.poll_timeout(&SERVER),
            ClientDtls::Dimpl { deadline, .. } => *deadline,
        };
        dtls.into_iter().chain(sctp).min()
    }

    pub fn on_deadline(&mut self, now: Instant) {
        match &mut self.dtls {
            ClientDtls::Rtc(dtls) => drop(dtls.handle_timeout(SERVER, now)),
            ClientDtls::Dimpl { dtls, .. } => drop(dtls.handle_timeout(now)),
        }
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
        self.progress(now);
    }
}

/// The one real instant of a test; all others are counted from it.
pub fn epoch() -> Instant {
    use std::sync::OnceLock;
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// What alters a datagram.
pub type Tamper = Box<dyn FnMut(usize, &mut Vec<u8>)>;

/// A transport, its client, and the network between them.
pub struct World {
    pub now: Instant,
    pub transport: Transport,
    pub client: Client,
    pub local: IceCredentials,
    /// What the transport has told, with the reliable messages that were taken from it.
    pub outputs: Vec<TransportOutput>,
    /// Whether reliable messages are taken.
    pub takes_data: bool,
    /// Share of datagrams that are lost, from 0 to 1.
    pub loss: f64,
    /// Share of datagrams that arrive after later ones, from 0 to 1.
    pub reordering: f64,
    /// What the client's link carries of the server's datagrams, in bits a second; as much as comes if `None`.
    pub link_bps: Option<u32>,
    /// When the link will have carried what waits for it.
    link_free: Instant,
    pub server_datagrams: usize,
    pub client_datagrams: usize,
    /// Alters the client's datagrams, by their number.
    pub tamper: Option<Tamper>,
    /// Largest datagram that the transport has sent.
    pub largest_datagram: usize,
    /// Where the client sends its checks from, every second.
    pub checks_from: Option<Path>,
    next_check: Instant,
    rng: StdRng,
    to_server: VecDeque<(Instant, Vec<u8>)>,
    to_client: VecDeque<(Instant, Vec<u8>)>,
}

impl World {
    pub fn new(opener: ChannelOpener, seed: u64) -> Self {
        Self::with_client(opener, seed, Client::robust(seed))
    }

    pub fn with_client(opener: ChannelOpener, seed: u64, client: Client) -> Self {
        let now = epoch();
        let local = ice::new_credentials(0);
        let mut transport = Transport::new(TransportId(1), local.clone(), opener, &Certificate::generate(), seed);
        transport.set_remote_credentials(now, remote_credentials());
        if client.setup == Setup::Passive {
            transport.set_dtls_role(now, DtlsRole::Client);
        }
        let mut world = Self {
            now,
            transport,
            client,
            local,
            outputs: Vec::new(),
            takes_data: true,
            loss: 0.0,
            reordering: 0.0,
            link_bps: None,
            link_free: now,
            server_datagrams: 0,
            client_datagrams: 0,
            tamper: None,
            largest_datagram: 0,
            checks_from: Some(udp(1)),
            next_check: now,
            rng: StdRng::seed_from_u64(seed),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        };
        world.client.progress(now);
        world
    }

    /// A world where everything is up, channels included if the client opens them.
    pub fn connected(opener: ChannelOpener, seed: u64) -> Self {
        Self::connected_to(opener, seed, Client::robust(seed))
    }

    pub fn connected_to(opener: ChannelOpener, seed: u64, client: Client) -> Self {
        let mut world = Self::with_client(opener, seed, client);
        world.transport.set_fingerprint(world.now, world.client.fingerprint);
        assert!(world.run_until(Duration::from_secs(5), |world| world.client.seen.sctp_connected));
        if opener == ChannelOpener::Client {
            world.open_channels();
        }
        assert!(world.run_until(Duration::from_secs(5), |world| world.channels_open() == 3));
        world
    }

    /// As livekit-client does, which opens the lossy channel first.
    pub fn open_channels(&mut self) {
        // The DTLS client has the even ids (RFC 8832, section 6).
        let (now, first) = (self.now, if self.client.setup == Setup::Active { 0 } else { 1 });
        self.client.open(now, first, "_lossy", ChannelType::PartialReliableRexmitUnordered);
        self.client.open(now, first + 2, "_reliable", ChannelType::Reliable);
        self.client.open(now, first + 4, "_data_track", ChannelType::PartialReliableRexmitUnordered);
    }

    /// Whether the client exports the keys that we do.
    pub fn agrees(&self, keys: &KeyingMaterial) -> bool {
        let (receive, send) = ((&keys.receive_key, &keys.receive_salt), (&keys.send_key, &keys.send_salt));
        let (client, server) = match self.transport.dtls_role() {
            DtlsRole::Server => (receive, send),
            DtlsRole::Client => (send, receive),
        };
        let ours = [&client.0[..], server.0, client.1, server.1].concat();
        ours == self.client.keying_material(ours.len())
    }

    pub fn channels_open(&self) -> usize {
        self.outputs.iter().filter(|output| matches!(output, TransportOutput::ChannelOpen(_))).count()
    }

    /// Lets time pass until `done`, at most for `limit`; says whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now <= end {
            self.exchange();
            if done(self) {
                return true;
            }
            self.now = self.next_event();
            if self.now <= end {
                self.deliver();
            }
        }
        self.now = end;
        false
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn next_event(&self) -> Instant {
        let arrivals = self.to_server.front().into_iter().chain(self.to_client.front()).map(|(at, _)| *at);
        let check = self.checks_from.map(|_| self.next_check);
        let next = arrivals.chain(check).chain(self.transport.deadline()).chain(self.client.deadline()).min();
        // A deadline that is not met must not stop the clock.
        next.unwrap_or(self.now + Duration::from_secs(1)).max(self.now + Duration::from_millis(1))
    }

    fn deliver(&mut self) {
        if let Some(from) = self.checks_from
            && self.now >= self.next_check
        {
            self.next_check = self.now + Duration::from_secs(1);
            let datagram = nomination(&self.local);
            self.transport.on_stun(self.now, from, &datagram, &mut Vec::new()).unwrap();
        }
        while let Some((_, datagram)) = self.to_server.pop_front_if(|(at, _)| *at <= self.now) {
            // Refusals are the transport's to report; what counts here is what comes of it.
            let from = self.checks_from.unwrap_or(udp(1));
            let _ = self.transport.on_dtls(self.now, from, &datagram);
        }
        while let Some((_, datagram)) = self.to_client.pop_front_if(|(at, _)| *at <= self.now) {
            self.client.receive(self.now, &datagram);
        }
        if self.transport.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.transport.on_deadline(self.now);
        }
        if self.client.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.client.on_deadline(self.now);
        }
    }

    /// When a datagram arrives that sets out then.
    fn arrival(&mut self, sent: Instant) -> Instant {
        let detour = if self.rng.random_bool(self.reordering) { 3 * DELAY / 2 } else { Duration::ZERO };
        sent + DELAY + detour
    }

    /// When the client's link has carried a datagram of so many bytes; `None`: its queue has no room.
    fn carry(&mut self, length: usize) -> Option<Instant> {
        let Some(bps) = self.link_bps else { return Some(self.now) };
        let start = self.link_free.max(self.now);
        if start - self.now > LINK_QUEUE_MAX {
            return None;
        }
        self.link_free = start + Duration::from_secs_f64(length as f64 * 8.0 / f64::from(bps));
        Some(self.link_free)
    }

    /// Puts what both sides have to send on its way.
    fn exchange(&mut self) {
        let mut buffer = Vec::new();
        while let Some(output) = self.transport.poll_output() {
            self.outputs.push(output);
        }
        while self.takes_data
            && let Some(payload) = self.transport.take_reliable(self.now)
        {
            self.outputs.push(TransportOutput::Data(DataChannel::Reliable, payload));
        }
        while let Some((path, check)) = self.transport.poll_check() {
            let answer = answer_to(&check, &remote_credentials()).filter(|_| self.checks_from == Some(path));
            if let Some(answer) = answer {
                self.transport.on_stun(self.now, path, &answer, &mut buffer).expect("an answer to this check");
            }
        }
        while self.transport.poll_transmit(&mut buffer) {
            self.server_datagrams += 1;
            self.largest_datagram = self.largest_datagram.max(buffer.len());
            let Some(carried) = self.carry(buffer.len()) else { continue };
            if !self.rng.random_bool(self.loss) {
                let arrival = self.arrival(carried);
                self.to_client.push_back((arrival, buffer.clone()));
            }
        }
        for mut datagram in std::mem::take(&mut self.client.outgoing) {
            if let Some(tamper) = &mut self.tamper {
                tamper(self.client_datagrams, &mut datagram);
            }
            self.client_datagrams += 1;
            if !self.rng.random_bool(self.loss) {
                let arrival = self.arrival(self.now);
                self.to_server.push_back((arrival, datagram));
            }
        }
        for queue in [&mut self.to_client, &mut self.to_server] {
            queue.make_contiguous().sort_by_key(|(arrival, _)| *arrival);
        }
    }
}
