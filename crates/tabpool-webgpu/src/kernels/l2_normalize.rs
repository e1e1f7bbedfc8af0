//! Launches `l2_normalize.wgsl`.

use super::{ACROSS, GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel =
    Kernel { name: "l2_normalize", parts: &[GRID, ACROSS, include_str!("l2_normalize.wgsl")], reads: 1 };

/// `rows` rows of `n` elements.
pub(crate) fn launch(rows: usize, n: usize, epsilon: f32) -> Launch {
    let params = vec![word(rows), word(n), epsilon.to_bits(), 0];
    Launch { variant: Variant::new(&KERNEL, &[]), params, groups: Groups::Line(word(rows)) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[])]
}
