//! The engine, and the ciphers of its clients.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtc_srtp::context::Context;
use sfu::certificate::Certificate;
use sfu::command::*;
use sfu::engine::{Engine, EngineConfig};
use sfu::run::SendArena;

use super::viewer::Streams;
use crate::media::*;

/// Turns of one moment: more would be an engine that never comes to rest.
const TURNS_MAX: usize = 1_000;

/// A datagram of the server in clear.
#[derive(Debug, Clone)]
pub enum Clear {
    Rtp(Rtp),
    Rtcp(Vec<u8>),
}

pub struct Server {
    epoch: Instant,
    pub engine: Engine,
    out: SendArena<Wire>,
    ciphers: HashMap<u64, Ciphers>,
    clients: HashMap<SocketAddr, u64>,
    /// When it wants its next turn.
    again: Option<Duration>,
    has_received: bool,
}

impl Server {
    pub fn new(seed: u64) -> Self {
        let epoch = Instant::now();
        Self {
            epoch,
            engine: Engine::new(Certificate::generate(), EngineConfig::default(), seed, epoch),
            out: SendArena::new(Wire::default()),
            ciphers: HashMap::new(),
            clients: HashMap::new(),
            again: None,
            has_received: false,
        }
    }

    pub fn command(&mut self, now: Duration, command: Command) {
        self.engine.handle(self.epoch + now, command, &mut self.out);
        self.has_received = true;
    }

    /// A connected client.
    pub fn join(&mut self, now: Duration, client: u64) {
        let (transport, local) = (TransportId(client), credentials(client));
        self.command(now, Command::OpenTransport { transport, room: ROOM, local, opener: ChannelOpener::Client });
        self.engine.establish(transport, path(client), &keys(client));
        self.ciphers.insert(client, Ciphers::new(client));
        self.clients.insert(address(client), client);
    }

    /// A camera in layers and a microphone.
    pub fn publish(&mut self, now: Duration, client: u64, video: PublicationId, audio: PublicationId) {
        let transport = TransportId(client);
        let sections = [(video, simulcast_section()), (audio, audio_section(super::publisher::AUDIO_SSRC))];
        for (publication, section) in sections {
            self.command(now, Command::Publish { publication, transport, section });
        }
    }

    /// Shows them to a client. All that the simulated viewers understand is agreed upon.
    pub fn subscribe(&mut self, now: Duration, client: u64, video: PublicationId, audio: PublicationId) -> Streams {
        let transport = TransportId(client);
        let streams = Streams { video: 1_000, video_rtx: 1_001, audio: 2_000 };
        let extensions =
            |section: &SendSection| ExtensionIds { transport_cc: extensions().transport_cc, ..section.extensions };
        let video_section = send_section(streams.video, video_codecs());
        let audio_section =
            SendSection { mid: text("1"), rtx_ssrc: None, ..send_section(streams.audio, audio_codecs()) };
        for (publication, section) in [(video, video_section), (audio, audio_section)] {
            let subscription = Self::subscription(client, publication);
            let section = SendSection { extensions: extensions(&section), ..section };
            self.command(now, Command::Subscribe { subscription, publication, transport, section });
        }
        streams
    }

    /// That of a client to a publication.
    pub fn subscription(client: u64, publication: PublicationId) -> SubscriptionId {
        SubscriptionId(client * 100 + publication.0)
    }

    pub fn seal_rtp(&mut self, client: u64, packet: &Rtp) -> Vec<u8> {
        self.cipher(client).to_server.encrypt_rtp(&packet.bytes()).expect("seals").to_vec()
    }

    pub fn seal_rtcp(&mut self, client: u64, packet: &[u8]) -> Vec<u8> {
        self.cipher(client).to_server.encrypt_rtcp(packet).expect("seals").to_vec()
    }

    pub fn open(&mut self, client: u64, datagram: &[u8]) -> Clear {
        let context: &mut Context = &mut self.cipher(client).from_server;
        if (192..224).contains(&datagram[1]) {
            return Clear::Rtcp(context.decrypt_rtcp(datagram).expect("opens").to_vec());
        }
        Clear::Rtp(Rtp::parse(&context.decrypt_rtp(datagram).expect("opens")))
    }

    fn cipher(&mut self, client: u64) -> &mut Ciphers {
        self.ciphers.get_mut(&client).expect("joined")
    }

    /// A datagram of a client.
    pub fn receive(&mut self, now: Duration, client: u64, mut datagram: Vec<u8>) {
        self.engine.receive(self.epoch + now, path(client), &mut datagram, &mut self.out);
        self.has_received = true;
    }

    /// When [`Server::turn`] is due, if nothing arrives.
    pub fn deadline(&self) -> Option<Duration> {
        let deadline = self.engine.deadline().map(|at| at.saturating_duration_since(self.epoch));
        deadline.into_iter().chain(self.again).min()
    }

    /// A worker's turns, as long as one follows another: what leaves, and to whom.
    pub fn turn(&mut self, now: Duration) -> Vec<(u64, Vec<u8>)> {
        if !self.has_received && self.deadline().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.has_received = false;
        for _ in 0..TURNS_MAX {
            self.again = self.engine.forward(self.epoch + now, &mut self.out).map(|at| at - self.epoch);
            self.engine.expire(self.epoch + now, &mut self.out);
            self.out.flush();
            while self.engine.poll_event().is_some() {}
            if self.deadline().is_none_or(|due| due > now) {
                let sent = self.out.transmitter().take();
                return sent.into_iter().map(|(to, datagram)| (self.clients[&to], datagram)).collect();
            }
        }
        panic!("an engine that does not come to rest at {now:?}");
    }
}
