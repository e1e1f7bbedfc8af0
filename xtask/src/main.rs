//! `cargo xtask VERB`: set-up, checks, tests, the demo and the benchmarks of this workspace.
//!
//! One file per verb. Nothing here is part of what tabpool ships, and nothing here depends on a tabpool crate: this
//! program has to build and run before any of them does.

#![expect(clippy::print_stdout, reason = "a program for the terminal: its output is its purpose")]

mod bench;
mod build_web;
mod check;
mod command;
mod demo;
mod layers;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::Workspace;

/// What `cargo xtask` can do. The order is that of the printed list: what a newcomer needs comes first.
const VERBS: &[Verb] = &[
    Verb {
        name: "demo",
        arguments: "[ARGS…]",
        summary: "set up, build and run the main job on every browser found",
        run: demo::run,
    },
    Verb {
        name: "test",
        arguments: "[--suite NAME] [FILTER]",
        summary: "set up and run every suite, or one of them",
        run: test::run,
    },
    Verb {
        name: "setup",
        arguments: "[--status]",
        summary: "install what is missing: target, tools, browsers, model",
        run: setup::run,
    },
    Verb { name: "check", arguments: "", summary: "all that CI checks, cheapest first", run: check::run },
    Verb {
        name: "build-web",
        arguments: "",
        summary: "build the browser runtime into web-runtime/dist",
        run: build_web::run,
    },
    Verb { name: "tidy", arguments: "", summary: "rules of the house that no compiler knows", run: tidy::run },
    Verb { name: "layers", arguments: "", summary: "dependencies point strictly downwards", run: layers::run },
    Verb { name: "bench", arguments: "[NAME [ARGS…]]", summary: "list the benchmarks, or run one", run: bench::run },
];

struct Verb {
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    run: fn(&Workspace, &[String]) -> Result<()>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else {
        eprintln!("error: there is no verb `{name}`\n\n{}", usage());
        return ExitCode::from(2);
    };
    match Workspace::find().and_then(|workspace| (verb.run)(&workspace, rest)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    let mut text = String::from("cargo xtask VERB\n\n");
    for verb in VERBS {
        let call = format!("{} {}", verb.name, verb.arguments);
        text.push_str(&format!("  {call:<32} {}\n", verb.summary));
    }
    text
}
