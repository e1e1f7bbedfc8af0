//! Processes and folders as somebody sees them who does not trust the crates: through `/proc` and the `kill` program.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::scene::eventually;
use crate::{Fault, Outcome};

/// Signals by the names that `kill` knows, so that no unsafe code is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// What a terminal sends on Ctrl-C.
    Interrupt,
    /// What `kill` sends when nothing else is said.
    Terminate,
    /// What no process can catch.
    Kill,
    /// Holds a process still; no process can catch that either.
    Stop,
    /// Lets it go on.
    Continue,
}

/// Sends a signal to a process, or, where `target` is negative, to a process group.
///
/// # Errors
/// Where there is no such process.
pub fn send(signal: Signal, target: i64) -> Outcome {
    let name = match signal {
        Signal::Interrupt => "INT",
        Signal::Terminate => "TERM",
        Signal::Kill => "KILL",
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
    };
    let status = Command::new("kill").args(["-s", name, "--", &target.to_string()]).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -s {name} {target}: {status}").into()) }
}

/// One process, told from a later one that was given the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in the system's ticks.
    started: u64,
}

impl Process {
    /// The living process of this number. Those that have ended and wait to be reaped do not count.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let fields = stat(pid)?;
        (fields.first()? != "Z").then_some(())?;
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// Sends it a signal, unless it has ended; says whether it was sent.
    #[must_use]
    pub fn send(self, signal: Signal) -> bool {
        Self::of(self.pid) == Some(self) && send(signal, i64::from(self.pid)).is_ok()
    }

    /// It and all that descend from it.
    #[must_use]
    pub fn family(self) -> Vec<Self> {
        descendants(self.pid, "").into_iter().chain([self.pid]).filter_map(Self::of).collect()
    }
}

/// Bytes of memory that this process holds.
#[must_use]
pub fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}

/// Files, sockets and pipes that this process holds open.
#[must_use]
pub fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Processes, other than this one and the living `except`, whose command line or environment names `path`.
#[must_use]
pub fn naming(path: &Path, except: Option<u32>) -> Vec<String> {
    let wanted = path.as_os_str().as_encoded_bytes();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && Some(*pid) != except)
        .filter_map(|pid| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let (command, environment) = (read("cmdline"), read("environ"));
            let names = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
            let line = || String::from_utf8_lossy(&command).replace('\0', " ").chars().take(160).collect::<String>();
            (names(&command) || names(&environment)).then(|| format!("{pid} {}", line()))
        })
        .collect()
}

/// The living processes that descend from `ancestor` and whose command line holds `text`. Chromium's own processes name
/// their kind on it, but not always the profile they belong to.
#[must_use]
pub fn descendants(ancestor: u32, text: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let descends = |pid: u32| std::iter::successors(Some(pid), |&pid| parent(pid)).skip(1).any(|pid| pid == ancestor);
    let says = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).replace('\0', " ").contains(text)
    };
    pids.filter(says).filter(|&pid| descends(pid)).collect()
}

/// The process that started this one; none for the first, and for one that is gone.
fn parent(pid: u32) -> Option<u32> {
    let parent = stat(pid)?.get(1)?.parse().ok()?;
    (parent != 0).then_some(parent)
}

/// What the system says of a process, from its state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; the state and the parent follow it.
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Profiles that are to end with their browser, among the files of a data directory.
#[must_use]
pub fn fresh_profiles(data: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(data.join("profiles")) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| !name.starts_with("keep-")).collect()
}

/// Waits until no process names the profiles of a data directory and no fresh profile is left in it.
///
/// # Errors
/// Where something is left after `limit`; the error lists it.
pub async fn none_left(data: &Path, limit: Duration) -> Outcome {
    let profiles = data.join("profiles");
    let clean = || (naming(&profiles, None).is_empty() && fresh_profiles(data).is_empty()).then_some(());
    let waited = eventually("an end of every browser", limit, clean).await;
    waited.map_err(|e| -> Fault {
        format!("{e}: processes {:#?}, profiles {:?}", naming(&profiles, None), fresh_profiles(data)).into()
    })
}
