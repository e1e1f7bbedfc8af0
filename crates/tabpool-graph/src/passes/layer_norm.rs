//! Joins a residual addition with the layer norm that follows it.

use super::{Matcher, replace};
use crate::{Binary, Graph, Node, Op};

/// Rewrites `layer_norm(a + b)` into [`Op::AddLayerNorm`] where both addends have the sum's shape and nothing else
/// reads the sum.
#[must_use]
pub fn fuse_add_layer_norm(graph: Graph) -> Graph {
    let m = Matcher::new(&graph);
    let rule = |node: &Node| {
        let (Op::LayerNorm { epsilon }, &[sum, scale, shift]) = (&node.op, &*node.inputs) else { return None };
        let add = m.only(sum).filter(|n| n.op == Op::Binary(Binary::Add))?;
        let same = add.inputs.iter().all(|&v| m.shape(v) == m.shape(sum));
        same.then(|| Node {
            name: node.name.clone(),
            op: Op::AddLayerNorm { epsilon: *epsilon },
            inputs: vec![add.inputs[0], add.inputs[1], scale, shift],
            output: node.output,
        })
    };
    let found = graph.nodes.iter().enumerate().filter_map(|(i, n)| Some((i, rule(n)?))).collect();
    replace(graph, found)
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::fuse_add_layer_norm;
    use crate::{Binary, Graph, GraphBuilder, GraphError, Op};

    fn residual_block(residual: &[usize]) -> Result<Graph, GraphError> {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 6])?;
        let r = b.input("r", DType::F32, residual.to_vec())?;
        let scale = b.weight("scale", DType::F32, [6])?;
        let shift = b.weight("shift", DType::F32, [6])?;
        let sum = b.node("sum", Op::Binary(Binary::Add), &[x, r])?;
        let y = b.node("norm", Op::LayerNorm { epsilon: 1e-5 }, &[sum, scale, shift])?;
        b.output("y", y)?;
        b.finish()
    }

    #[test]
    fn a_residual_joins_its_norm() {
        let graph = fuse_add_layer_norm(residual_block(&[2, 6]).expect("valid"));
        graph.validate().expect("still valid");
        assert_eq!(graph.nodes().len(), 1);
        assert_eq!(graph.nodes()[0].op, Op::AddLayerNorm { epsilon: 1e-5 });
    }

    #[test]
    fn an_addend_that_broadcasts_does_not() {
        assert_eq!(fuse_add_layer_norm(residual_block(&[1, 6]).expect("valid")).nodes().len(), 2);
    }
}
