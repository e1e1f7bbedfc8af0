//! Whole encoders of the BERT family from primitive operators, as model builders emit them.

use tabpool_graph::{Binary, Op, Reduction, Unary, ValueId};
use tabpool_tensor::{DType, Shape, Tensor};

use super::case::{Case, CaseError, Fill, Sketch};

/// The sizes of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderSize {
    /// Sequences of a run.
    pub batch: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// The width of a token.
    pub hidden: usize,
    /// The width inside the feed-forward layers.
    pub intermediate: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
}

impl EncoderSize {
    /// The size of all-MiniLM-L6-v2.
    #[must_use]
    pub fn minilm(batch: usize, sequence: usize) -> Self {
        let (vocabulary, hidden, intermediate, heads, layers) = (30522, 384, 1536, 12, 6);
        Self { batch, sequence, vocabulary, hidden, intermediate, heads, layers }
    }
}

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let size =
        EncoderSize { batch: 2, sequence: 13, vocabulary: 61, hidden: 30, intermediate: 70, heads: 5, layers: 2 };
    let wide =
        EncoderSize { batch: 1, sequence: 33, vocabulary: 127, hidden: 72, intermediate: 129, heads: 3, layers: 1 };
    let mut all = Vec::new();
    for (size, stored) in [(size, DType::F32), (size, DType::F16), (wide, DType::BF16)] {
        let plain = encoder(size, stored)?;
        all.push(plain.optimised()?);
        all.push(plain);
    }
    Ok(all)
}

/// A case of an encoder with random weights: ids and mask `i32 [batch, sequence]` in; the hidden states and the
/// normalised mean over real tokens out. The graph is primitive; see [`Case::optimised`].
///
/// # Errors
/// [`CaseError`] where the sizes make no valid encoder: `heads` must divide `hidden`.
pub fn encoder(size: EncoderSize, stored: DType) -> Result<Case, CaseError> {
    let EncoderSize { batch, sequence, vocabulary, hidden, layers, .. } = size;
    let mut s = Sketch::new(format!("encoder of {layers} layers {batch}x{sequence} by {hidden} in {stored}"));
    let ids = s.input([batch, sequence], Fill::Integers(0, i32::try_from(vocabulary).unwrap_or(i32::MAX)))?;
    let mask = s.input([batch, sequence], Fill::Prefix)?;
    let words = s.weight_between(stored, [vocabulary, hidden], -1.0, 1.0)?;
    let x = s.node(Op::Gather, &[words, ids])?;
    let positions = s.weight_between(stored, [sequence + 3, hidden], -1.0, 1.0)?;
    let positions = s.node(Op::Slice { axis: 0, start: 0, length: sequence }, &[positions])?;
    let x = s.node(Op::Binary(Binary::Add), &[x, positions])?;
    let mut x = norm(&mut s, x, stored)?;
    let mask = s.node(Op::Cast { to: DType::F32 }, &[mask])?;
    let bias = mask_bias(&mut s, mask)?;
    let relative = relative_bias(&mut s, size)?;
    for _ in 0..layers {
        x = layer(&mut s, x, [relative, bias], size, stored)?;
    }
    let pooled = masked_mean(&mut s, x, mask)?;
    let unit = s.node(Op::L2Normalize { epsilon: 1e-12 }, &[pooled])?;
    s.finish(&[x, unit], 1e-4)
}

fn scalar(s: &mut Sketch, value: f32) -> Result<ValueId, CaseError> {
    s.constant(Tensor::from_f32(Vec::new(), vec![value])?)
}

fn norm(s: &mut Sketch, x: ValueId, stored: DType) -> Result<ValueId, CaseError> {
    let width = s.shape(x).last().copied().unwrap_or(1);
    let scale = s.weight_between(stored, [width], 0.8, 1.2)?;
    let shift = s.weight_between(stored, [width], -0.1, 0.1)?;
    s.node(Op::LayerNorm { epsilon: 1e-12 }, &[x, scale, shift])
}

fn dense(s: &mut Sketch, x: ValueId, to: usize, stored: DType) -> Result<ValueId, CaseError> {
    let from = s.shape(x).last().copied().unwrap_or(1);
    let weight = s.weight(stored, [to, from])?;
    let bias = s.weight_between(stored, [to], -0.1, 0.1)?;
    let y = s.node(Op::LINEAR, &[x, weight])?;
    s.node(Op::Binary(Binary::Add), &[y, bias])
}

/// `(1 - mask) * -1e9` as `[batch, 1, 1, sequence]`.
fn mask_bias(s: &mut Sketch, mask: ValueId) -> Result<ValueId, CaseError> {
    let (one, far) = (scalar(s, 1.0)?, scalar(s, -1e9)?);
    let dims = s.shape(mask).dims().to_vec();
    let hidden = s.node(Op::Binary(Binary::Sub), &[one, mask])?;
    let bias = s.node(Op::Binary(Binary::Mul), &[hidden, far])?;
    s.node(Op::Reshape { shape: Shape::from([dims[0], 1, 1, dims[1]]) }, &[bias])
}

/// A bias by relative position as `MPNet` has it: rows of a small table, the same for every run.
fn relative_bias(s: &mut Sketch, size: EncoderSize) -> Result<ValueId, CaseError> {
    let (n, heads, buckets) = (size.sequence, size.heads, 9usize);
    let bucket = |i: usize| i32::try_from((i % n + buckets).abs_diff(i / n) % buckets).unwrap_or(0);
    let index = s.constant(Tensor::from_i32([n, n], (0..n * n).map(bucket).collect())?)?;
    let table = s.weight_between(DType::F32, [buckets, heads], -1.0, 1.0)?;
    let rows = s.node(Op::Gather, &[table, index])?;
    let turned = s.node(Op::Transpose { permutation: vec![2, 0, 1] }, &[rows])?;
    s.node(Op::Reshape { shape: Shape::from([1, heads, n, n]) }, &[turned])
}

fn layer(
    s: &mut Sketch,
    x: ValueId,
    biases: [ValueId; 2],
    size: EncoderSize,
    stored: DType,
) -> Result<ValueId, CaseError> {
    let EncoderSize { batch, sequence, hidden, intermediate, heads, .. } = size;
    let depth = hidden / heads;
    let head = |s: &mut Sketch| {
        let y = dense(s, x, hidden, stored)?;
        let y = s.node(Op::Reshape { shape: Shape::from([batch, sequence, heads, depth]) }, &[y])?;
        s.node(Op::Transpose { permutation: vec![0, 2, 1, 3] }, &[y])
    };
    let (q, k, v) = (head(s)?, head(s)?, head(s)?);
    #[expect(clippy::cast_precision_loss, reason = "a depth is small")]
    let root = scalar(s, (depth as f32).sqrt())?;
    let scores = s.node(Op::MatMul { transpose_b: true }, &[q, k])?;
    let mut scores = s.node(Op::Binary(Binary::Div), &[scores, root])?;
    for bias in biases {
        scores = s.node(Op::Binary(Binary::Add), &[scores, bias])?;
    }
    let shares = s.node(Op::Softmax, &[scores])?;
    let context = s.node(Op::MatMul { transpose_b: false }, &[shares, v])?;
    let context = s.node(Op::Transpose { permutation: vec![0, 2, 1, 3] }, &[context])?;
    let context = s.node(Op::Reshape { shape: Shape::from([batch, sequence, hidden]) }, &[context])?;
    let y = dense(s, context, hidden, stored)?;
    let sum = s.node(Op::Binary(Binary::Add), &[y, x])?;
    let x = norm(s, sum, stored)?;
    let y = dense(s, x, intermediate, stored)?;
    let y = s.node(Op::Unary(Unary::Gelu), &[y])?;
    let y = dense(s, y, hidden, stored)?;
    let sum = s.node(Op::Binary(Binary::Add), &[y, x])?;
    norm(s, sum, stored)
}

fn masked_mean(s: &mut Sketch, x: ValueId, mask: ValueId) -> Result<ValueId, CaseError> {
    let dims = s.shape(mask).dims().to_vec();
    let mask = s.node(Op::Reshape { shape: Shape::from([dims[0], dims[1], 1]) }, &[mask])?;
    let masked = s.node(Op::Binary(Binary::Mul), &[x, mask])?;
    let sum = s.node(Op::Reduce { reduction: Reduction::Sum, axis: 1, keep: false }, &[masked])?;
    let count = s.node(Op::Reduce { reduction: Reduction::Sum, axis: 1, keep: false }, &[mask])?;
    let least = scalar(s, 1e-9)?;
    let count = s.node(Op::Binary(Binary::Max), &[count, least])?;
    s.node(Op::Binary(Binary::Div), &[sum, count])
}
