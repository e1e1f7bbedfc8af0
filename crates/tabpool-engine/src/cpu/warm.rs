//! Warming up: browsers compile a function well only once it has run for a while, and beside it.
//!
//! A page that has loaded a model should answer its first request as fast as its tenth, so the kernels are exercised when
//! they are opened, on a layer that uses those an encoder spends its time in.

use bytes::Bytes;
use tabpool_graph::{Activation, BlockRef, Graph, GraphBuilder, GraphError, Op, Program};
use tabpool_tensor::{DType, Tensor};
use web_time::{Duration, Instant};

use super::{Assembly, CpuBackend};
use crate::backend::{EngineError, Executable as _, WeightError, WeightSource};

/// Tokens and widths of the layer: products by quarters and whole ones, with tiles and panels that are not full, come up, and one run
/// takes less than a millisecond.
const TOKENS: usize = 52;
const WIDTH: usize = 128;
const THIN: usize = 124;
const HEADS: usize = 4;

impl CpuBackend {
    /// Runs a small layer again and again for this long, on the threads that are there already. Nobody may wait for the others
    /// meanwhile.
    ///
    /// # Errors
    /// What loading and running any program may give.
    pub async fn warm_up(&self, time: Duration) -> Result<(), EngineError> {
        let begin = Instant::now();
        let fail = |reason: String| EngineError::Device { doing: "warming up".to_owned(), reason };
        let program = layer()
            .map_err(|e| fail(e.to_string()))
            .and_then(|graph| Program::new(graph).map_err(|e| fail(e.to_string())))?;
        // Waiting for other threads would take longer than this does.
        let (executable, _) = self.make(&program, &Zeros, Assembly::AsItIs).await?;
        let input = Tensor::from_f32([1, TOKENS, WIDTH], vec![0.5; TOKENS * WIDTH]).map_err(|e| fail(e.to_string()))?;
        while begin.elapsed() < time {
            executable.run(std::slice::from_ref(&input)).await?;
        }
        Ok(())
    }
}

/// Linear layers with their epilogue, attention, a sum and its norm.
fn layer() -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, TOKENS, WIDTH])?;
    let [weight, down, up] = [("weight", WIDTH, WIDTH), ("down", THIN, WIDTH), ("up", WIDTH, THIN)]
        .map(|(name, n, k)| b.weight(name, DType::F32, [n, k]));
    let (weight, down, up) = (weight?, down?, up?);
    let bias = b.weight("bias", DType::F32, [WIDTH])?;
    let wide =
        b.node("wide", Op::Linear { activation: Some(Activation::Gelu), residual: false }, &[x, weight, bias])?;
    let thin = b.node("thin", Op::LINEAR, &[wide, down])?;
    let query = b.node("query", Op::LINEAR, &[thin, up, bias])?;
    let mixed = b.node("mixed", Op::attention(HEADS, 0.5), &[query, wide, x])?;
    let y = b.node("sum", Op::AddLayerNorm { epsilon: 1e-6 }, &[mixed, x, bias, bias])?;
    b.output("y", y)?;
    let mut graph = b.finish()?;
    for (value, blocks) in graph.weights_mut() {
        let len = u32::try_from(value.shape.elements() * 4).unwrap_or(u32::MAX);
        blocks.push(BlockRef { cid: value.name.as_bytes().into(), len });
    }
    Ok(graph)
}

/// Weights that are nothing but zeros.
struct Zeros;

#[async_trait::async_trait(?Send)]
impl WeightSource for Zeros {
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError> {
        Ok(Bytes::from(vec![0; block.len as usize]))
    }
}

#[cfg(test)]
mod tests {
    use web_time::Duration;

    use crate::cpu::{CpuBackend, CpuOptions};

    #[test]
    fn the_layer_loads_and_runs() {
        let backend = CpuBackend::new(&CpuOptions::new()).expect("threads");
        pollster::block_on(backend.warm_up(Duration::from_millis(5))).expect("it runs");
    }
}
