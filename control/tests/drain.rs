//! How the server stops: everybody is told, nobody new is let in, and a second wish to stop is granted at once.

#[path = "support/ports.rs"]
mod ports;

use std::time::{Duration, SystemTime};

use control::app::{self, App, Stopped};
use control::config::Config;
use control::config::load::{Flags, Sources, load};
use futures_util::StreamExt as _;
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_response::Message as Response;
use signaling::token::JoinToken;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn config() -> Config {
    let udp = ports::free();
    let yaml = format!("{{port: 0, bind_addresses: [127.0.0.1], rtc: {{workers: 1, tcp_port: 0, udp_port: {udp}}}}}");
    let flags = Flags { dev: true, ..Flags::default() };
    load(Sources { yaml: Some(yaml), flags, strict: true, ..Sources::default() }).unwrap().config
}

async fn join(app_url: &str, token: &str) -> Result<Socket, Error> {
    let url = format!("{app_url}/rtc?protocol=17&access_token={token}");
    tokio_tungstenite::connect_async(url).await.map(|(socket, _)| socket)
}

fn token(config: &Config) -> String {
    let join = JoinToken {
        identity: "guest".parse().unwrap(),
        room: "demo".parse().unwrap(),
        recorder: false,
        life: Duration::from_secs(60),
    };
    app::keys(config).unwrap().signer().create_join_token(&join, SystemTime::now())
}

/// A wish that comes when its sender speaks; a sender that is dropped never does.
fn wish() -> (oneshot::Sender<()>, impl Future<Output = ()>) {
    let (sender, receiver) = oneshot::channel();
    let wish = async move {
        if receiver.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    (sender, wish)
}

async fn last_message(mut socket: Socket) -> Option<Response> {
    let mut last = None;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            last = proto::SignalResponse::decode(bytes).unwrap().message;
        }
    }
    last
}

#[tokio::test]
async fn participants_are_told_to_come_back_to_the_server_that_is_started_next() {
    let config = config();
    let token = token(&config);
    let app = App::start(config).await.unwrap();
    let url = format!("ws://{}", app.http_addresses()[0]);
    let (stop, stopping) = wish();
    let running = tokio::spawn(app.run(stopping, std::future::pending()));
    let socket = join(&url, &token).await.unwrap();
    stop.send(()).unwrap();

    let Some(Response::Leave(leave)) = last_message(socket).await else { panic!("no leave") };
    assert_eq!(leave.reason(), proto::DisconnectReason::ServerShutdown);
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
    assert_eq!(running.await.unwrap().unwrap(), Stopped::Drained);
}

#[tokio::test]
async fn an_idle_server_stops_at_the_first_wish() {
    let app = App::start(config()).await.unwrap();

    assert_eq!(app.run(std::future::ready(()), std::future::pending()).await.unwrap(), Stopped::Drained);
}

#[tokio::test]
async fn a_second_wish_to_stop_is_granted_at_once() {
    let config = config();
    let token = token(&config);
    let app = App::start(config).await.unwrap();
    let url = format!("ws://{}", app.http_addresses()[0]);
    let (stop, stopping) = wish();
    let running = tokio::spawn(app.run(stopping, std::future::ready(())));
    let _socket = join(&url, &token).await.unwrap();
    stop.send(()).unwrap();

    assert_eq!(running.await.unwrap().unwrap(), Stopped::AtOnce);
}
