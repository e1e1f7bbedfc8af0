//! The kernels' modules: four builds of one crate, apart from the runtime's.
//!
//! Each is built with flags of its own, in a target folder of its own, because cargo puts what it builds for other flags
//! under the same names. The flags that share memory need no nightly compiler and no standard library built anew: the
//! crate has no standard library, and what it takes of `core` is compiled with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::command;
use crate::setup::target;
use crate::workspace::Workspace;

const PACKAGE: &str = "tabpool-kernel-module";
const STEM: &str = "tabpool_kernel_module";

/// The largest module that may be built. A page fetches one of the four, before its first run on the processor.
pub(super) const LIMIT_BYTES: u64 = 104_000;

/// How they are made smaller: without putting functions into their only caller. A browser compiles a function anew, and well,
/// once it has run for a while; with everything in one, that takes longer than a first run.
pub(super) const WASM_OPT: [&str; 1] = ["--one-caller-inline-max-function-size=0"];

/// What all builds have: 128-bit vectors, and the end of the statics, from where the runtime gives out memory. A stack of
/// 64 KiB is many times what the kernels use, and helpers' stacks are as large (`STACK_BYTES` in `kernels.js`). And without
/// the pass that makes a variable of each distance at which a loop loads: browsers give out 15 vector registers and few others,
/// and add a constant while they load; with the variables a loop of 12 sums is half as fast.
const ALWAYS: &[&str] =
    &["-Clink-arg=--export=__heap_base", "-Clink-arg=-zstack-size=65536", "-Cllvm-args=-disable-lsr"];

/// Shared memory comes from outside, of the size that `INITIAL_PAGES` in `kernels.js` says, and each instance has its own
/// stack in it.
const SHARED: &[&str] = &[
    "-Clink-arg=--shared-memory",
    "-Clink-arg=--import-memory",
    "-Clink-arg=--initial-memory=1048576",
    "-Clink-arg=--max-memory=4294967296",
    "-Clink-arg=--export=__stack_pointer",
];

/// One build of the kernels.
pub(super) struct Kernels {
    /// Its file in `dist`, as `kernels.js` calls it.
    pub(super) name: &'static str,
    features: &'static str,
    shared: bool,
}

/// Every build.
pub(super) const BUILDS: &[Kernels] = &[
    Kernels { name: "kernels-simd128", features: "+simd128", shared: false },
    Kernels { name: "kernels-relaxed-simd", features: "+simd128,+relaxed-simd", shared: false },
    Kernels {
        name: "kernels-simd128-shared",
        features: "+simd128,+atomics,+bulk-memory,+mutable-globals",
        shared: true,
    },
    Kernels {
        name: "kernels-relaxed-simd-shared",
        features: "+simd128,+relaxed-simd,+atomics,+bulk-memory,+mutable-globals",
        shared: true,
    },
];

impl Kernels {
    /// The module in `dist`, from the module as built.
    pub(super) fn file(&self) -> String {
        format!("{}.wasm", self.name)
    }

    /// Has cargo build it; gives where it is.
    pub(super) fn build(&self, workspace: &Workspace) -> Result<PathBuf> {
        let target = workspace.target_directory()?.join("kernels").join(self.name);
        let features = format!("-Ctarget-feature={}", self.features);
        let shared = if self.shared { SHARED } else { &[] };
        let flags: Vec<&str> = [&[features.as_str()], ALWAYS, shared].concat();
        command::run_quietly(
            workspace
                .cargo("build")
                .args(["--package", PACKAGE, "--target", target::TRIPLE, "--profile", "web", "--quiet"])
                .args(self.shared.then_some(["--features", "shared"]).into_iter().flatten())
                .arg("--target-dir")
                .arg(&target)
                .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")),
        )?;
        let module = target.join(target::TRIPLE).join("web").join(format!("{STEM}.wasm"));
        if !module.is_file() {
            bail!("{} was not built: is `{PACKAGE}` still a cdylib?", module.display());
        }
        Ok(module)
    }
}

/// Copies the modules built into a folder, under their names; gives where each lies there.
pub(super) fn lay_out(built: &[PathBuf], dist: &Path) -> Result<Vec<PathBuf>> {
    let mut laid = Vec::new();
    for (kernels, module) in BUILDS.iter().zip(built) {
        let file = dist.join(kernels.file());
        fs::copy(module, &file)?;
        laid.push(file);
    }
    Ok(laid)
}
