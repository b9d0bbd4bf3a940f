//! All media state of one worker: a table of contents that calls the stages.
//!
//! A turn is: [`Engine::receive`] for everything that has arrived, [`Engine::forward`] for what follows from it,
//! [`Engine::expire`] for what time brings. Time and bytes are parameters; the shell in [`crate::io`] owns
//! clock and sockets.
//!
//! - `engine/receive.rs`: datagrams in, up to the layer's history
//! - `engine/forward.rs`: fan-out, retransmissions
//! - `engine/feedback.rs`: RTCP in both directions, and its timers
//! - `engine/transports.rs`, `publications.rs`, `subscriptions.rs`: what rooms decide of each
//! - `engine/local.rs`: publications and subscriptions of this process, without a transport
//! - `engine/data.rs`: data messages to rooms and to clients, and who waits for which
//! - `engine/fault.rs`: what is closed after a panic
//! - `engine/state.rs`: a session's state, written down and read back
//!
//! These only add to [`Engine`]. What it consists of is in the files that name no engine: `hosted.rs`, `backlog.rs`,
//! `clock.rs`, `load.rs`, `budget.rs`, `serving.rs`.

mod allocation;
mod backlog;
mod budget;
mod clock;
mod data;
mod fault;
mod feedback;
mod forward;
mod hosted;
mod load;
mod local;
mod probing;
mod publications;
mod receive;
mod serving;
mod state;
mod subscriptions;
mod transports;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use self::backlog::Backlog;
use self::clock::MediaClock;
use self::hosted::Hosted;
use self::load::{DataFlow, Load};
pub use self::load::{ROOM_DATA_MESSAGES_MAX, WORKER_DATA_MESSAGES_MAX};
use self::serving::Serving;
pub use self::serving::Stage;
use crate::audio::AudioConfig;
use crate::certificate::Certificate;
use crate::command::{Command, Event};
use crate::demux::Discard;
use crate::id::{PublicationId, RoomId, SubscriptionId, TransportId};
use crate::key::{Keyed, PublicationKey, SubscriptionKey, TransportKey};
use crate::keying::KeyingMaterial;
use crate::local::LocalQueue;
use crate::path::Path;
use crate::publication::Publication;
use crate::run::{SendArena, Transmit};
pub use crate::snapshot::TransportState;
use crate::stats::{ByKind, Stats};
use crate::subscription::Subscription;

/// How long after its last check a client keeps its address: consent is renewed every 4 to 6 s (RFC 7675, section 5.1).
pub(crate) const PATH_TAKEN: Duration = Duration::from_secs(6);

/// What an operator may set of the media path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineConfig {
    /// How levels of audio are judged.
    pub audio: AudioConfig,
    /// A client that takes reliable data more slowly than this, in bits a second, loses messages; 0 means none does for
    /// its pace alone.
    pub datachannel_slow_threshold: u32,
}

/// The media state of one worker.
pub struct Engine {
    config: EngineConfig,
    certificate: Certificate,
    epoch: Instant,
    rng: StdRng,
    transports: Keyed<TransportId, Hosted>,
    publications: Keyed<PublicationId, Publication>,
    subscriptions: Keyed<SubscriptionId, Subscription>,
    transport_keys: HashMap<TransportId, TransportKey>,
    publication_keys: HashMap<PublicationId, PublicationKey>,
    subscription_keys: HashMap<SubscriptionId, SubscriptionKey>,
    paths: HashMap<Path, TransportKey>,
    ufrags: HashMap<String, TransportKey>,
    /// Publications that have something to forward.
    backlog: Backlog,
    /// Video subscriptions that wait for their start or are catching up: they get packets of the past also while
    /// nothing arrives.
    starting: Vec<SubscriptionKey>,
    /// Publications that lack packets.
    incomplete: Vec<PublicationKey>,
    timers: BinaryHeap<Reverse<(Instant, TransportKey)>>,
    clock: MediaClock,
    events: VecDeque<(RoomId, Event)>,
    /// ICE-TCP connections that no transport uses any more.
    unused_connections: Vec<u32>,
    /// The transport that is being served: a panic closes it.
    serving: Option<Serving>,
    data: DataFlow,
    /// Packets and requests for this process: what [`Engine::poll_local`] gives.
    local: LocalQueue,
    /// When a transport whose budget is spent was last logged.
    budget_warned_at: Option<Instant>,
    /// What has been counted since the start.
    pub stats: Stats,
    /// Reused buffers: a control datagram to send, an RTCP packet being built, lost numbers.
    datagram: Vec<u8>,
    rtcp: Vec<u8>,
    lost: Vec<u16>,
}

impl Engine {
    /// An engine without transports. From `seed` follow all random numbers that are not secret: SSRCs of ours, the
    /// first numbers of streams, transactions of checks.
    pub fn new(certificate: Certificate, config: EngineConfig, seed: u64, now: Instant) -> Self {
        Self {
            config,
            certificate,
            epoch: now,
            rng: StdRng::seed_from_u64(seed),
            transports: Keyed::default(),
            publications: Keyed::default(),
            subscriptions: Keyed::default(),
            transport_keys: HashMap::new(),
            publication_keys: HashMap::new(),
            subscription_keys: HashMap::new(),
            paths: HashMap::new(),
            ufrags: HashMap::new(),
            backlog: Backlog::default(),
            starting: Vec::new(),
            incomplete: Vec::new(),
            timers: BinaryHeap::new(),
            clock: MediaClock::new(now),
            events: VecDeque::new(),
            unused_connections: Vec::new(),
            serving: None,
            data: DataFlow::default(),
            local: LocalQueue::default(),
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
        self.transports.len()
    }

    /// Publications now hosted.
    pub fn publications(&self) -> usize {
        self.publications.len()
    }

    /// Subscriptions now hosted.
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
        while let Some(&Reverse((at, key))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(hosted) = self.transports.get_mut(key) else { continue };
            hosted.scheduled = None;
            self.serving = Some(Serving { key, stage: Stage::Timer });
            if hosted.closes_at.is_some_and(|due| due <= now) {
                self.close_now(now, key, out);
                continue;
            }
            if hosted.transport.deadline().is_some_and(|due| due <= now) {
                hosted.transport.on_deadline(now);
            }
            self.after_transport(now, key, out);
        }
        self.serve_waiting(now, out);
        if self.clock.nacks.is_some_and(|due| due <= now) {
            self.ask_for_missing(now, out);
        }
        if !self.publications.is_empty() && now >= self.clock.tick {
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
                let Some(key) = self.transport_key(transport) else { return };
                self.transports[key].transport.set_dtls_role(now, role);
                self.transports[key].transport.set_fingerprint(now, fingerprint);
                self.after_transport(now, key, out);
            }
            Command::SetRemoteCredentials { transport, remote } => {
                let Some(key) = self.transport_key(transport) else { return };
                self.transports[key].transport.set_remote_credentials(now, remote);
                self.after_transport(now, key, out);
            }
            Command::RestartIce { transport, local } => self.restart_ice(transport, local),
            Command::CloseTransport { transport, after } => {
                let Some(key) = self.transport_key(transport) else { return };
                match self.transports[key].downlink.cipher.is_some() && !after.is_zero() {
                    true => self.close_later(key, now + after),
                    false => self.close_now(now, key, out),
                }
            }
            Command::Publish { publication, transport, section } => self.publish(publication, transport, section),
            Command::SetMuted { publication, muted } => self.set_muted(publication, muted),
            Command::Unpublish { publication } => match self.publication_keys.get(&publication) {
                Some(&key) => self.remove_publication(key),
                None => self.stats.count(Discard::StaleCommand),
            },
            Command::Subscribe { subscription, publication, transport, section } => {
                self.subscribe(now, subscription, publication, transport, section);
            }
            Command::SetSubscription { subscription, paused, layer_max } => {
                self.set_subscription(now, subscription, paused, layer_max);
            }
            Command::Unsubscribe { subscription } => match self.subscription_keys.get(&subscription) {
                Some(&key) => self.remove_subscription(key),
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
        let Some(key) = self.transport_key(transport) else { return };
        let hosted = &mut self.transports[key];
        hosted.transport.assume_path(path);
        hosted.downlink.path = Some(path);
        hosted.paths.push(path);
        self.paths.insert(path, key);
        self.take_keys(key, keys);
    }

    fn transport_key(&mut self, transport: TransportId) -> Option<TransportKey> {
        let key = self.transport_keys.get(&transport).copied();
        match key {
            Some(key) => self.serves(key, Stage::Command),
            None => self.stats.count(Discard::StaleCommand),
        }
        key
    }

    /// Time for the absolute send time extension: seconds modulo 64 as 6.18 fixed point.
    fn send_time(&self, now: Instant) -> u32 {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        (((micros << 18) / 1_000_000) & 0xff_ffff) as u32
    }
}
