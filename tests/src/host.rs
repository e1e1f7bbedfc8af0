//! A host of its own process, for cases in which the host ends. `src/bin/pool-host.rs` is its other side.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::processes::{Signal, send};
use crate::scene::eventually;
use crate::{Fault, Outcome, require};

/// What a host says once its workers have joined.
pub const READY: &str = "ready";

/// A host that runs, and does not outlive its case.
pub struct Host {
    child: Child,
    input: ChildStdin,
}

impl Host {
    /// Starts a host on a data directory with fresh profiles of these browsers, and waits until they have joined.
    ///
    /// # Errors
    /// Where it does not get that far.
    pub async fn start(program: &OsStr, data: &Path, browsers: &[&str]) -> Result<Self, Fault> {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A terminal's Ctrl-C goes to the group of what it started: this makes the host such a group.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        let mut host = Self { child, input };
        // Told over a pipe: in its arguments or environment the folder would make it look like one of its browsers.
        host.tell(&format!("{}\n{}", data.display(), browsers.join(",")))?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        });
        let line = line.await??;
        require(line.trim_end() == READY, || format!("the host said {line:?}"))?;
        Ok(host)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Orders an end: `drop` or `close`.
    ///
    /// # Errors
    /// Where it does not listen any more.
    pub fn tell(&mut self, line: &str) -> Outcome {
        writeln!(self.input, "{line}")?;
        Ok(self.input.flush()?)
    }

    /// Sends it a signal; an interrupt goes to its whole group, as a terminal's does.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> Outcome {
        let pid = i64::from(self.child.id());
        send(signal, if signal == Signal::Interrupt { -pid } else { pid })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it does not end within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus, Fault> {
        let child = &mut self.child;
        eventually("the host's end", limit, || child.try_wait().transpose()).await?.map_err(Into::into)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both fail for a host that has ended, which is the usual case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
