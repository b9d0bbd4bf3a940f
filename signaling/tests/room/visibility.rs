//! Who is told of whom, who hears whom, and whose media goes to whom, by the rules of docs/livekit.md 7.3 to 7.10. They
//! are written down here once more: what the room thinks of it is not asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use livekit_protocol as proto;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::{Command, PublicationId, SubscriptionId, TransportId};
use signaling::join::Mode;

use crate::deltas::{GHOST, Step, identity, microphone, publishing, step, take};
use crate::sdp::Offer;
use crate::world::{Client, World, join, ms, s};

/// How far updates about a participant go. A participant is told of the others whose updates go at least as far as to
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// To everybody.
    All,
    /// To those who came while the room was small, and those who publish.
    Early,
    /// To those who publish.
    Publishers,
}

#[derive(Debug, Clone)]
struct Member {
    sid: String,
    /// Who is told of it.
    known: Reach,
    /// Which of these it is one of.
    hears: Reach,
    hidden: bool,
    may_subscribe: bool,
    may_say: bool,
    /// It lets nobody subscribe.
    refuses: bool,
    /// It has sent data, before which some were told of it. Data of a hidden one has its sid (6.2), which this model
    /// allows: nobody is told whose sid that is, and whoever looks it up in what was told finds nobody.
    has_said: bool,
    connected: bool,
    listening: bool,
}

#[derive(Debug, Clone, Default)]
struct Rules {
    threshold: usize,
    members: BTreeMap<String, Member>,
}

impl Rules {
    fn is_told(&self, who: &str, of: &str) -> bool {
        let (whom, other) = (&self.members[who], &self.members[of]);
        who == of || !other.hidden && other.known <= whom.hears
    }

    /// The tracks of `of`, and how loud it is.
    fn may_have(&self, who: &str, of: &str) -> bool {
        let (Some(whom), Some(other)) = (self.members.get(who), self.members.get(of)) else { return false };
        who != of && whom.may_subscribe && !other.hidden && !other.refuses
    }

    fn join(&mut self, who: &str, hidden: bool) {
        let before = self.members.remove(who).map(|member| member.known);
        self.shrink();
        let is_large = self.threshold > 0 && self.members.len() >= self.threshold;
        let known = match before {
            Some(known @ (Reach::All | Reach::Early)) => known,
            Some(Reach::Publishers) | None if is_large => Reach::Publishers,
            Some(Reach::Publishers) | None => Reach::Early,
        };
        let hears = if is_large && known != Reach::Early { Reach::All } else { Reach::Early };
        let member = Member {
            sid: String::new(),
            known,
            hears,
            hidden,
            may_subscribe: true,
            may_say: true,
            refuses: false,
            has_said: false,
            connected: false,
            listening: true,
        };
        self.members.insert(who.to_owned(), member);
    }

    /// A room of half the threshold is a small one.
    fn shrink(&mut self) {
        if self.members.len() <= self.threshold / 2 {
            for member in self.members.values_mut() {
                member.hears = member.hears.max(Reach::Early);
                if !member.hidden {
                    member.known = member.known.min(Reach::Early);
                }
            }
        }
    }

    /// It is made known to all, if there are any who were not told of it.
    fn announce(&mut self, who: &str) {
        let Some(known) = self.members.get(who).filter(|member| !member.hidden).map(|member| member.known) else {
            return;
        };
        if known == Reach::Publishers || self.members.values().any(|other| other.hears < known) {
            self.change(who, |member| member.known = Reach::All);
        }
    }

    fn publish(&mut self, who: &str) {
        self.change(who, |member| (member.known, member.hears) = (Reach::All, Reach::Publishers));
    }

    fn change(&mut self, who: &str, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.members.get_mut(who) {
            change(member);
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Join(who) => self.join(&identity(*who), *who == GHOST),
            Step::Resume(who) => self.change(&identity(*who), |member| member.listening = true),
            Step::LoseSocket(who) => self.change(&identity(*who), |member| member.listening = false),
            Step::Connect(who) => self.change(&identity(*who), |member| member.connected = true),
            Step::Refuse(who, refuses) => self.change(&identity(*who), |member| {
                if member.listening {
                    member.refuses = *refuses;
                }
            }),
            Step::Rename(who, _) => self.announce(&identity(*who)),
            Step::Forbid(who, allowed) => self.permit(&identity(*who), *allowed, false, *who == GHOST && *allowed),
            Step::Hide(who, hidden) => self.permit(&identity(*who), true, true, *hidden),
            Step::Say(who) => {
                if self.members.get(&identity(*who)).is_some_and(|member| member.may_say) {
                    self.change(&identity(*who), |member| member.has_said = true);
                    self.announce(&identity(*who));
                }
            }
            Step::Leave(_) | Step::Publish(_) | Step::Unpublish(_) | Step::Mute(..) | Step::Speak(_) => {}
            Step::RoomMetadata(_) | Step::Pass(_) => {}
        }
    }

    fn permit(&mut self, who: &str, may_subscribe: bool, may_say: bool, hidden: bool) {
        self.change(who, |member| {
            (member.may_subscribe, member.may_say, member.hidden) = (may_subscribe, may_say, hidden);
        });
        self.announce(who);
    }

    /// Who is in the room, and in which session, is the room's to say.
    fn meet(&mut self, world: &World) {
        let before = self.members.len();
        self.members.retain(|who, member| match world.room.session(who) {
            Some(session) => {
                member.sid = session.sid.to_string();
                true
            }
            None => false,
        });
        if self.members.len() < before {
            self.shrink();
        }
    }
}

/// What the worker was told to send to whom.
#[derive(Debug, Default)]
struct Media {
    owners: BTreeMap<TransportId, String>,
    publications: BTreeMap<PublicationId, TransportId>,
    subscriptions: BTreeMap<SubscriptionId, (PublicationId, TransportId)>,
}

impl Media {
    fn apply(&mut self, command: &Command) {
        match *command {
            Command::Publish { publication, transport, .. } => {
                self.publications.insert(publication, transport);
            }
            Command::Unpublish { publication } => {
                self.publications.remove(&publication);
                self.subscriptions.retain(|_, (of, _)| *of != publication);
            }
            Command::Subscribe { subscription, publication, transport, .. } => {
                self.subscriptions.insert(subscription, (publication, transport));
            }
            Command::Unsubscribe { subscription } => {
                self.subscriptions.remove(&subscription);
            }
            Command::CloseTransport { transport, .. } => {
                self.publications.retain(|_, of| *of != transport);
                let publications = &self.publications;
                self.subscriptions.retain(|_, (of, to)| *to != transport && publications.contains_key(of));
            }
            _ => {}
        }
    }

    /// Who is sent whose tracks.
    fn flows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.subscriptions
            .values()
            .map(|(publication, to)| (self.owners[to].as_str(), self.owners[&self.publications[publication]].as_str()))
    }

    fn publishers(&self) -> BTreeSet<&str> {
        self.publications.values().map(|transport| self.owners[transport].as_str()).collect()
    }
}

/// A room with a publisher and a viewer who stay, others who come and go, and what each was told.
struct Scene {
    world: World,
    clients: HashMap<usize, Client>,
    host: Client,
    /// The host until it comes.
    viewer: Client,
    /// Its offers.
    offers: u32,
    rules: Rules,
    media: Media,
    /// Sids by identity, as each client believes them from what it was told.
    beliefs: BTreeMap<String, BTreeMap<String, String>>,
}

/// A client that has room for the tracks of all.
fn watching() -> Offer {
    Offer::default().receiving_audio(8).application()
}

impl Scene {
    /// `starters`: who is there when the viewer comes, and whether it publishes.
    fn new(threshold: u32, starters: &[bool]) -> Self {
        let mut world = World::with(|config, _| config.audience_threshold = threshold);
        let rules = Rules { threshold: threshold as usize, ..Rules::default() };
        let host = world.join(join("host", Mode::V1));
        let (media, beliefs) = (Media::default(), BTreeMap::new());
        let mut scene =
            Self { world, clients: HashMap::new(), viewer: host.clone(), host, offers: 0, rules, media, beliefs };
        scene.rules.join("host", false);
        scene.enter("host");
        scene.world.request(&scene.host, Request::AddTrack(microphone()));
        scene.world.offer(&scene.host, 1, &publishing());
        scene.rules.publish("host");
        scene.settle();
        for (who, publishes) in starters.iter().enumerate() {
            scene.take(&Step::Join(who));
            scene.take(&Step::Connect(who));
            if *publishes {
                scene.take(&Step::Publish(who));
            }
        }
        scene.viewer = scene.world.join(join("viewer", Mode::V1));
        scene.rules.join("viewer", false);
        scene.enter("viewer");
        scene.settle();
        scene
    }

    fn enter(&mut self, who: &str) {
        let client = if who == "host" { &self.host } else { &self.viewer };
        self.world.connect(client);
        self.rules.change(who, |member| member.connected = true);
    }

    fn take(&mut self, step: &Step) {
        take(&mut self.world, &mut self.clients, step);
        let before = self.rules.clone();
        self.rules.apply(step);
        for client in self.clients.values() {
            self.world.answer(client);
        }
        self.negotiate();
        let speaks = if let Step::Speak(who) = step { Some(identity(*who)) } else { None };
        self.settle_after(&before, speaks.as_deref());
    }

    /// The viewer has its sections filled.
    fn negotiate(&mut self) {
        if self.viewer != self.host {
            self.offers += 1;
            self.world.offer(&self.viewer, self.offers, &watching());
        }
    }

    fn settle(&mut self) {
        let before = self.rules.clone();
        self.settle_after(&before, None);
    }

    /// Compares what came of a step with the rules. `speaks`: who has just become loud, if it publishes.
    fn settle_after(&mut self, before: &Rules, speaks: Option<&str>) {
        self.rules.meet(&self.world);
        for who in self.rules.members.keys() {
            let session = self.world.room.session(who).unwrap();
            let transports = session.transports().map(|transport| (transport.id, who.clone()));
            self.media.owners.extend(transports.collect::<Vec<_>>());
        }
        for command in std::mem::take(&mut self.world.commands) {
            self.media.apply(&command);
            if let Command::Publish { transport, .. } = command {
                let owner = self.media.owners[&transport].clone();
                self.rules.publish(&owner);
            }
        }
        for (to, of) in self.media.flows() {
            assert!(self.rules.may_have(to, of), "{to} is sent tracks of {of}: {:?}", self.rules);
        }
        let mut told = BTreeSet::new();
        for client in self.present() {
            let messages = self.world.take(&client);
            believe(self.beliefs.entry(client.identity.clone()).or_default(), &messages);
            for sid in speakers(&messages) {
                let of = [&self.rules, before].into_iter().find_map(|rules| Some((rules, rules.identity_of(&sid)?)));
                let (rules, of) = of.expect("a speaker that nobody knows");
                let to = client.identity.as_str();
                assert!(to == of || rules.may_have(to, &of), "{to} is told that {of} speaks: {rules:?}");
                told.insert((client.identity.clone(), of));
            }
        }
        let Some(speaks) = speaks.filter(|who| self.media.publishers().contains(who)) else { return };
        for client in self.present() {
            let to = &client.identity;
            let hears = to == speaks || self.rules.members[to].connected && self.rules.may_have(to, speaks);
            assert!(!hears || told.contains(&(to.clone(), speaks.to_owned())), "{to} is not told that {speaks} speaks");
        }
    }

    /// Who is here and has a socket.
    fn present(&self) -> Vec<Client> {
        let all = self.clients.values().chain([&self.host]).chain((self.viewer != self.host).then_some(&self.viewer));
        let listens = |client: &&Client| {
            let member = self.rules.members.get(&client.identity);
            member.is_some_and(|member| member.listening) && !self.world.closed.contains(&client.connection)
        };
        all.filter(listens).cloned().collect()
    }

    /// Everybody believes what the rules say, and the viewer has all tracks that it may have.
    fn compare(&mut self) {
        // Whoever did not connect is gone by then, and all batches are sent.
        self.world.pass(s(100));
        self.settle();
        self.negotiate();
        self.world.pass(ms(300));
        self.settle();
        for client in self.present() {
            let who = client.identity.as_str();
            let beliefs = &self.beliefs[who];
            for (of, member) in &self.rules.members {
                let is_told = self.rules.is_told(who, of);
                let may_be_told = is_told || !member.hidden && member.has_said;
                let believed = beliefs.get(of);
                assert!(believed.is_some() || !is_told, "{who} is not told of {of}: {:?}", self.rules);
                assert!(believed.is_none() || may_be_told, "{who} is told of {of}: {:?}", self.rules);
                assert!(believed.is_none_or(|sid| *sid == member.sid), "{who} knows an earlier session of {of}");
            }
            let gone: Vec<_> = beliefs.keys().filter(|of| !self.rules.members.contains_key(*of)).collect();
            assert!(gone.is_empty(), "{who} is not told that they are gone: {gone:?}");
        }
        let had: BTreeSet<_> = self.media.flows().filter(|(to, _)| *to == "viewer").map(|(_, of)| of).collect();
        let may_have = |of: &&str| self.rules.may_have("viewer", of);
        assert_eq!(had, self.media.publishers().into_iter().filter(may_have).collect(), "{:?}", self.rules);
    }
}

impl Rules {
    fn identity_of(&self, sid: &str) -> Option<String> {
        self.members.iter().find(|(_, member)| member.sid == sid).map(|(who, _)| who.clone())
    }
}

fn speakers(messages: &[Response]) -> Vec<String> {
    let changes =
        messages.iter().filter_map(|m| if let Response::SpeakersChanged(changed) = m { Some(changed) } else { None });
    changes.flat_map(|changed| &changed.speakers).map(|speaker| speaker.sid.clone()).collect()
}

fn believe(beliefs: &mut BTreeMap<String, String>, messages: &[Response]) {
    for message in messages {
        let infos = match message {
            Response::Join(join) => {
                beliefs.clear();
                &join.other_participants
            }
            Response::Update(update) => &update.participants,
            _ => continue,
        };
        for info in infos {
            if info.state() != State::Disconnected {
                beliefs.insert(info.identity.clone(), info.sid.clone());
            } else if beliefs.get(&info.identity) == Some(&info.sid) {
                beliefs.remove(&info.identity);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Everybody is told of those whom the rules say, and of nobody else; so with speakers and media. `stays`: who
    /// remains of the others when the room becomes small, if it does.
    #[test]
    fn clients_believe_what_is(
        threshold in prop_oneof![0..7u32, Just(6)],
        starters in prop_oneof![vec(any::<bool>(), 0..=GHOST + 1), vec(any::<bool>(), GHOST + 1)],
        steps in vec(step(), 1..60),
        stays in option::of(0..=GHOST),
    ) {
        let mut scene = Scene::new(threshold, &starters);
        for step in &steps {
            scene.take(step);
        }
        if let Some(stays) = stays {
            for who in (0..=GHOST).filter(|who| *who != stays) {
                scene.take(&Step::Leave(who));
            }
        }
        scene.compare();
    }
}
