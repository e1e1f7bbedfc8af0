//! Launches `quantise.wgsl` and `quantise_row.wgsl`, which make rows of activations into 8-bit integers.

use super::{ACROSS, GRID, Groups, Kernel, Launch, Variant, word};

const QUANTISED: &str = include_str!("quantised.wgsl");

static KERNEL: Kernel =
    Kernel { name: "quantise", parts: &[GRID, ACROSS, QUANTISED, include_str!("quantise.wgsl")], reads: 1 };
static ROW: Kernel =
    Kernel { name: "quantise_row", parts: &[GRID, QUANTISED, include_str!("quantise_row.wgsl")], reads: 1 };

/// The fewest rows that keep the vector lanes of a software adapter busy with a row each.
const ENOUGH_ROWS: usize = 16;

/// The words that `rows` rows of `n` numbers take: four to a word, padded to multiples of 16, and a scale for each row.
pub(crate) fn words(rows: usize, n: usize) -> usize {
    rows * (n.next_multiple_of(16) / 4 + 1)
}

/// `rows` rows of `n` elements.
pub(crate) fn launch(rows: usize, n: usize, software: bool) -> Launch {
    let by_row = software && rows >= ENOUGH_ROWS && n.is_multiple_of(4);
    let (kernel, groups) = if by_row { (&ROW, rows.div_ceil(8)) } else { (&KERNEL, rows) };
    Launch {
        variant: Variant::new(kernel, &[]),
        params: vec![word(rows), word(n), 0, 0],
        groups: Groups::Line(word(groups)),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[]), Variant::new(&ROW, &[])]
}
