//! Launches `softmax.wgsl` and `softmax_row.wgsl`.

use super::row::RowVariant;
use super::{ACROSS, GRID, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "softmax", parts: &[GRID, ACROSS, include_str!("softmax.wgsl")], reads: 1 };
static ROW: Kernel = Kernel { name: "softmax_row", parts: &[GRID, include_str!("softmax_row.wgsl")], reads: 1 };

/// `rows` rows of `n` elements.
pub(crate) fn launch(variant: RowVariant, rows: usize, n: usize) -> Launch {
    let kernel = variant.of(&KERNEL, &ROW);
    let params = vec![word(rows), word(n), 0, 0];
    Launch { variant: Variant::new(kernel, &[]), params, groups: variant.groups(rows) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[]), Variant::new(&ROW, &[])]
}
