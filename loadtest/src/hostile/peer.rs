//! An attacker who joined: signalling, ICE, DTLS, SRTP and SCTP of one transport, each open to bytes that no client
//! sends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use serde::Deserialize;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};

use super::scene::Scene;
use super::sctp::Sctp;
use crate::dtls::{Dtls, DtlsEvent, Identity, SrtpProfile, SrtpSession};
use crate::ice::{Credentials, IceAgent, IceEvent, IceRole};
use crate::receiver::MediaKind;
use crate::sdp::{self, Description, LocalSection, LocalTransport};
use crate::session::random_text;
use crate::signal::{JoinCall, Protocol, SignalSocket};
use crate::socket::{self, Features};
use crate::transport::Remote;

/// A join that takes longer has failed.
const JOIN_MAX: Duration = Duration::from_secs(5);
/// Datagrams that are kept to be sent again.
const SENT_KEPT: usize = 256;
/// Datagrams and messages read between two acts of an attack.
const PUMP_MAX: usize = 256;
const DATAGRAM_MAX: usize = 2_048;
/// Sections of the offer: what a viewer of one camera and one microphone needs, and data.
const SECTIONS: [LocalSection; 3] =
    [LocalSection::Receive(MediaKind::Audio), LocalSection::Receive(MediaKind::Video), LocalSection::Application];

/// A joined attacker.
pub(super) struct Peer {
    identity: Identity,
    /// `None` once the server has closed it.
    signal: Option<SignalSocket>,
    socket: UdpSocket,
    pub local: LocalTransport,
    ice: IceAgent,
    pub remote: Option<Remote>,
    dtls: Option<Dtls>,
    srtp: Option<SrtpSession>,
    pub sctp: Sctp,
    /// The server's address for ICE-TCP, if it named one.
    pub tcp_candidate: Option<SocketAddr>,
    /// What was sent, to be sent again.
    pub sent: Vec<Vec<u8>>,
    /// Datagrams that came.
    pub received: u64,
    failed: Option<String>,
}

#[derive(Deserialize)]
struct TrickledCandidate {
    candidate: String,
}

impl Peer {
    /// Joins, and waits until data channels could be opened.
    ///
    /// # Errors
    ///
    /// When the server refuses, or is not connected after 5 s.
    pub(super) async fn join(scene: &Scene<'_>, room: &str) -> anyhow::Result<Self> {
        let joined = timeout(JOIN_MAX, Self::join_unbounded(scene, room)).await;
        let joined = joined.unwrap_or_else(|_| Err(anyhow!("an attacker's join took too long")));
        if joined.is_err() {
            scene.refused();
        }
        joined
    }

    async fn join_unbounded(scene: &Scene<'_>, room: &str) -> anyhow::Result<Self> {
        let identity = Identity::generate(&[SrtpProfile::Aes128Gcm, SrtpProfile::Aes128CmSha1])?;
        let socket = socket::open(scene.local_ip, Features::default()).context("opening a media socket")?;
        let socket = UdpSocket::from_std(socket)?;
        let local = LocalTransport {
            credentials: Credentials { ufrag: random_text(8), password: random_text(24) },
            fingerprint: identity.fingerprint.clone(),
            candidate: socket.local_addr()?,
            session: rand::random::<u64>() >> 2,
        };
        let token = scene.token(room)?;
        let offer = description(sdp::offer(&local, 1, &SECTIONS), 1);
        let call = JoinCall {
            url: &scene.options.url,
            token: &token,
            protocol: Protocol::V1,
            auto_subscribe: true,
            offer,
            from: scene.options.from,
        };
        let mut signal = SignalSocket::connect(call).await?;
        let Some(Response::Join(_)) = signal.receive().await? else { bail!("no join response") };
        if signal.protocol == Protocol::V0 {
            let sdp = sdp::offer(&local, 1, &SECTIONS[2..]);
            signal.send(Request::Offer(description(sdp, 1))).await?;
        }
        let mut peer = Self {
            ice: IceAgent::new(local.credentials.clone(), now()),
            identity,
            signal: Some(signal),
            socket,
            local,
            remote: None,
            dtls: None,
            srtp: None,
            sctp: Sctp::new(),
            tcp_candidate: None,
            sent: Vec::new(),
            received: 0,
            failed: None,
        };
        while !peer.sctp.is_up {
            peer.drive(Duration::from_millis(20)).await;
            if let Some(reason) = peer.failed {
                bail!("{reason}");
            }
        }
        Ok(peer)
    }

    /// Whether signalling and transport are still there.
    pub(super) fn is_well(&self) -> bool {
        self.signal.is_some() && self.failed.is_none()
    }

    /// Where the server takes our datagrams.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.ice.nominated()
    }

    /// Does what a client does: reads, answers, keeps consent.
    pub(super) async fn drive(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut buffer = [0; DATAGRAM_MAX];
        while Instant::now() < end {
            let due = self.ice.deadline().into_iter().chain(self.dtls.as_ref().and_then(Dtls::deadline)).min();
            let wake = due.map_or(end, |due| end.min(due.into()));
            tokio::select! {
                () = sleep_until(wake) => self.on_timeout(),
                got = self.socket.recv_from(&mut buffer) => if let Ok((len, from)) = got {
                    self.on_datagram(from, &buffer[..len]);
                },
                response = next_response(&mut self.signal) => self.on_response(response),
            }
            self.flush().await;
        }
    }

    /// The same with what is there already.
    pub(super) async fn pump(&mut self) {
        let mut buffer = [0; DATAGRAM_MAX];
        for _ in 0..PUMP_MAX {
            let Ok((len, from)) = self.socket.try_recv_from(&mut buffer) else { break };
            self.on_datagram(from, &buffer[..len]);
        }
        for _ in 0..PUMP_MAX {
            tokio::select! {
                biased;
                response = next_response(&mut self.signal) => self.on_response(response),
                () = std::future::ready(()) => break,
            }
        }
        self.on_timeout();
        self.flush().await;
        tokio::task::yield_now().await;
    }

    fn on_response(&mut self, response: Option<Response>) {
        let Some(response) = response else {
            self.signal = None;
            return;
        };
        let read = match response {
            Response::Answer(answer) => self.on_answer(&answer.sdp),
            Response::Trickle(trickle) => {
                if let Ok(init) = serde_json::from_str::<TrickledCandidate>(&trickle.candidate_init) {
                    self.on_candidate(init.candidate.trim_start_matches("a="));
                }
                Ok(())
            }
            Response::Leave(leave) => Err(anyhow!("thrown out, reason {}", leave.reason)),
            _ => Ok(()),
        };
        if let Err(error) = read {
            self.failed.get_or_insert(format!("{error:#}"));
        }
    }

    fn on_answer(&mut self, sdp: &str) -> anyhow::Result<()> {
        let answer = Description::parse(sdp)?;
        let remote = answer.remote()?;
        self.ice.set_remote(remote.credentials.clone(), IceRole::Controlling, now());
        if self.dtls.is_none() {
            self.dtls = Some(Dtls::new(&self.identity, remote.role, remote.fingerprint.clone())?);
        }
        self.remote = Some(remote);
        for line in sdp.lines().filter_map(|line| line.strip_prefix("a=")) {
            self.on_candidate(line);
        }
        Ok(())
    }

    fn on_candidate(&mut self, line: &str) {
        let mut words = line.split(' ');
        if let Some(address) = sdp::candidate(line) {
            if address.is_ipv4() == self.local.candidate.is_ipv4() {
                self.ice.add_candidate(address, now());
            }
        } else if line.starts_with("candidate:")
            && words.nth(2).is_some_and(|protocol| protocol.eq_ignore_ascii_case("tcp"))
            && let Some(ip) = words.nth(1).and_then(|ip| ip.parse().ok())
            && let Some(port) = words.next().and_then(|port| port.parse().ok())
        {
            self.tcp_candidate.get_or_insert(SocketAddr::new(ip, port));
        }
    }

    fn on_timeout(&mut self) {
        let mut out = Vec::new();
        let crypto = self.identity.provider.crypto();
        let event = self.ice.on_timeout(now(), crypto, |to, datagram| out.push((to, datagram)));
        self.on_ice(event);
        self.send_now(out);
        if let Some(Err(error)) = self.dtls.as_mut().map(|dtls| dtls.on_timeout(now())) {
            self.failed.get_or_insert(format!("DTLS: {error:#}"));
        }
    }

    fn on_datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.received += 1;
        match datagram.first() {
            Some(0..=3) => {
                let mut out = Vec::new();
                let crypto = self.identity.provider.crypto();
                let event = self.ice.on_datagram(from, datagram, now(), crypto, |to, answer| out.push((to, answer)));
                self.on_ice(event);
                self.send_now(out);
            }
            Some(20..=63) => self.on_dtls(datagram),
            _ => {}
        }
    }

    fn on_ice(&mut self, event: Option<IceEvent>) {
        match (event, &mut self.dtls) {
            (Some(IceEvent::Nominated(_)), Some(dtls)) => {
                if let Err(error) = dtls.start(now()) {
                    self.failed.get_or_insert(format!("DTLS: {error:#}"));
                }
            }
            (Some(IceEvent::Failed), _) => {
                self.failed.get_or_insert("ICE failed".to_owned());
            }
            _ => {}
        }
    }

    fn on_dtls(&mut self, datagram: &[u8]) {
        let Some(dtls) = &mut self.dtls else { return };
        // A record that cannot be read is none of our business.
        for event in dtls.on_datagram(now(), datagram).unwrap_or_default() {
            match event {
                DtlsEvent::Established => {
                    self.srtp = dtls.srtp().ok();
                    // Both ends may begin (RFC 9260, section 5.2.1); a server that accepts only waits for it.
                    self.sctp.open();
                }
                DtlsEvent::Data(packet) => self.sctp.on_packet(&packet),
                DtlsEvent::Closed => {
                    self.failed.get_or_insert("the server closed the transport".to_owned());
                }
            }
        }
    }

    /// Sends what the protocols have to send.
    async fn flush(&mut self) {
        if let Some(dtls) = &mut self.dtls {
            for packet in self.sctp.take_out() {
                // SCTP's peer repeats what was not answered.
                let _ = dtls.write(now(), &packet);
            }
        }
        let Some(to) = self.ice.nominated() else { return };
        while let Some(datagram) = self.dtls.as_mut().and_then(Dtls::poll_transmit) {
            self.keep(&datagram);
            // What the network refuses is lost.
            let _ = self.socket.send_to(&datagram, to).await;
        }
    }

    fn send_now(&mut self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        for (to, datagram) in datagrams {
            self.keep(&datagram);
            // A full buffer loses it, as the network might.
            let _ = self.socket.try_send_to(&datagram, to);
        }
    }

    fn keep(&mut self, datagram: &[u8]) {
        if self.sent.len() < SENT_KEPT {
            self.sent.push(datagram.to_vec());
        }
    }

    /// Sends chunks as one packet of the association.
    ///
    /// # Errors
    ///
    /// When the transport is gone.
    pub(super) async fn send_sctp(&mut self, chunks: &[u8]) -> anyhow::Result<()> {
        let packet = self.sctp.packet(chunks);
        self.dtls.as_mut().context("no DTLS")?.write(now(), &packet)?;
        self.flush().await;
        Ok(())
    }

    /// Seals and sends an RTP packet.
    ///
    /// # Errors
    ///
    /// When the transport is gone, or it is no RTP packet.
    pub(super) async fn send_rtp(&mut self, packet: &[u8]) -> anyhow::Result<()> {
        let sealed = self.srtp.as_mut().context("no SRTP")?.outbound.encrypt_rtp(packet)?;
        self.send_datagram(&sealed).await
    }

    /// The same for RTCP.
    ///
    /// # Errors
    ///
    /// As above.
    pub(super) async fn send_rtcp(&mut self, packet: &[u8]) -> anyhow::Result<()> {
        let sealed = self.srtp.as_mut().context("no SRTP")?.outbound.encrypt_rtcp(packet)?;
        self.send_datagram(&sealed).await
    }

    /// Sends a datagram as it is.
    ///
    /// # Errors
    ///
    /// When there is no path yet.
    pub(super) async fn send_datagram(&mut self, datagram: &[u8]) -> anyhow::Result<()> {
        let to = self.server().context("no path")?;
        self.keep(datagram);
        match self.socket.send_to(datagram, to).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(error.into()),
            // Lost, as the network might.
            Err(_) => Ok(()),
        }
    }

    /// Sends a binary message on the signal socket.
    ///
    /// # Errors
    ///
    /// When the server has closed it, or takes nothing for `patience`.
    pub(super) async fn send_signal(&mut self, message: Vec<u8>, patience: Duration) -> anyhow::Result<()> {
        let signal = self.signal.as_mut().context("the server has closed the signal socket")?;
        timeout(patience, signal.send_bytes(message)).await.context("the server reads no more")?
    }

    /// A connectivity check with USE-CANDIDATE, as another local socket would send it.
    ///
    /// # Errors
    ///
    /// When the transport has no peer.
    pub(super) fn check(&self) -> anyhow::Result<Vec<u8>> {
        let (remote, server) = (self.remote.as_ref().context("no peer")?, self.server().context("no path")?);
        let mut agent = IceAgent::new(self.local.credentials.clone(), now());
        agent.set_remote(remote.credentials.clone(), IceRole::Controlling, now());
        agent.add_candidate(server, now());
        let mut checks = Vec::new();
        agent.on_timeout(now(), self.identity.provider.crypto(), |_, check| checks.push(check));
        checks.pop().context("no check")
    }

    /// Ends the signalling without a word.
    pub(super) fn hang_up(&mut self) {
        self.signal = None;
    }
}

fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// An offer of ours.
pub(super) fn description(sdp: String, id: u32) -> proto::SessionDescription {
    proto::SessionDescription { r#type: "offer".to_owned(), sdp, id, ..Default::default() }
}

/// The next response; `None` after the end.
async fn next_response(signal: &mut Option<SignalSocket>) -> Option<Response> {
    match signal {
        Some(signal) => signal.receive().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Joins in one of the attack's rooms, and again when it was thrown out.
///
/// # Errors
///
/// When nobody is let in.
pub(super) async fn well(scene: &Scene<'_>, peer: Option<Peer>, turn: u64) -> anyhow::Result<Peer> {
    match peer {
        Some(peer) if peer.is_well() => Ok(peer),
        thrown_out => {
            if thrown_out.is_some() {
                scene.refused();
                ensure!(scene.goes_on(), "thrown out at the end");
                tokio::time::sleep(scene.left(Duration::from_millis(100))).await;
            }
            Peer::join(scene, &scene.room(turn)).await
        }
    }
}
