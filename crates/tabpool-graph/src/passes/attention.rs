//! Recognises multi-head attention written out in primitive operators.
//!
//! The pattern, read from its end: the heads are merged by a reshape of a transpose `[0, 2, 1, 3]` of
//! `matmul(softmax(scores), v)`, where scores are a chain of additions and multiplications by scalars over
//! `matmul(q, k.T)`, and q, k, v are each `transpose([0, 2, 1, 3])` of a reshape `[B, S, H] -> [B, S, heads, D]`; k may
//! be transposed by `[0, 2, 3, 1]` instead of by the product.

use super::{Matcher, replace};
use crate::{Binary, Graph, Node, Op, ValueId};

/// Rewrites attention written out in primitive operators into [`Op::Attention`].
#[must_use]
pub fn fuse_attention(graph: Graph) -> Graph {
    let m = Matcher::new(&graph);
    let found = graph.nodes.iter().enumerate().filter_map(|(i, n)| Some((i, attention(&m, n)?))).collect();
    replace(graph, found)
}

fn attention(m: &Matcher<'_>, merged: &Node) -> Option<Node> {
    let Op::Reshape { .. } = merged.op else { return None };
    let swap = transposed(m, merged.inputs[0], &[0, 2, 1, 3])?;
    let context = m.only(swap).filter(|n| n.op == Op::MatMul { transpose_b: false })?;
    let softmax = m.only(context.inputs[0]).filter(|n| n.op == Op::Softmax)?;
    let (q, k, scale, biases) = scores(m, softmax.inputs[0])?;
    let (v, heads) = split_heads(m, context.inputs[1], &[0, 2, 1, 3])?;
    let (q, q_heads) = split_heads(m, q, &[0, 2, 1, 3])?;
    let (k, k_heads) = k;
    let [batch, queries, _] = *m.shape(q) else { return None };
    let merges = m.shape(merged.output) == [batch, queries, *m.shape(v).last()?];
    (heads == q_heads && heads == k_heads && merges && biases.len() <= 2).then(|| {
        let mut inputs = vec![q, k, v];
        inputs.extend(biases);
        Node { name: merged.name.clone(), op: Op::attention(heads, scale), inputs, output: merged.output }
    })
}

/// The operand of a transpose with this permutation, where only the pattern reads the transposed value.
fn transposed(m: &Matcher<'_>, value: ValueId, permutation: &[usize]) -> Option<ValueId> {
    let node = m.only(value)?;
    matches!(&node.op, Op::Transpose { permutation: p } if p == permutation).then(|| node.inputs[0])
}

/// What was split into heads `[B, S, heads * D] -> [B, S, heads, D]` and then transposed, with the number of heads.
fn split_heads(m: &Matcher<'_>, value: ValueId, permutation: &[usize]) -> Option<(ValueId, usize)> {
    let split = transposed(m, value, permutation)?;
    let node = m.only(split).filter(|n| matches!(n.op, Op::Reshape { .. }))?;
    let (&[b, s, h], &[b2, s2, heads, d]) = (m.shape(node.inputs[0]), m.shape(split)) else { return None };
    (b == b2 && s == s2 && h == heads * d).then(|| (node.inputs[0], heads))
}

/// `(q, (k, heads of k), scale, biases)` of a chain of scalings and additions over `q @ k.T`.
#[expect(clippy::type_complexity, reason = "the four parts are taken apart at once by the only caller")]
fn scores(m: &Matcher<'_>, value: ValueId) -> Option<(ValueId, (ValueId, usize), f32, Vec<ValueId>)> {
    let (mut value, mut scale, mut biases) = (value, 1.0, Vec::new());
    loop {
        let node = m.only(value)?;
        match (&node.op, &*node.inputs) {
            (Op::MatMul { transpose_b: true }, &[q, k]) => {
                return Some((q, split_heads(m, k, &[0, 2, 1, 3])?, scale, biases));
            }
            (Op::MatMul { transpose_b: false }, &[q, k]) => {
                return Some((q, split_heads(m, k, &[0, 2, 3, 1])?, scale, biases));
            }
            // A scaling outside an addition would scale the bias too, so it is taken only after the last bias.
            (Op::Binary(op @ (Binary::Mul | Binary::Div)), &[x, s]) => {
                let s = m.scalar(s)?;
                scale *= if *op == Binary::Mul { s } else { 1.0 / s };
                value = x;
            }
            (Op::Binary(Binary::Add), &[x, bias]) if scale == 1.0 => {
                if m.shape(bias).len() != 4 || m.shape(x) != m.shape(value) {
                    return None;
                }
                biases.insert(0, bias);
                value = x;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::fuse_attention;
    use crate::{Binary, Graph, GraphBuilder, GraphError, Op, ValueId};

    fn heads(b: &mut GraphBuilder, x: ValueId, name: &str) -> Result<ValueId, GraphError> {
        let x = b.node(name, Op::Reshape { shape: [2, 5, 3, 4].into() }, &[x])?;
        b.node(name, Op::Transpose { permutation: vec![0, 2, 1, 3] }, &[x])
    }

    fn written_out(scale_last: bool) -> Result<Graph, GraphError> {
        let mut b = GraphBuilder::new();
        let [q, k, v] = ["q", "k", "v"].map(|n| b.input(n, DType::F32, [2, 5, 12]));
        let (q, k, v) = (heads(&mut b, q?, "q")?, heads(&mut b, k?, "k")?, heads(&mut b, v?, "v")?);
        let mask = b.input("mask", DType::F32, [2, 1, 1, 5])?;
        let bias = b.input("bias", DType::F32, [1, 3, 5, 5])?;
        let half = b.scalar("half", 0.5)?;
        let mut s = b.node("scores", Op::MatMul { transpose_b: true }, &[q, k])?;
        if !scale_last {
            s = b.node("scaled", Op::Binary(Binary::Mul), &[s, half])?;
        }
        s = b.node("biased", Op::Binary(Binary::Add), &[s, bias])?;
        s = b.node("masked", Op::Binary(Binary::Add), &[s, mask])?;
        if scale_last {
            s = b.node("scaled", Op::Binary(Binary::Mul), &[s, half])?;
        }
        let p = b.node("softmax", Op::Softmax, &[s])?;
        let c = b.node("context", Op::MatMul { transpose_b: false }, &[p, v])?;
        let c = b.node("swap", Op::Transpose { permutation: vec![0, 2, 1, 3] }, &[c])?;
        let c = b.node("merge", Op::Reshape { shape: [2, 5, 12].into() }, &[c])?;
        b.output("y", c)?;
        b.finish()
    }

    #[test]
    fn attention_becomes_one_node_with_its_scale_and_biases() {
        let graph = fuse_attention(written_out(false).expect("valid"));
        graph.validate().expect("still valid");
        let [node] = graph.nodes() else { panic!("one node is left:\n{graph}") };
        assert_eq!(node.op, Op::attention(3, 0.5));
        let names: Vec<_> = node.inputs.iter().map(|&v| graph.value(v).name.as_str()).collect();
        assert_eq!(names, ["q", "k", "v", "bias", "mask"]);
    }

    #[test]
    fn a_scale_that_also_multiplies_the_bias_is_not_attention() {
        let graph = written_out(true).expect("valid");
        assert_eq!(fuse_attention(graph.clone()).nodes().len(), graph.nodes().len());
    }
}
