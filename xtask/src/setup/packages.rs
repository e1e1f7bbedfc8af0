//! Prebuilt tools that npm carries: DuckDB's shared library and binaryen's `wasm-opt`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Item, State, download};
use crate::command;
use crate::workspace::Workspace;

/// One package, pinned to a version and to the hash of its archive.
pub(super) struct Pin {
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    pub(super) sha256: &'static str,
}

/// Members of one npm package, unpacked into a folder of the tools.
pub(crate) struct NpmTool {
    pub(super) name: &'static str,
    pub(super) folder: &'static str,
    /// None where the package does not exist for this system.
    pub(super) pin: Option<Pin>,
    pub(super) members: &'static [&'static str],
    pub(super) remedy: &'static str,
}

/// DuckDB's shared library, as the bindings for Node ship it.
///
/// The C interface is the same for all of 1.5; the pins differ because the newest release is not packaged for every system.
pub(crate) fn duckdb() -> NpmTool {
    let (pin, members): (Option<Pin>, &[&str]) = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => (
            Some(Pin {
                package: "@duckdb/node-bindings-linux-x64",
                version: "1.5.6-r.1",
                sha256: "1b9f82478539bb9a1d1df44bd103121a12ae52142c07158dc52b97d2ec1d69ff",
            }),
            &["libduckdb.so", "LICENSE"],
        ),
        ("linux", "aarch64") => (
            Some(Pin {
                package: "@duckdb/node-bindings-linux-arm64",
                version: "1.5.5-r.5",
                sha256: "3b85f3ea438f7dc3691d7b5e6e4222ffe9127fd17885f96ca72e0c99925c348e",
            }),
            &["libduckdb.so", "LICENSE"],
        ),
        ("macos", "aarch64") => (
            Some(Pin {
                package: "@duckdb/node-bindings-darwin-arm64",
                version: "1.5.5-r.5",
                sha256: "08b3cfd7d4d620a5fb67ef49db28551b767107266af3a8e2600e49d99ee59456",
            }),
            &["libduckdb.dylib", "LICENSE"],
        ),
        ("macos", "x86_64") => (
            Some(Pin {
                package: "@duckdb/node-bindings-darwin-x64",
                version: "1.5.5-r.5",
                sha256: "1266f62ac7c02f7971554a2b0b2c4c19923a97258bfdf1b203873e174e7a28c4",
            }),
            &["libduckdb.dylib", "LICENSE"],
        ),
        _ => (None, &[]),
    };
    NpmTool {
        name: "libduckdb",
        folder: "duckdb",
        pin,
        members,
        remedy: "put a libduckdb 1.5 into .tools/duckdb, or build with `--features bundled`, which compiles DuckDB",
    }
}

/// `wasm-opt`, compiled to JavaScript: slower than native, but the same file everywhere.
pub(crate) fn binaryen() -> NpmTool {
    NpmTool {
        name: "wasm-opt",
        folder: "binaryen",
        pin: Some(Pin {
            package: "binaryen",
            version: "132.0.0",
            sha256: "6543555fb29bb92548f325c7dc18e9ab7dbb1215edda25993d1e3f71d85b8618",
        }),
        members: &["bin/wasm-opt", "bin/package.json", "LICENSE"],
        remedy: "see the message above",
    }
}

impl NpmTool {
    fn path(&self, workspace: &Workspace) -> PathBuf {
        workspace.tools.join(self.folder)
    }
}

impl Pin {
    fn stamp(&self) -> String {
        format!("{}@{} sha256 {}\n", self.package, self.version, self.sha256)
    }
}

impl Item for NpmTool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn state(&self, workspace: &Workspace) -> Result<State> {
        let folder = self.path(workspace);
        let Some(pin) = &self.pin else {
            // Where nothing is packaged, a library that somebody put there by hand is taken as it is.
            let by_hand =
                ["libduckdb.so", "libduckdb.dylib", "duckdb.dll"].iter().any(|file| folder.join(file).is_file());
            return Ok(if by_hand {
                State::Present("put there by hand".into())
            } else {
                State::Missing(self.remedy.into())
            });
        };
        let complete = self.members.iter().all(|member| folder.join(member).is_file());
        Ok(if complete && download::is_in_place(&folder, &pin.stamp()) {
            State::Present(format!("{}@{} in {}", pin.package, pin.version, folder.display()))
        } else {
            State::Missing(format!("downloading {}@{} with npm", pin.package, pin.version))
        })
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        let Some(pin) = &self.pin else {
            bail!("no package for {} on {}: {}", std::env::consts::OS, std::env::consts::ARCH, self.remedy);
        };
        let archive = download::npm(workspace, pin.package, pin.version, pin.sha256)?;
        download::put_in_place(workspace, &self.path(workspace), &pin.stamp(), |fresh| {
            let members = self.members.iter().map(|member| format!("package/{member}"));
            command::run_quietly(
                Command::new("tar")
                    .arg("-xzf")
                    .arg(&archive)
                    .arg("-C")
                    .arg(fresh)
                    .arg("--strip-components=1")
                    .args(members),
            )
            .with_context(|| format!("cannot unpack {}", archive.display()))
        })?;
        download::forget(workspace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_exact() {
        for tool in [duckdb(), binaryen()] {
            let Some(pin) = tool.pin else { continue };
            assert!(pin.version.starts_with(|first: char| first.is_ascii_digit()), "{}", pin.version);
            assert_eq!(pin.sha256.len(), 64);
            assert!(pin.sha256.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
        }
    }
}
