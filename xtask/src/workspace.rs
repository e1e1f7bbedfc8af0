//! Where things are: the workspace, its tools, cargo's target directory, and what `cargo metadata` says of the packages.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// The paths every verb starts from.
pub(crate) struct Workspace {
    /// The folder of the root manifest.
    pub(crate) root: PathBuf,
    /// What set-up downloads. Not below `target`: that may lie elsewhere, be shared, or be cleaned.
    pub(crate) tools: PathBuf,
}

impl Workspace {
    /// Finds the workspace this program was built from.
    ///
    /// Cargo names the manifest at run time; the path known at compile time would be wrong after the checkout moved.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").context("start this as `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask lies in no workspace")?.to_path_buf();
        if !root.join("Cargo.toml").is_file() {
            bail!("{} holds no Cargo.toml", root.display());
        }
        Ok(Self { tools: root.join(".tools"), root })
    }

    /// A cargo command in the workspace, by the cargo that started this program.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).arg(verb);
        // Cargo set these for this program; handed on, they would describe the wrong package to build scripts' children.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION", "CARGO_MANIFEST_PATH"] {
            command.env_remove(name);
        }
        command
    }

    /// What `cargo metadata` knows about the workspace's own packages.
    pub(crate) fn metadata(&self) -> Result<Value> {
        let text = command::output(self.cargo("metadata").args(["--no-deps", "--offline", "--format-version", "1"]))?;
        serde_json::from_str(&text).context("cargo metadata printed no JSON")
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target_directory(&self) -> Result<PathBuf> {
        let metadata = self.metadata()?;
        let path = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
        Ok(PathBuf::from(path))
    }

    /// The folder of the real model that demo and tests use.
    pub(crate) fn test_model(&self) -> PathBuf {
        self.tools.join("models/all-MiniLM-L6-v2")
    }
}

/// Every file below a folder, sorted, links not followed.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    files_below_except(folder, &[])
}

/// The same without the folders of these names, at any depth.
pub(crate) fn files_below_except(folder: &Path, passed_over: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(current) = pending.pop() {
        let entries = fs::read_dir(&current).with_context(|| format!("cannot read {}", current.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_file() {
                files.push(entry.path());
            } else if kind.is_dir() && !passed_over.iter().any(|name| entry.file_name() == *name) {
                pending.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}
