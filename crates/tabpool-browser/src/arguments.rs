//! Command lines and preferences, as plain data made from [`LaunchOptions`], so that tests can read them.
//!
//! Each flag is here because a browser was measured without it: WebGPU was absent, the network was asked, a dialog
//! stood in the way, or a hidden page was slowed down.

use std::env;
use std::ffi::OsString;
use std::path::Path;

use crate::gpu::GpuMode;
use crate::kind::{BrowserKind, EngineFamily};
use crate::options::{LaunchOptions, WindowMode};

/// What the command line depends on beside the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Chromium refuses to sandbox as root on Linux.
    pub(crate) root: bool,
    /// Linux has its Vulkan adapter behind a feature.
    pub(crate) linux: bool,
    /// Chromium shares memory through `/dev/shm` and crashes when it is full, which the 64 MiB that containers get
    /// by default soon are.
    pub(crate) small_shared_memory: bool,
}

/// Distributions that check on their own ask for nearly 4 GB; Chromium with one page is content with this.
const SHARED_MEMORY_NEEDED_KIB: u64 = 1024 * 1024;

/// Whether these mounts (`/proc/mounts`) name a `/dev/shm` that is too small. Without a size it may fill half of
/// the memory.
fn has_small_shared_memory(mounts: &str) -> bool {
    let options = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next() == Some("/dev/shm")).then(|| fields.nth(1).unwrap_or_default())
    });
    options
        .and_then(|options| options.split(',').find_map(|option| option.strip_prefix("size=")?.strip_suffix('k')))
        .and_then(|size| size.parse::<u64>().ok())
        .is_some_and(|kibibytes| kibibytes < SHARED_MEMORY_NEEDED_KIB)
}

impl Surroundings {
    pub(crate) fn here() -> Self {
        let linux = cfg!(target_os = "linux");
        let mounts = || std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        Self { root: running_as_root(), linux, small_shared_memory: linux && has_small_shared_memory(&mounts()) }
    }
}

#[cfg(unix)]
fn running_as_root() -> bool {
    crate::signal::is_root()
}

#[cfg(not(unix))]
fn running_as_root() -> bool {
    false
}

/// The arguments of a browser of this family on this profile folder.
pub(crate) fn arguments(
    engine: EngineFamily,
    options: &LaunchOptions,
    profile: &Path,
    surroundings: Surroundings,
) -> Vec<String> {
    match engine {
        EngineFamily::Chromium => chromium_arguments(options, profile, surroundings),
        EngineFamily::Gecko => firefox_arguments(options, profile),
    }
}

const CHROMIUM_FLAGS: [&str; 21] = [
    "--enable-unsafe-webgpu",
    // First-run pages, dialogs and key rings that would wait for a person.
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-crash-restore-bubble",
    "--password-store=basic",
    "--use-mock-keychain",
    "--mute-audio",
    // Connections of the browser's own. On closed networks they only time out; elsewhere they are not ours to make.
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-domain-reliability",
    "--disable-client-side-phishing-detection",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-component-extensions-with-background-pages",
    // No reports are sent. The handler process still starts: without it (`--disable-crashpad-for-testing`)
    // Chromium 156 loses its network service again and again.
    "--disable-breakpad",
    "--disable-crash-reporter",
    // A worker's page is never in the foreground, and must not be slowed for it.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
];

fn chromium_arguments(options: &LaunchOptions, profile: &Path, surroundings: Surroundings) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    if options.window == WindowMode::Headless {
        arguments.push("--headless".to_owned());
    }
    if surroundings.root && surroundings.linux {
        arguments.push("--no-sandbox".to_owned());
    }
    if surroundings.small_shared_memory {
        arguments.push("--disable-dev-shm-usage".to_owned());
    }
    arguments.extend(CHROMIUM_FLAGS.map(str::to_owned));
    // Chrome offers WebNN behind this feature where it has it at all; elsewhere the name is unknown and ignored.
    let mut enabled = vec!["WebMachineLearningNeuralNetwork"];
    // The popups of the address bar are pages in a renderer of their own, made at every start: nearly a second of processor
    // time and 55 MB in Chromium 156, for something that nobody opens.
    let mut disabled = vec!["Translate", "MediaRouter", "WebUIOmniboxPopup", "WebUIOmniboxAimPopup"];
    match options.gpu {
        GpuMode::Software => arguments.push("--use-webgpu-adapter=swiftshader".to_owned()),
        GpuMode::Hardware if surroundings.linux => enabled.push("Vulkan"),
        GpuMode::Hardware => {}
    }
    for argument in &options.extra_arguments {
        if let Some(features) = argument.strip_prefix("--enable-features=") {
            for feature in features.split(',').filter(|feature| !feature.is_empty()) {
                if !enabled.contains(&feature) {
                    enabled.push(feature);
                }
            }
        } else if let Some(features) = argument.strip_prefix("--disable-features=") {
            disabled.extend(features.split(',').filter(|feature| !feature.is_empty()));
        } else {
            arguments.push(argument.clone());
        }
    }
    arguments.push(format!("--enable-features={}", enabled.join(",")));
    arguments.push(format!("--disable-features={}", disabled.join(",")));
    arguments.push(format!("--user-data-dir={}", profile.display()));
    arguments.push(options.url.clone());
    arguments
}

fn firefox_arguments(options: &LaunchOptions, profile: &Path) -> Vec<String> {
    let mut arguments = Vec::new();
    if options.window == WindowMode::Headless {
        arguments.push("--headless".to_owned());
    }
    arguments.extend(["--no-remote".to_owned(), "--profile".to_owned(), profile.display().to_string()]);
    arguments.extend(options.extra_arguments.iter().cloned());
    arguments.push(options.url.clone());
    arguments
}

/// Variables set for a browser of this family, beside the mark of the profile and the caller's own.
pub(crate) fn environment(engine: EngineFamily, profile: &Path) -> Vec<(&'static str, OsString)> {
    match engine {
        // The database of the crash handler, which else lies in the user's own configuration.
        EngineFamily::Chromium => vec![("BREAKPAD_DUMP_LOCATION", profile.join("crashes").into())],
        EngineFamily::Gecko => {
            vec![("MOZ_CRASHREPORTER_DISABLE", "1".into()), ("MOZ_DISABLE_AUTO_SAFE_MODE", "1".into())]
        }
    }
}

/// The library path of a program that brings libraries of its own, before whatever path there is already.
pub(crate) fn library_path(kind: BrowserKind, program: &Path) -> Option<(&'static str, OsString)> {
    const VARIABLE: &str = "LD_LIBRARY_PATH";
    let mut path = kind.library_folder(program)?.into_os_string();
    if let Some(rest) = env::var_os(VARIABLE).filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    Some((VARIABLE, path))
}

/// Firefox preferences as name and value, the value as written in JavaScript.
const FIREFOX_PREFERENCES: [(&str, &str); 41] = [
    // WebGPU, also on adapters that Firefox does not trust, and in workers.
    ("dom.webgpu.enabled", "true"),
    ("dom.webgpu.workers.enabled", "true"),
    ("gfx.webgpu.ignore-blocklist", "true"),
    ("gfx.webgpu.force-enabled", "true"),
    // First-run and update pages, dialogs, session restore.
    ("browser.shell.checkDefaultBrowser", "false"),
    ("browser.aboutwelcome.enabled", "false"),
    ("browser.startup.homepage_override.mstone", "\"ignore\""),
    ("startup.homepage_welcome_url", "\"\""),
    ("startup.homepage_welcome_url.additional", "\"\""),
    ("browser.startup.page", "0"),
    ("browser.startup.couldRestoreSession.count", "-1"),
    ("browser.sessionstore.resume_from_crash", "false"),
    ("browser.sessionstore.max_resumed_crashes", "0"),
    ("toolkit.startup.max_resumed_crashes", "-1"),
    ("browser.tabs.warnOnClose", "false"),
    ("termsofuse.bypassNotification", "true"),
    ("datareporting.policy.dataSubmissionPolicyBypassNotification", "true"),
    // Telemetry, studies, crash reports.
    ("datareporting.policy.dataSubmissionEnabled", "false"),
    ("datareporting.healthreport.uploadEnabled", "false"),
    ("toolkit.telemetry.enabled", "false"),
    ("toolkit.telemetry.unified", "false"),
    ("toolkit.telemetry.server", "\"\""),
    ("app.normandy.enabled", "false"),
    ("app.shield.optoutstudies.enabled", "false"),
    ("browser.crashReports.unsubmittedCheck.autoSubmit2", "false"),
    // Updates and other connections of the browser's own.
    ("app.update.auto", "false"),
    ("app.update.enabled", "false"),
    ("extensions.update.enabled", "false"),
    ("browser.search.update", "false"),
    ("browser.region.update.enabled", "false"),
    ("network.captive-portal-service.enabled", "false"),
    ("network.connectivity-service.enabled", "false"),
    ("services.settings.server", "\"data:,\""),
    ("browser.safebrowsing.malware.enabled", "false"),
    ("browser.safebrowsing.phishing.enabled", "false"),
    ("browser.newtabpage.enabled", "false"),
    ("media.gmp-manager.updateEnabled", "false"),
    // Processes kept ready for tabs that are never opened: three of them, at 30 MB each.
    ("dom.ipc.processPrelaunch.enabled", "false"),
    // A worker's page is never in the foreground, and must not be slowed or unloaded for it.
    ("dom.min_background_timeout_value", "4"),
    ("dom.timeout.enable_budget_timer_throttling", "false"),
    ("browser.tabs.unloadOnLowMemory", "false"),
];

/// The text of `user.js`. The caller's preferences come last, and Firefox takes the last of several.
pub(crate) fn user_js(options: &LaunchOptions) -> String {
    let own = FIREFOX_PREFERENCES.iter().map(|&(name, value)| (name, value));
    let given = options.preferences.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    own.chain(given).map(|(name, value)| format!("user_pref(\"{name}\", {value});\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::{FIREFOX_PREFERENCES, Surroundings, arguments, has_small_shared_memory, user_js};
    use crate::gpu::GpuMode;
    use crate::kind::EngineFamily;
    use crate::options::{LaunchOptions, WindowMode};

    const URL: &str = "http://127.0.0.1:1/";
    const LINUX_USER: Surroundings = Surroundings { root: false, linux: true, small_shared_memory: false };

    fn chromium(options: &LaunchOptions, surroundings: Surroundings) -> Vec<String> {
        arguments(EngineFamily::Chromium, options, Path::new("/p/x"), surroundings)
    }

    fn has(arguments: &[String], wanted: &str) -> bool {
        arguments.iter().any(|argument| argument == wanted)
    }

    #[test]
    fn chromium_in_software_names_swiftshader_and_its_profile_and_ends_with_the_page() {
        let line = chromium(&LaunchOptions::new(URL, "/p", GpuMode::Software), LINUX_USER);
        for wanted in [
            "--headless",
            "--enable-unsafe-webgpu",
            "--use-webgpu-adapter=swiftshader",
            "--no-first-run",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--user-data-dir=/p/x",
        ] {
            assert!(has(&line, wanted), "{wanted} is missing in {line:?}");
        }
        assert!(!has(&line, "--no-sandbox"), "the sandbox goes only for root");
        assert_eq!(line.last().map(String::as_str), Some(URL));
    }

    #[test]
    fn only_root_on_linux_goes_without_a_sandbox() {
        let options = LaunchOptions::new(URL, "/p", GpuMode::Software);
        assert!(has(&chromium(&options, Surroundings { root: true, ..LINUX_USER }), "--no-sandbox"));
        assert!(!has(&chromium(&options, Surroundings { root: true, linux: false, ..LINUX_USER }), "--no-sandbox"));
    }

    #[test]
    fn a_container_with_little_shared_memory_is_told_to_use_files() {
        let mounts = |options: &str| format!("proc /proc proc rw 0 0\nshm /dev/shm tmpfs {options} 0 0\n");
        assert!(has_small_shared_memory(&mounts("rw,nosuid,relatime,size=65536k")));
        assert!(!has_small_shared_memory(&mounts("rw,nosuid,size=8388608k,inode64")));
        assert!(!has_small_shared_memory(&mounts("rw,nosuid,nodev")));
        assert!(!has_small_shared_memory(""));
        let options = LaunchOptions::new(URL, "/p", GpuMode::Software);
        let line = chromium(&options, Surroundings { small_shared_memory: true, ..LINUX_USER });
        assert!(has(&line, "--disable-dev-shm-usage"));
        assert!(!has(&chromium(&options, LINUX_USER), "--disable-dev-shm-usage"));
    }

    #[test]
    fn hardware_asks_for_vulkan_on_linux_and_for_no_adapter() {
        let options = LaunchOptions::new(URL, "/p", GpuMode::Hardware);
        let linux = chromium(&options, LINUX_USER);
        assert!(has(&linux, "--enable-features=WebMachineLearningNeuralNetwork,Vulkan"));
        assert!(!linux.iter().any(|argument| argument.starts_with("--use-webgpu-adapter")));
        let mac = chromium(&options, Surroundings { linux: false, ..LINUX_USER });
        assert!(has(&mac, "--enable-features=WebMachineLearningNeuralNetwork"));
    }

    #[test]
    fn features_of_the_caller_are_joined_with_our_own_and_named_once() {
        let options = LaunchOptions::new(URL, "/p", GpuMode::Hardware)
            .argument("--enable-features=WebMachineLearningNeuralNetwork,Other,Vulkan")
            .argument("--disable-features=Noise");
        let line = chromium(&options, LINUX_USER);
        assert!(has(&line, "--enable-features=WebMachineLearningNeuralNetwork,Vulkan,Other"), "{line:?}");
        assert!(
            has(&line, "--disable-features=Translate,MediaRouter,WebUIOmniboxPopup,WebUIOmniboxAimPopup,Noise"),
            "{line:?}"
        );
    }

    #[test]
    fn a_shown_window_is_not_headless() {
        let options = LaunchOptions::new(URL, "/p", GpuMode::Software).window(WindowMode::Shown);
        for engine in [EngineFamily::Chromium, EngineFamily::Gecko] {
            assert!(!has(&arguments(engine, &options, Path::new("/p/x"), LINUX_USER), "--headless"));
        }
    }

    #[test]
    fn firefox_takes_the_profile_as_a_pair_and_ends_with_the_page() {
        let options = LaunchOptions::new(URL, "/p", GpuMode::Software).argument("--private-window");
        let line = arguments(EngineFamily::Gecko, &options, Path::new("/p/x"), LINUX_USER);
        assert_eq!(line, ["--headless", "--no-remote", "--profile", "/p/x", "--private-window", URL]);
    }

    #[test]
    fn preferences_are_one_statement_a_line_and_the_callers_come_last() {
        let options = LaunchOptions::new(URL, "/p", GpuMode::Software).preference("dom.webgpu.enabled", "false");
        let text = user_js(&options);
        assert!(text.starts_with("user_pref(\"dom.webgpu.enabled\", true);\n"));
        assert!(text.ends_with("user_pref(\"dom.webgpu.enabled\", false);\n"));
        assert!(text.lines().all(|line| line.starts_with("user_pref(\"") && line.ends_with(");")));
    }

    #[test]
    fn no_preference_is_set_twice() {
        let names: HashSet<_> = FIREFOX_PREFERENCES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), FIREFOX_PREFERENCES.len());
    }
}
