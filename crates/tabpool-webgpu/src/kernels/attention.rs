//! Launches `attention.wgsl`.

use super::{GRID, Groups, Kernel, Launch, Variant, word};

const SOURCE: &str = include_str!("attention.wgsl");

static VEC4: Kernel =
    Kernel { name: "attention_vec4", parts: &[GRID, include_str!("heads_vec4.wgsl"), SOURCE], reads: 5 };
static SCALAR: Kernel =
    Kernel { name: "attention_scalar", parts: &[GRID, include_str!("heads_scalar.wgsl"), SOURCE], reads: 5 };

/// Queries a workgroup answers.
const TILE: usize = 32;
/// Elements of each result a workgroup gives.
const WIDTH: usize = 64;

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

pub(crate) fn launch(of: &Attention<'_>) -> Launch {
    let aligned = of.size.is_multiple_of(4) && of.value_size.is_multiple_of(4);
    let kernel = if aligned { &VEC4 } else { &SCALAR };
    let tiles = of.queries.div_ceil(TILE);
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
    Launch {
        variant: Variant::new(kernel, &[("BIASES", word(of.biases.len()))]),
        params,
        groups: Groups::Line(word([wide, of.heads, of.batches].iter().fold(tiles, |n, &m| n.saturating_mul(m)))),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |kernel| (0..3).map(move |biases| Variant::new(kernel, &[("BIASES", biases)]));
    each(&VEC4).chain(each(&SCALAR)).collect()
}
