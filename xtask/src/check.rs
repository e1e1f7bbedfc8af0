//! `cargo xtask check`: everything that CI checks before the suites, cheapest first, so that a slip is told in seconds.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::command;
use crate::setup::{self, Needs, target};
use crate::workspace::Workspace;
use crate::{build_web, layers, tidy};

type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// What is checked, in this order. Only from `clippy` on is anything compiled.
const STEPS: &[Step] = &[
    ("format", format),
    ("tidy", tidy::check),
    ("layers", layers::check),
    ("setup", |workspace| setup::ensure(workspace, Needs::Build)),
    ("clippy", clippy),
    ("clippy for the browser", clippy_wasm),
    ("documentation", documentation),
    ("unit tests", unit_tests),
    ("browser runtime", build_web::build),
];

/// The verb.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        bail!("usage: cargo xtask check");
    }
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (name, work) in STEPS {
        let ((), took) = command::step(name, || work(workspace))?;
        times.push((name, took));
    }
    println!("\ncheck passed");
    for (name, took) in times {
        println!("  {name:<24} {:>7.1} s", took.as_secs_f64());
    }
    Ok(())
}

fn format(workspace: &Workspace) -> Result<()> {
    command::run(workspace.cargo("fmt").args(["--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    command::run(workspace.cargo("clippy").args(["--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

/// The crates marked `W` once more for the browser: what stands behind `cfg` there is seen by no other step.
fn clippy_wasm(workspace: &Workspace) -> Result<()> {
    let rows = layers::read_table(workspace)?;
    let mut command = workspace.cargo("clippy");
    command.args(["--target", target::TRIPLE]);
    for row in rows.iter().filter(|row| row.wasm) {
        command.args(["--package", &row.package]);
    }
    command::run(command.args(["--", "--deny", "warnings"]))
}

fn documentation(workspace: &Workspace) -> Result<()> {
    command::run(workspace.cargo("doc").args(["--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"))
}

fn unit_tests(workspace: &Workspace) -> Result<()> {
    command::run(workspace.cargo("test").args(["--workspace", "--lib", "--bins", "--quiet"]))
}
