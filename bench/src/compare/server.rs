//! A server as a process on one core, from its start to its end.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::clock::pin;

/// A server answers after this time.
const START_MAX: Duration = Duration::from_secs(20);
/// It ends this long after it was asked to, or is killed.
const STOP_MAX: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(50);
/// Of a server's output as much is shown when it does not start.
const OUTPUT_SHOWN: usize = 2_000;

/// A running server; it is stopped when this is dropped.
pub(super) struct Server {
    child: Child,
    output: PathBuf,
}

impl Server {
    /// Starts `command` on `core` and waits until something answers HTTP at `url`.
    pub(super) fn start(command: &str, url: &str, core: usize) -> anyhow::Result<Self> {
        let authority = authority(url).with_context(|| format!("{url:?} is not like ws://host:port"))?;
        if answers(authority) {
            bail!("something answers at {authority} already");
        }
        let output = std::env::temp_dir().join(format!("bench-compare-{}.log", std::process::id()));
        let log = File::create(&output).with_context(|| format!("writing {}", output.display()))?;
        let child = pinned(core, Command::new("sh").arg("-c").arg(format!("exec {command}")))
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .context("starting the server's command")?;
        let mut server = Self { child, output };
        let start = Instant::now();
        while !answers(authority) {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended at once ({status}): {}", server.last_words());
            }
            if start.elapsed() > START_MAX {
                bail!("the server does not answer at {authority}: {}", server.last_words());
            }
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn last_words(&self) -> String {
        let text = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(OUTPUT_SHOWN)..]).into_owned()
    }

    fn ends_within(&mut self, time: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < time {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // SAFETY: no memory is involved; the child has not been waited for, so the pid is still its own.
            unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
            if !self.ends_within(STOP_MAX) {
                // It may have ended just now.
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // A log left behind does no harm.
        let _ = std::fs::remove_file(&self.output);
    }
}

/// Makes a command run on one core, and end with this process.
pub(super) fn pinned(core: usize, command: &mut Command) -> &mut Command {
    let prepare = move || {
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
        pin(core)
    };
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(prepare) }
}

/// `host:port` of a URL.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    authority.contains(':').then_some(authority)
}

fn answers(authority: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = authority.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_authority_is_between_scheme_and_path() {
        assert_eq!(authority("ws://127.0.0.1:7880/rtc"), Some("127.0.0.1:7880"));
        assert_eq!(authority("127.0.0.1:7880"), None);
        assert_eq!(authority("ws://127.0.0.1"), None);
    }

    #[test]
    fn a_command_that_fails_is_reported_with_its_words() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Server::start("ls /no-such-directory", &format!("ws://{free}"), 0).err().unwrap().to_string();
        assert!(error.contains("no-such-directory"), "{error}");
    }

    #[test]
    fn a_taken_port_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Closed with the request unread, the connection would be reset, and the answer might be lost.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        });
        let error = Server::start("true", &format!("ws://{address}"), 0).err().unwrap().to_string();
        assert!(error.contains("already"), "{error}");
        other.join().unwrap();
    }
}
