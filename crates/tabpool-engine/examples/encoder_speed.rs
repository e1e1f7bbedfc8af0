//! Times an encoder of the size of all-MiniLM-L6-v2 (6 layers, hidden 384, 12 heads) on the CPU backend.
//!
//! `cargo run --release -p tabpool-engine --example encoder_speed [SEQUENCE [BATCH]]` prints, for one thread and for all
//! the machine has, the median and the best of 30 runs, and the largest difference from the first run.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use std::error::Error;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tabpool_engine::Backend;
use tabpool_engine::conformance::{EncoderSize, MemoryWeights, encoder};
use tabpool_engine::cpu::{CpuBackend, CpuOptions};
use tabpool_tensor::DType;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let sequence = arguments.next().transpose()?.unwrap_or(128);
    let batch = arguments.next().transpose()?.unwrap_or(1);
    let case = encoder(EncoderSize::minilm(batch, sequence), DType::F32)?.optimised()?;
    let mut source = MemoryWeights::new();
    let program = source.bind(case.graph().clone(), case.weights())?;
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut counts = vec![NonZeroUsize::MIN, all];
    counts.dedup();
    for threads in counts {
        let backend = CpuBackend::new(&CpuOptions::new().threads(threads))?;
        let begin = Instant::now();
        let loaded = pollster::block_on(backend.load(&program, &source))?;
        let load = begin.elapsed();
        let mut times = Vec::new();
        for _ in 0..30 {
            let begin = Instant::now();
            pollster::block_on(loaded.executable.run(&case.runs()[0]))?;
            times.push(begin.elapsed());
        }
        times.sort();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        println!(
            "{}: batch {batch} x {sequence} tokens: median {:.1} ms, best {:.1} ms; loaded in {:.0} ms, {} MB weights, {} MB scratch",
            backend.info().device,
            ms(times[times.len() / 2]),
            ms(times[0]),
            ms(load),
            loaded.report.memory.weights >> 20,
            loaded.report.memory.scratch >> 20,
        );
    }
    Ok(())
}
