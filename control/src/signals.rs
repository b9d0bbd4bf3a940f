//! What the signals of the operating system mean to the server.
//!
//! SIGTERM, SIGINT and SIGQUIT stop it in order, a second one at once. SIGHUP, which a closing terminal sends and
//! others use for reloading, and SIGUSR1 and SIGUSR2 would end a process that says nothing of them; here they change
//! nothing. SIGXFSZ would as well: here the write that raised it fails, and whoever wrote says so.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

/// Signals that stop the server, and their names.
const STOPPING: [(SignalKind, &str); 3] =
    [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM"), (SignalKind::quit(), "SIGQUIT")];

/// Signals that change nothing, and their names.
const IGNORED: [(SignalKind, &str); 3] = [
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::user_defined1(), "SIGUSR1"),
    (SignalKind::user_defined2(), "SIGUSR2"),
];

/// Lets a write beyond the largest file that this process may have (setrlimit(2), `RLIMIT_FSIZE`) fail with EFBIG,
/// where it would end the process. Must be called inside a tokio runtime.
///
/// # Errors
/// The system does not let us listen.
pub fn outlive_the_file_limit() -> anyhow::Result<()> {
    let mut raised = subscribe(SignalKind::from_raw(libc::SIGXFSZ))?;
    tokio::spawn(async move {
        // Once: a write that fails is tried again and again.
        if raised.recv().await.is_some() {
            error!("a file is as large as this process may make one, and writes fail: raise its limit (ulimit -f)");
        }
        while raised.recv().await.is_some() {}
    });
    Ok(())
}

/// Two futures: the first signal to stop, and the second. Must be called inside a tokio runtime.
///
/// # Errors
/// The system does not let us listen.
pub fn listen() -> anyhow::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    outlive_the_file_limit()?;
    for (kind, name) in IGNORED {
        tokio::spawn(ignore(subscribe(kind)?, name));
    }
    let (sender, mut first) = mpsc::channel(2);
    for (kind, name) in STOPPING {
        tokio::spawn(pass_on(subscribe(kind)?, name, sender.clone()));
    }
    let (again, second) = oneshot::channel();
    let stop = async move {
        first.recv().await;
        tokio::spawn(async move {
            first.recv().await;
            let _ = again.send(());
        });
    };
    let stop_now = async move {
        let _ = second.await;
    };
    Ok((stop, stop_now))
}

fn subscribe(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot listen for signals")
}

async fn ignore(mut signal: Signal, name: &'static str) {
    while signal.recv().await.is_some() {
        info!(signal = name, "signal ignored: nothing is reloaded, a changed configuration needs a restart");
    }
}

async fn pass_on(mut signal: Signal, name: &'static str, stop: mpsc::Sender<()>) {
    while signal.recv().await.is_some() {
        info!(signal = name, "asked to stop");
        if stop.send(()).await.is_err() {
            return;
        }
    }
}
