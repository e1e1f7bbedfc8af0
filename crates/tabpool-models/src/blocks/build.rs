//! One graph while it is built: the graph's builder, the weights it may ask for, and what the program takes and gives.
//!
//! Names of nodes and weights are those of the model's file, so that an error or a profile of a worker can be read
//! beside the model's published code.

use std::collections::HashMap;

use tabpool_graph::{Binary, Graph, GraphBuilder, GraphError, Op, Reduction, Unary, ValueId};
use tabpool_tensor::{DType, Shape, Tensor};

use crate::weights::Weights;
use crate::{Bucket, ModelError};

/// A value of the graph, or why there is none.
pub(crate) type Built = Result<ValueId, ModelError>;

/// What is added to the scores of padding: so low that softmax makes it 0, and finite even where every token is padding.
const MASKED_SCORE: f32 = -1e9;

/// A graph being built.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    graph: GraphBuilder,
    weights: &'a Weights,
    /// Sequences of a run.
    pub(crate) batch: usize,
    /// The size of a run's sequence dimension.
    pub(crate) sequence: usize,
    inputs: HashMap<String, ValueId>,
    states: HashMap<String, ValueId>,
    outputs: HashMap<&'static str, ValueId>,
}

impl<'a> Build<'a> {
    pub(crate) fn new(weights: &'a Weights, bucket: Bucket) -> Self {
        Self {
            graph: GraphBuilder::new(),
            weights,
            batch: bucket.batch,
            sequence: bucket.sequence,
            inputs: HashMap::new(),
            states: HashMap::new(),
            outputs: HashMap::new(),
        }
    }

    /// Makes an input of the program.
    pub(crate) fn declare(&mut self, name: &str, dtype: DType, dims: &[usize]) -> Built {
        let value = self.graph.input(name, dtype, dims)?;
        self.inputs.insert(name.to_owned(), value);
        Ok(value)
    }

    /// Makes a state of the program.
    pub(crate) fn declare_state(&mut self, name: &str, dtype: DType, dims: &[usize]) -> Built {
        let value = self.graph.state(name, dtype, dims)?;
        self.states.insert(name.to_owned(), value);
        Ok(value)
    }

    /// An input that was declared.
    pub(crate) fn input(&self, name: &str) -> Built {
        self.inputs.get(name).copied().ok_or_else(|| undeclared(name, "input"))
    }

    /// A state that was declared.
    pub(crate) fn state(&self, name: &str) -> Built {
        self.states.get(name).copied().ok_or_else(|| undeclared(name, "state"))
    }

    /// Says what a state becomes.
    pub(crate) fn next(&mut self, name: &str, value: ValueId) -> Result<(), ModelError> {
        let state = self.state(name)?;
        Ok(self.graph.next(state, value)?)
    }

    /// Offers a value as an output of the model; it is one of the program if it is asked for.
    pub(crate) fn offer(&mut self, name: &'static str, value: ValueId) {
        self.outputs.insert(name, value);
    }

    /// The graph that gives these outputs, in this order.
    pub(crate) fn finish(mut self, outputs: &[&str], available: &str) -> Result<Graph, ModelError> {
        let unknown = |name: &str| ModelError::Output { got: name.to_owned(), available: available.to_owned() };
        if outputs.is_empty() {
            return Err(unknown(""));
        }
        for &name in outputs {
            let value = *self.outputs.get(name).ok_or_else(|| unknown(name))?;
            self.graph.output(name, value)?;
        }
        Ok(self.graph.finish()?)
    }

    pub(crate) fn dims(&self, x: ValueId) -> Vec<usize> {
        self.graph.shape(x).dims().to_vec()
    }

    /// The size of the last dimension.
    pub(crate) fn width(&self, x: ValueId) -> usize {
        self.graph.shape(x).last().copied().unwrap_or(1)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.contains(name)
    }

    /// A tensor of the model's files.
    pub(crate) fn weight(&mut self, name: &str, shape: &[usize]) -> Built {
        let stored = self.weights.check(name, shape)?;
        Ok(self.graph.weight(name, stored, shape)?)
    }

    pub(crate) fn node(&mut self, name: &str, op: Op, operands: &[ValueId]) -> Built {
        Ok(self.graph.node(name, op, operands)?)
    }

    pub(crate) fn scalar(&mut self, name: &str, value: f32) -> Built {
        Ok(self.graph.scalar(name, value)?)
    }

    pub(crate) fn integers(&mut self, name: &str, dims: &[usize], values: Vec<i32>) -> Built {
        let tensor = Tensor::from_i32(dims, values).map_err(|e| malformed(name, &e.to_string()))?;
        Ok(self.graph.constant(name, tensor)?)
    }

    pub(crate) fn floats(&mut self, name: &str, dims: &[usize], values: Vec<f32>) -> Built {
        let tensor = Tensor::from_f32(dims, values).map_err(|e| malformed(name, &e.to_string()))?;
        Ok(self.graph.constant(name, tensor)?)
    }

    /// `x @ weight.T`, with a bias where `bias` says so; `[outputs, inputs]` are the weight's sizes.
    pub(crate) fn linear(&mut self, name: &str, x: ValueId, [outputs, inputs]: [usize; 2], bias: bool) -> Built {
        let mut operands = vec![x, self.weight(&format!("{name}.weight"), &[outputs, inputs])?];
        if bias {
            operands.push(self.weight(&format!("{name}.bias"), &[outputs])?);
        }
        self.node(name, Op::LINEAR, &operands)
    }

    /// A layer norm over the last dimension. Files written before PyTorch took these names say `gamma` and `beta`.
    pub(crate) fn norm(&mut self, name: &str, x: ValueId, epsilon: f32) -> Built {
        let shape = [self.width(x)];
        let old = self.has(&format!("{name}.gamma"));
        let (scale, shift) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let scale = self.weight(&format!("{name}.{scale}"), &shape)?;
        let shift = self.weight(&format!("{name}.{shift}"), &shape)?;
        self.node(name, Op::LayerNorm { epsilon }, &[x, scale, shift])
    }

    /// A norm by the root of the mean square, with a scale and without a shift.
    pub(crate) fn rms_norm(&mut self, name: &str, x: ValueId, epsilon: f32) -> Built {
        let scale = self.weight(&format!("{name}.weight"), &[self.width(x)])?;
        self.node(name, Op::RmsNorm { epsilon }, &[x, scale])
    }

    pub(crate) fn unary(&mut self, name: &str, op: Unary, x: ValueId) -> Built {
        self.node(name, Op::Unary(op), &[x])
    }

    pub(crate) fn binary(&mut self, name: &str, op: Binary, a: ValueId, b: ValueId) -> Built {
        self.node(name, Op::Binary(op), &[a, b])
    }

    pub(crate) fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> Built {
        self.binary(name, Binary::Add, a, b)
    }

    pub(crate) fn mul(&mut self, name: &str, a: ValueId, b: ValueId) -> Built {
        self.binary(name, Binary::Mul, a, b)
    }

    /// Every element times a number.
    pub(crate) fn scaled(&mut self, name: &str, x: ValueId, factor: f32) -> Built {
        let factor = self.scalar(name, factor)?;
        self.mul(name, x, factor)
    }

    pub(crate) fn reshape(&mut self, name: &str, x: ValueId, dims: &[usize]) -> Built {
        self.node(name, Op::Reshape { shape: Shape::from(dims) }, &[x])
    }

    pub(crate) fn transpose(&mut self, name: &str, x: ValueId, permutation: &[usize]) -> Built {
        self.node(name, Op::Transpose { permutation: permutation.to_vec() }, &[x])
    }

    pub(crate) fn slice(&mut self, name: &str, x: ValueId, axis: usize, start: usize, length: usize) -> Built {
        self.node(name, Op::Slice { axis, start, length }, &[x])
    }

    pub(crate) fn concat(&mut self, name: &str, axis: usize, parts: &[ValueId]) -> Built {
        self.node(name, Op::Concat { axis }, parts)
    }

    pub(crate) fn gather(&mut self, name: &str, table: ValueId, indices: ValueId) -> Built {
        self.node(name, Op::Gather, &[table, indices])
    }

    pub(crate) fn reduce(&mut self, name: &str, reduction: Reduction, x: ValueId, axis: usize, keep: bool) -> Built {
        self.node(name, Op::Reduce { reduction, axis, keep }, &[x])
    }

    pub(crate) fn float(&mut self, name: &str, x: ValueId) -> Built {
        self.node(name, Op::Cast { to: DType::F32 }, &[x])
    }

    /// One row of a table of learned vectors, for each sequence: `[batch, 1, width]`.
    pub(crate) fn for_each_sequence(&mut self, name: &str, table: ValueId) -> Built {
        let width = self.width(table);
        let table = self.reshape(name, table, &[1, width])?;
        let rows = self.integers(&format!("{name} rows"), &[self.batch, 1], vec![0; self.batch])?;
        self.gather(name, table, rows)
    }

    /// `[batch, keys]` of 1 for what is real and 0 for padding, to what is added to scores, `[batch, 1, 1, keys]`: 0 for
    /// what is real, [`MASKED_SCORE`] for padding.
    pub(crate) fn mask_bias(&mut self, mask: ValueId) -> Built {
        let [batch, keys] = self.dims(mask)[..] else {
            return Err(malformed("attention_mask", "has no two dimensions"));
        };
        let score = self.masked_scores(mask)?;
        self.reshape("attention_mask.bias", score, &[batch, 1, 1, keys])
    }

    /// 0 where a mask is 1, [`MASKED_SCORE`] where it is 0.
    pub(crate) fn masked_scores(&mut self, mask: ValueId) -> Built {
        let one = self.scalar("one", 1.0)?;
        let inverted = self.binary("attention_mask.inverted", Binary::Sub, one, mask)?;
        self.scaled("attention_mask.score", inverted, MASKED_SCORE)
    }

    /// Of each sequence the vector at one position: `[batch, sequence, width]` to `[batch, width]`.
    pub(crate) fn at(&mut self, name: &str, hidden: ValueId, position: usize) -> Built {
        let dims = self.dims(hidden);
        let &[batch, _, width] = &dims[..] else { return Err(malformed(name, "has no three dimensions")) };
        let row = self.slice(name, hidden, 1, position, 1)?;
        self.reshape(name, row, &[batch, width])
    }
}

fn undeclared(name: &str, what: &str) -> ModelError {
    malformed(name, &format!("is no {what} of this program"))
}

/// An error for a value that does not fit the IR.
pub(crate) fn malformed(name: &str, reason: &str) -> ModelError {
    ModelError::Graph(GraphError::Value { name: name.to_owned(), reason: reason.to_owned() })
}
