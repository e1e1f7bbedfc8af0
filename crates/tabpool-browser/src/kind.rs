//! The browsers this crate knows, and the two engine families that decide how one is started.
//!
//! A kind is a product as a person installs it. Everything about flags and preferences hangs on the family
//! instead: Chromium, Chrome, Edge and the WebNN shell take the same command line, Firefox takes a `user.js`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A browser product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BrowserKind {
    /// Chromium as distributions build it.
    Chromium,
    /// Google Chrome.
    Chrome,
    /// Microsoft Edge.
    Edge,
    /// Mozilla Firefox, extended support releases included.
    Firefox,
    /// Chromium's headless shell with WebNN compiled in, which Linux packages of Chromium lack; see
    /// [`library_folder`](Self::library_folder) for what it needs beside itself.
    WebNnShell,
}

/// The engine a browser is built on, which decides how it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EngineFamily {
    /// Chromium, Chrome, Edge and the WebNN shell.
    Chromium,
    /// Firefox.
    Gecko,
}

impl BrowserKind {
    /// Every kind, in the order in which discovery lists them.
    pub const ALL: [Self; 5] = [Self::Chromium, Self::Chrome, Self::Edge, Self::Firefox, Self::WebNnShell];

    /// The engine this browser is built on.
    #[must_use]
    pub const fn engine(self) -> EngineFamily {
        match self {
            Self::Chromium | Self::Chrome | Self::Edge | Self::WebNnShell => EngineFamily::Chromium,
            Self::Firefox => EngineFamily::Gecko,
        }
    }

    /// The name used on command lines, in reports and by [`FromStr`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Chrome => "chrome",
            Self::Edge => "edge",
            Self::Firefox => "firefox",
            Self::WebNnShell => "webnn-shell",
        }
    }

    /// The environment variable that names a binary of this kind, read by
    /// [`SearchPaths::from_env`](crate::SearchPaths::from_env) and nowhere else.
    #[must_use]
    pub const fn override_variable(self) -> &'static str {
        match self {
            Self::Chromium => "TABPOOL_CHROMIUM",
            Self::Chrome => "TABPOOL_CHROME",
            Self::Edge => "TABPOOL_EDGE",
            Self::Firefox => "TABPOOL_FIREFOX",
            Self::WebNnShell => "TABPOOL_WEBNN_SHELL",
        }
    }

    /// The folder beside the program `path` whose libraries the program must find first, where this kind has one.
    ///
    /// The shell is built for a system that has none of a desktop's libraries, so they are packed with it. They go to
    /// the library path of its own processes and nowhere else.
    #[must_use]
    pub fn library_folder(self, path: &Path) -> Option<PathBuf> {
        let folder = path.parent()?.join("lib");
        (self == Self::WebNnShell && folder.is_dir()).then_some(folder)
    }
}

impl fmt::Display for BrowserKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A name that is none of [`BrowserKind::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown browser {name:?}, expected chromium, chrome, edge, firefox or webnn-shell")]
pub struct UnknownBrowser {
    /// The name as it was given.
    pub name: String,
}

impl FromStr for BrowserKind {
    type Err = UnknownBrowser;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownBrowser { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::{BrowserKind, EngineFamily};

    #[test]
    fn every_name_reads_back_as_its_kind() {
        for kind in BrowserKind::ALL {
            assert_eq!(kind.to_string().parse::<BrowserKind>().as_ref(), Ok(&kind));
        }
    }

    #[test]
    fn an_unknown_name_is_quoted_in_the_error() {
        let error = "Firefox".parse::<BrowserKind>().expect_err("names are lower case");
        assert!(error.to_string().contains("\"Firefox\""), "{error}");
    }

    #[test]
    fn only_firefox_is_gecko() {
        let gecko: Vec<_> = BrowserKind::ALL.into_iter().filter(|kind| kind.engine() == EngineFamily::Gecko).collect();
        assert_eq!(gecko, [BrowserKind::Firefox]);
    }
}
