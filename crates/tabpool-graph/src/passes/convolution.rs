//! Convolutions: what follows one moves into it, and one that cuts an image into patches becomes a linear layer.

use tabpool_tensor::Shape;

use super::{Matcher, eliminate_dead, replace};
use crate::{Activation, Graph, Node, Op, ValueId};

/// Rewrites `activation(conv2d(x, w))` into one [`Op::Conv2d`], and a convolution whose kernel moves by its own size, without
/// padding and groups, into an [`Op::Linear`] over the patches it sees: they share no pixel, so that cutting them out copies
/// nothing twice. The weight's bytes stay as they are; it becomes a matrix, so nothing else may read it.
#[must_use]
pub fn fuse_convolution(graph: Graph) -> Graph {
    let m = Matcher::new(&graph);
    let found = graph.nodes.iter().enumerate().filter_map(|(i, n)| Some((i, with_activation(&m, n)?))).collect();
    patches(replace(graph, found))
}

fn with_activation(m: &Matcher<'_>, node: &Node) -> Option<Node> {
    let (Op::Unary(function), &[x]) = (&node.op, &*node.inputs) else { return None };
    let conv = m.only(x)?;
    let mut op = conv.op.clone();
    match &mut op {
        Op::Conv2d { activation: activation @ None, .. } => *activation = Some(Activation::from_unary(*function)?),
        _ => return None,
    }
    Some(Node { name: conv.name.clone(), op, inputs: conv.inputs.clone(), output: node.output })
}

/// A convolution that cuts an image into patches.
struct Patches {
    image: [usize; 4],
    channels: usize,
    kernel: [usize; 2],
    out: [usize; 2],
    activation: Option<Activation>,
}

impl Patches {
    fn of(graph: &Graph, uses: &[u32], node: &Node) -> Option<Self> {
        let Op::Conv2d { stride, padding: [0, 0, 0, 0], dilation: [1, 1], groups: 1, activation } = node.op else {
            return None;
        };
        let dims = |id: ValueId| <[usize; 4]>::try_from(graph.value(id).shape.dims()).ok();
        let (image, [channels, _, kh, kw], [.., oh, ow]) =
            (dims(node.inputs[0])?, dims(node.inputs[1])?, dims(node.output)?);
        let alone = graph.weights.iter().any(|w| w.value == node.inputs[1]) && uses[node.inputs[1].index()] == 1;
        // A kernel of one pixel sees the image as it lies; two transposes would be all there is to win.
        let cuts = [kh, kw] == stride && kh * kw > 1;
        (alone && cuts).then_some(Self { image, channels, kernel: [kh, kw], out: [oh, ow], activation })
    }
}

fn patches(mut graph: Graph) -> Graph {
    let uses = graph.use_counts();
    for node in std::mem::take(&mut graph.nodes) {
        match Patches::of(&graph, &uses, &node) {
            None => graph.nodes.push(node),
            Some(patches) => cut(&mut graph, &patches, &node),
        }
    }
    eliminate_dead(graph)
}

/// Adds the nodes that stand for a convolution.
fn cut(graph: &mut Graph, of: &Patches, node: &Node) {
    let ([b, c, ..], [kh, kw], [oh, ow]) = (of.image, of.kernel, of.out);
    let (weight, depth) = (node.inputs[1], c * kh * kw);
    graph.values[weight.index()].shape = Shape::from([of.channels, depth]);
    let mut x = node.inputs[0];
    let mut dims = of.image;
    // Rows and columns that are left over belong to no patch.
    for (axis, length) in [(2, oh * kh), (3, ow * kw)] {
        if dims[axis] != length {
            dims[axis] = length;
            x = add(graph, node, Op::Slice { axis, start: 0, length }, &[x], dims.into());
        }
    }
    let reshape = |shape: Shape| Op::Reshape { shape };
    let apart = Shape::from([b, c, oh, kh, ow, kw]);
    x = add(graph, node, reshape(apart.clone()), &[x], apart);
    let permutation = vec![0, 2, 4, 1, 3, 5];
    x = add(graph, node, Op::Transpose { permutation }, &[x], [b, oh, ow, c, kh, kw].into());
    let rows = Shape::from([b, oh * ow, depth]);
    x = add(graph, node, reshape(rows.clone()), &[x], rows);
    let operands = [&[x, weight], &node.inputs[2..]].concat();
    let linear = Op::Linear { activation: of.activation, residual: false };
    x = add(graph, node, linear, &operands, [b, oh * ow, of.channels].into());
    x = add(graph, node, Op::Transpose { permutation: vec![0, 2, 1] }, &[x], [b, of.channels, oh * ow].into());
    let op = reshape([b, of.channels, oh, ow].into());
    graph.nodes.push(Node { name: node.name.clone(), op, inputs: vec![x], output: node.output });
}

fn add(graph: &mut Graph, like: &Node, op: Op, inputs: &[ValueId], shape: Shape) -> ValueId {
    let output = graph.add_value(&like.name, tabpool_tensor::DType::F32, shape);
    graph.nodes.push(Node { name: like.name.clone(), op, inputs: inputs.to_vec(), output });
    output
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::fuse_convolution;
    use crate::{Activation, Graph, GraphBuilder, GraphError, Op, Unary, passes::optimise};

    /// A convolution that moves by `stride`, then an activation, as patch embeddings are: with pixels as a sequence.
    fn embedding(kernel: usize, stride: usize, tied: bool) -> Result<Graph, GraphError> {
        let mut b = GraphBuilder::new();
        let x = b.input("image", DType::F32, [2, 3, 13, 8])?;
        let w = b.weight("kernel", DType::F16, [5, 3, kernel, kernel])?;
        let bias = b.weight("bias", DType::F32, [5])?;
        let conv =
            Op::Conv2d { stride: [stride, stride], padding: [0; 4], dilation: [1, 1], groups: 1, activation: None };
        let y = b.node("patches", conv, &[x, w, bias])?;
        let y = b.node("act", Op::Unary(Unary::Relu), &[y])?;
        let dims = b.shape(y).dims().to_vec();
        let y = b.node("flat", Op::Reshape { shape: [2, 5, dims[2] * dims[3]].into() }, &[y])?;
        let y = b.node("sequence", Op::Transpose { permutation: vec![0, 2, 1] }, &[y])?;
        b.output("y", y)?;
        if tied {
            b.output("kernel", w)?;
        }
        b.finish()
    }

    #[test]
    fn patches_become_rows_of_a_linear_layer() {
        let graph = optimise(embedding(4, 4, false).expect("valid")).expect("still valid");
        let ops: Vec<_> = graph.nodes().iter().map(|n| n.op.name()).collect();
        assert_eq!(ops, ["slice", "reshape", "transpose", "reshape", "linear"], "{graph}");
        let linear = graph.nodes().last().expect("five");
        assert_eq!(linear.op, Op::Linear { activation: Some(Activation::Relu), residual: false });
        assert_eq!(graph.value(linear.inputs[1]).shape.dims(), [5, 48]);
        assert_eq!(graph.value(linear.output).shape.dims(), [2, 6, 5]);
    }

    #[test]
    fn other_convolutions_stay_and_take_their_activation() {
        for (kernel, stride, tied) in [(3, 2, false), (1, 1, false), (4, 4, true)] {
            let graph = fuse_convolution(embedding(kernel, stride, tied).expect("valid"));
            graph.validate().expect("still valid");
            let convolutions = graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv2d { activation: Some(_), .. }));
            assert_eq!(convolutions.count(), 1, "{graph}");
        }
    }
}
