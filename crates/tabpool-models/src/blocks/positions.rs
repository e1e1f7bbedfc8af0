//! Positions that are computed from learned tables: grids that are resampled, and biases by distance.

use tabpool_graph::{Op, ValueId};

use super::{Build, Built};
use crate::ModelError;
use crate::blocks::build::malformed;

/// PyTorch's bicubic coefficient.
const A: f64 = -0.75;

/// What the ends of two grids have to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Elements are areas whose outer edges meet.
    Edges,
    /// Elements are points, the first and the last of which meet: `align_corners=True`.
    Corners,
}

/// A grid `[height, width, channels]` at another size, as `torch.nn.functional.interpolate(mode="bicubic")` with its ends
/// at the edges: two products with constant matrices, which depend on nothing that a run brings.
pub(crate) fn resampled(b: &mut Build<'_>, name: &str, grid: ValueId, to: [usize; 2]) -> Built {
    let &[height, width, channels] = &b.dims(grid)[..] else { return Err(malformed(name, "is no grid of vectors")) };
    let rows = b.floats(&format!("{name} rows"), &[to[0], height], bicubic(height, to[0], Ends::Edges))?;
    let columns = b.floats(&format!("{name} columns"), &[to[1], width], bicubic(width, to[1], Ends::Edges))?;
    let flat = b.reshape(name, grid, &[height, width * channels])?;
    let tall = b.node(name, Op::MatMul { transpose_b: false }, &[rows, flat])?;
    let tall = b.reshape(name, tall, &[to[0], width, channels])?;
    b.node(name, Op::MatMul { transpose_b: false }, &[columns, tall])
}

/// Values `[from, …]` at another length, bicubically: a sum of four rows for each row of the result, so that what travels in
/// a program grows with the result's length only.
pub(crate) fn stretched(b: &mut Build<'_>, name: &str, x: ValueId, to: usize, ends: Ends) -> Built {
    let dims = b.dims(x);
    let from = *dims.first().ok_or_else(|| malformed(name, "has no dimension to stretch"))?;
    let mut broadcast = vec![1; dims.len()];
    broadcast[0] = to;
    let taps = taps(from, to, ends);
    let mut sum = None;
    for tap in 0..4 {
        let rows = taps.iter().map(|row| i32::try_from(row[tap].0).unwrap_or(i32::MAX)).collect();
        let rows = b.integers(&format!("{name} rows"), &[to], rows)?;
        let weights = taps.iter().map(|row| row[tap].1).collect();
        let weights = b.floats(&format!("{name} weights"), &broadcast, weights)?;
        let part = b.gather(name, x, rows)?;
        let part = b.mul(name, part, weights)?;
        sum = Some(match sum {
            Some(sum) => b.add(name, sum, part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| malformed(name, "is made of nothing"))
}

/// The matrix `[to, from]` that resamples a line bicubically.
fn bicubic(from: usize, to: usize, ends: Ends) -> Vec<f32> {
    let mut matrix = vec![0.0; from * to];
    for (weights, taps) in matrix.chunks_exact_mut(from).zip(taps(from, to, ends)) {
        for (row, weight) in taps {
            weights[row] += weight;
        }
    }
    matrix
}

/// For each element of the result, which elements it is made of, and their shares. Elements beyond the ends are those at
/// the ends.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lines have fewer than 2^24 elements, and indices are clamped into them"
)]
fn taps(from: usize, to: usize, ends: Ends) -> Vec<[(usize, f32); 4]> {
    let last = from as f64 - 1.0;
    let of_row = |row: usize| {
        let source = match ends {
            Ends::Edges => (row as f64 + 0.5) * from as f64 / to as f64 - 0.5,
            Ends::Corners if to > 1 => row as f64 * last / (to as f64 - 1.0),
            Ends::Corners => 0.0,
        };
        let (floor, t) = (source.floor(), source - source.floor());
        let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
        let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
        [(-1.0, far(t + 1.0)), (0.0, near(t)), (1.0, near(1.0 - t)), (2.0, far(2.0 - t))]
            .map(|(offset, weight)| ((floor + offset).clamp(0.0, last) as usize, weight as f32))
    };
    (0..to).map(of_row).collect()
}

/// What is added to scores by distance, `[1, heads, queries, keys]`: `table` is `[buckets, heads]`, `buckets` names the row
/// of each distance, and `distances` is `i32 [queries, keys]` into those.
pub(crate) fn distance_bias(
    b: &mut Build<'_>,
    name: &str,
    table: ValueId,
    buckets: Vec<i32>,
    distances: ValueId,
) -> Result<ValueId, ModelError> {
    let &[queries, keys] = &b.dims(distances)[..] else { return Err(malformed(name, "has no two dimensions")) };
    let heads = b.width(table);
    let rows = b.integers(&format!("{name} buckets"), &[buckets.len()], buckets)?;
    let by_distance = b.gather(name, table, rows)?;
    let bias = b.gather(name, by_distance, distances)?;
    let bias = b.transpose(name, bias, &[2, 0, 1])?;
    b.reshape(name, bias, &[1, heads, queries, keys])
}

#[cfg(test)]
mod tests {
    use super::{Ends, bicubic};

    #[test]
    fn resampling_is_what_pytorch_does() {
        // The first two rows of torch.nn.functional.interpolate(x, (3, 1), mode="bicubic") for x the four unit vectors, and
        // the second one of seven with align_corners=True.
        let got = bicubic(4, 3, Ends::Edges);
        let want = [[0.8565, 0.1609, -0.0174, 0.0], [-0.09375, 0.59375, 0.59375, -0.09375]];
        for (got, want) in got.iter().zip(want.as_flattened()) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
        let got = bicubic(4, 7, Ends::Corners);
        for (got, want) in got[4..8].iter().zip([0.5, 0.59375, -0.09375, 0.0]) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
    }

    #[test]
    fn rows_of_every_matrix_sum_to_one() {
        for (from, to) in [(1, 1), (1, 5), (2, 9), (7, 3), (14, 31)] {
            for ends in [Ends::Edges, Ends::Corners] {
                for row in bicubic(from, to, ends).chunks_exact(from) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{from} to {to}: {row:?}");
                }
            }
        }
    }
}
