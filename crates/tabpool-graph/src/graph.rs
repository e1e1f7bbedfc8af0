//! The graph itself: values, nodes and what they are called. No behaviour beyond looking things up.

use std::fmt;

use tabpool_tensor::{DType, Shape, Tensor};

use crate::Op;

/// Names a value of one graph: its position in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// The position in [`Graph::values`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// A value: what flows along an edge of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// The name, for people: an input's or weight's own, otherwise that of the node that makes it.
    pub name: String,
    /// `F32` or `I32`.
    pub dtype: DType,
    /// The static shape.
    pub shape: Shape,
}

/// One block of a weight's bytes: a raw leaf of the content layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockRef {
    /// The binary CID. Opaque to this crate.
    pub cid: Box<[u8]>,
    /// The block's length in bytes.
    pub len: u32,
}

/// A weight: a value whose bytes live in content-addressed blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The value that holds it.
    pub value: ValueId,
    /// How its elements are stored: `F32`, `F16` or `BF16`.
    pub stored: DType,
    /// The blocks whose concatenation is the stored tensor; empty until bound.
    pub blocks: Vec<BlockRef>,
}

/// A constant: a value whose bytes travel inside the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The value that holds it.
    pub value: ValueId,
    /// Its elements.
    pub tensor: Tensor,
}

/// A value that lives on the worker between runs: what a decoder remembers of the tokens before.
///
/// A run reads it as any other value; when the run is over it holds what [`next`](Self::next) was. It begins as zeros.
/// Its name is that of its value, its dtype and shape are those of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The value that a run reads it by.
    pub value: ValueId,
    /// The value it becomes: itself where a run does not change it.
    pub next: ValueId,
}

impl State {
    /// Whether a run changes it.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.value != self.next
    }
}

/// One operator applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The name, for people, as in `encoder.layer.0.attention.query`.
    pub name: String,
    /// The operator.
    pub op: Op,
    /// Its operands, in the order the operator's documentation gives.
    pub inputs: Vec<ValueId>,
    /// The value it makes.
    pub output: ValueId,
}

/// A value the run gives back.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The output's name.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A computation with static shapes; see the crate's documentation for what it means.
///
/// A `Graph` made by [`GraphBuilder`](crate::GraphBuilder), by a pass or by decoding a program is valid.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Graph {
    pub(crate) values: Vec<Value>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) weights: Vec<Weight>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) states: Vec<State>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<Output>,
}

impl Graph {
    /// Every value; a [`ValueId`] is a position in this list.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value of an id of this graph.
    #[must_use]
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The inputs of a run, in order.
    #[must_use]
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The weights, in order.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Mutable access to the weights' blocks, for binding them to content.
    pub fn weights_mut(&mut self) -> impl Iterator<Item = (&Value, &mut Vec<BlockRef>)> {
        let values = &self.values;
        self.weights.iter_mut().map(move |w| (&values[w.value.index()], &mut w.blocks))
    }

    /// The constants.
    #[must_use]
    pub fn constants(&self) -> &[Constant] {
        &self.constants
    }

    /// What lives on the worker between runs, in order.
    #[must_use]
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// The position in [`states`](Self::states) of the state that a node writes rows into where it lies: its target is the
    /// state's value, and its result is what the state becomes. Nothing else reads that value; validation sees to it.
    #[must_use]
    pub fn in_place(&self, node: &Node) -> Option<usize> {
        if node.op != Op::WriteRows {
            return None;
        }
        self.states.iter().position(|s| node.inputs.first() == Some(&s.value) && node.output == s.next)
    }

    /// The nodes, in topological order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What a run gives back, in order.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The constant a value holds, if it is one.
    #[must_use]
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.constants.iter().find(|c| c.value == id).map(|c| &c.tensor)
    }

    /// How often each value is read by nodes, named as an output or kept by a state, by [`ValueId::index`].
    #[must_use]
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        let read = self.nodes.iter().flat_map(|n| &n.inputs).copied().chain(self.outputs.iter().map(|o| o.value));
        for id in read.chain(self.states.iter().map(|s| s.next)) {
            counts[id.index()] += 1;
        }
        counts
    }

    /// The position in [`nodes`](Self::nodes) of the node that makes each value, by [`ValueId::index`].
    #[must_use]
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            producers[node.output.index()] = Some(i);
        }
        producers
    }

    pub(crate) fn add_value(&mut self, name: &str, dtype: DType, shape: Shape) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.values.push(Value { name: name.to_owned(), dtype, shape });
        id
    }
}

impl fmt::Display for Graph {
    /// One line a value and node, for reading and for goldens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = |id: ValueId| {
            let v = self.value(id);
            format!("{id}: {}{}", v.dtype, v.shape)
        };
        for &id in &self.inputs {
            writeln!(f, "input  {} {}", typed(id), self.value(id).name)?;
        }
        for w in &self.weights {
            writeln!(f, "weight {} {} stored {}", typed(w.value), self.value(w.value).name, w.stored)?;
        }
        for c in &self.constants {
            writeln!(f, "const  {} {}", typed(c.value), self.value(c.value).name)?;
        }
        for s in &self.states {
            writeln!(f, "state  {} {}", typed(s.value), self.value(s.value).name)?;
        }
        for n in &self.nodes {
            let inputs = n.inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            writeln!(f, "node   {} = {:?}({inputs}) {}", typed(n.output), n.op, n.name)?;
        }
        for o in &self.outputs {
            writeln!(f, "output {} {}", typed(o.value), o.name)?;
        }
        for s in &self.states {
            writeln!(f, "next   {} {}", typed(s.next), self.value(s.value).name)?;
        }
        Ok(())
    }
}
