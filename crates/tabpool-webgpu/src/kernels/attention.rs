//! Launches `attention.wgsl` and `attention_row.wgsl`.

use super::{GRID, Groups, Kernel, Launch, Variant, word};

const HEADS: &str = include_str!("heads.wgsl");
const VEC4: &str = include_str!("heads_vec4.wgsl");
const SCALAR: &str = include_str!("heads_scalar.wgsl");
const TILED: &str = include_str!("attention.wgsl");
const ROW: &str = include_str!("attention_row.wgsl");

static TILED_VEC4: Kernel = Kernel { name: "attention_vec4", parts: &[GRID, HEADS, VEC4, TILED], reads: 5 };
static TILED_SCALAR: Kernel = Kernel { name: "attention_scalar", parts: &[GRID, HEADS, SCALAR, TILED], reads: 5 };
static ROW_VEC4: Kernel = Kernel { name: "attention_row_vec4", parts: &[GRID, HEADS, VEC4, ROW], reads: 5 };
static ROW_SCALAR: Kernel = Kernel { name: "attention_row_scalar", parts: &[GRID, HEADS, SCALAR, ROW], reads: 5 };

/// Queries a workgroup of the tiled kernel answers.
const TILE: usize = 32;
/// Queries an invocation of the row kernel answers.
const ROWS: usize = 4;
/// Elements of each result a workgroup of the tiled kernel gives, and the most the row kernel takes.
const WIDTH: usize = 64;
/// Up to how many keys the row kernel is the faster one on software adapters. At 128 keys it takes half the time of the
/// tiled one on lavapipe and a tenth less on SwiftShader; at 512 it takes half as much again on SwiftShader.
const FEW_KEYS: usize = 256;

/// What attention is over.
pub(crate) struct Attention<'a> {
    pub(crate) batches: usize,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// The size of a head in q and k.
    pub(crate) size: usize,
    /// The size of a head in v.
    pub(crate) value_size: usize,
    pub(crate) scale: f32,
    /// Strides over batch, head, query and key of each bias, at most two.
    pub(crate) biases: &'a [[usize; 4]],
}

pub(crate) fn launch(of: &Attention<'_>, software: bool) -> Launch {
    let aligned = of.size.is_multiple_of(4) && of.value_size.is_multiple_of(4);
    let by_row = software && of.value_size <= WIDTH && of.keys <= FEW_KEYS;
    let kernel = match (by_row, aligned) {
        (true, true) => &ROW_VEC4,
        (true, false) => &ROW_SCALAR,
        (false, true) => &TILED_VEC4,
        (false, false) => &TILED_SCALAR,
    };
    let tiles = of.queries.div_ceil(if by_row { ROWS } else { TILE });
    let wide = of.value_size.div_ceil(WIDTH);
    let mut params = vec![
        word(of.batches),
        word(of.heads),
        word(of.queries),
        word(of.keys),
        word(of.size),
        word(of.value_size),
        word(tiles),
        word(wide),
        of.scale.to_bits(),
        0,
        0,
        0,
    ];
    for i in 0..2 {
        params.extend(of.biases.get(i).copied().unwrap_or_default().map(word));
    }
    let all = [wide, of.heads, of.batches].iter().fold(tiles, |n, &m| n.saturating_mul(m));
    Launch {
        variant: Variant::new(kernel, &[("BIASES", word(of.biases.len()))]),
        params,
        groups: Groups::Line(word(if by_row { all.div_ceil(8) } else { all })),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |kernel| (0..3).map(move |biases| Variant::new(kernel, &[("BIASES", biases)]));
    [&TILED_VEC4, &TILED_SCALAR, &ROW_VEC4, &ROW_SCALAR].into_iter().flat_map(each).collect()
}
