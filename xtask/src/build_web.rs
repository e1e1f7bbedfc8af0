//! `cargo xtask build-web`: the browser runtime, from Rust to the files that a page loads.
//!
//! Four stages: cargo builds the module and the kernels' modules (`kernels`), wasm-bindgen (as a library, so that its version is the locked one) writes the
//! JavaScript around it, `wasm-opt` makes it smaller, and the static files are laid beside it. Cargo decides whether
//! the first stage has work; the other three are skipped when nothing that enters them has changed.

mod kernels;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::command;
use crate::setup::{self, Needs, target};
use crate::workspace::{self, Workspace};

const PACKAGE: &str = "tabpool-web-runtime";
/// The stem of the module and of its JavaScript.
const STEM: &str = "tabpool_web_runtime";

/// The largest module that may be built. A worker anywhere joins by opening a URL, perhaps a phone over a mobile
/// network: the runtime has to arrive in a moment. A bare wgpu build is 85 KB, and runtimes that carry every
/// operator of a model format are 14 to 28 MB. Whoever reaches this limit should ask what the page really needs.
const MODULE_LIMIT_BYTES: u64 = 1_500_000;

/// The optimisation level. On this module all levels lie within three per cent of each other, `-O` at the small end; `-Oz` saves
/// one per cent more by giving up inlining, which the kernels need.
const WASM_OPT_LEVEL: &str = "-O";

/// Which runtime is built, and where to.
struct Flavour {
    features: &'static [&'static str],
    /// Under `web-runtime/`.
    folder: &'static str,
}

/// What tabs load.
const RELEASE: Flavour = Flavour { features: &[], folder: "dist" };
/// The same with the engine's conformance suite inside, for the suite that runs it in real browsers.
const CONFORMANCE: Flavour = Flavour { features: &["conformance"], folder: "dist-conformance" };

/// The file in `dist` that names what it was made from.
const STAMP: &str = ".built-from";

/// The verb.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let flavour = match arguments {
        [] => &RELEASE,
        [one] if one == "--conformance" => &CONFORMANCE,
        _ => bail!("usage: cargo xtask build-web [--conformance]"),
    };
    setup::ensure(workspace, Needs::Build)?;
    build_flavour(workspace, flavour)
}

/// Builds what is not built; set-up must have run.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    build_flavour(workspace, &RELEASE)
}

/// Builds the runtime that the conformance suite drives.
pub(crate) fn build_conformance(workspace: &Workspace) -> Result<()> {
    build_flavour(workspace, &CONFORMANCE)
}

fn build_flavour(workspace: &Workspace, flavour: &Flavour) -> Result<()> {
    let start = Instant::now();
    command::run(
        workspace
            .cargo("build")
            .args(["--package", PACKAGE, "--target", target::TRIPLE, "--profile", "web"])
            .args(flavour.features.iter().flat_map(|feature| ["--features", feature])),
    )?;
    let module = workspace.target_directory()?.join(target::TRIPLE).join("web").join(format!("{STEM}.wasm"));
    if !module.is_file() {
        bail!("{} was not built: is `{PACKAGE}` still a cdylib?", module.display());
    }
    let kernels = kernels::BUILDS.iter().map(|kernels| kernels.build(workspace)).collect::<Result<Vec<_>>>()?;
    let statics = workspace.root.join("web-runtime/static");
    let dist = workspace.root.join("web-runtime").join(flavour.folder);
    let parts = Parts { module: &module, kernels: &kernels, statics: &statics };
    let stamp = fingerprint(&parts)?;
    let unchanged = fs::read_to_string(dist.join(STAMP)).is_ok_and(|found| found == stamp);
    if !unchanged {
        assemble(workspace, &parts, &dist, &stamp)?;
    }
    report(&dist)?;
    let what = if unchanged { "unchanged" } else { "built" };
    println!("build-web: {what} in {} ({:.1} s)", dist.display(), start.elapsed().as_secs_f64());
    Ok(())
}

/// What a build is put together from.
struct Parts<'a> {
    module: &'a Path,
    /// In the order of [`kernels::BUILDS`].
    kernels: &'a [PathBuf],
    statics: &'a Path,
}

/// Fills a fresh folder and swaps it in, so that a page never sees half a build.
fn assemble(workspace: &Workspace, parts: &Parts<'_>, dist: &Path, stamp: &str) -> Result<()> {
    let fresh = dist.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("cannot empty {}", fresh.display()))?;
    }
    fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen
        .input_path(parts.module)
        .out_name(STEM)
        .typescript(false)
        .remove_producers_section(true)
        .remove_name_section(true)
        .web(true)?;
    bindgen.generate(&fresh).context("wasm-bindgen could not read the module")?;
    let generated = fresh.join(format!("{STEM}_bg.wasm"));
    optimise(workspace, &generated, &[])?;
    check_size(&generated, MODULE_LIMIT_BYTES)?;
    for kernels in kernels::lay_out(parts.kernels, &fresh)? {
        optimise(workspace, &kernels, &kernels::WASM_OPT)?;
        check_size(&kernels, kernels::LIMIT_BYTES)?;
    }
    if parts.statics.is_dir() {
        copy_tree(parts.statics, &fresh)?;
    }
    fs::write(fresh.join(STAMP), stamp)?;
    if dist.exists() {
        fs::remove_dir_all(dist).with_context(|| format!("cannot replace {}", dist.display()))?;
    }
    fs::rename(&fresh, dist).with_context(|| format!("cannot put {} in place", dist.display()))
}

fn optimise(workspace: &Workspace, module: &Path, options: &[&str]) -> Result<()> {
    let optimised = module.with_extension("optimised");
    command::run_quietly(
        Command::new("node")
            .arg(workspace.tools.join("binaryen/bin/wasm-opt"))
            .arg(WASM_OPT_LEVEL)
            .args(options)
            .arg(module)
            .arg("-o")
            .arg(&optimised),
    )
    .context("wasm-opt failed")?;
    fs::rename(&optimised, module).with_context(|| format!("cannot replace {}", module.display()))
}

fn check_size(module: &Path, limit: u64) -> Result<()> {
    let bytes = module.metadata().with_context(|| format!("cannot read {}", module.display()))?.len();
    if bytes > limit {
        bail!("{} weighs {bytes} bytes, over the limit of {limit}: `twiggy top` tells why", module.display());
    }
    Ok(())
}

/// Everything that decides what `dist` will hold: the modules, the static files, and how this program treats them.
fn fingerprint(parts: &Parts<'_>) -> Result<String> {
    let Parts { module, kernels, statics } = *parts;
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(WASM_OPT_LEVEL);
    let mut files = vec![module.to_path_buf()];
    files.extend_from_slice(kernels);
    if statics.is_dir() {
        files.extend(workspace::files_below(statics)?);
    }
    for path in files {
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Names are hashed as well: a static file that is renamed changes the build. The modules' paths do not
        // enter, for they differ with the target directory; their order is always the same.
        let name = path.strip_prefix(statics).unwrap_or(Path::new(""));
        hash.update(name.to_string_lossy().as_bytes());
        hash.update(u64::try_from(content.len())?.to_le_bytes());
        hash.update(content);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for path in workspace::files_below(from)? {
        let target = to.join(path.strip_prefix(from)?);
        if target.exists() {
            bail!("{} would replace a file that wasm-bindgen wrote", path.display());
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&path, &target).with_context(|| format!("cannot copy {} to {}", path.display(), target.display()))?;
    }
    Ok(())
}

/// Prints what a browser will fetch, as it is and as a server would compress it.
fn report(dist: &Path) -> Result<()> {
    // Node is there for wasm-opt and has both compressors; this program need not compile its own.
    const SCRIPT: &str = "const fs = require('fs'), zlib = require('zlib');
        for (const path of process.argv.slice(1)) {
            const raw = fs.readFileSync(path);
            console.log([raw.length, zlib.gzipSync(raw, { level: 9 }).length, zlib.brotliCompressSync(raw).length].join(' '));
        }";
    let files: Vec<PathBuf> = workspace::files_below(dist)?
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != STAMP))
        .collect();
    let text = command::output(Command::new("node").arg("-e").arg(SCRIPT).arg("--").args(&files))?;
    println!("   {:<40} {:>10} {:>10} {:>10}", "bytes", "raw", "gzip", "brotli");
    let mut totals = [0_u64; 3];
    for (path, line) in files.iter().zip(text.lines()) {
        let mut sizes = [0_u64; 3];
        for (size, word) in sizes.iter_mut().zip(line.split(' ')) {
            *size = word.parse().with_context(|| format!("node printed `{line}`"))?;
        }
        for (total, size) in totals.iter_mut().zip(sizes) {
            *total += size;
        }
        print_sizes(&path.strip_prefix(dist)?.display().to_string(), sizes);
    }
    print_sizes("together", totals);
    Ok(())
}

fn print_sizes(name: &str, [raw, gzip, brotli]: [u64; 3]) {
    println!("   {name:<40} {raw:>10} {gzip:>10} {brotli:>10}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-web-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("static/inner")).expect("a temporary folder");
        fs::write(folder.join("module.wasm"), "module").expect("a temporary file");
        fs::write(folder.join("kernels.wasm"), "kernels").expect("a temporary file");
        fs::write(folder.join("static/inner/page.html"), "page").expect("a temporary file");
        folder
    }

    #[test]
    fn the_fingerprint_changes_with_content_and_with_names() {
        let folder = scratch("fingerprint");
        let (module, kernels, statics) =
            (folder.join("module.wasm"), [folder.join("kernels.wasm")], folder.join("static"));
        let parts = Parts { module: &module, kernels: &kernels, statics: &statics };
        let of = || fingerprint(&parts).expect("files are there");
        let first = of();
        assert_eq!(first, of());
        fs::write(folder.join("static/inner/page.html"), "pagf").expect("written");
        let second = of();
        assert_ne!(first, second);
        fs::rename(folder.join("static/inner/page.html"), folder.join("static/inner/index.html")).expect("renamed");
        let third = of();
        assert_ne!(second, third);
        fs::write(&kernels[0], "other kernels").expect("written");
        assert_ne!(third, of());
        fs::remove_dir_all(folder).expect("the folder is ours");
    }

    #[test]
    fn static_files_keep_their_folders_and_replace_nothing() {
        let folder = scratch("copy");
        copy_tree(&folder.join("static"), &folder.join("dist")).expect("copied");
        assert_eq!(fs::read_to_string(folder.join("dist/inner/page.html")).expect("there"), "page");
        assert!(copy_tree(&folder.join("static"), &folder.join("dist")).is_err());
        fs::remove_dir_all(folder).expect("the folder is ours");
    }

    #[test]
    fn a_module_over_the_limit_is_refused() {
        let folder = scratch("limit");
        let module = folder.join("module.wasm");
        check_size(&module, MODULE_LIMIT_BYTES).expect("six bytes are few");
        let file = fs::File::create(&module).expect("a temporary file");
        file.set_len(MODULE_LIMIT_BYTES + 1).expect("a sparse file");
        assert!(check_size(&module, MODULE_LIMIT_BYTES).is_err());
        fs::remove_dir_all(folder).expect("the folder is ours");
    }
}
