//! Launches `layer_norm.wgsl` and `layer_norm_row.wgsl`.

use super::row::RowVariant;
use super::{ACROSS, GRID, Kernel, Launch, Variant, word};

static KERNEL: Kernel =
    Kernel { name: "layer_norm", parts: &[GRID, ACROSS, include_str!("layer_norm.wgsl")], reads: 4 };
static ROW: Kernel = Kernel { name: "layer_norm_row", parts: &[GRID, include_str!("layer_norm_row.wgsl")], reads: 4 };

/// What a layer normalisation is of, beside its rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNorm {
    pub(crate) epsilon: f32,
    /// Whether a residual is added first.
    pub(crate) residual: bool,
    pub(crate) scale: bool,
    pub(crate) shift: bool,
}

/// `rows` rows of `n` elements.
pub(crate) fn launch(variant: RowVariant, rows: usize, n: usize, of: LayerNorm) -> Launch {
    let kernel = variant.of(&KERNEL, &ROW);
    let constants = [("HAS_RESIDUAL", of.residual), ("HAS_SCALE", of.scale), ("HAS_SHIFT", of.shift)];
    Launch {
        variant: Variant::new(kernel, &constants.map(|(name, has)| (name, u32::from(has)))),
        params: vec![word(rows), word(n), of.epsilon.to_bits(), 0],
        groups: variant.groups(rows),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let has = |residual, scale, shift| [("HAS_RESIDUAL", residual), ("HAS_SCALE", scale), ("HAS_SHIFT", shift)];
    let all = [has(0, 0, 0), has(0, 1, 0), has(0, 1, 1), has(1, 1, 1)];
    [&KERNEL, &ROW].into_iter().flat_map(|kernel| all.map(|has| Variant::new(kernel, &has))).collect()
}
