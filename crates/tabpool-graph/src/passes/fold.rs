//! Computes at build time what depends on constants only, and removes operators that change nothing.
//!
//! Constants are small (they travel inside the program), so folding is done by a plain evaluator of the few operators
//! that occur between constants; results over [`LARGEST_RESULT`] elements are left for the worker, which computes what
//! depends on weights and constants only once at load.

use tabpool_tensor::{DType, Shape, Tensor};

use super::eliminate_dead;
use crate::{Binary, Constant, Graph, Node, Op, ValueId};

/// The most elements a folded constant may have.
const LARGEST_RESULT: usize = 1 << 16;

/// Folds constants and removes identities: reshapes to the same shape, transposes and casts that change nothing,
/// slices of everything, concatenations of one value, additions of 0 and multiplications by 1. Copies of what a state is or
/// becomes stay: who may read a state depends on who does.
#[must_use]
pub fn fold_constants(mut graph: Graph) -> Graph {
    // What each value is to be read as; an identity's output is its operand.
    let mut alias: Vec<ValueId> =
        (0..graph.values.len()).map(|i| ValueId(u32::try_from(i).unwrap_or(u32::MAX))).collect();
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for id in &mut node.inputs {
            *id = alias[id.index()];
        }
        let touches_state =
            |operand: &ValueId| graph.states.iter().any(|s| s.value == *operand || s.next == node.output);
        if let Some(operand) = identity(&graph, &node).filter(|operand| !touches_state(operand)) {
            alias[node.output.index()] = operand;
        } else if let Some(tensor) = evaluate(&graph, &node) {
            graph.constants.push(Constant { value: node.output, tensor });
        } else {
            graph.nodes.push(node);
        }
    }
    for o in &mut graph.outputs {
        o.value = alias[o.value.index()];
    }
    eliminate_dead(graph)
}

/// The operand a node passes through unchanged, if it does.
fn identity(graph: &Graph, node: &Node) -> Option<ValueId> {
    let x = *node.inputs.first()?;
    let (from, to) = (graph.value(x), graph.value(node.output));
    let unchanged = match &node.op {
        Op::Reshape { .. } | Op::Slice { .. } => from.shape == to.shape,
        Op::Cast { .. } => from.dtype == to.dtype,
        Op::Transpose { permutation } => permutation.iter().enumerate().all(|(i, &p)| i == p),
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Binary(op) => {
            let neutral = match op {
                Binary::Add | Binary::Sub => 0.0,
                Binary::Mul | Binary::Div => 1.0,
                Binary::Max | Binary::Min => return None,
            };
            let other = graph.constant(node.inputs[1])?.to_f32().ok()?;
            from.shape == to.shape && other.iter().all(|&v| v == neutral)
        }
        _ => false,
    };
    unchanged.then_some(x)
}

fn evaluate(graph: &Graph, node: &Node) -> Option<Tensor> {
    let operands = node.inputs.iter().map(|&id| graph.constant(id)).collect::<Option<Vec<_>>>()?;
    let out = graph.value(node.output);
    if out.shape.elements() > LARGEST_RESULT {
        return None;
    }
    let shape = out.shape.clone();
    match (&node.op, &*operands) {
        (Op::Reshape { .. }, [x]) => Tensor::new(x.dtype(), shape, x.data().clone()).ok(),
        (Op::Cast { to: DType::F32 }, [x]) =>
        {
            #[expect(clippy::cast_precision_loss, reason = "the cast the graph asks for")]
            Tensor::from_f32(shape, x.to_i32().ok()?.iter().map(|&v| v as f32).collect()).ok()
        }
        (Op::Transpose { permutation }, [x]) => {
            let strides = x.shape().strides();
            let strides: Vec<_> = permutation.iter().map(|&p| strides[p]).collect();
            pick(x, &shape, &strides)
        }
        (Op::Binary(op), [a, b]) if a.dtype() == DType::F32 => {
            let a = pick(a, &shape, &broadcast_strides(a.shape(), &shape))?;
            let b = pick(b, &shape, &broadcast_strides(b.shape(), &shape))?;
            let values =
                a.to_f32().ok()?.iter().zip(b.to_f32().ok()?.iter()).map(|(&a, &b)| apply(*op, a, b)).collect();
            Tensor::from_f32(shape, values).ok()
        }
        _ => None,
    }
}

fn apply(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
    }
}

/// The strides with which a tensor is read as if it had the broadcast shape.
fn broadcast_strides(from: &Shape, to: &Shape) -> Vec<usize> {
    let skip = to.rank() - from.rank();
    let strides = from.strides();
    (0..to.rank()).map(|i| if i < skip || from[i - skip] == 1 { 0 } else { strides[i - skip] }).collect()
}

/// A tensor of this shape whose elements are read from `x` with these strides, in whatever dtype `x` has.
fn pick(x: &Tensor, shape: &Shape, strides: &[usize]) -> Option<Tensor> {
    let size = x.dtype().size();
    let mut index = vec![0usize; shape.rank()];
    let mut data = Vec::with_capacity(shape.elements() * size);
    for _ in 0..shape.elements() {
        let at: usize = index.iter().zip(strides).map(|(i, s)| i * s).sum();
        data.extend_from_slice(x.data().get(at * size..(at + 1) * size)?);
        for d in (0..index.len()).rev() {
            index[d] += 1;
            if index[d] < shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
    Tensor::new(x.dtype(), shape.clone(), data.into()).ok()
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::{DType, Tensor};

    use super::fold_constants;
    use crate::{Binary, GraphBuilder, Op};

    #[test]
    fn arithmetic_between_constants_is_done_once() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 3]).expect("valid");
        let a = b.constant("a", Tensor::from_f32([3, 2], vec![1., 2., 3., 4., 5., 6.]).expect("six")).expect("valid");
        let c = b.scalar("c", 10.0).expect("valid");
        let t = b.node("t", Op::Transpose { permutation: vec![1, 0] }, &[a]).expect("valid");
        let s = b.node("s", Op::Binary(Binary::Mul), &[t, c]).expect("valid");
        let y = b.node("y", Op::Binary(Binary::Add), &[x, s]).expect("valid");
        b.output("y", y).expect("valid");
        let graph = fold_constants(b.finish().expect("valid"));
        graph.validate().expect("still valid");
        assert_eq!(graph.nodes().len(), 1);
        let folded = graph.constants()[0].tensor.to_f32().expect("floats").into_owned();
        assert_eq!(folded, [10., 30., 50., 20., 40., 60.]);
    }

    #[test]
    fn identities_vanish_even_as_outputs() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 3]).expect("valid");
        let one = b.scalar("one", 1.0).expect("valid");
        let y = b.node("same", Op::Reshape { shape: [2, 3].into() }, &[x]).expect("valid");
        let y = b.node("times one", Op::Binary(Binary::Mul), &[y, one]).expect("valid");
        b.output("y", y).expect("valid");
        let graph = fold_constants(b.finish().expect("valid"));
        graph.validate().expect("still valid");
        assert!(graph.nodes().is_empty());
        assert_eq!(graph.outputs()[0].value, x);
    }

    #[test]
    fn copies_of_states_stay() {
        let mut b = GraphBuilder::new();
        let rows = b.input("rows", DType::F32, [1, 1, 3]).expect("valid");
        let at = b.input("at", DType::I32, [1]).expect("valid");
        let zero = b.scalar("zero", 0.0).expect("valid");
        let cache = b.state("cache", DType::F32, [1, 4, 3]).expect("valid");
        // Without the copy the rows would be written in place, under the eyes of the other reader.
        let copy = b.node("copy", Op::Binary(Binary::Add), &[cache, zero]).expect("valid");
        let written = b.node("write", Op::WriteRows, &[copy, rows, at]).expect("valid");
        let next = b.node("next", Op::Binary(Binary::Add), &[written, zero]).expect("valid");
        let before = b.node("before", Op::Binary(Binary::Mul), &[cache, cache]).expect("valid");
        b.next(cache, next).expect("of one kind");
        b.output("before", before).expect("valid");
        let graph = fold_constants(b.finish().expect("valid"));
        graph.validate().expect("still valid");
        assert_eq!(graph.nodes().len(), 4);
    }
}
