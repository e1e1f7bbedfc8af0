//! Launches `matmul.wgsl`: products of computed operands, and linear nodes whose weight is not a weight of the graph.

use super::{ACTIVATION, GRID, Groups, Kernel, Launch, Variant, word, words8};
use crate::strides::Joined;

static KERNEL: Kernel = Kernel { name: "matmul", parts: &[GRID, ACTIVATION, include_str!("matmul.wgsl")], reads: 4 };

/// One product's sizes and the batch of them.
pub(crate) struct MatMul<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Whether the second operand is stored `[n, k]`.
    pub(crate) transpose_b: bool,
    /// The leading dimensions with both operands' strides in elements.
    pub(crate) batch: &'a Joined,
    pub(crate) bias: bool,
    /// See [`super::activation::code_after`].
    pub(crate) function: u32,
    /// Whether a value of the result's shape is added last.
    pub(crate) residual: bool,
}

pub(crate) fn launch(of: &MatMul<'_>) -> Launch {
    let batches = of.batch.elements();
    let (tiles_m, tiles_n) = (of.m.div_ceil(4), of.n.div_ceil(4));
    let (b_row, b_column) = if of.transpose_b { (1, of.k) } else { (of.n, 1) };
    let rank = of.batch.dims.len();
    let mut params: Vec<u32> =
        [of.m, of.n, of.k, batches, of.k, 1, b_row, b_column, rank, tiles_m, tiles_n, 0].map(word).to_vec();
    params.extend(words8(&of.batch.dims));
    params.extend(words8(&of.batch.strides[0]));
    params.extend(words8(&of.batch.strides[1]));
    let constants =
        [("HAS_BIAS", u32::from(of.bias)), ("HAS_RESIDUAL", u32::from(of.residual)), ("FUNCTION", of.function)];
    Launch {
        variant: Variant::new(&KERNEL, &constants),
        params,
        groups: Groups::of_64(tiles_m.saturating_mul(tiles_n).saturating_mul(batches)),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |bias, residual| {
        let of = move |function| [("HAS_BIAS", bias), ("HAS_RESIDUAL", residual), ("FUNCTION", function)];
        (0..=6).map(move |function| Variant::new(&KERNEL, &of(function)))
    };
    each(0, 0).chain(each(1, 0)).chain(each(1, 1)).collect()
}
