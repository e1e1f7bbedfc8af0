//! What a browser could leave behind: processes that name its profile, files in the profiles folder, guards.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes whose command line or environment names `path`, as seen by somebody who does not trust the crate.
pub(crate) fn processes_naming(path: &Path) -> Vec<String> {
    let wanted = path.as_os_str().as_encoded_bytes();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let (command, environment) = (read("cmdline"), read("environ"));
            let names = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
            (names(&command) || names(&environment))
                .then(|| format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " ")))
        })
        .collect()
}

/// Files and folders in the profiles folder that belong to ephemeral profiles.
pub(crate) fn ephemeral_files(profiles: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(profiles) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("ephemeral-")).collect()
}

/// Polls until nothing is left in or of `profiles`, at most `limit`.
pub(crate) fn none_left(profiles: &Path, limit: Duration) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + limit;
    loop {
        let (processes, files) = (processes_naming(profiles), ephemeral_files(profiles));
        if processes.is_empty() && files.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let shown: Vec<String> = processes.iter().map(|line| line.chars().take(160).collect()).collect();
            return Err(format!("after {limit:?} there are left: processes {shown:#?}, files {files:?}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The guards among the children of `parent`.
pub(crate) fn guards_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            let parent_of = fields.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok());
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            parent_of == Some(parent) && command.windows(13).any(|window| window == b"tabpool-guard")
        })
        .collect()
}
