//! Getting files through the package managers' own clients, checking their hashes, and putting folders in place at once.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::command;
use crate::workspace::Workspace;

/// Names what lies in a tool's folder: written last, compared first.
const STAMP: &str = "setup-stamp";

/// Whether `folder` was completely filled with what `stamp` names.
pub(crate) fn is_in_place(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found == stamp)
}

/// Lets `fill` fill a fresh folder and puts it at `folder`, so that a set-up cut short leaves nothing half done there.
pub(crate) fn put_in_place(
    workspace: &Workspace,
    folder: &Path,
    stamp: &str,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let name = folder.file_name().context("a tool's folder has a name")?;
    let fresh = workspace.tools.join("incoming").join(name);
    empty(&fresh)?;
    fill(&fresh)?;
    fs::write(fresh.join(STAMP), stamp)?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::rename(&fresh, folder).with_context(|| format!("cannot put {} in place", folder.display()))
}

/// Downloads one npm package into a fresh folder, checks it, and returns the path of the archive.
pub(crate) fn npm(workspace: &Workspace, package: &str, version: &str, sha256: &str) -> Result<PathBuf> {
    let folder = downloads(workspace, "npm")?;
    // `npm pack` fetches the archive alone: no dependencies and no install scripts.
    command::run_quietly(
        Command::new("npm").current_dir(&folder).args(["pack", "--silent"]).arg(format!("{package}@{version}")),
    )
    .with_context(|| {
        format!("npm could not download {package}@{version}: check the network and npm's registry setting")
    })?;
    checked(&folder, "tgz", sha256)
}

/// Downloads one wheel into a fresh folder, checks it, and returns its path.
pub(crate) fn wheel(workspace: &Workspace, package: &str, version: &str, sha256: &str) -> Result<PathBuf> {
    let folder = downloads(workspace, "wheel")?;
    command::run_quietly(
        Command::new("python3")
            .current_dir(&folder)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--no-cache-dir", "--only-binary=:all:"])
            .arg(format!("{package}=={version}")),
    )
    .with_context(|| {
        format!("pip could not download {package}=={version}: check the network and pip's index setting")
    })?;
    checked(&folder, "whl", sha256)
}

/// The SHA-256 of a file in lower-case hexadecimal digits.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Removes the archives once they are unpacked.
pub(crate) fn forget(workspace: &Workspace) -> Result<()> {
    let folder = workspace.tools.join("incoming");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn downloads(workspace: &Workspace, kind: &str) -> Result<PathBuf> {
    let folder = workspace.tools.join("incoming/download").join(kind);
    empty(&folder)?;
    Ok(folder)
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// The one file with that extension in the folder, if its hash is the expected one.
fn checked(folder: &Path, extension: &str, expected: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    let [path] = found.as_slice() else {
        bail!("expected one .{extension} file in {}, found {}", folder.display(), found.len());
    };
    let actual = sha256(path)?;
    if actual != expected {
        bail!(
            "{} has SHA-256 {actual}, expected {expected}: it is not the file this workspace was tested with",
            path.display()
        );
    }
    Ok(path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-download-{name}-{}", std::process::id()));
        empty(&folder).expect("a temporary folder");
        folder
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        let folder = scratch("hash");
        fs::write(folder.join("abc"), "abc").expect("a temporary file");
        let digest = sha256(&folder.join("abc")).expect("the file is there");
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        fs::remove_dir_all(folder).expect("the folder is ours");
    }

    #[test]
    fn a_changed_download_is_refused() {
        let folder = scratch("changed");
        fs::write(folder.join("a.tgz"), "abd").expect("a temporary file");
        let error = checked(&folder, "tgz", "ba7816bf").expect_err("the hash differs");
        assert!(error.to_string().contains("expected ba7816bf"), "{error}");
        fs::remove_dir_all(folder).expect("the folder is ours");
    }

    #[test]
    fn a_folder_counts_only_when_it_was_filled_to_the_end() {
        let root = scratch("place");
        let workspace = Workspace { root: root.clone(), tools: root.join("tools") };
        let folder = workspace.tools.join("thing");
        put_in_place(&workspace, &folder, "thing 1", |_| bail!("the network went away")).expect_err("filling failed");
        assert!(!is_in_place(&folder, "thing 1"));
        put_in_place(&workspace, &folder, "thing 1", |fresh| Ok(fs::write(fresh.join("file"), "x")?)).expect("filled");
        assert!(is_in_place(&folder, "thing 1"));
        assert!(!is_in_place(&folder, "thing 2"), "a new pin asks for a new download");
        put_in_place(&workspace, &folder, "thing 2", |_| Ok(())).expect("replaced");
        assert!(!folder.join("file").exists(), "nothing of the old version stays");
        fs::remove_dir_all(root).expect("the folder is ours");
    }
}
