//! The machine and the browsers, so that figures can be judged later.

use std::fmt;
use std::fs;
use std::num::NonZeroUsize;

use serde::Serialize;
use tabpool::BrowserKind;
use tabpool_browser::Installed;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    system: String,
    browsers: Vec<String>,
}

impl Machine {
    pub(crate) fn read(browsers: &[Installed]) -> Self {
        let line_of = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
            line.and_then(|line| {
                line.split_once([':', '=']).map(|(_, value)| value.trim().trim_matches('"').to_owned())
            })
        };
        let unknown = || "unknown".to_owned();
        let memory = line_of("/proc/meminfo", "MemTotal").and_then(|m| m.split(' ').next()?.parse::<u64>().ok());
        Self {
            processor: line_of("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            memory_gib: memory.unwrap_or_default() >> 20,
            system: line_of("/etc/os-release", "PRETTY_NAME").unwrap_or_else(unknown),
            browsers: browsers.iter().map(|b| format!("{} {}", b.kind, b.version)).collect(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory_gib, system, browsers } = self;
        write!(f, "{processor}, {cores} cores, {memory_gib} GiB, {system}")?;
        if browsers.is_empty() { Ok(()) } else { write!(f, "; {}", browsers.join(", ")) }
    }
}

/// Whether a browser is one that has WebNN.
pub(crate) fn has_webnn(on: &Installed) -> bool {
    !matches!(on.kind, BrowserKind::Chromium | BrowserKind::Chrome | BrowserKind::Edge | BrowserKind::Firefox)
}
