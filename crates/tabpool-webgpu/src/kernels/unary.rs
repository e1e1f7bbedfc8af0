//! Launches `unary.wgsl`.

use super::{ACTIVATION, GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "unary", parts: &[GRID, ACTIVATION, include_str!("unary.wgsl")], reads: 1 };

/// `function` as [`super::activation::code`] gives it.
pub(crate) fn launch(function: u32, count: usize) -> Launch {
    let quads = count.div_ceil(4);
    Launch {
        variant: Variant::new(&KERNEL, &[("FUNCTION", function)]),
        params: vec![word(quads), 0, 0, 0],
        groups: Groups::of_64(quads),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    (1..=14).map(|f| Variant::new(&KERNEL, &[("FUNCTION", f)])).collect()
}
