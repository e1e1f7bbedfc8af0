//! Launches `layer_norm.wgsl` and `layer_norm_row.wgsl`.

use super::{ACROSS, GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel =
    Kernel { name: "layer_norm", parts: &[GRID, ACROSS, include_str!("layer_norm.wgsl")], reads: 4 };
static ROW: Kernel = Kernel { name: "layer_norm_row", parts: &[GRID, include_str!("layer_norm_row.wgsl")], reads: 4 };

/// The fewest rows that keep the vector lanes of a software adapter busy with a row each.
const ENOUGH_ROWS: usize = 16;

/// `rows` rows of `n` elements, with a residual added first or without.
pub(crate) fn launch(rows: usize, n: usize, epsilon: f32, residual: bool, software: bool) -> Launch {
    let by_row = software && rows >= ENOUGH_ROWS && n.is_multiple_of(4);
    let (kernel, groups) = if by_row { (&ROW, rows.div_ceil(8)) } else { (&KERNEL, rows) };
    Launch {
        variant: Variant::new(kernel, &[("HAS_RESIDUAL", u32::from(residual))]),
        params: vec![word(rows), word(n), epsilon.to_bits(), 0],
        groups: Groups::Line(word(groups)),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |kernel| (0..2).map(move |r| Variant::new(kernel, &[("HAS_RESIDUAL", r)]));
    each(&KERNEL).chain(each(&ROW)).collect()
}
