//! The WebAssembly target of the toolchain that `rust-toolchain.toml` names.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Item, State};
use crate::command;
use crate::workspace::Workspace;

/// The target of the browser runtime.
pub(crate) const TRIPLE: &str = "wasm32-unknown-unknown";

/// Rust's standard library for that target.
pub(crate) struct WasmTarget;

impl Item for WasmTarget {
    fn name(&self) -> &'static str {
        "wasm target"
    }

    fn state(&self, workspace: &Workspace) -> Result<State> {
        // The folder is asked, not rustup: distributions ship the target too, and this is quicker.
        let sysroot = command::output(Command::new("rustc").current_dir(&workspace.root).args(["--print", "sysroot"]))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib").join(TRIPLE).join("lib");
        Ok(if library.is_dir() {
            State::Present(library.display().to_string())
        } else {
            State::Missing(format!("{} does not exist, asking rustup for {TRIPLE}", library.display()))
        })
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        command::run_quietly(Command::new("rustup").current_dir(&workspace.root).args(["target", "add", TRIPLE]))
            .with_context(|| {
                format!("add the target by hand: rustup target add {TRIPLE}, or your distribution's package of it")
            })
    }
}
