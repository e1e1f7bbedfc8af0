//! Launches `softmax.wgsl`.

use super::{ACROSS, GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "softmax", parts: &[GRID, ACROSS, include_str!("softmax.wgsl")], reads: 1 };

/// `rows` rows of `n` elements.
pub(crate) fn launch(rows: usize, n: usize) -> Launch {
    let params = vec![word(rows), word(n), 0, 0];
    Launch { variant: Variant::new(&KERNEL, &[]), params, groups: Groups::Line(word(rows)) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[])]
}
