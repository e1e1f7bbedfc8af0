//! The browsers of this machine, one of each engine family.

use tabpool_browser::{BrowserKind, Installed, SearchPaths, discover};

use crate::places::left_out;

/// One browser of each family, in the order in which they are looked for.
const FAMILIES: [&[BrowserKind]; 2] =
    [&[BrowserKind::Chromium, BrowserKind::Chrome, BrowserKind::Edge], &[BrowserKind::Firefox]];

/// The browsers to run a case on. A family that is not installed is left out by name.
#[must_use]
pub fn each(case: &str) -> Vec<Installed> {
    let found = discover(&SearchPaths::from_env());
    let mut all = Vec::new();
    for family in FAMILIES {
        match family.iter().find_map(|kind| found.of_kind(*kind)) {
            Some(installed) => all.push(installed.clone()),
            None => {
                let names: Vec<_> = family.iter().map(|kind| kind.name()).collect();
                left_out(&format!("{case} on {}", names.join("/")), "not installed");
            }
        }
    }
    all
}

/// The shell that has WebNN, left out by name where set-up has not installed it.
#[must_use]
pub fn webnn_shell(case: &str) -> Option<Installed> {
    let found = discover(&SearchPaths::from_env()).of_kind(BrowserKind::WebNnShell).cloned();
    if found.is_none() {
        left_out(&format!("{case} on {}", BrowserKind::WebNnShell), "not installed");
    }
    found
}

/// The kinds of [`each`].
#[must_use]
pub fn kinds(case: &str) -> Vec<BrowserKind> {
    each(case).into_iter().map(|installed| installed.kind).collect()
}
