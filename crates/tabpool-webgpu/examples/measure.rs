//! Times the GEMM variants and a whole encoder on this machine's adapter: `cargo run -p tabpool-webgpu --example measure`,
//! with part of a variant's or operator's name or `encoder` to time only that.

use std::collections::BTreeMap;
use std::time::Duration;

use tabpool_engine::Executable;
use tabpool_engine::conformance::{EncoderSize, MemoryWeights, encoder};
use tabpool_graph::{Binary, Graph, GraphBuilder, Op, Unary};
use tabpool_tensor::{DType, Tensor};
use tabpool_webgpu::{GemmVariant, Options, WebGpuBackend};

type Failure = Box<dyn std::error::Error>;

/// How often a program is run; the median counts.
const RUNS: usize = 9;
/// How many products one program computes, so that what a submit costs does not count.
const PRODUCTS: usize = 8;

#[expect(clippy::print_stdout, reason = "a program that prints what it measured")]
fn main() -> Result<(), Failure> {
    let only = std::env::args().nth(1).unwrap_or_default();
    pollster::block_on(async {
        let backend = WebGpuBackend::new(Options::default()).await?;
        println!("{:#?}", backend.adapter_report());
        for variant in GemmVariant::ALL.into_iter().filter(|v| v.name().contains(&only)) {
            let backend = WebGpuBackend::new(Options { gemm: Some(variant), ..Options::default() }).await?;
            for (m, k, n) in [(128, 384, 384), (128, 384, 1536), (128, 1536, 384), (1, 384, 1536)] {
                let took = node(&backend, Op::LINEAR, &[&[m, k], &[n, k]]).await?;
                let rate = |t: Duration| 2.0 * (m * k * n) as f64 / t.as_secs_f64() / 1e9;
                let rates = format!("{:5.2} GFLOP/s, {:5.2} a core", rate(took.wall), rate(took.cpu));
                println!("{:13} M{m} K{k} N{n}: {took}, {rates}", variant.name());
            }
        }
        let x: &[usize] = &[1, 128, 384];
        let attention = Op::attention(12, 0.2);
        let others: [(Op, &[&[usize]]); 5] = [
            (attention.clone(), &[x, x, x, &[1, 1, 1, 128]]),
            (attention, &[&[1, 512, 384], &[1, 512, 384], &[1, 512, 384]]),
            (Op::AddLayerNorm { epsilon: 1e-12 }, &[x, x, &[384], &[384]]),
            (Op::Binary(Binary::Add), &[x, x]),
            (Op::Unary(Unary::Gelu), &[&[128, 1536]]),
        ];
        for (op, shapes) in others.into_iter().filter(|(op, _)| op.name().contains(&only)) {
            println!("{} {shapes:?}: {}", op.name(), node(&backend, op.clone(), shapes).await?);
        }
        for (batch, sequence) in [(1, 16), (1, 128), (8, 128)] {
            if !"encoder".contains(&only) {
                break;
            }
            let size = EncoderSize::minilm(batch, sequence);
            let (six, dispatches) = encoder_time(&backend, size).await?;
            let (one, _) = encoder_time(&backend, EncoderSize { layers: 1, ..size }).await?;
            println!("encoder {batch}x{sequence}: {six}, of one layer {one}; {dispatches} dispatches");
        }
        Ok(())
    })
}

/// How long a run takes by the clock, and of all cores together, which says more on a machine that others use.
struct Took {
    wall: Duration,
    cpu: Duration,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2?} ({:.2?} on all cores)", self.wall, self.cpu)
    }
}

/// What the process has used of the processor so far, in steps of 10 ms; zero where the system does not say so here.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// One operator, computed several times in one program.
async fn node(backend: &WebGpuBackend, op: Op, shapes: &[&[usize]]) -> Result<Took, Failure> {
    let mut b = GraphBuilder::new();
    let (mut values, mut weights, mut inputs) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (i, shape) in shapes.iter().enumerate() {
        let numbers = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 - 3.0).collect();
        let (name, tensor) = (format!("operand {i}"), Tensor::from_f32(shape.to_vec(), numbers)?);
        if matches!(op, Op::Linear { .. }) && i > 0 {
            values.push(b.weight(&name, DType::F32, shape.to_vec())?);
            weights.insert(name, tensor);
        } else {
            values.push(b.input(&name, DType::F32, shape.to_vec())?);
            inputs.push(tensor);
        }
    }
    let mut last = values[0];
    for i in 0..PRODUCTS {
        last = b.node(&format!("node {i}"), op.clone(), &values)?;
    }
    let few = b.node("few", Op::Slice { axis: 0, start: 0, length: 1 }, &[last])?;
    b.output("y", few)?;
    let (took, _) = time(backend, b.finish()?, &weights, &inputs).await?;
    let each = |t: Duration| t / u32::try_from(PRODUCTS).unwrap_or(1);
    Ok(Took { wall: each(took.wall), cpu: each(took.cpu) })
}

async fn encoder_time(backend: &WebGpuBackend, size: EncoderSize) -> Result<(Took, usize), Failure> {
    let case = encoder(EncoderSize { vocabulary: 1000, ..size }, DType::F32)?.optimised()?;
    time(backend, case.graph().clone(), case.weights(), &case.runs()[0]).await
}

async fn time(
    backend: &WebGpuBackend,
    graph: Graph,
    weights: &BTreeMap<String, Tensor>,
    inputs: &[Tensor],
) -> Result<(Took, usize), Failure> {
    let mut source = MemoryWeights::new();
    let program = source.bind(graph, weights)?;
    let (executable, _) = backend.load_program(&program, &source).await?;
    executable.run(inputs).await?;
    let mut times = Vec::new();
    let before = cpu_time();
    for _ in 0..RUNS {
        let output = executable.run(inputs).await?;
        times.push(output.compute + output.readback);
    }
    let cpu = (cpu_time() - before) / u32::try_from(RUNS)?;
    times.sort();
    Ok((Took { wall: times[RUNS / 2], cpu }, executable.dispatches()))
}
