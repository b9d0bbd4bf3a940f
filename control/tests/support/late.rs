//! A way to a server on which what the server says comes late.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are read at a time.
const CHUNK: usize = 16 << 10;

/// The URL of another way to a server on loopback, which is open for as long as the process lives.
pub fn way_to(url: &str, delay: Duration) -> String {
    let server = url.trim_start_matches("ws://").to_owned();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let port = listener.local_addr().expect("it listens").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&server).expect("the server listens");
            let (to_client, to_server) =
                (client.try_clone().expect("files are left"), server.try_clone().expect("too"));
            let (late, due) = mpsc::channel();
            thread::spawn(move || pass(server, |chunk| late.send((Instant::now() + delay, chunk.to_vec())).is_ok()));
            thread::spawn(move || write_when_due(to_client, &due));
            thread::spawn(move || {
                pass(client, |chunk| (&to_server).write_all(chunk).is_ok());
                let _ = to_server.shutdown(Shutdown::Both);
            });
        }
    });
    format!("ws://127.0.0.1:{port}")
}

/// Hands on what comes until it ends, or nobody takes it.
fn pass(mut from: TcpStream, mut hand_on: impl FnMut(&[u8]) -> bool) {
    let mut chunk = [0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk)
        && hand_on(&chunk[..length])
    {}
}

fn write_when_due(mut client: TcpStream, due: &Receiver<(Instant, Vec<u8>)>) {
    for (at, chunk) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if client.write_all(&chunk).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}
