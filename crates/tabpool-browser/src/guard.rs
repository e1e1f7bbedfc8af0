//! The guard process of a browser: a small shell script that outlives the host and cleans up after its death.
//!
//! A host killed by SIGKILL runs no code of its own, and a parent-death signal is Linux only and fires when the
//! *thread* that forked ends, which on a thread pool is any moment. A pipe has neither fault: the kernel closes the
//! host's end however the host ends, and the guard, which lives in a session of its own and ignores every signal it
//! can, then does the work. The script is `guard.sh`, and it says what it does.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::signal::{self, Signal};

const SCRIPT: &str = include_str!("guard.sh");

/// How long a dismissed guard may take to end before it is killed. It has nothing left to do but to exit.
const DISMISSAL_LIMIT: Duration = Duration::from_secs(2);
/// How long a guard may clean up while the host lives. The script's own limit is 200 rounds of 50 ms and the
/// searches between them.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(30);

/// A running guard. Dropping it without [`Guard::dismiss`] makes it clean up.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    /// The only write end. The standard library opens it close-on-exec, so that no browser inherits it; one that
    /// did would keep the guard waiting after the host's death.
    input: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard for `profile`. It is started before the browser, so that at no time a browser is unguarded.
    /// With `lock` the profile is ephemeral: the guard removes both.
    pub(crate) fn start(profile: &Path, lock: Option<&Path>) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "tabpool-guard"])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        signal::in_own_session(&mut command);
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let mut guard = Self { child, input };
        let lock = lock.map_or(OsStr::new(""), Path::as_os_str);
        guard.tell(&[profile.as_os_str().as_encoded_bytes(), b"\n", lock.as_encoded_bytes(), b"\n"].concat())?;
        Ok(guard)
    }

    /// Tells the guard which process leads the browser.
    pub(crate) fn watch(&mut self, browser: u32) -> io::Result<()> {
        self.tell(format!("browser {browser}\n").as_bytes())
    }

    fn tell(&mut self, bytes: &[u8]) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(bytes)?;
        input.flush()
    }

    /// Sends the guard home: everything is clean. A guard that somebody killed is only reaped.
    pub(crate) fn dismiss(mut self) {
        // A failed write means that the guard is gone, which is what was wanted.
        drop(self.tell(b"done\n"));
        self.reap_within(DISMISSAL_LIMIT);
    }

    /// Leaves the cleaning to the guard, as the host's death would, and waits for it.
    pub(crate) fn hand_over(self) {
        self.reap_within(HAND_OVER_LIMIT);
    }

    fn reap_within(mut self, limit: Duration) {
        self.input = None;
        let deadline = Instant::now() + limit;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                signal::send(self.child.id(), Signal::Kill);
                drop(self.child.wait());
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
