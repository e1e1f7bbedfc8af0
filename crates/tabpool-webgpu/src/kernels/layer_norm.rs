//! Launches `layer_norm.wgsl`.

use super::{ACROSS, GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel =
    Kernel { name: "layer_norm", parts: &[GRID, ACROSS, include_str!("layer_norm.wgsl")], reads: 4 };

/// `rows` rows of `n` elements, with a residual added first or without.
pub(crate) fn launch(rows: usize, n: usize, epsilon: f32, residual: bool) -> Launch {
    Launch {
        variant: Variant::new(&KERNEL, &[("HAS_RESIDUAL", u32::from(residual))]),
        params: vec![word(rows), word(n), epsilon.to_bits(), 0],
        groups: Groups::Line(word(rows)),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    (0..2).map(|r| Variant::new(&KERNEL, &[("HAS_RESIDUAL", r)])).collect()
}
