//! Passes: rewrites of a graph that keep what it computes.
//!
//! Each pass takes a valid graph and gives a valid one; each can be run and tested alone. [`optimise`] runs them in
//! the order that lets one prepare the next: constants are folded and identities removed first, so that patterns stand
//! bare; attention is recognised before linear nodes swallow their neighbours; sums join the norm after them before they join
//! the linear node before them, for that saves a pass over memory more; what nothing reads goes last.

mod attention;
mod convolution;
mod dead;
mod fold;
mod layer_norm;
mod layout;
mod linear;

pub use attention::fuse_attention;
pub use convolution::fuse_convolution;
pub use dead::eliminate_dead;
pub(crate) use dead::live;
pub use fold::fold_constants;
pub use layer_norm::fuse_add_layer_norm;
pub use layout::join_layouts;
pub use linear::{fuse_linear, fuse_residual};

use crate::{Graph, GraphError, Node, ValueId};

/// Runs every pass, in order.
///
/// # Errors
/// None for a valid graph; a pass that broke one would be found here.
pub fn optimise(graph: Graph) -> Result<Graph, GraphError> {
    let graph = fold_constants(graph);
    let graph = fuse_convolution(graph);
    let graph = fold_constants(join_layouts(graph));
    let graph = fuse_attention(graph);
    let graph = fuse_linear(graph);
    let graph = fuse_add_layer_norm(graph);
    let graph = fuse_residual(graph);
    let graph = eliminate_dead(graph);
    graph.validate()?;
    Ok(graph)
}

/// Read access to a graph while patterns are matched: who makes a value and how often it is read.
struct Matcher<'a> {
    graph: &'a Graph,
    producers: Vec<Option<usize>>,
    uses: Vec<u32>,
}

impl<'a> Matcher<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self { producers: graph.producers(), uses: graph.use_counts(), graph }
    }

    /// The node that makes a value.
    fn node(&self, value: ValueId) -> Option<&'a Node> {
        self.producers[value.index()].map(|i| &self.graph.nodes[i])
    }

    /// The node that makes a value, where nothing but the pattern's next node reads it: only then may a fused node
    /// replace it without computing it twice.
    fn only(&self, value: ValueId) -> Option<&'a Node> {
        self.node(value).filter(|_| self.uses[value.index()] == 1)
    }

    /// The single `f32` number a constant value holds.
    fn scalar(&self, value: ValueId) -> Option<f32> {
        let tensor = self.graph.constant(value)?;
        (tensor.shape().elements() == 1).then(|| tensor.to_f32().ok()?.first().copied()).flatten()
    }

    fn shape(&self, value: ValueId) -> &'a [usize] {
        self.graph.value(value).shape.dims()
    }
}

/// Replaces nodes in place: `(position, node)` pairs, each of which makes the same value as what stood there. A fused
/// node stands where the last node of its pattern stood, so all its operands are defined before it.
fn replace(mut graph: Graph, replacements: Vec<(usize, Node)>) -> Graph {
    for (position, node) in replacements {
        graph.nodes[position] = node;
    }
    eliminate_dead(graph)
}
