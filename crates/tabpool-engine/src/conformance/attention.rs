//! Fused attention, with every kind of bias and mask.

use tabpool_graph::Op;

use super::case::{Case, CaseError, Fill, Sketch};

#[derive(Clone, Copy)]
struct Size {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    depth: usize,
    depth_v: usize,
}

const fn size(batch: usize, heads: usize, queries: usize, keys: usize, depth: usize, depth_v: usize) -> Size {
    Size { batch, heads, queries, keys, depth, depth_v }
}

const SIZES: &[Size] = &[
    size(1, 1, 1, 1, 1, 1),
    size(1, 1, 5, 3, 7, 5),
    size(2, 3, 7, 7, 5, 5),
    size(3, 2, 1, 17, 33, 33),
    size(1, 3, 33, 61, 17, 9),
    size(2, 2, 65, 65, 32, 32),
    size(1, 12, 17, 17, 32, 32),
    size(1, 2, 70, 129, 67, 65),
    size(2, 1, 3, 300, 8, 8),
];

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for &z in SIZES {
        let Size { batch: b, heads: h, queries: q, keys: k, .. } = z;
        all.push(attention(z, "without bias", &[])?);
        all.push(attention(z, "with a mask of keys", &[([b, 1, 1, k], Fill::Mask(-1e9))])?);
        all.push(attention(z, "with a lowest mask", &[([b, 1, 1, k], Fill::Mask(f32::MIN))])?);
        all.push(attention(z, "with everything masked", &[([b, 1, 1, k], Fill::Cycle(&[-1e9]))])?);
        all.push(attention(z, "with a bias of positions", &[([1, h, q, k], Fill::PLAIN)])?);
        let both = [([1, h, q, k], Fill::PLAIN), ([b, 1, 1, k], Fill::Mask(-1e9))];
        all.push(attention(z, "with bias and mask", &both)?);
        let both = [([b, h, q, k], Fill::PLAIN), ([1, 1, q, k], Fill::Mask(-1e9))];
        all.push(attention(z, "with full bias and mask of pairs", &both)?);
        let both = [([b, 1, q, 1], Fill::PLAIN), ([1, h, 1, 1], Fill::PLAIN)];
        all.push(attention(z, "with biases that change nothing", &both)?);
    }
    all.push(one_value_three_times()?);
    Ok(all)
}

fn attention(z: Size, what: &str, biases: &[([usize; 4], Fill)]) -> Result<Case, CaseError> {
    let Size { batch, heads, queries, keys, depth, depth_v } = z;
    let mut s =
        Sketch::new(format!("attention {batch}x{heads} heads {queries}x{keys} by {depth} and {depth_v} {what}"));
    let mut operands = vec![
        s.input([batch, queries, heads * depth], Fill::PLAIN)?,
        s.input([batch, keys, heads * depth], Fill::PLAIN)?,
        s.input([batch, keys, heads * depth_v], Fill::PLAIN)?,
    ];
    for &(shape, fill) in biases {
        operands.push(s.input(shape, fill)?);
    }
    #[expect(clippy::cast_precision_loss, reason = "a depth is small")]
    let scale = 1.0 / (depth as f32).sqrt();
    let y = s.node(Op::Attention { heads, scale }, &operands)?;
    s.finish(&[y], 2e-5)
}

fn one_value_three_times() -> Result<Case, CaseError> {
    let mut s = Sketch::new("attention of a value to itself");
    let x = s.input([2, 13, 12], Fill::Uniform(-1.0, 1.0))?;
    let y = s.node(Op::Attention { heads: 3, scale: 0.5 }, &[x, x, x])?;
    s.finish(&[y], 2e-5)
}
