use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

/// A server of nothing but `OK`: where it is, and what it counts.
async fn server() -> (SocketAddr, Arc<Counters>, JoinHandle<()>) {
    server_with(HEAD_PATIENCE).await
}

async fn server_with(head_patience: Duration) -> (SocketAddr, Arc<Counters>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, settings) = (listener.local_addr().unwrap(), Settings { head_patience, ..Settings::default() });
    let counters = Arc::clone(&settings.counters);
    let router = Router::new().fallback(async |_: axum::body::Bytes| "OK");
    let task = tokio::spawn(async move { match serve(listener, router, settings).await {} });
    (address, counters, task)
}

/// What comes of these bytes until the server closes.
async fn answer(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // It may close before it has read all.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_given_up() {
    let (address, counters, _server) = server_with(Duration::from_millis(50)).await;
    for (slow, given_up) in [&b""[..], b"GET / HTTP/1.1\r\nHost: "].into_iter().zip([1, 2]) {
        assert_eq!(answer(address, slow).await, "");
        assert_eq!(counters.slow_heads.load(Ordering::Relaxed), given_up);
    }
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
    socket.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let _ = socket.read_to_end(&mut Vec::new()).await;
    assert_eq!(counters.slow_heads.load(Ordering::Relaxed), 3);
    assert_eq!(counters.head_bytes.load(Ordering::Relaxed), 0);
}

/// What comes along with a request is no request yet, and has no more time than any other.
#[tokio::test]
async fn a_head_that_begins_behind_another_request_is_given_up_as_soon() {
    let (address, counters, _server) = server_with(Duration::from_secs(3)).await;
    let bodiless = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let with_body = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\n\r\n\r";
    let begun = async |first: &str| {
        let answer = answer(address, format!("{first}GET / HTTP/1.1\r\nHost: ").as_bytes()).await;
        assert!(answer.contains("200 OK"), "{answer}");
    };
    let twice = bodiless.repeat(2);
    tokio::join!(begun(bodiless), begun(with_body), begun(&twice));
    assert_eq!(counters.slow_heads.load(Ordering::Relaxed), 3);
    assert_eq!(counters.head_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_head_much_longer_than_any_client_sends_is_refused() {
    let (address, ..) = server().await;
    let long = [b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ", &vec![b'x'; 4 * HEAD_BYTES_MAX][..], b"\r\n\r\n"].concat();
    // The connection ends before all of it was read, so that the answer, 431, may be lost on its way.
    let answer = answer(address, &long).await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn unfinished_heads_beyond_the_bytes_for_all_are_told_to_come_back() {
    let (address, counters, _server) = server().await;
    counters.head_bytes.store(HEADS_BYTES_MAX - 10, Ordering::Relaxed);
    let refused = answer(address, REQUEST).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("Retry-After"), "{refused}");
    assert_eq!(counters.over_budget.load(Ordering::Relaxed), 1);

    counters.head_bytes.store(0, Ordering::Relaxed);
    assert!(answer(address, REQUEST).await.ends_with("OK"));
    assert_eq!(counters.head_bytes.load(Ordering::Relaxed), 0, "what was read is given back");
}

#[tokio::test]
async fn the_last_descriptors_are_for_those_near_by() {
    let settings = Settings { descriptors_max: 0, ..Settings::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (router, connections, mut tasks) =
        (Router::new().fallback(async || "OK"), Connections::default(), JoinSet::new());
    for (peer, served) in [("192.0.2.1:9", false), ("127.0.0.1:9", true)] {
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        admit(stream, peer.parse().unwrap(), &router, &settings, &connections, &mut tasks);
        socket.write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer).await;
        assert_eq!(answer.contains("200 OK"), served, "{answer}");
    }
    assert_eq!(settings.counters.refused_descriptors.load(Ordering::Relaxed), 1);
}

/// A head is short-lived; a connection may wait for the next one, and a body for its handler.
#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (address, counters, _server) = server().await;
    let requests = [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], REQUEST].concat();
    let answers = answer(address, &requests).await;
    assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
    assert_eq!(counters.head_bytes.load(Ordering::Relaxed), 0);
}

/// A server of a WebSocket at any path, which answers pings and takes everything else.
async fn websockets() -> SocketAddr {
    websockets_with(Settings::default()).await
}

async fn websockets_with(settings: Settings) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(async |mut request: axum::extract::Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = TokioIo::new(upgrade.await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            while let Some(Ok(_)) = socket.next().await {}
        });
        let upgraded = [("Connection", "upgrade"), ("Upgrade", "websocket")];
        (StatusCode::SWITCHING_PROTOCOLS, upgraded)
    });
    tokio::spawn(async move { match serve(listener, router, settings).await {} });
    address
}

/// A WebSocket, and the bytes that came along with its request.
async fn websocket(address: SocketAddr, along: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    socket.write_all(&[request, along].concat()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    socket
}

/// A ping of two bytes, and its answer.
const PING: [u8; 8] = [0x89, 0x82, 0, 0, 0, 0, b'h', b'i'];
const PONG: [u8; 4] = [0x8a, 2, b'h', b'i'];

#[tokio::test]
async fn a_large_message_that_does_not_come_to_its_end_is_given_up() {
    let settings = Settings { message_patience: Duration::from_millis(100), ..Settings::default() };
    let messages = Arc::clone(&settings.counters.messages);
    let address = websockets_with(settings).await;
    let mut socket = websocket(address, b"").await;
    // A frame of 100,000 bytes, 60,000 of which come.
    let begun = [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0][..], &[0; 60_000]].concat();
    socket.write_all(&begun).await.unwrap();
    // It is closed without a word.
    let _ = socket.read_to_end(&mut Vec::new()).await;
    assert_eq!(messages.slow.load(Ordering::Relaxed), 1);

    // One that ends has done so for good.
    let mut socket = websocket(address, b"").await;
    socket.write_all(&[&begun[..], &[0; 40_000], &PING].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut pong = [0; 4];
    socket.read_exact(&mut pong).await.unwrap();
    assert_eq!((pong, messages.slow.load(Ordering::Relaxed)), (PONG, 1));
}

#[tokio::test]
async fn frames_before_the_answer_to_their_handshake_end_the_connection() {
    let address = websockets().await;
    let (mut socket, mut answer) = (websocket(address, &PING).await, Vec::new());
    let ended = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "it goes on: {answer:?}");
}

#[tokio::test]
async fn who_does_not_read_the_answers_to_pings_is_not_read_from() {
    const MOST: usize = 32 << 20;
    let socket = websocket(websockets().await, b"").await;

    // Pings of 125 bytes, masked with zeros.
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'p'; 125]].concat();
    let pings = ping.repeat(500);
    let (mut reader, mut writer) = socket.into_split();
    let mut written = 0;
    let flood = async {
        while written < MOST {
            written += writer.write(&pings[written % ping.len()..]).await.unwrap();
        }
    };
    // It comes to a stop, in a while whose length does not matter.
    let stopped = tokio::time::timeout(Duration::from_secs(3), flood).await;
    assert!(stopped.is_err(), "{written} bytes of pings were taken");

    // Goes on as soon as the answers are read: without the mask each has four bytes less.
    let read_all = async {
        let mut answer = vec![0; 1 << 16];
        let mut read = 0;
        while read < MOST / ping.len() * (ping.len() - 4) {
            read += reader.read(&mut answer).await.unwrap();
        }
    };
    let write_rest = async {
        while written < MOST {
            written += writer.write(&pings[written % ping.len()..]).await.unwrap();
        }
    };
    tokio::join!(read_all, write_rest);
}

#[tokio::test]
async fn a_request_names_one_host() {
    let (address, ..) = server().await;
    let status = async |head: &str| {
        let answer = answer(address, format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
        answer.split(' ').nth(1).map(str::to_owned).unwrap_or(answer)
    };
    assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n").await, "200");
    assert_eq!(status("GET / HTTP/1.0\r\n").await, "200");
    assert_eq!(status("GET / HTTP/1.1\r\n").await, "400");
    assert_eq!(status("GET http://a/ HTTP/1.1\r\n").await, "400");
    assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n").await, "400");
}

#[tokio::test]
async fn the_handshake_of_a_websocket_has_no_body() {
    let address = websockets().await;
    let status = async |head: &str, body: &str| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n{head}\r\n{body}");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[9..]).into_owned()
    };

    assert_eq!(status("Upgrade: websocket\r\n", "").await, "101");
    assert_eq!(status("Upgrade: websocket\r\nContent-Length: 0\r\n", "").await, "101");
    for upgrade in ["websocket", "WebSocket", "h2c, websocket"] {
        assert_eq!(status(&format!("Upgrade: {upgrade}\r\nContent-Length: 5\r\n"), "12345").await, "400");
    }
    assert_eq!(status("Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n").await, "400");
    let (other, ..) = server().await;
    let h2c =
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab";
    assert!(answer(other, h2c).await.contains("200 OK"), "offered by clients that speak HTTP/2 as well");
}

/// RFC 9112, section 3.2.2.
#[tokio::test]
async fn the_authority_of_a_target_replaces_the_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(async |request: axum::extract::Request| {
        let host =
            request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap()).collect::<Vec<_>>();
        format!("{} of {}", request.uri(), host.join(" and "))
    });
    tokio::spawn(async move { match serve(listener, router, Settings::default()).await {} });
    let seen = async |target: &str, rest: &str| {
        let answer = answer(address, format!("GET {target} {rest}Connection: close\r\n\r\n").as_bytes()).await;
        answer.split("\r\n\r\n").nth(1).map(str::to_owned).unwrap_or(answer)
    };

    let local = "HTTP/1.1\r\nHost: localhost\r\n";
    assert_eq!(seen("http://evil.example/a?b=c", local).await, "/a?b=c of evil.example");
    assert_eq!(seen("http://evil.example:80", local).await, "/ of evil.example:80");
    assert_eq!(seen("http://localhost@evil.example/", local).await, "/ of localhost@evil.example");
    assert_eq!(seen("http://localhost/", "HTTP/1.1\r\nHost: evil.example\r\n").await, "/ of localhost");
    assert_eq!(seen("http://evil.example/", "HTTP/1.0\r\n").await, "/ of evil.example");
    assert_eq!(seen("/a", local).await, "/a of localhost");
    assert_eq!(seen("//evil.example/a", local).await, "//evil.example/a of localhost");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_says_that_the_connection_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/reads", axum::routing::post(async |_: axum::body::Bytes| "OK"))
        .fallback(async || StatusCode::FORBIDDEN);
    tokio::spawn(async move { match serve(listener, router, Settings::default()).await {} });
    for (path, closes) in [("/reads", false), ("/refuses", true)] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        if !closes {
            socket.write_all(b"12345").await.unwrap();
        }
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            answer.push(socket.read_u8().await.unwrap().into());
        }
        assert_eq!(answer.to_lowercase().contains("connection: close"), closes, "{answer}");
    }
}
