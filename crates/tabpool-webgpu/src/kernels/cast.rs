//! Launches `cast.wgsl`.

use tabpool_tensor::DType;

use super::{GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "cast", parts: &[GRID, include_str!("cast.wgsl")], reads: 1 };

/// From and to are `f32` or `i32`, as every value of a graph is.
pub(crate) fn launch(from: DType, to: DType, count: usize) -> Launch {
    let conversion = match (from, to) {
        (DType::I32, DType::F32) => 1,
        (DType::F32, DType::I32) => 2,
        _ => 0,
    };
    let quads = count.div_ceil(4);
    Launch {
        variant: Variant::new(&KERNEL, &[("CONVERSION", conversion)]),
        params: vec![word(quads), 0, 0, 0],
        groups: Groups::of_64(quads),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    (0..3).map(|c| Variant::new(&KERNEL, &[("CONVERSION", c)])).collect()
}
