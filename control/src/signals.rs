//! What the signals of the operating system mean to the server.
//!
//! SIGTERM, SIGINT and SIGQUIT stop it in order, a second one at once. SIGHUP, which a closing terminal sends and others
//! use for reloading, and SIGUSR1 and SIGUSR2 would end a process that says nothing of them; here they change nothing.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

/// Signals that stop the server, and their names.
const STOPPING: [(SignalKind, &str); 3] =
    [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM"), (SignalKind::quit(), "SIGQUIT")];

/// Signals that change nothing, and their names.
const IGNORED: [(SignalKind, &str); 3] = [
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::user_defined1(), "SIGUSR1"),
    (SignalKind::user_defined2(), "SIGUSR2"),
];

/// Two futures: the first signal to stop, and the second. Must be called inside a tokio runtime.
///
/// # Errors
/// The system does not let us listen.
pub fn listen() -> anyhow::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
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
