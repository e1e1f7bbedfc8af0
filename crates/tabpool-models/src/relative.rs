//! Relative positions as MPNet and T5 have them: which row of a table of biases each distance reads.

/// The bucket of every distance from `1 - reach` to `reach - 1`, of a key from its query, in that order: half of `buckets`
/// for keys before the query or at it, half for those after it; in each half one bucket a distance at first, then ranges
/// that grow with the logarithm, and one for all from `farthest` on. As `relative_position_bucket` of transformers, which
/// computes in `f32` as well.
pub(crate) fn both_sides(reach: usize, buckets: usize, farthest: usize) -> Vec<i32> {
    let half = buckets / 2;
    let before = (1..reach).rev().map(|distance| distance_bucket(distance, half, farthest));
    let after = (1..reach).map(|distance| half + distance_bucket(distance, half, farthest));
    before.chain([0]).chain(after).map(row).collect()
}

/// The bucket of every distance below `reach` of a key before its query, where keys after it are never seen.
pub(crate) fn one_side(reach: usize, buckets: usize, farthest: usize) -> Vec<i32> {
    (0..reach).map(|distance| row(distance_bucket(distance, buckets, farthest))).collect()
}

fn row(bucket: usize) -> i32 {
    i32::try_from(bucket).unwrap_or(i32::MAX)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "distances are below 2^20, and the logarithm of one above `exact` over `exact` is not negative"
)]
fn distance_bucket(distance: usize, half: usize, farthest: usize) -> usize {
    let exact = half / 2;
    if distance < exact {
        return distance;
    }
    let ratio = (distance as f32 / exact as f32).ln() / (farthest as f32 / exact as f32).ln();
    (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::{both_sides, distance_bucket, one_side};

    #[test]
    fn ranges_begin_where_the_exact_logarithm_says() {
        // Eight ranges between 8 and 128: they begin at 8 * 16^(i / 8), and every second beginning is a whole number.
        let begins = [8, 12, 16, 23, 32, 46, 64, 91];
        for distance in 8..512 {
            let want = 7 + begins.iter().filter(|&&b| b <= distance).count();
            assert_eq!(distance_bucket(distance, 16, 128), want, "distance {distance}");
        }
    }

    #[test]
    fn keys_after_the_query_have_buckets_of_their_own() {
        assert_eq!(both_sides(3, 32, 128), [2, 1, 0, 17, 18]);
        assert_eq!(one_side(4, 32, 128), [0, 1, 2, 3]);
    }
}
