//! tabpool beside onnxruntime-web where a model says one token after another: the time to the first token after a prompt, and
//! a token's time at several lengths of context, in the same browsers, in turn.
//!
//! `cargo xtask bench generation [--quick] [--browser …] [--api …] [--context …] [--rounds N]`; `--help` says more. The model is
//! a GPT-2 of a size that the command line says, with weights that are drawn for it. The tables are in `benches/README.md`,
//! the JSON under `target/bench/`.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use tabpool_benches::Fault;
use tabpool_benches::generation::{Folders, Options, run};

fn main() -> Result<(), Fault> {
    let options = Options::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let out = std::env::var_os("TABPOOL_BENCH_OUT").map_or_else(|| root.join("target/bench"), PathBuf::from);
    let folders = Folders { peers: root.join(".tools/peers"), out, root };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&options, &folders))
}
