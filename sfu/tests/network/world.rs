//! Server, links and clients, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use sfu::command::{Command, PublicationId};

use super::link::{Fate, Link, LinkConfig};
use super::picture::Picture;
use super::publisher::{AUDIO_INTERVAL, Publisher};
use super::server::{Clear, Server};
use super::viewer::{TICK, Viewer};
use crate::media::Rtp;

/// UDP and IPv4, which a link carries too.
const HEADERS: usize = 28;
const PUBLISHER: u64 = 1;
const CAMERA: PublicationId = PublicationId(1);
const MICROPHONE: PublicationId = PublicationId(2);

/// What happens at a time.
enum Happening {
    Capture,
    Speak,
    /// A packet leaves its publisher.
    Leave(Rtp),
    /// The publisher looks for reports that are due.
    PublisherTick,
    ViewerTick(usize),
    Show(usize),
    AtServer(u64, Vec<u8>),
    /// In clear, with its bytes as it was sealed.
    AtClient(u64, Clear, usize),
}

struct Entry {
    at: Duration,
    /// Of two at one time the first that was planned is first.
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The links of a client, as indices: several clients may share one.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    pub up: usize,
    pub down: usize,
}

pub struct Seat {
    client: u64,
    access: Access,
    pub viewer: Viewer,
    /// Pictures of the packets that the server sent it, repeats left out.
    pub sent: Vec<(Duration, Picture)>,
    /// When it looks for frames to show next.
    shows_at: Option<Duration>,
}

/// One publisher, and viewers.
pub struct World {
    pub now: Duration,
    pub seed: u64,
    pub server: Server,
    pub links: Vec<Link>,
    pub publisher: Publisher,
    publisher_access: Access,
    pub seats: Vec<Seat>,
    queue: BinaryHeap<Reverse<Entry>>,
    planned: u64,
    /// A hash of each datagram, with when and where it was: two equal runs have equal traces.
    pub trace: Vec<u64>,
}

impl World {
    /// With a publisher behind these links.
    pub fn new(seed: u64, up: LinkConfig, down: LinkConfig) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            seed,
            server: Server::new(seed),
            links: Vec::new(),
            publisher: Publisher::new(seed ^ 0x5eed),
            publisher_access: Access { up: 0, down: 1 },
            seats: Vec::new(),
            queue: BinaryHeap::new(),
            planned: 0,
            trace: Vec::new(),
        };
        world.publisher_access = Access { up: world.link(up), down: world.link(down) };
        world.server.join(Duration::ZERO, PUBLISHER);
        world.server.publish(Duration::ZERO, PUBLISHER, CAMERA, MICROPHONE);
        world.plan(Duration::ZERO, Happening::Capture);
        world.plan(Duration::ZERO, Happening::Speak);
        world.plan(Duration::ZERO, Happening::PublisherTick);
        world
    }

    pub fn link(&mut self, config: LinkConfig) -> usize {
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.links.len() as u64);
        self.links.push(Link::new(config, seed));
        self.links.len() - 1
    }

    /// A viewer behind links of its own joins now.
    pub fn view(&mut self, up: LinkConfig, down: LinkConfig) -> usize {
        let access = Access { up: self.link(up), down: self.link(down) };
        self.view_by(access)
    }

    /// A viewer behind these links joins now.
    pub fn view_by(&mut self, access: Access) -> usize {
        let client = 10 + self.seats.len() as u64;
        self.server.join(self.now, client);
        let streams = self.server.subscribe(self.now, client, CAMERA, MICROPHONE);
        self.seats.push(Seat {
            client,
            access,
            viewer: Viewer::new(self.now, streams),
            sent: Vec::new(),
            shows_at: None,
        });
        self.plan(self.now, Happening::ViewerTick(self.seats.len() - 1));
        self.seats.len() - 1
    }

    /// The highest layer that a viewer wants.
    pub fn limit(&mut self, seat: usize, layer_max: u8) {
        let subscription = Server::subscription(self.seats[seat].client, CAMERA);
        self.server.command(self.now, Command::SetSubscription { subscription, paused: false, layer_max });
    }

    /// The link to a viewer.
    pub fn downlink(&self, seat: usize) -> &Link {
        &self.links[self.seats[seat].access.down]
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            while self.queue.peek().is_some_and(|Reverse(entry)| entry.at <= self.now) {
                let Some(Reverse(entry)) = self.queue.pop() else { break };
                self.happen(entry.what);
            }
            for (client, datagram) in self.server.turn(self.now) {
                self.send_to(client, &datagram);
            }
        }
        self.now = until;
    }

    fn next(&self) -> Option<Duration> {
        let planned = self.queue.peek().map(|Reverse(entry)| entry.at);
        planned.into_iter().chain(self.server.deadline()).min()
    }

    fn plan(&mut self, at: Duration, what: Happening) {
        self.planned += 1;
        self.queue.push(Reverse(Entry { at, order: self.planned, what }));
    }

    /// A datagram of the server's.
    fn send_to(&mut self, client: u64, datagram: &[u8]) {
        let clear = self.server.open(client, datagram);
        let seat = self.seats.iter_mut().find(|seat| seat.client == client);
        let link = seat.as_ref().map_or(self.publisher_access, |seat| seat.access).down;
        if let (Some(seat), Clear::Rtp(packet)) = (seat, &clear) {
            let picture = seat.viewer.picture_of(packet);
            seat.sent.extend(picture.map(|picture| (self.now, picture)));
        }
        self.carry(link, client, datagram, Happening::AtClient(client, clear, datagram.len()));
    }

    /// A datagram of a client's.
    fn send_to_server(&mut self, link: usize, client: u64, datagram: Vec<u8>) {
        let what = Happening::AtServer(client, datagram.clone());
        self.carry(link, client, &datagram, what);
    }

    /// Puts a datagram on a link, and plans its arrival.
    fn carry(&mut self, link: usize, client: u64, datagram: &[u8], what: Happening) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u128(self.now.as_nanos());
        hasher.write_u64(client);
        hasher.write_usize(link);
        hasher.write(datagram);
        self.trace.push(hasher.finish());
        if let Fate::Arrives(at) = self.links[link].send(self.now, datagram.len() + HEADERS) {
            self.plan(at, what);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Capture => {
                let leaving = self.publisher.capture(self.now);
                leaving.into_iter().for_each(|(at, packet)| self.plan(at, Happening::Leave(packet)));
                self.plan(self.publisher.next_capture(), Happening::Capture);
            }
            Happening::Speak => {
                let packet = self.publisher.speak(self.now);
                self.leave(packet);
                self.plan(self.now + AUDIO_INTERVAL, Happening::Speak);
            }
            Happening::Leave(packet) => self.leave(packet),
            Happening::PublisherTick => {
                if let Some(report) = self.publisher.reports(self.now) {
                    let sealed = self.server.seal_rtcp(PUBLISHER, &report);
                    self.send_to_server(self.publisher_access.up, PUBLISHER, sealed);
                }
                self.plan(self.now + TICK, Happening::PublisherTick);
            }
            Happening::ViewerTick(seat) => {
                self.seats[seat].viewer.on_tick(self.now);
                self.plan_show(seat);
                self.send_rtcp_of(seat);
                self.plan(self.now + TICK, Happening::ViewerTick(seat));
            }
            // Unless it was planned anew since, for an earlier time.
            Happening::Show(seat) if self.seats[seat].shows_at == Some(self.now) => {
                self.seats[seat].shows_at = None;
                self.seats[seat].viewer.show(self.now);
                self.plan_show(seat);
            }
            Happening::Show(_) => {}
            Happening::AtServer(client, datagram) => self.server.receive(self.now, client, datagram),
            Happening::AtClient(client, clear, bytes) => self.arrive(client, &clear, bytes + HEADERS),
        }
    }

    /// Plans when a viewer shows its next frame, as far as that is known.
    fn plan_show(&mut self, seat: usize) {
        let Seat { viewer, shows_at, .. } = &mut self.seats[seat];
        let Some(at) = viewer.next_show().filter(|at| shows_at.is_none_or(|planned| *at < planned)) else { return };
        *shows_at = Some(at);
        self.plan(at, Happening::Show(seat));
    }

    fn leave(&mut self, mut packet: Rtp) {
        self.publisher.number(&mut packet);
        let sealed = self.server.seal_rtp(PUBLISHER, &packet);
        self.send_to_server(self.publisher_access.up, PUBLISHER, sealed);
    }

    fn arrive(&mut self, client: u64, clear: &Clear, bytes: usize) {
        let seat = self.seats.iter().position(|seat| seat.client == client);
        match (seat, clear) {
            (Some(seat), Clear::Rtp(packet)) => {
                self.seats[seat].viewer.on_rtp(self.now, packet, bytes);
                self.plan_show(seat);
                self.send_rtcp_of(seat);
            }
            (Some(seat), Clear::Rtcp(packet)) => self.seats[seat].viewer.on_rtcp(self.now, packet),
            (None, Clear::Rtcp(packet)) => {
                let leaving = self.publisher.on_rtcp(self.now, packet);
                leaving.into_iter().for_each(|(at, packet)| self.plan(at, Happening::Leave(packet)));
            }
            (None, Clear::Rtp(packet)) => panic!("media to a publisher: {packet:?}"),
        }
    }

    fn send_rtcp_of(&mut self, seat: usize) {
        let Seat { client, access, viewer, .. } = &mut self.seats[seat];
        let (client, up) = (*client, access.up);
        for packet in viewer.take_rtcp() {
            let sealed = self.server.seal_rtcp(client, &packet);
            self.send_to_server(up, client, sealed);
        }
    }
}
