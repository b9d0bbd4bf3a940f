//! Workers on real sockets of loopback, and clients on real sockets against them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;
use sfu::certificate::Certificate;
use sfu::command::*;
use sfu::engine::EngineConfig;
use sfu::io::{Config, UdpPorts, Workers};

use crate::media::checker::Checker;
use crate::media::{ROOM, Rtp, address};
use crate::support::{Client, answer_to, nomination, remote_credentials};

/// Longest wait for anything that must happen: far more than it takes, for a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long a client listens at a time.
const LISTEN: Duration = Duration::from_millis(10);

/// Running workers. They stop with this value.
pub struct Server {
    workers: Option<Workers>,
    events: Receiver<Event>,
    seen: Vec<Event>,
    /// Of all its peers. It knows each by its transport, wherever that is at the time.
    checker: Rc<RefCell<Checker>>,
}

impl Server {
    /// So many workers on one UDP port and one TCP port.
    pub fn start(count: usize) -> Self {
        Self::start_failing(count, |_| false)
    }

    /// Workers that meet a fault when they tell of such an event.
    pub fn start_failing(count: usize, fails: fn(&Event) -> bool) -> Self {
        let (to, events) = channel();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let config = Config {
            workers: count,
            bind: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            advertise: Vec::new(),
            udp: UdpPorts::Single(0),
            tcp_port: Some(tcp),
            certificate: Certificate::generate(),
            engine: EngineConfig::default(),
        };
        let on_event = move |_, event| {
            assert!(!fails(&event), "a fault made by the test");
            drop(to.send(event));
        };
        let workers = Workers::start(config, on_event).unwrap();
        Self { workers: Some(workers), events, seen: Vec::new(), checker: Rc::new(RefCell::new(Checker::networked())) }
    }

    pub fn workers(&self) -> &Workers {
        self.workers.as_ref().expect("they run until the end")
    }

    pub fn address(&self, protocol: CandidateProtocol) -> SocketAddr {
        let candidates = self.workers().handles()[0].candidates();
        candidates.iter().find(|candidate| candidate.protocol == protocol).unwrap().address
    }

    /// Sends a command to the first worker.
    pub fn command(&self, command: Command) {
        let mut checker = self.checker.borrow_mut();
        match &command {
            Command::Publish { publication, transport, section } => {
                checker.publish(address(transport.0), *publication, section);
            }
            Command::Subscribe { publication, transport, section, .. } => {
                checker.subscribe(address(transport.0), *publication, section);
            }
            _ => {}
        }
        self.workers().handles()[0].try_send(command).unwrap();
    }

    /// A transport of the first worker, open for a client.
    pub fn open(&self, transport: u64, fingerprint: Fingerprint) -> IceCredentials {
        let local = self.workers().handles()[0].new_credentials();
        let transport = TransportId(transport);
        let opener = ChannelOpener::Client;
        self.command(Command::OpenTransport { transport, room: ROOM, local: local.clone(), opener });
        self.command(Command::SetFingerprint { transport, fingerprint, role: DtlsRole::Server });
        self.command(Command::SetRemoteCredentials { transport, remote: remote_credentials() });
        local
    }

    /// Whether such an event has come, or comes within [`PATIENCE`].
    pub fn reports(&mut self, wanted: impl Fn(&Event) -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        while !self.seen.iter().any(&wanted) {
            let Ok(event) = self.events.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                return false;
            };
            self.seen.push(event);
        }
        true
    }

    /// A counter, without the time that it takes to be shown.
    pub fn counter(&self, name: &str, label: &str) -> u64 {
        let counters = self.workers().counters();
        counters.iter().find(|counter| counter.0 == name && counter.1.contains(label)).map_or(0, |counter| counter.3)
    }

    /// Waits until a counter has come to `least`; returns what it shows in the end.
    pub fn counted(&self, name: &str, label: &str, least: u64) -> u64 {
        let end = Instant::now() + PATIENCE;
        while self.counter(name, label) < least && Instant::now() < end {
            std::thread::park_timeout(LISTEN);
        }
        self.counter(name, label)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }
}

/// A client's socket. Over TCP datagrams are framed (RFC 4571).
pub enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
}

impl Link {
    /// A UDP socket hears the server's address alone.
    pub fn udp(server: &Server) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(server.address(CandidateProtocol::Udp)).unwrap();
        socket.set_read_timeout(Some(LISTEN)).unwrap();
        Self::Udp(socket)
    }

    pub fn tcp(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address(CandidateProtocol::TcpPassive)).unwrap();
        stream.set_read_timeout(Some(LISTEN)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::Tcp(stream, Vec::new())
    }

    pub fn send(&mut self, datagram: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(datagram).unwrap(), datagram.len()),
            Self::Tcp(stream, _) => {
                let length = u16::try_from(datagram.len()).unwrap();
                stream.write_all(&[&length.to_be_bytes()[..], datagram].concat()).unwrap();
            }
        }
    }

    /// The next datagram, if one comes soon.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        match self {
            Self::Udp(socket) => socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()),
            Self::Tcp(stream, received) => {
                if let Some(frame) = take_frame(received) {
                    return Some(frame);
                }
                let length = stream.read(&mut buffer).ok()?;
                received.extend_from_slice(&buffer[..length]);
                take_frame(received)
            }
        }
    }

    /// Waits for a datagram.
    pub fn hear(&mut self) -> Option<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        std::iter::repeat_with(|| self.receive()).take_while(|_| Instant::now() < end).flatten().next()
    }

    /// Whether the server closes this connection within [`PATIENCE`].
    pub fn is_closed(&mut self) -> bool {
        let Self::Tcp(stream, _) = self else { return false };
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while Instant::now() < end {
            match stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return true,
            }
        }
        false
    }
}

fn take_frame(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [high, low, rest @ ..] = &received[..] else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let frame = rest.get(..length)?.to_vec();
    received.drain(..2 + length);
    Some(frame)
}

/// A client with ICE, DTLS and SRTP.
pub struct Peer {
    pub link: Link,
    pub client: Client,
    pub local: IceCredentials,
    ciphers: Option<(Context, Context)>,
    /// Looks at what comes, as who has this address.
    checker: Rc<RefCell<Checker>>,
    address: SocketAddr,
    /// Checks that were answered with success.
    answers: usize,
    /// RTP that came, in clear.
    pub media: Vec<Rtp>,
}

impl Peer {
    /// Joins as a transport of the first worker, and waits until it is connected.
    pub fn connect(server: &mut Server, transport: u64, link: fn(&Server) -> Link) -> Self {
        let link = link(server);
        Self::connect_over(server, transport, link)
    }

    /// The same over a link that there is.
    pub fn connect_over(server: &mut Server, transport: u64, link: Link) -> Self {
        let mut peer = Self::knock_over(server, transport, link);
        peer.run_until(|peer| peer.client.seen.dtls_connected);
        let (_, from_server) = peer.ciphers();
        peer.checker.borrow_mut().join(peer.address, from_server);
        peer.ciphers = Some(peer.ciphers());
        let wanted = TransportId(transport);
        assert!(
            server.reports(|event| matches!(event, Event::TransportConnected { transport } if *transport == wanted))
        );
        peer
    }

    /// Sends the first check.
    pub fn knock(server: &Server, transport: u64, link: fn(&Server) -> Link) -> Self {
        Self::knock_over(server, transport, link(server))
    }

    fn knock_over(server: &Server, transport: u64, link: Link) -> Self {
        let client = Client::real(transport);
        let local = server.open(transport, client.fingerprint);
        let (checker, address) = (server.checker.clone(), address(transport));
        let mut peer = Self { link, client, local, ciphers: None, checker, address, answers: 0, media: Vec::new() };
        peer.check();
        // The client's first flight waits for this.
        peer.client.progress(Instant::now());
        peer
    }

    /// Sends a check and waits for its answer.
    pub fn check(&mut self) {
        let before = self.answers;
        self.link.send(&nomination(&self.local));
        self.run_until(|peer| peer.answers > before);
    }

    /// Takes steps until it is done.
    pub fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "{:?}", self.client.seen);
            self.step();
        }
    }

    /// Sends what is to be sent, and takes what comes.
    pub fn step(&mut self) {
        let now = Instant::now();
        if self.client.deadline().is_some_and(|deadline| deadline <= now) {
            self.client.on_deadline(now);
        }
        for datagram in std::mem::take(&mut self.client.outgoing) {
            self.link.send(&datagram);
        }
        let Some(datagram) = self.link.receive() else { return };
        self.checker.borrow_mut().check(Instant::now(), self.address, &datagram);
        match datagram.first() {
            Some(20..=63) => self.client.receive(Instant::now(), &datagram),
            Some(128..=191) if !(192..224).contains(&datagram[1]) => {
                let (_, from_server) = self.ciphers.as_mut().expect("no media before the handshake");
                self.media.push(Rtp::parse(&from_server.decrypt_rtp(&datagram).expect("opens")));
            }
            Some(1) if datagram[1] == 1 => self.answers += 1,
            Some(0) => {
                if let Some(answer) = answer_to(&datagram, &remote_credentials()) {
                    self.link.send(&answer);
                }
            }
            _ => {}
        }
    }

    fn ciphers(&self) -> (Context, Context) {
        let keys: ArrayVec<u8, 56> = self.client.keying_material(56).into_iter().collect();
        let provider = rtc_crypto::default_provider().expect("a provider");
        let context = |key: &[u8], salt: &[u8]| {
            Context::new(key, salt, ProtectionProfile::AeadAes128Gcm, None, None, provider.crypto()).expect("a context")
        };
        (context(&keys[..16], &keys[32..44]), context(&keys[16..32], &keys[44..56]))
    }

    pub fn send_media(&mut self, packets: &[Rtp]) {
        for packet in packets {
            let (to_server, _) = self.ciphers.as_mut().expect("connected");
            let sealed = to_server.encrypt_rtp(&packet.bytes()).expect("seals");
            self.checker.borrow_mut().published(self.address, packet);
            self.link.send(&sealed);
        }
    }
}
