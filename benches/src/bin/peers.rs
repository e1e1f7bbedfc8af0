//! tabpool beside onnxruntime-web, transformers.js and onnxruntime: the same model, machine, browsers and flags, in turn.
//!
//! `cargo xtask bench peers [--quick] [--browser …] [--api …] [--batch …] [--seq …] [--rounds N]`; `--help` says more. The
//! tables are in `benches/README.md`, the JSON under `target/bench/`.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use tabpool_benches::Fault;
use tabpool_benches::peers::{Folders, Options, run};

fn main() -> Result<(), Fault> {
    let options = Options::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let tools = root.join(".tools");
    let folder = |variable: &str, otherwise: PathBuf| std::env::var_os(variable).map_or(otherwise, PathBuf::from);
    let folders = Folders {
        peers: tools.join("peers"),
        model: folder("TABPOOL_TEST_MODEL", tools.join("models/all-MiniLM-L6-v2")),
        out: folder("TABPOOL_BENCH_OUT", root.join("target/bench")),
        root,
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&options, &folders))
}
