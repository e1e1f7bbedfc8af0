//! The test programs of the workspace: built by one cargo command, then run one after the other.
//!
//! Cargo gives dependencies the features that the selected packages ask for. Suites that select different packages would
//! have tokio, and with it nearly everything, compiled once for each; so every suite selects the whole workspace and says
//! by targets what it wants of it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// The package of end-to-end suites.
pub(super) const END_TO_END: &str = "tabpool-tests";
/// The program that end-to-end suites drive as a user would, and its name on the command line of cargo.
const DRIVEN: [&str; 2] = ["--bin", "tabpool"];

/// What is tested.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Suite {
    /// What the packages test by themselves.
    Crates,
    /// The programs under `tests/suites`.
    EndToEnd,
    /// One package.
    Package(String),
}

impl Suite {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Crates => "crates",
            Self::EndToEnd => "end-to-end",
            Self::Package(name) => name,
        }
    }

    /// Whether a program belongs to it.
    pub(super) fn holds(&self, program: &Program) -> bool {
        match self {
            Self::Crates => !program.drives_browsers(),
            Self::EndToEnd => program.drives_browsers(),
            Self::Package(name) => program.package == *name,
        }
    }

    /// The documentation tests that belong to it, in cargo's words.
    pub(super) fn documentation(&self, packages: &[Package]) -> Option<Vec<String>> {
        match self {
            Self::Crates => Some(vec!["--workspace".into()]),
            Self::EndToEnd => None,
            Self::Package(name) => {
                let documented = packages.iter().any(|package| package.name == *name && package.documented);
                documented.then(|| vec!["--package".into(), name.clone()])
            }
        }
    }
}

/// A package of the workspace.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) name: String,
    manifest: PathBuf,
    /// The names of its programs under `tests`.
    tests: Vec<String>,
    /// Whether its documentation holds examples that are tested.
    documented: bool,
}

/// A test program as cargo built it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) package: String,
    pub(super) target: String,
    kind: Kind,
    /// The folder of its package, where cargo starts it.
    folder: PathBuf,
    executable: PathBuf,
}

/// In the order in which cargo runs them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    Library,
    Binary,
    Integration,
}

impl Program {
    /// Whether it needs the machine to itself, and the program beside it.
    fn drives_browsers(&self) -> bool {
        self.package == END_TO_END && self.kind == Kind::Integration
    }

    /// How the program is started.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        // As cargo does. The way to the prebuilt library came with this program's own start.
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }

    pub(super) fn title(&self) -> String {
        match self.kind {
            Kind::Library => format!("{} (unit tests)", self.package),
            Kind::Binary => format!("{} (unit tests of {})", self.package, self.target),
            Kind::Integration => format!("{} {}", self.package, self.target),
        }
    }
}

/// The packages that `cargo metadata` names.
pub(super) fn packages(workspace: &Workspace) -> Result<Vec<Package>> {
    let metadata = workspace.metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    packages.iter().map(|package| package_of(package).context("cargo metadata has changed its form")).collect()
}

fn package_of(package: &Value) -> Option<Package> {
    let targets = package["targets"].as_array()?;
    let tests = targets.iter().filter(|target| kind_of(target) == Some(Kind::Integration));
    let tests = tests.map(|target| target["name"].as_str().map(str::to_owned)).collect::<Option<_>>()?;
    Some(Package {
        name: package["name"].as_str()?.to_owned(),
        manifest: package["manifest_path"].as_str()?.into(),
        tests,
        documented: targets.iter().any(|target| target["doctest"] == true),
    })
}

/// What a target's tests are, where it has any.
fn kind_of(target: &Value) -> Option<Kind> {
    let kinds = target["kind"].as_array()?;
    let one_of = |names: &[&str]| kinds.iter().any(|kind| names.iter().any(|name| kind == name));
    if one_of(&["test"]) {
        Some(Kind::Integration)
    } else if one_of(&["bin"]) {
        Some(Kind::Binary)
    } else if one_of(&["lib", "rlib", "cdylib", "staticlib", "proc-macro"]) {
        Some(Kind::Library)
    } else {
        None
    }
}

/// What cargo is to build for some suites.
pub(super) fn selection(suites: &[Suite], packages: &[Package]) -> Vec<String> {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match suites {
        [Suite::Package(name)] => words(&["--package", name, "--tests"]),
        [Suite::EndToEnd] => {
            let programs = packages.iter().filter(|package| package.name == END_TO_END).flat_map(|all| &all.tests);
            let programs = programs.flat_map(|program| ["--test".to_owned(), program.clone()]);
            words(&["--workspace"]).into_iter().chain(words(&DRIVEN)).chain(programs).collect()
        }
        _ => [words(&["--workspace", "--tests"]), words(&DRIVEN)].concat(),
    }
}

/// Builds what is selected.
///
/// # Errors
/// Where something does not compile; cargo has then said what.
pub(super) fn build(workspace: &Workspace, selection: &[String], packages: &[Package]) -> Result<Vec<Program>> {
    let mut cargo = workspace.cargo("build");
    cargo.args(selection).arg("--message-format=json-render-diagnostics");
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start `cargo build`")?;
    if !output.status.success() {
        bail!("`cargo build {}` failed ({})", selection.join(" "), output.status);
    }
    let mut programs = Vec::new();
    for line in String::from_utf8(output.stdout).context("cargo's messages are no text")?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages are no JSON")?;
        programs.extend(program_of(&message, packages)?);
    }
    programs.sort_by(|a, b| (&a.package, a.kind, &a.target).cmp(&(&b.package, b.kind, &b.target)));
    Ok(programs)
}

/// The test program that a message of cargo announces, if it does.
fn program_of(message: &Value, packages: &[Package]) -> Result<Option<Program>> {
    let (Some(executable), true) = (message["executable"].as_str(), message["profile"]["test"] == true) else {
        return Ok(None);
    };
    let target = &message["target"];
    let manifest = Path::new(message["manifest_path"].as_str().context("cargo names no manifest")?);
    let package = packages.iter().find(|package| package.manifest == manifest);
    let package = package.with_context(|| format!("{} belongs to no package here", manifest.display()))?;
    Ok(Some(Program {
        package: package.name.clone(),
        target: target["name"].as_str().context("cargo names no target")?.to_owned(),
        kind: kind_of(target).with_context(|| format!("{target} is no kind of test"))?,
        folder: manifest.parent().map(Path::to_path_buf).context("a manifest lies in no folder")?,
        executable: executable.into(),
    }))
}

/// The program that end-to-end suites drive.
pub(super) fn driven(workspace: &Workspace) -> Result<PathBuf> {
    Ok(workspace.target_directory()?.join("debug").join(format!("{}{}", DRIVEN[1], std::env::consts::EXE_SUFFIX)))
}

/// A run of documentation tests, which cargo alone knows how to build.
pub(super) fn documentation_tests(workspace: &Workspace, selection: &[impl AsRef<OsStr>]) -> Command {
    let mut command = workspace.cargo("test");
    command.args(selection).args(["--doc", "--no-fail-fast"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, tests: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            manifest: format!("/w/{name}/Cargo.toml").into(),
            tests: tests.iter().map(|test| (*test).to_owned()).collect(),
            documented: true,
        }
    }

    fn announced(package: &str, kind: &str, test: bool) -> Value {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": format!("/w/{package}/Cargo.toml"),
            "target": { "kind": [kind], "name": "one" },
            "profile": { "test": test },
            "executable": "/target/debug/deps/one-0123",
        })
    }

    #[test]
    fn programs_are_told_by_what_cargo_announces() {
        let packages = [package("tabpool-graph", &[]), package(END_TO_END, &["one"])];
        let of = |name: &str, kind: &str| program_of(&announced(name, kind, true), &packages).expect("well formed");
        let (unit, suite) = (of("tabpool-graph", "lib").expect("a test"), of(END_TO_END, "test").expect("a test"));
        assert_eq!((unit.kind, suite.kind), (Kind::Library, Kind::Integration));
        assert_eq!(unit.command().get_current_dir(), Some(Path::new("/w/tabpool-graph")));
        assert!(Suite::Crates.holds(&unit) && !Suite::EndToEnd.holds(&unit));
        assert!(Suite::EndToEnd.holds(&suite) && !Suite::Crates.holds(&suite));
        assert!(Suite::Package("tabpool-graph".into()).holds(&unit));
        // Unit tests of the suites' own library need no browser.
        let library = of(END_TO_END, "lib").expect("a test");
        assert!(Suite::Crates.holds(&library));
        // A program that is no test, and a package nobody knows.
        assert!(program_of(&announced("tabpool-graph", "bin", false), &packages).expect("well formed").is_none());
        assert!(program_of(&announced("stranger", "lib", true), &packages).is_err());
    }

    #[test]
    fn whole_suites_select_the_workspace_and_so_the_same_features() {
        let packages = [package("tabpool-graph", &["laws"]), package(END_TO_END, &["goldens", "cli"])];
        let selected = |suites: &[Suite]| selection(suites, &packages).join(" ");
        assert_eq!(selected(&[Suite::Crates, Suite::EndToEnd]), "--workspace --tests --bin tabpool");
        assert_eq!(selected(&[Suite::EndToEnd]), "--workspace --bin tabpool --test goldens --test cli");
        assert_eq!(selected(&[Suite::Package("tabpool-graph".into())]), "--package tabpool-graph --tests");
    }
}
