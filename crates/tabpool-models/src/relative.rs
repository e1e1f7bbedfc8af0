//! MPNet's relative positions: which row of the bias table each pair of positions reads.

/// The distance from which on all pairs share a bucket.
const MAX_DISTANCE: f32 = 128.0;

/// The bucket of every pair of positions, `[query, key]`, row-major: half of `buckets` for keys before the query or at it,
/// half for those after it; in each half one bucket a distance at first, then ranges that grow with the logarithm. As
/// `MPNetEncoder.relative_position_bucket` of transformers, which computes in `f32` as well.
pub(crate) fn buckets(sequence: usize, buckets: usize) -> Vec<i32> {
    let half = buckets / 2;
    let mut rows = Vec::with_capacity(sequence * sequence);
    for query in 0..sequence {
        for key in 0..sequence {
            let side = if key > query { half } else { 0 };
            rows.push(i32::try_from(side + distance_bucket(query.abs_diff(key), half)).unwrap_or(i32::MAX));
        }
    }
    rows
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "distances are below 2^20, and the logarithm of one above `exact` over `exact` is not negative"
)]
fn distance_bucket(distance: usize, half: usize) -> usize {
    let exact = half / 2;
    if distance < exact {
        return distance;
    }
    let ratio = (distance as f32 / exact as f32).ln() / (MAX_DISTANCE / exact as f32).ln();
    (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::{buckets, distance_bucket};

    #[test]
    fn ranges_begin_where_the_exact_logarithm_says() {
        // Eight ranges between 8 and 128: they begin at 8 * 16^(i / 8), and every second beginning is a whole number.
        let begins = [8, 12, 16, 23, 32, 46, 64, 91];
        for distance in 8..512 {
            let want = 7 + begins.iter().filter(|&&b| b <= distance).count();
            assert_eq!(distance_bucket(distance, 16), want, "distance {distance}");
        }
    }

    #[test]
    fn keys_after_the_query_have_buckets_of_their_own() {
        assert_eq!(buckets(3, 32), [0, 17, 18, 1, 0, 17, 2, 1, 0]);
    }
}
