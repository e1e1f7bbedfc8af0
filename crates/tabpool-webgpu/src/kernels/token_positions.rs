//! Launches `token_positions.wgsl`.

use super::{GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel =
    Kernel { name: "token_positions", parts: &[GRID, include_str!("token_positions.wgsl")], reads: 1 };

/// Ids `[batches, length]`.
pub(crate) fn launch(batches: usize, length: usize, padding_id: i32) -> Launch {
    let count = batches * length;
    Launch {
        variant: Variant::new(&KERNEL, &[]),
        params: vec![word(count), word(length), padding_id.cast_unsigned(), 0],
        groups: Groups::of_64(count),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[])]
}
