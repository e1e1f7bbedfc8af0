//! What the benchmarks measure tabpool beside: onnxruntime-web and transformers.js from npm, onnxruntime from PyPI.
//!
//! Newest stable releases, pinned with the hash of each archive. No install script runs: one of transformers.js would
//! download further programs.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::{NpmTool, Pin};
use super::{Item, State, download, system};
use crate::command;
use crate::workspace::Workspace;

/// Everything that `cargo xtask bench peers` wants.
pub(super) fn all() -> Vec<Box<dyn Item>> {
    vec![
        Box::new(onnxruntime_web()),
        Box::new(transformers()),
        Box::new(transformers_onnxruntime_web()),
        Box::new(Wheels),
    ]
}

/// What a page can load of onnxruntime-web, in each of the builds that the benchmark can use.
const ONNXRUNTIME_WEB: &[&str] = &[
    "dist/ort.wasm.bundle.min.mjs",
    "dist/ort.webgpu.bundle.min.mjs",
    "dist/ort.jspi.bundle.min.mjs",
    "dist/ort.all.bundle.min.mjs",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
    "dist/ort-wasm-simd-threaded.asyncify.mjs",
    "dist/ort-wasm-simd-threaded.asyncify.wasm",
    "dist/ort-wasm-simd-threaded.jspi.mjs",
    "dist/ort-wasm-simd-threaded.jspi.wasm",
    "dist/ort-wasm-simd-threaded.jsep.mjs",
    "dist/ort-wasm-simd-threaded.jsep.wasm",
    "package.json",
];

const REMEDY: &str = "see the message above";

fn onnxruntime_web() -> NpmTool {
    NpmTool {
        name: "onnxruntime-web",
        folder: "peers/onnxruntime-web",
        pin: Some(Pin {
            package: "onnxruntime-web",
            version: "1.30.0",
            sha256: "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        }),
        members: ONNXRUNTIME_WEB,
        remedy: REMEDY,
    }
}

fn transformers() -> NpmTool {
    NpmTool {
        name: "transformers.js",
        folder: "peers/transformers",
        pin: Some(Pin {
            package: "@huggingface/transformers",
            version: "4.3.1",
            sha256: "0325441d6bd7bc7697fccb32ee6e5febc7f89691e42402d071adc678237b8015",
        }),
        members: &["dist/transformers.min.js", "package.json", "LICENSE"],
        remedy: REMEDY,
    }
}

/// The release of onnxruntime-web that transformers.js asks for: a preview of the next one.
fn transformers_onnxruntime_web() -> NpmTool {
    NpmTool {
        name: "its onnxruntime-web",
        folder: "peers/transformers-onnxruntime-web",
        pin: Some(Pin {
            package: "onnxruntime-web",
            version: "1.31.0-dev.20260914-8d85527a0",
            sha256: "0de27582f3e3189dec4a2082513a0af1ea79ae7fd3039bbfe634a526e173cbe0",
        }),
        members: ONNXRUNTIME_WEB,
        remedy: REMEDY,
    }
}

/// A package of PyPI, and its wheel for each Python.
struct Wheel {
    package: &'static str,
    version: &'static str,
    /// The tag of the interpreter, and the hash.
    builds: &'static [(&'static str, &'static str)],
}

/// For Linux on x86-64. Other packages that onnxruntime names are needed by its tools only, not for running models.
const WHEELS: &[Wheel] = &[
    Wheel {
        package: "onnxruntime",
        version: "1.32.0",
        builds: &[
            ("cp311", "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d"),
            ("cp312", "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8"),
            ("cp313", "02ea12a28c069ea8510093d95a7f6ff8126bfd9fc5c0d3381c03b80fb2b424ba"),
            ("cp314", "48b878f9551d465aa79ee94ecaf49a1f6b5d27f2975efa775ded374db14d0af1"),
        ],
    },
    Wheel {
        package: "numpy",
        version: "2.4.6",
        builds: &[
            ("cp311", "89cd468399cfd2504718f0ba50e410dca55a170b61a02ad92bb18c8a65186e93"),
            ("cp312", "90f9849678c75fe7afa2d348ac842c168b0a4d3d61919687216dfc547976d853"),
            ("cp313", "a7830bab239b79cda9c08c2da014761cafb48da6150e1da17ac06283f43b6089"),
            ("cp314", "a2c306dea656c12c68f51f4cea133cbe78ca7435eb28c735eac1d3ebe73be6e8"),
        ],
    },
];

/// onnxruntime for the system's Python, unpacked where nothing but the benchmark finds it.
struct Wheels;

impl Wheels {
    const FOLDER: &str = "peers/python";

    /// Each wheel's hash for this machine's Python.
    fn hashes() -> Result<Vec<&'static str>> {
        if (std::env::consts::OS, std::env::consts::ARCH) != ("linux", "x86_64") {
            bail!("no hashes of wheels for {} on {}", std::env::consts::OS, std::env::consts::ARCH);
        }
        let tag = command::output(
            Command::new("python3").args(["-c", "import sys; print('cp%d%d' % sys.version_info[:2], end='')"]),
        )?;
        WHEELS.iter().map(|wheel| hash(wheel, &tag)).collect()
    }
}

fn hash(wheel: &Wheel, tag: &str) -> Result<&'static str> {
    let found = wheel.builds.iter().find(|(own, _)| *own == tag);
    found.map(|(_, hash)| *hash).with_context(|| format!("no hash of {}=={} for {tag}", wheel.package, wheel.version))
}

fn stamp(hashes: &[&str]) -> String {
    let lines = WHEELS.iter().zip(hashes).map(|(w, hash)| format!("{}=={} sha256 {hash}\n", w.package, w.version));
    lines.collect()
}

impl Item for Wheels {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn state(&self, workspace: &Workspace) -> Result<State> {
        let folder = workspace.tools.join(Self::FOLDER);
        Ok(match Self::hashes() {
            Ok(hashes) if download::is_in_place(&folder, &stamp(&hashes)) => {
                State::Present(format!("in {}", folder.display()))
            }
            Ok(_) => State::Missing("downloading onnxruntime and numpy with pip".into()),
            Err(error) => State::Missing(format!("{error:#}")),
        })
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        let hashes = Self::hashes()?;
        system::ensure_pip()?;
        download::put_in_place(workspace, &workspace.tools.join(Self::FOLDER), &stamp(&hashes), |fresh| {
            for (wheel, hash) in WHEELS.iter().zip(&hashes) {
                let archive = download::wheel(workspace, wheel.package, wheel.version, hash)?;
                command::run_quietly(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&archive).arg(fresh))
                    .with_context(|| format!("cannot unpack {}", archive.display()))?;
            }
            Ok(())
        })?;
        download::forget(workspace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_has_a_hash_for_the_same_pythons() {
        for wheel in WHEELS {
            for (tag, _) in WHEELS[0].builds {
                assert_eq!(hash(wheel, tag).expect("a hash").len(), 64, "{} {tag}", wheel.package);
            }
            assert!(hash(wheel, "cp27").is_err());
        }
    }
}
