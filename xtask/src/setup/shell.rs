//! Chromium's headless shell with WebNN in it, as npm carries it for servers without a desktop.
//!
//! Linux packages of Chromium are built without WebNN; this one has it, computed on the processor. The package holds
//! compressed files that its own JavaScript unpacks at run time; here they are unpacked once, with nothing run but Node's
//! decompressor. The program finds its libraries in `lib/`, which whoever starts it puts on its library path.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Item, State, download};
use crate::command;
use crate::workspace::Workspace;

/// The name in lists, the folder under `.tools/` and the program in it.
const NAME: &str = "webnn-shell";
const PACKAGE: &str = "@sparticuz/chromium";
const VERSION: &str = "153.0.0";
const SHA256: &str = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0";
/// Names a shell that lies elsewhere; the crate that starts browsers reads it too.
const OVERRIDE: &str = "TABPOOL_WEBNN_SHELL";
/// What must be there when all is unpacked: the program, a library of its own, and its Vulkan driver on the processor.
const MEMBERS: [&str; 4] = [NAME, "lib/libnss3.so", "libvk_swiftshader.so", "LICENSE"];
/// Archives of the package, of which each is unpacked into the tool's folder.
const ARCHIVES: [&str; 2] = ["al2023.tar", "swiftshader.tar"];

/// The item.
pub(crate) struct WebNnShell;

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.tools.join(NAME)
}

fn stamp() -> String {
    format!("{PACKAGE}@{VERSION} sha256 {SHA256}\n")
}

impl Item for WebNnShell {
    fn name(&self) -> &'static str {
        NAME
    }

    fn state(&self, workspace: &Workspace) -> Result<State> {
        if let Some(path) = std::env::var_os(OVERRIDE).map(PathBuf::from).filter(|path| path.is_file()) {
            return Ok(State::Present(path.display().to_string()));
        }
        let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
        if (system, processor) != ("linux", "x86_64") {
            return Ok(State::Unavailable(format!(
                "{PACKAGE} is built for x86-64 Linux, this is {system} on {processor}; Chrome may have WebNN here"
            )));
        }
        let folder = folder(workspace);
        let complete = MEMBERS.iter().all(|member| folder.join(member).is_file());
        Ok(if complete && download::is_in_place(&folder, &stamp()) {
            State::Present(format!("{PACKAGE}@{VERSION} in {}", folder.display()))
        } else {
            State::Missing(format!("downloading {PACKAGE}@{VERSION} with npm"))
        })
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        let archive = download::npm(workspace, PACKAGE, VERSION, SHA256)?;
        download::put_in_place(workspace, &folder(workspace), &stamp(), |fresh| unpack(&archive, fresh))?;
        download::forget(workspace)
    }
}

/// Unpacks the package's archive into `fresh`, then what it holds.
fn unpack(archive: &Path, fresh: &Path) -> Result<()> {
    let members =
        ["package/LICENSE", "package/bin/chromium.br", "package/bin/al2023.tar.br", "package/bin/swiftshader.tar.br"];
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(fresh).arg("--strip-components=1").args(members);
    command::run_quietly(&mut tar).with_context(|| format!("cannot unpack {}", archive.display()))?;
    let packed = fresh.join("bin");
    decompress(&packed.join("chromium.br"), &fresh.join(NAME), true)?;
    for name in ARCHIVES {
        let inner = packed.join(name);
        decompress(&packed.join(format!("{name}.br")), &inner, false)?;
        command::run_quietly(Command::new("tar").arg("-xf").arg(&inner).arg("-C").arg(fresh))
            .with_context(|| format!("cannot unpack {}", inner.display()))?;
    }
    std::fs::remove_dir_all(&packed).with_context(|| format!("cannot remove {}", packed.display()))
}

/// Writes what a brotli file holds. Node is there for the other tools and has the decompressor.
fn decompress(from: &Path, to: &Path, program: bool) -> Result<()> {
    const SCRIPT: &str = "const fs = require('fs'), [from, to, mode] = process.argv.slice(1);
        fs.writeFileSync(to, require('zlib').brotliDecompressSync(fs.readFileSync(from)), { mode: parseInt(mode, 8) });";
    let mode = if program { "755" } else { "644" };
    command::run_quietly(Command::new("node").arg("-e").arg(SCRIPT).arg("--").arg(from).arg(to).arg(mode))
        .with_context(|| format!("cannot decompress {}", from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_is_exact() {
        assert!(VERSION.starts_with(|first: char| first.is_ascii_digit()));
        assert_eq!(SHA256.len(), 64);
        assert!(SHA256.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
    }

    #[test]
    fn a_brotli_file_is_decompressed_with_its_mode() {
        if command::find("node").is_none() {
            println!("left out: decompressing with node: no `node` in the search path");
            return;
        }
        let folder = std::env::temp_dir().join(format!("xtask-shell-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        // Five bytes as brotli writes them without compressing: a header, the bytes, an empty last block.
        std::fs::write(folder.join("a.br"), b"\x0b\x02\x80hello\x03").expect("a temporary file");
        decompress(&folder.join("a.br"), &folder.join("a"), true).expect("valid brotli");
        assert_eq!(std::fs::read(folder.join("a")).expect("written"), b"hello");
        std::fs::remove_dir_all(folder).expect("the folder is ours");
    }
}
