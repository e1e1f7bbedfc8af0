//! What one launch is told: which page, which profile, which GPU.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::gpu::GpuMode;
use crate::profile::ProfileKind;

/// Whether a browser shows a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WindowMode {
    /// No window; the usual case for a worker.
    #[default]
    Headless,
    /// A window on the user's desktop.
    Shown,
}

/// How to start a browser. Made by [`LaunchOptions::new`], changed by the methods named after what they set.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    pub(crate) url: String,
    pub(crate) profiles: PathBuf,
    pub(crate) profile: ProfileKind,
    pub(crate) window: WindowMode,
    pub(crate) gpu: GpuMode,
    pub(crate) extra_arguments: Vec<String>,
    pub(crate) preferences: Vec<(String, String)>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) settle: Duration,
}

impl LaunchOptions {
    /// Opens `url` headless, in an ephemeral profile under the folder `profiles`, with the adapter `gpu`.
    #[must_use]
    pub fn new(url: impl Into<String>, profiles: impl Into<PathBuf>, gpu: GpuMode) -> Self {
        Self {
            url: url.into(),
            profiles: profiles.into(),
            profile: ProfileKind::Ephemeral,
            window: WindowMode::Headless,
            gpu,
            extra_arguments: Vec::new(),
            preferences: Vec::new(),
            environment: Vec::new(),
            settle: Duration::from_millis(250),
        }
    }

    /// Uses this profile.
    #[must_use]
    pub fn profile(mut self, profile: ProfileKind) -> Self {
        self.profile = profile;
        self
    }

    /// Shows a window, or none.
    #[must_use]
    pub fn window(mut self, window: WindowMode) -> Self {
        self.window = window;
        self
    }

    /// Adds a command-line argument. `--enable-features=` and `--disable-features=` are joined with this crate's
    /// own, because Chromium takes only the last of several.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.extra_arguments.push(argument.into());
        self
    }

    /// Sets a Firefox preference, its value written as in `user.js` (`true`, `42`, `"text"`). It overrides one of
    /// this crate's. The Chromium family ignores it.
    #[must_use]
    pub fn preference(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.preferences.push((name.into(), value.into()));
        self
    }

    /// Sets a variable in the browser's environment.
    #[must_use]
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// How long a launch watches for a browser that dies at once, before it is reported as started. A quarter of a
    /// second by default, in which no browser reaches its page yet.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }
}
