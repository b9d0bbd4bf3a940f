//! A Socket.IO client of a few lines, for what the real ones hide: many at once, and bytes that no client sends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::product::{PATIENCE, Product};

/// A socket in one namespace. Dropped, its connection ends.
pub struct Socket {
    namespace: String,
    heard: Arc<Heard>,
    sender: mpsc::UnboundedSender<Message>,
    acks: AtomicU64,
}

/// Everything that the server said, in order.
#[derive(Default)]
struct Heard {
    events: Mutex<Vec<Said>>,
    news: Notify,
}

/// One thing that the server said in the namespace.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Event { name: String, payload: Value },
    Ack { id: u64, payload: Value },
    Refused(String),
    Connected,
    Disconnected,
    Closed,
}

impl Socket {
    /// Connects and waits for the answer: the message of the refusal if there is one.
    pub async fn connect(product: &Product, room: &str, auth: Value) -> Result<Socket, String> {
        Self::connect_at(&product.ports.url(), room, auth).await
    }

    pub async fn connect_at(url: &str, room: &str, auth: Value) -> Result<Socket, String> {
        let url = format!("{}/socket.io/?EIO=4&transport=websocket", url.replacen("http", "ws", 1));
        let (stream, _) = tokio_tungstenite::connect_async(url).await.map_err(|error| error.to_string())?;
        let (mut sink, mut source) = stream.split();
        let namespace = format!("/live:{room}");
        let heard = Arc::new(Heard::default());
        let (sender, mut outgoing) = mpsc::unbounded_channel::<Message>();
        let socket = Socket {
            namespace: namespace.clone(),
            heard: Arc::clone(&heard),
            sender: sender.clone(),
            acks: AtomicU64::new(0),
        };
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
            // The server may have closed it already.
            let _ = sink.close().await;
        });
        let connect = if auth.is_null() { format!("40{namespace},") } else { format!("40{namespace},{auth}") };
        let weak = sender.downgrade();
        drop(sender);
        tokio::spawn(async move {
            while let Some(Ok(message)) = source.next().await {
                let Message::Text(text) = message else { continue };
                let reply = match text.as_str() {
                    "2" => Some("3".to_owned()),
                    open if open.starts_with('0') => Some(connect.clone()),
                    packet => {
                        heard.note(packet, &namespace);
                        None
                    }
                };
                if let (Some(reply), Some(sender)) = (reply, weak.upgrade()) {
                    // Closing: the end is seen by the loop.
                    let _ = sender.send(Message::text(reply));
                }
            }
            heard.push(Said::Closed);
        });
        let first = socket.hears("an answer to the connection", |heard| match heard {
            Said::Connected => Some(Ok(())),
            Said::Refused(message) => Some(Err(message.clone())),
            Said::Closed => Some(Err("closed".to_owned())),
            Said::Event { .. } | Said::Ack { .. } | Said::Disconnected => None,
        });
        first.await?;
        Ok(socket)
    }

    /// Sends an event without asking for an answer.
    pub fn emit(&self, event: &str, payload: Value) {
        self.send(&format!("42{},{}", self.namespace, json!([event, payload])));
    }

    /// Sends an event and waits for its acknowledgement. An error: the connection ended before it came.
    pub async fn ask(&self, event: &str, payload: Value) -> Result<Value, String> {
        let id = self.acks.fetch_add(1, Ordering::Relaxed);
        self.send(&format!("42{},{id}{}", self.namespace, json!([event, payload])));
        self.hears("an acknowledgement", |heard| match heard {
            Said::Ack { id: answered, payload } if *answered == id => Some(Ok(payload[0].clone())),
            Said::Closed | Said::Disconnected => Some(Err("closed".to_owned())),
            _ => None,
        })
        .await
    }

    /// Sends any text as a packet.
    pub fn send(&self, text: &str) {
        // A closed one says so by what it hears.
        let _ = self.sender.send(Message::text(text.to_owned()));
    }

    /// The payload of the first such event that `wanted` accepts, waited for.
    pub async fn event(&self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.hears(event, |heard| match heard {
            Said::Event { name, payload } if name == event && wanted(payload) => Some(payload.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until the server disconnected it from the namespace.
    pub async fn disconnected(&self) {
        let heard = self.hears("the disconnect", |heard| match heard {
            Said::Disconnected => Some("packet"),
            Said::Closed => Some("closed without a packet"),
            _ => None,
        });
        assert_eq!(heard.await, "packet");
    }

    /// Waits until the server ends the connection, or the socket alone.
    pub async fn ended(&self) {
        let is_end = |said: &Said| matches!(said, Said::Closed | Said::Disconnected).then_some(());
        self.hears("the end", is_end).await;
    }

    /// Everything heard until now.
    pub fn all(&self) -> Vec<Said> {
        self.heard.events.lock().unwrap().clone()
    }

    pub fn is_over(&self) -> bool {
        let events = self.heard.events.lock().unwrap();
        events.iter().any(|heard| matches!(heard, Said::Closed | Said::Disconnected))
    }

    async fn hears<T>(&self, what: &str, wanted: impl Fn(&Said) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let news = self.heard.news.notified();
            if let Some(found) = self.heard.events.lock().unwrap().iter().find_map(&wanted) {
                return found;
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                let all = self.all();
                let last = &all[all.len().saturating_sub(10)..];
                panic!("{what}: not within {PATIENCE:?} in {}; the last heard: {last:?}", self.namespace);
            }
        }
    }
}

impl Heard {
    /// Takes a Socket.IO packet apart: type, namespace, id, payload.
    fn note(&self, packet: &str, namespace: &str) {
        let Some(packet) = packet.strip_prefix('4') else { return };
        let Some((kind, rest)) = packet.split_at_checked(1) else { return };
        let rest = rest.strip_prefix(namespace).unwrap_or(rest).trim_start_matches(',');
        let (id, payload) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let payload: Value = serde_json::from_str(payload).unwrap_or_default();
        self.push(match kind {
            "0" => Said::Connected,
            "1" => Said::Disconnected,
            "2" => {
                Said::Event { name: payload[0].as_str().unwrap_or_default().to_owned(), payload: payload[1].clone() }
            }
            "3" => Said::Ack { id: id.parse().unwrap_or(u64::MAX), payload },
            "4" => Said::Refused(payload["message"].as_str().unwrap_or_default().to_owned()),
            other => panic!("the server sent a packet of type {other}"),
        });
    }

    fn push(&self, heard: Said) {
        self.events.lock().unwrap().push(heard);
        // One waits at a time; the permit is kept for who comes next.
        self.news.notify_waiters();
        self.news.notify_one();
    }
}

/// Asks for several rooms over one connection that has none, and returns the refusals.
pub async fn guess(product: &Product, rooms: &[String]) -> Vec<String> {
    let url = format!("{}/socket.io/?EIO=4&transport=websocket", product.ports.url().replacen("http", "ws", 1));
    let (mut stream, _) = tokio_tungstenite::connect_async(url).await.expect("there is room for one more");
    let mut refusals = Vec::new();
    let mut left = rooms.iter();
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else { continue };
        // A ping, which nobody waits for here.
        if text.as_str() == "2" {
            continue;
        }
        if let Some((_, refusal)) = text.strip_prefix("44").and_then(|rest| rest.split_once(',')) {
            refusals.push(refusal.to_owned());
        }
        let Some(room) = left.next() else { break };
        if stream.send(Message::text(format!("40/live:{room},"))).await.is_err() {
            break;
        }
    }
    // Closed by the server, or by us.
    let _ = stream.close(None).await;
    refusals
}

/// Connects with a user's token.
pub async fn user(product: &Product, room: &str, token: &str) -> Socket {
    let connected = Socket::connect(product, room, json!({ "token": token })).await;
    connected.unwrap_or_else(|message| panic!("refused: {message}"))
}
