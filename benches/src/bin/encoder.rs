//! An encoder of the size of all-MiniLM-L6-v2 (6 layers, hidden 384, 12 heads; random weights) on the native backends:
//! the processor with one thread and with all, and WebGPU over whatever adapter Vulkan, Metal or Direct3D 12 offers.
//!
//! `cargo xtask bench encoder [SEQUENCE [BATCH [ROUNDS]]]`. The ratio is to the processor with one thread, in the same
//! run. Peers of other makers are not measured here yet.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use std::error::Error;
use std::num::NonZeroUsize;
use std::rc::Rc;

use tabpool_benches::interleave;
use tabpool_engine::conformance::{EncoderSize, MemoryWeights, encoder};
use tabpool_engine::cpu::{CpuBackend, CpuOptions};
use tabpool_engine::{Backend, EngineError, Executable};
use tabpool_graph::Program;
use tabpool_tensor::{DType, Tensor};
use tabpool_webgpu::{Options, WebGpuBackend};

type Contender = (String, Rc<dyn Executable>);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let sequence = arguments.next().transpose()?.unwrap_or(128);
    let batch = arguments.next().transpose()?.unwrap_or(1);
    let rounds = arguments.next().transpose()?.unwrap_or(30);
    let case = encoder(EncoderSize::minilm(batch, sequence), DType::F32)?.optimised()?;
    let mut source = MemoryWeights::new();
    let program = source.bind(case.graph().clone(), case.weights())?;
    let contenders = contenders(&program, &source)?;
    let inputs: &[Tensor] = &case.runs()[0];
    let mut runs: Vec<_> = contenders
        .iter()
        .map(|(_, executable)| {
            move || -> Result<(), EngineError> { pollster::block_on(executable.run(inputs)).map(drop) }
        })
        .collect();
    let mut each: Vec<&mut dyn FnMut() -> Result<(), EngineError>> = runs.iter_mut().map(|r| r as _).collect();
    let times = interleave(rounds, &mut each)?;

    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    println!("batch {batch} x {sequence} tokens, {rounds} rounds, {cores} cores\n");
    println!("| backend | median ms | quartiles ms | ratio |\n|---|---|---|---|");
    let ms = |percent: usize, i: usize| times[i].percentile(percent).as_secs_f64() * 1e3;
    for (i, (name, _)) in contenders.iter().enumerate() {
        let (low, median, high) = (ms(25, i), ms(50, i), ms(75, i));
        println!("| {name} | {median:.1} | {low:.1} to {high:.1} | {:.2} |", ms(50, 0) / median);
    }
    Ok(())
}

fn contenders(program: &Program, source: &MemoryWeights) -> Result<Vec<Contender>, Box<dyn Error>> {
    let load = |backend: &dyn Backend| pollster::block_on(backend.load(program, source));
    let mut all = Vec::new();
    let mut counts = vec![NonZeroUsize::MIN, std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)];
    counts.dedup();
    for threads in counts {
        let backend = CpuBackend::new(&CpuOptions::new().threads(threads))?;
        all.push((format!("cpu ({})", backend.info().device), load(&backend)?.executable));
    }
    match pollster::block_on(WebGpuBackend::new(Options::default())) {
        Ok(backend) => all.push((format!("webgpu ({})", backend.info().device), load(&backend)?.executable)),
        Err(e) => println!("left out: webgpu: {e}"),
    }
    Ok(all)
}
