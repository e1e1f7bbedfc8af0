//! Launches `rope.wgsl`, four numbers at once where heads and what turns of them allow.

use super::{GRID, Groups, Kernel, Launch, Variant, word};

const ROPE: &str = include_str!("rope.wgsl");

static SCALAR: Kernel = Kernel { name: "rope", parts: &[GRID, include_str!("number_scalar.wgsl"), ROPE], reads: 3 };
static VEC4: Kernel = Kernel { name: "rope_vec4", parts: &[GRID, include_str!("number_vec4.wgsl"), ROPE], reads: 3 };

/// What turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rope {
    /// Elements of all of it, of all heads of a position, and of one head.
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) depth: usize,
    /// How many elements of a head turn.
    pub(crate) rotary: usize,
    /// How many positions have cosines and sines of their own.
    pub(crate) positions: usize,
}

pub(crate) fn launch(of: Rope) -> Launch {
    let half = of.rotary / 2;
    let fours = of.depth.is_multiple_of(4) && half.is_multiple_of(4);
    let (kernel, each) = if fours { (&VEC4, 4) } else { (&SCALAR, 1) };
    let count = of.count / each;
    let sizes = [count, of.depth / each, of.width / each, half / each, of.positions, 0, 0, 0];
    Launch { variant: Variant::new(kernel, &[]), params: sizes.map(word).to_vec(), groups: Groups::of_64(count) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&SCALAR, &[]), Variant::new(&VEC4, &[])]
}
