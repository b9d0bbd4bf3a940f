//! Delivery tasks and receivers that take events, refuse them, or are away.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant as WallInstant;

use axum::http::HeaderMap;
use livekit_protocol as proto;
use serde_json::Value;
use signaling::event::RoomHappening;

use super::*;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

/// Longest wait for something that happens by itself, on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// A server that is told of events.
#[derive(Clone, Default)]
struct Receiver {
    /// What it was sent, tries included.
    received: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
    /// What it answers next; 200 without any.
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
}

impl Receiver {
    /// With its URL.
    async fn start(answers: &[StatusCode]) -> (Self, String) {
        let receiver = Self { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), ..Self::default() };
        let this = receiver.clone();
        let take = axum::routing::post(move |headers: HeaderMap, body: Bytes| async move {
            this.received.lock().unwrap().push((headers, serde_json::from_slice(&body).unwrap()));
            this.answers.lock().unwrap().pop_front().unwrap_or(StatusCode::OK)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/hooks", take)).await.unwrap() });
        (receiver, url)
    }

    /// Room and kind of each event, in the order in which they came.
    fn events(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let received = self.received.lock().unwrap();
        received.iter().map(|(_, body)| (text(&body["room"]["name"]), text(&body["event"]))).collect()
    }

    fn of_room(&self, room: &str) -> Vec<String> {
        self.events().into_iter().filter(|(of, _)| of == room).map(|(_, kind)| kind).collect()
    }
}

fn sender(urls: &[&str], events: &broadcast::Sender<RoomEvent>) -> WebhookSender {
    let urls = urls.iter().map(ToString::to_string).collect();
    WebhookSender::start(&Webhook { api_key: "devkey".into(), urls }, SECRET, || events.subscribe()).unwrap()
}

fn started(room: &str) -> RoomEvent {
    event(room, |room| RoomHappening::RoomStarted { room })
}

fn finished(room: &str) -> RoomEvent {
    event(room, |room| RoomHappening::RoomFinished { room })
}

fn event(room: &str, what: impl FnOnce(proto::Room) -> RoomHappening) -> RoomEvent {
    let (name, sid) = (room.to_owned(), "RM_abcdefghijkl".to_owned());
    RoomEvent {
        room: name.parse().unwrap(),
        room_sid: sid.parse().unwrap(),
        number: 1,
        client: None,
        at: SystemTime::now(),
        what: what(proto::Room { name, sid, ..Default::default() }),
    }
}

/// Delivered, retried, refused, expired, overflowed, pending.
fn counts(counters: &Counters) -> [u64; 6] {
    let Counters { delivered, retried, refused, expired, overflowed, pending } = counters;
    [delivered, retried, refused, expired, overflowed, pending].map(|counter| counter.load(Ordering::Relaxed))
}

#[tokio::test]
async fn what_happens_is_told_to_every_url_in_the_order_of_its_room() {
    let (one, one_url) = Receiver::start(&[]).await;
    let (other, other_url) = Receiver::start(&[]).await;
    let (events, _) = broadcast::channel(16);
    let sender = sender(&[&one_url, &other_url], &events);
    let counters = sender.counters();

    for event in [started("a"), started("b"), finished("a"), started("a"), finished("b")] {
        events.send(event).unwrap();
    }
    sender.finish(WAIT_MAX).await;

    for receiver in [one, other] {
        assert_eq!(receiver.of_room("a"), ["room_started", "room_finished", "room_started"]);
        assert_eq!(receiver.of_room("b"), ["room_started", "room_finished"]);
        for (headers, _) in receiver.received.lock().unwrap().iter() {
            assert_eq!(headers["content-type"], "application/webhook+json");
            assert!(headers["user-agent"].to_str().unwrap().starts_with("onair/"));
            assert_eq!(headers["authorization"].to_str().unwrap().split('.').count(), 3, "a token");
        }
    }
    assert_eq!(counts(&counters), [10, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn what_failed_is_tried_again_before_the_next_and_what_was_refused_is_not() {
    let answers = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
    let (receiver, url) = Receiver::start(&answers).await;
    let (events, _) = broadcast::channel(16);
    let sender = sender(&[&url], &events);
    let counters = sender.counters();

    events.send(started("a")).unwrap();
    events.send(finished("a")).unwrap();
    sender.finish(WAIT_MAX).await;

    assert_eq!(receiver.of_room("a"), ["room_started", "room_started", "room_finished", "room_finished"]);
    assert_eq!(counts(&counters), [1, 2, 1, 0, 0, 0]);
    let received = receiver.received.lock().unwrap();
    assert_eq!(received[0].1["id"], received[1].1["id"], "by which a receiver knows a repeat");
}

#[tokio::test]
async fn an_event_is_tried_for_ten_minutes_and_given_up_then() {
    let (receiver, url) = Receiver::start(&[StatusCode::SERVICE_UNAVAILABLE; 2]).await;
    let url = destination(&url).unwrap();
    let http = outbound::client([&url], |builder| builder.timeout(REQUEST_MAX)).unwrap();
    let signer = Arc::new(Signer::new("devkey", SECRET));
    let sender = Arc::new(Sender { url, host: String::new(), http, signer, counters: Arc::default() });
    let event = started("a");
    let of_age = |since| Parcel {
        room: event.room.clone(),
        name: message::name(&event.what),
        body: message::body(&event),
        since,
    };
    let long_ago = Instant::now() - PATIENCE;

    let room = deliver(Arc::clone(&sender), of_age(long_ago)).await;
    assert_eq!((room.as_str(), counts(&sender.counters)), ("a", [0, 0, 0, 1, 0, 0]), "ten minutes are over");
    deliver(Arc::clone(&sender), of_age(long_ago + PAUSE_MAX)).await;
    assert_eq!(counts(&sender.counters), [1, 1, 0, 1, 0, 0], "there was time for another try");
    assert_eq!(receiver.events().len(), 3);
}

#[tokio::test]
async fn events_that_nobody_had_the_time_to_hear_are_counted_and_the_newest_told() {
    let (receiver, url) = Receiver::start(&[]).await;
    let (events, _) = broadcast::channel(2);
    let sender = sender(&[&url], &events);
    let counters = sender.counters();

    // The delivery task runs on this thread, and has no turn before `finish`.
    for event in [started("a"), finished("a"), started("b"), started("c"), finished("c")] {
        events.send(event).unwrap();
    }
    sender.finish(WAIT_MAX).await;

    assert_eq!(receiver.of_room("c"), ["room_started", "room_finished"]);
    assert_eq!(receiver.events().len(), 2);
    assert_eq!(counts(&counters), [2, 0, 0, 0, 3, 0]);
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_costs_the_oldest_events_and_delays_no_stop() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (events, _) = broadcast::channel(2_048);
    let sender = sender(&[&format!("http://{}/", silent.local_addr().unwrap())], &events);
    let counters = sender.counters();

    let waiting = queue::WAITING_MAX as u64;
    for _ in 0..waiting + 300 {
        events.send(started("a")).unwrap();
    }
    let begin = WallInstant::now();
    while counts(&counters)[4..] != [299, waiting + 1] {
        assert!(begin.elapsed() < WAIT_MAX, "one is on its way, and as many as may wait: {:?}", counts(&counters));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sender.finish(Duration::from_millis(10)).await;

    assert_eq!(counts(&counters), [0, 0, 0, 0, 299, waiting + 1]);
}

#[test]
fn server_errors_and_haste_are_tried_again_and_other_refusals_are_not() {
    assert_eq!(judge(StatusCode::OK), Answer::Taken);
    assert_eq!(judge(StatusCode::NO_CONTENT), Answer::Taken);
    assert!(matches!(judge(StatusCode::SERVICE_UNAVAILABLE), Answer::Failed(_)));
    assert!(matches!(judge(StatusCode::TOO_MANY_REQUESTS), Answer::Failed(_)));
    assert_eq!(judge(StatusCode::UNAUTHORIZED), Answer::Refused(StatusCode::UNAUTHORIZED));
    assert_eq!(judge(StatusCode::FOUND), Answer::Refused(StatusCode::FOUND));
}

#[test]
fn only_http_urls_are_destinations() {
    assert!(destination("https://app.example/api/webhooks/livekit").is_ok());
    for text in ["", "app.example/hooks", "ftp://app.example/", "file:///etc/passwd"] {
        assert!(destination(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn urls_without_a_key_are_a_mistake_of_the_configuration() {
    let (events, _) = broadcast::channel(1);
    let config = Webhook { api_key: String::new(), urls: vec!["http://127.0.0.1:9/".into()] };

    assert!(WebhookSender::start(&config, b"secret", || events.subscribe()).is_err());
    assert!(WebhookSender::start(&Webhook::default(), b"", || events.subscribe()).is_ok());
}
