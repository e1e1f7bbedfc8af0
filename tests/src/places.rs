//! Where things are: fixtures, the real model, the program, the built browser runtime.

use std::env;
use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap_or(root)
}

/// A folder under `tests/fixtures`.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures").join(name)
}

/// A fixture's folder as a model's name.
#[must_use]
pub fn fixture_name(name: &str) -> String {
    fixture(name).display().to_string()
}

/// The published all-MiniLM-L6-v2: where `TABPOOL_TEST_MODEL` says, or where `cargo xtask setup` puts it. Without it the
/// case is left out.
#[must_use]
pub fn minilm(case: &str) -> Option<String> {
    let folder = env::var_os("TABPOOL_TEST_MODEL")
        .map_or_else(|| repository().join(".tools/models/all-MiniLM-L6-v2"), PathBuf::from);
    if folder.join("model.safetensors").is_file() {
        return Some(folder.display().to_string());
    }
    left_out(case, &format!("{} holds no model; `cargo xtask setup` fetches it", folder.display()));
    None
}

/// The `tabpool` program: where `TABPOOL_PROGRAM` says, or beside this test program's folder. Without it the case is left
/// out.
#[must_use]
pub fn program(case: &str) -> Option<PathBuf> {
    let path = env::var_os("TABPOOL_PROGRAM").map_or_else(built_program, PathBuf::from);
    if path.is_file() {
        return Some(path);
    }
    left_out(case, &format!("{} is not built; `cargo build -p tabpool-cli` builds it", path.display()));
    None
}

/// `target/debug/tabpool`, for a test program in `target/debug/deps`.
fn built_program() -> PathBuf {
    let here = env::current_exe().unwrap_or_default();
    let folder = here.ancestors().nth(2).map(Path::to_owned).unwrap_or_default();
    folder.join(format!("tabpool{}", env::consts::EXE_SUFFIX))
}

/// Says that a case was left out, in the form that `cargo xtask test` counts.
pub fn left_out(case: &str, missing: &str) {
    eprintln!("left out: {case}: {missing}");
}
