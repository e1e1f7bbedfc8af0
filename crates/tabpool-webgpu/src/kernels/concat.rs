//! Launches `concat.wgsl`, once for each operand.

use super::{GRID, Groups, Kernel, Launch, QUAD, Variant, WORD, word};

const CONCAT: &str = include_str!("concat.wgsl");

static KERNEL: Kernel = Kernel { name: "concat", parts: &[GRID, WORD, CONCAT], reads: 1 };
static VEC4: Kernel = Kernel { name: "concat_vec4", parts: &[GRID, QUAD, CONCAT], reads: 1 };

/// An operand of `count` elements, of which `length` lie together, to a result where they begin `stride` apart from
/// `start` on.
pub(crate) fn launch(count: usize, length: usize, stride: usize, start: usize) -> Launch {
    let fours = [length, stride, start].iter().all(|n| n.is_multiple_of(4));
    let (kernel, each) = if fours { (&VEC4, 4) } else { (&KERNEL, 1) };
    let params = [count, length, stride, start].map(|n| word(n / each)).to_vec();
    Launch { variant: Variant::new(kernel, &[]), params, groups: Groups::of_64(count / each) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[]), Variant::new(&VEC4, &[])]
}
