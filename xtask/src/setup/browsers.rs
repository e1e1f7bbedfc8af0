//! The browsers that demo and tests drive, and the Vulkan driver that Firefox needs where there is no GPU.
//!
//! This only looks for files: which browser answers, with which adapter, is what `tabpool doctor` finds out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::shell::WebNnShell;
use super::system::{self, System};
use super::{Item, State};
use crate::command;
use crate::workspace::Workspace;

/// Names the browsers that the tests are to use.
pub(crate) const VARIABLE: &str = "TABPOOL_BROWSERS";

/// Goes with the error when a browser cannot be had.
pub(crate) const HOW_TO_DO_WITHOUT: &str = "TABPOOL_BROWSERS names the browsers that tests use: `chromium,firefox,webnn-shell` when \
     unset, some of them, or `none` for the native worker alone; what is left out is counted and said";

/// A family of browsers that share an engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    Chromium,
    Firefox,
}

impl Family {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "chromium" => Some(Self::Chromium),
            "firefox" => Some(Self::Firefox),
            _ => None,
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Chromium => &[
                "chromium",
                "google-chrome",
                "google-chrome-stable",
                "chromium-browser",
                "microsoft-edge",
                "microsoft-edge-stable",
            ],
            Self::Firefox => &["firefox", "firefox-esr"],
        }
    }

    /// The variables with which somebody names a browser that lies elsewhere; the crate that starts browsers reads them too.
    fn override_variables(self) -> &'static [&'static str] {
        match self {
            Self::Chromium => &["TABPOOL_CHROMIUM", "TABPOOL_CHROME", "TABPOOL_EDGE"],
            Self::Firefox => &["TABPOOL_FIREFOX"],
        }
    }

    fn applications(self) -> &'static [&'static str] {
        match self {
            Self::Chromium => &[
                "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
                "/Applications/Chromium.app/Contents/MacOS/Chromium",
                "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
            ],
            Self::Firefox => &["/Applications/Firefox.app/Contents/MacOS/firefox"],
        }
    }
}

/// The items that the variable asks for: all when it is unset.
pub(crate) fn wanted() -> Result<Vec<Box<dyn Item>>> {
    let value = std::env::var(VARIABLE).ok();
    let mut items: Vec<Box<dyn Item>> = Vec::new();
    for choice in parse_wanted(value.as_deref())? {
        items.push(match choice {
            Choice::Family(family) => Box::new(Browser(family)),
            Choice::WebNnShell => Box::new(WebNnShell),
        });
    }
    if cfg!(target_os = "linux") {
        items.push(Box::new(VulkanDriver));
    }
    Ok(items)
}

/// Every item, whatever the variable says.
pub(crate) fn all() -> Vec<Box<dyn Item>> {
    let mut items: Vec<Box<dyn Item>> =
        vec![Box::new(Browser(Family::Chromium)), Box::new(Browser(Family::Firefox)), Box::new(WebNnShell)];
    if cfg!(target_os = "linux") {
        items.push(Box::new(VulkanDriver));
    }
    items
}

/// What the variable can name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Choice {
    /// A browser that people install.
    Family(Family),
    /// The shell that set-up unpacks.
    WebNnShell,
}

impl Choice {
    const ALL: [Self; 3] = [Self::Family(Family::Chromium), Self::Family(Family::Firefox), Self::WebNnShell];

    fn from_name(name: &str) -> Option<Self> {
        if name == "webnn-shell" { Some(Self::WebNnShell) } else { Family::from_name(name).map(Self::Family) }
    }
}

fn parse_wanted(value: Option<&str>) -> Result<Vec<Choice>> {
    match value.map(str::trim) {
        None | Some("") => Ok(Choice::ALL.to_vec()),
        Some("none") => Ok(Vec::new()),
        Some(list) => {
            let mut choices = Vec::new();
            for name in list.split(',').map(str::trim) {
                let Some(choice) = Choice::from_name(name) else {
                    bail!(
                        "{VARIABLE} has `{name}`: it takes `chromium`, `firefox` and `webnn-shell`, with commas between, or `none`"
                    );
                };
                if !choices.contains(&choice) {
                    choices.push(choice);
                }
            }
            Ok(choices)
        }
    }
}

struct Browser(Family);

impl Item for Browser {
    fn name(&self) -> &'static str {
        match self.0 {
            Family::Chromium => "chromium",
            Family::Firefox => "firefox",
        }
    }

    fn state(&self, _workspace: &Workspace) -> Result<State> {
        let named = self.0.override_variables().iter().filter_map(std::env::var_os).map(PathBuf::from);
        if let Some(path) = named.into_iter().find(|path| path.is_file()) {
            return Ok(State::Present(path.display().to_string()));
        }
        let programs = self.0.programs().iter().filter_map(|program| command::find(program));
        let applications = self.0.applications().iter().map(PathBuf::from).filter(|path| path.is_file());
        let (mut found, mut snap) = (None, None);
        for path in programs.chain(applications) {
            if is_snap(&path) {
                snap.get_or_insert(path);
            } else {
                found.get_or_insert(path);
            }
        }
        Ok(match (found, snap) {
            (Some(path), _) => State::Present(path.display().to_string()),
            (None, Some(path)) => {
                State::Missing(format!("{} is a snap, which may not read the profiles made for it", path.display()))
            }
            (None, None) => State::Missing(format!("none of {} found", self.0.programs().join(", "))),
        })
    }

    fn install(&self, _workspace: &Workspace) -> Result<()> {
        match (system::system(), self.0) {
            (System::Debian, Family::Chromium) => system::apt_install(&["chromium"]),
            (System::Debian, Family::Firefox) => system::apt_install(&["firefox-esr"]),
            (System::Ubuntu, Family::Chromium) => {
                bail!(
                    "Ubuntu's own package is a confined snap: install google-chrome-stable from Google's .deb package"
                )
            }
            (System::Ubuntu, Family::Firefox) => {
                bail!("Ubuntu's own package is a confined snap: install firefox from Mozilla's apt repository")
            }
            (System::MacOs, Family::Chromium) => bail!("run: brew install --cask google-chrome"),
            (System::MacOs, Family::Firefox) => bail!("run: brew install --cask firefox"),
            (System::Other, Family::Chromium) => {
                bail!("install Chromium, Chrome or Edge so that it is in the search path")
            }
            (System::Other, Family::Firefox) => bail!("install Firefox so that `firefox` is in the search path"),
        }
    }
}

/// Whether the program starts a snap: a link into `/snap`, or Ubuntu's small script in place of the program.
fn is_snap(path: &Path) -> bool {
    const SCRIPT_LIMIT: u64 = 16 << 10;
    if fs::canonicalize(path).is_ok_and(|real| real.starts_with("/snap") || real.ends_with("usr/bin/snap")) {
        return true;
    }
    let small = path.metadata().is_ok_and(|metadata| metadata.len() < SCRIPT_LIMIT);
    small && fs::read_to_string(path).is_ok_and(|text| text.contains("/snap/bin/"))
}

/// A Vulkan driver: Firefox reaches WebGPU only through one, as does the native worker. Chromium brings its own.
struct VulkanDriver;

impl Item for VulkanDriver {
    fn name(&self) -> &'static str {
        "vulkan driver"
    }

    fn state(&self, _workspace: &Workspace) -> Result<State> {
        let folders = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];
        for folder in folders {
            let Ok(entries) = fs::read_dir(folder) else { continue };
            if entries.flatten().any(|entry| entry.path().extension().is_some_and(|own| own == "json")) {
                return Ok(State::Present(folder.to_owned()));
            }
        }
        Ok(State::Missing(format!("no driver is described in {}", folders.join(", "))))
    }

    fn install(&self, _workspace: &Workspace) -> Result<()> {
        // The loader is named as well: programs open it by name, so no package need depend on it.
        system::apt_install(&["mesa-vulkan-drivers", "libvulkan1"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_chooses_browsers() {
        assert_eq!(parse_wanted(None).expect("unset"), Choice::ALL);
        assert_eq!(parse_wanted(Some("")).expect("empty"), Choice::ALL);
        assert_eq!(
            parse_wanted(Some("firefox, webnn-shell,firefox")).expect("a list"),
            vec![Choice::Family(Family::Firefox), Choice::WebNnShell]
        );
        assert_eq!(parse_wanted(Some("none")).expect("none"), Vec::new());
        let error = parse_wanted(Some("netscape")).expect_err("unknown");
        assert!(error.to_string().contains("`netscape`"), "{error}");
    }
}
