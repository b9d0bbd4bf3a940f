//! A server as a process of this one, from its start to its end.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use super::stranger::Target;

/// A server answers after this time.
const START_MAX: Duration = Duration::from_secs(20);
/// It ends this long after it was asked to, or is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// Of a server's output as much is shown when it does not start.
const OUTPUT_SHOWN: usize = 2_000;

/// A running server; it is stopped when this is dropped.
pub(super) struct Server {
    child: Child,
    output: PathBuf,
}

impl Server {
    /// Starts `command` and waits until something answers HTTP at `url`.
    pub(super) async fn start(command: &str, url: &str) -> anyhow::Result<Self> {
        let target = Target::parse(url)?;
        if target.answers().await {
            bail!("something answers at {url} already");
        }
        let output = std::env::temp_dir().join(format!("hostile-{}.log", std::process::id()));
        let log = File::create(&output).with_context(|| format!("writing {}", output.display()))?;
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("exec {command}"))
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .context("starting the server's command")?;
        let mut server = Self { child, output };
        let start = Instant::now();
        while !target.answers().await {
            if server.has_ended() {
                bail!("the server ended at once: {}", server.last_words());
            }
            if start.elapsed() > START_MAX {
                bail!("the server does not answer at {url}: {}", server.last_words());
            }
            sleep(LOOK).await;
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn last_words(&self) -> String {
        let text = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(OUTPUT_SHOWN)..]).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.has_ended() {
            // SAFETY: no memory is involved; the child has not been waited for, so the pid is still its own.
            unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
            let start = Instant::now();
            while !self.has_ended() && start.elapsed() < STOP_MAX {
                std::thread::sleep(LOOK);
            }
            // It may have ended just now.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A log left behind does no harm.
        let _ = std::fs::remove_file(&self.output);
    }
}
