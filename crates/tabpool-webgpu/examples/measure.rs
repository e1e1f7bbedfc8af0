//! Times the GEMM variants and a whole encoder on this machine's adapter: `cargo run -p tabpool-webgpu --example measure`.

use std::collections::BTreeMap;
use std::time::Duration;

use tabpool_engine::Executable;
use tabpool_engine::conformance::{EncoderSize, MemoryWeights, encoder};
use tabpool_graph::{Graph, GraphBuilder, GraphError, Op};
use tabpool_tensor::{DType, Tensor};
use tabpool_webgpu::{GemmVariant, Options, WebGpuBackend};

type Failure = Box<dyn std::error::Error>;

/// How often a program is run; the median counts.
const RUNS: usize = 9;
/// How many products one program computes, so that what a submit costs does not count.
const PRODUCTS: usize = 8;

#[expect(clippy::print_stdout, reason = "a program that prints what it measured")]
fn main() -> Result<(), Failure> {
    pollster::block_on(async {
        let backend = WebGpuBackend::new(Options::default()).await?;
        println!("{:#?}", backend.adapter_report());
        for variant in GemmVariant::ALL {
            let backend = WebGpuBackend::new(Options { gemm: Some(variant), ..Options::default() }).await?;
            for (m, k, n) in [(128, 384, 384), (128, 384, 1536), (128, 1536, 384), (1, 384, 1536)] {
                let took = product(&backend, m, k, n).await? / u32::try_from(PRODUCTS)?;
                let rate = 2.0 * (m * k * n) as f64 / took.as_secs_f64() / 1e9;
                println!("{:13} M{m} K{k} N{n}: {took:>9.2?}, {rate:5.2} GFLOP/s", variant.name());
            }
        }
        for (batch, sequence) in [(1, 16), (1, 128), (1, 512), (8, 128)] {
            let size = EncoderSize::minilm(batch, sequence);
            let (six, dispatches) = encoder_time(&backend, size).await?;
            let (one, _) = encoder_time(&backend, EncoderSize { layers: 1, ..size }).await?;
            let layer = six.saturating_sub(one) / 5;
            println!("encoder {batch}x{sequence}: {six:.2?}, {layer:.2?} a layer, {dispatches} dispatches");
        }
        Ok(())
    })
}

fn products(m: usize, k: usize, n: usize) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [m, k])?;
    let w = b.weight("w", DType::F32, [n, k])?;
    let mut last = x;
    for i in 0..PRODUCTS {
        last = b.node(&format!("product {i}"), Op::Linear { activation: None }, &[x, w])?;
    }
    let few = b.node("few", Op::Slice { axis: 0, start: 0, length: 1 }, &[last])?;
    b.output("y", few)?;
    b.finish()
}

async fn product(backend: &WebGpuBackend, m: usize, k: usize, n: usize) -> Result<Duration, Failure> {
    let numbers = |count: usize| (0..count).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<_>>();
    let weights = BTreeMap::from([("w".to_owned(), Tensor::from_f32([n, k], numbers(n * k))?)]);
    let inputs = [Tensor::from_f32([m, k], numbers(m * k))?];
    let (took, _) = time(backend, products(m, k, n)?, &weights, &inputs).await?;
    Ok(took)
}

async fn encoder_time(backend: &WebGpuBackend, size: EncoderSize) -> Result<(Duration, usize), Failure> {
    let case = encoder(EncoderSize { vocabulary: 1000, ..size }, DType::F32)?.optimised()?;
    time(backend, case.graph().clone(), case.weights(), &case.runs()[0]).await
}

async fn time(
    backend: &WebGpuBackend,
    graph: Graph,
    weights: &BTreeMap<String, Tensor>,
    inputs: &[Tensor],
) -> Result<(Duration, usize), Failure> {
    let mut source = MemoryWeights::new();
    let program = source.bind(graph, weights)?;
    let (executable, _) = backend.load_program(&program, &source).await?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let output = executable.run(inputs).await?;
        times.push(output.compute + output.readback);
    }
    times.sort();
    Ok((times[RUNS / 2], executable.dispatches()))
}
