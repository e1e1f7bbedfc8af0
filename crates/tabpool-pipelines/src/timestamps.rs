//! The rule of Whisper's times: they come in pairs, never go back, begin each window, and are put down where they are likelier
//! together than any word. It is that of `WhisperTimeStampLogitsProcessor` in transformers.

use crate::sampling::TokenRule;

/// The rule for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampRule {
    /// The token of 0 s; those of later times follow it, 20 ms each.
    pub first: i32,
    /// The token that ends a text; words are below it.
    pub end: i32,
    /// The token that wants no times.
    pub none: i32,
    /// How many steps of 20 ms after the window's beginning its first time may be.
    pub latest_first: usize,
}

impl TokenRule for TimestampRule {
    fn apply(&self, said: &[i32], logits: &mut [f32]) {
        let vocabulary = logits.len();
        let at = |id: i32| usize::try_from(id).unwrap_or(0).min(vocabulary);
        let (first, end, none) = (at(self.first), at(self.end), at(self.none));
        if let Some(none) = logits.get_mut(none) {
            *none = f32::NEG_INFINITY;
        }
        let is_time = |id: &i32| *id >= self.first;
        let last_is_time = said.last().is_some_and(is_time);
        let one_before_is_time = said.len() < 2 || is_time(&said[said.len() - 2]);
        if last_is_time {
            // The second of a pair is followed by a word, the first by its second, or by the end.
            let forbidden = if one_before_is_time { first..logits.len() } else { 0..end };
            logits[forbidden].fill(f32::NEG_INFINITY);
        }
        if let Some(&time) = said.iter().rev().find(|id| is_time(id)) {
            // A segment may begin where the one before ended, and has to end after it begins.
            let earliest = if last_is_time && !one_before_is_time { time } else { time.saturating_add(1) };
            let earliest = at(earliest);
            logits[first..earliest.max(first)].fill(f32::NEG_INFINITY);
        }
        if said.is_empty() {
            logits[..first].fill(f32::NEG_INFINITY);
            let latest = first.saturating_add(self.latest_first).saturating_add(1).min(logits.len());
            logits[latest..].fill(f32::NEG_INFINITY);
        }
        let (words, times) = logits.split_at(first);
        let likeliest = words.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if together(times) > likeliest {
            logits[..first].fill(f32::NEG_INFINITY);
        }
    }
}

/// The logit of tokens together: the logarithm of the sum of their exponentials.
fn together(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most == f32::NEG_INFINITY {
        return most;
    }
    most + logits.iter().map(|logit| (logit - most).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use super::TimestampRule;
    use crate::sampling::TokenRule;

    /// Words are 0 to 4, the end is 5, 6 wants no times, and times are 7 to 15.
    const RULE: TimestampRule = TimestampRule { first: 7, end: 5, none: 6, latest_first: 3 };

    /// Which tokens are left after these, where the words are likely enough.
    fn left(said: &[i32]) -> Vec<usize> {
        let mut logits = [2.0, 9.0, 1.0, 0.0, 0.5, 5.0, 8.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
        RULE.apply(said, &mut logits);
        (0..logits.len()).filter(|id| logits[*id] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn times_come_in_pairs_and_never_go_back() {
        assert_eq!(left(&[]), [7, 8, 9, 10], "a window begins with a time, and not a late one");
        assert_eq!(left(&[8]), [0, 1, 2, 3, 4, 5], "then words");
        assert_eq!(left(&[8, 1]), [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15], "which end after they began");
        assert_eq!(left(&[8, 1, 10]), [5, 10, 11, 12, 13, 14, 15], "and the next may begin there, or nothing more");
        assert_eq!(left(&[8, 1, 10, 10]), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn times_that_are_likelier_together_than_any_word_are_put_down() {
        let mut logits = [0.0f32; 16];
        logits[1] = 1.5;
        RULE.apply(&[8, 1], &mut logits);
        // Seven times of logit 0 have 1.95 together.
        assert!(logits[..7].iter().all(|logit| *logit == f32::NEG_INFINITY), "{logits:?}");
        let mut logits = [0.0f32; 16];
        logits[1] = 2.5;
        RULE.apply(&[8, 1], &mut logits);
        assert_eq!(logits[1], 2.5);
        RULE.apply(&[3], &mut [0.0; 4]);
    }
}
