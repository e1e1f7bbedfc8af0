//! What comes from the system's package manager: Node with npm, Python with pip, and the rights to install them.
//!
//! Only Debian's family is installed on, and only as root or with a `sudo` that asks for nothing. Everywhere else the
//! error says what to type.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use super::{Item, State};
use crate::command;
use crate::workspace::Workspace;

/// The systems that set-up tells apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum System {
    /// Debian and what follows it without replacing its browser packages.
    Debian,
    /// Ubuntu: its `chromium` and `firefox` packages install confined snaps.
    Ubuntu,
    /// macOS.
    MacOs,
    /// Anything else.
    Other,
}

/// Which system this is.
pub(crate) fn system() -> System {
    if cfg!(target_os = "macos") {
        return System::MacOs;
    }
    fs::read_to_string("/etc/os-release").map_or(System::Other, |text| parse_os_release(&text))
}

fn parse_os_release(text: &str) -> System {
    let field = |key: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .flat_map(|value| value.trim_matches(['"', '\'']).split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let (ids, like) = (field("ID"), field("ID_LIKE"));
    let has = |names: &[String], wanted: &str| names.iter().any(|name| name == wanted);
    if has(&ids, "ubuntu") || has(&like, "ubuntu") {
        System::Ubuntu
    } else if has(&ids, "debian") || has(&like, "debian") {
        System::Debian
    } else {
        System::Other
    }
}

/// Installs packages with apt, or says which to install.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("install {} with your package manager", packages.join(" "));
    if !matches!(system(), System::Debian | System::Ubuntu) {
        bail!("{by_hand}");
    }
    let by_hand = format!("run: sudo apt-get install {}", packages.join(" "));
    let Some(prefix) = administrator() else {
        bail!("neither root nor a sudo without password here; {by_hand}");
    };
    static LISTS_UPDATED: OnceLock<()> = OnceLock::new();
    if LISTS_UPDATED.get().is_none() {
        println!("setup: apt-get update");
        command::run_quietly(&mut apt(prefix, &["update"])).context(by_hand.clone())?;
        // Another thread cannot have set it: set-up has only one.
        let _ = LISTS_UPDATED.set(());
    }
    println!("setup: apt-get install {}", packages.join(" "));
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    command::run_quietly(&mut apt(prefix, &arguments)).context(by_hand)
}

/// How to call a program as administrator without being asked for anything, if at all.
fn administrator() -> Option<&'static [&'static str]> {
    if command::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0") {
        return Some(&[]);
    }
    let silent =
        command::find("sudo").is_some() && command::run_quietly(Command::new("sudo").args(["-n", "true"])).is_ok();
    silent.then_some(&["sudo", "-n"])
}

fn apt(prefix: &[&str], arguments: &[&str]) -> Command {
    let mut words: Vec<&str> = prefix.to_vec();
    // Another apt run, such as a machine's own at boot, is waited for.
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]);
    words.extend(arguments);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Node and npm: npm brings the prebuilt tools, Node runs `wasm-opt`.
pub(crate) struct Node;

impl Item for Node {
    fn name(&self) -> &'static str {
        "node and npm"
    }

    fn state(&self, _workspace: &Workspace) -> Result<State> {
        Ok(match (command::find("node"), command::find("npm")) {
            (Some(node), Some(npm)) => State::Present(format!("{}, {}", node.display(), npm.display())),
            (None, _) => State::Missing("no `node` in the search path".into()),
            (_, None) => State::Missing("no `npm` in the search path".into()),
        })
    }

    fn install(&self, _workspace: &Workspace) -> Result<()> {
        if system() == System::MacOs {
            bail!("run: brew install node");
        }
        let missing: Vec<&str> = [("node", "nodejs"), ("npm", "npm")]
            .iter()
            .filter(|(program, _)| command::find(program).is_none())
            .map(|(_, package)| *package)
            .collect();
        apt_install(&missing)
    }
}

/// Python with pip, wanted only while the test model is missing.
pub(crate) fn ensure_pip() -> Result<()> {
    if command::run_quietly(Command::new("python3").args(["-m", "pip", "--version"])).is_ok() {
        return Ok(());
    }
    if system() == System::MacOs {
        bail!("python3 with pip is needed to download the test model; run: brew install python");
    }
    apt_install(&["python3", "python3-pip"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_told_apart_by_os_release() {
        assert_eq!(parse_os_release("NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n"), System::Debian);
        assert_eq!(parse_os_release("ID=raspbian\nID_LIKE=debian\n"), System::Debian);
        assert_eq!(parse_os_release("ID=ubuntu\nID_LIKE=debian\n"), System::Ubuntu);
        assert_eq!(parse_os_release("ID=pop\nID_LIKE=\"ubuntu debian\"\n"), System::Ubuntu);
        assert_eq!(parse_os_release("ID=fedora\n"), System::Other);
        assert_eq!(parse_os_release(""), System::Other);
    }

    #[test]
    fn apt_runs_under_sudo_only_where_it_must() {
        assert_eq!(apt(&[], &["update"]).get_program(), "env");
        let with = apt(&["sudo", "-n"], &["update"]);
        assert_eq!(with.get_program(), "sudo");
        assert_eq!(with.get_args().next().expect("arguments"), "-n");
    }
}
