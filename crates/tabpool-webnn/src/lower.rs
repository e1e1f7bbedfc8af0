//! From a program's graph to a recipe: one function an operator, decomposed where WebNN has no such operator.
//!
//! Rows are kept as rows: what linear layers and norms work on lies as `[rows, width]` whatever the batch, so that nothing
//! is reshaped between them. Only attention takes the heads apart.

mod attention;
mod convolution;
mod elementwise;
mod layout;
mod product;
mod ranking;
mod rotation;
mod rows;

use std::collections::HashMap;

use tabpool_engine::EngineError;
use tabpool_graph::{Graph, Node, Op, ValueId};

use crate::limits::Limits;
use crate::lower::convolution::Motion;
use crate::recipe::{Draft, Made, Operand, Recipe, Source};

/// Lowers everything that the outputs and the states to come need.
///
/// # Errors
/// [`EngineError::Unsupported`] that names the first node this browser cannot be given, and why.
pub(crate) fn lower(graph: &Graph, limits: &Limits) -> Result<Recipe, EngineError> {
    let needed = needed(graph);
    let mut lowering = Lowering {
        graph,
        draft: Draft::new(limits),
        values: HashMap::new(),
        tables: tables(graph, &needed),
        bias_sums: HashMap::new(),
        sights: HashMap::new(),
        windows: HashMap::new(),
        rotations: HashMap::new(),
    };
    for node in graph.nodes().iter().filter(|node| needed[node.output.index()]) {
        lowering.draft.begin(&node.name, node.op.name());
        let made = lowering.node(node)?;
        lowering.values.insert(node.output, made);
    }
    let mut outputs = Vec::with_capacity(graph.outputs().len());
    for output in graph.outputs() {
        lowering.draft.begin(&output.name, "output");
        outputs.push(lowering.value(output.value)?);
    }
    let mut nexts = Vec::new();
    for (position, state) in graph.states().iter().enumerate().filter(|(_, state)| state.changes()) {
        lowering.draft.begin(&graph.value(state.value).name, "state");
        // A state's memory has its shape, whatever the operand lies in.
        nexts.push((position, lowering.whole(state.next)?));
    }
    lowering.draft.finish(&outputs, &nexts)
}

/// Which values some output or some state to come depends on, by [`ValueId::index`].
fn needed(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.values().len()];
    for output in graph.outputs() {
        needed[output.value.index()] = true;
    }
    for state in graph.states().iter().filter(|state| state.changes()) {
        needed[state.next.index()] = true;
    }
    for node in graph.nodes().iter().rev().filter(|node| !node.inputs.is_empty()) {
        if needed[node.output.index()] {
            node.inputs.iter().for_each(|input| needed[input.index()] = true);
        }
    }
    needed
}

/// The weights that are read as tables of rows and as nothing else, with their positions.
fn tables(graph: &Graph, needed: &[bool]) -> HashMap<ValueId, usize> {
    let mut tables: HashMap<_, _> = graph.weights().iter().enumerate().map(|(at, w)| (w.value, at)).collect();
    for node in graph.nodes().iter().filter(|node| needed[node.output.index()]) {
        let others = if node.op == Op::Gather { &node.inputs[1..] } else { &node.inputs[..] };
        for id in others {
            tables.remove(id);
        }
    }
    for output in graph.outputs() {
        tables.remove(&output.value);
    }
    for state in graph.states() {
        tables.remove(&state.next);
    }
    tables
}

/// A graph half-way to its recipe.
struct Lowering<'a> {
    graph: &'a Graph,
    draft: Draft<'a>,
    /// The operand that holds a value's elements, in whatever shape.
    values: HashMap<ValueId, Operand>,
    /// Weights that are tables, with their positions.
    tables: HashMap<ValueId, usize>,
    /// Sums of attention biases that every layer adds, made once.
    bias_sums: HashMap<(Operand, Operand), Operand>,
    /// Which keys queries see, by start, queries and keys.
    sights: HashMap<(Operand, usize, usize), Operand>,
    /// Which rows are written and by which, by position, capacity and rows.
    windows: HashMap<(Operand, usize, usize), (Operand, Operand)>,
    /// Rotary tables for both halves of a head.
    rotations: HashMap<(ValueId, ValueId), (Operand, Operand)>,
}

impl<'a> Lowering<'a> {
    /// The value's shape, as the program has it.
    fn dims(&self, id: ValueId) -> &'a [usize] {
        self.graph.value(id).shape.dims()
    }

    /// The operand of a value, in whatever shape it lies; leaves are made where they are first read.
    fn value(&mut self, id: ValueId) -> Made {
        if let Some(&known) = self.values.get(&id) {
            return Ok(known);
        }
        let value = self.graph.value(id);
        let source = if let Some(at) = self.graph.inputs().iter().position(|&input| input == id) {
            Source::Input(at)
        } else if let Some(at) = self.graph.weights().iter().position(|weight| weight.value == id) {
            Source::Weight(at)
        } else if let Some(at) = self.graph.states().iter().position(|state| state.value == id) {
            Source::State(at)
        } else if let Some(tensor) = self.graph.constant(id) {
            Source::Constant(tensor.data().clone())
        } else {
            return Err(self.draft.refuse(format!("reads {:?}, which nothing makes", value.name)));
        };
        let made = self.draft.leaf(source, value.dtype, value.shape.dims())?;
        self.values.insert(id, made);
        Ok(made)
    }

    /// The operand of a value in the program's own shape.
    fn whole(&mut self, id: ValueId) -> Made {
        let x = self.value(id)?;
        let dims = self.graph.value(id).shape.dims();
        self.draft.view(x, dims)
    }

    /// The operand of a value as rows of its last dimension.
    fn rows(&mut self, id: ValueId) -> Made {
        let x = self.value(id)?;
        let dims = self.graph.value(id).shape.dims();
        let width = dims.last().copied().unwrap_or(1);
        self.draft.view(x, &[dims.iter().product::<usize>() / width.max(1), width])
    }

    fn node(&mut self, node: &Node) -> Made {
        let inputs = &node.inputs;
        match &node.op {
            Op::Gather => self.gather(inputs[0], inputs[1]),
            Op::MatMul { transpose_b } => self.matmul(inputs[0], inputs[1], *transpose_b),
            Op::Linear { activation, residual } => {
                let (inputs, residual) = last_if(*residual, inputs);
                self.linear(inputs, *activation, residual)
            }
            &Op::Conv2d { stride, padding, dilation, groups, activation } => {
                self.conv2d(inputs, node.output, &Motion { stride, padding, dilation, groups }, activation)
            }
            Op::Binary(op) => self.binary(*op, inputs[0], inputs[1]),
            Op::Unary(op) => {
                let x = self.value(inputs[0])?;
                self.unary(*op, x)
            }
            Op::Softmax => self.softmax(inputs[0]),
            Op::LayerNorm { epsilon } => {
                let x = self.rows(inputs[0])?;
                self.layer_norm(x, &inputs[1..], *epsilon)
            }
            Op::AddLayerNorm { epsilon } => {
                let (x, residual) = (self.rows(inputs[0])?, self.rows(inputs[1])?);
                let sum = self.draft.onto("add", x, residual)?;
                self.layer_norm(sum, &inputs[2..], *epsilon)
            }
            Op::Reduce { reduction, axis, .. } => self.reduce(inputs[0], *reduction, *axis),
            Op::L2Normalize { epsilon } => self.l2_normalize(inputs[0], *epsilon),
            Op::Reshape { .. } => self.value(inputs[0]),
            Op::Transpose { permutation } => {
                let x = self.whole(inputs[0])?;
                self.draft.transpose(x, permutation)
            }
            Op::Slice { axis, start, length } => self.slice(inputs[0], *axis, *start, *length),
            Op::Cast { to } => self.cast(inputs[0], *to),
            Op::TokenPositions { padding_id } => self.token_positions(inputs[0], *padding_id),
            Op::Attention { heads, kv_heads, scale, causal } => {
                let (inputs, start) = last_if(*causal, inputs);
                self.attention(inputs, start, [*heads, *kv_heads], *scale)
            }
            Op::RmsNorm { epsilon } => self.rms_norm(inputs[0], inputs[1], *epsilon),
            Op::Rope { heads, rotary } => self.rope(inputs, *heads, *rotary),
            Op::Concat { axis } => self.concat(inputs, *axis),
            Op::WriteRows => self.write_rows(inputs[0], inputs[1], inputs[2]),
            Op::ArgMax => self.arg_max(inputs[0]),
            Op::TopK { k } => self.top_k(inputs[0], *k),
            other => Err(self.draft.refuse(format!("is an operator this backend does not know: {other:?}"))),
        }
    }
}

/// The operands without the last one, and that one, where it is there.
fn last_if(there: bool, inputs: &[ValueId]) -> (&[ValueId], Option<ValueId>) {
    match inputs.split_last() {
        Some((&last, others)) if there => (others, Some(last)),
        _ => (inputs, None),
    }
}

#[cfg(test)]
mod tests;
