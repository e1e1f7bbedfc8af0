//! What stands between an installed browser and WebGPU on this machine, and how to remedy it.
//!
//! The findings are drawn from files and versions, without starting the browser: a diagnosis must be quick, and must
//! work just when starting fails. What only a running page can tell (its adapter, its limits) is not for here.

use std::fs;
use std::path::{Path, PathBuf};

use crate::arguments::Surroundings;
use crate::discover::Installed;
use crate::gpu::{GpuMode, RenderNode, render_nodes};
use crate::kind::EngineFamily;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; everything works.
    Note,
    /// It works worse than it could.
    Warning,
    /// WebGPU will not work.
    Error,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to install or to set, where there is something.
    pub remedy: Option<String>,
}

/// What the diagnosis knows of the machine, apart from the browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its render nodes.
    pub render_nodes: Vec<RenderNode>,
    /// Manifests of Vulkan drivers.
    pub vulkan_drivers: Vec<PathBuf>,
    /// Whether the Vulkan loader is installed.
    pub vulkan_loader: bool,
    /// Whether this is Linux; the questions above arise nowhere else.
    pub linux: bool,
    /// Whether this process runs as root.
    pub root: bool,
}

/// First version of the Chromium family with WebGPU.
const CHROMIUM_WITH_WEBGPU: u32 = 113;
/// First Firefox whose WebGPU is complete enough to be released.
const FIREFOX_WITH_WEBGPU: u32 = 141;

const DRIVER_FOLDERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
const LIBRARY_FOLDERS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/lib",
    "/usr/local/lib",
];

impl Machine {
    /// This machine.
    #[must_use]
    pub fn look() -> Self {
        let surroundings = Surroundings::here();
        Self {
            render_nodes: render_nodes(Path::new("/dev/dri"), Path::new("/sys/class/drm")),
            vulkan_drivers: DRIVER_FOLDERS.iter().flat_map(|folder| manifests(Path::new(folder))).collect(),
            vulkan_loader: LIBRARY_FOLDERS.iter().any(|folder| Path::new(folder).join("libvulkan.so.1").exists()),
            linux: surroundings.linux,
            root: surroundings.root,
        }
    }

    /// The adapter this machine offers browsers.
    #[must_use]
    pub fn gpu_mode(&self) -> GpuMode {
        if self.linux { GpuMode::from_nodes(&self.render_nodes) } else { GpuMode::detect() }
    }
}

fn manifests(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    found.sort();
    found
}

/// Diagnoses a browser on this machine, gravest first.
#[must_use]
pub fn diagnose(installed: &Installed) -> Vec<Finding> {
    diagnose_on(installed, &Machine::look())
}

/// Diagnoses a browser on a given machine, gravest first. An empty answer means that nothing is in the way.
#[must_use]
pub fn diagnose_on(installed: &Installed, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |severity, what: String, remedy: Option<&str>| {
        findings.push(Finding { severity, what, remedy: remedy.map(str::to_owned) });
    };
    let engine = installed.kind.engine();
    let needed = match engine {
        EngineFamily::Chromium => CHROMIUM_WITH_WEBGPU,
        EngineFamily::Gecko => FIREFOX_WITH_WEBGPU,
    };
    match installed.major_version() {
        Some(major) if major < needed => find(
            Severity::Error,
            format!("{} {} is too old for WebGPU, which came with version {needed}", installed.kind, installed.version),
            Some("update the browser"),
        ),
        Some(_) => {}
        None => find(Severity::Warning, format!("version {:?} cannot be compared", installed.version), None),
    }
    if is_snap(&installed.path) {
        find(
            Severity::Warning,
            format!(
                "{} is a snap, which cannot use a profile in a hidden folder of the home directory",
                installed.kind
            ),
            Some("install the browser from a package or an archive, or set --data-dir to a folder that is not hidden"),
        );
    }
    if !machine.linux {
        return sorted(findings);
    }
    let software = machine.gpu_mode() == GpuMode::Software;
    for node in &machine.render_nodes {
        if let RenderNode::Forbidden { node, driver } = node {
            find(
                Severity::Warning,
                format!("the GPU at {} ({driver}) may not be used by this user", node.display()),
                Some("add the user to the group `render` (sudo usermod -aG render $USER) and log in again"),
            );
        }
    }
    match engine {
        EngineFamily::Gecko => {
            // Firefox reaches every adapter through Vulkan, a software one too.
            if machine.vulkan_drivers.is_empty() {
                find(
                    Severity::Error,
                    "no Vulkan driver is installed, so Firefox finds no WebGPU adapter".to_owned(),
                    Some("install `mesa-vulkan-drivers` (Debian, Ubuntu, Fedora) or the GPU maker's driver"),
                );
            } else if software && !machine.vulkan_drivers.iter().any(|path| is_lavapipe(path)) {
                find(
                    Severity::Error,
                    "there is no usable GPU and no software Vulkan driver (lavapipe) for Firefox".to_owned(),
                    Some("install `mesa-vulkan-drivers`, whose lvp_icd.*.json is lavapipe"),
                );
            }
            if !machine.vulkan_loader {
                find(
                    Severity::Error,
                    "the Vulkan loader libvulkan.so.1 is not installed".to_owned(),
                    Some("install `libvulkan1` (Debian, Ubuntu) or `vulkan-loader` (Fedora)"),
                );
            }
        }
        EngineFamily::Chromium => {
            if machine.root {
                find(Severity::Note, "as root the browser runs without its sandbox".to_owned(), Some("run as a user"));
            }
            if !software && machine.vulkan_drivers.is_empty() {
                find(
                    Severity::Warning,
                    "there is a GPU but no Vulkan driver, so WebGPU may fall back to the CPU".to_owned(),
                    Some("install `mesa-vulkan-drivers` or the GPU maker's driver"),
                );
            }
        }
    }
    if software {
        find(
            Severity::Note,
            "there is no usable GPU, so WebGPU is computed on the CPU: right, and slow".to_owned(),
            None,
        );
    }
    sorted(findings)
}

fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn is_lavapipe(manifest: &Path) -> bool {
    manifest.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lvp_icd"))
}

/// Ubuntu's `/usr/bin/firefox` and `/usr/bin/chromium-browser` are small scripts that start the snap.
fn is_snap(path: &Path) -> bool {
    const SCRIPT_LIMIT: u64 = 64 * 1024;
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_script = || fs::metadata(&real).is_ok_and(|metadata| metadata.len() <= SCRIPT_LIMIT);
    path.starts_with("/snap")
        || real.starts_with("/snap")
        || real.file_name().is_some_and(|name| name == "snap")
        || (is_script() && fs::read(&real).is_ok_and(|text| String::from_utf8_lossy(&text).contains("/snap/bin/")))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Machine, Severity, diagnose_on};
    use crate::discover::{Installed, Source};
    use crate::gpu::RenderNode;
    use crate::kind::BrowserKind;

    fn installed(kind: BrowserKind, version: &str) -> Installed {
        let path = PathBuf::from("/nowhere/browser");
        Installed { kind, path, version: version.to_owned(), source: Source::SearchPath, aliases: Vec::new() }
    }

    fn machine(drivers: &[&str]) -> Machine {
        let vulkan_drivers = drivers.iter().map(PathBuf::from).collect();
        Machine { render_nodes: Vec::new(), vulkan_drivers, vulkan_loader: true, linux: true, root: false }
    }

    fn gravest(kind: BrowserKind, version: &str, machine: &Machine) -> (Severity, String) {
        let findings = diagnose_on(&installed(kind, version), machine);
        let first = findings.first().expect("something is found");
        (first.severity, format!("{} / {}", first.what, first.remedy.clone().unwrap_or_default()))
    }

    #[test]
    fn firefox_without_a_vulkan_driver_is_told_which_package_it_needs() {
        let (severity, text) = gravest(BrowserKind::Firefox, "153.7.0esr", &machine(&[]));
        assert_eq!(severity, Severity::Error);
        assert!(text.contains("mesa-vulkan-drivers"), "{text}");
    }

    #[test]
    fn firefox_without_a_gpu_needs_lavapipe_among_the_drivers() {
        let (severity, text) = gravest(BrowserKind::Firefox, "153.0", &machine(&["/icd.d/radeon_icd.x86_64.json"]));
        assert_eq!(severity, Severity::Error);
        assert!(text.contains("lavapipe"), "{text}");
        let (severity, _) = gravest(BrowserKind::Firefox, "153.0", &machine(&["/icd.d/lvp_icd.x86_64.json"]));
        assert_eq!(severity, Severity::Note);
    }

    #[test]
    fn a_gpu_with_its_driver_leaves_nothing_to_say() {
        let node = RenderNode::Usable { node: PathBuf::from("/dev/dri/renderD128"), driver: "amdgpu".to_owned() };
        let machine = Machine { render_nodes: vec![node], ..machine(&["/icd.d/radeon_icd.x86_64.json"]) };
        for kind in BrowserKind::ALL {
            assert_eq!(diagnose_on(&installed(kind, "156.0"), &machine), Vec::new(), "{kind}");
        }
    }

    #[test]
    fn a_gpu_behind_permissions_is_told_apart_from_none() {
        let node = RenderNode::Forbidden { node: PathBuf::from("/dev/dri/renderD128"), driver: "i915".to_owned() };
        let machine = Machine { render_nodes: vec![node], ..machine(&["/icd.d/lvp_icd.x86_64.json"]) };
        let (severity, text) = gravest(BrowserKind::Chrome, "156.0", &machine);
        assert_eq!(severity, Severity::Warning);
        assert!(text.contains("render"), "{text}");
    }

    #[test]
    fn an_old_browser_is_an_error_first() {
        let (severity, text) = gravest(BrowserKind::Edge, "112.0.1.2", &machine(&[]));
        assert_eq!(severity, Severity::Error);
        assert!(text.contains("113"), "{text}");
    }
}
