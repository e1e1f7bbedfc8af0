//! The largest elements of rows, and where they are.

use super::{Array, Elements};

/// The positions of a row's elements, the largest first and the lower position first among equals.
fn ranked<T: PartialOrd>(row: &[T]) -> Vec<usize> {
    let mut positions: Vec<_> = (0..row.len()).collect();
    positions.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap_or(std::cmp::Ordering::Equal));
    positions
}

fn first_of_largest<T: PartialOrd>(row: &[T]) -> i32 {
    let largest = (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    i32::try_from(largest).unwrap_or(i32::MAX)
}

pub(super) fn arg_max(x: &Array) -> Vec<i32> {
    match &x.elements {
        Elements::F32(v) => v.chunks(x.width()).map(first_of_largest).collect(),
        Elements::I32(v) => v.chunks(x.width()).map(first_of_largest).collect(),
    }
}

pub(super) fn top_k(x: &Array, k: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.floats().len() / x.width() * 2 * k);
    for row in x.floats().chunks(x.width()) {
        let best = &ranked(row)[..k];
        out.extend(best.iter().map(|&i| row[i]));
        #[expect(clippy::cast_precision_loss, reason = "validation sees to it that positions fit an f32")]
        out.extend(best.iter().map(|&i| i as f32));
    }
    out
}
