//! Folds what follows a linear node into it: a bias that is added, then an activation.

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

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::fuse_linear;
    use crate::{Activation, Binary, GraphBuilder, Op, Unary};

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
}
