//! The oracle: what each operator gives, written for reading, not for speed.
//!
//! Every other backend is checked against it. A node's operands are `f32` or `i32`; inside a node all arithmetic is in
//! `f64` and the result is rounded to `f32` once, so it is nearer to the true value than any kernel in `f32` can be. One
//! place rounds in between: the scores of [`Op::Attention`], where masks of `-1e9` and beyond mean to swallow the score
//! (see `oracle/product.rs`).

mod convolution;
mod elementwise;
mod layout;
mod product;
mod ranking;
mod rows;

use tabpool_graph::{Graph, Node, Op, ValueId};
use tabpool_tensor::{DType, Shape, Tensor, TensorError};

use crate::backend::{EngineError, WeightError, check_inputs};
use crate::state::{StateSpec, check_states};

use convolution::Moves;

pub use elementwise::erf;

/// Evaluates a graph without states: the tensors of its outputs, in order. `weights` gives the tensor of a weight's value,
/// in any floating-point dtype, with the value's shape.
///
/// # Errors
/// [`EngineError::Input`] for inputs that do not fit the graph, [`EngineError::Weight`] for weights that are missing or
/// of another shape, [`EngineError::State`] for a graph with states.
pub fn run(
    graph: &Graph,
    weights: &dyn Fn(ValueId) -> Option<Tensor>,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, EngineError> {
    check_states(graph, None)?;
    run_on(graph, weights, &mut Vec::new(), inputs)
}

/// What a graph's states are before the first run.
#[must_use]
pub fn new_states(graph: &Graph) -> Vec<Tensor> {
    let zeros = |spec: StateSpec| {
        let bytes = vec![0; spec.shape.elements() * spec.dtype.size()];
        Tensor::new(spec.dtype, spec.shape, bytes.into())
    };
    StateSpec::of(graph).into_iter().filter_map(|spec| zeros(spec).ok()).collect()
}

/// Evaluates a graph whose states hold these tensors, and replaces them by what the states become.
///
/// # Errors
/// As [`run`]; [`EngineError::State`] where the tensors are not of the graph's states. Then they are as before.
pub fn run_on(
    graph: &Graph,
    weights: &dyn Fn(ValueId) -> Option<Tensor>,
    states: &mut Vec<Tensor>,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, EngineError> {
    check_inputs(graph, inputs)?;
    // Tensors have no names; those of the graph's states are theirs by position.
    let given = states.iter().enumerate().map(|(n, t)| StateSpec {
        name: graph.states().get(n).map(|s| graph.value(s.value).name.clone()).unwrap_or_default(),
        dtype: t.dtype(),
        shape: t.shape().clone(),
    });
    check_states(graph, Some(&given.collect::<Vec<_>>()))?;
    let mut values: Vec<Option<Array>> = vec![None; graph.values().len()];
    for (&id, tensor) in graph.inputs().iter().zip(inputs) {
        values[id.index()] = Some(Array::of(tensor).map_err(|e| device("reading an input", &e))?);
    }
    for c in graph.constants() {
        values[c.value.index()] = Some(Array::of(&c.tensor).map_err(|e| device("reading a constant", &e))?);
    }
    for w in graph.weights() {
        values[w.value.index()] = Some(weight(graph, w.value, weights)?);
    }
    for (state, tensor) in graph.states().iter().zip(&*states) {
        values[state.value.index()] = Some(Array::of(tensor).map_err(|e| device("reading a state", &e))?);
    }
    for node in graph.nodes() {
        let operands = node.inputs.iter().map(|&id| defined(&values, id)).collect::<Result<Vec<_>, _>>()?;
        let result = evaluate(node, &operands, &graph.value(node.output).shape);
        values[node.output.index()] = Some(result);
    }
    let outputs = graph.outputs().iter().map(|o| defined(&values, o.value)?.tensor()).collect::<Result<_, _>>()?;
    *states = graph.states().iter().map(|s| defined(&values, s.next)?.tensor()).collect::<Result<_, _>>()?;
    Ok(outputs)
}

fn defined(values: &[Option<Array>], id: ValueId) -> Result<&Array, EngineError> {
    values[id.index()].as_ref().ok_or_else(|| device("evaluating", &format!("{id} has no origin")))
}

fn weight(graph: &Graph, id: ValueId, weights: &dyn Fn(ValueId) -> Option<Tensor>) -> Result<Array, EngineError> {
    let value = graph.value(id);
    let fail = |reason: String| EngineError::Weight {
        name: value.name.clone(),
        source: WeightError { cid: String::new(), reason },
    };
    let tensor = weights(id).ok_or_else(|| fail("is missing".to_owned()))?;
    if tensor.shape() != &value.shape {
        return Err(fail(format!("is {}, the graph declares {}", tensor.shape(), value.shape)));
    }
    let elements = tensor.to_f32().map_err(|e| fail(e.to_string()))?.into_owned();
    Ok(Array { shape: value.shape.clone(), elements: Elements::F32(elements) })
}

fn device(doing: &str, reason: &dyn std::fmt::Display) -> EngineError {
    EngineError::Device { doing: doing.to_owned(), reason: reason.to_string() }
}

/// A value while the oracle works.
#[derive(Clone, Debug)]
struct Array {
    shape: Shape,
    elements: Elements,
}

/// The elements of a value, row-major.
#[derive(Clone, Debug)]
enum Elements {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Array {
    fn of(tensor: &Tensor) -> Result<Self, TensorError> {
        let elements = match tensor.dtype() {
            DType::I32 => Elements::I32(tensor.to_i32()?.into_owned()),
            _ => Elements::F32(tensor.to_f32()?.into_owned()),
        };
        Ok(Self { shape: tensor.shape().clone(), elements })
    }

    fn tensor(&self) -> Result<Tensor, EngineError> {
        let shape = self.shape.clone();
        match &self.elements {
            Elements::F32(v) => Tensor::from_f32(shape, v.clone()),
            Elements::I32(v) => Tensor::from_i32(shape, v.clone()),
        }
        .map_err(|e| device("making an output", &e))
    }

    /// The elements of an `f32` value; none of an `i32` one, which a valid graph never asks for.
    fn floats(&self) -> &[f32] {
        match &self.elements {
            Elements::F32(v) => v,
            Elements::I32(_) => &[],
        }
    }

    /// The elements of an `i32` value; none of an `f32` one, which a valid graph never asks for.
    fn integers(&self) -> &[i32] {
        match &self.elements {
            Elements::I32(v) => v,
            Elements::F32(_) => &[],
        }
    }

    /// The size of the last dimension; 1 for a scalar.
    fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// One node: validation has made sure that operands and shapes fit the operator.
fn evaluate(node: &Node, x: &[&Array], shape: &Shape) -> Array {
    let floats = |values: Vec<f32>| Elements::F32(values);
    let elements = match &node.op {
        Op::Gather => floats(layout::gather(x[0], x[1])),
        Op::MatMul { transpose_b } => floats(product::matmul(x[0], x[1], *transpose_b, shape)),
        Op::Linear { activation, residual } => floats(product::linear(x, *activation, *residual)),
        Op::Conv2d { stride, padding, dilation, groups, activation } => {
            let moves = Moves { stride: *stride, padding: *padding, dilation: *dilation, groups: *groups };
            floats(convolution::conv2d(x, &moves, *activation, shape))
        }
        Op::Binary(op) => elementwise::binary(*op, x[0], x[1], shape),
        Op::Unary(op) => floats(x[0].floats().iter().map(|&v| round(elementwise::unary(*op, f64::from(v)))).collect()),
        Op::Softmax => floats(rows::softmax(x[0])),
        Op::LayerNorm { epsilon } => floats(rows::layer_norm(x[0], None, &x[1..], *epsilon)),
        Op::AddLayerNorm { epsilon } => floats(rows::layer_norm(x[0], Some(x[1]), &x[2..], *epsilon)),
        Op::RmsNorm { epsilon } => floats(rows::rms_norm(x[0], x[1], *epsilon)),
        Op::Reduce { reduction, axis, .. } => floats(rows::reduce(x[0], *reduction, *axis)),
        Op::L2Normalize { epsilon } => floats(rows::l2_normalize(x[0], *epsilon)),
        Op::Reshape { .. } => x[0].elements.clone(),
        Op::Transpose { permutation } => layout::transpose(x[0], permutation, shape),
        Op::Slice { axis, start, .. } => layout::slice(x[0], *axis, *start, shape),
        Op::Cast { to } => elementwise::cast(x[0], *to),
        Op::TokenPositions { padding_id } => Elements::I32(layout::token_positions(x[0], *padding_id)),
        Op::Concat { axis } => layout::concat(x, *axis, shape),
        Op::WriteRows => layout::write_rows(x[0], x[1], x[2].integers()[0]),
        Op::ArgMax => Elements::I32(ranking::arg_max(x[0])),
        Op::TopK { k } => floats(ranking::top_k(x[0], *k)),
        Op::Rope { heads, rotary } => floats(rows::rope(x[0], [x[1], x[2]], *heads, *rotary)),
        Op::Attention { heads, kv_heads, scale, causal } => {
            let (x, start) = if *causal { x.split_at(x.len() - 1) } else { (x, &[][..]) };
            let start = start.first().map(|start| usize::try_from(start.integers()[0]).unwrap_or(0));
            floats(product::attention(x, [*heads, *kv_heads], *scale, start))
        }
        // `Op` may grow; validation of a newer graph crate would let such a node through to here.
        other => unreachable!("the oracle does not know the operator {}", other.name()),
    };
    Array { shape: shape.clone(), elements }
}

/// The one rounding of a node's result.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
fn round(v: f64) -> f32 {
    v as f32
}

#[cfg(test)]
mod tests;
