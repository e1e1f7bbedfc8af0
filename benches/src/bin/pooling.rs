//! What keeping workers and sharing them out is worth: mixed requests in a browser started for each, on one worker, on the pool.
//!
//! `cargo xtask bench pooling [--requests N] [--samples N] [--rounds N] [--browser …] [--api …]`; `--help` says more. The table
//! is in `benches/README.md`, the JSON under `target/bench/`.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use tabpool_benches::Fault;
use tabpool_benches::pooling::{Folders, Options, run};

fn main() -> Result<(), Fault> {
    let options = Options::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let folder = |variable: &str, otherwise: PathBuf| std::env::var_os(variable).map_or(otherwise, PathBuf::from);
    let folders = Folders {
        model: folder("TABPOOL_TEST_MODEL", root.join(".tools/models/all-MiniLM-L6-v2")),
        out: folder("TABPOOL_BENCH_OUT", root.join("target/bench")),
        root,
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&options, &folders))
}
