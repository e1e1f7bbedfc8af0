//! `cargo xtask test`: every suite, with set-up and the browser runtime built before them.
//!
//! A case that a machine cannot run is never marked as ignored: it prints a line that begins with `left out:` and
//! says which capability was missing. Those lines are gathered here and repeated at the end, so that a green run tells
//! what it did not show.

mod outcome;
mod programs;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build_web;
use crate::command;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;
use outcome::Outcome;
use programs::{Package, Program, Suite};

/// Tells the suite of goldens where the table of its errors is kept, which it writes only where it has something new to say.
const GOLDENS_TABLE: &str = "TABPOOL_GOLDENS_TABLE";

/// What was asked for on the command line.
#[derive(Debug, Default, Eq, PartialEq)]
struct Request {
    suite: Option<String>,
    filters: Vec<String>,
}

/// What one suite came to.
#[derive(Default)]
struct Finished {
    name: String,
    /// The programs that did not pass.
    failed: Vec<String>,
    outcome: Outcome,
    took: Duration,
}

/// The verb.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    let packages = programs::packages(workspace)?;
    let suites = suites(request.suite.as_deref(), &packages)?;
    setup::ensure(workspace, Needs::Tests)?;
    // The runtime that tabs load is built last, so that its module is the one cargo leaves at the usual place.
    build_web::build_conformance(workspace)?;
    build_web::build(workspace)?;
    let selection = programs::selection(&suites, &packages);
    let (programs, _) = command::step("test programs", || programs::build(workspace, &selection, &packages))?;
    let mut finished = Vec::new();
    for suite in &suites {
        println!("── suite {}", suite.name());
        finished.push(run_suite(workspace, suite, &programs, &packages, &request.filters)?);
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

/// The suites to run.
fn suites(wanted: Option<&str>, packages: &[Package]) -> Result<Vec<Suite>> {
    match wanted {
        None => Ok(vec![Suite::Crates, Suite::EndToEnd]),
        Some("crates") => Ok(vec![Suite::Crates]),
        Some("end-to-end" | programs::END_TO_END) => Ok(vec![Suite::EndToEnd]),
        Some(name) if packages.iter().any(|package| package.name == name) => Ok(vec![Suite::Package(name.to_owned())]),
        Some(name) => {
            bail!("there is no suite `{name}`: it is `crates`, `end-to-end`, or a package of the workspace")
        }
    }
}

/// Runs one suite to its end, failures or not, and shows its output as it comes.
fn run_suite(
    workspace: &Workspace,
    suite: &Suite,
    programs: &[Program],
    packages: &[Package],
    filters: &[String],
) -> Result<Finished> {
    let start = Instant::now();
    let mut finished = Finished { name: suite.name().to_owned(), ..Finished::default() };
    let driven = programs::driven(workspace)?;
    let mut run = |title: String, command: &mut Command| -> Result<()> {
        println!("── {title}");
        let started = Instant::now();
        command.env("TABPOOL_TEST_MODEL", workspace.test_model()).env("TABPOOL_PROGRAM", &driven);
        // Where nobody commits what a run writes, nothing is to be written.
        if std::env::var_os("CI").is_none() {
            command.env(GOLDENS_TABLE, workspace.root.join("tests/GOLDENS.md"));
        }
        let passed = follow(command, &mut finished.outcome, |line| println!("{line}"))?;
        println!("   {title}: {:.1} s", started.elapsed().as_secs_f64());
        if !passed {
            finished.failed.push(title);
        }
        Ok(())
    };
    // Output of tests that pass is asked for as well: it says what was left out.
    for program in programs.iter().filter(|program| suite.holds(program)) {
        run(program.title(), program.command().arg("--show-output").args(filters))?;
    }
    if let Some(selection) = suite.documentation(packages) {
        let mut command = programs::documentation_tests(workspace, &selection);
        run("documentation".into(), command.args(["--", "--show-output"]).args(filters))?;
    }
    finished.took = start.elapsed();
    Ok(finished)
}

/// Reads a test run line by line: most are shown, all are counted.
fn follow(command: &mut Command, outcome: &mut Outcome, mut show: impl FnMut(&str)) -> Result<bool> {
    let name = command.get_program().display().to_string();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))?;
    let output = child.stdout.take().with_context(|| format!("the output of {name} is not piped"))?;
    for line in BufReader::new(output).split(b'\n') {
        let line =
            String::from_utf8_lossy(&line.with_context(|| format!("cannot read the output of {name}"))?).into_owned();
        if outcome.read(&line) {
            show(&line);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    Ok(status.success())
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
    let failed: Vec<&str> = finished.iter().flat_map(|suite| &suite.failed).map(String::as_str).collect();
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
        let shell = |script: &str| {
            let mut outcome = Outcome::default();
            let passed = follow(Command::new("sh").args(["-c", script]), &mut outcome, |_| ()).expect("sh runs");
            (passed, outcome)
        };
        let (passed, outcome) = shell("echo 'test result: ok. 3 passed; 0 failed; 0 ignored'");
        assert!(passed);
        assert_eq!(outcome.passed, 3);
        let (passed, outcome) = shell("echo 'left out: no firefox'; exit 1");
        assert!(!passed);
        assert_eq!(outcome.left_out, ["no firefox"]);
    }
}
