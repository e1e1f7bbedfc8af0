//! `cargo xtask setup`: everything that builds, tests and the demo need beyond Rust itself.
//!
//! A list of items. Each can tell cheaply whether it is there, and can install itself into `.tools/` or through the
//! system's package manager. Versions are pinned and downloads checked against hashes in this program, so a second
//! machine gets the same bytes. Nothing is installed that is there already, and nothing is upgraded.

mod browsers;
mod download;
mod model;
mod packages;
mod peers;
mod shell;
mod system;
pub(crate) mod target;

use std::fs::{self, File};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Whether an item is there, and in words what or where it is, or what is missing.
pub(crate) enum State {
    /// There is nothing to do.
    Present(String),
    /// It has to be installed.
    Missing(String),
    /// It does not exist for this system, and everything works without it.
    Unavailable(String),
}

/// One thing that set-up looks after.
pub(crate) trait Item {
    /// A short name for the list.
    fn name(&self) -> &'static str;
    /// Looks, in milliseconds and without the network.
    fn state(&self, workspace: &Workspace) -> Result<State>;
    /// Installs it, or fails with a sentence that says what to do by hand.
    fn install(&self, workspace: &Workspace) -> Result<()>;
}

/// How much of the list a verb cannot do without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Needs {
    /// To compile and check everything, the browser runtime included.
    Build,
    /// To run the demo: a browser that is missing is only a warning, for the native worker remains.
    Demo,
    /// To run every suite.
    Tests,
}

/// The verb.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    match arguments {
        [] => ensure(workspace, Needs::Tests),
        [flag] if flag == "--status" => status(workspace),
        _ => bail!("usage: cargo xtask setup [--status]"),
    }
}

/// Makes sure that what `needs` asks for is there.
pub(crate) fn ensure(workspace: &Workspace, needs: Needs) -> Result<()> {
    let start = Instant::now();
    let _lock = lock(workspace)?;
    let mut installed = 0;
    for item in required(needs) {
        installed += usize::from(ensure_item(workspace, item.as_ref())?);
    }
    if needs != Needs::Build {
        for item in browsers::wanted()? {
            match ensure_item(workspace, item.as_ref()) {
                Ok(done) => installed += usize::from(done),
                Err(error) if needs == Needs::Demo => {
                    eprintln!("warning: {error:#}\n         The demo goes on without it.");
                }
                Err(error) => return Err(error.context(browsers::HOW_TO_DO_WITHOUT)),
            }
        }
    }
    println!("setup: {} ({:.1} s)", if installed == 0 { "all there" } else { "done" }, start.elapsed().as_secs_f64());
    Ok(())
}

/// Makes sure that what benchmarks measure us beside is there, as far as this machine allows: a peer that is missing is
/// shown as failed, and the others are measured.
pub(crate) fn ensure_peers(workspace: &Workspace) -> Result<()> {
    let _lock = lock(workspace)?;
    for item in peers::all() {
        if let Err(error) = ensure_item(workspace, item.as_ref()) {
            eprintln!("warning: {error:#}\n         The benchmark goes on without it.");
        }
    }
    Ok(())
}

/// Everything but the browsers, in the order in which one needs the other.
fn required(needs: Needs) -> Vec<Box<dyn Item>> {
    let mut items: Vec<Box<dyn Item>> = vec![
        Box::new(target::WasmTarget),
        Box::new(system::Node),
        Box::new(packages::duckdb()),
        Box::new(packages::binaryen()),
    ];
    if needs != Needs::Build {
        items.push(Box::new(model::TestModel));
    }
    items
}

/// Installs the item unless it is there; tells whether anything was done.
fn ensure_item(workspace: &Workspace, item: &dyn Item) -> Result<bool> {
    let what = match item.state(workspace).with_context(|| format!("looking for {}", item.name()))? {
        State::Missing(what) => what,
        State::Present(_) => return Ok(false),
        State::Unavailable(why) => {
            println!("setup: {}: not available here, left out: {why}", item.name());
            return Ok(false);
        }
    };
    println!("setup: {}: {what}", item.name());
    let start = Instant::now();
    item.install(workspace).with_context(|| format!("setting up {}", item.name()))?;
    match item.state(workspace)? {
        State::Present(found) => {
            println!("setup: {}: {found} ({:.1} s)", item.name(), start.elapsed().as_secs_f64());
            Ok(true)
        }
        State::Missing(what) | State::Unavailable(what) => bail!("{} was installed and still: {what}", item.name()),
    }
}

fn status(workspace: &Workspace) -> Result<()> {
    let mut items = required(Needs::Tests);
    items.extend(browsers::all());
    for item in items {
        let (mark, text) = match item.state(workspace)? {
            State::Present(text) => ("there", text),
            State::Missing(text) => ("MISSING", text),
            State::Unavailable(text) => ("none", text),
        };
        println!("{:<20} {mark:<8} {text}", item.name());
    }
    Ok(())
}

/// Holds off other set-ups of this workspace until the returned file is closed.
fn lock(workspace: &Workspace) -> Result<File> {
    fs::create_dir_all(&workspace.tools).with_context(|| format!("cannot create {}", workspace.tools.display()))?;
    let path = workspace.tools.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("setup: another set-up of this workspace is running, waiting for it");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}
