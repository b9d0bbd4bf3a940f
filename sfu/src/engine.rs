//! All media state of one worker: a table of contents that calls the stages.
//!
//! A turn is: [`Engine::receive`] for everything that has arrived, [`Engine::forward_some`] for what follows from it,
//! [`Engine::expire`] for what time brings. Time and bytes are parameters; the shell in [`crate::io`] owns
//! clock and sockets.
//!
//! - `engine/receive.rs`: datagrams in, up to the layer's history
//! - `engine/forward.rs`: fan-out into runs, retransmissions
//! - `engine/feedback.rs`: RTCP in both directions, and its timers
//! - `engine/data.rs`: data messages to rooms and to clients, and who waits for which
//! - `engine/budget.rs`: what a transport's packets may cost, whatever is in them
//! - `engine/fault.rs`: what is closed after a panic
//! - `engine/state.rs`: a session's state, written down and read back

mod budget;
mod data;
mod fault;
mod feedback;
mod forward;
mod news;
mod receive;
mod state;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use shared::media::{Codec, MediaKind};
use tracing::debug;

use self::budget::Budget;
use self::data::{DataFlow, Load};
pub use self::data::{ROOM_DATA_MESSAGES_MAX, WORKER_DATA_MESSAGES_MAX};
use self::fault::Serving;
pub use self::fault::Stage;
use self::news::News;
pub use self::state::TransportState;
use crate::audio::AudioConfig;
use crate::certificate::Certificate;
use crate::command::{
    ChannelOpener, Command, Event, ExtensionIds, IceCredentials, PublicationId, ReceiveSection, RoomId, SendSection,
    SubscriptionId, TransportEnd, TransportId,
};
use crate::demux::Discard;
use crate::key::{Keyed, PublicationKey, SubscriptionKey, TransportKey};
use crate::publication::Publication;
use crate::run::{SendArena, Transmit};
use crate::srtp::{SrtpReceiver, SrtpSender};
use crate::stats::{ByKind, Stats};
use crate::subscription::Subscription;
use crate::transport::{KeyingMaterial, Path, Transport, TransportOutput, Via};
use crate::twcc::TwccRecorder;

/// SSRCs that one transport may bind.
const STREAMS_MAX: usize = 64;
/// Addresses from which one transport may have been checked.
const PATHS_MAX: usize = 16;
/// After its last check a client has its address for so long: consent is renewed every 4 to 6 s (RFC 7675, section 5.1).
pub(crate) const PATH_TAKEN: Duration = Duration::from_secs(6);

/// The state of one client's transport beside the transport itself.
struct Peer {
    id: TransportId,
    room: RoomId,
    transport: Box<Transport>,
    /// Where it is reached; a copy, for the hot path.
    path: Option<Path>,
    paths: Vec<Path>,
    ufrags: Vec<String>,
    sender: Option<SrtpSender>,
    receiver: Option<Box<SrtpReceiver>>,
    /// Our SSRC in RTCP to it.
    ssrc: u32,
    /// What it publishes, and which SSRC is what.
    publications: Vec<PublicationKey>,
    streams: Vec<(u32, Stream)>,
    receive_extensions: ExtensionIds,
    twcc: Option<Box<TwccRecorder>>,
    /// What it gets.
    subscriptions: Vec<SubscriptionKey>,
    /// When its timer was last set for.
    scheduled: Option<Instant>,
    /// When it is closed. Its room knows it no more.
    closes_at: Option<Instant>,
    /// Its part of [`DataFlow::backlog`].
    data_backlog: usize,
    data: data::Sender,
    budget: Budget,
}

impl Peer {
    /// Whether it has shown, by a DTLS handshake and by answering checks of ours since, that it receives there.
    fn is_at(&self, path: &Path) -> bool {
        self.sender.is_some() && self.path == Some(*path)
    }
}

/// What an SSRC of a publisher carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    publication: PublicationKey,
    layer: u8,
    rtx: bool,
}

/// What an operator may set of the media path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineConfig {
    pub audio: AudioConfig,
    /// A client that takes reliable data more slowly than this, in bits a second, loses messages; 0 means none does for
    /// its pace alone.
    pub datachannel_slow_threshold: u32,
}

pub struct Engine {
    config: EngineConfig,
    certificate: Certificate,
    epoch: Instant,
    peers: Keyed<TransportId, Peer>,
    publications: Keyed<PublicationId, Publication>,
    subscriptions: Keyed<SubscriptionId, Subscription>,
    peer_of: HashMap<TransportId, TransportKey>,
    publication_of: HashMap<PublicationId, PublicationKey>,
    subscription_of: HashMap<SubscriptionId, SubscriptionKey>,
    paths: HashMap<Path, TransportKey>,
    ufrags: HashMap<String, TransportKey>,
    /// The router's list: publications that have something to forward.
    news: News,
    /// Video subscriptions that have not met the present yet: they get the past also while nothing arrives.
    starting: Vec<SubscriptionKey>,
    timers: BinaryHeap<Reverse<(Instant, TransportKey)>>,
    clock: feedback::MediaClock,
    events: VecDeque<(RoomId, Event)>,
    /// ICE-TCP connections that were of transports which are no more.
    unused_connections: Vec<u32>,
    /// Whom a panic would be the fault of.
    serving: Option<Serving>,
    data: DataFlow,
    /// When a transport whose budget is spent was last told of in the log.
    budget_warned_at: Option<Instant>,
    pub stats: Stats,
    /// Reused buffers: a control datagram to send, an RTCP packet being built, lost numbers.
    datagram: Vec<u8>,
    rtcp: Vec<u8>,
    lost: Vec<u16>,
}

impl Engine {
    pub fn new(certificate: Certificate, config: EngineConfig, now: Instant) -> Self {
        Self {
            config,
            certificate,
            epoch: now,
            peers: Keyed::default(),
            publications: Keyed::default(),
            subscriptions: Keyed::default(),
            peer_of: HashMap::new(),
            publication_of: HashMap::new(),
            subscription_of: HashMap::new(),
            paths: HashMap::new(),
            ufrags: HashMap::new(),
            news: News::default(),
            starting: Vec::new(),
            timers: BinaryHeap::new(),
            clock: feedback::MediaClock::new(now),
            events: VecDeque::new(),
            unused_connections: Vec::new(),
            serving: None,
            data: DataFlow::default(),
            budget_warned_at: None,
            stats: Stats::default(),
            datagram: Vec::with_capacity(2048),
            rtcp: Vec::with_capacity(2048),
            lost: Vec::with_capacity(256),
        }
    }

    /// What the room should hear; call until `None` after every turn.
    pub fn poll_event(&mut self) -> Option<(RoomId, Event)> {
        self.events.pop_front()
    }

    /// The next ICE-TCP connection that no transport uses any more; call until `None` after what was sent has left.
    pub fn poll_unused_connection(&mut self) -> Option<u32> {
        self.unused_connections.pop()
    }

    /// Transports now hosted.
    pub fn transports(&self) -> usize {
        self.peers.len()
    }

    pub fn publications(&self) -> usize {
        self.publications.len()
    }

    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Brings the number of subscriptions of each kind in [`Stats`] up to date.
    pub fn count_subscriptions(&mut self) {
        let mut count = ByKind::default();
        for (_, subscription) in self.subscriptions.iter() {
            *count.of(self.publications[subscription.publication].section.kind) += 1;
        }
        self.stats.media.subscriptions = count;
    }

    /// When [`Engine::expire`] is next due; `None` while there is nothing to wait for.
    pub fn deadline(&self) -> Option<Instant> {
        let transport = self.timers.peek().map(|Reverse((at, _))| *at);
        let media = (!self.publications.is_empty()).then(|| self.clock.next());
        transport.into_iter().chain(media).chain(self.data.deadline()).min()
    }

    /// Does what time brings.
    pub fn expire<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        while let Some(&Reverse((at, slot))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            peer.scheduled = None;
            self.serving = Some(Serving { slot, stage: Stage::Timer });
            if peer.closes_at.is_some_and(|due| due <= now) {
                self.close_now(now, slot, out);
                continue;
            }
            if peer.transport.deadline().is_some_and(|due| due <= now) {
                peer.transport.on_deadline(now);
            }
            self.after_transport(now, slot, out);
        }
        self.serve_waiting(now, out);
        if !self.publications.is_empty() && now >= self.clock.next() {
            self.media_tick(now, out);
        }
        self.serving = None;
    }

    /// Carries out one decision of a room.
    pub fn handle<T: Transmit>(&mut self, now: Instant, command: Command, out: &mut SendArena<T>) {
        self.serving = None;
        match command {
            Command::OpenTransport { transport, room, local, opener } => {
                self.open_transport(now, transport, room, local, opener);
            }
            Command::SetFingerprint { transport, fingerprint, role } => {
                let Some(slot) = self.peer_slot(transport) else { return };
                self.peers[slot].transport.set_dtls_role(now, role);
                self.peers[slot].transport.set_fingerprint(now, fingerprint);
                self.after_transport(now, slot, out);
            }
            Command::SetRemoteCredentials { transport, remote } => {
                let Some(slot) = self.peer_slot(transport) else { return };
                self.peers[slot].transport.set_remote_credentials(now, remote);
                self.after_transport(now, slot, out);
            }
            Command::RestartIce { transport, local } => self.restart_ice(transport, local),
            Command::CloseTransport { transport, after } => {
                let Some(slot) = self.peer_slot(transport) else { return };
                match self.peers[slot].sender.is_some() && !after.is_zero() {
                    true => self.close_later(slot, now + after),
                    false => self.close_now(now, slot, out),
                }
            }
            Command::Publish { publication, transport, section } => self.publish(publication, transport, section),
            Command::SetMuted { publication, muted } => self.set_muted(publication, muted),
            Command::Unpublish { publication } => match self.publication_of.get(&publication) {
                Some(&slot) => self.remove_publication(slot),
                None => self.stats.count(Discard::StaleCommand),
            },
            Command::Subscribe { subscription, publication, transport, section } => {
                self.subscribe(now, subscription, publication, transport, section);
            }
            Command::SetSubscription { subscription, paused, layer_max } => {
                self.set_subscription(now, subscription, paused, layer_max);
            }
            Command::Unsubscribe { subscription } => match self.subscription_of.get(&subscription) {
                Some(&slot) => self.remove_subscription(slot),
                None => self.stats.count(Discard::StaleCommand),
            },
            Command::SendData { from, transports, channel, payload } => {
                self.send_data(now, from, &transports, (channel, &payload), out);
            }
            Command::DataTaken { room, transport, channel, messages, bytes } => {
                self.on_data_taken(room, transport, channel, Load { messages, bytes });
            }
            Command::ExportTransport { transport } => self.export(transport),
            Command::CloseRoom { room } => self.close_room(now, room, out),
        }
    }

    /// Connects a transport without ICE and DTLS. For benchmarks and simulations of the media path, which would spend
    /// their time in handshakes.
    pub fn establish(&mut self, transport: TransportId, path: Path, keys: &KeyingMaterial) {
        let Some(slot) = self.peer_slot(transport) else { return };
        let peer = &mut self.peers[slot];
        peer.transport.assume_path(path);
        peer.path = Some(path);
        peer.paths.push(path);
        self.paths.insert(path, slot);
        self.take_keys(slot, keys);
    }

    fn take_keys(&mut self, slot: TransportKey, keys: &KeyingMaterial) {
        let peer = &mut self.peers[slot];
        self.stats.handshakes.count(keys.profile);
        peer.sender = Some(SrtpSender::new(keys.profile, &keys.send_key, &keys.send_salt));
        peer.receiver = Some(Box::new(SrtpReceiver::new(keys.profile, &keys.receive_key, &keys.receive_salt)));
        self.want_keyframes_for(slot);
    }

    fn peer_slot(&mut self, transport: TransportId) -> Option<TransportKey> {
        let slot = self.peer_of.get(&transport).copied();
        match slot {
            Some(slot) => self.serves(slot, Stage::Command),
            None => self.stats.count(Discard::StaleCommand),
        }
        slot
    }

    fn open_transport(
        &mut self,
        now: Instant,
        id: TransportId,
        room: RoomId,
        local: IceCredentials,
        opener: ChannelOpener,
    ) {
        if self.peer_of.contains_key(&id) {
            self.stats.count(Discard::StaleCommand);
            return;
        }
        let ufrag = local.ufrag.clone();
        let mut transport = Box::new(Transport::new(id, local, opener, &self.certificate, now));
        transport.set_datachannel_slow_threshold(self.config.datachannel_slow_threshold);
        let slot = self.peers.insert(Peer {
            id,
            room,
            transport,
            path: None,
            paths: Vec::new(),
            ufrags: vec![ufrag.clone()],
            sender: None,
            receiver: None,
            ssrc: rand::random(),
            publications: Vec::new(),
            streams: Vec::new(),
            receive_extensions: ExtensionIds::default(),
            twcc: None,
            subscriptions: Vec::new(),
            scheduled: None,
            closes_at: None,
            data_backlog: 0,
            data: data::Sender::default(),
            budget: Budget::new(now),
        });
        self.peer_of.insert(id, slot);
        self.ufrags.insert(ufrag, slot);
    }

    fn restart_ice(&mut self, transport: TransportId, local: IceCredentials) {
        let Some(slot) = self.peer_slot(transport) else { return };
        let Peer { transport, ufrags, .. } = &mut self.peers[slot];
        ufrags.push(local.ufrag.clone());
        self.ufrags.insert(local.ufrag.clone(), slot);
        transport.restart_ice(local);
        ufrags.retain(|ufrag| {
            let serves = transport.local_ufrags().any(|known| known == ufrag);
            if !serves {
                self.ufrags.remove(ufrag);
            }
            serves
        });
    }

    fn publish(&mut self, id: PublicationId, transport: TransportId, section: ReceiveSection) {
        let Some(peer_slot) = self.peer_slot(transport) else { return };
        let peer = &mut self.peers[peer_slot];
        merge_extensions(&mut peer.receive_extensions, &section.extensions);
        if peer.receive_extensions.transport_cc.is_some() && peer.twcc.is_none() {
            peer.twcc = Some(Box::new(TwccRecorder::new(peer.ssrc)));
        }
        let slot = match self.publication_of.get(&id) {
            Some(&slot) => {
                self.publications[slot].renegotiate(section);
                slot
            }
            None => {
                let slot = self.publications.insert(Publication::new(id, peer_slot, section, self.config.audio));
                self.publication_of.insert(id, slot);
                peer.publications.push(slot);
                slot
            }
        };
        // SSRCs are bound anew: declared ones at once, the others by what their packets say.
        peer.streams.retain(|(_, stream)| stream.publication != slot);
        let publication = &self.publications[slot];
        for (layer, state) in publication.layers.iter().enumerate() {
            for (ssrc, rtx) in [(state.ssrc, false), (state.spec.rtx_ssrc, true)] {
                if let Some(ssrc) = ssrc
                    && peer.streams.len() < STREAMS_MAX
                {
                    peer.streams.push((ssrc.0, Stream { publication: slot, layer: layer as u8, rtx }));
                }
            }
        }
        let codecs = &publication.section.codecs;
        for &subscription in &publication.subscriptions {
            let section = self.subscriptions[subscription].section.clone();
            self.subscriptions[subscription].renegotiate(section, codecs);
        }
    }

    fn set_muted(&mut self, id: PublicationId, muted: bool) {
        let Some(&slot) = self.publication_of.get(&id) else {
            self.stats.count(Discard::StaleCommand);
            return;
        };
        let publication = &mut self.publications[slot];
        if publication.muted && !muted {
            for &subscription in &publication.subscriptions {
                self.subscriptions[subscription].current = None;
            }
            if publication.section.kind == MediaKind::Video {
                publication.layers.iter_mut().for_each(|layer| layer.want_keyframe());
            }
        }
        if let (true, Some(level)) = (muted, &mut publication.audio_level) {
            level.reset();
        }
        publication.muted = muted;
    }

    fn subscribe(
        &mut self,
        now: Instant,
        id: SubscriptionId,
        publication: PublicationId,
        transport: TransportId,
        section: SendSection,
    ) {
        let Some(peer_slot) = self.peer_slot(transport) else { return };
        let Some(&publication_slot) = self.publication_of.get(&publication) else {
            self.stats.count(Discard::StaleCommand);
            return;
        };
        let publication = &mut self.publications[publication_slot];
        if let Some(&slot) = self.subscription_of.get(&id) {
            self.subscriptions[slot].renegotiate(section, &publication.section.codecs);
            return;
        }
        let mut subscription =
            Subscription::new(now, id, publication_slot, peer_slot, section, &publication.section.codecs);
        subscription.wanted = publication.best_layer(now, subscription.layer_max);
        if publication.section.kind == MediaKind::Video
            && let Some(layer) = publication.layers.get_mut(usize::from(subscription.wanted))
            && layer.late_start().is_none()
        {
            layer.want_keyframe();
        }
        let slot = self.subscriptions.insert(subscription);
        self.subscription_of.insert(id, slot);
        if publication.section.kind == MediaKind::Video {
            self.starting.push(slot);
        }
        publication.subscriptions.push(slot);
        self.peers[peer_slot].subscriptions.push(slot);
    }

    fn set_subscription(&mut self, now: Instant, id: SubscriptionId, paused: bool, layer_max: u8) {
        let Some(&slot) = self.subscription_of.get(&id) else {
            self.stats.count(Discard::StaleCommand);
            return;
        };
        let subscription = &mut self.subscriptions[slot];
        if subscription.paused && !paused {
            subscription.current = None;
        }
        (subscription.paused, subscription.layer_max) = (paused, layer_max);
        self.choose_layer(now, slot);
    }

    /// Sets the wanted layer of a subscription, and sees to it that it can start.
    fn choose_layer(&mut self, now: Instant, slot: SubscriptionKey) {
        let subscription = &mut self.subscriptions[slot];
        let publication = &mut self.publications[subscription.publication];
        subscription.wanted = publication.best_layer(now, subscription.layer_max);
        let waits = subscription.current != Some(subscription.wanted) && !subscription.paused && !publication.muted;
        let late = subscription.may_start_late(subscription.wanted);
        if waits
            && subscription.kind() == MediaKind::Video
            && let Some(layer) = publication.layers.get_mut(usize::from(subscription.wanted))
            && !(late && layer.late_start().is_some())
        {
            layer.want_keyframe();
        }
    }

    fn remove_subscription(&mut self, slot: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.remove(slot) else { return };
        self.subscription_of.remove(&subscription.id);
        if let Some(publication) = self.publications.get_mut(subscription.publication) {
            publication.forget_subscription(slot);
        }
        if let Some(peer) = self.peers.get_mut(subscription.transport) {
            peer.subscriptions.retain(|other| *other != slot);
        }
    }

    fn remove_publication(&mut self, slot: PublicationKey) {
        let Some(publication) = self.publications.remove(slot) else { return };
        for subscription in &publication.subscriptions {
            self.remove_subscription(*subscription);
        }
        self.publication_of.remove(&publication.id);
        if let Some(peer) = self.peers.get_mut(publication.transport) {
            peer.publications.retain(|other| *other != slot);
            peer.streams.retain(|(_, stream)| stream.publication != slot);
        }
    }

    fn close_now<T: Transmit>(&mut self, now: Instant, slot: TransportKey, out: &mut SendArena<T>) {
        self.peers[slot].transport.close(now);
        self.flush_transport(slot, out);
        self.remove_peer(slot);
    }

    /// Keeps only the association, until then.
    fn close_later(&mut self, slot: TransportKey, at: Instant) {
        self.remove_media_of(slot);
        let peer = &mut self.peers[slot];
        peer.closes_at = Some(at);
        self.peer_of.remove(&peer.id);
        self.schedule(slot);
    }

    fn remove_media_of(&mut self, slot: TransportKey) {
        for publication in std::mem::take(&mut self.peers[slot].publications) {
            self.remove_publication(publication);
        }
        for subscription in std::mem::take(&mut self.peers[slot].subscriptions) {
            self.remove_subscription(subscription);
        }
    }

    /// Forgets a transport and all that hangs on it.
    fn remove_peer(&mut self, slot: TransportKey) {
        self.remove_media_of(slot);
        let Some(peer) = self.peers.remove(slot) else { return };
        self.peer_of.remove(&peer.id);
        self.data.backlog -= peer.data_backlog;
        for path in peer.paths {
            self.forget_path(slot, path);
        }
        for ufrag in peer.ufrags {
            self.ufrags.remove(&ufrag);
        }
    }

    /// A transport uses a path no more.
    fn forget_path(&mut self, slot: TransportKey, path: Path) {
        if self.paths.get(&path) == Some(&slot) {
            self.paths.remove(&path);
            if let Via::Tcp(connection) = path.via {
                self.unused_connections.push(connection);
            }
        }
    }

    fn close_room<T: Transmit>(&mut self, now: Instant, room: RoomId, out: &mut SendArena<T>) {
        let is_open = |peer: &Peer| peer.room == room && peer.closes_at.is_none();
        let slots: Vec<TransportKey> = self.peers.iter().filter(|(_, peer)| is_open(peer)).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.close_now(now, slot, out);
        }
        self.forget_data_of(room);
    }

    /// Takes from a transport what an input made it want: datagrams, outputs, a new deadline. May remove it.
    fn after_transport<T: Transmit>(&mut self, now: Instant, slot: TransportKey, out: &mut SendArena<T>) {
        let mut ended = None;
        loop {
            self.flush_transport(slot, out);
            let peer = &mut self.peers[slot];
            let Some(output) = peer.transport.poll_output() else { break };
            let (transport, room, closes) = (peer.id, peer.room, peer.closes_at.is_some());
            match output {
                TransportOutput::Ended(end) => ended = Some(end),
                // Nobody is there to hear of it.
                TransportOutput::Connected(_) | TransportOutput::ChannelOpen(_) | TransportOutput::Data(..)
                    if closes => {}
                TransportOutput::Connected(keys) => {
                    debug!(?transport, profile = ?keys.profile, "connected");
                    self.take_keys(slot, &keys);
                    self.events.push_back((room, Event::TransportConnected { transport }));
                }
                TransportOutput::ChannelOpen(channel) => {
                    self.events.push_back((room, Event::ChannelOpen { transport, channel }));
                }
                TransportOutput::Data(channel, payload) => self.on_lossy_data(now, slot, channel, payload),
            }
        }
        if self.peers[slot].transport.has_reliable() {
            self.on_reliable_data(now, slot);
            self.flush_transport(slot, out);
        }
        let refused = self.peers[slot].transport.take_data_discards().total();
        if refused > 0 {
            debug!(transport = ?self.peers[slot].id, refused, "data channel messages refused");
            self.stats.add(Discard::DataRefused, refused);
        }
        let peer = &mut self.peers[slot];
        let backlog = peer.transport.data_backlog();
        self.data.backlog = self.data.backlog + backlog - std::mem::replace(&mut peer.data_backlog, backlog);
        if let Some(end) = ended {
            self.on_last_data(now, slot);
            self.end_transport(slot, end);
            return;
        }
        self.schedule(slot);
    }

    fn end_transport(&mut self, slot: TransportKey, end: TransportEnd) {
        let (transport, room) = (self.peers[slot].id, self.peers[slot].room);
        debug!(?transport, ?end, "transport ended");
        let closes = self.peers[slot].closes_at.is_some();
        self.remove_peer(slot);
        if closes {
            return;
        }
        self.stats.ended.count(end);
        self.events.push_back((room, Event::TransportEnded { transport, end }));
    }

    /// Subscriptions made before the handshake was done have waited for this.
    fn want_keyframes_for(&mut self, slot: TransportKey) {
        for &subscription in &self.peers[slot].subscriptions {
            let subscription = &self.subscriptions[subscription];
            if subscription.kind() == MediaKind::Video
                && let Some(layer) =
                    self.publications[subscription.publication].layers.get_mut(usize::from(subscription.wanted))
                && layer.late_start().is_none()
            {
                layer.want_keyframe();
            }
        }
    }

    fn flush_transport<T: Transmit>(&mut self, slot: TransportKey, out: &mut SendArena<T>) {
        let peer = &mut self.peers[slot];
        while let Some((path, check)) = peer.transport.poll_check() {
            self.stats.path_checks_sent += 1;
            out.single(path, &check);
        }
        let Some(path) = peer.transport.path() else { return };
        loop {
            self.datagram.clear();
            if !peer.transport.poll_transmit(&mut self.datagram) {
                break;
            }
            out.single(path, &self.datagram);
        }
        self.stats.handshakes_withheld += peer.transport.take_withheld();
    }

    /// Sets the transport's timer, if it is due earlier than it was set for.
    fn schedule(&mut self, slot: TransportKey) {
        let peer = &mut self.peers[slot];
        let Some(due) = peer.transport.deadline().into_iter().chain(peer.closes_at).min() else { return };
        if peer.scheduled.is_none_or(|at| due < at) {
            peer.scheduled = Some(due);
            self.timers.push(Reverse((due, slot)));
        }
    }

    fn emit(&mut self, publication: PublicationKey, event: impl FnOnce(PublicationId) -> Event) {
        let publication = &self.publications[publication];
        if let Some(peer) = self.peers.get(publication.transport) {
            self.events.push_back((peer.room, event(publication.id)));
        }
    }

    /// Time for the absolute send time extension: seconds modulo 64 as 6.18 fixed point.
    fn send_time(&self, now: Instant) -> u32 {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        (((micros << 18) / 1_000_000) & 0xff_ffff) as u32
    }
}

fn merge_extensions(into: &mut ExtensionIds, from: &ExtensionIds) {
    let fields = |ids: &ExtensionIds| {
        [ids.mid, ids.rid, ids.repaired_rid, ids.audio_level, ids.transport_cc, ids.dependency_descriptor]
    };
    let [mid, rid, repaired_rid, audio_level, transport_cc, dependency_descriptor] = fields(from);
    into.mid = mid.or(into.mid);
    into.rid = rid.or(into.rid);
    into.repaired_rid = repaired_rid.or(into.repaired_rid);
    into.audio_level = audio_level.or(into.audio_level);
    into.transport_cc = transport_cc.or(into.transport_cc);
    into.dependency_descriptor = dependency_descriptor.or(into.dependency_descriptor);
}

/// Whether a codec's descriptor is to be read on arrival.
fn is_vp8(codec: Codec) -> bool {
    matches!(codec, Codec::Vp8)
}
