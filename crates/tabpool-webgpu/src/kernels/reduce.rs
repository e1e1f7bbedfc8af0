//! Launches `reduce.wgsl`.

use tabpool_graph::Reduction;

use super::{GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "reduce", parts: &[GRID, include_str!("reduce.wgsl")], reads: 1 };

/// The override's value for a reduction, `None` for one this crate does not know.
pub(crate) fn code(reduction: Reduction) -> Option<u32> {
    Some(match reduction {
        Reduction::Sum => 0,
        Reduction::Mean => 1,
        Reduction::Max => 2,
        _ => return None,
    })
}

/// Reduces dimension `axis` of `dims`; `function` as [`code`] gives it.
pub(crate) fn launch(function: u32, dims: &[usize], axis: usize) -> Launch {
    let inner: usize = dims[axis + 1..].iter().product();
    let count = dims[..axis].iter().product::<usize>() * inner;
    Launch {
        variant: Variant::new(&KERNEL, &[("REDUCTION", function)]),
        params: vec![word(count), word(dims[axis]), word(inner), 0],
        groups: Groups::of_64(count),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    (0..3).map(|r| Variant::new(&KERNEL, &[("REDUCTION", r)])).collect()
}
