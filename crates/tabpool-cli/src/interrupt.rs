//! Ctrl-C and SIGTERM: the first asks for an orderly end, a second one ends the program at once.
//!
//! Browsers do not depend on this: whatever way the program ends, their guards end them. An orderly end also answers
//! what waits and writes what was measured.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long an orderly end may take before the program ends anyway.
const PATIENCE: Duration = Duration::from_secs(25);

/// The work was given up because somebody asked for an end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted {
    signal: u8,
}

impl Interrupted {
    /// As shells have it: 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.signal
    }
}

/// Watches for signals from its making on.
pub(crate) struct Interrupt {
    asked: watch::Receiver<Option<Interrupted>>,
    watching: JoinHandle<()>,
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Interrupt {
    /// Begins to watch. Must be called inside of the runtime.
    pub(crate) fn watch() -> Result<Self> {
        let (sender, asked) = watch::channel(None);
        let mut signals = Signals::new().context("cannot watch for signals")?;
        let watching = tokio::spawn(async move {
            let first = signals.next().await;
            // Whoever waits is told; with nobody waiting the program is about to end anyway.
            let _ = sender.send(Some(first));
            let again = tokio::time::timeout(PATIENCE, signals.next()).await.unwrap_or(first);
            std::process::exit(i32::from(again.exit_code()));
        });
        Ok(Self { asked, watching })
    }

    /// Does the work unless, or until, somebody asks for an end: then the work is dropped.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut asked = self.asked.clone();
        tokio::select! {
            biased;
            Ok(asked) = asked.wait_for(Option::is_some) => Err(asked.unwrap_or(Interrupted { signal: 2 }).into()),
            result = work => result,
        }
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Interrupted {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        };
        Interrupted { signal }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Interrupted {
        if tokio::signal::ctrl_c().await.is_err() {
            // No signals on this system: nothing will ever be asked.
            std::future::pending::<()>().await;
        }
        Interrupted { signal: 2 }
    }
}
