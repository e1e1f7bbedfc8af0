//! Embeds the browser runtime, if it has been built (`cargo xtask build-web` writes it to `web-runtime/dist`). A host
//! built without it runs native workers and says what to do when a browser is asked for.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let dist = manifest.join("../../web-runtime/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut entries = Vec::new();
    if let Ok(folder) = fs::read_dir(&dist) {
        for entry in folder.flatten() {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|_| path.is_file()) else { continue };
            if name.starts_with('.') {
                continue;
            }
            println!("cargo::rerun-if-changed={}", path.display());
            let absolute = fs::canonicalize(&path).expect("a file that was just listed");
            entries.push(format!("    ({name:?}, include_bytes!({:?})),\n", absolute.display().to_string()));
        }
    }
    entries.sort();
    let out = Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("assets.rs");
    let source = format!("pub(crate) static FILES: &[(&str, &[u8])] = &[\n{}];\n", entries.concat());
    fs::write(&out, source).expect("OUT_DIR is writable");
}
