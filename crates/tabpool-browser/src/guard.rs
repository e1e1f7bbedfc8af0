//! The guard process of a browser: a small shell script that outlives the host and cleans up after its death.
//!
//! A host killed by SIGKILL runs no code of its own, and a parent-death signal is Linux only and fires when the
//! *thread* that forked ends, which on a thread pool is any moment. A pipe has neither fault: the kernel closes the
//! host's end however the host ends, and the guard, which lives in a session of its own and ignores every signal it
//! can, then does the work. The script is `guard.sh`, and it says what it does.

use std::ffi::OsStr;
use std::fs::File;
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
    ///
    /// `held` is the profile's locked file. The guard gets it as its stdout, to which it writes nothing, so that the
    /// lock outlives the host until the guard has finished: nobody can take a kept profile while the guard still
    /// ends whatever runs on it. With `lock`, that file's path, the profile is ephemeral: the guard removes both.
    pub(crate) fn start(profile: &Path, held: File, lock: Option<&Path>) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "tabpool-guard"])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(held)
            .stderr(Stdio::null());
        signal::in_own_session(&mut command);
        signal::ignoring_orderly_ends(&mut command);
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

#[cfg(all(test, unix))]
mod tests {
    use std::error::Error;
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::Guard;
    use crate::process;

    /// Stands in for a browser: a shell that leads a group and has started one process in its group and one out of
    /// it, which is recognised by nothing but `recognised_by`. Returns when both run.
    fn fake_browser(profile: &Path, recognised_by: &str) -> Result<Child, Box<dyn Error>> {
        // With `set -m` a shell gives each of its background processes a group of its own.
        let script = format!("sleep 300 & set -m; {recognised_by} & echo started; wait");
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script, "sh"])
            .env("PROFILE", profile)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        assert_eq!(line, "started\n");
        Ok(child)
    }

    fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn profile_in(root: &Path) -> std::io::Result<(std::path::PathBuf, std::path::PathBuf)> {
        let (profile, lock) = (root.join("ephemeral-1-aa"), root.join("ephemeral-1-aa.lock"));
        fs::create_dir(&profile)?;
        fs::write(profile.join("file with spaces"), "x")?;
        fs::write(&lock, "")?;
        Ok((profile, lock))
    }

    #[test]
    fn a_guard_that_lost_its_host_ends_every_process_and_removes_the_profile() -> Result<(), Box<dyn Error>> {
        let ways = [
            "sleep 300",                                                         // By descent only.
            "TABPOOL_PROFILE=$PROFILE sh -c 'sleep 300 & exit'",                 // By its environment only.
            "sh -c 'sh -c \"sleep 300; :\" sh --user-data-dir=$PROFILE & exit'", // By its command line only.
        ];
        for way in ways {
            let root = tempfile::tempdir()?;
            let (profile, lock) = profile_in(root.path())?;
            let mut guard = Guard::start(&profile, File::open(&lock)?, Some(&lock))?;
            let mut browser = fake_browser(&profile, way)?;
            let pid = browser.id();
            guard.watch(pid)?;
            eventually("three processes", || process::of_browser(Some(pid), &profile).len() >= 3);
            let members = process::of_browser(Some(pid), &profile);

            // What the kernel does when the host dies; the child is ours, so it is also ours to reap.
            drop(guard);
            browser.wait()?;

            eventually(way, || !profile.exists() && !lock.exists());
            let alive = process::table(&profile);
            for member in members {
                assert!(alive.iter().all(|row| row.info != member), "{way}: {member:?} still runs");
            }
        }
        Ok(())
    }

    #[test]
    fn a_dismissed_guard_touches_nothing() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let (profile, lock) = profile_in(root.path())?;
        let mut guard = Guard::start(&profile, File::open(&lock)?, Some(&lock))?;
        let mut browser = fake_browser(&profile, "sleep 300")?;
        guard.watch(browser.id())?;
        let guard_pid = guard.child.id();
        guard.dismiss();
        assert!(process::table(&profile).iter().all(|row| row.info.pid != guard_pid), "the guard still runs");
        assert!(browser.try_wait()?.is_none());
        assert!(profile.exists() && lock.exists());
        // The other way ends the process and, without a lock file named, keeps the folder.
        let mut guard = Guard::start(&profile, File::open(&lock)?, None)?;
        guard.watch(browser.id())?;
        guard.hand_over();
        browser.wait()?;
        assert!(profile.exists());
        Ok(())
    }

    #[test]
    fn a_guard_ignores_the_signals_of_a_terminal_and_of_an_orderly_end() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let (profile, lock) = profile_in(root.path())?;
        let guard = Guard::start(&profile, File::open(&lock)?, Some(&lock))?;
        // At once: the script may not have run its first line, and need not have.
        let pid = guard.child.id().to_string();
        for signal in ["HUP", "INT", "TERM", "QUIT"] {
            assert!(Command::new("kill").args(["-s", signal, &pid]).status()?.success());
        }
        assert!(profile.exists(), "a signal made the guard clean up under a living host");
        drop(guard);
        eventually("clean-up", || !profile.exists());
        Ok(())
    }
}
