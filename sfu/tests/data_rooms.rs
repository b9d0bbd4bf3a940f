//! Clients that send data faster than their room takes it, and clients that take it slowly: one engine in virtual time,
//! with a room that forwards everything at a pace of its own.

mod media;
mod support;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::{ROOM, Wire, address};
use sfu::certificate::Certificate;
use sfu::command::*;
use sfu::demux::Discard;
use sfu::engine::{Engine, EngineConfig};
use sfu::ice;
use sfu::run::SendArena;
use sfu::transport::{Path, TransportOutput, Via};
use support::{Client, nomination};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// One way, in the virtual network.
const DELAY: Duration = Duration::from_millis(10);
/// What waits for a link of a certain rate at most.
const LINK_QUEUE_MAX: Duration = Duration::from_millis(500);
/// Streams of every client.
const LOSSY: u16 = 0;
const RELIABLE: u16 = 2;
/// Bits a second.
const THRESHOLD: u32 = 64_000;

struct Member {
    client: Client,
    local: IceCredentials,
    address: SocketAddr,
    next_check: Instant,
    /// What its link carries of the server's datagrams, in bits a second; as much as comes if `None`.
    link_bps: Option<u32>,
    link_free: Instant,
}

impl Member {
    /// When its link has carried a datagram of so many bytes; `None`: its queue has no room.
    fn carry(&mut self, now: Instant, length: usize) -> Option<Instant> {
        let Some(bps) = self.link_bps else { return Some(now) };
        let start = self.link_free.max(now);
        if start - now > LINK_QUEUE_MAX {
            return None;
        }
        self.link_free = start + Duration::from_secs_f64(length as f64 * 8.0 / f64::from(bps));
        Some(self.link_free)
    }

    /// Numbers of the messages that it has had on a stream.
    fn numbers(&self, stream: u16) -> Vec<u32> {
        let messages = self.client.seen.messages.iter().filter(|(id, _)| *id == stream);
        messages.map(|(_, payload)| u32::from_be_bytes(payload[..4].try_into().expect("numbered"))).collect()
    }
}

/// An engine, its clients and their room.
struct World {
    now: Instant,
    engine: Engine,
    out: SendArena<Wire>,
    members: Vec<Member>,
    to_server: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    to_clients: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    /// What the room has not taken.
    events: VecDeque<(TransportId, DataChannel, Bytes)>,
    /// Messages that the room takes in a millisecond.
    pace: usize,
    /// Further members of the room, who are not connected.
    crowd: Vec<TransportId>,
    /// Most messages that waited for the room at a time.
    most: usize,
}

fn transport(member: usize) -> TransportId {
    TransportId(member as u64 + 1)
}

fn numbered(number: u32, length: usize) -> Vec<u8> {
    let mut payload = vec![0; length];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

impl World {
    /// Clients with open channels, and a room that takes so many messages in a millisecond.
    fn new(members: usize, pace: usize) -> Self {
        Self::in_rooms(members, pace, |_| ROOM)
    }

    /// The same, each client in a room of its own choice.
    fn in_rooms(members: usize, pace: usize, room: impl Fn(usize) -> RoomId) -> Self {
        let certificate = Certificate::generate();
        let config = EngineConfig { datachannel_slow_threshold: THRESHOLD, ..EngineConfig::default() };
        let clients: Vec<Client> = (0..members).map(|member| Client::robust(member as u64)).collect();
        let now = support::epoch();
        let mut world = Self {
            now,
            engine: Engine::new(certificate, config, 1, now),
            out: SendArena::new(Wire::default()),
            members: Vec::new(),
            to_server: VecDeque::new(),
            to_clients: VecDeque::new(),
            events: VecDeque::new(),
            pace,
            crowd: Vec::new(),
            most: 0,
        };
        for (member, mut client) in clients.into_iter().enumerate() {
            let (transport, local, opener) = (transport(member), ice::new_credentials(0), ChannelOpener::Client);
            let room = room(member);
            world.command(Command::OpenTransport { transport, room, local: local.clone(), opener });
            let (fingerprint, role) = (client.fingerprint, DtlsRole::Server);
            world.command(Command::SetFingerprint { transport, fingerprint, role });
            client.progress(now);
            let address = address(member as u64);
            let member = Member { client, local, address, next_check: now, link_bps: None, link_free: now };
            world.members.push(member);
        }
        assert!(world.run_until(5 * SECOND, |world| world.members.iter().all(|one| one.client.seen.sctp_connected)));
        for Member { client, .. } in &mut world.members {
            use rtc_datachannel::message::message_channel_open::ChannelType;
            client.open(world.now, LOSSY, "_lossy", ChannelType::PartialReliableRexmitUnordered);
            client.open(world.now, RELIABLE, "_reliable", ChannelType::Reliable);
        }
        let is_open = |member: &Member| member.client.seen.acknowledged.len() == 2;
        assert!(world.run_until(5 * SECOND, |world| world.members.iter().all(is_open)));
        world
    }

    fn command(&mut self, command: Command) {
        self.engine.handle(self.now, command, &mut self.out);
    }

    fn send(&mut self, member: usize, stream: u16, numbers: std::ops::Range<u32>, length: usize) {
        for number in numbers {
            self.members[member].client.send(self.now, stream, &numbered(number, length));
        }
    }

    /// Lets time pass until `done`, at most for `limit`; says whether it was done.
    fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.deliver();
            self.take_turn();
            self.exchange();
            if done(self) {
                return true;
            }
            if self.now >= end {
                return false;
            }
            self.now = self.next_event().min(end);
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn next_event(&self) -> Instant {
        let arrivals = self.to_server.front().into_iter().chain(self.to_clients.front()).map(|(at, ..)| *at);
        let deadlines = self.members.iter().flat_map(|one| one.client.deadline().into_iter().chain([one.next_check]));
        let room = (self.pace > 0 && !self.events.is_empty()).then(|| self.now + MS);
        let next = arrivals.chain(deadlines).chain(self.engine.deadline()).chain(room).min();
        // A deadline that is not met must not stop the clock.
        next.unwrap_or(self.now + SECOND).max(self.now + MS)
    }

    fn deliver(&mut self) {
        while let Some((_, remote, mut datagram)) = self.to_server.pop_front_if(|(at, ..)| *at <= self.now) {
            self.engine.receive(self.now, Path { remote, via: Via::Udp(0) }, &mut datagram, &mut self.out);
        }
        while let Some((_, to, datagram)) = self.to_clients.pop_front_if(|(at, ..)| *at <= self.now) {
            let member = self.members.iter_mut().find(|member| member.address == to).expect("a member");
            if datagram.first().is_some_and(|byte| (20..=63).contains(byte)) {
                member.client.receive(self.now, &datagram);
            }
        }
        for member in &mut self.members {
            if member.client.deadline().is_some_and(|deadline| deadline <= self.now) {
                member.client.on_deadline(self.now);
            }
            if member.next_check <= self.now {
                member.next_check = self.now + SECOND;
                let mut check = nomination(&member.local);
                let from = Path { remote: member.address, via: Via::Udp(0) };
                self.engine.receive(self.now, from, &mut check, &mut self.out);
            }
        }
        self.engine.expire(self.now, &mut self.out);
    }

    /// The room takes what it can, and sends it to all but its sender.
    fn take_turn(&mut self) {
        self.collect();
        for _ in 0..self.pace {
            let Some((from, channel, payload)) = self.events.pop_front() else { break };
            let others = (0..self.members.len()).map(transport).filter(|other| *other != from);
            let transports = others.chain(self.crowd.iter().copied()).collect();
            let bytes = payload.len();
            self.command(Command::SendData { from: Some(from), transports, channel, payload });
            self.command(Command::DataTaken { room: ROOM, transport: from, channel, messages: 1, bytes });
        }
        self.engine.expire(self.now, &mut self.out);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some((_, event)) = self.engine.poll_event() {
            if let Event::Data { transport, channel, payload } = event {
                self.events.push_back((transport, channel, payload));
            }
        }
        self.most = self.most.max(self.events.len());
    }

    /// Puts what all sides have to send on its way.
    fn exchange(&mut self) {
        self.out.flush();
        for (to, datagram) in std::mem::take(&mut self.out.transmitter().datagrams) {
            let member = self.members.iter_mut().find(|member| member.address == to).expect("a member");
            if let Some(carried) = member.carry(self.now, datagram.len()) {
                self.to_clients.push_back((carried + DELAY, to, datagram));
            }
        }
        for member in &mut self.members {
            let outgoing = std::mem::take(&mut member.client.outgoing);
            let sent = outgoing.into_iter().map(|datagram| (self.now + DELAY, member.address, datagram));
            self.to_server.extend(sent);
        }
        // Links differ in how long they take.
        self.to_clients.make_contiguous().sort_by_key(|(at, ..)| *at);
    }

    fn backlog(&self) -> usize {
        self.events.len()
    }
}

/// How long the last of a flood of so many messages of a kilobyte takes to the second member.
fn time_of(world: &mut World, count: u32) -> Duration {
    let start = world.now;
    world.send(0, RELIABLE, 0..count, 1_000);
    let arrived = |world: &World| world.members[1].numbers(RELIABLE).len() == count as usize;
    assert!(world.run_until(60 * SECOND, arrived));
    world.now - start
}

#[test]
fn a_client_that_is_faster_than_its_room_waits_and_loses_nothing() {
    const COUNT: u32 = 3_000;
    // Two messages in a millisecond are 16 Mbit/s; the client would send six times that.
    let mut world = World::new(2, 2);
    let time = time_of(&mut world, COUNT);
    assert_eq!(world.members[1].numbers(RELIABLE), (0..COUNT).collect::<Vec<_>>());
    assert!(world.most <= 256, "{} waited", world.most);
    // The room was never without work: no pause follows from the window that closes and opens.
    assert!(time < Duration::from_millis(u64::from(COUNT) / 2 * 12 / 10), "{time:?}");
    assert_eq!(world.engine.stats.data_overflow, 0);
}

#[test]
fn a_client_whose_room_stands_still_is_held_little_of_and_goes_on_with_it() {
    const COUNT: u32 = 20_000;
    for length in [4, 200, 60_000] {
        let count = COUNT.min(4_000_000 / length as u32);
        let mut world = World::new(2, 0);
        world.send(0, RELIABLE, 0..count, length);
        world.run_for(20 * SECOND);
        let bytes: usize = world.events.iter().map(|(.., payload)| payload.len()).sum();
        assert!(world.backlog() <= 256 && bytes < 256 * 1024 + 65_536, "{} of {length}: {bytes}", world.backlog());
        world.pace = 50;
        let arrived = |world: &World| world.members[1].numbers(RELIABLE).len() == count as usize;
        assert!(world.run_until(30 * SECOND, arrived), "{length}: {}", world.members[1].numbers(RELIABLE).len());
        assert_eq!(world.members[1].numbers(RELIABLE), (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn a_client_that_waits_hears_at_once_that_its_window_has_opened() {
    let mut world = support::World::connected(ChannelOpener::Client, 1);
    world.takes_data = false;
    for number in 0..1_000 {
        world.client.send(world.now, RELIABLE, &numbered(number, 1_000));
    }
    // Less than after which a client sends again what was not acknowledged; with a packet each 20 ms it would fill a
    // window three times.
    world.run_for(900 * MS);
    let mut waiting = 0;
    while world.transport.take_reliable(world.now).is_some() {
        waiting += 1;
    }
    assert!((200..300).contains(&waiting), "{waiting}");
    world.takes_data = true;
    let data = |world: &support::World| {
        world.outputs.iter().filter(|output| matches!(output, TransportOutput::Data(DataChannel::Reliable, _))).count()
    };
    // The rest is three windows, of a round trip of 20 ms each; an acknowledgement that is held back takes 200 ms.
    assert!(world.run_until(150 * MS, |world| data(world) + waiting == 1_000), "{waiting} and {}", data(&world));
    assert_eq!(world.transport.take_data_discards().total(), 0);
}

#[test]
fn a_client_with_little_to_say_does_not_wait_for_those_who_flood_their_room() {
    let mut world = World::new(6, 1);
    for flooder in 0..4 {
        world.send(flooder, RELIABLE, 0..2_000, 1_000);
    }
    world.run_for(SECOND);
    assert!(world.most <= 1_024, "{} waited", world.most);
    let start = world.now;
    world.send(4, RELIABLE, 77_777..77_778, 100);
    assert!(world.run_until(10 * SECOND, |world| world.members[5].numbers(RELIABLE).contains(&77_777)));
    // Behind what the room had been given, and no more.
    assert!(world.now - start < Duration::from_millis(1_300), "{:?}", world.now - start);
}

#[test]
fn those_who_flood_their_room_share_it() {
    let mut world = World::new(6, 4);
    for flooder in 0..5 {
        world.send(flooder, RELIABLE, 0..2_000, 1_000);
    }
    world.run_for(SECOND);
    let before = world.engine.stats.data_received;
    let mut given = [0; 5];
    for _ in 0..2_000 {
        world.run_for(MS);
        if let Some((from, ..)) = world.events.front() {
            given[from.0 as usize - 1] += 1;
        }
        if world.engine.stats.data_received - before > 4_000 {
            break;
        }
    }
    let (least, most) = (given.iter().min().unwrap(), given.iter().max().unwrap());
    assert!(*least * 2 > *most, "{given:?}");
}

#[test]
fn lossy_messages_beyond_what_a_room_takes_are_dropped_and_counted_and_reliable_ones_are_not() {
    let mut world = World::new(2, 0);
    world.send(0, LOSSY, 0..2_000, 100);
    world.run_for(5 * SECOND);
    assert!(world.backlog() <= 256, "{}", world.backlog());
    let dropped = world.engine.stats.data_overflow;
    assert!(dropped > 0);
    assert_eq!(world.engine.stats.data_received, 2_000);
    assert_eq!(world.backlog() as u64 + dropped, 2_000);
    world.send(0, RELIABLE, 0..100, 100);
    world.run_for(SECOND);
    world.pace = 10;
    assert!(world.run_until(10 * SECOND, |world| world.members[1].numbers(RELIABLE).len() == 100));
    assert_eq!(world.engine.stats.data_overflow, dropped);
}

#[test]
fn late_news_of_a_closed_room_change_nothing() {
    let mut world = World::new(1, 0);
    world.send(0, RELIABLE, 0..1_000, 1_000);
    world.run_for(SECOND);
    assert!(world.backlog() > 200);
    world.command(Command::CloseRoom { room: ROOM });
    // Late news of a room that is no more.
    let (transport, channel) = (transport(0), DataChannel::Reliable);
    world.command(Command::DataTaken { room: ROOM, transport, channel, messages: 9_000, bytes: 1 << 40 });
    world.run_for(SECOND);
    assert_eq!(world.engine.transports(), 0);
}

/// A worker has 16,384 messages at a time that its rooms have not taken, and 256 of one client.
#[test]
fn what_closed_rooms_had_not_taken_takes_nothing_from_others() {
    const CLOSED: usize = 65;
    let room = |member: usize| RoomId(1_000 + member as u64);
    let mut world = World::in_rooms(CLOSED + 1, 0, room);
    for member in 0..CLOSED {
        world.send(member, RELIABLE, 0..300, 4);
    }
    world.run_for(SECOND);
    assert!(world.backlog() > 16_000, "{}", world.backlog());
    for member in 0..CLOSED {
        world.command(Command::CloseRoom { room: room(member) });
    }
    assert_eq!(world.engine.transports(), 1);
    world.events.clear();
    world.send(CLOSED, RELIABLE, 0..100, 4);
    world.run_for(SECOND);
    assert_eq!(world.backlog(), 100);
}

#[test]
fn a_room_that_has_taken_all_is_given_as_much_again_at_once() {
    let mut world = World::new(1, 0);
    world.send(0, RELIABLE, 0..1_000, 100);
    world.run_for(SECOND);
    let taken = std::mem::take(&mut world.events);
    assert!(taken.len() > 200, "{}", taken.len());
    let (channel, bytes) = (DataChannel::Reliable, taken.iter().map(|(.., payload)| payload.len()).sum());
    world.command(Command::DataTaken { room: ROOM, transport: transport(0), channel, messages: taken.len(), bytes });
    world.engine.expire(world.now, &mut world.out);
    world.collect();
    assert_eq!(world.backlog(), taken.len());
}

/// Sixteen of them may have 16 MiB each before there is but one for each.
#[test]
fn what_waited_for_clients_that_are_gone_takes_no_room_from_others() {
    const GONE: usize = 16;
    let mut world = World::new(GONE + 2, 0);
    let payload = Bytes::from(numbered(0, 60_000));
    let fill = |world: &mut World, member: usize| {
        world.members[member].link_bps = Some(1);
        for _ in 0..250 {
            let (channel, payload, transports) = (DataChannel::Reliable, payload.clone(), vec![transport(member)]);
            world.command(Command::SendData { from: None, transports, channel, payload });
        }
        world.engine.stats.data_dropped.full
    };
    assert!((0..GONE).all(|member| fill(&mut world, member) == 0));
    assert!(fill(&mut world, GONE) > 0, "there is room for so many");
    let before = world.engine.stats.data_dropped.full;
    for member in 0..=GONE {
        world.command(Command::CloseTransport { transport: transport(member), after: Duration::ZERO });
    }
    assert_eq!(fill(&mut world, GONE + 1), before);
}

/// A client has sent more than its room takes, and says that it goes.
fn leaving(world: &mut World) {
    world.send(0, RELIABLE, 0..1_000, 200);
    world.run_for(SECOND);
    assert!(world.backlog() > 200);
    world.members[0].client.close(world.now);
}

/// What a client has left is given to its room as far as that takes it; nobody would ask for the rest again.
#[test]
fn what_a_client_leaves_behind_is_given_to_its_room_or_dropped_and_counted() {
    let mut world = World::new(1, 0);
    leaving(&mut world);
    let (given, received) = (world.backlog(), world.engine.stats.data_received);
    world.run_for(100 * MS);
    let stats = &world.engine.stats;
    assert_eq!((stats.ended.closed_by_peer, world.engine.transports()), (1, 0));
    assert_eq!(world.backlog(), given, "the room had all that it takes");
    let dropped = stats.data_overflow;
    assert!(dropped > 200, "{dropped}");
    assert_eq!(stats.data_received, received + dropped);

    // The same, but the room has just taken what it had.
    let mut world = World::new(1, 0);
    leaving(&mut world);
    let taken = std::mem::take(&mut world.events);
    let (channel, bytes) = (DataChannel::Reliable, taken.iter().map(|(.., payload)| payload.len()).sum());
    world.command(Command::DataTaken { room: ROOM, transport: transport(0), channel, messages: taken.len(), bytes });
    let from = Path { remote: world.members[0].address, via: Via::Udp(0) };
    for mut datagram in std::mem::take(&mut world.members[0].client.outgoing) {
        world.engine.receive(world.now, from, &mut datagram, &mut world.out);
    }
    world.collect();
    let stats = &world.engine.stats;
    assert_eq!((stats.ended.closed_by_peer, world.engine.transports()), (1, 0));
    let numbers =
        taken.iter().chain(&world.events).map(|(.., payload)| u32::from_be_bytes(payload[..4].try_into().unwrap()));
    let count = taken.len() + world.backlog();
    assert!(numbers.eq(0..count as u32), "in order and without a gap");
    assert!(world.backlog() > 200, "{}", world.backlog());
    assert_eq!(stats.data_received, count as u64 + stats.data_overflow);
}

#[test]
fn a_fast_client_has_everything_as_soon_beside_slow_ones_which_lose_by_the_threshold_alone() {
    const COUNT: u32 = 2_500;
    let alone = time_of(&mut World::new(2, 4), COUNT);

    // One sends, one takes all that comes, one is slow, and one is below the threshold.
    let mut world = World::new(4, 4);
    world.members[2].link_bps = Some(400_000);
    world.members[3].link_bps = Some(THRESHOLD / 2);
    let beside = time_of(&mut world, COUNT);
    let everything: Vec<u32> = (0..COUNT).collect();
    assert_eq!(world.members[1].numbers(RELIABLE), everything);
    assert!(beside < alone * 11 / 10, "{alone:?} alone, {beside:?} beside slow ones");

    // A second flood, when it is known how fast they are.
    world.send(0, RELIABLE, COUNT..2 * COUNT, 1_000);
    let arrived = |world: &World| world.members[2].numbers(RELIABLE).len() == 2 * COUNT as usize;
    assert!(world.run_until(200 * SECOND, arrived), "{}", world.members[2].numbers(RELIABLE).len());
    assert_eq!(world.members[2].numbers(RELIABLE), (0..2 * COUNT).collect::<Vec<_>>());
    let got = world.members[3].numbers(RELIABLE);
    assert!(got.is_sorted() && got.len() < 2 * COUNT as usize, "{}", got.len());
    assert!(world.engine.stats.data_dropped.slow > 0);
    assert_eq!(world.engine.stats.data_dropped.full, 0);
}

/// As much as may wait for a client, less what a room may have: of the first member's, for the second.
fn fill(world: &mut World) {
    for number in 0..250 {
        let (from, transports) = (Some(transport(0)), vec![transport(1)]);
        let payload = Bytes::from(numbered(number, 60_000));
        world.command(Command::SendData { from, transports, channel: DataChannel::Reliable, payload });
    }
}

#[test]
fn who_sends_to_a_client_that_is_behind_but_fast_enough_waits_and_others_do_not() {
    let mut world = World::new(4, 50);
    world.members[1].link_bps = Some(4_000_000);
    fill(&mut world);
    world.send(0, RELIABLE, 1_000..1_200, 1_000);
    world.send(2, LOSSY, 5_000..5_001, 100);
    world.run_for(500 * MS);
    assert!(world.members[3].numbers(RELIABLE).is_empty());
    assert_eq!(world.members[3].numbers(LOSSY), [5_000]);
    let deadline = world.engine.deadline().expect("it is looked after");
    assert!(deadline > world.now, "and not all the time");
    assert_eq!(world.engine.stats.handshakes_withheld, 0);
    let arrived = |world: &World| world.members[3].numbers(RELIABLE).len() == 200;
    assert!(world.run_until(20 * SECOND, arrived));
    assert_eq!(world.engine.stats.data_dropped.full, 0);
}

#[test]
fn nobody_waits_for_a_client_that_is_below_the_threshold_or_gone() {
    for is_gone in [false, true] {
        let mut world = World::new(3, 50);
        world.members[1].link_bps = Some(THRESHOLD / 4);
        fill(&mut world);
        world.send(0, RELIABLE, 1_000..1_200, 1_000);
        world.run_for(100 * MS);
        assert!(world.members[2].numbers(RELIABLE).is_empty());
        if is_gone {
            world.command(Command::CloseTransport { transport: transport(1), after: Duration::ZERO });
            world.members[1].next_check = world.now + 1_000 * SECOND;
        }
        let arrived = |world: &World| world.members[2].numbers(RELIABLE).len() == 200;
        assert!(world.run_until(3 * SECOND, arrived), "gone: {is_gone}");
    }
}

#[test]
fn a_transport_that_takes_too_much_time_is_slowed_whatever_it_sends_and_loses_nothing() {
    const COUNT: u32 = 50;
    let mut world = World::new(3, 50);
    let refused = |world: &World| world.engine.stats.discards(Discard::OverBudget);
    // The last datagram that arrives is the first member's, and takes a minute.
    let mut check = nomination(&world.members[0].local);
    let from = Path { remote: world.members[0].address, via: Via::Udp(0) };
    world.engine.receive(world.now, from, &mut check, &mut world.out);
    world.engine.charge(world.now, 60 * SECOND);
    assert_eq!(world.engine.stats.budgets_spent, 1);

    world.send(0, RELIABLE, 0..COUNT, 1_000);
    world.send(1, RELIABLE, COUNT..2 * COUNT, 1_000);
    world.run_for(SECOND);
    assert_eq!(world.members[2].numbers(RELIABLE), (COUNT..2 * COUNT).collect::<Vec<_>>(), "the others go on");
    assert!(refused(&world) > 0);

    let has_all = |world: &World| world.members[2].numbers(RELIABLE).len() == 2 * COUNT as usize;
    assert!(world.run_until(30 * SECOND, has_all), "it goes on when it has paid");
    let of_first: Vec<u32> = world.members[2].numbers(RELIABLE).into_iter().filter(|number| *number < COUNT).collect();
    assert_eq!(of_first, (0..COUNT).collect::<Vec<_>>());
}

/// Members of a room in which a message of a kilobyte makes work for 30 ms.
const CROWD: u64 = 2_000;

/// A room of three, and so many more who are not connected yet.
fn crowded(crowd: u64) -> World {
    let mut world = World::new(3, 50);
    for number in 0..crowd {
        let (transport, local, opener) = (TransportId(1_000 + number), ice::new_credentials(0), ChannelOpener::Client);
        world.command(Command::OpenTransport { transport, room: ROOM, local, opener });
        world.crowd.push(transport);
    }
    world
}

#[test]
fn who_makes_much_work_by_lossy_data_loses_what_is_beyond_the_rate_and_no_other_does() {
    let mut world = crowded(CROWD);
    let mut sent = 0;
    for _ in 0..200 {
        world.send(0, LOSSY, sent..sent + 5, 1_000);
        sent += 5;
        world.run_for(50 * MS);
    }
    // Two seconds' worth at once, and ten seconds' from then on.
    let given = world.members[2].numbers(LOSSY).len() as u64;
    assert!((350..450).contains(&given), "{given}");
    assert_eq!(world.engine.stats.data_over_rate, u64::from(sent) - given);
    assert_eq!(world.engine.stats.data_received, u64::from(sent));

    // Others are heard meanwhile, and so is this one when it has paused.
    world.send(1, LOSSY, 7_000..7_003, 1_000);
    world.run_for(3 * SECOND);
    world.send(0, LOSSY, 8_000..8_003, 1_000);
    world.run_for(SECOND);
    let heard = world.members[2].numbers(LOSSY);
    assert!([7_000, 7_001, 7_002, 8_000, 8_001, 8_002].iter().all(|number| heard.contains(number)));
    assert_eq!(world.engine.stats.data_overflow, 0);
}

#[test]
fn who_makes_much_work_by_reliable_data_is_read_at_the_rate_and_loses_nothing() {
    const COUNT: u32 = 300;
    let mut world = crowded(CROWD);
    let start = world.now;
    world.send(0, RELIABLE, 0..COUNT, 1_000);
    world.run_for(SECOND);
    let given = world.members[1].numbers(RELIABLE).len();
    assert!((66..120).contains(&given), "{given} at once");
    world.send(1, RELIABLE, 7_000..7_001, 100);
    assert!(world.run_until(SECOND, |world| world.members[2].numbers(RELIABLE).contains(&7_000)), "another waits too");
    let arrived = |world: &World| world.members[1].numbers(RELIABLE).len() == COUNT as usize;
    assert!(world.run_until(60 * SECOND, arrived));
    let time = world.now - start;
    assert!((6 * SECOND..9 * SECOND).contains(&time), "{time:?}");
    assert_eq!(world.members[1].numbers(RELIABLE), (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn all_who_send_to_a_large_room_have_little_on_the_way_to_it() {
    let mut world = crowded(CROWD);
    world.pace = 0;
    for member in 0..3 {
        world.send(member, RELIABLE, 0..60, 1_000);
    }
    world.run_for(SECOND);
    assert!((60..70).contains(&world.backlog()), "{}", world.backlog());

    world.pace = 50;
    let has_all = |member: &Member| member.numbers(RELIABLE).len() == 120;
    assert!(world.run_until(60 * SECOND, |world| world.members.iter().all(has_all)));
}

#[test]
fn a_room_of_a_hundred_that_tell_each_other_where_they_are_meets_no_rate() {
    let mut world = crowded(100);
    for tick in 0..300 {
        world.send(0, LOSSY, tick..tick + 1, 200);
        world.run_for(16 * MS);
    }
    world.run_for(SECOND);
    assert_eq!(world.members[1].numbers(LOSSY).len(), 300);
    assert_eq!(world.engine.stats.data_over_rate, 0);
}
