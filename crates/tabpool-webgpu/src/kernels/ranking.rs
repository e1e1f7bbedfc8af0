//! Launches `arg_max.wgsl` and `top_k.wgsl`.

use super::{GRID, Groups, Kernel, Launch, Variant, word};

const RANKING: &str = include_str!("ranking.wgsl");

static ARG_MAX: Kernel = Kernel { name: "arg_max", parts: &[GRID, RANKING, include_str!("arg_max.wgsl")], reads: 1 };
static TOP_K: Kernel = Kernel { name: "top_k", parts: &[GRID, RANKING, include_str!("top_k.wgsl")], reads: 1 };

/// The largest of each of `rows` rows of `n` elements.
pub(crate) fn arg_max(rows: usize, n: usize, integer: bool) -> Launch {
    Launch {
        variant: Variant::new(&ARG_MAX, &[("INTEGER", u32::from(integer))]),
        params: vec![word(rows), word(n), 1, 0],
        groups: Groups::Line(word(rows)),
    }
}

/// The `k` largest of each of `rows` rows of `n` elements.
pub(crate) fn top_k(rows: usize, n: usize, k: usize) -> Launch {
    Launch {
        variant: Variant::new(&TOP_K, &[("INTEGER", 0)]),
        params: vec![word(rows), word(n), word(k), 0],
        groups: Groups::Line(word(rows)),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let arg_max = [0, 1].map(|integer| Variant::new(&ARG_MAX, &[("INTEGER", integer)]));
    [&arg_max[..], &[Variant::new(&TOP_K, &[("INTEGER", 0)])]].concat()
}
