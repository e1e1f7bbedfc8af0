//! Folds what follows a linear node into it: a bias that is added, then an activation, then a residual.

use super::{Matcher, replace};
use crate::{Activation, Binary, Graph, Node, Op, ValueId};

/// Rewrites `activation(linear(x, w) + bias)` into one [`Op::Linear`], in either order of the addition, with or without
/// each part.
#[must_use]
pub fn fuse_linear(graph: Graph) -> Graph {
    let graph = fuse_each(graph, with_bias);
    fuse_each(graph, with_activation)
}

fn fuse_each(graph: Graph, rule: fn(&Matcher<'_>, &Node) -> Option<Node>) -> Graph {
    let matcher = Matcher::new(&graph);
    let found = graph.nodes.iter().enumerate().filter_map(|(i, n)| Some((i, rule(&matcher, n)?))).collect();
    replace(graph, found)
}

/// `linear(x, w) + bias`, where the bias is a leaf of the output's width (an operand computed by a node could stand
/// after the linear node; leaves always come before).
fn with_bias(m: &Matcher<'_>, node: &Node) -> Option<Node> {
    let (Op::Binary(Binary::Add), &[a, b]) = (&node.op, &*node.inputs) else { return None };
    let fused = |sum: ValueId, bias: ValueId| {
        let linear = m.only(sum).filter(|l| l.op == Op::LINEAR && l.inputs.len() == 2)?;
        let width = *m.shape(sum).last()?;
        (m.shape(bias) == [width] && m.shape(sum) == m.shape(node.output)).then(|| Node {
            name: linear.name.clone(),
            op: Op::LINEAR,
            inputs: vec![linear.inputs[0], linear.inputs[1], bias],
            output: node.output,
        })
    };
    fused(a, b).or_else(|| fused(b, a))
}

fn with_activation(m: &Matcher<'_>, node: &Node) -> Option<Node> {
    let (Op::Unary(op), &[x]) = (&node.op, &*node.inputs) else { return None };
    let linear = m.only(x).filter(|l| l.op == Op::LINEAR)?;
    let activation = Some(Activation::from_unary(*op)?);
    Some(Node {
        name: linear.name.clone(),
        op: Op::Linear { activation, residual: false },
        inputs: linear.inputs.clone(),
        output: node.output,
    })
}

/// Rewrites `linear(x, w) + y` into a linear node that adds `y`, in either order, where `y` has the sum's shape and nothing
/// else reads the linear node's value. Sums that are to join a norm have to do so before.
#[must_use]
pub fn fuse_residual(graph: Graph) -> Graph {
    fuse_each(graph, with_residual)
}

fn with_residual(m: &Matcher<'_>, node: &Node) -> Option<Node> {
    let (Op::Binary(Binary::Add), &[a, b]) = (&node.op, &*node.inputs) else { return None };
    if m.shape(a) != m.shape(node.output) || m.shape(b) != m.shape(node.output) {
        return None;
    }
    let fused = |sum: ValueId, residual: ValueId| {
        let linear = m.only(sum)?;
        let Op::Linear { activation, residual: false } = linear.op else { return None };
        let inputs = [&linear.inputs[..], &[residual]].concat();
        let op = Op::Linear { activation, residual: true };
        Some(Node { name: linear.name.clone(), op, inputs, output: node.output })
    };
    // Of two linear nodes the second, so that the first is over when it begins.
    fused(b, a).or_else(|| fused(a, b))
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::{fuse_linear, fuse_residual};
    use crate::passes::optimise;
    use crate::{Activation, Binary, Graph, GraphBuilder, GraphError, Op, Unary};

    #[test]
    fn bias_and_activation_move_into_the_linear_node() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [4, 3]).expect("valid");
        let w = b.weight("w", DType::F32, [5, 3]).expect("valid");
        let bias = b.weight("bias", DType::F32, [5]).expect("valid");
        let y = b.node("dense", Op::LINEAR, &[x, w]).expect("valid");
        let y = b.node("sum", Op::Binary(Binary::Add), &[bias, y]).expect("valid");
        let y = b.node("act", Op::Unary(Unary::Gelu), &[y]).expect("valid");
        b.output("y", y).expect("valid");
        let graph = fuse_linear(b.finish().expect("valid"));
        graph.validate().expect("still valid");
        let [node] = graph.nodes() else { panic!("one node is left:\n{graph}") };
        assert_eq!(node.op, Op::Linear { activation: Some(Activation::Gelu), residual: false });
        assert_eq!(node.inputs.len(), 3);
    }

    #[test]
    fn a_sum_that_something_else_reads_stays() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [4, 3]).expect("valid");
        let w = b.weight("w", DType::F32, [5, 3]).expect("valid");
        let y = b.node("dense", Op::LINEAR, &[x, w]).expect("valid");
        let z = b.node("act", Op::Unary(Unary::Gelu), &[y]).expect("valid");
        b.output("y", y).expect("valid");
        b.output("z", z).expect("valid");
        assert_eq!(fuse_linear(b.finish().expect("valid")).nodes().len(), 2);
    }

    /// `x + linear(x)`, read by a norm, and by another output where `again`.
    fn block(again: bool) -> Result<Graph, GraphError> {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [4, 3])?;
        let w = b.weight("w", DType::F32, [3, 3])?;
        let scale = b.weight("scale", DType::F32, [3])?;
        let y = b.node("dense", Op::LINEAR, &[x, w])?;
        let sum = b.node("sum", Op::Binary(Binary::Add), &[x, y])?;
        let norm = b.node("norm", Op::LayerNorm { epsilon: 1e-5 }, &[sum, scale, scale])?;
        b.output("norm", norm)?;
        if again {
            b.output("sum", sum)?;
        }
        b.finish()
    }

    #[test]
    fn a_residual_moves_into_the_linear_node_unless_a_norm_takes_it() {
        let graph = optimise(block(true).expect("valid")).expect("still valid");
        let ops: Vec<_> = graph.nodes().iter().map(|n| n.op.clone()).collect();
        let residual = Op::Linear { activation: None, residual: true };
        assert_eq!(ops, [residual, Op::LayerNorm { epsilon: 1e-5 }]);
        assert_eq!(graph.nodes()[0].inputs.last(), Some(&graph.inputs()[0]));
        let graph = optimise(block(false).expect("valid")).expect("still valid");
        let ops: Vec<_> = graph.nodes().iter().map(|n| n.op.clone()).collect();
        assert_eq!(ops, [Op::LINEAR, Op::AddLayerNorm { epsilon: 1e-5 }]);
    }

    #[test]
    fn a_linear_value_that_something_else_reads_keeps_its_node() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [4, 3]).expect("valid");
        let w = b.weight("w", DType::F32, [3, 3]).expect("valid");
        let row = b.input("row", DType::F32, [1, 3]).expect("valid");
        let y = b.node("dense", Op::LINEAR, &[x, w]).expect("valid");
        let sum = b.node("sum", Op::Binary(Binary::Add), &[y, x]).expect("valid");
        let z = b.node("other", Op::LINEAR, &[x, w]).expect("valid");
        let broadcast = b.node("broadcast", Op::Binary(Binary::Add), &[z, row]).expect("valid");
        b.output("y", y).expect("valid");
        b.output("sum", sum).expect("valid");
        b.output("broadcast", broadcast).expect("valid");
        assert_eq!(fuse_residual(b.finish().expect("valid")).nodes().len(), 4);
    }
}
