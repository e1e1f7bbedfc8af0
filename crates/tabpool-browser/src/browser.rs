//! One running browser: started, watched and ended.
//!
//! Every browser has an *undertaker*, a thread that waits for the browser's first process, then ends what is left
//! of the others, removes the profile, sends the guard home and publishes the reason. However a browser ends (by
//! itself, by [`Browser::close`], [`Browser::kill`] or a drop, or by somebody else's signal), it is that one path
//! that cleans up. It is a thread and not a task, because a drop must work without a runtime.
//!
//! *Invariant*: the first process stays unreaped until every other process of the browser is gone, so its number,
//! which is also the group's, never names a stranger while something is sent to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::arguments::{self, Surroundings};
use crate::discover::Installed;
use crate::guard::Guard;
use crate::kind::{BrowserKind, EngineFamily};
use crate::log::LogTail;
use crate::options::LaunchOptions;
use crate::process::{self, PROFILE_VARIABLE, ProcessInfo};
use crate::profile::{Profile, ProfileError};
use crate::signal::{self, Signal};
use crate::sweep;

/// How long the processes of a browser may take to be gone after SIGKILL. One that waits for a disk or a driver
/// takes longer than a signal; past this the guard is left to it.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How long a drop blocks at most. It covers [`END_LIMIT`] and the removal of the profile.
const DROP_LIMIT: Duration = Duration::from_secs(8);
/// How long the last words of a browser are waited for.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(500);

/// Why a browser could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The page is not something a browser could open.
    #[error("cannot open {url:?} in {kind}: it is not an http, https, about or data URL")]
    Url {
        /// The browser.
        kind: BrowserKind,
        /// The page as it was given.
        url: String,
    },
    /// There is no profile for it.
    #[error("no profile for {kind}")]
    Profile {
        /// The browser.
        kind: BrowserKind,
        /// Why not.
        source: ProfileError,
    },
    /// The operating system would not start a process.
    #[error("cannot start {what} {}", path.display())]
    Start {
        /// The browser, its guard or one of its threads.
        what: &'static str,
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It started and ended before it could have opened a page.
    #[error("{kind} at {} ended at once: {reason}", path.display())]
    EndedAtOnce {
        /// The browser.
        kind: BrowserKind,
        /// The program.
        path: PathBuf,
        /// How it ended, with what it wrote.
        reason: ExitReason,
    },
    /// Nothing on this platform would end the browser if the host died, so none is started.
    #[error("starting browsers is not supported on this platform: nothing would end them after the host's death")]
    Platform,
}

/// How a browser ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// It was asked to by [`Browser::close`] and did so in time.
    Closed,
    /// This process ended it: [`Browser::kill`], a drop, or a close that took too long.
    Killed,
    /// It ended by itself.
    Exited {
        /// Its exit code.
        code: i32,
        /// How long it had run.
        after: Duration,
        /// The end of what it wrote.
        log_tail: String,
    },
    /// A signal ended it that this process did not send: a crash, or somebody's `kill`.
    Signalled {
        /// The signal's number.
        signal: i32,
        /// How long it had run.
        after: Duration,
        /// The end of what it wrote.
        log_tail: String,
    },
}

impl fmt::Display for ExitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, number, after, log_tail) = match self {
            Self::Closed => return formatter.write_str("closed"),
            Self::Killed => return formatter.write_str("killed by this process"),
            Self::Exited { code, after, log_tail } => ("exit code", code, after, log_tail),
            Self::Signalled { signal, after, log_tail } => ("signal", signal, after, log_tail),
        };
        write!(formatter, "{what} {number} after {:.1} s", after.as_secs_f64())?;
        // The whole tail is in the value; a message gets its last line, which is where a dying program says why.
        match log_tail.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => write!(formatter, ", last output: {}", line.trim()),
            None => formatter.write_str(", no output"),
        }
    }
}

/// Names one launch within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrowserId(u64);

impl BrowserId {
    fn next() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

impl fmt::Display for BrowserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "browser-{}", self.0)
    }
}

/// A browser this process started. Dropping it ends the browser and removes an ephemeral profile before the drop
/// returns, which takes some tens of milliseconds and never more than eight seconds; prefer [`Browser::close`] in
/// asynchronous code.
#[derive(Debug)]
pub struct Browser {
    id: BrowserId,
    kind: BrowserKind,
    profile: PathBuf,
    log: Arc<LogTail>,
    life: Arc<Life>,
    exit: watch::Receiver<Option<ExitReason>>,
}

/// What the handle and the undertaker share.
#[derive(Debug)]
struct Life {
    pid: u32,
    profile: PathBuf,
    state: Mutex<LifeState>,
    buried: Condvar,
}

#[derive(Debug, Default)]
struct LifeState {
    /// Why this process ended it, if it did.
    intent: Option<ExitReason>,
    /// The number may belong to somebody else from here on.
    reaped: bool,
    /// Nothing is left to do.
    buried: bool,
}

impl Browser {
    /// Starts `installed` and watches it for [`LaunchOptions::settle`].
    ///
    /// Cancel safe: a launch dropped half-way ends what it started.
    ///
    /// # Errors
    /// When the profile cannot be had, when no process can be started, and when the browser ends at once.
    pub async fn launch(installed: &Installed, options: LaunchOptions) -> Result<Self, LaunchError> {
        let (kind, path, settle) = (installed.kind, installed.path.clone(), options.settle);
        // Locks, folders and forks are file system work. The runtime only refuses a task like this while it shuts
        // down, and then nobody waits for the answer either.
        let program = path.clone();
        let started = tokio::task::spawn_blocking(move || start(kind, &program, &options)).await;
        let browser = started.map_err(|error| LaunchError::Start {
            what: "the launch of",
            path: path.clone(),
            source: io::Error::other(error),
        })??;
        match tokio::time::timeout(settle, browser.wait()).await {
            Ok(reason) => Err(LaunchError::EndedAtOnce { kind, path, reason }),
            Err(_) => Ok(browser),
        }
    }

    /// This launch's own id.
    #[must_use]
    pub fn id(&self) -> BrowserId {
        self.id
    }

    /// The number of the browser's first process, which is also its group's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.life.pid
    }

    /// Which browser it is.
    #[must_use]
    pub fn kind(&self) -> BrowserKind {
        self.kind
    }

    /// Its profile folder.
    #[must_use]
    pub fn profile(&self) -> &Path {
        &self.profile
    }

    /// The end of what it wrote to stdout and stderr, at most 64 KiB.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.log.text()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit_reason(&self) -> Option<ExitReason> {
        self.exit.borrow().clone()
    }

    /// Waits until it has ended and everything of it is cleaned up. Cancel safe, and may be called again.
    pub async fn wait(&self) -> ExitReason {
        self.ended().await
    }

    /// The end of the browser as a future that does not keep it alive: for tasks that watch it while its owner may drop
    /// it. Cancel safe.
    pub fn ended(&self) -> impl Future<Output = ExitReason> + Send + use<> {
        let mut exit = self.exit.clone();
        async move {
            match exit.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or(ExitReason::Killed),
                // The undertaker publishes before it ends; it can only be gone by a panic, and the guard then cleans up.
                Err(_) => ExitReason::Killed,
            }
        }
    }

    /// Asks it to end, and kills it when it has not after `grace`. Returns when everything of it is cleaned up.
    pub async fn close(&self, grace: Duration) -> ExitReason {
        self.life.end(ExitReason::Closed, Signal::Terminate);
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(reason) => reason,
            Err(_) => {
                self.kill();
                self.wait().await
            }
        }
    }

    /// Kills it. Returns at once; [`Browser::wait`] tells when everything is cleaned up.
    pub fn kill(&self) {
        self.life.end(ExitReason::Killed, Signal::Kill);
    }

    /// All its processes.
    #[must_use]
    pub fn process_tree(&self) -> Vec<ProcessInfo> {
        if self.life.lock().reaped { Vec::new() } else { process::of_browser(Some(self.life.pid), &self.profile) }
    }

    /// The memory all its processes occupy in bytes, shared pages counted once (PSS). `None` on platforms that do
    /// not tell. Reading it costs the kernel some milliseconds a process.
    #[must_use]
    pub fn resident_memory(&self) -> Option<u64> {
        process::memory(self.process_tree().into_iter().map(|process| process.pid))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.life.lock().buried {
            return;
        }
        self.kill();
        let state = self.life.lock();
        // After a time-out the undertaker goes on, and should the host end before it is done, the guard does.
        drop(self.life.buried.wait_timeout_while(state, DROP_LIMIT, |state| !state.buried));
    }
}

impl Life {
    /// Sends `signal` and remembers why, unless the browser has ended by itself.
    fn end(&self, intent: ExitReason, signal: Signal) {
        let mut state = self.lock();
        if state.reaped {
            return;
        }
        state.intent = Some(intent);
        match signal {
            // The first process ends the others in its own order.
            Signal::Terminate => signal::send(self.pid, signal),
            Signal::Kill => {
                // Listed before the first is killed: orphans lose the parent by which they are found.
                let members = process::of_browser(Some(self.pid), &self.profile);
                signal::send_to_group(self.pid, signal);
                for member in members {
                    signal::send(member.pid, signal);
                }
            }
        }
    }

    /// A poisoned lock still holds three sound fields.
    fn lock(&self) -> MutexGuard<'_, LifeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blocking part of a launch. What fails once the browser runs is undone by dropping the guard, which ends
/// processes and removes an ephemeral profile.
fn start(kind: BrowserKind, program: &Path, options: &LaunchOptions) -> Result<Browser, LaunchError> {
    if !cfg!(unix) {
        return Err(LaunchError::Platform);
    }
    if !["http://", "https://", "about:", "data:"].iter().any(|scheme| options.url.starts_with(scheme)) {
        return Err(LaunchError::Url { kind, url: options.url.clone() });
    }
    let profile = Profile::acquire(&options.profiles, &options.profile)
        .map_err(|source| LaunchError::Profile { kind, source })?;
    let folder = profile.folder().to_owned();
    if profile.ephemeral_lock().is_none() {
        // A host that died may have left a browser on a kept profile. This process holds the lock now, so whoever
        // is there has no owner.
        sweep::end_users(&folder);
        crate::profile::remove_socket_folder(&folder);
    }
    let (mut guard, child, log) = match prepare(kind, program, options, &profile) {
        Ok(prepared) => prepared,
        Err(error) => {
            // No process was started. The reason it was not is the one worth reporting.
            drop(profile.release());
            return Err(error);
        }
    };
    let pid = child.id();
    // A guard that is gone cannot be told. The browser's own guard is a condition of starting it.
    let watched = guard.watch(pid);
    let life = Arc::new(Life { pid, profile: folder.clone(), state: Mutex::default(), buried: Condvar::new() });
    let (publish, exit) = watch::channel(None);
    let undertaker = Undertaker {
        child,
        profile,
        guard,
        log: Arc::clone(&log),
        life: Arc::clone(&life),
        publish,
        started: Instant::now(),
    };
    thread::Builder::new()
        .name(format!("undertaker-{pid}"))
        .spawn(move || undertaker.run())
        .map_err(start_error("a thread for", program))?;
    let browser = Browser { id: BrowserId::next(), kind, profile: folder, log, life, exit };
    watched.map_err(start_error("the guard of", program))?;
    Ok(browser)
}

fn start_error(what: &'static str, program: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::Start { what, path: program.to_owned(), source }
}

/// Fills the profile and starts the guard, then the browser. On failure neither runs.
fn prepare(
    kind: BrowserKind,
    program: &Path,
    options: &LaunchOptions,
    profile: &Profile,
) -> Result<(Guard, Child, Arc<LogTail>), LaunchError> {
    let folder = profile.folder();
    if kind.engine() == EngineFamily::Gecko {
        let path = folder.join("user.js");
        std::fs::write(&path, arguments::user_js(options)).map_err(|source| LaunchError::Profile {
            kind,
            source: ProfileError::Io { action: "write", path, source },
        })?;
    }
    let guard = profile
        .share_lock()
        .and_then(|held| Guard::start(folder, held, profile.ephemeral_lock()))
        .map_err(start_error("the guard of", program))?;
    match spawn(kind, program, options, folder) {
        Ok((child, log)) => Ok((guard, child, log)),
        Err(error) => {
            guard.dismiss();
            Err(start_error("the browser", program)(error))
        }
    }
}

/// Starts the process. An error means that none was started.
fn spawn(
    kind: BrowserKind,
    program: &Path,
    options: &LaunchOptions,
    profile: &Path,
) -> io::Result<(Child, Arc<LogTail>)> {
    // One pipe for both streams, so that the tail has them in the order in which they were written.
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments::arguments(kind.engine(), options, profile, Surroundings::here()))
        .envs(arguments::environment(kind.engine(), profile))
        .envs(arguments::library_path(kind, program))
        .envs(options.environment.iter().map(|(name, value)| (name, value)))
        .env(PROFILE_VARIABLE, profile)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    signal::in_own_session(&mut command);
    // The command holds write ends of the pipe until it is dropped at the end of this function; the tail ends after
    // that, with the last process of the browser.
    let log = LogTail::drain(reader)?;
    Ok((command.spawn()?, log))
}

/// Owns all that must be undone when a browser ends.
struct Undertaker {
    child: Child,
    profile: Profile,
    guard: Guard,
    log: Arc<LogTail>,
    life: Arc<Life>,
    publish: watch::Sender<Option<ExitReason>>,
    started: Instant,
}

impl Undertaker {
    fn run(mut self) {
        // It fails only for a child that is none, which would be reaped elsewhere; what follows is right then too.
        drop(signal::wait_without_reaping(self.child.id()));
        let after = self.started.elapsed();
        let all_gone = self.end_the_rest();
        let status = self.reap();
        self.log.wait_for_end(LAST_WORDS_LIMIT);
        let reason = self.reason(status, after);
        if all_gone && self.profile.release().is_ok() {
            self.guard.dismiss();
        } else {
            // Something holds on: the guard tries for longer than a host should wait.
            self.guard.hand_over();
        }
        self.publish.send_replace(Some(reason));
        self.life.lock().buried = true;
        self.life.buried.notify_all();
    }

    /// Kills every process but the first, which has ended. Says whether all went in time.
    fn end_the_rest(&self) -> bool {
        let (pid, deadline) = (self.life.pid, Instant::now() + END_LIMIT);
        loop {
            signal::send_to_group(pid, Signal::Kill);
            let rest = process::of_browser(Some(pid), &self.life.profile);
            if rest.is_empty() {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            for process in rest {
                signal::send(process.pid, Signal::Kill);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn reap(&mut self) -> Option<std::process::ExitStatus> {
        let mut state = self.life.lock();
        state.reaped = true;
        self.child.wait().ok()
    }

    fn reason(&self, status: Option<std::process::ExitStatus>, after: Duration) -> ExitReason {
        if let Some(intent) = self.life.lock().intent.take() {
            return intent;
        }
        let log_tail = self.log.text();
        match (status.and_then(signal_of), status.and_then(|status| status.code())) {
            (Some(signal), _) => ExitReason::Signalled { signal, after, log_tail },
            (None, code) => ExitReason::Exited { code: code.unwrap_or(-1), after, log_tail },
        }
    }
}

#[cfg(unix)]
fn signal_of(status: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_status: std::process::ExitStatus) -> Option<i32> {
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Browser, ExitReason, LaunchError};

    #[test]
    fn handles_may_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Browser>();
        crosses::<LaunchError>();
    }

    #[test]
    fn a_reason_reads_as_one_line_with_the_last_thing_said() {
        let log_tail = "first\n  libfoo.so: cannot open\n\n".to_owned();
        let reason = ExitReason::Exited { code: 127, after: Duration::from_millis(1250), log_tail };
        assert_eq!(reason.to_string(), "exit code 127 after 1.2 s, last output: libfoo.so: cannot open");
        let silent = ExitReason::Signalled { signal: 9, after: Duration::ZERO, log_tail: String::new() };
        assert_eq!(silent.to_string(), "signal 9 after 0.0 s, no output");
    }
}
