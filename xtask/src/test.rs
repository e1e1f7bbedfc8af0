//! `cargo xtask test`: every suite, with set-up and the browser runtime built before them.
//!
//! A case that a machine cannot run is never marked as ignored: it prints a line that begins with `left out:` and
//! says which capability was missing. Those lines are gathered here and repeated at the end, so that a green run tells
//! what it did not show.

mod outcome;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build_web;
use crate::command;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;
use outcome::Outcome;

/// The package of end-to-end suites.
const END_TO_END: &str = "tabpool-tests";
/// Tells the suite of goldens where the table of its errors is kept, which it writes only where it has something new to say.
const GOLDENS_TABLE: &str = "TABPOOL_GOLDENS_TABLE";

/// What was asked for on the command line.
#[derive(Debug, Default, Eq, PartialEq)]
struct Request {
    suite: Option<String>,
    filters: Vec<String>,
}

/// What one suite came to.
struct Finished {
    name: String,
    passed: bool,
    outcome: Outcome,
    took: Duration,
}

/// The verb.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    setup::ensure(workspace, Needs::Tests)?;
    // The runtime that tabs load is built last, so that its module is the one cargo leaves at the usual place.
    build_web::build_conformance(workspace)?;
    build_web::build(workspace)?;
    // The end-to-end suites drive the program as a user would.
    command::run(workspace.cargo("build").args(["--package", "tabpool-cli", "--bin", "tabpool"]))?;
    let mut finished = Vec::new();
    for (name, packages) in suites(workspace, request.suite.as_deref())? {
        println!("── suite {name}");
        finished.push(run_suite(workspace, name, &packages, &request.filters)?);
    }
    summarise(&finished)
}

fn parse(arguments: &[String]) -> Result<Request> {
    let mut request = Request::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--suite" {
            request.suite =
                Some(words.next().context("--suite wants a name: crates, end-to-end, or a package")?.clone());
        } else if let Some(name) = word.strip_prefix("--suite=") {
            request.suite = Some(name.to_owned());
        } else if word.starts_with('-') {
            bail!("unknown option `{word}`; usage: cargo xtask test [--suite NAME] [FILTER]");
        } else {
            request.filters.push(word.clone());
        }
    }
    Ok(request)
}

/// The suites to run, each with the arguments that choose its packages.
fn suites(workspace: &Workspace, wanted: Option<&str>) -> Result<Vec<(String, Vec<String>)>> {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let crates = ("crates".to_owned(), words(&["--workspace", "--exclude", END_TO_END]));
    let end_to_end = ("end-to-end".to_owned(), words(&["--package", END_TO_END]));
    match wanted {
        None => Ok(vec![crates, end_to_end]),
        Some("crates") => Ok(vec![crates]),
        Some("end-to-end") => Ok(vec![end_to_end]),
        Some(package) => {
            let metadata = workspace.metadata()?;
            let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
            if !packages.iter().any(|known| known["name"] == package) {
                bail!("there is no suite `{package}`: it is `crates`, `end-to-end`, or a package of the workspace");
            }
            Ok(vec![(package.to_owned(), words(&["--package", package]))])
        }
    }
}

/// Runs one suite to its end, failures or not, and shows its output as it comes.
fn run_suite(workspace: &Workspace, name: String, packages: &[String], filters: &[String]) -> Result<Finished> {
    let start = Instant::now();
    let mut command = workspace.cargo("test");
    command.args(packages).arg("--no-fail-fast");
    // Output of tests that pass is asked for as well: it says what was left out.
    command.args(["--", "--show-output"]).args(filters);
    command.env("TABPOOL_TEST_MODEL", workspace.test_model());
    command.env("TABPOOL_PROGRAM", program(workspace)?);
    // Where nobody commits what a run writes, nothing is to be written.
    if std::env::var_os("CI").is_none() {
        command.env(GOLDENS_TABLE, workspace.root.join("tests/GOLDENS.md"));
    }
    let (passed, outcome) = follow(&mut command, |line| println!("{line}"))?;
    Ok(Finished { name, passed, outcome, took: start.elapsed() })
}

fn program(workspace: &Workspace) -> Result<std::path::PathBuf> {
    Ok(workspace.target_directory()?.join("debug").join(format!("tabpool{}", std::env::consts::EXE_SUFFIX)))
}

/// Reads a test run line by line: most are shown, all are counted.
fn follow(command: &mut Command, mut show: impl FnMut(&str)) -> Result<(bool, Outcome)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start `cargo test`")?;
    let output = child.stdout.take().context("the output of `cargo test` is not piped")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("cannot read the output of `cargo test`")?).into_owned();
        if outcome.read(&line) {
            show(&line);
        }
    }
    let status = child.wait().context("cannot wait for `cargo test`")?;
    Ok((status.success(), outcome))
}

fn summarise(finished: &[Finished]) -> Result<()> {
    println!("\n  {:<24} {:>8} {:>8} {:>9} {:>9}", "suite", "passed", "failed", "left out", "time");
    for suite in finished {
        let Outcome { passed, failed, left_out, .. } = &suite.outcome;
        let (name, took) = (&suite.name, suite.took.as_secs_f64());
        println!("  {name:<24} {passed:>8} {failed:>8} {:>9} {took:>7.1} s", left_out.len());
    }
    for suite in finished {
        for line in &suite.outcome.left_out {
            println!("  left out of {}: {line}", suite.name);
        }
    }
    let failed: Vec<&str> = finished.iter().filter(|suite| !suite.passed).map(|suite| suite.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    let cases: usize = finished.iter().map(|suite| suite.outcome.passed).sum();
    if cases == 0 {
        bail!("no test ran: does the filter match anything?");
    }
    println!("test passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Request> {
        parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn suites_and_filters_are_read() {
        assert_eq!(parsed(&[]).expect("nothing"), Request::default());
        let request = parsed(&["--suite", "end-to-end", "kill", "restart"]).expect("well formed");
        assert_eq!(
            request,
            Request { suite: Some("end-to-end".into()), filters: vec!["kill".into(), "restart".into()] }
        );
        assert_eq!(parsed(&["--suite=crates"]).expect("well formed").suite.as_deref(), Some("crates"));
        assert!(parsed(&["--suite"]).is_err());
        assert!(parsed(&["--quick"]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_run_that_fails_is_told_from_one_that_passes() {
        // What the shell writes is not shown: a run of this very test would be counted by it.
        let shell = |script: &str| follow(Command::new("sh").args(["-c", script]), |_| ()).expect("sh runs");
        let (passed, outcome) = shell("echo 'test result: ok. 3 passed; 0 failed; 0 ignored'");
        assert!(passed);
        assert_eq!(outcome.passed, 3);
        let (passed, outcome) = shell("echo 'left out: no firefox'; exit 1");
        assert!(!passed);
        assert_eq!(outcome.left_out, ["no firefox"]);
    }
}
