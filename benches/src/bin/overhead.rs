//! What the host itself costs: requests to a worker that answers at once, over a real WebSocket, beside a bare one.
//!
//! `cargo xtask bench overhead [--quick] [--rounds N] [--at-once N] [--workers N]`; `--help` says more. The table is in
//! `benches/README.md`, the JSON under `target/bench/`.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use tabpool_benches::Fault;
use tabpool_benches::overhead::{Folders, Options, run};

fn main() -> Result<(), Fault> {
    let options = Options::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let out = std::env::var_os("TABPOOL_BENCH_OUT").map_or_else(|| root.join("target/bench"), PathBuf::from);
    let folders = Folders { out, root };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&options, &folders))
}
