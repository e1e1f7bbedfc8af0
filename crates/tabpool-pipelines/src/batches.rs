//! Many texts into few runs with little padding.
//!
//! A run computes its whole bucket: the longest text's length for each row, padded rows included. Texts are sorted by
//! length and cut into consecutive groups; which cuts cost least is found exactly, by dynamic programming, because a
//! group's cost depends on its size and its longest text only.

use crate::encoder::{Encoded, TextEncoder};
use crate::{TextError, tokenizer::Row};

/// What starting a run costs, in tokens computed: it keeps a run of a few short texts from being split further.
const RUN_COST: usize = 64;

/// Texts that go into one run.
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// Which of the texts given the rows are.
    pub indices: Vec<usize>,
    /// The rows.
    pub encoded: Encoded,
}

impl TextEncoder {
    /// Encodes texts and groups them into batches of at most `max_batch`, fewer where long texts go in smaller runs, so
    /// that the buckets of all runs hold as few tokens as can be. Every text is in exactly one batch; longer ones come first.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn batches(&self, texts: &[&str], max_batch: usize) -> Result<Vec<TextBatch>, TextError> {
        self.grouped(&self.rows(texts)?, max_batch)
    }

    /// The same for pairs of texts, each of which the model sees together.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn pair_batches(&self, pairs: &[(&str, &str)], max_batch: usize) -> Result<Vec<TextBatch>, TextError> {
        self.grouped(&self.pair_rows(pairs)?, max_batch)
    }

    fn grouped(&self, rows: &[Row], max_batch: usize) -> Result<Vec<TextBatch>, TextError> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(rows[i].ids.len()), i));
        let buckets: Vec<(usize, usize)> = order.iter().map(|&i| self.bucket(rows[i].ids.len(), max_batch)).collect();
        let mut batches = Vec::new();
        let mut start = 0;
        for end in groups(&buckets) {
            let indices = order[start..end].to_vec();
            let members: Vec<&Row> = indices.iter().map(|&i| &rows[i]).collect();
            batches.push(TextBatch { encoded: self.padded(&members)?, indices });
            start = end;
        }
        Ok(batches)
    }

    /// The tokens that a row of this many takes in a program, and how many such rows go together.
    fn bucket(&self, tokens: usize, max_batch: usize) -> (usize, usize) {
        let bucket = self.buckets.iter().copied().find(|&(s, _)| s >= tokens);
        let (sequence, most) = bucket.unwrap_or((tokens, 1));
        (sequence, most.min(max_batch).max(1))
    }
}

/// Where groups end so that all of them together cost least. For each text its length, in descending order, and how many
/// of that length go together.
fn groups(texts: &[(usize, usize)]) -> Vec<usize> {
    // The least cost of the first `i` texts, and where their last group begins.
    let mut best = vec![(0usize, 0usize)];
    for end in 1..=texts.len() {
        let mut least = (usize::MAX, end - 1);
        // Going back, texts get longer and fewer of them go together: the first that is too far ends the search.
        for start in (0..end).rev() {
            let (length, most) = texts[start];
            if end - start > most {
                break;
            }
            let rows = (end - start).next_power_of_two();
            let cost = best[start].0.saturating_add(rows.saturating_mul(length)).saturating_add(RUN_COST);
            least = least.min((cost, start));
        }
        best.push(least);
    }
    let mut ends = Vec::new();
    let mut end = texts.len();
    while end > 0 {
        ends.push(end);
        end = best[end].1;
    }
    ends.reverse();
    ends
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::groups;

    fn of(lengths: &[usize], most: usize) -> Vec<usize> {
        groups(&lengths.iter().map(|&l| (l, most)).collect::<Vec<_>>())
    }

    #[test]
    fn long_texts_do_not_pad_short_ones() {
        assert_eq!(of(&[256, 16, 16, 16, 16, 16, 16, 16, 16], 32), [1, 9]);
        assert_eq!(of(&[16; 8], 8), [8]);
        assert_eq!(of(&[16; 9], 8).len(), 2);
        // One run of 4 rows of 32 costs less than two runs.
        assert_eq!(of(&[32, 32, 16], 32), [3]);
        assert_eq!(of(&[], 32), [0; 0]);
        assert_eq!(groups(&[(1024, 2), (1024, 2), (1024, 2), (16, 32)]).len(), 3);
    }

    proptest! {
        #[test]
        fn groups_hold_every_text_and_never_too_many(mut lengths: Vec<u8>, tokens in 1usize..4000) {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            let texts: Vec<_> = lengths.iter().map(|&l| usize::from(l) + 1).map(|l| (l, (tokens / l).max(1))).collect();
            let ends = groups(&texts);
            assert_eq!(ends.last().copied().unwrap_or(0), texts.len());
            let mut start = 0;
            for end in ends {
                assert!(start < end && end - start <= texts[start].1);
                start = end;
            }
        }
    }
}
