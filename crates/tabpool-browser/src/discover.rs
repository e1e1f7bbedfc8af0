//! Which browsers are installed, and which of them answer.
//!
//! Candidates come from overrides, the folders of `PATH` and the places where installers put browsers, in that
//! order. Each is asked for its version under a time limit. Nothing is dropped silently: what does not answer is
//! listed as [`Unusable`] with the reason, and a second way to the same browser becomes an alias.
//!
//! The environment is read by [`SearchPaths::from_env`] alone.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::arguments;
use crate::kind::{BrowserKind, EngineFamily};
use crate::signal::{self, Signal};

/// How a browser was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Named by the caller, or by a `TABPOOL_…` variable.
    Override,
    /// A program of a known name in a folder of `PATH`.
    SearchPath,
    /// A place where installers put browsers on this platform.
    WellKnown,
}

/// A browser that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Which browser it is.
    pub kind: BrowserKind,
    /// The program to start.
    pub path: PathBuf,
    /// Its version as it tells it, for example `156.0.8078.79` or `153.7.0esr`.
    pub version: String,
    /// How it was found.
    pub source: Source,
    /// Other paths found that start the same browser in the same version.
    pub aliases: Vec<PathBuf>,
}

impl Installed {
    /// The leading number of the version.
    #[must_use]
    pub fn major_version(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// A candidate that is no browser one could start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Which browser it was taken for.
    pub kind: BrowserKind,
    /// Where it is.
    pub path: PathBuf,
    /// How it was found.
    pub source: Source,
    /// What is wrong with it.
    pub reason: String,
}

/// What [`discover`] found: by kind, and within a kind in the order of the search.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// Browsers that answered.
    pub installed: Vec<Installed>,
    /// Candidates that did not.
    pub unusable: Vec<Unusable>,
}

impl Discovery {
    /// The browser of this kind to prefer: the first found.
    #[must_use]
    pub fn of_kind(&self, kind: BrowserKind) -> Option<&Installed> {
        self.installed.iter().find(|browser| browser.kind == kind)
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct SearchPaths {
    overrides: Vec<(BrowserKind, PathBuf)>,
    folders: Vec<PathBuf>,
    well_known: Vec<(BrowserKind, PathBuf)>,
    version_limit: Duration,
}

/// A cold browser on a slow disk takes seconds to say its version; past this it hangs.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// A version is one line.
const VERSION_OUTPUT_LIMIT: u64 = 4096;

/// Program names in folders of `PATH`, in the order of preference within a kind.
const PROGRAM_NAMES: [(BrowserKind, &str); 10] = [
    (BrowserKind::Chromium, "chromium"),
    (BrowserKind::Chromium, "chromium-browser"),
    (BrowserKind::Chrome, "google-chrome"),
    (BrowserKind::Chrome, "google-chrome-stable"),
    (BrowserKind::Chrome, "chrome"),
    (BrowserKind::Edge, "microsoft-edge"),
    (BrowserKind::Edge, "microsoft-edge-stable"),
    (BrowserKind::Firefox, "firefox"),
    (BrowserKind::Firefox, "firefox-esr"),
    (BrowserKind::WebNnShell, "webnn-shell"),
];

/// Where `cargo xtask setup` of the workspace that built this program puts the WebNN shell. Programs built elsewhere
/// find it by `PATH` or by its variable.
fn shell_of_workspace() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    Some(workspace.join(".tools/webnn-shell/webnn-shell"))
}

impl SearchPaths {
    /// Nowhere.
    #[must_use]
    pub fn none() -> Self {
        Self { overrides: Vec::new(), folders: Vec::new(), well_known: Vec::new(), version_limit: VERSION_LIMIT }
    }

    /// `PATH`, the well-known places of this platform, and the overrides `TABPOOL_CHROMIUM`, `TABPOOL_CHROME`,
    /// `TABPOOL_EDGE`, `TABPOOL_FIREFOX` and `TABPOOL_WEBNN_SHELL`.
    #[must_use]
    pub fn from_env() -> Self {
        let mut paths = Self::none();
        for kind in BrowserKind::ALL {
            if let Some(path) = env::var_os(kind.override_variable()).filter(|path| !path.is_empty()) {
                paths = paths.program(kind, PathBuf::from(path));
            }
        }
        for folder in env::var_os("PATH").iter().flat_map(env::split_paths) {
            paths = paths.folder(folder);
        }
        let variable = |name: &str| env::var_os(name).map(PathBuf::from);
        paths.well_known = well_known(env::consts::OS, &variable);
        paths.well_known.extend(shell_of_workspace().map(|path| (BrowserKind::WebNnShell, path)));
        paths
    }

    /// Adds a program that comes before everything found by search.
    #[must_use]
    pub fn program(mut self, kind: BrowserKind, path: impl Into<PathBuf>) -> Self {
        self.overrides.push((kind, path.into()));
        self
    }

    /// Adds a folder in which programs are looked for by name.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// Sets how long a browser may take to tell its version. Ten seconds by default.
    #[must_use]
    pub fn version_limit(mut self, limit: Duration) -> Self {
        self.version_limit = limit;
        self
    }

    /// Every file to be asked, in the order of preference. Overrides need not exist; the others do.
    fn candidates(&self) -> Vec<(BrowserKind, PathBuf, Source)> {
        let extension = env::consts::EXE_SUFFIX;
        let overrides = self.overrides.iter().map(|(kind, path)| (*kind, path.clone(), Source::Override));
        let named = PROGRAM_NAMES.iter().flat_map(|&(kind, name)| {
            let file = format!("{name}{extension}");
            self.folders.iter().map(move |folder| (kind, folder.join(&file), Source::SearchPath))
        });
        let known = self.well_known.iter().map(|(kind, path)| (*kind, path.clone(), Source::WellKnown));
        let mut found: Vec<_> = overrides.chain(named.chain(known).filter(|(_, path, _)| path.is_file())).collect();
        found.sort_by_key(|(kind, _, _)| *kind);
        found
    }
}

/// Where installers put browsers. `variable` looks up the folders that Windows and home directories depend on.
fn well_known(system: &str, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<(BrowserKind, PathBuf)> {
    use BrowserKind::{Chrome, Chromium, Edge, Firefox};
    let below = |roots: Vec<PathBuf>, places: &[(BrowserKind, &str)]| -> Vec<(BrowserKind, PathBuf)> {
        let join = |root: &PathBuf| places.iter().map(|(kind, place)| (*kind, root.join(place))).collect::<Vec<_>>();
        roots.iter().flat_map(join).collect()
    };
    match system {
        "macos" => {
            let mut roots = vec![PathBuf::from("/Applications")];
            roots.extend(variable("HOME").map(|home| home.join("Applications")));
            below(
                roots,
                &[
                    (Chromium, "Chromium.app/Contents/MacOS/Chromium"),
                    (Chrome, "Google Chrome.app/Contents/MacOS/Google Chrome"),
                    (Edge, "Microsoft Edge.app/Contents/MacOS/Microsoft Edge"),
                    (Firefox, "Firefox.app/Contents/MacOS/firefox"),
                ],
            )
        }
        "windows" => below(
            ["ProgramFiles", "ProgramFiles(x86)", "LOCALAPPDATA"].into_iter().filter_map(variable).collect(),
            &[
                (Chromium, "Chromium/Application/chrome.exe"),
                (Chrome, "Google/Chrome/Application/chrome.exe"),
                (Edge, "Microsoft/Edge/Application/msedge.exe"),
                (Firefox, "Mozilla Firefox/firefox.exe"),
            ],
        ),
        _ => below(
            vec![PathBuf::from("/")],
            &[
                (Chromium, "usr/lib/chromium/chromium"),
                (Chromium, "snap/bin/chromium"),
                (Chrome, "opt/google/chrome/chrome"),
                (Edge, "opt/microsoft/msedge/msedge"),
                (Firefox, "usr/lib/firefox/firefox"),
                (Firefox, "usr/lib/firefox-esr/firefox-esr"),
                (Firefox, "opt/firefox/firefox"),
                (Firefox, "snap/bin/firefox"),
            ],
        ),
    }
}

/// Finds browsers and asks each for its version, all at once. Blocks for as long as the slowest takes, at most the
/// version limit.
#[must_use]
pub fn discover(paths: &SearchPaths) -> Discovery {
    let mut discovery = Discovery::default();
    let mut candidates = paths.candidates();
    // Several names of one file are asked once; the first name wins.
    let mut names: HashMap<(BrowserKind, PathBuf), Vec<PathBuf>> = HashMap::new();
    candidates.retain(|(kind, path, _)| {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let names = names.entry((*kind, real)).or_default();
        names.push(path.clone());
        names.len() == 1
    });
    let limit = paths.version_limit;
    let versions: Vec<Result<String, String>> = thread::scope(|scope| {
        let asked: Vec<_> =
            candidates.iter().map(|(kind, path, _)| scope.spawn(move || version_of(*kind, path, limit))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("asking it panicked".to_owned()))).collect()
    });
    for ((kind, path, source), version) in candidates.into_iter().zip(versions) {
        match version {
            Err(reason) => discovery.unusable.push(Unusable { kind, path, source, reason }),
            Ok(version) => {
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                let mut aliases = names.remove(&(kind, real)).unwrap_or_default();
                // A wrapper script is another file with the same answer: the same browser by another way.
                let same = |known: &&mut Installed| known.kind == kind && known.version == version;
                if let Some(known) = discovery.installed.iter_mut().find(same) {
                    known.aliases.append(&mut aliases);
                } else {
                    aliases.retain(|alias| *alias != path);
                    discovery.installed.push(Installed { kind, path, version, source, aliases });
                }
            }
        }
    }
    discovery
}

fn version_of(kind: BrowserKind, path: &Path, limit: Duration) -> Result<String, String> {
    if !path.is_file() {
        return Err("there is no such file".to_owned());
    }
    // On Windows `chrome.exe --version` opens a window instead of answering.
    if cfg!(windows) { version_from_files(kind, path) } else { version_from_output(kind, path, limit) }
}

fn version_from_output(kind: BrowserKind, path: &Path, limit: Duration) -> Result<String, String> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.envs(arguments::library_path(kind, path));
    // A group of its own, so that what a wrapper script started can be ended with it.
    signal::in_own_session(&mut command);
    let mut child = command.spawn().map_err(|error| format!("it does not start: {error}"))?;
    let (send, receive) = mpsc::sync_channel(1);
    if let Some(stdout) = child.stdout.take() {
        // The thread ends with the pipe, which the kill below closes at the latest.
        thread::spawn(move || {
            let mut text = Vec::new();
            let read = stdout.take(VERSION_OUTPUT_LIMIT).read_to_end(&mut text);
            // Nobody listens any more when the limit has passed.
            drop(send.send(read.map(|_| text)));
        });
    }
    let deadline = Instant::now() + limit;
    let output = receive.recv_timeout(limit);
    let mut status = child.try_wait();
    while matches!(status, Ok(None)) && output.is_ok() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
        status = child.try_wait();
    }
    if matches!(status, Ok(None)) {
        signal::send_to_group(child.id(), Signal::Kill);
        drop(child.kill());
        drop(child.wait());
        return Err(format!("`--version` gave no answer within {:.1} s", limit.as_secs_f64()));
    }
    let output = output.map_err(|_| "`--version` ended, but something it started holds its output".to_owned());
    let output = output?.map_err(|error| format!("the output of `--version` cannot be read: {error}"))?;
    let text = String::from_utf8_lossy(&output);
    match status {
        Ok(Some(status)) if !status.success() => Err(format!("`--version` failed with {status}")),
        Ok(_) => parse_version(kind, &text),
        Err(error) => Err(format!("it cannot be waited for: {error}")),
    }
}

/// Takes the version out of a line such as `Mozilla Firefox 153.7.0esr`, and refuses a browser of another engine:
/// it would be started with flags that mean nothing to it.
fn parse_version(kind: BrowserKind, text: &str) -> Result<String, String> {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let shown: String = line.chars().take(80).collect();
    let is_version = |word: &&str| {
        let mut parts = word.split('.');
        parts.next().is_some_and(|part| part.parse::<u32>().is_ok()) && parts.next().is_some_and(starts_with_digit)
    };
    let version = line.split_whitespace().find(is_version);
    let version = version.ok_or_else(|| format!("`--version` says {shown:?}, which holds no version"))?;
    let says_firefox = line.contains("Firefox");
    if says_firefox != (kind.engine() == EngineFamily::Gecko) {
        return Err(format!("`--version` says {shown:?}, which is not {kind}"));
    }
    Ok(version.to_owned())
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Windows installations tell their version by files: Chromium's family by a folder named after it beside the
/// program, Firefox in `application.ini`.
fn version_from_files(kind: BrowserKind, path: &Path) -> Result<String, String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let found = match kind.engine() {
        EngineFamily::Gecko => fs::read_to_string(folder.join("application.ini"))
            .ok()
            .and_then(|text| Some(text.lines().find_map(|line| line.strip_prefix("Version="))?.trim().to_owned())),
        EngineFamily::Chromium => fs::read_dir(folder).ok().and_then(|entries| {
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let key = |name: &String| name.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
            names.filter(|name| key(name).is_some_and(|parts| parts.len() == 4)).max_by_key(key)
        }),
    };
    found.ok_or_else(|| format!("no version is found beside it in {}", folder.display()))
}

#[cfg(test)]
#[path = "discover/tests.rs"]
mod tests;
