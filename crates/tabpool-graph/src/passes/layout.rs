//! Joins operators that move elements with those before them: a reshape of a reshape, a transpose of a transpose.

use super::eliminate_dead;
use crate::{Graph, Node, Op, ValueId};

/// Rewrites reshapes of reshapes and transposes of transposes into one that reads what the first one read. What then changes
/// nothing, [`fold_constants`](super::fold_constants) removes; what nothing reads any more goes.
#[must_use]
pub fn join_layouts(mut graph: Graph) -> Graph {
    // Each value keeps its maker, whatever that comes to read.
    let producers = graph.producers();
    // In order, so that chains are followed to their beginning: what is read is joined already.
    for position in 0..graph.nodes.len() {
        let joined = joined(&graph, &producers, &graph.nodes[position]);
        if let Some(node) = joined {
            graph.nodes[position] = node;
        }
    }
    eliminate_dead(graph)
}

fn joined(graph: &Graph, producers: &[Option<usize>], node: &Node) -> Option<Node> {
    let made = |value: ValueId| producers[value.index()].map(|i| &graph.nodes[i]);
    let &[x] = &*node.inputs else { return None };
    let mut before = made(x)?;
    // What was joined may change nothing any more, and is looked through.
    while let (Op::Reshape { .. }, &[x]) = (&before.op, &*before.inputs)
        && graph.value(x).shape == graph.value(before.output).shape
    {
        before = made(x)?;
    }
    let op = match (&node.op, &before.op) {
        (Op::Reshape { .. }, Op::Reshape { .. }) => node.op.clone(),
        (Op::Transpose { permutation }, Op::Transpose { permutation: first }) => {
            Op::Transpose { permutation: permutation.iter().map(|&p| first[p]).collect() }
        }
        _ => return None,
    };
    Some(Node { name: node.name.clone(), op, inputs: before.inputs.clone(), output: node.output })
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::join_layouts;
    use crate::passes::fold_constants;
    use crate::{GraphBuilder, Op};

    #[test]
    fn chains_become_one_and_what_they_undo_vanishes() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 3, 5]).expect("valid");
        let mut y = x;
        for shape in [&[6, 5][..], &[5, 6], &[30], &[2, 3, 5]] {
            y = b.node("reshape", Op::Reshape { shape: shape.into() }, &[y]).expect("valid");
        }
        let turned = b.node("first", Op::Transpose { permutation: vec![1, 2, 0] }, &[y]).expect("valid");
        let back = b.node("back", Op::Transpose { permutation: vec![2, 0, 1] }, &[turned]).expect("valid");
        let other = b.node("other", Op::Transpose { permutation: vec![1, 2, 0] }, &[turned]).expect("valid");
        b.output("back", back).expect("valid");
        b.output("other", other).expect("valid");
        let graph = fold_constants(join_layouts(fold_constants(b.finish().expect("valid"))));
        graph.validate().expect("still valid");
        let [node] = graph.nodes() else { panic!("one node is left:\n{graph}") };
        assert_eq!((&node.op, &*node.inputs), (&Op::Transpose { permutation: vec![2, 0, 1] }, &[x][..]));
        assert_eq!(graph.outputs()[0].value, x);
    }
}
