//! A Socket.IO client on a bare WebSocket: cheap enough for thousands, and as ill-mannered as a test needs.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One connection.
pub struct Raw(WebSocketStream<TcpStream>);

impl Raw {
    /// Connects without a namespace.
    ///
    /// # Errors
    /// The server refuses the handshake.
    pub async fn connect(address: SocketAddr) -> Result<Self, String> {
        Self::connect_with(address, None).await
    }

    /// With a small receive buffer, so that it is soon full.
    pub async fn connect_with(address: SocketAddr, receive_buffer: Option<u32>) -> Result<Self, String> {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size).unwrap();
        }
        let stream = socket.connect(address).await.map_err(|error| error.to_string())?;
        let request = format!("ws://{address}/socket.io/?EIO=4&transport=websocket").into_client_request().unwrap();
        let handshake = timeout(PATIENCE, client_async(request, stream)).await.map_err(|_| "no handshake in time")?;
        let mut raw = Self(handshake.map_err(|error| error.to_string())?.0);
        let open = raw.text().await?;
        if open.starts_with('0') { Ok(raw) } else { Err(open) }
    }

    /// Connects to a room and waits for its state.
    pub async fn join(address: SocketAddr, namespace: &str, token: &str) -> Result<Self, String> {
        let mut raw = Self::connect(address).await?;
        raw.enter(namespace, token).await;
        raw.event("chat:state").await?;
        Ok(raw)
    }

    pub async fn enter(&mut self, namespace: &str, token: &str) {
        self.send(&format!(r#"40{namespace},{{"token":"{token}"}}"#)).await;
    }

    pub async fn emit(&mut self, namespace: &str, event: &str, payload: &Value) {
        self.send(&format!("42{namespace},{}", serde_json::json!([event, payload]))).await;
    }

    pub async fn send(&mut self, text: &str) {
        // A server that has gone, or takes nothing, shows when it is read from.
        let _ = timeout(PATIENCE, self.0.send(Message::text(text))).await;
    }

    /// The next packet that is no ping, which is answered.
    ///
    /// # Errors
    /// The connection ended, or nothing else came.
    pub async fn text(&mut self) -> Result<String, String> {
        timeout(PATIENCE, self.next_text()).await.map_err(|_| "nothing in time")?
    }

    async fn next_text(&mut self) -> Result<String, String> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => self.send("3").await,
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(_))) | None => return Err("closed".into()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
            }
        }
    }

    /// The payload of the next event of that name; others are passed over.
    ///
    /// # Errors
    /// The connection ended, or the event did not come, whatever else did.
    pub async fn event(&mut self, name: &str) -> Result<Value, String> {
        timeout(PATIENCE, self.next_event(name)).await.map_err(|_| format!("no {name} in time"))?
    }

    async fn next_event(&mut self, name: &str) -> Result<Value, String> {
        loop {
            let text = self.next_text().await?;
            if text.starts_with("44") {
                return Err(text);
            }
            let payload = text.strip_prefix("42").and_then(|rest| rest.split_once(',')).map(|(_, json)| json);
            let Some(Ok(Value::Array(mut event))) = payload.map(serde_json::from_str::<Value>) else {
                continue;
            };
            if event.first().is_some_and(|first| first == name) {
                return Ok(event.pop().filter(|_| event.len() == 1).unwrap_or(Value::Null));
            }
        }
    }
}
