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
    };
    let status = Command::new("kill").args(["-s", name, "--", &target.to_string()]).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -s {name} {target}: {status}").into()) }
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
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; the state and the parent follow it.
    let parent = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    (parent != 0).then_some(parent)
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
