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
    for &(z, shared) in GROUPED {
        all.push(grouped(z, shared, None)?);
        for starts in [&[0][..], &[3, 1], &[10, 5], &[1000, -7]] {
            all.push(grouped(z, shared, Some(starts))?);
        }
    }
    for (z, starts, rows) in UNSEEN {
        all.push(unseen_keys(*z, starts, rows)?);
    }
    Ok(all)
}

/// Sizes with how many heads share one of keys.
const GROUPED: &[(Size, usize)] = &[
    (size(1, 4, 1, 13, 7, 7), 2),
    (size(2, 3, 5, 17, 5, 9), 3),
    (size(1, 2, 13, 13, 17, 17), 1),
    (size(2, 8, 2, 33, 32, 32), 4),
    (size(1, 4, 70, 129, 33, 31), 4),
    (size(1, 6, 33, 50, 16, 16), 2),
    (size(1, 14, 1, 300, 64, 64), 7),
];

/// Heads that share keys and values, with and without a position up to which they see; the latter with a bias as well.
fn grouped(z: Size, shared: usize, starts: Option<&'static [i32]>) -> Result<Case, CaseError> {
    let Size { batch, heads, queries, keys, depth, depth_v } = z;
    let seen = starts.map_or("seeing all".to_owned(), |starts| format!("seeing from {starts:?}"));
    let mut s = Sketch::new(format!(
        "attention {batch}x{heads} heads {queries}x{keys} by {depth} and {depth_v} sharing keys by {shared} {seen}"
    ));
    let kv_heads = heads / shared;
    let mut operands = vec![
        s.input([batch, queries, heads * depth], Fill::PLAIN)?,
        s.input([batch, keys, kv_heads * depth], Fill::PLAIN)?,
        s.input([batch, keys, kv_heads * depth_v], Fill::PLAIN)?,
    ];
    if queries % 2 == 1 {
        operands.push(s.input([batch, 1, queries, keys], Fill::PLAIN)?);
    }
    if let Some(starts) = starts {
        operands.push(s.input([1], Fill::Each(starts))?);
    }
    #[expect(clippy::cast_precision_loss, reason = "a depth is small")]
    let scale = 1.0 / (depth as f32).sqrt();
    let y = s.node(Op::Attention { heads, kv_heads, scale, causal: starts.is_some() }, &operands)?;
    s.finish(&[y], 2e-5)
}

/// Sizes, where queries begin in each run, and how many keys are numbers then. In the last two that is one too few for the
/// last query, which is not looked at; the others must not notice.
const UNSEEN: &[(Size, &[i32], &[usize])] = &[
    (size(2, 2, 1, 29, 5, 7), &[4, 0], &[5, 1]),
    (size(1, 3, 5, 300, 33, 33), &[0, 61], &[5, 66]),
    (size(1, 2, 70, 131, 16, 16), &[0, 7], &[70, 77]),
    (size(1, 2, 5, 29, 5, 7), &[4, 0], &[8, 4]),
    (size(1, 1, 33, 61, 32, 32), &[0, 2], &[32, 34]),
];

/// A cache whose rows beyond what was written are no numbers.
fn unseen_keys(z: Size, starts: &'static [i32], rows: &'static [usize]) -> Result<Case, CaseError> {
    let Size { batch, heads, queries, keys, depth, depth_v } = z;
    let mut s = Sketch::new(format!(
        "attention {batch}x{heads} heads {queries}x{keys} by {depth} and {depth_v} where all but {rows:?} keys are no numbers"
    ));
    let operands = [
        s.input([batch, queries, heads * depth], Fill::PLAIN)?,
        s.input([batch, keys, heads * depth], Fill::Rows(rows))?,
        s.input([batch, keys, heads * depth_v], Fill::Rows(rows))?,
        s.input([1], Fill::Each(starts))?,
    ];
    let y = s.node(Op::Attention { heads, kv_heads: heads, scale: 0.5, causal: true }, &operands)?;
    let seeing = starts.iter().zip(rows).map(|(&start, &rows)| rows - usize::try_from(start).unwrap_or(0)).min();
    let length = seeing.unwrap_or(queries).min(queries);
    let y = s.node(Op::Slice { axis: 1, start: 0, length }, &[y])?;
    s.finish(&[y], 2e-5)
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
    let y = s.node(Op::attention(heads, scale), &operands)?;
    s.finish(&[y], 2e-5)
}

fn one_value_three_times() -> Result<Case, CaseError> {
    let mut s = Sketch::new("attention of a value to itself");
    let x = s.input([2, 13, 12], Fill::Uniform(-1.0, 1.0))?;
    let y = s.node(Op::attention(3, 0.5), &[x, x, x])?;
    s.finish(&[y], 2e-5)
}
