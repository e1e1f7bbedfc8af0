//! Launches `strided.wgsl`, four elements at once where they lie so.

use super::{GRID, Groups, Kernel, Launch, QUAD, Variant, WORD, word, words8};
use crate::strides::Joined;

const STRIDED: &str = include_str!("strided.wgsl");

static KERNEL: Kernel = Kernel { name: "strided", parts: &[GRID, WORD, STRIDED], reads: 1 };
static VEC4: Kernel = Kernel { name: "strided_vec4", parts: &[GRID, QUAD, STRIDED], reads: 1 };

/// `over` are the result's dimensions with the operand's strides; reading begins at element `start`.
pub(crate) fn launch(start: usize, over: &Joined) -> Launch {
    let side_by_side = |quads: &Joined| start.is_multiple_of(4) && quads.strides[0].last() == Some(&1);
    let quads = over.quads().filter(side_by_side);
    let (kernel, over, start) = quads.as_ref().map_or((&KERNEL, over, start), |quads| (&VEC4, quads, start / 4));
    let count = over.elements();
    let mut params = vec![word(count), word(over.dims.len()), word(start), 0];
    params.extend(words8(&over.dims));
    params.extend(words8(&over.strides[0]));
    Launch { variant: Variant::new(kernel, &[]), params, groups: Groups::of_64(count) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[]), Variant::new(&VEC4, &[])]
}
