//! When a link that broke is tried again.

/// The first wait in milliseconds.
const FIRST_MS: u32 = 200;
/// The longest wait in milliseconds.
const LONGEST_MS: u32 = 10_000;

/// How many milliseconds to wait before attempt number `attempt`, counted from 0. `random` lies in 0..1 and spreads the
/// wait over its upper half, so that the tabs of a host that restarts do not all come back at the same moment.
pub(crate) fn wait_ms(attempt: u32, random: f64) -> u32 {
    let whole = FIRST_MS.saturating_mul(1 << attempt.min(16)).min(LONGEST_MS);
    let half = f64::from(whole) / 2.0;
    // At most `LONGEST_MS`, so nothing is cut off.
    (half + half * random.clamp(0.0, 1.0)).round() as u32
}

#[cfg(test)]
mod tests {
    use super::{FIRST_MS, LONGEST_MS, wait_ms};

    #[test]
    fn waits_double_up_to_the_longest_and_spread_over_their_upper_half() {
        assert_eq!(wait_ms(0, 1.0), FIRST_MS);
        assert_eq!(wait_ms(0, 0.0), FIRST_MS / 2);
        assert_eq!(wait_ms(3, 1.0), FIRST_MS * 8);
        for attempt in [6, 40, u32::MAX] {
            assert_eq!(wait_ms(attempt, 1.0), LONGEST_MS);
            assert_eq!(wait_ms(attempt, 0.0), LONGEST_MS / 2);
        }
    }
}
