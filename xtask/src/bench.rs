//! `cargo xtask bench`: runs one benchmark of the package `tabpool-benches`, or lists them.
//!
//! Each benchmark is a program of its own there: it needs browsers, peers and minutes, which no harness for functions has
//! a place for. They are built with optimisation, unlike everything else that xtask runs.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build_web;
use crate::command;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;

const PACKAGE: &str = "tabpool-benches";
/// The benchmark that drives the runtime with the kernels' rates inside.
const IN_BROWSERS: &str = "kernels";
/// The benchmarks that need programs of others.
const WITH_PEERS: [&str; 2] = ["peers", "generation"];

/// The verb. Arguments after the name go to the benchmark.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let names = names(&workspace.metadata()?)?;
    let Some((name, rest)) = arguments.split_first() else {
        if names.is_empty() {
            println!("{PACKAGE} has no benchmarks yet");
        }
        for name in names {
            println!("cargo xtask bench {name}");
        }
        return Ok(());
    };
    if !names.contains(name) {
        bail!("there is no benchmark `{name}`; `cargo xtask bench` lists them");
    }
    setup::ensure(workspace, Needs::Tests)?;
    if name == IN_BROWSERS {
        build_web::build_conformance(workspace)?;
    }
    build_web::build(workspace)?;
    if WITH_PEERS.contains(&name.as_str()) {
        setup::ensure_peers(workspace)?;
    }
    let mut bench = workspace.cargo("run");
    bench.args(["--release", "--package", PACKAGE, "--bin", name, "--"]).args(rest);
    command::run(bench.env("TABPOOL_TEST_MODEL", workspace.test_model()))
}

fn names(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == PACKAGE);
    let targets = package
        .and_then(|package| package["targets"].as_array())
        .with_context(|| format!("there is no package {PACKAGE}"))?;
    let programs = targets
        .iter()
        .filter(|target| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin")));
    Ok(programs.filter_map(|target| target["name"].as_str()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_the_programs_of_the_package() {
        let metadata = serde_json::json!({"packages": [
            {"name": "other", "targets": [{"name": "x", "kind": ["bin"]}]},
            {"name": PACKAGE, "targets": [{"name": "tabpool_benches", "kind": ["lib"]}, {"name": "encoder", "kind": ["bin"]}]},
        ]});
        assert_eq!(names(&metadata).expect("the package is there"), ["encoder"]);
        assert!(names(&serde_json::json!({"packages": []})).is_err());
    }
}
