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
    /// Encodes texts and groups them into batches of at most `max_batch`, texts of similar length together, so that the
    /// buckets of all runs hold as few tokens as can be. Every text is in exactly one batch; longer ones come first.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn batches(&self, texts: &[&str], max_batch: usize) -> Result<Vec<TextBatch>, TextError> {
        let rows = self.rows(texts)?;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(rows[i].ids.len()), i));
        let lengths: Vec<usize> = order.iter().map(|&i| self.bucket_length(rows[i].ids.len())).collect();
        let mut batches = Vec::new();
        let mut start = 0;
        for end in groups(&lengths, max_batch.max(1)) {
            let indices = order[start..end].to_vec();
            let members: Vec<&Row> = indices.iter().map(|&i| &rows[i]).collect();
            batches.push(TextBatch { encoded: self.padded(&members)?, indices });
            start = end;
        }
        Ok(batches)
    }

    /// The tokens a row of this many takes in a program.
    fn bucket_length(&self, tokens: usize) -> usize {
        self.sequences.iter().copied().find(|&s| s >= tokens).unwrap_or(tokens)
    }
}

/// Where groups end so that all of them together cost least. `lengths` are in descending order.
fn groups(lengths: &[usize], max_batch: usize) -> Vec<usize> {
    // The least cost of the first `i` texts, and where their last group begins.
    let mut best = vec![(0usize, 0usize)];
    for end in 1..=lengths.len() {
        let cost = |start: usize| {
            let rows = (end - start).next_power_of_two();
            best[start].0.saturating_add(rows.saturating_mul(lengths[start])).saturating_add(RUN_COST)
        };
        let starts = end.saturating_sub(max_batch)..end;
        best.push(starts.map(|start| (cost(start), start)).min().unwrap_or((0, 0)));
    }
    let mut ends = Vec::new();
    let mut end = lengths.len();
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

    #[test]
    fn long_texts_do_not_pad_short_ones() {
        assert_eq!(groups(&[256, 16, 16, 16, 16, 16, 16, 16, 16], 32), [1, 9]);
        assert_eq!(groups(&[16; 8], 8), [8]);
        assert_eq!(groups(&[16; 9], 8).len(), 2);
        // One run of 4 rows of 32 costs less than two runs.
        assert_eq!(groups(&[32, 32, 16], 32), [3]);
        assert_eq!(groups(&[], 32), [0; 0]);
    }

    proptest! {
        #[test]
        fn groups_hold_every_text_and_never_too_many(mut lengths: Vec<u8>, max_batch in 1usize..40) {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            let lengths: Vec<usize> = lengths.into_iter().map(usize::from).collect();
            let ends = groups(&lengths, max_batch);
            assert_eq!(ends.last().copied().unwrap_or(0), lengths.len());
            let mut start = 0;
            for end in ends {
                assert!(start < end && end - start <= max_batch);
                start = end;
            }
        }
    }
}
