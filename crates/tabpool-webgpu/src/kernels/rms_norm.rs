//! Launches `rms_norm.wgsl` and `rms_norm_row.wgsl`.

use super::row::RowVariant;
use super::{ACROSS, GRID, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "rms_norm", parts: &[GRID, ACROSS, include_str!("rms_norm.wgsl")], reads: 2 };
static ROW: Kernel = Kernel { name: "rms_norm_row", parts: &[GRID, include_str!("rms_norm_row.wgsl")], reads: 2 };

/// `rows` rows of `n` elements.
pub(crate) fn launch(variant: RowVariant, rows: usize, n: usize, epsilon: f32) -> Launch {
    let kernel = variant.of(&KERNEL, &ROW);
    let params = vec![word(rows), word(n), epsilon.to_bits(), 0];
    Launch { variant: Variant::new(kernel, &[]), params, groups: variant.groups(rows) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[]), Variant::new(&ROW, &[])]
}
