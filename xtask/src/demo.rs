//! `cargo xtask demo`: the main job, from nothing: set-up, the browser runtime, the program, a real model.

use anyhow::Result;

use crate::build_web;
use crate::command;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;

/// The verb. Arguments go to `tabpool demo`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::ensure(workspace, Needs::Demo)?;
    build_web::build(workspace)?;
    let mut demo = workspace.cargo("run");
    demo.args(["--package", "tabpool-cli", "--bin", "tabpool", "--", "demo"]);
    // Who names a model means that one.
    if !arguments.iter().any(|argument| argument == "--model" || argument.starts_with("--model=")) {
        demo.arg("--model").arg(workspace.test_model());
    }
    command::run(demo.args(arguments))
}
