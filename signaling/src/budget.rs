//! How much one connection may ask of its room: a token bucket over what its messages cost.
//!
//! A connection whose budget is used up is not read until it has some again, so that TCP slows the client down. One
//! that goes on like this without a pause is closed.
//!
//! A message is paid for when it is read, and with it the fan-out of one change. What it made the room send to others
//! beyond that ([`Fanout`]) is charged afterwards, since only the room knows.

use std::time::{Duration, Instant};

use livekit_protocol::signal_request::Message as Request;

/// What a connection may ask for at once, in bytes. A client that joins a room of 1,000 tracks subscribes to each and
/// sets each up: some 2,000 messages; one that resumes there sends all its lists.
pub const BURST: i64 = 32 << 20;
/// What it may ask for from then on, in bytes per second: ten offers of a hundred sections.
pub const RATE: i64 = 4 << 20;
/// What a message costs beside its bytes, since rooms send what one does to all their members.
pub const MESSAGE_COST: usize = 8 << 10;
/// What a message costs that one participant causes to the others, however many they are. It allows 240 changes at
/// once, more than 64 tracks take to come up, and 30 a second from then on.
pub const FANOUT_MESSAGE_COST: usize = 128 << 10;
/// What each byte of such a message costs: 60 KiB of metadata are 4 changes a second.
pub const FANOUT_BYTE_COST: usize = 16;
/// How long a client may go on asking for more than it may.
pub const ABUSE_TIME: Duration = Duration::from_secs(60);

/// What one connection may still ask for.
#[derive(Debug)]
pub struct Budget {
    /// Bytes; below nothing after a message that cost more than was left.
    balance: i64,
    at: Instant,
    /// Since when it has been used up without a pause.
    used_up_since: Option<Instant>,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { balance: BURST, at: now, used_up_since: None }
    }

    /// Takes what a message of so many bytes, on the wire and decoded, costs.
    pub fn spend(&mut self, now: Instant, bytes: usize) {
        self.charge(now, bytes.saturating_add(MESSAGE_COST));
    }

    /// Takes what an earlier message cost beside that.
    pub fn charge(&mut self, now: Instant, cost: usize) {
        self.refill(now);
        self.balance = self.balance.saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        if self.balance < 0 {
            self.used_up_since.get_or_insert(now);
        }
    }

    /// When the next message may be read, if not now.
    pub fn ready_at(&self) -> Option<Instant> {
        let debt = u64::try_from(-self.balance).unwrap_or(0);
        (debt > 0).then(|| self.at + time_for(debt))
    }

    /// Whether it has been used up for longer than anybody needs.
    pub fn is_abused(&self, now: Instant) -> bool {
        self.used_up_since.is_some_and(|since| now.saturating_duration_since(since) > ABUSE_TIME)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        let gained = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX).saturating_mul(RATE) / 1_000_000;
        self.balance = self.balance.saturating_add(gained).min(BURST);
        self.at = now;
        // It has paused.
        if self.balance > BURST / 8 {
            self.used_up_since = None;
        }
    }
}

/// Messages to others that one participant caused, summed over all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fanout {
    messages: usize,
    bytes: usize,
}

impl Fanout {
    /// A message of so many bytes to so many others.
    pub fn add(&mut self, others: usize, bytes: usize) {
        self.messages = self.messages.saturating_add(others);
        self.bytes = self.bytes.saturating_add(others.saturating_mul(bytes));
    }

    /// Their cost, by what each of so many others was sent on average: nobody is charged for the size of the room.
    pub fn cost(self, others: usize) -> usize {
        let messages = self.messages.saturating_mul(FANOUT_MESSAGE_COST);
        messages.saturating_add(self.bytes.saturating_mul(FANOUT_BYTE_COST)) / others.max(1)
    }
}

/// Cost of fan-out that a participant has caused and that its rate has not paid for yet. It outlives the connection,
/// since the next one begins with a whole budget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Debt {
    /// When all is paid for.
    paid_at: Option<Instant>,
}

impl Debt {
    pub fn add(&mut self, now: Instant, cost: usize) {
        let from = self.paid_at.map_or(now, |at| at.max(now));
        self.paid_at = Some(from + time_for(cost as u64));
    }

    /// What is not paid for yet.
    pub fn cost(&self, now: Instant) -> usize {
        let time = self.paid_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        usize::try_from(time.as_micros().saturating_mul(RATE.cast_unsigned().into()) / 1_000_000).unwrap_or(usize::MAX)
    }
}

/// How long the rate takes to pay for so much.
fn time_for(cost: u64) -> Duration {
    Duration::from_micros(cost.saturating_mul(1_000_000) / RATE.cast_unsigned())
}

/// What a message costs beside itself, for the fan-out of the change that it usually makes.
#[expect(deprecated, reason = "`UpdateLayers` is still sent")]
pub fn fanout_cost(request: &Request) -> usize {
    match request {
        Request::UpdateMetadata(_) => FANOUT_MESSAGE_COST + request.encoded_len() * FANOUT_BYTE_COST,
        // Each may bring tracks, change them, and end them.
        Request::Offer(_) | Request::AddTrack(_) | Request::Mute(_) => FANOUT_MESSAGE_COST,
        Request::UpdateAudioTrack(_) | Request::UpdateVideoTrack(_) => FANOUT_MESSAGE_COST,
        Request::SubscriptionPermission(_) => FANOUT_MESSAGE_COST,
        Request::Answer(_) | Request::Trickle(_) | Request::Subscription(_) | Request::TrackSetting(_) => 0,
        Request::Leave(_) | Request::UpdateLayers(_) | Request::SyncState(_) | Request::Simulate(_) => 0,
        Request::Ping(_) | Request::PingReq(_) => 0,
        Request::PublishDataTrackRequest(_) | Request::UnpublishDataTrackRequest(_) => 0,
        Request::UpdateDataSubscription(_) | Request::StoreDataBlobRequest(_) | Request::GetDataBlobRequest(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use livekit_protocol as proto;

    use super::*;

    /// Spends as soon as it may. Returns how long that took.
    fn time_to_spend(messages: usize, bytes: usize) -> (Duration, Budget) {
        let start = Instant::now();
        let mut now = start;
        let mut budget = Budget::new(start);
        for _ in 0..messages {
            now = budget.ready_at().unwrap_or(now);
            budget.spend(now, bytes);
        }
        (now - start, budget)
    }

    #[test]
    fn a_newcomer_to_a_room_of_a_thousand_tracks_is_not_held_back() {
        assert_eq!(time_to_spend(3_000, 100).0, Duration::ZERO);
        // A resume with two descriptions of half a MiB, and an offer.
        assert_eq!(time_to_spend(4, 3 << 20).0, Duration::ZERO);
    }

    #[test]
    fn whoever_asks_for_more_gets_it_at_the_rate() {
        let mebibyte = (1 << 20) - MESSAGE_COST;
        assert_eq!(time_to_spend(33, mebibyte).0, Duration::ZERO);
        assert_eq!(time_to_spend(73, mebibyte).0, Duration::from_secs(10));
    }

    #[test]
    fn what_all_are_told_costs_its_part_and_what_few_are_does_not() {
        let metadata = |bytes| {
            let metadata = "x".repeat(bytes);
            fanout_cost(&Request::UpdateMetadata(proto::UpdateParticipantMetadata { metadata, ..Default::default() }))
        };
        let mute = fanout_cost(&Request::Mute(proto::MuteTrackRequest::default()));
        assert_eq!(time_to_spend(240, mute).0, Duration::ZERO, "64 tracks come up, and are muted");
        assert!(time_to_spend(240 + 600, mute).0 > Duration::from_secs(19));
        assert!(time_to_spend(30 + 60, metadata(60 << 10)).0 > Duration::from_secs(14));
        assert_eq!(time_to_spend(64, metadata(1 << 10)).0, Duration::ZERO);
        for told in [
            Request::Offer(proto::SessionDescription::default()),
            Request::AddTrack(proto::AddTrackRequest::default()),
            Request::UpdateAudioTrack(proto::UpdateLocalAudioTrack::default()),
            Request::UpdateVideoTrack(proto::UpdateLocalVideoTrack::default()),
            Request::SubscriptionPermission(proto::SubscriptionPermission::default()),
        ] {
            assert_eq!(fanout_cost(&told), mute, "{told:?}");
        }
        for untold in [
            Request::Answer(proto::SessionDescription::default()),
            Request::Subscription(proto::UpdateSubscription::default()),
            Request::TrackSetting(proto::UpdateTrackSettings::default()),
        ] {
            assert_eq!(fanout_cost(&untold), 0, "{untold:?}");
        }
    }

    #[test]
    fn who_never_pauses_is_abusive_and_who_does_is_not() {
        let (_, mut budget) = time_to_spend(100, 1 << 20);
        let mut now = budget.ready_at().unwrap();
        while !budget.is_abused(now) {
            budget.spend(now, 1 << 20);
            now = budget.ready_at().unwrap_or(now);
        }
        let began = budget.used_up_since.unwrap();
        assert!(now - began > ABUSE_TIME && now - began < ABUSE_TIME + Duration::from_secs(2));

        budget.spend(now + Duration::from_secs(10), 100);
        assert!(!budget.is_abused(now + Duration::from_secs(11)));
    }

    /// Of its whole budget, and then of what comes in each second, a little more or less.
    fn is_abused_after(time: Duration, more: i64) -> (bool, Option<Duration>) {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        budget.charge(start, usize::try_from(BURST + more).unwrap());
        for second in 1..=time.as_secs() {
            budget.charge(start + Duration::from_secs(second), usize::try_from(RATE).unwrap());
        }
        let now = start + time;
        (budget.is_abused(now), budget.ready_at().map(|ready| ready - now))
    }

    #[test]
    fn who_uses_all_of_its_budget_and_never_more_is_not_abusive() {
        let (minute, moment) = (ABUSE_TIME, Duration::from_millis(1));
        assert_eq!(is_abused_after(2 * minute, 0), (false, None));
        assert_eq!(is_abused_after(2 * minute, -RATE / 2), (false, None));
        let debt = RATE / 4;
        assert_eq!(is_abused_after(minute, debt), (false, Some(Duration::from_millis(250))));
        assert!(is_abused_after(minute + moment, debt).0);
    }

    #[test]
    fn a_pause_is_over_an_eighth_of_the_budget() {
        let later = ABUSE_TIME + Duration::from_secs(10);
        for (left, paused) in [(BURST / 8, false), (BURST / 8 + RATE / 1_000, true)] {
            let start = Instant::now();
            let mut budget = Budget::new(start);
            budget.charge(start, usize::try_from(2 * BURST).unwrap());
            // So long that this much is there again, of which nothing is spent.
            let again = start + time_for((BURST + left).cast_unsigned());
            budget.charge(again, 0);
            assert_eq!(!budget.is_abused(start + later), paused, "{left}");
        }
    }

    #[test]
    fn what_others_were_told_costs_the_same_however_many_they_are() {
        let told = |others| {
            let mut told = Fanout::default();
            told.add(others, 1_000);
            told.add(others, 500);
            told.cost(others)
        };
        assert_eq!(told(1), 2 * FANOUT_MESSAGE_COST + 1_500 * FANOUT_BYTE_COST);
        assert_eq!(told(1), told(5_000));
        assert_eq!(Fanout::default().cost(0), 0);
    }

    #[test]
    fn a_debt_is_paid_at_the_rate() {
        let now = Instant::now();
        let mut debt = Debt::default();
        assert_eq!(debt.cost(now), 0);
        debt.add(now, 8 << 20);
        debt.add(now + Duration::from_secs(1), 4 << 20);
        assert_eq!(debt.cost(now + Duration::from_secs(1)), 8 << 20);
        assert_eq!(debt.cost(now + Duration::from_secs(3)), 0);
        debt.add(now + Duration::from_secs(9), 4 << 20);
        assert_eq!(debt.cost(now + Duration::from_secs(9)), 4 << 20);
    }
}
