//! Launches `write_rows.wgsl`.

use super::{GRID, Groups, Kernel, Launch, QUAD, Variant, WORD, word};

const WRITE_ROWS: &str = include_str!("write_rows.wgsl");

static KERNEL: Kernel = Kernel { name: "write_rows", parts: &[GRID, WORD, WRITE_ROWS], reads: 2 };
static VEC4: Kernel = Kernel { name: "write_rows_vec4", parts: &[GRID, QUAD, WRITE_ROWS], reads: 2 };

/// `rows` rows of `width` elements into each of `batches` targets of `capacity` rows.
pub(crate) fn launch(batches: usize, rows: usize, capacity: usize, width: usize) -> Launch {
    let (kernel, each) = if width.is_multiple_of(4) { (&VEC4, 4) } else { (&KERNEL, 1) };
    let width = width / each;
    let count = batches * rows * width;
    Launch {
        variant: Variant::new(kernel, &[]),
        params: [count, width, rows, capacity].map(word).to_vec(),
        groups: Groups::of_64(count),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[]), Variant::new(&VEC4, &[])]
}
